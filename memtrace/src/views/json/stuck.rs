//! The line of a window's answer: each thread's states, what it waits for, the verdict.

mod object;

use self::object::{ObjectFields, Someone};
use super::fields::{Delta, FaultFields, FrameFields, LostFields, MappingFields, OwnFields};
use super::untrusted::{Hex, Text};
use crate::event::{Backend, Blocker, Cgroup, LockHold, Pressures, StackId, Surroundings};
use crate::statement::Faults;
use crate::stuck::{EndedThreads, Function, LeftOut, Memory, Share, Stuck, ThreadTimes, Verdict, Waiting};
use crate::views::Scale;
use crate::views::words::syscall_label;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
pub(super) struct StuckLine<'a> {
    pid: u32,
    comm: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Hex<'a>>,
    start_ns: u64,
    window_ns: u64,
    ended: bool,
    exit_code: Option<u32>,
    verdict: VerdictFields<'a>,
    threads: Vec<ThreadFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_threads: Option<EndedFields>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<LeftOutFields>,
    memory: Option<MemoryFields>,
    holds: Vec<HoldFields<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<DatabaseFields<'a>>,
    surroundings: Option<[SurroundingsFields<'a>; 2]>,
    incomplete: BTreeMap<&'static str, u64>,
    lost: LostFields,
    own: OwnLooks,
}

impl<'a> StuckLine<'a> {
    pub(super) fn of(s: &'a Stuck, scale: Scale) -> Self {
        Self {
            pid: s.pid,
            comm: Text(&s.comm),
            comm_hex: Hex::twin(&s.comm),
            start_ns: s.start_ns,
            window_ns: s.ts_ns.saturating_sub(s.start_ns),
            ended: s.ended,
            exit_code: s.exit_code,
            verdict: VerdictFields::of(&s.verdict),
            threads: s.threads.iter().map(ThreadFields::of).collect(),
            ended_threads: s.ended_threads.as_ref().map(EndedFields::of),
            left_out: (s.left_out != LeftOut::default())
                .then_some(LeftOutFields { threads: s.left_out.threads, processes: s.left_out.processes }),
            memory: s.memory.map(|memory| MemoryFields::of(memory, scale)),
            holds: s.holds.iter().map(HoldFields::of).collect(),
            database: s.backend.as_ref().map(DatabaseFields::of),
            surroundings: s.surroundings.as_ref().map(|(first, last)| [first, last].map(SurroundingsFields::of)),
            incomplete: s.incomplete.iter().map(|&(end, n)| (end.name(), n)).collect(),
            lost: LostFields(s.lost),
            own: OwnLooks::of(s),
        }
    }
}

/// What watching cost, and the looks at waiting threads among it.
#[derive(Serialize)]
struct OwnLooks {
    #[serde(flatten)]
    own: OwnFields,
    looks: u64,
    look_ns: u64,
    unseen: u64,
    unsearched: u64,
}

impl OwnLooks {
    fn of(s: &Stuck) -> Self {
        let own = s.own;
        Self {
            own: OwnFields::of(own, s.memory.map_or_else(Faults::default, |memory| memory.faults)),
            looks: own.looks,
            look_ns: own.look_ns,
            unseen: own.unseen,
            unsearched: own.unsearched,
        }
    }
}

#[derive(Serialize)]
struct VerdictFields<'a> {
    class: Option<&'static str>,
    memory: Option<bool>,
    sentence: &'a str,
    evidence: Vec<String>,
    between: Vec<&'static str>,
    next: &'a [String],
}

impl<'a> VerdictFields<'a> {
    fn of(verdict: &'a Verdict) -> Self {
        Self {
            class: verdict.state.map(|state| state.name()),
            memory: verdict.memory,
            sentence: &verdict.sentence,
            evidence: verdict.evidence.iter().map(|(about, fact)| format!("{about}: {fact}")).collect(),
            between: verdict.between.iter().map(|state| state.name()).collect(),
            next: &verdict.next,
        }
    }
}

#[derive(Serialize)]
struct LeftOutFields {
    threads: u64,
    processes: u64,
}

#[derive(Serialize)]
struct EndedFields {
    threads: u64,
    total_ns: u64,
    states: BTreeMap<&'static str, u64>,
}

impl EndedFields {
    fn of(ended: &EndedThreads) -> Self {
        Self { threads: ended.threads, total_ns: ended.total_ns, states: states(&ended.shares) }
    }
}

fn states(shares: &[Share]) -> BTreeMap<&'static str, u64> {
    let mut states: BTreeMap<&'static str, u64> = BTreeMap::new();
    for share in shares {
        let ns = states.entry(share.state.name()).or_default();
        *ns = ns.saturating_add(share.ns);
    }
    states
}

#[derive(Serialize)]
struct ThreadFields<'a> {
    tid: u32,
    comm: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Hex<'a>>,
    total_ns: u64,
    states: BTreeMap<&'static str, u64>,
    /// What it is in has lasted since before we came.
    since_attach: bool,
    shares: Vec<ShareFields<'a>>,
    ran: Vec<FunctionFields<'a>>,
    waits: Vec<WaitFields<'a>>,
}

impl<'a> ThreadFields<'a> {
    fn of(thread: &'a ThreadTimes) -> Self {
        Self {
            tid: thread.tid,
            comm: Text(&thread.comm),
            comm_hex: Hex::twin(&thread.comm),
            total_ns: thread.total_ns,
            states: states(&thread.shares),
            since_attach: thread.shares.first().is_some_and(|share| share.since_attach && share.count == 0),
            shares: thread.shares.iter().map(ShareFields::of).collect(),
            ran: thread.ran.iter().map(FunctionFields::of).collect(),
            waits: thread.waits.iter().map(WaitFields::of).collect(),
        }
    }
}

#[derive(Serialize)]
struct ShareFields<'a> {
    state: &'static str,
    syscall: Option<String>,
    object: Option<ObjectFields<'a>>,
    mapping: Option<MappingFields<'a>>,
    ns: u64,
    bound_ns: u64,
    count: u64,
    max_ns: u64,
    since_attach: bool,
}

impl<'a> ShareFields<'a> {
    fn of(share: &'a Share) -> Self {
        Self {
            state: share.state.name(),
            syscall: share.nr.map(syscall_label),
            object: ObjectFields::of(&share.object),
            mapping: share.mapping.as_deref().map(Into::into),
            ns: share.ns,
            bound_ns: share.bound_ns,
            count: share.count,
            max_ns: share.max_ns,
            since_attach: share.since_attach,
        }
    }
}

#[derive(Serialize)]
struct FunctionFields<'a> {
    function: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_hex: Option<Hex<'a>>,
    module: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    module_hex: Option<Hex<'a>>,
    samples: u64,
    ns: u64,
    bound_ns: u64,
}

impl<'a> FunctionFields<'a> {
    fn of(function: &'a Function) -> Self {
        Self {
            function: (!function.name.is_empty()).then_some(Text(&function.name)),
            function_hex: Hex::twin(&function.name),
            module: Text(&function.module),
            module_hex: Hex::twin(&function.module),
            samples: function.samples,
            ns: function.ns,
            bound_ns: function.bound_ns,
        }
    }
}

#[derive(Serialize)]
struct WaitFields<'a> {
    /// The kernel's own names, which are ASCII: they have no twins.
    kernel: Vec<Text<'a>>,
    stack_id: Option<StackId>,
    stack: Vec<FrameFields<'a>>,
    seen: u64,
    looks: u64,
}

impl<'a> WaitFields<'a> {
    fn of(wait: &'a Waiting) -> Self {
        Self {
            kernel: wait.kernel.iter().map(|function| Text(function)).collect(),
            stack_id: wait.stack.as_ref().map(|stack| stack.id),
            stack: wait.stack.as_deref().map(FrameFields::of_stack).unwrap_or_default(),
            seen: wait.seen,
            looks: wait.looks,
        }
    }
}

#[derive(Serialize)]
struct MemoryFields {
    opening: Delta,
    closing: Delta,
    faults: FaultFields,
    swapped_in: i64,
    reclaimed: i64,
    moved_ns: Option<u64>,
}

impl MemoryFields {
    fn of(memory: Memory, scale: Scale) -> Self {
        let bytes = |pages: u64| scale.bytes(i64::try_from(pages).unwrap_or(i64::MAX));
        Self {
            opening: Delta::of(memory.opening, scale),
            closing: Delta::of(memory.closing, scale),
            faults: memory.faults.into(),
            swapped_in: bytes(memory.swapped_in),
            reclaimed: bytes(memory.reclaimed),
            moved_ns: memory.moved_ns,
        }
    }
}

#[derive(Serialize)]
struct HoldFields<'a> {
    tid: u32,
    comm: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Hex<'a>>,
    write: bool,
    ns: u64,
    max_ns: u64,
    count: u64,
}

impl<'a> HoldFields<'a> {
    fn of(hold: &'a LockHold) -> Self {
        Self {
            tid: hold.tid,
            comm: Text(&hold.comm),
            comm_hex: Hex::twin(&hold.comm),
            write: hold.write,
            ns: hold.ns,
            max_ns: hold.max_ns,
            count: hold.count,
        }
    }
}

#[derive(Serialize)]
struct DatabaseFields<'a> {
    kind: &'a str,
    version: Option<u32>,
    backend_type: Option<&'a str>,
    state: Option<&'a str>,
    query: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_hex: Option<Hex<'a>>,
    query_start_ns: Option<i64>,
    transaction_start_ns: Option<i64>,
    wait_event_type: Option<&'a str>,
    wait_event: Option<&'a str>,
    waits: Vec<DatabaseWait<'a>>,
    own_pid: u32,
    started_ns: Option<i64>,
    work_mem: Option<u64>,
    temporary_files: Option<u64>,
    temporary_bytes: Option<u64>,
    blocked_by: Option<Vec<BlockerFields<'a>>>,
    asked_ns: Option<u64>,
    in_lock: Option<bool>,
    unanswered: Option<&'a str>,
    refused: Option<&'a str>,
}

#[derive(Serialize)]
struct DatabaseWait<'a> {
    r#type: Option<&'a str>,
    event: Option<&'a str>,
    seen: u64,
}

impl<'a> DatabaseFields<'a> {
    fn of(backend: &'a Backend) -> Self {
        let waits = backend.waits.iter().map(|(wait, seen)| DatabaseWait {
            r#type: wait.as_ref().map(|(kind, _)| kind.as_str()),
            event: wait.as_ref().map(|(_, event)| event.as_str()),
            seen: *seen,
        });
        let most = backend.waits.iter().max_by_key(|(_, seen)| *seen).and_then(|(wait, _)| wait.as_ref());
        Self {
            kind: &backend.server,
            version: backend.version,
            backend_type: backend.backend_type.as_deref(),
            state: backend.state.as_deref(),
            query: backend.query.as_ref().map(|query| Text(query)),
            query_hex: backend.query.as_ref().and_then(|query| Hex::twin(query)),
            query_start_ns: backend.query_start_ns,
            transaction_start_ns: backend.transaction_start_ns,
            wait_event_type: most.map(|(kind, _)| kind.as_str()),
            wait_event: most.map(|(_, event)| event.as_str()),
            waits: waits.collect(),
            own_pid: backend.own_pid,
            started_ns: backend.started_ns,
            work_mem: backend.work_mem,
            temporary_files: backend.spilled.map(|(files, _)| files),
            temporary_bytes: backend.spilled.map(|(_, bytes)| bytes),
            blocked_by: backend.blocked_by.as_deref().map(|them| them.iter().map(BlockerFields::of).collect()),
            asked_ns: backend.asked_ns.filter(|_| backend.blocked_by.is_some()),
            in_lock: backend.blocked_by.as_ref().map(|_| backend.in_lock),
            unanswered: Some(backend.unanswered.as_str()).filter(|why| !why.is_empty()),
            refused: Some(backend.refused.as_str()).filter(|refused| !refused.is_empty()),
        }
    }
}

/// A backend that holds what another one waits for.
#[derive(Serialize)]
struct BlockerFields<'a> {
    pid: Option<u32>,
    own_pid: u32,
    state: Option<&'a str>,
    since_ns: Option<i64>,
    query: Option<Text<'a>>,
    transaction_start_ns: Option<i64>,
    wait_event_type: Option<&'a str>,
    wait_event: Option<&'a str>,
    behind: &'a [u32],
    indirect: bool,
    hidden: bool,
}

impl<'a> BlockerFields<'a> {
    fn of(blocker: &'a Blocker) -> Self {
        let wait = blocker.wait.as_ref();
        Self {
            pid: blocker.pid,
            own_pid: blocker.own_pid,
            state: blocker.state.as_deref(),
            since_ns: blocker.since_ns,
            query: blocker.query.as_ref().map(|query| Text(query.as_bytes())),
            transaction_start_ns: blocker.transaction_start_ns,
            wait_event_type: wait.map(|(kind, _)| kind.as_str()),
            wait_event: wait.map(|(_, event)| event.as_str()),
            behind: &blocker.behind,
            indirect: blocker.indirect,
            hidden: blocker.hidden,
        }
    }
}

#[derive(Serialize)]
struct PressureFields {
    some_ns: u64,
    full_ns: u64,
}

#[derive(Serialize)]
struct PressuresFields {
    cpu: Option<PressureFields>,
    memory: Option<PressureFields>,
    io: Option<PressureFields>,
}

impl From<Pressures> for PressuresFields {
    fn from(pressures: Pressures) -> Self {
        let of = |pair: Option<(u64, u64)>| pair.map(|(some_ns, full_ns)| PressureFields { some_ns, full_ns });
        Self { cpu: of(pressures.cpu), memory: of(pressures.memory), io: of(pressures.io) }
    }
}

#[derive(Serialize)]
struct SurroundingsFields<'a> {
    ts_ns: u64,
    cpus: u32,
    allowed_cpus: u32,
    running: u32,
    minor_faults: u64,
    major_faults: u64,
    read_bytes: Option<u64>,
    write_bytes: Option<u64>,
    pages_swapped_in: Option<u64>,
    pages_swapped_out: Option<u64>,
    pressure: PressuresFields,
    cgroup: Option<CgroupFields<'a>>,
}

impl<'a> SurroundingsFields<'a> {
    fn of(now: &'a Surroundings) -> Self {
        Self {
            ts_ns: now.ts_ns,
            cpus: now.cpus,
            allowed_cpus: now.allowed_cpus,
            running: now.running,
            minor_faults: now.faults.0,
            major_faults: now.faults.1,
            read_bytes: now.io.map(|(read, _)| read),
            write_bytes: now.io.map(|(_, written)| written),
            pages_swapped_in: now.swapped.map(|(pages, _)| pages),
            pages_swapped_out: now.swapped.map(|(_, pages)| pages),
            pressure: now.machine.into(),
            cgroup: now.cgroup.as_ref().map(CgroupFields::of),
        }
    }
}

#[derive(Serialize)]
struct OtherFields<'a> {
    #[serde(flatten)]
    who: Someone<'a>,
    res: u64,
}

#[derive(Serialize)]
struct FileFields<'a> {
    path: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<Hex<'a>>,
}

#[derive(Serialize)]
struct CgroupFields<'a> {
    path: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<Hex<'a>>,
    memory: Option<u64>,
    memory_limit: Option<u64>,
    limit_hits: Option<u64>,
    throttled_ns: Option<u64>,
    quota_ns: Option<u64>,
    period_ns: Option<u64>,
    quota_file: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota_file_hex: Option<Hex<'a>>,
    frozen: Option<bool>,
    frozen_by: Vec<FileFields<'a>>,
    others: Vec<OtherFields<'a>>,
    pressure: PressuresFields,
}

impl<'a> CgroupFields<'a> {
    fn of(group: &'a Cgroup) -> Self {
        let quota = group.throttled.and_then(|(_, quota)| quota);
        let others = group.others.iter().map(|(pid, comm, res)| OtherFields {
            who: Someone { pid: *pid, comm: Text(comm), comm_hex: Hex::twin(comm) },
            res: *res,
        });
        Self {
            path: Text(&group.path),
            path_hex: Hex::twin(&group.path),
            memory: group.memory.map(|(used, _)| used),
            memory_limit: group.memory.and_then(|(_, limit)| limit),
            limit_hits: group.limit_hits,
            throttled_ns: group.throttled.map(|(ns, _)| ns),
            quota_ns: quota.map(|(quota, _)| quota),
            period_ns: quota.map(|(_, period)| period),
            quota_file: Text(&group.quota_file),
            quota_file_hex: Hex::twin(&group.quota_file),
            frozen: group.frozen,
            frozen_by: group
                .frozen_by
                .iter()
                .map(|path| FileFields { path: Text(path), path_hex: Hex::twin(path) })
                .collect(),
            others: others.collect(),
            pressure: group.pressure.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_who_holds_the_lock_has_a_twin() {
        let hold = LockHold { tid: 7, comm: b"a\xff".to_vec(), write: true, ns: 1, max_ns: 1, count: 1 };
        let value = serde_json::to_value(HoldFields::of(&hold)).expect("it is plain data");
        assert_eq!(value["comm_hex"], "61ff");
    }
}
