//! Reading the kernel's structs at offsets that the program found in BTF.
//!
//! `LAYOUT` lies in read-only data that is frozen before load: the verifier takes each field as a constant, so a load
//! through a typed pointer at that offset is a plain instruction. Where a pointer is not typed, `probe_read` reads.

use aya_ebpf::helpers::{bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_task_pt_regs};
use memtrace_common::KernelLayout;

/// Set by the program at load.
#[unsafe(no_mangle)]
pub static LAYOUT: KernelLayout = unsafe { core::mem::zeroed() };

/// A field of [`LAYOUT`], by name.
macro_rules! layout {
    ($field:ident) => {
        $crate::kernel::constant(&raw const $crate::kernel::LAYOUT.$field)
    };
}
pub(crate) use layout;

#[inline(always)]
pub fn constant(field: *const u32) -> usize {
    unsafe { core::ptr::read_volatile(field) as usize }
}

/// Plain load through a pointer that the verifier knows the type of.
#[inline(always)]
pub unsafe fn load<T: Copy>(base: *const u8, offset: usize) -> T {
    unsafe { core::ptr::read_volatile(base.wrapping_add(offset).cast()) }
}

/// Checked read at any kernel address; 0 where that fails.
#[inline(always)]
pub unsafe fn peek<T: Copy + Default>(address: u64) -> T {
    unsafe { bpf_probe_read_kernel(address as *const T) }.unwrap_or_default()
}

/// `task_struct.flags`: the task is ending.
pub const PF_EXITING: u32 = 0x0000_0004;
/// `task_struct.flags`: may use the last of the memory, as who reclaims some may.
pub const PF_MEMALLOC: u32 = 0x0000_0800;
/// `task_struct.flags`: a kernel thread.
pub const PF_KTHREAD: u32 = 0x0020_0000;
/// `task_struct.flags`: kswapd.
pub const PF_KSWAPD: u32 = 0x0002_0000;
/// `task_struct.flags`: an io_uring worker, whose registers are not a system call's.
pub const PF_IO_WORKER: u32 = 0x0000_0010;

/// The current task.
#[derive(Clone, Copy)]
pub struct Task(pub *const u8);

impl Task {
    #[inline(always)]
    pub fn current() -> Self {
        Self(unsafe { bpf_get_current_task_btf() }.cast::<u8>().cast_const())
    }

    #[inline(always)]
    pub fn mm(self) -> u64 {
        unsafe { load(self.0, layout!(task_mm)) }
    }

    #[inline(always)]
    pub fn flags(self) -> u32 {
        unsafe { load(self.0, layout!(task_flags)) }
    }

    #[inline(always)]
    pub fn pid(self) -> u32 {
        unsafe { load(self.0, layout!(task_pid)) }
    }

    #[inline(always)]
    pub fn tgid(self) -> u32 {
        unsafe { load(self.0, layout!(task_tgid)) }
    }

    /// The process that made its process, or that it was left to.
    #[inline(always)]
    pub fn parent(self) -> Self {
        Self(unsafe { load::<u64>(self.0, layout!(task_real_parent)) } as *const u8)
    }

    /// Faults that the kernel has finished counting, those inside get_user_pages too.
    #[inline(always)]
    pub fn fault_count(self) -> u64 {
        unsafe { load::<u64>(self.0, layout!(task_min_flt)).wrapping_add(load::<u64>(self.0, layout!(task_maj_flt))) }
    }

    #[inline(always)]
    pub fn pagefault_disabled(self) -> i32 {
        unsafe { load(self.0, layout!(task_pagefault_disabled)) }
    }

    /// First eight bytes of the name.
    #[inline(always)]
    pub fn comm_head(self) -> u64 {
        unsafe { peek((self.0 as u64).wrapping_add(layout!(task_comm) as u64)) }
    }

    #[inline(always)]
    pub fn comm(self) -> [u8; 16] {
        unsafe { peek((self.0 as u64).wrapping_add(layout!(task_comm) as u64)) }
    }

    /// User registers as they were on entry into the kernel.
    #[inline(always)]
    pub fn regs(self) -> Regs {
        Regs(unsafe { bpf_task_pt_regs(self.0.cast_mut().cast()) } as *const u8)
    }
}

/// User registers.
#[derive(Clone, Copy)]
pub struct Regs(pub *const u8);

/// 32-bit code's `cs`: its system call numbers are others.
const USER32_CS: u16 = 0x23;

impl Regs {
    #[inline(always)]
    pub fn ip(self) -> u64 {
        unsafe { load(self.0, layout!(regs_ip)) }
    }

    #[inline(always)]
    pub fn sp(self) -> u64 {
        unsafe { load(self.0, layout!(regs_sp)) }
    }

    /// The system call in progress; −1 in an exception from user mode, or for 32-bit code.
    #[inline(always)]
    pub fn syscall(self) -> i32 {
        let nr: i64 = unsafe { load(self.0, layout!(regs_orig_ax)) };
        let cs: u16 = unsafe { load(self.0, layout!(regs_cs)) };
        if cs == USER32_CS || !(0..0x7fff).contains(&nr) { -1 } else { nr as i32 }
    }

    #[inline(always)]
    pub fn arg0(self) -> u64 {
        unsafe { load(self.0, layout!(regs_di)) }
    }

    #[inline(always)]
    pub fn arg1(self) -> u64 {
        unsafe { load(self.0, layout!(regs_si)) }
    }

    #[inline(always)]
    pub fn arg2(self) -> u64 {
        unsafe { load(self.0, layout!(regs_dx)) }
    }

    #[inline(always)]
    pub fn arg3(self) -> u64 {
        unsafe { load(self.0, layout!(regs_r10)) }
    }

    #[inline(always)]
    pub fn arg4(self) -> u64 {
        unsafe { load(self.0, layout!(regs_r8)) }
    }

    #[inline(always)]
    pub fn arg5(self) -> u64 {
        unsafe { load(self.0, layout!(regs_r9)) }
    }
}

/// The value at `p` becomes `new`; what was there is returned.
#[inline(always)]
pub unsafe fn exchange(p: *mut i64, new: i64) -> i64 {
    let mut value = new;
    unsafe { core::arch::asm!("{v} = xchg_64({p} + 0, {v})", p = in(reg) p, v = inout(reg) value) };
    value
}

/// Adds, whoever else does at the same time.
#[inline(always)]
pub unsafe fn add(p: *mut i64, amount: i64) {
    unsafe { core::arch::asm!("lock *(u64 *)({p} + 0) += {v}", p = in(reg) p, v = in(reg) amount) };
}

/// As [`add`], for 32 bits.
#[inline(always)]
pub unsafe fn add_u32(p: *mut u32, amount: u32) {
    unsafe { core::arch::asm!("lock *(u32 *)({p} + 0) += {v}", p = in(reg) p, v = in(reg) amount) };
}
