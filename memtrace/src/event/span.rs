//! Spans: what a thread does between two edges, such as a database's statement.

use super::{Latency, MmId};
use crate::units::Amounts;
use memtrace_common::Cause;
use serde::{Deserialize, Serialize};

/// Kinds of spans that are statements of database servers; all others have names that the user gave.
pub const STATEMENTS: [&str; 3] = ["postgresql", "mysql", "mariadb"];

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
    /// No edge: how far the thread has come when it ends, or leaves the mm, or the session does.
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
    /// Sum of the sampled latencies, less those that were counted before and are taken back: wraps.
    pub latency_sum_ns: u64,
    /// Largest of them.
    pub latency_max_ns: u64,
    /// Faults whose latency was sampled, likewise.
    pub latency_samples: u64,
    /// Resident pages by cause, in the order of the causes; those of none are left out.
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

impl SpanSums {
    /// Adds what came next: the peak is that of both, one after the other. Wraps, as amounts do.
    pub fn then(&mut self, next: &Self) {
        let peak = self.peak.max(self.delta.res().saturating_add(next.peak));
        self.add(next);
        self.peak = peak;
    }

    /// Adds what was elsewhere or at another time: the peak is the higher one of the two.
    pub fn add(&mut self, other: &Self) {
        self.delta += other.delta;
        self.peak = self.peak.max(other.peak);
        self.faults = self.faults.wrapping_add(other.faults);
        self.major = self.major.wrapping_add(other.major);
        // A segment may take back what the one before it counted: its figures are then below zero, wrapped.
        self.latency_sum_ns = self.latency_sum_ns.wrapping_add(other.latency_sum_ns);
        self.latency_max_ns = self.latency_max_ns.max(other.latency_max_ns);
        self.latency_samples = self.latency_samples.wrapping_add(other.latency_samples);
        for CausePages { cause, pages } in &other.causes {
            match self.causes.binary_search_by_key(cause, |known| known.cause) {
                Ok(at) => self.causes[at].pages = self.causes[at].pages.wrapping_add(*pages),
                Err(at) => self.causes.insert(at, CausePages { cause: *cause, pages: *pages }),
            }
        }
        self.causes.retain(|of| of.pages != 0);
    }

    /// Resident pages of one cause.
    #[must_use]
    pub fn pages(&self, wanted: Cause) -> i64 {
        self.causes.iter().filter(|of| of.cause == wanted).fold(0, |sum, of| sum.wrapping_add(of.pages))
    }

    /// Time in faults, from those that were sampled; `None` where none was.
    #[must_use]
    pub fn estimated_fault_ns(&self) -> Option<u64> {
        let [samples, sum_ns] = self.sampled()?;
        // The slowest one, which may have waited for a disk, stands for itself: else one of three thousand would be told as
        // sixteen. It may have been taken back.
        let slowest = if samples > 1 && self.latency_max_ns <= sum_ns { self.latency_max_ns } else { 0 };
        let one = u64::from(slowest > 0);
        let others = Latency { samples: samples - one, sum_ns: sum_ns - slowest, ..Latency::default() };
        let faults = self.faults.max(0).unsigned_abs().saturating_sub(one);
        others.estimated_total_ns(faults).map(|ns| ns.saturating_add(slowest))
    }

    /// How many latencies were sampled, and their sum; `None` where none was, or more was taken back than is here.
    #[must_use]
    pub fn sampled(&self) -> Option<[u64; 2]> {
        let is_count = |n: &u64| i64::try_from(*n).is_ok();
        Some([self.latency_samples, self.latency_sum_ns])
            .filter(|sampled| sampled[0] > 0 && sampled.iter().all(is_count))
    }
}
