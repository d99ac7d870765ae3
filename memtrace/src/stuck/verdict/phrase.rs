//! What a thread was doing, in words that follow "94 % of 5.0 s".

use super::{CONDITIONS, JOINS, NAME, TURNS, is_below, named};
use crate::event::WaitObject;
use crate::statement::Kind;
use crate::stuck::{Share, State, ThreadTimes};
use crate::views::escape;
use crate::views::human::{count, duration};
use crate::views::words::{mapping_phrase, syscall_label};

/// Longest path in a sentence.
const PATH: usize = 80;

/// A server's name as its people write it.
pub(super) fn server(name: &str) -> String {
    match name {
        "postgresql" => "PostgreSQL".to_owned(),
        "mariadb" => "MariaDB".to_owned(),
        "mysql" => "MySQL".to_owned(),
        other => escape(other.as_bytes(), NAME),
    }
}

/// The state in words.
pub(super) fn phrase(state: State, share: Option<&Share>, thread: &ThreadTimes) -> String {
    let call = share.and_then(|share| share.nr).map(syscall_label);
    let in_call = call.as_ref().map_or(String::new(), |call| format!(" ({call})"));
    let object = share.map_or(&WaitObject::Unknown, |share| &share.object);
    match state {
        State::CpuUser => "on a CPU, in its own code".to_owned(),
        State::CpuKernel => match &call {
            Some(call) => format!("on a CPU, in the kernel, in {call}"),
            None => "on a CPU, in the kernel".to_owned(),
        },
        State::Cpu => "on a CPU".to_owned(),
        State::FaultMinor => format!("in page faults{} that needed no device{}", on(share), each(share)),
        State::FaultSwapin => format!("in swap-in faults{}{}", on(share), each(share)),
        State::FaultFileRead => match object {
            WaitObject::FilePage { path, .. } => {
                format!("in page faults that read {}{}", escape(path, PATH), each(share))
            }
            _ => format!("in page faults that read a file{}", each(share)),
        },
        State::FaultCow => format!("in page faults{} that copy pages: shared since a fork, or a file's own", on(share)),
        State::FaultThp => format!("in page faults{} that clear huge pages", on(share)),
        State::MmapLock => "waiting for the lock on its address space (mmap_lock)".to_owned(),
        State::ReclaimDirect => "reclaiming memory itself, because the machine has none left".to_owned(),
        State::ReclaimMemcg => "reclaiming memory itself, because its cgroup is at its limit".to_owned(),
        State::Runnable => "ready to run, without a CPU to run on".to_owned(),
        State::Throttled => {
            let told = "kept from the CPU: its cgroup had used up its CPU time";
            match share.filter(|share| share.bound_ns > 0) {
                Some(share) => format!("{told}, {} of it surely", duration(share.ns.saturating_sub(share.bound_ns))),
                None => told.to_owned(),
            }
        }
        State::BlockedFutex if is_below(thread, TURNS) => {
            "waiting for its turn: one thread of Python runs at a time (take_gil)".to_owned()
        }
        State::BlockedFutex if is_below(thread, JOINS) => "waiting for another thread's end".to_owned(),
        State::BlockedFutex if is_below(thread, CONDITIONS) => {
            "waiting for a condition that another thread must signal".to_owned()
        }
        State::BlockedFutex => match object {
            WaitObject::Futex { owner: Some(owner), .. } => {
                // Waits that ended may have been for others.
                let held = if share.is_some_and(|share| share.count == 0) { "held" } else { "last seen held" };
                format!("waiting for a mutex {held} by thread {owner}")
            }
            WaitObject::Futex { address, mapping, .. } if !mapping.is_empty() => {
                format!("waiting for a mutex or condition at {address:#x} in {}", escape(mapping, PATH))
            }
            WaitObject::Futex { address, .. } => format!("waiting for a mutex or condition at {address:#x}"),
            _ => "waiting for a mutex or condition".to_owned(),
        },
        State::BlockedSemaphore => match object {
            WaitObject::SystemV { id } => format!("waiting for a semaphore of the set {id}{in_call}"),
            _ => "waiting for a semaphore that another thread or process must post".to_owned(),
        },
        State::BlockedFileIo => format!("waiting for {}{in_call}", file(object, "a file")),
        State::BlockedSocket if matches!(call.as_deref(), Some("accept" | "accept4")) => match object {
            WaitObject::Socket { local, .. } if !local.is_empty() => {
                format!("waiting for somebody to connect to {}{in_call}", escape(local, PATH))
            }
            _ => format!("waiting for somebody to connect{in_call}"),
        },
        State::BlockedSocket => match object {
            WaitObject::Socket { protocol, peer, process, .. } => {
                let protocol = escape(protocol.as_bytes(), 16);
                let mut text = format!("waiting for the other side of a {protocol} connection{in_call}");
                if !peer.is_empty() {
                    text.push_str(&format!(": {}", escape(peer, PATH)));
                }
                if let Some((pid, comm)) = process {
                    text.push_str(&format!(", process {}", named(*pid, comm)));
                }
                text
            }
            _ => format!("waiting for the other side of a connection{in_call}"),
        },
        State::BlockedPipe => match object {
            WaitObject::Pipe { others, .. }
                if others.iter().any(|(pid, _)| *pid == thread.tid) && others.len() == 1 =>
            {
                format!("waiting for the other end of a pipe{in_call}, which nobody has but itself")
            }
            WaitObject::Pipe { others, .. } if !others.is_empty() => {
                let names: Vec<String> = others.iter().take(3).map(|(pid, comm)| named(*pid, comm)).collect();
                format!("waiting for the other end of a pipe{in_call}: process {}", names.join(", "))
            }
            WaitObject::File { fd: ..0, path, .. } => {
                format!("waiting for somebody to open the other end of {}{in_call}", escape(path, PATH))
            }
            _ => format!("waiting for the other end of a pipe{in_call}"),
        },
        State::BlockedFlock => match object {
            WaitObject::FileLock { path, holder, .. } => {
                let mut text = format!("waiting for a lock on {}{in_call}", escape(path, PATH));
                if let Some((pid, comm)) = holder {
                    text.push_str(&format!(", held by process {}", named(*pid, comm)));
                }
                text
            }
            _ => format!("waiting for a lock on {}{in_call}", file(object, "a file")),
        },
        State::BlockedPoll => poll(object, &call),
        State::BlockedSleep => match object {
            WaitObject::Timer { ns: Some(ns) } => format!("asleep for a time that it set itself: {}", duration(*ns)),
            _ => format!("asleep for a time that it set itself{in_call}"),
        },
        State::BlockedChild => match object {
            WaitObject::Child { pid } if *pid > 0 => format!("waiting for its child {pid}{in_call}"),
            _ => format!("waiting for a child{in_call}"),
        },
        State::BlockedOther => match object {
            WaitObject::File { .. } => format!("waiting for {}{in_call}", file(object, "a file")),
            WaitObject::SystemV { id } => format!("waiting for the message queue {id}{in_call}"),
            _ => match call.as_deref() {
                Some(call @ ("pause" | "rt_sigsuspend" | "rt_sigtimedwait")) => {
                    format!("waiting for a signal ({call})")
                }
                Some(call) => format!("waiting in {call}"),
                None => "waiting, in no system call".to_owned(),
            },
        },
        State::Stopped => "stopped by a signal".to_owned(),
        State::Traced => match object {
            WaitObject::Tracer { pid, comm } => format!("stopped by its debugger, process {}", named(*pid, comm)),
            _ => "stopped for a debugger".to_owned(),
        },
        State::Frozen => "frozen, with its whole cgroup".to_owned(),
        State::Uninterruptible => {
            let function = thread.waits.first().and_then(|wait| channel(&wait.kernel));
            let place = function.map_or(String::new(), |name| format!(" in {name}"));
            format!("waiting in the kernel{place}{in_call}, where no signal ends it")
        }
        State::Unaccounted => "not observed".to_owned(),
    }
}

/// The function that says what is waited for: the first that is not the scheduler's own.
pub(super) fn channel(kernel: &[Vec<u8>]) -> Option<String> {
    const SCHEDULER: [&[u8]; 8] = [
        b"__schedule",
        b"schedule",
        b"schedule_timeout",
        b"io_schedule",
        b"schedule_preempt_disabled",
        b"context_switch",
        b"0",
        b"",
    ];
    kernel.iter().find(|name| !SCHEDULER.contains(&name.as_slice())).map(|name| escape(name, 64))
}

/// ` on heap`.
fn on(share: Option<&Share>) -> String {
    let mapping = share.and_then(|share| share.mapping.as_deref());
    let Some(mapping) = mapping else { return String::new() };
    let phrase = mapping_phrase(mapping);
    match mapping.kind {
        Kind::Heap | Kind::Stack => format!(" on the {phrase}"),
        Kind::Anon if mapping.name.is_empty() => format!(" on an {phrase}"),
        Kind::ThreadStack | Kind::Arena if mapping.name.is_empty() => format!(" on a {phrase}"),
        _ => format!(" on {phrase}"),
    }
}

/// `, each 3.1 ms`.
fn each(share: Option<&Share>) -> String {
    match share {
        Some(share) if share.count > 0 => format!(", each {}", duration(share.ns / share.count)),
        _ => String::new(),
    }
}

fn file(object: &WaitObject, unknown: &str) -> String {
    match object {
        WaitObject::File { path, offset: Some(offset), .. } => {
            format!("{} at byte {}", escape(path, PATH), count(*offset))
        }
        WaitObject::File { path, .. } | WaitObject::FileLock { path, .. } => escape(path, PATH),
        WaitObject::FilePage { path, offset } => format!("{} at byte {}", escape(path, PATH), count(*offset)),
        _ => unknown.to_owned(),
    }
}

fn poll(object: &WaitObject, call: &Option<String>) -> String {
    let in_call = call.as_ref().map_or(String::new(), |call| format!(" ({call})"));
    match object {
        WaitObject::Descriptors { total: 0, timeout_ns: Some(_), .. } => {
            format!("asleep for a time that it set itself{in_call}")
        }
        WaitObject::Descriptors { of, total: 1, .. } => {
            let what = of.first().map_or(String::new(), |(fd, path)| format!(" {fd}, {}", escape(path, PATH)));
            format!("waiting for descriptor{what}{in_call}")
        }
        WaitObject::Descriptors { total, .. } if *total > 1 => {
            format!("with nothing to do: waiting for any of {} descriptors{in_call}", count(u64::from(*total)))
        }
        _ => format!("with nothing to do: waiting for any of its descriptors{in_call}"),
    }
}
