//! Whether `/proc` shows this kernel's counters at once. Tried on ourselves: no rights are needed, and stable kernels
//! take fixes back, so that the version says nothing.
//!
//! Before Linux 6.2 a thread keeps up to 64 of its faults to itself. After that each CPU keeps less than a batch, which
//! `/proc` left out until 82241a83cd15 (6.16, and stable kernels since July 2025).

use crate::procfs::{ProcessFiles, page_size};
use crate::units::Amounts;

/// Pages touched at a time; several times must stay below the smallest batch (32) for a flush not to hide what is kept.
const PAGES: usize = 6;
const TIMES: usize = 3;
/// What else of ours may happen between two readings.
const NOISE: i64 = 4;

/// True when the counters of `/proc` are late. False, too, where it cannot be tried.
#[must_use]
pub fn counters_lag() -> bool {
    (0..TIMES).any(|_| touch().is_some_and(is_late))
}

/// Nothing was seen, or also what had been kept back before.
const fn is_late(seen: i64) -> bool {
    seen < PAGES as i64 || seen > PAGES as i64 + NOISE
}

/// Touches [`PAGES`] new pages; by how much `RssAnon` grew meanwhile.
fn touch() -> Option<i64> {
    let files = ProcessFiles::open(std::process::id()).ok()?;
    let read = || -> Option<Amounts> { files.read_status().ok()?.amounts(page_size()) };
    // The first reading brings in what a reading needs.
    read()?;
    let step = usize::try_from(page_size()).ok()?;
    let length = PAGES * step;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new private mapping at an address of the kernel's choice, unmapped below; every write is inside it.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        if start == libc::MAP_FAILED {
            return None;
        }
        let before = read();
        for page in 0..PAGES {
            start.cast::<u8>().add(page * step).write_volatile(1);
        }
        let after = read();
        libc::munmap(start, length);
        Some(after?.anon - before?.anon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_late_or_all_at_once_is_late() {
        assert!([0, 5, 32, 35].map(is_late).iter().all(|late| *late));
        assert!([6, 7, 10].map(is_late).iter().all(|late| !*late));
    }

    #[test]
    fn a_kernel_can_be_tried() {
        assert!(touch().is_some());
    }
}
