use super::*;
use crate::snapshot::Resident;
use crate::views::snapshot::sample;
use proptest::prelude::*;

const PAGE: u64 = 4096;

/// What each mapping holds, from its beginning on: private, shared, swapped.
pub(in crate::views::snapshot) fn placed(process: &Process) -> PageMap {
    let slices = |mapping: &Mapping| {
        let sums = sums(mapping);
        let slice_bytes = (mapping.size() / 32).next_multiple_of(PAGE).max(PAGE);
        let mut left: Vec<(Part, u64)> = sums.iter().collect();
        let slices = (0..mapping.size().div_ceil(slice_bytes)).map(|at| {
            let mut room = slice_bytes.min(mapping.size() - at * slice_bytes);
            let mut slice = Slice::default();
            for (part, bytes) in &mut left {
                let taken = room.min(*bytes);
                *bytes -= taken;
                room -= taken;
                match part {
                    Part::Private => slice.private += taken,
                    Part::Shared => slice.shared += taken,
                    Part::Swapped => slice.swap += taken,
                    Part::Untouched | Part::Unknown => slice.untouched += taken,
                }
            }
            slice
        });
        Slices { slice_bytes, slices: slices.collect() }
    };
    PageMap { mappings: process.mappings.iter().flatten().map(slices).collect() }
}

/// A process of so many mappings of two kinds, none of which is like its neighbour.
pub(in crate::views::snapshot) fn many(count: u64) -> (Process, PageMap) {
    let mut process = sample::postgres();
    let Some(pattern) = process.mappings.as_ref().and_then(|mappings| mappings.last()).cloned() else {
        unreachable!("the sample has mappings")
    };
    let mapping = |at: u64| {
        let start = (1 << 40) + at * (64 << 10);
        let (kind, name) = match at % 3 {
            0 => (Kind::File, format!("/srv/data/segment-{at}").into_bytes()),
            _ => (Kind::Anon, Vec::new()),
        };
        let resident = Some(Resident { rss: 4 * PAGE, swap: Some(PAGE), ..Resident::default() });
        let detail = pattern.detail.map(|_| crate::snapshot::Detail {
            private_dirty: (at % 5) * PAGE,
            shared_clean: (4 - at % 5) * PAGE,
            ..Default::default()
        });
        Mapping { start, end: start + 12 * PAGE, kind, name, resident, detail, ..pattern.clone() }
    };
    process.mappings = Some((0..count).map(mapping).collect());
    let map = placed(&process);
    (process, map)
}

fn sum<'a>(parts: impl IntoIterator<Item = &'a Parts>) -> Parts {
    parts.into_iter().fold(Parts::default(), |mut sum, parts| {
        sum += *parts;
        sum
    })
}

fn labels(blocks: &[Block<'_>]) -> Vec<String> {
    blocks.iter().map(|block| block.label(80)).collect()
}

#[test]
fn what_is_one_thing_is_one_block() {
    let process = sample::postgres();
    let map = placed(&process);
    let blocks = blocks(&process, &map, None, 100);
    let labels = labels(&blocks);
    assert_eq!(labels.iter().filter(|label| *label == "libc.so.6").count(), 1, "{labels:?}");
    let stack = blocks.iter().find(|block| block.label(80).contains("llvm-worker")).map(|block| block.mappings.len());
    assert_eq!(stack, Some(2), "with its guard: {labels:?}");
    let mapped: Vec<usize> = blocks.iter().flat_map(|block| block.mappings.iter().map(|m| m.0)).collect();
    assert_eq!(mapped, (0..process.mappings.iter().flatten().count()).collect::<Vec<_>>());
}

#[test]
fn each_stack_has_its_guard_and_each_arena_its_rest() {
    let mut process = sample::postgres();
    let mut all: Vec<Mapping> = Vec::new();
    for (kind, writable) in [
        (Kind::ThreadStack, false),
        (Kind::ThreadStack, true),
        (Kind::Guard, false),
        (Kind::ThreadStack, true),
        (Kind::Arena, true),
        (Kind::Arena, false),
        (Kind::Arena, true),
        (Kind::Guard, false),
        (Kind::Anon, true),
        (Kind::Guard, false),
    ] {
        let start = (1 << 40) + all.len() as u64 * PAGE;
        let permissions = if writable { permission::READ | permission::WRITE } else { 0 };
        let Some(pattern) = process.mappings.iter().flatten().next().cloned() else {
            unreachable!("the sample has mappings")
        };
        all.push(Mapping { start, end: start + PAGE, kind, permissions, name: Vec::new(), ..pattern });
    }
    process.mappings = Some(all);
    let lengths: Vec<usize> =
        blocks(&process, &PageMap::default(), None, 100).iter().map(|block| block.mappings.len()).collect();
    assert_eq!(lengths, [2, 2, 2, 2, 1, 1]);
}

#[test]
fn addresses_have_twelve_digits() {
    assert_eq!(address(0x7ffe_7e5b_c000), "7ffe7e5bc000");
    assert_eq!(address(0xffff_ffff_ff60_0000), "…fffff600000");
}

#[test]
fn the_small_ones_give_way_and_the_large_ones_stay() {
    let process = sample::postgres();
    let map = placed(&process);
    let few = blocks(&process, &map, None, 6);
    let labels = labels(&few);
    assert_eq!(few.len(), 6, "{labels:?}");
    for large in ["shared anonymous", "/var/lib/postgresql/15/main/vectors.idx"] {
        assert!(labels.iter().any(|label| label == large), "{large}: {labels:?}");
    }
}

#[test]
fn what_is_alike_is_joined_evenly() {
    let (process, map) = many(3_000);
    let blocks = blocks(&process, &map, None, 40);
    assert_eq!(blocks.len(), 40);
    let largest = blocks.iter().map(|block| block.mappings.len()).max();
    assert!(largest <= Some(4 * 3_000 / 40), "{largest:?} of 3,000 mappings are one block of 40");
}

#[test]
fn what_was_not_read_is_not_nothing() {
    let process = sample::over_budget();
    let blocks = blocks(&process, &PageMap::default(), None, 100);
    let all = sum(blocks.iter().map(|block| &block.parts));
    let resident: u64 = process.mappings.iter().flatten().filter_map(|m| m.resident).map(|r| r.rss).sum();
    assert_eq!((all[Part::Unknown], all[Part::Private], all[Part::Shared]), (resident, 0, 0));
    assert_eq!(blocks.iter().filter_map(|block| block.resident).sum::<u64>(), resident);
    let mut unread = process;
    unread.mappings.iter_mut().flatten().for_each(|mapping| mapping.resident = None);
    let blocks = self::blocks(&unread, &PageMap::default(), None, 100);
    assert!(blocks.iter().all(|block| block.resident.is_none() && block.parts[Part::Unknown] == block.size));
}

#[test]
fn huge_pages_of_hugetlbfs_are_not_untouched_though_res_leaves_them_out() {
    let mut process = sample::hostile();
    let untouched = Slice { untouched: 4_096 << 10, ..Slice::default() };
    let hugetlb = |process: &Process, map: &PageMap| {
        let blocks = blocks(process, map, Some("hugetlb"), 100);
        let block = blocks.first().expect("it has some");
        let placed = is_placed(&blocks, map);
        let sums = process.mappings.iter().flatten().filter(|m| m.kind == Kind::Hugetlb).sum::<Sums>();
        (block.parts[Part::Unknown], block.parts[Part::Untouched], block.resident, sums.not_here(), placed)
    };
    let whole = 4_096 << 10;
    // A look at its pages shows nothing of them.
    let slices = Slices { slice_bytes: whole, slices: vec![untouched] };
    let map = PageMap { mappings: vec![slices; process.mappings.as_ref().map_or(0, Vec::len)] };
    for map in [&PageMap::default(), &map] {
        assert_eq!(hugetlb(&process, map), (whole, 0, Some(whole), Some(0), false));
    }
    let mut half = process.clone();
    half.mappings.iter_mut().flatten().filter_map(|m| m.detail.as_mut()).for_each(|d| d.hugetlb /= 2);
    let (some, rest) = (whole / 2, whole / 2);
    assert_eq!(hugetlb(&half, &map), (some, rest, Some(some), Some(rest), false));
    process.mappings.iter_mut().flatten().for_each(|mapping| mapping.detail = None);
    assert_eq!(hugetlb(&process, &map), (whole, 0, None, None, false), "unknown is not nothing");
}

#[test]
fn filters_are_those_of_the_tables() {
    let process = sample::postgres();
    let only = |wanted| labels(&blocks(&process, &PageMap::default(), Some(wanted), 100));
    assert_eq!(only("LIBC.so"), ["libc.so.6"]);
    assert_eq!(only("thread_stack").len(), 1);
    assert_eq!(only("nowhere"), [""; 0]);
}

#[test]
fn twice_the_size_is_a_step_longer() {
    let log = |size| length(size, 1 << 40, PAGE, (1, 29), PictureScale::Log);
    assert_eq!([PAGE, 2 * PAGE, 4 * PAGE, 1 << 30, 1 << 40].map(log), [1, 2, 3, 19, 29]);
    let linear = |size| length(size, 1 << 30, PAGE, (1, 100), PictureScale::Linear);
    assert_eq!([0, PAGE, 1 << 28, 1 << 29, 1 << 30].map(linear), [1, 1, 25, 50, 100]);
    assert_eq!(length(u64::MAX, u64::MAX, 0, (1, 60), PictureScale::Log), 60);
    assert_eq!(length(0, 0, 0, (1, 60), PictureScale::Linear), 1);
}

prop_compose! {
    fn slices()(pages in proptest::collection::vec([0_u64..40, 0_u64..40, 0_u64..40, 0_u64..40], 1..20)) -> Vec<Slice> {
        pages.into_iter().map(|[private, shared, swap, untouched]| Slice {
            private: private * PAGE, shared: shared * PAGE, swap: swap * PAGE, untouched: untouched * PAGE + PAGE,
        }).collect()
    }
}

proptest! {
    /// However mappings are sliced, joined and cut into cells: nothing is lost, nothing is there twice.
    #[test]
    fn cells_sum_up_to_the_process(all in proptest::collection::vec((slices(), 0_usize..3), 1..40), most in 1_usize..12, cells in 1_usize..70) {
        let (mut process, _) = many(all.len() as u64);
        let mut at = 1 << 30;
        for (mapping, (slices, gap)) in process.mappings.iter_mut().flatten().zip(&all) {
            let size: u64 = slices.iter().map(|s| s.private + s.shared + s.swap + s.untouched).sum();
            at += [0, PAGE, FAR][*gap];
            (mapping.start, mapping.end) = (at, at + size);
            at += size;
        }
        let map = PageMap { mappings: all.iter().map(|(slices, _)| Slices { slice_bytes: 0, slices: slices.clone() }).collect() };
        let blocks = blocks(&process, &map, None, most);
        prop_assert!(blocks.len() <= most);
        let expected = all.iter().flat_map(|(slices, _)| slices).fold(Parts::default(), |mut sum, slice| { sum += Parts::from(*slice); sum });
        prop_assert_eq!(sum(blocks.iter().map(|block| &block.parts)), expected);
        for block in &blocks {
            let cut = block.cells(&map, cells);
            prop_assert_eq!(cut.len(), cells);
            prop_assert_eq!(sum(&cut), block.parts);
            prop_assert_eq!(block.size, block.parts.total());
            for cell in &cut {
                // Each of the parts is rounded at either end.
                prop_assert!(cell.total().abs_diff(block.size / cells as u64) <= 10, "{cell:?} of {}", block.size);
            }
        }
        prop_assert!(blocks.windows(2).all(|pair| pair[0].end <= pair[1].start));
    }
}
