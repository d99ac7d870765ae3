//! The shape of each line. Field order here is the order in the output; docs/ndjson.md says what they mean.

use super::SCHEMA;
use super::fields::{
    Delta, ExitFields, FaultFields, FrameFields, LatencyFields, Level, LostFields, MappingFields, OwnFields,
    StacksFields,
};
use super::untrusted::{Arguments, Hex, Text};
use crate::event::{EndReason, Meta, MmId, Mode, Overview, StackEnd, StackId, Task, TaskWhat};
use crate::statement::{
    Audit, ClosingStatement, CodeSum, EndReport, Entry, Frame, MappingChange, MappingWhat, Report, Stack, Statement,
    Sum,
};
use crate::views::Scale;
use crate::views::fold::fold;
use crate::views::words::syscall_label;
use memtrace_common::Cause;
use serde::Serialize;
use serde::ser::Serializer;
use std::sync::Arc;

/// One line: what it is and when, then its own fields.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    r#type: &'static str,
    ts_ns: u64,
    time: String,
    #[serde(flatten)]
    body: Body<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Meta(MetaLine<'a>),
    Overview(OverviewLine),
    Statement(StatementLine<'a>),
    Mapping(MappingLine<'a>),
    Process(ProcessLine<'a>),
    Audit(AuditLine<'a>),
    Stack(StackLine<'a>),
    Loss { lost: LostFields },
    Closing(ClosingLine<'a>),
    End(EndLine<'a>),
}

impl<'a> Line<'a> {
    /// `None` for what has no line. `now_ns` is the time of the line before, for what has none of its own.
    pub(super) fn of(report: &'a Report, scale: Scale, now_ns: u64) -> Option<Self> {
        let (r#type, ts_ns, body) = match report {
            Report::Meta(meta) => ("meta", meta.ts_ns, Body::Meta(MetaLine::of(meta))),
            Report::Overview(o) => ("overview", o.ts_ns, Body::Overview(OverviewLine::of(o))),
            Report::Statement(s) => ("statement", s.ts_ns, Body::Statement(StatementLine::of(s, scale))),
            Report::Mapping(m) => ("mapping", m.ts_ns, Body::Mapping(MappingLine::of(m))),
            Report::Process(p) => ("process", p.task.ts_ns, Body::Process(ProcessLine::of(&p.task))),
            Report::Stack(s) => ("stack", now_ns, Body::Stack(StackLine::of(s))),
            Report::Residency(_) | Report::Burst(_) | Report::Tick { .. } => return None,
            Report::Audit(a) => ("audit", a.ts_ns, Body::Audit(AuditLine::of(a, scale))),
            Report::Loss { ts_ns, lost } => ("loss", *ts_ns, Body::Loss { lost: LostFields(*lost) }),
            Report::Closing(c) => ("closing", c.ts_ns, Body::Closing(ClosingLine::of(c, scale))),
            Report::End(e) => ("end", e.end.ts_ns, Body::End(EndLine::of(e, scale))),
        };
        Some(Self { r#type, ts_ns, time: scale.clock.rfc3339(ts_ns), body })
    }

    pub(super) const fn ts_ns(&self) -> u64 {
        self.ts_ns
    }
}

#[derive(Serialize)]
struct MetaLine<'a> {
    schema: u32,
    version: &'a str,
    pid: u32,
    comm: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Hex<'a>>,
    exe: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_hex: Option<Hex<'a>>,
    cmdline: Arguments<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmdline_hex: Option<Hex<'a>>,
    kernel: &'a str,
    page_size: u64,
    mode: Mode,
    mode_reason: Option<&'a str>,
    clock: &'static str,
    interval_ns: u64,
    spawned: bool,
    follow: bool,
}

impl<'a> MetaLine<'a> {
    fn of(meta: &'a Meta) -> Self {
        Self {
            schema: SCHEMA,
            version: &meta.version,
            pid: meta.pid,
            comm: Text(&meta.comm),
            comm_hex: Hex::twin(&meta.comm),
            exe: Text(&meta.exe),
            exe_hex: Hex::twin(&meta.exe),
            cmdline: Arguments(&meta.cmdline),
            cmdline_hex: Hex::twin(&meta.cmdline),
            kernel: &meta.kernel,
            page_size: meta.page_size,
            mode: meta.mode,
            mode_reason: Some(meta.mode_reason.as_str()).filter(|reason| !reason.is_empty()),
            clock: "CLOCK_MONOTONIC",
            interval_ns: meta.interval_ns,
            spawned: meta.spawned,
            follow: meta.follow,
        }
    }
}

#[derive(Serialize)]
struct OverviewLine {
    mm: MmId,
    virt: u64,
    res: u64,
    anon: u64,
    file: u64,
    shmem: u64,
    shr: u64,
    swap: u64,
    uss: Option<u64>,
    private_file: Option<u64>,
    pss: Option<u64>,
    hugetlb: u64,
}

impl OverviewLine {
    const fn of(o: &Overview) -> Self {
        let shr = o.file.saturating_add(o.shmem);
        Self {
            mm: o.mm,
            virt: o.virt,
            res: o.anon.saturating_add(shr),
            anon: o.anon,
            file: o.file,
            shmem: o.shmem,
            shr,
            swap: o.swap,
            uss: o.uss,
            private_file: o.private_file,
            pss: o.pss,
            hugetlb: o.hugetlb,
        }
    }
}

#[derive(Serialize)]
struct StackLine<'a> {
    id: StackId,
    end: &'static str,
    complete: bool,
    frames: Vec<FrameFields<'a>>,
}

impl<'a> StackLine<'a> {
    fn of(stack: &'a Stack) -> Self {
        let folded = fold(stack);
        let frame = |(number, frame): (usize, &'a Arc<Frame>)| FrameFields::of(frame, folded.is_plumbing(number));
        Self {
            id: stack.id,
            end: stack.end.name(),
            complete: stack.end == StackEnd::Root,
            frames: stack.frames.iter().enumerate().map(frame).collect(),
        }
    }
}

#[derive(Serialize)]
struct EntryFields<'a> {
    cause: &'static str,
    delta: Delta,
    faults: FaultFields,
    mapping: Option<MappingFields<'a>>,
    tid: u32,
    comm: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Hex<'a>>,
    syscall: Option<String>,
    fault_ns: Option<LatencyFields>,
    stack_id: Option<StackId>,
    first_ns: u64,
    last_ns: u64,
}

impl<'a> EntryFields<'a> {
    fn of(entry: &'a Entry, scale: Scale) -> Self {
        Self {
            cause: entry.cause.name(),
            delta: Delta::of(entry.delta, scale),
            faults: entry.faults.into(),
            mapping: entry.mapping.as_deref().map(Into::into),
            tid: entry.tid,
            comm: Text(&entry.comm),
            comm_hex: Hex::twin(&entry.comm),
            syscall: entry.syscall.map(syscall_label),
            fault_ns: LatencyFields::of(&entry.latency),
            stack_id: entry.stack.as_ref().map(|stack| stack.id),
            first_ns: entry.first_ns,
            last_ns: entry.last_ns,
        }
    }
}

#[derive(Serialize)]
struct StatementLine<'a> {
    pid: u32,
    mm: MmId,
    comm: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Hex<'a>>,
    start_ns: u64,
    opening: Level,
    closing: Level,
    entries: Vec<EntryFields<'a>>,
    unexplained: Delta,
    lost: LostFields,
}

impl<'a> StatementLine<'a> {
    fn of(s: &'a Statement, scale: Scale) -> Self {
        Self {
            pid: s.pid,
            mm: s.mm,
            comm: Text(&s.comm),
            comm_hex: Hex::twin(&s.comm),
            start_ns: s.start_ns,
            opening: Level::of(s.opening, scale),
            closing: Level::of(s.closing, scale),
            entries: s.entries.iter().map(|entry| EntryFields::of(entry, scale)).collect(),
            unexplained: Delta::of(s.unexplained, scale),
            lost: LostFields(s.lost),
        }
    }
}

#[derive(Serialize)]
struct MappingLine<'a> {
    pid: u32,
    mm: MmId,
    what: &'static str,
    mapping: MappingFields<'a>,
    syscall: Option<String>,
    tid: u32,
    stack_id: Option<StackId>,
}

impl<'a> MappingLine<'a> {
    fn of(m: &'a MappingChange) -> Self {
        Self {
            pid: m.pid,
            mm: m.mm,
            what: match m.what {
                MappingWhat::Born => "born",
                MappingWhat::Died => "died",
            },
            mapping: (&*m.mapping).into(),
            syscall: m.syscall.map(syscall_label),
            tid: m.tid,
            stack_id: m.stack.as_ref().map(|stack| stack.id),
        }
    }
}

#[derive(Serialize)]
struct ProcessLine<'a> {
    what: &'static str,
    pid: u32,
    tid: u32,
    mm: Option<MmId>,
    comm: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Hex<'a>>,
    child: Option<u32>,
    exit: Option<ExitFields>,
}

impl<'a> ProcessLine<'a> {
    fn of(task: &'a Task) -> Self {
        let (what, child, exit) = match task.what {
            TaskWhat::Forked { child } => ("fork", Some(child), None),
            TaskWhat::ThreadStarted { child } => ("thread_start", Some(child), None),
            TaskWhat::SharedMm { child } => ("fork_shared_mm", Some(child), None),
            TaskWhat::Execed => ("exec", None, None),
            TaskWhat::ThreadExited => ("thread_exit", None, None),
            TaskWhat::ProcessExited { code } => ("exit", None, Some(code.into())),
            TaskWhat::OomVictim => ("oom_victim", None, None),
        };
        Self {
            what,
            pid: task.pid,
            tid: task.tid,
            mm: task.mm,
            comm: Text(&task.comm),
            comm_hex: Hex::twin(&task.comm),
            child,
            exit,
        }
    }
}

#[derive(Serialize)]
struct AuditLine<'a> {
    pid: u32,
    mm: MmId,
    quiet: bool,
    ledger: Delta,
    status: Delta,
    difference: Delta,
    moved: Delta,
    smaps_rss: i64,
    mappings: usize,
    differing_count: usize,
    differing: Vec<DifferenceFields<'a>>,
    placeless: i64,
    cost_ns: u64,
    longest_hold_ns: u64,
}

#[derive(Serialize)]
struct DifferenceFields<'a> {
    mapping: MappingFields<'a>,
    smaps: i64,
    ledger: i64,
}

impl<'a> AuditLine<'a> {
    fn of(a: &'a Audit, scale: Scale) -> Self {
        Self {
            pid: a.pid,
            mm: a.mm,
            quiet: a.quiet,
            ledger: Delta::of(a.ledger, scale),
            status: Delta::of(a.status, scale),
            difference: Delta::of(a.difference, scale),
            moved: Delta::of(a.moved, scale),
            smaps_rss: scale.bytes(a.smaps_rss),
            mappings: a.mappings,
            differing_count: a.differing_count,
            differing: a
                .differing
                .iter()
                .map(|d| DifferenceFields {
                    mapping: (&*d.mapping).into(),
                    smaps: scale.bytes(d.smaps),
                    ledger: scale.bytes(d.ledger),
                })
                .collect(),
            placeless: scale.bytes(a.placeless),
            cost_ns: a.cost_ns,
            longest_hold_ns: a.longest_hold_ns,
        }
    }
}

/// A sum over the session: the four classes at the top level, as the contract has them, then what else is known.
#[derive(Serialize)]
struct SumFields {
    #[serde(flatten)]
    delta: Delta,
    #[serde(flatten)]
    rest: SumRest,
}

impl SumFields {
    fn of(sum: &Sum, scale: Scale) -> Self {
        Self { delta: Delta::of(sum.delta, scale), rest: SumRest::of(sum, scale) }
    }
}

/// What is known of a sum beside its amounts.
#[derive(Serialize)]
struct SumRest {
    grown: i64,
    shrunk: i64,
    faults: FaultFields,
    fault_ns: Option<LatencyFields>,
}

impl SumRest {
    fn of(sum: &Sum, scale: Scale) -> Self {
        let bytes = |pages: u64| scale.bytes(i64::try_from(pages).unwrap_or(i64::MAX));
        Self {
            grown: bytes(sum.grown),
            shrunk: bytes(sum.shrunk),
            faults: sum.faults.into(),
            fault_ns: LatencyFields::of(&sum.latency),
        }
    }
}

struct ByCause<'a>(&'a [(Cause, Sum)], Scale);

impl Serialize for ByCause<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(cause, sum)| (cause.name(), SumFields::of(sum, self.1))))
    }
}

#[derive(Serialize)]
struct MappingSumFields<'a> {
    mapping: Option<MappingFields<'a>>,
    delta: Delta,
    #[serde(flatten)]
    rest: SumRest,
}

#[derive(Serialize)]
struct CodeSumFields {
    stack_id: Option<StackId>,
    /// How many code paths are in it, where it stands for several.
    #[serde(skip_serializing_if = "Option::is_none")]
    folded: Option<u64>,
    delta: Delta,
    #[serde(flatten)]
    rest: SumRest,
}

impl CodeSumFields {
    fn of(code: &CodeSum, scale: Scale) -> Self {
        Self {
            stack_id: code.stack.as_ref().map(|stack| stack.id),
            folded: (code.folded > 0).then_some(code.folded),
            delta: Delta::of(code.sum.delta, scale),
            rest: SumRest::of(&code.sum, scale),
        }
    }
}

/// What `closing` and `end` have in common.
#[derive(Serialize)]
struct BooksFields<'a> {
    start_ns: u64,
    opening: Level,
    closing: Level,
    peak_res: i64,
    by_cause: ByCause<'a>,
    by_mapping: Vec<MappingSumFields<'a>>,
    by_code: Vec<CodeSumFields>,
    faults: FaultFields,
    unexplained: Delta,
}

impl<'a> BooksFields<'a> {
    fn of(c: &'a ClosingStatement, scale: Scale) -> Self {
        Self {
            start_ns: c.start_ns,
            opening: Level::of(c.opening, scale),
            closing: Level::of(c.closing, scale),
            peak_res: scale.bytes(c.peak_res),
            by_cause: ByCause(&c.by_cause, scale),
            by_mapping: c
                .by_mapping
                .iter()
                .map(|(mapping, sum)| MappingSumFields {
                    mapping: mapping.as_deref().map(Into::into),
                    delta: Delta::of(sum.delta, scale),
                    rest: SumRest::of(sum, scale),
                })
                .collect(),
            by_code: c.by_code.iter().map(|code| CodeSumFields::of(code, scale)).collect(),
            faults: c.faults.into(),
            unexplained: Delta::of(c.unexplained, scale),
        }
    }
}

#[derive(Serialize)]
struct ClosingLine<'a> {
    pid: u32,
    mm: MmId,
    comm: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Hex<'a>>,
    #[serde(flatten)]
    books: BooksFields<'a>,
}

impl<'a> ClosingLine<'a> {
    fn of(c: &'a ClosingStatement, scale: Scale) -> Self {
        Self {
            pid: c.pid,
            mm: c.mm,
            comm: Text(&c.comm),
            comm_hex: Hex::twin(&c.comm),
            books: BooksFields::of(c, scale),
        }
    }
}

#[derive(Serialize)]
struct EndLine<'a> {
    reason: &'static str,
    exit: Option<ExitFields>,
    pid: u32,
    mms: usize,
    #[serde(flatten)]
    books: BooksFields<'a>,
    lost: LostFields,
    stacks: StacksFields,
    own: OwnFields,
}

impl<'a> EndLine<'a> {
    fn of(end: &'a EndReport, scale: Scale) -> Self {
        let (reason, code) = match end.end.reason {
            EndReason::Exited { code } => ("exited", code),
            EndReason::Interrupted => ("interrupted", None),
            EndReason::Duration => ("duration", None),
            EndReason::OutputClosed => ("output_closed", None),
            EndReason::Truncated => ("truncated", None),
        };
        Self {
            reason,
            exit: code.map(Into::into),
            pid: end.total.pid,
            mms: end.mms,
            books: BooksFields::of(&end.total, scale),
            lost: LostFields(end.lost),
            stacks: StacksFields::of(&end.stacks, scale),
            own: OwnFields::of(end.own, end.total.faults),
        }
    }
}
