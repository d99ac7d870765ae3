//! What of a file is in the page cache: `cachestat(2)` (Linux 6.5), and `mincore(2)` for what that does not tell.
//!
//! Nothing is read from the file and none of its pages is touched, so a file that is cut meanwhile raises no signal.
//! This room refuses a number that the kernel made up: whoever may not write a file and does not own it is told by
//! mincore that all of it is resident (`can_do_mincore`, Linux 5.2). That is found out, not computed from owner and
//! mode: a page far behind the file's end is in nobody's page cache, and where mincore says that it is, it says so of
//! any page. cachestat fails in that case (`can_do_cachestat`, Linux 6.14 and stable kernels since January 2025;
//! before, it answered everyone).

use super::page_size;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

/// The same number on every architecture that Rust's Linux targets have.
const SYS_CACHESTAT: libc::c_long = 451;
/// How much of a file is looked at by one mincore: 64 KiB of answer, some milliseconds when it is all there.
const WINDOW: u64 = 256 << 20;
/// How far behind the file's end a page must be that no folio reaches across the end: the largest has 512 MiB.
const FAR: u64 = 8 << 30;

/// What `cachestat(2)` says of a range. Bytes, always whole pages.
///
/// Dirtiness belongs to folios. A file system that uses large folios (ext4, xfs, btrfs, …) may keep 64 KiB and more as
/// one, and a single byte that is written makes it all dirty: so does the kernel count, and so much will be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStat {
    /// In the page cache.
    pub cached: u64,
    /// Of these, dirty. A page that was changed again while it is being written counts here and in `writeback`.
    pub dirty: u64,
    /// Of these, being written back.
    pub writeback: u64,
}

#[repr(C)]
struct RawRange {
    offset: u64,
    length: u64,
}

/// As the kernel fills it: pages.
#[repr(C)]
#[derive(Default)]
struct RawCacheStat {
    cache: u64,
    dirty: u64,
    writeback: u64,
    /// Evicted, and of these recently: not asked for.
    _rest: [u64; 2],
}

/// Asks for a range of bytes, which the kernel widens to whole pages; an empty one reaches to the end of the file.
/// The cost is that of a walk over what is there, some nanoseconds a folio; no lock is held.
///
/// The answer is about the inode that was opened. On a file system that is stacked upon another one (overlayfs) that
/// inode has no pages, and the answer is 0 whatever is in memory: ask [`read_mincore`] there.
///
/// # Errors
/// `ENOSYS` before Linux 6.5; `EPERM` when the caller neither owns the file nor may write it; `EOPNOTSUPP` on hugetlbfs.
pub fn read_cachestat(file: BorrowedFd<'_>, range: Range<u64>) -> io::Result<CacheStat> {
    let raw_range = RawRange { offset: range.start, length: range.end.saturating_sub(range.start) };
    let mut raw = RawCacheStat::default();
    // SAFETY: both structs are laid out as the kernel's, live across the call, and only the second is written.
    let outcome = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const raw_range, &raw mut raw, 0) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes = |pages: u64| pages.saturating_mul(page_size());
    Ok(CacheStat { cached: bytes(raw.cache), dirty: bytes(raw.dirty), writeback: bytes(raw.writeback) })
}

/// Bytes of a file's first `size` that are in the page cache, in whole pages. Looks at every page, there or not:
/// some tens of nanoseconds each.
///
/// # Errors
/// [`io::ErrorKind::PermissionDenied`] when the kernel hides it from the caller; [`io::ErrorKind::TimedOut`] when the
/// deadline passed before the end; whatever `mmap` says, for instance of a file that cannot be mapped.
pub fn read_mincore(file: BorrowedFd<'_>, size: u64, deadline: Instant) -> io::Result<u64> {
    let page = page_size();
    let end = size.checked_next_multiple_of(page).ok_or(io::ErrorKind::InvalidInput)?;
    let beyond = end.checked_add(FAR).ok_or(io::ErrorKind::InvalidInput)?;
    if Window::map(file, beyond, page)?.count_resident(&mut [0])? != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut states = vec![0; (WINDOW.min(end) / page) as usize];
    let mut pages = 0;
    let mut offset = 0;
    while offset < end {
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let length = WINDOW.min(end - offset);
        pages += Window::map(file, offset, length)?.count_resident(&mut states[..(length / page) as usize])?;
        offset += length;
    }
    Ok(pages * page)
}

/// A part of a file in our address space, without any right to touch it.
pub(super) struct Window {
    address: *mut libc::c_void,
    length: usize,
}

impl Window {
    /// `offset` and `length` are whole pages.
    pub(super) fn map(file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address of the kernel's choice. PROT_NONE: nothing can be read through it, so
        // nobody notices what happens to the file.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, libc::MAP_SHARED, file.as_raw_fd(), offset)
        };
        if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { address, length }) }
    }

    /// Where it is.
    pub(super) fn start(&self) -> u64 {
        self.address as u64
    }

    /// How many of its pages are in the page cache; `states` has a byte for each page.
    fn count_resident(&self, states: &mut [u8]) -> io::Result<u64> {
        let needed = self.length.div_ceil(page_size() as usize);
        let states = states.get_mut(..needed).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the range is our own mapping; the kernel writes a byte for each of its pages, and there is room.
        if unsafe { libc::mincore(self.address, self.length, states.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(states.iter().map(|state| u64::from(state & 1)).sum())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody has a reference into it.
        unsafe { libc::munmap(self.address, self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// A file of shared memory, so that no writeback comes in between: `present` of its pages, then as many holes.
    fn half_there(present: u64) -> File {
        // SAFETY: a constant name.
        let fd = unsafe { libc::memfd_create(c"half".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: a new descriptor that is nobody else's.
        let mut file = unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(fd) };
        file.write_all(&vec![1; (present * page_size()) as usize]).unwrap();
        file.set_len(2 * present * page_size()).unwrap();
        file
    }

    #[test]
    fn both_calls_count_what_is_there() {
        let file = half_there(40);
        assert_eq!(read_mincore(file.as_fd(), 80 * page_size(), soon()).unwrap(), 40 * page_size());
        // Part of a page is a page, and nothing of a file is nothing.
        assert_eq!(read_mincore(file.as_fd(), 3 * page_size() + 1, soon()).unwrap(), 4 * page_size());
        assert_eq!(read_mincore(file.as_fd(), 0, soon()).unwrap(), 0);
        match read_cachestat(file.as_fd(), 0..0) {
            Ok(stat) => assert_eq!((stat.cached, stat.dirty, stat.writeback), (40 * page_size(), 0, 0)),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOSYS)),
        }
        if let Ok(stat) = read_cachestat(file.as_fd(), 38 * page_size()..78 * page_size()) {
            assert_eq!(stat.cached, 2 * page_size());
        }
    }

    #[test]
    fn windows_meet() {
        let file = half_there(1);
        file.set_len(2 * WINDOW + page_size()).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![1; 2 * page_size() as usize], WINDOW - page_size())
            .unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", 2 * WINDOW).unwrap();
        assert_eq!(read_mincore(file.as_fd(), 2 * WINDOW + page_size(), soon()).unwrap(), 4 * page_size());
    }

    #[test]
    fn a_file_that_shrank_is_survived() {
        let file = half_there(16);
        file.set_len(0).unwrap();
        assert_eq!(read_mincore(file.as_fd(), 32 * page_size(), soon()).unwrap(), 0);
        assert_eq!(
            read_mincore(file.as_fd(), u64::MAX, soon()).unwrap_err().kind(),
            io::ErrorKind::InvalidInput,
            "no file is that large"
        );
    }

    #[test]
    fn time_runs_out() {
        let file = half_there(16);
        let error = read_mincore(file.as_fd(), 32 * page_size(), Instant::now()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn what_the_kernel_hides_is_no_number() {
        let hidden = std::thread::spawn(|| {
            // By the system call itself: rights of this thread alone, which ends with this test.
            // SAFETY: no memory is involved.
            unsafe {
                if libc::geteuid() == 0 {
                    assert_eq!(libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534), 0);
                }
            }
            // Root's, and everyone may read it.
            let foreign = File::open("/etc/passwd").unwrap();
            let size = foreign.metadata().unwrap().len();
            (
                read_mincore(foreign.as_fd(), size, soon()).map_err(|error| error.kind()),
                read_cachestat(foreign.as_fd(), 0..0).map_err(|error| error.raw_os_error()),
            )
        });
        let (mincore, cachestat) = hidden.join().unwrap();
        assert_eq!(mincore, Err(io::ErrorKind::PermissionDenied));
        // Kernels up to 6.13 answer, and then it is the truth.
        if let Err(error) = cachestat {
            assert!(matches!(error, Some(libc::EPERM | libc::ENOSYS)), "{error:?}");
        }
    }
}
