//! The VMA that holds an address, as the kernel has it at that moment, cached per thread.

use crate::kernel::{Task, layout, load};
use crate::slot::life_of;
use aya_ebpf::helpers::bpf_find_vma;
use core::ffi::c_void;
use memtrace_common::{Slot, Thread, place, thread};

/// What `bpf_find_vma` found.
#[repr(C)]
struct Found {
    start: u64,
    end: u64,
    ops: u64,
}

unsafe extern "C" fn found(_task: *mut c_void, vma: *const u8, context: *mut Found) -> i64 {
    unsafe {
        (*context).start = load(vma, layout!(vma_start));
        (*context).end = load(vma, layout!(vma_end));
        (*context).ops = load(vma, layout!(vma_ops));
    }
    0
}

/// Where something happened.
pub struct Place {
    pub place: u64,
    pub end: u64,
    pub kind: u8,
}

impl Place {
    pub const NOWHERE: Self = Self { place: 0, end: 0, kind: place::NONE };

    #[inline(always)]
    pub fn range(start: u64, len: u64) -> Self {
        Self { place: start, end: start.wrapping_add(len), kind: place::RANGE }
    }

    #[inline(always)]
    pub fn address(address: u64) -> Self {
        Self { place: address & !0xfff, end: 0, kind: place::ADDRESS }
    }

    /// The 2 MiB around an address: what a process whose VMAs cannot be looked up is cut into.
    #[inline(always)]
    pub fn chunk(address: u64) -> Self {
        Self { place: address & !0x1f_ffff, end: 0, kind: place::ADDRESS }
    }
}

/// The VMA around the fault of `th`. The kernel takes mmap_lock for reading only if that is free. While threads of the
/// process map much, a range that held the address before is believed a little longer, and without one it is the 2 MiB
/// around the address: the program finds the mapping by what was touched. `vma_life` is the place's life afterwards.
#[inline(always)]
pub fn of_fault(th: *mut Thread, slot: *mut Slot, task: Task) -> Place {
    unsafe {
        let seq = core::ptr::read_volatile(&raw const (*slot).vma_seq);
        let address = (*th).address;
        let inside = address >= (*th).vma_start && address < (*th).vma_end;
        if (*th).vma_seq == seq && inside {
            return Place { place: (*th).vma_start, end: (*th).vma_end, kind: place::VMA };
        }
        let mut context = Found { start: 0, end: 0, ops: 0 };
        let result =
            bpf_find_vma(task.0.cast_mut().cast(), address, found as *mut c_void, (&raw mut context).cast(), 0);
        if result != 0 || context.end == 0 {
            if inside {
                (*th).vma_life = life_of(slot, (*th).vma_start);
                return Place { place: (*th).vma_start, end: (*th).vma_end, kind: place::VMA };
            }
            (*th).state &= !thread::VMA_HAS_OPS;
            let chunk = Place::chunk(address);
            (*th).vma_seq = 0;
            (*th).vma_life = life_of(slot, chunk.place);
            return chunk;
        }
        (*th).vma_start = context.start;
        (*th).vma_end = context.end;
        (*th).vma_seq = seq;
        (*th).vma_life = life_of(slot, context.start);
        if context.ops != 0 {
            (*th).state |= thread::VMA_HAS_OPS;
        } else {
            (*th).state &= !thread::VMA_HAS_OPS;
        }
        Place { place: context.start, end: context.end, kind: place::VMA }
    }
}
