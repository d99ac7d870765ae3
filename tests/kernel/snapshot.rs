//! `memtrace snapshot` of targets that stand still: every amount against the workload's own truth and against
//! smaps, smaps_rollup and status, read again by the test.

use anyhow::{Context, Result, ensure};
use memtrace_tests::books::address;
use memtrace_tests::machine::{Setting, Swap, TempDir, Tmpfs};
use memtrace_tests::pages::{Pages, Pid, page_size};
use memtrace_tests::runner::{self, Test};
use memtrace_tests::scene::{Held, Play, options};
use memtrace_tests::smaps;
use memtrace_tests::snapshots::{
    amount, assert_amount, assert_counters, mapping_of, sum, sum_of_kind, take_exact, take_pid,
};
use memtrace_tests::target::{Target, children, stop};
use memtrace_tests::tool::{run_to_end, until, workload_binary};
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::{Command, ExitCode};

const TESTS: &[Test] = &[
    ("kinds", kinds),
    ("kinds.other_namespaces", other_namespaces),
    ("mappings", sixty_thousand),
    ("budget", budget),
    ("diff", diff),
    ("watch", watch),
];

fn main() -> ExitCode {
    runner::run(TESTS)
}

/// Removes what a scene left in /dev/shm.
struct Leftover<'a>(&'a Value);

impl Drop for Leftover<'_> {
    fn drop(&mut self) {
        for mapping in self.0["mappings"].as_array().into_iter().flatten() {
            if let Some(path) = mapping["name"].as_str().filter(|name| name.starts_with("/dev/shm/memtrace-kinds-")) {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// What lets a process have every kind; put back afterwards.
struct Provisions {
    dir: TempDir,
    _guards: (Swap, Setting, Setting, Tmpfs),
}

impl Provisions {
    fn make() -> Result<Self> {
        let dir = TempDir::new()?;
        // Without the flusher's rounds dirty pages stay dirty as long as the test looks.
        let quiet = Setting::set("/proc/sys/vm/dirty_writeback_centisecs", "0")?;
        let huge = Setting::set("/proc/sys/vm/nr_hugepages", "4")?;
        let tmpfs = Tmpfs::on(&dir.path().join("tmpfs"))?;
        Ok(Self { _guards: (Swap::on(64)?, quiet, huge, tmpfs), dir })
    }
}

/// Kinds that a kernel may be built without, and by which option.
const OPTIONAL: &[&str] = &["CONFIG_ANON_VMA_NAME"];

fn kinds() -> Result<()> {
    let provisions = Provisions::make()?;
    let target = Target::workload("kinds", &["--dir".to_owned(), provisions.dir.path().display().to_string()])?;
    let scene = Held::act(target, TempDir::new()?)?;
    let _leftover = Leftover(&scene.truth);
    for absent in scene.truth["absent"].as_array().context("absent")? {
        let why = absent["why"].as_str().unwrap_or_default();
        ensure!(OPTIONAL.iter().any(|option| why.contains(option)), "not made: {absent}");
        println!("    not made here: {}: {why}", absent["what"]);
    }
    let pid = scene.target.pid();
    let _stopped = stop(pid)?;

    let process = take_exact(pid, &[])?;
    assert_told(&process, &scene.truth, Threads::Known)?;
    assert_locked(&process, &scene.truth)?;

    // This test maps some of the shared memory as well: so many pages are mapped twice, and no other.
    let told = scene.truth["mappings"].as_array().context("mappings")?;
    let mut shared = Vec::new();
    for (kind, pages) in [("posix_shm", 20), ("memfd", 0)] {
        let told = told.iter().find(|told| told["kind"] == kind).context(kind)?;
        let file = std::fs::OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/fd/{}", told["fd"]))?;
        let window = Window::map(&file, told["size"].as_u64().context("size")? as usize)?;
        window.touch(pages);
        shared.push((told, pages, window));
    }
    let process = take_exact(pid, &[])?;
    for (told, pages, _window) in &shared {
        let mapping = mapping_of(&process, told)?;
        let bytes = (pages * page_size()) as u64;
        assert_amount(mapping, "shared_dirty", bytes, "this test")?;
        assert_amount(mapping, "private_dirty", amount(told, "rss")? - bytes, "this test")?;
        assert_amount(mapping, "pss", amount(told, "rss")? - bytes / 2, "this test")?;
    }
    Ok(())
}

/// Shared memory of another, mapped here too.
struct Window {
    start: *mut u8,
    bytes: usize,
}

impl Window {
    fn map(file: &std::fs::File, bytes: usize) -> Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let fd = std::os::fd::AsRawFd::as_raw_fd(file);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED, fd, 0) };
        ensure!(start != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Ok(Self { start: start.cast(), bytes })
    }

    /// Writes to the first pages: a shared write maps its own page only, where a read maps those around it too.
    fn touch(&self, pages: usize) {
        assert!(pages * page_size() <= self.bytes);
        for page in 0..pages {
            // SAFETY: inside the mapping, which is writable; the other side only holds it.
            unsafe { self.start.add(page * page_size()).write_volatile(7) };
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which nothing refers.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}

/// Whether the scene's thread numbers are ours, or those of its own namespace.
#[derive(Clone, Copy, PartialEq)]
enum Threads {
    Known,
    Renumbered,
}

/// Every mapping that the scene told of is there as it told, and there is no other but the kernel's own and guards.
fn assert_told(process: &Value, truth: &Value, threads: Threads) -> Result<()> {
    let told = truth["mappings"].as_array().context("mappings")?;
    for told in told {
        let mapping = mapping_of(process, told)?;
        assert_mapping(mapping, told, threads).with_context(|| format!("told: {told}\nfound: {mapping}"))?;
    }
    let known: BTreeSet<&str> = told.iter().filter_map(|told| told["start"].as_str()).collect();
    for mapping in process["mappings"].as_array().context("mappings")? {
        ensure!(
            known.contains(mapping["start"].as_str().context("start")?)
                || mapping["kind"] == "vdso"
                || mapping["kind"] == "guard" && amount(mapping, "rss")? == 0,
            "the scene has no such mapping: {mapping}"
        );
    }
    let kinds = process["kinds"].as_array().context("kinds")?;
    let names: BTreeSet<&str> = told.iter().filter_map(|told| told["kind"].as_str()).collect();
    for kind in names.into_iter().filter(|kind| *kind != "guard") {
        for field in ["size", "rss", "anonymous", "swap", "huge", "lazy_free"] {
            let (found, truth) = (sum_of_kind(kinds, kind, field)?, sum_of_kind(told, kind, field)?);
            ensure!(found == truth, "{kind}: {field} is {found}, made were {truth}");
        }
    }
    Ok(())
}

fn assert_mapping(mapping: &Value, told: &Value, threads: Threads) -> Result<()> {
    for field in ["end", "kind", "name", "allocator"] {
        ensure!(told[field].is_null() || mapping[field] == told[field], "{field} is {}", mapping[field]);
    }
    for field in ["size", "rss", "anonymous", "swap", "locked", "huge", "hugetlb", "lazy_free"] {
        if let Some(truth) = told[field].as_u64() {
            assert_amount(mapping, field, truth, "the scene")?;
        }
    }
    for (field, parts) in [("dirty", ["private_dirty", "shared_dirty"]), ("clean", ["private_clean", "shared_clean"])] {
        let found = amount(mapping, parts[0])? + amount(mapping, parts[1])?;
        ensure!(found == amount(told, field)?, "{field} is {found}; the scene says {}", told[field]);
    }
    if !told["thread"].is_null() {
        ensure!(mapping["thread"]["comm"] == told["thread"]["comm"], "thread {}", mapping["thread"]);
        ensure!(
            threads == Threads::Renumbered || mapping["thread"]["tid"] == told["thread"]["tid"],
            "thread {}",
            mapping["thread"]
        );
    }
    Ok(())
}

/// `VmLck` counts the mappings that are locked, whole; one was locked by the scene, the others at its beginning.
fn assert_locked(process: &Value, truth: &Value) -> Result<()> {
    let told = truth["mappings"].as_array().context("mappings")?;
    let size = |told: &Value| told["locked"].as_u64().or_else(|| told["locked_size"].as_u64()).unwrap_or_default();
    assert_amount(process, "locked", told.iter().map(size).sum(), "the scene")
}

/// The same from the outside of its mount and PID namespace, where its paths and numbers mean nothing.
fn other_namespaces() -> Result<()> {
    let dir = TempDir::new()?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--mount-proc", "sh", "-c"])
        .arg("mkdir \"$2/tmpfs\" && mount -t tmpfs none \"$2/tmpfs\" && exec \"$1\" kinds --dir \"$2\"");
    command.arg("sh").arg(workload_binary()).arg(dir.path());
    let mut target = Target::start(&mut command)?;
    let ready = target.json().context("the scene does not get ready")?;
    ensure!(ready["pid"] == 1, "not in a PID namespace of its own: {ready}");
    let scene = Held::act(target, dir)?;
    let _leftover = Leftover(&scene.truth);
    let pid = *children(scene.target.pid())?.first().context("the scene's process")?;
    let _stopped = stop(pid)?;
    let hidden = scene.dir.path().join("tmpfs/file");
    ensure!(!hidden.exists(), "its tmpfs is ours too");
    let process = take_exact(pid, &[])?;
    assert_told(&process, &scene.truth, Threads::Renumbered)?;
    let file =
        process["files"].as_array().context("files")?.iter().find(|file| file["path"] == *hidden.to_string_lossy());
    let file = file.with_context(|| format!("{} is not among the files", hidden.display()))?;
    // Through /proc/PID/map_files or root it can be opened all the same; a file of the same path here is another one.
    ensure!(
        file["size"].is_null() || file["size"] == 40 * page_size(),
        "the size of the file is {}, which it is nowhere",
        file["size"]
    );
    Ok(())
}

fn sixty_thousand() -> Result<()> {
    let scene = Held::play("mappings")?;
    let pid = scene.target.pid();
    let _stopped = stop(pid)?;
    let process = take_exact(pid, &["--full"])?;
    let (start, end) = (address(&scene.truth["start"])?, address(&scene.truth["end"])?);
    let mut inside = Vec::new();
    for mapping in process["mappings"].as_array().context("mappings")? {
        if (start..end).contains(&address(&mapping["start"])?) {
            inside.push(mapping.clone());
        }
    }
    ensure!(inside.len() as u64 == amount(&scene.truth, "mappings")?, "{} mappings", inside.len());
    ensure!(sum(&inside, "rss")? == amount(&scene.truth, "rss")?, "Σ rss is {}", sum(&inside, "rss")?);
    Ok(())
}

/// One mapping of gigabytes: smaps would hold the target's lock for longer than allowed. Then cheaper sources are read,
/// what they cannot tell is unknown and named, and what they can is exact; asked for explicitly, all is read.
fn budget() -> Result<()> {
    let scene = Held::play("gigabytes")?;
    let pid = scene.target.pid();
    let _stopped = stop(pid)?;

    let taken = take_pid(pid, &["--max-snapshot-ms", "1"])?;
    let process = taken.only()?;
    let status = smaps::status(pid)?;
    assert_counters(process, &status)?;
    let given_up = process["given_up"].as_array().context("given_up")?;
    let smaps = given_up.iter().find(|given_up| given_up["source"] == "smaps").context("smaps was not given up")?;
    ensure!(smaps["reason"] == "over_budget", "given up for another reason: {smaps}");
    ensure!(smaps["limit_ns"] == 1_000_000, "another limit: {smaps}");
    ensure!(amount(smaps, "estimate_ns")? > 1_000_000, "within the limit: {smaps}");
    let mapping = mapping_of(process, &scene.truth)?;
    assert_amount(mapping, "rss", amount(&scene.truth, "rss")?, "the scene")?;
    ensure!(mapping["pss"].is_null() && mapping["private_dirty"].is_null(), "not unknown: {mapping}");
    let mappings = process["mappings"].as_array().context("mappings")?;
    ensure!(sum(mappings, "rss")? == amount(process, "res")?, "Σ rss is {}", sum(mappings, "rss")?);
    ensure!(sum(mappings, "anonymous")? == amount(process, "anon")?, "Σ anonymous");
    ensure!(sum(mappings, "swap")? == amount(process, "swap")?, "Σ swap");
    let sources = process["sources"].as_array().context("sources")?;
    ensure!(!sources.iter().any(|source| source["source"] == "smaps"), "smaps was read: {sources:?}");

    let (exit, text, errors) =
        run_to_end(&["snapshot", "--pid", &pid.to_string(), "--max-snapshot-ms", "1", "--color", "never"])?;
    ensure!(exit.success(), "{errors}");
    ensure!(format!("{text}{errors}").contains("--full"), "does not say how to read it all:\n{text}\n{errors}");

    let process = take_exact(pid, &["--max-snapshot-ms", "1", "--full"])?;
    let smaps = process["sources"].as_array().context("sources")?.iter().find(|source| source["source"] == "smaps");
    let smaps = smaps.context("smaps was not read")?;
    let (longest, all) = (amount(smaps, "longest_call_ns")?, amount(smaps, "cost_ns")?);
    ensure!(longest > 0 && longest <= all, "the longest call took {longest} ns, all {all}");
    Ok(())
}

/// `closing − opening = Σ rows + unexplained`, in each class, exactly.
fn assert_closes(diff: &Value) -> Result<()> {
    for (class, level) in [("res", "res"), ("anon", "anon"), ("shr", "shr")] {
        let whole = amount(&diff["closing"], level)? as i64 - amount(&diff["opening"], level)? as i64;
        let mut told = signed(&diff["unexplained"], class)?;
        for row in diff["rows"].as_array().context("rows")? {
            told += signed(&row["change"], class)?;
        }
        ensure!(told == whole, "{class} changed by {whole}; rows and unexplained tell of {told}: {diff:.2000}");
    }
    Ok(())
}

fn signed(row: &Value, field: &str) -> Result<i64> {
    row[field].as_i64().with_context(|| format!("{field} is {}", row[field]))
}

/// A process that takes and gives back memory in sixteen threads until its time is over.
fn restless() -> Result<(Target, TempDir)> {
    let dir = TempDir::new()?;
    let mut target =
        Target::workload("allocator", &options(&dir, &Play { options: &[("--seconds", "30")], ..Play::default() }))?;
    target.send("x")?;
    Ok((target, dir))
}

/// Two snapshots in files, between which the process went on for a while: nothing is left unexplained, because it stood
/// still for both.
fn diff() -> Result<()> {
    let (target, dir) = restless()?;
    let pid = target.pid();
    let number = pid.to_string();
    let mut files = Vec::new();
    let mut anon = Vec::new();
    for name in ["before.json", "after.json"] {
        let enough =
            |pages: &Pages| anon.last().map_or(pages.anon > 5000, |before: &i64| (pages.anon - before).abs() > 500);
        until(|| Ok(enough(&Pages::read(Pid::Of(pid))?)))?;
        let _stopped = stop(pid)?;
        let file = dir.path().join(name).display().to_string();
        let (status, _, errors) = run_to_end(&["snapshot", "--pid", &number, "--json", "-o", &file])?;
        ensure!(status.success(), "{status}: {errors}");
        anon.push(Pages::read(Pid::Of(pid))?.anon);
        files.push(file);
    }
    let (status, output, errors) = run_to_end(&["snapshot", "--json", "--diff", &files[0], &files[1]])?;
    ensure!(status.success(), "{status}: {errors}");
    let diff: Value = serde_json::from_str(output.trim()).with_context(|| format!("{output:.400}"))?;
    assert_closes(&diff)?;
    for class in ["res", "anon", "shr"] {
        ensure!(signed(&diff["unexplained"], class)? == 0, "unexplained: {}", diff["unexplained"]);
    }
    let told = signed_bytes(&diff, "anon")?;
    let truth = (anon[1] - anon[0]) * page_size() as i64;
    ensure!(told == truth, "anonymous memory changed by {told}; status says {truth}");

    let (status, text, errors) = run_to_end(&["snapshot", "--color", "never", "--diff", &files[0], &files[1]])?;
    ensure!(status.success() && !text.is_empty(), "{status}: {errors}");
    Ok(())
}

fn signed_bytes(diff: &Value, level: &str) -> Result<i64> {
    Ok(amount(&diff["closing"], level)? as i64 - amount(&diff["opening"], level)? as i64)
}

/// Again and again, of a process that never stands still, and as often as asked (`--full`): each difference closes, and begins where the last one ended.
fn watch() -> Result<()> {
    let (target, _dir) = restless()?;
    let number = target.pid().to_string();
    let arguments = ["snapshot", "--pid", &number, "--json", "--full", "--watch", "200ms", "--duration", "3s"];
    let (status, output, errors) = run_to_end(&arguments)?;
    ensure!(status.success(), "{status}: {errors}");
    let lines: Vec<Value> = output.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(lines.first().is_some_and(|line| line["type"] == "snapshot"), "the first line is no snapshot");
    let diffs: Vec<&Value> = lines.iter().filter(|line| line["type"] == "diff").collect();
    ensure!(diffs.len() >= 2, "only {} differences in three seconds", diffs.len());
    for diff in &diffs {
        assert_closes(diff)?;
    }
    for (earlier, later) in diffs.iter().zip(&diffs[1..]) {
        ensure!(earlier["closing"] == later["opening"], "{} is followed by {}", earlier["closing"], later["opening"]);
    }
    Ok(())
}
