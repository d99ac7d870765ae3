//! Bursts that workloads make and time themselves: found once, within 10 ms, with the exact amount, by the right function,
//! and with the latencies that the workload measured; and none where faulting is steady.

use anyhow::{Context, Result, ensure};
use memtrace_tests::books::address;
use memtrace_tests::machine::TempDir;
use memtrace_tests::runner::{self, Test};
use memtrace_tests::scene::{Play, assert_truth, options, play};
use memtrace_tests::target::Target;
use memtrace_tests::tool::{Outcome, Tool};
use serde_json::Value;
use std::process::ExitCode;
use std::time::Duration;

const TESTS: &[Test] = &[
    ("bursts.anon", || whole("burst.anon")),
    ("bursts.cow", || whole("burst.cow")),
    ("bursts.file", || whole("burst.file")),
    ("bursts.shmem", || whole("burst.shmem")),
    ("bursts.threads", || whole("burst.threads")),
    ("bursts.same_mapping", || part("burst.same_mapping")),
    ("bursts.amid", || part("burst.amid")),
    ("bursts.latency", latency),
    ("bursts.long_intervals", long_intervals),
    ("bursts.only", only),
    ("bursts.steady", steady),
];

fn main() -> ExitCode {
    runner::run(TESTS)
}

/// What start and end may be off by.
const CLOSE_NS: u64 = 10_000_000;
/// What latencies may be off by.
const CLOSE: f64 = 0.05;

/// A scene in which nothing else faults: everything is the burst's, and exact.
fn whole(scene: &str) -> Result<()> {
    let (truth, burst) = one(scene, &[])?;
    let faults = number(&burst["faults"]["minor"])? + number(&burst["faults"]["major"])?;
    ensure!(faults == number(&truth["faults"])?, "{faults} faults, {} in truth", truth["faults"]);
    ensure!(
        pages(&burst["delta"])? == number(&truth["pages"])?,
        "{} pages, {} in truth",
        burst["delta"],
        truth["pages"]
    );
    let unsure = number(&burst["uncertain"]["faults"]["minor"])? + number(&burst["uncertain"]["faults"]["major"])?;
    ensure!(unsure == 0, "{unsure} faults are uncertain");
    if let Some(tids) = truth["threads"].as_array() {
        let told = burst["threads"].as_array().context("threads")?;
        let all = tids.iter().all(|tid| told.iter().any(|thread| thread["tid"] == *tid));
        ensure!(all, "threads {tids:?} rose, {told:?} are told");
    }
    Ok(())
}

/// A scene in which something else faults, too: the burst's own function has its exact amount.
fn part(scene: &str) -> Result<()> {
    let (truth, burst) = one(scene, &[])?;
    let function = truth["function"].as_str().context("function")?;
    let (mut faults, mut amount) = (0, 0);
    for path in burst["top"].as_array().context("top")?.iter().filter(|path| names(path).any(|name| is(name, function)))
    {
        faults += number(&path["faults"]["minor"])? + number(&path["faults"]["major"])?;
        amount += number(&path["bytes"])? / page_size();
    }
    ensure!(faults == number(&truth["faults"])?, "{faults} faults by {function}, {} in truth", truth["faults"]);
    ensure!(amount == number(&truth["pages"])?, "{amount} pages by {function}, {} in truth", truth["pages"]);
    Ok(())
}

/// Long and short intervals find the same.
fn long_intervals() -> Result<()> {
    for interval in ["10ms", "1s", "1h"] {
        let (truth, burst) = one("burst.anon", &["--interval", interval])?;
        let faults = number(&burst["faults"]["minor"])?;
        ensure!(faults == number(&truth["faults"])?, "{interval}: {faults} faults, {} in truth", truth["faults"]);
    }
    Ok(())
}

/// Faults that are slow enough for what the tracepoints leave out (entry and exit of the exception) not to count.
fn latency() -> Result<()> {
    let (truth, burst) = one("burst.thp", &[])?;
    let touches = &truth["touches"];
    let count = touches["count"].as_f64().context("count")?;
    let samples = burst["fault_ns"]["samples"].as_f64().context("samples")?;
    ensure!(samples >= count / 17.0, "{samples} of {count} faults were timed");
    let off = (mean_of(&burst)? - mean(touches)?) / mean(touches)?;
    ensure!(off.abs() <= CLOSE, "mean {} ns, {} ns in truth: {:+.1} %", mean_of(&burst)?, mean(touches)?, off * 100.0);
    let mut below = 0.0;
    for bucket in burst["fault_hist"].as_array().context("fault_hist")? {
        below += bucket["samples"].as_f64().context("samples")? / samples;
        let Some(edge) =
            touches["edges"].as_array().context("edges")?.iter().find(|edge| edge["ns"] == bucket["to_ns"])
        else {
            continue;
        };
        // What lies within 5 % of a bucket's edge may be on either side of it.
        let of = |key: &str| Ok::<f64, anyhow::Error>(edge[key].as_f64().context("a count")? / count);
        let (low, high) = (of("low")? - CLOSE, of("high")? + CLOSE);
        ensure!((low..=high).contains(&below), "{below} took less than {}, {low}..{high} in truth", bucket["to_ns"]);
    }
    let given = pages(&burst["given_back"])?;
    // The last round may be given back after the burst's last fault.
    ensure!(
        -given >= number(&truth["pages"])? * 98 / 100,
        "{given} pages were given back, {} in truth",
        truth["pages"]
    );
    Ok(())
}

/// `--burst-only` says of all this nothing but the story.
fn only() -> Result<()> {
    let dir = TempDir::new()?;
    let mut target = Target::workload("burst.anon", &options(&dir, &Play::default()))?;
    let tool = Tool::attach(target.pid(), &["--burst-only"])?;
    target.send("x")?;
    target.json()?;
    let outcome = tool.finish()?;
    let kinds: Vec<&str> = outcome.records.iter().map(|record| record.kind()).collect();
    ensure!(kinds.iter().filter(|kind| **kind == "burst").count() == 1, "{kinds:?}");
    ensure!(kinds.iter().all(|kind| ["meta", "stack", "burst"].contains(kind)), "{kinds:?}");
    Ok(())
}

/// No burst in `MEMTRACE_STEADY_SECONDS` (default 20) of steady faulting.
fn steady() -> Result<()> {
    let seconds: f64 = std::env::var("MEMTRACE_STEADY_SECONDS").unwrap_or_else(|_| "20".to_owned()).parse()?;
    let dir = TempDir::new()?;
    // It must outlast the attaching.
    let lasting = (seconds + 5.0).to_string();
    let play = Play { options: &[("--seconds", &lasting)], ..Play::default() };
    let mut target = Target::workload("burst.steady", &options(&dir, &play))?;
    let tool = Tool::attach(target.pid(), &["--duration", &format!("{seconds}s")])?;
    let outcome = tool.wait_within(Duration::from_secs_f64(seconds + 60.0))?;
    outcome.assert_closed()?;
    target.json()?;
    let (_, faults, _) = outcome.books.sum(|entry| entry.cause == "fault.anon");
    println!("    {faults} faults in {seconds} s");
    ensure!(faults as f64 > 2_000.0 * seconds, "only {faults} faults in {seconds} s");
    let told: Vec<&Value> = bursts(&outcome).collect();
    ensure!(told.is_empty(), "{} bursts, the first: {}", told.len(), told[0]);
    Ok(())
}

fn bursts(outcome: &Outcome) -> impl Iterator<Item = &Value> {
    outcome.records.iter().filter(|record| record.kind() == "burst").map(|record| &record.value)
}

/// Plays a scene of one burst; what the scene and what the tool says of it, its time and its function held together.
fn one(scene: &str, tool: &[&str]) -> Result<(Value, Value)> {
    let played = play(scene, &Play { tool, ..Play::default() })?;
    assert_truth(&played.truth, &played.outcome.books, played.pid)?;
    let truth = played.truth["more"]["bursts"][0].clone();
    let told: Vec<Value> = bursts(&played.outcome).cloned().collect();
    for burst in &told {
        println!("    burst: {}", burst["verdict"].as_str().unwrap_or_default());
    }
    ensure!(told.len() == 1, "{} bursts are told", told.len());
    let burst = told.into_iter().next().context("a burst")?;
    let off = |told: &Value, truth: &Value| Ok::<i64, anyhow::Error>(number(told)? - number(truth)?);
    let (start, end) = (off(&burst["start_ns"], &truth["start_ns"])?, off(&burst["ts_ns"], &truth["end_ns"])?);
    println!("    start {:+.3} ms, end {:+.3} ms", start as f64 / 1e6, end as f64 / 1e6);
    if truth["touches"]["count"] != 0 {
        println!("    a touch took {:.0} ns, its fault {:.0} ns", mean(&truth["touches"])?, mean_of(&burst)?);
    }
    ensure!(start.unsigned_abs() <= CLOSE_NS && end.unsigned_abs() <= CLOSE_NS, "not within 10 ms");
    ensure!(played.outcome.end()?["bursts"] == 1, "end counts {}", played.outcome.end()?["bursts"]);
    ensure!(
        within(&burst, &truth)?,
        "its first mapping is not the truth's {}: {}",
        truth["start"],
        burst["mappings"][0]
    );
    let function = truth["function"].as_str().context("function")?;
    let first = &burst["top"][0];
    let named = names(first).next().context("the first path has no name")?;
    ensure!(is(named, function), "the first function is {named}, {function} in truth");
    ensure!(burst["verdict"].as_str().is_some_and(|verdict| verdict.contains(function)), "{}", burst["verdict"]);
    Ok((truth, burst))
}

fn within(burst: &Value, truth: &Value) -> Result<bool> {
    let first = &burst["mappings"][0]["mapping"];
    let (start, end) = (address(&first["start"])?, address(&first["end"])?);
    Ok(start >= address(&truth["start"])? && end <= address(&truth["end"])?)
}

/// Functions of a code path that are no plumbing, innermost first, inlined ones after what they are inlined in.
fn names(path: &Value) -> impl Iterator<Item = &str> {
    let frames = path["stack"].as_array().into_iter().flatten().filter(|frame| frame["plumbing"] != true);
    frames.filter_map(|frame| frame["symbols"].as_array()?.last()?["name"].as_str())
}

/// `workload::burst::burst_fill` is `burst_fill`.
fn is(name: &str, function: &str) -> bool {
    name.split("::").any(|part| part == function)
}

fn number(value: &Value) -> Result<i64> {
    value.as_i64().with_context(|| format!("not a number: {value}"))
}

fn page_size() -> i64 {
    memtrace_tests::pages::page_size() as i64
}

fn pages(delta: &Value) -> Result<i64> {
    Ok((number(&delta["anon"])? + number(&delta["file"])? + number(&delta["shmem"])?) / page_size())
}

/// Of the workload's own times.
fn mean(touches: &Value) -> Result<f64> {
    Ok(touches["sum_ns"].as_f64().context("sum_ns")? / touches["count"].as_f64().context("count")?)
}

fn mean_of(burst: &Value) -> Result<f64> {
    Ok(burst["fault_ns"]["sum"].as_f64().context("sum")? / burst["fault_ns"]["samples"].as_f64().context("samples")?)
}
