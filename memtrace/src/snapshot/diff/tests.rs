use super::*;
use crate::snapshot::{Detail, Resident};
use crate::views::snapshot::sample;
use proptest::prelude::*;

const PAGE: u64 = 4096;

fn mapping(kind: Kind, start: u64, pages: u64, anon: u64, others: u64) -> Mapping {
    Mapping {
        resident: Some(Resident { rss: (anon + others) * PAGE, anonymous: anon * PAGE, ..Resident::default() }),
        detail: Some(Detail::default()),
        ..Mapping::bare(start * PAGE, (start + pages) * PAGE, 3, kind)
    }
}

fn process(mappings: Vec<Mapping>) -> Process {
    let sums: Sums = mappings.iter().sum();
    let resident = sums.resident.unwrap_or_default();
    let counters = Counters {
        virt: sums.size,
        anon: resident.anonymous,
        file: resident.rss - resident.anonymous,
        ..Counters::default()
    };
    Process { counters: Some(counters), mappings: Some(mappings), ..sample::postgres() }
}

/// What became of each, with its change of RES in pages.
fn told(before: Vec<Mapping>, after: Vec<Mapping>) -> Vec<(What, i64, u64, u64)> {
    let (before, after) = (process(before), process(after));
    let diff = diff(&before, &after);
    assert_eq!(diff.unexplained, Some(Change::default()));
    let row = |row: &Row<'_>| {
        (row.what(), row.change().expect("known").res() / PAGE.cast_signed(), row.from.mappings, row.to.mappings)
    };
    diff.rows.iter().map(row).collect()
}

#[test]
fn the_same_mapping_is_followed_through_what_the_kernel_does_to_it() {
    use Kind::{Anon, Heap};
    let one = |start, pages, anon| vec![mapping(Anon, start, pages, anon, 0)];
    assert_eq!(told(one(10, 4, 1), one(10, 4, 1)), []);
    assert_eq!(told(one(10, 4, 1), one(10, 4, 3)), [(What::Changed, 2, 1, 1)]);
    assert_eq!(told(one(10, 4, 1), one(10, 9, 3)), [(What::Resized, 2, 1, 1)]);
    assert_eq!(told(one(10, 4, 4), one(12, 2, 2)), [(What::Resized, -2, 1, 1)], "its beginning is gone");
    assert_eq!(told(one(10, 4, 1), vec![]), [(What::Gone, -1, 1, 0)]);
    assert_eq!(told(vec![], one(10, 4, 1)), [(What::Born, 1, 0, 1)]);
    assert_eq!(told(one(10, 4, 1), one(14, 4, 2)), [(What::Gone, -1, 1, 0), (What::Born, 2, 0, 1)], "only beside it");
    let halves = vec![mapping(Anon, 10, 2, 2, 0), mapping(Anon, 13, 2, 2, 0)];
    assert_eq!(told(one(10, 5, 5), halves.clone()), [(What::Resized, -1, 1, 2)], "split by a hole");
    assert_eq!(told(halves, one(10, 5, 5)), [(What::Resized, 1, 2, 1)], "merged");
    let replaced = told(one(10, 4, 1), vec![mapping(Heap, 10, 4, 0, 2)]);
    assert_eq!(replaced, [(What::Gone, -1, 1, 0), (What::Born, 2, 0, 1)], "another kind is another mapping");
}

#[test]
fn what_is_only_recognised_or_called_otherwise_is_the_same() {
    let stack = |kind| vec![mapping(Kind::Guard, 9, 1, 0, 0), mapping(kind, 10, 256, 3, 0)];
    assert_eq!(told(stack(Kind::Anon), stack(Kind::ThreadStack)), [], "its thread sleeps now");
    let arena = |used, kind| vec![mapping(kind, 10, used, used, 0), mapping(kind, 10 + used, 9 - used, 0, 0)];
    let grown = told(arena(3, Kind::Arena), arena(5, Kind::Anon));
    assert_eq!(grown.iter().map(|row| row.1).sum::<i64>(), 2);
    assert!(grown.iter().all(|row| row.2 > 0 && row.3 > 0), "{grown:?}");
    let file =
        |name: &[u8]| vec![Mapping { inode: 7, device: 1, name: name.to_vec(), ..mapping(Kind::File, 10, 4, 0, 4) }];
    assert_eq!(told(file(b"/tmp/x"), file(b"/tmp/x (deleted)")), []);
}

#[test]
fn what_cannot_be_compared_by_mapping_stays_unexplained() {
    let known = process(vec![mapping(Kind::Anon, 10, 9, 5, 0)]);
    let mut only_maps = process(vec![mapping(Kind::Anon, 10, 12, 7, 1)]);
    only_maps.mappings.iter_mut().flatten().for_each(|mapping| (mapping.resident, mapping.detail) = (None, None));
    let by_size = diff(&known, &only_maps);
    assert_eq!((by_size.detail, by_size.rows.len(), by_size.rows[0].what()), (Level::Size, 1, What::Resized));
    assert_eq!(by_size.rows[0].change(), None);
    assert_eq!(by_size.unexplained, Some(Change { anon: 2 * 4096, shr: 4096 }));
    let refused = Process { mappings: None, ..only_maps };
    let total = diff(&known, &refused);
    assert_eq!((total.detail, total.rows.len()), (Level::Total, 0));
    assert_eq!(total.unexplained.map(Change::res), Some(3 * 4096));
    let ended = sample::zombie();
    assert_eq!(diff(&known, &ended).unexplained, None);
}

#[test]
fn together_their_sums_are_known_where_each_is() {
    let (one, unread, ended) = (sample::postgres(), sample::not_permitted(), sample::zombie());
    let res = |process: &Process| process.counters.expect("known").res();
    let two = Together::of([&one, &unread]);
    let sum = Some(res(&one) + res(&unread));
    assert_eq!(two.levels, Levels { sum_res: sum, sum_pss: None, res: None, uss: None });
    assert_eq!(Together::of([&one, &one]).levels.sum_pss, one.rollup.map(|rollup| 2 * rollup.pss));
    assert_eq!(Together::of([&one, &ended]).levels, Levels::default());
    let alone = Together::of([&one]);
    assert!(!alone.is_worth_telling(&alone) && two.is_worth_telling(&alone) && alone.is_worth_telling(&two));
}

#[test]
fn processes_are_paired_by_number_and_start() {
    let [a, b, c] = [1, 2, 3].map(|pid| Process { pid, ..sample::zombie() });
    let restarted = Process { start_time: 9, ..a.clone() };
    let (before, after) = ([a.clone(), b.clone()], [c.clone(), b.clone(), restarted.clone()]);
    let pairs = pair(&before, &after);
    assert_eq!((pairs.pairs, pairs.gone, pairs.new), (vec![(&b, &b)], vec![&a], vec![&c, &restarted]));
    let (before, after) = ([a.clone()], [c.clone()]);
    assert_eq!(pair(&before, &after).pairs, [(&a, &c)], "one each: these are meant");
}

prop_compose! {
    /// Disjoint, by address, of few kinds so that many match.
    fn mappings()(parts in proptest::collection::vec((0_u64..4, 1_u64..8, 0_usize..3, 0_u64..8, 0_u64..8, any::<bool>()), 0..12)) -> Vec<Mapping> {
        let mut at = 0;
        parts.into_iter().map(|(gap, pages, kind, anon, others, known)| {
            let kind = [Kind::Anon, Kind::File, Kind::Heap][kind];
            let mut made = mapping(kind, at + gap, pages, anon, others);
            at += gap + pages;
            made.resident = made.resident.filter(|_| known);
            made
        }).collect()
    }
}

proptest! {
    /// Against sums that know nothing of matching: whatever the mappings and the counters are, the books close, and every
    /// mapping that changed is in one row.
    #[test]
    fn the_books_close(a in mappings(), b in mappings(), drift in any::<[u64; 4]>()) {
        let known = |mappings: &[Mapping]| mappings.iter().filter_map(|m| m.resident).map(|r| r.rss).sum::<u64>();
        let all_known = a.iter().chain(&b).all(|m| m.resident.is_some());
        let exact = difference(known(&a), known(&b));
        let (mut before, mut after) = (process(a), process(b));
        for (process, [anon, file]) in [(&mut before, [drift[0], drift[1]]), (&mut after, [drift[2], drift[3]])] {
            process.counters = Some(Counters { anon: anon >> 2, file: file >> 2, ..Counters::default() });
        }
        let diff = diff(&before, &after);
        let (opening, closing) = (before.counters.expect("set").res(), after.counters.expect("set").res());
        let rows: i64 = diff.rows.iter().filter_map(Row::change).map(Change::res).sum();
        prop_assert_eq!(rows + diff.unexplained.expect("counters are known").res(), difference(opening, closing));
        prop_assert_eq!(diff.detail == Level::Mapping, all_known);
        if all_known {
            prop_assert_eq!(rows, exact);
        }
        let sizes: i64 = diff.rows.iter().map(|row| difference(row.from.size, row.to.size)).sum();
        let size = |process: &Process| process.mappings.iter().flatten().map(Mapping::size).sum();
        prop_assert_eq!(sizes, difference(size(&before), size(&after)));
        // The reverse is the same with other signs.
        let back = super::diff(&after, &before);
        let reversed: i64 = back.rows.iter().filter_map(Row::change).map(Change::res).sum();
        prop_assert_eq!(reversed, -rows);
    }
}
