//! What memtrace reads of PostgreSQL's backends out of their memory, held against what the server's own views print of
//! them at the same moment, in every major version that can be had; and every name of its tables against the server's.

use anyhow::{Context, Result, bail, ensure};
use memtrace::cli::{Target as Watched, TraceOptions};
use memtrace::database::postgres::Names;
use memtrace::event::{Backend, Event};
use memtrace::live::{Stop, read_backend, watch};
use memtrace_tests::database::{Postgres, postgres_binary, postgres_of};
use memtrace_tests::machine::TempDir;
use memtrace_tests::runner::{self, Test};
use memtrace_tests::source::build_wait_events;
use memtrace_tests::target::Target;
use memtrace_tests::tool::PATIENCE;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const TESTS: &[Test] = &[
    ("backends.views.13", || views(&postgres_of(13)?)),
    ("backends.views.14", || views(&postgres_of(14)?)),
    ("backends.views.15", || views(&postgres_of(15)?)),
    ("backends.views.16", || views(&postgres_of(16)?)),
    ("backends.views.17", || views(&postgres_of(17)?)),
    ("backends.views.18", || views(&postgres_of(18)?)),
    ("backends.views.installed", || views(&postgres_binary()?)),
    ("backends.session", a_session),
    ("backends.untouched", untouched),
    ("backends.names.13", || names(&postgres_of(13)?)),
    ("backends.names.14", || names(&postgres_of(14)?)),
    ("backends.names.15", || names(&postgres_of(15)?)),
    ("backends.names.16", || names(&postgres_of(16)?)),
    ("backends.names.17", || names(&postgres_of(17)?)),
    ("backends.names.18", || names(&postgres_of(18)?)),
    ("backends.names.installed", || names(&postgres_binary()?)),
];

fn main() -> ExitCode {
    runner::run(TESTS)
}

/// The server's major version, as it says.
fn major(server: &Path) -> Result<u32> {
    let output = Command::new(server).arg("--version").output()?;
    let text = String::from_utf8(output.stdout)?;
    let digits: String = text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("a version: {text}"))
}

/// A connection that asks.
struct Asker(Target);

impl Asker {
    /// The one value that a query has, as JSON.
    fn ask(&mut self, value: &str) -> Result<Value> {
        self.0.send(&format!("select coalesce(to_json(({value})), 'null');\n"))?;
        self.0.json()
    }

    /// What the view prints of a process, as [`ours`] has it; null when it has none.
    fn row(&mut self, pid: u32) -> Result<Value> {
        self.ask(&format!(
            "select json_build_array(backend_type, state, nullif(query, ''), \
             (extract(epoch from query_start) * 1000000)::bigint, (extract(epoch from xact_start) * 1000000)::bigint, \
             wait_event_type, wait_event) from pg_stat_activity where pid = {pid}"
        ))
    }
}

/// What memtrace read, with the text cut as the view has it.
fn ours(backend: &Backend, room: usize) -> Result<Value> {
    ensure!(backend.refused.is_empty(), "refused: {}", backend.refused);
    let [(wait, 1)] = backend.waits.as_slice() else { bail!("not one wait: {:?}", backend.waits) };
    let micros = |time: Option<i64>| time.map(|time| time / 1000);
    let query = backend.query.as_ref().map(|query| {
        let mut query = String::from_utf8_lossy(query).into_owned();
        query.truncate(query.floor_char_boundary(room));
        query
    });
    Ok(json!([
        backend.backend_type,
        backend.state,
        query,
        micros(backend.query_start_ns),
        micros(backend.transaction_start_ns),
        wait.as_ref().map(|wait| &wait.0),
        wait.as_ref().map(|wait| &wait.1),
    ]))
}

/// A process that sleeps is read as the view prints it; `None` when it did not sleep all the time.
fn agrees(asker: &mut Asker, pid: u32, version: u32) -> Result<Option<Value>> {
    let asleep = switches(pid);
    let before = asker.row(pid)?;
    let backend = read_backend(pid);
    if asleep.is_none() || switches(pid) != asleep || before.is_null() {
        return Ok(None);
    }
    let backend = backend.with_context(|| format!("not recognised: {before}"))?;
    ensure!((backend.server.as_str(), backend.version) == ("postgresql", Some(version)), "{backend:?}");
    let ours = ours(&backend, 1023)?;
    ensure!(ours == before, "read    {ours}\nprinted {before}");
    Ok(Some(before))
}

/// How often a process has gone to sleep or been put to it, as long as it sleeps; `None` when it runs or is gone.
fn switches(pid: u32) -> Option<Vec<String>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let lines = status.lines().filter(|line| line.starts_with("State:") || line.contains("ctxt_switches"));
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    lines.first().is_some_and(|state| state.contains("S (")).then_some(lines)
}

fn views(server: &Path) -> Result<()> {
    let version = major(server)?;
    let mut cluster = Postgres::create_with(server)?;
    for (name, value) in [
        ("autovacuum", "on"),
        ("wal_level", "logical"),
        ("archive_mode", "on"),
        ("archive_command", "'true'"),
        ("max_parallel_workers_per_gather", "2"),
        ("autovacuum_naptime", "1d"),
        ("shared_buffers", "'16MB'"),
    ] {
        cluster.set(name, value)?;
    }
    if version >= 17 {
        cluster.set("summarize_wal", "on")?;
    }
    cluster.start()?;
    let mut asker = Asker(cluster.session()?.0);
    asker.0.send("create table t as select 1 as id, 0 as v;\n")?;
    asker.0.send(
        "create table pinned as select 1 as id; create table big as select generate_series(1, 100000) as id;\n",
    )?;
    asker.0.send("alter table big set (parallel_workers = 2);\n")?;
    asker.0.send("set max_parallel_workers_per_gather = 0;\n")?;

    // More than the view has room for, of letters of two bytes.
    let long = format!("select 'x{}', pg_sleep(1000);", "ä".repeat(3000));
    let (_sleeps, sleeper) = session(&cluster, &long)?;
    let _scenes = [
        session(&cluster, "select 1;")?,
        session(&cluster, "begin; select 1;")?,
        session(&cluster, "\\set ON_ERROR_STOP 0\nbegin; select 1/0;")?,
        session(&cluster, "set track_activities = off; select 1;")?,
        session(&cluster, "begin; update t set v = 1;")?,
        session(&cluster, "begin; select pg_advisory_lock(1);")?,
        session(&cluster, "begin; declare c cursor for select * from pinned; fetch 1 from c;")?,
    ];
    // Those that wait for the ones above, once these have what they hold.
    let hold = "select count(*) = 3 from pg_stat_activity where state = 'idle in transaction' \
                and query ~ '^(update|select pg_advisory|fetch)'";
    wait_for(&mut asker, hold)?;
    let _waiters = [
        session(&cluster, "update t set v = 2;")?,
        session(&cluster, "select pg_advisory_lock(1);")?,
        session(&cluster, "vacuum (freeze) pinned;")?,
        session(
            &cluster,
            "set parallel_leader_participation = off; set parallel_setup_cost = 0; set parallel_tuple_cost = 0; \
             set min_parallel_table_scan_size = 0; select count(pg_sleep(1000)) from big;",
        )?,
    ];
    let (walsender, _) = cluster.session_as("dbname=postgres replication=database")?;
    let (writes, writer) = session(&cluster, "copy (select repeat('x', 1000) from big a, big b) to stdout;")?;
    wait_for(&mut asker, &format!("select query like 'copy%' from pg_stat_activity where pid = {writer}"))?;
    writes.signal(libc::SIGSTOP);

    let mut wanted: BTreeSet<&str> = [
        "client backend/active/Timeout/PgSleep",
        "client backend/idle/Client/ClientRead",
        "client backend/idle in transaction/Client/ClientRead",
        "client backend/idle in transaction (aborted)/Client/ClientRead",
        "client backend/active/Lock/transactionid",
        "client backend/active/Lock/advisory",
        "client backend/active/BufferPin/BufferPin",
        "client backend/active/IPC/ExecuteGather",
        "client backend/active/Client/ClientWrite",
        "parallel worker/active/Timeout/PgSleep",
        "walsender/idle/Client/ClientRead",
        "checkpointer//Activity/CheckpointerMain",
        "walwriter//Activity/WalWriterMain",
        "logical replication launcher//Activity/LogicalLauncherMain",
    ]
    .into();
    // Before 14, whoever does not track activities does not say what it waits for either.
    wanted.insert(if version < 14 { "client backend/disabled//" } else { "client backend/disabled/Client/ClientRead" });
    // Renamed in 17, when the names came to be made from a list.
    wanted.insert(if version < 17 {
        "autovacuum launcher//Activity/AutoVacuumMain"
    } else {
        "autovacuum launcher//Activity/AutovacuumMain"
    });
    wanted.extend((version >= 14).then_some("archiver//Activity/ArchiverMain"));
    wanted.extend((version >= 17).then_some("walsummarizer//Activity/WalSummarizerWal"));
    wanted.extend((version >= 18).then_some("io worker//Activity/IoWorkerMain"));
    let deadline = Instant::now() + PATIENCE;
    let mut compared = 0;
    while !wanted.is_empty() {
        ensure!(Instant::now() < deadline, "never seen: {wanted:?}");
        let pids = asker.ask("select json_agg(pid) from pg_stat_activity where pid <> pg_backend_pid()")?;
        for pid in pids.as_array().context("a list")? {
            let pid = u32::try_from(pid.as_u64().context("a number")?)?;
            let Some(row) = agrees(&mut asker, pid, version)? else { continue };
            compared += 1;
            let word = |at: usize| row[at].as_str().unwrap_or_default();
            wanted.remove(format!("{}/{}/{}/{}", word(0), word(1), word(5), word(6)).as_str());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{version}: {compared} rows agreed");

    let whole = read_backend(sleeper).and_then(|backend| backend.query).context("a text")?;
    ensure!(whole == long.as_bytes(), "the whole text: {}", String::from_utf8_lossy(&whole));
    let postmaster = read_backend(cluster.pid().context("it runs")?).context("recognised")?;
    ensure!(postmaster.backend_type.as_deref() == Some("postmaster"), "{postmaster:?}");
    ensure!(read_backend(std::process::id()).is_none(), "this is no server");
    writes.signal(libc::SIGCONT);
    drop(walsender);
    Ok(())
}

/// A session that asks for time has what the backend says each second, and at the end.
fn a_session() -> Result<()> {
    let mut cluster = Postgres::create()?;
    cluster.start()?;
    let (_sleeps, pid) = session(&cluster, "select pg_sleep(1000);")?;
    let deadline = Instant::now() + PATIENCE;
    while read_backend(pid).is_none_or(|backend| backend.state.as_deref() != Some("active")) {
        ensure!(Instant::now() < deadline, "it does not begin to sleep");
        std::thread::sleep(Duration::from_millis(10));
    }
    let options = TraceOptions {
        interval: Duration::from_millis(500),
        duration: Some(Duration::from_millis(2500)),
        follow: false,
        smaps_interval: None,
        max_snapshot: Duration::ZERO,
        bpf_stats: false,
        no_bpf: true,
        stacks: false,
        time: true,
        may_time: false,
        spans: memtrace::cli::SpanOptions::default(),
        pg: None,
        verbose: 0,
    };
    let mut backends = Vec::new();
    watch(&Watched::Pid(pid), &options, &Stop::default(), &mut |events| {
        backends.extend(events.iter().filter_map(|event| match event {
            Event::Backend(backend) => Some(backend.clone()),
            _ => None,
        }));
        Ok(())
    })?;
    ensure!(backends.len() >= 2, "{backends:?}");
    let sleeps = Some(("Timeout".to_owned(), "PgSleep".to_owned()));
    for backend in &backends {
        ensure!(backend.pid == pid && backend.state.as_deref() == Some("active"), "{backend:?}");
        ensure!(backend.waits.iter().all(|(wait, _)| *wait == sleeps), "{:?}", backend.waits);
    }
    let samples: u64 = backends.iter().flat_map(|backend| &backend.waits).map(|(_, count)| count).sum();
    ensure!(samples > 1, "{samples} looks");
    println!("{} events, {samples} looks in 2.5 s", backends.len());
    Ok(())
}

/// Reading changes nothing of what is read: neither what is in memory nor how many faults there were.
fn untouched() -> Result<()> {
    let mut cluster = Postgres::create()?;
    cluster.start()?;
    let (mut session, pid) = cluster.session()?;
    // Its answer has been sent, and it waits for the next statement.
    while switches(pid).is_none() {
        std::thread::yield_now();
    }
    let state = || -> Result<(String, String, String)> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let word = |at| stat.split(' ').nth(at).map(str::to_owned).context("a word");
        Ok((std::fs::read_to_string(format!("/proc/{pid}/statm"))?, word(9)?, word(11)?))
    };
    let before = state()?;
    let begin = Instant::now();
    for _ in 0..200 {
        read_backend(pid).context("recognised")?;
    }
    println!("{:?} each, recognised anew each time", begin.elapsed() / 200);
    ensure!(state()? == before, "{before:?} became {:?}", state()?);
    session.close();
    Ok(())
}

/// A session that has been sent this.
fn session(cluster: &Postgres, sql: &str) -> Result<(Target, u32)> {
    let (mut session, pid) = cluster.session()?;
    session.send(sql)?;
    session.send("\n")?;
    Ok((session, pid))
}

fn wait_for(asker: &mut Asker, condition: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while asker.ask(condition)? != true {
        ensure!(Instant::now() < deadline, "never: {condition}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Every number's name is what the server itself calls it.
fn names(server: &Path) -> Result<()> {
    let version = major(server)?;
    let names = Names::of(version).with_context(|| format!("no names of {version}"))?;
    let dir = TempDir::new()?;
    let output = Command::new(server).arg("--version").env("LD_PRELOAD", build_wait_events(&dir)?).output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut named = BTreeSet::new();
    for line in text.lines() {
        let mut words = line.splitn(3, ' ');
        let (kind, number, rest) = (words.next(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let number: u32 = number.parse().with_context(|| format!("a number: {line}"))?;
        if kind == Some("b") {
            let theirs = Some(rest).filter(|name| *name != "unknown process type");
            ensure!(
                names.backend(number) == theirs,
                "backend type {number} is {theirs:?}: {:?}",
                names.backend(number)
            );
            continue;
        }
        let (class, name) = rest.split_once(' ').with_context(|| format!("two words: {line}"))?;
        let unnamed =
            matches!(name, "" | "???" | "extension" | "unknown wait event") || name.starts_with("<unassigned");
        let theirs = if unnamed { (number & 0xff_ffff).to_string() } else { name.to_owned() };
        let ours = names.wait_event(number);
        // A later minor version has more names: this one never has those numbers.
        let later = unnamed && ours.as_ref().is_some_and(|(_, name)| name == "WalReceiverUpstreamCatchup");
        if number != 0 && !later {
            ensure!(ours == Some((class.to_owned(), theirs.clone())), "{number:#x} is {class}/{theirs}: {ours:?}");
        }
        if !unnamed {
            named.insert((class.to_owned(), name.to_owned()));
        }
    }
    ensure!(named.len() > 200, "only {} names", named.len());
    println!("{version}: {} names agreed", named.len());
    if version < 17 {
        return Ok(());
    }
    // The same from its view, which is made of another list.
    let mut cluster = Postgres::create_with(server)?;
    cluster.start()?;
    let mut asker = Asker(cluster.session()?.0);
    let view = asker.ask("select json_agg(json_build_array(type, name)) from pg_wait_events")?;
    let words = |row: &Value| Some((row[0].as_str()?.to_owned(), row[1].as_str()?.to_owned()));
    let view: BTreeSet<_> = view.as_array().context("a list")?.iter().filter_map(words).collect();
    let missing: Vec<_> = named.symmetric_difference(&view).collect();
    ensure!(missing.is_empty(), "in one only: {missing:?}");
    Ok(())
}
