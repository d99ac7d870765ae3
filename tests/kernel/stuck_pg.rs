//! `memtrace stuck --pg` on backends of a real PostgreSQL: whom they wait for, against what the server says of those; and
//! servers that do not answer, refuse, lie or do not stop talking: a line in the answer, and never the password.

use anyhow::{Context, Result, ensure};
use memtrace_tests::database::{Observer, Postgres};
use memtrace_tests::machine::TempDir;
use memtrace_tests::runner::{self, Test, keepsake};
use memtrace_tests::stuck::{Asked, Begun, judge};
use memtrace_tests::target::Target;
use memtrace_tests::tool::{PATIENCE, binary};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const TESTS: &[Test] = &[
    ("pg.blocker.before", || blocker(Begun::Before)),
    ("pg.blocker.after", || blocker(Begun::After)),
    ("pg.no_longer", no_longer),
    ("pg.own_socket", own_socket),
    ("pg.prepared", prepared),
    ("pg.several", several),
    ("pg.chain", chain),
    ("pg.password", password),
    ("pg.no_answer", no_answer),
    ("pg.another_server", another_server),
    ("pg.echo", || hostile(echo)),
    ("pg.flood", || hostile(flood)),
    ("pg.garbage", || hostile(garbage)),
    ("pg.no_database", no_database),
];

/// Long enough for two answers that do not come.
const WINDOW: Duration = Duration::from_secs(3);
const SECRET: &str = "s3kret-p4ssw0rd";
const STATEMENT: &str = "update rows set id = 2;";

fn main() -> ExitCode {
    runner::run(TESTS)
}

/// A backend that waits for the row that another one has changed.
struct Locked {
    server: Postgres,
    observer: Observer,
    _holder: Target,
    holder: u32,
    waiter: Target,
    pid: u32,
}

impl Locked {
    fn new(settings: &[(&str, &str)]) -> Result<Self> {
        let mut server = Postgres::create()?;
        for (name, value) in settings {
            server.set(name, value)?;
        }
        server.start()?;
        let mut observer = Observer::of(&server)?;
        let (mut session, holder) = server.session()?;
        session.send("create table rows as select 1 as id; begin; update rows set id = 1;\nselect 'held';\n")?;
        session.wait_for_line("held", PATIENCE)?;
        observer.wait_until(holder, |activity| activity["state"] == "idle in transaction")?;
        let (waiter, pid) = server.session()?;
        Ok(Self { server, observer, _holder: session, holder, waiter, pid })
    }

    fn wait(&mut self) -> Result<()> {
        self.waiter.send(&format!("{STATEMENT}\n"))?;
        self.observer.wait_until(self.pid, |activity| activity["wait_event"] == "transactionid")
    }

    fn waiting() -> Result<Self> {
        let mut locked = Self::new(&[])?;
        locked.wait()?;
        Ok(locked)
    }

    fn dsn(&self) -> String {
        format!("host={} user=postgres dbname=postgres", self.server.dir().display())
    }

    /// The answer, which names what it waits for whatever the server says.
    fn ask(&mut self, dsn: &str) -> Result<Value> {
        let answer = Asked::about_with(self.pid, WINDOW, |command| command.args(["--pg", dsn]))?.answer()?;
        self.holds(&answer)?;
        Ok(answer)
    }

    fn holds(&self, answer: &Value) -> Result<()> {
        println!("    {}", answer["verdict"]["sentence"].as_str().unwrap_or_default());
        judge(answer, &["blocked.poll", "blocked.semaphore"], Some(false), Begun::Before)?;
        ensure!(answer["database"]["query"] == STATEMENT, "the statement is {}", answer["database"]["query"]);
        Ok(())
    }

    /// What the answer says of the one that blocks is what the server says of it.
    fn is_named(&mut self, answer: &Value) -> Result<()> {
        let [found] = answer["database"]["blocked_by"].as_array().context("blocked_by")?.as_slice() else {
            anyhow::bail!("not one: {}", answer["database"])
        };
        let sql = format!(
            "select json_build_object('pid', pid, 'own_pid', pid, 'state', state, 'query', query, \
             'since_ns', (extract(epoch from state_change) * 1000000)::bigint * 1000, \
             'transaction_start_ns', (extract(epoch from xact_start) * 1000000)::bigint * 1000, \
             'wait_event_type', wait_event_type, 'wait_event', wait_event, \
             'behind', pg_blocking_pids(pid), 'indirect', false, 'hidden', false) from pg_stat_activity where pid = {}",
            self.holder
        );
        let truth: Value = serde_json::from_str(&self.observer.ask(&sql)?)?;
        ensure!(*found == truth, "told {found}\ntruth {truth}");
        let sentence = answer["verdict"]["sentence"].as_str().context("a sentence")?;
        let begin = format!("behind process {} (idle in transaction for ", self.holder);
        ensure!(sentence.contains(&begin), "{sentence}");
        // Its last statement is the one that it is idle after.
        ensure!(sentence.contains(": select 'held')"), "{sentence}");
        let next = answer["verdict"]["next"].to_string();
        ensure!(next.contains(&format!("memtrace stuck --pid {} ", self.holder)), "{next}");
        ensure!(answer["database"]["unanswered"].is_null(), "{}", answer["database"]);
        Ok(())
    }
}

fn blocker(begun: Begun) -> Result<()> {
    let mut locked = Locked::new(&[])?;
    let dsn = locked.dsn();
    let answer = if begun == Begun::Before {
        locked.wait()?;
        locked.ask(&dsn)?
    } else {
        let window = Duration::from_secs(5);
        let mut asked = Asked::about_with(locked.pid, window, |command| command.args(["--pg", &dsn]))?;
        asked.wait_until_it_watches()?;
        locked.wait()?;
        let answer = asked.answer()?;
        locked.holds(&answer)?;
        answer
    };
    locked.is_named(&answer)
}

/// Whoever blocked it has gone on to other work before the window ends: that is told as what was, and nobody is to end it.
fn no_longer() -> Result<()> {
    let mut locked = Locked::waiting()?;
    let dsn = locked.dsn();
    let asked = Asked::about_with(locked.pid, Duration::from_secs(6), |command| command.args(["--pg", &dsn]))?;
    let deadline = Instant::now() + PATIENCE;
    let of_memtrace = "select coalesce(max(pid), 0) from pg_stat_activity where application_name = 'memtrace'";
    let connection = loop {
        match locked.observer.ask(of_memtrace)?.parse()? {
            0 => ensure!(Instant::now() < deadline, "it does not ask"),
            pid => break pid,
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    locked.observer.wait_until(connection, |activity| activity["state"] == "idle" && activity["query"] != "")?;
    locked._holder.send("commit; begin; select 'other work';\n")?;
    locked.observer.wait_until(locked.pid, |activity| activity["state"] == "idle")?;
    let answer = asked.answer()?;
    let (sentence, next) = (answer["verdict"]["sentence"].to_string(), answer["verdict"]["next"].to_string());
    println!("    {sentence}");
    let database = &answer["database"];
    ensure!(database["blocked_by"][0]["pid"] == locked.holder && database["in_lock"] == false, "{database}");
    ensure!(!sentence.contains(" behind process"), "{sentence}");
    ensure!(!next.contains("terminate") && !next.contains(&locked.holder.to_string()), "{next}");
    let evidence = answer["verdict"]["evidence"].to_string();
    ensure!(evidence.contains(&format!("was blocked by: process {} (", locked.holder)), "{evidence}");
    Ok(())
}

/// Without a host it is the server of the process itself.
fn own_socket() -> Result<()> {
    let mut locked = Locked::waiting()?;
    let answer = locked.ask("user=postgres")?;
    locked.is_named(&answer)
}

/// What nobody's process holds.
fn prepared() -> Result<()> {
    let mut locked = Locked::new(&[("max_prepared_transactions", "1")])?;
    locked._holder.send("prepare transaction 'left';\nselect 'prepared';\n")?;
    locked._holder.wait_for_line("prepared", PATIENCE)?;
    locked.wait()?;
    let dsn = locked.dsn();
    let answer = locked.ask(&dsn)?;
    let sentence = answer["verdict"]["sentence"].as_str().context("a sentence")?;
    ensure!(sentence.contains("behind a prepared transaction"), "{sentence}");
    ensure!(answer["database"]["blocked_by"][0]["own_pid"] == 0, "{}", answer["database"]["blocked_by"]);
    ensure!(answer["verdict"]["next"][0].as_str().is_some_and(|next| next.contains("pg_prepared_xacts")), "no advice");
    Ok(())
}

/// Who holds a lock that is shared, both of them.
fn several() -> Result<()> {
    let mut locked = Locked::new(&[])?;
    locked._holder.send("rollback; begin; lock table rows in share mode;\nselect 'shared';\n")?;
    locked._holder.wait_for_line("shared", PATIENCE)?;
    let (mut other, second) = locked.server.session()?;
    other.send("begin; lock table rows in share mode;\nselect 'shared';\n")?;
    other.wait_for_line("shared", PATIENCE)?;
    locked.waiter.send(&format!("{STATEMENT}\n"))?;
    locked.observer.wait_until(locked.pid, |activity| activity["wait_event"] == "relation")?;
    let dsn = locked.dsn();
    let answer = locked.ask(&dsn)?;
    let blockers = answer["database"]["blocked_by"].as_array().context("blocked_by")?;
    let pids: Vec<_> = blockers.iter().map(|blocker| blocker["pid"].clone()).collect();
    ensure!(pids == [locked.holder, second], "{pids:?}: not {} and {second}, the oldest first", locked.holder);
    Ok(())
}

/// Three in a row: the last is told of the first, who alone does not wait; and so by a role that may not see what they do,
/// which is never told to end the one between.
fn chain() -> Result<()> {
    let mut locked = Locked::new(&[])?;
    let (mut between, middle) = locked.server.session()?;
    between.send("begin; create table others as select 1 as id; commit; begin; update others set id = 2;\n")?;
    between.send(&format!("{STATEMENT}\n"))?;
    locked.observer.wait_until(middle, |activity| activity["wait_event"] == "transactionid")?;
    locked.waiter.send("update others set id = 3;\n")?;
    locked.observer.wait_until(locked.pid, |activity| activity["wait_event"] == "transactionid")?;
    locked.observer.ask("create role nobody_much login; select 1")?;
    let (holder, pid) = (locked.holder, locked.pid);
    for (role, sees) in [("postgres", true), ("nobody_much", false)] {
        let dsn = format!("host={} user={role} dbname=postgres", locked.server.dir().display());
        let answer = Asked::about_with(pid, WINDOW, |command| command.args(["--pg", &dsn]))?.answer()?;
        let blockers = answer["database"]["blocked_by"].as_array().context("blocked_by")?;
        let told: Vec<_> = blockers.iter().map(|one| (one["pid"].clone(), one["indirect"].clone())).collect();
        let expected: [(Value, Value); 2] = [(holder.into(), true.into()), (middle.into(), false.into())];
        ensure!(told == expected, "{role}: {told:?}: not {expected:?}");
        ensure!(blockers[1]["behind"] == serde_json::json!([holder]), "{}", blockers[1]);
        ensure!(blockers.iter().all(|one| one["hidden"] == !sees), "{blockers:?}");
        let sentence = answer["verdict"]["sentence"].as_str().context("a sentence")?;
        println!("    {sentence}");
        ensure!(sentence.contains(&format!("behind process {middle}, which waits for process {holder}")), "{sentence}");
        ensure!(sentence.contains("(idle in transaction for ") == sees, "{sentence}");
        let next = answer["verdict"]["next"].to_string();
        ensure!(next.contains(&format!("memtrace stuck --pid {holder} ")), "{next}");
        ensure!(next.contains(&format!("pg_terminate_backend({holder})")) == sees, "{next}");
        ensure!(!next.contains(&format!("({middle})")), "{next}");
        ensure!(next.contains("grant pg_monitor") != sees, "{next}");
    }
    Ok(())
}

/// A server that wants a password: right, wrong and none. It is in no output, and on no command line when it is in the environment.
fn password() -> Result<()> {
    let port = free_port()?;
    let port_text = port.to_string();
    let mut locked = Locked::new(&[("listen_addresses", "'127.0.0.1'"), ("port", &port_text)])?;
    locked.observer.ask(&format!("set password_encryption = 'scram-sha-256'; create role monitor login password '{SECRET}'; grant pg_monitor to monitor; select 1"))?;
    let rules = locked.server.data().join("pg_hba.conf");
    let old = std::fs::read_to_string(&rules)?;
    std::fs::write(&rules, format!("host all monitor 127.0.0.1/32 scram-sha-256\n{old}"))?;
    locked.observer.ask("select pg_reload_conf()")?;
    locked.wait()?;
    let dsn = format!("host=127.0.0.1 port={port} user=monitor dbname=postgres");

    let with_environment = |secret: &'static str, dsn: String| {
        move |command: &mut Command| {
            command.env("PGPASSWORD", secret).args(["--pg", &dsn]);
        }
    };
    let asked = |locked: &Locked, more: &dyn Fn(&mut Command)| -> Result<Value> {
        let asked = Asked::about_with(locked.pid, WINDOW, |command| {
            more(command);
            command
        })?;
        let answer = asked.answer()?;
        for said in ["ndjson", "stderr"] {
            let said = std::fs::read_to_string(keepsake(said))?;
            ensure!(!said.contains(SECRET) && !said.contains("wr0ng"), "the password is told: {said}");
        }
        locked.holds(&answer)?;
        Ok(answer)
    };
    let answer = asked(&locked, &with_environment(SECRET, dsn.clone()))?;
    locked.is_named(&answer)?;
    let answer = asked(&locked, &with_environment("", format!("{dsn} password={SECRET}")))?;
    locked.is_named(&answer)?;
    let answer = asked(&locked, &with_environment("wr0ng", dsn.clone()))?;
    let why = answer["database"]["unanswered"].as_str().context("unanswered")?;
    ensure!(why.contains("password authentication failed"), "{why}");
    // Nor where the line makes no sense.
    for arguments in
        [["--pg", "user=monitor", "password=s3kret-p4ssw0rd"], ["--pg", "password=s3kret-p4ssw0rd", "--nothing"]]
    {
        makes_no_sense(&arguments)?;
    }
    for broken in
        [format!("{dsn} password='{SECRET}"), format!("postgres://u:{SECRET}@:x/y"), format!("{dsn} {SECRET}=1")]
    {
        let said = makes_no_sense(&["--pg", &broken])?;
        ensure!(said.contains("--pg is no connection string"), "{said}");
    }
    let said = makes_no_sense(&["--pg", &format!("postgresql://u:x9@{SECRET}@127.0.0.1:1/db")])?;
    ensure!(said.contains("%40"), "{said}");
    Ok(())
}

/// A line that is refused at once, without the password.
fn makes_no_sense(arguments: &[&str]) -> Result<String> {
    let output = Command::new(binary()?).args(["stuck", "--pid", "1"]).args(arguments).output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(!said.contains(SECRET), "{said}");
    ensure!(output.status.code() == Some(2), "{}: {said}", output.status);
    Ok(said)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Somebody who takes the connection and says nothing.
fn no_answer() -> Result<()> {
    let mut locked = Locked::waiting()?;
    let dir = TempDir::new()?;
    let _listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432"))?;
    let answer = locked.ask(&format!("host={} user=postgres", dir.path().display()))?;
    ensure!(answer["database"]["unanswered"] == "no answer within 2 s", "{}", answer["database"]);
    ensure!(answer["database"]["blocked_by"].is_null(), "{}", answer["database"]);
    let evidence = answer["verdict"]["evidence"].to_string();
    ensure!(evidence.contains("not asked: no answer within 2 s"), "{evidence}");
    let next = answer["verdict"]["next"].to_string();
    ensure!(next.contains("look at what --pg says") && !next.contains("memtrace stuck"), "{next}");
    // Nobody at all.
    let answer = locked.ask(&format!("host={} port=1 user=postgres", dir.path().display()))?;
    let why = answer["database"]["unanswered"].as_str().context("unanswered")?;
    ensure!(why.contains("/.s.PGSQL.1: No such file or directory"), "{why}");
    Ok(())
}

/// A server that does not have this backend, or has another one of its number.
fn another_server() -> Result<()> {
    let mut locked = Locked::waiting()?;
    let mut other = Postgres::create()?;
    other.start()?;
    let answer = locked.ask(&format!("host={} user=postgres", other.dir().display()))?;
    let why = answer["database"]["unanswered"].as_str().context("unanswered")?;
    ensure!(why.contains("is it another server?"), "{why}");
    Ok(())
}

/// What is no server at all, and a process of none.
fn no_database() -> Result<()> {
    let mut sleeper = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn()?;
    let answer =
        Asked::about_with(sleeper.id(), Duration::from_secs(1), |command| command.args(["--pg", "user=postgres"]))
            .and_then(Asked::answer);
    sleeper.kill()?;
    sleeper.wait()?;
    let answer = answer?;
    ensure!(answer["verdict"]["class"] == "blocked.sleep", "{}", answer["verdict"]);
    ensure!(answer["database"].is_null(), "{}", answer["database"]);
    let told = std::fs::read_to_string(keepsake("stderr"))?;
    ensure!(told.contains("is no backend of a PostgreSQL server"), "{told}");
    // One that is gone: that is said, and nothing else.
    let output = Command::new(binary()?)
        .args(["stuck", "--pid", &sleeper.id().to_string(), "--pg", "user=postgres"])
        .stdin(Stdio::null())
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && !told.contains("no backend") && told.contains("no process"), "{told}");
    Ok(())
}

/// A server that does harm: the answer comes, without the password, without what drives a terminal, and in little memory.
fn hostile(serve: fn(UnixStream) -> Result<()>) -> Result<()> {
    let locked = Locked::waiting()?;
    let dir = TempDir::new()?;
    let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432"))?;
    // It ends with the listener, or with the test.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = serve(stream);
        }
    });
    let dsn = format!("host={} user=postgres", dir.path().display());
    for json in [true, false] {
        let mut command = Command::new(binary()?);
        command.args(["stuck", "--pid", &locked.pid.to_string(), "--duration", "3s", "-v", "--pg", &dsn]);
        command.args(json.then_some("--json")).env("PGPASSWORD", SECRET);
        let output = command.stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8([output.stdout, output.stderr].concat())?;
        ensure!(!said.contains(SECRET), "the password is told: {said}");
        let drives = |character: char| character.is_control() && character != '\n';
        ensure!(!said.contains(drives), "it would drive a terminal: {said:?}");
        ensure!(said.contains("transactionid"), "{said}");
        ensure!(said.len() < 64 << 10, "{} bytes", said.len());
        let line = said.lines().find(|line| line.contains("not asked")).context("nothing says why")?;
        println!("    {}", line.chars().take(200).collect::<String>());
    }
    Ok(())
}

/// Reads a message of the begin, which has no type.
fn startup(stream: &mut UnixStream) -> Result<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut rest = vec![0; (u32::from_be_bytes(length) as usize).clamp(4, 1 << 16) - 4];
    stream.read_exact(&mut rest)?;
    // "May we speak TLS?"
    if rest.starts_with(&80_877_103_u32.to_be_bytes()) {
        stream.write_all(b"N")?;
        return startup(stream);
    }
    Ok(())
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

/// Asks for the password, and says it back, with what clears a screen.
fn echo(mut stream: UnixStream) -> Result<()> {
    startup(&mut stream)?;
    stream.write_all(&message(b'R', &3_u32.to_be_bytes()))?;
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let mut password = vec![0; head[4] as usize - 4];
    stream.read_exact(&mut password)?;
    password.pop();
    let text = [b"SFATAL\0C28P01\0M\x1b[2Jno: ", password.as_slice(), b" \xe2\x80\xae\x07\0\0"].concat();
    Ok(stream.write_all(&message(b'E', &text))?)
}

/// Lets anybody in, and does not stop talking.
fn flood(mut stream: UnixStream) -> Result<()> {
    startup(&mut stream)?;
    stream.write_all(&message(b'R', &0_u32.to_be_bytes()))?;
    stream.write_all(&message(b'Z', b"I"))?;
    // A message of 1 GiB.
    stream.write_all(&[b'D', 0x40, 0, 0, 0])?;
    loop {
        stream.write_all(&[b'x'; 1 << 16])?;
    }
}

fn garbage(mut stream: UnixStream) -> Result<()> {
    startup(&mut stream)?;
    stream.write_all(b"\x1b]0;evil\x07HTTP/1.1 400 \xff\xff\xff\xff\r\n\r\n")?;
    Ok(())
}
