//! Facts about the machine that events carry.

use std::io;

/// Bytes in a page.
#[must_use]
pub fn page_size() -> u64 {
    ::procfs::page_size()
}

/// `uname -r`.
///
/// # Errors
/// `/proc` is not mounted or cannot be read.
pub fn read_kernel_release() -> io::Result<String> {
    let release = std::fs::read("/proc/sys/kernel/osrelease")?;
    Ok(String::from_utf8_lossy(release.trim_ascii()).into_owned())
}

/// `CLOCK_MONOTONIC`, the clock of every event, in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for a timespec, and CLOCK_MONOTONIC exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
