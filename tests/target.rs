//! Processes that are watched: started, talked to, stopped, killed by their own handle.

use crate::runner::SceneFailed;
use crate::tool::{Lines, PATIENCE, workload_binary};
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use std::io::Write;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A child of the test. Killed and reaped on drop.
#[derive(Debug)]
pub struct Target {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines,
}

impl Target {
    /// Starts it with stdin and stdout piped; stderr is the test's.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {}", command.get_program().display()))?;
        let stdin = child.stdin.take();
        let lines = Lines::of(child.stdout.take().context("piped")?);
        Ok(Self { child, stdin, lines })
    }

    /// Starts a scene and waits until it is ready.
    ///
    /// # Errors
    /// It does not get there.
    pub fn workload(scene: &str, options: &[String]) -> Result<Self> {
        let mut target = Self::start(Command::new(workload_binary()).arg(scene).args(options))?;
        let ready = target.json().with_context(|| format!("the scene {scene} does not get ready"))?;
        ensure!(ready["ready"] == true, "the scene {scene} says {ready}");
        Ok(target)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a line or a byte.
    ///
    /// # Errors
    /// It does not listen any more.
    pub fn send(&mut self, text: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("stdin was closed")?;
        stdin.write_all(text.as_bytes())?;
        Ok(stdin.flush()?)
    }

    /// Closes its stdin.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    /// Its next line.
    ///
    /// # Errors
    /// It ended, or said nothing before the deadline.
    pub fn line(&mut self) -> Result<String> {
        self.line_within(PATIENCE)
    }

    /// Its next line, with another patience.
    ///
    /// # Errors
    /// As [`Target::line`].
    pub fn line_within(&mut self, patience: Duration) -> Result<String> {
        let line = self.lines.next(Instant::now() + patience)?;
        Ok(line.ok_or_else(|| anyhow!("the target ended"))?.text)
    }

    /// Its next line as JSON.
    ///
    /// # Errors
    /// As [`Target::line`], or it is not JSON.
    pub fn json(&mut self) -> Result<Value> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line:.400}"))
    }

    /// What the scene says it did: its next line.
    ///
    /// # Errors
    /// As [`Target::json`], or [`parse_report`].
    pub fn report(&mut self) -> Result<Value> {
        self.report_within(PATIENCE)
    }

    /// What the scene says it did, with another patience.
    ///
    /// # Errors
    /// As [`Target::report`].
    pub fn report_within(&mut self, patience: Duration) -> Result<Value> {
        parse_report(&self.line_within(patience).context("the scene's report")?)
    }

    /// Reads lines until one contains the text.
    ///
    /// # Errors
    /// As [`Target::line`].
    pub fn wait_for_line(&mut self, text: &str, patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            let line = self.line_within(deadline.saturating_duration_since(Instant::now()))?;
            if line.contains(text) {
                return Ok(line);
            }
        }
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It does not.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        // Its stdout closes when it ends: that is the event; the rest of its words are not needed.
        self.lines.rest(deadline).context("the target does not end")?;
        wait_until(&mut self.child, deadline).context("the target does not end")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: our own child, not yet reaped.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A scene's report.
///
/// # Errors
/// It is none, or a [`SceneFailed`] with the scene's own words.
pub fn parse_report(line: &str) -> Result<Value> {
    let report: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line:.400}"))?;
    match report["done"].as_bool() {
        Some(true) => Ok(report),
        Some(false) => bail!(SceneFailed(report["failed"].to_string())),
        None => bail!("not a scene's report: {line:.400}"),
    }
}

/// Reaps a child.
///
/// # Errors
/// The deadline passed.
pub fn wait_until(child: &mut Child, deadline: Instant) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        ensure!(Instant::now() < deadline, "process {} is still there", child.id());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A stopped process; goes on when dropped.
#[derive(Debug)]
pub struct Stopped(u32);

/// Stops a process, whoever's child it is, and waits until each of its threads stands still.
///
/// # Errors
/// There is no such process, or it does not stop.
pub fn stop(pid: u32) -> Result<Stopped> {
    // SAFETY: a signal to a process that this test watches.
    if unsafe { libc::kill(pid as i32, libc::SIGSTOP) } != 0 {
        bail!("failed to stop {pid}: {}", std::io::Error::last_os_error());
    }
    let stopped = Stopped(pid);
    let deadline = Instant::now() + PATIENCE;
    // The stop of somebody else's child is announced to its parent only; ours is to look.
    while !threads_stand(pid)? {
        ensure!(Instant::now() < deadline, "{pid} does not stop");
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(stopped)
}

fn threads_stand(pid: u32) -> Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // Its name may be any bytes.
        let Ok(stat) = std::fs::read(thread?.path().join("stat")) else {
            return Ok(false);
        };
        let state = String::from_utf8_lossy(&stat);
        let state = state.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        if !matches!(state, Some('T' | 't' | 'Z' | 'X')) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: a signal to a process that this test watches; at worst it is gone.
        unsafe { libc::kill(self.0 as i32, libc::SIGCONT) };
    }
}

/// Children of a process, oldest first.
///
/// # Errors
/// There is no such process.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .with_context(|| format!("failed to read the children of {pid}"))?;
    Ok(text.split_whitespace().filter_map(|number| number.parse().ok()).collect())
}

/// A process with its children and theirs, whichever of their threads has started them.
#[must_use]
pub fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(&parent) = all.get(next) {
        next += 1;
        for task in std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    all
}

/// Stops a process with all of its family; none has started another meanwhile.
///
/// # Errors
/// As [`stop`].
pub fn stop_family(pid: u32) -> Result<Vec<(u32, Stopped)>> {
    let mut stopped: Vec<(u32, Stopped)> = Vec::new();
    loop {
        let fresh = family(pid).into_iter().find(|pid| stopped.iter().all(|(known, _)| known != pid));
        let Some(fresh) = fresh else { return Ok(stopped) };
        stopped.push((fresh, stop(fresh)?));
    }
}
