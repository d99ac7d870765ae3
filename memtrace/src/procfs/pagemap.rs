//! `/proc/PID/pagemap`, entry by entry, and the ranges that `PAGEMAP_SCAN` finds in it.
//!
//! Documentation/admin-guide/mm/pagemap.rst. Page-frame numbers and places in swap are zero without `CAP_SYS_ADMIN`:
//! then they are `None` here, and never page frame 0, which holds no page of a process.

/// One page of an address space, as pagemap shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageEntry(pub u64);

impl PageEntry {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const FILE: u64 = 1 << 61;
    /// What `MADV_GUARD_INSTALL` made (Linux 6.15 tells).
    const GUARD: u64 = 1 << 58;
    const EXCLUSIVE: u64 = 1 << 56;
    /// The low 55 bits: the page's frame, or its place in swap.
    const PLACE: u64 = (1 << 55) - 1;
    /// Of a place in swap, the number of the swap area.
    const AREA: u64 = 31;
    /// Numbers from here on are no swap areas but pages on their way and markers (of userfaultfd, guards, poison): kernels
    /// have taken nine of the 32 at most.
    const NO_AREA: u64 = 23;

    /// It is in memory; the zero page and pages of devices, which RSS leaves out, are as well.
    #[must_use]
    pub const fn present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// It is in swap. Where we may not know the place, also what only looks so: a marker of userfaultfd, a page on its way
    /// to another frame. Shared memory in swap does not show here: its page-table entry is empty.
    #[must_use]
    pub const fn swapped(self) -> bool {
        self.0 & (Self::SWAPPED | Self::GUARD) == Self::SWAPPED && self.0 & Self::AREA < Self::NO_AREA
    }

    /// A page of a file or of shared memory. Neither this nor [`Self::exclusive`] is set for what is not counted in RSS.
    #[must_use]
    pub const fn file(self) -> bool {
        self.0 & Self::FILE != 0
    }

    /// Mapped once, here. On a kernel with `CONFIG_NO_PAGE_MAPCOUNT`, a page of a large folio has it when no other
    /// address space maps any page of that folio.
    #[must_use]
    pub const fn exclusive(self) -> bool {
        self.0 & Self::EXCLUSIVE != 0
    }

    /// Page-frame number of a page that is present; `None` when we may not know.
    #[must_use]
    pub const fn pfn(self) -> Option<u64> {
        match self.0 & Self::PLACE {
            pfn @ 1.. if self.present() => Some(pfn),
            _ => None,
        }
    }

    /// Number of the swap area and page in it; `None` when we may not know. The first page of an area is its header.
    #[must_use]
    pub const fn swap(self) -> Option<(u8, u64)> {
        match self.0 & Self::PLACE {
            place @ 1.. if self.swapped() => Some(((place & Self::AREA) as u8, place >> 5)),
            _ => None,
        }
    }
}

/// The entries of a piece of pagemap; what is no whole entry is left out.
pub fn parse_pagemap(bytes: &[u8]) -> impl ExactSizeIterator<Item = PageEntry> {
    bytes.as_chunks::<8>().0.iter().map(|entry| PageEntry(u64::from_ne_bytes(*entry)))
}

/// Addresses whose pages are alike, as `PAGEMAP_SCAN` returns them (`struct page_region`). Addresses in the same huge
/// page or in two mappings can be one range.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct PageRange {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// `PAGE_IS_` bits of linux/fs.h.
    pub categories: u64,
}

impl PageRange {
    pub(super) const FILE: u64 = 1 << 2;
    pub(super) const PRESENT: u64 = 1 << 3;
    pub(super) const SWAPPED: u64 = 1 << 4;
    pub(super) const HUGE: u64 = 1 << 6;

    /// Bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// In memory. In a mapping of a device, and in a shared one, RSS counts only what is [`Self::file`] as well.
    #[must_use]
    pub const fn present(&self) -> bool {
        self.categories & Self::PRESENT != 0
    }

    /// In swap, or a marker of userfaultfd, which a scan cannot tell from it; see [`PageEntry::swapped`].
    #[must_use]
    pub const fn swapped(&self) -> bool {
        self.categories & Self::SWAPPED != 0
    }

    /// Pages of a file or of shared memory; those that are present without it are anonymous, or not counted in RSS.
    #[must_use]
    pub const fn file(&self) -> bool {
        self.categories & Self::FILE != 0
    }

    /// Mapped by huge page-table entries; in a mapping of hugetlbfs, pages of it.
    #[must_use]
    pub const fn huge(&self) -> bool {
        self.categories & Self::HUGE != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_entries(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let entries: Vec<PageEntry> = parse_pagemap(&bytes).collect();
            prop_assert_eq!(entries.len(), bytes.len() / 8);
            for (entry, bytes) in entries.iter().zip(bytes.chunks(8)) {
                prop_assert_eq!(&entry.0.to_ne_bytes()[..], bytes);
            }
        }

        #[test]
        fn what_was_put_in_comes_out(
            place in 1u64..1 << 55, area in 0u64..23, file: bool, exclusive: bool, protected: bool, soft_dirty: bool,
        ) {
            let flags = u64::from(file) << 61 | u64::from(exclusive) << 56 | u64::from(protected) << 57
                | u64::from(soft_dirty) << 55;
            let page = PageEntry(1 << 63 | flags | place);
            prop_assert_eq!((page.present(), page.swapped()), (true, false));
            prop_assert_eq!((page.pfn(), page.swap()), (Some(place), None));
            prop_assert_eq!((page.file(), page.exclusive()), (file, exclusive));
            let offset = (place >> 5).max(1);
            let swap = PageEntry(1 << 62 | flags | offset << 5 | area);
            prop_assert_eq!((swap.present(), swap.swapped(), swap.pfn()), (false, true, None));
            prop_assert_eq!(swap.swap(), Some((area as u8, offset)));
        }
    }

    #[test]
    fn what_we_may_not_know_is_none() {
        let page = PageEntry(1 << 63 | 1 << 56);
        assert_eq!((page.present(), page.exclusive(), page.pfn()), (true, true, None));
        assert_eq!((PageEntry(1 << 62).swapped(), PageEntry(1 << 62).swap()), (true, None));
        assert_eq!((PageEntry(0).present(), PageEntry(0x1234).pfn()), (false, None));
    }

    /// Entries that Linux 6.18 shows after UFFDIO_WRITEPROTECT, UFFDIO_POISON and MADV_GUARD_INSTALL where nothing was.
    #[test]
    fn a_marker_is_not_in_swap() {
        for entry in [0x4200_0000_0000_003f, 0x4000_0000_0000_005f, 0x4400_0000_0000_009f] {
            let marker = PageEntry(entry);
            assert_eq!((marker.present(), marker.swapped(), marker.swap()), (false, false, None), "{entry:#x}");
        }
        // Who may not know the place still knows a guard.
        assert!(!PageEntry(0x4400_0000_0000_0000).swapped());
    }
}
