//! Memory that stands alone: a mapping with inaccessible pages on both sides, so that it never merges with a
//! neighbour and every entry on it is the scene's.

use memtrace_tests::pages::page_size;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

/// 2 MiB: what a huge page spans on x86-64.
pub const HUGE: usize = 2 << 20;

/// A range of whole pages.
#[derive(Clone, Copy)]
pub struct Region {
    start: *mut u8,
    length: usize,
}

// SAFETY: a region is an address range; whoever touches it does so with volatile accesses of single bytes.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Address space for `pages` pages at a multiple of `align` bytes, with nothing in it, guarded on both sides.
    pub fn hole(pages: usize, align: usize) -> Self {
        let length = pages * page_size();
        let around = length + align.max(page_size()) + 2 * page_size();
        let base = map(std::ptr::null_mut(), around, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
        let first = base as usize + page_size();
        let offset = first.next_multiple_of(align.max(page_size())) - base as usize;
        Self { start: base.wrapping_add(offset), length }
    }

    /// Puts a mapping here, over whatever is here.
    pub fn place(self, protection: i32, flags: i32, fd: RawFd) -> Self {
        map(self.start, self.length, protection, flags | libc::MAP_FIXED, fd);
        self
    }

    /// As [`Region::place`], from this page of the file on.
    pub fn place_at(self, protection: i32, flags: i32, fd: RawFd, page: usize) -> Self {
        map_at(self.start, self.length, protection, flags | libc::MAP_FIXED, fd, page * page_size());
        self
    }

    /// A range that is mapped already; whole pages.
    pub fn at(start: usize, end: usize) -> Self {
        assert!(start <= end && start.is_multiple_of(page_size()) && end.is_multiple_of(page_size()));
        Self { start: std::ptr::with_exposed_provenance_mut(start), length: end - start }
    }

    /// Private anonymous memory, untouched.
    pub fn anon(pages: usize) -> Self {
        Self::anon_aligned(pages, page_size())
    }

    /// The same at a multiple of `align` bytes.
    pub fn anon_aligned(pages: usize, align: usize) -> Self {
        Self::hole(pages, align).place(READ_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    /// A file's first `pages` pages, at a multiple of 64 KiB: the window in which neighbours are mapped too.
    pub fn file(file: &File, pages: usize, flags: i32) -> Self {
        Self::hole(pages, 64 << 10).place(READ_WRITE, flags, file.as_raw_fd())
    }

    pub fn start(&self) -> usize {
        self.start as usize
    }

    pub fn end(&self) -> usize {
        self.start as usize + self.length
    }

    pub fn bytes(&self) -> usize {
        self.length
    }

    pub fn pointer(&self) -> *mut u8 {
        self.start
    }

    /// Pages `from..to` of it.
    pub fn part(&self, from: usize, to: usize) -> Self {
        assert!(from <= to && to * page_size() <= self.length);
        Self { start: self.start.wrapping_add(from * page_size()), length: (to - from) * page_size() }
    }

    pub fn pages(&self) -> usize {
        self.length / page_size()
    }

    /// Writes a byte to each page, in order.
    pub fn write(&self) {
        self.write_each(1);
    }

    /// Writes a byte to every `step`th page.
    pub fn write_each(&self, step: usize) {
        for page in (0..self.pages()).step_by(step) {
            // SAFETY: inside the region; the caller mapped it writable.
            unsafe { self.start.add(page * page_size()).write_volatile(7) };
        }
    }

    /// Has each page written without changing it, from the top down: for memory that is in use, such as a stack.
    pub fn touch(&self) {
        for page in (0..self.pages()).rev() {
            // SAFETY: inside the region, which the caller knows to be writable or to grow by this touch.
            let byte = unsafe { AtomicU8::from_ptr(self.start.add(page * page_size())) };
            // Not an addition of nothing, which is compiled to a read; and no lost write, whoever else writes there.
            let value = byte.load(Ordering::Relaxed);
            let _ = byte.compare_exchange(value, value, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Reads a byte of each page, in order.
    pub fn read(&self) {
        self.read_each(1);
    }

    /// Reads a byte of every `step`th page.
    pub fn read_each(&self, step: usize) {
        for page in (0..self.pages()).step_by(step) {
            // SAFETY: inside the region; the caller mapped it readable.
            unsafe { self.start.add(page * page_size()).read_volatile() };
        }
    }

    /// `madvise` on the whole of it.
    pub fn advise(&self, advice: i32) {
        // SAFETY: the scene's own memory; nothing of Rust's lives there.
        let outcome = unsafe { libc::madvise(self.start.cast(), self.length, advice) };
        assert_eq!(outcome, 0, "madvise {advice}: {}", io::Error::last_os_error());
    }

    /// `mprotect` on the whole of it.
    pub fn protect(&self, protection: i32) {
        // SAFETY: the scene's own memory; nothing of Rust's lives there.
        let outcome = unsafe { libc::mprotect(self.start.cast(), self.length, protection) };
        assert_eq!(outcome, 0, "mprotect: {}", io::Error::last_os_error());
    }

    pub fn unmap(&self) {
        // SAFETY: the scene's own memory; nothing of Rust's lives there.
        assert_eq!(unsafe { libc::munmap(self.start.cast(), self.length) }, 0);
    }

    /// `mremap`; `to` makes it MREMAP_FIXED.
    pub fn remap(&self, pages: usize, to: Option<&Self>) {
        let length = pages * page_size();
        // SAFETY: the scene's own memory on both sides.
        let address = unsafe {
            match to {
                Some(to) => libc::mremap(
                    self.start.cast(),
                    self.length,
                    length,
                    libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                    to.start.cast::<libc::c_void>(),
                ),
                None => libc::mremap(self.start.cast(), self.length, length, 0),
            }
        };
        assert_ne!(address, libc::MAP_FAILED, "mremap: {}", io::Error::last_os_error());
    }
}

/// Readable and writable.
pub const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn map(at: *mut u8, length: usize, protection: i32, flags: i32, fd: RawFd) -> *mut u8 {
    map_at(at, length, protection, flags, fd, 0)
}

fn map_at(at: *mut u8, length: usize, protection: i32, flags: i32, fd: RawFd, offset: usize) -> *mut u8 {
    // SAFETY: without MAP_FIXED nothing is overwritten; with it, only a hole that the caller reserved.
    let address = unsafe { libc::mmap(at.cast(), length, protection, flags, fd, offset as i64) };
    assert_ne!(address, libc::MAP_FAILED, "mmap of {length} bytes: {}", io::Error::last_os_error());
    address.cast()
}

/// A file of `pages` pages, written and synced page by page: so its page cache is one small folio per page.
pub fn make_file(dir: &Path, pages: usize) -> File {
    use io::Write as _;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(dir.join("pages"))
        .expect("a file in --dir");
    let page = vec![1_u8; page_size()];
    for _ in 0..pages {
        file.write_all(&page).expect("room for the file");
    }
    file.sync_all().expect("the file reaches the disk");
    file
}

/// Has the file's first `pages` pages in the page cache again: a machine that reclaims ahead of need may have taken some
/// since they were written. Without readahead, which would bring back several in one folio.
pub fn cache(file: &File, pages: usize) {
    use std::os::unix::fs::FileExt as _;
    advise(file, libc::POSIX_FADV_RANDOM);
    let mut page = vec![0; page_size()];
    for number in 0..pages {
        file.read_exact_at(&mut page, (number * page_size()) as u64).expect("the file can be read");
    }
    advise(file, libc::POSIX_FADV_NORMAL);
}

fn advise(file: &File, advice: i32) {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, advice) }, 0);
}

/// Throws the file's pages out of the page cache; `false` when some stayed.
pub fn evict(file: &File, pages: usize) -> bool {
    advise(file, libc::POSIX_FADV_DONTNEED);
    let region = Region::file(file, pages, libc::MAP_SHARED);
    let mut resident = vec![0_u8; pages];
    // SAFETY: one byte per page, as many as the vector has.
    unsafe { libc::mincore(region.pointer().cast(), region.bytes(), resident.as_mut_ptr()) };
    region.unmap();
    resident.iter().all(|byte| byte & 1 == 0)
}
