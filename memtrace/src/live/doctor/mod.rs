//! `memtrace doctor`: what this machine allows, tried and not guessed. Each probe is hung up and taken down again, and
//! the books of a process of our own are opened, moved by known amounts and closed. Changes nothing, needs no rights:
//! without them it says which are missing.

mod checks;
mod machine;
mod render;
mod selftest;

use crate::cli::ExitCode;
use crate::event::Mode;
use crate::hints::Failure;
use anyhow::{Context as _, Result};
use std::io::{self, Write as _};

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// As it should be.
    Ok,
    /// The books cannot be kept.
    Failed,
    /// Something is less than it could be; the books can be kept.
    Limited,
    /// Not tried, because something before it failed.
    Untried,
    /// Neither good nor bad; explains the others.
    Fact,
}

/// Whose refusal a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Blame {
    /// A right is missing: another user may succeed.
    Permission,
    /// The kernel cannot, whoever asks.
    Kernel,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Check {
    group: &'static str,
    name: String,
    state: State,
    /// Set when it failed.
    blame: Option<Blame>,
    /// What was found; what the kernel said.
    detail: String,
    /// What to type, best first.
    advice: Vec<String>,
}

impl Check {
    fn new(group: &'static str, name: impl Into<String>, state: State, detail: impl Into<String>) -> Self {
        Self { group, name: name.into(), state, blame: None, detail: detail.into(), advice: Vec::new() }
    }

    fn ok(group: &'static str, name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(group, name, State::Ok, detail)
    }

    fn fact(group: &'static str, name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(group, name, State::Fact, detail)
    }

    fn limited(group: &'static str, name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(group, name, State::Limited, detail)
    }

    fn untried(group: &'static str, name: impl Into<String>) -> Self {
        Self::new(group, name, State::Untried, "")
    }

    fn failed(group: &'static str, name: impl Into<String>, blame: Blame, detail: impl Into<String>) -> Self {
        Self { blame: Some(blame), ..Self::new(group, name, State::Failed, detail) }
    }

    /// A refusal, in the words and with the advice that a session would have for it.
    fn refused(group: &'static str, name: impl Into<String>, error: anyhow::Error) -> Self {
        let kernel = error.root_cause().downcast_ref::<io::Error>().filter(|error| error.raw_os_error().is_some());
        let kernel = kernel.map(io::Error::to_string);
        let error = super::failure::recognise(error);
        match error.downcast_ref::<Failure>() {
            Some(failure) => {
                let blame =
                    if failure.exit_code() == ExitCode::NotPermitted { Blame::Permission } else { Blame::Kernel };
                let mut detail = failure.to_string();
                if let Some(kernel) = kernel.filter(|kernel| !detail.contains(kernel)) {
                    detail.push_str(&format!(" (the kernel says: {kernel})"));
                }
                let mut check = Self::failed(group, name, blame, detail);
                check.advice = failure.advice();
                // That is what runs now.
                check.advice.retain(|line| !line.starts_with("memtrace doctor  "));
                check
            }
            None => Self::failed(group, name, Blame::Kernel, format!("{error:#}")),
        }
    }

    fn advise(mut self, line: impl Into<String>) -> Self {
        self.advice.push(line.into());
        self
    }
}

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Examination {
    kernel: String,
    arch: &'static str,
    checks: Vec<Check>,
}

impl Examination {
    /// Everything, tried.
    fn make() -> Self {
        let kernel = crate::procfs::read_kernel_release().unwrap_or_else(|_| "unknown".to_owned());
        let mut checks = machine::look(&kernel);
        let own_ids = checks.iter().any(|check| check.name == machine::PID_NAMESPACE && check.blame.is_some());
        checks::try_all(&mut checks, !own_ids);
        Self { kernel, arch: std::env::consts::ARCH, checks }
    }

    fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.state == State::Failed)
    }

    /// The mode that a session would have.
    fn mode(&self) -> Mode {
        if self.failures().next().is_none() { Mode::Exact } else { Mode::Procfs }
    }

    /// Why not exact: the first failure. `None` when it is.
    fn reason(&self) -> Option<String> {
        let first = self.failures().next()?;
        let detail = first.detail.lines().next().unwrap_or_default();
        Some(format!("{}: {detail}", first.name))
    }

    /// 0 when the books can be kept. What the kernel cannot do outweighs a missing right, which alone would not help.
    fn exit_code(&self) -> ExitCode {
        match self.failures().filter_map(|check| check.blame).max() {
            None => ExitCode::Done,
            Some(Blame::Permission) => ExitCode::NotPermitted,
            Some(Blame::Kernel) => ExitCode::KernelNotUsable,
        }
    }
}

/// Says what this machine allows; the status to exit with.
///
/// # Errors
/// The answer cannot be printed. That nobody reads it is no error.
pub fn doctor(json: bool, color: bool) -> Result<u8> {
    let examination = Examination::make();
    let text = if json { render::json(&examination) } else { render::text(&examination, color) };
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("failed to print"),
        _ => Ok(examination.exit_code() as u8),
    }
}

#[cfg(test)]
mod tests;
