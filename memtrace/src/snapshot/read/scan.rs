//! What is resident without smaps: `PAGEMAP_SCAN` walks the page tables in pieces, so that no call holds the target's
//! mmap_lock for long however large its mappings are. It knows nothing of PSS and of who else maps a page.

use super::pages::{Found, Look, walk};
use super::{Costs, frames_not_permitted};
use crate::procfs::{Error, KernelPages, PageRange, Pagemap, ProcessFiles, read_own_entry};
use crate::snapshot::{Counters, GivenUp, Mapping, Reason, Resident, Source};
use crate::statement::Kind;
use std::ops::{ControlFlow, Range};
use std::time::Duration;

/// Mappings with smaller gaps between them are scanned in one go: tables that are not there cost little.
const GAP: u64 = 1 << 30;

/// Fills in what of `mappings`, which are sorted and have their kinds, is in memory and in swap. `counters`: of the
/// process, as far as they are known. `max_hold`: longest time that one call should take. What could not be told, if
/// anything.
pub(super) fn scan(
    files: &ProcessFiles,
    mappings: &mut [Mapping],
    counters: Option<Counters>,
    max_hold: Option<Duration>,
    costs: &mut Costs,
) -> Option<GivenUp> {
    let hugetlb = counters.is_none_or(|counters| counters.hugetlb > 0);
    let reason = match read_ranges(files, mappings, hugetlb, max_hold, costs) {
        Ok(Some(tallies)) => {
            for (mapping, tally) in mappings.iter_mut().zip(tallies) {
                mapping.resident = tally.resident(mapping);
            }
            return count_swap(files, mappings, counters, max_hold, costs);
        }
        Ok(None) => Reason::NotOffered,
        Err(error) => (&error).into(),
    };
    Some(GivenUp { source: Source::PagemapScan, reason })
}

fn read_ranges(
    files: &ProcessFiles,
    mappings: &mut [Mapping],
    hugetlb: bool,
    max_hold: Option<Duration>,
    costs: &mut Costs,
) -> Result<Option<Vec<Tally>>, Error> {
    let pagemap = files.open_pagemap(max_hold)?;
    let mut tallies = vec![Tally::default(); mappings.len()];
    let mut cursor = 0;
    for run in runs(mappings) {
        let cost = pagemap.scan(run, |ranges| {
            for range in ranges {
                share_out(range, mappings, &mut tallies, &mut cursor);
            }
            ControlFlow::Continue(())
        })?;
        let Some(cost) = cost else { return Ok(None) };
        costs.add_reading(Source::PagemapScan, cost);
    }
    if hugetlb {
        find_hugetlb(&pagemap, mappings, &mut tallies)?;
    }
    Ok(Some(tallies))
}

/// Files and segments with huge pages may be of hugetlbfs whatever their names are. One page of each tells, where we may
/// ask the kernel about it.
fn find_hugetlb(pagemap: &Pagemap<'_>, mappings: &mut [Mapping], tallies: &mut [Tally]) -> Result<(), Error> {
    let kernel = KernelPages::open().ok();
    for (mapping, tally) in mappings.iter_mut().zip(tallies) {
        // A System V segment can have inode 0.
        let is_file = mapping.inode != 0 || mapping.kind == Kind::SysvShm;
        let Some(address) = tally.a_huge_page.filter(|_| is_file && mapping.kind != Kind::Hugetlb) else { continue };
        let mut is_hugetlb = None;
        pagemap.read(address..address + 1, |_, entry| {
            is_hugetlb = entry.pfn().zip(kernel.as_ref()).and_then(|(pfn, kernel)| kernel.is_hugetlb_page(pfn).ok());
            ControlFlow::Break(())
        })?;
        match is_hugetlb {
            Some(true) => mapping.kind = Kind::Hugetlb,
            Some(false) => {}
            None => tally.undecided = true,
        }
    }
    Ok(())
}

/// A scan takes markers of userfaultfd for swap. When it found more than the kernel counts, pagemap is asked about each.
fn count_swap(
    files: &ProcessFiles,
    mappings: &mut [Mapping],
    counters: Option<Counters>,
    max_hold: Option<Duration>,
    costs: &mut Costs,
) -> Option<GivenUp> {
    let swap = |mapping: &Mapping| mapping.resident.and_then(|resident| resident.swap).unwrap_or(0);
    let found = mappings.iter().map(swap).fold(0, u64::saturating_add);
    if counters.is_some_and(|counters| found <= counters.swap) {
        return None;
    }
    let mut counted = vec![None; mappings.len()];
    let mut given_up = None;
    if read_own_entry().is_ok_and(|entry| entry.pfn().is_some()) {
        let look = |mapping: &Mapping| if swap(mapping) > 0 { Look::Ranges } else { Look::Nothing };
        let looks: Vec<Look> = mappings.iter().map(look).collect();
        counted.fill(Some(0_u64));
        given_up = walk(files, mappings, &looks, max_hold, true, costs, |index, addresses, found| {
            if found == Found::Swapped
                && let Some(Some(bytes)) = counted.get_mut(index)
            {
                *bytes = bytes.saturating_add(addresses.end - addresses.start);
            }
            ControlFlow::Continue(())
        })
        .err();
        if given_up.is_some() {
            counted.fill(None);
        }
    } else if let Ok(status) = files.read_status() {
        // It may just have grown.
        let now = status.vm_swap.unwrap_or(0);
        if found <= now {
            return None;
        }
        if now == 0 {
            counted.fill(Some(0));
        } else {
            given_up = Some(GivenUp { source: Source::Pagemap, reason: frames_not_permitted() });
        }
    }
    for (mapping, counted) in mappings.iter_mut().zip(counted) {
        if let Some(resident) = mapping.resident.as_mut().filter(|resident| resident.swap > Some(0)) {
            resident.swap = counted;
        }
    }
    given_up
}

/// Addresses to scan: mappings with what little is between them.
fn runs(mappings: &[Mapping]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for mapping in mappings {
        match runs.last_mut() {
            Some(run) if (run.end..=run.end.saturating_add(GAP)).contains(&mapping.start) => run.end = mapping.end,
            _ => runs.push(mapping.start..mapping.end),
        }
    }
    runs
}

/// What of a mapping is where, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    file: u64,
    /// Present and no file's: anonymous, or a page that RSS leaves out.
    other: u64,
    swap: u64,
    huge: u64,
    /// The first address of a page that is mapped by a huge entry.
    a_huge_page: Option<u64>,
    /// Its huge pages may be of hugetlbfs, and may not.
    undecided: bool,
}

impl Tally {
    /// `None` where it is not known whether RSS counts these pages.
    fn resident(self, mapping: &Mapping) -> Option<Resident> {
        if mapping.kind == Kind::Hugetlb {
            return Some(Resident { swap: Some(0), ..Resident::default() });
        }
        if self.undecided {
            return None;
        }
        let anonymous = if mapping.may_be_anonymous() { self.other } else { 0 };
        Some(Resident { rss: self.file.saturating_add(anonymous), anonymous, swap: Some(self.swap), huge: self.huge })
    }
}

/// Adds a range to the mappings that it lies in. Ranges come by address: `cursor` is the mapping of the one before.
fn share_out(range: &PageRange, mappings: &[Mapping], tallies: &mut [Tally], cursor: &mut usize) {
    while mappings.get(*cursor).is_some_and(|mapping| mapping.end <= range.start) {
        *cursor += 1;
    }
    let here = mappings.iter().zip(tallies).skip(*cursor).take_while(|(mapping, _)| mapping.start < range.end);
    for (mapping, tally) in here {
        let bytes = range.end.min(mapping.end).saturating_sub(range.start.max(mapping.start));
        if range.swapped() {
            tally.swap = tally.swap.saturating_add(bytes);
            continue;
        }
        let place = if range.file() { &mut tally.file } else { &mut tally.other };
        *place = place.saturating_add(bytes);
        if range.huge() {
            tally.huge = tally.huge.saturating_add(bytes);
            tally.a_huge_page.get_or_insert(range.start.max(mapping.start));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::permission::{READ, SHARED, WRITE};

    fn mapping(start: u64, end: u64, kind: Kind, shared: u8) -> Mapping {
        Mapping::bare(start, end, READ | WRITE | shared, kind)
    }

    const FILE: u64 = 1 << 2;
    const PRESENT: u64 = 1 << 3;
    const SWAPPED: u64 = 1 << 4;
    const HUGE: u64 = 1 << 6;

    fn tally(mappings: &[Mapping], ranges: &[(u64, u64, u64)]) -> Vec<Tally> {
        let (mut tallies, mut cursor) = (vec![Tally::default(); mappings.len()], 0);
        for &(start, end, categories) in ranges {
            share_out(&PageRange { start, end, categories }, mappings, &mut tallies, &mut cursor);
        }
        tallies
    }

    #[test]
    fn a_range_over_several_mappings_is_shared_out() {
        let mappings = [
            mapping(0x1000, 0x3000, Kind::Anon, 0),
            mapping(0x3000, 0x4000, Kind::File, 0),
            mapping(0x8000, 0x9000, Kind::File, SHARED),
            mapping(0x9000, 0xa000, Kind::Device, 0),
        ];
        let ranges = [(0x2000, 0x4000, PRESENT), (0x8000, 0x9000, PRESENT | FILE), (0x9000, 0xb000, PRESENT)];
        let tallies = tally(&mappings, &ranges);
        let residents: Vec<Resident> =
            tallies.iter().zip(&mappings).map(|(tally, mapping)| tally.resident(mapping).unwrap()).collect();
        let of = |rss, anonymous| Resident { rss, anonymous, swap: Some(0), huge: 0 };
        assert_eq!(residents, [of(0x1000, 0x1000), of(0x1000, 0x1000), of(0x1000, 0), of(0, 0)]);
    }

    #[test]
    fn huge_pages_of_shared_memory_may_be_of_hugetlbfs() {
        let memfd = [mapping(0x20_0000, 0x60_0000, Kind::Memfd, SHARED)];
        let tallies = tally(&memfd, &[(0x20_0000, 0x40_0000, PRESENT | FILE | HUGE), (0x40_0000, 0x40_1000, SWAPPED)]);
        assert_eq!(tallies[0].a_huge_page, Some(0x20_0000));
        let known = Resident { rss: 2 << 20, anonymous: 0, swap: Some(4096), huge: 2 << 20 };
        assert_eq!(tallies[0].resident(&memfd[0]), Some(known));
        assert_eq!(Tally { undecided: true, ..tallies[0] }.resident(&memfd[0]), None);
        let hugetlb = mapping(0x20_0000, 0x60_0000, Kind::Hugetlb, SHARED);
        assert_eq!(tallies[0].resident(&hugetlb).map(|resident| resident.rss), Some(0));
    }

    #[test]
    fn far_mappings_are_scanned_apart() {
        let mappings = [
            mapping(0x1000, 0x3000, Kind::Anon, 0),
            mapping(0x5000, 0x6000, Kind::Anon, 0),
            mapping(0x5500_0000_0000, 0x5500_0000_1000, Kind::Anon, 0),
            mapping(0x5500_0000_1000, u64::MAX, Kind::Anon, 0),
            // Hostile: out of order.
            mapping(0x1000, 0x2000, Kind::Anon, 0),
        ];
        assert_eq!(runs(&mappings), [0x1000..0x6000, 0x5500_0000_0000..u64::MAX, 0x1000..0x2000]);
    }
}
