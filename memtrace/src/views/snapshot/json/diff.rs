//! What changed between two snapshots, as lines of NDJSON.

use super::values::Permissions;
use super::{Address, AmountFields, Named, SCHEMA, Str, Twin, write_line};
use crate::snapshot::Process;
use crate::snapshot::diff::{Change, Diff, Levels, Row, Together, difference};
use crate::statement::Kind;
use crate::views::Clock;
use serde::{Serialize, Serializer};
use std::io::{self, Write};

/// Writes the line of one process.
///
/// # Errors
/// What the writer returned.
pub fn render(diff: &Diff<'_>, out: &mut dyn Write) -> io::Result<()> {
    let rows = diff.rows.iter().map(RowFields::of).collect();
    let line = DiffLine {
        rows: Some(rows),
        by: Some(diff.detail.name()),
        unexplained: diff.unexplained.map(ChangeFields::of),
        ..DiffLine::of(Some(diff.before), Some(diff.after), diff.after)
    };
    write_line(&line, &mut Vec::new(), out)
}

/// Writes the line of a process that is in one of two snapshots only: `opening` or `closing` is null.
///
/// # Errors
/// What the writer returned.
pub fn render_single(process: &Process, is_new: bool, out: &mut dyn Write) -> io::Result<()> {
    let (before, after) = if is_new { (None, Some(process)) } else { (Some(process), None) };
    write_line(&DiffLine::of(before, after, process), &mut Vec::new(), out)
}

/// Writes the line of several processes together.
///
/// # Errors
/// What the writer returned.
pub fn render_together(before: &Together, after: &Together, out: &mut dyn Write) -> io::Result<()> {
    let time = |together: &Together| Clock::at(together.time_ns).rfc3339(0);
    let amounts = before.levels.amounts().into_iter().zip(after.levels.amounts());
    let changes = amounts.map(|(from, to)| from.zip(to).map(|(from, to)| difference(from, to)));
    let line = GroupDiffLine {
        r#type: "group_diff",
        time: time(after),
        schema: SCHEMA,
        from: time(before),
        to: time(after),
        opening: TogetherFields::of(before),
        closing: TogetherFields::of(after),
        change: Levels::NAMES.into_iter().zip(changes).collect(),
    };
    write_line(&line, &mut Vec::new(), out)
}

#[derive(Serialize)]
struct GroupDiffLine<'a> {
    r#type: &'static str,
    time: String,
    schema: u32,
    from: String,
    to: String,
    opening: TogetherFields<'a>,
    closing: TogetherFields<'a>,
    #[serde(serialize_with = "in_order")]
    change: Vec<(&'static str, Option<i64>)>,
}

#[derive(Serialize)]
struct TogetherFields<'a> {
    pids: &'a [u32],
    #[serde(flatten, serialize_with = "in_order")]
    levels: Vec<(&'static str, Option<u64>)>,
}

impl<'a> TogetherFields<'a> {
    fn of(together: &'a Together) -> Self {
        Self { pids: &together.pids, levels: Levels::NAMES.into_iter().zip(together.levels.amounts()).collect() }
    }
}

fn in_order<S: Serializer, T: Serialize>(
    fields: &[(&'static str, Option<T>)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(fields.iter().map(|(name, value)| (name, value)))
}

#[derive(Serialize)]
struct DiffLine<'a> {
    r#type: &'static str,
    time: String,
    schema: u32,
    pid: u32,
    start_time: u64,
    comm: Str<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Twin<'a>>,
    from: Option<String>,
    to: Option<String>,
    opening: Option<LevelFields>,
    closing: Option<LevelFields>,
    by: Option<&'static str>,
    rows: Option<Vec<RowFields<'a>>>,
    unexplained: Option<ChangeFields>,
}

impl<'a> DiffLine<'a> {
    fn of(before: Option<&Process>, after: Option<&Process>, whose: &'a Process) -> Self {
        let time = |process: &Process| Clock::at(process.time_ns).rfc3339(0);
        let (comm, comm_hex) = Str::of(&whose.comm);
        Self {
            r#type: "diff",
            time: time(whose),
            schema: SCHEMA,
            pid: whose.pid,
            start_time: whose.start_time,
            comm,
            comm_hex,
            from: before.map(time),
            to: after.map(time),
            opening: before.and_then(LevelFields::of),
            closing: after.and_then(LevelFields::of),
            by: None,
            rows: None,
            unexplained: None,
        }
    }
}

#[derive(Serialize)]
struct LevelFields {
    virt: u64,
    res: u64,
    anon: u64,
    file: u64,
    shmem: u64,
    shr: u64,
    uss: Option<u64>,
    pss: Option<u64>,
    swap: u64,
    hugetlb: u64,
}

impl LevelFields {
    fn of(process: &Process) -> Option<Self> {
        let c = process.counters?;
        Some(Self {
            virt: c.virt,
            res: c.res(),
            anon: c.anon,
            file: c.file,
            shmem: c.shmem,
            shr: c.shr(),
            uss: process.rollup.map(|r| r.uss()),
            pss: process.rollup.map(|r| r.pss),
            swap: c.swap,
            hugetlb: c.hugetlb,
        })
    }
}

#[derive(Serialize)]
struct ChangeFields {
    res: i64,
    anon: i64,
    shr: i64,
}

impl ChangeFields {
    const fn of(change: Change) -> Self {
        Self { res: change.res(), anon: change.anon, shr: change.shr }
    }
}

#[derive(Serialize)]
struct RowFields<'a> {
    what: &'static str,
    kind: Named<Kind>,
    name: Str<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<Twin<'a>>,
    start: Address,
    end: Address,
    permissions: Permissions,
    size: i64,
    change: Option<ChangeFields>,
    before: Option<AmountFields>,
    after: Option<AmountFields>,
}

impl<'a> RowFields<'a> {
    fn of(row: &Row<'a>) -> Self {
        let mapping = row.mapping;
        let (name, name_hex) = Str::of(&mapping.name);
        Self {
            what: row.what().name(),
            kind: Named(mapping.kind),
            name,
            name_hex,
            start: Address(mapping.start),
            end: Address(row.end),
            permissions: Permissions(mapping.permissions),
            size: difference(row.from.size, row.to.size),
            change: row.change().map(ChangeFields::of),
            before: (row.from.mappings > 0).then(|| AmountFields::of(&row.from)),
            after: (row.to.mappings > 0).then(|| AmountFields::of(&row.to)),
        }
    }
}
