//! Starting a command so that nothing of it is missed: its process waits, before execve, until the probes are armed.

use crate::hints::Failure;
use anyhow::{Context as _, Result, anyhow};
use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::thread::JoinHandle;

/// A command whose process exists and waits.
pub struct Waiting {
    /// Its process.
    pub pid: u32,
    release: io::PipeWriter,
    spawner: JoinHandle<io::Result<Child>>,
    command: OsString,
}

impl Waiting {
    /// Forks; the new process waits before execve.
    ///
    /// # Errors
    /// No process or pipe can be had.
    pub fn start(command: &[OsString]) -> Result<Self> {
        let (name, arguments) = command.split_first().ok_or_else(|| anyhow!("no command given"))?;
        let (mut pid_reader, pid_writer) = io::pipe().context("failed to make a pipe")?;
        let (release_reader, release) = io::pipe().context("failed to make a pipe")?;
        let mut child = Command::new(name);
        child.args(arguments);
        let (tell, wait) = (OwnedFd::from(pid_writer), OwnedFd::from(release_reader));
        let (tell_fd, wait_fd, release_fd) = (tell.as_raw_fd(), wait.as_raw_fd(), release.as_raw_fd());
        // SAFETY: between fork and execve only getpid, write, close and read are called, on descriptors that the spawning
        // thread keeps open until execve; all are async-signal-safe and nothing allocates.
        unsafe {
            child.pre_exec(move || {
                let pid = libc::getpid().to_ne_bytes();
                if libc::write(tell_fd, pid.as_ptr().cast(), pid.len()) != pid.len() as isize {
                    return Err(io::Error::last_os_error());
                }
                // Our copy of the writing end would keep the pipe open when the watcher dies.
                libc::close(release_fd);
                let mut byte = 0u8;
                match libc::read(wait_fd, (&raw mut byte).cast(), 1) {
                    1 => Ok(()),
                    // The watcher gave up: the command must not run unwatched.
                    _ => Err(io::Error::from_raw_os_error(libc::ECANCELED)),
                }
            });
        }
        // spawn() returns only after execve, so that its error can be told: it needs a thread of its own.
        let spawner = std::thread::Builder::new()
            .name("spawn".to_owned())
            .spawn(move || {
                let result = child.spawn();
                drop((tell, wait));
                result
            })
            .context("failed to start a thread")?;
        let mut pid = [0; 4];
        if pid_reader.read_exact(&mut pid).is_err() {
            let error = spawner.join().map_err(|_| anyhow!("the spawning thread panicked"))?;
            return Err(error.err().map_or_else(|| anyhow!("the command's process said nothing"), anyhow::Error::from))
                .context("failed to start the command's process");
        }
        Ok(Self { pid: u32::from_ne_bytes(pid), release, spawner, command: name.clone() })
    }

    /// Lets the process go on into execve.
    ///
    /// # Errors
    /// [`Failure::CommandNotStarted`] when there is no such command.
    pub fn release(mut self) -> Result<Child> {
        self.release.write_all(&[1]).context("failed to release the command")?;
        let spawned = self.spawner.join().map_err(|_| anyhow!("the spawning thread panicked"))?;
        spawned.map_err(|error| {
            Failure::CommandNotStarted {
                command: self.command.to_string_lossy().into_owned(),
                errno: error.raw_os_error().unwrap_or(0),
            }
            .into()
        })
    }
}
