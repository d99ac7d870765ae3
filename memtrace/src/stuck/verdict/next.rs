//! What to run next, by state. The line to type first, then what it shows.

use super::{Case, Finding};
use crate::event::{Cgroup, WaitObject};
use crate::stuck::{Share, State};
use crate::views::shell_word;

/// Longest path in a line to type, with the name of a file.
const PATH: usize = 500;
/// Groups that are told how to thaw.
const GROUPS: usize = 3;

/// For the verdict's state; for both where it lies between two.
pub(super) fn next(case: &Case<'_>, found: &Finding) -> Vec<String> {
    let mut next = Vec::new();
    for state in found.state.iter().chain(&found.between) {
        let lines = super::database::before(case, *state);
        for line in lines.into_iter().chain(for_state(case, *state, case.share(*state))) {
            if !next.contains(&line) {
                next.push(line);
            }
        }
    }
    if found.state.is_none() {
        next.push(format!("memtrace stuck --pid {} --duration 30s        longer, for what decides", case.stuck.pid));
    }
    next
}

fn for_state(case: &Case<'_>, state: State, share: Option<&Share>) -> Vec<String> {
    let pid = case.stuck.pid;
    let tid = case.lead.tid;
    let window = case.stuck.ts_ns.saturating_sub(case.stuck.start_ns);
    // A hundredth: less is what any reader of /proc holds, this program too.
    let is_worth = |ns: u64, of: u64| ns >= of / 100;
    let stuck = |pid: u32, why: &str| vec![format!("memtrace stuck --pid {pid}        {why}")];
    let object = share.map_or(&WaitObject::Unknown, |share| &share.object);
    match (state, object) {
        (State::CpuUser | State::CpuKernel | State::Cpu, _) => {
            let known = state == State::CpuUser && super::evidence::code(case).is_some();
            let which = if known { "who calls that code" } else { "which code" };
            vec![
                format!("perf top -g -t {tid}        {which}"),
                format!("memtrace --pid {pid}        whether it touches new memory"),
            ]
        }
        (State::FaultMinor | State::FaultCow | State::FaultThp, _) => {
            let mut lines = vec![format!("memtrace --pid {pid}        which code touches which memory")];
            if state == State::FaultThp {
                lines.push(
                    "cat /sys/kernel/mm/transparent_hugepage/enabled        madvise or never spares it".to_owned(),
                );
            }
            lines
        }
        (State::FaultFileRead | State::BlockedFileIo, _) => vec![
            "iostat -x 1        how busy the device is".to_owned(),
            format!("memtrace snapshot --pid {pid}        how much of its files is in memory"),
        ],
        (State::FaultSwapin | State::ReclaimMemcg | State::ReclaimDirect, _) => {
            let mut lines: Vec<String> = Vec::new();
            if let Some((other, _, _)) = super::evidence::growing(case) {
                lines.push(format!("memtrace --pid {other}        why that one grows"));
            }
            if let Some(path) = group(case).filter(|group| group.path.len() > 1).and_then(|group| word(&group.path)) {
                lines.push(format!("memtrace snapshot --cgroup {path}        who has the memory of the cgroup"));
            }
            lines.push("vmstat 1        si, so: whether swapping goes on".to_owned());
            lines
        }
        (State::MmapLock, _) => match case.stuck.holds.iter().find(|hold| hold.tid != tid && is_worth(hold.ns, window))
        {
            Some(hold) if case.thread(hold.tid).is_none() => {
                vec![format!("ps -o pid,comm,args -p {}        who holds the lock from outside", hold.tid)]
            }
            None if case.stuck.holds.is_empty() => {
                vec![format!(
                    "cat /proc/{pid}/task/*/stack        who is in a call that maps: it has had the lock since before"
                )]
            }
            _ => vec![format!("memtrace --pid {pid} -v        which code maps and unmaps so often")],
        },
        (State::Runnable, _) => vec!["top -o %CPU        who has the CPUs".to_owned()],
        (State::Throttled, _) => match group(case).and_then(|group| quota(&group.quota_file)) {
            Some(files) => vec![format!("cat {files}        the quota")],
            None => vec![format!("cat /proc/{pid}/cgroup        then its cpu.max (version 1: cpu.cfs_quota_us)")],
        },
        (State::BlockedFlock, WaitObject::FileLock { holder: Some((holder, _)), .. }) => stuck(*holder, "who holds it"),
        (State::BlockedFlock, _) => vec!["cat /proc/locks        who holds it".to_owned()],
        (State::BlockedSocket, WaitObject::Socket { process: Some((peer, _)), .. }) => {
            stuck(*peer, "the other side of the connection")
        }
        (State::BlockedSocket, _) => vec![format!("ss -anp | grep pid={pid},        who is at the other side")],
        (State::BlockedPipe, WaitObject::Pipe { others, .. }) if !others.is_empty() => {
            match others.iter().filter(|(other, _)| *other != pid).take(2).collect::<Vec<_>>() {
                none if none.is_empty() => {
                    vec!["only a signal ends it: nobody else has either end of the pipe".to_owned()]
                }
                some => some.into_iter().flat_map(|(other, _)| stuck(*other, "the other end of the pipe")).collect(),
            }
        }
        (State::BlockedPipe, WaitObject::File { fd: ..0, .. }) => {
            vec!["it goes on when another process opens the other end: look for who should have".to_owned()]
        }
        (State::BlockedPipe, _) => vec![format!("ls -l /proc/{pid}/fd; lsof -E        who has the other end")],
        (State::BlockedChild, WaitObject::Child { pid: child }) if *child > 0 => stuck(*child, "the child"),
        (State::BlockedChild, _) => {
            vec![format!("ps --ppid {pid} -o pid,stat,args        then memtrace stuck --pid CHILD")]
        }
        (State::BlockedFutex | State::BlockedSemaphore, WaitObject::Futex { owner: Some(owner), .. }) => {
            vec![format!("memtrace stuck --pid {pid} -v        what thread {owner} does")]
        }
        (State::BlockedFutex | State::BlockedSemaphore, WaitObject::SystemV { id }) => {
            vec![format!("ipcs -s -i {id}        who used it last")]
        }
        (State::BlockedFutex | State::BlockedSemaphore, _) => {
            let mut lines: Vec<String> = dump(case).into_iter().collect();
            lines.push(match case.stuck.threads.len() {
                1 => "it has no other thread: who wakes it is another process that shares this memory, or a signal"
                    .to_owned(),
                _ => format!("memtrace stuck --pid {pid} -v        where each thread waits: one of them must wake it"),
            });
            lines
        }
        (State::BlockedPoll, WaitObject::Descriptors { total: 1, .. }) => {
            vec![format!("ss -anp | grep pid={pid},        who is at the other side")]
        }
        (State::BlockedPoll | State::BlockedSleep, _) => {
            vec![format!(
                "nothing, if that is as it should be; else: ps --ppid {pid} -o pid,stat,args        whether a child is what is stuck"
            )]
        }
        (State::Stopped, _) => vec![format!("kill -CONT {pid}")],
        (State::Traced, WaitObject::Tracer { pid: tracer, .. }) => {
            vec![format!("ps -o pid,comm,args -p {tracer}        the debugger: continue or detach there")]
        }
        (State::Traced, _) => {
            vec![format!("grep TracerPid /proc/{pid}/status        the debugger: continue or detach there")]
        }
        (State::Frozen, _) => {
            let files = group(case).map_or(&[][..], |group| &group.frozen_by);
            let mut lines: Vec<String> = files.iter().take(GROUPS).filter_map(|file| thaw(file)).collect();
            if lines.len() < files.len() || lines.is_empty() {
                lines.push(format!(
                    "cat /proc/{pid}/cgroup        then echo 0 > …/cgroup.freeze (version 1: THAWED > …/freezer.state)"
                ));
            }
            lines
        }
        (State::Uninterruptible, _) => vec![
            format!("cat /proc/{tid}/stack        again: whether it moves"),
            "dmesg | tail        what the kernel says of its devices".to_owned(),
        ],
        (State::BlockedOther, _) => {
            vec![format!("cat /proc/{tid}/syscall /proc/{tid}/stack        again: whether it moves")]
        }
        (State::Unaccounted, _) => vec!["memtrace doctor".to_owned()],
    }
}

/// What names the locks of a program whose locks are not the C library's.
fn dump(case: &Case<'_>) -> Option<String> {
    let stacks = case.stuck.threads.iter().filter_map(|thread| thread.waits.first()?.stack.as_ref());
    let mut modules = stacks.flat_map(|stack| &stack.frames).map(|frame| frame.module.as_slice());
    let file = |module: &[u8]| module.rsplit(|&byte| byte == b'/').next().unwrap_or_default().to_owned();
    let pid = case.stuck.pid;
    modules.find_map(|module| match file(module) {
        name if name == b"libjvm.so" => {
            Some(format!("jcmd {pid} Thread.print        which Java thread waits for whom: it finds deadlocks"))
        }
        name if name.starts_with(b"python3") || name.starts_with(b"libpython3") => {
            Some(format!("py-spy dump --pid {pid}        where each Python thread is"))
        }
        _ => None,
    })
}

/// Its cgroup, as the window ends.
fn group<'a>(case: &Case<'a>) -> Option<&'a Cgroup> {
    case.stuck.surroundings.as_ref()?.1.cgroup.as_ref()
}

/// A path as one types it.
fn word(path: &[u8]) -> Option<String> {
    shell_word(path, PATH)
}

/// The file that has a quota, and the one that says what came of it.
fn quota(file: &[u8]) -> Option<String> {
    let group = file.strip_suffix(b"/cpu.max").or_else(|| file.strip_suffix(b"/cpu.cfs_quota_us"))?;
    Some(format!("{} {}", word(file)?, word(&[group, b"/cpu.stat"].concat())?))
}

/// What thaws the group whose file this is.
fn thaw(file: &[u8]) -> Option<String> {
    let thawed = if file.ends_with(b"/freezer.state") { "THAWED" } else { "0" };
    Some(format!("echo {thawed} > {}", word(file)?))
}
