//! The `burst` line; docs/ndjson.md says what its fields mean.

use super::fields::{Delta, FaultFields, FrameFields, LatencyFields, MappingFields};
use super::untrusted::{Hex, Text};
use crate::event::{Latency, MmId, StackId};
use crate::statement::{Burst, MappingRef, Part};
use crate::views::Scale;
use crate::views::verdict::{Weights, node, time_in_faults, verdict};
use memtrace_common::HIST_BUCKETS;
use serde::Serialize;

/// Code paths that are told with their frames.
const TOP: usize = 8;

#[derive(Serialize)]
pub(super) struct BurstLine<'a> {
    number: u64,
    pid: u32,
    mm: MmId,
    comm: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Hex<'a>>,
    start_ns: u64,
    delta: Delta,
    res: i64,
    faults: FaultFields,
    uncertain: Uncertain,
    level: u64,
    fault_ns: Option<LatencyFields>,
    fault_hist: Vec<HistFields>,
    fault_share: Option<f64>,
    causes: Vec<CauseFields>,
    mappings: Vec<MappingPart<'a>>,
    threads: Vec<ThreadFields<'a>>,
    top: Vec<StackPart<'a>>,
    displaced: Delta,
    given_back: Delta,
    verdict: String,
}

#[derive(Serialize)]
struct Uncertain {
    delta: Delta,
    faults: FaultFields,
}

/// A power of two of the sampled latencies.
#[derive(Serialize)]
struct HistFields {
    from_ns: u64,
    to_ns: Option<u64>,
    samples: u32,
}

fn histogram(latency: &Latency) -> Vec<HistFields> {
    let bucket = |(i, &samples): (usize, &u32)| HistFields {
        from_ns: if i == 0 { 0 } else { 1 << (i + 7) },
        to_ns: (i + 1 < HIST_BUCKETS).then(|| 1 << (i + 8)),
        samples,
    };
    latency.hist.iter().enumerate().filter(|(_, samples)| **samples > 0).map(bucket).collect()
}

#[derive(Serialize)]
struct CauseFields {
    cause: &'static str,
    delta: Delta,
    faults: FaultFields,
    share: f64,
}

#[derive(Serialize)]
struct MappingPart<'a> {
    mapping: Option<MappingFields<'a>>,
    age_ns: Option<i64>,
    delta: Delta,
    faults: FaultFields,
    share: f64,
}

#[derive(Serialize)]
struct ThreadFields<'a> {
    tid: u32,
    comm: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Hex<'a>>,
    delta: Delta,
    faults: FaultFields,
    share: f64,
}

#[derive(Serialize)]
struct StackPart<'a> {
    stack_id: Option<StackId>,
    stack: Vec<FrameFields<'a>>,
    node: Option<&'static str>,
    bytes: i64,
    faults: FaultFields,
    share: f64,
}

/// To four digits: more would be noise.
fn ratio(part: u64, whole: u64) -> f64 {
    let digits = u128::from(part) * 10_000 / u128::from(whole.max(1));
    digits as f64 / 10_000.0
}

impl<'a> BurstLine<'a> {
    pub(super) fn of(b: &'a Burst, scale: Scale) -> Self {
        let weights = Weights::of(b);
        let share = |weight: u64| ratio(weight, weights.whole);
        let mapping = |part: &'a Part<Option<std::sync::Arc<MappingRef>>>| MappingPart {
            mapping: part.of.as_deref().map(Into::into),
            age_ns: part
                .of
                .as_ref()
                .and_then(|m| m.birth.as_ref())
                .map(|birth| b.start_ns.wrapping_sub(birth.ts_ns) as i64),
            delta: Delta::of(part.delta, scale),
            faults: part.faults.into(),
            share: share(weights.part(part)),
        };
        Self {
            number: b.number,
            pid: b.pid,
            mm: b.mm,
            comm: Text(&b.comm),
            comm_hex: Hex::twin(&b.comm),
            start_ns: b.start_ns,
            delta: Delta::of(b.delta, scale),
            res: scale.bytes(b.res),
            faults: b.faults.into(),
            uncertain: Uncertain { delta: Delta::of(b.uncertain.delta, scale), faults: b.uncertain.faults.into() },
            level: b.level,
            fault_ns: LatencyFields::of(&b.latency),
            fault_hist: histogram(&b.latency),
            fault_share: time_in_faults(b).map(|(faulting, wall)| ratio(faulting, wall)),
            causes: b
                .causes
                .iter()
                .map(|part| CauseFields {
                    cause: part.of.name(),
                    delta: Delta::of(part.delta, scale),
                    faults: part.faults.into(),
                    share: share(weights.part(part)),
                })
                .collect(),
            mappings: b.mappings.iter().map(mapping).collect(),
            threads: b
                .threads
                .iter()
                .map(|part| ThreadFields {
                    tid: part.of.0,
                    comm: Text(&part.of.1),
                    comm_hex: Hex::twin(&part.of.1),
                    delta: Delta::of(part.delta, scale),
                    faults: part.faults.into(),
                    share: share(weights.part(part)),
                })
                .collect(),
            top: b
                .stacks
                .iter()
                .take(TOP)
                .map(|part| StackPart {
                    stack_id: part.of.as_ref().map(|stack| stack.id),
                    stack: part.of.as_deref().map(FrameFields::of_stack).unwrap_or_default(),
                    node: part.of.as_deref().and_then(node),
                    bytes: scale.bytes(part.delta.res()),
                    faults: part.faults.into(),
                    share: share(weights.part(part)),
                })
                .collect(),
            displaced: Delta::of(b.displaced, scale),
            given_back: Delta::of(b.given_back, scale),
            verdict: verdict(b),
        }
    }
}
