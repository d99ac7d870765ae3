//! Bursts that workloads make and time themselves: found once, within 10 ms, with the exact amount, by the right function,
//! and with the latencies that the workload measured; and none where faulting is steady.

use anyhow::{Context, Result, bail, ensure};
use memtrace_tests::books::address;
use memtrace_tests::machine::{Setting, TempDir};
use memtrace_tests::runner::{self, Test};
use memtrace_tests::scene::{Play, assert_truth, options, play};
use memtrace_tests::target::Target;
use memtrace_tests::tool::{Outcome, Tool};
use serde_json::Value;
use std::process::ExitCode;
use std::time::Duration;

const TESTS: &[Test] = &[
    ("bursts.anon", || whole("burst.anon")),
    ("bursts.cow", || part("burst.cow")),
    ("bursts.file", || whole("burst.file")),
    ("bursts.file_read", file_read),
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
/// Faults a second, and a pause, that the rule for bursts still takes for one: half of what it says.
const SLOWEST: i64 = 4_000;
const LONGEST_PAUSE_MS: i64 = 25;
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

/// A scene in which something else faults, too: the burst's own mapping (or, where they share one, its own function) has
/// its exact amount.
fn part(scene: &str) -> Result<()> {
    let (truth, burst) = one(scene, &[])?;
    let function = truth["function"].as_str().context("function")?;
    let (mut faults, mut amount) = (0, 0);
    let mut add = |part: &Value, pages: i64| {
        faults += number(&part["faults"]["minor"])? + number(&part["faults"]["major"])?;
        amount += pages;
        Ok::<(), anyhow::Error>(())
    };
    if truth["shared"] == true {
        for path in array(&burst["top"])?.iter().filter(|path| names(path).any(|name| is(name, function))) {
            add(path, number(&path["bytes"])? / page_size())?;
        }
    } else {
        for part in array(&burst["mappings"])?.iter().filter(|part| !part["mapping"].is_null()) {
            if within(&part["mapping"], &truth)? {
                add(part, pages(&part["delta"])?)?;
            }
        }
    }
    let late = truth["late"].as_i64().unwrap_or_default();
    ensure!(faults == number(&truth["faults"])? - late, "{faults} of its own faults, {} in truth", truth["faults"]);
    ensure!(amount == number(&truth["pages"])?, "{amount} of its own pages, {} in truth", truth["pages"]);
    Ok(())
}

/// What is read from disk comes as fast as the disk is: a burst only where that is fast.
fn file_read() -> Result<()> {
    let told = whole("burst.file_read");
    if let Err(error) = &told
        && let Some(Slow(rate, pause)) = error.downcast_ref()
    {
        runner::skip(format!(
            "this disk reads {rate} single pages a second and pauses for up to {pause} ms: slower than what is called a burst"
        ))?;
    }
    told
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
    // The scene runs for more than a second with real-time priority, which the kernel would interrupt.
    let _unlimited = Setting::set("/proc/sys/kernel/sched_rt_runtime_us", "-1")?;
    let (truth, burst) = one("burst.thp", &[])?;
    let touches = &truth["touches"];
    let count = touches["count"].as_f64().context("count")?;
    let samples = burst["fault_ns"]["samples"].as_f64().context("samples")?;
    ensure!(samples >= count / 17.0, "{samples} of {count} faults were timed");
    let mut below = 0.0;
    for bucket in array(&burst["fault_hist"])? {
        below += bucket["samples"].as_f64().context("samples")? / samples;
        let Some(edge) = array(&touches["edges"])?.iter().find(|edge| edge["ns"] == bucket["to_ns"]) else {
            continue;
        };
        // What lies within 5 % of a bucket's edge may be on either side of it.
        let of = |key: &str| Ok::<f64, anyhow::Error>(edge[key].as_f64().context("a count")? / count);
        let (low, high) = (of("low")? - CLOSE, of("high")? + CLOSE);
        ensure!((low..=high).contains(&below), "{below} took less than {}, {low}..{high} in truth", bucket["to_ns"]);
    }
    // The last round is given back after the burst's last fault.
    let (came, given) = (pages(&burst["delta"])?, -pages(&burst["given_back"])?);
    ensure!((came * 98 / 100..=came * 102 / 100).contains(&given), "{given} pages were given back, {came} faulted in");
    Ok(())
}

/// `--burst-only` says of all this nothing but the story.
fn only() -> Result<()> {
    let dir = TempDir::new()?;
    let mut target = Target::workload("burst.anon", &options(&dir, &Play::default()))?;
    let tool = Tool::attach(target.pid(), &["--burst-only"])?;
    target.send("x")?;
    target.report()?;
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
    target.report()?;
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

/// The scene's own faults were too slow to be one burst: so many a second, and a pause of so many milliseconds.
#[derive(Debug)]
struct Slow(i64, i64);

impl std::fmt::Display for Slow {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} faults a second, and a pause of {} ms", self.0, self.1)
    }
}

impl std::error::Error for Slow {}

/// Plays a scene of one burst; what the scene and what the tool says of it, its time and its function held together.
fn one(scene: &str, tool: &[&str]) -> Result<(Value, Value)> {
    let played = play(scene, &Play { tool, ..Play::default() })?;
    assert_truth(&played.truth, &played.outcome.books, played.pid)?;
    let truth = played.truth["more"]["bursts"][0].clone();
    let told: Vec<Value> = bursts(&played.outcome).cloned().collect();
    for burst in &told {
        println!("    burst: {}", burst["verdict"].as_str().unwrap_or_default());
    }
    let length = number(&truth["end_ns"])? - number(&truth["start_ns"])?;
    let rate = number(&truth["faults"])? * 1_000_000_000 / length.max(1);
    let pause = truth["touches"]["longest_ns"].as_i64().unwrap_or_default() / 1_000_000;
    if rate < SLOWEST || pause > LONGEST_PAUSE_MS {
        bail!(Slow(rate, pause));
    }
    ensure!(told.len() == 1, "{} bursts are told", told.len());
    let burst = told.into_iter().next().context("a burst")?;
    let off = |told: &Value, truth: &Value| Ok::<i64, anyhow::Error>(number(told)? - number(truth)?);
    let (start, end) = (off(&burst["start_ns"], &truth["start_ns"])?, off(&burst["ts_ns"], &truth["end_ns"])?);
    println!("    start {:+.3} ms, end {:+.3} ms", start as f64 / 1e6, end as f64 / 1e6);
    if truth["touches"]["count"] != 0 && !burst["fault_ns"].is_null() {
        println!("    a touch took {:.0} ns, its fault {:.0} ns", mean(&truth["touches"])?, mean_of(&burst)?);
    }
    // Huge pages are slow at first, while the machine makes them: slower than what is called a burst.
    let in_time = start.unsigned_abs() <= CLOSE_NS && end.unsigned_abs() <= CLOSE_NS;
    ensure!(in_time || scene == "burst.thp", "not within 10 ms");
    ensure!(played.outcome.end()?["bursts"] == 1, "end counts {}", played.outcome.end()?["bursts"]);
    ensure!(
        within(&burst["mappings"][0]["mapping"], &truth)?,
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

fn array(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("not an array: {value}"))
}

/// A mapping lies in the truth's.
fn within(mapping: &Value, truth: &Value) -> Result<bool> {
    let (start, end) = (address(&mapping["start"])?, address(&mapping["end"])?);
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
