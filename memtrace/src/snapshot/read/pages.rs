//! One walk over the pages of a process, which feeds pictures and groups alike.
//!
//! What smaps has answered is not asked again: a mapping with nothing in it is passed over, and in one without shared
//! pages only where its pages lie is looked up, and only for a picture. In what is left, PAGEMAP_SCAN finds the ranges
//! that hold anything, and pagemap is read for these alone, so an empty terabyte costs nothing.
//!
//! Counted is what RSS counts: no zero pages, no hugetlbfs, no pages of devices, nothing that has no page behind it.

use super::Costs;
use crate::event::permission;
use crate::procfs::{Error, KernelPages, PageEntry, Pagemap, ProcessFiles, ReadCost};
use crate::snapshot::{GivenUp, Mapping, PageMap, Reason, Slice, Slices, Source};
use crate::statement::Kind;
use std::ops::{ControlFlow, Range};

/// Mappings closer together than this share scans.
const SCAN_GAP: u64 = 1 << 20;
/// Ranges closer together than this share reads of pagemap: 64 entries cost less than another call.
const READ_GAP_PAGES: u64 = 64;
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
    /// Where its pages are; all of them are private.
    Ranges,
    /// At each page.
    Pages,
}

impl Look {
    /// What a group needs to know of this mapping, and a picture if there is to be one.
    pub(super) fn at(mapping: &Mapping, picture: bool) -> Self {
        let shared = mapping.detail.map(|detail| detail.shared_clean.saturating_add(detail.shared_dirty));
        match mapping.resident {
            // The kernel's half of the addresses is vsyscall.
            _ if mapping.kind == Kind::Hugetlb || mapping.start >> 63 != 0 => Self::Nothing,
            Some(resident) if resident.rss == 0 && (resident.swap == 0 || !picture) => Self::Nothing,
            Some(_) if shared == Some(0) && !picture => Self::Nothing,
            Some(resident) if shared == Some(0) || resident.rss == 0 => Self::Ranges,
            _ => Self::Pages,
        }
    }
}

/// Calls `visit(mapping, addresses, what they hold)` for the pages of these mappings, by address. Private pages that
/// follow each other come together, shared ones one by one. It goes on until `visit` breaks.
///
/// # Errors
/// What could not be read, and why.
pub(super) fn walk(
    files: &ProcessFiles,
    mappings: &[Mapping],
    looks: &[Look],
    costs: &mut Costs,
    visit: impl FnMut(usize, Range<u64>, Found) -> ControlFlow<()>,
) -> Result<(), GivenUp> {
    let looked: Vec<usize> = (0..mappings.len().min(looks.len())).filter(|&i| looks[i] != Look::Nothing).collect();
    if looked.is_empty() {
        return Ok(());
    }
    let pagemap = files.open_pagemap().map_err(|error| given_up(Source::Pagemap, &error))?;
    let mut walk = Walk {
        pagemap: &pagemap,
        page_size: crate::procfs::page_size(),
        mappings,
        looks,
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
    result
}

fn given_up(source: Source, error: &Error) -> GivenUp {
    GivenUp { source, reason: error.into() }
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
    /// Private pages that may go on.
    run: Option<(usize, Range<u64>, bool)>,
    scanned: ReadCost,
    read: ReadCost,
    visit: V,
}

impl<V: FnMut(usize, Range<u64>, Found) -> ControlFlow<()>> Walk<'_, V> {
    fn all(&mut self, looked: &[usize]) -> Result<(), GivenUp> {
        let mut rest = looked;
        while !rest.is_empty() {
            let near =
                |pair: &&[usize]| self.mappings[pair[1]].start.saturating_sub(self.mappings[pair[0]].end) <= SCAN_GAP;
            let (together, behind) = rest.split_at(1 + rest.windows(2).take_while(near).count());
            match self.scan(together)? {
                Some(ControlFlow::Continue(())) => rest = behind,
                Some(ControlFlow::Break(())) => return Ok(()),
                None => return self.read_whole(looked),
            }
        }
        Ok(())
    }

    /// Neighbouring mappings. `None`: the kernel does not offer it.
    fn scan(&mut self, together: &[usize]) -> Result<Option<ControlFlow<()>>, GivenUp> {
        let [first, .., last] = together else {
            let [only] = together else { return Ok(Some(ControlFlow::Continue(()))) };
            return self.scan_between(self.mappings[*only].start, self.mappings[*only].end, together);
        };
        self.scan_between(self.mappings[*first].start, self.mappings[*last].end, together)
    }

    fn scan_between(&mut self, start: u64, end: u64, together: &[usize]) -> Result<Option<ControlFlow<()>>, GivenUp> {
        let pagemap = self.pagemap;
        let mut at = 0;
        let mut result = Ok(ControlFlow::Continue(()));
        let mut wanted = Vec::new();
        let scanned = pagemap.scan(start..end, |ranges| {
            result = (|| {
                for range in ranges {
                    let mut start = range.start;
                    while start < range.end {
                        while together.get(at).is_some_and(|&index| self.mappings[index].end <= start) {
                            at += 1;
                        }
                        let Some(&index) = together.get(at) else { break };
                        let mapping = &self.mappings[index];
                        let addresses = start.max(mapping.start)..range.end.min(mapping.end);
                        start = range.end.min(mapping.end);
                        if addresses.is_empty() {
                            break;
                        }
                        let flow = if range.swapped() {
                            (self.visit)(index, addresses, Found::Swapped)
                        } else if self.looks[index] == Look::Pages {
                            let huge_anonymous = range.huge() && !range.file();
                            wanted.push(Wanted { mapping: index, addresses, huge_anonymous });
                            ControlFlow::Continue(())
                        } else if range.file() || may_be_anonymous(mapping) {
                            (self.visit)(index, addresses, Found::Private { file: range.file() })
                        } else {
                            ControlFlow::Continue(())
                        };
                        if flow.is_break() {
                            return Ok(flow);
                        }
                    }
                }
                let flow = self.read(&wanted);
                wanted.clear();
                flow
            })();
            if matches!(result, Ok(ControlFlow::Continue(()))) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        match scanned {
            Ok(Some(cost)) => self.scanned.add(cost),
            Ok(None) => return Ok(None),
            Err(error) => return Err(given_up(Source::PagemapScan, &error)),
        }
        result.map(Some)
    }

    /// Looks pages up in pagemap.
    fn read(&mut self, wanted: &[Wanted]) -> Result<ControlFlow<()>, GivenUp> {
        let (pagemap, page_size) = (self.pagemap, self.page_size);
        let mut rest = wanted;
        while !rest.is_empty() {
            let near = |pair: &&[Wanted]| pair[1].addresses.start - pair[0].addresses.end <= READ_GAP_PAGES * page_size;
            let (together, behind) = rest.split_at(1 + rest.windows(2).take_while(near).count());
            rest = behind;
            let (Some(first), Some(last)) = (together.first(), together.last()) else { break };
            let mut at = 0;
            let mut flow = ControlFlow::Continue(());
            let cost = pagemap.read(first.addresses.start..last.addresses.end, |address, entry| {
                while together.get(at).is_some_and(|wanted| wanted.addresses.end <= address) {
                    at += 1;
                }
                let Some(wanted) = together.get(at).filter(|wanted| wanted.addresses.start <= address) else { return };
                // Before pagemap and scan agreed on it (Linux 6.16), the huge zero page was a file's in pagemap.
                if flow.is_continue() && !(wanted.huge_anonymous && entry.file()) {
                    flow = self.page(wanted.mapping, address, entry);
                }
            });
            self.read.add(cost.map_err(|error| given_up(Source::Pagemap, &error))?);
            if flow.is_break() || self.end_run().is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Without PAGEMAP_SCAN: all entries of these mappings.
    fn read_whole(&mut self, looked: &[usize]) -> Result<(), GivenUp> {
        let pages = looked.iter().map(|&index| self.mappings[index].size() / self.page_size);
        if pages.fold(0, u64::saturating_add) > WHOLE_PAGES {
            return Err(GivenUp { source: Source::PagemapScan, reason: Reason::NotOffered });
        }
        let (pagemap, kernel) = (self.pagemap, KernelPages::open().ok());
        for &index in looked {
            let mapping = &self.mappings[index];
            let mut flow = ControlFlow::Continue(());
            let cost = pagemap.read(mapping.start..mapping.end, |address, entry| {
                // A zero page is neither exclusive nor a file's. Who may not ask takes it for shared memory.
                let zero = || match (entry.exclusive(), entry.pfn(), &kernel) {
                    (false, Some(pfn), Some(kernel)) => kernel.is_zero_page(pfn).unwrap_or(false),
                    _ => false,
                };
                if flow.is_continue() && !(entry.present() && zero()) {
                    flow = self.page(index, address, entry);
                }
            });
            self.read.add(cost.map_err(|error| given_up(Source::Pagemap, &error))?);
            if flow.is_break() || self.end_run().is_break() {
                break;
            }
        }
        Ok(())
    }

    #[inline]
    fn page(&mut self, index: usize, address: u64, entry: PageEntry) -> ControlFlow<()> {
        let file = entry.file();
        let end = address + self.page_size;
        let found = if entry.swapped() {
            Found::Swapped
        } else if !entry.present() {
            return ControlFlow::Continue(());
        } else if entry.exclusive() {
            if let Some((mapping, run, of_file)) = &mut self.run
                && (*mapping, run.end, *of_file) == (index, address, file)
            {
                run.end = end;
                return ControlFlow::Continue(());
            }
            let flow = self.end_run();
            self.run = Some((index, address..end, file));
            return flow;
        } else if file || may_be_anonymous(&self.mappings[index]) {
            Found::Shared { file, pfn: entry.pfn() }
        } else {
            return ControlFlow::Continue(());
        };
        (self.visit)(index, address..end, found)
    }

    fn end_run(&mut self) -> ControlFlow<()> {
        match self.run.take() {
            Some((index, run, file)) => (self.visit)(index, run, Found::Private { file }),
            None => ControlFlow::Continue(()),
        }
    }
}

/// Whether a page of it that is no file's may be anonymous memory. Where it may not, there is no page behind the entry
/// that the kernel would count: memory of a device, or the kernel's own.
fn may_be_anonymous(mapping: &Mapping) -> bool {
    mapping.permissions & permission::SHARED == 0 && !matches!(mapping.kind, Kind::Vdso | Kind::Device)
}

/// A picture in the making.
pub(super) struct Painter<'a> {
    mappings: &'a [Mapping],
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
        Self { mappings, map: PageMap { mappings: mappings.iter().zip(looks).map(cut).collect() } }
    }

    /// These addresses hold this.
    pub(super) fn paint(&mut self, mapping: usize, addresses: Range<u64>, found: Found) {
        let (Some(of), Some(cut)) = (self.mappings.get(mapping), self.map.mappings.get_mut(mapping)) else { return };
        let mut begin = addresses.start.saturating_sub(of.start);
        let end = addresses.end.saturating_sub(of.start);
        while begin < end {
            let Some(slice) = cut.slices.get_mut((begin / cut.slice_bytes) as usize) else { break };
            let until = end.min((begin / cut.slice_bytes + 1) * cut.slice_bytes);
            // Never more than the slice has: what was seen twice, because it moved meanwhile, is seen once.
            let bytes = (until - begin).min(slice.untouched);
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
