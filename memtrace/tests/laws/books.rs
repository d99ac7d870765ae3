//! The ledger over any stream of events: nothing panics, everything closes, the same events give the same reports.

use crate::pages::{BASE, HEAP, check_shape};
use memtrace::event::{
    Change, Closing, Code, CodeId, End, EndReason, Event, Latency, Lost, Maps, MapsLine, Meta, MmClosed, MmId,
    MmOpened, Mode, Own, Place, Smaps, SmapsMapping, Stack, StackEnd, StackId, Syscall, Task, TaskWhat, Tick, Why,
};
use memtrace::model::Model;
use memtrace::statement::{Faults, Report};
use memtrace::syscalls;
use memtrace::units::Amounts;
use memtrace_common::Cause;
use proptest::prelude::*;
use std::collections::BTreeMap;

const PAGE: u64 = 4096;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..64_u64,
        8 => (0..64_u64).prop_map(|page| BASE + page * PAGE),
        2 => (0..32_u64).prop_map(|page| HEAP + page * PAGE),
        3 => (0..16_u64).prop_map(|pages| pages * PAGE),
        1 => any::<u64>(),
        1 => prop::sample::select(vec![u64::MAX, u64::MAX - 4096, 1 << 63, i64::MAX as u64]),
    ]
}

fn amounts() -> impl Strategy<Value = Amounts> {
    let pages = || prop_oneof![20 => -100..1000_i64, 1 => any::<i64>(), 1 => Just(i64::MIN)];
    (pages(), pages(), pages(), pages()).prop_map(|(anon, file, shmem, swap)| Amounts { anon, file, shmem, swap })
}

fn mm() -> impl Strategy<Value = MmId> {
    (0..3_u32).prop_map(MmId)
}

fn time() -> impl Strategy<Value = u64> {
    prop_oneof![30 => 0..2000_u64, 1 => any::<u64>()]
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        Just(Place::Nowhere),
        (number(), number()).prop_map(|(start, end)| Place::Vma { start, end }),
        number().prop_map(Place::Address),
        (number(), number()).prop_map(|(start, end)| Place::Range { start, end }),
        (0..4_u64, Just(5_u64)).prop_map(|(inode, device)| Place::Inode { inode, device }),
    ]
}

fn stack_number() -> impl Strategy<Value = Option<StackId>> {
    prop::option::of((0..6_u32).prop_map(StackId))
}

/// A stack whose frames may never have been explained; a number may come again.
fn stack() -> impl Strategy<Value = Event> {
    let frames = prop::collection::vec((0..4_u32).prop_map(CodeId), 0..4);
    (0..6_u32, frames, prop::sample::select(StackEnd::ALL.to_vec()))
        .prop_map(|(id, frames, end)| Event::Stack(Stack { id: StackId(id), frames, end }))
}

fn code() -> impl Strategy<Value = Event> {
    (0..4_u32, number()).prop_map(|(id, ip)| {
        Event::Code(Code {
            id: CodeId(id),
            ip,
            module: b"/bin/\xff".to_vec(),
            offset: ip,
            build_id: Vec::new(),
            symbols: Vec::new(),
            symbol_offset: 0,
        })
    })
}

fn change() -> impl Strategy<Value = Change> {
    let what = (mm(), time(), prop::sample::select(Cause::ALL), amounts(), place(), (number(), number()));
    let who = (0..4_u32, number(), stack_number(), prop::option::of(0..40_u32), number(), number(), any::<u32>());
    (what, who).prop_map(
        |((mm, first_ns, cause, delta, place, touched), (tid, ip, stack, nr, faults, major, bucket))| {
            let mut latency = Latency { samples: faults, sum_ns: major, max_ns: ip, ..Latency::default() };
            latency.hist[bucket as usize % latency.hist.len()] = bucket;
            Change {
                mm,
                first_ns,
                ts_ns: first_ns,
                cause,
                delta,
                place,
                touched,
                tid,
                ip,
                stack,
                nr,
                detail: 0,
                faults: faults as i64,
                major: major as i64,
                kernel_mode: 0,
                latency,
            }
        },
    )
}

fn syscall() -> impl Strategy<Value = Syscall> {
    let nr = prop::sample::select(vec![
        syscalls::MMAP,
        syscalls::MMAP,
        syscalls::MUNMAP,
        syscalls::MREMAP,
        syscalls::MPROTECT,
        syscalls::BRK,
        syscalls::SHMAT,
        syscalls::SHMDT,
        syscalls::MADVISE,
        syscalls::CLONE,
        syscalls::REMAP_FILE_PAGES,
        syscalls::MAP_SHADOW_STACK,
        999,
    ]);
    let args = [number(), number(), number(), number(), number(), number()];
    (mm(), time(), 0..4_u32, nr, args, number()).prop_map(|(mm, ts_ns, tid, nr, args, ret)| Syscall {
        mm,
        ts_ns,
        pid: 1,
        tid,
        nr,
        args,
        ret: ret as i64,
        ip: 0,
        stack: None,
    })
}

fn line() -> impl Strategy<Value = MapsLine> {
    let names: Vec<&[u8]> = vec![
        b"",
        b"[heap]",
        b"[stack]",
        b"/lib/libc.so.6",
        b"/bin/program",
        b"/dev/zero (deleted)",
        b"[anon:\xff\x1b]",
        b"/SYSV0",
    ];
    (number(), number(), 0..32_u8, number(), 0..4_u64, prop::sample::select(names)).prop_map(
        |(start, end, permissions, offset, inode, name)| MapsLine {
            start,
            end,
            permissions,
            offset,
            device: 5,
            inode,
            name: name.to_vec(),
        },
    )
}

fn smaps() -> impl Strategy<Value = Smaps> {
    let vma = (number(), number(), number()).prop_map(|(start, end, rss)| SmapsMapping {
        start,
        end,
        rss,
        ..SmapsMapping::default()
    });
    let counters = (prop::option::of(amounts()), prop::option::of(amounts()), amounts());
    (mm(), time(), any::<bool>(), counters, prop::collection::vec(vma, 0..8)).prop_map(
        |(mm, ts_ns, quiet, (before, after, status), mappings)| Smaps {
            mm,
            ts_ns,
            cost_ns: 1,
            longest_hold_ns: 1,
            before,
            after,
            quiet,
            status,
            mappings,
        },
    )
}

fn opened() -> impl Strategy<Value = Event> {
    let why = prop_oneof![
        Just(Why::Attach),
        (0..4_u32).prop_map(|parent| Why::Fork { parent }),
        prop::option::of(mm()).prop_map(|left| Why::Exec { left }),
    ];
    (mm(), time(), 0..4_u32, why, amounts(), number()).prop_map(|(mm, ts_ns, pid, why, counters, brk)| {
        Event::MmOpened(MmOpened {
            mm,
            ts_ns,
            pid,
            comm: vec![0xff, b'x'],
            why,
            counters,
            virt: brk,
            start_brk: HEAP,
            brk,
            start_stack: brk,
        })
    })
}

fn task() -> impl Strategy<Value = Event> {
    (prop::option::of(mm()), 0..4_u32, 0..4_u32).prop_map(|(mm, tid, child)| {
        let what = match child {
            0 => TaskWhat::ThreadExited,
            1 => TaskWhat::SharedMm { child },
            _ => TaskWhat::Forked { child },
        };
        Event::Task(Task { mm, ts_ns: 0, pid: tid, tid, what, comm: b"child".to_vec() })
    })
}

fn tick() -> impl Strategy<Value = Event> {
    let closing = (mm(), amounts(), prop::option::of(number()));
    (time(), prop::collection::vec(closing, 0..4), any::<u64>()).prop_map(|(ts_ns, closings, ring)| {
        let closings = closings.into_iter().map(|(mm, counters, virt)| Closing { mm, counters, virt }).collect();
        Event::Tick(Tick { ts_ns, closings, lost: Lost { ring, ..Lost::default() }, own: Own::default() })
    })
}

fn event() -> BoxedStrategy<Event> {
    let lines = prop::collection::vec(line(), 0..12);
    prop_oneof![
        3 => opened().boxed(),
        1 => (mm(), time(), amounts()).prop_map(|(mm, ts_ns, counters)| {
            Event::MmClosed(MmClosed { mm, ts_ns, counters })
        }),
        1 => task().boxed(),
        1 => (0..4_u32).prop_map(|tid| Event::Comm { tid, comm: b"name".to_vec() }),
        2 => (mm(), time(), time(), lines).prop_map(|(mm, begin_ns, ts_ns, lines)| {
            Event::Maps(Maps { mm, begin_ns, ts_ns, lines })
        }),
        2 => smaps().prop_map(Event::Smaps).boxed(),
        10 => syscall().prop_map(Event::Syscall).boxed(),
        10 => change().prop_map(Event::Change).boxed(),
        4 => tick().boxed(),
        2 => stack().boxed(),
        1 => code().boxed(),
    ]
    .boxed()
}

fn meta(page_size: u64) -> Event {
    Event::Meta(Meta {
        version: "0".into(),
        pid: 1,
        comm: b"target".to_vec(),
        exe: b"/bin/program".to_vec(),
        cmdline: Vec::new(),
        kernel: String::new(),
        page_size,
        mode: Mode::Exact,
        mode_reason: String::new(),
        interval_ns: 1,
        ts_ns: 0,
        wall_ns: 0,
        spawned: false,
        follow: true,
    })
}

/// Sums over the statements of one mm.
#[derive(Default)]
struct Tally {
    closing: Option<Amounts>,
    grown: u64,
    by_cause: BTreeMap<Cause, Amounts>,
    unexplained: Amounts,
    faults: Faults,
}

/// Everything that must hold between the reports of a session.
fn check_books(reports: &[Report]) -> Result<(), TestCaseError> {
    let mut open: BTreeMap<MmId, Tally> = BTreeMap::new();
    let (mut opening_total, mut closing_total) = (Amounts::ZERO, Amounts::ZERO);
    let mut unexplained_total = Amounts::ZERO;
    let mut grown_total = 0_u64;
    let mut cause_total: BTreeMap<Cause, Amounts> = BTreeMap::new();
    for report in reports {
        match report {
            Report::Statement(statement) => {
                let explained: Amounts = statement.entries.iter().map(|entry| entry.delta).sum();
                let (opening, closing) = (statement.opening.amounts, statement.closing.amounts);
                prop_assert_eq!(closing - opening, explained + statement.unexplained);
                let tally = open.entry(statement.mm).or_default();
                if let Some(before) = tally.closing.replace(closing) {
                    prop_assert_eq!(before, opening, "statements join");
                }
                tally.unexplained += statement.unexplained;
                for entry in &statement.entries {
                    tally.grown = tally.grown.saturating_add(entry.delta.res().max(0).unsigned_abs());
                    *tally.by_cause.entry(entry.cause).or_default() += entry.delta;
                    tally.faults.minor = tally.faults.minor.wrapping_add(entry.faults.minor);
                    tally.faults.major = tally.faults.major.wrapping_add(entry.faults.major);
                }
            }
            Report::Closing(closing) => {
                let tally = open.remove(&closing.mm).unwrap_or_default();
                let causes: BTreeMap<Cause, Amounts> =
                    closing.by_cause.iter().map(|(cause, sum)| (*cause, sum.delta)).collect();
                prop_assert_eq!(&causes, &tally.by_cause);
                prop_assert_eq!(closing.unexplained, tally.unexplained);
                prop_assert_eq!(closing.faults, tally.faults);
                let mut faults = Faults::default();
                closing.by_cause.iter().for_each(|(_, sum)| faults += sum.faults);
                prop_assert_eq!(closing.faults, faults);
                if let Some(last) = tally.closing {
                    prop_assert_eq!(closing.closing.amounts, last);
                }
                let explained: Amounts = causes.values().copied().sum();
                let change = closing.closing.amounts - closing.opening.amounts;
                prop_assert_eq!(change, explained + closing.unexplained);
                let mappings: Amounts = closing.by_mapping.iter().map(|(_, sum)| sum.delta).sum();
                prop_assert_eq!(explained, mappings);
                let codes: Amounts = closing.by_code.iter().map(|code| code.sum.delta).sum();
                prop_assert_eq!(explained, codes);
                let grown = closing.by_code.iter().fold(0, |grown: u64, code| grown.saturating_add(code.sum.grown));
                prop_assert_eq!(grown, tally.grown);
                grown_total = grown_total.saturating_add(grown);
                for (cause, amounts) in causes {
                    *cause_total.entry(cause).or_default() += amounts;
                }
                opening_total += closing.opening.amounts;
                closing_total += closing.closing.amounts;
                unexplained_total += closing.unexplained;
            }
            Report::End(end) => {
                let total = &end.total;
                prop_assert_eq!(total.opening.amounts, opening_total);
                prop_assert_eq!(total.closing.amounts, closing_total);
                prop_assert_eq!(total.unexplained, unexplained_total);
                let causes: BTreeMap<Cause, Amounts> =
                    total.by_cause.iter().map(|(cause, sum)| (*cause, sum.delta)).collect();
                prop_assert_eq!(&causes, &cause_total);
                let explained: Amounts = causes.into_values().sum();
                prop_assert_eq!(closing_total - opening_total, explained + total.unexplained);
                let mappings: Amounts = total.by_mapping.iter().map(|(_, sum)| sum.delta).sum();
                prop_assert_eq!(explained, mappings);
                let codes: Amounts = total.by_code.iter().map(|code| code.sum.delta).sum();
                prop_assert_eq!(explained, codes);
                let stacks = &end.stacks;
                prop_assert_eq!(stacks.grown, grown_total);
                let failed = stacks.failures.values().fold(0_u64, |sum, (_, pages)| sum.saturating_add(*pages));
                let parts = stacks.complete.saturating_add(stacks.without).saturating_add(failed);
                prop_assert_eq!(stacks.grown, parts);
            }
            _ => {}
        }
    }
    prop_assert!(open.is_empty(), "an mm without a closing statement");
    Ok(())
}

proptest! {
    #[test]
    fn the_books_close_for_any_stream(
        events in prop::collection::vec(event(), 1..120),
        page_size in prop::sample::select(vec![4096_u64, 4096, 65_536, 0, 3]),
    ) {
        let mut stream = vec![meta(page_size)];
        stream.extend(events);
        stream.push(Event::End(End::new(3000, EndReason::Truncated)));
        let run = || -> Result<Vec<Report>, TestCaseError> {
            let (mut model, mut out) = (Model::new(), Vec::new());
            for event in &stream {
                model.apply(event, &mut out);
                for mm in 0..3 {
                    if let Some(space) = model.address_space(MmId(mm)) {
                        check_shape(space)?;
                    }
                    model.mappings(MmId(mm));
                }
            }
            Ok(out)
        };
        let reports = run()?;
        check_books(&reports)?;
        prop_assert!(matches!(reports.last(), Some(Report::End(_))));
        prop_assert_eq!(&reports, &run()?, "the same events give the same reports");
    }
}
