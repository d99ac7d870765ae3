//! What is said of spans: what a thread did to memory between two edges, such as one statement of a database.
//!
//! Their books close, too: `closing − opening` of the mm = the thread's own changes + those of others, per class; and the
//! own changes of all spans and of the time between them are what was booked for the thread.

use crate::event::{MmId, SpanSums};
use crate::units::Amounts;
use std::sync::Arc;

/// A span that is over, or that the session's end cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Counts from 1 in a session, in the order of their ends.
    pub number: u64,
    /// Kind of span: `postgresql`, `mysql`, or the name that the user gave.
    pub name: String,
    /// The mm.
    pub mm: MmId,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Name of the thread.
    pub comm: Vec<u8>,
    /// What it is about: a statement's text, any bytes, capped.
    pub text: Option<Vec<u8>>,
    /// When it began; when we first saw the thread, if `before`.
    pub start_ns: u64,
    /// When it ended, or the session did, if `open`.
    pub ts_ns: u64,
    /// It began before we looked. What it did until then is not in it.
    pub before: bool,
    /// It was not over when the session ended.
    pub open: bool,
    /// The mm's counters at its start.
    pub opening: Amounts,
    /// The same at its end.
    pub closing: Amounts,
    /// What the thread itself did.
    pub own: SpanSums,
    /// Bytes that the thread mapped, and grew the heap by.
    pub mapped: u64,
    /// Bytes that it unmapped, and shrank the heap by.
    pub unmapped: u64,
}

impl Span {
    /// What others did to the mm meanwhile: other threads, reclaim.
    #[must_use]
    pub fn others(&self) -> Amounts {
        self.closing - self.opening - self.own.delta
    }

    /// How long it lasted, as far as we saw it.
    #[must_use]
    pub const fn duration_ns(&self) -> u64 {
        self.ts_ns.saturating_sub(self.start_ns)
    }

    /// RES at its highest, and whether that is exact: when others changed the mm meanwhile, it is the least that it was.
    #[must_use]
    pub fn peak(&self) -> (i64, bool) {
        let ends = self.opening.res().max(self.closing.res());
        let own = self.opening.res().saturating_add(self.own.peak);
        if self.others().is_zero() { (own.max(ends), true) } else { (ends, false) }
    }
}

/// The session's spans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    /// Those that took longest, the longest first; capped.
    pub slowest: Vec<Arc<Span>>,
    /// Those that moved most of their own, the largest first; capped.
    pub largest: Vec<Arc<Span>>,
    /// The sums by process, kind of span and thread, in the order of numbers.
    pub by_thread: Vec<SpanThread>,
}

/// What one thread did in spans and between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpanThread {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Its name.
    pub comm: Vec<u8>,
    /// How many spans, those that were cut off included.
    pub count: u64,
    /// Time in them.
    pub ns: u64,
    /// What the thread did in them.
    pub within: SpanSums,
    /// What it did between them.
    pub between: SpanSums,
}
