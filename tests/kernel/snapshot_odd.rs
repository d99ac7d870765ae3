//! `memtrace snapshot` of processes that are hard to look at: without a main thread, with page-table entries that are no
//! pages, of any name, without rights, vanishing, or with no memory at all. What is unknown is said, and never 0.

use anyhow::{Context, Result, bail, ensure};
use memtrace_tests::machine::{Setting, Swap, TempDir};
use memtrace_tests::physical;
use memtrace_tests::runner::{self, Test};
use memtrace_tests::scene::Held;
use memtrace_tests::smaps;
use memtrace_tests::snapshots::{
    Taken, Truth, amount, assert_amount, assert_counters, mapped_elsewhere, mapping_of, still, sum, take, take_beside,
    take_pid,
};
use memtrace_tests::target::{Target, stop};
use memtrace_tests::tool::{binary, run_to_end, until, workload_binary};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

const TESTS: &[Test] = &[
    ("leaderless", leaderless),
    ("markers", markers),
    ("hugetlb", hugetlb),
    ("names", names),
    ("unprivileged", unprivileged),
    ("vanishing", vanishing),
    ("zombie", zombie),
    ("kernel_thread", kernel_thread),
];

fn main() -> ExitCode {
    runner::run(TESTS)
}

/// Its main thread has exited, another one lives: /proc/PID shows a zombie without memory, and the process has all of it.
fn leaderless() -> Result<()> {
    let scene = Held::play("odd.leaderless")?;
    let (pid, tid) = (scene.target.pid(), amount(&scene.truth, "tid")? as u32);
    ensure!(std::fs::read(format!("/proc/{pid}/maps"))?.is_empty(), "the main thread still shows its memory");
    let number = pid.to_string();
    // By the name of the main thread, which remains, and by the program, which /proc/PID/exe does not show any more.
    let program = workload_binary().display().to_string();
    for arguments in [["--pid", &number], ["--name", "leaderless"], ["--name", &program]] {
        let process = still(|| {
            let (taken, truth) = take_beside(&arguments, || Truth::read(tid))?;
            let process = taken.process(pid)?.clone();
            truth.assert_sums(&process, &mapped_elsewhere(&[pid, tid])?)?;
            Ok(process)
        })
        .with_context(|| format!("{arguments:?}"))?;
        ensure!(process["comm"] == "leaderless", "its name is {}", process["comm"]);
        ensure!(process["state"] != "Z", "called a zombie");
        let mapping = mapping_of(&process, &scene.truth["mapping"])?;
        assert_amount(mapping, "rss", amount(&scene.truth["mapping"], "rss")?, "the scene")?;
    }
    // Together with another one.
    let other = Held::play("names")?;
    let (first, second) = (number.as_str(), other.target.pid().to_string());
    let taken = take(&["--pid", first, "--pid", &second])?;
    let group = taken.group.as_ref().context("no group")?;
    ensure!(group["pids"] == serde_json::json!([pid, other.target.pid()]), "the group is {}", group["pids"]);
    ensure!(amount(group, "res")? < amount(group, "sum_res")?, "they share no library: {group}");
    Ok(())
}

/// What userfaultfd and guards leave in page tables is no swap, whichever source was read; and what is swap is told.
fn markers() -> Result<()> {
    let _swap = Swap::on(64)?;
    let scene = Held::play("odd.markers")?;
    let pid = scene.target.pid();
    let _stopped = stop(pid)?;
    let swapped = smaps::status(pid)?["VmSwap"];
    let told = scene.truth["mappings"].as_array().context("mappings")?;
    ensure!(swapped >= sum(told, "swap")? && swapped > 0, "the kernel has {swapped} bytes of it in swap");
    for extra in [&[][..], &["--max-snapshot-ms", "1"]] {
        let taken = take_pid(pid, extra)?;
        let process = taken.only()?;
        let smaps = process["sources"].as_array().context("sources")?.iter().any(|source| source["source"] == "smaps");
        ensure!(smaps == extra.is_empty(), "{extra:?}: smaps was read: {smaps}");
        for told in told {
            let mapping = mapping_of(process, told)?;
            assert_amount(mapping, "swap", amount(told, "swap")?, "the scene").with_context(|| format!("{extra:?}"))?;
            assert_amount(mapping, "rss", 0, "the scene")?;
        }
        let mappings = process["mappings"].as_array().context("mappings")?;
        ensure!(sum(mappings, "swap")? == swapped, "Σ swap is {}, VmSwap {swapped}", sum(mappings, "swap")?);
    }
    Ok(())
}

/// Huge pages under a memfd's name, in processes so large that no smaps is read which would tell: not in RES, and so in
/// no group's.
fn hugetlb() -> Result<()> {
    let _huge = Setting::set("/proc/sys/vm/nr_hugepages", "4")?;
    let scene = Held::play("odd.hugetlb")?;
    let pids = scene.truth["pids"].as_array().context("pids")?;
    let pids: Vec<u32> = pids.iter().filter_map(Value::as_u64).map(|pid| pid as u32).collect();
    let [parent, child] = pids[..] else { bail!("{pids:?}") };
    let _stopped = [stop(parent)?, stop(child)?];
    let (first, second) = (parent.to_string(), child.to_string());
    let arguments = ["--pid", &first, "--pid", &second, "--max-snapshot-ms", "1"];
    still(|| {
        let (taken, counted) = take_beside(&arguments, || physical::count(&pids))?;
        for &pid in &pids {
            let process = taken.process(pid)?;
            ensure!(amount(process, "hugetlb")? == amount(&scene.truth, "hugetlb")?, "hugetlb {}", process["hugetlb"]);
            let mapping = mapping_of(process, &scene.truth)?;
            ensure!(mapping["kind"] == "hugetlb", "it is {mapping}");
            assert_amount(mapping, "rss", 0, "RSS leaves it out")?;
            let mappings = process["mappings"].as_array().context("mappings")?;
            ensure!(sum(mappings, "rss")? == amount(process, "res")?, "Σ rss is {}", sum(mappings, "rss")?);
        }
        let group = taken.group.as_ref().context("no group")?;
        assert_amount(group, "res", counted.res, "a count of page frames")?;
        assert_amount(group, "uss", counted.uss, "a count of page frames")
    })
}

/// Names come back whole as JSON, and harmless as text.
fn names() -> Result<()> {
    let scene = Held::play("names")?;
    let pid = scene.target.pid();
    let _stopped = stop(pid)?;
    let taken = take_pid(pid, &[])?;
    let process = taken.only()?;
    assert_sums_without_smaps(process, pid)?;
    ensure!(process["comm_hex"] == scene.truth["comm_hex"], "comm {} {}", process["comm"], process["comm_hex"]);
    let mapping = mapping_of(process, &scene.truth["mapping"])?;
    ensure!(mapping["name_hex"] == scene.truth["path_hex"], "name {} {}", mapping["name"], mapping["name_hex"]);
    assert_amount(mapping, "rss", amount(&scene.truth["mapping"], "rss")?, "the scene")?;
    let files = process["files"].as_array().context("files")?;
    ensure!(files.iter().any(|file| file["path_hex"] == scene.truth["path_hex"]), "not among the files");

    let number = pid.to_string();
    for shown in [&["--by", "mapping"][..], &["--by", "file"], &["--picture"], &["--csv"], &[]] {
        let mut arguments = vec!["snapshot", "--pid", &number, "--color", "never", "--top", "0"];
        arguments.extend(shown);
        let (status, output, errors) = run_to_end(&arguments)?;
        ensure!(status.success(), "{shown:?} ended with {status}: {errors}");
        let bad = output.chars().find(|&letter| letter.is_control() && letter != '\n' && letter != '\r');
        ensure!(bad.is_none(), "{shown:?} printed {bad:?}");
        ensure!(!output.lines().any(|line| line.starts_with("feed ")), "{shown:?}: a name broke its line");
    }
    Ok(())
}

/// smaps of such a process is read as text of lines here, which its names break: only counters and sums are compared.
fn assert_sums_without_smaps(process: &Value, pid: u32) -> Result<()> {
    let status = smaps::status(pid)?;
    assert_counters(process, &status)?;
    let mappings = process["mappings"].as_array().context("mappings")?;
    ensure!(sum(mappings, "rss")? == amount(process, "res")?, "Σ rss is {}", sum(mappings, "rss")?);
    Ok(())
}

/// Somebody else's process, without rights: its counters, and for the rest unknown instead of nothing.
fn unprivileged() -> Result<()> {
    let scene = Held::play("names")?;
    let pid = scene.target.pid();
    let _stopped = stop(pid)?;
    // A program that nobody may reach and run.
    let place = TempDir::new()?;
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755))?;
    let copy = place.path().join("memtrace");
    std::fs::copy(binary()?, &copy)?;
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755))?;
    let as_nobody = |arguments: &[&str]| -> Result<_> {
        let output = Command::new("setpriv")
            .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--no-new-privs"])
            .arg(&copy)
            .arg("snapshot")
            .args(arguments)
            .current_dir("/")
            .output()?;
        Ok((output.status, String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let number = pid.to_string();
    let (exit, output, errors) = as_nobody(&["--pid", &number, "--json"])?;
    ensure!(exit.code().is_some() && !errors.contains("panicked"), "{exit}: {errors}");
    let process: Value = serde_json::from_str(output.trim()).with_context(|| format!("{output:.400}\n{errors}"))?;
    assert_counters(&process, &smaps::status(pid)?)?;
    for field in ["uss", "pss", "private_file", "swap_pss", "rollup", "mappings", "kinds", "exe"] {
        ensure!(process[field].is_null(), "{field} cannot be known and is {}", process[field]);
    }
    let given_up = process["given_up"].as_array().context("given_up")?;
    ensure!(given_up.iter().any(|given_up| given_up["reason"] == "not_permitted"), "{given_up:?}");

    let (exit, text, errors) = as_nobody(&["--pid", &number, "--color", "never"])?;
    ensure!(exit.success(), "{exit}: {errors}");
    ensure!(text.contains("unknown"), "does not say that something is unknown:\n{text}");

    // A table of which there is no row is no success, and where it has no place for words stderr has them.
    for shown in [&["--csv"][..], &["--csv", "--by", "file"], &["--picture"], &["--by", "kind"]] {
        let (exit, text, errors) = as_nobody(&[&["--pid", number.as_str(), "--color", "never"][..], shown].concat())?;
        ensure!(exit.code() == Some(4), "{shown:?} ended with {exit}: {text}{errors}");
        let told = if shown == ["--by", "kind"] { &text } else { &errors };
        ensure!(told.contains("not read ") && told.contains("→ sudo memtrace snapshot --pid"), "{shown:?}: {told}");
    }

    // One's own needs no rights.
    let mut own = Command::new("setpriv");
    own.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "sleep", "600"]).current_dir("/");
    let own = Target::start(&mut own)?;
    until(|| Ok(std::fs::read_to_string(format!("/proc/{}/comm", own.pid()))? == "sleep\n"))?;
    let _own_stopped = stop(own.pid())?;
    let (exit, output, errors) = as_nobody(&["--pid", &own.pid().to_string(), "--json"])?;
    ensure!(exit.success(), "{exit}: {errors}");
    let process: Value = serde_json::from_str(output.trim())?;
    // The page cache of somebody else's files is not shown to everyone; the process's own memory is.
    let given_up = process["given_up"].as_array().context("given_up")?;
    ensure!(given_up.iter().all(|given_up| given_up["source"] == "cachestat"), "{given_up:?}");
    let mappings = process["mappings"].as_array().context("mappings")?;
    ensure!(sum(mappings, "rss")? == amount(&process, "res")?, "Σ rss is {}", sum(mappings, "rss")?);
    amount(&process, "uss").map(drop)
}

/// Processes of a name that come and go while they are read: what is left is shown whole, the others are counted.
fn vanishing() -> Result<()> {
    let dir = TempDir::new()?;
    let program = dir.path().join("mayfly");
    std::fs::copy(memtrace_tests::database::program(&["/usr/bin/sleep", "/bin/sleep"], "coreutils")?, &program)?;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = Command::new(&program).arg("0.002").stderr(Stdio::null()).status();
                }
            });
        }
        let looked = (0..40).try_for_each(|_| {
            let taken = take(&["--name", "mayfly"])?;
            assert_ended_well(&taken)
        });
        over.store(true, Ordering::Relaxed);
        looked
    })
}

/// It showed somebody, or said that there is nobody.
fn assert_ended_well(taken: &Taken) -> Result<()> {
    for process in &taken.processes {
        let Some(mappings) = process["mappings"].as_array() else { continue };
        let whole = sum(mappings, "size")? >= amount(process, "virt")?;
        ensure!(whole || gone(process) || moved(process), "cut off in silence: {process}");
    }
    if let Some(missing) = &taken.missing {
        ensure!(taken.group.is_none() && !taken.processes.is_empty(), "nobody to say it beside: {missing}");
        ensure!(amount(missing, "vanished")? + amount(missing, "unreadable")? > 0, "nobody is missing: {missing}");
        ensure!(!taken.errors.is_empty(), "it is not said on stderr: {missing}");
    }
    match taken.status.code() {
        Some(0) => ensure!(!taken.processes.is_empty(), "success without a process"),
        _ => ensure!(!taken.errors.is_empty(), "failed without a word: {}", taken.status),
    }
    Ok(())
}

fn gone(process: &Value) -> bool {
    process["given_up"].as_array().is_some_and(|given_up| given_up.iter().any(|given_up| given_up["reason"] == "gone"))
}

/// It is said that the process changed while it was read: it was starting.
fn moved(process: &Value) -> bool {
    let by = process["changed_meanwhile"].as_object();
    by.is_some_and(|by| by.values().any(|amount| amount.as_i64().is_some_and(|amount| amount != 0)))
}

fn zombie() -> Result<()> {
    let mut child = Command::new("true").spawn()?;
    let pid = child.id();
    until(|| Ok(std::fs::read_to_string(format!("/proc/{pid}/stat"))?.contains(") Z ")))?;
    let outcome = without_memory(pid, "waits for its parent");
    child.wait()?;
    outcome
}

fn kernel_thread() -> Result<()> {
    if std::fs::read_to_string("/proc/2/comm").ok().as_deref() != Some("kthreadd\n") {
        return runner::skip("process 2 is not the kernel's thread: this is a PID namespace");
    }
    without_memory(2, "kernel thread")
}

/// No address space: either nothing but who it is, or a refusal that names what it is.
fn without_memory(pid: u32, what: &str) -> Result<()> {
    let taken = take_pid(pid, &[])?;
    if let [process] = taken.processes.as_slice() {
        for field in ["virt", "res", "anon", "pss", "uss", "mappings"] {
            ensure!(process[field].is_null(), "{field} is {}", process[field]);
        }
    } else {
        ensure!(!taken.status.success(), "success without a process");
        ensure!(taken.errors.contains(what), "does not say `{what}`: {}", taken.errors);
    }
    let (_, text, errors) = run_to_end(&["snapshot", "--pid", &pid.to_string(), "--color", "never"])?;
    if !format!("{text}{errors}").contains(what) {
        bail!("does not say `{what}`:\n{text}\n{errors}");
    }
    Ok(())
}
