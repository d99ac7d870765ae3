//! One thing observed. Events are the only input of the model, live or replayed; a trace file is a list of them.
//!
//! Amounts are in pages, times in nanoseconds of `CLOCK_MONOTONIC` unless a field says otherwise.
//! Everything that an output shows must come from an Event: the model has no clock, no file, no environment.

mod code;
mod mappings;
mod span;
mod time;

pub use code::*;
pub use mappings::*;
pub use span::*;
pub use time::*;

use crate::units::Amounts;
use memtrace_common::{Cause, HIST_BUCKETS};
use serde::{Deserialize, Serialize};

/// One address space under observation, numbered in order of appearance from 0. Never used again in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MmId(pub u32);

/// One thing observed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// First event of a session.
    Meta(Meta),
    /// An mm came under observation. Its books open with `counters`.
    MmOpened(MmOpened),
    /// An mm was torn down; no event about it follows, except the tick that closes its books.
    MmClosed(MmClosed),
    /// Fork, exec, exit, OOM kill.
    Task(Task),
    /// A thread's name became known or changed. Also for threads outside the target that act on it (kswapd0).
    Comm {
        /// The thread.
        tid: u32,
        /// Its name, as the kernel has it: any bytes.
        comm: Vec<u8>,
    },
    /// The address space was read from `/proc/PID/maps`.
    Maps(Maps),
    /// smaps was read, bracketed by the kernel's counters.
    Smaps(Smaps),
    /// What `top` would say, read once at attach (and at the end, when the process still lives).
    Overview(Overview),
    /// A place in code; before the first stack that has it.
    Code(Code),
    /// A call stack; before the first event that refers to it.
    Stack(Stack),
    /// How many faults an mm took when, within the interval that ends.
    Pace(Pace),
    /// A mapping system call returned.
    Syscall(Syscall),
    /// Merged counter changes and page faults.
    Change(Change),
    /// Where the time of an mm's threads went in the interval that ends.
    Times(Times),
    /// One look at a thread that does not run.
    Wait(Wait),
    /// What surrounds the process.
    Surroundings(Box<Surroundings>),
    /// What a database server's backend says of itself.
    Backend(Box<Backend>),
    /// An interval ends. Each mm that is open (or was closed in this interval) has its closing counters here.
    Tick(Tick),
    /// Last event of a session.
    End(End),
    /// A thread passed an edge of a span. Events have numbers in trace files, in this order: new ones come last.
    Span(Box<SpanEdge>),
    /// Where samples found the own code of an mm's threads, in the interval that ends.
    Ran(Ran),
}

/// How exact the books are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Each change to the page, from the per-CPU counters.
    Exact,
    /// Each change to the page, from the event's own sum.
    Summed,
    /// The kernel counts in batches per thread.
    Batched,
    /// No probes: differences of /proc.
    Procfs,
}

/// The session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Version of memtrace that observed.
    pub version: String,
    /// The process asked for.
    pub pid: u32,
    /// Its name.
    pub comm: Vec<u8>,
    /// Its executable, as `/proc/PID/exe` links.
    pub exe: Vec<u8>,
    /// Its command line, arguments separated by NUL, capped at 4096 bytes.
    pub cmdline: Vec<u8>,
    /// `uname -r`.
    pub kernel: String,
    /// Bytes in a page.
    pub page_size: u64,
    /// How exact.
    pub mode: Mode,
    /// Why not `exact`, empty when it is.
    pub mode_reason: String,
    /// Wanted distance of ticks.
    pub interval_ns: u64,
    /// When the session began, monotonic.
    pub ts_ns: u64,
    /// The same moment as nanoseconds since the Unix epoch; wall times are derived from the pair.
    pub wall_ns: i64,
    /// Started by memtrace (`memtrace -- cmd`) instead of attached to.
    pub spawned: bool,
    /// Children are followed.
    pub follow: bool,
}

/// Why an mm is under observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// It ran when memtrace attached. Books open with the counters of that moment.
    Attach,
    /// Copied by fork. The books open at zero; `counters` is the first entry, cause `fork`.
    Fork {
        /// The parent process.
        parent: u32,
    },
    /// A new program. The books open at zero; `counters` is the first entry, cause `exec`.
    Exec {
        /// The mm that the process left, where that was under observation.
        left: Option<MmId>,
    },
}

/// An mm came under observation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MmOpened {
    /// The mm.
    pub mm: MmId,
    /// When.
    pub ts_ns: u64,
    /// Process that owns it (the first one, where several share it).
    pub pid: u32,
    /// Its name at that moment.
    pub comm: Vec<u8>,
    /// Why.
    pub why: Why,
    /// The kernel's counters at that moment.
    pub counters: Amounts,
    /// Size of the address space in pages.
    pub virt: u64,
    /// Start of the heap.
    pub start_brk: u64,
    /// Program break.
    pub brk: u64,
    /// An address in the main thread's stack.
    pub start_stack: u64,
}

/// An mm was torn down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MmClosed {
    /// The mm.
    pub mm: MmId,
    /// When.
    pub ts_ns: u64,
    /// What the counters said at the end of the teardown: zero on a healthy kernel.
    pub counters: Amounts,
}

/// What happened to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskWhat {
    /// It made a child that has an mm of its own.
    Forked {
        /// The child.
        child: u32,
    },
    /// It made a thread.
    ThreadStarted {
        /// The thread.
        child: u32,
    },
    /// It made a process that shares the mm (vfork, CLONE_VM).
    SharedMm {
        /// The child process.
        child: u32,
    },
    /// It became another program.
    Execed,
    /// A thread that is not the last one ended.
    ThreadExited,
    /// The last thread ended: the process is gone.
    ProcessExited {
        /// As `wait` has it: signal in the low seven bits, status in bits 8–15.
        code: u32,
    },
    /// The OOM killer chose it.
    OomVictim,
}

/// Something happened to a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its mm, where that is (still) under observation.
    pub mm: Option<MmId>,
    /// When.
    pub ts_ns: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// What.
    pub what: TaskWhat,
    /// Name of the task (of the child, for the first three).
    pub comm: Vec<u8>,
}

/// A mapping system call that returned without error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Syscall {
    /// The mm.
    pub mm: MmId,
    /// When it returned.
    pub ts_ns: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Its number on x86-64; see [`crate::syscalls`].
    pub nr: u32,
    /// Its arguments.
    pub args: [u64; 6],
    /// What it returned.
    pub ret: i64,
    /// User instruction after the call.
    pub ip: u64,
    /// Who called it.
    pub stack: Option<StackId>,
}

/// When an mm took faults; times that had none are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// The mm.
    pub mm: MmId,
    /// Begin of each moment of `1 << MOMENT_SHIFT` ns, and about how many faults it had (one in sixteen is counted, as sixteen), by time.
    pub moments: Vec<(u64, u32)>,
}

/// Where a change happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Place {
    /// The kernel does not say.
    Nowhere,
    /// In this VMA, as it was then.
    Vma {
        /// First address.
        start: u64,
        /// Address after the last.
        end: u64,
    },
    /// At this page.
    Address(u64),
    /// In this range, which a system call named; it may span several mappings or none.
    Range {
        /// First address.
        start: u64,
        /// Address after the last.
        end: u64,
    },
    /// In the mappings of this file.
    Inode {
        /// Inode.
        inode: u64,
        /// Device, `major << 32 | minor`.
        device: u64,
    },
}

/// Sampled latencies of page faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// How many were sampled.
    pub samples: u64,
    /// Their sum.
    pub sum_ns: u64,
    /// The largest.
    pub max_ns: u64,
    /// Counts by power of two: bucket `i` is `[2^(i+7), 2^(i+8))` ns.
    pub hist: [u32; HIST_BUCKETS],
}

/// Merged changes that are equal in cause, place, thread, instruction and system call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The mm that changed.
    pub mm: MmId,
    /// First one.
    pub first_ns: u64,
    /// Last one that was timed.
    pub ts_ns: u64,
    /// Why, as [`Cause`] code.
    #[serde(with = "cause_code")]
    pub cause: Cause,
    /// How much.
    pub delta: Amounts,
    /// Where.
    pub place: Place,
    /// Lowest and highest faulting address; zeros when there is none.
    pub touched: (u64, u64),
    /// Who acted: a thread, not always of the target.
    pub tid: u32,
    /// User instruction; 0 for kernel threads.
    pub ip: u64,
    /// Call stack; `None` for kernel threads.
    pub stack: Option<StackId>,
    /// System call in progress.
    pub nr: Option<u32>,
    /// `madvise`'s advice, where the call is that.
    pub detail: u16,
    /// Page faults, major ones included. Below zero where this takes back what an earlier change counted under another
    /// cause, before the fault's end told the true one: the sum over all changes is exact.
    pub faults: i64,
    /// Major ones.
    pub major: i64,
    /// Taken in kernel mode.
    pub kernel_mode: u64,
    /// How long they took.
    pub latency: Latency,
}

mod cause_code {
    use memtrace_common::Cause;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub fn serialize<S: Serializer>(cause: &Cause, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*cause as u8)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cause, D::Error> {
        let code = u8::deserialize(deserializer)?;
        Cause::from_code(code).ok_or_else(|| D::Error::custom(format!("unknown cause {code}")))
    }
}

mod optional_cause_code {
    use memtrace_common::Cause;
    use serde::{Deserialize, Deserializer, Serialize as _, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub fn serialize<S: Serializer>(cause: &Option<Cause>, serializer: S) -> Result<S::Ok, S::Error> {
        cause.map(|cause| cause as u8).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cause>, D::Error> {
        let code = Option::<u8>::deserialize(deserializer)?;
        code.map(|code| Cause::from_code(code).ok_or_else(|| D::Error::custom(format!("unknown cause {code}"))))
            .transpose()
    }
}

/// What could not be observed since the session began: one counter per cause of loss. All zero is the normal case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Changes whose record had no room: their amounts are in entries with the true cause, without mapping and thread.
    pub records: u64,
    /// Ring records (mapping calls, task events) that had no room: the address space was read again.
    pub ring: u64,
    /// Runs of our programs that the kernel skipped; their amounts are in the next change of that CPU.
    pub skipped: u64,
    /// Threads that had no room: their faults have no address and no latency.
    pub threads: u64,
    /// Children or programs that had no room: not followed.
    pub mms: u64,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// Copies of stacks that had no room: the amounts are complete, of their stacks one frame is known.
    pub stacks: u64,
    /// Spans of threads' time that had no room: what a thread's states lack of the window.
    pub times: u64,
}

impl Lost {
    /// Everything that was lost.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.records
            .saturating_add(self.ring)
            .saturating_add(self.skipped)
            .saturating_add(self.threads)
            .saturating_add(self.mms)
            .saturating_add(self.undecodable)
            .saturating_add(self.stacks)
            .saturating_add(self.times)
    }
}

impl std::ops::Add for Lost {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            records: self.records.saturating_add(other.records),
            ring: self.ring.saturating_add(other.ring),
            skipped: self.skipped.saturating_add(other.skipped),
            threads: self.threads.saturating_add(other.threads),
            mms: self.mms.saturating_add(other.mms),
            undecodable: self.undecodable.saturating_add(other.undecodable),
            stacks: self.stacks.saturating_add(other.stacks),
            times: self.times.saturating_add(other.times),
        }
    }
}

/// What the observer itself cost since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// CPU time of this program.
    pub cpu_ns: u64,
    /// Time in its BPF programs, all CPUs, all processes: measured in one interval of ten, and extrapolated. `None` when
    /// the kernel was not asked to measure.
    pub bpf_ns: Option<u64>,
    /// Runs of its BPF programs, likewise.
    pub bpf_runs: Option<u64>,
    /// Largest resident size of this program, bytes.
    pub max_rss: u64,
    /// Stacks that were copied.
    pub copies: u64,
    /// Bytes of them.
    pub copied_bytes: u64,
    /// Time that it took to read and unwind them; in `cpu_ns` too.
    pub unwind_ns: u64,
    /// Looks at threads that may wait.
    pub looks: u64,
    /// Time that these took; in `cpu_ns` too.
    pub look_ns: u64,
    /// Threads that a look had no time or room for, each time counted: the next one began with them.
    pub unseen: u64,
    /// Searches for the process at the other end of something that were not over when their look was: until then, it is unknown.
    pub unsearched: u64,
}

/// What an mm's counters said when an interval ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// The mm.
    pub mm: MmId,
    /// The kernel's counters, from the probes (not from the records): the books are closed against these.
    pub counters: Amounts,
    /// Size of the address space in pages; `None` when it could not be read (the process is gone).
    pub virt: Option<u64>,
}

/// An interval ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tick {
    /// When.
    pub ts_ns: u64,
    /// One per open mm, and per mm closed in this interval (zeros).
    pub closings: Vec<Closing>,
    /// Since the session began.
    pub lost: Lost,
    /// Since the session began.
    pub own: Own,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// The target exited with this code, as `wait` has it, where known.
    Exited {
        /// Signal in the low seven bits, status in bits 8–15.
        code: Option<u32>,
    },
    /// SIGINT or SIGTERM to memtrace, or `q`.
    Interrupted,
    /// `--duration` is over.
    Duration,
    /// The reader of our output went away.
    OutputClosed,
    /// The trace ends here without a proper end.
    Truncated,
}

/// Last event of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// When.
    pub ts_ns: u64,
    /// Why.
    pub reason: EndReason,
    /// How naming went.
    pub naming: Naming,
}

impl End {
    /// An end of which nothing is to be said but when and why.
    #[must_use]
    pub fn new(ts_ns: u64, reason: EndReason) -> Self {
        Self { ts_ns, reason, naming: Naming::default() }
    }
}
