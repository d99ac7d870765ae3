//! mmap_lock: who waits for it, and who holds it how long.

use crate::clock::{self, Now};
use crate::kernel::{Task, layout};
use crate::maps::{HOLDERS, HOLDS_0, HOLDS_1, MMS, lose, maybe_traced};
use aya_ebpf::{EbpfContext, bindings::BPF_NOEXIST, macros::btf_tracepoint, programs::BtfTracePointContext};
use core::ffi::c_void;
use core::ptr::write_volatile;
use core::sync::atomic::{Ordering, compiler_fence};
use memtrace_common::{HoldKey, HoldValue, Holder, HolderKey};

/// Bit 0: the lock is taken for writing; bit 1: it was taken. `FIRST`: where the two arguments begin. A function of its
/// own, or the compiler would choose the argument before it loads it, and the verifier wants to know which it is.
#[inline(never)]
fn result<const FIRST: usize>(ctx: *mut c_void) -> u32 {
    let ctx = BtfTracePointContext::new(ctx);
    let (write, success) = (ctx.arg::<u64>(FIRST) as u8, ctx.arg::<u64>(FIRST + 1) as u8);
    u32::from(write != 0) | u32::from(success != 0) << 1
}

/// Notes whether the current thread waits for its own mm's lock.
#[inline(always)]
fn locking(mm: u64, task: Task, locking: u16) {
    if let Some(clock) = clock::of(task.pid(), mm) {
        unsafe { (*clock).locking = locking };
    }
}

/// `(mm, [memcg_path,] write)`.
#[btf_tracepoint(function = "mmap_lock_start_locking")]
pub fn mmap_lock_start_locking(ctx: BtfTracePointContext) -> i32 {
    let mm: u64 = ctx.arg(0);
    if maybe_traced(mm) {
        locking(mm, Task::current(), 1);
    }
    0
}

/// `(mm, [memcg_path,] write, success)`. Also the result of a try, and a writer that goes on as a reader.
#[btf_tracepoint(function = "mmap_lock_acquire_returned")]
pub fn mmap_lock_acquire_returned(ctx: BtfTracePointContext) -> i32 {
    let mm: u64 = ctx.arg(0);
    if !maybe_traced(mm) {
        return 0;
    }
    let task = Task::current();
    locking(mm, task, 0);
    // Some kernels have the path of the memory cgroup before the two.
    let result = if layout!(lock_memcg) != 0 { result::<2>(ctx.as_ptr()) } else { result::<1>(ctx.as_ptr()) };
    if result & 2 == 0 {
        return 0;
    }
    if let Some(now) = Now::new() {
        acquired(mm, task, (result & 1) as u16, &now);
    }
    0
}

/// `(mm, [memcg_path,] write)`.
#[btf_tracepoint(function = "mmap_lock_released")]
pub fn mmap_lock_released(ctx: BtfTracePointContext) -> i32 {
    let mm: u64 = ctx.arg(0);
    if !maybe_traced(mm) {
        return 0;
    }
    let task = Task::current();
    let Some(now) = Now::new() else { return 0 };
    if let Some(holder) = HOLDERS.get_ptr_mut(HolderKey { mm, tid: u64::from(task.pid()) }) {
        book(task, holder, &now);
        unsafe { write_volatile(&raw mut (*holder).since_ns, 0) };
    }
    0
}

static NOBODY: Holder = unsafe { core::mem::zeroed() };

/// The current thread has got the lock.
#[inline(never)]
fn acquired(mm: u64, task: Task, write: u16, now: &Now) -> i32 {
    let Some(slot) = MMS.get_ptr(&mm).map(|p| unsafe { *p }) else { return 0 };
    let key = HolderKey { mm, tid: u64::from(task.pid()) };
    let mut found = HOLDERS.get_ptr_mut(&key);
    if found.is_none() {
        let _ = HOLDERS.insert(key, NOBODY, u64::from(BPF_NOEXIST));
        found = HOLDERS.get_ptr_mut(&key);
    }
    let Some(holder) = found else {
        lose!(times);
        return 0;
    };
    unsafe {
        // A writer that goes on as a reader has held it until now. Of anybody else the end has not been seen.
        if (*holder).since_ns != 0 && (*holder).write != 0 && write == 0 {
            book(task, holder, now);
        }
        write_volatile(&raw mut (*holder).since_ns, 0);
        (*holder).write = write;
        (*holder).slot = slot;
        (*holder).comm = task.comm();
        compiler_fence(Ordering::SeqCst);
        write_volatile(&raw mut (*holder).since_ns, now.ns);
    }
    0
}

/// The mm goes, and the current thread with the lock held: its end is told when nobody knows the mm any more, and the next
/// mm may lie in the same place.
#[inline(always)]
pub fn forget(mm: u64) {
    let _ = HOLDERS.remove(&HolderKey { mm, tid: u64::from(Task::current().pid()) });
}

static EMPTY: HoldValue = unsafe { core::mem::zeroed() };

/// Books how long the current thread has held the lock, if it does: what lies in this interval. What lies before stays in
/// the holder, where the program finds it.
#[inline(never)]
fn book(task: Task, holder: *mut Holder, now: &Now) -> i32 {
    let (since, write, slot) = unsafe { ((*holder).since_ns, (*holder).write, (*holder).slot) };
    if since == 0 {
        return 0;
    }
    if since < now.begin {
        unsafe {
            (*holder).cut_since_ns = since;
            (*holder).cut_write = write;
            (*holder).cut_ns = now.begin;
        }
        compiler_fence(Ordering::SeqCst);
    }
    let hold = HoldKey { tid: task.pid(), slot: slot as u16, write };
    let holds = if now.is_odd() { &HOLDS_1 } else { &HOLDS_0 };
    let made = holds.get_ptr(&hold).is_none() && holds.insert(hold, &EMPTY, u64::from(BPF_NOEXIST)).is_ok();
    let Some(value) = holds.get_ptr_mut(&hold) else {
        lose!(times);
        return 0;
    };
    unsafe {
        if made {
            (*value).comm = task.comm();
        }
        (*value).ns += now.ns.saturating_sub(since.max(now.begin));
        (*value).count += 1;
        let whole = now.ns.saturating_sub(since);
        if whole > (*value).max_ns {
            (*value).max_ns = whole;
        }
    }
    0
}
