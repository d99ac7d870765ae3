//! `memtrace snapshot` of real programs that stand still: every sum against smaps, smaps_rollup and status, several
//! processes together against a count of page frames by the test itself.

use anyhow::{Context, Result, bail, ensure};
use memtrace_tests::books::address;
use memtrace_tests::database::{Postgres, program, redis, redis_command, redis_up};
use memtrace_tests::machine::TempDir;
use memtrace_tests::physical;
use memtrace_tests::runner::{self, Test};
use memtrace_tests::smaps;
use memtrace_tests::snapshots::{
    Taken, Truth, amount, assert_amount, mapped_elsewhere, still, sum, take, take_exact, take_group_beside,
};
use memtrace_tests::target::{Target, family, stop, stop_family};
use serde_json::Value;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const TESTS: &[Test] = &[
    ("snapshot.postgres", postgres),
    ("snapshot.java", java),
    ("snapshot.chromium", chromium),
    ("snapshot.redis", redis_server),
    ("snapshot.python", python),
];

fn main() -> ExitCode {
    runner::run(TESTS)
}

const LONG: Duration = Duration::from_secs(120);
const MEBIBYTE: u64 = 1 << 20;
const TERABYTE: u64 = 1 << 40;

/// A snapshot of processes that stand still, each and together held against counts of our own.
fn take_group(pids: &[u32]) -> Result<Taken> {
    still(|| {
        let (taken, group, truths) =
            take_group_beside(pids, || pids.iter().map(|&pid| Truth::read(pid)).collect::<Result<Vec<_>>>())?;
        let elsewhere = mapped_elsewhere(pids)?;
        for (&pid, truth) in pids.iter().zip(&truths) {
            truth.assert_sums(taken.process(pid)?, &elsewhere).with_context(|| format!("process {pid}"))?;
        }
        assert_amount(&group, "sum_pss", sum(&taken.processes, "pss")?, "Σ of the processes")?;
        Ok(taken)
    })
}

/// Eight backends that have each read a table out of one GiB of shared buffers.
fn postgres() -> Result<()> {
    const BACKENDS: usize = 8;
    let mut cluster = Postgres::create()?;
    cluster.set("shared_buffers", "1GB")?;
    cluster.start()?;
    let mut sessions = Vec::new();
    for _ in 0..BACKENDS {
        sessions.push(cluster.session()?);
    }
    let (first, _) = sessions.first_mut().context("a session")?;
    // Four rows fill a block of 8 KiB: 900 MiB, which shared_buffers holds and no ring of a sequential scan's limits,
    // because they are there already.
    first.send(
        "create extension pg_prewarm; \
         create unlogged table t with (fillfactor = 100) as \
           select i, repeat(chr(65 + i % 26), 1900) as filler from generate_series(1, 460800) i; \
         vacuum t; select 'blocks ' || pg_prewarm('t', 'buffer');\n",
    )?;
    let blocks = first.wait_for_line("blocks ", LONG)?;
    let blocks: u64 = blocks.trim_start_matches("blocks ").trim().parse().context("a number of blocks")?;
    ensure!(blocks * 8192 >= 800 * MEBIBYTE, "the table has only {blocks} blocks");
    for (session, _) in &mut sessions {
        session.send("select 'read ' || count(*) from t;\n")?;
    }
    for (session, _) in &mut sessions {
        session.wait_for_line("read 460800", LONG)?;
    }

    let postmaster = cluster.pid().context("a server")?;
    let stopped = stop_family(postmaster)?;
    let pids: Vec<u32> = stopped.iter().map(|(pid, _)| *pid).collect();
    ensure!(sessions.iter().all(|(_, backend)| pids.contains(backend)), "a backend is no child of the postmaster");
    let taken = take_group(&pids)?;
    let group = taken.group.as_ref().context("a group")?;

    // One segment, in each backend's RES whole, in memory once.
    let segment = largest_segment(postmaster)?;
    let distinct = physical::distinct(&pids, &segment)?;
    ensure!(
        distinct >= blocks * 8192,
        "only {distinct} bytes of shared_buffers are in memory, read were {blocks} blocks"
    );
    let object = &group["objects"][0];
    ensure!(object["kind"] == "shared_anon", "the largest object is {object}");
    assert_amount(object, "res", distinct, "a count of page frames")?;
    let (sum_res, res) = (amount(group, "sum_res")?, amount(group, "res")?);
    let more_than_once = (BACKENDS as u64 - 1) * blocks * 8192;
    ensure!(sum_res - res >= more_than_once, "Σ RES {sum_res} − {res} does not have shared_buffers {BACKENDS} times");
    for (_, backend) in &sessions {
        let mappings = taken.process(*backend)?["mappings"].as_array().context("mappings")?;
        let buffers = mappings.iter().find(|mapping| mapping["name"] == *segment).context("shared_buffers")?;
        ensure!(buffers["kind"] == "shared_anon", "shared_buffers is {}", buffers["kind"]);
        ensure!(amount(buffers, "rss")? >= blocks * 8192, "a backend has read it all and has {}", buffers["rss"]);
    }

    let named = take(&["--name", "postgres"])?;
    for &pid in &pids {
        named.process(pid)?;
    }
    Ok(())
}

/// The name of the largest shared anonymous mapping.
fn largest_segment(pid: u32) -> Result<String> {
    let areas = smaps::smaps(pid)?;
    let shared = areas.iter().filter(|area| area.permissions.ends_with('s') && area.name.starts_with("/dev/zero"));
    Ok(shared.max_by_key(|area| area.end - area.start).context("no shared anonymous memory")?.name.clone())
}

/// Says where its heap is and how much of it is committed, and waits.
const JAVA: &str = r#"
public class Still {
    static byte[][] held = new byte[64][];
    public static void main(String[] arguments) throws Exception {
        for (int i = 0; i < held.length; i++) held[i] = new byte[200000];
        System.gc();
        System.out.println("committed " + Runtime.getRuntime().totalMemory());
        while (System.in.read() >= 0) { }
    }
}
"#;

/// The heap: committed and touched at the start to the last page (`AlwaysPreTouch`), so that its amount is the one the
/// JVM itself tells; without archived classes, which are mapped into it from a file.
fn java() -> Result<()> {
    let dir = TempDir::new()?;
    let source = dir.path().join("Still.java");
    std::fs::write(&source, JAVA)?;
    let java = program(&["java"], "openjdk-17-jdk-headless")?;
    let mut target = Target::start(
        Command::new(java)
            .args([
                "-Xms128m",
                "-Xmx512m",
                "-XX:+UseG1GC",
                "-XX:+AlwaysPreTouch",
                "-Xshare:off",
                "-Xlog:gc+heap+coops=debug",
            ])
            .arg(&source),
    )?;
    // `[0.005s][debug][gc,heap,coops] Heap address: 0x00000000e0000000, size: 512 MB, …`
    let line = target.wait_for_line("Heap address: 0x", LONG)?;
    let start = line.split("Heap address: 0x").nth(1).and_then(|rest| rest.split(',').next()).context("an address")?;
    let start = u64::from_str_radix(start, 16)?;
    let heap = start..start + 512 * MEBIBYTE;
    let committed = target.wait_for_line("committed ", LONG)?;
    let committed: u64 = committed.trim_start_matches("committed ").trim().parse()?;
    let pid = target.pid();
    let _stopped = stop(pid)?;
    let process = take_exact(pid, &[])?;
    let mut inside = Vec::new();
    for mapping in process["mappings"].as_array().context("mappings")? {
        let within = heap.contains(&address(&mapping["start"])?);
        let named = mapping["allocator"] == "java_heap";
        ensure!(within || !named, "called the heap, and is not: {mapping}");
        ensure!(named || !within || mapping["kind"] == "file", "the heap is not called so: {mapping}");
        if within {
            inside.push(mapping.clone());
        }
    }
    assert_bss(&process)?;
    let (size, rss) = (sum(&inside, "size")?, sum(&inside, "rss")?);
    ensure!(size == 512 * MEBIBYTE, "{size} bytes are reserved for the heap");
    ensure!(rss == committed, "{rss} bytes of the heap are in memory; committed and touched are {committed}");
    Ok(())
}

/// Anonymous memory that is called a library's is as large as its ELF file says, but for the few pages that others map
/// right behind it (the loader its own) and no reading of maps can tell from it. Where the file has none, none is claimed.
fn assert_bss(process: &Value) -> Result<()> {
    /// Of all libraries together.
    const OTHERS: u64 = 64 << 10;
    let readelf = program(&["readelf"], "binutils")?;
    let mappings = process["mappings"].as_array().context("mappings")?;
    let (mut seen, mut excess) = (0, 0);
    for bss in mappings.iter().filter(|mapping| mapping["kind"] == "library" && mapping["inode"] == 0) {
        let library = bss["name"].as_str().context("a name")?;
        let output = Command::new(&readelf).args(["-lW", library]).output()?;
        let text = String::from_utf8(output.stdout)?;
        // `  LOAD  0x1d2bd0 0x00000000001d3bd0 0x00000000001d3bd0 0x004ec0 0x01dc80 RW  0x1000`
        let last = text.lines().rfind(|line| line.trim_start().starts_with("LOAD")).context("no segment")?;
        let words: Vec<u64> = last.split_whitespace().filter_map(|word| address(&Value::from(word)).ok()).collect();
        let [_, start, _, in_file, in_memory, ..] = words[..] else { bail!("{last}") };
        let end = |bytes: u64| (start + bytes).next_multiple_of(4096);
        let truth = end(in_memory) - end(in_file);
        ensure!(in_memory > in_file, "{library} has no bss: {bss}");
        excess += amount(bss, "size")?.saturating_sub(truth);
        seen += 1;
    }
    ensure!(excess <= OTHERS, "{excess} bytes more are called bss than {seen} libraries have");
    ensure!(seen > 0, "no library of a JVM has any");
    Ok(())
}

/// A browser with one page: a handful of processes forked from a few, with terabytes of reserved addresses.
fn chromium() -> Result<()> {
    let browser = program(&["chromium"], "chromium")?;
    let dir = TempDir::new()?;
    let page = dir.path().join("page.html");
    std::fs::write(&page, "<!doctype html><title>memtrace</title><p>still</p>")?;
    let mut target = Target::start(
        Command::new("sh")
            .args(["-c", "exec \"$@\" 2>&1", "sh"])
            .arg(browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"])
            .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
            .arg(format!("file://{}", page.display()))
            .env("HOME", dir.path()),
    )?;
    target.wait_for_line("DevTools listening", LONG)?;
    let deadline = Instant::now() + LONG;
    // The engine of the page's scripts reserves a terabyte when it is up.
    let up = |pid: u32| smaps::status(pid).is_ok_and(|status| status.get("VmSize") > Some(&TERABYTE));
    while !family(target.pid()).into_iter().any(up) {
        ensure!(Instant::now() < deadline, "no renderer comes up");
        std::thread::sleep(Duration::from_millis(20));
    }
    let stopped = stop_family(target.pid())?;
    let _end = End(stopped.iter().map(|(pid, _)| *pid).collect());
    let comm = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let pids: Vec<u32> = stopped.iter().map(|(pid, _)| *pid).filter(|&pid| comm(pid) == "chromium\n").collect();
    ensure!(pids.len() >= 4, "only {} processes are named chromium", pids.len());
    let taken = take_group(&pids)?;
    let largest = taken.processes.iter().filter_map(|process| process["virt"].as_u64()).max();
    ensure!(largest > Some(TERABYTE), "no address space is as large as a browser's: {largest:?}");
    let named = take(&["--name", "chromium"])?;
    for &pid in &pids {
        named.process(pid)?;
    }
    Ok(())
}

/// Ends a family that does not end with its eldest.
struct End(Vec<u32>);

impl Drop for End {
    fn drop(&mut self) {
        for &pid in &self.0 {
            // SAFETY: a signal to processes that this test has started and that stand still until now.
            unsafe { libc::kill(pid as i32, libc::SIGKILL) };
        }
    }
}

fn redis_server() -> Result<()> {
    let dir = TempDir::new()?;
    let command = redis_command(&dir)?;
    let server = Target::start(Command::new(&command[0]).args(&command[1..]))?;
    redis_up(&dir)?;
    redis(&dir, &["debug", "populate", "100000", "key", "500"])?;
    let _stopped = stop(server.pid())?;
    take_exact(server.pid(), &[]).map(drop)
}

/// With a child that has copied a part of what it inherited.
fn python() -> Result<()> {
    const SCRIPT: &str = "import os, sys\n\
        words = {str(i): [i] * (i % 50) for i in range(100000)}\n\
        child = os.fork()\n\
        if child == 0:\n\
        \x20   for word in list(words.values())[:20000]: word.append(1)\n\
        \x20   print('copied', flush=True)\n\
        sys.stdin.buffer.read()\n";
    let python = program(&["/usr/bin/python3", "python3"], "python3")?;
    let mut target = Target::start(Command::new(python).args(["-c", SCRIPT]))?;
    target.wait_for_line("copied", LONG)?;
    let stopped = stop_family(target.pid())?;
    let pids: Vec<u32> = stopped.iter().map(|(pid, _)| *pid).collect();
    ensure!(pids.len() == 2, "{} processes", pids.len());
    let taken = take_group(&pids)?;
    let shared: Option<&Value> = taken.group.as_ref().and_then(|group| group["pairs"].as_array()?.first());
    let shared = amount(shared.context("the two share nothing")?, "shared")?;
    ensure!(shared > MEBIBYTE, "the two share only {shared} bytes");
    Ok(())
}
