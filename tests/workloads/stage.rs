//! The protocol: ready, a byte, the act, the truth, a byte.
//!
//! Between [`Stage::begin`] and the snapshot in [`Stage::finish`] nothing here allocates or touches a new page:
//! the program's own pages are locked in before, so that what the counters show is what the scene did.

use crate::region::Region;
use memtrace_tests::pages::{Pages, Pid, monotonic_ns};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// Room at the top of the heap for everything that is printed, so that `malloc` never moves the break.
const HEAP_SLACK: usize = 4 << 20;

/// Who asked for what, and how it went.
pub struct Stage {
    name: String,
    /// Where files are made; the caller removes it.
    pub dir: PathBuf,
    /// A memory cgroup (version 1) to live in.
    pub cgroup: Option<PathBuf>,
    /// The swap file that is on.
    pub swap: Option<PathBuf>,
    /// How long storms take.
    pub seconds: f64,
    before: Snapshot,
    waited: Pages,
    failed: Vec<String>,
}

#[derive(Clone, Copy, Default)]
struct Snapshot {
    pages: Pages,
    minor: i64,
    major: i64,
}

impl Snapshot {
    fn take() -> Self {
        let pages = Pages::read(Pid::Own).expect("/proc/self/status is readable");
        // SAFETY: all-zero is a valid rusage, and the kernel fills it.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
            usage
        };
        Self { pages, minor: usage.ru_minflt, major: usage.ru_majflt }
    }
}

/// One entry that the ledger must have.
#[derive(Clone)]
pub struct Expect {
    cause: &'static str,
    pages: Pages,
    any_file: bool,
    faults: Option<i64>,
    major: Option<i64>,
    range: Option<(usize, usize)>,
    placeless: bool,
    tid: Option<i64>,
    kind: Option<&'static str>,
    pid: Option<i64>,
}

impl Expect {
    /// Nothing yet, under this cause.
    pub fn new(cause: &'static str) -> Self {
        Self {
            cause,
            pages: Pages::ZERO,
            any_file: false,
            faults: None,
            major: None,
            range: None,
            placeless: false,
            tid: None,
            kind: None,
            pid: None,
        }
    }
    pub fn anon(mut self, pages: usize) -> Self {
        self.pages.anon += pages as i64;
        self
    }
    pub fn file(mut self, pages: usize) -> Self {
        self.pages.file += pages as i64;
        self
    }
    pub fn shmem(mut self, pages: usize) -> Self {
        self.pages.shmem += pages as i64;
        self
    }
    pub fn swap(mut self, pages: usize) -> Self {
        self.pages.swap += pages as i64;
        self
    }
    /// The other direction: for the shrinking causes.
    pub fn negative(mut self) -> Self {
        self.pages = -self.pages;
        self
    }
    pub fn pages(mut self, pages: Pages) -> Self {
        self.pages = pages;
        self
    }
    /// This many faults, all without waiting for a device.
    pub fn minor(mut self, faults: usize) -> Self {
        self.faults = Some(faults as i64);
        self.major = Some(0);
        self
    }
    /// This many faults that waited for a device.
    pub fn major(mut self, faults: usize) -> Self {
        self.faults = Some(faults as i64);
        self.major = Some(faults as i64);
        self
    }
    /// This many faults; which of them waited is the kernel's affair.
    pub fn faults(mut self, faults: usize) -> Self {
        self.faults = Some(faults as i64);
        self
    }
    /// On this mapping, and nothing else on it.
    pub fn at(mut self, region: &Region) -> Self {
        self.range = Some((region.start(), region.end()));
        self
    }
    pub fn range(mut self, start: usize, end: usize) -> Self {
        self.range = Some((start, end));
        self
    }
    /// The kernel does not say where: counted over all mappings and none.
    pub fn placeless(mut self) -> Self {
        self.placeless = true;
        self
    }
    /// By this thread.
    pub fn by(mut self, tid: u32) -> Self {
        self.tid = Some(i64::from(tid));
        self
    }
    pub fn kind(mut self, kind: &'static str) -> Self {
        self.kind = Some(kind);
        self
    }
    /// On another process's books (a child's).
    pub fn of(mut self, pid: u32) -> Self {
        self.pid = Some(i64::from(pid));
        self
    }
    /// The file pages that come along are not known beforehand.
    pub fn any_file(mut self) -> Self {
        self.any_file = true;
        self
    }

    fn to_json(&self) -> Value {
        let Pages { anon, file, shmem, swap } = self.pages;
        json!({
            "cause": self.cause,
            "pages": {
                "anon": anon,
                "file": if self.any_file { Value::Null } else { file.into() },
                "shmem": shmem,
                "swap": swap,
            },
            "faults": self.faults.map(|all| match self.major {
                Some(major) => json!({"all": all, "minor": all - major, "major": major}),
                None => json!({"all": all}),
            }),
            "mapping": self.range.map(|(start, end)| json!({
                "start": format!("{start:#x}"), "end": format!("{end:#x}"), "kind": self.kind,
            })),
            "placeless": self.placeless,
            "tid": self.tid,
            "pid": self.pid,
        })
    }
}

/// What of the truth is held against the kernel's own numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Counters and faults.
    All,
    /// Counters, and major faults where those are told: the minor faults of the act are more than those that are told
    /// (fork write-protects everything), or fewer.
    Counters,
    /// Nothing: the entries are another process's, or the scene has checked for itself.
    Nothing,
}

impl Stage {
    /// From the command line; joins the cgroup at once, so that everything is charged there.
    pub fn new(name: &str, mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut stage = Self {
            name: name.to_owned(),
            dir: PathBuf::from("/var/tmp"),
            cgroup: None,
            swap: None,
            seconds: 3.0,
            before: Snapshot::default(),
            waited: Pages::ZERO,
            failed: Vec::new(),
        };
        while let Some(option) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{option} wants a value"))?;
            match option.as_str() {
                "--dir" => stage.dir = value.into(),
                "--cgroup" => stage.cgroup = Some(value.into()),
                "--swap" => stage.swap = Some(value.into()),
                "--seconds" => stage.seconds = value.parse().map_err(|_| "--seconds wants a number".to_owned())?,
                _ => return Err(format!("unknown option {option}")),
            }
        }
        Ok(stage)
    }

    /// Locks everything that is mapped now. Call it after helpers and threads were started and before the memory
    /// that the scene is about is mapped: that must not be locked.
    pub fn settle(&self) {
        // SAFETY: plain calls; the allocation is freed before anyone sees it.
        unsafe {
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
            libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
            let slack = libc::malloc(HEAP_SLACK);
            assert!(!slack.is_null());
            // Volatile, or the pair is optimised away.
            slack.cast::<u8>().write_volatile(1);
            libc::free(slack);
            assert_eq!(libc::mlockall(libc::MCL_CURRENT), 0, "mlockall: {}", std::io::Error::last_os_error());
        }
        // The clock's page is the kernel's: it cannot be locked, only touched.
        let _ = monotonic_ns();
        Snapshot::take();
    }

    /// Moves into the cgroup that was given.
    pub fn join_cgroup(&self) {
        let cgroup = self.cgroup.as_ref().expect("this scene wants --cgroup");
        std::fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).expect("joins the cgroup");
    }

    /// Says that all is prepared, waits to be released, notes the counters.
    pub fn begin(&mut self) {
        let prepared = Snapshot::take();
        say(&json!({"ready": true, "pid": std::process::id(), "scene": self.name}));
        await_byte();
        self.before = Snapshot::take();
        self.waited = self.before.pages - prepared.pages;
    }

    /// How the counters moved since [`Stage::begin`]; for scenes in which the kernel decides the amount.
    pub fn moved(&self) -> Pages {
        Snapshot::take().pages - self.before.pages
    }

    /// Says what was done, after holding it against the kernel's numbers; waits to be released.
    pub fn finish(&mut self, check: Check, entries: &[Expect]) {
        self.finish_with(check, entries, json!({}));
    }

    /// As [`Stage::finish`], with more to say.
    pub fn finish_with(&mut self, check: Check, entries: &[Expect], more: Value) {
        let stamp_ns = monotonic_ns();
        let after = Snapshot::take();
        let measured = after.pages - self.before.pages;
        let (minor, major) = (after.minor - self.before.minor, after.major - self.before.major);
        if check != Check::Nothing {
            self.hold_against(check, entries, measured, (minor, major));
        }
        say(&json!({
            "done": self.failed.is_empty(),
            "failed": self.failed,
            "scene": self.name,
            "tid": std::process::id(),
            "stamp_ns": stamp_ns,
            "measured": {
                "anon": measured.anon, "file": measured.file, "shmem": measured.shmem, "swap": measured.swap,
            },
            "rusage": {"minor": minor, "major": major},
            "expect": entries.iter().map(Expect::to_json).collect::<Vec<_>>(),
            "more": more,
        }));
        await_byte();
    }

    /// What is told against what the kernel counted.
    fn hold_against(&mut self, check: Check, entries: &[Expect], measured: Pages, (minor, major): (i64, i64)) {
        if self.waited != Pages::ZERO {
            self.fail(&format!("the counters moved by {} while it waited to begin", self.waited));
        }
        let told: Pages = entries.iter().map(|entry| entry.pages).sum();
        if told != measured {
            self.fail(&format!("told {told}, the counters moved by {measured}"));
        }
        let faults: i64 = entries.iter().filter_map(|entry| entry.faults).sum();
        if check == Check::All && faults != minor + major {
            self.fail(&format!("told {faults} faults, getrusage counted {minor} minor and {major} major"));
        }
        let told_major: i64 = entries.iter().filter_map(|entry| entry.major).sum();
        let tells_each = entries.iter().all(|entry| entry.faults.is_none() || entry.major.is_some());
        let tells_any = check == Check::All || entries.iter().any(|entry| entry.major.is_some());
        if tells_each && tells_any && told_major != major {
            self.fail(&format!("told {told_major} major faults, getrusage counted {major}, and {minor} minor"));
        }
    }

    /// The machine did not do what the scene is about.
    pub fn fail(&mut self, why: &str) {
        eprintln!("workload {}: {why}", self.name);
        self.failed.push(why.to_owned());
    }

    /// What to exit with.
    pub fn verdict(&self) -> ExitCode {
        if self.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Prints one line at once.
pub fn say(line: &Value) {
    let text = format!("{line}\n");
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        // SAFETY: the kernel reads at most `rest.len()` bytes of `rest`.
        let count = unsafe { libc::write(1, rest.as_ptr().cast(), rest.len()) };
        if count <= 0 {
            std::process::exit(1);
        }
        rest = &rest[count as usize..];
    }
}

/// Waits for one byte on stdin; without anyone at the other end there is nothing to wait for.
pub fn await_byte() -> Option<u8> {
    let mut byte = 0_u8;
    loop {
        // SAFETY: one byte into one byte.
        match unsafe { libc::read(0, (&raw mut byte).cast(), 1) } {
            1 => return Some(byte),
            0 => return None,
            _ if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => {}
            _ => return None,
        }
    }
}

/// The caller's thread id.
pub fn gettid() -> u32 {
    // SAFETY: no memory is involved.
    unsafe { libc::gettid() as u32 }
}
