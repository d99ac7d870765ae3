//! What the model says about small, readable sessions.

mod audits;
mod faults;
mod kinds;
mod mappings;
mod residency;
mod sessions;
mod stacks;

use super::Model;
use crate::event::*;
use crate::statement::*;
use crate::syscalls;
use crate::units::Amounts;
use memtrace_common::Cause;

pub(super) const PAGE: u64 = 4096;
pub(super) const MM: MmId = MmId(0);
pub(super) const PID: u32 = 4711;
pub(super) const ANON: u64 = 0x22;

/// A session with one attached process, and its reports so far.
pub(super) struct Session {
    pub(super) model: Model,
    pub(super) out: Vec<Report>,
    counters: Amounts,
    now: u64,
}

impl Session {
    pub(super) fn attached(maps: &str) -> Self {
        let mut session = Self { model: Model::new(), out: Vec::new(), counters: Amounts::ZERO, now: 1000 };
        session.apply(Event::Meta(Meta {
            version: "0.1.0".into(),
            pid: PID,
            comm: b"postgres".to_vec(),
            exe: b"/usr/lib/postgresql/15/bin/postgres".to_vec(),
            cmdline: Vec::new(),
            kernel: "6.18".into(),
            page_size: PAGE,
            mode: Mode::Exact,
            mode_reason: String::new(),
            interval_ns: 100,
            ts_ns: 1000,
            wall_ns: 0,
            spawned: false,
            follow: false,
        }));
        let code = Code {
            id: CodeId(5),
            ip: 0x5600_0010_0123,
            module: b"/usr/lib/postgresql/15/bin/postgres".to_vec(),
            offset: 0x10_0123,
            build_id: Vec::new(),
            symbols: Vec::new(),
            symbol_offset: 0,
        };
        session.apply(Event::Code(code));
        session.apply(Event::Stack(crate::event::Stack {
            id: StackId(3),
            frames: vec![CodeId(5)],
            end: StackEnd::Root,
        }));
        session.opened(MM, PID, Why::Attach, Amounts::ZERO);
        session.read(maps);
        session
    }

    pub(super) fn apply(&mut self, event: Event) {
        self.model.apply(&event, &mut self.out);
    }

    pub(super) fn opened(&mut self, mm: MmId, pid: u32, why: Why, counters: Amounts) {
        let ts_ns = self.later();
        self.apply(Event::MmOpened(MmOpened {
            mm,
            ts_ns,
            pid,
            comm: b"postgres".to_vec(),
            why,
            counters,
            virt: 0,
            start_brk: 0x5600_0090_0000,
            brk: 0x5600_0090_0000,
            start_stack: 0x7ffd_0002_0000,
        }));
    }

    pub(super) fn later(&mut self) -> u64 {
        self.now += 10;
        self.now
    }

    pub(super) fn read(&mut self, maps: &str) {
        let (begin_ns, ts_ns) = (self.later(), self.later());
        self.apply(Event::Maps(Maps { mm: MM, begin_ns, ts_ns, lines: lines(maps) }));
    }

    pub(super) fn call(&mut self, tid: u32, nr: u32, args: &[u64], ret: u64) {
        let ts_ns = self.later();
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        self.apply(Event::Syscall(Syscall {
            mm: MM,
            ts_ns,
            pid: PID,
            tid,
            nr,
            args: all,
            ret: ret as i64,
            ip: 0,
            stack: None,
        }));
    }

    pub(super) fn mmap(&mut self, at: u64, pages: u64, protection: u64, flags: u64) {
        self.call(PID, syscalls::MMAP, &[0, pages * PAGE, protection, flags, u64::MAX, 0], at);
    }

    pub(super) fn munmap(&mut self, at: u64, pages: u64) {
        self.call(PID, syscalls::MUNMAP, &[at, pages * PAGE], 0);
    }

    /// A change of anonymous pages.
    pub(super) fn change(&mut self, cause: Cause, pages: i64, place: Place, touched: (u64, u64), nr: Option<u32>) {
        self.counters.anon += pages;
        self.change_of(MM, cause, pages, place, touched, nr);
    }

    pub(super) fn change_of(
        &mut self,
        mm: MmId,
        cause: Cause,
        pages: i64,
        place: Place,
        touched: (u64, u64),
        nr: Option<u32>,
    ) {
        let first_ns = self.later();
        self.record(mm, (first_ns, first_ns), cause, pages, place, touched, nr);
    }

    /// A change of anonymous pages that was first and last seen at these times.
    pub(super) fn change_between(
        &mut self,
        times: (u64, u64),
        cause: Cause,
        pages: i64,
        place: Place,
        touched: (u64, u64),
    ) {
        self.counters.anon += pages;
        self.record(MM, times, cause, pages, place, touched, None);
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one event")]
    fn record(
        &mut self,
        mm: MmId,
        (first_ns, ts_ns): (u64, u64),
        cause: Cause,
        pages: i64,
        place: Place,
        touched: (u64, u64),
        nr: Option<u32>,
    ) {
        let delta = Amounts { anon: pages, ..Amounts::ZERO };
        self.apply(Event::Change(Change {
            mm,
            first_ns,
            ts_ns,
            cause,
            delta,
            place,
            touched,
            tid: PID,
            ip: 0x5600_0010_0123,
            stack: Some(StackId(3)),
            nr,
            detail: 0,
            faults: pages.saturating_abs(),
            major: 0,
            kernel_mode: 0,
            latency: Latency::default(),
        }));
    }

    /// First touch of pages from `at` in a VMA.
    pub(super) fn touch(&mut self, vma: (u64, u64), at: u64, pages: i64) {
        let place = Place::Vma { start: vma.0, end: vma.1 };
        let high = at + (pages as u64 - 1) * PAGE;
        self.change(Cause::FaultAnon, pages, place, (at, high), None);
    }

    pub(super) fn tick(&mut self) -> Option<Statement> {
        let counters = self.counters;
        self.tick_with(&[(MM, counters)], Lost::default())
    }

    pub(super) fn tick_with(&mut self, closings: &[(MmId, Amounts)], lost: Lost) -> Option<Statement> {
        let ts_ns = self.later();
        let from = self.out.len();
        let closings = closings.iter().map(|&(mm, counters)| Closing { mm, counters, virt: None }).collect();
        self.apply(Event::Tick(Tick { ts_ns, closings, lost, own: Own::default() }));
        self.out[from..].iter().find_map(|report| match report {
            Report::Statement(statement) => Some(statement.clone()),
            _ => None,
        })
    }

    /// smaps shows these ranges with these resident pages.
    pub(super) fn smaps(&mut self, mappings: &[(u64, u64, u64)], quiet: bool) {
        let (ts_ns, counters) = (self.later(), self.counters);
        let mappings = mappings
            .iter()
            .map(|&(start, end, pages)| SmapsMapping { start, end, rss: pages * PAGE, ..SmapsMapping::default() })
            .collect();
        self.apply(Event::Smaps(Smaps {
            mm: MM,
            ts_ns,
            cost_ns: 5,
            longest_hold_ns: 3,
            before: Some(counters),
            after: Some(counters),
            quiet,
            status: counters,
            mappings,
        }));
    }

    pub(super) fn end(&mut self) -> EndReport {
        let ts_ns = self.later();
        self.apply(Event::End(End::new(ts_ns, EndReason::Interrupted)));
        match self.out.last() {
            Some(Report::End(end)) => (**end).clone(),
            other => panic!("no end: {other:?}"),
        }
    }

    pub(super) fn mapping_at(&mut self, address: u64) -> MappingRef {
        let mappings = self.model.mappings(MM);
        let found = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&address));
        MappingRef::clone(found.unwrap_or_else(|| panic!("nothing at {address:#x}")))
    }

    pub(super) fn changes(&self) -> Vec<(MappingWhat, u64, u64, Option<u32>)> {
        self.out
            .iter()
            .filter_map(|report| match report {
                Report::Mapping(change) => {
                    Some((change.what, change.mapping.start, change.mapping.end, change.syscall))
                }
                _ => None,
            })
            .collect()
    }
}

/// Parses `/proc/PID/maps` text.
pub(super) fn lines(text: &str) -> Vec<MapsLine> {
    let hex = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let mut rest = line.trim();
            let mut field = || {
                let (field, tail) = rest.split_once(' ').unwrap_or((rest, ""));
                rest = tail.trim_start();
                field
            };
            let (range, permissions, offset, device, inode) = (field(), field(), field(), field(), field());
            let (start, end) = range.split_once('-').expect("a range");
            let (major, minor) = device.split_once(':').expect("a device");
            let bits = permissions.bytes().map(|letter| match letter {
                b'r' => permission::READ,
                b'w' => permission::WRITE,
                b'x' => permission::EXECUTE,
                b's' => permission::SHARED,
                _ => 0,
            });
            MapsLine {
                start: hex(start),
                end: hex(end),
                permissions: bits.fold(0, |all, bit| all | bit),
                offset: hex(offset),
                device: hex(major) << 32 | hex(minor),
                inode: inode.parse().expect("an inode"),
                name: rest.as_bytes().to_vec(),
            }
        })
        .collect()
}
