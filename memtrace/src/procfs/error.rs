//! What can go wrong when a process is read.

use super::Malformed;
use std::io;

/// Why a process could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There never was such a process, or it is hidden from us (`hidepid`).
    #[error("there is no process {0}")]
    NoSuchProcess(u32),
    /// The number is a thread's.
    #[error("{tid} is a thread of process {pid}")]
    IsThread {
        /// The number that was asked for.
        tid: u32,
        /// The process it belongs to.
        pid: u32,
    },
    /// A kernel thread has no memory of its own.
    #[error("{pid} ({comm:?}) is a kernel thread: it has no memory of its own")]
    KernelThread {
        /// The thread.
        pid: u32,
        /// Its name, what is not UTF-8 replaced.
        comm: String,
    },
    /// It has exited already, and its parent has not taken notice.
    #[error("process {0} has exited already (zombie): its memory is gone")]
    Zombie(u32),
    /// The process ended after it had been opened.
    #[error("process {0} is gone")]
    Gone(u32),
    /// The kernel did not let us.
    #[error("not permitted to read /proc/{pid}/{file}")]
    PermissionDenied {
        /// The process.
        pid: u32,
        /// The file.
        file: String,
    },
    /// A file is not as the kernel prints it.
    #[error("failed to read process {pid}")]
    Malformed {
        /// The process.
        pid: u32,
        /// Which file, which line.
        source: Malformed,
    },
    /// Anything else.
    #[error("failed to read /proc/{pid}/{file}")]
    Io {
        /// The process.
        pid: u32,
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
}
