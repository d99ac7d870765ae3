//! Reads page tables: `PAGEMAP_SCAN` and pagemap of a process, kpagecount and kpageflags of the machine.
//!
//! No call holds the process's mmap_lock for long: pagemap takes it anew every 2 MiB, and a scan is cut into pieces here.
//! This room refuses to say what a page is counted as; it says what the kernel says.

use super::{Error, PageEntry, PageRange, ProcessFiles, ReadCost, parse_pagemap};
use crate::units::nanos;
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Pages that one scan may find at most: 1 GiB of them, 5 to 25 ms.
const SCAN_PAGES: u64 = 1 << 18;
/// And at least: those of one page table, which the kernel walks in one go.
const LEAST_PAGES: u64 = 512;
/// What a page that is found costs at worst: measured were 18 to 90 ns, most of it cache misses.
const NS_PER_PAGE: u64 = 100;
/// Pages that one scan may walk for each that it may find: empty page tables cost some 3 ns an entry, and where there are
/// none, nothing.
const WALKED_PER_FOUND: u64 = 4;
/// Ranges that one scan may return. The kernel itself lets go of mmap_lock after every 512.
const SCAN_RANGES: usize = 2048;
/// Entries that one read(2) asks for.
const READ_ENTRIES: u64 = 8192;

/// `PAGE_IS_PFNZERO` and `PAGE_IS_GUARD` of linux/fs.h: by these, pages are left out.
const ZERO: u64 = 1 << 5;
const GUARD: u64 = 1 << 8;

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    ranges: u64,
    ranges_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::Ioctl = libc::_IOWR::<ScanArguments>(b'f' as u32, 16);

/// A process's pagemap, opened: that of the address space that was there then.
pub struct Pagemap<'a> {
    process: &'a ProcessFiles,
    file: File,
    page_size: u64,
    /// Categories by which pages are left out; kernels before 6.15 know no guards.
    left_out: Cell<u64>,
    /// Room for what a scan returns, kept for the next one.
    ranges: Cell<Vec<PageRange>>,
    /// What the next scan may do.
    piece: Cell<Piece>,
}

/// How much one scan may do, so that it holds mmap_lock no longer than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    /// Pages that it may find.
    pages: u64,
    /// Longest time that it may take; `None` for any.
    limit: Option<Duration>,
}

impl Piece {
    fn new(limit: Option<Duration>) -> Self {
        let affordable = |limit| nanos(limit) / NS_PER_PAGE;
        Self { pages: limit.map_or(SCAN_PAGES, affordable).clamp(LEAST_PAGES, SCAN_PAGES), limit }
    }

    /// Bytes of address space that it may walk.
    const fn span(self, page_size: u64) -> u64 {
        (self.pages * WALKED_PER_FOUND).saturating_mul(page_size)
    }

    /// After a scan that took so long and found so many pages of ordinary size. One that met few of them tells nothing
    /// about what they cost.
    fn adapted(self, took: Duration, found: u64) -> Self {
        let pages = match self.limit {
            Some(limit) if took > limit => self.pages / 2,
            Some(limit) if took < limit / 4 && found >= self.pages / 2 => self.pages + self.pages / 4,
            _ => self.pages,
        };
        Self { pages: pages.clamp(LEAST_PAGES, SCAN_PAGES), ..self }
    }
}

impl<'a> Pagemap<'a> {
    pub(super) fn new(process: &'a ProcessFiles, file: File, page_size: u64, max_hold: Option<Duration>) -> Self {
        let (left_out, piece) = (Cell::new(ZERO | GUARD), Cell::new(Piece::new(max_hold)));
        Self { process, file, page_size, left_out, ranges: Cell::default(), piece }
    }

    /// Calls `visit` with the ranges of pages between these addresses that are present or in swap, by address, some at a
    /// time, until it breaks. Zero pages and guards are left out. `None`: this kernel does not offer it (before Linux 6.7).
    ///
    /// Before Linux 6.16 (and the stable kernels of July 2025) the huge zero page is not recognised: it is present, huge
    /// and not [`PageRange::file`].
    ///
    /// # Errors
    /// [`Error::Gone`] after the process's death.
    pub fn scan(
        &self,
        addresses: Range<u64>,
        mut visit: impl FnMut(&[PageRange]) -> ControlFlow<()>,
    ) -> Result<Option<ReadCost>, Error> {
        let mut cost = ReadCost::default();
        let mut ranges = self.ranges.take();
        ranges.resize(SCAN_RANGES, PageRange::default());
        // The upper half is the kernel's: vsyscall, which has no pages of the process.
        let last = addresses.end.min(1 << 63).next_multiple_of(self.page_size);
        let mut start = addresses.start - addresses.start % self.page_size;
        while start < last {
            let piece = self.piece.get();
            let end = start.saturating_add(piece.span(self.page_size)).min(last);
            let begin = Instant::now();
            let result = self.scan_piece(start, end, piece.pages, &mut ranges);
            let took = cost.add_call(begin);
            match result {
                Ok((found, walked)) => {
                    let small = ranges[..found].iter().filter(|range| !range.huge());
                    let pages = small.map(|range| range.end.saturating_sub(range.start) / self.page_size);
                    self.piece.set(piece.adapted(took, pages.fold(0, u64::saturating_add)));
                    if visit(&ranges[..found]).is_break() {
                        break;
                    }
                    // A kernel that gets nowhere would keep us for ever.
                    start = if walked > start { walked } else { end };
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::ENOTTY) => return Ok(None),
                    Some(libc::EINTR) => {}
                    Some(libc::EINVAL) if self.left_out.get() & GUARD != 0 => {
                        self.left_out.set(ZERO);
                    }
                    _ => return Err(self.process.failed("pagemap", error)),
                },
            }
        }
        self.ranges.set(ranges);
        Ok(Some(cost))
    }

    /// How many ranges were found, and up to where.
    fn scan_piece(&self, start: u64, end: u64, max_pages: u64, ranges: &mut [PageRange]) -> io::Result<(usize, u64)> {
        let left_out = self.left_out.get();
        let mut arguments = ScanArguments {
            size: size_of::<ScanArguments>() as u64,
            start,
            end,
            ranges: ranges.as_mut_ptr() as u64,
            ranges_len: ranges.len() as u64,
            max_pages,
            category_inverted: left_out,
            category_mask: left_out,
            category_anyof_mask: PageRange::PRESENT | PageRange::SWAPPED,
            return_mask: PageRange::PRESENT | PageRange::SWAPPED | PageRange::FILE | PageRange::HUGE,
            ..ScanArguments::default()
        };
        // SAFETY: the kernel reads and writes `arguments`, whose layout is its own, and writes at most `ranges_len`
        // ranges, whose layout is its own as well, into `ranges`, which outlives the call.
        let found = unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, &raw mut arguments) };
        match usize::try_from(found) {
            Ok(found) => Ok((found.min(ranges.len()), arguments.walk_end)),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }

    /// Calls `visit` with the entry of each page between these addresses, by address, until it breaks.
    ///
    /// # Errors
    /// [`Error::Gone`] after the process's death.
    pub fn read(
        &self,
        addresses: Range<u64>,
        mut visit: impl FnMut(u64, PageEntry) -> ControlFlow<()>,
    ) -> Result<ReadCost, Error> {
        let mut cost = ReadCost::default();
        let (mut page, end) = (addresses.start / self.page_size, addresses.end.div_ceil(self.page_size));
        let mut buffer = vec![0; end.saturating_sub(page).min(READ_ENTRIES) as usize * 8];
        while page < end {
            let wanted = (end - page).min(READ_ENTRIES) as usize * 8;
            let begin = Instant::now();
            let result = self.file.read_at(&mut buffer[..wanted], page * 8);
            cost.add_call(begin);
            let read = match result {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.process.failed("pagemap", error)),
            };
            // Nothing: the address space is gone.
            if read < 8 {
                break;
            }
            for (entry, page) in parse_pagemap(&buffer[..read]).zip(page..) {
                if visit(page * self.page_size, entry).is_break() {
                    return Ok(cost);
                }
            }
            page += read as u64 / 8;
        }
        Ok(cost)
    }
}

/// The entry of a page of our own, which is present: it has its page frame if we may know it.
///
/// # Errors
/// pagemap cannot be read.
pub fn read_own_entry() -> io::Result<PageEntry> {
    let mut bytes = [1; 8];
    let address = &raw const bytes as u64;
    File::open("/proc/self/pagemap")?.read_exact_at(&mut bytes, address / super::page_size() * 8)?;
    Ok(PageEntry(u64::from_ne_bytes(bytes)))
}

/// `/proc/kpagecount` and `/proc/kpageflags`: what the machine's pages are. Wants `CAP_SYS_ADMIN` or `CAP_DAC_OVERRIDE`.
#[derive(Debug)]
pub struct KernelPages {
    counts: File,
    flags: File,
}

impl KernelPages {
    const HUGE: u64 = 1 << 17;
    const ZERO_PAGE: u64 = 1 << 24;

    /// Opens both.
    ///
    /// # Errors
    /// They may not be read, or this kernel has none.
    pub fn open() -> io::Result<Self> {
        Ok(Self { counts: File::open("/proc/kpagecount")?, flags: File::open("/proc/kpageflags")? })
    }

    /// How often each of these page frames is mapped, by all processes together. What lies behind the last frame is
    /// mapped 0 times. With `CONFIG_NO_PAGE_MAPCOUNT` a page of a large folio has its folio's average.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read_counts(&self, first: u64, counts: &mut [u64]) -> io::Result<ReadCost> {
        read_frames(&self.counts, first, counts)
    }

    /// Whether this page frame is the zero page, or part of the huge one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn is_zero_page(&self, pfn: u64) -> io::Result<bool> {
        Ok(self.read_flags(pfn)? & Self::ZERO_PAGE != 0)
    }

    /// Whether this page frame is part of a huge page of hugetlbfs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn is_hugetlb_page(&self, pfn: u64) -> io::Result<bool> {
        Ok(self.read_flags(pfn)? & Self::HUGE != 0)
    }

    fn read_flags(&self, pfn: u64) -> io::Result<u64> {
        let mut flags = [0];
        read_frames(&self.flags, pfn, &mut flags)?;
        Ok(flags[0])
    }
}

/// Words of these page frames.
fn read_frames(file: &File, first: u64, words: &mut [u64]) -> io::Result<ReadCost> {
    let mut cost = ReadCost::default();
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(words);
    let offset = first.checked_mul(8).ok_or(io::ErrorKind::InvalidInput)?;
    let mut length = 0;
    while length < bytes.len() {
        let begin = Instant::now();
        let result = file.read_at(&mut bytes[length..], offset + length as u64);
        cost.add_call(begin);
        match result {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes[length..].fill(0);
    Ok(cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_scan_is_short_enough_at_the_highest_cost_of_a_page() {
        assert_eq!(Piece::new(None).pages, SCAN_PAGES);
        assert_eq!(Piece::new(Some(50 * MS)).pages, SCAN_PAGES);
        assert_eq!(Piece::new(Some(MS)).pages, 10_000);
        assert_eq!(Piece::new(Some(Duration::ZERO)).pages, LEAST_PAGES);
        assert_eq!(Piece::new(Some(Duration::MAX)).pages, SCAN_PAGES);
        assert_eq!(Piece::new(None).span(4096), 4 << 30);
    }

    #[test]
    fn a_scan_that_took_too_long_is_halved_and_a_short_one_grows_a_little() {
        let piece = Piece::new(Some(MS));
        let pages = |took, found| piece.adapted(took, found).pages;
        assert_eq!(pages(MS, 10_000), 10_000);
        assert_eq!(pages(MS + Duration::from_nanos(1), 0), 5_000);
        assert_eq!(pages(MS / 4, 10_000), 10_000);
        assert_eq!(pages(MS / 5, 10_000), 12_500);
        // Emptiness and huge pages cost next to nothing, and tell nothing about what comes behind them.
        assert_eq!(pages(MS / 5, 4_999), 10_000);
    }

    #[test]
    fn a_scan_stays_between_its_bounds_and_without_a_limit_it_stays_as_it_is() {
        let mut piece = Piece::new(Some(MS));
        for _ in 0..100 {
            piece = piece.adapted(2 * MS, piece.pages);
        }
        assert_eq!(piece.pages, LEAST_PAGES);
        for _ in 0..100 {
            piece = piece.adapted(Duration::ZERO, piece.pages);
        }
        assert_eq!(piece.pages, SCAN_PAGES);
        assert_eq!(Piece::new(None).adapted(Duration::MAX, SCAN_PAGES), Piece::new(None));
    }

    #[test]
    fn with_pages_of_any_one_cost_the_limit_holds() {
        for cost in [1, 18, 30, 90, 100] {
            let mut piece = Piece::new(Some(MS));
            for _ in 0..1000 {
                let took = Duration::from_nanos(cost * piece.pages);
                assert!(took <= MS, "{took:?} at {cost} ns a page");
                piece = piece.adapted(took, piece.pages);
            }
        }
    }
}
