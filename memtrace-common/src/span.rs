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

/// Points that the probes know.
pub const SPAN_POINTS: usize = 64;
/// Definitions of spans: what the user named, and the database servers.
pub const SPAN_DEFINITIONS: usize = 16;
/// No argument: `SpanPoint::argument` and its like.
pub const SPAN_NO_ARGUMENT: u8 = u8::MAX;

/// A function's entry or return that is an edge; its probes find it by their attach cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SpanPoint {
    /// Number of the definition, below [`SPAN_DEFINITIONS`].
    pub definition: u16,
    /// See [`edge`].
    pub edge: u16,
    /// Which argument of the function the record is to have, and decides; [`SPAN_NO_ARGUMENT`] for none.
    pub argument: u8,
    /// Which argument points to the text; [`SPAN_NO_ARGUMENT`] for none.
    pub text: u8,
    /// Which argument is the text's length; [`SPAN_NO_ARGUMENT`]: it ends with NUL.
    pub length: u8,
    /// 1: `text` points to the text's pointer, behind which its length lies.
    pub indirect: u8,
    /// 1: the span ends when the same call returns: calls within it are no edges.
    pub nests: u32,
    /// Keeps `ends` aligned.
    pub reserved: u32,
    /// Bit `i`: this edge is an END when the argument is `i`. A value that has no bit is as if its bit were not set.
    pub ends: u64,
    /// Bit `i`: there is a text when the argument is `i`; without an argument, bit 0 is meant.
    pub texts: u64,
}

/// A thread's segment between two edges, while it runs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SpanState {
    /// The thread's mm.
    pub mm: u64,
    /// Slot of it.
    pub slot: u32,
    /// Generation of the slot.
    pub generation: u32,
    /// When the last edge was; 0 for none.
    pub last_ns: u64,
    /// Process.
    pub tgid: u32,
    /// Definition of the last edge.
    pub definition: u32,
    /// 1: something was booked since the last edge. Written after what was booked.
    pub dirty: u64,
    /// What was booked.
    pub sums: SpanSums,
    /// Stack pointer on entry of the outermost call in progress, by definition; 0 for none.
    pub frames: [u64; SPAN_DEFINITIONS],
}

/// What an edge is; `SpanRecord::edge`.
pub mod edge {
    /// A span begins (if one is in progress, it ends).
    pub const BEGIN: u16 = 1;
    /// The span in progress ends; nothing if there is none.
    pub const END: u16 = 2;
    /// No edge: how far the thread has come when it, or the session, ends.
    pub const CUT: u16 = 3;
}

/// Bytes of a span's text that are copied.
pub const SPAN_TEXT: usize = 1024;

/// [`SpanRecord::text`] of an edge that has no text, or whose text could not be read.
pub const SPAN_NO_TEXT: u32 = u32::MAX;
/// Bytes for which a short text has room: most have.
pub const SPAN_TEXT_SHORT: usize = 192;

/// An edge. [`SpanSums`] follow if [`SpanRecord::sums`] says so: what the thread was booked for since the last edge, which
/// for most is nothing. Then [`SpanRecord::text`] bytes of text (with room for [`SPAN_TEXT`], [`SPAN_TEXT_SHORT`] or none).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SpanRecord {
    /// Who, when, in which mm.
    pub head: Head,
    /// Number of the definition, given at attach.
    pub definition: u16,
    /// See [`edge`].
    pub edge: u16,
    /// Bytes of text that follow; [`SPAN_NO_TEXT`] when there is none.
    pub text: u32,
    /// What the edge's function was told: for PostgreSQL, the state.
    pub argument: u64,
    /// When the last edge was; 0 for none.
    pub since_ns: u64,
    /// The mm's counters at this edge, exact.
    pub counters: [i64; MEMBERS],
    /// 1: the sums follow; 0: they are all zero.
    pub sums: u64,
}
