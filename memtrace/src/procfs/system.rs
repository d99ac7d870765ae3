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

/// Pages that the kernel has moved to another frame since it booted, on the whole machine: `pgmigrate_success` of vmstat.
/// `None` where it counts none, because it moves none, or cannot be asked.
#[must_use]
pub fn read_migrations() -> Option<u64> {
    parse_migrations(&std::fs::read("/proc/vmstat").ok()?)
}

fn parse_migrations(vmstat: &[u8]) -> Option<u64> {
    let mut lines = vmstat.split(|byte| *byte == b'\n');
    let number = lines.find_map(|line| line.strip_prefix(b"pgmigrate_success "))?;
    std::str::from_utf8(number).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_those_that_succeeded() {
        let vmstat = b"nr_free_pages 8\npgmigrate_success 7734096\npgmigrate_fail 83358\n";
        assert_eq!(parse_migrations(vmstat), Some(7_734_096));
        assert_eq!(parse_migrations(b"nr_free_pages 8\npgmigrate_fail 1\n"), None);
        assert_eq!(parse_migrations(b"pgmigrate_success many\n"), None);
    }
}
