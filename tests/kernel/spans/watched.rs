//! A session inside this process: its events, and the law of spans held against its ledger.

use anyhow::{Context, Result, anyhow, ensure};
use memtrace::cli::{SpanOptions, SpanPoint, Target as Watched, TraceOptions};
use memtrace::event::{Edge, Event, MmId, SpanEdge};
use memtrace::live::{Outcome, Stop, watch};
use memtrace::units::Amounts;
use memtrace_common::Cause;
use memtrace_tests::tool::{PATIENCE, workload_binary};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// A session that goes on.
pub struct Session {
    stop: Stop,
    events: Receiver<Vec<Event>>,
    opening: Vec<Event>,
    thread: JoinHandle<Result<Outcome>>,
}

/// Statements of database servers.
pub fn statements() -> SpanOptions {
    SpanOptions { statements: true, named: Vec::new() }
}

/// A span of the workload.
pub fn named(name: &str, begin: &str, end: Option<&str>) -> SpanOptions {
    let end = end.map(str::to_owned);
    let point = SpanPoint { name: name.to_owned(), path: workload_binary(), begin: begin.to_owned(), end };
    SpanOptions { statements: false, named: vec![point] }
}

impl Session {
    /// Watches a process; armed when this returns.
    pub fn start(pid: u32, spans: SpanOptions, follow: bool) -> Result<Self> {
        let options = TraceOptions {
            interval: Duration::from_millis(100),
            duration: None,
            follow,
            smaps_interval: None,
            max_snapshot: Duration::ZERO,
            bpf_stats: false,
            no_bpf: false,
            stacks: false,
            time: false,
            may_time: false,
            spans,
            pg: None,
            verbose: 0,
        };
        let stop = Stop::default();
        let (sender, events) = channel();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            watch(&Watched::Pid(pid), &options, &stopped, &mut |events| {
                let _ = sender.send(events.to_vec());
                Ok(())
            })
        });
        match events.recv_timeout(PATIENCE) {
            Ok(opening) => Ok(Self { stop, events, opening, thread }),
            Err(_) => {
                drop(events);
                let outcome = thread.join().map_err(|_| anyhow!("the session panicked"))?;
                Err(outcome.err().unwrap_or_else(|| anyhow!("the session said nothing")))
            }
        }
    }

    /// Ends it: all that it said.
    pub fn finish(self) -> Result<Told> {
        self.stop.stop();
        self.told()
    }

    /// Ends it after some intervals, whatever the target does.
    pub fn finish_after_ticks(mut self, ticks: usize) -> Result<Told> {
        for _ in 0..ticks {
            self.opening.append(&mut self.events.recv_timeout(PATIENCE).context("no interval ends")?);
        }
        self.finish()
    }

    /// Ends it; what it said may have holes.
    pub fn finish_lossy(self) -> Result<()> {
        self.stop.stop();
        self.events.iter().for_each(drop);
        self.thread.join().map_err(|_| anyhow!("the session panicked"))?.map(drop)
    }

    /// Waits for its end: all that it said.
    pub fn told(self) -> Result<Told> {
        let mut events = self.opening;
        events.extend(self.events.iter().flatten());
        self.thread.join().map_err(|_| anyhow!("the session panicked"))??;
        let told = Told { events };
        told.assert_law()?;
        Ok(told)
    }
}

/// All that a session said.
pub struct Told {
    pub events: Vec<Event>,
}

/// What is summed for a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sums {
    delta: Amounts,
    faults: i64,
    major: i64,
    latency: (u64, u64),
    causes: BTreeMap<Cause, i64>,
}

/// A span from its begin to its end, as the edges have it: what a reader of events makes of them.
#[derive(Clone, Debug, Default)]
pub struct Statement {
    pub text: String,
    pub pid: u32,
    pub tid: u32,
    pub opening: Amounts,
    pub closing: Amounts,
    pub delta: Amounts,
    pub faults: i64,
    pub peak: i64,
    pub causes: BTreeMap<Cause, i64>,
}

impl Told {
    pub fn edges(&self) -> impl Iterator<Item = &SpanEdge> {
        self.events.iter().filter_map(|event| match event {
            Event::Span(span) => Some(&**span),
            _ => None,
        })
    }

    /// Edges of a thread.
    pub fn of(&self, tid: u32) -> Vec<&SpanEdge> {
        self.edges().filter(|edge| edge.tid == tid).collect()
    }

    /// The sums of all edges of a thread are what the ledger has booked for it, to the page, by class and by cause. What is
    /// taken down at a program's end is nobody's, and so is what a thread does to another mm.
    fn assert_law(&self) -> Result<()> {
        let lost = self.events.iter().rev().find_map(|event| match event {
            Event::Tick(tick) => Some(tick.lost),
            _ => None,
        });
        let lost = lost.context("no tick")?;
        ensure!(lost.total() == 0, "{lost:?}");
        let mut edges: BTreeMap<(MmId, u32), Sums> = BTreeMap::new();
        for edge in self.edges() {
            let sums = edges.entry((edge.mm, edge.tid)).or_default();
            sums.delta += edge.sums.delta;
            sums.faults += edge.sums.faults;
            sums.major += edge.sums.major;
            sums.latency.0 += edge.sums.latency_samples;
            sums.latency.1 += edge.sums.latency_sum_ns;
            for cause in &edge.sums.causes {
                *sums.causes.entry(cause.cause).or_default() += cause.pages;
            }
            let by_cause: i64 = edge.sums.causes.iter().map(|cause| cause.pages).sum();
            ensure!(by_cause == edge.sums.delta.res(), "causes are not the whole: {edge:?}");
            ensure!(edge.sums.peak >= edge.sums.delta.res().max(0), "the peak is below the end: {edge:?}");
        }
        let owners: BTreeMap<u32, BTreeSet<MmId>> = edges.keys().fold(BTreeMap::new(), |mut owners, (mm, tid)| {
            owners.entry(*tid).or_insert_with(BTreeSet::new).insert(*mm);
            owners
        });
        let mut ledger: BTreeMap<(MmId, u32), Sums> = BTreeMap::new();
        for event in &self.events {
            let Event::Change(change) = event else { continue };
            if matches!(change.cause, Cause::Exit | Cause::Exec) {
                continue;
            }
            // A thread is one of this mm's where it has edges or has faulted.
            let own = owners.get(&change.tid).is_some_and(|mms| mms.contains(&change.mm)) || change.faults != 0;
            if !own {
                continue;
            }
            let sums = ledger.entry((change.mm, change.tid)).or_default();
            sums.delta += change.delta;
            sums.faults += change.faults;
            sums.major += change.major;
            sums.latency.0 += change.latency.samples;
            sums.latency.1 += change.latency.sum_ns;
            *sums.causes.entry(change.cause).or_default() += change.delta.res();
        }
        for sums in edges.values_mut().chain(ledger.values_mut()) {
            sums.causes.retain(|_, pages| *pages != 0);
        }
        edges.retain(|_, sums| *sums != Sums::default());
        ledger.retain(|_, sums| *sums != Sums::default());
        for key in edges.keys().chain(ledger.keys()) {
            ensure!(
                edges.get(key) == ledger.get(key),
                "{key:?}: edges {:?}\nledger {:?}",
                edges.get(key),
                ledger.get(key)
            );
        }
        ensure!(!edges.is_empty(), "no thread has sums");
        Ok(())
    }

    /// The spans that ended, in order; one that begins with the same text goes on.
    pub fn statements(&self) -> Vec<Statement> {
        let mut open: BTreeMap<u32, Statement> = BTreeMap::new();
        let mut ended = Vec::new();
        for edge in self.edges() {
            let current = open.get_mut(&edge.tid);
            if let Some(current) = current {
                current.peak = current.peak.max(current.delta.res() + edge.sums.peak);
                current.delta += edge.sums.delta;
                current.faults += edge.sums.faults;
                for cause in &edge.sums.causes {
                    *current.causes.entry(cause.cause).or_default() += cause.pages;
                }
                current.closing = edge.counters;
            }
            let Edge::Begin { text } = &edge.edge else {
                ended.extend(open.remove(&edge.tid));
                continue;
            };
            let text = String::from_utf8_lossy(text.as_deref().unwrap_or(b"-")).into_owned();
            if open.get(&edge.tid).is_some_and(|current| current.text == text) {
                continue;
            }
            let next = Statement { text, pid: edge.pid, tid: edge.tid, opening: edge.counters, ..Statement::default() };
            ended.extend(open.insert(edge.tid, next));
        }
        ended
    }

    /// The only span whose text has this in it.
    pub fn statement(&self, text: &str) -> Result<Statement> {
        let all = self.statements();
        let mut found = all.iter().filter(|statement| statement.text.contains(text));
        let first = found.next().with_context(|| format!("no span is about {text}: {all:#?}"))?;
        ensure!(found.next().is_none(), "several spans are about {text}");
        Ok(first.clone())
    }
}
