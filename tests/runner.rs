//! Runs tests one by one, as root, and does not let a test pass that could not run.
//!
//! Not libtest: most of these tests change the machine (swap, cgroups, KSM), so two at a time would see each other,
//! and a test that finds out while it runs that the machine cannot produce its case has a third outcome.

use anyhow::{Context, Result, anyhow, bail};
use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A test: its name and what it does. An error is a failure, unless it is a [`Skip`].
pub type Test = (&'static str, fn() -> Result<()>);

/// This machine cannot produce the case. Says why, and what would let it.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// A scene says of itself that it did not come about: nothing was shown of the tool, neither way. The test is run again,
/// at most [`PLAYS`] times in all.
#[derive(Debug)]
pub struct SceneFailed(pub String);

impl fmt::Display for SceneFailed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the scene itself failed: {}", self.0)
    }
}

impl std::error::Error for SceneFailed {}

/// How often a scene may try to come about.
const PLAYS: usize = 3;

/// Runs a test, again while it is its scene that fails. What the tool did wrong is never tried again.
fn played(name: &str, test: fn() -> Result<()>) -> Result<()> {
    for play in 1..PLAYS {
        match test() {
            Err(error) if error.is::<SceneFailed>() => {
                eprintln!("test {name}: play {play} of {PLAYS}: {error:#}; it is played again");
            }
            outcome => return outcome,
        }
    }
    test()
}

/// Ends a test as skipped.
///
/// # Errors
/// Always: that is its purpose.
pub fn skip(why: impl Into<String>) -> Result<()> {
    bail!(Skip(why.into()))
}

thread_local! {
    static CURRENT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The test that runs on this thread.
#[must_use]
pub fn current() -> String {
    CURRENT.with_borrow(Clone::clone)
}

/// Says which test this thread works for.
pub fn set_current(name: String) {
    CURRENT.set(name);
}

/// Where a test leaves what it saw, `KIND` being what it is: `target/kernel-tests/TEST.KIND`.
#[must_use]
pub fn keepsake(kind: &str) -> PathBuf {
    let name = CURRENT.with_borrow(|name| name.replace(['/', ' '], "_"));
    target_dir().join("kernel-tests").join(format!("{name}.{kind}"))
}

/// Cargo's target directory.
#[must_use]
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map(|top| top.join("target")).unwrap_or_default(),
        PathBuf::from,
    )
}

/// Runs those of the tests whose name contains one of the arguments (all without arguments).
#[must_use]
pub fn run(tests: &[Test]) -> ExitCode {
    run_groups(&[(1, tests)])
}

/// As [`run`], group after group, so many tests of a group at once: for tests that do not see each other, because none
/// changes the machine, and none needs a CPU for itself.
#[must_use]
pub fn run_groups(groups: &[(usize, &[Test])]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let all = || groups.iter().flat_map(|(_, tests)| tests.iter());
    if arguments.iter().any(|argument| argument == "--list") {
        for (name, _) in all() {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let is_chosen = |(name, _): &&Test| {
        wanted.is_empty() || wanted.iter().any(|part| if exact { name == part } else { name.contains(part.as_str()) })
    };
    let chosen = all().filter(is_chosen).count();
    if chosen == 0 {
        println!("no test chosen of {}", all().count());
        return ExitCode::SUCCESS;
    }
    let _alone = match prepare() {
        Ok(lock) => lock,
        Err(error) => {
            eprintln!("kernel tests cannot run: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let begin = Instant::now();
    let (failed, skipped) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
    for (at_once, tests) in groups {
        let queue = Mutex::new(tests.iter().filter(is_chosen));
        let work = || {
            // Not in the loop's head: the queue would be locked until the test is over.
            while let Some((name, test)) = { queue.lock().unwrap_or_else(PoisonError::into_inner).next() } {
                match perform(name, *test) {
                    Ended::Passed => {}
                    Ended::Skipped => _ = skipped.fetch_add(1, Ordering::Relaxed),
                    Ended::Failed => failed.lock().unwrap_or_else(PoisonError::into_inner).push(*name),
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..*at_once {
                scope.spawn(work);
            }
            work();
        });
    }
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let skipped = skipped.into_inner();
    let passed = chosen - failed.len() - skipped;
    if !failed.is_empty() {
        println!("\nfailed: {}", failed.join(", "));
    } else if passed == 0 {
        println!("\nall were skipped: nothing was tested, and that is a failure");
    }
    // libtest's words, for whoever counts.
    println!(
        "\ntest result: {}. {passed} passed; {} failed; {skipped} ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        if failed.is_empty() && passed > 0 { "ok" } else { "FAILED" },
        failed.len(),
        all().count() - chosen,
        begin.elapsed().as_secs_f64()
    );
    if failed.is_empty() && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How a test ended.
enum Ended {
    Passed,
    Skipped,
    Failed,
}

/// Runs one test and prints how it ended.
fn perform(name: &str, test: fn() -> Result<()>) -> Ended {
    set_current(name.to_owned());
    let begin = Instant::now();
    let watchdog = Watchdog::start();
    let outcome = std::panic::catch_unwind(|| played(name, test)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        bail!("panicked: {}", text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?"))
    });
    let took = begin.elapsed().as_secs_f64();
    let outcome = match (watchdog.stop(), outcome) {
        (true, Ok(())) => Err(anyhow!("still at it after {} s", LIMIT.as_secs())),
        (true, Err(error)) => Err(error.context(format!("ended by force after {} s", LIMIT.as_secs()))),
        (false, outcome) => outcome,
    };
    let Err(error) = outcome else {
        println!("test {name} ... ok ({took:.1} s)");
        return Ended::Passed;
    };
    if let Some(Skip(why)) = error.downcast_ref::<Skip>() {
        println!("test {name} ... skipped: {why}");
        return Ended::Skipped;
    }
    println!(
        "test {name} ... FAILED ({took:.1} s)\n    {}\n    what it saw: {}",
        format!("{error:#}").replace('\n', "\n    "),
        keepsake("*").display()
    );
    Ended::Failed
}

/// No test takes this long, at its full size either.
const LIMIT: Duration = Duration::from_secs(600);

/// Ends a test that hangs, whatever it waits for: every process that it started is killed, which ends each wait, so
/// that the test fails and puts the machine's settings back.
struct Watchdog {
    over: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Watchdog {
    fn start() -> Self {
        let (over, end) = channel();
        let thread = std::thread::spawn(move || {
            let late = end.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout);
            // Until the test gives up: what it starts now is in vain as well.
            while late && end.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                crate::machine::thaw();
                kill_descendants(std::process::id());
            }
            late
        });
        Self { over, thread }
    }

    /// True when it had to be ended.
    fn stop(self) -> bool {
        drop(self.over);
        self.thread.join().unwrap_or(true)
    }
}

fn kill_descendants(pid: u32) {
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()) {
            kill_descendants(child);
            // SAFETY: a signal to a process that this test started.
            unsafe { libc::kill(child as i32, libc::SIGKILL) };
        }
    }
}

/// Root, the binary, and nobody else running these tests. The lock lasts as long as the file.
fn prepare() -> Result<File> {
    // SAFETY: no memory is involved.
    if unsafe { libc::geteuid() } != 0 {
        bail!("loading probes needs root; type:\n    sudo -E env \"PATH=$PATH\" cargo xtask test");
    }
    crate::tool::binary()?;
    std::fs::create_dir_all(target_dir().join("kernel-tests")).context("failed to make target/kernel-tests")?;
    let lock = File::create("/var/tmp/memtrace-kernel-tests.lock").context("failed to make the lock file")?;
    // SAFETY: no memory is involved.
    if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) } != 0 {
        bail!("failed to lock: {}", std::io::Error::last_os_error());
    }
    crate::machine::clean_up();
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_scene_that_fails_is_played_again_and_nothing_else_is() {
        static FAILING: AtomicUsize = AtomicUsize::new(0);
        let failing = || {
            FAILING.fetch_add(1, Ordering::Relaxed);
            Err(anyhow::Error::from(SceneFailed("a page was gone".to_owned())).context("the scene's report"))
        };
        let error = played("failing", failing).unwrap_err();
        assert!(format!("{error:#}").contains("a page was gone"));
        assert_eq!(FAILING.load(Ordering::Relaxed), PLAYS);

        static LATE: AtomicUsize = AtomicUsize::new(0);
        let late = || match LATE.fetch_add(1, Ordering::Relaxed) {
            0 => bail!(SceneFailed(String::new())),
            _ => Ok(()),
        };
        assert!(played("late", late).is_ok());
        assert_eq!(LATE.load(Ordering::Relaxed), 2);

        static TOOL: AtomicUsize = AtomicUsize::new(0);
        let tool = || {
            TOOL.fetch_add(1, Ordering::Relaxed);
            bail!("the books do not close")
        };
        assert!(played("tool", tool).is_err());
        assert_eq!(TOOL.load(Ordering::Relaxed), 1);
    }
}
