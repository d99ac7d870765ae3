//! One verdict for a window: which thread decides, what it was in, whether that is memory. A short list of rules for what
//! several facts together say, in order; then a thread's largest family of states decides, if it leads by enough. Where it
//! does not, the verdict says between what it lies.

mod database;
mod evidence;
mod next;
mod phrase;

pub(crate) use evidence::{main_function, waiting};

use super::{Share, State, Stuck, ThreadTimes, Verdict};
use crate::event::WaitObject;
use crate::syscalls;
use crate::views::escape;
use crate::views::human::{duration, percent};
use crate::views::words::exit_phrase;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// A thread that is in one state for this part of its time, in per cent, is in it.
const MOST: u64 = 50;
/// By this part of its time, in per cent, the first family must lead the second.
const LEAD: u64 = 10;
/// Longest name of a process or thread.
pub(super) const NAME: usize = 32;

/// Why a process does not move.
#[must_use]
pub fn verdict(stuck: &Stuck) -> Verdict {
    let Some(case) = Case::of(stuck) else {
        return Verdict {
            state: Some(State::Unaccounted),
            sentence: "Nothing was observed: no thread's time is known".to_owned(),
            next: vec!["memtrace doctor".to_owned()],
            ..Verdict::default()
        };
    };
    let found = RULES.iter().find_map(|rule| rule(&case)).unwrap_or_else(|| by_share(&case));
    let about = found.about.and_then(|tid| case.thread(tid)).unwrap_or(case.lead);
    let case = Case { lead: about, ..case };
    let evidence = evidence::evidence(&case, &found);
    let next = match found.next.is_empty() {
        true => next::next(&case, &found),
        false => found.next,
    };
    let Finding { state, memory, sentence, between, .. } = found;
    Verdict { state, memory, sentence, evidence, between, next }
}

/// What a rule says.
#[derive(Debug, Default)]
struct Finding {
    state: Option<State>,
    memory: Option<bool>,
    sentence: String,
    between: Vec<State>,
    /// Where the rule knows better than the state.
    next: Vec<String>,
    /// The thread that it is about, where that is not the lead.
    about: Option<u32>,
}

/// Rules before the shares, in order. Each says what only several facts together do.
const RULES: [fn(&Case<'_>) -> Option<Finding>; 8] =
    [unobserved, ended, deadlock, database::database, held, nobody_left, locked_out, nobody_runs];

/// The facts that rules look at.
struct Case<'a> {
    stuck: &'a Stuck,
    /// The thread that decides.
    lead: &'a ThreadTimes,
    /// Its families, largest first.
    families: Vec<Sum>,
}

/// States of one family, added up.
#[derive(Clone, Copy, Debug)]
struct Sum {
    /// The largest of them.
    state: State,
    ns: u64,
    largest_ns: u64,
    bound_ns: u64,
}

impl<'a> Case<'a> {
    fn of(stuck: &'a Stuck) -> Option<Self> {
        let lead = stuck.threads.first()?;
        Some(Self { stuck, lead, families: families(lead) })
    }

    fn top(&self) -> Option<Sum> {
        self.families.first().copied()
    }

    /// The lead's largest share of a state.
    fn share(&self, state: State) -> Option<&'a Share> {
        self.lead.share(state)
    }

    fn thread(&self, tid: u32) -> Option<&'a ThreadTimes> {
        self.stuck.threads.iter().find(|thread| thread.tid == tid)
    }

    fn window(&self) -> String {
        duration(self.lead.total_ns)
    }

    /// `thread 12 (worker)`; nothing where there is only one.
    fn who(&self) -> Option<String> {
        (self.stuck.threads.len() > 1).then(|| format!("thread {}", named(self.lead.tid, &self.lead.comm)))
    }

    /// How many threads are in a state most of their time.
    fn in_state(&self, state: State) -> usize {
        self.stuck.threads.iter().filter(|thread| main_state(thread) == Some(state)).count()
    }
}

/// `4711 (postgres)`, escaped.
fn named(pid: u32, comm: &[u8]) -> String {
    if comm.is_empty() { pid.to_string() } else { format!("{pid} ({})", escape(comm, NAME)) }
}

/// States that are one answer.
fn family(state: State) -> State {
    match state {
        _ if state.is_memory() => State::FaultMinor,
        State::CpuUser | State::CpuKernel => State::Cpu,
        State::Throttled => State::Runnable,
        other => other,
    }
}

fn families(thread: &ThreadTimes) -> Vec<Sum> {
    let mut states: BTreeMap<State, (u64, u64)> = BTreeMap::new();
    for share in &thread.shares {
        let (ns, bound) = states.entry(share.state).or_default();
        *ns = ns.saturating_add(share.ns);
        *bound = (*bound).max(share.bound_ns);
    }
    let mut families: BTreeMap<State, Sum> = BTreeMap::new();
    for (state, (ns, bound_ns)) in states {
        let sum = families.entry(family(state)).or_insert(Sum { state, ns: 0, largest_ns: 0, bound_ns: 0 });
        sum.ns = sum.ns.saturating_add(ns);
        sum.bound_ns = sum.bound_ns.max(bound_ns);
        if ns > sum.largest_ns {
            (sum.state, sum.largest_ns) = (state, ns);
        }
    }
    let mut families: Vec<Sum> = families.into_values().collect();
    families.sort_by_key(|sum| (Reverse(sum.ns), sum.state));
    families
}

/// What a thread is in most of its time.
pub(super) fn main_state(thread: &ThreadTimes) -> Option<State> {
    families(thread).first().filter(|sum| is_most(sum.ns, thread.total_ns)).map(|sum| sum.state)
}

fn is_most(ns: u64, total_ns: u64) -> bool {
    u128::from(ns) * 100 >= u128::from(total_ns) * u128::from(MOST)
}

/// Percent of a CPU from which on threads work, all together.
const BUSY: u64 = 10;
/// Percent of a CPU from which on a thread that waits for another one is waited for by nobody: the others work.
const WORKING: u64 = 50;

/// Whether threads were on CPUs for so many percent of the longest one's time, all together.
fn is_busy(threads: &[ThreadTimes], percent: u64) -> bool {
    let on_cpu = threads.iter().flat_map(|thread| &thread.shares).filter(|share| family(share.state) == State::Cpu);
    let ran = on_cpu.fold(0_u64, |sum, share| sum.saturating_add(share.ns));
    let longest = threads.iter().map(|thread| thread.total_ns).max().unwrap_or(0);
    ran > 0 && u128::from(ran) * 100 >= u128::from(longest) * u128::from(percent)
}

/// Sorts threads, those first that decide: who works or is kept from working before who waits for another, and both before
/// who waits for something to do. Of equals the main thread, then the oldest.
pub(crate) fn order(threads: &mut [ThreadTimes], pid: u32) {
    let works = is_busy(threads, WORKING);
    let weight = |thread: &ThreadTimes| -> u128 {
        let for_thread = is_below(thread, CONDITIONS) || is_below(thread, JOINS);
        let of = |share: &Share| u128::from(share.ns) * u128::from(weight(share, for_thread, works));
        thread.shares.iter().map(of).sum()
    };
    threads.sort_by_cached_key(|thread| (Reverse(weight(thread)), thread.tid != pid, thread.tid));
}

/// `for_thread`: its stack says that it waits for work or for another thread's end. `works`: others work meanwhile.
fn weight(share: &Share, for_thread: bool, works: bool) -> u8 {
    match share.state {
        State::Unaccounted => 0,
        State::BlockedPoll | State::BlockedSleep => 1,
        State::BlockedFutex if for_thread => 1,
        // How a thread waits for signals or for the end of what it has asked for: there may be nothing.
        State::BlockedOther if matches!(share.nr.and_then(syscalls::name), Some(name) if IDLE.contains(&name)) => 1,
        State::BlockedChild | State::BlockedOther => 3,
        State::BlockedFutex | State::BlockedSemaphore if works => 6,
        State::BlockedFutex | State::BlockedSemaphore | State::BlockedSocket | State::BlockedPipe => 12,
        _ => 20,
    }
}

/// Calls in which a thread that serves others waits for work.
const IDLE: &[&str] = &["rt_sigtimedwait", "sigtimedwait", "io_uring_enter", "io_getevents", "io_pgetevents"];

/// How pools of workers wait for work.
const CONDITIONS: &[&str] =
    &["pthread_cond_", "___pthread_cond_", "__pthread_cond_", "runtime.notesleep", "runtime.stopm", "g_cond_wait"];
/// How a thread of Python waits for its turn.
const TURNS: &[&str] = &["take_gil"];
/// How a thread waits for another one's end.
const JOINS: &[&str] =
    &["pthread_join", "__pthread_clockjoin", "__pthread_timedjoin", "pthread_clockjoin", "pthread_timedjoin"];

/// Its stack has a function whose name begins with one of these, not far out.
fn is_below(thread: &ThreadTimes, names: &[&str]) -> bool {
    let stack = thread.waits.first().and_then(|wait| wait.stack.as_ref());
    stack.is_some_and(|stack| {
        let symbols = stack.frames.iter().take(6).flat_map(|frame| &frame.symbols);
        symbols.map(|symbol| &symbol.name).any(|name| names.iter().any(|begin| name.starts_with(begin.as_bytes())))
    })
}

/// Most of the deciding thread's time is not known.
fn unobserved(case: &Case<'_>) -> Option<Finding> {
    let lost = case.top().filter(|top| top.state == State::Unaccounted)?;
    let share = percent(lost.ns, case.lead.total_ns)?;
    Some(Finding {
        state: Some(State::Unaccounted),
        sentence: format!("{share} of {} was not observed: what the rest says is no verdict", case.window()),
        next: vec![
            format!("memtrace stuck --pid {} --duration 30s", case.stuck.pid),
            "memtrace doctor        to see what this machine allows".to_owned(),
        ],
        ..Finding::default()
    })
}

/// It is gone: what it was in is no reason any more. Why it ended only the OOM killer tells.
fn ended(case: &Case<'_>) -> Option<Finding> {
    let lasted = case.stuck.ts_ns.saturating_sub(case.stuck.start_ns);
    let state = case.top().map(|top| top.state);
    if case.stuck.ended && case.stuck.oom_victim {
        return Some(Finding {
            state,
            memory: Some(true),
            sentence: format!(
                "The OOM killer ended the process after {}: its cgroup or the machine had no memory left",
                duration(lasted)
            ),
            next: vec!["dmesg | grep -i oom        for what it counted".to_owned()],
            ..Finding::default()
        });
    }
    case.stuck.ended.then(|| Finding {
        state,
        memory: None,
        sentence: match case.stuck.exit_code {
            Some(code) => format!("The process {} after {}", exit_phrase(code), duration(lasted)),
            None => format!("The process ended after {}", duration(lasted)),
        },
        next: match case.stuck.backend {
            Some(_) => vec!["look at the server's log: whether it was ended, and by whom".to_owned()],
            None => vec!["memtrace -- CMD ARGS        to watch it from its first page on".to_owned()],
        },
        ..Finding::default()
    })
}

/// The mutex that a thread waits for most of its time, and its owner, as the last look saw it.
fn mutex(thread: &ThreadTimes) -> Option<(&Share, u64, u32)> {
    thread.shares.iter().find_map(|share| match share.object {
        WaitObject::Futex { address, owner: Some(owner), .. } if is_most(share.ns, thread.total_ns) => {
            Some((share, address, owner))
        }
        _ => None,
    })
}

/// The mutex that a thread waits for in one wait, which takes most of its time and has not ended, and its owner.
fn waits_on(thread: &ThreadTimes) -> Option<(u64, u32)> {
    let (share, address, owner) = mutex(thread)?;
    (share.open && is_most(share.max_ns.min(share.ns), thread.total_ns)).then_some((address, owner))
}

/// Threads that wait for each other's mutexes. Those that take turns with one have been seen with each other as its owner
/// too: it is not one mutex that they wait for, and no wait that ends.
fn deadlock(case: &Case<'_>) -> Option<Finding> {
    let cycle = case.stuck.threads.iter().find_map(|thread| {
        let (mut chain, mut mutexes) = (vec![thread], BTreeSet::new());
        while let Some((address, owner)) = chain.last().and_then(|last| waits_on(last)) {
            if !mutexes.insert(address) {
                return None;
            }
            if owner == thread.tid {
                return Some(chain);
            }
            // A chain that leads into a circle, without being in it, is found from there.
            let next = case.thread(owner).filter(|next| chain.iter().all(|known| known.tid != next.tid))?;
            chain.push(next);
        }
        None
    })?;
    let first = cycle.first()?;
    let name = |thread: &ThreadTimes| format!("thread {}", named(thread.tid, &thread.comm));
    let sentence = match cycle.as_slice() {
        [one] => format!("Deadlock: {} waits for a mutex that it holds itself", name(one)),
        _ => {
            let held: Vec<String> =
                cycle[1..].iter().map(|thread| format!("the mutex held by {}", name(thread))).collect();
            format!(
                "Deadlock: {} waits for {}, which waits for the one held by {}",
                name(first),
                held.join(", which waits for "),
                name(first)
            )
        }
    };
    Some(Finding {
        state: Some(State::BlockedFutex),
        memory: Some(false),
        sentence,
        about: Some(first.tid),
        next: vec!["only its end resolves it: keep the stacks for whoever wrote it (-v shows them whole)".to_owned()],
        ..Finding::default()
    })
}

/// The deciding thread waits for a mutex whose owner is known: why that one does not let go is the reason.
fn held(case: &Case<'_>) -> Option<Finding> {
    let top = case.top().filter(|top| top.state == State::BlockedFutex && is_most(top.ns, case.lead.total_ns))?;
    let (wait, address, owner) = mutex(case.lead)?;
    let owner = case.thread(owner)?;
    let share = percent(top.ns, case.lead.total_ns)?;
    let of_it = |thread: &&ThreadTimes| mutex(thread).is_some_and(|(_, other, _)| other == address);
    if wait.count > 0 && of_it(&owner) {
        return Some(contended(case, &share, &case.stuck.threads.iter().filter(of_it).collect::<Vec<_>>()));
    }
    let held = if wait.count == 0 { "held" } else { "last seen held" };
    let reason = families(owner).first().copied()?;
    let doing = phrase::phrase(reason.state, owner.shares.iter().find(|share| share.state == reason.state), owner);
    Some(Finding {
        state: Some(State::BlockedFutex),
        memory: Some(reason.state.is_memory()),
        sentence: format!(
            "Blocked {share} of {} waiting for a mutex {held} by thread {}, which was {doing}",
            case.window(),
            named(owner.tid, &owner.comm)
        ),
        ..Finding::default()
    })
}

/// Threads take turns with a mutex: none of them is to blame, but how long it is held each time. What they do beside waiting
/// for it is that, or at most that.
fn contended(case: &Case<'_>, share: &str, threads: &[&ThreadTimes]) -> Finding {
    let mut sums: BTreeMap<State, u64> = BTreeMap::new();
    for sum in threads.iter().flat_map(|thread| families(thread)) {
        let known = sums.entry(sum.state).or_default();
        *known = known.saturating_add(sum.ns);
    }
    sums.retain(|state, _| !matches!(state, State::BlockedFutex | State::Unaccounted));
    let besides = sums.into_iter().max_by_key(|&(state, ns)| (ns, Reverse(state))).map(|(state, _)| state);
    let thread = threads.iter().max_by_key(|thread| {
        let of_state = thread.shares.iter().filter(|share| Some(share.state) == besides);
        of_state.map(|share| share.ns).fold(0, u64::saturating_add)
    });
    let doing = besides.zip(thread).map_or(String::new(), |(state, thread)| {
        let share = thread.shares.iter().find(|share| share.state == state);
        format!("; otherwise they were mostly {}", phrase::phrase(state, share, thread))
    });
    Finding {
        state: Some(State::BlockedFutex),
        // Whether they have it while they are in that is not known.
        memory: besides.is_none_or(|state| !state.is_memory()).then_some(false),
        sentence: format!(
            "Blocked {share} of {} waiting for a mutex that {} threads take turns with{doing}",
            case.window(),
            threads.len()
        ),
        ..Finding::default()
    }
}

/// Several threads, and each of them waits without end for another one.
fn nobody_left(case: &Case<'_>) -> Option<Finding> {
    let threads = &case.stuck.threads;
    let waits = |thread: &ThreadTimes| {
        thread.shares.first().is_some_and(|share| {
            let for_another = matches!(share.state, State::BlockedFutex | State::BlockedSemaphore);
            // A worker that waits for work is woken by who gives it some.
            for_another && share.count == 0 && share.ns == thread.total_ns && !is_below(thread, CONDITIONS)
        })
    };
    if threads.len() < 2 || !threads.iter().all(waits) {
        return None;
    }
    let top = case.top()?;
    // The one that waits for another's end waits for the others.
    let about = threads.iter().find(|thread| !is_below(thread, JOINS)).unwrap_or(case.lead);
    Some(Finding {
        state: main_state(about).or(Some(top.state)),
        memory: Some(false),
        sentence: format!(
            "All {} threads wait for a mutex or semaphore 100 % of {}{}, and none is left to wake them: a deadlock, unless \
             another process or a signal does",
            threads.len(),
            case.window(),
            since(case, top.state)
        ),
        next: vec![format!("memtrace stuck --pid {} -v        where each thread waits", case.stuck.pid)],
        about: Some(about.tid),
        ..Finding::default()
    })
}

/// Many threads, and each waits for another one or for something to do: no one of them is the reason. What a virtual machine
/// or interpreter parks its threads with looks the same for a worker without work and for two that block each other.
fn nobody_runs(case: &Case<'_>) -> Option<Finding> {
    let threads = &case.stuck.threads;
    let waits = |state: &State| {
        matches!(state, State::BlockedFutex | State::BlockedSemaphore | State::BlockedPoll | State::BlockedSleep)
    };
    let mut states: BTreeMap<State, usize> = BTreeMap::new();
    for thread in threads {
        *states.entry(main_state(thread).filter(waits)?).or_default() += 1;
    }
    // Threads that take turns wait most of their time, each, and are busy together.
    if is_busy(threads, BUSY) {
        return None;
    }
    // One state alone is told with its object; and who only waits for time or work is not kept by a thread.
    let for_another = |state: &State| matches!(state, State::BlockedFutex | State::BlockedSemaphore);
    if states.len() < 2 || !case.top().is_some_and(|top| for_another(&top.state)) {
        return None;
    }
    let mut states: Vec<(State, usize)> = states.into_iter().collect();
    states.sort_by_key(|&(state, threads)| (Reverse(threads), state));
    let words = |state: State| match state {
        State::BlockedFutex => "for a mutex or condition",
        State::BlockedSemaphore => "for a semaphore",
        State::BlockedPoll => "for any of several descriptors",
        _ => "for a time to pass",
    };
    let parts: Vec<String> = states.iter().map(|&(state, threads)| format!("{threads} {}", words(state))).collect();
    let (state, _) = *states.iter().find(|(state, _)| for_another(state))?;
    let of_state = |thread: &&ThreadTimes| main_state(thread) == Some(state);
    let about = threads.iter().find(|thread| thread.tid == case.stuck.pid).filter(of_state);
    let about = about.or_else(|| threads.iter().find(of_state))?;
    Some(Finding {
        state: Some(state),
        memory: Some(false),
        sentence: format!("No thread works: all {} waited in {}, {}", threads.len(), case.window(), parts.join(", ")),
        about: Some(about.tid),
        ..Finding::default()
    })
}

/// Threads wait for mmap_lock, and who decides by its time is the one that holds it longest, or one beside the most: that it
/// works is no comfort to those that wait for it.
fn locked_out(case: &Case<'_>) -> Option<Finding> {
    let threads = &case.stuck.threads;
    let waits = |thread: &ThreadTimes| main_state(thread) == Some(State::MmapLock);
    if waits(case.lead) {
        return None;
    }
    let first = threads.iter().find(|thread| waits(thread))?;
    let idle = |thread: &ThreadTimes| matches!(main_state(thread), Some(State::BlockedPoll | State::BlockedSleep));
    let waiting = threads.iter().filter(|thread| waits(thread)).count();
    let others = threads.iter().filter(|thread| !waits(thread) && !idle(thread)).count();
    let holds = case.stuck.holds.iter().max_by_key(|hold| hold.ns).is_some_and(|hold| hold.tid == case.lead.tid);
    if !holds && waiting <= others {
        return None;
    }
    let found = by_share(&Case { stuck: case.stuck, lead: first, families: families(first) });
    Some(Finding { about: Some(first.tid), ..found })
}

/// `100 % of 5.0 s`: the lead's time in a state, or that of all threads that are in it, where they are several.
fn portion(case: &Case<'_>, state: State, threads: usize) -> String {
    let (mut ns, mut total) = (0_u64, 0_u64);
    for thread in &case.stuck.threads {
        if thread.tid == case.lead.tid || threads > 1 && main_state(thread) == Some(state) {
            let of_state = thread.shares.iter().filter(|share| share.state == state);
            ns = ns.saturating_add(of_state.map(|share| share.ns).fold(0, u64::saturating_add));
            total = total.saturating_add(thread.total_ns);
        }
    }
    format!("{} of {}", percent(ns, total).unwrap_or_default(), case.window())
}

/// It began before we came and has not ended.
fn since(case: &Case<'_>, state: State) -> &'static str {
    match case.share(state) {
        Some(share) if share.since_attach && share.count == 0 => " (and since before attach)",
        _ => "",
    }
}

/// The largest family, where it leads.
fn by_share(case: &Case<'_>) -> Finding {
    let Some(top) = case.top() else { return Finding::default() };
    let unaccounted = case.share(State::Unaccounted).map_or(0, |share| share.ns);
    let second = case.families.iter().skip(1).find(|sum| sum.state != State::Unaccounted);
    if let Some(second) = second {
        let margin = top.ns - second.ns;
        let least = case.lead.total_ns / 100 * LEAD;
        if margin < least || margin <= unaccounted.saturating_add(top.bound_ns) && !is_most(top.ns, case.lead.total_ns)
        {
            return undecided(case, top, *second);
        }
    }
    let all = case.in_state(top.state);
    let whole = case.stuck.threads.len();
    let mut said = format!("{}{} {}", portion(case, top.state, all), since(case, top.state), in_words(case, top.state));
    if top.state == State::CpuUser
        && all == 1
        && let Some(function) = main_function(case.lead)
    {
        said.push_str(&format!(", most of it in {function}"));
    }
    let sentence = match case.who() {
        Some(_) if all > 1 && all == whole => format!("All {all} threads: {said}"),
        Some(_) if all > 1 => format!("{all} of {whole} threads: {said}"),
        Some(who) => format!("{}: {said}", capital(&who)),
        None => said,
    };
    let sentence = format!("{sentence}{}", relatives(case, top.state));
    Finding { state: Some(top.state), memory: is_memory(case, top.state), sentence, ..Finding::default() }
}

/// The lead's state in words, where its largest share stands for it.
fn in_words(case: &Case<'_>, state: State) -> String {
    phrase::phrase(state, case.share(state), case.lead)
}

/// Other states of the family: `, 4 % reclaiming memory itself`.
fn relatives(case: &Case<'_>, top: State) -> String {
    let mut others: Vec<(State, u64)> = Vec::new();
    for share in case.lead.shares.iter().filter(|share| share.state != top && family(share.state) == family(top)) {
        match others.iter_mut().find(|(state, _)| *state == share.state) {
            Some((_, ns)) => *ns = ns.saturating_add(share.ns),
            None => others.push((share.state, share.ns)),
        }
    }
    others.sort_by_key(|&(state, ns)| (Reverse(ns), state));
    let telling = others.iter().filter(|(_, ns)| u128::from(*ns) * 100 >= u128::from(case.lead.total_ns));
    let tell = |(state, ns): &(State, u64)| {
        let share = percent(*ns, case.lead.total_ns).unwrap_or_default();
        format!(", {share} {}", in_words(case, *state))
    };
    telling.take(2).map(tell).collect()
}

fn undecided(case: &Case<'_>, top: Sum, second: Sum) -> Finding {
    let say = |sum: Sum| {
        let share = percent(sum.largest_ns, case.lead.total_ns).unwrap_or_default();
        format!("{share} {}{}", in_words(case, sum.state), relatives(case, sum.state))
    };
    let who = case.who().map_or(String::new(), |who| format!("{}: ", capital(&who)));
    let both = [top.state, second.state].map(|state| is_memory(case, state));
    Finding {
        state: None,
        memory: both[0].filter(|_| both[0] == both[1]),
        sentence: format!("{who}Of {}, {} and {}: neither decides", case.window(), say(top), say(second)),
        between: vec![top.state, second.state],
        ..Finding::default()
    }
}

/// Whether a state is memory's doing.
fn is_memory(case: &Case<'_>, state: State) -> Option<bool> {
    match state {
        State::CpuKernel => {
            let nr = case.share(state).and_then(|share| share.nr).and_then(syscalls::name);
            let of_memory = [
                "mmap",
                "munmap",
                "mremap",
                "mprotect",
                "madvise",
                "process_madvise",
                "brk",
                "mlock",
                "mlock2",
                "mlockall",
            ];
            Some(nr.is_some_and(|name| of_memory.contains(&name)))
        }
        // The kernel's functions say, where they may be seen; a state alone does not.
        State::Uninterruptible if case.lead.waits.iter().all(|wait| wait.kernel.is_empty()) => None,
        state => Some(state.is_memory()),
    }
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or(String::new(), |first| first.to_uppercase().chain(characters).collect())
}
