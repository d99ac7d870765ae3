//! One walk over the pages of a process, which feeds pictures and groups alike.
//!
//! What smaps has answered is not asked again: a mapping with nothing in it is passed over, and in one without shared
//! pages only where its pages lie is looked up, and only for a picture. In what is left, PAGEMAP_SCAN finds the ranges
//! that hold anything, and pagemap is read for these alone, so an empty terabyte costs nothing.
//!
//! Counted is what RSS counts: no zero pages, no hugetlbfs, no pages of devices, nothing that has no page behind it. And
//! what the counter of swap counts: where a scan finds swap, pagemap is asked whether it is, or a marker of userfaultfd.

use super::Costs;
use crate::procfs::{Error, KernelPages, PageEntry, PageRange, Pagemap, ProcessFiles, ReadCost};
use crate::snapshot::{GivenUp, Mapping, PageMap, Reason, Slice, Slices, Source};
use crate::statement::Kind;
use std::ops::{ControlFlow, Range};
use std::time::Duration;

/// Mappings closer together than this share scans.
const SCAN_GAP: u64 = 1 << 20;
/// Ranges closer together than this share reads of pagemap: 64 entries cost less than another call.
const READ_GAP_PAGES: u64 = 64;
/// A scan of a page costs as much as two entries of pagemap; where one page of so many is there, it saves nothing.
const DENSE: u64 = 4;
/// Without PAGEMAP_SCAN, pagemap is read as a whole: of no more than 1 TiB of address space, about a second.
const WHOLE_PAGES: u64 = 1 << 28;
/// Slices of a process's picture.
const SLICES: u64 = 16_384;

/// What pages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// In memory and mapped once.
    Private {
        /// Of a file or of shared memory.
        file: bool,
    },
    /// In memory and mapped more than once.
    Shared {
        /// Of a file or of shared memory.
        file: bool,
        /// Of the first page; `None` when we may not know.
        pfn: Option<u64>,
    },
    /// In swap.
    Swapped,
}

/// How closely a mapping is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Not at all: it holds nothing, or everything about it is known.
    Nothing,
    /// Where its pages are; all of them are private, or only those in swap are asked for.
    Ranges,
    /// At each page, once those that there are have been found.
    Pages,
    /// At each page, because there is a page nearly everywhere.
    All,
}

impl Look {
    /// What a group needs to know of this mapping, and a picture if there is to be one.
    pub(super) fn at(mapping: &Mapping, picture: bool) -> Self {
        let shared = mapping.detail.map(|detail| detail.shared_clean.saturating_add(detail.shared_dirty));
        match mapping.resident {
            // The kernel's half of the addresses is vsyscall.
            _ if mapping.kind == Kind::Hugetlb || mapping.start >> 63 != 0 => Self::Nothing,
            Some(resident) if resident.rss == 0 && (resident.swap == Some(0) || !picture) => Self::Nothing,
            Some(_) if shared == Some(0) && !picture => Self::Nothing,
            Some(resident) if shared == Some(0) || resident.rss == 0 => Self::Ranges,
            // Zero pages are to be told from anonymous ones that are shared, which only a scan can, where there are any.
            Some(resident)
                if resident.rss >= mapping.size() / DENSE && !mapping.may_be_anonymous()
                    || resident.rss == mapping.size() =>
            {
                Self::All
            }
            _ => Self::Pages,
        }
    }
}

/// Calls `visit(mapping, addresses, what they hold)` for the pages of these mappings, by address; those in swap may come
/// later than others. Private pages that follow each other come together, others one by one. It goes on until `visit`
/// breaks. `max_hold`: longest time that one call should hold the process's mmap_lock. `swap`: somebody wants to know
/// what is in swap.
///
/// # Errors
/// What could not be read, and why.
pub(super) fn walk(
    files: &ProcessFiles,
    mappings: &[Mapping],
    looks: &[Look],
    max_hold: Option<Duration>,
    swap: bool,
    costs: &mut Costs,
    visit: impl FnMut(usize, Range<u64>, Found) -> ControlFlow<()>,
) -> Result<(), GivenUp> {
    let looked: Vec<usize> = (0..mappings.len().min(looks.len())).filter(|&i| looks[i] != Look::Nothing).collect();
    if looked.is_empty() {
        return Ok(());
    }
    let pagemap = files.open_pagemap(max_hold).map_err(|error| given_up(Source::Pagemap, &error))?;
    let mut walk = Walk {
        pagemap: &pagemap,
        page_size: crate::procfs::page_size(),
        mappings,
        looks,
        swap,
        run: None,
        scanned: ReadCost::default(),
        read: ReadCost::default(),
        visit,
    };
    let result = walk.all(&looked);
    for (source, cost) in [(Source::PagemapScan, walk.scanned), (Source::Pagemap, walk.read)] {
        if cost.reads > 0 {
            costs.add_reading(source, cost);
        }
    }
    match result {
        Ok(()) | Err(Stop::Enough) => Ok(()),
        Err(Stop::GivenUp(given_up)) => Err(given_up),
    }
}

fn given_up(source: Source, error: &Error) -> GivenUp {
    GivenUp { source, reason: error.into() }
}

/// Why a walk does not go on.
enum Stop {
    /// Who is told wants no more.
    Enough,
    GivenUp(GivenUp),
}

type Step = Result<(), Stop>;

fn flow(step: &Step) -> ControlFlow<()> {
    if step.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

/// Pages that are looked up in pagemap.
struct Wanted {
    mapping: usize,
    addresses: Range<u64>,
    /// Mapped by huge entries, and of no file.
    huge_anonymous: bool,
}

struct Walk<'a, V> {
    pagemap: &'a Pagemap<'a>,
    page_size: u64,
    mappings: &'a [Mapping],
    looks: &'a [Look],
    swap: bool,
    /// Private pages that may go on.
    run: Option<(usize, Range<u64>, bool)>,
    scanned: ReadCost,
    read: ReadCost,
    visit: V,
}

impl<V: FnMut(usize, Range<u64>, Found) -> ControlFlow<()>> Walk<'_, V> {
    fn all(&mut self, looked: &[usize]) -> Step {
        let (dense, sparse): (Vec<usize>, Vec<usize>) =
            looked.iter().partition(|&&index| self.looks[index] == Look::All);
        for mapping in dense {
            let addresses = self.mappings[mapping].start..self.mappings[mapping].end;
            self.read(&[Wanted { mapping, addresses, huge_anonymous: false }])?;
        }
        let mut rest = &sparse[..];
        while !rest.is_empty() {
            let near =
                |pair: &&[usize]| self.mappings[pair[1]].start.saturating_sub(self.mappings[pair[0]].end) <= SCAN_GAP;
            let (together, behind) = rest.split_at(1 + rest.windows(2).take_while(near).count());
            if !self.scan(together)? {
                return self.read_whole(rest);
            }
            rest = behind;
        }
        Ok(())
    }

    /// Neighbouring mappings. `false`: the kernel does not offer it.
    fn scan(&mut self, together: &[usize]) -> Result<bool, Stop> {
        let (Some(first), Some(last)) = (together.first(), together.last()) else { return Ok(true) };
        let addresses = self.mappings[*first].start..self.mappings[*last].end;
        let (mut at, mut step) = (0, Ok(()));
        let scanned = self.pagemap.scan(addresses, |ranges| {
            step = self.look_at(ranges, together, &mut at);
            flow(&step)
        });
        match scanned {
            Ok(Some(cost)) => self.scanned.add(cost),
            Ok(None) => return Ok(false),
            Err(error) => return Err(Stop::GivenUp(given_up(Source::PagemapScan, &error))),
        }
        step.map(|()| true)
    }

    /// Ranges that were found, which may span several of these mappings, and what is between them. `at` is the mapping of
    /// the last one.
    fn look_at(&mut self, ranges: &[PageRange], together: &[usize], at: &mut usize) -> Step {
        let mappings = self.mappings;
        let mut wanted = Vec::new();
        for range in ranges {
            while together.get(*at).is_some_and(|&index| mappings[index].end <= range.start) {
                *at += 1;
            }
            let here = together.iter().skip(*at).take_while(|&&index| mappings[index].start < range.end);
            for &index in here {
                let mapping = &mappings[index];
                let addresses = range.start.max(mapping.start)..range.end.min(mapping.end);
                let look_up = if range.swapped() { self.swap } else { self.looks[index] == Look::Pages };
                if look_up {
                    wanted.push(Wanted { mapping: index, addresses, huge_anonymous: range.huge() && !range.file() });
                } else if range.swapped() {
                    // Nobody asks.
                } else if range.file() || mapping.may_be_anonymous() {
                    self.tell(index, addresses, Found::Private { file: range.file() })?;
                }
            }
        }
        self.read(&wanted)
    }

    /// Looks pages up in pagemap.
    fn read(&mut self, wanted: &[Wanted]) -> Step {
        let page_size = self.page_size;
        let mut rest = wanted;
        while let Some(first) = rest.first() {
            let near = |pair: &&[Wanted]| {
                pair[1].addresses.start.saturating_sub(pair[0].addresses.end) <= READ_GAP_PAGES * page_size
            };
            let (together, behind) = rest.split_at(1 + rest.windows(2).take_while(near).count());
            rest = behind;
            let end = together.last().map_or(first.addresses.end, |last| last.addresses.end);
            let mut at = 0;
            self.read_entries(first.addresses.start..end, |walk, address, entry| {
                while together.get(at).is_some_and(|wanted| wanted.addresses.end <= address) {
                    at += 1;
                }
                match together.get(at) {
                    // Before pagemap and scan agreed on it (Linux 6.16), the huge zero page was a file's in pagemap.
                    Some(wanted) if wanted.addresses.start <= address && !(wanted.huge_anonymous && entry.file()) => {
                        walk.page(wanted.mapping, address, entry)
                    }
                    _ => Ok(()),
                }
            })?;
        }
        Ok(())
    }

    fn read_entries(&mut self, addresses: Range<u64>, mut each: impl FnMut(&mut Self, u64, PageEntry) -> Step) -> Step {
        let mut step = Ok(());
        let cost = self.pagemap.read(addresses, |address, entry| {
            step = each(self, address, entry);
            flow(&step)
        });
        self.read.add(cost.map_err(|error| Stop::GivenUp(given_up(Source::Pagemap, &error)))?);
        step?;
        self.end_run()
    }

    /// Without PAGEMAP_SCAN: all entries of these mappings.
    fn read_whole(&mut self, looked: &[usize]) -> Step {
        let pages = looked.iter().map(|&index| self.mappings[index].size() / self.page_size);
        if pages.fold(0, u64::saturating_add) > WHOLE_PAGES {
            return Err(Stop::GivenUp(GivenUp { source: Source::PagemapScan, reason: Reason::NotOffered }));
        }
        let kernel = KernelPages::open().ok();
        for &index in looked {
            let addresses = self.mappings[index].start..self.mappings[index].end;
            // All of a mapping is of hugetlbfs, or nothing.
            let mut hugetlb = None;
            self.read_entries(addresses, |walk, address, entry| {
                if let (Some(pfn), Some(kernel)) = (entry.pfn(), &kernel)
                    && *hugetlb.get_or_insert_with(|| kernel.is_hugetlb_page(pfn).unwrap_or(false))
                {
                    return Ok(());
                }
                // A zero page is neither exclusive nor a file's. Who may not ask takes it for shared memory.
                let zero = || match (entry.exclusive(), entry.pfn(), &kernel) {
                    (false, Some(pfn), Some(kernel)) => kernel.is_zero_page(pfn).unwrap_or(false),
                    _ => false,
                };
                if zero() { Ok(()) } else { walk.page(index, address, entry) }
            })?;
        }
        Ok(())
    }

    #[inline]
    fn page(&mut self, index: usize, address: u64, entry: PageEntry) -> Step {
        let (file, end) = (entry.file(), address + self.page_size);
        if entry.swapped() {
            self.tell(index, address..end, Found::Swapped)
        } else if !entry.present() {
            Ok(())
        } else if entry.exclusive() {
            if let Some((mapping, run, of_file)) = &mut self.run
                && (*mapping, run.end, *of_file) == (index, address, file)
            {
                run.end = end;
                return Ok(());
            }
            self.end_run()?;
            self.run = Some((index, address..end, file));
            Ok(())
        } else if file || self.mappings[index].may_be_anonymous() {
            self.tell(index, address..end, Found::Shared { file, pfn: entry.pfn() })
        } else {
            Ok(())
        }
    }

    fn end_run(&mut self) -> Step {
        match self.run.take() {
            Some((index, run, file)) => self.tell(index, run, Found::Private { file }),
            None => Ok(()),
        }
    }

    fn tell(&mut self, index: usize, addresses: Range<u64>, found: Found) -> Step {
        match (self.visit)(index, addresses, found) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Stop::Enough),
        }
    }
}

/// A picture in the making.
pub(super) struct Painter<'a> {
    mappings: &'a [Mapping],
    /// What of each mapping may still be in swap: of what seems to be, some may be markers.
    swap: Vec<u64>,
    map: PageMap,
}

impl<'a> Painter<'a> {
    /// Each mapping has up to as many slices as are possible for all of them without having more than [`SLICES`]
    /// altogether, and not more than it has pages. So a small mapping has a slice for each page, and a large one has as
    /// many as any other; with more than [`SLICES`] mappings, each has one. Nothing has been touched yet.
    pub(super) fn new(mappings: &'a [Mapping], looks: &[Look], page_size: u64) -> Self {
        let pages = |mapping: &Mapping| mapping.size() / page_size;
        let slices = |most: u64| {
            mappings.iter().zip(looks).map(move |(mapping, look)| match look {
                Look::Nothing => 1,
                _ => pages(mapping).min(most),
            })
        };
        let mut most = SLICES;
        while most > 1 && slices(most).sum::<u64>() > SLICES {
            most /= 2;
        }
        let cut = |(mapping, look): (&Mapping, &Look)| {
            if mapping.kind == Kind::Hugetlb {
                return Slices::default();
            }
            let slice_pages = if *look == Look::Nothing { pages(mapping) } else { pages(mapping).div_ceil(most) };
            let slice_bytes = slice_pages.max(1) * page_size;
            let untouched = |index| slice_bytes.min(mapping.size() - index * slice_bytes);
            let slices = (0..mapping.size().div_ceil(slice_bytes))
                .map(|index| Slice { untouched: untouched(index), ..Slice::default() })
                .collect();
            Slices { slice_bytes, slices }
        };
        let swap = |mapping: &Mapping| mapping.resident.and_then(|resident| resident.swap).unwrap_or(u64::MAX);
        let map = PageMap { mappings: mappings.iter().zip(looks).map(cut).collect() };
        Self { mappings, swap: mappings.iter().map(swap).collect(), map }
    }

    /// These addresses hold this.
    pub(super) fn paint(&mut self, mapping: usize, addresses: Range<u64>, found: Found) {
        let (Some(of), Some(cut), Some(swap)) =
            (self.mappings.get(mapping), self.map.mappings.get_mut(mapping), self.swap.get_mut(mapping))
        else {
            return;
        };
        let mut begin = addresses.start.saturating_sub(of.start);
        let end = addresses.end.saturating_sub(of.start);
        while begin < end {
            let Some(index) = begin.checked_div(cut.slice_bytes) else { break };
            let Some(slice) = cut.slices.get_mut(index as usize) else { break };
            let until = end.min((index + 1) * cut.slice_bytes);
            // Never more than the slice has: what was seen twice, because it moved meanwhile, is seen once.
            let mut bytes = (until - begin).min(slice.untouched);
            if found == Found::Swapped {
                bytes = bytes.min(*swap);
                *swap -= bytes;
            }
            slice.untouched -= bytes;
            *match found {
                Found::Private { .. } => &mut slice.private,
                Found::Shared { .. } => &mut slice.shared,
                Found::Swapped => &mut slice.swap,
            } += bytes;
            begin = until;
        }
    }

    pub(super) fn finish(self) -> PageMap {
        self.map
    }
}

#[cfg(test)]
mod tests;
