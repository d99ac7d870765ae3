//! Memory of a process, and of that only what is there already: nothing is faulted in, so that watching changes no RES.

use super::{Directory, page_size, parse_pagemap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// A process's memory, opened: that of the address space that it had then.
#[derive(Debug)]
pub struct PresentMemory {
    memory: File,
    pagemap: File,
    page_size: u64,
}

impl PresentMemory {
    /// Opens the memory of the process that the directory is of.
    ///
    /// # Errors
    /// The system's: the process is gone, or does not let us.
    pub fn open(process: &Directory) -> io::Result<Self> {
        Ok(Self { memory: process.open_file("mem")?, pagemap: process.open_file("pagemap")?, page_size: page_size() })
    }

    /// Fills `buffer` from an address on; false when not all of its pages are there.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        let Some(last) = (buffer.len() as u64).checked_sub(1).and_then(|length| address.checked_add(length)) else {
            return false;
        };
        let pages = last / self.page_size - address / self.page_size + 1;
        self.are_present(address / self.page_size, pages) && self.memory.read_exact_at(buffer, address).is_ok()
    }

    /// `N` bytes.
    #[must_use]
    pub fn read_array<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.read(address, &mut bytes).then_some(bytes)
    }

    /// A string that ends, of at most `cap` bytes. Pages are looked at one by one: the next one may not be there.
    #[must_use]
    pub fn read_string(&self, address: u64, cap: usize) -> Option<Vec<u8>> {
        let mut string = Vec::new();
        while string.len() < cap {
            let at = address.checked_add(string.len() as u64)?;
            let length = (cap - string.len()).min((self.page_size - at % self.page_size) as usize);
            let mut piece = vec![0; length];
            if !self.read(at, &mut piece) {
                return None;
            }
            if let Some(end) = memchr::memchr(0, &piece) {
                string.extend_from_slice(&piece[..end]);
                return Some(string);
            }
            string.extend_from_slice(&piece);
        }
        None
    }

    /// Whole pages from an address on, which is a page's begin, and of which `i` in bit `i` could not be read; 32 at most.
    #[must_use]
    pub fn read_pages(&self, start: u64, pages: usize) -> (Vec<u8>, u32) {
        let size = self.page_size as usize;
        let pages = pages.min(32);
        let mut bytes = vec![0; pages * size];
        let mut absent = 0;
        for (page, place) in bytes.chunks_exact_mut(size).enumerate() {
            if !self.read(start.wrapping_add((page * size) as u64), place) {
                absent |= 1 << page;
            }
        }
        (bytes, absent)
    }

    fn are_present(&self, page: u64, count: u64) -> bool {
        let mut entries = vec![0; usize::try_from(count).unwrap_or(0).saturating_mul(8)];
        let Some(at) = page.checked_mul(8) else { return false };
        !entries.is_empty()
            && self.pagemap.read_exact_at(&mut entries, at).is_ok()
            && parse_pagemap(&entries).all(|entry| entry.present())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_brought_in() {
        let size = page_size() as usize;
        // SAFETY: anonymous memory at a place of the kernel's choice, given back at the end.
        let start = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let start = libc::mmap(std::ptr::null_mut(), 4 * size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            start.cast::<u8>()
        };
        // SAFETY: within the mapping; the pages 0 and 1 come to be, 2 and 3 do not.
        unsafe { start.add(size - 4).copy_from_nonoverlapping(c"whole".as_ptr().cast(), 6) };
        let memory = PresentMemory::open(&Directory::open("/proc/self").unwrap()).unwrap();
        let at = start as u64;
        let edge = at + size as u64 - 4;
        assert_eq!(memory.read_array(edge), Some(*b"whole"));
        assert_eq!(memory.read_string(edge, 100).as_deref(), Some(&b"whole"[..]));
        assert_eq!(memory.read_string(edge, 5), None);
        assert_eq!(memory.read_array::<8>(at + 2 * size as u64 - 4), None);
        let (bytes, absent) = memory.read_pages(at, 4);
        assert_eq!((absent, &bytes[size - 4..size + 1]), (0b1100, &b"whole"[..]));
        assert!(!memory.are_present(at / size as u64 + 2, 1), "reading brought it in");
        for address in [0, u64::MAX, u64::MAX - 7, 1 << 63] {
            assert_eq!(memory.read_array::<16>(address), None, "{address:#x}");
        }
        // SAFETY: mapped above and used no more.
        unsafe { libc::munmap(start.cast(), 4 * size) };
    }
}
