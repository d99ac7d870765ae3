//! `memtrace stuck`: a session as any other, of which only the answer is printed.

use super::watch;
use crate::cli::{StuckOptions, Target};
use anyhow::Result;

/// Watches for as long as was asked, or until SIGINT, and prints why the process does not move. The status to exit with.
///
/// # Errors
/// The target cannot be watched, or the kernel refuses.
pub(super) fn run(options: &StuckOptions) -> Result<u8> {
    if let (Some(_), &Target::Pid(pid)) = (&options.trace.pg, &options.target)
        && crate::live::read_backend(pid).is_none_or(|backend| backend.server != "postgresql")
    {
        eprintln!("memtrace: process {pid} is no backend of a PostgreSQL server: nobody is asked what --pg says");
    }
    watch(&options.target, &options.trace, None, &options.output, false)
}
