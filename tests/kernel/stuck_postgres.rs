//! `memtrace stuck` on backends of a real PostgreSQL, attached before and after the stall began: the verdict, and the
//! statement and the wait event against what `pg_stat_activity` says of the same backend; and what watching one costs.

use anyhow::{Context, Result, ensure};
use memtrace_tests::database::{Observer, Postgres, postgres_binary};
use memtrace_tests::machine::{Awake, Cgroup, Swap, TempDir};
use memtrace_tests::runner::{self, Test, skip};
use memtrace_tests::stuck::{Asked, Begun, judge, tell_confusion, wait_until_it_watches};
use memtrace_tests::target::Target;
use memtrace_tests::tool::{Lines, PATIENCE, binary};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

macro_rules! both {
    ($($name:literal => $play:expr;)*) => {
        &[$((concat!($name, ".before"), || ($play)(Begun::Before)), (concat!($name, ".after"), || ($play)(Begun::After))),*]
    };
}

const STALLS: &[Test] = both! {
    "postgres.row_lock" => row_lock;
    "postgres.pgbench" => contention;
    "postgres.lwlock" => lwlock;
    "postgres.lwlock_kept" => lwlock_kept;
    "postgres.sort_spills" => sort_spills;
    "postgres.cold_scan" => cold_scan;
    "postgres.swapped_out" => swapped_out;
    "postgres.silent_client" => silent_client;
};

const COST: &[Test] = &[
    ("postgres.cost.stuck", || cost(&["stuck", "--json", "--duration", "1h"], Counter::of_switches)),
    ("postgres.cost.watch", || cost(&["--json", "--interval", "1s"], || Ok(None))),
    ("postgres.cost.statements", || cost(&["--statements", "--json", "--interval", "1s"], Counter::of_statements)),
];

fn main() -> ExitCode {
    let code = runner::run(&[STALLS, COST].concat());
    tell_confusion("stuck_postgres");
    code
}

fn server(settings: &[(&str, &str)]) -> Result<Postgres> {
    let mut server = Postgres::create()?;
    for (name, value) in settings {
        server.set(name, value)?;
    }
    server.start()?;
    Ok(server)
}

/// What must be found.
struct Expected<'a> {
    classes: &'a [&'a str],
    memory: bool,
    /// The wait event of which both speak; `None` where it comes and goes.
    wait: Option<(&'a str, &'a str)>,
}

/// Has the backend execute the statement, asks the tool and the server, and compares.
fn compare(
    server: &Postgres,
    (session, pid): (&mut Target, u32),
    statement: &str,
    begun: Begun,
    expected: &Expected<'_>,
    then: impl FnOnce(&Target) -> Result<()>,
) -> Result<Value> {
    let mut observer = Observer::of(server)?;
    let stall = |session: &mut Target, observer: &mut Observer| {
        session.send(&format!("{statement};\n"))?;
        observer.wait_until(pid, |activity| activity["query"] == format!("{statement};"))?;
        then(session)?;
        if let Some((_, event)) = expected.wait.filter(|_| begun == Begun::Before) {
            observer.wait_until(pid, |activity| activity["wait_event"] == event)?;
        }
        Ok::<(), anyhow::Error>(())
    };
    let answer = if begun == Begun::Before {
        stall(session, &mut observer)?;
        Asked::about(pid, Duration::from_secs(2))?.answer()?
    } else {
        let mut asked = Asked::about(pid, Duration::from_secs(4))?;
        asked.wait_until_it_watches()?;
        stall(session, &mut observer)?;
        asked.answer()?
    };
    let activity = observer.activity(pid)?;
    println!("    {}", answer["verdict"]["sentence"].as_str().unwrap_or_default());
    judge(&answer, expected.classes, Some(expected.memory), begun)?;
    let database = &answer["database"];
    ensure!(database["kind"] == "postgresql", "the database is {database}");
    ensure!(database["query"] == activity["query"], "the statement is {}, {}", database["query"], activity["query"]);
    ensure!(database["backend_type"] == activity["backend_type"], "its type is {}", database["backend_type"]);
    if let Some((kind, event)) = expected.wait {
        ensure!(
            activity["wait_event_type"] == kind && activity["wait_event"] == event,
            "the server waits for {}: the stall did not come about",
            activity["wait_event"]
        );
        // Under its eyes, it may have waited for its client longer than for this.
        let mut seen = database["waits"].as_array().into_iter().flatten();
        ensure!(
            seen.any(|wait| wait["type"] == kind && wait["event"] == event),
            "its waits are {}, {kind}/{event} for the server",
            database["waits"]
        );
    }
    Ok(answer)
}

fn row_lock(begun: Begun) -> Result<()> {
    let server = server(&[])?;
    let (mut holder, _) = server.session()?;
    holder.send("create table rows as select 1 as id; begin; update rows set id = 1;\nselect 'held';\n")?;
    holder.wait_for_line("held", PATIENCE)?;
    let (mut session, pid) = server.session()?;
    // The server waits for a latch, by epoll.
    let expected = Expected {
        classes: &["blocked.poll", "blocked.semaphore"],
        memory: false,
        wait: Some(("Lock", "transactionid")),
    };
    let answer = compare(&server, (&mut session, pid), "update rows set id = 2", begun, &expected, |_| Ok(()))?;
    let next = answer["verdict"]["next"][0].as_str().unwrap_or_default();
    ensure!(next.contains(&format!("pg_blocking_pids({pid})")), "next is {next}");
    Ok(())
}

/// The client is stopped while rows come.
fn silent_client(begun: Begun) -> Result<()> {
    let server = server(&[])?;
    let (mut session, pid) = server.session()?;
    let expected =
        Expected { classes: &["blocked.socket", "blocked.poll"], memory: false, wait: Some(("Client", "ClientWrite")) };
    let statement = "select repeat('x', 1000) from generate_series(1, 10000000)";
    let client = session.pid();
    let answer = compare(&server, (&mut session, pid), statement, begun, &expected, |client| {
        client.signal(libc::SIGSTOP);
        Ok(())
    })?;
    // Who does not read is named.
    let evidence = answer["verdict"]["evidence"].to_string();
    ensure!(evidence.contains(&format!("(pid {client} psql)")), "the client is {client}: {evidence}");
    Ok(())
}

/// What the server says of its temporary files is held against what the tool saw in the backend's descriptors.
fn sort_spills(begun: Begun) -> Result<()> {
    let server = server(&[("work_mem", "64kB")])?;
    let (mut session, pid) = server.session()?;
    let expected =
        Expected { classes: &["cpu.user", "cpu.kernel", "blocked.file_io", "runnable"], memory: false, wait: None };
    let statement = "select count(*) from (select g from generate_series(1, 30000000) g order by md5(g::text)) s";
    let answer = compare(&server, (&mut session, pid), statement, begun, &expected, |_| Ok(()))?;
    let database = &answer["database"];
    ensure!(database["work_mem"] == 65536, "work_mem is {}", database["work_mem"]);
    let on_disk = Observer::of(&server)?.ask("select coalesce(sum(size), 0) from pg_ls_tmpdir()")?.parse::<u64>()?;
    let told = database["temporary_bytes"].as_u64().context("temporary_bytes")?;
    // It grows, and the server is asked after the tool.
    ensure!((1 << 20..=on_disk).contains(&told), "{told} bytes are on disk, {on_disk} for the server");
    let spilled = answer["verdict"]["evidence"].as_array().into_iter().flatten();
    let mut spilled = spilled.filter_map(Value::as_str).filter(|fact| fact.starts_with("spilled: "));
    ensure!(spilled.any(|fact| fact.ends_with("than 64 KiB")), "the evidence is {}", answer["verdict"]["evidence"]);
    Ok(())
}

/// A table that is neither in shared_buffers nor in the page cache, on a disk that reads little a second.
fn cold_scan(begun: Begun) -> Result<()> {
    let mut server = server(&[("shared_buffers", "16MB")])?;
    let (mut session, _) = server.session()?;
    session.send(
        "create table cold as select g, repeat('x', 500) as filler from generate_series(1, 400000) g; \
         vacuum freeze cold; checkpoint;\nselect 'made';\n",
    )?;
    session.wait_for_line("made", PATIENCE)?;
    drop(session);
    server.restart()?;
    evict(&server.data().join("base"))?;
    let disk = Cgroup::slow_reads(server.data(), 10)?;
    let (mut session, pid) = server.session()?;
    disk.join(pid)?;
    let expected = Expected { classes: &["blocked.file_io"], memory: false, wait: Some(("IO", "DataFileRead")) };
    let number = Observer::of(&server)?.ask("select pg_relation_filenode('cold')")?;
    let answer = compare(&server, (&mut session, pid), "select count(filler) from cold", begun, &expected, |_| Ok(()))?;
    let verdict = &answer["verdict"];
    let sentence = verdict["sentence"].as_str().unwrap_or_default();
    ensure!(sentence.contains(&format!("/base/5/{number} ")), "it reads {number}: {sentence}");
    let next = verdict["next"][0].as_str().unwrap_or_default();
    ensure!(next.contains(&format!(" = {number};")), "next is {next}");
    Ok(())
}

/// Throws each file's pages out of the page cache.
fn evict(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            evict(&path)?;
            continue;
        }
        let file = std::fs::File::open(path)?;
        file.sync_all()?;
        // SAFETY: no memory is involved.
        unsafe { libc::posix_fadvise(std::os::fd::AsRawFd::as_raw_fd(&file), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    Ok(())
}

/// A hash of more than its cgroup has, whose rows come in no order: nearly each of them brings a page back from swap.
fn swapped_out(begun: Begun) -> Result<()> {
    let swap = Swap::on(768)?;
    let server = server(&[("shared_buffers", "16MB"), ("work_mem", "1GB"), ("enable_sort", "off")])?;
    let (mut session, pid) = server.session()?;
    let group = Cgroup::memory()?;
    group.write("memory.limit_in_bytes", &(24_u64 << 20).to_string())?;
    group.join(pid)?;
    // A fast disk brings a page back sooner than a busy machine finds a CPU.
    let disk = Cgroup::slow_reads(Path::new(swap.path()), 400)?;
    disk.join(pid)?;
    let expected = Expected { classes: &["fault.swapin", "reclaim.memcg"], memory: true, wait: None };
    let statement = "select count(*) from (select k from \
                     (select (generate_series(1, 30000000)::bigint * 7919) % 3000017 as k) s group by k) t";
    let compared = compare(&server, (&mut session, pid), statement, begun, &expected, |_| {
        let deadline = Instant::now() + PATIENCE;
        while major_faults(pid)? < 500 {
            ensure!(Instant::now() < deadline, "it is not swapped");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    });
    // Its end would bring page after page back as slowly.
    for group in [&disk, &group] {
        let parent = group.path().parent().context("a group's parent")?;
        std::fs::write(parent.join("cgroup.procs"), pid.to_string())?;
    }
    compared.map(|_| ())
}

/// That a process has had so far.
fn major_faults(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(") ").context("a name in parentheses")?.1;
    Ok(fields.split(' ').nth(9).context("majflt")?.parse()?)
}

fn pgbench(server: &Postgres, arguments: &[&str]) -> Result<Command> {
    let program = server.bin_command("pgbench");
    if !Path::new(program.get_program()).is_file() {
        skip("pgbench is not installed; type: apt-get install -y postgresql-contrib")?;
    }
    let mut command = program;
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    Ok(command)
}

/// A client of pgbench that is gone when this is.
struct Load(std::process::Child);

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One of the backends that serve pgbench.
fn client_of_pgbench(observer: &mut Observer) -> Result<u32> {
    let sql = "select coalesce(min(pid), 0) from pg_stat_activity where application_name = 'pgbench' and query ~ 'UPDATE|SELECT'";
    let deadline = Instant::now() + PATIENCE;
    loop {
        let pid = observer.ask(sql)?.parse()?;
        if pid != 0 {
            return Ok(pid);
        }
        ensure!(Instant::now() < deadline, "pgbench does not begin");
    }
}

/// Thirty-two clients that update the same few rows: what one of them waits for comes and goes, and memory it is not.
fn contention(begun: Begun) -> Result<()> {
    let server = server(&[])?;
    ensure!(pgbench(&server, &["-i", "-q", "-s", "1"])?.status()?.success(), "pgbench -i fails");
    let start = || Ok::<Load, anyhow::Error>(Load(pgbench(&server, &["-c", "32", "-j", "2", "-T", "60"])?.spawn()?));
    let mut observer = Observer::of(&server)?;
    let mut load = start()?;
    let pid = client_of_pgbench(&mut observer)?;
    let answer = if begun == Begun::Before {
        Asked::about(pid, Duration::from_secs(2))?.answer()?
    } else {
        // Under its eyes: the clients stand still when it comes, and go on when it watches.
        let client = load.0.id() as i32;
        // SAFETY: signals to our own child.
        unsafe { libc::kill(client, libc::SIGSTOP) };
        let mut asked = Asked::about(pid, Duration::from_secs(4))?;
        asked.wait_until_it_watches()?;
        // SAFETY: as above.
        unsafe { libc::kill(client, libc::SIGCONT) };
        asked.answer()?
    };
    ensure!(load.0.try_wait()?.is_none(), "pgbench ended");
    println!("    {}", answer["verdict"]["sentence"].as_str().unwrap_or_default());
    // All of them change the one branch that there is: of thirty-two one goes on.
    judge(&answer, &["blocked.poll", "blocked.semaphore"], Some(false), begun)?;
    let sentence = answer["verdict"]["sentence"].as_str().unwrap_or_default();
    ensure!(sentence.contains("PostgreSQL's Lock/t"), "no wait for a row's lock: {sentence}");
    let query = answer["database"]["query"].as_str().context("the statement")?;
    let known = ["BEGIN", "UPDATE pgbench_", "SELECT abalance", "INSERT INTO pgbench_history", "END"];
    ensure!(known.iter().any(|start| query.starts_with(start)), "the statement is {query}");
    Ok(())
}

/// Thirty-two clients of pgbench whose statements commit again and again, each waiting until the log is on the disk.
struct Commits {
    server: Postgres,
    load: Load,
    /// A transaction that none of them gets past.
    gate: Option<Target>,
    _dir: TempDir,
}

impl Commits {
    /// With a gate before them, where they are to begin later.
    fn start(gate: bool) -> Result<Self> {
        let server = server(&[("fsync", "on")])?;
        let mut observer = Observer::of(&server)?;
        observer.session().send(
            "create table ticks (v int); create procedure commits() language plpgsql as \
             'begin loop insert into ticks values (1); commit; end loop; end';\n\
             select 'made';\n",
        )?;
        observer.session().wait_for_line("made", PATIENCE)?;
        let gate = if gate {
            let (mut gate, _) = server.session()?;
            gate.send("begin; lock table ticks;\nselect 'held';\n")?;
            gate.wait_for_line("held", PATIENCE)?;
            Some(gate)
        } else {
            None
        };
        let dir = TempDir::new()?;
        let script = dir.path().join("commits.sql");
        std::fs::write(&script, "call commits();\n")?;
        let script = script.display().to_string();
        let mut load = pgbench(&server, &["-n", "-f", &script, "-c", "32", "-j", "2", "-T", "600"])?;
        // Each of the processes must have its word: the rest waits for it.
        let commits = Self { load: Load(load.spawn()?), server, gate, _dir: dir };
        let sql = "select count(*) >= 32 from pg_stat_activity where query like 'call%' and state = 'active'";
        let deadline = Instant::now() + PATIENCE;
        while observer.ask(sql)? != "t" {
            ensure!(Instant::now() < deadline, "pgbench does not begin");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(commits)
    }
}

const WRITES: &str = "LWLock/WALWrite";

/// What each of pgbench's backends waits for, in one look.
fn looks(observer: &mut Observer) -> Result<Vec<(u32, String)>> {
    let told = observer.ask(
        "select json_agg(json_build_array(pid, concat_ws('/', wait_event_type, wait_event))) \
         from pg_stat_activity where query like 'call%'",
    )?;
    Ok(serde_json::from_str(&told)?)
}

/// The log is written by one at a time: how often a backend waits for its turn, for the tool and for whoever asks the
/// server at the same time.
fn lwlock(begun: Begun) -> Result<()> {
    let mut commits = Commits::start(begun == Begun::After)?;
    let mut observer = Observer::of(&commits.server)?;
    let (pid, _) = looks(&mut observer)?.pop().context("a backend")?;
    let mut asked = Asked::about(pid, Duration::from_secs(4))?;
    asked.wait_until_it_watches()?;
    commits.gate = None;
    let (mut waiting, mut all) = (0.0, 0.0);
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        let look = looks(&mut observer)?;
        let (_, wait) = look.into_iter().find(|(backend, _)| *backend == pid).context("it ended")?;
        all += 1.0;
        waiting += f64::from(u8::from(wait == WRITES));
        std::thread::sleep(Duration::from_millis(15));
    }
    let answer = asked.answer()?;
    ensure!(commits.load.0.try_wait()?.is_none(), "pgbench ended");
    println!("    {}", answer["verdict"]["sentence"].as_str().unwrap_or_default());
    let (told, looked) = share_of(&answer, WRITES)?;
    let truth = waiting / all;
    println!("    {WRITES}: {told:.3} of {looked} looks, {truth:.3} of {all} at the server");
    ensure!(truth > 0.5, "the stall did not come about");
    // Three standard deviations of looks that are not independent.
    ensure!((told - truth).abs() < 0.2, "they disagree");
    judge(&answer, &["blocked.semaphore"], Some(false), begun)?;
    is_about_the_log(&answer)
}

fn is_about_the_log(answer: &Value) -> Result<()> {
    let sentence = answer["verdict"]["sentence"].as_str().unwrap_or_default();
    ensure!(sentence.contains("internal locks, on the writing of its log to disk (LWLock/WALWrite)"), "{sentence}");
    ensure!(answer["database"]["query"] == "call commits();", "the statement is {}", answer["database"]["query"]);
    Ok(())
}

/// Of the tool's looks at the wait event, the share that found this one, and how many they were.
fn share_of(answer: &Value, name: &str) -> Result<(f64, f64)> {
    let waits = answer["database"]["waits"].as_array().context("waits")?;
    let seen = |wait: &Value| wait["seen"].as_f64().unwrap_or_default();
    // Before the gate was opened it waited for that.
    let all: f64 = waits.iter().filter(|wait| wait["event"] != "relation").map(seen).sum();
    let is = |wait: &&Value| {
        wait["type"].as_str().zip(wait["event"].as_str()).is_some_and(|(kind, event)| format!("{kind}/{event}") == name)
    };
    let found: f64 = waits.iter().filter(is).map(seen).sum();
    Ok((found / all, all))
}

/// Whoever writes the log is stopped while it does: nobody else commits any more.
fn lwlock_kept(begun: Begun) -> Result<()> {
    let commits = Commits::start(false)?;
    let mut observer = Observer::of(&commits.server)?;
    let (answer, _stopped) = if begun == Begun::Before {
        let stopped = stop_the_writer(&mut observer, None)?;
        (Asked::about(stopped.waiter, Duration::from_secs(2))?.answer()?, stopped)
    } else {
        let (pid, _) = looks(&mut observer)?.pop().context("a backend")?;
        let mut asked = Asked::about(pid, Duration::from_secs(5))?;
        asked.wait_until_it_watches()?;
        let stopped = stop_the_writer(&mut observer, Some(pid))?;
        (asked.answer()?, stopped)
    };
    println!("    {}", answer["verdict"]["sentence"].as_str().unwrap_or_default());
    judge(&answer, &["blocked.semaphore"], Some(false), begun)?;
    let (told, _) = share_of(&answer, WRITES)?;
    ensure!(begun == Begun::After || told > 0.99, "{WRITES} in {told:.3} of the looks");
    is_about_the_log(&answer)
}

/// A backend that is stopped, and goes on when this is dropped.
struct Stopped {
    pid: u32,
    waiter: u32,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: a signal to a backend of our own server, which has not ended: it is stopped.
        unsafe { libc::kill(self.pid.cast_signed(), libc::SIGCONT) };
    }
}

/// Stops a backend, not `spared`, that holds the lock on the log's writing, which is so when another one, `spared` if there is
/// one, waits for it in each of many looks.
fn stop_the_writer(observer: &mut Observer, spared: Option<u32>) -> Result<Stopped> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        ensure!(Instant::now() < deadline, "no writer could be stopped");
        let look = looks(observer)?;
        let Some((pid, _)) = look.iter().find(|(pid, wait)| wait == "IO/WALSync" && Some(*pid) != spared) else {
            continue;
        };
        let waiter = spared.or_else(|| look.iter().find(|(other, _)| other != pid).map(|(other, _)| *other));
        let stopped = Stopped { pid: *pid, waiter: waiter.context("another backend")? };
        // SAFETY: a signal to a backend of our own server, which serves pgbench until that ends.
        unsafe { libc::kill(stopped.pid.cast_signed(), libc::SIGSTOP) };
        let mut waits = 0;
        let keeps = (0..50).all(|_| {
            std::thread::sleep(Duration::from_millis(5));
            let look = looks(observer).unwrap_or_default();
            let waits_for_it = look.iter().any(|(pid, wait)| *pid == stopped.waiter && wait == WRITES);
            waits += u32::from(waits_for_it);
            // It may have had the lock already when the other one was stopped.
            waits_for_it || waits == 0
        });
        if keeps && waits > 0 {
            return Ok(stopped);
        }
    }
}

/// Seconds of pgbench's own report that count, after one that began earlier and one in which the tool begins.
const COUNTED: usize = 4;
const SKIPPED: usize = 2;

/// What costs no more than 3 % of the throughput.
const LITTLE: f64 = 0.97;

/// One client of pgbench, its backend watched and not in turns, on CPUs that are kept from going idle: between two
/// statements that would decide, and they wake up sooner while somebody watches.
///
/// Twice: pgbench's own transactions on a server that syncs what it commits; judged, over ten pairs, with
/// `MEMTRACE_FULL=1`. And reads of one row each, without syncs, the shortest statement there is, which no more than
/// prints: there hooks in the switches or at both ends of a statement may cost more than the 3 %. Beside it is `perf stat`,
/// where it is installed, which only counts how often one of those is reached.
fn cost(tool: &[&str], peer: fn() -> Result<Option<Counter>>) -> Result<()> {
    let full = std::env::var_os("MEMTRACE_FULL").is_some();
    let pairs = if full { 10 } else { 1 };
    let awake = Awake::start()?;
    let ratio = cost_of(tool, "on", "--builtin=tpcb-like", pairs, None)?;
    cost_of(tool, "off", "--builtin=select-only", pairs, peer()?.as_ref())?;
    awake.stop()?;
    ensure!(!full || ratio >= LITTLE, "watching costs more than 3 %");
    Ok(())
}

/// The ratio of the medians of throughput, which it prints with the interval that holds it with 95 %.
fn cost_of(tool: &[&str], fsync: &str, load: &str, pairs: usize, peer: Option<&Counter>) -> Result<f64> {
    let server = server(&[("fsync", fsync)])?;
    ensure!(pgbench(&server, &["-i", "-q", "-s", "20"])?.status()?.success(), "pgbench -i fails");
    let mut pgbench = pgbench(&server, &[load, "-c", "1", "-T", "3600", "-P", "1"])?;
    let mut pgbench = Load(pgbench.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?);
    let reports = Lines::of(pgbench.0.stderr.take().context("piped")?);
    let pid = client_of_pgbench(&mut Observer::of(&server)?)?;
    let (mut alone, mut watched, mut counted) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs {
        // Who is first takes turns, too.
        for watch in [pair % 2 == 0, pair % 2 != 0] {
            let watcher = watch.then(|| watcher(pid, tool)).transpose()?;
            let rates = if watch { &mut watched } else { &mut alone };
            rates.push(throughput(&reports)?);
            drop(watcher);
        }
        if let Some(peer) = peer {
            let counter = peer.start(pid)?;
            counted.push(throughput(&reports)?);
            drop(counter);
        }
    }
    let tell = |who: &str, rates: &[f64]| {
        let ratio = median(rates.to_vec()) / median(alone.clone());
        // One pair says nothing of how far from it the next would be.
        let within = (pairs > 1).then(|| interval(&alone, rates));
        let within = within.map_or(String::new(), |[low, high]| format!(" (95 %: {low:.3} to {high:.3})"));
        println!("    {who}: pgbench {load} at {ratio:.3} of its throughput{within}, of {pairs} in turns");
        println!("      transactions a second: alone {alone:.0?}, watched {rates:.0?}");
        ratio
    };
    let ratio = tell(&format!("{} {}", binary()?.display(), tool.join(" ")), &watched);
    if let Some(peer) = peer {
        tell(&format!("perf stat -e {}", peer.events), &counted);
    }
    Ok(ratio)
}

/// `perf stat`, which only counts.
struct Counter {
    events: &'static str,
    /// A breakpoint of ours that `perf` keeps until this is dropped.
    named: bool,
}

impl Counter {
    const STATEMENTS: &str = "probe_postgres:pgstat_report_activity";

    fn of_switches() -> Result<Option<Self>> {
        Ok(perf(&["--version"]).then_some(Self { events: "sched:sched_switch,sched:sched_wakeup", named: false }))
    }

    /// Where statements begin and end.
    fn of_statements() -> Result<Option<Self>> {
        let program = postgres_binary()?;
        let program = program.to_str().context("a path of text")?;
        // One may be left of a run that was killed.
        perf(&["probe", "-q", "-d", Self::STATEMENTS]);
        let named = perf(&["probe", "-q", "-x", program, "pgstat_report_activity"]);
        Ok(named.then_some(Self { events: Self::STATEMENTS, named }))
    }

    fn start(&self, pid: u32) -> Result<Load> {
        let pid = pid.to_string();
        let whose: &[&str] = if self.named { &["-p", &pid] } else { &["-a"] };
        let mut command = Command::new("perf");
        command.args(["stat", "-e", self.events]).args(whose);
        let mut counter = Load(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let deadline = Instant::now() + PATIENCE;
        while !std::fs::read_to_string(format!("/proc/{}/wchan", counter.0.id()))?.contains("poll") {
            ensure!(counter.0.try_wait()?.is_none() && Instant::now() < deadline, "perf stat does not come to count");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(counter)
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if self.named {
            perf(&["probe", "-q", "-d", self.events]);
        }
    }
}

/// Whether it is there and does so.
fn perf(arguments: &[&str]) -> bool {
    let mut command = Command::new("perf");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The tool, watching.
fn watcher(pid: u32, tool: &[&str]) -> Result<Load> {
    let mut command = Command::new(binary()?);
    command.args(tool).args(["--pid", &pid.to_string()]);
    let mut watcher = Load(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    wait_until_it_watches(&mut watcher.0)?;
    Ok(watcher)
}

/// Of the next whole seconds, by what pgbench reports of each.
fn throughput(reports: &Lines) -> Result<f64> {
    // What was reported before this is of before.
    while reports.next(Instant::now()).is_ok_and(|line| line.is_some()) {}
    let mut sum = 0.0;
    for second in 0..SKIPPED + COUNTED {
        let line = reports.next(Instant::now() + PATIENCE)?.context("pgbench ended")?.text;
        let rate = line.split(", ").find_map(|part| part.strip_suffix(" tps")?.parse::<f64>().ok());
        if second >= SKIPPED {
            sum += rate.with_context(|| format!("pgbench says {line}"))?;
        }
    }
    Ok(sum / COUNTED as f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

/// Of the ratio of medians, by drawing as many pairs out of the pairs, two thousand times.
fn interval(alone: &[f64], watched: &[f64]) -> [f64; 2] {
    let mut seed = 1_u64;
    let mut draw = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % alone.len()
    };
    let mut ratios: Vec<f64> = (0..2000)
        .map(|_| {
            let drawn: Vec<usize> = alone.iter().map(|_| draw()).collect();
            let of = |values: &[f64]| median(drawn.iter().map(|index| values[*index]).collect());
            of(watched) / of(alone)
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    [ratios[50], ratios[1949]]
}
