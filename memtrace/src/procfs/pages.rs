//! Reads page tables: `PAGEMAP_SCAN` and pagemap of a process, kpagecount and kpageflags of the machine.
//!
//! No call holds the process's mmap_lock for long: pagemap takes it anew every 2 MiB, and a scan is cut into pieces here.
//! This room refuses to say what a page is counted as; it says what the kernel says.

use super::{Error, PageEntry, PageRange, ProcessFiles, ReadCost, parse_pagemap};
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::Instant;

/// Addresses that one scan may walk: 4 GiB of empty page tables are some 3 ms, and none at all cost nothing.
const SCAN_SPAN: u64 = 4 << 30;
/// Pages that one scan may find: 1 GiB of them, some 3 ms.
const SCAN_PAGES: u64 = 1 << 18;
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
}

impl<'a> Pagemap<'a> {
    pub(super) fn new(process: &'a ProcessFiles, file: File, page_size: u64) -> Self {
        Self { process, file, page_size, left_out: Cell::new(ZERO | GUARD), ranges: Cell::default() }
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
            let end = start.saturating_add(SCAN_SPAN).min(last);
            let begin = Instant::now();
            let result = self.scan_piece(start, end, &mut ranges);
            cost.add_call(begin);
            match result {
                Ok((found, walked)) => {
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
    fn scan_piece(&self, start: u64, end: u64, ranges: &mut [PageRange]) -> io::Result<(usize, u64)> {
        let left_out = self.left_out.get();
        let mut arguments = ScanArguments {
            size: size_of::<ScanArguments>() as u64,
            start,
            end,
            ranges: ranges.as_mut_ptr() as u64,
            ranges_len: ranges.len() as u64,
            max_pages: SCAN_PAGES,
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

    /// Calls `visit` with the entry of each page between these addresses, by address.
    ///
    /// # Errors
    /// [`Error::Gone`] after the process's death.
    pub fn read(&self, addresses: Range<u64>, mut visit: impl FnMut(u64, PageEntry)) -> Result<ReadCost, Error> {
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
                visit(page * self.page_size, entry);
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
        let mut flags = [0];
        read_frames(&self.flags, pfn, &mut flags)?;
        Ok(flags[0] & Self::ZERO_PAGE != 0)
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
