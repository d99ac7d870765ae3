//! Spans held against programs that know what they did between two functions, against real database servers, and always
//! against the ledger: what the edges of a thread add up to is what was booked for it.

#[path = "spans/statements.rs"]
mod statements;
#[path = "spans/watched.rs"]
mod watched;

use anyhow::{Context, Result, ensure};
use memtrace::event::{Edge, Event, SpanEdge};
use memtrace::hints::Failure;
use memtrace::units::Amounts;
use memtrace_tests::machine::TempDir;
use memtrace_tests::runner::{self, Test};
use memtrace_tests::scene::{Play, options};
use memtrace_tests::target::Target;
use serde_json::Value;
use std::process::ExitCode;
use watched::{Session, Told, named};

const TESTS: &[Test] = &[
    ("spans.alone", alone),
    ("spans.beside", beside),
    ("spans.nested", nested),
    ("spans.storm", storm),
    ("spans.refused", refused),
    ("spans.cost", cost),
];

fn main() -> ExitCode {
    runner::run_groups(&[(1, TESTS), (1, statements::TESTS)])
}

const BEGIN: &str = "workload_span_begin";
const END: &str = "workload_span_end";

/// Plays a scene under a session; its report's `more`.
fn play(scene: &str, end: Option<&str>) -> Result<(Told, Value)> {
    let dir = TempDir::new()?;
    let mut target = Target::workload(scene, &options(&dir, &Play::default()))?;
    let begin = if end.is_some() { BEGIN } else { "workload_span_call" };
    let session = Session::start(target.pid(), named("piece", begin, end), false)?;
    target.send("x")?;
    let report = target.report()?;
    let told = session.finish()?;
    Ok((told, report["more"].clone()))
}

fn pages(value: &Value) -> Result<Amounts> {
    let number = |at: usize| value[at].as_i64().with_context(|| format!("no pages: {value}"));
    Ok(Amounts { anon: number(0)?, file: number(1)?, shmem: number(2)?, swap: number(3)? })
}

fn number(value: &Value, name: &str) -> Result<i64> {
    value[name].as_i64().with_context(|| format!("no {name} in {value}"))
}

const fn is_begin(edge: &SpanEdge) -> bool {
    matches!(edge.edge, Edge::Begin { text: None })
}

/// The counters at each edge are those that the program itself reads there, what is summed between two of them is their
/// difference, and the faults are getrusage's.
fn alone() -> Result<()> {
    let (told, more) = play("spans.alone", Some(END))?;
    let edges = told.of(u32::try_from(number(&more, "tid")?)?);
    let spans = more["spans"].as_array().context("spans")?;
    ensure!(edges.len() == 2 * spans.len() + 3, "{} edges of {} spans", edges.len(), spans.len());
    ensure!(edges.iter().all(|edge| edge.name == "piece"));
    // It began before anyone looked.
    let first = edges[0];
    ensure!(first.edge == Edge::End && first.sums.delta.anon >= number(&more, "first")?, "{first:?}");
    for (span, pair) in spans.iter().zip(edges[1..].chunks(2)) {
        let (begin, end) = (pair[0], pair[1]);
        ensure!(is_begin(begin) && end.edge == Edge::End, "{begin:?} {end:?}");
        let (before, after) = (pages(&span["before"])?, pages(&span["after"])?);
        ensure!((begin.counters, end.counters) == (before, after), "{span}: {begin:?} {end:?}");
        ensure!(end.sums.delta == after - before, "{span}: {end:?}");
        ensure!(end.sums.faults == number(span, "faults")?, "{span}: {end:?}");
        ensure!(end.sums.peak >= number(span, "pages")?, "{span}: {end:?}");
    }
    let between = edges[3].sums.delta;
    ensure!(between.anon == 5 && edges[3].sums.faults == 5, "between spans: {between:?}");
    let (last, cut) = (edges[edges.len() - 2], edges[edges.len() - 1]);
    ensure!(is_begin(last) && cut.edge == Edge::Cut, "{last:?} {cut:?}");
    ensure!(cut.sums.delta.anon >= number(&more, "last")?, "{cut:?}");
    let closing = told.events.iter().rev().find_map(|event| match event {
        Event::Tick(tick) => tick.closings.first().map(|closing| closing.counters),
        _ => None,
    });
    ensure!(Some(cut.counters) == closing, "{cut:?}, but {closing:?} at the end");
    Ok(())
}

/// What another thread does meanwhile is not the span's: its faults are its own to the last, and so are its pages.
fn beside() -> Result<()> {
    let (told, more) = play("spans.beside", Some(END))?;
    let edges = told.of(u32::try_from(number(&more, "tid")?)?);
    let spans = more["spans"].as_array().context("spans")?;
    ensure!(!spans.is_empty() && edges.len() >= 2 * spans.len(), "{} edges of {} spans", edges.len(), spans.len());
    let mut others = 0_usize;
    for (span, pair) in spans.iter().zip(edges.chunks(2)) {
        let end = pair[1];
        ensure!(end.edge == Edge::End && end.sums.faults == number(span, "faults")?, "{span}: {end:?}");
        let moved = end.counters - pair[0].counters - end.sums.delta;
        others += usize::from(!moved.is_zero());
    }
    ensure!(others == spans.len(), "something happened beside in {others} of {} spans: {more}", spans.len());
    println!("{} touched beside, seen in {others} of {} spans", more["others"], spans.len());
    Ok(())
}

/// A function that calls itself is one span, and its pages are all of those within.
fn nested() -> Result<()> {
    let (told, more) = play("spans.nested", None)?;
    let edges = told.of(u32::try_from(number(&more, "tid")?)?);
    let spans = more["spans"].as_array().context("spans")?;
    ensure!(
        !spans.is_empty() && edges.len() >= 2 * spans.len(),
        "{} of {} spans: {edges:#?}",
        edges.len(),
        spans.len()
    );
    for (span, pair) in spans.iter().zip(edges.chunks(2)) {
        ensure!(is_begin(pair[0]) && pair[1].edge == Edge::End, "{pair:?}");
        ensure!(pair[0].counters == pages(&span["before"])?, "{span}: {pair:?}");
        ensure!(pair[1].counters == pages(&span["after"])?, "{span}: {pair:?}");
        ensure!(pair[1].sums.delta.anon == number(span, "pages")?, "{span}: {pair:?}");
    }
    Ok(())
}

/// The law holds when the session ends in the middle of everything: what was booked until then is summed, no more.
fn storm() -> Result<()> {
    let dir = TempDir::new()?;
    let target = Target::workload("storm.endless", &options(&dir, &Play::default()))?;
    let session = Session::start(target.pid(), named("piece", BEGIN, Some(END)), false)?;
    let told = session.finish_after_ticks(5)?;
    ensure!(told.edges().filter(|edge| edge.edge == Edge::Cut && edge.sums.faults > 0).count() > 1, "no storm");
    Ok(())
}

/// What is not there is told, with what to type.
fn refused() -> Result<()> {
    let dir = TempDir::new()?;
    let target = Target::workload("spans.alone", &options(&dir, &Play::default()))?;
    let failure = |spans| -> Result<Failure> {
        let error = Session::start(target.pid(), spans, false).err().context("it began")?;
        error.downcast::<Failure>()
    };
    let Failure::NoSpanFunction { near, several: false, stripped: false, .. } =
        failure(named("piece", "workload_span_bgin", None))?
    else {
        anyhow::bail!("another failure");
    };
    ensure!(near.first().is_some_and(|name| name == BEGIN), "{near:?}");
    ensure!(matches!(failure(watched::statements())?, Failure::NoKnownServer { .. }));
    let mut elsewhere = named("piece", BEGIN, None);
    elsewhere.named[0].path = "/nonexistent/library.so".into();
    ensure!(matches!(failure(elsewhere.clone())?, Failure::NoSpanFile { .. }));
    elsewhere.named[0].path = "/etc/passwd".into();
    ensure!(matches!(failure(elsewhere)?, Failure::NotAProgram { .. }));
    Ok(())
}

/// Not held against anything: prints what one edge costs the program, trap and all.
fn cost() -> Result<()> {
    let dir = TempDir::new()?;
    let play = Play { options: &[("--seconds", "1")], tool: &[] };
    let each = |watched: bool| -> Result<f64> {
        let mut target = Target::workload("spans.edges", &options(&dir, &play))?;
        let session = watched.then(|| Session::start(target.pid(), named("piece", BEGIN, Some(END)), false));
        let session = session.transpose()?;
        target.send("x")?;
        let report = target.report()?;
        // So many edges outrun any reader: what is lost is counted, and here it does not matter.
        session.map(Session::finish_lossy).transpose()?;
        let more = &report["more"];
        Ok(number(more, "ns")? as f64 / (2 * number(more, "pairs")?) as f64)
    };
    let (without, with) = (each(false)?, each(true)?);
    println!("an edge costs {:.0} ns (a call without one {without:.1} ns)", with - without);
    Ok(())
}
