//! Half a million faults a second: nothing lost, every fault counted, attached in the middle of it, and the time
//! from a change to its line.

use anyhow::{Context, Result, ensure};
use memtrace_tests::books::{Books, address};
use memtrace_tests::machine::TempDir;
use memtrace_tests::runner::{self, Test};
use memtrace_tests::scene::{Play, assert_truth, close_stopped, options};
use memtrace_tests::target::Target;
use memtrace_tests::tool::{Record, Tool};
use serde_json::Value;
use std::process::ExitCode;

const TESTS: &[Test] = &[("storm", storm), ("storm.attach_in_the_middle", attach_in_the_middle), ("latency", latency)];

fn main() -> ExitCode {
    runner::run(TESTS)
}

/// Faults of a storm's thread outside its loop: waking up and reporting, on pages that are locked in.
const HANDFUL: i64 = 16;

/// With call stacks and without them: nothing lost either way. What they cost is printed.
fn storm() -> Result<()> {
    let alone = rate(&storm_alone()?)?;
    let (without, _) = storm_under(&["--no-stacks"])?;
    let (with, end) = storm_under(&[])?;
    let (copies, faults) = (end["stacks"]["copies"].as_u64(), end["faults"]["minor"].as_u64().context("faults")?);
    let copies = copies.context("end.stacks does not say how many copies were taken")?;
    println!("    {} copies per million faults; end.stacks {}", copies * 1_000_000 / faults.max(1), end["stacks"]);
    println!(
        "    faults a second: {alone:.0} alone, {without:.0} without stacks (×{:.3} time), {with:.0} with (×{:.3}; ×{:.3} of without)",
        alone / without,
        alone / with,
        without / with
    );
    ensure!(copies <= faults / 100, "{copies} copies of {faults} faults on two paths");
    Ok(())
}

fn seconds() -> String {
    std::env::var("MEMTRACE_STORM_SECONDS").unwrap_or_else(|_| "5".to_owned())
}

fn rate(truth: &Value) -> Result<f64> {
    truth["more"]["faults_per_second"].as_f64().context("faults_per_second")
}

fn storm_alone() -> Result<Value> {
    let dir = TempDir::new()?;
    let mut target =
        Target::workload("storm", &options(&dir, &Play { options: &[("--seconds", &seconds())], ..Play::default() }))?;
    target.send("x")?;
    target.report()
}

/// Two threads for `MEMTRACE_STORM_SECONDS` (default 5): faults a second, and the `end` line.
fn storm_under(tool: &[&str]) -> Result<(f64, Value)> {
    let dir = TempDir::new()?;
    let seconds = seconds();
    let play = Play { options: &[("--seconds", &seconds)], ..Play::default() };
    let mut target = Target::workload("storm", &options(&dir, &play))?;
    let tool = Tool::attach(target.pid(), tool)?;
    target.send("x")?;
    let patience = std::time::Duration::from_secs_f64(seconds.parse::<f64>()? + 60.0);
    let truth = target.report_within(patience)?;
    let outcome = close_stopped(tool, target.pid())?;
    let threads = truth["more"]["threads"].as_array().context("threads")?;
    for thread in threads {
        assert_thread(thread, &outcome.books)?;
    }
    let touches: i64 = threads.iter().filter_map(|thread| thread["touches"].as_i64()).sum();
    let given = outcome.books.sum(|entry| entry.cause == "madvise.dontneed").0.anon;
    ensure!((given + touches).abs() <= HANDFUL, "{given} pages given back in the books, {touches} in truth");
    let end = outcome.end()?.clone();
    println!("    {} faults a second; own cost {}", truth["more"]["faults_per_second"], end["own"]);
    Ok((rate(&truth)?, end))
}

/// Every touch is a fault with its page in the books. Of what is given back the sum is exact, and what each thread gave
/// back nearly: two calls that fold their CPUs' parts of one counter into its sum at the same moment, before either
/// probe runs, cannot be told apart.
fn assert_thread(thread: &Value, books: &Books) -> Result<()> {
    let number = |key: &str| thread[key].as_i64().with_context(|| format!("no {key}"));
    let (tid, touches, minor) = (number("tid")?, number("touches")?, number("minor")?);
    let (_, seen, major) = books.sum(|entry| entry.tid == tid);
    ensure!(major == 0, "{major} major faults in a storm on anonymous memory");
    ensure!((seen - minor).abs() <= HANDFUL, "{seen} faults in the books, getrusage counted {minor}");
    let (grown, faults, _) = books.sum(|entry| entry.tid == tid && entry.cause == "fault.anon");
    ensure!((faults - touches).abs() <= HANDFUL, "{faults} first touches in the books, {touches} in truth");
    ensure!((grown.anon - touches).abs() <= HANDFUL, "{} pages in the books, {touches} in truth", grown.anon);
    let (given, ..) = books.sum(|entry| entry.tid == tid && entry.cause == "madvise.dontneed");
    ensure!((given.anon + touches).abs() <= touches / 100, "{} pages in the books, {touches} in truth", given.anon);
    Ok(())
}

/// Twenty sessions on the same storm, each opened and closed in the middle of it.
fn attach_in_the_middle() -> Result<()> {
    let dir = TempDir::new()?;
    let target = Target::workload("storm.endless", &options(&dir, &Play::default()))?;
    for round in 1..=20 {
        attach_once(target.pid()).with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

fn attach_once(pid: u32) -> Result<()> {
    let mut tool = Tool::attach(pid, &[])?;
    let mut statements = 0;
    tool.wait_for("the third statement", |record| {
        statements += usize::from(record.kind() == "statement");
        statements == 3
    })?;
    let outcome = close_stopped(tool, pid)?;
    let (_, faults, _) = outcome.books.sum(|entry| entry.cause == "fault.anon");
    ensure!(faults > 10_000, "only {faults} faults in three statements of a storm");
    Ok(())
}

/// From a change to its line, at the default interval: the median of twenty below 150 ms.
fn latency() -> Result<()> {
    const ROUNDS: usize = 20;
    const LIMIT_NS: u64 = 150_000_000;
    let dir = TempDir::new()?;
    let mut target = Target::workload("latency", &options(&dir, &Play::default()))?;
    let mut tool = Tool::attach(target.pid(), &["default-interval"])?;
    let (mut delays, mut told) = (Vec::new(), 0);
    for round in 1..=ROUNDS {
        target.send(if round == 1 { "x" } else { "n" })?;
        let truth = target.json()?;
        let range = (address(&truth["start"])?, address(&truth["end"])?);
        told += truth["bytes"].as_i64().context("bytes")?;
        let stamp = truth["stamp_ns"].as_u64().context("stamp_ns")?;
        // Statements are held on their way in, too: what earlier ones said of this mapping counts.
        let mut seen: i64 = tool.records().iter().map(|record| grown(record, range)).sum();
        let place = if seen >= told {
            tool.records().len() - 1
        } else {
            tool.wait_for("the statement of the change", |record| {
                seen += grown(record, range);
                seen >= told
            })?
        };
        delays.push(tool.records()[place].at_ns.saturating_sub(stamp));
    }
    target.send("q")?;
    let truth = target.report()?;
    let outcome = close_stopped(tool, target.pid())?;
    assert_truth(&truth, &outcome.books, target.pid())?;
    delays.sort_unstable();
    let median = delays[ROUNDS / 2];
    println!("    from change to line: median {} ms, worst {} ms", median / 1_000_000, delays[ROUNDS - 1] / 1_000_000);
    ensure!(median < LIMIT_NS, "median {median} ns, limit {LIMIT_NS} ns: {delays:?}");
    Ok(())
}

/// Bytes that this line says came in by first touch in the range.
fn grown(record: &Record, (start, end): (u64, u64)) -> i64 {
    if record.kind() != "statement" {
        return 0;
    }
    let inside = |entry: &&Value| {
        let edge = |name: &str| address(&entry["mapping"][name]).unwrap_or(0);
        entry["cause"] == "fault.anon" && edge("start") < end && start < edge("end")
    };
    let entries = record.value["entries"].as_array().into_iter().flatten();
    entries.filter(inside).filter_map(|entry| entry["delta"]["anon"].as_i64()).sum()
}
