//! Lives of tasks and of mms.

use crate::clock;
use crate::kernel::{Task, layout, load, peek};
use crate::maps::{MMS, PROCESSES, RECLAIMERS, THREADS, emit, maybe_traced};
use crate::probes::fault::book_unchanged;
use crate::probes::lock;
use crate::slot::{self, Opening, head};
use crate::span;
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use aya_log_ebpf::warn;
use memtrace_common::{NO_SLOT, TaskRecord, kind, why};

fn task_of(ctx: &BtfTracePointContext, n: usize) -> Task {
    Task(ctx.arg::<u64>(n) as *const u8)
}

fn slot_of(mm: u64) -> u32 {
    if !maybe_traced(mm) {
        return u32::from(NO_SLOT);
    }
    MMS.get_ptr(&mm).map_or(u32::from(NO_SLOT), |slot| unsafe { *slot })
}

/// `(parent, child)`. The child's mm is complete and nobody runs in it yet.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let parent = task_of(&ctx, 0);
    let mm = parent.mm();
    let slot = slot_of(mm);
    if slot == u32::from(NO_SLOT) {
        return 0;
    }
    let child = task_of(&ctx, 1);
    let child_mm = child.mm();
    let comm = child.comm();
    emit(TaskRecord {
        head: head(kind::FORKED, slot, parent.pid(), parent.tgid()),
        other_tid: child.pid(),
        other_tgid: child.tgid(),
        flag: u32::from(child_mm == mm),
        code: 0,
        comm,
    });
    if layout!(follow) == 0 || child.tgid() == parent.tgid() || PROCESSES.get_ptr(&parent.tgid()).is_none() {
        return 0;
    }
    let tgid = child.tgid();
    if PROCESSES.insert(tgid, 1, 0).is_err() {
        crate::maps::lose!(mms);
        return 0;
    }
    if child_mm != mm {
        let opening = Opening { tid: child.pid(), tgid, why: why::FORK, from: parent.tgid(), comm };
        if slot::open(child_mm, &opening) == u32::from(NO_SLOT) {
            warn!(&ctx, "no slot for the mm of process {}: not followed", tgid);
        }
    }
    0
}

/// `(task, old_pid, bprm)`. The new mm is in place, the old one's teardown (if it was the last user) is over.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let task = task_of(&ctx, 0);
    let tgid = task.tgid();
    // A thread that is not the leader takes over the leader's id with its execve.
    let old_tid: u32 = ctx.arg(1);
    let tid = task.pid();
    // Not only of those that are followed: a child of vfork has had the time of its parent's mm.
    if layout!(time) != 0 {
        clock::end(old_tid);
        if tid != old_tid {
            clock::end(tid);
        }
    }
    if layout!(spans) != 0 {
        span::end(old_tid);
        if tid != old_tid {
            span::end(tid);
        }
    }
    if PROCESSES.get_ptr(&tgid).is_none() {
        return 0;
    }
    let left = match THREADS.get_ptr(&old_tid) {
        Some(th) => unsafe { (*th).slot },
        None => u32::from(NO_SLOT),
    };
    let _ = THREADS.remove(&old_tid);
    let _ = THREADS.remove(&tid);
    let comm = task.comm();
    let opening = Opening { tid, tgid, why: why::EXEC, from: left, comm };
    let slot = slot::open(task.mm(), &opening);
    if slot == u32::from(NO_SLOT) {
        warn!(&ctx, "no slot for the new mm of process {}: not followed", tgid);
    }
    if layout!(time) != 0 {
        clock::start_running(task);
    }
    emit(TaskRecord {
        head: head(kind::EXECED, slot, tid, tgid),
        other_tid: tid,
        other_tgid: tgid,
        flag: 0,
        code: 0,
        comm,
    });
    0
}

/// `(task, …)`. On some kernels before the mm is left, on others after.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let task = task_of(&ctx, 0);
    let tid = task.pid();
    let tgid = task.tgid();
    let mut slot = u32::from(NO_SLOT);
    if layout!(time) != 0 {
        clock::end(tid);
    }
    if let Some(th) = THREADS.get_ptr_mut(tid) {
        unsafe {
            slot = (*th).slot;
            if (*th).pending != 0 && task.fault_count() != (*th).fault_count {
                book_unchanged(task, th, 0);
            }
        }
        if layout!(spans) != 0 {
            span::end(tid);
        }
        let _ = THREADS.remove(&tid);
        let _ = RECLAIMERS.remove(&tid);
    }
    let traced = PROCESSES.get_ptr(&tgid).is_some();
    if !traced && slot == u32::from(NO_SLOT) {
        return 0;
    }
    if slot == u32::from(NO_SLOT) {
        slot = slot_of(task.mm());
    }
    let live: i32 = unsafe {
        let signal: u64 = peek((task.0 as u64).wrapping_add(layout!(task_signal) as u64));
        peek(signal.wrapping_add(layout!(signal_live) as u64))
    };
    // Two threads that end at once may both find themselves the last.
    let last = live == 0 && (PROCESSES.remove(&tgid).is_ok() || !traced);
    let code: i32 = unsafe { load(task.0, layout!(task_exit_code)) };
    emit(TaskRecord {
        head: head(kind::THREAD_EXITED, slot, tid, tgid),
        other_tid: tid,
        other_tgid: tgid,
        flag: u32::from(last),
        code: code as u32,
        comm: task.comm(),
    });
    0
}

/// `(mm)`. Everything is unmapped, the counters are at rest.
#[btf_tracepoint(function = "exit_mmap")]
pub fn exit_mmap(ctx: BtfTracePointContext) -> i32 {
    let mm: u64 = ctx.arg(0);
    if maybe_traced(mm) {
        // An execve leaves the mm here, and tells later of the new one.
        if layout!(spans) != 0 {
            span::end_in(Task::current().pid(), mm);
        }
        if layout!(time) != 0 {
            lock::forget(mm);
        }
        slot::close(mm);
    }
    0
}

/// `(task, …)`.
#[btf_tracepoint(function = "mark_victim")]
pub fn mark_victim(ctx: BtfTracePointContext) -> i32 {
    let task = task_of(&ctx, 0);
    let tgid = task.tgid();
    if PROCESSES.get_ptr(&tgid).is_none() {
        return 0;
    }
    emit(TaskRecord {
        head: head(kind::OOM_VICTIM, slot_of(task.mm()), task.pid(), tgid),
        other_tid: task.pid(),
        other_tgid: tgid,
        flag: 0,
        code: 0,
        comm: task.comm(),
    });
    0
}
