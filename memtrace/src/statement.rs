//! The frozen answer. What leaves the model is a [`Report`]; views turn reports into output and decide nothing.
//!
//! Amounts are in pages (views multiply by [`crate::event::Meta::page_size`]), times in nanoseconds of `CLOCK_MONOTONIC`.

mod span;

pub use span::*;

use crate::event::{End, Latency, Lost, Meta, MmId, Overview, Own, StackEnd, StackId, Symbol, Task};
use crate::stuck::Stuck;
use crate::units::Amounts;
use memtrace_common::Cause;
use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;

/// What the model says.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// The session began.
    Meta(Meta),
    /// The state at attach, or at the end.
    Overview(Overview),
    /// An interval's answer for one mm. Only for intervals in which something changed, and never skipped when it did.
    Statement(Statement),
    /// A mapping was born or died.
    Mapping(MappingChange),
    /// Fork, exec, exit of a traced process.
    Process(ProcessChange),
    /// The ledger was compared with /proc.
    Audit(Audit),
    /// What of each mapping is in memory, from a reading of smaps.
    Residency(Residency),
    /// A call stack that later reports refer to; each once.
    Stack(Arc<Stack>),
    /// Faults came much faster than before, and that is over.
    Burst(Box<Burst>),
    /// Something was lost since the last such report; totals since the session began.
    Loss {
        /// When.
        ts_ns: u64,
        /// Totals.
        lost: Lost,
    },
    /// An interval is over, also one in which nothing changed: what was said before holds until here.
    Tick {
        /// When.
        ts_ns: u64,
        /// What the observer cost since the session began.
        own: Own,
    },
    /// The session's answer for one mm, sum of all its statements. One per mm, at the end (or when the mm is gone).
    Closing(ClosingStatement),
    /// Why the process does not move: for the last seconds while the session lasts, for all of it at its end.
    Stuck(Box<Stuck>),
    /// A span is over, such as a database's statement.
    Span(Arc<Span>),
    /// The session's spans: those that took longest and moved most, and the sums. Once, at the end, when there were any.
    Spans(Box<Spans>),
    /// The session ended: the answer for the process that was asked for (and, with `follow`, its children).
    End(Box<EndReport>),
}

/// What a mapping is; see design: mapping kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The brk heap.
    Heap,
    /// The main thread's stack.
    Stack,
    /// Another thread's stack, as far as it can be recognised.
    ThreadStack,
    /// Private anonymous memory, perhaps named by prctl.
    Anon,
    /// A malloc arena of glibc.
    Arena,
    /// The program's own text, read-only data or data.
    Program,
    /// A shared library.
    Library,
    /// Another mapped file.
    File,
    /// Another mapped file, on a tmpfs: its pages are shared memory. Only snapshots tell it from [`Self::File`].
    Tmpfs,
    /// Shared anonymous memory (`/dev/zero`).
    SharedAnon,
    /// A System V segment.
    SysvShm,
    /// POSIX shared memory: a file in /dev/shm.
    PosixShm,
    /// A memfd.
    Memfd,
    /// Huge pages of hugetlbfs: not part of RES.
    Hugetlb,
    /// vdso, vvar, vsyscall.
    Vdso,
    /// A device.
    Device,
    /// No access allowed.
    Guard,
    /// A range that spans several mappings; the kernel does not say how much of each.
    Several,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Heap,
        Self::Stack,
        Self::ThreadStack,
        Self::Anon,
        Self::Arena,
        Self::Program,
        Self::Library,
        Self::File,
        Self::Tmpfs,
        Self::SharedAnon,
        Self::SysvShm,
        Self::PosixShm,
        Self::Memfd,
        Self::Hugetlb,
        Self::Vdso,
        Self::Device,
        Self::Guard,
        Self::Several,
    ];

    /// Name in the NDJSON contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Heap => "heap",
            Self::Stack => "stack",
            Self::ThreadStack => "thread_stack",
            Self::Anon => "anon",
            Self::Arena => "arena",
            Self::Program => "program",
            Self::Library => "library",
            Self::File => "file",
            Self::Tmpfs => "tmpfs",
            Self::SharedAnon => "shared_anon",
            Self::SysvShm => "sysv_shm",
            Self::PosixShm => "posix_shm",
            Self::Memfd => "memfd",
            Self::Hugetlb => "hugetlb",
            Self::Vdso => "vdso",
            Self::Device => "device",
            Self::Guard => "guard",
            Self::Several => "several",
        }
    }
}

/// The call that made a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    /// When.
    pub ts_ns: u64,
    /// System call number.
    pub nr: u32,
    /// Thread.
    pub tid: u32,
    /// Who called it.
    pub stack: Option<Arc<Stack>>,
}

/// A mapping as a statement shows it. Shared, because many entries name the same one.
#[derive(Clone, Debug, PartialEq)]
pub struct MappingRef {
    /// Number of this life, in order of birth within the mm, from 0.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    /// Path, prctl name, `[heap]`; empty for none. Any bytes.
    pub name: Vec<u8>,
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Permissions; see [`crate::event::permission`].
    pub permissions: u8,
    /// Its birth, where it was seen; mappings that were there at attach have none.
    pub birth: Option<Birth>,
}

/// Fault counts, signed as amounts are. A fault that ends in another interval than the one that counted it first, and turns
/// out to have another cause or to be major, is taken back there: an interval's count may be below zero, sums are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Without waiting for a device, as the kernel counts.
    pub minor: i64,
    /// `maj_flt`.
    pub major: i64,
}

impl Faults {
    /// Both.
    #[must_use]
    pub const fn all(self) -> i64 {
        self.minor.wrapping_add(self.major)
    }

    /// Both, to show and to weigh by: what is below zero is none.
    #[must_use]
    pub const fn shown(self) -> u64 {
        let all = self.all();
        if all > 0 { all.unsigned_abs() } else { 0 }
    }
}

impl AddAssign for Faults {
    fn add_assign(&mut self, more: Self) {
        self.minor = self.minor.wrapping_add(more.minor);
        self.major = self.major.wrapping_add(more.major);
    }
}

/// A code address with its module and names; see [`crate::event::Code`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The address.
    pub ip: u64,
    /// Path of the module; empty when it is in none.
    pub module: Vec<u8>,
    /// Offset in the module's file.
    pub offset: u64,
    /// The module's build-id, empty where it has none.
    pub build_id: Vec<u8>,
    /// Names, the innermost inlined function first; empty where unknown.
    pub symbols: Vec<Symbol>,
    /// Offset of the address in the function that holds it.
    pub symbol_offset: u64,
}

/// A call stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Its number in the session.
    pub id: StackId,
    /// Innermost first.
    pub frames: Vec<Arc<Frame>>,
    /// How it ends.
    pub end: StackEnd,
}

/// A signed amount per class with its cause, mapping, thread.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Why.
    pub cause: Cause,
    /// How much.
    pub delta: Amounts,
    /// How many faults.
    pub faults: Faults,
    /// Where; `None` when the kernel does not say.
    pub mapping: Option<Arc<MappingRef>>,
    /// Thread that acted.
    pub tid: u32,
    /// Its name; empty when unknown.
    pub comm: Vec<u8>,
    /// System call in progress.
    pub syscall: Option<u32>,
    /// Fault latencies, sampled.
    pub latency: Latency,
    /// The code that did it; `None` for kernel threads.
    pub stack: Option<Arc<Stack>>,
    /// First change.
    pub first_ns: u64,
    /// Last timed change.
    pub last_ns: u64,
}

/// Opening or closing amounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// The counters.
    pub amounts: Amounts,
    /// Address space, pages; `None` where unknown.
    pub virt: Option<u64>,
}

/// The answer for an interval and an mm: `closing − opening = Σ entries + unexplained`, per class.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The mm.
    pub mm: MmId,
    /// Process.
    pub pid: u32,
    /// Its name.
    pub comm: Vec<u8>,
    /// Begin.
    pub start_ns: u64,
    /// End.
    pub ts_ns: u64,
    /// At begin.
    pub opening: Balance,
    /// At end.
    pub closing: Balance,
    /// By amount, largest first; then by cause, mapping, thread.
    pub entries: Vec<Entry>,
    /// What the entries do not explain.
    pub unexplained: Amounts,
    /// Lost in this interval.
    pub lost: Lost,
}

/// Was it born or did it die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingWhat {
    /// Born.
    Born,
    /// Died.
    Died,
}

/// A mapping was born or died.
#[derive(Clone, Debug, PartialEq)]
pub struct MappingChange {
    /// When.
    pub ts_ns: u64,
    /// In which mm.
    pub mm: MmId,
    /// Of which process.
    pub pid: u32,
    /// What.
    pub what: MappingWhat,
    /// The mapping.
    pub mapping: Arc<MappingRef>,
    /// System call that did it.
    pub syscall: Option<u32>,
    /// Thread that did it.
    pub tid: u32,
    /// Code that did it.
    pub stack: Option<Arc<Stack>>,
}

/// Fork, exec or exit; the event with the mm that came from it.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessChange {
    /// What happened.
    pub task: Task,
}

/// One mapping in which smaps and the ledger differ.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditDifference {
    /// The mapping.
    pub mapping: Arc<MappingRef>,
    /// smaps's Rss now minus its Rss at the audit before, pages.
    pub smaps: i64,
    /// Σ entries booked on it since the audit before, RES pages.
    pub ledger: i64,
}

/// The ledger compared with /proc. It reports, it never repairs.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    /// When.
    pub ts_ns: u64,
    /// The mm.
    pub mm: MmId,
    /// Process.
    pub pid: u32,
    /// No event happened while /proc was read, so every difference is real.
    pub quiet: bool,
    /// What the ledger says (at the reading's end).
    pub ledger: Amounts,
    /// What /proc/PID/status says.
    pub status: Amounts,
    /// Σ smaps Rss, pages.
    pub smaps_rss: i64,
    /// status − ledger: zero when quiet, else at most `moved`.
    pub difference: Amounts,
    /// How far the counters moved while /proc was read.
    pub moved: Amounts,
    /// Mappings compared.
    pub mappings: usize,
    /// Those that differ, largest first, at most 20.
    pub differing: Vec<AuditDifference>,
    /// How many differ.
    pub differing_count: usize,
    /// RES pages booked since the audit before without a mapping (reclaim, khugepaged …): the differences of mappings add up to this.
    pub placeless: i64,
    /// What the reading cost.
    pub cost_ns: u64,
    /// Longest single read.
    pub longest_hold_ns: u64,
}

/// A sum over a session, by cause, by mapping or by code.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sum {
    /// How much.
    pub delta: Amounts,
    /// RES pages of the entries that made it grow, each counted with its net of an interval.
    pub grown: u64,
    /// RES pages of those that made it shrink: `grown − shrunk` is `delta`'s RES.
    pub shrunk: u64,
    /// How many faults.
    pub faults: Faults,
    /// How long they took.
    pub latency: Latency,
}

/// What one code path did in a session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CodeSum {
    /// The code; `None` for what the kernel's own threads did, and for several paths together.
    pub stack: Option<Arc<Stack>>,
    /// How many code paths are in it when it stands for several; 0 otherwise.
    pub folded: u64,
    /// What it did.
    pub sum: Sum,
}

/// The session's answer for one mm.
#[derive(Clone, Debug, PartialEq)]
pub struct ClosingStatement {
    /// The mm.
    pub mm: MmId,
    /// Process.
    pub pid: u32,
    /// Its name.
    pub comm: Vec<u8>,
    /// Begin.
    pub start_ns: u64,
    /// End.
    pub ts_ns: u64,
    /// At begin.
    pub opening: Balance,
    /// At end: zeros when the mm is gone.
    pub closing: Balance,
    /// Largest RES that a tick saw, pages.
    pub peak_res: i64,
    /// By cause.
    pub by_cause: Vec<(Cause, Sum)>,
    /// By mapping, largest gross amount first; `None` for what no mapping is known for.
    pub by_mapping: Vec<(Option<Arc<MappingRef>>, Sum)>,
    /// By code path, largest gross amount first; what is beyond a thousand paths is one row, the last.
    pub by_code: Vec<CodeSum>,
    /// All faults.
    pub faults: Faults,
    /// What the entries do not explain.
    pub unexplained: Amounts,
}

/// The session's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct EndReport {
    /// Why it ended.
    pub end: End,
    /// Sum over all mms of the session: opening and closing add up, so do causes.
    pub total: ClosingStatement,
    /// Lost since the session began.
    pub lost: Lost,
    /// What the observer cost.
    pub own: Own,
    /// Mms observed.
    pub mms: usize,
    /// How much of what grew has a complete stack.
    pub stacks: StackSums,
    /// Bursts reported.
    pub bursts: usize,
}

/// How good the stacks of a session were.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StackSums {
    /// RES pages of all entries that made it grow, each counted with its net: the positive ones of Σ [`Amounts::res`].
    pub grown: u64,
    /// Of these, those whose stack is complete; see [`StackEnd::Root`].
    pub complete: u64,
    /// The others by how the stack ends: distinct stacks, and RES pages that they grew.
    pub failures: BTreeMap<StackEnd, (u64, u64)>,
    /// RES pages that grew without a stack: the kernel's own threads, `fork`.
    pub without: u64,
}

/// What of one mapping is in memory, bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Resident {
    /// The mapping.
    pub mapping: Arc<MappingRef>,
    /// Resident pages that nobody else maps.
    pub private: u64,
    /// Resident pages that others map, too.
    pub shared: u64,
    /// Its part of the shared ones and all of the private ones.
    pub pss: u64,
    /// Swapped out.
    pub swap: u64,
    /// Of the resident pages, those written and not yet written back, or anonymous.
    pub dirty: u64,
}

/// What of each mapping is in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Residency {
    /// The mm.
    pub mm: MmId,
    /// Process.
    pub pid: u32,
    /// When smaps was read.
    pub ts_ns: u64,
    /// By address; the whole of each mapping's life, however many ranges smaps shows.
    pub mappings: Vec<Resident>,
}

/// A part of a burst.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part<T> {
    /// Of what.
    pub of: T,
    /// How much.
    pub delta: Amounts,
    /// How many faults.
    pub faults: Faults,
}

/// Faults came much faster than before.
#[derive(Clone, Debug, PartialEq)]
pub struct Burst {
    /// Number in the session, from 1.
    pub number: u64,
    /// The mm.
    pub mm: MmId,
    /// Process.
    pub pid: u32,
    /// Its name.
    pub comm: Vec<u8>,
    /// Begin.
    pub start_ns: u64,
    /// End.
    pub ts_ns: u64,
    /// How RES and swap changed by what the burst's faults did.
    pub delta: Amounts,
    /// RES when it was over, pages.
    pub res: i64,
    /// How many faults.
    pub faults: Faults,
    /// Of `delta` and `faults`, what is no more than a share: the same code path also faulted before or after, and what
    /// it did when is known by samples only. Zero: everything is exact.
    pub uncertain: Part<()>,
    /// Faults per second in the time before.
    pub level: u64,
    /// How long they took.
    pub latency: Latency,
    /// By cause, most faults first.
    pub causes: Vec<Part<Cause>>,
    /// By mapping, most faults first; capped.
    pub mappings: Vec<Part<Option<Arc<MappingRef>>>>,
    /// By thread and its name, most faults first; capped.
    pub threads: Vec<Part<(u32, Vec<u8>)>>,
    /// By code, most faults first; capped.
    pub stacks: Vec<Part<Option<Arc<Stack>>>>,
    /// What reclaim took from this mm meanwhile, pages; negative or zero.
    pub displaced: Amounts,
    /// What else left RES meanwhile (munmap …), pages; negative or zero.
    pub given_back: Amounts,
}
