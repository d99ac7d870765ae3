//! Made-up sessions.

use crate::event::{Latency, Lost, MmId, StackEnd, StackId, Symbol};
use crate::statement::{Balance, Entry, Faults, Frame, Kind, MappingRef, Stack, Statement};
use crate::units::Amounts;
use memtrace_common::Cause;
use std::sync::Arc;

pub(in crate::screen) const PID: u32 = 4711;
pub(in crate::screen) const MM: MmId = MmId(0);
pub(in crate::screen) const MS: u64 = 1_000_000;
pub(in crate::screen) const BEGIN: u64 = 10_000_000_000_000;

pub(in crate::screen) const fn anon(pages: i64) -> Amounts {
    Amounts { anon: pages, file: 0, shmem: 0, swap: 0 }
}

pub(in crate::screen) fn mapping(id: u64, kind: Kind, name: &[u8], pages: u64) -> Arc<MappingRef> {
    let start = 0x7f00_0000_0000 + id * (1 << 32);
    Arc::new(MappingRef {
        id,
        kind,
        name: name.to_vec(),
        start,
        end: start + pages * 4096,
        permissions: 3,
        birth: None,
    })
}

/// Innermost first.
pub(in crate::screen) fn stack(id: u32, functions: &[&str]) -> Arc<Stack> {
    let frame = |name: &&str| {
        Arc::new(Frame {
            ip: 0x5600_0000_0000,
            module: b"/usr/lib/postgresql/15/bin/postgres".to_vec(),
            offset: 0x1234,
            build_id: Vec::new(),
            symbols: vec![Symbol { name: name.as_bytes().to_vec(), file: Vec::new(), line: 0 }],
            symbol_offset: 0,
        })
    };
    Arc::new(Stack { id: StackId(id), frames: functions.iter().map(frame).collect(), end: StackEnd::Root })
}

/// The `n`th tenth of a second; entries by cause, pages of anonymous memory and mapping. What earlier ones did to the
/// balance is the sum of `n` statements like it.
pub(in crate::screen) fn statement(n: u64, entries: &[(Cause, i64, u64)]) -> Statement {
    let all: i64 = entries.iter().map(|(_, pages, _)| pages).sum();
    let balance = |n: i64| Balance { amounts: anon(1000 + all * n), virt: Some(100_000) };
    Statement {
        mm: MM,
        pid: PID,
        comm: b"postgres".to_vec(),
        start_ns: BEGIN + n * 100 * MS,
        ts_ns: BEGIN + (n + 1) * 100 * MS,
        opening: balance(n as i64),
        closing: balance(n as i64 + 1),
        entries: entries.iter().map(|&(cause, pages, id)| entry(n, cause, pages, id)).collect(),
        unexplained: Amounts::ZERO,
        lost: Lost::default(),
    }
}

fn entry(n: u64, cause: Cause, pages: i64, id: u64) -> Entry {
    Entry {
        cause,
        delta: anon(pages),
        faults: Faults { minor: pages.max(0).unsigned_abs(), major: 0 },
        mapping: Some(mapping(id, Kind::Anon, b"", 1024)),
        tid: PID,
        comm: b"postgres".to_vec(),
        syscall: None,
        latency: Latency::default(),
        stack: None,
        first_ns: BEGIN + n * 100 * MS,
        last_ns: BEGIN + (n + 1) * 100 * MS - 1,
    }
}
