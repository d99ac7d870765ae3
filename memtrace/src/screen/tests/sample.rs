//! Made-up sessions.

use crate::event::{End, EndReason, Latency, Lost, Meta, Overview, Own, StackEnd, StackId, Symbol, permission};
use crate::statement::*;
use crate::units::Amounts;
use crate::views::sample;
use memtrace_common::Cause;
use std::sync::Arc;

pub(in crate::screen) use sample::{BEGIN, MM, MS, PID};

const PAGE: u64 = 4096;
const MIB: i64 = 256;

pub(in crate::screen) const fn anon(pages: i64) -> Amounts {
    Amounts { anon: pages, file: 0, shmem: 0, swap: 0 }
}

pub(in crate::screen) fn mapping(id: u64, kind: Kind, name: &[u8], pages: u64) -> Arc<MappingRef> {
    let start = 0x7f00_0000_0000 + id * (1 << 32);
    let shared = if kind == Kind::SharedAnon { permission::SHARED } else { 0 };
    let permissions = permission::READ | permission::WRITE | shared;
    Arc::new(MappingRef { id, kind, name: name.to_vec(), start, end: start + pages * PAGE, permissions, birth: None })
}

/// Innermost first.
pub(in crate::screen) fn stack(id: u32, functions: &[&str]) -> Arc<Stack> {
    let names: Vec<&[u8]> = functions.iter().map(|name| name.as_bytes()).collect();
    stack_of(id, &names, StackEnd::Root)
}

pub(in crate::screen) fn stack_of(id: u32, functions: &[&[u8]], end: StackEnd) -> Arc<Stack> {
    let frame = |(at, name): (usize, &&[u8])| {
        Arc::new(Frame {
            ip: 0x5600_0000_0000,
            module: b"/usr/lib/postgresql/15/bin/postgres".to_vec(),
            offset: 0x1234 + at as u64,
            build_id: Vec::new(),
            symbols: vec![Symbol { name: name.to_vec(), file: Vec::new(), line: 0 }],
            symbol_offset: 0,
        })
    };
    Arc::new(Stack { id: StackId(id), frames: functions.iter().enumerate().map(frame).collect(), end })
}

/// The `n`th tenth of a second; entries by cause, pages of anonymous memory and mapping. What earlier ones did to the
/// balance is the sum of `n` statements like it.
pub(in crate::screen) fn statement(n: u64, entries: &[(Cause, i64, u64)]) -> Statement {
    let all: i64 = entries.iter().map(|(_, pages, _)| pages).sum();
    let balance = |n: i64| Balance { amounts: anon(1000 + all * n), virt: Some(100_000) };
    Statement {
        opening: balance(n as i64),
        closing: balance(n as i64 + 1),
        entries: entries
            .iter()
            .map(|&(cause, pages, id)| entry(n, cause, anon(pages), &mapping(id, Kind::Anon, b"", 1024)))
            .collect(),
        ..interval(n)
    }
}

/// The `n`th tenth of a second, in which nothing happened.
fn interval(n: u64) -> Statement {
    Statement {
        mm: MM,
        pid: PID,
        comm: b"postgres".to_vec(),
        start_ns: BEGIN + n * 100 * MS,
        ts_ns: BEGIN + (n + 1) * 100 * MS,
        opening: Balance::default(),
        closing: Balance::default(),
        entries: Vec::new(),
        unexplained: Amounts::ZERO,
        lost: Lost::default(),
    }
}

pub(in crate::screen) fn entry(n: u64, cause: Cause, delta: Amounts, mapping: &Arc<MappingRef>) -> Entry {
    Entry {
        cause,
        delta,
        faults: Faults { minor: delta.res().max(0), major: 0 },
        mapping: Some(Arc::clone(mapping)),
        tid: PID,
        comm: b"postgres".to_vec(),
        syscall: None,
        latency: Latency::default(),
        stack: None,
        first_ns: BEGIN + n * 100 * MS,
        last_ns: BEGIN + (n + 1) * 100 * MS - 1,
    }
}

pub(in crate::screen) fn meta() -> Meta {
    Meta { cmdline: Vec::new(), ..sample::meta() }
}

pub(in crate::screen) fn tick(n: u64) -> Report {
    let own = Own {
        cpu_ns: n * MS / 2,
        bpf_ns: Some(n * MS / 10),
        bpf_runs: Some(1000),
        max_rss: 12 << 20,
        ..Own::default()
    };
    Report::Tick { ts_ns: BEGIN + n * 100 * MS, own }
}

fn overview() -> Overview {
    let bytes = |mib: u64| mib << 20;
    Overview {
        mm: MM,
        ts_ns: BEGIN,
        virt: bytes(1600),
        anon: bytes(41),
        file: bytes(18),
        shmem: bytes(253),
        swap: 0,
        uss: Some(bytes(44)),
        private_file: Some(bytes(3)),
        pss: Some(bytes(96)),
        hugetlb: 0,
    }
}

/// A hash join in three seconds: the table grows by 60 MiB in ten intervals, shared buffers by 4 MiB in one, both in
/// the second second; then the table is unmapped. Books close in every statement.
pub(in crate::screen) fn hash_join() -> Vec<Report> {
    let table = mapping(5, Kind::Anon, b"", 96 * MIB as u64);
    let buffers = mapping(2, Kind::SharedAnon, b"/dev/zero (deleted)", 1024 * MIB as u64);
    let heap = mapping(1, Kind::Heap, b"[heap]", 44 * MIB as u64);
    let library = mapping(3, Kind::Library, b"/usr/lib/libc.so.6", 2 * MIB as u64);
    let insert = stack(1, &["ExecHashTableInsert", "MultiExecHash", "ExecHashJoin", "standard_ExecutorRun", "main"]);
    let fetch =
        stack(2, &["ReadBuffer_common", "heapgetpage", "SeqNext", "ExecHashJoin", "standard_ExecutorRun", "main"]);
    let delete = stack(3, &["AllocSetDelete", "ExecEndHashJoin", "standard_ExecutorEnd", "main"]);
    let mut reports = vec![Report::Meta(meta()), Report::Overview(overview())];
    reports.extend([&insert, &fetch, &delete].map(|stack| Report::Stack(Arc::clone(stack))));
    let resident = |mapping: &Arc<MappingRef>, private: i64, shared: i64, swap: i64| Resident {
        mapping: Arc::clone(mapping),
        private: private.unsigned_abs() * PAGE,
        shared: shared.unsigned_abs() * PAGE,
        pss: (private + shared / 11).unsigned_abs() * PAGE,
        swap: swap.unsigned_abs() * PAGE,
        dirty: private.unsigned_abs() * PAGE,
    };
    reports.push(Report::Residency(Residency {
        mm: MM,
        pid: PID,
        ts_ns: BEGIN + 50 * MS,
        mappings: vec![
            resident(&heap, 41 * MIB, 0, 2 * MIB),
            resident(&buffers, 0, 253 * MIB, 0),
            resident(&library, MIB / 8, MIB, 0),
        ],
    }));
    let birth = Birth { ts_ns: BEGIN + 997 * MS, nr: 9, tid: PID, stack: Some(Arc::clone(&insert)) };
    let table = Arc::new(MappingRef { birth: Some(birth), ..(*table).clone() });
    let change = |what, at: u64, nr| {
        Report::Mapping(MappingChange {
            ts_ns: BEGIN + at * MS,
            mm: MM,
            pid: PID,
            what,
            mapping: Arc::clone(&table),
            syscall: Some(nr),
            tid: PID,
            stack: None,
        })
    };
    let mut amounts = Amounts { anon: 41 * MIB, file: 18 * MIB, shmem: 253 * MIB, swap: 2 * MIB };
    for n in 0..30 {
        let mut entries = Vec::new();
        if (10..20).contains(&n) {
            if n == 10 {
                reports.push(change(MappingWhat::Born, 997, 9));
            }
            let latency = Latency { samples: 96, sum_ns: 96 * 1900, max_ns: 4200, hist: hist(96) };
            let stack = Some(Arc::clone(&insert));
            entries.push(Entry { stack, latency, ..entry(n, Cause::FaultAnon, anon(6 * MIB), &table) });
        }
        if n == 15 {
            let delta = Amounts { shmem: 4 * MIB, ..Amounts::ZERO };
            entries.push(Entry { stack: Some(Arc::clone(&fetch)), ..entry(n, Cause::FaultShmem, delta, &buffers) });
        }
        if n == 25 {
            reports.push(change(MappingWhat::Died, 2550, 11));
            let stack = Some(Arc::clone(&delete));
            let faults = Faults::default();
            entries.push(Entry { stack, faults, ..entry(n, Cause::Munmap, anon(-60 * MIB), &table) });
        }
        if !entries.is_empty() {
            let virt = Some(400_000);
            let opening = Balance { amounts, virt };
            amounts += entries.iter().map(|entry| entry.delta).sum();
            let closing = Balance { amounts, virt };
            reports.push(Report::Statement(Statement { opening, closing, entries, ..interval(n) }));
        }
        if n == 20 {
            reports.push(Report::Burst(Box::new(burst(&table, &insert, amounts.res()))));
            reports.push(Report::Audit(audit(amounts)));
        }
        reports.push(tick(n + 1));
    }
    reports
}

fn hist(n: u32) -> [u32; memtrace_common::HIST_BUCKETS] {
    let mut hist = [0; memtrace_common::HIST_BUCKETS];
    hist[3] = n - 4;
    hist[5] = 4;
    hist
}

fn audit(ledger: Amounts) -> Audit {
    Audit {
        ts_ns: BEGIN + 2050 * MS,
        mm: MM,
        pid: PID,
        quiet: true,
        ledger,
        status: ledger,
        smaps_rss: ledger.res(),
        difference: Amounts::ZERO,
        moved: Amounts::ZERO,
        mappings: 214,
        differing: Vec::new(),
        differing_count: 0,
        placeless: 0,
        cost_ns: 1_200_000,
        longest_hold_ns: 200_000,
    }
}

pub(in crate::screen) fn burst(table: &Arc<MappingRef>, stack: &Arc<Stack>, res: i64) -> Burst {
    let faults = Faults { minor: 15_360, major: 0 };
    let part = |delta| (delta, faults);
    let (delta, faults) = part(anon(60 * MIB));
    Burst {
        number: 1,
        mm: MM,
        pid: PID,
        comm: b"postgres".to_vec(),
        start_ns: BEGIN + 1000 * MS,
        ts_ns: BEGIN + 2000 * MS,
        delta,
        res,
        faults,
        level: 140,
        latency: Latency { samples: 960, sum_ns: 960 * 1900, max_ns: 4200, hist: hist(960) },
        causes: vec![Part { of: Cause::FaultAnon, delta, faults }],
        mappings: vec![Part { of: Some(Arc::clone(table)), delta, faults }],
        threads: vec![Part { of: (PID, b"postgres".to_vec()), delta, faults }],
        stacks: vec![Part { of: Some(Arc::clone(stack)), delta, faults }],
        displaced: Amounts::ZERO,
        given_back: Amounts::ZERO,
        uncertain: Part::default(),
    }
}

pub(in crate::screen) fn end(reason: EndReason) -> Report {
    let closing = ClosingStatement {
        mm: MM,
        pid: PID,
        comm: b"postgres".to_vec(),
        start_ns: BEGIN,
        ts_ns: BEGIN + 3000 * MS,
        opening: Balance::default(),
        closing: Balance::default(),
        peak_res: 400 * MIB,
        by_cause: Vec::new(),
        by_mapping: Vec::new(),
        by_code: Vec::new(),
        faults: Faults { minor: 16_384, major: 0 },
        unexplained: Amounts::ZERO,
    };
    Report::End(Box::new(EndReport {
        end: End::new(BEGIN + 3000 * MS, reason),
        total: closing,
        lost: Lost::default(),
        own: Own { cpu_ns: 15 * MS, bpf_ns: Some(2 * MS), bpf_runs: Some(33_000), max_rss: 12 << 20, ..Own::default() },
        mms: 1,
        stacks: StackSums { grown: 1000, complete: 997, ..StackSums::default() },
        bursts: 1,
    }))
}
