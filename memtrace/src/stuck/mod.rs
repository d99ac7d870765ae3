//! Why a process does not move: its threads' time in a window, what they wait for, and one verdict. Pure: a function of
//! events. When the evidence does not decide, the verdict says between what.

mod classify;
mod sampling;
#[cfg(test)]
pub(crate) mod scenes;
#[cfg(test)]
mod stalled_backends;
#[cfg(test)]
pub(crate) mod stalls;
#[cfg(test)]
mod tests;
mod verdict;

pub(crate) use classify::{
    Look, Span, is_about_its_argument, is_memory_wait, of_fault_on_cpu, state_of, takes_descriptor, throttled,
};
pub(crate) use sampling::split;
pub use verdict::verdict;
pub(crate) use verdict::{main_function, order, waiting};

use crate::event::{Backend, LockHold, Lost, Own, StackEnd, Surroundings, WaitObject};
use crate::statement::{Faults, MappingRef, Stack};
use crate::units::Amounts;
use std::sync::Arc;

macro_rules! states {
    ($($variant:ident = $name:literal, $doc:literal;)*) => {
        /// Where a thread's time goes; names are the NDJSON contract's classes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum State { $(#[doc = $doc] $variant,)* }

        impl State {
            /// Every one, in the order of the outputs.
            pub const ALL: &'static [State] = &[$(State::$variant,)*];

            /// Name in the outputs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(State::$variant => $name,)* }
            }
        }
    };
}

states! {
    CpuUser = "cpu.user", "On a CPU, in its own code.";
    CpuKernel = "cpu.kernel", "On a CPU, in the kernel.";
    Cpu = "cpu", "On a CPU, too shortly for a sample to say where.";
    FaultMinor = "fault.minor", "In page faults that needed no device.";
    FaultFileRead = "fault.file_read", "In page faults that read a file.";
    FaultSwapin = "fault.swapin", "In page faults that read from swap.";
    FaultCow = "fault.cow", "In page faults that copied a page.";
    FaultThp = "fault.thp", "In page faults that cleared a huge page.";
    MmapLock = "mmap_lock", "Waiting for the lock on its address space.";
    ReclaimDirect = "reclaim.direct", "Reclaiming memory: the machine has none.";
    ReclaimMemcg = "reclaim.memcg", "Reclaiming memory: its cgroup is at the limit.";
    Runnable = "runnable", "Ready to run, without a CPU.";
    Throttled = "throttled", "Ready to run, but its cgroup has used up its CPU time.";
    BlockedFutex = "blocked.futex", "Waiting for a mutex or condition of its own or shared memory.";
    BlockedSemaphore = "blocked.semaphore", "Waiting for a semaphore.";
    BlockedFileIo = "blocked.file_io", "Waiting for a read or write of a file.";
    BlockedSocket = "blocked.socket", "Waiting for the other side of a connection.";
    BlockedPipe = "blocked.pipe", "Waiting for the other end of a pipe.";
    BlockedFlock = "blocked.flock", "Waiting for a lock on a file.";
    BlockedPoll = "blocked.poll", "Waiting for any of several descriptors: often there is nothing to do.";
    BlockedSleep = "blocked.sleep", "Asleep for a time that it set itself.";
    BlockedChild = "blocked.child", "Waiting for a child.";
    BlockedOther = "blocked.other", "Waiting in another system call.";
    Stopped = "stopped", "Stopped by a signal.";
    Traced = "traced", "Stopped for a debugger.";
    Frozen = "frozen", "Its cgroup is frozen.";
    Uninterruptible = "uninterruptible", "Waiting in the kernel, for something that no signal ends.";
    Unaccounted = "unaccounted", "Not observed: what the others lack of the window.";
}

impl State {
    /// Memory is what keeps a thread that is in it.
    #[must_use]
    pub const fn is_memory(self) -> bool {
        matches!(
            self,
            Self::FaultMinor
                | Self::FaultFileRead
                | Self::FaultSwapin
                | Self::FaultCow
                | Self::FaultThp
                | Self::MmapLock
                | Self::ReclaimDirect
                | Self::ReclaimMemcg
        )
    }
}

/// One state of a thread, and the object that it concerned where that tells states apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// What.
    pub state: State,
    /// System call.
    pub nr: Option<u32>,
    /// What it waited for.
    pub object: WaitObject,
    /// For page faults: in which mapping.
    pub mapping: Option<Arc<MappingRef>>,
    /// How long in the window.
    pub ns: u64,
    /// By how much `ns` may be wrong either way: 0 where it was measured and not sampled.
    pub bound_ns: u64,
    /// How many times it ended in the window.
    pub count: u64,
    /// The longest, whole.
    pub max_ns: u64,
    /// It has lasted since before the window.
    pub since_attach: bool,
    /// One of them went on when the window ended.
    pub open: bool,
}

/// Where a thread was seen waiting.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// Functions of the kernel, innermost first.
    pub kernel: Vec<Vec<u8>>,
    /// Its own.
    pub stack: Option<Arc<Stack>>,
    /// In so many of the looks at this thread.
    pub seen: u64,
    /// Looks at this thread.
    pub looks: u64,
}

/// A function of a thread's own code, with the time that it took there itself: with what was inlined into it, without what
/// it called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name, demangled; empty where all that is known is the module. Any bytes.
    pub name: Vec<u8>,
    /// The file that holds it, as maps has it; empty for none. Any bytes.
    pub module: Vec<u8>,
    /// Samples that found the thread there.
    pub samples: u64,
    /// How long in the window.
    pub ns: u64,
    /// By how much `ns` may be wrong either way: by chance, and because some samples' places are not known.
    pub bound_ns: u64,
}

/// A thread's time in the window.
#[derive(Clone, Debug, PartialEq)]
pub struct ThreadTimes {
    /// Thread.
    pub tid: u32,
    /// Its name.
    pub comm: Vec<u8>,
    /// The window, or the part of it that the thread lived in: the sum of `shares`.
    pub total_ns: u64,
    /// Largest first.
    pub shares: Vec<Share>,
    /// What it ran of its own code, most first; capped.
    pub ran: Vec<Function>,
    /// Where it waits, most often seen first; capped.
    pub waits: Vec<Waiting>,
}

impl ThreadTimes {
    /// Its largest share of a state.
    #[must_use]
    pub fn share(&self, state: State) -> Option<&Share> {
        self.shares.iter().find(|share| share.state == state)
    }
}

/// Threads of a process of many that ended and have no row of their own: their time, added up.
#[derive(Clone, Debug, PartialEq)]
pub struct EndedThreads {
    /// How many.
    pub threads: u64,
    /// The time that they lived: the sum of `shares`.
    pub total_ns: u64,
    /// By state alone, largest first.
    pub shares: Vec<Share>,
}

/// What the answer says nothing of, for want of room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Threads of this process, the most at once.
    pub threads: u64,
    /// Processes of the session.
    pub processes: u64,
}

/// How sure and what. All text is escaped and capped: it holds names that the target chose.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// What it is; `None` when the evidence lies between several.
    pub state: Option<State>,
    /// Memory is the cause; `None` when that is not known.
    pub memory: Option<bool>,
    /// One sentence.
    pub sentence: String,
    /// What supports it, one fact each: what it is about, and the fact.
    pub evidence: Vec<(&'static str, String)>,
    /// The candidates, when the evidence does not decide.
    pub between: Vec<State>,
    /// What to do or to run next.
    pub next: Vec<String>,
}

/// What the ledger knows of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The counters when it began, pages.
    pub opening: Amounts,
    /// When it ended.
    pub closing: Amounts,
    /// Page faults.
    pub faults: Faults,
    /// Pages read back from swap.
    pub swapped_in: u64,
    /// Pages that reclaim took from this process.
    pub reclaimed: u64,
    /// When a counter moved last; `None` when none did in the session.
    pub moved_ns: Option<u64>,
}

/// The answer for a window.
#[derive(Clone, Debug, PartialEq)]
pub struct Stuck {
    /// Process.
    pub pid: u32,
    /// Its name.
    pub comm: Vec<u8>,
    /// When the window began.
    pub start_ns: u64,
    /// When it ended.
    pub ts_ns: u64,
    /// The same moment as nanoseconds since the Unix epoch.
    pub wall_ns: i64,
    /// The window is the whole session, and this is its answer; else it is the last second of a session that goes on.
    pub whole: bool,
    /// Bytes in a page.
    pub page_size: u64,
    /// What its memory did; `None` where its books are not kept.
    pub memory: Option<Memory>,
    /// Who held the lock on its address space, longest first; capped.
    pub holds: Vec<LockHold>,
    /// What was lost since the session began.
    pub lost: Lost,
    /// What watching has cost since then, and what was not looked at.
    pub own: Own,
    /// The process ended within the window.
    pub ended: bool,
    /// What `wait` would tell of that, where its end was seen.
    pub exit_code: Option<u32>,
    /// The OOM killer chose it.
    pub oom_victim: bool,
    /// Threads, those that decided first.
    pub threads: Vec<ThreadTimes>,
    /// Those that ended and are not among them; `None` where there are none.
    pub ended_threads: Option<EndedThreads>,
    /// What there was no room for.
    pub left_out: LeftOut,
    /// The verdict.
    pub verdict: Verdict,
    /// What surrounded it at the begin and at the end.
    pub surroundings: Option<(Surroundings, Surroundings)>,
    /// What its database server says.
    pub backend: Option<Backend>,
    /// Stacks that ended before the thread's first frame, by reason.
    pub incomplete: Vec<(StackEnd, u64)>,
}
