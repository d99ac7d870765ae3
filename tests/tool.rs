//! The tool under test: started, waited for until it is armed, read line by line, ended.

use crate::books::Books;
use crate::pages::monotonic_ns;
use crate::runner::{keepsake, target_dir};
use crate::target::wait_until;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long anything may take that should take a moment: far above what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test: `MEMTRACE_BIN`, else the release build, else the debug build.
///
/// # Errors
/// There is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MEMTRACE_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "MEMTRACE_BIN is {}, where no file is", path.display());
        return Ok(path);
    }
    ["release", "debug"]
        .into_iter()
        .map(|profile| target_dir().join(profile).join("memtrace"))
        .find(|path| path.is_file())
        .ok_or_else(|| anyhow!("no memtrace in target/; type: cargo xtask build --release"))
}

/// The program with the scenes: built with these tests.
#[must_use]
pub fn workload_binary() -> PathBuf {
    // The test binary stands in target/PROFILE/deps, the workload one level up.
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors().nth(2).map(|profile| profile.join("workload")).unwrap_or_default()
}

/// A line of output, and when it was read (`CLOCK_MONOTONIC`).
#[derive(Debug)]
pub struct Line {
    /// When.
    pub at_ns: u64,
    /// What.
    pub text: String,
}

/// Lines of a pipe as they come, read by a thread of their own.
#[derive(Debug)]
pub struct Lines(Receiver<Line>);

impl Lines {
    /// Starts to read.
    pub fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::with_capacity(1 << 20, pipe);
            let mut bytes = Vec::new();
            while reader.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
                let text = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
                if sender.send(Line { at_ns: monotonic_ns(), text }).is_err() {
                    return;
                }
                bytes.clear();
            }
        });
        Self(receiver)
    }

    /// The next line; `None` when the pipe is closed.
    ///
    /// # Errors
    /// The deadline passed.
    pub fn next(&self, deadline: Instant) -> Result<Option<Line>> {
        match self.0.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("nothing came before the deadline"),
        }
    }

    /// All lines until the pipe is closed.
    ///
    /// # Errors
    /// The deadline passed.
    pub fn rest(&self, deadline: Instant) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        while let Some(line) = self.next(deadline)? {
            lines.push(line.text);
        }
        Ok(lines)
    }
}

/// A parsed line.
#[derive(Debug)]
pub struct Record {
    /// When it was read.
    pub at_ns: u64,
    /// The object.
    pub value: Value,
}

impl Record {
    /// Its discriminator.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.value["type"].as_str().unwrap_or_default()
    }
}

/// memtrace, running. Killed on drop.
#[derive(Debug)]
pub struct Tool {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines,
    errors: Lines,
    records: Vec<Record>,
    books: Books,
    raw: std::fs::File,
}

/// What it said altogether.
#[derive(Debug)]
pub struct Outcome {
    /// Every object of stdout.
    pub records: Vec<Record>,
    /// The books, kept from them.
    pub books: Books,
    /// Every line of stderr.
    pub errors: Vec<String>,
    /// How it ended.
    pub status: ExitStatus,
}

impl Tool {
    /// `memtrace --pid PID --json …`, armed.
    ///
    /// # Errors
    /// It did not start, or ended or stayed silent before its `meta` line.
    pub fn attach(pid: u32, extra: &[&str]) -> Result<Self> {
        let mut arguments = vec!["--pid".to_owned(), pid.to_string()];
        arguments.extend(extra.iter().map(ToString::to_string));
        let mut tool = Self::start(&arguments)?;
        tool.wait_until_armed()?;
        Ok(tool)
    }

    /// `memtrace --json … -- sh -c 'exec "$@" >FILE' COMMAND…`: the command's own output goes to a file, because
    /// stdout is memtrace's.
    ///
    /// # Errors
    /// It did not start.
    pub fn command(command: &[&str], extra: &[&str]) -> Result<Self> {
        let output = keepsake("command.txt");
        let mut arguments: Vec<String> = extra.iter().map(ToString::to_string).collect();
        arguments.extend(["--", "/bin/sh", "-c", "out=$1; shift; exec \"$@\" >\"$out\" 2>&1", "sh"].map(String::from));
        arguments.push(output.display().to_string());
        arguments.extend(command.iter().map(ToString::to_string));
        Self::start(&arguments)
    }

    /// Starts it with these arguments and `--json`, by default at an interval of 100 ms.
    ///
    /// # Errors
    /// It did not start.
    pub fn start(arguments: &[String]) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.arg("--json");
        if !arguments.iter().any(|argument| argument == "--interval" || argument == "default-interval") {
            command.args(["--interval", "100ms"]);
        }
        command
            .args(arguments.iter().filter(|argument| *argument != "default-interval"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: a Ctrl-C at the terminal ends the tests, which end it.
            .process_group(0);
        let mut child = command.spawn().context("failed to start memtrace")?;
        let stdin = child.stdin.take();
        let lines = Lines::of(child.stdout.take().context("stdout is piped")?);
        let errors = Lines::of(child.stderr.take().context("stderr is piped")?);
        let raw = std::fs::File::create(keepsake("ndjson"))?;
        Ok(Self { child, stdin, lines, errors, records: Vec::new(), books: Books::default(), raw })
    }

    /// Waits for the `meta` line, which is printed once every probe is armed and the books are open.
    ///
    /// # Errors
    /// It ended before, or stayed silent.
    pub fn wait_until_armed(&mut self) -> Result<()> {
        self.wait_for("the meta line", |record| record.kind() == "meta")?;
        ensure!(self.records.len() == 1, "meta is not the first line");
        Ok(())
    }

    /// memtrace's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its stdin, which a command inherits; taking it and dropping it is the end of input.
    #[must_use]
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// What it printed until now.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Reads until a line is what was waited for; its place in [`Tool::records`].
    ///
    /// # Errors
    /// It ended or stayed silent, or a line is not what the contract says.
    pub fn wait_for(&mut self, what: &str, mut wanted: impl FnMut(&Record) -> bool) -> Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = match self.lines.next(deadline) {
                Ok(Some(line)) => line,
                outcome => {
                    let how = if outcome.is_err() { "stayed silent" } else { "ended" };
                    let errors = self.errors_so_far();
                    bail!("memtrace {how} before {what}; stderr:\n{errors}");
                }
            };
            self.take(line)?;
            if self.records.last().is_some_and(&mut wanted) {
                return Ok(self.records.len() - 1);
            }
        }
    }

    /// Reads statements until the books are as was waited for.
    ///
    /// # Errors
    /// As [`Tool::wait_for`].
    pub fn wait_for_books(&mut self, what: &str, wanted: impl Fn(&Books) -> bool) -> Result<()> {
        while !wanted(&self.books) {
            self.wait_for(what, |record| record.kind() == "statement")?;
        }
        Ok(())
    }

    fn take(&mut self, line: Line) -> Result<()> {
        writeln!(self.raw, "{}", line.text)?;
        let value: Value = serde_json::from_str(&line.text).with_context(|| format!("not JSON: {:.400}", line.text))?;
        self.books.enter(&value).with_context(|| format!("the line: {:.2000}", line.text))?;
        self.records.push(Record { at_ns: line.at_ns, value });
        Ok(())
    }

    fn errors_so_far(&mut self) -> String {
        let mut text = String::new();
        while let Ok(Some(line)) = self.errors.next(Instant::now() + Duration::from_millis(200)) {
            text.push_str(&line.text);
            text.push('\n');
        }
        text
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: our own child, not yet waited for.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// SIGINT, then everything until it has ended.
    ///
    /// # Errors
    /// As [`Tool::wait`].
    pub fn finish(self) -> Result<Outcome> {
        self.signal(libc::SIGINT);
        self.wait()
    }

    /// Everything until it ends by itself.
    ///
    /// # Errors
    /// It does not end, or a line is not what the contract says.
    pub fn wait(self) -> Result<Outcome> {
        self.wait_within(PATIENCE)
    }

    /// As [`Tool::wait`] with another patience.
    ///
    /// # Errors
    /// As [`Tool::wait`].
    pub fn wait_within(mut self, patience: Duration) -> Result<Outcome> {
        let deadline = Instant::now() + patience;
        while let Some(line) = self.lines.next(deadline).context("memtrace does not end")? {
            self.take(line)?;
        }
        let errors = self.errors.rest(deadline).context("memtrace's stderr stays open")?;
        std::fs::write(keepsake("stderr"), errors.join("\n"))?;
        let status = wait_until(&mut self.child, deadline).context("memtrace closed its output and does not end")?;
        Ok(Outcome {
            records: std::mem::take(&mut self.records),
            books: std::mem::take(&mut self.books),
            errors,
            status,
        })
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Outcome {
    /// It ended well and the books are closed: nothing unexplained, nothing lost, and an `end` line last.
    ///
    /// # Errors
    /// Which of these does not hold.
    pub fn assert_closed(&self) -> Result<()> {
        ensure!(self.status.success(), "memtrace ended with {}; stderr:\n{}", self.status, self.errors.join("\n"));
        ensure!(self.records.last().is_some_and(|record| record.kind() == "end"), "end is not the last line");
        self.books.assert_closed()
    }

    /// The `end` line.
    ///
    /// # Errors
    /// There is none.
    pub fn end(&self) -> Result<&Value> {
        self.records
            .iter()
            .rev()
            .find(|record| record.kind() == "end")
            .map(|record| &record.value)
            .ok_or_else(|| anyhow!("no end line; stderr:\n{}", self.errors.join("\n")))
    }
}

/// Runs memtrace with these arguments until it ends: for what must fail.
///
/// # Errors
/// It did not start or does not end.
pub fn run_to_end(arguments: &[&str]) -> Result<(ExitStatus, String, String)> {
    let mut child = Command::new(binary()?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let output = Lines::of(child.stdout.take().context("piped")?);
    let errors = Lines::of(child.stderr.take().context("piped")?);
    let deadline = Instant::now() + PATIENCE;
    let texts = output.rest(deadline).and_then(|output| Ok((output, errors.rest(deadline)?)));
    if texts.is_err() {
        let _ = child.kill();
    }
    let status = wait_until(&mut child, deadline + PATIENCE)?;
    let (output, errors) = texts.context("memtrace does not end")?;
    Ok((status, output.join("\n"), errors.join("\n")))
}

/// Waits for what tells nobody when it comes.
///
/// # Errors
/// It does not come, or what `done` says.
pub fn until(mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        ensure!(Instant::now() < deadline, "it does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
