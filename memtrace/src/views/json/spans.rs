//! A span, and the session's spans.

use super::fields::{Delta, FaultFields};
use super::untrusted::{Hex, Text};
use crate::event::{MmId, SpanSums};
use crate::statement::{Faults, Span, SpanThread, Spans};
use crate::units::Amounts;
use crate::views::Scale;
use serde::Serialize;
use std::collections::BTreeMap;

/// A balance in bytes, with its RES.
#[derive(Serialize)]
struct Stand {
    #[serde(flatten)]
    classes: Delta,
    res: i64,
}

impl Stand {
    const fn of(pages: Amounts, scale: Scale) -> Self {
        Self { classes: Delta::of(pages, scale), res: scale.bytes(pages.res()) }
    }
}

#[derive(Serialize)]
struct SampledFields {
    sum: u64,
    max: u64,
    samples: u64,
}

/// What a thread was booked for.
#[derive(Serialize)]
struct SumsFields {
    delta: Delta,
    peak: i64,
    faults: FaultFields,
    fault_ns: Option<SampledFields>,
    by_cause: BTreeMap<&'static str, i64>,
}

impl SumsFields {
    fn of(sums: &SpanSums, scale: Scale) -> Self {
        let faults = Faults { minor: sums.faults.wrapping_sub(sums.major), major: sums.major };
        let sampled = sums.sampled();
        Self {
            delta: Delta::of(sums.delta, scale),
            peak: scale.bytes(sums.peak),
            faults: faults.into(),
            fault_ns: sampled.map(|[samples, sum]| SampledFields { sum, max: sums.latency_max_ns, samples }),
            by_cause: sums.causes.iter().map(|of| (of.cause.name(), scale.bytes(of.pages))).collect(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct SpanLine<'a> {
    number: u64,
    name: &'a str,
    pid: u32,
    tid: u32,
    mm: MmId,
    comm: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Hex<'a>>,
    text: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_hex: Option<Hex<'a>>,
    start_ns: u64,
    duration_ns: u64,
    told_ns: u64,
    end: &'static str,
    before: bool,
    earlier_ns: Option<u64>,
    opening: Stand,
    closing: Stand,
    own: SumsFields,
    others: Delta,
    peak_res: i64,
    peak_exact: bool,
    mapped: u64,
    unmapped: u64,
}

impl<'a> SpanLine<'a> {
    pub(super) fn of(span: &'a Span, scale: Scale) -> Self {
        let (peak, peak_exact) = span.peak();
        Self {
            number: span.number,
            name: &span.name,
            pid: span.pid,
            tid: span.tid,
            mm: span.mm,
            comm: Text(&span.comm),
            comm_hex: Hex::twin(&span.comm),
            text: span.text.as_deref().map(Text),
            text_hex: span.text.as_deref().and_then(Hex::twin),
            start_ns: span.start_ns,
            duration_ns: span.duration_ns(),
            told_ns: span.told_ns,
            end: span.end.name(),
            before: span.before,
            earlier_ns: span.earlier_ns,
            opening: Stand::of(span.opening, scale),
            closing: Stand::of(span.closing, scale),
            own: SumsFields::of(&span.own, scale),
            others: Delta::of(span.others(), scale),
            peak_res: scale.bytes(peak),
            peak_exact,
            mapped: span.mapped,
            unmapped: span.unmapped,
        }
    }
}

#[derive(Serialize)]
struct ThreadFields<'a> {
    name: &'a str,
    pid: Option<u32>,
    tid: Option<u32>,
    comm: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Hex<'a>>,
    folded: u64,
    count: u64,
    ns: u64,
    within: SumsFields,
    between: SumsFields,
    booked: Delta,
}

impl<'a> ThreadFields<'a> {
    fn of(row: &'a SpanThread, scale: Scale) -> Self {
        let one = row.folded == 0;
        Self {
            name: &row.name,
            pid: one.then_some(row.pid),
            tid: one.then_some(row.tid),
            comm: Text(&row.comm),
            comm_hex: Hex::twin(&row.comm),
            folded: row.folded,
            count: row.count,
            ns: row.ns,
            within: SumsFields::of(&row.within, scale),
            between: SumsFields::of(&row.between, scale),
            booked: Delta::of(row.booked, scale),
        }
    }
}

#[derive(Serialize)]
pub(super) struct SpansLine<'a> {
    start_ns: u64,
    count: u64,
    open: u64,
    slowest: Vec<u64>,
    largest: Vec<u64>,
    by_thread: Vec<ThreadFields<'a>>,
}

impl<'a> SpansLine<'a> {
    pub(super) fn of(spans: &'a Spans, scale: Scale) -> Self {
        Self {
            start_ns: spans.start_ns,
            count: spans.count,
            open: spans.open,
            slowest: spans.slowest.iter().map(|span| span.number).collect(),
            largest: spans.largest.iter().map(|span| span.number).collect(),
            by_thread: spans.by_thread.iter().map(|row| ThreadFields::of(row, scale)).collect(),
        }
    }
}
