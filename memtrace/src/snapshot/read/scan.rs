//! What is resident without smaps: `PAGEMAP_SCAN` walks the page tables in pieces, so that no call holds the target's
//! mmap_lock for long however large its mappings are. It knows nothing of PSS and of who else maps a page.

use super::Costs;
use crate::procfs::{Error, PageRange, ProcessFiles};
use crate::snapshot::{GivenUp, Mapping, Reason, Resident, Source};
use crate::statement::Kind;
use std::ops::{ControlFlow, Range};
use std::time::Duration;

/// Mappings with smaller gaps between them are scanned in one go: tables that are not there cost little.
const GAP: u64 = 1 << 30;

/// Fills in what of `mappings`, which are sorted and have their kinds, is in memory and in swap. `hugetlb`: the process
/// has pages of hugetlbfs. `max_hold`: longest time that one call should take. What could not be told, if anything.
pub(super) fn scan(
    files: &ProcessFiles,
    mappings: &mut [Mapping],
    hugetlb: bool,
    max_hold: Option<Duration>,
    costs: &mut Costs,
) -> Option<GivenUp> {
    let reason = match read_ranges(files, mappings, max_hold, costs) {
        Ok(Some(tallies)) => {
            for (mapping, tally) in mappings.iter_mut().zip(tallies) {
                mapping.resident = tally.resident(mapping, hugetlb);
            }
            return None;
        }
        Ok(None) => Reason::NotOffered,
        Err(error) => (&error).into(),
    };
    Some(GivenUp { source: Source::PagemapScan, reason })
}

fn read_ranges(
    files: &ProcessFiles,
    mappings: &[Mapping],
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
    Ok(Some(tallies))
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
}

impl Tally {
    /// `None` where these pages may be of hugetlbfs and may not.
    fn resident(self, mapping: &Mapping, hugetlb: bool) -> Option<Resident> {
        let kind = mapping.kind;
        if kind == Kind::Hugetlb {
            return Some(Resident::default());
        }
        let may_be_hugetlb = matches!(kind, Kind::SharedAnon | Kind::SysvShm | Kind::Memfd);
        if hugetlb && may_be_hugetlb && self.huge > 0 {
            return None;
        }
        let anonymous = if mapping.may_be_anonymous() { self.other } else { 0 };
        Some(Resident { rss: self.file.saturating_add(anonymous), anonymous, swap: self.swap, huge: self.huge })
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
            tallies.iter().zip(&mappings).map(|(tally, mapping)| tally.resident(mapping, false).unwrap()).collect();
        let of = |rss, anonymous| Resident { rss, anonymous, swap: 0, huge: 0 };
        assert_eq!(residents, [of(0x1000, 0x1000), of(0x1000, 0x1000), of(0x1000, 0), of(0, 0)]);
    }

    #[test]
    fn huge_pages_of_shared_memory_may_be_of_hugetlbfs() {
        let memfd = [mapping(0x20_0000, 0x60_0000, Kind::Memfd, SHARED)];
        let tallies = tally(&memfd, &[(0x20_0000, 0x40_0000, PRESENT | FILE | HUGE), (0x40_0000, 0x40_1000, SWAPPED)]);
        let known = Resident { rss: 2 << 20, anonymous: 0, swap: 4096, huge: 2 << 20 };
        assert_eq!(tallies[0].resident(&memfd[0], false), Some(known));
        assert_eq!(tallies[0].resident(&memfd[0], true), None);
        let hugetlb = mapping(0x20_0000, 0x60_0000, Kind::Hugetlb, SHARED);
        assert_eq!(tallies[0].resident(&hugetlb, true), Some(Resident::default()));
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
