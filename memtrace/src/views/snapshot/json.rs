//! Snapshots as NDJSON: one object a process, then one for all together. The contract is docs/ndjson.md, the way back
//! [`stored`]. What is shown elsewhere as a table is here whole: nothing is filtered, sorted or cut.

pub mod diff;
mod fields;
pub mod stored;
mod values;

use crate::snapshot::diff::{Levels, Together};
use crate::snapshot::rows::{self, Sums};
use crate::snapshot::{
    Allocator, Counters, Group, Mapping, Missing, Physical, Process, Rollup, SharedObject, Snapshot,
};
use crate::statement::Kind;
use crate::views::Clock;
use crate::views::json::untrusted::Address;
use crate::views::json::{SCHEMA, write_line};
use fields::{AmountFields, ChangeFields, FileFields, GivenUpFields, MappingFields, RollupFields, SourceFields};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::{self, Write};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use values::{Cmdline, Device, Named, Str, Twin, whole};

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
    } else if !snapshot.missing.is_empty() {
        let &Missing { vanished, unreadable, .. } = &snapshot.missing;
        write_line(&MissingLine { r#type: "missing", schema: SCHEMA, vanished, unreadable }, &mut buffer, out)?;
    }
    Ok(())
}

/// Read back is what cannot be derived: nobody's sums are believed.
#[derive(Serialize, Deserialize)]
struct ProcessLine<'a> {
    #[serde(skip_deserializing)]
    r#type: &'static str,
    time: String,
    schema: u32,
    pid: u32,
    start_time: u64,
    comm: Str<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Twin<'a>>,
    exe: Str<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_hex: Option<Twin<'a>>,
    cmdline: Cmdline<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmdline_hex: Option<Twin<'a>>,
    state: char,
    page_size: u64,
    virt: Option<u64>,
    #[serde(skip_deserializing)]
    res: Option<u64>,
    anon: Option<u64>,
    file: Option<u64>,
    shmem: Option<u64>,
    #[serde(skip_deserializing)]
    shr: Option<u64>,
    #[serde(skip_deserializing)]
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
    #[serde(skip_deserializing)]
    kinds: Option<Vec<KindFields<'a>>>,
    mappings: Option<Vec<MappingFields<'a>>>,
    files: Option<Vec<FileFields<'a>>>,
    #[serde(skip_deserializing)]
    cost_ns: u64,
    sources: Vec<SourceFields>,
    given_up: Vec<GivenUpFields<'a>>,
}

impl<'a> ProcessLine<'a> {
    fn of(p: &'a Process) -> Self {
        let (comm, comm_hex) = Str::of(&p.comm);
        let (exe, exe_hex) = Str::of(p.exe.as_deref().unwrap_or_default());
        let counter = |of: fn(&Counters) -> u64| p.counters.as_ref().map(of);
        let kinds = |mappings: &'a Vec<Mapping>| rows::by_kind(mappings).into_iter().map(KindFields::of).collect();
        Self {
            r#type: "snapshot",
            time: Clock::at(p.time_ns).rfc3339(0),
            schema: SCHEMA,
            pid: p.pid,
            start_time: p.start_time,
            comm,
            comm_hex,
            exe,
            exe_hex,
            cmdline: Cmdline(p.cmdline.as_slice().into()),
            cmdline_hex: Twin::of(&p.cmdline),
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

    fn process(self) -> Result<Process, String> {
        let mappings: Option<Result<Vec<Mapping>, _>> =
            self.mappings.map(|mappings| mappings.into_iter().map(MappingFields::mapping).collect());
        let mappings = mappings.transpose()?;
        if mappings.as_ref().is_some_and(|mappings| !mappings.is_sorted_by(|a, b| a.end <= b.start)) {
            return Err("mappings overlap or are not in the order of their addresses".to_owned());
        }
        // All or none.
        let counters = || {
            Some(Counters {
                virt: self.virt?,
                anon: self.anon?,
                file: self.file?,
                shmem: self.shmem?,
                swap: self.swap?,
                hugetlb: self.hugetlb?,
                locked: self.locked?,
                page_tables: self.page_tables?,
            })
        };
        let counters = counters();
        let rollup = || Some(self.rollup.as_ref()?.rollup(self.pss?, self.swap_pss?, self.private_file));
        Ok(Process {
            pid: self.pid,
            start_time: self.start_time,
            comm: self.comm.whole(self.comm_hex),
            exe: Some(self.exe.whole(self.exe_hex)).filter(|exe| !exe.is_empty()),
            cmdline: whole(self.cmdline.0, self.cmdline_hex),
            time_ns: time_ns(&self.time)?,
            page_size: self.page_size,
            state: u8::try_from(self.state).map_err(|_| "`state` is no state".to_owned())?,
            counters,
            counters_after: counters.zip(self.changed_meanwhile).map(|(counters, changes)| changes.after(counters)),
            rollup: rollup(),
            mappings,
            files: self.files.map(|files| files.into_iter().map(FileFields::file).collect()),
            sources: self.sources.into_iter().map(SourceFields::cost).collect(),
            given_up: self.given_up.into_iter().map(GivenUpFields::given_up).collect::<Result<_, _>>()?,
        })
    }
}

#[derive(Serialize)]
struct KindFields<'a> {
    kind: Named<Kind>,
    part: Option<&'static str>,
    allocator: Option<Named<Allocator>>,
    name: Str<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<Twin<'a>>,
    mappings: u64,
    #[serde(flatten)]
    amounts: AmountFields,
}

impl<'a> KindFields<'a> {
    fn of((group, sums): (rows::Group<'a>, Sums)) -> Self {
        let (name, name_hex) = Str::of(group.name);
        Self {
            kind: Named(group.kind),
            part: group.part.map(rows::Part::name),
            allocator: group.allocator.map(Named),
            name,
            name_hex,
            mappings: sums.mappings,
            amounts: AmountFields::of(&sums),
        }
    }
}

/// Who was meant and is not there, where no group says it.
#[derive(Serialize)]
struct MissingLine {
    r#type: &'static str,
    schema: u32,
    vanished: usize,
    unreadable: usize,
}

/// Read back is what is compared.
#[derive(Serialize, Deserialize)]
struct GroupLine<'a> {
    #[serde(skip_deserializing)]
    r#type: &'static str,
    time: String,
    schema: u32,
    pids: Cow<'a, [u32]>,
    #[serde(skip_deserializing)]
    vanished: usize,
    #[serde(skip_deserializing)]
    unreadable: usize,
    #[serde(skip_deserializing)]
    changed: u64,
    sum_res: u64,
    sum_pss: Option<u64>,
    res: Option<u64>,
    uss: Option<u64>,
    #[serde(skip_deserializing)]
    shared_with_group: Option<&'a [u64]>,
    #[serde(skip_deserializing)]
    pairs: Option<Vec<PairFields>>,
    #[serde(skip_deserializing)]
    objects: Option<Vec<ObjectFields<'a>>>,
    #[serde(skip_deserializing)]
    links: Option<Vec<LinkFields>>,
    #[serde(skip_deserializing)]
    sources: Vec<SourceFields>,
    #[serde(skip_deserializing)]
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
            pids: group.pids.as_slice().into(),
            vanished: snapshot.missing.vanished,
            unreadable: snapshot.missing.unreadable,
            changed: group.changed,
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

    fn together(self) -> Result<Together, String> {
        let levels = Levels { sum_res: Some(self.sum_res), sum_pss: self.sum_pss, res: self.res, uss: self.uss };
        Ok(Together { time_ns: time_ns(&self.time)?, pids: self.pids.into_owned(), levels })
    }
}

/// `2026-01-31T12:00:03.120000000Z`, as ns since 1970.
fn time_ns(text: &str) -> Result<i64, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "`time` is no time".to_owned())?;
    i64::try_from(time.unix_timestamp_nanos()).map_err(|_| "`time` is out of range".to_owned())
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
    kind: Named<Kind>,
    name: Str<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<Twin<'a>>,
    device: Device,
    inode: u64,
    processes: usize,
    res: u64,
    shared: u64,
    sum_res: u64,
}

impl<'a> ObjectFields<'a> {
    fn of(o: &'a SharedObject) -> Self {
        let (name, name_hex) = Str::of(&o.name);
        Self {
            kind: Named(o.kind),
            name,
            name_hex,
            device: Device(o.device),
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
