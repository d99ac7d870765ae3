//! The machine's settings that a case needs, each put back when its guard is dropped.

use crate::runner::skip;
use anyhow::{Context, Result, bail, ensure};
use std::ffi::{CStr, CString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SWAP_FILE: &str = "/var/tmp/memtrace-kernel-tests.swap";
const CGROUPS: &str = "/sys/fs/cgroup/memory";
const FREEZERS: &str = "/sys/fs/cgroup/freezer";
const CPUS: &str = "/sys/fs/cgroup/cpu";
const DEVICES: &str = "/sys/fs/cgroup/blkio";
/// Version 2, alone or beside version 1.
const UNIFIED: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
const GROUP_PREFIX: &str = "memtrace-tests-";

/// CPUs that a thread, and what it starts, may run on: fewer of them until this is dropped.
pub struct Bound(libc::cpu_set_t);

impl Bound {
    /// The first CPU that this thread may run on.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn to_first() -> Result<Self> {
        Self::to(|index| index == 0)
    }

    /// Those whose place among the allowed ones is `wanted`.
    fn to(wanted: impl Fn(usize) -> bool) -> Result<Self> {
        let size = size_of::<libc::cpu_set_t>();
        // SAFETY: all zero is an empty set; the kernel fills the one and reads the other, of this thread.
        unsafe {
            let (mut before, mut bound): (libc::cpu_set_t, libc::cpu_set_t) = std::mem::zeroed();
            ensure!(libc::sched_getaffinity(0, size, &raw mut before) == 0, "{}", std::io::Error::last_os_error());
            let allowed = (0..libc::CPU_SETSIZE.cast_unsigned() as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &before));
            for (_, cpu) in allowed.enumerate().filter(|(index, _)| wanted(*index)) {
                libc::CPU_SET(cpu, &mut bound);
            }
            ensure!(libc::sched_setaffinity(0, size, &raw const bound) == 0, "{}", std::io::Error::last_os_error());
            Ok(Self(before))
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // SAFETY: a set that the kernel has filled, read by it.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const self.0) };
    }
}

/// No CPU goes idle until this is dropped: on each there is a thread that makes way for everybody else.
pub struct Awake {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Awake {
    /// # Errors
    /// It is not known how many CPUs there are.
    pub fn start() -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let threads = (0..std::thread::available_parallelism()?.get()).map(|cpu| {
            let over = over.clone();
            std::thread::spawn(move || {
                let _bound = Bound::to(|index| index == cpu)?;
                let none = libc::sched_param { sched_priority: 0 };
                // SAFETY: the kernel reads what is passed.
                let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const none) };
                ensure!(set == 0, "{}", std::io::Error::last_os_error());
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
                Ok(())
            })
        });
        Ok(Self { threads: threads.collect(), over })
    }

    /// Stops them.
    ///
    /// # Errors
    /// One did not keep its CPU awake.
    pub fn stop(mut self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        self.threads.drain(..).try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("it panicked")))
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Lets go what stands in a frozen group: a frozen process cannot even be killed.
pub fn thaw() {
    for root in UNIFIED.into_iter().chain([FREEZERS]) {
        for group in fs::read_dir(root).into_iter().flatten().flatten() {
            if group.file_name().to_string_lossy().starts_with(GROUP_PREFIX) {
                thaw_group(&group.path());
            }
        }
    }
}

fn thaw_group(path: &Path) {
    for (file, thawed) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        if path.join(file).exists() {
            let _ = fs::write(path.join(file), thawed);
        }
    }
}

/// Removes what a killed run left behind.
pub fn clean_up() {
    swap_off();
    thaw();
    for root in UNIFIED.into_iter().chain([CGROUPS, FREEZERS, CPUS, DEVICES]) {
        for group in fs::read_dir(root).into_iter().flatten().flatten() {
            if group.file_name().to_string_lossy().starts_with(GROUP_PREFIX) {
                let _ = fs::remove_dir(group.path());
            }
        }
    }
}

fn swap_off() {
    if fs::read_to_string("/proc/swaps").is_ok_and(|text| text.contains(SWAP_FILE))
        && let Ok(path) = CString::new(SWAP_FILE)
    {
        // SAFETY: a NUL-terminated path.
        unsafe { libc::swapoff(path.as_ptr()) };
    }
    let _ = fs::remove_file(SWAP_FILE);
}

/// A directory of its own under /var/tmp (a disk, not tmpfs: page cache, O_DIRECT). Removed on drop.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes it.
    ///
    /// # Errors
    /// /var/tmp is not writable.
    pub fn new() -> Result<Self> {
        let template = CString::new("/var/tmp/memtrace-test-XXXXXX")?;
        let raw = template.into_raw();
        // SAFETY: mkdtemp writes into the template, which we own, and returns it or NULL.
        let made = unsafe { libc::mkdtemp(raw) };
        // SAFETY: the pointer came from into_raw above; its length is unchanged.
        let path = unsafe { CString::from_raw(raw) };
        ensure!(!made.is_null(), "failed to make a directory: {}", std::io::Error::last_os_error());
        Ok(Self(PathBuf::from(std::ffi::OsStr::from_bytes(path.as_bytes()))))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A swap file that is on. Off and removed on drop.
#[derive(Debug)]
pub struct Swap(());

impl Swap {
    /// Makes it, of this many MiB, and turns it on.
    ///
    /// # Errors
    /// The machine has no swap support: skipped.
    pub fn on(mebibytes: u64) -> Result<Self> {
        if !Path::new("/proc/swaps").exists() {
            skip("this kernel is built without CONFIG_SWAP")?;
        }
        let guard = Self(());
        let file = fs::File::create(SWAP_FILE)?;
        fs::set_permissions(SWAP_FILE, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        // A swap file has no holes: written, not just sized.
        let block = vec![0_u8; 1 << 20];
        for _ in 0..mebibytes {
            std::io::Write::write_all(&mut &file, &block)?;
        }
        file.sync_all()?;
        let made = Command::new("mkswap").arg("--quiet").arg(SWAP_FILE).output().context("failed to run mkswap")?;
        ensure!(made.status.success(), "mkswap: {}", String::from_utf8_lossy(&made.stderr));
        let path = CString::new(SWAP_FILE)?;
        // SAFETY: a NUL-terminated path.
        if unsafe { libc::swapon(path.as_ptr(), 0) } != 0 {
            skip(format!("swapon {SWAP_FILE}: {}", std::io::Error::last_os_error()))?;
        }
        Ok(guard)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &'static str {
        SWAP_FILE
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        swap_off();
    }
}

/// A file of /sys or /proc/sys with another content. Put back on drop.
#[derive(Debug)]
pub struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    /// Writes the value.
    ///
    /// # Errors
    /// The kernel has no such setting: skipped.
    pub fn set(path: &str, value: &str) -> Result<Self> {
        let Ok(before) = fs::read_to_string(path) else {
            skip(format!("this kernel has no {path}"))?;
            bail!("skipped");
        };
        // Choices are shown as `always [madvise] never`.
        let before = before
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'))
            .map_or_else(|| before.trim().to_owned(), |(chosen, _)| chosen.to_owned());
        let setting = Self { path: path.into(), before };
        fs::write(path, value).with_context(|| format!("failed to write {value} to {path}"))?;
        Ok(setting)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.before) {
            eprintln!("failed to put {} back to {}: {error}", self.path.display(), self.before);
        }
    }
}

/// Does the work where no debug package is installed: what it starts lives in a mount namespace in which
/// `/usr/lib/debug` is empty.
///
/// # Errors
/// What the work says, or the namespace cannot be made.
pub fn without_debug_files<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    // In a thread that is used once: a thread with its own root shares it with those that it starts, and cannot go back.
    let name = crate::runner::current();
    std::thread::scope(|scope| {
        let work = scope.spawn(move || {
            crate::runner::set_current(name);
            // SAFETY: no memory is involved.
            if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
                bail!("failed to make a mount namespace: {}", std::io::Error::last_os_error());
            }
            mount(c"none", c"/", None, libc::MS_REC | libc::MS_PRIVATE)?;
            if Path::new("/usr/lib/debug").is_dir() {
                mount(c"none", c"/usr/lib/debug", Some(c"tmpfs"), libc::MS_RDONLY)?;
            }
            work()
        });
        work.join().unwrap_or_else(|_| bail!("the work panicked"))
    })
}

/// A tmpfs, mounted on a new directory. Unmounted on drop.
#[derive(Debug)]
pub struct Tmpfs(CString);

impl Tmpfs {
    /// Mounts it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn on(path: &Path) -> Result<Self> {
        fs::create_dir(path)?;
        let path = CString::new(path.as_os_str().as_bytes())?;
        mount(c"none", &path, Some(c"tmpfs"), 0)?;
        Ok(Self(path))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // SAFETY: a NUL-terminated path. Detached at once: a target that is still there may have files open on it.
        unsafe { libc::umount2(self.0.as_ptr(), libc::MNT_DETACH) };
    }
}

/// A file system on a file, mounted on a new directory, that can be frozen. Thawed and unmounted on drop.
#[derive(Debug)]
pub struct LoopMount {
    path: PathBuf,
    frozen: bool,
}

impl LoopMount {
    /// Makes it below the directory.
    ///
    /// # Errors
    /// The tools or loop devices are missing: skipped.
    pub fn below(dir: &Path) -> Result<Self> {
        let (image, path) = (dir.join("image"), dir.join("mounted"));
        fs::File::create(&image)?.set_len(32 << 20)?;
        fs::create_dir(&path)?;
        for command in [
            Command::new("mkfs.ext4").arg("-q").arg(&image),
            Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path),
        ] {
            let program = command.get_program().display().to_string();
            match command.output() {
                Ok(output) if output.status.success() => {}
                Ok(output) => skip(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))?,
                Err(error) => skip(format!("{program}: {error}"))?,
            }
        }
        Ok(Self { path, frozen: false })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whoever changes it waits from now on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn freeze(&mut self) -> Result<()> {
        self.frozen = true;
        let done = Command::new("fsfreeze").arg("-f").arg(&self.path).status()?;
        ensure!(done.success(), "fsfreeze ends with {done}");
        Ok(())
    }

    /// They go on.
    pub fn thaw(&mut self) {
        if std::mem::take(&mut self.frozen) {
            let _ = Command::new("fsfreeze").arg("-u").arg(&self.path).status();
        }
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        self.thaw();
        if let Ok(path) = CString::new(self.path.as_os_str().as_bytes()) {
            // SAFETY: a NUL-terminated path. Detached at once: what was just let go may still have files open on it.
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        }
    }
}

fn mount(source: &CStr, target: &CStr, kind: Option<&CStr>, flags: libc::c_ulong) -> Result<()> {
    let kind = kind.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: NUL-terminated strings, a kind that may be null, no data.
    if unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, std::ptr::null()) } != 0 {
        bail!("failed to mount on {target:?}: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// A cgroup (version 1) of its own. Removed on drop, once it is empty.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// A memory cgroup.
    ///
    /// # Errors
    /// The controller is not mounted as version 1: skipped.
    pub fn memory() -> Result<Self> {
        Self::new(CGROUPS, "memory.limit_in_bytes", "memory")
    }

    /// A freezer cgroup.
    ///
    /// # Errors
    /// The controller is not mounted as version 1: skipped.
    pub fn freezer() -> Result<Self> {
        Self::new(FREEZERS, "freezer.state", "freezer")
    }

    /// A group whose processes may use the CPU for this long in each 100 ms.
    ///
    /// # Errors
    /// The controller is not mounted as version 1: skipped.
    pub fn cpu(milliseconds: u32) -> Result<Self> {
        let group = Self::new(CPUS, "cpu.cfs_quota_us", "cpu")?;
        group.write("cpu.cfs_period_us", "100000")?;
        group.write("cpu.cfs_quota_us", &(milliseconds * 1000).to_string())?;
        // What it may have it gets before others: nothing else keeps its processes from a CPU.
        group.write("cpu.shares", "262144")?;
        Ok(group)
    }

    /// A group whose processes may read so many times a second from the disk that this directory is on.
    ///
    /// # Errors
    /// The controller is not mounted as version 1, or the directory is on no disk: skipped.
    pub fn slow_reads(dir: &Path, a_second: u32) -> Result<Self> {
        Self::slow(dir, "blkio.throttle.read_iops_device", a_second)
    }

    /// The same for writes.
    ///
    /// # Errors
    /// As there.
    pub fn slow_writes(dir: &Path, a_second: u32) -> Result<Self> {
        Self::slow(dir, "blkio.throttle.write_iops_device", a_second)
    }

    fn slow(dir: &Path, limit: &str, a_second: u32) -> Result<Self> {
        let group = Self::new(DEVICES, limit, "blkio")?;
        let device = std::os::unix::fs::MetadataExt::dev(&fs::metadata(dir)?);
        let mut number = format!("{}:{}", libc::major(device), libc::minor(device));
        // Limits are for whole disks.
        let part = PathBuf::from(format!("/sys/dev/block/{number}"));
        if part.join("partition").exists() {
            fs::read_to_string(part.join("../dev"))?.trim().clone_into(&mut number);
        }
        if group.write(limit, &format!("{number} {a_second}")).is_err() {
            skip(format!("{} is on {number}, which is no disk that could be slowed", dir.display()))?;
        }
        Ok(group)
    }

    /// A version 2 group.
    ///
    /// # Errors
    /// Version 2 is not mounted: skipped.
    pub fn unified() -> Result<Self> {
        let [beside, alone] = UNIFIED;
        let root = if Path::new(beside).join("cgroup.procs").exists() { beside } else { alone };
        let made = Self::made(root, "cgroup.freeze");
        if made.is_none() {
            skip(format!("no version 2 cgroups; type: mkdir -p {beside} && mount -t cgroup2 none {beside}"))?;
        }
        made.context("skipped")
    }

    fn new(root: &str, file: &str, controller: &str) -> Result<Self> {
        let made = Self::made(root, file);
        if made.is_none() {
            skip(format!(
                "no version 1 {controller} controller at {root}; type: mkdir -p {root} && mount -t cgroup -o {controller} none {root}"
            ))?;
        }
        made.context("skipped")
    }

    /// `None` when a group there does not have the file.
    fn made(root: &str, file: &str) -> Option<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(root).join(format!("{GROUP_PREFIX}{}-{number}", std::process::id()));
        let there = fs::create_dir(&path).is_ok() && path.join(file).exists();
        if !there {
            let _ = fs::remove_dir(&path);
        }
        there.then_some(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes one of its files.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn write(&self, file: &str, value: &str) -> Result<()> {
        fs::write(self.0.join(file), value).with_context(|| format!("failed to write {value} to {file}"))
    }

    /// Reads one of its files.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read(&self, file: &str) -> Result<String> {
        fs::read_to_string(self.0.join(file)).with_context(|| format!("failed to read {file}"))
    }

    /// Moves a process in.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn join(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        thaw_group(&self.0);
        // A killed member leaves its group a moment after it was reaped.
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.0).is_err() && self.0.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
