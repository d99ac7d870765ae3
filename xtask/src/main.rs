//! `cargo xtask`: from a clone to a running, tested memtrace.
//!
//! This room reads the command line and nothing else. What each command does lives in the room of its name.
//! Talk goes to stderr: stdout belongs to the program that a command runs.

mod apt;
mod build;
mod demo;
mod machine;
mod run;
mod setup;
mod shell;
mod test;
mod toolchain;
mod vm;
mod workspace;

use anyhow::{Result, bail};
use build::Profile;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  setup                        find or install what building the probes needs
  build [--release]            build memtrace, its probes inside, as target/debug/memtrace or target/release/memtrace
  run [--release] -- ARGS...   build, then run memtrace with ARGS; its exit status passes through
  demo                         set up, build, and run memtrace for ten seconds on a small program
  test [FILTER]                format, lints and every test, those that need root included; with FILTER only
                               the tests whose name contains it
  vm KERNEL [FILTER...]        boot KERNEL (a vmlinuz, or a Debian package of one) in an emulated machine and run
                               `memtrace doctor` and the tests of causes there

run, demo and test need root to load the probes; what they build does not.
";

/// What was asked for.
#[derive(Debug, PartialEq)]
enum Command {
    Help,
    Setup,
    Build(Profile),
    Run(Profile, Vec<OsString>),
    Demo,
    Test(Option<String>),
    Vm(PathBuf, Vec<OsString>),
}

/// A command line that cannot be meant.
#[derive(Debug)]
struct Usage(String);

fn main() -> ExitCode {
    let command = match parse(std::env::args_os().skip(1).collect()) {
        Ok(command) => command,
        Err(Usage(reason)) => {
            eprintln!("xtask: {reason}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match perform(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(command: Command) -> Result<ExitCode> {
    match command {
        Command::Help => print!("{HELP}"),
        Command::Setup => {
            setup::setup()?;
        }
        Command::Build(profile) => {
            build::memtrace(profile, &build::object()?)?;
        }
        Command::Run(profile, arguments) => return run::run(profile, &arguments),
        Command::Demo => return demo::demo(),
        Command::Test(filter) => {
            if !test::test(filter.as_deref())? {
                bail!("not everything passed");
            }
        }
        Command::Vm(kernel, filter) => {
            if !vm::vm(&kernel, &filter)? {
                bail!("not everything passed on that kernel");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn parse(arguments: Vec<OsString>) -> Result<Command, Usage> {
    let mut rest = arguments.into_iter();
    let Some(name) = rest.next() else {
        return Ok(Command::Help);
    };
    let rest: Vec<OsString> = rest.collect();
    let none = |command: Command| match rest.first() {
        None => Ok(command),
        Some(extra) => Err(Usage(format!("unexpected argument {}", extra.display()))),
    };
    match name.to_str() {
        Some("help" | "-h" | "--help") => Ok(Command::Help),
        Some("setup") => none(Command::Setup),
        Some("demo") => none(Command::Demo),
        Some("build") => match rest.as_slice() {
            [] => Ok(Command::Build(Profile::Debug)),
            [flag] if flag == "--release" => Ok(Command::Build(Profile::Release)),
            [extra, ..] => Err(Usage(format!("unexpected argument {}", extra.display()))),
        },
        Some("run") => {
            let (profile, rest) = match rest.split_first() {
                Some((flag, rest)) if flag == "--release" => (Profile::Release, rest),
                _ => (Profile::Debug, rest.as_slice()),
            };
            match rest.split_first() {
                None => Ok(Command::Run(profile, Vec::new())),
                Some((dashes, arguments)) if dashes == "--" => Ok(Command::Run(profile, arguments.to_vec())),
                Some((extra, _)) => {
                    Err(Usage(format!("unexpected argument {}; memtrace's own follow after --", extra.display())))
                }
            }
        }
        Some("test") => match rest.as_slice() {
            [] => Ok(Command::Test(None)),
            [filter] => match filter.to_str() {
                Some(filter) if !filter.starts_with('-') => Ok(Command::Test(Some(filter.to_owned()))),
                _ => Err(Usage(format!("unexpected argument {}", filter.display()))),
            },
            [_, extra, ..] => Err(Usage(format!("unexpected argument {}", extra.display()))),
        },
        Some("vm") => match rest.split_first() {
            Some((kernel, filter)) => Ok(Command::Vm(PathBuf::from(kernel), filter.to_vec())),
            None => Err(Usage("vm needs a kernel".to_owned())),
        },
        _ => Err(Usage(format!("no command {}", name.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<Command> {
        parse(line.split_whitespace().map(OsString::from).collect()).ok()
    }

    #[test]
    fn run_keeps_everything_after_the_dashes() {
        assert_eq!(
            parsed("run --release -- --pid 7 -- sleep 1"),
            Some(Command::Run(Profile::Release, ["--pid", "7", "--", "sleep", "1"].map(OsString::from).to_vec()))
        );
        assert_eq!(parsed("run"), Some(Command::Run(Profile::Debug, vec![])));
        assert_eq!(parsed("run --pid 7"), None);
    }

    #[test]
    fn unknown_words_are_refused() {
        assert_eq!(parsed("build --relase"), None);
        assert_eq!(parsed("setup now"), None);
        assert_eq!(parsed("test a b"), None);
        assert_eq!(parsed("test --release"), None);
        assert_eq!(parsed("frobnicate"), None);
        assert_eq!(parsed("vm"), None);
        assert_eq!(parsed("test laws"), Some(Command::Test(Some("laws".into()))));
    }
}
