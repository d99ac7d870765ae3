use super::*;

const AT: u64 = 0x7f00_0000_0000;
const KIB: u64 = 1 << 10;

fn reading(session: &mut Session, mappings: Vec<SmapsMapping>) -> Residency {
    let ts_ns = session.later();
    session.apply(Event::Smaps(Smaps {
        mm: MM,
        ts_ns,
        cost_ns: 5,
        longest_hold_ns: 3,
        before: None,
        after: None,
        quiet: false,
        status: Amounts::ZERO,
        mappings,
    }));
    let found = session.out.iter().rev().find_map(|report| match report {
        Report::Residency(residency) => Some(residency.clone()),
        _ => None,
    });
    found.expect("a reading says what is in memory")
}

fn row(start: u64, end: u64) -> SmapsMapping {
    SmapsMapping { start, end, ..SmapsMapping::default() }
}

#[test]
fn the_rows_of_one_life_are_added() {
    let maps = "7f0000000000-7f0000001000 ---p 00000000 00:00 0\n7f0000001000-7f0000800000 rw-p 00000000 00:00 0\n\
                7f0010000000-7f0010400000 rw-s 00000000 00:01 9 /dev/zero (deleted)\n";
    let mut session = Session::attached(maps);
    let stack = SmapsMapping {
        rss: 44 * KIB,
        pss: 43 * KIB,
        private_clean: 4 * KIB,
        private_dirty: 32 * KIB,
        shared_dirty: 8 * KIB,
        anonymous: 44 * KIB,
        swap: 12 * KIB,
        ..row(AT + PAGE, AT + 0x80_0000)
    };
    let guard = SmapsMapping { private_dirty: 4 * KIB, pss: 4 * KIB, ..row(AT, AT + PAGE) };
    let shared =
        SmapsMapping { shared_clean: 8 * KIB, shared_dirty: 4 * KIB, ..row(AT + 0x1000_0000, AT + 0x1040_0000) };
    let residency = reading(&mut session, vec![guard, stack, shared]);
    let rows: Vec<_> = residency
        .mappings
        .iter()
        .map(|r| (r.mapping.kind, [r.private, r.shared, r.pss, r.swap, r.dirty].map(|bytes| bytes / KIB)))
        .collect();
    assert_eq!(rows, [(Kind::ThreadStack, [40, 8, 47, 12, 48]), (Kind::SharedAnon, [0, 12, 0, 0, 4])]);
    assert_eq!((residency.mm, residency.pid), (MM, PID));
}

#[test]
fn a_row_of_several_lives_is_the_largest_ones_and_unknown_rows_are_nobodys() {
    let mut session = Session::attached("");
    session.mmap(AT, 16, 3, ANON);
    // Too large to be its neighbour's growth: a life of its own in one VMA with it.
    session.mmap(AT + 16 * PAGE, 4096, 3, ANON);
    let both = SmapsMapping { private_dirty: 100 * KIB, ..row(AT, AT + 4112 * PAGE) };
    let unknown = SmapsMapping { private_dirty: 100 * KIB, ..row(AT << 1, (AT << 1) + PAGE) };
    let residency = reading(&mut session, vec![both, unknown]);
    let rows: Vec<_> = residency.mappings.iter().map(|r| (r.mapping.start, r.private)).collect();
    assert_eq!(rows, [(AT + 16 * PAGE, 100 * KIB)]);
}
