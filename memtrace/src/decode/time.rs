//! Records of threads' time and what stands in their clocks → [`Times`]. Pure.

use super::{Decoder, Occupant, StackNumbers, name};
use crate::event::{Event, LockHold, MmId, Ran, RanAt, TimeSpan, Times};
use memtrace_common::{
    CAUSE_UNKNOWN, Cause, Clock, Doing, HoldKey, HoldValue, Holder, HolderKey, PlaceKey, TimeKey, TimeValue,
};
use std::collections::BTreeMap;

/// What the probes booked in an interval that is over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawTimes {
    /// When it began.
    pub begin_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// Distance of samples.
    pub sample_ns: u64,
    /// What ended in it.
    pub records: Vec<(TimeKey, TimeValue)>,
    /// Where threads' own code was sampled in it.
    pub places: Vec<(PlaceKey, u64)>,
    /// Clocks, read after its end and before that of the next one.
    pub clocks: Vec<Clock>,
    /// Holds of mmap_lock that ended.
    pub holds: Vec<(HoldKey, HoldValue)>,
    /// Who holds mmap_lock, read when `clocks` were.
    pub holders: Vec<(HolderKey, Holder)>,
}

impl Decoder {
    /// The threads' time in an interval, one event for each mm that has some, and where their own code was.
    pub fn decode_times(&mut self, raw: &RawTimes, stacks: &mut impl StackNumbers) -> Vec<Event> {
        let mut all: BTreeMap<MmId, (Vec<TimeSpan>, Vec<LockHold>)> = BTreeMap::new();
        let open = raw.clocks.iter().filter_map(|clock| open_at_end(clock, raw));
        let ended = raw.records.iter().map(|(key, value)| (*key, *value, false));
        for (key, value, open) in ended.chain(open.map(|(key, value)| (key, value, true))) {
            // A record whose amounts were moved to another one.
            if (value.ns, value.count, value.samples) == (0, 0, 0) {
                continue;
            }
            // More was taken from it than it had: no amount.
            if [value.ns, value.count, value.samples].into_iter().any(|amount| amount.cast_signed() < 0) {
                self.undecodable += 1;
                continue;
            }
            match (self.occupants.get(&key.slot), span(&key, &value, open)) {
                (Some(occupant), Some(span)) => all.entry(occupant.mm).or_default().0.push(span),
                _ => self.undecodable += 1,
            }
        }
        let open = raw.holders.iter().filter_map(|(key, holder)| held_at_end(key, holder, raw));
        for (key, value) in raw.holds.iter().copied().chain(open) {
            match self.occupants.get(&key.slot) {
                Some(occupant) => all.entry(occupant.mm).or_default().1.push(hold(&key, &value)),
                None => self.undecodable += 1,
            }
        }
        let event = |(mm, (mut spans, mut holds)): (MmId, (Vec<TimeSpan>, Vec<LockHold>))| {
            spans.sort_by_key(|s| (s.tid, s.doing, s.cause, s.nr, s.object, s.detail, s.before, s.open));
            holds.sort_by_key(|h| (h.tid, h.write));
            // The one that goes on, to those of the same kind that ended.
            holds.dedup_by(|more, known| {
                let same = (more.tid, more.write) == (known.tid, known.write);
                if same {
                    known.ns = known.ns.saturating_add(more.ns);
                    known.max_ns = known.max_ns.max(more.max_ns);
                    known.count = known.count.saturating_add(more.count);
                }
                same
            });
            Event::Times(Times {
                mm,
                begin_ns: raw.begin_ns,
                ts_ns: raw.end_ns,
                sample_ns: raw.sample_ns,
                spans,
                holds,
            })
        };
        all.into_iter().map(event).chain(self.decode_places(raw, stacks)).collect()
    }

    fn decode_places(&mut self, raw: &RawTimes, stacks: &mut impl StackNumbers) -> Vec<Event> {
        let mut all: BTreeMap<MmId, Vec<RanAt>> = BTreeMap::new();
        for &(PlaceKey { ip, tid, slot }, samples) in &raw.places {
            let occupant = u16::try_from(slot).ok().and_then(|slot| self.occupants.get(&slot));
            let Some(&Occupant { mm, pid, .. }) = occupant else {
                self.undecodable += 1;
                continue;
            };
            if let Some(code) = stacks.place(mm, pid, ip, raw.begin_ns) {
                all.entry(mm).or_default().push(RanAt { tid, code, samples });
            }
        }
        let event = |(mm, mut places): (MmId, Vec<RanAt>)| {
            places.sort_by_key(|place| (place.tid, place.code));
            Event::Ran(Ran { mm, ts_ns: raw.end_ns, places })
        };
        all.into_iter().map(event).collect()
    }
}

/// What a thread was doing as the interval ended, and had not been booked.
fn open_at_end(clock: &Clock, raw: &RawTimes) -> Option<(TimeKey, TimeValue)> {
    let (key, since) = if clock.since_ns < raw.end_ns && clock.ended == 0 {
        (clock.key, clock.since_ns)
    } else if clock.cut_ns == raw.end_ns {
        (clock.cut_key, clock.cut_since_ns)
    } else {
        return None;
    };
    let value = TimeValue {
        ns: raw.end_ns.saturating_sub(since.max(raw.begin_ns)),
        max_ns: raw.end_ns.saturating_sub(since),
        address: if key.doing == Doing::Fault as u8 { clock.fault_address } else { 0 },
        ..TimeValue::default()
    };
    Some((key, value))
}

/// The lock that a thread held as the interval ended: what lies in the interval, and no hold that ended.
fn held_at_end(key: &HolderKey, holder: &Holder, raw: &RawTimes) -> Option<(HoldKey, HoldValue)> {
    let (since, write) = if holder.since_ns != 0 && holder.since_ns < raw.end_ns {
        (holder.since_ns, holder.write)
    } else if holder.cut_ns == raw.end_ns {
        (holder.cut_since_ns, holder.cut_write)
    } else {
        return None;
    };
    let tid = u32::try_from(key.tid).ok()?;
    let slot = u16::try_from(holder.slot).ok()?;
    let value = HoldValue {
        ns: raw.end_ns.saturating_sub(since.max(raw.begin_ns)),
        max_ns: raw.end_ns.saturating_sub(since),
        count: 0,
        comm: holder.comm,
    };
    Some((HoldKey { tid, slot, write }, value))
}

fn span(key: &TimeKey, value: &TimeValue, open: bool) -> Option<TimeSpan> {
    Some(TimeSpan {
        tid: key.tid,
        doing: Doing::from_code(key.doing)?,
        cause: match key.cause {
            CAUSE_UNKNOWN => None,
            code => Some(Cause::from_code(code)?),
        },
        nr: u32::try_from(key.nr).ok(),
        object: key.object,
        detail: key.detail,
        before: key.before != 0,
        open,
        ns: value.ns,
        max_ns: value.max_ns,
        count: value.count,
        samples: value.samples,
        address: value.address,
    })
}

fn hold(key: &HoldKey, value: &HoldValue) -> LockHold {
    LockHold {
        tid: key.tid,
        comm: name(&value.comm),
        write: key.write != 0,
        ns: value.ns,
        max_ns: value.max_ns,
        count: value.count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{CodeId, StackId};
    use bytemuck::Zeroable;
    use memtrace_common::MmRecord;

    fn key(doing: Doing) -> TimeKey {
        TimeKey { tid: 7, nr: -1, doing: doing as u8, cause: CAUSE_UNKNOWN, ..TimeKey::zeroed() }
    }

    fn clock(doing: Doing, since_ns: u64) -> Clock {
        Clock { key: key(doing), since_ns, ..Clock::zeroed() }
    }

    fn spans(raw: &RawTimes) -> Vec<(Doing, bool, u64, u64)> {
        let mut decoder = Decoder::default();
        decoder.decode_opened(&MmRecord::zeroed());
        let events = decoder.decode_times(raw, &mut ());
        let spans = events.iter().flat_map(|event| match event {
            Event::Times(times) => times.spans.clone(),
            other => panic!("{other:?}"),
        });
        spans.map(|s| (s.doing, s.open, s.ns, s.max_ns)).collect()
    }

    #[test]
    fn what_goes_on_is_told_of_the_interval_alone_and_whole() {
        let clocks = vec![clock(Doing::Blocked, 300)];
        let raw = RawTimes { begin_ns: 1000, end_ns: 2000, clocks, ..RawTimes::default() };
        assert_eq!(spans(&raw), [(Doing::Blocked, true, 1000, 1700)]);
    }

    #[test]
    fn what_ended_after_the_interval_is_found_where_the_change_left_it() {
        let left =
            Clock { cut_key: key(Doing::Blocked), cut_since_ns: 1400, cut_ns: 2000, ..clock(Doing::Running, 2050) };
        let raw = RawTimes { begin_ns: 1000, end_ns: 2000, clocks: vec![left], ..RawTimes::default() };
        assert_eq!(spans(&raw), [(Doing::Blocked, true, 600, 600)]);
        // Of an earlier interval: the thread was born after this one, or its clock was.
        let raw = RawTimes { end_ns: 1990, ..raw };
        assert_eq!(spans(&raw), []);
        // The thread is gone; what it did as the interval ended is known all the same.
        let raw = RawTimes {
            end_ns: 2000,
            clocks: vec![Clock { ended: 1, ..left }, Clock { ended: 1, ..clock(Doing::Running, 1500) }],
            ..raw
        };
        assert_eq!(spans(&raw), [(Doing::Blocked, true, 600, 600)]);
    }

    #[test]
    fn a_lock_that_is_held_as_the_interval_ends_has_its_holder() {
        let held = |since_ns, write| Holder { since_ns, write, ..Holder::zeroed() };
        let told = |holder: Holder, holds: Vec<(HoldKey, HoldValue)>| {
            let mut decoder = Decoder::default();
            decoder.decode_opened(&MmRecord::zeroed());
            let holders = vec![(HolderKey { mm: 1, tid: 7 }, holder)];
            let events = decoder.decode_times(
                &RawTimes { begin_ns: 1000, end_ns: 2000, holders, holds, ..RawTimes::default() },
                &mut (),
            );
            let holds = events.into_iter().flat_map(|event| match event {
                Event::Times(times) => times.holds,
                other => panic!("{other:?}"),
            });
            holds.map(|h| (h.tid, h.write, h.ns, h.max_ns, h.count)).collect::<Vec<_>>()
        };
        assert_eq!(told(held(300, 1), vec![]), [(7, true, 1000, 1700, 0)]);
        // It has it since the interval ended; it has none.
        assert_eq!((told(held(2000, 1), vec![]), told(held(0, 1), vec![])), (vec![], vec![]));
        // It gave it back after that, and has another one.
        let left = Holder { cut_since_ns: 1400, cut_write: 1, cut_ns: 2000, ..held(2100, 0) };
        assert_eq!(told(left, vec![]), [(7, true, 600, 600, 0)]);
        assert_eq!(told(Holder { cut_ns: 1000, ..left }, vec![]), []);
        // It had it three times before, in the same interval.
        let ended = HoldValue { ns: 90, max_ns: 700, count: 3, comm: [0; 16] };
        let key = |write| HoldKey { tid: 7, slot: 0, write };
        let all = told(held(1500, 1), vec![(key(1), ended), (key(0), ended)]);
        assert_eq!(all, [(7, false, 90, 700, 3), (7, true, 590, 700, 3)]);
    }

    /// Knows the places above 100, from the begin of the interval on.
    struct Places;

    impl StackNumbers for Places {
        fn number(&mut self, _: MmId, _: u32, _: u32, _: u64, _: u64) -> Option<StackId> {
            None
        }

        fn place(&mut self, _: MmId, pid: u32, ip: u64, then_ns: u64) -> Option<CodeId> {
            assert_eq!((pid, then_ns), (0, 1000));
            (ip > 100).then_some(CodeId(ip as u32))
        }
    }

    #[test]
    fn samples_are_told_by_thread_and_place() {
        let mut decoder = Decoder::default();
        decoder.decode_opened(&MmRecord::zeroed());
        let at = |tid, ip, slot, samples| (PlaceKey { ip, tid, slot }, samples);
        let places = vec![at(8, 300, 0, 1), at(7, 300, 0, 2), at(7, 200, 0, 3), at(7, 50, 0, 4), at(7, 300, 9, 5)];
        let raw = RawTimes { begin_ns: 1000, end_ns: 2000, places, ..RawTimes::default() };
        let ran = |tid, code, samples| RanAt { tid, code: CodeId(code), samples };
        let places = vec![ran(7, 200, 3), ran(7, 300, 2), ran(8, 300, 1)];
        let told = Event::Ran(Ran { mm: MmId(0), ts_ns: 2000, places });
        assert_eq!((decoder.decode_times(&raw, &mut Places), decoder.undecodable()), (vec![told], 1));
    }

    #[test]
    fn an_unknown_doing_slot_or_amount_is_counted() {
        let mut decoder = Decoder::default();
        decoder.decode_opened(&MmRecord::zeroed());
        let value = TimeValue { ns: 1, ..TimeValue::default() };
        let records = vec![
            (TimeKey { doing: 200, ..key(Doing::Running) }, value),
            (TimeKey { slot: 9, ..key(Doing::Running) }, value),
            (TimeKey { cause: 200, ..key(Doing::Fault) }, value),
            (key(Doing::Fault), TimeValue { ns: u64::MAX, ..value }),
            (key(Doing::Fault), TimeValue::default()),
        ];
        let raw = RawTimes { records, ..RawTimes::default() };
        assert_eq!((decoder.decode_times(&raw, &mut ()), decoder.undecodable()), (vec![], 4));
    }
}
