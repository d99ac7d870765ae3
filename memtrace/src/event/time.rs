//! Where threads' time goes, and what they wait for: the events of `memtrace stuck` and of the screen's pane.

use super::{CodeId, MmId, StackId};
use memtrace_common::{Cause, Doing};
use serde::{Deserialize, Serialize};

/// What the threads of an mm did in the interval that ends. The sum of a thread's `ns` is the interval, or the part of it
/// that the thread lived in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// The mm.
    pub mm: MmId,
    /// When the interval began.
    pub begin_ns: u64,
    /// When it ended.
    pub ts_ns: u64,
    /// Distance of the samples that are taken of what runs on a CPU.
    pub sample_ns: u64,
    /// By thread.
    pub spans: Vec<TimeSpan>,
    /// Who held mmap_lock.
    pub holds: Vec<LockHold>,
}

/// What a thread did for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimeSpan {
    /// Thread.
    pub tid: u32,
    /// What.
    #[serde(with = "doing_code")]
    pub doing: Doing,
    /// For a fault: the cause that it was booked under; `None` where it moved no counter or is not over.
    #[serde(with = "super::optional_cause_code")]
    pub cause: Option<Cause>,
    /// System call in progress.
    pub nr: Option<u32>,
    /// The call's first argument; for a fault, the start of the mapping.
    pub object: u64,
    /// The call's second argument, where that tells objects apart.
    pub detail: u64,
    /// It began before we looked.
    pub before: bool,
    /// It goes on as the interval ends.
    pub open: bool,
    /// How long, within the interval.
    pub ns: u64,
    /// The longest, whole, whatever interval it began in.
    pub max_ns: u64,
    /// How many of them ended.
    pub count: u64,
    /// Samples on a CPU.
    pub samples: u64,
    /// For faults: the address of the last one.
    pub address: u64,
}

/// Where samples found the own code of an mm's threads on a CPU, in an interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// The mm.
    pub mm: MmId,
    /// When the interval ended.
    pub ts_ns: u64,
    /// By thread. What a [`TimeSpan`] of [`Doing::User`] has more samples than these had no room for its place.
    pub places: Vec<RanAt>,
}

/// A thread's own code was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RanAt {
    /// Thread.
    pub tid: u32,
    /// Where.
    pub code: CodeId,
    /// Samples that found it there.
    pub samples: u64,
}

/// A thread held mmap_lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHold {
    /// Thread; not always the target's.
    pub tid: u32,
    /// Its name.
    pub comm: Vec<u8>,
    /// For writing.
    pub write: bool,
    /// How long in all.
    pub ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// How often.
    pub count: u64,
}

/// One look at a thread that does not run: from /proc, and the call stack that it waits with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    /// The mm.
    pub mm: MmId,
    /// When.
    pub ts_ns: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Its name.
    pub comm: Vec<u8>,
    /// Letter of its state as /proc prints it.
    pub state: u8,
    /// System call that it waits in; `None` for none (a fault, a stop).
    pub nr: Option<u32>,
    /// That call's arguments.
    pub args: [u64; 6],
    /// What it waits for, as far as /proc tells.
    pub object: WaitObject,
    /// Functions of the kernel that it waits in, innermost first; empty where we may not see them.
    pub kernel: Vec<Vec<u8>>,
    /// Where its own code waits.
    pub stack: Option<StackId>,
    /// The first look at this thread of the session.
    pub at_attach: bool,
}

/// What a thread waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitObject {
    /// Not known, or nothing that could be named.
    #[default]
    Unknown,
    /// A file, by the descriptor or the path that the call names.
    File {
        /// Descriptor; −1 for a call that names a path.
        fd: i32,
        /// Path as /proc/PID/fd has it, or as the call names it: any bytes.
        path: Vec<u8>,
        /// Where in it, bytes, where that is known.
        offset: Option<u64>,
    },
    /// A lock on a file.
    FileLock {
        /// Descriptor.
        fd: i32,
        /// Path.
        path: Vec<u8>,
        /// Who holds it, where /proc/locks tells.
        holder: Option<(u32, Vec<u8>)>,
    },
    /// A socket.
    Socket {
        /// Descriptor.
        fd: i32,
        /// `tcp`, `tcp6`, `udp`, `unix` …
        protocol: String,
        /// Own address or path.
        local: Vec<u8>,
        /// The other side's.
        peer: Vec<u8>,
        /// The process at the other side, where it is on this machine and can be found.
        process: Option<(u32, Vec<u8>)>,
        /// Bytes that wait to be sent and to be read.
        queued: Option<(u64, u64)>,
    },
    /// A pipe or FIFO.
    Pipe {
        /// Descriptor.
        fd: i32,
        /// Inode.
        inode: u64,
        /// Processes at the other end, as far as they can be found.
        others: Vec<(u32, Vec<u8>)>,
    },
    /// A futex.
    Futex {
        /// Address.
        address: u64,
        /// In which mapping, as maps has it.
        mapping: Vec<u8>,
        /// Thread of the same process that the C library's mutex at this address names as its owner.
        owner: Option<u32>,
    },
    /// A set of System V semaphores, or a message queue.
    SystemV {
        /// Identifier.
        id: u64,
    },
    /// Several descriptors at once (poll, select, epoll).
    Descriptors {
        /// Descriptor and path of each, as far as they are known; capped. Of a socket, its addresses in words.
        of: Vec<(i32, Vec<u8>)>,
        /// How many in all.
        total: u32,
        /// It also waits for a time that it set itself.
        timeout_ns: Option<u64>,
    },
    /// A child's end.
    Child {
        /// Which; 0 for any.
        pid: u32,
    },
    /// A time.
    Timer {
        /// How long it asked to sleep, where that could be read.
        ns: Option<u64>,
    },
    /// A page of a file that is being read in.
    FilePage {
        /// Path as maps has it.
        path: Vec<u8>,
        /// Where in it, bytes.
        offset: u64,
    },
    /// A debugger's leave.
    Tracer {
        /// The debugger.
        pid: u32,
        /// Its name.
        comm: Vec<u8>,
    },
}

/// What surrounds a process: read when the window begins and when it ends. Amounts in bytes, times in nanoseconds; counters
/// since boot or since the cgroup was made: what counts is their difference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// When.
    pub ts_ns: u64,
    /// Process.
    pub pid: u32,
    /// CPUs that are online.
    pub cpus: u32,
    /// CPUs that the process may use.
    pub allowed_cpus: u32,
    /// Processes that are ready to run or run, on the whole machine (`/proc/loadavg`).
    pub running: u32,
    /// Minor and major faults of the process since it began (`/proc/PID/stat`).
    pub faults: (u64, u64),
    /// Bytes that it had read from and written to devices (`/proc/PID/io`).
    pub io: Option<(u64, u64)>,
    /// Pages swapped in and out on the whole machine (`pswpin`, `pswpout`).
    pub swapped: Option<(u64, u64)>,
    /// Pressure on the whole machine.
    pub machine: Pressures,
    /// Its cgroup's.
    pub cgroup: Option<Cgroup>,
}

/// Pressure stall times (`some`, `full`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressures {
    /// CPU.
    pub cpu: Option<(u64, u64)>,
    /// Memory.
    pub memory: Option<(u64, u64)>,
    /// I/O.
    pub io: Option<(u64, u64)>,
}

/// A process's cgroup, of whichever version; what the nearest limiting ancestor says, where the group itself says nothing.
/// That need not be the same one for memory, CPU time and the freezer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Directory of the group whose memory is told: its own, or the nearest ancestor's that has a limit. Where the hierarchy is
    /// not mounted, its own path within that. Any bytes.
    pub path: Vec<u8>,
    /// Memory in use and the limit, `None` for no limit.
    pub memory: Option<(u64, Option<u64>)>,
    /// How often the limit was hit (`memory.failcnt`, `memory.events: max`).
    pub limit_hits: Option<u64>,
    /// Time that its processes were kept from the CPU, and CPU time allowed per period, where limited: of the nearest group
    /// with a quota, else its own.
    pub throttled: Option<(u64, Option<(u64, u64)>)>,
    /// The file that has that quota (`…/cpu.max`, version 1: `…/cpu.cfs_quota_us`); any bytes. Empty where `throttled` is
    /// `None`.
    pub quota_file: Vec<u8>,
    /// It is frozen, itself or with a group above it.
    pub frozen: Option<bool>,
    /// The files that freeze it (`…/cgroup.freeze`, version 1: `…/freezer.state`), of the nearest group first: each of these
    /// groups was frozen itself. Any bytes.
    pub frozen_by: Vec<Vec<u8>>,
    /// Other processes in the group, the largest by RES first: pid, name, RES; capped.
    pub others: Vec<(u32, Vec<u8>, u64)>,
    /// Pressure in the group.
    pub pressure: Pressures,
}

/// What a database server's backend says of itself, read from its memory without its help.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// When.
    pub ts_ns: u64,
    /// Process.
    pub pid: u32,
    /// `postgresql`, `mariadb` …
    pub server: String,
    /// Major version, where known.
    pub version: Option<u32>,
    /// Type of the backend, as the server names it (`client backend`, `autovacuum worker`, …).
    pub backend_type: Option<String>,
    /// State (`active`, `idle in transaction` …).
    pub state: Option<String>,
    /// Text of the statement, the current or the last one; any bytes, capped.
    pub query: Option<Vec<u8>>,
    /// When it began, nanoseconds since the Unix epoch.
    pub query_start_ns: Option<i64>,
    /// When its transaction began, likewise.
    pub transaction_start_ns: Option<i64>,
    /// Wait events seen since the last such event (type, name) and how often; `None` for no wait. By count.
    pub waits: Vec<(Option<(String, String)>, u64)>,
    /// Its process id as the server knows it: not `pid` where the server is in a container.
    pub own_pid: u32,
    /// When it began, as the query's.
    pub started_ns: Option<i64>,
    /// What a sort or hash may use before it goes to disk (`work_mem`), bytes.
    pub work_mem: Option<u64>,
    /// Temporary files that it has open, and their bytes: sorts and hashes that did not fit.
    pub spilled: Option<(u64, u64)>,
    /// Whom it waits for, where the server was asked (`--pg`) and has answered.
    pub blocked_by: Option<Vec<Blocker>>,
    /// When it was asked that; `None` where `blocked_by` is.
    pub asked_ns: Option<u64>,
    /// Every look since then found it waiting for a lock: what the server said may still hold.
    pub in_lock: bool,
    /// The connection string that its server was asked with, where it may be repeated: it holds no password.
    pub asked: Option<String>,
    /// The server was asked and gave no answer: why; else empty.
    pub unanswered: String,
    /// What could not be read, and why; empty when all is well.
    pub refused: String,
}

/// A backend that another one waits for, itself or behind others, as the server told. Texts are the server's, and capped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    /// Process; `None` where there is none that we could find.
    pub pid: Option<u32>,
    /// Its process id as the server knows it; 0 for a prepared transaction, which no process has.
    pub own_pid: u32,
    /// State, as [`Backend::state`].
    pub state: Option<String>,
    /// Since when it is in that state, nanoseconds since the Unix epoch.
    pub since_ns: Option<i64>,
    /// Text of its current or last statement.
    pub query: Option<String>,
    /// When its transaction began, likewise.
    pub transaction_start_ns: Option<i64>,
    /// What it waits for itself (type, name).
    pub wait: Option<(String, String)>,
    /// Those that it waits for itself, as the server knows them.
    pub behind: Vec<u32>,
    /// Only others of these wait for it, not the backend that was asked about.
    pub indirect: bool,
    /// The role that asked may not see what it does.
    pub hidden: bool,
}

impl Blocker {
    /// It waits for a lock itself: it is not to blame.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.behind.is_empty() || self.wait.as_ref().is_some_and(|(kind, _)| kind == "Lock")
    }
}

mod doing_code {
    use memtrace_common::Doing;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub fn serialize<S: Serializer>(doing: &Doing, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*doing as u8)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Doing, D::Error> {
        let code = u8::deserialize(deserializer)?;
        Doing::from_code(code).ok_or_else(|| D::Error::custom(format!("unknown doing {code}")))
    }
}
