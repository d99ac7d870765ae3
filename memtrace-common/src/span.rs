//! Spans: what a thread does between two edges, such as a database's statement.
//!
//! An edge is a probe on a function of the target. Each thread's booked changes are also summed from edge to edge, so
//! that the sums of all segments of all threads, those between spans included, are exactly what was booked for them.

use crate::{Cause, Head, MEMBERS};
use bytemuck::{Pod, Zeroable};

/// Causes that [`SpanSums`] keeps apart: a number the verifier can mask with.
pub const SPAN_CAUSES: usize = 32;
const _: () = assert!(Cause::COUNT <= SPAN_CAUSES);

/// What a thread was booked for since its last edge (or since it was first seen), under its own mm.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct SpanSums {
    /// Pages, per counter.
    pub delta: [i64; MEMBERS],
    /// The highest that the sum of the resident ones stood since the last edge; 0 at least.
    pub peak: i64,
    /// Page faults (`major` included).
    pub faults: i64,
    /// Of those, major.
    pub major: i64,
    /// Sum of the sampled latencies of faults.
    pub latency_sum_ns: u64,
    /// Largest of them.
    pub latency_max_ns: u64,
    /// Latencies sampled; one fault in [`crate::FAULT_SAMPLE`] is.
    pub latency_samples: u64,
    /// Resident pages by [`Cause`] code.
    pub causes: [i64; SPAN_CAUSES],
}

/// What an edge is; `SpanRecord::edge`.
pub mod edge {
    /// A span begins (if one is in progress, it ends).
    pub const BEGIN: u16 = 1;
    /// The span in progress ends; nothing if there is none.
    pub const END: u16 = 2;
    /// No edge: how far the thread has come when the session ends.
    pub const CUT: u16 = 3;
}

/// Bytes of a span's text that are copied.
pub const SPAN_TEXT: usize = 1024;

/// An edge. [`SpanRecord::text`] bytes of text follow (the record ends with room for [`SPAN_TEXT`], or for none).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SpanRecord {
    /// Who, when, in which mm.
    pub head: Head,
    /// Number of the definition, given at attach.
    pub definition: u16,
    /// See [`edge`].
    pub edge: u16,
    /// Bytes of text that follow.
    pub text: u32,
    /// What the edge's function was told: for PostgreSQL, the state.
    pub argument: u64,
    /// When the last edge was; 0 for none.
    pub since_ns: u64,
    /// The mm's counters at this edge, exact.
    pub counters: [i64; MEMBERS],
    /// What the thread was booked for since the last edge.
    pub sums: SpanSums,
}
