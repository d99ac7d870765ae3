//! Known truth: every cause that this machine can produce, produced by a workload that counts, and found in the
//! ledger under that cause and that mapping, to the page. What cannot be produced, and why: README.md beside this.

use anyhow::{Context, Result, ensure};
use memtrace_tests::machine::{Cgroup, Setting, Swap, TempDir};
use memtrace_tests::pages::{Pages, Pid};
use memtrace_tests::runner::{self, Test, skip};
use memtrace_tests::scene::{Play, assert_scene, options};
use memtrace_tests::target::Target;
use memtrace_tests::tool::{PATIENCE, Tool};
use std::process::ExitCode;
use std::time::Instant;

/// Scenes that need nothing but themselves.
macro_rules! plain {
    ($($scene:literal)*) => {
        &[$(($scene, || assert_scene($scene, &Play::default()).map(drop))),*]
    };
}

const PLAIN: &[Test] = plain! {
    "fault.anon" "fault.anon.mapped_meanwhile" "fault.anon.thread" "fault.anon.kernel_mode" "fault.anon.stack"
    "fault.anon.zero_page" "fault.none.zero_page" "fault.thp" "fault.thp.split"
    "fault.cow.file" "fault.cow.file_unmapped" "fault.cow.fork"
    "fault.file" "fault.file.around" "fault.file.read"
    "fault.shmem.anon" "fault.shmem.memfd" "fault.shmem.posix" "fault.shmem.sysv" "fault.shmem.around"
    "populate.mmap" "populate.mlock" "populate.madvise_read" "populate.madvise_write" "populate.direct_io"
    "munmap" "munmap.several" "brk" "mremap.shrink" "mremap.move" "mremap.overwrite"
    "madvise.dontneed" "madvise.dontneed.file" "madvise.dontneed.after_efault" "madvise.remove" "madvise.pageout.file" "mmap.fixed"
    "truncate.own" "truncate.other" "truncate.private_copies" "truncate.hole"
    "khugepaged.madvise" "uffd" "remote.vm_writev" "remote.ptrace" "remote.proc_mem"
    "threads" "vfork" "clone_vm"
};

const PREPARED: &[Test] = &[
    ("fork", || assert_scene("fork", &Play { tool: &["--follow"], ..Play::default() }).map(drop)),
    ("fault.swapin", || with_swap("fault.swapin")),
    ("madvise.pageout", || with_swap("madvise.pageout")),
    ("madvise.pageout.other", || with_swap("madvise.pageout.other")),
    ("swapoff", || with_swap("swapoff")),
    ("madvise.free", || with_cgroup("madvise.free", false)),
    ("reclaim.memcg.file", || with_cgroup("reclaim.memcg.file", false)),
    ("reclaim.memcg", || with_cgroup("reclaim.memcg", true)),
    ("reclaim.memcg.own", || with_cgroup("reclaim.memcg.own", true)),
    ("reclaim.direct", direct),
    ("reclaim.kswapd", kswapd),
    ("khugepaged", khugepaged),
    ("ksm", ksm),
    ("oom_reaper", oom_reaper),
    ("exit", exit),
    ("exit.oom_kill", oom_kill),
];

fn main() -> ExitCode {
    runner::run(&[PLAIN, PREPARED].concat())
}

fn with_swap(scene: &str) -> Result<()> {
    let swap = Swap::on(64)?;
    assert_scene(scene, &Play { options: &[("--swap", swap.path())], ..Play::default() }).map(drop)
}

fn with_cgroup(scene: &str, swap: bool) -> Result<()> {
    let _swap = swap.then(|| Swap::on(64)).transpose()?;
    let cgroup = Cgroup::memory()?;
    let path = cgroup.path().display().to_string();
    assert_scene(scene, &Play { options: &[("--cgroup", &path)], ..Play::default() }).map(drop)
}

fn direct() -> Result<()> {
    if !std::path::Path::new("/sys/devices/system/node/node0/reclaim").exists() {
        skip(
            "this kernel has no /sys/devices/system/node/node0/reclaim (6.17 on), and to be short of memory is not for a test",
        )?;
    }
    with_cgroup("reclaim.direct", false)
}

/// The watermarks are raised until the machine's free memory is below them, which wakes kswapd; they are put back
/// as soon as it has taken the target's cold pages. The page cache of the whole machine suffers: only when asked.
fn kswapd() -> Result<()> {
    if std::env::var_os("MEMTRACE_WHOLE_MACHINE").is_none() {
        skip("takes the whole machine's page cache; set MEMTRACE_WHOLE_MACHINE=1 to run it")?;
    }
    let daemon = kernel_thread("kswapd0")?;
    let dir = TempDir::new()?;
    let cgroup = Cgroup::memory()?;
    let path = cgroup.path().display().to_string();
    let play = Play { options: &[("--cgroup", &path)], ..Play::default() };
    let mut target = Target::workload("reclaim.kswapd", &options(&dir, &play))?;
    let tool = Tool::attach(target.pid(), play.tool)?;
    let before = Pages::read(Pid::Of(target.pid()))?;
    target.send("x")?;
    let deadline = Instant::now() + PATIENCE;
    {
        let free = meminfo("MemFree")?;
        let scale = Setting::set("/proc/sys/vm/watermark_scale_factor", "3000")?;
        // low = min + 30 %: a minimum of what is free less a sixth of the machine leaves allocations alone and wakes kswapd.
        let least = free.saturating_sub(meminfo("MemTotal")? / 6);
        let minimum = Setting::set("/proc/sys/vm/min_free_kbytes", &least.to_string())?;
        while Pages::read(Pid::Of(target.pid()))?.file > before.file - 200 {
            // kswapd is woken by an allocation that finds too little: a few pages are one.
            std::hint::black_box(vec![1_u8; 4 << 20]);
            ensure!(Instant::now() < deadline, "kswapd did not come");
        }
        drop((minimum, scale));
    }
    while !asleep(daemon)? {
        ensure!(Instant::now() < deadline, "kswapd does not sleep again");
    }
    target.send("x")?;
    let truth = target.report()?;
    let outcome = memtrace_tests::scene::close_stopped(tool, target.pid())?;
    memtrace_tests::scene::assert_truth(&truth, &outcome.books, target.pid())
}

/// The kernel's thread of this name.
fn kernel_thread(name: &str) -> Result<u32> {
    let pids =
        std::fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let named = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    pids.into_iter().find(named).with_context(|| format!("no kernel thread is named {name}"))
}

fn asleep(pid: u32) -> Result<bool> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['S', 'I'])))
}

fn meminfo(key: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with(key)).with_context(|| format!("no {key}"))?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}

fn khugepaged() -> Result<()> {
    const DIR: &str = "/sys/kernel/mm/transparent_hugepage/khugepaged";
    let _settings = [
        Setting::set(&format!("{DIR}/max_ptes_none"), "511")?,
        Setting::set(&format!("{DIR}/pages_to_scan"), "1000000")?,
        Setting::set(&format!("{DIR}/alloc_sleep_millisecs"), "10")?,
        // Writing this one wakes it.
        Setting::set(&format!("{DIR}/scan_sleep_millisecs"), "10")?,
    ];
    assert_scene("khugepaged", &Play::default()).map(drop)
}

fn ksm() -> Result<()> {
    const DIR: &str = "/sys/kernel/mm/ksm";
    let zero = Setting::set(&format!("{DIR}/use_zero_pages"), "1")?;
    let settings = [
        Setting::set(&format!("{DIR}/pages_to_scan"), "10000")?,
        Setting::set(&format!("{DIR}/sleep_millisecs"), "1")?,
        Setting::set(&format!("{DIR}/run"), "1")?,
    ];
    let outcome = assert_scene("ksm", &Play::default()).map(drop);
    drop(settings);
    drop(zero);
    outcome
}

/// The target is frozen and killed: it cannot leave, so what `process_mrelease` takes can be measured before it does.
fn oom_reaper() -> Result<()> {
    let freezer = Cgroup::freezer()?;
    let dir = TempDir::new()?;
    let play = Play::default();
    let mut target = Target::workload("oom_reaper", &options(&dir, &play))?;
    let pid = target.pid();
    let tool = Tool::attach(pid, play.tool)?;
    freezer.join(pid)?;
    let thaw = Thaw(&freezer);
    freezer.write("freezer.state", "FROZEN")?;
    let deadline = Instant::now() + PATIENCE;
    while freezer.read("freezer.state")?.trim() != "FROZEN" {
        ensure!(Instant::now() < deadline, "the target does not freeze");
    }
    let before = Pages::read(Pid::Of(pid))?;
    target.signal(libc::SIGKILL);
    release(pid)?;
    let after = Pages::read(Pid::Of(pid))?;
    let reaped = after - before;
    ensure!(reaped.anon <= -2000, "process_mrelease took {reaped}");
    drop(thaw);
    target.wait()?;
    let outcome = tool.wait()?;
    outcome.assert_closed()?;
    let (taken, ..) = outcome.books.sum(|entry| entry.cause == "oom_reaper");
    ensure!(taken == reaped, "oom_reaper is {taken}, process_mrelease took {reaped}\n{}", outcome.books.summary());
    let (left, ..) = outcome.books.sum(|entry| entry.cause == "exit");
    ensure!(left == -after, "exit is {left}, and {after} was left");
    ensure!(outcome.books.closing()? == Pages::ZERO, "something is left after the end");
    Ok(())
}

struct Thaw<'a>(&'a Cgroup);

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        let _ = self.0.write("freezer.state", "THAWED");
    }
}

fn release(pid: u32) -> Result<()> {
    // SAFETY: descriptors only; the new one is closed.
    unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        ensure!(pidfd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
        let outcome = libc::syscall(libc::SYS_process_mrelease, pidfd, 0);
        let error = std::io::Error::last_os_error();
        libc::close(i32::try_from(pidfd)?);
        ensure!(outcome == 0, "process_mrelease: {error}");
    }
    Ok(())
}

/// The end: everything that was there goes, under `exit`, and the tool ends by itself.
fn exit() -> Result<()> {
    let dir = TempDir::new()?;
    let mut target = Target::workload("idle", &options(&dir, &Play::default()))?;
    let tool = Tool::attach(target.pid(), &[])?;
    let before = Pages::read(Pid::Of(target.pid()))?;
    target.send("xx")?;
    target.report()?;
    ensure!(target.wait()?.success(), "the target failed");
    let outcome = tool.wait()?;
    outcome.assert_closed()?;
    ensure!(outcome.end()?["reason"] == "exited", "end says {}", outcome.end()?["reason"]);
    let closing = outcome.books.closing()?;
    ensure!(closing == Pages::ZERO, "end closes with {closing}");
    // What ends it (the runtime's own way out) may touch or give back pages of its own before.
    let (left, ..) = outcome.books.sum(|entry| entry.cause == "exit");
    let (rest, ..) = outcome.books.sum(|entry| entry.cause != "exit");
    ensure!(left + rest == -before, "exit {left} and the rest {rest} are not what was there: {before}");
    ensure!(left.anon <= -1000 && left.shmem <= -100, "exit is only {left}");
    Ok(())
}

/// Killed by the OOM killer of its cgroup in the middle of a fault.
fn oom_kill() -> Result<()> {
    let cgroup = Cgroup::memory()?;
    let dir = TempDir::new()?;
    let path = cgroup.path().display().to_string();
    let play = Play { options: &[("--cgroup", &path)], ..Play::default() };
    let mut target = Target::workload("oom_kill", &options(&dir, &play))?;
    cgroup.write("memory.limit_in_bytes", &(32_u64 << 20).to_string())?;
    let tool = Tool::attach(target.pid(), &[])?;
    target.send("x")?;
    target.wait()?;
    let outcome = tool.wait()?;
    outcome.assert_closed()?;
    let closing = outcome.books.closing()?;
    ensure!(closing == Pages::ZERO, "end closes with {closing}");
    let (touched, ..) = outcome.books.sum(|entry| entry.cause == "fault.anon");
    ensure!(touched.anon > 4096, "killed before it filled its cgroup: {touched}");
    let named = outcome.records.iter().any(|record| record.value["what"] == "oom_victim");
    ensure!(named, "no line says that the OOM killer chose it");
    Ok(())
}
