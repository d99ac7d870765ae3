//! Threads' clocks: what each thread is doing, since when, and the records that the time goes to.
//!
//! A clock is written by the scheduler's events of its thread, which the kernel's run queue lock orders, and by the
//! thread itself while it runs. So nothing here needs a lock; only what the thread itself moves, when a fault tells its
//! cause, may be interrupted by a sample and is added atomically.

use crate::kernel::{PF_EXITING, PF_IO_WORKER, PF_KTHREAD, PF_MEMALLOC, Regs, Task, add, layout, load};
use crate::maps::{CLOCKS, CONTROL, MMS, PLACES_0, PLACES_1, RECLAIMERS, THREADS, TIMES_0, TIMES_1, lose};
use crate::probes::rss::is_in_fault;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use core::ptr::read_volatile;
use core::sync::atomic::{Ordering, compiler_fence};
use memtrace_common::{CAUSE_UNKNOWN, Cause, Clock, Doing, PlaceKey, Thread, TimeKey, TimeValue, nr, thread};

const TASK_INTERRUPTIBLE: u32 = 0x0001;
const TASK_UNINTERRUPTIBLE: u32 = 0x0002;
const TASK_STOPPED: u32 = 0x0004;
const TASK_TRACED: u32 = 0x0008;
/// Set with `TASK_UNINTERRUPTIBLE` where a long sleep is nobody's trouble.
const TASK_NOLOAD: u32 = 0x0400;
const TASK_FROZEN: u32 = 0x8000;
/// `task_struct.jobctl`: on its way into the freezer of cgroup v2, or asleep there.
const JOBCTL_TRAP_FREEZE: u64 = 1 << 23;

/// A moment, and the interval that it lies in.
#[derive(Clone, Copy)]
pub struct Now {
    pub ns: u64,
    /// When the interval began.
    pub begin: u64,
    odd: bool,
}

impl Now {
    /// Which of the two maps.
    #[inline(always)]
    pub fn is_odd(&self) -> bool {
        self.odd
    }

    #[inline(always)]
    pub fn new() -> Option<Self> {
        let control = CONTROL.get_ptr(0)?;
        // The time first: a virtual CPU may stand still here for as long as its host likes, and an interval that was begun
        // meanwhile is seen to be later, where an old one would be given time beyond its end.
        let ns = unsafe { bpf_ktime_get_ns() };
        let (even, odd) = unsafe {
            let begins = (&raw const (*control).begins_ns).cast::<u64>();
            (read_volatile(begins), read_volatile(begins.wrapping_add(1)))
        };
        let is_odd = odd <= ns && (odd > even || even > ns);
        Some(Self { ns, begin: if is_odd { odd } else { even }, odd: is_odd })
    }
}

static EMPTY: TimeValue = unsafe { core::mem::zeroed() };

/// The record of `key` in the interval's map, made if it is not there.
#[inline(always)]
pub fn record(odd: bool, key: &TimeKey) -> Option<*mut TimeValue> {
    let times = if odd { &TIMES_1 } else { &TIMES_0 };
    if let Some(record) = times.get_ptr_mut(key) {
        return Some(record);
    }
    let _ = times.insert(key, &EMPTY, u64::from(BPF_NOEXIST));
    let record = times.get_ptr_mut(key);
    if record.is_none() {
        lose!(times);
    }
    record
}

/// Key of a thread that is doing `doing` and nothing that would say more.
#[inline(always)]
fn plain(tid: u32, slot: u16, doing: Doing) -> TimeKey {
    TimeKey {
        object: 0,
        detail: 0,
        tid,
        slot,
        nr: -1,
        doing: doing as u8,
        cause: CAUSE_UNKNOWN,
        before: 0,
        reserved: [0; 5],
    }
}

/// The clock of a living thread, if it has one that is about `mm`.
#[inline(always)]
pub fn of(tid: u32, mm: u64) -> Option<*mut Clock> {
    let clock = CLOCKS.get_ptr_mut(tid)?;
    if unsafe { (*clock).mm == mm && (*clock).ended == 0 } { Some(clock) } else { None }
}

/// The thread goes over to doing something else, which the caller writes into `key` before [`done`]. What it did until
/// now is booked.
#[inline(always)]
unsafe fn turn(clock: *mut Clock, now: &Now) {
    unsafe {
        (*clock).begun = (*clock).begun.wrapping_add(1);
        compiler_fence(Ordering::SeqCst);
        let since = (*clock).since_ns;
        let mut from = since;
        if since < now.begin {
            (*clock).cut_key = (*clock).key;
            (*clock).cut_since_ns = since;
            (*clock).cut_ns = now.begin;
            from = now.begin;
        }
        let ns = now.ns.saturating_sub(from);
        let fault = (*clock).key.doing == Doing::Fault as u8;
        if let Some(record) = record(now.odd, &(*clock).key) {
            (*record).ns += ns;
            (*record).count += 1;
            let whole = now.ns.saturating_sub(since);
            if whole > (*record).max_ns {
                (*record).max_ns = whole;
            }
            if fault {
                (*record).address = (*clock).fault_address;
            }
        }
        if fault {
            hold(clock, now);
            (*clock).fault_ns += ns;
            (*clock).fault_spans += 1;
            (*clock).fault_max_ns = (*clock).fault_max_ns.max(now.ns.saturating_sub(since));
        }
        // A moment that was read before an interrupt, which turned the clock meanwhile, does not turn it back: a virtual CPU
        // may stand still for milliseconds in between.
        if now.ns > since {
            (*clock).since_ns = now.ns;
        }
    }
}

/// The clock's new state is complete.
#[inline(always)]
unsafe fn done(clock: *mut Clock) {
    compiler_fence(Ordering::SeqCst);
    unsafe { (*clock).done = (*clock).begun };
}

/// What the fault was given in an earlier interval stays where it is.
#[inline(always)]
unsafe fn hold(clock: *mut Clock, now: &Now) {
    unsafe {
        if (*clock).fault_begin_ns != now.begin {
            (*clock).fault_begin_ns = now.begin;
            (*clock).fault_ns = 0;
            (*clock).fault_max_ns = 0;
            (*clock).fault_samples = 0;
            (*clock).fault_spans = 0;
        }
    }
}

/// The thread goes on with what says no more than its name.
#[inline(always)]
pub unsafe fn go(clock: *mut Clock, doing: Doing, now: &Now) {
    unsafe {
        turn(clock, now);
        (*clock).key = plain((*clock).key.tid, (*clock).key.slot, doing);
        done(clock);
    }
}

/// The thread leaves its CPU in the state `state` of the kernel's.
#[inline(always)]
pub unsafe fn leave(clock: *mut Clock, task: Task, state: u32, now: &Now) {
    unsafe {
        let runtime = runtime(task);
        if (*clock).key.doing != Doing::Running as u8 {
            let ran = runtime.wrapping_sub((*clock).runtime_ns);
            arrived(clock, ran, now);
        }
        (*clock).runtime_ns = runtime;
        turn(clock, now);
        let tid = (*clock).key.tid;
        let mut key = plain(tid, (*clock).key.slot, Doing::Runnable);
        if state != 0 {
            fill_waiting(&mut key, clock, task, state);
        }
        (*clock).key = key;
        done(clock);
    }
}

/// What the scheduler counts of the thread's time on CPUs: exact when it leaves one.
#[inline(always)]
fn runtime(task: Task) -> u64 {
    unsafe { load(task.0, layout!(task_runtime)) }
}

/// The thread is on a CPU and nobody has told: not every switch is. A kernel may keep tasks of its own from being traced,
/// and who they make way for comes unannounced; the iterator may find a thread off the CPU that is on it a moment later.
/// It has run for `ran` now, as the scheduler counts.
#[inline(never)]
unsafe fn arrived(clock: *mut Clock, ran: u64, now: &Now) -> i32 {
    // Not in an interval that may have been told already.
    let since = unsafe { (*clock).since_ns }.max(now.begin);
    let ns = now.ns.saturating_sub(ran).max(since);
    unsafe { go(clock, Doing::Running, &Now { ns, ..*now }) };
    0
}

/// What a thread that is off the CPU in `state` waits in: the innermost thing.
#[inline(always)]
unsafe fn fill_waiting(key: &mut TimeKey, clock: *mut Clock, task: Task, state: u32) {
    if let Some(doing) = halted(task, state) {
        key.doing = doing as u8;
        return;
    }
    unsafe {
        if let Some(doing) = sleeps_reclaiming(task, key.tid) {
            key.doing = doing as u8;
        } else if (*clock).locking != 0 {
            key.doing = Doing::MmapLock as u8;
            key.nr = of_regs(task).1 as i16;
        } else if let Some(th) = fault_of(task, key.tid) {
            begin_fault(clock, th);
            fill_fault(key, clock);
        } else {
            fill_call(key, task, state);
        }
    }
}

/// Stopped in whatever it was doing.
#[inline(always)]
fn halted(task: Task, state: u32) -> Option<Doing> {
    if state & TASK_STOPPED != 0 {
        return Some(Doing::Stopped);
    }
    if state & TASK_TRACED != 0 {
        return Some(Doing::Traced);
    }
    if state & TASK_FROZEN != 0 {
        return Some(Doing::Frozen);
    }
    let trapped = unsafe { load::<u64>(task.0, layout!(task_jobctl)) } & JOBCTL_TRAP_FREEZE != 0;
    if trapped && state & TASK_INTERRUPTIBLE != 0 { Some(Doing::Frozen) } else { None }
}

#[inline(always)]
fn reclaiming(tid: u32) -> Option<Doing> {
    let reclaimer = RECLAIMERS.get_ptr(&tid)?;
    Some(if unsafe { (*reclaimer).cause } == Cause::ReclaimMemcg as u64 {
        Doing::ReclaimMemcg
    } else {
        Doing::ReclaimDirect
    })
}

/// As [`reclaiming`], of a thread that goes to sleep: who reclaims has the flag then, and all others save the lookup. (A
/// softirq takes the flag off meanwhile, so a sample must not ask for it.)
#[inline(always)]
fn sleeps_reclaiming(task: Task, tid: u32) -> Option<Doing> {
    if task.flags() & PF_MEMALLOC == 0 { None } else { reclaiming(tid) }
}

/// The state of a thread that is in a page fault now.
#[inline(always)]
pub fn fault_of(task: Task, tid: u32) -> Option<*mut Thread> {
    let th = THREADS.get_ptr_mut(tid)?;
    if unsafe { (*th).mm == task.mm() && is_in_fault(task, th) } { Some(th) } else { None }
}

/// As [`fault_of`], but also on the way into a fault and out of it: the thread is in the kernel without a system call, and
/// still at the instruction that faulted last. That takes a tenth of a small fault.
#[inline(always)]
fn fault_around(task: Task, tid: u32) -> Option<*mut Thread> {
    let th = THREADS.get_ptr_mut(tid)?;
    let regs = task.regs();
    let inside = unsafe {
        (*th).mm == task.mm()
            && (is_in_fault(task, th)
                || ((*th).state & thread::STARTED != 0 && regs.syscall() < 0 && regs.ip() == (*th).ip))
    };
    if inside { Some(th) } else { None }
}

/// User registers and the system call in progress. A worker of io_uring has registers of no call.
#[inline(always)]
fn of_regs(task: Task) -> (Regs, i32) {
    let regs = task.regs();
    (regs, if task.flags() & PF_IO_WORKER != 0 { -1 } else { regs.syscall() })
}

/// Asleep in a system call.
#[inline(always)]
fn fill_call(key: &mut TimeKey, task: Task, state: u32) {
    let uninterruptible = state & TASK_UNINTERRUPTIBLE != 0 && state & TASK_NOLOAD == 0;
    key.doing = if uninterruptible { Doing::Uninterruptible } else { Doing::Blocked } as u8;
    let (regs, number) = of_regs(task);
    if number < 0 {
        return;
    }
    key.nr = number as i16;
    key.object = regs.arg0();
    if matches!(number as u32, nr::FUTEX | nr::FCNTL | nr::FLOCK) {
        key.detail = regs.arg1();
    }
}

/// The fault of `th` waits, or is sampled, perhaps for the first time.
#[inline(always)]
pub unsafe fn begin_fault(clock: *mut Clock, th: *mut Thread) {
    unsafe {
        if (*th).waited != 0 {
            return;
        }
        (*th).waited = 1;
        (*clock).fault_ns = 0;
        (*clock).fault_max_ns = 0;
        (*clock).fault_samples = 0;
        (*clock).fault_spans = 0;
        let address = (*th).address;
        (*clock).fault_address = address;
        let inside = address >= (*th).vma_start && address < (*th).vma_end;
        (*clock).fault_object = if inside { (*th).vma_start } else { address & !0x1f_ffff };
        (*clock).fault_nr = (*th).nr as i16;
        (*clock).fault_cause = match (*th).state {
            state if state & thread::BOOKED != 0 => (*th).last_cause as u8,
            // A copy after a fork moves no counter: nothing else would ever tell.
            state if state & thread::WRITE_PRESENT != 0 => Cause::FaultCow as u8,
            _ => CAUSE_UNKNOWN,
        };
    }
}

#[inline(always)]
unsafe fn fill_fault(key: &mut TimeKey, clock: *const Clock) {
    unsafe {
        key.doing = Doing::Fault as u8;
        key.object = (*clock).fault_object;
        key.nr = (*clock).fault_nr;
        key.cause = (*clock).fault_cause;
    }
}

/// The current thread's fault, has told its cause (or a better one): its time is moved there.
#[inline(never)]
pub fn settle(th: *mut Thread, tid: u32, cause: u8) -> i32 {
    let Some(clock) = CLOCKS.get_ptr_mut(tid) else { return 0 };
    let Some(now) = Now::new() else { return 0 };
    unsafe {
        if (*th).mm != (*clock).mm || (*clock).fault_cause == cause {
            return 0;
        }
        (*clock).busy = 1;
        compiler_fence(Ordering::SeqCst);
        let _ = move_fault(clock, tid, cause, &now);
        compiler_fence(Ordering::SeqCst);
        (*clock).busy = 0;
    }
    0
}

/// Moves what is booked of the fault in progress to the records of `cause`.
#[inline(always)]
unsafe fn move_fault(clock: *mut Clock, tid: u32, cause: u8, now: &Now) -> Option<()> {
    unsafe {
        // Its wait is booked before it is moved, or the next wait would be taken from where it never was.
        if (*clock).key.doing != Doing::Running as u8 {
            arrived(clock, runtime(Task::current()).wrapping_sub((*clock).runtime_ns), now);
        }
        let mut key = plain(tid, (*clock).key.slot, Doing::Fault);
        fill_fault(&mut key, clock);
        (*clock).fault_cause = cause;
        if (*clock).fault_begin_ns != now.begin {
            return None;
        }
        let (ns, samples) = ((*clock).fault_ns as i64, (*clock).fault_samples as i64);
        let spans = i64::from((*clock).fault_spans);
        let from = record(now.odd, &key)?;
        add((&raw mut (*from).ns).cast(), -ns);
        add((&raw mut (*from).count).cast(), -spans);
        add((&raw mut (*from).samples).cast(), -samples);
        key.cause = cause;
        let to = record(now.odd, &key)?;
        add((&raw mut (*to).ns).cast(), ns);
        add((&raw mut (*to).count).cast(), spans);
        add((&raw mut (*to).samples).cast(), samples);
        let longest = (*clock).fault_max_ns;
        if longest > (*to).max_ns {
            (*to).max_ns = longest;
        }
        (*to).address = (*clock).fault_address;
    }
    Some(())
}

/// Counts a sample of a thread's own code where it found it. One that has no room is in the thread's time all the same:
/// the program sees by the difference how many have no place.
#[inline(always)]
fn place(odd: bool, key: &PlaceKey) {
    let places = if odd { &PLACES_1 } else { &PLACES_0 };
    match places.get_ptr_mut(key) {
        // A thread is on one CPU at a time, and only its own samples come here.
        Some(count) => unsafe { *count += 1 },
        None => {
            let _ = places.insert(key, &1, u64::from(BPF_NOEXIST));
        }
    }
}

/// A sample of the current thread on its CPU; `ip` of its own code, `None` in the kernel.
#[inline(always)]
pub unsafe fn sample(clock: *mut Clock, task: Task, ip: Option<u64>, now: &Now) {
    unsafe {
        // Came in the middle of the thread's own work here: what that moves must not move under it.
        let busy = (*clock).busy != 0;
        if (*clock).key.doing != Doing::Running as u8 && !busy {
            // The scheduler has counted up to its last tick.
            arrived(clock, runtime(task).wrapping_sub((*clock).runtime_ns), now);
        }
        let tid = (*clock).key.tid;
        let mut key = plain(tid, (*clock).key.slot, Doing::User);
        if let Some(ip) = ip {
            place(now.odd, &PlaceKey { ip, tid, slot: u32::from(key.slot) });
        } else if let Some(doing) = reclaiming(tid) {
            key.doing = doing as u8;
        } else if (*clock).locking != 0 {
            key.doing = Doing::MmapLock as u8;
            key.nr = of_regs(task).1 as i16;
        } else if let Some(th) = fault_around(task, tid) {
            if !busy {
                begin_fault(clock, th);
                hold(clock, now);
                (*clock).fault_samples += 1;
            }
            fill_fault(&mut key, clock);
        } else {
            key.doing = Doing::Kernel as u8;
            key.nr = of_regs(task).1 as i16;
        }
        if let Some(record) = record(now.odd, &key) {
            (*record).samples += 1;
            if key.doing == Doing::Fault as u8 {
                (*record).address = (*clock).fault_address;
            }
        }
    }
}

/// Gives a thread of a traced mm a clock, in the state `doing` from now on.
#[inline(always)]
pub fn start(task: Task, doing: Doing, now: &Now) {
    let _ = start_in(task, doing as u8, now.ns, 0, 0);
}

/// As [`start`], of the current thread.
#[inline(always)]
pub fn start_running(task: Task) {
    if let Some(now) = Now::new() {
        start(task, Doing::Running, &now);
    }
}

/// As [`start`], `before`: it began before the probes looked; in the kernel's state `state`.
#[inline(never)]
pub fn start_in(task: Task, doing: u8, since: u64, before: u8, state: u32) -> i32 {
    // Its end has been seen: a clock would stay for ever.
    if task.flags() & (PF_EXITING | PF_KTHREAD) != 0 {
        return 0;
    }
    let mm = task.mm();
    let Some(slot) = MMS.get_ptr(&mm).map(|p| unsafe { *p }) else { return 0 };
    let tid = task.pid();
    let mut clock: Clock = unsafe { core::mem::zeroed() };
    clock.key = plain(tid, slot as u16, Doing::Running);
    clock.key.doing = doing;
    clock.key.before = before;
    clock.since_ns = since;
    clock.mm = mm;
    clock.tgid = task.tgid();
    clock.fault_cause = CAUSE_UNKNOWN;
    clock.runtime_ns = runtime(task);
    if state != 0 {
        match halted(task, state) {
            Some(doing) => clock.key.doing = doing as u8,
            None => fill_call(&mut clock.key, task, state),
        }
    }
    // One of a thread that has ended may still stand here.
    let mut flags = u64::from(BPF_NOEXIST);
    if let Some(old) = CLOCKS.get_ptr(&tid) {
        unsafe {
            if (*old).ended != 0 || (*old).mm != mm {
                flags = 0;
                // The interval before may still be told from it: what it did then, in another program.
                clock.cut_key = (*old).cut_key;
                clock.cut_since_ns = (*old).cut_since_ns;
                clock.cut_ns = (*old).cut_ns;
            }
        }
    }
    if CLOCKS.insert(tid, &clock, flags).is_err() && CLOCKS.get_ptr(&tid).is_none() {
        lose!(times);
    }
    0
}

/// The thread `tid` has no time any more: it ended, or became another program.
#[inline(never)]
pub fn end(tid: u32) -> i32 {
    let Some(clock) = CLOCKS.get_ptr_mut(tid) else { return 0 };
    let Some(now) = Now::new() else { return 0 };
    unsafe {
        if (*clock).ended == 0 {
            (*clock).busy = 1;
            turn(clock, &now);
            (*clock).ended = 1;
            done(clock);
        }
        // The interval before may still be told from it; the program removes it then.
        if (*clock).cut_ns == now.begin {
            return 0;
        }
    }
    let _ = CLOCKS.remove(&tid);
    0
}
