//! The last lines of an mm and of a session: sums by cause, mapping and code.

use super::fields::{
    Delta, ExitFields, FaultFields, LatencyFields, Level, LostFields, MappingFields, NamesFields, OwnFields,
    StacksFields,
};
use super::untrusted::{Hex, Text};
use crate::event::{EndReason, MmId, StackId};
use crate::statement::{ClosingStatement, CodeSum, EndReport, Sum};
use crate::views::Scale;
use memtrace_common::Cause;
use serde::Serialize;
use serde::ser::Serializer;

/// A sum over the session: the four classes at the top level, as the contract has them, then what else is known.
#[derive(Serialize)]
struct SumFields {
    #[serde(flatten)]
    delta: Delta,
    #[serde(flatten)]
    rest: SumRest,
}

impl SumFields {
    fn of(sum: &Sum, scale: Scale) -> Self {
        Self { delta: Delta::of(sum.delta, scale), rest: SumRest::of(sum, scale) }
    }
}

/// What is known of a sum beside its amounts.
#[derive(Serialize)]
struct SumRest {
    grown: i64,
    shrunk: i64,
    faults: FaultFields,
    fault_ns: Option<LatencyFields>,
}

impl SumRest {
    fn of(sum: &Sum, scale: Scale) -> Self {
        let bytes = |pages: u64| scale.bytes(i64::try_from(pages).unwrap_or(i64::MAX));
        Self {
            grown: bytes(sum.grown),
            shrunk: bytes(sum.shrunk),
            faults: sum.faults.into(),
            fault_ns: LatencyFields::of(&sum.latency),
        }
    }
}

struct ByCause<'a>(&'a [(Cause, Sum)], Scale);

impl Serialize for ByCause<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(cause, sum)| (cause.name(), SumFields::of(sum, self.1))))
    }
}

#[derive(Serialize)]
struct MappingSumFields<'a> {
    mapping: Option<MappingFields<'a>>,
    delta: Delta,
    #[serde(flatten)]
    rest: SumRest,
}

#[derive(Serialize)]
struct CodeSumFields {
    stack_id: Option<StackId>,
    /// How many code paths are in it, where it stands for several.
    #[serde(skip_serializing_if = "Option::is_none")]
    folded: Option<u64>,
    delta: Delta,
    #[serde(flatten)]
    rest: SumRest,
}

impl CodeSumFields {
    fn of(code: &CodeSum, scale: Scale) -> Self {
        Self {
            stack_id: code.stack.as_ref().map(|stack| stack.id),
            folded: (code.folded > 0).then_some(code.folded),
            delta: Delta::of(code.sum.delta, scale),
            rest: SumRest::of(&code.sum, scale),
        }
    }
}

/// What `closing` and `end` have in common.
#[derive(Serialize)]
struct BooksFields<'a> {
    start_ns: u64,
    opening: Level,
    closing: Level,
    peak_res: i64,
    by_cause: ByCause<'a>,
    by_mapping: Vec<MappingSumFields<'a>>,
    by_code: Vec<CodeSumFields>,
    faults: FaultFields,
    unexplained: Delta,
}

impl<'a> BooksFields<'a> {
    fn of(c: &'a ClosingStatement, scale: Scale) -> Self {
        Self {
            start_ns: c.start_ns,
            opening: Level::of(c.opening, scale),
            closing: Level::of(c.closing, scale),
            peak_res: scale.bytes(c.peak_res),
            by_cause: ByCause(&c.by_cause, scale),
            by_mapping: c
                .by_mapping
                .iter()
                .map(|(mapping, sum)| MappingSumFields {
                    mapping: mapping.as_deref().map(Into::into),
                    delta: Delta::of(sum.delta, scale),
                    rest: SumRest::of(sum, scale),
                })
                .collect(),
            by_code: c.by_code.iter().map(|code| CodeSumFields::of(code, scale)).collect(),
            faults: c.faults.into(),
            unexplained: Delta::of(c.unexplained, scale),
        }
    }
}

#[derive(Serialize)]
pub(super) struct ClosingLine<'a> {
    pid: u32,
    mm: MmId,
    comm: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm_hex: Option<Hex<'a>>,
    #[serde(flatten)]
    books: BooksFields<'a>,
}

impl<'a> ClosingLine<'a> {
    pub(super) fn of(c: &'a ClosingStatement, scale: Scale) -> Self {
        Self {
            pid: c.pid,
            mm: c.mm,
            comm: Text(&c.comm),
            comm_hex: Hex::twin(&c.comm),
            books: BooksFields::of(c, scale),
        }
    }
}

#[derive(Serialize)]
pub(super) struct EndLine<'a> {
    reason: &'static str,
    exit: Option<ExitFields>,
    pid: u32,
    mms: usize,
    #[serde(flatten)]
    books: BooksFields<'a>,
    lost: LostFields,
    stacks: StacksFields,
    bursts: usize,
    names: NamesFields<'a>,
    own: OwnFields,
}

impl<'a> EndLine<'a> {
    pub(super) fn of(end: &'a EndReport, scale: Scale) -> Self {
        let (reason, code) = match end.end.reason {
            EndReason::Exited { code } => ("exited", code),
            EndReason::Interrupted => ("interrupted", None),
            EndReason::Duration => ("duration", None),
            EndReason::OutputClosed => ("output_closed", None),
            EndReason::Truncated => ("truncated", None),
        };
        Self {
            reason,
            exit: code.map(Into::into),
            pid: end.total.pid,
            mms: end.mms,
            books: BooksFields::of(&end.total, scale),
            lost: LostFields(end.lost),
            stacks: StacksFields::of(&end.stacks, end.own, scale),
            bursts: end.bursts,
            names: NamesFields::of(&end.end.naming),
            own: OwnFields::of(end.own, end.total.faults),
        }
    }
}
