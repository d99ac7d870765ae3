//! `memtrace record`, running, and what `memtrace replay` prints of its file.

use crate::books::Books;
use crate::runner::keepsake;
use crate::target::wait_until;
use crate::tool::{PATIENCE, binary};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A trace's header; what follows it is written once every probe is armed and the books are open.
const HEADER: u64 = 10;

/// memtrace, recording. Killed on drop.
#[derive(Debug)]
pub struct Recording {
    child: Child,
    trace: PathBuf,
}

impl Recording {
    /// `memtrace record --pid PID …`, armed.
    ///
    /// # Errors
    /// It did not start, or ended or did not get there.
    pub fn attach(pid: u32, extra: &[&str]) -> Result<Self> {
        let mut arguments = extra.to_vec();
        let pid = pid.to_string();
        arguments.extend(["--pid", &pid]);
        Self::start(&arguments)
    }

    /// `memtrace record -o TRACE …`, armed. The trace and what is printed are kept with what other tests saw.
    ///
    /// # Errors
    /// It did not start, or ended or did not get there.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let trace = keepsake("memtrace");
        // An older one would look as if it were this one's.
        let _ = std::fs::remove_file(&trace);
        let child = Command::new(binary()?)
            .arg("record")
            .arg("-o")
            .arg(&trace)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(File::create(keepsake("closing"))?)
            .stderr(File::create(keepsake("stderr"))?)
            .process_group(0)
            .spawn()
            .context("failed to start memtrace")?;
        let recording = Self { child, trace };
        recording.wait_for_bytes(HEADER + 1)?;
        Ok(recording)
    }

    /// The file.
    #[must_use]
    pub fn trace(&self) -> &Path {
        &self.trace
    }

    /// Waits until the file has this length.
    ///
    /// # Errors
    /// It does not get there.
    pub fn wait_for_bytes(&self, length: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while std::fs::metadata(&self.trace).map_or(0, |file| file.len()) < length {
            if Instant::now() > deadline || has_ended(self.child.id())? {
                // What it wrote just before its end counts.
                ensure!(
                    std::fs::metadata(&self.trace).map_or(0, |file| file.len()) >= length,
                    "nothing is recorded; stderr:\n{}",
                    std::fs::read_to_string(keepsake("stderr")).unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// SIGINT, and the closing statement that it then printed.
    ///
    /// # Errors
    /// It does not end, or with an error.
    pub fn finish(self) -> Result<Vec<u8>> {
        // SAFETY: our own child, not yet waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGINT) };
        let (status, closing) = self.wait()?;
        ensure!(status.success(), "record ended with {status}");
        Ok(closing)
    }

    /// Its status and the closing statement, once it has ended by itself.
    ///
    /// # Errors
    /// It does not end.
    pub fn wait(mut self) -> Result<(ExitStatus, Vec<u8>)> {
        let status = wait_until(&mut self.child, Instant::now() + PATIENCE).context("memtrace does not end")?;
        Ok((status, std::fs::read(keepsake("closing"))?))
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// It does not end.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        wait_until(&mut self.child, Instant::now() + PATIENCE).map(drop)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Without reaping it.
fn has_ended(pid: u32) -> Result<bool> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])))
}

/// What a replay printed.
#[derive(Debug)]
pub struct Replay {
    /// Its stdout.
    pub stdout: Vec<u8>,
    /// Its stderr.
    pub stderr: String,
    /// How it ended.
    pub status: ExitStatus,
}

impl Replay {
    /// `memtrace replay TRACE …`, to its end.
    ///
    /// # Errors
    /// It does not start, or does not end.
    pub fn of(trace: &Path, arguments: &[&str]) -> Result<Self> {
        let (output, errors) = (keepsake("replay.out"), keepsake("replay.stderr"));
        let mut child = Command::new(binary()?)
            .arg("replay")
            .arg(trace)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .stderr(File::create(&errors)?)
            .spawn()
            .context("failed to start memtrace")?;
        let status = wait_until(&mut child, Instant::now() + PATIENCE);
        if status.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        Ok(Self { stdout: std::fs::read(output)?, stderr: std::fs::read_to_string(errors)?, status: status? })
    }

    /// It said nothing on stderr and succeeded.
    ///
    /// # Errors
    /// What it said.
    pub fn assert_whole(&self) -> Result<()> {
        ensure!(self.status.success(), "replay ended with {}; stderr:\n{}", self.status, self.stderr);
        ensure!(self.stderr.is_empty(), "replay says on stderr: {}", self.stderr);
        Ok(())
    }

    fn objects(&self) -> Result<Vec<Value>> {
        let text = std::str::from_utf8(&self.stdout)?;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line:.400}"))).collect()
    }

    /// The books of an NDJSON replay, held against the law line by line.
    ///
    /// # Errors
    /// The first line that breaks it.
    pub fn books(&self) -> Result<Books> {
        let mut books = Books::default();
        for object in self.objects()? {
            books.enter(&object).with_context(|| format!("the line: {object:.2000}"))?;
        }
        Ok(books)
    }

    /// The last object of an NDJSON replay, which is its end.
    ///
    /// # Errors
    /// It is none.
    pub fn end(&self) -> Result<Value> {
        match self.objects()?.pop() {
            Some(end) if end["type"] == "end" => Ok(end),
            other => bail!("the last line is no end: {other:?}"),
        }
    }
}
