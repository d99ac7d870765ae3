//! `memtrace snapshot --watch` from outside: how it goes on and how it ends. Needs no rights for children of ours.

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

/// A process that does nothing until it is ended.
struct Idle(Child);

impl Idle {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").spawn().expect("sleep is there"))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn end(&mut self) {
        self.0.kill().expect("it is ours");
        self.0.wait().expect("it is ours");
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `memtrace snapshot` with what it says.
struct Session {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Session {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_memtrace"))
            .arg("snapshot")
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program was built");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    /// The next line; waits for it.
    fn line(&mut self) -> Value {
        let line = self.lines.next().expect("it goes on").expect("text");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// What it said on stderr, once it has ended by itself.
    fn end(mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        (self.child.wait().expect("it is ours"), said)
    }
}

#[test]
fn a_watch_ends_with_the_process_it_watched() {
    let mut idle = Idle::start();
    let mut session = Session::start(&["--pid", &idle.pid(), "--watch", "100ms", "--json"]);
    let first = session.line();
    assert_eq!((&first["type"], &first["pid"]), (&"snapshot".into(), &idle.0.id().into()));
    for _ in 0..2 {
        let change = session.line();
        assert_eq!(change["type"], "diff");
        let sum: i64 =
            change["rows"].as_array().expect("rows").iter().filter_map(|row| row["change"]["res"].as_i64()).sum();
        let level = |which: &str| change[which]["res"].as_i64().expect("known");
        let unexplained = change["unexplained"]["res"].as_i64().expect("known");
        assert_eq!(level("closing") - level("opening"), sum + unexplained);
    }
    idle.end();
    // There may be another turn before it is seen.
    while session.line()["closing"] != Value::Null {}
    let (status, said) = session.end();
    assert!(status.success(), "{said}");
    assert!(said.contains(&format!("sleep[{}] ended", idle.0.id())), "{said}");
}

#[test]
fn of_several_the_others_are_watched_on() {
    let (mut short, long) = (Idle::start(), Idle::start());
    let mut session = Session::start(&["--pid", &short.pid(), "--pid", &long.pid(), "--watch", "100ms", "--json"]);
    for kind in ["snapshot", "snapshot", "group"] {
        let line = session.line();
        if line["type"] != kind {
            // Without a look at the group there is no line of it.
            assert_eq!((kind, &line["type"]), ("group", &"diff".into()));
        }
    }
    short.end();
    // It is told of as gone, and then no more.
    while session.line()["closing"] != Value::Null {}
    let together = session.line();
    assert_eq!((&together["type"], &together["closing"]["pids"]), (&"group_diff".into(), &vec![long.0.id()].into()));
    assert_eq!(together["opening"]["pids"].as_array().map(Vec::len), Some(2));
    for _ in 0..2 {
        assert_eq!(session.line()["pid"], long.0.id());
    }
    let pid = i32::try_from(session.child.id()).expect("a pid");
    // SAFETY: kill takes numbers; the process is ours and has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    let (status, said) = session.end();
    assert!(status.success() && said.contains(&format!("sleep[{}] ended", short.0.id())), "{said}");
}

#[test]
fn a_watch_ends_when_its_time_is_over() {
    let idle = Idle::start();
    // In full, so that no turn is left out for what it might cost.
    let arguments = ["--pid", &idle.pid(), "--full", "--watch", "100ms", "--duration", "3s", "--json"];
    let session = Session::start(&arguments);
    let Session { child, lines } = session;
    let types: Vec<Value> =
        lines.map(|line| serde_json::from_str::<Value>(&line.expect("text")).expect("JSON")["type"].clone()).collect();
    let (first, changes) = types.split_first().expect("a snapshot");
    // On a busy machine turns are missed, and not made up for.
    assert!(first == "snapshot" && (1..=30).contains(&changes.len()), "{types:?}");
    assert!(changes.iter().all(|kind| kind == "diff"), "{types:?}");
    assert!(child.wait_with_output().expect("it is ours").status.success());
}

#[test]
fn nobody_reading_is_a_proper_end() {
    let idle = Idle::start();
    let mut session = Session::start(&["--pid", &idle.pid(), "--watch", "100ms"]);
    assert!(session.lines.next().is_some());
    let Session { child, lines } = session;
    drop(lines);
    let output = child.wait_with_output().expect("it is ours");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
