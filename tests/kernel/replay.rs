//! Sessions recorded and replayed: what `record` printed at its end is what `replay` prints, twice the same, and a
//! recording that was cut is good up to the cut.
//!
//! `MEMTRACE_BLESS=1` makes `postgres.session` the repository's trace, with its golden outputs: tests/traces.

use anyhow::{Context, Result, ensure};
use memtrace_tests::books::Books;
use memtrace_tests::database::Postgres;
use memtrace_tests::machine::TempDir;
use memtrace_tests::pages::{Pages, Pid};
use memtrace_tests::recording::{Recording, Replay};
use memtrace_tests::runner::{self, Test, keepsake};
use memtrace_tests::scene::{Play, assert_truth, options};
use memtrace_tests::target::{Target, stop};
use memtrace_tests::tool::PATIENCE;
use std::path::Path;
use std::process::ExitCode;

const TESTS: &[Test] = &[
    ("postgres.session", postgres_session),
    ("replay.truth", truth),
    ("replay.storm", storm),
    ("replay.children", children),
    ("replay.command", command),
    ("replay.cut", cut),
    ("replay.killed", killed),
];

fn main() -> ExitCode {
    runner::run(TESTS)
}

/// Replayed twice, as text and as NDJSON: the same each time, its end is what `record` printed, the books close.
fn assert_replays(trace: &Path, closing: &[u8]) -> Result<Books> {
    let text = Replay::of(trace, &[])?;
    text.assert_whole()?;
    assert_closing(closing, &text.stdout)?;
    ensure!(text.stdout == Replay::of(trace, &[])?.stdout, "two replays of {} differ", trace.display());
    let json = Replay::of(trace, &["--json"])?;
    json.assert_whole()?;
    ensure!(json.stdout == Replay::of(trace, &["--json"])?.stdout, "two replays of {} differ", trace.display());
    let books = json.books()?;
    books.assert_closed()?;
    Ok(books)
}

/// `record` prints nothing but closing statements. Those of followed processes stand among other lines in a replay; the
/// last one ends both.
fn assert_closing(record: &[u8], replay: &[u8]) -> Result<()> {
    let (record, replay) = (std::str::from_utf8(record)?, std::str::from_utf8(replay)?);
    let last = record.rfind("── closing statement").context("record printed no closing statement")?;
    ensure!(replay.ends_with(&record[last..]), "record closed with\n{record}\nthe replay is\n{replay}");
    let mut printed = replay.lines();
    for line in record.lines() {
        ensure!(printed.any(|other| other == line), "not in the replay: {line}\nthe replay is\n{replay}");
    }
    Ok(())
}

/// The backend stands still: it is what the replayed books close with.
fn close_stopped(recording: Recording, pid: u32) -> Result<Books> {
    let trace = recording.trace().to_owned();
    let stopped = stop(pid)?;
    let status = Pages::read(Pid::Of(pid))?;
    let closing = recording.finish()?;
    drop(stopped);
    let books = assert_replays(&trace, &closing)?;
    let last = books.accounts.values().rfind(|account| account.pid == pid).map(|account| account.closing);
    ensure!(last == Some(status), "the replay closes with {last:?}; /proc/{pid}/status says {status}");
    Ok(books)
}

/// What the trace in the repository was recorded of. The pauses put each statement into intervals of its own.
const SESSION: &str = "\
    select pg_sleep(0.5);
    select pg_prewarm('orders');
    select pg_sleep(0.3);
    select count(*), sum(amount) from orders;
    select pg_sleep(0.3);
    select count(*) from orders join lines using (id);
    select pg_sleep(0.3);
    select count(*) from (select key from lines order by key offset 0) sorted;
    select pg_sleep(0.3);
    create index on lines (key);
    select pg_sleep(0.5);
    select 'finished';\n";

const TABLES: &str = "\
    create extension pg_prewarm;
    create table orders as select i as id, i % 100 as amount, repeat('x', 60) as note from generate_series(1, 60000) i;
    create table lines as select i % 60000 as id, md5(i::text) as key from generate_series(1, 200000) i;
    analyze; checkpoint;
    select 'prepared';\n";

fn postgres_session() -> Result<()> {
    let mut cluster = Postgres::create()?;
    cluster.start()?;
    let (mut maker, _) = cluster.session()?;
    maker.send(TABLES)?;
    maker.wait_for_line("prepared", PATIENCE)?;
    // A backend of its own: the tables are in shared_buffers, and it has touched none of them yet.
    let (mut session, backend) = cluster.session()?;
    session.send("set enable_mergejoin = off; set enable_nestloop = off; set work_mem = '64MB'; select 'ready';\n")?;
    session.wait_for_line("ready", PATIENCE)?;
    let recording = Recording::attach(backend, &["--interval", "200ms", "--smaps-interval", "1s"])?;
    let trace = recording.trace().to_owned();
    session.send(SESSION)?;
    session.wait_for_line("finished", PATIENCE)?;
    let books = close_stopped(recording, backend)?;
    for cause in ["fault.anon", "fault.shmem"] {
        let (delta, ..) = books.sum(|entry| entry.cause == cause);
        ensure!(delta.anon + delta.shmem > 1000, "{cause}: only {delta}\n{}", books.summary());
    }
    if std::env::var_os("MEMTRACE_BLESS").is_some_and(|bless| bless == "1") {
        bless(&trace)?;
    }
    Ok(())
}

fn bless(trace: &Path) -> Result<()> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/postgres.memtrace");
    std::fs::copy(trace, &golden).context("failed to keep the trace")?;
    std::fs::write(golden.with_extension("txt"), Replay::of(&golden, &[])?.stdout)?;
    std::fs::write(golden.with_extension("ndjson"), Replay::of(&golden, &["--json"])?.stdout)?;
    Ok(())
}

/// The truth that a scene tells is in the replayed books.
fn truth() -> Result<()> {
    let dir = TempDir::new()?;
    let mut target = Target::workload("fault.cow.fork", &options(&dir, &Play::default()))?;
    let recording = Recording::attach(target.pid(), &[])?;
    target.send("x")?;
    let truth = target.report()?;
    let books = close_stopped(recording, target.pid())?;
    assert_truth(&truth, &books, target.pid())
}

/// As many records as there can be.
fn storm() -> Result<()> {
    let dir = TempDir::new()?;
    let mut target =
        Target::workload("storm", &options(&dir, &Play { options: &[("--seconds", "2")], ..Play::default() }))?;
    let recording = Recording::attach(target.pid(), &[])?;
    target.send("x")?;
    target.report()?;
    let books = close_stopped(recording, target.pid())?;
    let (_, minor, _) = books.sum(|_| true);
    ensure!(minor > 100_000, "only {minor} faults");
    Ok(())
}

/// Children with books of their own.
fn children() -> Result<()> {
    let script = "for i in 1 2 3; do /bin/true; (exit 3); done";
    let recording = Recording::start(&["--follow", "--", "/bin/sh", "-c", script])?;
    let trace = recording.trace().to_owned();
    let (status, closing) = recording.wait()?;
    ensure!(status.code() == Some(3), "the command's status does not pass through: {status}");
    let books = assert_replays(&trace, &closing)?;
    ensure!(books.accounts.len() >= 7, "only {} books\n{}", books.accounts.len(), books.summary());
    Ok(())
}

/// The end of a command is in the trace.
fn command() -> Result<()> {
    let recording = Recording::start(&["--", "/bin/sh", "-c", "exit 7"])?;
    let trace = recording.trace().to_owned();
    let (status, closing) = recording.wait()?;
    ensure!(status.code() == Some(7), "the command's status does not pass through: {status}");
    assert_replays(&trace, &closing)?;
    let replay = Replay::of(&trace, &["--json"])?;
    ensure!(replay.status.success(), "the replay ended with {}", replay.status);
    let end = replay.end()?;
    ensure!(end["exit"]["status"] == 7, "the end does not know the status: {end:.400}");
    Ok(())
}

/// Up to the cut, and the books of what is there close.
fn assert_cut(trace: &Path) -> Result<Books> {
    let json = Replay::of(trace, &["--json"])?;
    ensure!(json.status.success(), "a cut trace is no failure: {}", json.status);
    ensure!(json.stderr.contains("cut"), "stderr does not say that it is cut: {}", json.stderr);
    ensure!(json.end()?["reason"] == "truncated", "the reason is {}", json.end()?["reason"]);
    let books = json.books()?;
    books.assert_closed()?;
    ensure!(json.stdout == Replay::of(trace, &["--json"])?.stdout, "two replays of {} differ", trace.display());
    Ok(books)
}

fn statements(books: &Books) -> usize {
    books.accounts.values().map(|account| account.statements).sum()
}

/// A scene that goes on long enough to be cut in its middle.
fn churn() -> Result<(Target, TempDir)> {
    let dir = TempDir::new()?;
    let target =
        Target::workload("storm", &options(&dir, &Play { options: &[("--seconds", "2")], ..Play::default() }))?;
    Ok((target, dir))
}

/// Half of the file.
fn cut() -> Result<()> {
    let (mut target, _dir) = churn()?;
    let recording = Recording::attach(target.pid(), &[])?;
    let trace = recording.trace().to_owned();
    target.send("x")?;
    target.report()?;
    let whole = close_stopped(recording, target.pid())?;
    let bytes = std::fs::read(&trace)?;
    let half = keepsake("half.memtrace");
    std::fs::write(&half, &bytes[..bytes.len() / 2])?;
    let books = assert_cut(&half)?;
    let (told, all) = (statements(&books), statements(&whole));
    ensure!(told > 0 && told < all, "{told} statements of half of the trace, {all} of the whole");
    let same = books.entries.iter().zip(&whole.entries).all(|(cut, whole)| cut.text == whole.text);
    ensure!(same, "the half tells other entries than the whole");
    Ok(())
}

/// memtrace dies without a chance to end its file.
fn killed() -> Result<()> {
    let (mut target, _dir) = churn()?;
    let recording = Recording::attach(target.pid(), &[])?;
    let trace = recording.trace().to_owned();
    target.send("x")?;
    recording.wait_for_bytes(std::fs::metadata(&trace)?.len() + 1)?;
    recording.kill()?;
    target.report()?;
    assert_cut(&trace).map(drop)
}
