//! `cargo xtask demo`: from nothing to memtrace's output in one command.

use crate::build::{self, Profile};
use crate::machine;
use crate::run;
use crate::shell;
use anyhow::{Context, Result};
use std::process::{Command, ExitCode};

/// The program that is watched; its source is `tests/workloads/demo.rs`.
const WORKLOAD: &str = "memtrace-demo";

const WHAT_TO_LOOK_AT: &str = "
What to look at:
  - Lines that begin with \"demo:\" are the watched program's own: what it is about to do, and how much.
    The paragraph after each is memtrace's: the same amount, its cause, the mapping, the thread, the faults.
  - The fork step changes RES by nothing, yet its page faults and their time are there.
  - The closing statement: opening + every cause = closing, and \"unexplained\" is 0 B.
Next: watch a process of yours, with its pid for N
";

/// Builds everything and runs memtrace on the bundled program, about ten seconds.
///
/// # Errors
/// When something cannot be built or started.
pub fn demo() -> Result<ExitCode> {
    let memtrace = build::memtrace(Profile::Release, &build::object()?)?;
    shell::run(build::cargo().args([
        "build",
        "--release",
        "--package",
        "memtrace-tests",
        "--no-default-features",
        "--bin",
        WORKLOAD,
    ]))?;
    let mut command = Command::new(&memtrace);
    command.arg("--").arg(Profile::Release.program(WORKLOAD));
    if !machine::is_root() {
        return Ok(run::refuse(&command));
    }
    machine::mount_tracefs()?;
    eprintln!("demo: {}\n", shell::line(&command));
    outlive_interrupt();
    let status = command.status().with_context(|| format!("failed to start {}", memtrace.display()))?;
    if !status.success() {
        anyhow::bail!("{} failed: {status}", shell::line(&command));
    }
    let mut next = Command::new("sudo");
    next.arg(&memtrace).args(["--pid", "N"]);
    eprintln!("{WHAT_TO_LOOK_AT}  {}", shell::line(&next));
    Ok(ExitCode::SUCCESS)
}

/// `^C` ends what is watched, then memtrace with its closing statement; we stay until that is printed.
/// A handler instead of ignoring: programs that we start begin with the default again.
fn outlive_interrupt() {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: a handler that does nothing is safe in whatever it interrupts.
    unsafe { libc::signal(libc::SIGINT, handler as libc::sighandler_t) };
}
