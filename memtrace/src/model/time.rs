//! Where the threads' time went: sums of spans per thread over the whole session and over its last second, and the shares
//! that they make. The sum of a thread's shares is its time in the window, to the nanosecond: what was not observed is a
//! share like the others.

mod backend;
mod shares;
#[cfg(test)]
mod tests;
mod window;

use self::shares::Shares;
use self::window::{Key, NO_OBJECT, Sum, Thread, Window};
use super::address_space::AddressSpace;
use super::code::CodeTable;
use crate::event::{
    Backend, Change, LockHold, Lost, MmOpened, Own, Ran, StackEnd, StackId, Surroundings, TaskWhat, Times, Wait,
    WaitObject, Why,
};
use crate::statement::MappingRef;
use crate::stuck::{self, EndedThreads, LeftOut, Look, Memory, Share, Span, State, Stuck, ThreadTimes, Verdict};
use crate::units::Amounts;
use memtrace_common::{Cause, Doing};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Length of the windows that are told while a session lasts.
const RECENT_NS: u64 = 1_000_000_000;
/// Processes whose time is kept: those that ended make room for others, but for the first one. How many have no answer is
/// told.
const PROCESSES: usize = 1_024;
/// Threads of a process at once; the answer says how many more there were.
const THREADS: usize = 8_192;
/// From this number of threads on those that ended first are added up, until half of it is left.
const FOLDED: usize = 4_096;
/// Kinds of spans and places of all threads in all processes; beyond, spans are without their object, and a thread has one
/// place.
const DETAILS: usize = 1 << 18;
/// Holders of mmap_lock that are told.
const HOLDS: usize = 16;
/// Descriptors that are remembered.
const DESCRIPTORS: usize = 1_024;
/// So long before and after a look a descriptor's number is believed to be of the same file.
const BELIEVED_NS: u64 = 2_000_000_000;

/// All processes of a session.
#[derive(Debug, Default)]
pub(super) struct Timekeeper {
    processes: BTreeMap<u32, Process>,
    /// The process that came first.
    first: Option<u32>,
    /// Processes that have no answer.
    left_out: u64,
    /// Details in all windows, as of the last report and what came since.
    details: usize,
}

/// One process.
#[derive(Debug)]
struct Process {
    whole: Window,
    recent: Window,
    /// What its server says of itself, of the whole session and of the last second in which it said anything.
    backend: Option<Box<Backend>>,
    recent_backend: Option<Box<Backend>>,
    /// A second of which that was told: what it says next is of another one.
    told: bool,
    /// What descriptors are that some thread was seen waiting on, and when it last was.
    descriptors: BTreeMap<u64, (u64, WaitObject)>,
    /// When each thread began and ended, where that was seen.
    lives: BTreeMap<u32, Life>,
    counters: Amounts,
    moved_ns: Option<u64>,
    ended: bool,
    /// The OOM killer chose it.
    exit_code: Option<u32>,
    oom_victim: bool,
    /// Threads of the whole session that ended and are added up.
    folded: Folded,
}

/// Threads that are added up.
#[derive(Debug, Default)]
struct Folded {
    threads: u64,
    total_ns: u64,
    shares: Shares,
}

/// What was seen of a thread's begin and end.
#[derive(Clone, Copy, Debug)]
struct Life {
    born_ns: u64,
    ended_ns: u64,
}

impl Life {
    const UNSEEN: Self = Self { born_ns: 0, ended_ns: u64::MAX };
}

/// What samples are told apart by: state, system call, number of the mapping.
type Sampled = (State, Option<u32>, Option<u64>);

impl Timekeeper {
    pub(super) fn open(&mut self, opened: &MmOpened) {
        let first = *self.first.get_or_insert(opened.pid);
        if self.processes.len() >= PROCESSES && !self.processes.contains_key(&opened.pid) {
            // One that executes another program was counted before.
            self.left_out += u64::from(!matches!(opened.why, Why::Exec { .. }));
            let ended = self.processes.iter().filter(|&(&pid, process)| process.ended && pid != first);
            let Some((&oldest, _)) = ended.min_by_key(|(_, process)| process.whole.range) else { return };
            self.processes.remove(&oldest);
        }
        let process = self.processes.entry(opened.pid).or_insert_with(|| Process::new(opened.counters));
        (process.ended, process.exit_code, process.oom_victim) = (false, None, false);
        // Another program: what it opens has the numbers of what was closed.
        process.descriptors.clear();
    }

    pub(super) fn times(&mut self, pid: u32, times: &Times, space: &mut AddressSpace) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let Process { whole, recent, lives, .. } = process;
        for window in [whole, recent] {
            window.times(times, lives, space, &mut self.details);
        }
        lives.retain(|_, life| life.ended_ns > times.ts_ns);
    }

    pub(super) fn ran(&mut self, pid: u32, ran: &Ran) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        for window in [&mut process.whole, &mut process.recent] {
            for place in &ran.places {
                // Only of threads whose time is known.
                if let Some(thread) = window.threads.get_mut(&place.tid) {
                    thread.ran(place, &mut self.details);
                }
            }
        }
    }

    pub(super) fn wait(&mut self, wait: &Wait) {
        let Some(process) = self.processes.get_mut(&wait.pid) else { return };
        process.learn_descriptor(&wait.object, wait.ts_ns);
        for window in [&mut process.whole, &mut process.recent] {
            if let Some(thread) = window.thread(wait.tid) {
                thread.look(wait, &mut self.details);
            }
        }
    }

    pub(super) fn surroundings(&mut self, now: &Surroundings) {
        if let Some(process) = self.processes.get_mut(&now.pid) {
            for window in [&mut process.whole, &mut process.recent] {
                match &mut window.surroundings {
                    Some(pair) => pair.1 = now.clone(),
                    none => *none = Some(Box::new((now.clone(), now.clone()))),
                }
            }
        }
    }

    pub(super) fn backend(&mut self, backend: &Backend) {
        let Some(process) = self.processes.get_mut(&backend.pid) else { return };
        if std::mem::take(&mut process.told) {
            process.recent_backend = None;
        }
        for sum in [&mut process.backend, &mut process.recent_backend] {
            match sum {
                Some(sum) => backend::add(sum, backend),
                none => *none = Some(Box::new(backend.clone())),
            }
        }
    }

    pub(super) fn change(&mut self, pid: u32, change: &Change) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        for memory in [&mut process.whole.memory, &mut process.recent.memory] {
            memory.faults.major = memory.faults.major.wrapping_add(change.major);
            memory.faults.minor = memory.faults.minor.wrapping_add(change.faults.wrapping_sub(change.major));
            match change.cause {
                Cause::FaultSwapin => {
                    let pages = change.delta.swap.min(0).unsigned_abs();
                    memory.swapped_in = memory.swapped_in.saturating_add(pages);
                }
                Cause::ReclaimKswapd | Cause::ReclaimDirect | Cause::ReclaimMemcg => {
                    let pages = change.delta.res().min(0).unsigned_abs();
                    memory.reclaimed = memory.reclaimed.saturating_add(pages);
                }
                _ => {}
            }
        }
    }

    pub(super) fn closing(&mut self, pid: u32, counters: Amounts, ts_ns: u64) {
        if let Some(process) = self.processes.get_mut(&pid)
            && process.counters != counters
        {
            process.counters = counters;
            process.moved_ns = Some(ts_ns);
        }
    }

    pub(super) fn born(&mut self, pid: u32, tid: u32, ts_ns: u64) {
        if let Some(process) = self.processes.get_mut(&pid).filter(|process| process.lives.len() < THREADS) {
            process.lives.insert(tid, Life { born_ns: ts_ns, ..Life::UNSEEN });
        }
    }

    /// A thread ended; with `what` of the whole process, that too.
    pub(super) fn exited(&mut self, pid: u32, tid: u32, ts_ns: u64, what: TaskWhat) {
        if let Some(process) = self.processes.get_mut(&pid) {
            if process.lives.len() < THREADS || process.lives.contains_key(&tid) {
                process.lives.entry(tid).or_insert(Life::UNSEEN).ended_ns = ts_ns;
            }
            if let TaskWhat::ProcessExited { code } = what {
                (process.ended, process.exit_code) = (true, Some(code));
            }
        }
    }

    /// The OOM killer chose it.
    pub(super) fn oom_victim(&mut self, pid: u32) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.oom_victim = true;
        }
    }

    /// What there is to say of windows that are full, or, at the session's end, of all of it.
    pub(super) fn report(&mut self, whole: bool, context: &Context<'_>) -> Vec<Stuck> {
        let mut found = Vec::new();
        for (&pid, process) in &mut self.processes {
            process.fold(context.code);
            let window = if whole { &process.whole } else { &process.recent };
            let Some((start_ns, ts_ns)) = window.range else { continue };
            if !whole && ts_ns.saturating_sub(start_ns) < RECENT_NS {
                continue;
            }
            found.push(process.stuck(pid, whole, (start_ns, ts_ns), self.left_out, context));
            if !whole {
                let last = process.recent.surroundings.take().map(|pair| pair.1);
                let surroundings = last.map(|last| Box::new((last.clone(), last)));
                process.told = true;
                process.recent = Window { opening: process.counters, surroundings, ..Window::default() };
            }
        }
        let windows = self.processes.values().flat_map(|process| [&process.whole, &process.recent]);
        self.details = windows.map(Window::details).sum();
        // The process that was asked for first.
        found.sort_by_key(|stuck| stuck.pid != context.pid);
        found
    }
}

/// What a report needs of the rest of the session.
pub(super) struct Context<'a> {
    pub(super) pid: u32,
    pub(super) page_size: u64,
    /// Monotonic and wall time of the session's begin.
    pub(super) epoch: (u64, i64),
    pub(super) lost: Lost,
    pub(super) own: Own,
    pub(super) comms: &'a BTreeMap<u32, Vec<u8>>,
    pub(super) code: &'a CodeTable,
}

impl Process {
    fn new(counters: Amounts) -> Self {
        let window = || Window { opening: counters, ..Window::default() };
        Self {
            whole: window(),
            recent: window(),
            backend: None,
            recent_backend: None,
            told: false,
            descriptors: BTreeMap::new(),
            lives: BTreeMap::new(),
            counters,
            moved_ns: None,
            ended: false,
            exit_code: None,
            oom_victim: false,
            folded: Folded::default(),
        }
    }

    fn learn_descriptor(&mut self, object: &WaitObject, ts_ns: u64) {
        let fd = match object {
            WaitObject::File { fd, .. } | WaitObject::Socket { fd, .. } | WaitObject::Pipe { fd, .. } => *fd,
            _ => return,
        };
        if let Ok(fd) = u64::try_from(fd)
            && (self.descriptors.len() < DESCRIPTORS || self.descriptors.contains_key(&fd))
        {
            self.descriptors.insert(fd, (ts_ns, object.clone()));
        }
    }

    /// What another look found the descriptor to be, about the time of the span: its number may have been another file's
    /// before, and become another's since.
    fn descriptor(&self, fd: u64, sum: &Sum) -> Option<&WaitObject> {
        let (seen_ns, object) = self.descriptors.get(&fd)?;
        let near = sum.since_ns.saturating_sub(BELIEVED_NS)..=sum.until_ns.saturating_add(BELIEVED_NS);
        near.contains(seen_ns).then_some(object)
    }

    /// Of many threads, those that ended first are added up.
    fn fold(&mut self, code: &CodeTable) {
        let Some((_, ts_ns)) = self.whole.range.filter(|_| self.whole.threads.len() > FOLDED) else { return };
        let ended = self.whole.threads.iter().filter(|(_, thread)| thread.ended);
        let mut ended: Vec<(u64, u32)> = ended.map(|(&tid, thread)| (thread.until_ns, tid)).collect();
        ended.sort_unstable();
        ended.truncate(self.whole.threads.len() - FOLDED / 2);
        for (_, tid) in ended {
            let Some(thread) = self.whole.threads.remove(&tid) else { continue };
            let (total_ns, shares) = self.shares(&thread, &self.whole, ts_ns, code);
            self.folded.threads += 1;
            self.folded.total_ns = self.folded.total_ns.saturating_add(total_ns);
            for share in shares {
                // What it concerned was this thread's own.
                self.folded.shares.add(Share { nr: None, object: WaitObject::Unknown, mapping: None, ..share });
            }
        }
    }

    fn stuck(
        &self,
        pid: u32,
        whole: bool,
        (start_ns, ts_ns): (u64, u64),
        processes: u64,
        context: &Context<'_>,
    ) -> Stuck {
        let window = if whole { &self.whole } else { &self.recent };
        let mut incomplete: BTreeMap<StackEnd, BTreeSet<StackId>> = BTreeMap::new();
        let mut threads: Vec<ThreadTimes> = Vec::new();
        for (&tid, thread) in &window.threads {
            let comm = context.comms.get(&tid).cloned().unwrap_or_default();
            let waits = thread.waits(context.code);
            for stack in waits.iter().filter_map(|wait| wait.stack.as_ref()) {
                if stack.end != StackEnd::Root {
                    incomplete.entry(stack.end).or_default().insert(stack.id);
                }
            }
            let (total_ns, shares) = self.shares(thread, window, ts_ns, context.code);
            if total_ns > 0 {
                let own_ns = shares.iter().find(|share| share.state == State::CpuUser).map_or(0, |share| share.ns);
                let ran = thread.functions(own_ns, context.code);
                threads.push(ThreadTimes { tid, comm, total_ns, shares, ran, waits });
            }
        }
        let mut holds: Vec<LockHold> = window.holds.values().cloned().collect();
        holds.sort_by_key(|hold| (Reverse(hold.ns), hold.tid));
        holds.truncate(HOLDS);
        let Folded { threads: folded, total_ns, shares } = &self.folded;
        let ended_threads = (whole && *folded > 0).then(|| EndedThreads {
            threads: *folded,
            total_ns: *total_ns,
            shares: shares.clone().sorted(),
        });
        let memory =
            Memory { opening: window.opening, closing: self.counters, moved_ns: self.moved_ns, ..window.memory };
        let since = i64::try_from(ts_ns.saturating_sub(context.epoch.0)).unwrap_or(i64::MAX);
        let mut stuck = Stuck {
            pid,
            comm: context.comms.get(&pid).cloned().unwrap_or_default(),
            start_ns,
            ts_ns,
            wall_ns: context.epoch.1.saturating_add(since),
            whole,
            page_size: context.page_size,
            memory: Some(memory),
            holds,
            lost: context.lost,
            own: context.own,
            ended: self.ended,
            exit_code: self.exit_code,
            oom_victim: self.oom_victim,
            threads,
            ended_threads,
            left_out: LeftOut { threads: window.left_out, processes },
            verdict: Verdict::default(),
            surroundings: window.surroundings.as_deref().cloned(),
            backend: if whole { &self.backend } else { &self.recent_backend }.as_deref().cloned(),
            incomplete: incomplete.into_iter().map(|(end, stacks)| (end, stacks.len() as u64)).collect(),
        };
        stuck::order(&mut stuck.threads, pid);
        stuck.verdict = stuck::verdict(&stuck);
        stuck
    }

    /// A thread's time in the window and its shares, largest first.
    fn shares(&self, thread: &Thread, window: &Window, ts_ns: u64, code: &CodeTable) -> (u64, Vec<Share>) {
        let mut shares = Shares::default();
        let (mut running_ns, mut runs) = (0_u64, 0_u64);
        let mut sampled: BTreeMap<Sampled, (u64, Option<Arc<MappingRef>>)> = BTreeMap::new();
        for (key, sum) in &thread.spans {
            if key.doing == Doing::Running {
                running_ns = running_ns.saturating_add(sum.ns);
                runs = runs.saturating_add(sum.count);
                continue;
            }
            let (state, object) = self.classify(window, thread, key, sum, code);
            let mapping = sum.place.as_ref().map(|(mapping, _)| Arc::clone(mapping));
            if sum.samples > 0 {
                let on_cpu = if key.doing == Doing::Fault { stuck::of_fault_on_cpu(key.cause) } else { state };
                let nr = if on_cpu == State::CpuKernel { key.nr } else { None };
                let life = mapping.as_ref().map(|mapping| mapping.id);
                let (samples, _) = sampled.entry((on_cpu, nr, life)).or_insert_with(|| (0, mapping.clone()));
                *samples = samples.saturating_add(sum.samples);
            }
            if sum.ns > 0 {
                let nr = if matches!(state, State::Runnable) { None } else { key.nr };
                let (ns, max_ns, count) = (sum.ns, sum.max_ns, sum.count);
                shares.add(Share {
                    state,
                    nr,
                    object,
                    mapping,
                    ns,
                    bound_ns: 0,
                    count,
                    max_ns,
                    since_attach: key.before,
                    open: sum.open_ns.is_some() && sum.open_ns == window.range.map(|(_, end_ns)| end_ns),
                });
            }
        }
        let samples: Vec<u64> = sampled.values().map(|(samples, _)| *samples).collect();
        let plain = |state, nr, ns, bound_ns| Share {
            state,
            nr,
            object: WaitObject::Unknown,
            mapping: None,
            ns,
            bound_ns,
            count: 0,
            max_ns: 0,
            since_attach: false,
            open: false,
        };
        match stuck::split(running_ns, &samples) {
            Some(parts) => {
                for (((state, nr, _), (_, mapping)), part) in sampled.into_iter().zip(parts) {
                    shares.add(Share { mapping, ..plain(state, nr, part.ns, part.bound_ns) });
                }
            }
            None => shares.add(Share { count: runs, ..plain(State::Cpu, None, running_ns, 0) }),
        }
        window.throttle(&mut shares);
        let lived = if thread.until_ns == 0 { 0 } else { thread.until_ns.min(ts_ns).saturating_sub(thread.since_ns) };
        let known = shares.list.iter().map(|share| share.ns).fold(0, u64::saturating_add);
        shares.add(plain(State::Unaccounted, None, lived.saturating_sub(known), 0));
        (lived.max(known), shares.sorted())
    }

    fn classify(
        &self,
        window: &Window,
        thread: &Thread,
        key: &Key,
        sum: &Sum,
        code: &CodeTable,
    ) -> (State, WaitObject) {
        let span = Span { doing: key.doing, cause: key.cause, nr: key.nr, detail: key.detail, before: key.before };
        let seen = thread.seen(key);
        let in_semaphore = seen.and_then(|seen| seen.stack).is_some_and(|id| code.waits_for_semaphore(id));
        let look = seen.map(|seen| Look { kernel: &seen.kernel, object: &seen.object, in_semaphore });
        let place = sum.place.as_ref();
        let fd = match key.doing {
            Doing::Fault => place.map(|(_, page)| page),
            _ if stuck::takes_descriptor(key.nr) => self.descriptor(key.object, sum),
            _ => None,
        };
        let (state, object) = stuck::state_of(span, look.as_ref(), fd, place.map(|(mapping, _)| mapping.kind));
        if window.is_frozen() && matches!(key.doing, Doing::Blocked | Doing::Uninterruptible) {
            return (State::Frozen, WaitObject::Unknown);
        }
        let object = match (state, object) {
            (State::BlockedFutex | State::BlockedSemaphore, WaitObject::Unknown)
                if ![0, NO_OBJECT].contains(&key.object) =>
            {
                WaitObject::Futex { address: key.object, mapping: Vec::new(), owner: None }
            }
            (_, object) => object,
        };
        (state, object)
    }
}
