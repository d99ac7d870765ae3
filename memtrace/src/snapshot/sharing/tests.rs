use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const PAGE: u64 = 4096;
/// Frames of the model: neighbours, in other leaves, in other gigabytes.
const FRAMES: [u64; 8] = [1, 2, 511, 512, 70_000, 262_144, 262_145, (1 << 40) - 1];

/// A page-table entry: frame (index in [`FRAMES`]), and mapping.
type Entry = (usize, usize);

/// What the frame holds: a page of file 0 or 1, or anonymous memory. A frame is one or the other.
fn object_of(frame: usize) -> Option<u64> {
    [Some(0), Some(0), Some(1), None, Some(1), None, None, Some(0)][frame]
}

fn group() -> impl Strategy<Value = (Vec<Vec<Entry>>, [u8; 8])> {
    let process = prop::collection::vec((0..FRAMES.len(), 0..3usize), 0..12);
    (prop::collection::vec(process, 0..5), prop::array::uniform8(0..2u8))
}

/// Feeds it as a walk of page tables would, and asks for the counts as kpagecount would say them.
fn measure(processes: &[Vec<Entry>], outside: &[u8; 8]) -> Physical {
    let count = |frame: usize| {
        u64::from(outside[frame]) + processes.iter().flatten().filter(|(other, _)| *other == frame).count() as u64
    };
    let mut sharing = Sharing::new(PAGE, usize::MAX);
    for process in processes {
        sharing.begin_process();
        for &(frame, mapping) in process {
            let file = object_of(frame).map(|inode| sharing.file(8, inode + 1, Kind::File, b"file"));
            if count(frame) == 1 {
                sharing.add_exclusive(file, 1);
            } else {
                let object = file.unwrap_or_else(|| sharing.anonymous(Kind::Heap, b"[heap]"));
                sharing.add_page(FRAMES[frame], object, mapping).expect("there is room");
            }
        }
    }
    let read = |first: u64, counts: &mut [u64]| {
        for (pfn, word) in (first..).zip(counts.iter_mut()) {
            *word = FRAMES.iter().position(|frame| *frame == pfn).map_or(0, count);
        }
        Ok::<(), ()>(())
    };
    sharing.count_outside(read).expect("reading cannot fail");
    sharing.finish()
}

proptest! {
    #[test]
    fn agrees_with_sets((processes, outside) in group()) {
        let sets: Vec<BTreeSet<usize>> =
            processes.iter().map(|process| process.iter().map(|(frame, _)| *frame).collect()).collect();
        let pages = |frames: usize| frames as u64 * PAGE;
        let mappers = |frame: usize| sets.iter().filter(|set| set.contains(&frame)).count();
        let all: BTreeSet<usize> = sets.iter().flatten().copied().collect();
        let physical = measure(&processes, &outside);

        prop_assert_eq!(physical.res, pages(all.len()));
        prop_assert_eq!(physical.uss, pages(all.iter().filter(|frame| outside[**frame] == 0).count()));
        let shared: Vec<u64> =
            sets.iter().map(|set| pages(set.iter().filter(|frame| mappers(**frame) > 1).count())).collect();
        prop_assert_eq!(&physical.shared_with_group, &shared);

        let mut pairs = Vec::new();
        for a in 0..sets.len() {
            for b in a + 1..sets.len() {
                let both = sets[a].intersection(&sets[b]).count();
                if both > 0 {
                    pairs.push(Pair { a, b, shared: pages(both) });
                }
            }
        }
        prop_assert_eq!(physical.pairs, Some(pairs));

        for (key, inode) in [(Some(0), 1), (Some(1), 2)] {
            let mine = |frame: &&usize| object_of(**frame) == key;
            let found = physical.objects.iter().find(|object| object.inode == inode);
            let shared = all.iter().filter(mine).filter(|frame| mappers(**frame) > 1).count();
            prop_assert_eq!(found.map_or(0, |object| object.shared), pages(shared));
            if let Some(object) = found {
                prop_assert_eq!(object.res, pages(all.iter().filter(mine).count()));
                let entries = processes.iter().flatten().filter(|(frame, _)| object_of(*frame) == key).count();
                prop_assert_eq!(object.sum_res, pages(entries));
                prop_assert_eq!(object.processes, sets.iter().filter(|set| set.iter().any(|frame| mine(&frame))).count());
            }
        }
        let anonymous = all.iter().filter(|frame| object_of(**frame).is_none() && mappers(**frame) > 1).count();
        let found = physical.objects.iter().find(|object| object.inode == 0);
        prop_assert_eq!(found.map_or(0, |object| object.shared), pages(anonymous));

        let mut links: BTreeMap<(usize, usize), BTreeSet<usize>> = BTreeMap::new();
        if let [first, second, ..] = &processes[..] {
            for &(frame, a) in first {
                for &(_, b) in second.iter().filter(|(other, _)| *other == frame) {
                    links.entry((a, b)).or_default().insert(frame);
                }
            }
        }
        let found: BTreeMap<_, _> = physical.links.iter().map(|link| ((link.a, link.b), link.shared)).collect();
        prop_assert_eq!(found, links.into_iter().map(|(key, frames)| (key, pages(frames.len()))).collect());
    }
}

#[test]
fn the_table_refuses_what_it_cannot_hold() {
    const LIMIT: usize = 1 << 20;
    // So many pages as fit, each in so many mappings, so many frames apart.
    let fit = |apart: u64, mappings: usize| {
        let mut sharing = Sharing::new(PAGE, LIMIT);
        sharing.begin_process();
        let heap = sharing.anonymous(Kind::Heap, b"[heap]");
        assert_eq!(sharing.add_page(1 << 40, heap, 0), Err(Full));
        assert_eq!(sharing.add_page(u64::MAX, heap, 0), Err(Full));
        let full = |page: &u64| (0..mappings).any(|mapping| sharing.add_page(page * apart, heap, mapping).is_err());
        (0..LIMIT as u64).find(full).expect("it is limited") as usize
    };
    // 16 bytes and two bits, and leaves that are full, half of which may be empty.
    assert!((LIMIT / 20..LIMIT / 15).contains(&fit(1, 1)), "{}", fit(1, 1));
    // A leaf for each.
    assert!((LIMIT / 2200..LIMIT / 2048).contains(&fit(512, 1)), "{}", fit(512, 1));
    // Further mappings take memory as well.
    assert!(fit(1, 5) < LIMIT / 100, "{}", fit(1, 5));
}

#[test]
fn a_full_table_takes_no_more_of_other_processes() {
    let mut sharing = Sharing::new(PAGE, 1 << 16);
    sharing.begin_process();
    let heap = sharing.anonymous(Kind::Heap, b"[heap]");
    let pages = (0..1 << 16).take_while(|&page| sharing.add_page(page, heap, 0).is_ok()).count() as u64;
    sharing.begin_process();
    assert_eq!(sharing.add_page(pages - 1, heap, 0), Err(Full));
}

#[test]
fn pairs_of_a_large_group_are_left_out_and_all_else_is_told() {
    for processes in [PAIRS_OF, PAIRS_OF + 1] {
        let physical = measure(&vec![vec![(0, 0)]; processes], &[0; 8]);
        assert_eq!((physical.res, physical.uss), (PAGE, PAGE));
        assert_eq!(physical.shared_with_group, vec![PAGE; processes]);
        assert_eq!(physical.objects[0].processes, processes);
        let pairs = physical.pairs.map(|pairs| pairs.len());
        assert_eq!(pairs, (processes == PAIRS_OF).then_some(PAIRS_OF * (PAIRS_OF - 1) / 2));
    }
}

#[test]
fn one_page_in_many_mappings_is_one_page() {
    let mut sharing = Sharing::new(PAGE, 1 << 20);
    for _ in 0..2 {
        sharing.begin_process();
        let merged = sharing.anonymous(Kind::Anon, b"");
        for mapping in 0..1000 {
            sharing.add_page(5, merged, mapping).expect("there is room");
        }
    }
    let read = |_: u64, counts: &mut [u64]| {
        counts.fill(2000);
        Ok::<(), ()>(())
    };
    sharing.count_outside(read).expect("reading cannot fail");
    let physical = sharing.finish();
    assert_eq!((physical.res, physical.uss), (PAGE, PAGE));
    assert_eq!(physical.objects[0].sum_res, 2000 * PAGE);
    assert_eq!(physical.links.len(), LINKS_OF_A_PAGE * LINKS_OF_A_PAGE);
}
