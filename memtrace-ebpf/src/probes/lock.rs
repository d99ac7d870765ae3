//! mmap_lock: who waits for it, and who holds it how long.

use crate::clock::{self, Now};
use crate::kernel::{Task, layout};
use crate::maps::{HOLDERS, HOLDS_0, HOLDS_1, MMS, lose, maybe_traced};
use aya_ebpf::{EbpfContext, bindings::BPF_NOEXIST, macros::btf_tracepoint, programs::BtfTracePointContext};
use core::ffi::c_void;
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
fn locking(mm: u64, task: Task, locking: u32) {
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
    let key = HolderKey { mm, tid: u64::from(task.pid()) };
    let Some(now) = Now::new() else { return 0 };
    // Holds it already: it was a writer.
    book(task, &key, &now);
    let holder = Holder { since_ns: now.ns, write: u64::from(result & 1) };
    let _ = HOLDERS.insert(key, holder, 0);
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
    let key = HolderKey { mm, tid: u64::from(task.pid()) };
    let Some(now) = Now::new() else { return 0 };
    book(task, &key, &now);
    let _ = HOLDERS.remove(&key);
    0
}

static EMPTY: HoldValue = unsafe { core::mem::zeroed() };

/// Books how long the current thread has held the lock, if it does.
#[inline(never)]
fn book(task: Task, key: &HolderKey, now: &Now) -> i32 {
    let Some(holder) = HOLDERS.get_ptr(key) else { return 0 };
    let (since, write) = unsafe { ((*holder).since_ns, (*holder).write) };
    let Some(slot) = MMS.get_ptr(&key.mm).map(|p| unsafe { *p }) else { return 0 };
    let hold = HoldKey { tid: task.pid(), slot: slot as u16, write: write as u16 };
    let holds = if now.is_odd() { &HOLDS_1 } else { &HOLDS_0 };
    let made = holds.get_ptr(&hold).is_none() && holds.insert(hold, &EMPTY, u64::from(BPF_NOEXIST)).is_ok();
    let Some(value) = holds.get_ptr_mut(&hold) else {
        lose!(times);
        return 0;
    };
    let ns = now.ns.saturating_sub(since);
    unsafe {
        if made {
            (*value).comm = task.comm();
        }
        (*value).ns += ns;
        (*value).count += 1;
        if ns > (*value).max_ns {
            (*value).max_ns = ns;
        }
    }
    0
}
