//! Spans over any stream of events: nothing panics, each span's books close, and what is told of a thread within spans and
//! between them is what its edges brought.

use memtrace::event::{
    Backend, CausePages, Edge, End, EndReason, Event, Meta, MmClosed, MmId, MmOpened, Mode, SpanEdge, SpanSums,
    Syscall, Task, TaskWhat, Why,
};
use memtrace::model::Model;
use memtrace::statement::{Report, Span, SpanEnd, Spans};
use memtrace::syscalls;
use memtrace::units::Amounts;
use memtrace::views::{JsonView, TextOptions, TextView, View};
use memtrace_common::Cause;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn amounts() -> impl Strategy<Value = Amounts> {
    let pages = || prop_oneof![20 => -100..1000_i64, 1 => any::<i64>()];
    (pages(), pages(), pages(), pages()).prop_map(|(anon, file, shmem, swap)| Amounts { anon, file, shmem, swap })
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![20 => 0..2000_u64, 1 => any::<u64>()]
}

fn sums() -> impl Strategy<Value = SpanSums> {
    let cause = (prop::sample::select(Cause::ALL), -50..50_i64).prop_map(|(cause, pages)| CausePages { cause, pages });
    let counts = (any::<i64>(), -3..40_i64, -3..4_i64, number(), number(), number());
    (amounts(), counts, prop::collection::vec(cause, 0..4)).prop_map(|(delta, counts, causes)| {
        let (peak, faults, major, latency_sum_ns, latency_max_ns, latency_samples) = counts;
        SpanSums { delta, peak, faults, major, latency_sum_ns, latency_max_ns, latency_samples, causes }
    })
}

fn text() -> impl Strategy<Value = Option<Vec<u8>>> {
    let texts: Vec<Option<Vec<u8>>> = vec![
        None,
        Some(Vec::new()),
        Some(b"select 1".to_vec()),
        Some(b"\xff\x1b[2J\n\n\xe2\x80\xae".to_vec()),
        Some(vec![b'x'; 5_000]),
    ];
    prop::sample::select(texts)
}

fn edge() -> impl Strategy<Value = Event> {
    let what = prop_oneof![
        4 => text().prop_map(|text| Edge::Begin { text }),
        4 => Just(Edge::End),
        1 => Just(Edge::Cut),
    ];
    let name = prop::sample::select(vec!["postgresql", "request", "\x1b]0;x\x07", ""]);
    (0..3_u32, number(), 0..2_u32, 0..4_u32, name, what, amounts(), sums()).prop_map(
        |(mm, ts_ns, pid, tid, name, edge, counters, sums)| {
            let name = name.to_owned();
            Event::Span(Box::new(SpanEdge { mm: MmId(mm), ts_ns, pid, tid, name, edge, counters, sums }))
        },
    )
}

fn opened() -> impl Strategy<Value = Event> {
    let why = prop_oneof![Just(Why::Attach), Just(Why::Fork { parent: 0 }), Just(Why::Exec { left: None })];
    (0..3_u32, number(), 0..4_u32, why, amounts(), number()).prop_map(|(mm, ts_ns, pid, why, counters, brk)| {
        let (virt, start_brk, start_stack) = (brk, brk, brk);
        let comm = vec![0xff, b'x'];
        Event::MmOpened(MmOpened { mm: MmId(mm), ts_ns, pid, comm, why, counters, virt, start_brk, brk, start_stack })
    })
}

fn task() -> impl Strategy<Value = Event> {
    let what = prop_oneof![
        (0..4_u32).prop_map(|child| TaskWhat::ThreadStarted { child }),
        Just(TaskWhat::ThreadExited),
        Just(TaskWhat::ProcessExited { code: 0 }),
    ];
    (prop::option::of((0..3_u32).prop_map(MmId)), number(), 0..4_u32, what)
        .prop_map(|(mm, ts_ns, tid, what)| Event::Task(Task { mm, ts_ns, pid: tid, tid, what, comm: b"c".to_vec() }))
}

fn backend() -> impl Strategy<Value = Event> {
    let state = prop::sample::select(vec![None, Some("active"), Some("idle"), Some("idle in transaction")]);
    (number(), 0..4_u32, state, text(), prop::option::of(any::<i64>())).prop_map(|(ts_ns, pid, state, query, start)| {
        Event::Backend(Box::new(Backend {
            ts_ns,
            pid,
            server: "postgresql".into(),
            state: state.map(str::to_owned),
            query,
            query_start_ns: start,
            ..Backend::default()
        }))
    })
}

fn syscall() -> impl Strategy<Value = Event> {
    let nr = prop::sample::select(vec![syscalls::MMAP, syscalls::MUNMAP, syscalls::MREMAP, syscalls::BRK]);
    (0..3_u32, 0..4_u32, nr, [number(), number(), number(), number(), number(), number()], number()).prop_map(
        |(mm, tid, nr, args, ret)| {
            let (ts_ns, pid, ip) = (0, 0, 0);
            Event::Syscall(Syscall { mm: MmId(mm), ts_ns, pid, tid, nr, args, ret: ret as i64, ip, stack: None })
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => opened(),
        1 => (0..3_u32, number()).prop_map(|(mm, ts_ns)| {
            Event::MmClosed(MmClosed { mm: MmId(mm), ts_ns, counters: Amounts::ZERO })
        }),
        1 => task(),
        1 => backend(),
        2 => syscall(),
        20 => edge(),
    ]
}

fn meta() -> Event {
    Event::Meta(Meta {
        version: "0".into(),
        pid: 1,
        comm: b"target".to_vec(),
        exe: b"/bin/program".to_vec(),
        cmdline: Vec::new(),
        kernel: String::new(),
        page_size: 4096,
        mode: Mode::Exact,
        mode_reason: String::new(),
        interval_ns: 1,
        ts_ns: 0,
        wall_ns: 0,
        spawned: false,
        follow: true,
    })
}

/// What the spans of a session came to.
struct Told {
    spans: Vec<Span>,
    all: Spans,
}

fn told(events: &[Event]) -> (Told, Vec<Report>) {
    let (mut model, mut reports) = (Model::new(), Vec::new());
    model.apply(&meta(), &mut reports);
    for event in events {
        model.apply(event, &mut reports);
    }
    model.apply(&Event::End(End::new(5000, EndReason::Interrupted)), &mut reports);
    let spans = reports.iter().filter_map(|report| match report {
        Report::Span(span) => Some((**span).clone()),
        _ => None,
    });
    let all = reports.iter().find_map(|report| match report {
        Report::Spans(spans) => Some((**spans).clone()),
        _ => None,
    });
    (Told { spans: spans.collect(), all: all.expect("told once, at the end") }, reports)
}

/// What all may be added up of.
fn sum<'a>(of: impl Iterator<Item = &'a SpanSums>) -> SpanSums {
    let mut sum = SpanSums::default();
    of.for_each(|more| sum.add(more));
    SpanSums { peak: 0, ..sum }
}

proptest! {
    #[test]
    fn anything_may_be_said(events in prop::collection::vec(event(), 0..80)) {
        let (Told { spans, all }, reports) = told(&events);
        for (number, span) in spans.iter().enumerate() {
            prop_assert_eq!(span.number, number as u64 + 1);
            prop_assert_eq!(span.closing - span.opening, span.own.delta + span.others());
            prop_assert!(span.told_ns <= span.ts_ns);
            prop_assert_eq!(span.earlier_ns.is_some() && !span.before, false);
            let (peak, exact) = span.peak();
            prop_assert!(peak >= span.closing.res().max(span.opening.res()));
            prop_assert_eq!(exact, span.others().is_zero());
        }
        prop_assert_eq!(all.count, spans.len() as u64);
        prop_assert_eq!(all.open, spans.iter().filter(|span| span.end == SpanEnd::Open).count() as u64);
        prop_assert!(all.slowest.is_sorted_by_key(|span| std::cmp::Reverse(span.whole_ns())));
        prop_assert!(all.largest.is_sorted_by_key(|span| std::cmp::Reverse(span.weight())));
        prop_assert_eq!(all.slowest.len(), spans.len().min(100));
        for row in &all.by_thread {
            prop_assert!(row.closes());
        }
        // Per kind: the spans that were told are what is within.
        for row in &all.by_thread {
            let of_row = || spans.iter().filter(|span| (&span.name, span.pid, span.tid) == (&row.name, row.pid, row.tid));
            let rows = all.by_thread.iter().filter(|other| (&other.name, other.pid, other.tid) == (&row.name, row.pid, row.tid));
            let within = rows.map(|row| &row.within);
            prop_assert_eq!(sum(within), sum(of_row().map(|span| &span.own)));
        }
        // The views print it.
        let mut text = TextView::new(std::io::sink(), TextOptions { verbose: true, ..TextOptions::default() });
        let mut json = JsonView::new(std::io::sink());
        for report in &reports {
            prop_assert!(text.render(report).is_ok() && json.render(report).is_ok());
        }
    }

    /// Σ within + Σ between over a thread = Σ sums of all its edges, for each kind of span that it passed an edge of.
    #[test]
    fn nothing_that_was_booked_is_left_out(
        attached in any::<bool>(),
        counters in amounts(),
        edges in prop::collection::vec(edge(), 0..60),
    ) {
        let opened = |mm| {
            let why = if attached { Why::Attach } else { Why::Fork { parent: 0 } };
            let (ts_ns, pid, comm) = (0, 1, b"x".to_vec());
            let (virt, start_brk, brk, start_stack) = (0, 0, 0, 0);
            Event::MmOpened(MmOpened { mm: MmId(mm), ts_ns, pid, comm, why, counters, virt, start_brk, brk, start_stack })
        };
        let events: Vec<Event> = (0..3).map(opened).chain(edges.iter().cloned()).collect();
        let mut booked: BTreeMap<(MmId, u32), Vec<&SpanSums>> = BTreeMap::new();
        let mut kinds: BTreeMap<&str, Vec<(MmId, u32)>> = BTreeMap::new();
        for edge in &edges {
            let Event::Span(edge) = edge else { continue };
            booked.entry((edge.mm, edge.tid)).or_default().push(&edge.sums);
            let threads = kinds.entry(&edge.name).or_default();
            if !edge.name.is_empty() && !threads.contains(&(edge.mm, edge.tid)) {
                threads.push((edge.mm, edge.tid));
            }
        }
        let (Told { all, .. }, _) = told(&events);
        for (name, threads) in kinds {
            let rows = || all.by_thread.iter().filter(|row| row.name == name);
            prop_assert_eq!(rows().count(), threads.len());
            let expected = sum(threads.iter().flat_map(|key| booked[key].iter().copied()));
            prop_assert_eq!(sum(rows().flat_map(|row| [&row.within, &row.between])), expected.clone());
            prop_assert_eq!(rows().map(|row| row.booked).sum::<Amounts>(), expected.delta);
        }
    }
}
