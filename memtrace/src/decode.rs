//! Wire bytes and records → [`Event`]s. Pure; an unknown or short record is counted and skipped.
//!
//! Knows which mm sits in which slot of the probes, and joins what only makes sense together: amounts that a mapping
//! call populated before its address was known, and the call's return.

mod span;
mod time;

pub use span::RawSpan;
pub use time::RawTimes;

use crate::event::{
    Change, CodeId, Event, Latency, MmClosed, MmId, MmOpened, Pace, Place, StackId, Syscall, Task, TaskWhat, Why,
};
use crate::units::Amounts;
use memtrace_common::{
    Cause, Head, MOMENT_SHIFT, MmRecord, MomentKey, NO_SLOT, Overflow, RecordKey, RecordValue, STACK_PAGES,
    StackRecord, SyscallRecord, TaskRecord, kind, nr, place, why,
};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Bits of an address within its page; the probes know x86-64 only.
const PAGE_MASK: u64 = 0xfff;
const PAGE_BYTES: usize = 4096;

/// An mm under observation and the slot that it sits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// The mm.
    pub mm: MmId,
    /// Which use of the slot.
    pub generation: u32,
    /// Process that owns it.
    pub pid: u32,
    /// Counters when the probes began to count.
    pub counters: Amounts,
    /// The mm is gone; the slot may be used again once its records are drained.
    pub closed: bool,
}

/// Knows the call stacks that the probes have copied.
pub trait StackNumbers {
    /// The stack of a code path of a thread (of process `pid`, with the mm `mm`), `ip` its innermost instruction; `None` for none.
    fn number(&mut self, mm: MmId, pid: u32, tid: u32, stack: u64, ip: u64) -> Option<StackId>;
    /// The place in code of an instruction of `mm`, of process `pid`, that was carried out at `then_ns` or later; `None` where
    /// that is not known.
    fn place(&mut self, mm: MmId, pid: u32, ip: u64, then_ns: u64) -> Option<CodeId>;
}

/// No stacks.
impl StackNumbers for () {
    fn number(&mut self, _: MmId, _: u32, _: u32, _: u64, _: u64) -> Option<StackId> {
        None
    }

    fn place(&mut self, _: MmId, _: u32, _: u64, _: u64) -> Option<CodeId> {
        None
    }
}

/// Turns what the probes say into events.
#[derive(Debug, Default)]
pub struct Decoder {
    occupants: BTreeMap<u16, Occupant>,
    next_mm: u32,
    /// Returned mapping calls of this and the last interval, by thread and number of the call.
    returned: [HashMap<(u32, u64), (u64, u64)>; 2],
    /// When which mm took how many faults, in this interval.
    moments: BTreeMap<MmId, Vec<(u64, u32)>>,
    /// Names of the definitions of spans.
    spans: Vec<String>,
    undecodable: u64,
}

/// A ring record with its time, not yet an event: records of the next interval wait in this form.
#[derive(Clone, Debug, PartialEq)]
pub enum Raw {
    /// A mapping call.
    Syscall(SyscallRecord),
    /// An mm's life.
    Mm(MmRecord),
    /// A task's life.
    Task(TaskRecord),
    /// An edge of a span.
    Span(Box<RawSpan>),
}

impl Raw {
    /// When and about what.
    #[must_use]
    pub const fn head(&self) -> &Head {
        match self {
            Self::Syscall(record) => &record.head,
            Self::Mm(record) => &record.head,
            Self::Task(record) => &record.head,
            Self::Span(raw) => &raw.record.head,
        }
    }

    /// Where the call mapped code.
    #[must_use]
    pub fn mapped_code(&self) -> Option<Range<u64>> {
        let Self::Syscall(call) = self else { return None };
        let [_, length, protection, ..] = call.args;
        let start = u64::try_from(call.ret).ok()?;
        let maps_code = u32::try_from(call.nr) == Ok(nr::MMAP) && protection & nr::mmap::PROT_EXEC != 0;
        maps_code.then(|| start..start.saturating_add(length))
    }
}

fn read<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Option<T> {
    bytemuck::try_pod_read_unaligned(bytes.get(..size_of::<T>())?).ok()
}

impl Decoder {
    /// Reads a ring record. `None` for one that is not understood, which is counted.
    pub fn parse_ring(&mut self, bytes: &[u8]) -> Option<Raw> {
        let raw = read::<Head>(bytes).and_then(|head| match head.kind {
            kind::SYSCALL => read(bytes).map(Raw::Syscall),
            kind::MM_OPENED | kind::MM_CLOSED => read(bytes).map(Raw::Mm),
            kind::THREAD_SEEN | kind::THREAD_EXITED | kind::FORKED | kind::EXECED | kind::OOM_VICTIM => {
                read(bytes).map(Raw::Task)
            }
            kind::SPAN => span::parse(bytes).map(|raw| Raw::Span(Box::new(raw))),
            _ => None,
        });
        if raw.is_none() {
            self.undecodable += 1;
        }
        raw
    }

    /// Reads a record of the ring of copied stacks, with the pages that follow it. `None` for one that is not understood,
    /// which is counted.
    pub fn parse_stack<'a>(&mut self, bytes: &'a [u8]) -> Option<(StackRecord, &'a [u8])> {
        let parsed = read::<StackRecord>(bytes).and_then(|record| {
            let pages = usize::try_from(record.pages).ok().filter(|pages| *pages <= STACK_PAGES)?;
            let copied = bytes.get(size_of::<StackRecord>()..)?.get(..pages * PAGE_BYTES)?;
            (record.head.kind == kind::STACK).then_some((record, copied))
        });
        if parsed.is_none() {
            self.undecodable += 1;
        }
        parsed
    }

    /// Records that were not understood.
    #[must_use]
    pub const fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// The mms under observation, with their slots.
    pub fn occupants(&self) -> impl Iterator<Item = (u16, &Occupant)> {
        self.occupants.iter().map(|(slot, occupant)| (*slot, occupant))
    }

    /// The closed mms with their slots; they are forgotten here, and the slots may be given back to the probes.
    pub fn take_closed(&mut self) -> Vec<(u16, MmId)> {
        let closed: Vec<_> = self.occupants().filter(|(_, o)| o.closed).map(|(slot, o)| (slot, o.mm)).collect();
        for (slot, _) in &closed {
            self.occupants.remove(slot);
        }
        closed
    }

    /// Begins the next interval: calls that returned two intervals ago are forgotten.
    pub fn next_interval(&mut self) {
        self.returned.swap(0, 1);
        self.returned[0].clear();
    }

    /// When each mm took faults in the interval whose records have been decoded; forgotten here.
    pub fn take_paces(&mut self) -> Vec<Event> {
        let paces = std::mem::take(&mut self.moments);
        paces
            .into_iter()
            .map(|(mm, mut moments)| {
                moments.sort_unstable();
                Event::Pace(Pace { mm, moments })
            })
            .collect()
    }

    /// The mm in a slot, if it is the one that the record means.
    #[must_use]
    pub fn mm(&self, head: &Head) -> Option<MmId> {
        let occupant = self.occupants.get(&head.slot)?;
        (head.slot != NO_SLOT && occupant.generation == head.generation).then_some(occupant.mm)
    }

    /// The mm in a slot.
    #[must_use]
    pub fn mm_in(&self, slot: u16) -> Option<MmId> {
        self.occupants.get(&slot).map(|occupant| occupant.mm)
    }

    /// A ring record as an event; `None` when it is about an mm that is not under observation.
    pub fn decode_ring(&mut self, raw: &Raw, stacks: &mut impl StackNumbers) -> Option<Event> {
        match raw {
            Raw::Syscall(record) => self.decode_syscall(record, stacks),
            Raw::Mm(record) if record.head.kind == kind::MM_OPENED => Some(self.decode_opened(record)),
            Raw::Mm(record) => {
                let mm = self.mm(&record.head)?;
                if let Some(occupant) = self.occupants.get_mut(&record.head.slot) {
                    occupant.closed = true;
                }
                Some(Event::MmClosed(MmClosed {
                    mm,
                    ts_ns: record.head.ts_ns,
                    counters: Amounts::from_members(record.counters),
                }))
            }
            Raw::Task(record) => self.decode_task(record),
            Raw::Span(raw) => self.decode_span(raw),
        }
    }

    fn decode_syscall(&mut self, record: &SyscallRecord, stacks: &mut impl StackNumbers) -> Option<Event> {
        let mm = self.mm(&record.head)?;
        let nr = u32::try_from(record.nr).ok()?;
        self.returned[0].insert((record.head.tid, record.call), (record.ret as u64, record.args[1]));
        Some(Event::Syscall(Syscall {
            mm,
            ts_ns: record.head.ts_ns,
            pid: record.head.tgid,
            tid: record.head.tid,
            nr,
            args: record.args,
            ret: record.ret,
            ip: record.ip,
            stack: stacks.number(mm, record.head.tgid, record.head.tid, record.stack, record.ip),
        }))
    }

    fn decode_opened(&mut self, record: &MmRecord) -> Event {
        let mm = MmId(self.next_mm);
        self.next_mm += 1;
        let counters = Amounts::from_members(record.counters);
        let why = match record.why {
            why::FORK => Why::Fork { parent: record.from },
            why::EXEC => {
                let left = u16::try_from(record.from).ok().and_then(|slot| self.occupants.get(&slot));
                Why::Exec { left: left.filter(|o| o.pid == record.head.tgid).map(|o| o.mm) }
            }
            _ => Why::Attach,
        };
        self.occupants.insert(
            record.head.slot,
            Occupant { mm, generation: record.head.generation, pid: record.head.tgid, counters, closed: false },
        );
        Event::MmOpened(MmOpened {
            mm,
            ts_ns: record.head.ts_ns,
            pid: record.head.tgid,
            comm: name(&record.comm),
            why,
            counters,
            virt: record.total_vm,
            start_brk: record.start_brk,
            brk: record.brk,
            start_stack: record.start_stack,
        })
    }

    fn decode_task(&self, record: &TaskRecord) -> Option<Event> {
        let head = &record.head;
        let what = match head.kind {
            kind::THREAD_SEEN => {
                return Some(Event::Comm { tid: head.tid, comm: name(&record.comm) });
            }
            kind::FORKED if record.other_tgid == head.tgid => TaskWhat::ThreadStarted { child: record.other_tid },
            kind::FORKED if record.flag != 0 => TaskWhat::SharedMm { child: record.other_tgid },
            kind::FORKED => TaskWhat::Forked { child: record.other_tgid },
            kind::EXECED => TaskWhat::Execed,
            kind::THREAD_EXITED if record.flag != 0 => TaskWhat::ProcessExited { code: record.code },
            kind::THREAD_EXITED => TaskWhat::ThreadExited,
            _ => TaskWhat::OomVictim,
        };
        Some(Event::Task(Task {
            mm: self.mm(head),
            ts_ns: head.ts_ns,
            pid: head.tgid,
            tid: head.tid,
            what,
            comm: name(&record.comm),
        }))
    }

    /// Takes the sampled faults of a moment; [`Self::take_paces`] tells of them.
    pub fn decode_moment(&mut self, key: &MomentKey, faults: u64) {
        if let Some(occupant) = u16::try_from(key.slot).ok().and_then(|slot| self.occupants.get(&slot)) {
            let faults = u32::try_from(faults).unwrap_or(u32::MAX);
            self.moments.entry(occupant.mm).or_default().push((key.moment << MOMENT_SHIFT, faults));
        }
    }

    /// A merged record as an event; `None` when nothing sits in its slot, which is counted.
    pub fn decode_record(
        &mut self,
        key: &RecordKey,
        value: &RecordValue,
        stacks: &mut impl StackNumbers,
    ) -> Option<Event> {
        let (Some(occupant), Some(cause)) = (self.occupants.get(&key.slot), Cause::from_code(key.cause)) else {
            self.undecodable += 1;
            return None;
        };
        let place = match key.place_kind {
            place::VMA => Place::Vma { start: key.place, end: value.end },
            // A fault whose VMA could not be looked up: its key is only as fine as 2 MiB.
            place::ADDRESS if value.low != 0 => {
                Place::Range { start: value.low & !PAGE_MASK, end: (value.high | PAGE_MASK).saturating_add(1) }
            }
            place::ADDRESS => Place::Address(key.place),
            place::RANGE => Place::Range { start: key.place, end: value.end },
            place::INODE => {
                // The kernel's own dev_t: 12 bits major, 20 bits minor.
                Place::Inode { inode: key.place, device: (value.end >> 20) << 32 | (value.end & 0xf_ffff) }
            }
            place::CALL => {
                let call = (key.tid, key.place);
                match self.returned[0].get(&call).or_else(|| self.returned[1].get(&call)) {
                    Some((start, len)) => Place::Range { start: *start, end: start.saturating_add(*len) },
                    None => Place::Nowhere,
                }
            }
            _ => Place::Nowhere,
        };
        Some(Event::Change(Change {
            mm: occupant.mm,
            first_ns: value.first_ns,
            ts_ns: value.last_ns.max(value.first_ns),
            cause,
            delta: Amounts::from_members(value.delta),
            place,
            touched: (value.low, value.high),
            tid: key.tid,
            ip: value.ip,
            stack: stacks.number(occupant.mm, occupant.pid, key.tid, key.stack, value.ip),
            nr: u32::try_from(key.nr).ok(),
            detail: key.detail,
            faults: i64::from(value.faults),
            major: i64::from(value.major),
            kernel_mode: u64::from(value.kernel_mode),
            latency: Latency {
                samples: u64::from(value.latency_samples),
                sum_ns: value.latency_sum_ns,
                max_ns: value.latency_max_ns,
                hist: value.hist.map(u32::from),
            },
        }))
    }

    /// What a slot's overflow table holds under a cause as an event.
    #[must_use]
    pub fn decode_overflow(&self, slot: u16, cause: Cause, overflow: &Overflow, ts_ns: u64) -> Option<Event> {
        let occupant = self.occupants.get(&slot)?;
        Some(Event::Change(Change {
            mm: occupant.mm,
            first_ns: ts_ns,
            ts_ns,
            cause,
            delta: Amounts::from_members(overflow.delta),
            place: Place::Nowhere,
            touched: (0, 0),
            tid: 0,
            ip: 0,
            stack: None,
            nr: None,
            detail: 0,
            faults: overflow.faults,
            major: 0,
            kernel_mode: 0,
            latency: Latency::default(),
        }))
    }
}

fn name(comm: &[u8; 16]) -> Vec<u8> {
    comm.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;

    #[test]
    fn a_fault_without_a_vma_is_where_it_touched_and_not_where_its_key_begins() {
        let mut decoder = Decoder::default();
        decoder.decode_opened(&MmRecord::zeroed());
        let key = RecordKey { place: 0x7f00_0020_0000, place_kind: place::ADDRESS, ..RecordKey::zeroed() };
        let mut value = RecordValue { low: 0x7f00_003a_4123, high: 0x7f00_003f_f000, ..RecordValue::zeroed() };
        let place = |decoder: &mut Decoder, value: &RecordValue| match decoder.decode_record(&key, value, &mut ()) {
            Some(Event::Change(change)) => change.place,
            other => panic!("{other:?}"),
        };
        let touched = Place::Range { start: 0x7f00_003a_4000, end: 0x7f00_0040_0000 };
        assert_eq!(place(&mut decoder, &value), touched);
        // A call that names a page touches nothing that is recorded.
        (value.low, value.high) = (0, 0);
        assert_eq!(place(&mut decoder, &value), Place::Address(key.place));
    }

    #[test]
    fn a_record_may_be_below_zero() {
        let mut decoder = Decoder::default();
        decoder.decode_opened(&MmRecord::zeroed());
        let value = RecordValue { delta: [0, -1, 0, 0], faults: -1, ..RecordValue::zeroed() };
        let overflow = Overflow { delta: value.delta, faults: -1, changes: 1 };
        let events = [
            decoder.decode_record(&RecordKey::zeroed(), &value, &mut ()),
            decoder.decode_overflow(0, Cause::FaultFile, &overflow, 1),
        ];
        for event in events {
            let Some(Event::Change(change)) = event else { panic!("{event:?}") };
            assert_eq!((change.delta.res(), change.faults, change.major), (-1, -1, 0));
        }
    }

    #[test]
    fn moments_come_in_order_of_time() {
        let mut decoder = Decoder::default();
        decoder.decode_opened(&MmRecord::zeroed());
        for (moment, slot, faults) in [(9, 0, 32), (7, 0, 16), (8, 3, 16)] {
            decoder.decode_moment(&MomentKey { moment, slot }, faults);
        }
        let moments = vec![(7 << MOMENT_SHIFT, 16), (9 << MOMENT_SHIFT, 32)];
        assert_eq!(decoder.take_paces(), [Event::Pace(Pace { mm: MmId(0), moments })]);
        assert_eq!((decoder.take_paces().len(), decoder.undecodable()), (0, 0));
    }
}
