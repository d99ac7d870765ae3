//! How sessions begin and end: no such process, threads, forks, programs that become others, signals, pipes.

use anyhow::{Context, Result, ensure};
use memtrace_tests::books::pages;
use memtrace_tests::machine::TempDir;
use memtrace_tests::pages::{Pages, Pid};
use memtrace_tests::runner::{self, Test};
use memtrace_tests::scene::{Play, close_stopped, options};
use memtrace_tests::target::{Target, parse_report, stop_family};
use memtrace_tests::tool::{Outcome, Tool, binary, run_to_end, workload_binary};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const TESTS: &[Test] = &[
    ("no_such_process", no_such_process),
    ("kernel_thread", kernel_thread),
    ("own_process", own_process),
    ("zombie", zombie),
    ("bad_usage", bad_usage),
    ("exits_at_attach", exits_at_attach),
    ("exits_in_the_middle", exits_in_the_middle),
    ("killed_in_the_middle", killed_in_the_middle),
    ("exit_group_by_a_thread", exit_group_by_a_thread),
    ("exec_while_watched", exec_while_watched),
    ("fork_not_followed", fork_not_followed),
    ("fork_followed", fork_followed),
    ("children_from_before", children_from_before),
    ("attach_to_a_thread_id", attach_to_a_thread_id),
    ("stopped_target", stopped_target),
    ("command_status", command_status),
    ("command_signal", command_signal),
    ("command_not_found", command_not_found),
    ("command_books", command_books),
    ("interrupt_ends_with_a_statement", interrupt_ends_with_a_statement),
    ("terminate_ends_with_a_statement", terminate_ends_with_a_statement),
    ("duration", duration),
    ("closed_pipe", closed_pipe),
    ("two_at_once", two_at_once),
    ("nothing_stays_attached", nothing_stays_attached),
];

fn main() -> ExitCode {
    runner::run(TESTS)
}

fn scene(name: &str) -> Result<(Target, TempDir)> {
    let dir = TempDir::new()?;
    Ok((Target::workload(name, &options(&dir, &Play::default()))?, dir))
}

/// It fails with this code, one clear sentence that contains the words, nothing on stdout, and no panic.
fn assert_refused(arguments: &[&str], code: i32, words: &[&str]) -> Result<()> {
    let (status, output, errors) = run_to_end(arguments)?;
    ensure!(status.code() == Some(code), "{arguments:?}: {status}, wanted exit code {code}; stderr:\n{errors}");
    ensure!(output.is_empty(), "{arguments:?} printed on stdout: {output}");
    ensure!(!errors.contains("panicked"), "{arguments:?} panicked:\n{errors}");
    let lower = errors.to_lowercase();
    for word in words {
        ensure!(lower.contains(word), "{arguments:?}: stderr does not say \"{word}\":\n{errors}");
    }
    Ok(())
}

fn no_such_process() -> Result<()> {
    // pid_max is at most this, and no process has the id pid_max.
    assert_refused(&["--pid", "4194304", "--json"], 3, &["4194304"])
}

fn kernel_thread() -> Result<()> {
    assert_refused(&["--pid", "2", "--json"], 3, &["kernel thread"])
}

/// Its own pid is not known before it runs: a shell becomes memtrace and passes its own.
fn own_process() -> Result<()> {
    let output = Command::new("/bin/sh")
        .args(["-c", "exec \"$0\" --pid $$ --json"])
        .arg(binary()?)
        .stdin(Stdio::null())
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(matches!(output.status.code(), Some(2 | 3)), "{}; stderr:\n{errors}", output.status);
    ensure!(output.stdout.is_empty() && !errors.contains("panicked") && !errors.is_empty(), "stderr:\n{errors}");
    Ok(())
}

fn zombie() -> Result<()> {
    let mut child = Command::new("/bin/true").stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let pid = child.id();
    // Waits without reaping: from here on it is a zombie.
    // SAFETY: all-zero is a valid siginfo, and the kernel fills it.
    let outcome = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_PID, pid, &raw mut info, libc::WEXITED | libc::WNOWAIT)
    };
    ensure!(outcome == 0, "waitid: {}", std::io::Error::last_os_error());
    let refused = assert_refused(&["--pid", &pid.to_string(), "--json"], 3, &[&pid.to_string()]);
    child.wait()?;
    refused
}

fn bad_usage() -> Result<()> {
    for arguments in [&["--pid", "none"][..], &["--pid"], &["--interval", "fast", "--pid", "1"], &["--pid", "-1"]] {
        assert_refused(arguments, 2, &[])?;
    }
    Ok(())
}

/// Ends while memtrace is on its way: either it was never there, or its books close.
fn exits_at_attach() -> Result<()> {
    for microseconds in [0_u64, 100, 1_000, 5_000, 20_000, 50_000, 100_000, 200_000, 400_000, 800_000] {
        let mut child = Command::new("/bin/sleep")
            .arg(format!("{}", Duration::from_micros(microseconds).as_secs_f64()))
            .stdin(Stdio::null())
            .spawn()?;
        let tool = Tool::start(&["--pid".to_owned(), child.id().to_string()])?;
        // Reaped while memtrace looks: the pid may even be used again.
        child.wait()?;
        let outcome = tool.wait()?;
        let errors = outcome.errors.join("\n");
        ensure!(!errors.contains("panicked"), "panicked after {microseconds} µs:\n{errors}");
        if outcome.status.success() {
            outcome.assert_closed().with_context(|| format!("after {microseconds} µs"))?;
            ensure!(outcome.end()?["reason"] == "exited", "end says {}", outcome.end()?);
        } else {
            ensure!(outcome.status.code() == Some(3), "{} after {microseconds} µs:\n{errors}", outcome.status);
        }
    }
    Ok(())
}

fn assert_gone(outcome: &Outcome, status: Option<u64>, signal: Option<&str>) -> Result<()> {
    outcome.assert_closed()?;
    let end = outcome.end()?;
    ensure!(end["reason"] == "exited", "end says {}", end["reason"]);
    ensure!(end["exit"]["status"].as_u64() == status, "end says it exited with {}", end["exit"]);
    ensure!(end["exit"]["signal"].as_str() == signal, "end says it exited with {}", end["exit"]);
    let closing = outcome.books.closing()?;
    ensure!(closing == Pages::ZERO, "end closes with {closing}");
    Ok(())
}

fn exits_in_the_middle() -> Result<()> {
    let (mut target, _dir) = scene("exit.code")?;
    let tool = Tool::attach(target.pid(), &[])?;
    target.send("xx")?;
    target.wait()?;
    assert_gone(&tool.wait()?, Some(37), None)
}

fn killed_in_the_middle() -> Result<()> {
    let (target, _dir) = scene("storm.endless")?;
    let tool = Tool::attach(target.pid(), &[])?;
    target.signal(libc::SIGKILL);
    assert_gone(&tool.wait()?, None, Some("SIGKILL"))
}

fn exit_group_by_a_thread() -> Result<()> {
    let (mut target, _dir) = scene("exit.group")?;
    let tool = Tool::attach(target.pid(), &[])?;
    target.send("xx")?;
    target.wait()?;
    assert_gone(&tool.wait()?, Some(5), None)
}

/// The old program's pages go under `exec`, the new one's come in, and the session goes on.
fn exec_while_watched() -> Result<()> {
    let (mut target, _dir) = scene("exec")?;
    let tool = Tool::attach(target.pid(), &[])?;
    target.send("x")?;
    let truth = target.report()?;
    target.send("x")?;
    let ready = target.json()?;
    ensure!(ready["ready"] == true && ready["scene"] == "idle", "the new program says {ready}");
    let outcome = close_stopped(tool, target.pid())?;
    let anon = truth["more"]["before_exec"]["anon"].as_i64().context("anon")?;
    ensure!(outcome.books.accounts.len() == 2, "{} address spaces, not two", outcome.books.accounts.len());
    let old = outcome.books.accounts.iter().find(|(_, account)| account.closing == Pages::ZERO);
    let (old, _) = old.context("the old address space does not close with nothing")?;
    let (gone, ..) = outcome.books.sum(|entry| entry.cause == "exec" && entry.mm == *old);
    // Between its report and the call it may have touched a page of its heap or its stack.
    ensure!(
        (anon..anon + 32).contains(&-gone.anon),
        "exec took {gone}; the old program had {anon} anonymous pages\n{}",
        outcome.books.summary()
    );
    let told = outcome.records.iter().any(|record| record.value["what"] == "exec");
    ensure!(told, "no line says that it became another program");
    Ok(())
}

fn fork_not_followed() -> Result<()> {
    let (mut target, _dir) = scene("fork")?;
    let tool = Tool::attach(target.pid(), &[])?;
    target.send("x")?;
    let truth = target.report()?;
    let outcome = close_stopped(tool, target.pid())?;
    ensure!(outcome.books.accounts.len() == 1, "{} address spaces, not one", outcome.books.accounts.len());
    let child = truth["expect"][0]["pid"].as_u64();
    ensure!(
        outcome.records.iter().all(|record| record.value["pid"].as_u64() != child || record.kind() != "statement"),
        "the child has books although it is not followed"
    );
    Ok(())
}

/// The child ends while it is followed; its books close with nothing, the parent's with what it has.
fn fork_followed() -> Result<()> {
    let (mut target, _dir) = scene("fork")?;
    let pid = target.pid();
    let mut tool = Tool::attach(pid, &["--follow"])?;
    target.send("x")?;
    let truth = target.report()?;
    let child = truth["expect"][0]["pid"].as_u64().context("pid")?;
    target.send("x")?;
    tool.wait_for("the child's end", |record| {
        record.kind() == "process" && record.value["what"] == "exit" && record.value["pid"] == child
    })?;
    let outcome = tool.wait()?;
    outcome.assert_closed()?;
    ensure!(outcome.books.accounts.len() == 2, "{} address spaces, not two", outcome.books.accounts.len());
    for (mm, account) in &outcome.books.accounts {
        ensure!(account.closing == Pages::ZERO, "mm {mm} of {} closes with {}", account.pid, account.closing);
    }
    let account = outcome.books.accounts.values().find(|account| u64::from(account.pid) == child);
    let opening = account.context("the child has no books")?.opening;
    ensure!(opening == Pages::ZERO, "the child's books open with {opening}, not with nothing");
    Ok(())
}

/// Children that a process made before it was watched, and theirs: each has its books, and they are what the kernel counts.
fn children_from_before() -> Result<()> {
    // A child that has one of its own, and one beside it; a line once each is there.
    let script = "sh -c 'sleep 600 & echo; wait' & sleep 600 & echo; wait";
    let mut shell = Command::new("/bin/sh").args(["-c", script]).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(shell.stdout.take().context("no pipe")?).lines().take(2);
    let checked =
        lines.collect::<Result<Vec<String>, _>>().map_err(Into::into).and_then(|_| books_of_family(shell.id()));
    for (pid, _stopped) in stop_family(shell.id())? {
        // SAFETY: no memory is involved; all of them are ours, stopped, and none has been waited for.
        unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
    }
    shell.wait()?;
    checked
}

fn books_of_family(pid: u32) -> Result<()> {
    let stopped = stop_family(pid)?;
    let outcome = Tool::attach(pid, &["--follow"])?.finish()?;
    outcome.assert_closed()?;
    let closing = |pid: u32| outcome.records.iter().find(|r| r.kind() == "closing" && r.value["pid"] == pid);
    ensure!(outcome.end()?["mms"] == 4 && stopped.len() == 4, "{} books of {}", outcome.end()?["mms"], stopped.len());
    for (pid, _) in &stopped {
        let counted = Pages::read(Pid::Of(*pid))?;
        let closing = closing(*pid).with_context(|| format!("process {pid} has no books"))?;
        for end in ["opening", "closing"] {
            let told = pages(&closing.value[end])?;
            ensure!(told == counted, "{pid}: {end} is {told}; the kernel counts {counted}");
        }
    }
    Ok(())
}

/// The id of a thread that is not the first: its process is meant, or it is refused; nothing in between.
fn attach_to_a_thread_id() -> Result<()> {
    let (target, _dir) = scene("exit.group")?;
    let tids = std::fs::read_dir(format!("/proc/{}/task", target.pid()))?;
    let other = tids
        .flatten()
        .filter_map(|task| task.file_name().to_str()?.parse::<u32>().ok())
        .find(|tid| *tid != target.pid())
        .context("a second thread")?;
    let tool = Tool::start(&["--pid".to_owned(), other.to_string(), "--duration".to_owned(), "300ms".to_owned()])?;
    let outcome = tool.wait()?;
    if outcome.status.success() {
        outcome.assert_closed()?;
        ensure!(outcome.records[0].value["pid"] == target.pid(), "meta says {}", outcome.records[0].value["pid"]);
    } else {
        ensure!(outcome.status.code() == Some(3), "{}", outcome.status);
    }
    Ok(())
}

/// It does not run, and is attached to nevertheless.
fn stopped_target() -> Result<()> {
    let (target, _dir) = scene("idle")?;
    let stopped = memtrace_tests::target::stop(target.pid())?;
    let status = Pages::read(Pid::Of(target.pid()))?;
    let tool = Tool::attach(target.pid(), &[])?;
    let outcome = tool.finish()?;
    drop(stopped);
    outcome.assert_closed()?;
    let closing = outcome.books.closing()?;
    ensure!(closing == status, "end closes with {closing}; status says {status}");
    Ok(())
}

fn command_status() -> Result<()> {
    for code in [0, 1, 5, 42, 255] {
        let outcome = Tool::command(&["/bin/sh", "-c", &format!("exit {code}")], &[])?.wait()?;
        ensure!(
            outcome.status.code() == Some(code),
            "the command exited with {code}, memtrace with {}",
            outcome.status
        );
        ensure!(outcome.end()?["exit"]["status"] == code, "end says {}", outcome.end()?["exit"]);
    }
    Ok(())
}

/// As a shell says it: 128 + the signal's number, or the signal itself.
fn command_signal() -> Result<()> {
    use std::os::unix::process::ExitStatusExt;
    let outcome = Tool::command(&["/bin/sh", "-c", "kill -TERM $$"], &[])?.wait()?;
    let passed = outcome.status.code() == Some(128 + libc::SIGTERM) || outcome.status.signal() == Some(libc::SIGTERM);
    ensure!(passed, "the command ended by SIGTERM, memtrace with {}", outcome.status);
    ensure!(outcome.end()?["exit"]["signal"] == "SIGTERM", "end says {}", outcome.end()?["exit"]);
    Ok(())
}

fn command_not_found() -> Result<()> {
    let (status, output, errors) = run_to_end(&["--json", "--", "/no/such/program"])?;
    ensure!(matches!(status.code(), Some(1 | 3 | 127)), "{status}; stderr:\n{errors}");
    ensure!(output.is_empty() && errors.contains("/no/such/program"), "stderr:\n{errors}");
    Ok(())
}

/// From its first instruction to its end: what came in went out again, and the first program's pages too.
fn command_books() -> Result<()> {
    let dir = TempDir::new()?;
    let binary = workload_binary();
    let directory = dir.path().display().to_string();
    let mut tool = Tool::command(&[&binary.display().to_string(), "fault.anon", "--dir", &directory], &[])?;
    // No byte is sent: the end of input releases it twice.
    drop(tool.stdin());
    let outcome = tool.wait()?;
    outcome.assert_closed()?;
    ensure!(outcome.records[0].value["spawned"] == true, "meta does not say that it was started by memtrace");
    let closing = outcome.books.closing()?;
    ensure!(closing == Pages::ZERO, "end closes with {closing}");
    let text = std::fs::read_to_string(runner::keepsake("command.txt"))?;
    let truth = parse_report(text.lines().nth(1).context("a report")?)?;
    let pid = truth["tid"].as_u64().context("tid")?;
    memtrace_tests::scene::assert_truth(&truth, &outcome.books, u32::try_from(pid)?)
}

fn interrupt_ends_with_a_statement() -> Result<()> {
    ends_with_a_statement(libc::SIGINT)
}

fn terminate_ends_with_a_statement() -> Result<()> {
    ends_with_a_statement(libc::SIGTERM)
}

/// At an interval that never comes: everything is in the final statement.
fn ends_with_a_statement(signal: i32) -> Result<()> {
    let (mut target, _dir) = scene("fault.anon")?;
    let tool = Tool::attach(target.pid(), &["--interval", "10s"])?;
    target.send("x")?;
    let truth = target.report()?;
    tool.signal(signal);
    let outcome = tool.wait()?;
    outcome.assert_closed()?;
    ensure!(outcome.end()?["reason"] == "interrupted", "end says {}", outcome.end()?["reason"]);
    memtrace_tests::scene::assert_truth(&truth, &outcome.books, target.pid())
}

fn duration() -> Result<()> {
    let (target, _dir) = scene("idle")?;
    let tool = Tool::attach(target.pid(), &["--duration", "700ms"])?;
    let armed = Instant::now();
    let outcome = tool.wait()?;
    let took = armed.elapsed();
    outcome.assert_closed()?;
    ensure!(outcome.end()?["reason"] == "duration", "end says {}", outcome.end()?["reason"]);
    ensure!((500..5_000).contains(&took.as_millis()), "700 ms took {took:?}");
    Ok(())
}

/// `memtrace … | head -1`.
fn closed_pipe() -> Result<()> {
    let (target, _dir) = scene("storm.endless")?;
    let mut child = Command::new(binary()?)
        .args(["--pid", &target.pid().to_string(), "--json", "--interval", "50ms"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut reader = BufReader::new(child.stdout.take().context("piped")?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    drop(reader);
    let mut errors = String::new();
    child.stderr.take().context("piped")?.read_to_string(&mut errors)?;
    let status = child.wait()?;
    ensure!(first.contains("\"meta\""), "the first line is {first}");
    ensure!(status.success() && !errors.contains("panicked"), "{status}; stderr:\n{errors}");
    Ok(())
}

/// Two sessions on one target do not disturb each other.
fn two_at_once() -> Result<()> {
    let (mut target, _dir) = scene("fault.anon")?;
    let first = Tool::attach(target.pid(), &[])?;
    let second = Tool::attach(target.pid(), &[])?;
    target.send("x")?;
    let truth = target.report()?;
    let one = close_stopped(first, target.pid()).context("the first session")?;
    let two = close_stopped(second, target.pid()).context("the second session")?;
    for outcome in [one, two] {
        memtrace_tests::scene::assert_truth(&truth, &outcome.books, target.pid())?;
    }
    Ok(())
}

/// Programs of a session that was killed without a word are gone with it: nothing is pinned.
fn nothing_stays_attached() -> Result<()> {
    let before = bpf_programs()?;
    let (target, _dir) = scene("idle")?;
    let tool = Tool::attach(target.pid(), &[])?;
    let during = bpf_programs()?;
    ensure!(during > before, "armed, and no program more than before: {during}");
    drop(tool);
    // The kernel frees programs after a grace period, and tells nobody.
    let deadline = Instant::now() + memtrace_tests::tool::PATIENCE;
    while bpf_programs()? > before {
        ensure!(Instant::now() < deadline, "{} programs, {before} before", bpf_programs()?);
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Loaded BPF programs, by `BPF_PROG_GET_NEXT_ID`.
fn bpf_programs() -> Result<usize> {
    const GET_NEXT_ID: i32 = 11;
    let (mut count, mut attributes) = (0, [0_u32; 3]);
    loop {
        // SAFETY: the kernel reads and writes at most the given size of our array.
        let outcome =
            unsafe { libc::syscall(libc::SYS_bpf, GET_NEXT_ID, attributes.as_mut_ptr(), size_of_val(&attributes)) };
        if outcome != 0 {
            let error = std::io::Error::last_os_error();
            ensure!(error.raw_os_error() == Some(libc::ENOENT), "BPF_PROG_GET_NEXT_ID: {error}");
            return Ok(count);
        }
        count += 1;
        attributes[0] = attributes[1];
    }
}
