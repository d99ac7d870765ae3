//! The shape of each line. Field order here is the order in the output; docs/ndjson.md says what they mean.

use super::SCHEMA;
use super::burst::BurstLine;
use super::closing::{ClosingLine, EndLine};
use super::fields::{Delta, ExitFields, FaultFields, FrameFields, LatencyFields, Level, LostFields, MappingFields};
use super::spans::{SpanLine, SpansLine};
use super::stuck::StuckLine;
use super::untrusted::{Arguments, Hex, Text};
use crate::event::{Meta, MmId, Mode, Overview, StackEnd, StackId, Task, TaskWhat};
use crate::statement::{Audit, Entry, MappingChange, MappingWhat, Report, Stack, Statement};
use crate::views::Scale;
use crate::views::words::syscall_label;
use serde::Serialize;

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
    Burst(Box<BurstLine<'a>>),
    Stuck(Box<StuckLine<'a>>),
    Span(Box<SpanLine<'a>>),
    Spans(Box<SpansLine<'a>>),
    Loss { lost: LostFields },
    Closing(ClosingLine<'a>),
    End(Box<EndLine<'a>>),
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
            Report::Burst(b) => ("burst", b.ts_ns, Body::Burst(Box::new(BurstLine::of(b, scale)))),
            Report::Stuck(s) if s.whole => ("stuck", s.ts_ns, Body::Stuck(Box::new(StuckLine::of(s, scale)))),
            Report::Span(s) => ("span", s.ts_ns, Body::Span(Box::new(SpanLine::of(s, scale)))),
            Report::Spans(s) => ("spans", s.ts_ns, Body::Spans(Box::new(SpansLine::of(s, scale)))),
            Report::Residency(_) | Report::Stuck(_) | Report::Tick { .. } => return None,
            Report::Audit(a) => ("audit", a.ts_ns, Body::Audit(AuditLine::of(a, scale))),
            Report::Loss { ts_ns, lost } => ("loss", *ts_ns, Body::Loss { lost: LostFields(*lost) }),
            Report::Closing(c) => ("closing", c.ts_ns, Body::Closing(ClosingLine::of(c, scale))),
            Report::End(e) => ("end", e.end.ts_ns, Body::End(Box::new(EndLine::of(e, scale)))),
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
        Self {
            id: stack.id,
            end: stack.end.name(),
            complete: stack.end == StackEnd::Root,
            frames: FrameFields::of_stack(stack),
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
