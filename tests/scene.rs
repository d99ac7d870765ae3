//! A scene played under the tool, and its truth held against the ledger.

use crate::books::{Books, Entry, address};
use crate::machine::TempDir;
use crate::pages::{Pages, Pid};
use crate::target::{Target, stop};
use crate::tool::{Outcome, Tool};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What a scene needs.
#[derive(Debug, Default)]
pub struct Play<'a> {
    /// Options of the workload, `--dir` excepted.
    pub options: &'a [(&'a str, &'a str)],
    /// Options of the tool.
    pub tool: &'a [&'a str],
}

/// A scene that has been played: it holds its memory and has said what it is.
#[derive(Debug)]
pub struct Held {
    /// Its process.
    pub target: Target,
    /// What it said.
    pub truth: Value,
    /// Where it has its files.
    pub dir: TempDir,
}

impl Held {
    /// Plays it in a directory of its own.
    ///
    /// # Errors
    /// It does not get there.
    pub fn play(name: &str) -> Result<Self> {
        Self::play_in(name, TempDir::new()?)
    }

    /// Plays it with its files there.
    ///
    /// # Errors
    /// It does not get there.
    pub fn play_in(name: &str, dir: TempDir) -> Result<Self> {
        let target = Target::workload(name, &options(&dir, &Play::default()))?;
        Self::act(target, dir)
    }

    /// Plays one that is ready.
    ///
    /// # Errors
    /// It does not get there.
    pub fn act(mut target: Target, dir: TempDir) -> Result<Self> {
        target.send("x")?;
        let report = target.json().context("the scene's report")?;
        ensure!(report["done"] == true, "the scene itself failed; its words are on stderr: {report}");
        let truth = report["more"].clone();
        Ok(Self { target, truth, dir })
    }
}

/// A scene that was played.
#[derive(Debug)]
pub struct Played {
    /// The workload's report.
    pub truth: Value,
    /// The tool's.
    pub outcome: Outcome,
    /// The target.
    pub pid: u32,
}

/// Plays a scene attached: the books must close, agree with /proc once the target stands still, and tell the
/// truth that the scene told.
///
/// # Errors
/// Whatever does not hold.
pub fn assert_scene(scene: &str, play: &Play<'_>) -> Result<Played> {
    let played = self::play(scene, play)?;
    assert_truth(&played.truth, &played.outcome.books, played.pid)?;
    Ok(played)
}

/// Options for the workload binary.
#[must_use]
pub fn options(dir: &TempDir, play: &Play<'_>) -> Vec<String> {
    let mut options = vec!["--dir".to_owned(), dir.path().display().to_string()];
    for (name, value) in play.options {
        options.extend([(*name).to_owned(), (*value).to_owned()]);
    }
    options
}

/// Plays a scene attached; the books must close and agree with /proc once the target stands still.
///
/// # Errors
/// Whatever does not hold.
pub fn play(scene: &str, play: &Play<'_>) -> Result<Played> {
    let dir = TempDir::new()?;
    let mut target = Target::workload(scene, &options(&dir, play))?;
    let tool = Tool::attach(target.pid(), play.tool)?;
    target.send("x")?;
    let truth = target.report()?;
    let outcome = close_stopped(tool, target.pid())?;
    Ok(Played { truth, outcome, pid: target.pid() })
}

/// Stops the target, ends the tool, and holds the closing balance against `/proc/PID/status`.
///
/// # Errors
/// Whatever does not hold.
pub fn close_stopped(tool: Tool, pid: u32) -> Result<Outcome> {
    let stopped = stop(pid)?;
    let status = Pages::read(Pid::Of(pid))?;
    let outcome = tool.finish()?;
    let after = Pages::read(Pid::Of(pid))?;
    drop(stopped);
    outcome.assert_closed()?;
    ensure!(status == after, "somebody changed the stopped target: {status} then {after}");
    let last = outcome.books.accounts.values().rfind(|account| account.pid == pid).map(|account| account.closing);
    if let Some(last) = last {
        ensure!(last == status, "the last statement closes with {last}; /proc/{pid}/status says {status}");
    }
    if outcome.end()?["mms"].as_u64().unwrap_or(1) == 1 {
        let closing = outcome.books.closing()?;
        ensure!(closing == status, "end closes with {closing}; /proc/{pid}/status says {status}");
    }
    Ok(outcome)
}

/// Each entry that the truth tells is in the books, exactly, and nothing else is on its mapping.
///
/// # Errors
/// The first that does not hold, with everything that is on that mapping.
pub fn assert_truth(truth: &Value, books: &Books, target: u32) -> Result<()> {
    let told = truth["expect"].as_array().context("expect")?;
    for expected in told {
        assert_entry(expected, books, target)
            .with_context(|| format!("told: {expected}\nthe books by cause:\n{}", books.summary()))?;
    }
    for expected in told {
        let Some(range) = range_of(expected)? else {
            continue;
        };
        let pid = pid_of(expected, target)?;
        let mut causes = Vec::new();
        for other in told {
            if range_of(other)? == Some(range) {
                causes.push(other["cause"].as_str().unwrap_or_default());
            }
        }
        // Summed up by cause: a fault that turns out to be a major one after its interval's end is taken back in the next.
        let here = |entry: &Entry| entry.pid == pid && entry.touches(range);
        for entry in books.entries.iter().filter(|entry| here(entry) && !causes.contains(&entry.cause.as_str())) {
            let sum = books.sum(|other| here(other) && other.cause == entry.cause);
            ensure!(
                sum == (Pages::ZERO, 0, 0),
                "on that mapping, where only {causes:?} happened, is also {sum:?}: {}",
                entry.text
            );
        }
    }
    Ok(())
}

fn pid_of(expected: &Value, target: u32) -> Result<u32> {
    expected["pid"].as_u64().map_or(Ok(target), |pid| Ok(u32::try_from(pid)?))
}

fn range_of(expected: &Value) -> Result<Option<(u64, u64)>> {
    let mapping = &expected["mapping"];
    if mapping.is_null() { Ok(None) } else { Ok(Some((address(&mapping["start"])?, address(&mapping["end"])?))) }
}

fn assert_entry(expected: &Value, books: &Books, target: u32) -> Result<()> {
    let cause = expected["cause"].as_str().context("cause")?;
    let (range, pid) = (range_of(expected)?, pid_of(expected, target)?);
    let tid = expected["tid"].as_i64();
    let chosen: Vec<_> = books
        .entries
        .iter()
        .filter(|entry| entry.pid == pid && entry.cause == cause && entry.counts())
        .filter(|entry| range.is_none_or(|range| entry.touches(range)))
        // Without a mapping the thread tells whose they are; with one, that is asserted below.
        .filter(|entry| range.is_some() || tid.is_none_or(|tid| entry.tid == tid))
        .collect();
    let delta: Pages = chosen.iter().map(|entry| entry.delta).sum();
    for (class, found) in delta.classes() {
        if let Some(told) = expected["pages"][class].as_i64() {
            ensure!(
                found == told,
                "{cause}: {class} is {found:+} pages in the books, {told:+} in truth{}",
                list(&chosen)
            );
        }
    }
    let (minor, major) = chosen.iter().fold((0, 0), |(minor, major), entry| (minor + entry.minor, major + entry.major));
    let faults = &expected["faults"];
    if let Some(all) = faults["all"].as_i64() {
        ensure!(
            minor + major == all,
            "{cause}: {} faults in the books, {all} in truth{}",
            minor + major,
            list(&chosen)
        );
    }
    if let Some(told) = faults["major"].as_i64() {
        ensure!(major == told, "{cause}: {major} major faults in the books, {told} in truth{}", list(&chosen));
    }
    if let (Some(tid), Some(_)) = (tid, range) {
        let other = chosen.iter().find(|entry| entry.tid != tid);
        ensure!(other.is_none(), "{cause}: made by {tid} in truth{}", list(&chosen));
    }
    if let Some(kind) = expected["mapping"]["kind"].as_str() {
        let other = chosen.iter().find(|entry| entry.kind != kind);
        ensure!(other.is_none(), "{cause}: the mapping is {kind} in truth{}", list(&chosen));
    }
    Ok(())
}

fn list(entries: &[&Entry]) -> String {
    let mut text = String::new();
    for entry in entries.iter().take(8) {
        text.push_str("\n  ");
        text.push_str(&entry.text);
    }
    text
}
