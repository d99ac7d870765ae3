//! userfaultfd, as far as the scenes need it. Every struct behind its requests is an array of u64.

use crate::region::Region;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `UFFD_FEATURE_WP_UNPOPULATED` | `UFFD_FEATURE_POISON`: pages that are not there can be protected and poisoned.
pub const EMPTY_PAGES: u64 = 1 << 13 | 1 << 14;
/// `UFFDIO_REGISTER_MODE_MISSING` and `_WP`.
pub const MISSING: u64 = 1;
pub const PROTECTED: u64 = 2;

/// Requests that take a range and something more.
pub mod request {
    pub const COPY: u64 = 0xc028_aa03;
    pub const ZEROPAGE: u64 = 0xc020_aa04;
    pub const WRITEPROTECT: u64 = 0xc018_aa06;
    pub const POISON: u64 = 0xc020_aa08;
}

/// A new one, with these features.
pub fn open(features: u64) -> OwnedFd {
    // SAFETY: the descriptor is new and ours.
    let uffd = unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
        assert!(fd >= 0, "userfaultfd: {}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd as i32)
    };
    ask(uffd.as_raw_fd(), 0xc018_aa3f, &mut [0xaa, features, 0]);
    uffd
}

/// Faults of this kind in there are its business.
pub fn register(uffd: i32, region: &Region, mode: u64) {
    ask(uffd, 0xc020_aa00, &mut [region.start() as u64, region.bytes() as u64, mode, 0]);
}

/// One request.
pub fn ask(uffd: i32, request: u64, words: &mut [u64]) {
    // SAFETY: the structs behind these requests are as many words as each caller gives.
    let outcome = unsafe { libc::ioctl(uffd, request, words.as_mut_ptr()) };
    assert_eq!(outcome, 0, "userfaultfd ioctl {request:#x}: {}", io::Error::last_os_error());
}
