//! Spans: edges in, spans out. What a thread was booked for is summed from edge to edge by the kernel; here the segments
//! are put together to spans and to the time between them, so that both add up to what was booked for the thread.
//!
//! A thread may pass edges of several kinds of spans. Each kind sees all of its segments: they may overlap, and each
//! kind's books close on their own.

mod best;
#[cfg(test)]
mod tests;

use self::best::Best;
use crate::event::{Backend, Edge, Meta, MmId, MmOpened, SpanEdge, SpanSums, Syscall, Why};
use crate::statement::{Report, Span, SpanEnd, SpanThread, Spans};
use crate::syscalls;
use crate::units::Amounts;
use memtrace_common::SPAN_TEXT;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Spans that are remembered by length, and by size.
const BEST: usize = 100;
/// Threads with sums of their own in the answer; of those that are over the ones with least time are folded.
const ROWS: usize = 1_000;
/// Threads whose edges are followed; what those beyond do is summed, and so many of them are told apart for each name.
const THREADS: usize = 16_384;
/// Kinds of spans that one thread may pass; edges of those beyond end a segment, and no more.
const KINDS: usize = 32;
/// Processes whose own words are remembered.
const BACKENDS: usize = 4_096;

/// All spans of a session.
#[derive(Debug)]
pub(super) struct Spanner {
    mms: BTreeMap<MmId, Mm>,
    /// Tid first: one that ends does not say in which mm it was.
    threads: BTreeMap<(u32, MmId), Thread>,
    backends: BTreeMap<u32, Said>,
    numbered: u64,
    open: u64,
    slowest: Best,
    largest: Best,
    /// Threads that are over.
    over: Vec<SpanThread>,
    folded: BTreeMap<String, SpanThread>,
    /// Of each row that is folded, the living threads in it that have none of their own.
    strangers: BTreeMap<String, BTreeSet<(u32, MmId)>>,
}

/// How an mm was when its books were opened.
#[derive(Debug)]
struct Mm {
    /// Its threads may have been in the middle of something.
    attached: bool,
    ts_ns: u64,
    counters: Amounts,
}

/// What a server's backend said last.
#[derive(Debug)]
struct Said {
    ts_ns: u64,
    /// It is idle: nothing is in progress.
    idle: bool,
    active: bool,
    query: Option<Vec<u8>>,
    /// When it began, nanoseconds since the Unix epoch.
    query_start_ns: Option<i64>,
}

#[derive(Debug, Default)]
struct Thread {
    pid: u32,
    /// Its beginning was seen, so that no span of it can be older.
    born: bool,
    /// All of its segments.
    total: SpanSums,
    /// Bytes mapped and unmapped since it was first seen.
    mapped: u64,
    unmapped: u64,
    rows: Vec<Row>,
}

/// One kind of span on one thread.
#[derive(Debug)]
struct Row {
    sums: SpanThread,
    current: Option<Current>,
}

/// A span in progress.
#[derive(Debug)]
struct Current {
    text: Option<Vec<u8>>,
    start_ns: u64,
    before: bool,
    earlier_ns: Option<u64>,
    opening: Amounts,
    /// The mm's counters when a segment ended last, when that was, and whether it was the thread's last word.
    told: Amounts,
    told_ns: u64,
    cut: bool,
    own: SpanSums,
    /// The thread's figures when it began.
    mapped: u64,
    unmapped: u64,
}

/// Of which session, and who is called what.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) meta: Option<&'a Meta>,
    pub(super) comms: &'a BTreeMap<u32, Vec<u8>>,
}

impl Default for Spanner {
    fn default() -> Self {
        Self {
            mms: BTreeMap::new(),
            threads: BTreeMap::new(),
            backends: BTreeMap::new(),
            numbered: 0,
            open: 0,
            slowest: Best::new(BEST),
            largest: Best::new(BEST),
            over: Vec::new(),
            folded: BTreeMap::new(),
            strangers: BTreeMap::new(),
        }
    }
}

impl Spanner {
    pub(super) fn open(&mut self, opened: &MmOpened) {
        let attached = matches!(opened.why, Why::Attach);
        let mm = Mm { attached, ts_ns: opened.ts_ns, counters: opened.counters };
        self.mms.entry(opened.mm).or_insert(mm);
    }

    /// The mm is torn down: what its threads were in the middle of is over.
    pub(super) fn close(&mut self, mm: MmId, ts_ns: u64, context: Context<'_>, out: &mut Vec<Report>) {
        if self.mms.remove(&mm).is_none() {
            return;
        }
        for strangers in self.strangers.values_mut() {
            strangers.retain(|key| key.1 != mm);
        }
        let threads: Vec<(u32, MmId)> = self.threads.keys().filter(|key| key.1 == mm).copied().collect();
        for key in threads {
            if let Some(thread) = self.threads.remove(&key) {
                self.forget(thread.pid);
                self.bury(key, thread, SpanEnd::Died, ts_ns, context, out);
            }
        }
    }

    pub(super) fn born(&mut self, tid: u32, mm: MmId) {
        if self.mms.contains_key(&mm)
            && let Some(thread) = self.thread((tid, mm))
        {
            thread.born = true;
        }
    }

    /// A thread ended.
    pub(super) fn exited(&mut self, tid: u32, ts_ns: u64, context: Context<'_>, out: &mut Vec<Report>) {
        let of_thread = (tid, MmId(0))..=(tid, MmId(u32::MAX));
        for strangers in self.strangers.values_mut() {
            strangers.extract_if(of_thread.clone(), |_| true).for_each(drop);
        }
        let keys: Vec<(u32, MmId)> = self.threads.range(of_thread).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(thread) = self.threads.remove(&key) {
                self.bury(key, thread, SpanEnd::Died, ts_ns, context, out);
            }
        }
    }

    /// The process is over: what it said is of no use to the next one with its number.
    pub(super) fn forget(&mut self, pid: u32) {
        self.backends.remove(&pid);
    }

    pub(super) fn backend(&mut self, backend: &Backend) {
        if !backend.refused.is_empty() {
            // It says nothing of itself; it may have ended.
            return self.forget(backend.pid);
        }
        if self.backends.len() >= BACKENDS && !self.backends.contains_key(&backend.pid) {
            return;
        }
        let is = |word: &str| backend.state.as_deref().is_some_and(|state| state.starts_with(word));
        let said = Said {
            ts_ns: backend.ts_ns,
            idle: is("idle"),
            active: is("active"),
            query: backend.query.as_deref().map(capped),
            query_start_ns: backend.query_start_ns,
        };
        self.backends.insert(backend.pid, said);
    }

    /// A mapping call returned; `brk` is where the heap ended before.
    pub(super) fn syscall(&mut self, call: &Syscall, page: u64, brk: u64) {
        if (-4095..0).contains(&call.ret) || !self.mms.contains_key(&call.mm) {
            return;
        }
        let pages = |bytes: u64| bytes.checked_next_multiple_of(page.max(1)).unwrap_or(bytes);
        let moved = |from: u64, to: u64| (to.saturating_sub(from), from.saturating_sub(to));
        let (mapped, unmapped) = match call.nr {
            syscalls::MMAP => (pages(call.args[1]), 0),
            syscalls::MUNMAP => (0, pages(call.args[1])),
            syscalls::MREMAP => moved(pages(call.args[1]), pages(call.args[2])),
            syscalls::BRK if brk != 0 => moved(pages(brk), pages(call.ret as u64)),
            _ => return,
        };
        if let Some(thread) = self.thread((call.tid, call.mm)) {
            thread.mapped = thread.mapped.saturating_add(mapped);
            thread.unmapped = thread.unmapped.saturating_add(unmapped);
        }
    }

    /// A thread passed an edge: the segment before it is added to what it was in, then the edge does what it does.
    pub(super) fn edge(&mut self, edge: &SpanEdge, context: Context<'_>, out: &mut Vec<Report>) {
        if !self.mms.contains_key(&edge.mm) {
            return;
        }
        let key = (edge.tid, edge.mm);
        let Some(thread) = self.thread(key) else {
            // Nothing is known of it but its sums.
            let row = self.folded(&edge.name);
            row.booked += edge.sums.delta;
            row.between.add(&edge.sums);
            let name = row.name.clone();
            let strangers = self.strangers.entry(name).or_default();
            if strangers.len() < THREADS && strangers.insert(key) {
                self.folded(&edge.name).folded += 1;
            }
            return;
        };
        thread.pid = edge.pid;
        thread.total.then(&edge.sums);
        for row in &mut thread.rows {
            row.segment(edge);
        }
        let at = match thread.rows.iter().position(|row| row.sums.name == edge.name) {
            Some(at) => at,
            None if edge.name.is_empty() || thread.rows.len() >= KINDS => return,
            None => {
                let current = self.older(edge, context.meta);
                let Some(thread) = self.threads.get_mut(&key) else { return };
                thread.rows.push(Row::new(edge, current, &thread.total));
                thread.rows.len() - 1
            }
        };
        let Some(thread) = self.threads.get_mut(&key) else { return };
        let figures = (thread.mapped, thread.unmapped);
        let Some(row) = thread.rows.get_mut(at) else { return };
        let over = match &edge.edge {
            Edge::Begin { text } => {
                let text = text.as_deref().map(capped);
                // The same text again is the same statement told twice; without a text each begin is one of its own.
                if text.is_some() && row.current.as_ref().is_some_and(|current| current.text == text) {
                    return;
                }
                row.current.replace(Current::new(edge, text, figures))
            }
            Edge::End => row.current.take(),
            // How far it has come. Whether it is over is told by the session's or the thread's end.
            Edge::Cut => return,
        };
        if let Some(over) = over {
            let span = row.finish(over, key, figures, (SpanEnd::Ended, edge.ts_ns), context);
            self.tell(span, out);
        }
    }

    /// The session's answer: what is in progress is told, then all of it.
    pub(super) fn end(&mut self, start_ns: u64, ts_ns: u64, context: Context<'_>, out: &mut Vec<Report>) -> Spans {
        for (key, thread) in std::mem::take(&mut self.threads) {
            self.bury(key, thread, SpanEnd::Open, ts_ns, context, out);
        }
        self.fold();
        let Self { numbered, open, slowest, largest, over, folded, .. } = std::mem::take(self);
        let mut by_thread = over;
        by_thread.sort_by(|one, two| (one.pid, one.tid, &one.name).cmp(&(two.pid, two.tid, &two.name)));
        by_thread.extend(folded.into_values());
        Spans {
            start_ns,
            ts_ns,
            count: numbered,
            open,
            slowest: slowest.into_spans(),
            largest: largest.into_spans(),
            by_thread,
        }
    }

    /// The thread, a new one if there is room.
    fn thread(&mut self, key: (u32, MmId)) -> Option<&mut Thread> {
        if self.threads.len() >= THREADS && !self.threads.contains_key(&key) {
            return None;
        }
        Some(self.threads.entry(key).or_default())
    }

    /// What a thread whose first edge this is was in the middle of when it came under observation: it ends something, or
    /// its server says that it is active.
    fn older(&self, edge: &SpanEdge, meta: Option<&Meta>) -> Option<Current> {
        let mm = self.mms.get(&edge.mm).filter(|mm| mm.attached)?;
        let thread = self.threads.get(&(edge.tid, edge.mm)).filter(|thread| !thread.born)?;
        // What is said of a process is its only thread's.
        let said = self.backends.get(&edge.pid).filter(|said| edge.pid == edge.tid && said.ts_ns <= edge.ts_ns);
        let in_progress = match edge.edge {
            Edge::Begin { .. } => false,
            Edge::End => said.is_none_or(|said| !said.idle),
            Edge::Cut => said.is_some_and(|said| said.active),
        };
        if !in_progress {
            return None;
        }
        let earlier_ns = said.and_then(|said| said.query_start_ns).zip(meta).and_then(|(began, meta)| {
            let since = i128::from(mm.ts_ns) - i128::from(meta.ts_ns);
            u64::try_from(i128::from(meta.wall_ns) + since - i128::from(began)).ok()
        });
        Some(Current {
            text: said.and_then(|said| said.query.clone()),
            start_ns: mm.ts_ns,
            before: true,
            earlier_ns,
            opening: mm.counters,
            told: edge.counters,
            told_ns: edge.ts_ns,
            cut: edge.edge == Edge::Cut,
            own: thread.total.clone(),
            mapped: 0,
            unmapped: 0,
        })
    }

    /// A thread is over, or the session is.
    fn bury(
        &mut self,
        key: (u32, MmId),
        thread: Thread,
        end: SpanEnd,
        ts_ns: u64,
        context: Context<'_>,
        out: &mut Vec<Report>,
    ) {
        let figures = (thread.mapped, thread.unmapped);
        for mut row in thread.rows {
            if let Some(current) = row.current.take() {
                let span = row.finish(current, key, figures, (end, ts_ns), context);
                self.tell(span, out);
            }
            row.sums.comm = comm(key.0, context);
            row.sums.booked = thread.total.delta;
            self.over.push(row.sums);
        }
        // Sorting all for each of thousands of short processes would cost more than watching them.
        if self.over.len() >= 3 * ROWS {
            self.fold();
        }
    }

    fn tell(&mut self, mut span: Span, out: &mut Vec<Report>) {
        self.numbered += 1;
        self.open += u64::from(span.end == SpanEnd::Open);
        span.number = self.numbered;
        let span = Arc::new(span);
        self.slowest.offer(span.whole_ns(), &span);
        self.largest.offer(span.weight().max(0).unsigned_abs(), &span);
        out.push(Report::Span(span));
    }

    /// Leaves [`ROWS`] rows of threads that are over, and one a kind for the others.
    fn fold(&mut self) {
        if self.over.len() <= ROWS {
            return;
        }
        // The sort is stable: among equals those that ended first stay.
        self.over.sort_by_key(|row| std::cmp::Reverse((row.ns, row.count)));
        for row in self.over.split_off(ROWS) {
            self.folded(&row.name).absorb(&row);
        }
    }

    /// The row for threads of this kind that have none of their own.
    fn folded(&mut self, name: &str) -> &mut SpanThread {
        // Any trace may name any number of kinds.
        let name = if self.folded.len() >= KINDS && !self.folded.contains_key(name) { "" } else { name };
        let fresh = || SpanThread { name: name.to_owned(), ..SpanThread::default() };
        self.folded.entry(name.to_owned()).or_insert_with(fresh)
    }
}

impl Row {
    /// A thread's first edge of a kind; `total` is what it did until then.
    fn new(edge: &SpanEdge, current: Option<Current>, total: &SpanSums) -> Self {
        let between = if current.is_some() { SpanSums::default() } else { total.clone() };
        let sums =
            SpanThread { name: edge.name.clone(), pid: edge.pid, tid: edge.tid, between, ..SpanThread::default() };
        Self { sums, current }
    }

    fn segment(&mut self, edge: &SpanEdge) {
        match &mut self.current {
            Some(current) => {
                current.own.then(&edge.sums);
                current.told = edge.counters;
                current.told_ns = edge.ts_ns;
                current.cut = edge.edge == Edge::Cut;
            }
            None => self.sums.between.add(&edge.sums),
        }
    }

    fn finish(
        &mut self,
        current: Current,
        (tid, mm): (u32, MmId),
        (mapped, unmapped): (u64, u64),
        (end, ts_ns): (SpanEnd, u64),
        context: Context<'_>,
    ) -> Span {
        // The end of a session or a thread comes a moment after its last word, which may also be told too late.
        let ts_ns = if current.cut { current.told_ns } else { ts_ns.max(current.told_ns) };
        let span = Span {
            number: 0,
            name: self.sums.name.clone(),
            mm,
            pid: self.sums.pid,
            tid,
            comm: comm(tid, context),
            text: current.text,
            start_ns: current.start_ns,
            ts_ns,
            told_ns: current.told_ns,
            before: current.before,
            earlier_ns: current.earlier_ns,
            end,
            opening: current.opening,
            closing: current.told,
            own: current.own,
            mapped: mapped.saturating_sub(current.mapped),
            unmapped: unmapped.saturating_sub(current.unmapped),
        };
        self.sums.count = self.sums.count.saturating_add(1);
        self.sums.ns = self.sums.ns.saturating_add(span.duration_ns());
        self.sums.within.add(&span.own);
        span
    }
}

impl Current {
    fn new(edge: &SpanEdge, text: Option<Vec<u8>>, (mapped, unmapped): (u64, u64)) -> Self {
        Self {
            text,
            start_ns: edge.ts_ns,
            before: false,
            earlier_ns: None,
            opening: edge.counters,
            told: edge.counters,
            told_ns: edge.ts_ns,
            cut: false,
            own: SpanSums::default(),
            mapped,
            unmapped,
        }
    }
}

fn comm(tid: u32, context: Context<'_>) -> Vec<u8> {
    context.comms.get(&tid).cloned().unwrap_or_default()
}

fn capped(text: &[u8]) -> Vec<u8> {
    text[..text.len().min(SPAN_TEXT)].to_vec()
}
