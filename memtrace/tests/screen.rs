//! The screen on a terminal: it takes it, gives it back, and says the closing statement on it, however it is left.
//!
//! `script` of util-linux gives the program a terminal.

use memtrace::event::{Change, Closing, Latency, Place};
use memtrace::event::{End, EndReason, Event, Lost, Meta, MmId, MmOpened, Mode, Own, Tick, Why};
use memtrace::trace::Writer;
use memtrace::units::Amounts;
use memtrace_common::Cause;
use std::io::{Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

const ENTER: &[u8] = b"\x1b[?1049h";
const LEAVE: &[u8] = b"\x1b[?1049l";
const MM: MmId = MmId(0);

const fn anon(pages: i64) -> Amounts {
    Amounts { anon: pages, file: 0, shmem: 0, swap: 0 }
}

/// A process that touched 2,560 pages.
fn record(path: &Path) {
    let file = std::fs::File::create(path).expect("the trace can be made");
    let mut writer = Writer::new(file).expect("the trace begins");
    let change = Change {
        mm: MM,
        first_ns: 1_100,
        ts_ns: 1_200,
        cause: Cause::FaultAnon,
        delta: anon(2560),
        place: Place::Nowhere,
        touched: (0, 0),
        tid: 7,
        ip: 0,
        stack: None,
        nr: None,
        detail: 0,
        faults: 2560,
        major: 0,
        kernel_mode: 0,
        latency: Latency::default(),
    };
    let events = [
        Event::Meta(Meta {
            version: "0.1.0".into(),
            pid: 7,
            comm: b"sleeper".to_vec(),
            exe: Vec::new(),
            cmdline: Vec::new(),
            kernel: "6.18".into(),
            page_size: 4096,
            mode: Mode::Exact,
            mode_reason: String::new(),
            interval_ns: 1_000,
            ts_ns: 1_000,
            wall_ns: 0,
            spawned: false,
            follow: false,
        }),
        Event::MmOpened(MmOpened {
            mm: MM,
            ts_ns: 1_000,
            pid: 7,
            comm: b"sleeper".to_vec(),
            why: Why::Attach,
            counters: anon(100),
            virt: 5000,
            start_brk: 0,
            brk: 0,
            start_stack: 0,
        }),
        Event::Change(change),
        Event::Tick(Tick {
            ts_ns: 2_000,
            closings: vec![Closing { mm: MM, counters: anon(2660), virt: Some(5000) }],
            lost: Lost::default(),
            own: Own::default(),
        }),
        Event::End(End::new(3_000, EndReason::Duration)),
    ];
    for event in &events {
        writer.push(event).expect("events can be written");
    }
    writer.finish().expect("the trace ends");
}

/// What has not come by then will not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program on a terminal of its own.
struct Terminal {
    script: Child,
    chunks: Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

impl Terminal {
    /// `None`, and the reason on stderr, where there is no `script`.
    fn replay(trace: &Path, environment: &[(&str, &str)]) -> Option<Self> {
        let program = assert_cmd::cargo::cargo_bin("memtrace");
        // `exec`, so that the terminal's leader is the program.
        let command = format!("stty cols 80 rows 24; exec '{}' replay '{}'", program.display(), trace.display());
        let spawned = Command::new("script")
            .args(["-qefc", &command, "/dev/null"])
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut script = match spawned {
            Ok(script) => script,
            Err(error) => {
                eprintln!("skipped: `script` of util-linux cannot be started: {error}");
                return None;
            }
        };
        let mut out = script.stdout.take().expect("stdout is a pipe");
        let (sender, chunks) = channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = out.read(&mut chunk) {
                if sender.send(chunk[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Some(Self { script, chunks, seen: Vec::new() })
    }

    /// Reads until the text has come.
    fn wait_for(&mut self, text: &[u8]) {
        while !contains(&self.seen, text) {
            let Ok(chunk) = self.chunks.recv_timeout(PATIENCE) else {
                let _ = self.script.kill();
                panic!("{:?} never came: {}", String::from_utf8_lossy(text), String::from_utf8_lossy(&self.seen));
            };
            self.seen.extend(chunk);
        }
    }

    fn type_in(&mut self, keys: &[u8]) {
        let stdin = self.script.stdin.as_mut().expect("stdin is a pipe");
        stdin.write_all(keys).and_then(|()| stdin.flush()).expect("the terminal takes keys");
    }

    /// The program's status and all that it showed.
    fn end(mut self) -> (Option<i32>, Vec<u8>) {
        loop {
            match self.chunks.recv_timeout(PATIENCE) {
                Ok(chunk) => self.seen.extend(chunk),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let _ = self.script.kill();
                    panic!("it does not end: {}", String::from_utf8_lossy(&self.seen));
                }
            }
        }
        (self.script.wait().expect("it ended").code(), self.seen)
    }

    /// The program, which is the only child of `script`.
    fn program(&self) -> u32 {
        let path = format!("/proc/{0}/task/{0}/children", self.script.id());
        let children = std::fs::read_to_string(path).expect("script has children");
        children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("the program runs")
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// What was printed after the terminal was given back.
fn after_the_screen(seen: &[u8]) -> String {
    let at = seen.windows(LEAVE.len()).rposition(|window| window == LEAVE).expect("the terminal was given back");
    String::from_utf8_lossy(&seen[at..]).into_owned()
}

fn trace() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("sleeper.memtrace");
    record(&path);
    (dir, path)
}

#[test]
fn q_gives_the_terminal_back_and_the_answer_stays_on_it() {
    let (_dir, path) = trace();
    let Some(mut terminal) = Terminal::replay(&path, &[]) else { return };
    terminal.wait_for(ENTER);
    terminal.wait_for(b"sleeper[7]");
    terminal.wait_for(b"the time is over");
    terminal.type_in(b"q");
    let (status, seen) = terminal.end();
    assert_eq!(status, Some(0));
    let text = after_the_screen(&seen);
    assert!(text.contains("closes:") && text.contains("+10.0 MiB"), "{text}");
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let (_dir, path) = trace();
    for (signal, status) in [("TERM", 143), ("HUP", 129), ("INT", 130)] {
        let Some(mut terminal) = Terminal::replay(&path, &[]) else { return };
        terminal.wait_for(b"the time is over");
        let killed = Command::new("kill").args(["-s", signal, &terminal.program().to_string()]).status();
        assert!(killed.expect("kill can be started").success());
        let (ended, seen) = terminal.end();
        assert_eq!(ended, Some(status), "{signal}");
        assert!(after_the_screen(&seen).contains("closes:"));
    }
}

#[test]
fn without_colours_none_is_sent() {
    let (_dir, path) = trace();
    for (environment, colored) in [(&[("NO_COLOR", "1")][..], false), (&[][..], true)] {
        let Some(mut terminal) = Terminal::replay(&path, environment) else { return };
        terminal.wait_for(b"the time is over");
        terminal.type_in(b"q");
        let (_, seen) = terminal.end();
        // Red on the terminal's own background, as the screen has what grew.
        let red = contains(&seen, b"38;5;1;49m");
        assert_eq!(red, colored, "{}", String::from_utf8_lossy(&seen));
    }
}

#[test]
fn what_cannot_draw_gets_text() {
    let (_dir, path) = trace();
    let Some(terminal) = Terminal::replay(&path, &[("TERM", "dumb")]) else { return };
    let (status, seen) = terminal.end();
    assert_eq!(status, Some(0));
    assert!(!contains(&seen, ENTER) && contains(&seen, b"closes:"));
}
