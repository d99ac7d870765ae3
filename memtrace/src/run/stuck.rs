//! `memtrace stuck`: a session as any other, of which only the answer is printed.

use super::{watch, within};
use crate::cli::{StuckOptions, Target};
use anyhow::Result;

/// Watches for as long as was asked, or until SIGINT, and prints why the process does not move. The status to exit with.
///
/// # Errors
/// The target cannot be watched, or the kernel refuses.
pub(super) fn run(options: &StuckOptions) -> Result<u8> {
    let mut trace = options.trace.clone();
    if let (Some(_), &Target::Pid(pid)) = (&trace.pg, &options.target)
        && let Some(why) = not_to_be_asked(pid)
    {
        eprintln!("memtrace: process {pid} {why}: nobody is asked what --pg says");
        trace.pg = None;
    }
    watch(&options.target, &trace, None, &options.output, false).map_err(|error| within(error, "stuck"))
}

/// Why no server has anything to say of a process. That there is none is said by whoever watches it.
fn not_to_be_asked(pid: u32) -> Option<&'static str> {
    match crate::live::read_backend(pid).filter(|backend| backend.server == "postgresql") {
        Some(backend) if backend.backend_type.as_deref() == Some("postmaster") => {
            Some("is the postmaster, not a backend (give the pid of a backend: pg_stat_activity has them)")
        }
        Some(_) => None,
        None if !std::fs::exists(format!("/proc/{pid}")).unwrap_or(true) => None,
        None => Some("is no backend of a PostgreSQL server"),
    }
}
