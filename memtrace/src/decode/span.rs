//! Edges of spans → [`Event::Span`].

use super::{Decoder, read};
use crate::event::{CausePages, Edge, Event, MmId, SpanEdge, SpanSums};
use crate::units::Amounts;
use memtrace_common::{Cause, Head, SPAN_NO_TEXT, SPAN_TEXT, SpanRecord, SpanState, SpanSums as Sums, edge, kind};

/// An edge from the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawSpan {
    pub(super) record: SpanRecord,
    sums: Sums,
    text: Option<Vec<u8>>,
}

/// Reads an edge with the sums and the text that follow it. `None` for one that says what cannot be.
pub(super) fn parse(bytes: &[u8]) -> Option<RawSpan> {
    let record = read::<SpanRecord>(bytes)?;
    let rest = bytes.get(size_of::<SpanRecord>()..)?;
    let (sums, rest) = match record.sums {
        0 => (Sums::default(), rest),
        1 => (read::<Sums>(rest)?, rest.get(size_of::<Sums>()..)?),
        _ => return None,
    };
    let text = if record.text == SPAN_NO_TEXT {
        None
    } else {
        let length = usize::try_from(record.text).ok().filter(|length| *length <= SPAN_TEXT)?;
        Some(rest.get(..length)?.to_vec())
    };
    matches!(record.edge, edge::BEGIN | edge::END | edge::CUT).then_some(RawSpan { record, sums, text })
}

impl Decoder {
    /// What the definitions of spans are called, in the order of their numbers.
    pub fn name_spans(&mut self, names: Vec<String>) {
        self.spans = names;
    }

    pub(super) fn decode_span(&mut self, raw: &RawSpan) -> Option<Event> {
        let record = &raw.record;
        let edge = match record.edge {
            edge::BEGIN => Edge::Begin { text: raw.text.clone() },
            edge::CUT => Edge::Cut,
            _ => Edge::End,
        };
        let counters = Amounts::from_members(record.counters);
        self.span(&record.head, usize::from(record.definition), edge, counters, &raw.sums)
    }

    /// How far a thread has come when the session ends; `None` when there is nothing to say of it. `counters` are its mm's.
    pub fn decode_cut(&mut self, tid: u32, state: &SpanState, counters: Amounts, ts_ns: u64) -> Option<Event> {
        if state.last_ns == 0 && state.dirty == 0 {
            return None;
        }
        let slot = u16::try_from(state.slot).ok()?;
        let head = Head { kind: kind::SPAN, slot, tid, ts_ns, tgid: state.tgid, generation: state.generation };
        self.span(&head, state.definition as usize, Edge::Cut, counters, &state.sums)
    }

    /// The same of a thread that passed no edge and for which nothing was booked: it may be in the middle of something long.
    #[must_use]
    pub fn quiet_cut(&self, mm: MmId, pid: u32, counters: Amounts, ts_ns: u64) -> Option<Event> {
        let (tid, name, edge, sums) = (pid, self.spans.first()?.clone(), Edge::Cut, SpanSums::default());
        Some(Event::Span(Box::new(SpanEdge { mm, ts_ns, pid, tid, name, edge, counters, sums })))
    }

    fn span(&mut self, head: &Head, definition: usize, edge: Edge, counters: Amounts, sums: &Sums) -> Option<Event> {
        let mm = self.mm(head)?;
        let Some(name) = self.spans.get(definition) else {
            self.undecodable += 1;
            return None;
        };
        Some(Event::Span(Box::new(SpanEdge {
            mm,
            ts_ns: head.ts_ns,
            pid: head.tgid,
            tid: head.tid,
            name: name.clone(),
            edge,
            counters,
            sums: decode_sums(sums),
        })))
    }
}

fn decode_sums(sums: &Sums) -> SpanSums {
    let causes = sums.causes.iter().zip(0u8..).filter(|(pages, _)| **pages != 0);
    SpanSums {
        delta: Amounts::from_members(sums.delta),
        peak: sums.peak.max(0),
        faults: sums.faults,
        major: sums.major,
        latency_sum_ns: sums.latency_sum_ns,
        latency_max_ns: sums.latency_max_ns,
        latency_samples: sums.latency_samples,
        causes: causes
            .filter_map(|(pages, code)| Some(CausePages { cause: Cause::from_code(code)?, pages: *pages }))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Raw;
    use super::*;
    use bytemuck::Zeroable;
    use memtrace_common::MmRecord;

    fn bytes(record: &SpanRecord, text: &[u8]) -> Vec<u8> {
        let mut sums = Sums::zeroed();
        sums.causes[Cause::FaultAnon as usize] = 3;
        sums.causes[Cause::Munmap as usize] = -1;
        [bytemuck::bytes_of(record), bytemuck::bytes_of(&sums), text].concat()
    }

    fn record() -> SpanRecord {
        let mut record = SpanRecord { edge: edge::BEGIN, text: 8, sums: 1, ..SpanRecord::zeroed() };
        record.head.kind = kind::SPAN;
        record
    }

    fn decoder() -> Decoder {
        let mut decoder = Decoder::default();
        decoder.decode_opened(&MmRecord::zeroed());
        decoder.name_spans(vec!["postgresql".to_owned()]);
        decoder
    }

    #[test]
    fn an_edge_has_its_text_and_the_causes_that_moved_something() {
        let mut decoder = decoder();
        // The ring's room is larger than the text.
        let raw = decoder.parse_ring(&bytes(&record(), b"select 1 and what was there before")).unwrap();
        let Some(Event::Span(span)) = decoder.decode_ring(&raw, &mut ()) else { panic!("{raw:?}") };
        assert_eq!((span.name.as_str(), &span.edge), ("postgresql", &Edge::Begin { text: Some(b"select 1".to_vec()) }));
        let causes: Vec<_> = span.sums.causes.iter().map(|cause| (cause.cause, cause.pages)).collect();
        assert_eq!(causes, [(Cause::FaultAnon, 3), (Cause::Munmap, -1)]);
        // Nothing was booked since the last edge, and the text stands where the sums would.
        let raw = [bytemuck::bytes_of(&SpanRecord { sums: 0, ..record() }), b"select 1"].concat();
        let raw = decoder.parse_ring(&raw).unwrap();
        let Some(Event::Span(bare)) = decoder.decode_ring(&raw, &mut ()) else { panic!("{raw:?}") };
        assert_eq!((&bare.edge, &bare.sums), (&span.edge, &SpanSums::default()));
    }

    #[test]
    fn what_cannot_be_is_counted() {
        let mut decoder = decoder();
        for record in [
            SpanRecord { text: SPAN_TEXT as u32 + 1, ..record() },
            SpanRecord { text: 9, ..record() },
            SpanRecord { edge: 7, ..record() },
            SpanRecord { sums: 2, ..record() },
        ] {
            assert_eq!(decoder.parse_ring(&bytes(&record, b"8 bytes!")), None);
        }
        let raw = decoder.parse_ring(&bytes(&SpanRecord { definition: 1, ..record() }, b"8 bytes!")).unwrap();
        assert!(matches!(raw, Raw::Span(_)));
        assert_eq!((decoder.decode_ring(&raw, &mut ()), decoder.undecodable()), (None, 5));
    }

    #[test]
    fn a_thread_of_which_nothing_is_known_is_not_cut() {
        let mut decoder = decoder();
        let state = SpanState::zeroed();
        assert_eq!(decoder.decode_cut(7, &state, Amounts::ZERO, 9), None);
        let state = SpanState { last_ns: 1, ..state };
        let Some(Event::Span(span)) = decoder.decode_cut(7, &state, Amounts::ZERO, 9) else { panic!() };
        assert_eq!((span.tid, span.ts_ns, &span.edge), (7, 9, &Edge::Cut));
        // Nor one that ended, which says so itself.
        let ended = decoder.parse_ring(&bytes(&SpanRecord { edge: edge::CUT, ..record() }, b"select 1")).unwrap();
        let Some(Event::Span(span)) = decoder.decode_ring(&ended, &mut ()) else { panic!() };
        assert_eq!((span.edge, span.sums.causes.len()), (Edge::Cut, 2));
        let Some(Event::Span(span)) = decoder.quiet_cut(span.mm, 5, Amounts::ZERO, 9) else { panic!() };
        assert_eq!((span.pid, span.tid, span.edge, span.sums), (5, 5, Edge::Cut, SpanSums::default()));
    }
}
