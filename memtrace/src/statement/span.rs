//! What is said of spans: what a thread did to memory between two edges, such as one statement of a database.
//!
//! Their books close, too: `closing − opening` of the mm = the thread's own changes + those of others, per class; and the
//! own changes of all spans and of the time between them are what was booked for the thread.

use crate::event::{MmId, STATEMENTS, SpanSums};
use crate::units::Amounts;
use std::sync::Arc;

/// How a span came to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpanEnd {
    /// At an edge.
    #[default]
    Ended,
    /// It was not over when the session ended.
    Open,
    /// Its thread, process or program was over before it was.
    Died,
}

impl SpanEnd {
    /// Name in the outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Open => "open",
            Self::Died => "died",
        }
    }
}

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
    /// When it ended, or the session did.
    pub ts_ns: u64,
    /// Until when the amounts are known: `ts_ns`, unless it was cut off without a last word.
    pub told_ns: u64,
    /// It began before we looked. What it did until then is not in it.
    pub before: bool,
    /// How long before `start_ns` it began, where it is `before` and the server says since when it runs.
    pub earlier_ns: Option<u64>,
    /// How it ended.
    pub end: SpanEnd,
    /// The mm's counters at its start.
    pub opening: Amounts,
    /// The same at `told_ns`.
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

    /// How long it lasted, as far as anybody says.
    #[must_use]
    pub const fn whole_ns(&self) -> u64 {
        let earlier = match self.earlier_ns {
            Some(ns) => ns,
            None => 0,
        };
        self.duration_ns().saturating_add(earlier)
    }

    /// RES at its highest, and whether that is exact: when others changed the mm meanwhile, it is the least that it was.
    #[must_use]
    pub fn peak(&self) -> (i64, bool) {
        let ends = self.opening.res().max(self.closing.res());
        let own = self.opening.res().saturating_add(self.own.peak);
        if self.others().is_zero() { (own.max(ends), true) } else { (ends, false) }
    }

    /// It is a database server's statement.
    #[must_use]
    pub fn is_statement(&self) -> bool {
        STATEMENTS.contains(&self.name.as_str())
    }

    /// How large it was, pages: what its thread had taken at the most, or what moved in all where that is more.
    #[must_use]
    pub fn weight(&self) -> i64 {
        self.own.peak.max(self.own.delta.gross())
    }
}

/// The session's spans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    /// When the session began.
    pub start_ns: u64,
    /// When it ended.
    pub ts_ns: u64,
    /// How many there were.
    pub count: u64,
    /// Of these, those that were not over.
    pub open: u64,
    /// Those that took longest, the longest first; capped.
    pub slowest: Vec<Arc<Span>>,
    /// Those that moved most of their own, see [`Span::weight`], the largest first; capped.
    pub largest: Vec<Arc<Span>>,
    /// The sums by process, thread and kind of span, in the order of numbers; capped, the others folded, a row a kind,
    /// last.
    pub by_thread: Vec<SpanThread>,
}

impl Spans {
    /// No edge was passed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0 && self.by_thread.is_empty()
    }
}

/// What one thread did in spans of one kind and between them. Kinds may overlap: `within + between` is all that was booked
/// for the thread in the row of each of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpanThread {
    /// Kind of span.
    pub name: String,
    /// Process; 0 for several threads folded.
    pub pid: u32,
    /// Thread; 0 for several.
    pub tid: u32,
    /// Its name.
    pub comm: Vec<u8>,
    /// How many threads are in it when it stands for several; 0 otherwise.
    pub folded: u64,
    /// How many spans, those that were cut off included.
    pub count: u64,
    /// Time in them.
    pub ns: u64,
    /// All that was booked for the thread, per class: `within + between`, summed on its own way.
    pub booked: Amounts,
    /// What the thread did in them. The peak is that of the span that took most.
    pub within: SpanSums,
    /// What it did between them. The peak is the highest between two edges.
    pub between: SpanSums,
}

impl SpanThread {
    /// It is about database servers' statements.
    #[must_use]
    pub fn is_statement(&self) -> bool {
        STATEMENTS.contains(&self.name.as_str())
    }

    /// `within + between` is what was booked. False is a fault of this program.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.within.delta + self.between.delta == self.booked
    }

    /// Adds another one's figures.
    pub fn absorb(&mut self, other: &Self) {
        self.folded = self.folded.saturating_add(other.folded.max(1));
        self.count = self.count.saturating_add(other.count);
        self.ns = self.ns.saturating_add(other.ns);
        self.booked += other.booked;
        self.within.add(&other.within);
        self.between.add(&other.between);
    }
}
