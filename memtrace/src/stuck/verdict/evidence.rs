//! The facts that support a verdict, one each: the statement, where it waits, what its memory did, what surrounds it.
//! A fact that has nothing to do with the verdict and is not alarming is left out.

use super::{Case, Finding, named};
use crate::event::{Pressures, WaitObject};
use crate::stuck::{Function, State, ThreadTimes, Waiting};
use crate::syscalls;
use crate::units::Amounts;
use crate::views::escape;
use crate::views::fold;
use crate::views::human::{count, counted, duration, percent, percent_within, signed_size, size};
use std::collections::BTreeMap;

/// Groups that are told to be frozen.
const GROUPS: usize = 3;
/// Functions that are told of a thread's own code.
const FUNCTIONS: usize = 4;
/// Names of a stack.
const FRAMES: usize = 8;
/// Pressure below this many thousandths is not worth a word.
const PRESSED: u64 = 10;

pub(super) fn evidence(case: &Case<'_>, found: &Finding) -> Vec<(&'static str, String)> {
    let states: Vec<State> = found.state.iter().chain(&found.between).copied().collect();
    let is = |wanted: &[State]| states.iter().any(|state| wanted.contains(state));
    let mut facts = super::database::facts(case);
    // A server's own word says more than the descriptors that it waits on.
    let has_word = facts.iter().any(|(about, _)| ["client", "waits"].contains(about));
    let mut tell = |about, fact: Option<String>| facts.extend(fact.map(|fact| (about, fact)));
    // Where a thread waits now and then is no place of what it does on a CPU, or would do.
    let on_cpu = [State::CpuUser, State::CpuKernel, State::Cpu, State::Runnable, State::Throttled];
    tell("where", place(case).filter(|_| !is(&on_cpu)));
    tell("code", code(case).filter(|_| is(&[State::CpuUser, State::Runnable, State::Throttled])));
    tell("object", object(case, &states).filter(|_| !has_word));
    tell("longest", longest(case, &states));
    tell("threads", threads(case));
    tell("kept", kept(case));
    tell("memory", memory(case));
    if is(&[State::MmapLock]) {
        tell("held by", holders(case));
    }
    let of_memory = states.iter().any(|state| state.is_memory());
    tell("cgroup", cgroup(case, of_memory, is(&[State::Throttled, State::Frozen])));
    if of_memory {
        tell(
            "grew",
            growing(case).filter(|(_, _, grown)| *grown > 0).map(|(pid, comm, grown)| {
                format!("process {} in the same cgroup: {}", named(pid, &comm), signed_size(grown))
            }),
        );
    }
    if is(&[State::Runnable, State::Throttled]) {
        tell("machine", load(case));
    }
    let kinds = [
        ("memory", of_memory),
        ("I/O", of_memory || is(&[State::BlockedFileIo, State::Uninterruptible])),
        ("CPU", is(&[State::Runnable, State::Throttled])),
    ];
    tell("pressure", pressure(case, &kinds));
    facts
}

/// What the deciding thread ran: `of its own code: hash_search (postgres) 61 % ±3, …`.
pub(super) fn code(case: &Case<'_>) -> Option<String> {
    let own_ns = case.share(State::CpuUser)?.ns;
    let tell = |function: &Function| {
        format!("{} {}", fold::function_name(function), percent_within(function.ns, function.bound_ns, own_ns))
    };
    let telling = |function: &&Function| u128::from(function.ns) * 100 >= u128::from(own_ns);
    let told: Vec<String> = case.lead.ran.iter().take(FUNCTIONS).filter(telling).map(tell).collect();
    (!told.is_empty()).then(|| format!("of its own code: {}", told.join(", ")))
}

/// The function that the thread's own code spent most of its time in, where the samples leave no doubt that it is most.
pub(crate) fn main_function(thread: &ThreadTimes) -> Option<String> {
    let (own, first) = (thread.share(State::CpuUser)?, thread.ran.first()?);
    (first.ns.saturating_sub(first.bound_ns) > own.ns / 2).then(|| fold::function_name(first))
}

/// Where the deciding thread waits.
fn place(case: &Case<'_>) -> Option<String> {
    let first = case.lead.waits.first()?;
    let mut text = waiting(first, case.lead.shares.first().and_then(|share| share.nr))?;
    if first.seen < first.looks {
        text.push_str(&format!(" (in {} of {} looks)", count(first.seen), count(first.looks)));
    }
    Some(text)
}

/// A stack in one line, the system call first; the kernel's function where its own stack is not known.
pub(crate) fn waiting(wait: &Waiting, nr: Option<u32>) -> Option<String> {
    let stack = wait.stack.as_ref().map(|stack| fold::short(stack, FRAMES)).filter(|text| !text.is_empty());
    let call = nr.and_then(syscalls::name);
    match (stack, call) {
        (Some(stack), Some(call)) if !stack.starts_with(call) => Some(format!("{call} ← {stack}")),
        (Some(stack), _) => Some(stack),
        (None, _) => super::phrase::channel(&wait.kernel).map(|name| format!("in the kernel, in {name}")),
    }
}

/// What a sentence has no room for.
fn object(case: &Case<'_>, states: &[State]) -> Option<String> {
    let share = states.iter().find_map(|&state| case.share(state))?;
    match &share.object {
        WaitObject::Socket { fd, local, queued, .. } => {
            let mut text = format!("descriptor {fd}");
            if !local.is_empty() {
                text.push_str(&format!(", from {}", escape(local, 100)));
            }
            if let Some((to_send, to_read)) = queued {
                text.push_str(&format!(
                    "; {} not taken by the other side, {} not read",
                    size(*to_send),
                    size(*to_read)
                ));
            }
            Some(text)
        }
        WaitObject::FilePage { offset, .. } => Some(format!("last at byte {}", count(*offset))),
        WaitObject::File { fd, .. } if *fd >= 0 => Some(format!("descriptor {fd}")),
        WaitObject::Descriptors { of, total, .. } if *total > 1 => {
            let shown: Vec<String> = of.iter().take(4).map(|(fd, path)| format!("{fd} {}", escape(path, 40))).collect();
            let more = (*total as usize).saturating_sub(shown.len());
            let rest = if more > 0 { format!(" and {} more", count(more as u64)) } else { String::new() };
            (!shown.is_empty()).then(|| format!("{}{rest}", shown.join(", ")))
        }
        _ => None,
    }
}

/// The longest of many waits, where they have an end.
fn longest(case: &Case<'_>, states: &[State]) -> Option<String> {
    let share = states.iter().find_map(|&state| case.share(state)).filter(|share| share.count > 1)?;
    (share.max_ns > 0).then(|| format!("{} of {}", duration(share.max_ns), counted(share.count, "wait", "waits")))
}

/// How many threads were in what.
fn threads(case: &Case<'_>) -> Option<String> {
    let all = &case.stuck.threads;
    if all.len() < 2 {
        return None;
    }
    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    for thread in all {
        *states.entry(super::main_state(thread).map_or("several", State::name)).or_default() += 1;
    }
    let mut states: Vec<(&str, u64)> = states.into_iter().collect();
    states.sort_by_key(|&(name, n)| (std::cmp::Reverse(n), name));
    let shown: Vec<String> = states.iter().take(6).map(|(name, n)| format!("{} {name}", count(*n))).collect();
    Some(format!("{}: {}", count(all.len() as u64), shown.join(", ")))
}

/// Threads that wait for a mutex of the deciding one.
fn kept(case: &Case<'_>) -> Option<String> {
    let for_it = |thread: &ThreadTimes| super::waits_on(thread).is_some_and(|(_, owner)| owner == case.lead.tid);
    let waiters = case.stuck.threads.iter().filter(|thread| for_it(thread));
    let names: Vec<String> = waiters.map(|thread| named(thread.tid, &thread.comm)).collect();
    let shown = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(3);
    let rest = if more > 0 { format!(" and {} more", count(more as u64)) } else { String::new() };
    (!names.is_empty()).then(|| format!("waiting for a mutex that it holds: thread {shown}{rest}"))
}

/// What the ledger says of the window.
fn memory(case: &Case<'_>) -> Option<String> {
    let memory = case.stuck.memory?;
    let bytes = |pages: i64| u64::try_from(pages).unwrap_or(0).saturating_mul(case.stuck.page_size);
    let change = memory.closing.res().saturating_sub(memory.opening.res());
    let mut text = format!("RES {}", size(bytes(memory.closing.res())));
    if change == 0 {
        let quiet = memory.moved_ns.map_or(case.stuck.start_ns, |moved| moved.max(case.stuck.start_ns));
        let unmoved = memory.moved_ns.is_none_or(|moved| moved <= case.stuck.start_ns);
        let since = case.stuck.ts_ns.saturating_sub(quiet);
        text.push_str(&if unmoved {
            format!(", unchanged in {}", duration(since))
        } else {
            ", as at the begin".to_owned()
        });
    } else {
        let page = i64::try_from(case.stuck.page_size).unwrap_or(4096);
        text.push_str(&format!(", {} in the window", signed_size(change.saturating_mul(page))));
    }
    let faults = memory.faults;
    let shown = |n: i64| u64::try_from(n).unwrap_or(0);
    text.push_str(&format!("; {}", counted(shown(faults.minor), "minor fault", "minor faults")));
    text.push_str(&format!(", {} major", count(shown(faults.major))));
    text.push_str(&format!(", {}", counted(memory.swapped_in, "swap-in", "swap-ins")));
    if memory.reclaimed > 0 {
        let taken = memory.reclaimed.saturating_mul(case.stuck.page_size);
        text.push_str(&format!("; reclaim took {} of it", size(taken)));
    }
    let Amounts { swap, .. } = memory.closing;
    if swap > 0 {
        text.push_str(&format!("; {} of it in swap", size(bytes(swap))));
    }
    Some(text)
}

/// Who held mmap_lock longest.
fn holders(case: &Case<'_>) -> Option<String> {
    let holds = &case.stuck.holds;
    let window = case.stuck.ts_ns.saturating_sub(case.stuck.start_ns);
    let shown: Vec<String> = holds
        .iter()
        .take(3)
        .map(|hold| {
            format!(
                "thread {} {}{} ({}, longest {})",
                named(hold.tid, &hold.comm),
                percent(hold.ns, window).unwrap_or_default(),
                if hold.write { " for writing" } else { " for reading" },
                counted(hold.count, "time", "times"),
                duration(hold.max_ns)
            )
        })
        .collect();
    (!shown.is_empty()).then(|| shown.join("; "))
}

/// The cgroup's limits, where they have to do with it, each with the group that has it.
fn cgroup<'a>(case: &'a Case<'_>, of_memory: bool, of_cpu: bool) -> Option<String> {
    let (first, last) = case.stuck.surroundings.as_ref()?;
    let (before, now) = (first.cgroup.as_ref(), last.cgroup.as_ref()?);
    let mut groups: Vec<(&[u8], Vec<String>)> = Vec::new();
    let mut tell = |group: &'a [u8], fact: String| match groups.iter_mut().find(|(known, _)| *known == group) {
        Some((_, facts)) => facts.push(fact),
        None => groups.push((group, vec![fact])),
    };
    let hits =
        now.limit_hits.zip(before.and_then(|group| group.limit_hits)).map(|(now, then)| now.saturating_sub(then));
    if let Some((used, limit)) = now.memory
        && (of_memory || hits.is_some_and(|hits| hits > 0))
    {
        match limit {
            Some(limit) => tell(&now.path, format!("{} of {}", size(used), size(limit))),
            None => tell(&now.path, format!("{}, no limit", size(used))),
        }
        if let Some(hits) = hits.filter(|&hits| hits > 0) {
            tell(&now.path, format!("limit hit {} meanwhile", counted(hits, "time", "times")));
        }
    }
    let same = before.filter(|before| before.quota_file == now.quota_file);
    if let Some((ns, quota)) = now.throttled
        && of_cpu
    {
        let group = group_of(&now.quota_file);
        if let Some((quota, period)) = quota {
            tell(group, format!("may use {} of CPU time in each {}", duration(quota), duration(period)));
        }
        if let Some((then, _)) = same.and_then(|before| before.throttled).filter(|&(then, _)| then < ns) {
            tell(group, format!("throttled for {} in all", duration(ns - then)));
        }
    }
    if now.frozen == Some(true) && now.frozen_by.is_empty() {
        tell(b"its cgroup", "frozen".to_owned());
    }
    for file in now.frozen_by.iter().take(GROUPS) {
        tell(group_of(file), "frozen".to_owned());
    }
    let told = |(group, facts): (&[u8], Vec<String>)| {
        let group = if group.is_empty() { "/".to_owned() } else { escape(group, 120) };
        format!("{group}: {}", facts.join("; "))
    };
    (!groups.is_empty()).then(|| groups.into_iter().map(told).collect::<Vec<_>>().join("; "))
}

/// The directory of a cgroup, of a file in it.
fn group_of(file: &[u8]) -> &[u8] {
    &file[..memchr::memrchr(b'/', file).unwrap_or(0)]
}

/// The other process of the cgroup that grew most in the window, or else the largest.
pub(super) fn growing(case: &Case<'_>) -> Option<(u32, Vec<u8>, i64)> {
    let (first, last) = case.stuck.surroundings.as_ref()?;
    let before: BTreeMap<u32, u64> =
        first.cgroup.iter().flat_map(|group| &group.others).map(|(pid, _, res)| (*pid, *res)).collect();
    let others = &last.cgroup.as_ref()?.others;
    let grown = |pid: &u32, res: u64| {
        let then = before.get(pid).copied().unwrap_or(res);
        i64::try_from(res).unwrap_or(i64::MAX).saturating_sub(i64::try_from(then).unwrap_or(i64::MAX))
    };
    let most = others.iter().max_by_key(|(pid, _, res)| (grown(pid, *res), *res))?;
    Some((most.0, most.1.clone(), grown(&most.0, most.2)))
}

/// How many want a CPU.
fn load(case: &Case<'_>) -> Option<String> {
    let (_, last) = case.stuck.surroundings.as_ref()?;
    if last.cpus == 0 {
        return None;
    }
    let may = if last.allowed_cpus < last.cpus {
        format!(", of which this process may use {}", count(u64::from(last.allowed_cpus)))
    } else {
        String::new()
    };
    Some(format!(
        "{} ready to run or running, on {}{may}",
        count(u64::from(last.running)),
        counted(u64::from(last.cpus), "CPU", "CPUs")
    ))
}

/// Stall times, some and full.
type Stalls = (u64, u64);

/// Pressure in the window of the kinds that matter, of the cgroup or else of the machine.
fn pressure(case: &Case<'_>, wanted: &[(&str, bool)]) -> Option<String> {
    let (first, last) = case.stuck.surroundings.as_ref()?;
    let window = last.ts_ns.saturating_sub(first.ts_ns);
    let of = |before: &Pressures, now: &Pressures| -> Vec<String> {
        let kinds = [
            ("memory", before.memory.zip(now.memory)),
            ("I/O", before.io.zip(now.io)),
            ("CPU", before.cpu.zip(now.cpu)),
        ];
        let tell = |(name, pair): (&str, Option<(Stalls, Stalls)>)| {
            let (then, now) = pair.filter(|_| wanted.contains(&(name, true)))?;
            let (some, full) = (now.0.saturating_sub(then.0), now.1.saturating_sub(then.1));
            let pressed = u128::from(some) * 1000 >= u128::from(window) * u128::from(PRESSED);
            let share = |ns: u64| percent(ns.min(window), window).unwrap_or_default();
            pressed.then(|| format!("{name} some {}, full {}", share(some), share(full)))
        };
        kinds.into_iter().filter_map(tell).collect()
    };
    if window == 0 {
        return None;
    }
    let group = first.cgroup.as_ref().zip(last.cgroup.as_ref());
    let (whose, told) = match group.map(|(before, now)| of(&before.pressure, &now.pressure)) {
        Some(told) if !told.is_empty() => ("its cgroup's", told),
        _ => ("the machine's", of(&first.machine, &last.machine)),
    };
    (!told.is_empty()).then(|| format!("{whose} {}", told.join("; ")))
}
