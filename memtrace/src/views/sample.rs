//! A hand-made session that shows every kind of report, for the views' tests and for docs/ndjson.md.
//! Its books close; the tests rely on that.

use crate::event::{
    CausePages, End, EndReason, Latency, Lost, Meta, MmId, Mode, NameFailures, Naming, Overview, Own, SpanSums,
    StackEnd, StackId, Symbol, Task, TaskWhat, Unnamed, permission,
};
use crate::statement::{
    Audit, AuditDifference, Balance, Birth, Burst, ClosingStatement, CodeSum, EndReport, Entry, Faults, Frame, Kind,
    MappingChange, MappingRef, MappingWhat, Part, ProcessChange, Report, Span, SpanEnd, SpanThread, Spans, Stack,
    StackSums, Statement, Sum,
};
use crate::units::Amounts;
use memtrace_common::{Cause, HIST_BUCKETS};
use std::sync::Arc;

pub(crate) const PID: u32 = 4711;
pub(crate) const MM: MmId = MmId(0);
/// Monotonic begin: 2 h 46 min 40 s after boot.
pub(crate) const BEGIN: u64 = 10_000_000_000_000;
pub(crate) const MS: u64 = 1_000_000;

const fn amounts(anon: i64, file: i64, shmem: i64, swap: i64) -> Amounts {
    Amounts { anon, file, shmem, swap }
}

/// `n` samples of about `ns` each.
fn latency(n: u32, ns: u64) -> Latency {
    let mut hist = [0; HIST_BUCKETS];
    let bucket = (ns.ilog2() as usize).saturating_sub(7).min(HIST_BUCKETS - 1);
    hist[bucket] = n - n / 20;
    hist[(bucket + 1).min(HIST_BUCKETS - 1)] += n / 20;
    Latency { samples: u64::from(n), sum_ns: u64::from(n) * ns, max_ns: ns * 3, hist }
}

pub(crate) fn meta() -> Meta {
    Meta {
        version: "0.1.0".into(),
        pid: PID,
        comm: b"postgres".to_vec(),
        exe: b"/usr/lib/postgresql/15/bin/postgres".to_vec(),
        cmdline: b"postgres: 15/main: shop shop [local] SELECT\0".to_vec(),
        kernel: "6.18.44-amd64".into(),
        page_size: 4096,
        mode: Mode::Exact,
        mode_reason: String::new(),
        interval_ns: 100 * MS,
        ts_ns: BEGIN,
        wall_ns: 1_769_860_800_000_000_000,
        spawned: false,
        follow: false,
    }
}

pub(in crate::views) fn overview() -> Overview {
    Overview {
        mm: MM,
        ts_ns: BEGIN + 2 * MS,
        virt: 1_717_986_918,
        anon: 10_496 * 4096,
        file: 4_659 * 4096,
        shmem: 64_819 * 4096,
        swap: 0,
        uss: Some((10_240 + 794) * 4096),
        private_file: Some(794 * 4096),
        pss: Some(100_663_296),
        hugetlb: 0,
    }
}

pub(in crate::views) fn hash_table() -> Arc<MappingRef> {
    Arc::new(MappingRef {
        id: 214,
        kind: Kind::Anon,
        name: Vec::new(),
        start: 0x7f12_a400_0000,
        end: 0x7f12_aa00_0000,
        permissions: permission::READ | permission::WRITE,
        birth: Some(Birth { ts_ns: BEGIN + 3_117 * MS, nr: 9, tid: PID, stack: Some(table_stack()) }),
    })
}

pub(in crate::views) fn shared_buffers() -> Arc<MappingRef> {
    Arc::new(MappingRef {
        id: 17,
        kind: Kind::SharedAnon,
        name: b"/dev/zero (deleted)".to_vec(),
        start: 0x7f11_0000_0000,
        end: 0x7f11_4000_0000,
        permissions: permission::READ | permission::WRITE | permission::SHARED,
        birth: None,
    })
}

/// A place in code; several names where functions are inlined.
fn frame(module: &[u8], offset: u64, names: &[&str]) -> Arc<Frame> {
    let symbols = names.iter().map(|n| Symbol { name: n.as_bytes().to_vec(), file: Vec::new(), line: 0 }).collect();
    Arc::new(Frame {
        ip: 0x5581_0000_0000 + offset,
        module: module.to_vec(),
        offset,
        build_id: vec![0xab; 20],
        symbols,
        symbol_offset: if names.is_empty() { 0 } else { offset & 0xff },
    })
}

const POSTGRES: &[u8] = b"/usr/lib/postgresql/15/bin/postgres";
const LIBC: &[u8] = b"/usr/lib/x86_64-linux-gnu/libc.so.6";

/// From the executor to the thread's root.
fn executor() -> Vec<Arc<Frame>> {
    let named = |offset, name| frame(POSTGRES, offset, &[name]);
    vec![
        frame(POSTGRES, 0x35_10c4, &["ExecHashJoinImpl", "ExecHashJoin"]),
        named(0x33_f0a2, "standard_ExecutorRun"),
        named(0x4c_8819, "PostgresMain"),
        named(0x44_1c55, "ServerLoop"),
        named(0x44_2b0e, "PostmasterMain"),
        named(0x0d_0471, "main"),
        frame(LIBC, 0x2_724a, &["__libc_start_call_main"]),
        named(0x0d_1b31, "_start"),
    ]
}

/// Who made the hash table's mapping.
pub(in crate::views) fn table_stack() -> Arc<Stack> {
    let mut frames = vec![
        frame(LIBC, 0xf_c7d3, &["__mmap64"]),
        frame(LIBC, 0x9_71c2, &[]),
        frame(POSTGRES, 0x5d_10e7, &["AllocSetAlloc"]),
        frame(POSTGRES, 0x34_f0d1, &["ExecHashTableCreate"]),
    ];
    frames.extend(executor());
    Arc::new(Stack { id: StackId(5), frames, end: StackEnd::Root })
}

/// Who fills the hash table.
pub(in crate::views) fn hash_stack() -> Arc<Stack> {
    let mut frames = vec![
        frame(POSTGRES, 0x34_e91f, &["dense_alloc", "ExecHashTableInsert"]),
        frame(POSTGRES, 0x34_ea50, &["MultiExecPrivateHash"]),
    ];
    frames.extend(executor());
    Arc::new(Stack { id: StackId(6), frames, end: StackEnd::Root })
}

/// A stack of one unnamed frame.
pub(in crate::views) fn code(offset: u64) -> Arc<Stack> {
    let frames = vec![frame(POSTGRES, offset, &[])];
    Arc::new(Stack { id: StackId(7), frames, end: StackEnd::Deep })
}

pub(in crate::views) fn entry(cause: Cause, delta: Amounts, mapping: Option<Arc<MappingRef>>) -> Entry {
    Entry {
        cause,
        delta,
        faults: Faults::default(),
        mapping,
        tid: PID,
        comm: b"postgres".to_vec(),
        syscall: None,
        latency: Latency::default(),
        stack: Some(hash_stack()),
        first_ns: BEGIN + 3_120 * MS,
        last_ns: BEGIN + 3_331 * MS,
    }
}

const OPENING: Balance = Balance { amounts: amounts(10_496, 4_659, 64_819, 0), virt: Some(419_430) };
const GROWN: Balance = Balance { amounts: amounts(25_907, 4_659, 65_869, 0), virt: Some(444_006) };
const SHRUNK: Balance = Balance { amounts: amounts(10_496, 4_659, 65_869, 0), virt: Some(419_430) };

pub(in crate::views) fn growth() -> Statement {
    Statement {
        mm: MM,
        pid: PID,
        comm: b"postgres".to_vec(),
        start_ns: BEGIN + 3_120 * MS,
        ts_ns: BEGIN + 3_332 * MS,
        opening: OPENING,
        closing: GROWN,
        entries: vec![
            Entry {
                faults: Faults { minor: 15_411, major: 0 },
                latency: latency(963, 2_000),
                ..entry(Cause::FaultAnon, amounts(15_411, 0, 0, 0), Some(hash_table()))
            },
            Entry {
                faults: Faults { minor: 1_049, major: 1 },
                latency: latency(65, 2_300),
                syscall: Some(17),
                stack: Some(code(0x4a_7711)),
                ..entry(Cause::FaultShmem, amounts(0, 0, 1_050, 0), Some(shared_buffers()))
            },
        ],
        unexplained: Amounts::ZERO,
        lost: Lost::default(),
    }
}

/// The growth as a burst.
pub(in crate::views) fn burst() -> Burst {
    let [table, buffers] = <[Entry; 2]>::try_from(growth().entries).expect("two entries");
    fn part<T>(of: T, entry: &Entry) -> Part<T> {
        Part { of, delta: entry.delta, faults: entry.faults }
    }
    let mut latency = table.latency;
    latency.merge(&buffers.latency);
    Burst {
        number: 1,
        mm: MM,
        pid: PID,
        comm: b"postgres".to_vec(),
        start_ns: BEGIN + 3_120 * MS,
        ts_ns: BEGIN + 3_331 * MS,
        delta: table.delta + buffers.delta,
        res: GROWN.amounts.res(),
        faults: Faults { minor: 16_460, major: 1 },
        uncertain: Part { of: (), delta: amounts(0, 0, 40, 0), faults: Faults { minor: 40, major: 0 } },
        level: 140,
        latency,
        causes: vec![part(table.cause, &table), part(buffers.cause, &buffers)],
        mappings: vec![part(table.mapping.clone(), &table), part(buffers.mapping.clone(), &buffers)],
        threads: vec![Part {
            of: (PID, b"postgres".to_vec()),
            delta: table.delta + buffers.delta,
            faults: Faults { minor: 16_460, major: 1 },
        }],
        stacks: vec![part(table.stack.clone(), &table), part(buffers.stack.clone(), &buffers)],
        displaced: amounts(0, -12, 0, 0),
        given_back: Amounts::ZERO,
    }
}

pub(in crate::views) fn shrinkage() -> Statement {
    Statement {
        start_ns: BEGIN + 4_800 * MS,
        ts_ns: BEGIN + 4_900 * MS,
        opening: GROWN,
        closing: SHRUNK,
        entries: vec![Entry {
            syscall: Some(11),
            ..entry(Cause::Munmap, amounts(-15_411, 0, 0, 0), Some(hash_table()))
        }],
        ..growth()
    }
}

/// The `nth` change that is too small to tell: three pages.
pub(in crate::views) fn ripple(nth: u32) -> Statement {
    let grown = |times: u32| Balance { amounts: OPENING.amounts + amounts(3 * i64::from(times), 0, 0, 0), ..OPENING };
    Statement {
        start_ns: BEGIN + u64::from(nth - 1) * 100 * MS,
        ts_ns: BEGIN + u64::from(nth) * 100 * MS,
        opening: grown(nth - 1),
        closing: grown(nth),
        entries: vec![Entry {
            faults: Faults { minor: 3, major: 0 },
            ..entry(Cause::FaultAnon, amounts(3, 0, 0, 0), Some(hash_table()))
        }],
        ..growth()
    }
}

pub(in crate::views) fn audit(differs: bool) -> Audit {
    let differing = AuditDifference { mapping: hash_table(), smaps: 12, ledger: 0 };
    Audit {
        ts_ns: BEGIN + 5_000 * MS,
        mm: MM,
        pid: PID,
        quiet: true,
        ledger: SHRUNK.amounts,
        status: SHRUNK.amounts + if differs { amounts(12, 0, 0, 0) } else { Amounts::ZERO },
        smaps_rss: SHRUNK.amounts.res() + if differs { 12 } else { 0 },
        difference: if differs { amounts(12, 0, 0, 0) } else { Amounts::ZERO },
        moved: Amounts::ZERO,
        mappings: 214,
        differing: if differs { vec![differing] } else { Vec::new() },
        differing_count: usize::from(differs),
        placeless: 0,
        cost_ns: 1_200_000,
        longest_hold_ns: 200_000,
    }
}

pub(in crate::views) const LOST: Lost =
    Lost { records: 12, ring: 0, skipped: 1, threads: 0, mms: 0, undecodable: 0, stacks: 0, times: 0 };

pub(in crate::views) fn task(what: TaskWhat) -> Task {
    Task { mm: Some(MM), ts_ns: BEGIN + 4_950 * MS, pid: PID, tid: PID, what, comm: b"postgres".to_vec() }
}

pub(in crate::views) fn closing() -> ClosingStatement {
    let [anon, shmem] = [&growth().entries[0], &growth().entries[1]].map(|e| Sum {
        delta: e.delta,
        grown: e.delta.res().unsigned_abs(),
        shrunk: 0,
        faults: e.faults,
        latency: e.latency,
    });
    let munmap = Sum { delta: amounts(-15_411, 0, 0, 0), shrunk: 15_411, ..Sum::default() };
    let table = Sum { delta: Amounts::ZERO, shrunk: 15_411, ..anon.clone() };
    ClosingStatement {
        mm: MM,
        pid: PID,
        comm: b"postgres".to_vec(),
        start_ns: BEGIN,
        ts_ns: BEGIN + 5_000 * MS,
        opening: OPENING,
        closing: SHRUNK,
        peak_res: GROWN.amounts.res(),
        by_cause: vec![(Cause::FaultAnon, anon), (Cause::FaultShmem, shmem.clone()), (Cause::Munmap, munmap)],
        by_mapping: vec![(Some(hash_table()), table.clone()), (Some(shared_buffers()), shmem.clone())],
        by_code: vec![
            CodeSum { stack: Some(hash_stack()), folded: 0, sum: table },
            CodeSum { stack: Some(code(0x4a_7711)), folded: 0, sum: shmem },
        ],
        faults: Faults { minor: 16_460, major: 1 },
        unexplained: Amounts::ZERO,
    }
}

pub(in crate::views) fn end() -> EndReport {
    EndReport {
        end: End {
            naming: Naming {
                unnamed: vec![Unnamed {
                    module: b"/usr/lib/postgresql/15/bin/postgres".to_vec(),
                    places: 31,
                    advice: "apt install postgresql-15-dbgsym (from the debian-debug archive)".into(),
                }],
                failures: NameFailures { timeouts: 1, ..NameFailures::default() },
            },
            ..End::new(BEGIN + 5_000 * MS, EndReason::Exited { code: Some(0) })
        },
        total: closing(),
        lost: LOST,
        own: Own {
            cpu_ns: 20 * MS,
            bpf_ns: Some(1_200_000),
            bpf_runs: Some(33_000),
            max_rss: 12_582_912,
            copies: 61,
            copied_bytes: 499_712,
            unwind_ns: 310_000,
            ..Own::default()
        },
        mms: 1,
        stacks: StackSums {
            grown: 16_461,
            complete: 15_411,
            failures: [(StackEnd::Deep, (1, 1_050))].into(),
            without: 0,
        },
        bursts: 1,
    }
}

/// The statement that built the hash table and gave it back.
fn span() -> Arc<Span> {
    let causes = [(Cause::FaultAnon, 15_411), (Cause::FaultShmem, 1_050), (Cause::Munmap, -15_411)];
    Arc::new(Span {
        number: 1,
        name: "postgresql".into(),
        mm: MM,
        pid: PID,
        tid: PID,
        comm: b"postgres".to_vec(),
        text: Some(b"select count(*)\n  from orders join lines using (id)".to_vec()),
        start_ns: BEGIN + 3_100 * MS,
        ts_ns: BEGIN + 4_880 * MS,
        told_ns: BEGIN + 4_880 * MS,
        before: false,
        earlier_ns: None,
        end: SpanEnd::Ended,
        opening: OPENING.amounts,
        closing: SHRUNK.amounts,
        own: SpanSums {
            delta: SHRUNK.amounts - OPENING.amounts,
            peak: 16_461,
            faults: 16_461,
            major: 1,
            latency_sum_ns: 2_075_500,
            latency_max_ns: 6_900,
            latency_samples: 1_028,
            causes: causes.map(|(cause, pages)| CausePages { cause, pages }).to_vec(),
        },
        mapped: 96 << 20,
        unmapped: 96 << 20,
    })
}

/// It and what there was besides.
pub(in crate::views) fn spans() -> [Report; 2] {
    let span = span();
    let row = SpanThread {
        name: span.name.clone(),
        pid: PID,
        tid: PID,
        comm: span.comm.clone(),
        folded: 0,
        count: 1,
        ns: span.duration_ns(),
        booked: span.own.delta,
        within: span.own.clone(),
        between: SpanSums::default(),
    };
    let all = Spans {
        start_ns: BEGIN,
        ts_ns: BEGIN + 5_000 * MS,
        count: 1,
        open: 0,
        slowest: vec![Arc::clone(&span)],
        largest: vec![Arc::clone(&span)],
        by_thread: vec![row],
    };
    [Report::Span(span), Report::Spans(Box::new(all))]
}

/// The whole session, one report of each type at least.
pub(in crate::views) fn session() -> Vec<Report> {
    let [span, spans] = spans();
    let mapping = |what, at_ms: u64, nr, stack| {
        Report::Mapping(MappingChange {
            ts_ns: BEGIN + at_ms * MS,
            mm: MM,
            pid: PID,
            what,
            mapping: hash_table(),
            syscall: Some(nr),
            tid: PID,
            stack: Some(stack),
        })
    };
    vec![
        Report::Meta(meta()),
        Report::Overview(overview()),
        Report::Stack(table_stack()),
        mapping(MappingWhat::Born, 3_117, 9, table_stack()),
        Report::Stack(hash_stack()),
        Report::Stack(code(0x4a_7711)),
        Report::Statement(growth()),
        Report::Burst(Box::new(burst())),
        mapping(MappingWhat::Died, 4_871, 11, hash_stack()),
        span,
        Report::Statement(shrinkage()),
        Report::Process(ProcessChange { task: task(TaskWhat::ProcessExited { code: 0 }) }),
        Report::Audit(audit(false)),
        Report::Loss { ts_ns: BEGIN + 5_000 * MS, lost: LOST },
    ]
    .into_iter()
    .chain(stuck())
    .chain([spans, Report::Closing(closing()), Report::End(Box::new(end()))])
    .collect()
}

/// Why it did not move, after the stacks that that refers to.
pub(in crate::views) fn stuck() -> Vec<Report> {
    let reports = crate::stuck::stalls::stall("PostgreSQL's lock").reports();
    let wanted = |report: &Report| match report {
        Report::Stack(_) => true,
        Report::Stuck(stuck) => stuck.whole,
        _ => false,
    };
    reports.into_iter().filter(wanted).collect()
}
