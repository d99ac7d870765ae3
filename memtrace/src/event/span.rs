//! Spans: what a thread does between two edges, such as a database's statement.

use super::MmId;
use crate::units::Amounts;
use memtrace_common::Cause;
use serde::{Deserialize, Serialize};

/// A thread passed an edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanEdge {
    /// The mm.
    pub mm: MmId,
    /// When.
    pub ts_ns: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Which kind of span: `postgresql`, `mysql`, or the name that the user gave.
    pub name: String,
    /// What the edge is.
    pub edge: Edge,
    /// Counters of the mm at this edge, exact.
    pub counters: Amounts,
    /// What the thread was booked for since its last edge, or since it was first seen.
    pub sums: SpanSums,
}

/// What an edge is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edge {
    /// A span begins; one in progress ends, unless it has the same text: then it goes on.
    Begin {
        /// What it is about, any bytes, capped: a statement's text.
        text: Option<Vec<u8>>,
    },
    /// The span in progress ends.
    End,
    /// The session ends.
    Cut,
}

/// What a thread was booked for between two edges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanSums {
    /// Changes of the mm's counters that this thread made.
    pub delta: Amounts,
    /// The highest that their sum of resident pages stood since the last edge, 0 at least.
    pub peak: i64,
    /// Page faults, major ones included.
    pub faults: i64,
    /// Major ones.
    pub major: i64,
    /// Sum of the sampled latencies.
    pub latency_sum_ns: u64,
    /// Largest of them.
    pub latency_max_ns: u64,
    /// Faults whose latency was sampled.
    pub latency_samples: u64,
    /// Resident pages by cause; those of none are left out.
    pub causes: Vec<CausePages>,
}

/// Resident pages of one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CausePages {
    /// Cause.
    #[serde(with = "super::cause_code")]
    pub cause: Cause,
    /// Pages.
    pub pages: i64,
}
