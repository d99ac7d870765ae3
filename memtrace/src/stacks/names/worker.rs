//! Our end of the process that reads symbols: starts it, asks it, ends it when it takes too long.

use super::question::{Answer, Question, receive, send};
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Not in time: the process was ended.
    Timeout,
    /// The process ended by itself.
    Died,
}

/// A running reader.
pub(super) struct Worker {
    child: Child,
    socket: UnixStream,
    /// Questions that were answered.
    pub answered: u64,
}

impl Worker {
    /// Starts `program`, whose standard input becomes the socket.
    ///
    /// # Errors
    /// When the kernel starts no process.
    pub(super) fn start(mut program: Command) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        let child = program
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // An interrupt from the terminal is for us: the last names are still wanted.
            .process_group(0)
            .spawn()?;
        Ok(Self { child, socket, answered: 0 })
    }

    /// # Errors
    /// When there is no answer; the worker is of no more use then.
    pub(super) fn ask(&mut self, question: &Question, time: Duration) -> Result<Answer, Failure> {
        let failure = |error: io::Error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::Timeout,
            _ => Failure::Died,
        };
        let mut socket = Deadline { socket: &self.socket, end: Instant::now() + time };
        self.socket.set_write_timeout(Some(time)).map_err(failure)?;
        send(&mut &self.socket, question).map_err(failure)?;
        let answer = receive(&mut socket).map_err(failure)?;
        self.answered += 1;
        Ok(answer)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already, and is waited for in both cases.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A socket that is read until a moment.
struct Deadline<'a> {
    socket: &'a UnixStream,
    end: Instant,
}

impl Read for Deadline<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        (&mut &*self.socket).read(buffer)
    }
}
