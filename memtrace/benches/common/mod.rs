//! What more than one benchmark needs: a process with many mappings.

use memtrace::procfs::page_size;

/// Pages of alternating permissions.
pub struct Mappings {
    start: *mut libc::c_void,
    bytes: usize,
}

impl Mappings {
    /// So many of one touched page each.
    pub fn new(count: usize) -> Self {
        let page = page_size() as usize;
        let bytes = count * page;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping, written and protected page by page within its bounds.
        unsafe {
            let start = libc::mmap(std::ptr::null_mut(), bytes, access, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            for index in 0..count {
                let at = start.byte_add(index * page);
                at.cast::<u8>().write_volatile(1);
                if index % 2 == 0 {
                    let protected = libc::mprotect(at, page, libc::PROT_READ);
                    assert_eq!(protected, 0, "vm.max_map_count is too small for {count} mappings");
                }
            }
            Self { start, bytes }
        }
    }
}

impl Drop for Mappings {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, to which nothing refers any more.
        unsafe { libc::munmap(self.start, self.bytes) };
    }
}
