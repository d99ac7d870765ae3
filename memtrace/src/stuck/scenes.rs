//! Made-up stalls: a builder of the events that a session of five seconds would give.

use crate::event::*;
use crate::model::Model;
use crate::statement::Report;
use crate::stuck::Stuck;
use crate::syscalls;
use crate::units::Amounts;
use crate::views::sample::{BEGIN, MM, MS, PID, meta};
use memtrace_common::{Cause, Doing};

const PAGE: i64 = 256;
const SECONDS: u64 = 5;
/// Where the heap, a file and a library are mapped.
pub(crate) const HEAP: u64 = 0x5600_0100_0000;
pub(crate) const FILE: u64 = 0x7f00_1000_0000;

/// A stall on its way.
#[derive(Clone, Default)]
pub(crate) struct Scene {
    pub(super) spans: Vec<TimeSpan>,
    waits: Vec<Wait>,
    code: Vec<Event>,
    ran: Vec<RanAt>,
    changes: Vec<Change>,
    holds: Vec<LockHold>,
    pub(super) surroundings: Option<(Surroundings, Surroundings)>,
    pub(super) backend: Option<Backend>,
    late: Vec<Event>,
    last: Vec<TimeSpan>,
    swap: i64,
    stacks: u32,
    own: Own,
}

/// A span of a kind that the probes would book, each second anew.
pub(crate) fn span(tid: u32, doing: Doing, ms: u64) -> TimeSpan {
    TimeSpan {
        tid,
        doing,
        cause: None,
        nr: None,
        object: 0,
        detail: 0,
        before: false,
        open: false,
        ns: ms * MS,
        max_ns: ms * MS,
        count: 1,
        samples: 0,
        address: 0,
    }
}

/// The span as of the second with this number: what never ends grows.
fn lasting(span: &TimeSpan, second: u64) -> TimeSpan {
    let lasts = span.open && span.count == 0;
    TimeSpan { max_ns: if lasts { span.ns * (second + 1) } else { span.max_ns }, ..span.clone() }
}

/// Samples on a CPU, a second.
pub(crate) fn samples(tid: u32, doing: Doing, n: u64) -> TimeSpan {
    TimeSpan { samples: n, count: 0, max_ns: 0, ..span(tid, doing, 0) }
}

/// Blocked in a system call without end since before the probes looked.
pub(crate) fn blocked(tid: u32, call: &str, object: u64) -> TimeSpan {
    TimeSpan {
        nr: syscalls::number(call),
        object,
        before: true,
        open: true,
        count: 0,
        max_ns: 0,
        ..span(tid, Doing::Blocked, 1000)
    }
}

/// Faults with a cause, each of so many microseconds off the CPU.
pub(crate) fn faults(tid: u32, cause: Cause, ms: u64, each_us: u64, address: u64) -> TimeSpan {
    TimeSpan {
        cause: Some(cause),
        object: address & !0xfff_ffff,
        address,
        max_ns: each_us * 4000,
        count: ms * 1000 / each_us.max(1),
        ..span(tid, Doing::Fault, ms)
    }
}

impl Scene {
    pub(crate) fn spans(mut self, spans: impl IntoIterator<Item = TimeSpan>) -> Self {
        self.spans.extend(spans);
        self
    }

    /// Looks found the thread here: its call, functions of the kernel and its own, innermost first.
    pub(crate) fn wait(
        mut self,
        tid: u32,
        call: &str,
        args: &[u64],
        object: WaitObject,
        kernel: &[&str],
        own: &[&str],
    ) -> Self {
        let stack = (!own.is_empty()).then(|| {
            let id = StackId(100 + self.stacks);
            self.stacks += 1;
            let code = |nth: usize| CodeId(id.0 * 100 + nth as u32);
            for (nth, name) in own.iter().enumerate() {
                self.code.push(Event::Code(Code {
                    id: code(nth),
                    ip: 0x5600_0000_1000 + nth as u64,
                    module: b"/usr/bin/program".to_vec(),
                    offset: 0x1000 + nth as u64,
                    build_id: Vec::new(),
                    symbols: vec![Symbol { name: name.as_bytes().to_vec(), file: Vec::new(), line: 0 }],
                    symbol_offset: 5,
                }));
            }
            let frames = (0..own.len()).map(code).collect();
            self.code.push(Event::Stack(Stack { id, frames, end: StackEnd::Root }));
            id
        });
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        self.waits.push(Wait {
            mm: MM,
            ts_ns: 0,
            pid: PID,
            tid,
            comm: if tid == PID { b"server".to_vec() } else { b"worker".to_vec() },
            state: b'S',
            nr: syscalls::number(call),
            args: all,
            object,
            kernel: kernel.iter().map(|name| name.as_bytes().to_vec()).collect(),
            stack,
            at_attach: true,
        });
        self
    }

    /// Each second, so many samples of the thread's own code found it in this function of this file; an empty name is none.
    pub(crate) fn ran(mut self, tid: u32, function: &[u8], module: &[u8], samples: u64) -> Self {
        let code = CodeId(u32::try_from(self.ran.len()).expect("few"));
        let symbol = Symbol { name: function.to_vec(), file: Vec::new(), line: 0 };
        self.code.push(Event::Code(Code {
            id: code,
            ip: 0x5600_0000_2000 + u64::from(code.0),
            module: module.to_vec(),
            offset: 0x2000 + u64::from(code.0),
            build_id: Vec::new(),
            symbols: if function.is_empty() { Vec::new() } else { vec![symbol] },
            symbol_offset: 0,
        }));
        self.ran.push(RanAt { tid, code, samples });
        self
    }

    /// What it cost to look.
    pub(crate) fn own(self, own: Own) -> Self {
        Self { own, ..self }
    }

    /// Each second, so many pages.
    pub(crate) fn change(mut self, cause: Cause, delta: Amounts, faults: i64, major: i64) -> Self {
        self.changes.push(Change {
            mm: MM,
            first_ns: 0,
            ts_ns: 0,
            cause,
            delta,
            place: Place::Nowhere,
            touched: (0, 0),
            tid: PID,
            ip: 0,
            stack: None,
            nr: None,
            detail: 0,
            faults,
            major,
            kernel_mode: 0,
            latency: Latency::default(),
        });
        self
    }

    pub(crate) fn hold(mut self, tid: u32, comm: &[u8], write: bool, ms: u64) -> Self {
        self.holds.push(LockHold { tid, comm: comm.to_vec(), write, ns: ms * MS, max_ns: ms * MS / 2, count: 7 });
        self
    }

    /// What surrounds it at the begin, and what `change` makes of that by the end.
    pub(crate) fn around(mut self, first: Surroundings, change: impl FnOnce(&mut Surroundings)) -> Self {
        let mut last = Surroundings { ts_ns: BEGIN + SECONDS * 1000 * MS, ..first.clone() };
        change(&mut last);
        self.surroundings = Some((first, last));
        self
    }

    pub(crate) fn backend(mut self, backend: Backend) -> Self {
        self.backend = Some(backend);
        self
    }

    /// An event within the last second.
    pub(crate) fn event(mut self, event: Event) -> Self {
        self.late.push(event);
        self
    }

    /// Spans of the last second only.
    pub(crate) fn last(mut self, spans: impl IntoIterator<Item = TimeSpan>) -> Self {
        self.last.extend(spans);
        self
    }

    pub(crate) fn in_swap(mut self, pages: i64) -> Self {
        self.swap = pages;
        self
    }

    /// What a session would have observed.
    pub(crate) fn events(&self) -> Vec<Event> {
        let mut counters = Amounts { anon: 8 * PAGE, file: 2 * PAGE, shmem: 0, swap: self.swap };
        let line = |start: u64, pages: u64, permissions, inode, offset, name: &[u8]| MapsLine {
            start,
            end: start + pages * 4096,
            permissions,
            offset,
            device: 8 << 32,
            inode,
            name: name.to_vec(),
        };
        let mut events = vec![
            Event::Meta(Meta { comm: b"server".to_vec(), exe: b"/usr/bin/program".to_vec(), ..meta() }),
            Event::MmOpened(MmOpened {
                mm: MM,
                ts_ns: BEGIN,
                pid: PID,
                comm: b"server".to_vec(),
                why: Why::Attach,
                counters,
                virt: 100_000,
                start_brk: HEAP,
                brk: HEAP + (1 << 28),
                start_stack: 0x7ffd_0000_1000,
            }),
            Event::Maps(Maps {
                mm: MM,
                begin_ns: BEGIN,
                ts_ns: BEGIN,
                lines: vec![
                    line(0x5600_0000_0000, 16, permission::READ | permission::EXECUTE, 7, 0, b"/usr/bin/program"),
                    line(HEAP, 1 << 16, permission::READ | permission::WRITE, 0, 0, b"[heap]"),
                    line(FILE, 1 << 16, permission::READ | permission::SHARED, 9, 1 << 20, b"/srv/data/table"),
                ],
            }),
        ];
        events.extend(self.code.iter().cloned());
        events.extend(self.surroundings.iter().map(|(first, _)| Event::Surroundings(Box::new(first.clone()))));
        for second in 0..SECONDS {
            let (begin_ns, ts_ns) = (BEGIN + second * 1000 * MS, BEGIN + (second + 1) * 1000 * MS);
            for wait in &self.waits {
                let waits =
                    (0..4).map(|look| Wait { ts_ns: begin_ns + look, at_attach: second + look == 0, ..wait.clone() });
                events.extend(waits.map(Event::Wait));
            }
            for change in &self.changes {
                counters += change.delta;
                events.push(Event::Change(Change { first_ns: begin_ns, ts_ns, ..change.clone() }));
            }
            if second + 1 == SECONDS {
                events.extend(self.surroundings.iter().map(|(_, last)| Event::Surroundings(Box::new(last.clone()))));
                events.extend(self.backend.iter().map(|backend| Event::Backend(Box::new(backend.clone()))));
                events.extend(self.late.iter().cloned());
            }
            let last = if second + 1 == SECONDS { self.last.as_slice() } else { &[] };
            events.push(Event::Times(Times {
                mm: MM,
                begin_ns,
                ts_ns,
                sample_ns: 1_003_009,
                spans: self.spans.iter().chain(last).map(|span| lasting(span, second)).collect(),
                holds: self.holds.clone(),
            }));
            if !self.ran.is_empty() {
                events.push(Event::Ran(Ran { mm: MM, ts_ns, places: self.ran.clone() }));
            }
            let closings = vec![Closing { mm: MM, counters, virt: Some(100_000) }];
            events.push(Event::Tick(Tick { ts_ns, closings, lost: Lost::default(), own: self.own }));
        }
        events.push(Event::End(End::new(BEGIN + SECONDS * 1000 * MS, EndReason::Duration)));
        events
    }

    /// What the model says of it.
    pub(crate) fn reports(&self) -> Vec<Report> {
        let (mut model, mut out) = (Model::new(), Vec::new());
        self.events().iter().for_each(|event| model.apply(event, &mut out));
        out
    }

    /// The answer for the whole session.
    pub(crate) fn stuck(&self) -> Stuck {
        let whole = |report| match report {
            Report::Stuck(stuck) if stuck.whole => Some(*stuck),
            _ => None,
        };
        self.reports().into_iter().find_map(whole).expect("a session with times has an answer")
    }
}

/// A machine of eight CPUs and a cgroup with a limit.
pub(crate) fn surroundings() -> Surroundings {
    Surroundings {
        ts_ns: BEGIN,
        pid: PID,
        cpus: 8,
        allowed_cpus: 8,
        running: 2,
        faults: (1000, 10),
        io: Some((0, 0)),
        swapped: Some((0, 0)),
        machine: Pressures { cpu: Some((0, 0)), memory: Some((0, 0)), io: Some((0, 0)) },
        cgroup: Some(Cgroup {
            path: b"/sys/fs/cgroup/db".to_vec(),
            memory: Some((2 << 30, Some(2 << 30))),
            limit_hits: Some(100),
            throttled: Some((0, None)),
            quota_file: b"/sys/fs/cgroup/db/cpu.max".to_vec(),
            frozen: Some(false),
            frozen_by: Vec::new(),
            others: vec![(4980, b"postgres".to_vec(), 600 << 20), (4990, b"cron".to_vec(), 4 << 20)],
            pressure: Pressures { cpu: Some((0, 0)), memory: Some((0, 0)), io: Some((0, 0)) },
        }),
    }
}

/// A PostgreSQL backend that waits.
pub(crate) fn backend(kind: &str, event: &str) -> Backend {
    Backend {
        ts_ns: BEGIN,
        pid: PID,
        server: "postgresql".into(),
        version: Some(15),
        backend_type: Some("client backend".into()),
        state: Some("active".into()),
        query: Some(b"update accounts\n   set v = 2\n where id = 7".to_vec()),
        // Five seconds after the session's begin it has run for 5 min 12 s.
        query_start_ns: Some(meta().wall_ns + 5_000_000_000 - 312_000_000_000),
        transaction_start_ns: None,
        waits: vec![(Some((kind.into(), event.into())), 20)],
        own_pid: PID,
        started_ns: None,
        work_mem: Some(4 << 20),
        spilled: Some((0, 0)),
        blocked_by: None,
        asked_ns: Some(BEGIN),
        in_lock: kind == "Lock",
        asked: None,
        unanswered: String::new(),
        refused: String::new(),
    }
}
