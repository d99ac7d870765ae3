//! Snapshots as NDJSON: one object a process, then one for all together. The contract is docs/ndjson.md, the way back
//! [`crate::snapshot::stored`]. What is shown elsewhere as a table is here whole: nothing is filtered, sorted or cut.

pub mod diff;

use crate::snapshot::rows::{self, Sums};
use crate::snapshot::stored::{ChangeFields, RollupFields};
use crate::snapshot::{
    Counters, GivenUp, Group, MappedFile, Mapping, Physical, Process, Reason, Rollup, SharedObject, Snapshot,
    SourceCost, Thread, device_numbers,
};
use crate::views::Clock;
use crate::views::json::untrusted::{Address, Arguments, Hex, Text};
use crate::views::json::{SCHEMA, write_line};
use crate::views::words::permissions;
use serde::{Serialize, Serializer};
use std::io::{self, Write};

/// Writes all lines.
///
/// # Errors
/// What the writer returned.
pub fn render(snapshot: &Snapshot, out: &mut dyn Write) -> io::Result<()> {
    let mut buffer = Vec::new();
    for process in &snapshot.processes {
        write_line(&ProcessLine::of(process), &mut buffer, out)?;
    }
    if let Some(group) = &snapshot.group {
        write_line(&GroupLine::of(group, snapshot), &mut buffer, out)?;
    }
    Ok(())
}

#[derive(Serialize)]
struct ProcessLine<'a> {
    r#type: &'static str,
    time: String,
    schema: u32,
    pid: u32,
    start_time: u64,
    comm: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Hex<'a>>,
    exe: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_hex: Option<Hex<'a>>,
    cmdline: Arguments<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmdline_hex: Option<Hex<'a>>,
    state: char,
    page_size: u64,
    virt: Option<u64>,
    res: Option<u64>,
    anon: Option<u64>,
    file: Option<u64>,
    shmem: Option<u64>,
    shr: Option<u64>,
    uss: Option<u64>,
    pss: Option<u64>,
    private_file: Option<u64>,
    swap: Option<u64>,
    swap_pss: Option<u64>,
    hugetlb: Option<u64>,
    locked: Option<u64>,
    page_tables: Option<u64>,
    changed_meanwhile: Option<ChangeFields>,
    rollup: Option<RollupFields>,
    kinds: Option<Vec<KindFields<'a>>>,
    mappings: Option<Vec<MappingFields<'a>>>,
    files: Option<Vec<FileFields<'a>>>,
    cost_ns: u64,
    sources: Vec<SourceFields>,
    given_up: Vec<GivenUpFields<'a>>,
}

impl<'a> ProcessLine<'a> {
    fn of(p: &'a Process) -> Self {
        let exe = p.exe.as_deref().unwrap_or_default();
        let counter = |of: fn(&Counters) -> u64| p.counters.as_ref().map(of);
        let kinds = |mappings: &'a Vec<Mapping>| rows::by_kind(mappings).into_iter().map(KindFields::of).collect();
        Self {
            r#type: "snapshot",
            time: Clock::at(p.time_ns).rfc3339(0),
            schema: SCHEMA,
            pid: p.pid,
            start_time: p.start_time,
            comm: Text(&p.comm),
            comm_hex: Hex::twin(&p.comm),
            exe: Text(exe),
            exe_hex: Hex::twin(exe),
            cmdline: Arguments(&p.cmdline),
            cmdline_hex: Hex::twin(&p.cmdline),
            state: char::from(p.state),
            page_size: p.page_size,
            virt: counter(|c| c.virt),
            res: counter(Counters::res),
            anon: counter(|c| c.anon),
            file: counter(|c| c.file),
            shmem: counter(|c| c.shmem),
            shr: counter(Counters::shr),
            uss: p.rollup.as_ref().map(Rollup::uss),
            pss: p.rollup.map(|r| r.pss),
            private_file: p.rollup.and_then(|r| r.private_file),
            swap: counter(|c| c.swap),
            swap_pss: p.rollup.map(|r| r.swap_pss),
            hugetlb: counter(|c| c.hugetlb),
            locked: counter(|c| c.locked),
            page_tables: counter(|c| c.page_tables),
            changed_meanwhile: p.counters.zip(p.counters_after).map(|(from, to)| ChangeFields::of(from, to)),
            rollup: p.rollup.map(RollupFields::of),
            kinds: p.mappings.as_ref().map(kinds),
            mappings: p.mappings.as_ref().map(|mappings| mappings.iter().map(MappingFields::of).collect()),
            files: p.files.as_ref().map(|files| files.iter().map(FileFields::of).collect()),
            cost_ns: p.sources.iter().fold(0, |sum, s| sum.saturating_add(s.cost_ns)),
            sources: p.sources.iter().map(SourceFields::of).collect(),
            given_up: p.given_up.iter().map(GivenUpFields::of).collect(),
        }
    }
}

/// What of a mapping, or of several, is where.
struct AmountFields([Option<u64>; Sums::AMOUNTS.len()]);

impl AmountFields {
    fn of(sums: &Sums) -> Self {
        Self(sums.amounts())
    }
}

impl Serialize for AmountFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(Sums::AMOUNTS.iter().zip(&self.0))
    }
}

#[derive(Serialize)]
struct KindFields<'a> {
    kind: &'static str,
    part: Option<&'static str>,
    allocator: Option<&'static str>,
    name: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<Hex<'a>>,
    mappings: u64,
    #[serde(flatten)]
    amounts: AmountFields,
}

impl<'a> KindFields<'a> {
    fn of((group, sums): (rows::Group<'a>, Sums)) -> Self {
        Self {
            kind: group.kind.name(),
            part: group.part.map(rows::Part::name),
            allocator: group.allocator.map(crate::snapshot::Allocator::name),
            name: Text(group.name),
            name_hex: Hex::twin(group.name),
            mappings: sums.mappings,
            amounts: AmountFields::of(&sums),
        }
    }
}

#[derive(Serialize)]
struct MappingFields<'a> {
    kind: &'static str,
    name: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<Hex<'a>>,
    allocator: Option<&'static str>,
    thread: Option<ThreadFields<'a>>,
    start: Address,
    end: Address,
    permissions: String,
    offset: Address,
    device: String,
    inode: u64,
    #[serde(flatten)]
    amounts: AmountFields,
}

impl<'a> MappingFields<'a> {
    fn of(m: &'a Mapping) -> Self {
        Self {
            kind: m.kind.name(),
            name: Text(&m.name),
            name_hex: Hex::twin(&m.name),
            allocator: m.allocator.map(crate::snapshot::Allocator::name),
            thread: m.thread.as_ref().map(ThreadFields::of),
            start: Address(m.start),
            end: Address(m.end),
            permissions: permissions(m.permissions),
            offset: Address(m.offset),
            device: device(m.device),
            inode: m.inode,
            amounts: AmountFields::of(&m.into()),
        }
    }
}

/// `8:2`, as in `/sys/dev/block`.
fn device(device: u64) -> String {
    let (major, minor) = device_numbers(device);
    format!("{major}:{minor}")
}

#[derive(Serialize)]
struct ThreadFields<'a> {
    tid: u32,
    comm: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Hex<'a>>,
}

impl<'a> ThreadFields<'a> {
    fn of(thread: &'a Thread) -> Self {
        Self { tid: thread.tid, comm: Text(&thread.comm), comm_hex: Hex::twin(&thread.comm) }
    }
}

#[derive(Serialize)]
struct FileFields<'a> {
    path: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<Hex<'a>>,
    device: String,
    inode: u64,
    size: Option<u64>,
    mapped: u64,
    resident: Option<u64>,
    on_disk: Option<bool>,
    page_cache: Option<u64>,
    dirty: Option<u64>,
    writeback: Option<u64>,
    not_loaded: Option<u64>,
    writable_shared: bool,
}

impl<'a> FileFields<'a> {
    fn of(f: &'a MappedFile) -> Self {
        Self {
            path: Text(&f.path),
            path_hex: Hex::twin(&f.path),
            device: device(f.device),
            inode: f.inode,
            size: f.size,
            mapped: f.mapped,
            resident: f.resident,
            on_disk: f.on_disk,
            page_cache: f.page_cache,
            dirty: f.dirty,
            writeback: f.writeback,
            not_loaded: f.not_loaded(),
            writable_shared: f.writable_shared,
        }
    }
}

#[derive(Serialize)]
struct SourceFields {
    source: &'static str,
    cost_ns: u64,
    longest_call_ns: u64,
    calls: u32,
}

impl SourceFields {
    const fn of(s: &SourceCost) -> Self {
        Self { source: s.source.name(), cost_ns: s.cost_ns, longest_call_ns: s.longest_call_ns, calls: s.calls }
    }
}

#[derive(Serialize)]
struct GivenUpFields<'a> {
    source: &'static str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    capability: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<Text<'a>>,
}

impl<'a> GivenUpFields<'a> {
    fn of(given_up: &'a GivenUp) -> Self {
        let (source, reason) = (given_up.source.name(), given_up.reason.name());
        let bare = Self { source, reason, capability: None, estimate_ns: None, limit_ns: None, what: None };
        match &given_up.reason {
            Reason::NotPermitted { capability } => Self { capability: Some(Text(capability.as_bytes())), ..bare },
            Reason::OverBudget { estimate_ns, limit_ns } => {
                Self { estimate_ns: Some(*estimate_ns), limit_ns: Some(*limit_ns), ..bare }
            }
            Reason::Failed { what } => Self { what: Some(Text(what.as_bytes())), ..bare },
            Reason::NotOffered | Reason::Gone => bare,
        }
    }
}

#[derive(Serialize)]
struct GroupLine<'a> {
    r#type: &'static str,
    time: String,
    schema: u32,
    pids: &'a [u32],
    vanished: usize,
    sum_res: u64,
    sum_pss: Option<u64>,
    res: Option<u64>,
    uss: Option<u64>,
    shared_with_group: Option<&'a [u64]>,
    pairs: Option<Vec<PairFields>>,
    objects: Option<Vec<ObjectFields<'a>>>,
    links: Option<Vec<LinkFields>>,
    sources: Vec<SourceFields>,
    given_up: Vec<GivenUpFields<'a>>,
}

impl<'a> GroupLine<'a> {
    fn of(group: &'a Group, snapshot: &Snapshot) -> Self {
        let physical = group.physical.as_ref();
        // The processes in the group's order: of some nothing could be read, and they are left out there.
        let member = |index: usize| {
            let pid = group.pids.get(index)?;
            snapshot.processes.iter().find(|process| process.pid == *pid)
        };
        let pair = |p: &crate::snapshot::Pair| {
            let (a, b) = (*group.pids.get(p.a)?, *group.pids.get(p.b)?);
            Some(PairFields { a, b, shared: p.shared })
        };
        let range = |index: usize, mapping: usize| {
            let mapping = member(index)?.mappings.as_ref()?.get(mapping)?;
            Some(RangeFields { start: Address(mapping.start), end: Address(mapping.end) })
        };
        let links = |physical: &Physical| {
            let link =
                |l: &crate::snapshot::Link| Some(LinkFields { a: range(0, l.a)?, b: range(1, l.b)?, shared: l.shared });
            physical.links.iter().filter_map(link).collect()
        };
        let time_ns = snapshot.processes.iter().map(|process| process.time_ns).max().unwrap_or_default();
        Self {
            r#type: "group",
            time: Clock::at(time_ns).rfc3339(0),
            schema: SCHEMA,
            pids: &group.pids,
            vanished: snapshot.vanished,
            sum_res: group.sum_res,
            sum_pss: group.sum_pss,
            res: physical.map(|p| p.res),
            uss: physical.map(|p| p.uss),
            shared_with_group: physical.map(|p| p.shared_with_group.as_slice()),
            pairs: physical.and_then(|p| p.pairs.as_ref()).map(|pairs| pairs.iter().filter_map(pair).collect()),
            objects: physical.map(|p| p.objects.iter().map(ObjectFields::of).collect()),
            links: physical.map(links),
            sources: group.sources.iter().map(SourceFields::of).collect(),
            given_up: group.given_up.iter().map(GivenUpFields::of).collect(),
        }
    }
}

#[derive(Serialize)]
struct PairFields {
    a: u32,
    b: u32,
    shared: u64,
}

#[derive(Serialize)]
struct RangeFields {
    start: Address,
    end: Address,
}

#[derive(Serialize)]
struct LinkFields {
    a: RangeFields,
    b: RangeFields,
    shared: u64,
}

#[derive(Serialize)]
struct ObjectFields<'a> {
    kind: &'static str,
    name: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<Hex<'a>>,
    device: String,
    inode: u64,
    processes: usize,
    res: u64,
    shared: u64,
    sum_res: u64,
}

impl<'a> ObjectFields<'a> {
    fn of(o: &'a SharedObject) -> Self {
        Self {
            kind: o.kind.name(),
            name: Text(&o.name),
            name_hex: Hex::twin(&o.name),
            device: device(o.device),
            inode: o.inode,
            processes: o.processes,
            res: o.res,
            shared: o.shared,
            sum_res: o.sum_res,
        }
    }
}

#[cfg(test)]
pub(in crate::views) mod tests;
