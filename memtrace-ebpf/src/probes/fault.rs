//! Page faults: their start, and which of them the kernel counts as major.
//!
//! There is no event at a fault's end that costs nothing: the software event for minor faults alone would cost every
//! process on the machine 110 ns a fault. What a fault did is booked by `rss_stat`; a fault that did nothing to the
//! counters is booked when its thread starts the next one.

use crate::clock;
use crate::kernel::{PF_EXITING, Regs, Task, exchange, layout};
use crate::maps::{MMS, SLOTS, THREADS, emit, epoch, lose, maybe_traced};
use crate::slot::head;
use crate::{record, span, stack, vma};
use aya_ebpf::{
    helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns},
    macros::{btf_tracepoint, perf_event},
    programs::{BtfTracePointContext, PerfEventContext},
};
use memtrace_common::{Cause, FAULT_SAMPLE, FILE, RecordKey, RecordValue, TaskRecord, Thread, kind, thread};

/// Error code bit: the page was present, the access was not allowed.
const PRESENT: u64 = 1;
/// After one sample in so many, on average, all code paths are looked up again that the thread remembers.
const DOUBTED: u32 = 4;
/// Error code bit: it was a write.
const WRITE: u64 = 2;

#[btf_tracepoint(function = "page_fault_user")]
pub fn page_fault_user(ctx: BtfTracePointContext) -> i32 {
    start(&ctx, 0)
}

#[btf_tracepoint(function = "page_fault_kernel")]
pub fn page_fault_kernel(ctx: BtfTracePointContext) -> i32 {
    start(&ctx, thread::KERNEL)
}

#[inline(always)]
fn start(ctx: &BtfTracePointContext, mode: u32) -> i32 {
    let task = Task::current();
    let mm = task.mm();
    if !maybe_traced(mm) {
        return 0;
    }
    // A probe (of ours or anyone's) reading user memory: the kernel gives up at once, nothing is mapped.
    if mode != 0 && task.pagefault_disabled() != 0 {
        return 0;
    }
    let Some(th) = of(task, mm) else { return 0 };
    let count = task.fault_count();
    let error_code: u64 = ctx.arg(2);
    unsafe {
        if (*th).pending != 0 && count != (*th).fault_count {
            book_unchanged(task, th, 0);
        }
        (*th).address = ctx.arg(0);
        let sampled = (*th).unsampled == 0;
        (*th).unsampled = (*th).unsampled.wrapping_sub(1);
        if sampled {
            let random = bpf_get_prandom_u32();
            (*th).unsampled = gap(random);
            if random & (DOUBTED - 1) == 0 {
                stack::doubt(th);
            }
        }
        // In user mode the tracepoint's own registers are the user's.
        let regs = if mode == 0 { Regs(ctx.arg::<u64>(1) as *const u8) } else { task.regs() };
        (*th).nr = if mode == 0 { -1 } else { regs.syscall() };
        let (ip, sp) = (regs.ip(), regs.sp());
        if sampled || ip != (*th).ip || sp != (*th).sp {
            (*th).ip = ip;
            (*th).sp = sp;
            (*th).stack = if sampled { 0 } else { stack::remembered(th) };
            // To read the user's memory may be a fault in kernel mode, which would find this very program running, and
            // the kernel skips it and counts it. A fault in kernel mode has its path looked up when it is booked.
            if (*th).stack == 0 && mode == 0 {
                stack::look_up(th, task, regs);
            }
        }
        (*th).fault_count = count;
        let mut state = ((*th).state & thread::VMA_HAS_OPS) | thread::STARTED | mode;
        if error_code & (PRESENT | WRITE) == PRESENT | WRITE {
            state |= thread::WRITE_PRESENT;
        }
        (*th).state = state;
        (*th).waited = 0;
        (*th).pending = 1;
        // Reading the clock is a third of what this program costs.
        (*th).start_ns = 0;
        if sampled {
            record::pace((*th).slot, bpf_ktime_get_ns(), FAULT_SAMPLE);
            (*th).start_ns = bpf_ktime_get_ns();
        }
    }
    0
}

/// Books a finished fault of `task` that moved no counter, once. `detail` keeps the record apart from those that the
/// thread itself writes, when somebody else books.
#[inline(never)]
pub fn book_unchanged(task: Task, th: *mut Thread, detail: u16) -> i32 {
    unsafe {
        if exchange(&raw mut (*th).pending, 0) == 0 {
            return 0;
        }
        let Some(slot) = SLOTS.get_ptr_mut((*th).slot) else { return 0 };
        if (*slot).mm != (*th).mm {
            return 0;
        }
        let cause = if (*th).state & thread::WRITE_PRESENT != 0 { Cause::FaultCow } else { Cause::FaultNone };
        let place = vma::of_fault(th, slot, task);
        let tid = task.pid();
        let key = RecordKey {
            stack: stack::seen(th, tid),
            place: place.place,
            tid,
            life: (*th).vma_life,
            slot: (*th).slot as u16,
            nr: (*th).nr as i16,
            cause: cause as u8,
            place_kind: place.kind,
            detail,
        };
        let epoch = epoch();
        if let Some(record) = record::book(epoch, &key, (*th).ip, FILE, 0, 1) {
            widen(record, th, place.end);
            // When, as far as it is known: else a burst may seem to begin after all of its faults.
            if (*th).start_ns > (*record).last_ns {
                (*record).last_ns = (*th).start_ns;
            }
            if (*th).state & thread::MAJOR != 0 {
                record::major(epoch, &key, record);
            }
            if (*th).state & thread::KERNEL != 0 {
                (*record).kernel_mode += 1;
            }
        }
        (*th).state |= thread::BOOKED;
    }
    0
}

/// The kernel counted the current task's fault as major; comes at the fault's very end.
#[perf_event]
pub fn page_fault_major(_ctx: PerfEventContext) -> u32 {
    let task = Task::current();
    if !maybe_traced(task.mm()) {
        return 0;
    }
    let Some(th) = THREADS.get_ptr_mut(task.pid()) else { return 0 };
    unsafe {
        if (*th).state & thread::STARTED == 0 {
            return 0;
        }
        if (*th).state & thread::BOOKED == 0 {
            (*th).state |= thread::MAJOR;
            return 0;
        }
        let now = bpf_ktime_get_ns();
        let epoch = epoch();
        let mut key = last_key(th, task.pid());
        if (*th).last_latency_ns != 0 && (*th).last_epoch == epoch {
            if let Some(record) = record::at(epoch, &key, (*th).ip) {
                record::untime(epoch, &key, record, (*th).last_latency_ns);
            }
        }
        if key.cause == Cause::FaultFile as u8 {
            let from = key;
            key.cause = Cause::FaultFileRead as u8;
            record::shift(epoch, &from, &key, (*th).ip, (FILE, (*th).last_pages, 1));
            (*th).last_cause = u16::from(key.cause);
            if layout!(time) != 0 && (*th).waited != 0 {
                clock::settle(th, key.tid, key.cause);
            }
        }
        if let Some(record) = record::at(epoch, &key, (*th).ip) {
            record::major(epoch, &key, record);
            widen(record, th, (*th).vma_end);
            if (*th).start_ns != 0 {
                record::time(epoch, &key, record, now.wrapping_sub((*th).start_ns), now);
            }
        }
    }
    0
}

/// Key of the record that holds what the fault booked last.
#[inline(always)]
pub unsafe fn last_key(th: *const Thread, tid: u32) -> RecordKey {
    unsafe {
        RecordKey {
            stack: (*th).stack,
            place: (*th).last_place,
            tid,
            life: (*th).vma_life,
            slot: (*th).slot as u16,
            nr: (*th).nr as i16,
            cause: (*th).last_cause as u8,
            place_kind: (*th).last_place_kind as u8,
            detail: 0,
        }
    }
}

/// Makes the record's range of touched addresses hold the fault's.
#[inline(always)]
pub unsafe fn widen(record: *mut RecordValue, th: *const Thread, end: u64) {
    unsafe {
        let address = (*th).address;
        if address < (*record).low || (*record).low == 0 {
            (*record).low = address;
        }
        if address > (*record).high {
            (*record).high = address;
        }
        (*record).end = end;
    }
}

/// The current thread's state, made if this is its first event under this mm. `None` when the mm is not traced.
#[inline(always)]
pub fn of(task: Task, mm: u64) -> Option<*mut Thread> {
    let tid = task.pid();
    if let Some(th) = THREADS.get_ptr_mut(tid) {
        if unsafe { (*th).mm } == mm {
            return Some(th);
        }
    }
    if register(task, mm, tid) != 0 {
        return None;
    }
    THREADS.get_ptr_mut(tid)
}

/// Faults that are not sampled before the next one that is: any number, or of a program that faults in turns always the
/// same turn would be sampled.
#[inline(always)]
fn gap(random: u32) -> u32 {
    ((u64::from(random) * u64::from(2 * FAULT_SAMPLE - 1)) >> 32) as u32
}

static NEW_THREAD: Thread = unsafe { core::mem::zeroed() };

#[inline(never)]
fn register(task: Task, mm: u64, tid: u32) -> i32 {
    // Its end has been seen: an entry would stay for ever.
    if task.flags() & PF_EXITING != 0 {
        return 1;
    }
    let Some(slot) = MMS.get_ptr(&mm).map(|p| unsafe { *p }) else { return 1 };
    if THREADS.insert(tid, &NEW_THREAD, 0).is_err() {
        lose!(threads);
        return 1;
    }
    let Some(th) = THREADS.get_ptr_mut(tid) else { return 1 };
    let tgid = task.tgid();
    unsafe {
        (*th).mm = mm;
        (*th).slot = slot;
        (*th).populating = u64::MAX;
        (*th).nr = -1;
        // As if it had faulted before, so that threads with few faults are sampled as often as others.
        (*th).unsampled = gap(bpf_get_prandom_u32()).min(gap(bpf_get_prandom_u32()));
    }
    if layout!(spans) != 0 {
        span::begin(tid, tgid, mm, slot);
    }
    emit(TaskRecord {
        head: head(kind::THREAD_SEEN, slot, tid, tgid),
        other_tid: tid,
        other_tgid: tgid,
        flag: 0,
        code: 0,
        comm: task.comm(),
    });
    0
}
