//! The scheduler's events, and samples of what runs: what threads' clocks are told by.
//!
//! Everything on the machine that switches or wakes comes by here: who is not traced pays one look at the filter for
//! each of the two.

use crate::clock::{self, Now};
use crate::kernel::{PF_KTHREAD, Task, layout, load};
use crate::maps::{CLOCKS, maybe_traced};
use crate::probes::attach::IterTask;
use aya_ebpf::{
    bindings::seq_file,
    helpers::{bpf_probe_read_kernel, bpf_seq_write},
    macros::{btf_tracepoint, perf_event},
    programs::{BtfTracePointContext, PerfEventContext},
};
use memtrace_common::{Doing, WaitingRegisters};

/// `(preempt, prev, next, prev_state)`.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let prev = Task(ctx.arg::<u64>(1) as *const u8);
    let next = Task(ctx.arg::<u64>(2) as *const u8);
    let (left, entered) = (prev.mm(), next.mm());
    if maybe_traced(left) {
        let preempted = ctx.arg::<u64>(0) as u8 != 0;
        off(prev, left, if preempted { 0 } else { ctx.arg::<u64>(3) as u32 });
    }
    if maybe_traced(entered) {
        on(next, entered);
    }
    0
}

#[inline(never)]
fn off(task: Task, mm: u64, state: u32) -> i32 {
    // A signal came as it went to sleep: it stays ready to run, whatever the event says.
    let state = if state_of(task) == 0 { 0 } else { state };
    let Some(now) = Now::new() else { return 0 };
    let tid = task.pid();
    match clock::of(tid, mm) {
        Some(clock) => unsafe { clock::leave(clock, task, state, &now) },
        None => {
            let _ = clock::start_in(task, Doing::Runnable as u8, now.ns, 0, state);
        }
    }
    0
}

#[inline(never)]
fn on(task: Task, mm: u64) -> i32 {
    let Some(now) = Now::new() else { return 0 };
    match clock::of(task.pid(), mm) {
        Some(clock) => unsafe { clock::go(clock, Doing::Running, &now) },
        None => clock::start(task, Doing::Running, &now),
    }
    0
}

/// `(task)`.
#[btf_tracepoint(function = "sched_wakeup")]
pub fn sched_wakeup(ctx: BtfTracePointContext) -> i32 {
    woken(Task(ctx.arg::<u64>(0) as *const u8))
}

/// `(task)`.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn sched_wakeup_new(ctx: BtfTracePointContext) -> i32 {
    woken(Task(ctx.arg::<u64>(0) as *const u8))
}

#[inline(always)]
fn woken(task: Task) -> i32 {
    let mm = task.mm();
    if !maybe_traced(mm) {
        return 0;
    }
    let Some(now) = Now::new() else { return 0 };
    match clock::of(task.pid(), mm) {
        // Woken before it had gone to sleep.
        Some(clock) if unsafe { (*clock).key.doing <= Doing::Runnable as u8 } => {}
        Some(clock) => unsafe { clock::go(clock, Doing::Runnable, &now) },
        None => clock::start(task, Doing::Runnable, &now),
    }
    0
}

/// `cs` of user mode has these bits set.
const USER_MODE: u64 = 3;

/// The CPU's clock: who runs, and where.
#[perf_event]
pub fn cpu_clock(ctx: PerfEventContext) -> u32 {
    let task = Task::current();
    let mm = task.mm();
    if !maybe_traced(mm) {
        return 0;
    }
    let regs = unsafe { &(*ctx.ctx).regs };
    let ip = if regs.cs & USER_MODE != 0 { Some(regs.rip) } else { None };
    let Some(now) = Now::new() else { return 0 };
    if let Some(clock) = clock::of(task.pid(), mm) {
        unsafe { clock::sample(clock, task, ip, &now) };
    }
    0
}

#[inline(always)]
fn state_of(task: Task) -> u32 {
    unsafe { load(task.0, layout!(task_state)) }
}

#[inline(always)]
fn on_cpu(task: Task) -> bool {
    unsafe { load::<u32>(task.0, layout!(task_on_cpu)) != 0 }
}

/// Gives each living thread of a traced mm its clock.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub unsafe extern "C" fn clocks(ctx: *mut IterTask) -> i32 {
    let task = unsafe { (*ctx).task };
    if task.is_null() {
        return 0;
    }
    let task = Task(task);
    if !maybe_traced(task.mm()) {
        return 0;
    }
    let Some(now) = Now::new() else { return 0 };
    let (doing, state) = if on_cpu(task) { (Doing::Running, 0) } else { (Doing::Runnable, state_of(task)) };
    clock::start_in(task, doing as u8, now.ns, 1, state);
    0
}

/// Writes the user registers of each traced thread that is off the CPU.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub unsafe extern "C" fn registers(ctx: *mut IterTask) -> i32 {
    let (meta, task) = unsafe { ((*ctx).meta, (*ctx).task) };
    if task.is_null() {
        return 0;
    }
    let task = Task(task);
    let mm = task.mm();
    if !maybe_traced(mm) || task.flags() & PF_KTHREAD != 0 {
        return 0;
    }
    let tid = task.pid();
    if CLOCKS.get_ptr(&tid).is_none() || on_cpu(task) {
        return 0;
    }
    let regs = task.regs();
    let Ok(regs) = (unsafe { bpf_probe_read_kernel(regs.0.cast::<[u64; 21]>()) }) else { return 0 };
    let record = WaitingRegisters { tid: u64::from(tid), regs };
    unsafe {
        // The iterator's context begins with its file.
        let file: *mut seq_file = load(meta, 0);
        bpf_seq_write(file, (&raw const record).cast(), size_of::<WaitingRegisters>() as u32);
    }
    0
}
