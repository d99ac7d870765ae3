//! What is said of small, readable sequences of edges.

use super::*;
use crate::event::{End, EndReason, Event, MmClosed, Task, TaskWhat};
use crate::model::Model;
use memtrace_common::Cause;

const PAGE: u64 = 4096;

struct Session {
    model: Model,
    out: Vec<Report>,
    now: u64,
    /// The mm's counters, by what edges bring and what others do.
    counters: Amounts,
}

const fn anon(pages: i64) -> Amounts {
    Amounts { anon: pages, file: 0, shmem: 0, swap: 0 }
}

impl Session {
    fn begun(why: Why) -> Self {
        let meta = Meta { pid: 7, ts_ns: 1_000, wall_ns: 5_000_000, ..crate::views::sample::meta() };
        let mut session = Self { model: Model::new(), out: Vec::new(), now: 2_000, counters: anon(100) };
        session.apply(Event::Meta(meta));
        session.apply(Event::MmOpened(MmOpened {
            mm: MmId(0),
            ts_ns: 2_000,
            pid: 7,
            comm: b"postgres".to_vec(),
            why,
            counters: anon(100),
            virt: 0,
            start_brk: 64 * PAGE,
            brk: 64 * PAGE,
            start_stack: 0,
        }));
        session
    }

    fn apply(&mut self, event: Event) {
        self.model.apply(&event, &mut self.out);
    }

    /// An edge 100 ns later, before which the thread took so many pages, and no more than `peak` at once.
    fn edge(&mut self, edge: Edge, took: i64, peak: i64) {
        self.edge_of("postgresql", edge, took, peak);
    }

    fn edge_of(&mut self, name: &str, edge: Edge, took: i64, peak: i64) {
        self.now += 100;
        self.counters += anon(took);
        let sums = SpanSums { delta: anon(took), peak, faults: peak, ..SpanSums::default() };
        self.apply(Event::Span(Box::new(SpanEdge {
            mm: MmId(0),
            ts_ns: self.now,
            pid: 7,
            tid: 7,
            name: name.into(),
            edge,
            counters: self.counters,
            sums,
        })));
    }

    fn says(&mut self, state: &str, query: &str, start_ns: Option<i64>) {
        self.apply(Event::Backend(Box::new(Backend {
            ts_ns: self.now,
            pid: 7,
            server: "postgresql".into(),
            version: Some(15),
            state: Some(state.into()),
            query: Some(query.into()),
            query_start_ns: start_ns,
            ..Backend::default()
        })));
    }

    fn call(&mut self, nr: u32, args: [u64; 6], ret: i64) {
        let (mm, ts_ns) = (MmId(0), self.now);
        self.apply(Event::Syscall(Syscall { mm, ts_ns, pid: 7, tid: 7, nr, args, ret, ip: 0, stack: None }));
    }

    fn spans(&self) -> Vec<&Span> {
        let spans = self.out.iter().filter_map(|report| match report {
            Report::Span(span) => Some(&**span),
            _ => None,
        });
        spans.collect()
    }

    fn end(&mut self) -> Spans {
        self.apply(Event::End(End::new(self.now + 100, EndReason::Duration)));
        let spans = self.out.iter().find_map(|report| match report {
            Report::Spans(spans) => Some((**spans).clone()),
            _ => None,
        });
        spans.expect("told at the end")
    }
}

fn begin(text: &str) -> Edge {
    Edge::Begin { text: Some(text.into()) }
}

#[test]
fn a_statement_and_the_time_around_it() {
    let mut session = Session::begun(Why::Attach);
    session.edge(begin("select 1"), 3, 3);
    session.counters += anon(-2);
    session.edge(Edge::End, 10, 40);
    session.edge(Edge::Cut, 1, 1);
    let spans = session.spans();
    let [span] = spans[..] else { panic!("one: {spans:?}") };
    assert_eq!((span.number, span.start_ns, span.ts_ns, span.end), (1, 2_100, 2_200, SpanEnd::Ended));
    assert_eq!((span.opening, span.closing, span.own.delta, span.others()), (anon(103), anon(111), anon(10), anon(-2)));
    assert_eq!(span.peak(), (111, false), "others moved, too: at least that");
    assert_eq!(span.comm, b"postgres");
    let all = session.end();
    let [row] = &all.by_thread[..] else { panic!("one: {all:?}") };
    assert_eq!((row.count, row.ns, row.within.delta, row.between.delta), (1, 100, anon(10), anon(4)));
    assert!(row.closes() && row.booked == anon(14));
}

#[test]
fn parse_bind_and_execute_are_one_statement() {
    let mut session = Session::begun(Why::Attach);
    session.edge(begin("select $1"), 0, 0);
    session.edge(begin("select $1"), 5, 8);
    session.edge(begin("select $1"), 5, 6);
    session.edge(begin("select 2"), 1, 1);
    session.edge(Edge::End, 2, 2);
    session.edge(Edge::End, 4, 4);
    let spans = session.spans();
    let told: Vec<_> = spans.iter().map(|span| (span.text.as_deref(), span.own.delta.anon, span.own.peak)).collect();
    assert_eq!(told, [(Some(&b"select $1"[..]), 11, 11), (Some(&b"select 2"[..]), 2, 2)]);
    assert_eq!(spans[0].duration_ns(), 300);
    assert_eq!(spans[0].peak(), (111, true), "alone, exactly");
}

#[test]
fn begins_without_a_text_are_one_span_each() {
    let mut session = Session::begun(Why::Attach);
    for took in [0, 3, 5] {
        session.edge_of("x", Edge::Begin { text: None }, took, took);
    }
    let told: Vec<_> = session.spans().iter().map(|span| (span.end, span.own.delta.anon)).collect();
    assert_eq!(told, [(SpanEnd::Ended, 3), (SpanEnd::Ended, 5)]);
}

#[test]
fn what_began_before_has_the_text_that_the_server_gave() {
    let mut session = Session::begun(Why::Attach);
    // 1,000 ns of wall time after the session's begin is the attach.
    session.says("active", "update t", Some(5_000_000 - 500));
    session.edge(Edge::End, 7, 9);
    let spans = session.spans();
    let [span] = spans[..] else { panic!("one: {spans:?}") };
    assert!(span.before);
    assert_eq!(span.text.as_deref(), Some(&b"update t"[..]));
    assert_eq!(
        (span.start_ns, span.earlier_ns),
        (2_000, Some(1_500)),
        "500 ns before the begin, which was 1,000 before"
    );
    assert_eq!((span.opening, span.closing), (anon(100), anon(107)));
    assert_eq!(session.end().by_thread[0].between, SpanSums::default());
}

#[test]
fn what_cannot_have_begun_before_did_not() {
    for (why, idle, born) in
        [(Why::Fork { parent: 1 }, false, false), (Why::Attach, true, false), (Why::Attach, false, true)]
    {
        let mut session = Session::begun(why);
        if idle {
            session.says("idle", "the last one", None);
        }
        if born {
            let what = TaskWhat::ThreadStarted { child: 7 };
            let task = Task { mm: Some(MmId(0)), ts_ns: 2_010, pid: 7, tid: 1, what, comm: b"x".to_vec() };
            session.apply(Event::Task(task));
        }
        session.edge(Edge::End, 7, 9);
        assert!(session.spans().is_empty(), "{why:?} {idle} {born}");
        assert_eq!(session.end().by_thread[0].between.delta, anon(7));
    }
}

#[test]
fn what_is_in_progress_at_the_end_is_open() {
    let mut session = Session::begun(Why::Attach);
    session.edge(begin("select 1"), 1, 1);
    session.edge(Edge::Cut, 6, 6);
    let all = session.end();
    let spans = session.spans();
    let [span] = spans[..] else { panic!("one: {spans:?}") };
    assert_eq!((span.end, span.own.delta, span.told_ns, span.ts_ns), (SpanEnd::Open, anon(6), 2_200, 2_200));
    assert_eq!((all.count, all.open), (1, 1));

    // Never an edge but the last: its server says that it is busy.
    let mut session = Session::begun(Why::Attach);
    session.says("active", "vacuum", None);
    session.edge(Edge::Cut, 6, 6);
    session.end();
    let spans = session.spans();
    let [span] = spans[..] else { panic!("one: {spans:?}") };
    assert!(span.before && span.end == SpanEnd::Open && span.own.delta == anon(6));
}

#[test]
fn the_end_of_an_mm_or_of_a_thread_ends_its_spans() {
    let closed = Event::MmClosed(MmClosed { mm: MmId(0), ts_ns: 3_000, counters: Amounts::ZERO });
    let exited = |what| Task { mm: None, ts_ns: 3_000, pid: 7, tid: 7, what, comm: b"x".to_vec() };
    let ends = [TaskWhat::ThreadExited, TaskWhat::ProcessExited { code: 9 }].map(|what| Event::Task(exited(what)));
    for end in ends.into_iter().chain([closed]) {
        let mut session = Session::begun(Why::Attach);
        session.edge(begin("select 1"), 1, 1);
        session.edge(Edge::Cut, 5, 5);
        session.apply(end);
        let spans = session.spans();
        let [span] = spans[..] else { panic!("one: {spans:?}") };
        assert_eq!((span.end, span.ts_ns, span.told_ns, span.own.delta), (SpanEnd::Died, 2_200, 2_200, anon(5)));
        let all = session.end();
        assert!(all.by_thread[0].closes() && all.open == 0);
    }
}

#[test]
fn without_a_last_word_the_amounts_are_older_than_the_end() {
    let mut session = Session::begun(Why::Attach);
    session.edge(begin("select 1"), 1, 1);
    session.end();
    let span = session.spans()[0];
    assert_eq!((span.end, span.ts_ns, span.told_ns), (SpanEnd::Open, 2_200, 2_100));
    assert_eq!((span.opening, span.closing, span.own.delta), (anon(101), anon(101), anon(0)));
}

#[test]
fn the_slowest_fault_stands_for_itself() {
    let sums = |faults, latency_samples, latency_sum_ns, latency_max_ns| SpanSums {
        faults,
        latency_samples,
        latency_sum_ns,
        latency_max_ns,
        ..SpanSums::default()
    };
    let even = sums(160, 10, 20_000, 2_000);
    assert_eq!(even.estimated_fault_ns(), Some(320_000));
    let one_from_disk = sums(160, 10, 18_000 + 5_000_000, 5_000_000);
    assert_eq!(one_from_disk.estimated_fault_ns(), Some(318_000 + 5_000_000));
    assert_eq!(sums(16, 1, 2_000, 2_000).estimated_fault_ns(), Some(32_000));
    assert_eq!(sums(160, 9, 18_000, 5_000_000).estimated_fault_ns(), Some(320_000), "taken back");
    for nothing in [sums(5, 0, 0, 0), sums(5, u64::MAX, 1, 1), sums(5, 1, u64::MAX, 1)] {
        assert_eq!(nothing.estimated_fault_ns(), None);
    }
}

#[test]
fn kinds_may_overlap() {
    let mut session = Session::begun(Why::Attach);
    session.edge_of("a", Edge::Begin { text: None }, 1, 1);
    session.edge_of("b", Edge::Begin { text: None }, 2, 2);
    session.edge_of("a", Edge::End, 4, 4);
    session.edge_of("b", Edge::End, 8, 8);
    let all = session.end();
    let sums: Vec<_> =
        all.by_thread.iter().map(|row| (&*row.name, row.within.delta.anon, row.between.delta.anon)).collect();
    assert_eq!(sums, [("a", 6, 9), ("b", 12, 3)]);
    assert!(all.by_thread.iter().all(|row| row.booked == anon(15)));
}

#[test]
fn calls_that_map_within_a_span_are_counted() {
    let mut session = Session::begun(Why::Attach);
    session.call(syscalls::MMAP, [0, 1 << 20, 0, 0, 0, 0], 0x7000_0000);
    session.edge(begin("q"), 0, 0);
    session.call(syscalls::MMAP, [0, 5_000, 3, 0x22, 0, 0], 0x7100_0000);
    session.call(syscalls::MMAP, [0, 1 << 30, 3, 0x22, 0, 0], -12);
    session.call(syscalls::MUNMAP, [0x7100_0000, PAGE, 0, 0, 0, 0], 0);
    session.call(syscalls::MREMAP, [0x7100_1000, PAGE, 3 * PAGE, 1, 0, 0], 0x7200_0000);
    session.call(syscalls::BRK, [70 * PAGE, 0, 0, 0, 0, 0], 70 * PAGE as i64);
    session.call(syscalls::BRK, [66 * PAGE, 0, 0, 0, 0, 0], 66 * PAGE as i64);
    session.edge(Edge::End, 0, 0);
    let span = session.spans()[0];
    assert_eq!((span.mapped / PAGE, span.unmapped / PAGE), (2 + 2 + 6, 1 + 4));
}

#[test]
fn of_millions_the_best_are_kept() {
    let mut session = Session::begun(Why::Attach);
    for nth in 0..1_000 {
        session.edge(begin(&nth.to_string()), 0, 0);
        session.now += nth;
        session.edge(Edge::End, 0, (nth as i64 * 7) % 1_000);
        session.out.clear();
    }
    let all = session.end();
    assert_eq!((all.count, all.slowest.len(), all.largest.len()), (1_000, BEST, BEST));
    assert_eq!(all.slowest.iter().map(|span| span.number).collect::<Vec<_>>(), (901..=1_000).rev().collect::<Vec<_>>());
    assert!(all.largest.iter().map(|span| span.own.peak).eq((900..1_000).rev()));
}

#[test]
fn short_lived_threads_are_folded() {
    let mut spanner = Spanner::default();
    let (comms, mut out) = (BTreeMap::new(), Vec::new());
    let context = Context { meta: None, comms: &comms };
    for number in 0..4_000_u32 {
        let mm = MmId(number);
        let (why, ts_ns, counters) = (Why::Fork { parent: 1 }, 0, anon(0));
        let (virt, start_brk, brk, start_stack) = (0, 0, 0, 0);
        let comm = Vec::new();
        spanner.open(&MmOpened { mm, ts_ns, pid: number, comm, why, counters, virt, start_brk, brk, start_stack });
        let edge = |edge, ts_ns| SpanEdge {
            mm,
            ts_ns,
            pid: number,
            tid: number,
            name: "postgresql".into(),
            edge,
            counters: anon(1),
            sums: SpanSums {
                delta: anon(1),
                causes: vec![crate::event::CausePages { cause: Cause::FaultAnon, pages: 1 }],
                ..SpanSums::default()
            },
        };
        spanner.edge(&edge(begin("q"), 0), context, &mut out);
        spanner.edge(&edge(Edge::End, u64::from(number)), context, &mut out);
        spanner.close(mm, 9_000, context, &mut out);
        out.clear();
    }
    assert!(spanner.over.len() < 3 * ROWS && spanner.threads.is_empty() && spanner.mms.is_empty());
    let all = spanner.end(0, 10_000, context, &mut out);
    assert_eq!(all.by_thread.len(), ROWS + 1);
    let last = &all.by_thread[ROWS];
    assert_eq!((last.folded, last.count, last.within.pages(Cause::FaultAnon)), (3_000, 3_000, 3_000));
    assert!(last.closes());
    assert_eq!(all.by_thread[0].pid, 3_000, "those with most time stay");
}

#[test]
fn threads_without_room_are_counted() {
    let mut spanner = Spanner::default();
    let (comms, mut out) = (BTreeMap::new(), Vec::new());
    let context = Context { meta: None, comms: &comms };
    spanner.mms.insert(MmId(1), Mm { attached: false, ts_ns: 0, counters: anon(0) });
    let edge = |tid| SpanEdge {
        mm: MmId(1),
        ts_ns: 1,
        pid: 1,
        tid,
        name: "request".into(),
        edge: begin("q"),
        counters: anon(0),
        sums: SpanSums { delta: anon(1), ..SpanSums::default() },
    };
    let most = THREADS as u32;
    for tid in (0..most + 500).chain(most..most + 500) {
        spanner.edge(&edge(tid), context, &mut out);
    }
    // One ends, and another one has its number.
    spanner.exited(most + 7, 2, context, &mut out);
    spanner.edge(&edge(most + 7), context, &mut out);
    let all = spanner.end(0, 10, context, &mut out);
    let last = all.by_thread.last().expect("a row for those without room");
    let of_threads = all.by_thread.iter().filter(|row| row.folded == 0).count() as u64;
    assert_eq!((last.folded + of_threads, last.booked.anon), (u64::from(most) + 501, last.between.delta.anon));
}
