//! Where threads' time goes.
//!
//! Each thread of a traced mm has a clock in the probes. At each change (on a CPU, off it, woken) the time since the last
//! one is added to a record keyed by what the thread was doing; two maps take turns as for changes of counters. What is
//! not over when an interval ends stands in the clock itself: the program adds it, from [`Clock::since_ns`] or the
//! interval's begin, whichever is later, and the probes book only what lies after [`crate::Control::epoch_ns`].

use bytemuck::{Pod, Zeroable};

macro_rules! doings {
    ($($variant:ident = $code:literal, $doc:literal;)*) => {
        /// What a thread was doing, as far as the probes can tell. The code is the wire's and the trace's.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Doing { $(#[doc = $doc] $variant = $code,)* }

        impl Doing {
            /// Every one, by code.
            pub const ALL: &'static [Doing] = &[$(Doing::$variant,)*];

            /// The one with this wire code; `None` for a code of another version.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Doing::$variant),)* _ => None }
            }
        }
    };
}

doings! {
    Running = 0, "On a CPU: `ns` is exact; what it did there is in the samples of `User`, `Kernel`, `Fault`, `MmapLock` and the reclaims.";
    User = 1, "Samples only: on a CPU, in its own code.";
    Kernel = 2, "Samples only: on a CPU, in the kernel, in system call `nr` (−1: an interrupt or exception).";
    Runnable = 3, "Ready to run, and no CPU to run on.";
    Blocked = 4, "Asleep so that a signal would wake it, in system call `nr`; `object` is that call's first argument.";
    Uninterruptible = 5, "Asleep so that nothing but what it waits for wakes it (state D), in system call `nr`; `object` as for `Blocked`.";
    Fault = 6, "In a page fault: `ns` off the CPU, samples on it. `cause` is that of the entry that the fault was booked under; `object` the start of the VMA where that is known, else of the 2 MiB.";
    MmapLock = 7, "Waiting for mmap_lock, in a fault or a system call.";
    ReclaimDirect = 8, "Reclaiming memory for itself, because the machine has none.";
    ReclaimMemcg = 9, "Reclaiming memory for itself, because its cgroup is at its limit.";
    Stopped = 10, "Stopped by a signal.";
    Traced = 11, "Stopped for a debugger.";
    Frozen = 12, "Frozen: cgroup freezer or suspend.";
}

/// `TimeKey::cause` of a fault that is not over, or changed no counter.
pub const CAUSE_UNKNOWN: u8 = u8::MAX;

/// Identity of one record of time: all spans of an interval that are equal in this.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct TimeKey {
    /// See [`Doing`].
    pub object: u64,
    /// Second argument of the system call, where that tells objects apart (futex: operation, fcntl: command); else 0.
    pub detail: u64,
    /// Thread.
    pub tid: u32,
    /// Slot of its mm.
    pub slot: u16,
    /// System call in progress, −1 for none.
    pub nr: i16,
    /// [`Doing`] code.
    pub doing: u8,
    /// For a fault, the [`crate::Cause`] code that it was booked under; else [`CAUSE_UNKNOWN`].
    pub cause: u8,
    /// 1: it began before the probes looked.
    pub before: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// What a record of time holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct TimeValue {
    /// Sum of the spans.
    pub ns: u64,
    /// The longest span that ended, whole, whatever interval it began in.
    pub max_ns: u64,
    /// Spans that ended.
    pub count: u64,
    /// Samples taken on a CPU.
    pub samples: u64,
    /// For faults: the address of the last one.
    pub address: u64,
}

/// A thread's clock: what it is doing now.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Clock {
    /// What it is doing, as the record that the time will be added to.
    pub key: TimeKey,
    /// Since when.
    pub since_ns: u64,
    /// Time off the CPU in the fault in progress, which has not been booked yet.
    pub fault_ns: u64,
    /// Samples of the fault in progress, not booked yet.
    pub fault_samples: u64,
    /// The mm.
    pub mm: u64,
    /// Process.
    pub tgid: u32,
    /// 1: between mmap_lock's `start_locking` and `acquire_returned`.
    pub locking: u32,
}

/// Who held mmap_lock of a slot's mm.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct HoldKey {
    /// Thread; not always the target's.
    pub tid: u32,
    /// Slot.
    pub slot: u16,
    /// 1: for writing.
    pub write: u16,
}

/// How long.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct HoldValue {
    /// Sum of the holds that ended.
    pub ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// How many.
    pub count: u64,
    /// Name of the thread.
    pub comm: [u8; 16],
}
