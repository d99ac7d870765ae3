//! Staged stalls, each with a workload that knows what it is in: the class, whether memory is the cause, how much of the time, and
//! the object it is about, from outside, attached before and after the stall began. Which it took for which is printed at the end.

use anyhow::{Context, Result, ensure};
use memtrace_tests::machine::{Cgroup, LoopMount, Swap, TempDir};
use memtrace_tests::runner::{self, Test, skip};
use memtrace_tests::stuck::{Asked, Begun, play, tell_confusion};
use memtrace_tests::target::Target;
use serde_json::Value;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// Two tests of each: begun before the tool came, and under its eyes.
macro_rules! both {
    ($($scene:literal => $play:expr;)*) => {
        &[$((concat!($scene, ".before"), || ($play)($scene, Begun::Before)), (concat!($scene, ".after"), || ($play)($scene, Begun::After))),*]
    };
}

/// They sleep, and disturb nobody.
const STILL: &[Test] = both! {
    "stall.futex" => alone;
    "stall.semaphore.posix" => alone;
    "stall.semaphore.sysv" => alone;
    "stall.flock" => alone;
    "stall.fcntl" => alone;
    "stall.pipe.read" => alone;
    "stall.pipe.write" => alone;
    "stall.socket.read" => alone;
    "stall.socket.write" => alone;
    "stall.socket.unix" => alone;
    "stall.poll" => alone;
    "stall.epoll" => alone;
    "stall.stopped" => alone;
    "stall.traced" => alone;
    "stall.frozen.v1" => |scene, begun| frozen(scene, begun, &Cgroup::freezer()?);
    "stall.frozen.v2" => |scene, begun| frozen(scene, begun, &Cgroup::unified()?);
    "stall.sleep" => alone;
    "stall.child" => alone;
    "stall.vfork" => alone;
    "stall.uninterruptible" => on_frozen_disk;
    "stall.uninterruptible.write" => on_frozen_disk;
};

/// They need a CPU or the disk for themselves, or change the machine.
const BUSY: &[Test] = both! {
    "stall.file.read" => slow_disk;
    "stall.fsync" => slow_writes;
    "stall.futex.contended" => alone;
    "stall.cpu.user" => alone;
    "stall.cpu.kernel" => alone;
    "stall.cpu.starved" => alone;
    "stall.cpu.throttled" => throttled;
    "stall.fault.minor" => alone;
    "stall.fault.file_read" => slow_disk;
    "stall.fault.swapin" => swapin;
    "stall.fault.cow" => alone;
    "stall.fault.thp" => huge;
    "stall.mmap_lock" => alone;
    "stall.reclaim.memcg" => |scene, begun| limited(scene, begun, 16 << 20);
    "stall.reclaim.thrash" => thrash;
    "stall.reclaim.direct" => direct;
};

/// They do not outlive their window.
const ENDS: &[Test] = &[("end.oom_kill", oom_killed), ("end.killed", killed)];

/// Longer than they live.
const LONG: Duration = Duration::from_secs(120);

/// So many at once: starting the tool takes a CPU for a second, waiting does not.
const AT_ONCE: usize = 3;

fn main() -> ExitCode {
    let code = runner::run_groups(&[(AT_ONCE, STILL), (1, BUSY), (1, ENDS)]);
    tell_confusion("stuck");
    code
}

fn nothing(_: u32) -> Result<()> {
    Ok(())
}

fn alone(scene: &str, begun: Begun) -> Result<()> {
    play(scene, begun, &[], &[], nothing)
}

fn frozen(scene: &str, begun: Begun, group: &Cgroup) -> Result<()> {
    play(scene, begun, &[("--cgroup", &group.path().display().to_string())], &[], nothing)
}

fn on_frozen_disk(scene: &str, begun: Begun) -> Result<()> {
    let dir = TempDir::new()?;
    let mut mount = LoopMount::below(dir.path())?;
    let path = mount.path().display().to_string();
    play(scene, begun, &[("--dir", &path)], &[], |_| mount.freeze())
}

fn slow_disk(scene: &str, begun: Begun) -> Result<()> {
    let group = Cgroup::slow_reads(std::path::Path::new("/var/tmp"), 200)?;
    play(scene, begun, &[], &[&group], nothing)
}

fn slow_writes(scene: &str, begun: Begun) -> Result<()> {
    let group = Cgroup::slow_writes(std::path::Path::new("/var/tmp"), 200)?;
    play(scene, begun, &[], &[&group], nothing)
}

fn throttled(scene: &str, begun: Begun) -> Result<()> {
    let group = Cgroup::cpu(5)?;
    play(scene, begun, &[], &[&group], nothing)
}

fn huge(scene: &str, begun: Begun) -> Result<()> {
    let enabled = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    if enabled.is_empty() || enabled.contains("[never]") {
        skip("this kernel makes no huge pages; type: echo madvise >/sys/kernel/mm/transparent_hugepage/enabled")?;
    }
    alone(scene, begun)
}

fn limited(scene: &str, begun: Begun, bytes: u64) -> Result<()> {
    let group = Cgroup::memory()?;
    group.write("memory.limit_in_bytes", &bytes.to_string())?;
    play(scene, begun, &[], &[&group], nothing)
}

fn thrash(scene: &str, begun: Begun) -> Result<()> {
    let _swap = Swap::on(128)?;
    limited(scene, begun, 24 << 20)
}

/// All that it has is driven out, then it may read little a second.
fn swapin(scene: &str, begun: Begun) -> Result<()> {
    let _swap = Swap::on(256)?;
    let (memory, disk) = (Cgroup::memory()?, Cgroup::slow_reads(std::path::Path::new("/var/tmp"), 200)?);
    let group = memory.path().display().to_string();
    play(scene, begun, &[("--cgroup", &group)], &[&disk], |_| {
        // Emptied again and again: what is still being written to swap stays until that is over.
        let deadline = Instant::now() + Duration::from_secs(30);
        while memory.read("memory.usage_in_bytes")?.trim().parse::<u64>().context("a number")? > 8 << 20 {
            let _ = memory.write("memory.force_empty", "0");
            ensure!(Instant::now() < deadline, "the cgroup is not emptied");
        }
        Ok(())
    })
}

fn direct(scene: &str, begun: Begun) -> Result<()> {
    if std::env::var_os("MEMTRACE_WHOLE_MACHINE").is_none() {
        skip("takes the whole machine's page cache; set MEMTRACE_WHOLE_MACHINE=1 to run it")?;
    }
    if !std::path::Path::new("/sys/devices/system/node/node0/reclaim").exists() {
        skip("this kernel has no /sys/devices/system/node/node0/reclaim (6.17 on)")?;
    }
    alone(scene, begun)
}

/// It fills its cgroup until the OOM killer ends it, under the tool's eyes.
fn oom_killed() -> Result<()> {
    let (group, dir) = (Cgroup::memory()?, TempDir::new()?);
    let paths = [("--dir", dir.path()), ("--cgroup", group.path())];
    let options: Vec<String> =
        paths.iter().flat_map(|(name, path)| [(*name).to_owned(), path.display().to_string()]).collect();
    let mut target = Target::workload("oom_kill", &options)?;
    group.write("memory.limit_in_bytes", &(32_u64 << 20).to_string())?;
    let mut asked = Asked::about(target.pid(), LONG)?;
    asked.wait_until_it_watches()?;
    target.send("x")?;
    target.wait()?;
    let verdict = ended(&asked.answer()?)?;
    ensure!(verdict["memory"] == true, "memory is no cause of it: {verdict}");
    ensure!(verdict["sentence"].as_str().is_some_and(|text| text.contains("OOM killer")), "not named: {verdict}");
    Ok(())
}

/// Somebody kills it: nothing says that memory has or has not to do with it.
fn killed() -> Result<()> {
    let mut sleeper = Command::new("sleep").arg("600").spawn()?;
    let watched = Asked::about(sleeper.id(), LONG).and_then(|mut asked| asked.wait_until_it_watches().map(|()| asked));
    sleeper.kill()?;
    sleeper.wait()?;
    let verdict = ended(&watched?.answer()?)?;
    ensure!(verdict["memory"].is_null(), "memory is {}: {verdict}", verdict["memory"]);
    Ok(())
}

/// The verdict on what ended.
fn ended(answer: &Value) -> Result<Value> {
    ensure!(answer["ended"] == true, "it says nothing of the end: {answer}");
    Ok(answer["verdict"].clone())
}
