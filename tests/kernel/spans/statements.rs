//! Statements of real servers whose effect is known: PostgreSQL says how many pages it read and how much a sort took.

use super::watched::{Session, Statement, Told, statements};
use anyhow::{Context, Result, ensure};
use memtrace::event::Edge;
use memtrace_common::Cause;
use memtrace_tests::database::{Postgres, postgres_binary, postgres_of, program};
use memtrace_tests::machine::TempDir;
use memtrace_tests::runner::Test;
use memtrace_tests::target::Target;
use memtrace_tests::tool::PATIENCE;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("statements.postgres", || postgres(&postgres_binary()?)),
    ("statements.postgres.13", || postgres(&postgres_of(13)?)),
    ("statements.postgres.14", || postgres(&postgres_of(14)?)),
    ("statements.postgres.16", || postgres(&postgres_of(16)?)),
    ("statements.postgres.17", || postgres(&postgres_of(17)?)),
    ("statements.postgres.18", || postgres(&postgres_of(18)?)),
    ("statements.postmaster", postmaster),
    ("statements.mariadb", mariadb),
];

/// A page of PostgreSQL's is two of the machine's.
const PER_BUFFER: i64 = 2;

/// Runs a script to its end; its answers, and whatever is printed last.
fn run(session: &mut Target, sql: &str) -> Result<Vec<String>> {
    session.send(&format!("{sql}\n\\echo that is all\n"))?;
    let mut answers = Vec::new();
    loop {
        let line = session.line()?;
        if line == "that is all" {
            return Ok(answers);
        }
        answers.push(line);
    }
}

/// The number after `label` in a plan.
fn after(plan: &[String], label: &str) -> Result<i64> {
    let text = plan.join(" ");
    let (_, rest) = text.split_once(label).with_context(|| format!("no {label} in {text}"))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("a number after {label} in {text}"))
}

/// One backend: a scan of a table that nobody has read since the start touches its pages in shared_buffers, each once; a
/// sort takes what it says, and gives it back; each statement of a script and of a transaction is one.
fn postgres(server: &Path) -> Result<()> {
    let mut cluster = Postgres::create_with(server)?;
    cluster.start()?;
    let (mut loader, _) = cluster.session()?;
    run(
        &mut loader,
        "create table t as select g as a, repeat('x', 100) as b from generate_series(1, 60000) g; analyze t;",
    )?;
    let blocks = run(&mut loader, "select pg_relation_size('t') / 8192;")?;
    let blocks: i64 = blocks[0].parse()?;
    loader.close();
    cluster.restart()?;

    let (mut session, pid) = cluster.session()?;
    // What every statement needs of the catalogs is in shared_buffers, and mapped.
    run(
        &mut session,
        "select count(*) from pg_class where relname = 't'; explain (analyze, buffers) select 1 from pg_class;",
    )?;
    let told = Session::start(pid, statements(), false)?;
    let plan = run(&mut session, "explain (analyze, buffers) /* cold */ select max(a) from t;")?;
    run(&mut session, "select max(a) /* warm */ from t;")?;
    let sort = run(&mut session, "explain (analyze) /* sort */ select a, b from t order by b, a desc;")?;
    run(
        &mut session,
        "begin; insert into t /* insert */ select g, repeat('y', 100) from generate_series(1, 20000) g;\nselect count(*) /* within */ from t;\ncommit;",
    )?;
    run(&mut session, "select '/* long */', length('LONG');".replace("LONG", &"z".repeat(3000)).as_str())?;
    let failed = run(&mut session, "\\set ON_ERROR_STOP 0\nselect 1 / 0 /* fails */;\nselect 2 /* after */;")?;
    let told = told.finish()?;
    ensure!(told.edges().all(|edge| edge.name == "postgresql" && edge.pid == pid), "{:?}", told.edges().next());

    let cold = told.statement("cold")?;
    let read = after(&plan, "read=")?;
    ensure!(read >= blocks, "{read} buffers read of a table of {blocks}: {plan:?}");
    // Besides: what the plan looks at, and headers of buffers.
    ensure!(
        (PER_BUFFER * blocks..PER_BUFFER * blocks + 200).contains(&cold.delta.shmem),
        "{blocks} blocks, {read} read: {cold:?}"
    );
    ensure!(cold.causes.get(&Cause::FaultShmem).copied() == Some(cold.delta.shmem), "{cold:?}");
    let warm = told.statement("warm")?;
    ensure!(warm.delta.shmem <= 16, "all of it was mapped: {warm:?}");
    let sort_kib = after(&sort, "Memory: ")?;
    let sorted = told.statement("sort")?;
    ensure!(sorted.peak >= sort_kib * 9 / 10 / 4, "{sort_kib} kB: {sorted:?}");
    ensure!(sorted.peak <= sort_kib * 2 / 4 + 2048, "{sort_kib} kB: {sorted:?}");
    ensure!(sorted.delta.anon < sorted.peak / 2, "it was given back: {sorted:?}");
    let inserted = told.statement("insert")?;
    ensure!(inserted.delta.shmem > 600, "20000 rows: {inserted:?}");
    told.statement("within")?;
    told.statement("commit")?;
    let long = told.statement("long")?;
    ensure!(long.text.len() == 1023 && long.text.ends_with("zzz"), "{} bytes", long.text.len());
    ensure!(told.statement("fails").is_ok() && told.statement("after").is_ok(), "{failed:?}");
    for statement in told.statements() {
        // One thread, and nobody takes pages away.
        ensure!(statement.closing - statement.opening == statement.delta, "{statement:?}");
    }
    println!(
        "{blocks} blocks, {read} read: {} pages of shmem; a sort of {sort_kib} kB: peak {} pages",
        cold.delta.shmem, sorted.peak
    );
    Ok(())
}

/// All backends of a server, in each of its protocols, as they come and go.
fn postmaster() -> Result<()> {
    let mut cluster = Postgres::create()?;
    cluster.start()?;
    let bench = |arguments: &[&str]| -> Result<()> {
        let output = cluster.bin_command("pgbench").args(arguments).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    bench(&["--initialize", "--quiet", "--scale=1"])?;
    let session = Session::start(cluster.pid().context("it runs")?, statements(), true)?;
    for protocol in ["simple", "extended", "prepared"] {
        bench(&["--no-vacuum", "--select-only", "--client=2", "--transactions=50", "--protocol", protocol])?;
    }
    let told = session.finish()?;
    let all = told.statements();
    let selects: Vec<&Statement> = all.iter().filter(|span| span.text.contains("FROM pgbench_accounts")).collect();
    // To prepare it is a statement of its own, of each client.
    ensure!(selects.len() == 302, "{} statements", selects.len());
    let mut backends: Vec<u32> = selects.iter().map(|span| span.pid).collect();
    backends.dedup();
    backends.sort_unstable();
    backends.dedup();
    ensure!(backends.len() == 6, "{backends:?}");
    ensure!(selects.iter().filter(|span| span.text.contains("aid = $1")).count() == 202, "{:?}", selects.last());
    Ok(())
}

/// MariaDB has a thread for each connection.
fn mariadb() -> Result<()> {
    let server = program(&["mariadbd", "/usr/sbin/mariadbd"], "mariadb-server")?;
    let install = program(&["mariadb-install-db"], "mariadb-server")?;
    let client = program(&["mariadb"], "mariadb-client")?;
    let dir = TempDir::new()?;
    let data = dir.path().join("data");
    let socket = dir.path().join("socket");
    let own = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let made = Command::new(install)
        .args(["--no-defaults", "--user=root", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .arg(own("datadir", &data))
        .output()?;
    ensure!(made.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&made.stderr));
    let mut command = Command::new(server);
    command
        .args(["--no-defaults", "--user=root", "--skip-networking", "--innodb-buffer-pool-size=64M"])
        .args([own("datadir", &data), own("socket", &socket), own("pid-file", &dir.path().join("pid"))])
        .stderr(Stdio::null());
    let server = Target::start(&mut command)?;
    let ask = || -> Command {
        let mut command = Command::new(&client);
        command.args(["--no-defaults", "--user=root", "--unbuffered", "--batch", "--skip-column-names", "--comments"]);
        command.arg(own("socket", &socket));
        command
    };
    let deadline = Instant::now() + PATIENCE;
    while !ask().args(["-e", "select 1"]).stdin(Stdio::null()).output()?.status.success() {
        ensure!(Instant::now() < deadline, "the server does not come up");
        std::thread::sleep(Duration::from_millis(50));
    }
    let told = Session::start(server.pid(), statements(), false)?;
    let mut session = Target::start(ask().arg("--force"))?;
    let mut run = |sql: &str| -> Result<String> {
        session.send(sql)?;
        session.line()
    };
    run("create database d; create table d.t (a int, b varchar(200)); select 'made';\n")?;
    run(
        "insert into d.t select seq, repeat('x', 100) from d.t right join (with recursive n as (select 1 as seq union all select seq + 1 from n where seq < 900) select seq from n) s on false; select 'inserted';\n",
    )?;
    run("select /* sort */ length(group_concat(b order by b, a)) from d.t;\n")?;
    run("prepare p from 'select ? /* prepared */'; set @a = 7; execute p using @a;\n")?;
    session.close();
    session.wait()?;
    let told: Told = told.finish()?;
    ensure!(told.edges().all(|edge| edge.name == "mysql" && edge.pid == server.pid()));
    let sorted = told.statement("/* sort */")?;
    ensure!(sorted.faults > 0 && sorted.tid != sorted.pid, "{sorted:?}");
    told.statement("create table d.t")?;
    ensure!(told.statement("repeat('x', 100)")?.delta.res() != 0, "nothing was inserted");
    ensure!(told.edges().any(|edge| edge.edge == Edge::End));
    Ok(())
}
