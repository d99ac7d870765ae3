//! `cargo xtask run`: memtrace, built and run with the caller's arguments.

use crate::build::{self, Profile};
use crate::machine;
use crate::shell;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// memtrace's exit code for "not permitted", which is what it would say itself.
const NOT_PERMITTED: u8 = 4;

/// Builds memtrace and becomes it, so that signals and its exit status pass through. Without root it says the line to type.
///
/// # Errors
/// When it cannot be built or started.
pub fn run(profile: Profile, arguments: &[OsString]) -> Result<ExitCode> {
    let program = build::memtrace(profile, &build::object()?)?;
    let mut command = Command::new(&program);
    command.args(arguments);
    if !machine::is_root() {
        return Ok(refuse(&command));
    }
    machine::mount_tracefs()?;
    let error = command.exec();
    Err(error).with_context(|| format!("failed to start {}", program.display()))
}

/// Says how to run `command` as root.
pub fn refuse(command: &Command) -> ExitCode {
    eprintln!("xtask: loading the probes needs root; type\n  sudo {}", shell::line(command));
    ExitCode::from(NOT_PERMITTED)
}
