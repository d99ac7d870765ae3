use super::*;

const AT: u64 = 0x7f00_0000_0000;
const FAR: u64 = AT + (1 << 30);

fn audit(session: &mut Session) -> Audit {
    let from = session.out.len();
    session.tick();
    let found = session.out[from..].iter().find_map(|report| match report {
        Report::Audit(audit) => Some(audit.clone()),
        _ => None,
    });
    found.expect("an audit")
}

/// Two mappings, of which the first has 10 resident pages at the baseline.
fn audited() -> Session {
    let mut session = Session::attached("");
    session.mmap(AT, 64, 3, ANON);
    session.mmap(FAR, 64, 3, ANON);
    session.touch((AT, AT + 64 * PAGE), AT, 10);
    session.tick();
    session.smaps(&[(AT, AT + 64 * PAGE, 10), (FAR, FAR + 64 * PAGE, 0)], true);
    let first = audit(&mut session);
    assert_eq!((first.differing_count, first.mappings, first.smaps_rss), (0, 2, 10));
    assert!(first.difference.is_zero());
    session
}

#[test]
fn agrees_when_everything_was_booked() {
    let mut session = audited();
    session.touch((FAR, FAR + 64 * PAGE), FAR, 3);
    session.tick();
    session.smaps(&[(AT, AT + 64 * PAGE, 10), (FAR, FAR + 64 * PAGE, 3)], true);
    assert_eq!(audit(&mut session).differing, []);
}

#[test]
fn tells_which_mapping_differs_and_by_how_much() {
    let mut session = audited();
    session.touch((FAR, FAR + 64 * PAGE), FAR, 3);
    session.change(Cause::ReclaimKswapd, -2, Place::Nowhere, (0, 0), None);
    session.tick();
    session.smaps(&[(AT, AT + 64 * PAGE, 8), (FAR, FAR + 64 * PAGE, 4)], true);
    let second = audit(&mut session);
    let differing: Vec<_> = second.differing.iter().map(|d| (d.mapping.start, d.smaps, d.ledger)).collect();
    assert_eq!(differing, [(AT, -2, 0), (FAR, 4, 3)]);
    assert_eq!((second.differing_count, second.placeless), (2, -2));
    // It is told once: the second reading is the baseline of the third.
    session.smaps(&[(AT, AT + 64 * PAGE, 8), (FAR, FAR + 64 * PAGE, 4)], true);
    assert_eq!(audit(&mut session).differing_count, 0);
}

/// One merged record that went on from before the reading until after it.
fn under_way(session: &mut Session, pages: i64, reading: impl FnOnce(&mut Session)) {
    let first_ns = session.later();
    reading(session);
    let (place, ts_ns) = (Place::Vma { start: FAR, end: FAR + 64 * PAGE }, session.later());
    session.change_between((first_ns, ts_ns), Cause::FaultAnon, pages, place, (FAR, FAR));
}

#[test]
fn a_reading_may_have_seen_any_part_of_what_was_under_way() {
    let mut session = audited();
    under_way(&mut session, 20, |session| {
        session.smaps(&[(AT, AT + 64 * PAGE, 10), (FAR, FAR + 64 * PAGE, 7)], true);
    });
    assert_eq!(audit(&mut session).differing, []);
    // The next one compares with what that one saw: 13 pages are booked before and came after.
    session.smaps(&[(AT, AT + 64 * PAGE, 10), (FAR, FAR + 64 * PAGE, 20)], true);
    assert_eq!(audit(&mut session).differing, []);
    // From here on both are sure again.
    session.smaps(&[(AT, AT + 64 * PAGE, 10), (FAR, FAR + 64 * PAGE, 21)], true);
    assert_eq!(audit(&mut session).differing_count, 1);
}

#[test]
fn more_than_what_was_under_way_is_a_difference() {
    let mut session = audited();
    under_way(&mut session, 20, |session| {
        session.smaps(&[(AT, AT + 64 * PAGE, 10), (FAR, FAR + 64 * PAGE, 41)], false);
    });
    let differing = audit(&mut session).differing;
    assert_eq!(differing.iter().map(|d| (d.mapping.start, d.smaps, d.ledger)).collect::<Vec<_>>(), [(FAR, 41, 20)]);
}

#[test]
fn changes_after_the_reading_belong_to_the_next_one() {
    let mut session = audited();
    session.smaps(&[(AT, AT + 64 * PAGE, 10), (FAR, FAR + 64 * PAGE, 0)], true);
    session.touch((FAR, FAR + 64 * PAGE), FAR, 3);
    assert_eq!(audit(&mut session).differing_count, 0);
    session.smaps(&[(AT, AT + 64 * PAGE, 10), (FAR, FAR + 64 * PAGE, 3)], true);
    assert_eq!(audit(&mut session).differing_count, 0);
}

#[test]
fn a_reading_in_a_storm_is_no_baseline() {
    let mut session = audited();
    session.touch((FAR, FAR + 64 * PAGE), FAR, 3);
    session.tick();
    session.smaps(&[(AT, AT + 64 * PAGE, 10), (FAR, FAR + 64 * PAGE, 5)], false);
    session.touch((FAR, FAR + 64 * PAGE), FAR + 3 * PAGE, 4);
    let noisy = audit(&mut session);
    assert_eq!((noisy.quiet, noisy.differing_count), (false, 1));
    session.smaps(&[(AT, AT + 64 * PAGE, 10), (FAR, FAR + 64 * PAGE, 7)], true);
    assert_eq!(audit(&mut session).differing_count, 0);
}

#[test]
fn follows_splits_moves_deaths_and_merged_vmas() {
    let mut session = audited();
    // The resident part is cut from the rest, which is the larger one.
    session.munmap(AT + 10 * PAGE, 10);
    session.tick();
    let (head, tail) = ((AT, AT + 10 * PAGE), (AT + 20 * PAGE, AT + 64 * PAGE));
    session.smaps(&[(head.0, head.1, 10), (tail.0, tail.1, 0), (FAR, FAR + 64 * PAGE, 0)], true);
    assert_eq!(audit(&mut session).differing_count, 0);

    session.call(PID, syscalls::MREMAP, &[AT, 10 * PAGE, 10 * PAGE, 3, FAR + (1 << 30)], FAR + (1 << 30));
    session.munmap(tail.0, 44);
    session.tick();
    session.smaps(&[(FAR, FAR + 64 * PAGE, 0), (FAR + (1 << 30), FAR + (1 << 30) + 10 * PAGE, 10)], true);
    assert_eq!(audit(&mut session).differing_count, 0);

    // A mapping 96 MiB large beside it: one VMA in smaps, two lives.
    session.mmap(FAR - (96 << 20), (96 << 20) / PAGE, 3, ANON);
    session.touch((FAR - (96 << 20), FAR + 64 * PAGE), FAR - PAGE, 1);
    session.touch((FAR - (96 << 20), FAR + 64 * PAGE), FAR, 1);
    session.tick();
    let merged = (FAR - (96 << 20), FAR + 64 * PAGE, 2);
    session.smaps(&[merged, (FAR + (1 << 30), FAR + (1 << 30) + 10 * PAGE, 10)], true);
    assert_eq!(audit(&mut session).differing, []);
}

#[test]
fn counters_are_compared_with_the_probes_counters() {
    let mut session = audited();
    let counters = Amounts { anon: 10, ..Amounts::ZERO };
    let ts_ns = session.later();
    session.apply(Event::Smaps(Smaps {
        mm: MM,
        ts_ns,
        cost_ns: 1,
        longest_hold_ns: 1,
        before: Some(counters),
        after: Some(Amounts { anon: 7, ..counters }),
        quiet: false,
        status: Amounts { anon: 9, file: 1, ..counters },
        mappings: Vec::new(),
    }));
    let audit = audit(&mut session);
    assert_eq!(audit.difference, Amounts { anon: 2, file: 1, ..Amounts::ZERO });
    assert_eq!(audit.moved, Amounts { anon: 3, ..Amounts::ZERO });
}
