//! Where threads' time goes.
//!
//! Each thread of a traced mm has a clock in the probes. At each change (on a CPU, off it, woken) the time since the last
//! one is added to a record keyed by what the thread was doing; two maps take turns as for changes of counters, the times
//! of [`crate::Control::begins_ns`] decide which. The probes book only what lies after the interval's begin. What was not
//! over at that moment stands in the clock, either because it still goes on, or because the first change afterwards has
//! left it there ([`Clock::cut_key`]): the program adds it to the interval that ended, so that the sum of a thread's
//! records is the interval to the nanosecond.

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

/// Where a thread's own code was when a sample found it on a CPU; the value counts the samples.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct PlaceKey {
    /// Instruction pointer.
    pub ip: u64,
    /// Thread.
    pub tid: u32,
    /// Slot of its mm.
    pub slot: u32,
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

/// A thread's clock: what it is doing now. The probes write the last field first and the first one last: a copy in which
/// `done` and `begun` are equal was not written meanwhile.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Clock {
    /// Changes that are complete.
    pub done: u64,
    /// What it is doing, as the record that the time will be added to.
    pub key: TimeKey,
    /// Since when.
    pub since_ns: u64,
    /// What it was doing when the interval began that began at `cut_ns`.
    pub cut_key: TimeKey,
    /// Since when it did that.
    pub cut_since_ns: u64,
    /// The interval's begin; 0 for none yet.
    pub cut_ns: u64,
    /// The mm.
    pub mm: u64,
    /// Time off the CPU in the fault in progress, booked under `fault_cause` in the interval that began at
    /// `fault_begin_ns`: to be moved when the fault tells another cause.
    pub fault_ns: u64,
    /// The longest of its waits that ended.
    pub fault_max_ns: u64,
    /// Samples likewise.
    pub fault_samples: u64,
    /// See `fault_ns`.
    pub fault_begin_ns: u64,
    /// Address of the fault.
    pub fault_address: u64,
    /// [`TimeKey::object`] of those records.
    pub fault_object: u64,
    /// Spans likewise.
    pub fault_spans: u32,
    /// [`TimeKey::nr`] of those records.
    pub fault_nr: i16,
    /// Their [`TimeKey::cause`].
    pub fault_cause: u8,
    /// 1: the thread has ended; what it was doing when the interval began is still to be added.
    pub ended: u8,
    /// Process.
    pub tgid: u32,
    /// 1: between mmap_lock's `start_locking` and `acquire_returned`.
    pub locking: u16,
    /// 1: the thread itself is at work here: a sample that comes between moves nothing of the above.
    pub busy: u16,
    /// What the scheduler had counted of the thread's time on CPUs when it left one last.
    pub runtime_ns: u64,
    /// Changes that were begun.
    pub begun: u64,
}

/// Who holds mmap_lock of which mm.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct HolderKey {
    /// The kernel's pointer.
    pub mm: u64,
    /// Thread.
    pub tid: u64,
}

/// Since when. Like a [`Clock`], it is where the program finds what was not over when the interval ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Holder {
    /// When it got the lock; 0: it has given it back. Written last.
    pub since_ns: u64,
    /// When it had got the lock that it held as the interval began that began at `cut_ns`.
    pub cut_since_ns: u64,
    /// The interval's begin; 0 for none yet.
    pub cut_ns: u64,
    /// 1: for writing.
    pub write: u16,
    /// Likewise at `cut_ns`.
    pub cut_write: u16,
    /// Slot of the mm.
    pub slot: u32,
    /// Name of the thread.
    pub comm: [u8; 16],
}

/// User registers of a thread that is off the CPU, as the iterator `registers` writes them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct WaitingRegisters {
    /// Thread.
    pub tid: u64,
    /// As [`crate::StackRecord::regs`].
    pub regs: [u64; 21],
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
    /// Sum of the holds that ended, of each what lies in the interval.
    pub ns: u64,
    /// The longest, whole.
    pub max_ns: u64,
    /// How many.
    pub count: u64,
    /// Name of the thread.
    pub comm: [u8; 16],
}
