//! Real programs, attached to while they run and started under the tool: nothing unexplained, nothing lost, and
//! the closing balance is what `/proc/PID/status` says once the target stands still.
//!
//! Sizes are for two minutes altogether; `MEMTRACE_FULL=1` makes them as large as a database's.

use anyhow::{Context, Result, ensure};
use memtrace_tests::database::{Postgres, program, redis, redis_command, redis_up};
use memtrace_tests::machine::TempDir;
use memtrace_tests::pages::{Pages, page_size};
use memtrace_tests::runner::{self, Test};
use memtrace_tests::scene::{Play, close_stopped, options};
use memtrace_tests::target::{Target, children};
use memtrace_tests::tool::{Outcome, PATIENCE, Tool, workload_binary};
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const TESTS: &[Test] = &[
    ("postgres.sort", || postgres(SORT)),
    ("postgres.hash_join", || postgres(HASH_JOIN)),
    ("postgres.index_build", || postgres(INDEX_BUILD)),
    ("postgres.started", postgres_started),
    ("postgres.whole_server", postgres_whole_server),
    ("redis.attached", redis_attached),
    ("redis.started", redis_started),
    ("java.attached", java_attached),
    ("java.started", java_started),
    ("python.attached", python_attached),
    ("python.started", python_started),
    ("stress_ng.vm.flip", || stress_vm("flip")),
    ("stress_ng.vm.zero-one", || stress_vm("zero-one")),
    ("stress_ng.vm.rowhammer", || stress_vm("rowhammer")),
    ("stress_ng.vm.attached", stress_attached),
    ("stress_ng.mmap", || stress(&["--mmap", "2", "--mmap-bytes", "128M"])),
    ("stress_ng.brk", stress_brk),
    ("stress_ng.fork", || stress(&["--fork", "2"])),
    ("allocator.attached", allocator_attached),
    ("allocator.started", allocator_started),
];

fn main() -> ExitCode {
    runner::run(TESTS)
}

/// How long one program may work.
const LONG: Duration = Duration::from_secs(300);

fn full() -> bool {
    std::env::var_os("MEMTRACE_FULL").is_some()
}

fn sized(usual: u64, full_size: u64) -> u64 {
    if full() { full_size } else { usual }
}

fn seconds() -> String {
    sized(3, 10).to_string()
}

/// RES came up by at least this many MiB at some time, by what the entries say: the program did what it is here for.
fn assert_grew(outcome: &Outcome, mebibytes: i64) -> Result<()> {
    let grown: i64 = outcome
        .books
        .entries
        .iter()
        .map(|entry| (entry.delta.anon + entry.delta.file + entry.delta.shmem).max(0))
        .sum();
    let grown = (grown * page_size() as i64) >> 20;
    ensure!(grown >= mebibytes, "only {grown} MiB came in\n{}", outcome.books.summary());
    Ok(())
}

fn assert_ended(outcome: &Outcome) -> Result<()> {
    outcome.assert_closed()?;
    for (mm, account) in &outcome.books.accounts {
        ensure!(account.closing == Pages::ZERO, "mm {mm} of {} closes with {}", account.pid, account.closing);
    }
    Ok(())
}

/// What a backend does, with `$N` for the number of rows; and how many MiB that brings in at least.
struct Query {
    prepare: &'static str,
    run: &'static str,
    rows: (u64, u64),
    mebibytes: (i64, i64),
}

const SORT: Query = Query {
    prepare: "",
    run: "select count(*) from (select md5(i::text) as key from generate_series(1, $N) i order by key offset 0) s;",
    rows: (1_000_000, 5_000_000),
    mebibytes: (80, 400),
};

const HASH_JOIN: Query = Query {
    prepare: "create table a as select i, md5(i::text) as text from generate_series(1, $N) i; analyze a;",
    run: "set enable_mergejoin = off; set enable_nestloop = off; \
          select count(*) from a x join a y on x.text = y.text where x.i + y.i > 0;",
    rows: (500_000, 3_000_000),
    mebibytes: (40, 200),
};

const INDEX_BUILD: Query = Query {
    prepare: "create table b as select md5(i::text) as text from generate_series(1, $N) i;",
    run: "create index on b (text);",
    rows: (800_000, 5_000_000),
    mebibytes: (50, 300),
};

/// A backend is attached to while it waits for its query.
fn postgres(query: Query) -> Result<()> {
    let rows = sized(query.rows.0, query.rows.1).to_string();
    let mut cluster = Postgres::create()?;
    cluster.start()?;
    let (mut session, backend) = cluster.session()?;
    session.send(&format!("{}\nselect 'prepared';\n", query.prepare.replace("$N", &rows)))?;
    session.wait_for_line("prepared", LONG)?;
    let tool = Tool::attach(backend, &[])?;
    session.send(&format!("{}\nselect 'finished';\n", query.run.replace("$N", &rows)))?;
    session.wait_for_line("finished", LONG)?;
    let outcome = close_stopped(tool, backend)?;
    assert_grew(&outcome, if full() { query.mebibytes.1 } else { query.mebibytes.0 })
}

/// A single-user backend, started by memtrace.
fn postgres_started() -> Result<()> {
    let cluster = Postgres::create()?;
    let command = cluster.single_user();
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut tool = Tool::command(&command, &[])?;
    let mut input = tool.stdin().context("stdin")?;
    let rows = sized(SORT.rows.0 / 2, SORT.rows.1).to_string();
    writeln!(input, "{}", SORT.run.replace("$N", &rows))?;
    drop(input);
    let outcome = tool.wait_within(LONG)?;
    assert_ended(&outcome)?;
    assert_grew(&outcome, if full() { SORT.mebibytes.1 } else { SORT.mebibytes.0 / 2 })
}

/// The postmaster with everyone it forks, each with its own books.
fn postgres_whole_server() -> Result<()> {
    let mut cluster = Postgres::create()?;
    cluster.start()?;
    let postmaster = cluster.pid().context("a server")?;
    let tool = Tool::attach(postmaster, &["--follow"])?;
    let (mut session, backend) = cluster.session()?;
    session.send(&format!("{}\nselect 'finished';\n", SORT.run.replace("$N", "200000")))?;
    session.wait_for_line("finished", LONG)?;
    let outcome = close_stopped(tool, backend)?;
    let books = outcome.books.accounts.values().filter(|account| account.pid == backend).count();
    ensure!(books == 1, "the backend has {books} books");
    assert_grew(&outcome, 15)
}

fn fill_redis(dir: &TempDir) -> Result<()> {
    let keys = sized(200_000, 1_000_000).to_string();
    redis(dir, &["debug", "populate", &keys, "key", "1000"])?;
    redis(dir, &["flushall"]).map(drop)
}

/// Loads 200 MB (1 GB when full) and drops it.
fn redis_attached() -> Result<()> {
    let dir = TempDir::new()?;
    let command = redis_command(&dir)?;
    let server = Target::start(Command::new(&command[0]).args(&command[1..]))?;
    redis_up(&dir)?;
    let tool = Tool::attach(server.pid(), &[])?;
    fill_redis(&dir)?;
    let outcome = close_stopped(tool, server.pid())?;
    assert_grew(&outcome, sized(180, 900) as i64)
}

fn redis_started() -> Result<()> {
    let dir = TempDir::new()?;
    let command = redis_command(&dir)?;
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let tool = Tool::command(&command, &[])?;
    redis_up(&dir)?;
    fill_redis(&dir)?;
    // The answer to this one is the closed connection.
    let _ = redis(&dir, &["shutdown", "nosave"]);
    let outcome = tool.wait_within(LONG)?;
    assert_ended(&outcome)?;
    assert_grew(&outcome, sized(180, 900) as i64)
}

/// Says ready, waits for a line, fills and drops lists of arrays, says finished, waits for the end of input.
const JAVA: &str = r#"
import java.util.*;
public class Churn {
    public static void main(String[] arguments) throws Exception {
        System.out.println("ready");
        System.in.read();
        long sum = 0;
        for (int round = 0; round < Integer.parseInt(arguments[0]); round++) {
            List<byte[]> held = new ArrayList<>();
            for (int block = 0; block < 20000; block++) {
                byte[] bytes = new byte[1000 + block % 5000];
                bytes[block % 1000] = 1;
                held.add(bytes);
                sum += bytes.length;
            }
            System.gc();
        }
        System.out.println("finished " + sum);
        while (System.in.read() >= 0) { }
    }
}
"#;

fn java(dir: &TempDir) -> Result<Vec<String>> {
    let java = program(&["java"], "openjdk-17-jdk-headless")?.display().to_string();
    let source = dir.path().join("Churn.java");
    std::fs::write(&source, JAVA)?;
    let source = source.display().to_string();
    let rounds = sized(10, 60).to_string();
    Ok([java.as_str(), "-Xmx512m", "-XX:+UseG1GC", source.as_str(), rounds.as_str()].map(str::to_owned).to_vec())
}

fn java_attached() -> Result<()> {
    let dir = TempDir::new()?;
    let command = java(&dir)?;
    attached_in_dialogue(&command, 50)
}

fn java_started() -> Result<()> {
    let dir = TempDir::new()?;
    let command = java(&dir)?;
    started_with_no_input(&command, 100)
}

/// Objects of many sizes, a copy-on-write child, files, and big blocks that come and go.
const PYTHON: &str = r#"
import os, sys, mmap, gc
print("ready", flush=True)
sys.stdin.buffer.read(1)
for round in range(int(sys.argv[1])):
    words = {str(i): [i] * (i % 50) for i in range(100000)}
    blocks = [bytearray(b"x" * (4096 * (i % 64 + 1))) for i in range(300)]
    child = os.fork()
    if child == 0:
        words["0"] = None
        os._exit(0)
    os.waitpid(child, 0)
    with open(sys.executable, "rb") as file:
        view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        sum(view[i] for i in range(0, len(view), 4096))
        view.close()
    del words, blocks
    gc.collect()
print("finished", flush=True)
sys.stdin.buffer.read()
"#;

fn python(dir: &TempDir) -> Result<Vec<String>> {
    let python = program(&["/usr/bin/python3", "python3"], "python3")?.display().to_string();
    let script = dir.path().join("churn.py");
    std::fs::write(&script, PYTHON)?;
    Ok(vec![python, script.display().to_string(), sized(4, 30).to_string()])
}

fn python_attached() -> Result<()> {
    let dir = TempDir::new()?;
    let command = python(&dir)?;
    attached_in_dialogue(&command, 100)
}

fn python_started() -> Result<()> {
    let dir = TempDir::new()?;
    let command = python(&dir)?;
    started_with_no_input(&command, 100)
}

/// A program that says ready, waits for a byte, and says finished.
fn attached_in_dialogue(command: &[String], mebibytes: i64) -> Result<()> {
    let mut target = Target::start(Command::new(&command[0]).args(&command[1..]))?;
    target.wait_for_line("ready", LONG)?;
    let tool = Tool::attach(target.pid(), &[])?;
    target.send("x")?;
    target.wait_for_line("finished", LONG)?;
    let outcome = close_stopped(tool, target.pid())?;
    assert_grew(&outcome, mebibytes)
}

/// The same from its first instruction to its end, which comes by itself when there is no input.
fn started_with_no_input(command: &[String], mebibytes: i64) -> Result<()> {
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut tool = Tool::command(&command, &[])?;
    drop(tool.stdin());
    let outcome = tool.wait_within(LONG)?;
    assert_ended(&outcome)?;
    assert_grew(&outcome, mebibytes)
}

fn stress_ng() -> Result<String> {
    Ok(program(&["stress-ng"], "stress-ng")?.display().to_string())
}

fn stress_vm(method: &str) -> Result<()> {
    stress(&["--vm", "2", "--vm-bytes", "512M", "--vm-method", method])
}

/// It raises the break until that fails, then lowers it again: at 256 MiB instead of the machine's end.
fn stress_brk() -> Result<()> {
    let limiter = program(&["prlimit"], "util-linux")?.display().to_string();
    stress_under(&[&limiter, "--data=268435456"], &["--brk", "2"])
}

/// stress-ng works in children of children: all of them are followed, all of them end.
fn stress(arguments: &[&str]) -> Result<()> {
    stress_under(&[], arguments)
}

fn stress_under(wrapper: &[&str], arguments: &[&str]) -> Result<()> {
    let (program, seconds) = (stress_ng()?, seconds());
    let mut command = wrapper.to_vec();
    command.extend([program.as_str(), "--timeout", &seconds]);
    command.extend(arguments);
    let outcome = Tool::command(&command, &["--follow"])?.wait_within(LONG)?;
    assert_ended(&outcome)?;
    ensure!(outcome.books.accounts.len() >= 3, "only {} address spaces", outcome.books.accounts.len());
    assert_grew(&outcome, 10)
}

/// A worker is found among the children's children and attached to alone.
fn stress_attached() -> Result<()> {
    let program = stress_ng()?;
    let target = Target::start(
        Command::new(program).args(["--vm", "1", "--vm-bytes", "256M", "--timeout", "120"]).stderr(Stdio::null()),
    )?;
    let deadline = Instant::now() + PATIENCE;
    let worker = loop {
        let deepest = deepest_child(target.pid())?;
        if memtrace_tests::pages::Pages::read(memtrace_tests::pages::Pid::Of(deepest)).is_ok_and(|p| p.anon > 10_000) {
            break deepest;
        }
        ensure!(Instant::now() < deadline, "stress-ng's worker does not start to work");
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut tool = Tool::attach(worker, &[])?;
    let mut statements = 0;
    tool.wait_for("five statements", |record| {
        statements += usize::from(record.kind() == "statement");
        statements == 5
    })?;
    let outcome = close_stopped(tool, worker)?;
    target.signal(libc::SIGINT);
    drop(outcome);
    let mut target = target;
    target.wait().map(drop)
}

fn deepest_child(pid: u32) -> Result<u32> {
    let mut deepest = pid;
    while let Some(&child) = children(deepest)?.last() {
        if !Path::new(&format!("/proc/{child}")).exists() {
            break;
        }
        deepest = child;
    }
    Ok(deepest)
}

fn allocator_attached() -> Result<()> {
    let dir = TempDir::new()?;
    let seconds = seconds();
    let play = Play { options: &[("--seconds", &seconds)], ..Play::default() };
    let mut target = Target::workload("allocator", &options(&dir, &play))?;
    let tool = Tool::attach(target.pid(), &[])?;
    target.send("x")?;
    target.report()?;
    let outcome = close_stopped(tool, target.pid())?;
    assert_grew(&outcome, 50)
}

fn allocator_started() -> Result<()> {
    let binary = workload_binary().display().to_string();
    let seconds = seconds();
    started_with_no_input(&[binary, "allocator".to_owned(), "--seconds".to_owned(), seconds], 50)
}
