use super::*;
use crate::event::permission::{READ, SHARED, WRITE};
use crate::snapshot::{Detail, Resident};
use proptest::prelude::*;

const PAGE: u64 = 4096;

fn mapping(start: u64, pages: u64, kind: Kind, permissions: u8) -> Mapping {
    Mapping::bare(start, start + pages * PAGE, READ | WRITE | permissions, kind)
}

/// With so many pages resident, swapped and shared, as smaps says.
fn known(pages: u64, rss: u64, swap: u64, shared: u64, permissions: u8) -> Mapping {
    Mapping {
        resident: Some(Resident { rss: rss * PAGE, swap: Some(swap * PAGE), ..Resident::default() }),
        detail: Some(Detail { shared_clean: shared * PAGE, ..Detail::default() }),
        ..mapping(PAGE, pages, Kind::Anon, permissions)
    }
}

#[test]
fn what_smaps_has_answered_is_not_asked_again() {
    let looks = |mapping: &Mapping| (Look::at(mapping, false), Look::at(mapping, true));
    assert_eq!(looks(&known(10, 0, 0, 0, 0)), (Look::Nothing, Look::Nothing));
    assert_eq!(looks(&known(10, 0, 4, 0, 0)), (Look::Nothing, Look::Ranges));
    assert_eq!(looks(&known(10, 5, 0, 0, 0)), (Look::Nothing, Look::Ranges));
    assert_eq!(looks(&known(10, 5, 0, 1, 0)), (Look::Pages, Look::Pages));
    // No zero page can be among them: each page is counted, or the mapping is shared.
    assert_eq!(looks(&known(10, 10, 0, 1, 0)), (Look::All, Look::All));
    assert_eq!(looks(&known(100, 25, 0, 1, SHARED)), (Look::All, Look::All));
    assert_eq!(looks(&known(100, 24, 0, 1, SHARED)), (Look::Pages, Look::Pages));
}

#[test]
fn what_is_unknown_is_looked_at_and_what_rss_leaves_out_is_not() {
    assert_eq!(Look::at(&mapping(PAGE, 10, Kind::Anon, 0), false), Look::Pages);
    assert_eq!(Look::at(&mapping(PAGE, 10, Kind::Hugetlb, SHARED), true), Look::Nothing);
    assert_eq!(Look::at(&mapping(0xffff_ffff_ff60_0000, 1, Kind::Vdso, 0), true), Look::Nothing);
}

proptest! {
    #[test]
    fn slices_are_bounded_and_have_every_byte(
        sizes in prop::collection::vec((1u64..1 << 30, any::<bool>()), 1..400),
        painted in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 1u64..100, 0..3u8), 0..50),
    ) {
        let mut start = PAGE;
        let mut mappings = Vec::new();
        for (pages, huge) in sizes {
            let kind = if huge { Kind::Hugetlb } else { Kind::Anon };
            mappings.push(mapping(start, pages, kind, 0));
            start += pages * PAGE;
        }
        let looks: Vec<Look> = mappings.iter().map(|mapping| Look::at(mapping, true)).collect();
        let mut painter = Painter::new(&mappings, &looks, PAGE);
        for (index, page, length, class) in painted {
            let index = index.index(mappings.len());
            let pages = mappings[index].size() / PAGE;
            let (first, end) = (page % pages, (page % pages + length).min(pages));
            let found = match class {
                0 => Found::Private { file: false },
                1 => Found::Shared { file: false, pfn: None },
                _ => Found::Swapped,
            };
            painter.paint(index, mappings[index].start + first * PAGE..mappings[index].start + end * PAGE, found);
        }
        let map = painter.finish();
        prop_assert_eq!(map.mappings.len(), mappings.len());
        prop_assert!(map.mappings.iter().map(|cut| cut.slices.len() as u64).sum::<u64>() <= SLICES);
        for (mapping, cut) in mappings.iter().zip(&map.mappings) {
            if mapping.kind == Kind::Hugetlb {
                prop_assert!(cut.slices.is_empty());
                continue;
            }
            let sizes: Vec<u64> = cut.slices.iter().map(|s| s.private + s.shared + s.swap + s.untouched).collect();
            prop_assert_eq!(sizes.iter().sum::<u64>(), mapping.size());
            let (last, others) = sizes.split_last().expect("a slice at least");
            prop_assert!(others.iter().all(|size| *size == cut.slice_bytes));
            prop_assert!(*last > 0 && *last <= cut.slice_bytes);
        }
    }
}

#[test]
fn no_more_is_drawn_in_swap_than_the_mapping_has_there() {
    let mappings = [known(10, 0, 3, 0, 0), mapping(1 << 20, 2, Kind::Anon, 0)];
    let mut painter = Painter::new(&mappings, &[Look::Ranges; 2], PAGE);
    // Of which some are markers, where we may not know which.
    painter.paint(0, PAGE..9 * PAGE, Found::Swapped);
    // How much that is, is unknown.
    painter.paint(1, 1 << 20..(1 << 20) + 2 * PAGE, Found::Swapped);
    let map = painter.finish();
    let swap = |index: usize| map.mappings[index].slices.iter().map(|slice| slice.swap).sum::<u64>();
    assert_eq!((swap(0), swap(1)), (3 * PAGE, 2 * PAGE));
}

#[test]
fn small_mappings_have_a_slice_for_each_page_beside_a_terabyte() {
    let mappings = [
        mapping(PAGE, 1, Kind::Anon, 0),
        mapping(1 << 30, 100, Kind::Anon, 0),
        mapping(1 << 40, 1 << 28, Kind::Anon, 0),
    ];
    let mut painter = Painter::new(&mappings, &[Look::Pages; 3], PAGE);
    painter.paint(1, (1 << 30) + PAGE..(1 << 30) + 3 * PAGE, Found::Private { file: false });
    let map = painter.finish();
    assert_eq!((map.mappings[0].slices.len(), map.mappings[1].slices.len()), (1, 100));
    assert_eq!(map.mappings[2].slices.len(), 8192);
    let private: Vec<u64> = map.mappings[1].slices.iter().map(|slice| slice.private).take(4).collect();
    assert_eq!(private, [0, PAGE, PAGE, 0]);
}

#[test]
fn what_moved_meanwhile_never_makes_more_than_there_is() {
    let mappings = [mapping(PAGE, 2, Kind::Anon, 0)];
    let mut painter = Painter::new(&mappings, &[Look::Pages], PAGE);
    for _ in 0..3 {
        painter.paint(0, PAGE..3 * PAGE, Found::Private { file: false });
        painter.paint(0, PAGE..3 * PAGE, Found::Swapped);
    }
    // An address outside of the mapping.
    painter.paint(0, 0..100 * PAGE, Found::Swapped);
    painter.paint(7, 0..PAGE, Found::Swapped);
    let map = painter.finish();
    assert_eq!(map.mappings[0].slices, [Slice { private: PAGE, ..Slice::default() }; 2]);
}
