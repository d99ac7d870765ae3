//! The wire structs.

use crate::MEMBERS;
use bytemuck::{Pod, Zeroable};

/// What `RecordKey::place` means.
pub mod place {
    /// Nowhere in particular: the kernel does not say which mapping (reclaim, khugepaged, exit).
    pub const NONE: u8 = 0;
    /// Start of the VMA that held the address; `RecordValue::end` is its end.
    pub const VMA: u8 = 1;
    /// Start of the 2 MiB that the address lies in: the VMA could not be looked up at that moment.
    /// `RecordValue::{low, high}` say which part was touched.
    pub const ADDRESS: u8 = 2;
    /// Start of the range that a system call named; `RecordValue::end` is the range's end.
    pub const RANGE: u8 = 3;
    /// Inode number of the file that a system call named; `RecordValue::end` is its device (kernel encoding, `major << 20 | minor`).
    pub const INODE: u8 = 4;
    /// Number of a mapping call of this thread whose address is known only when it returns; see [`super::SyscallRecord::call`].
    pub const CALL: u8 = 5;
}

/// A moment lasts 2²¹ ns, about 2.1 ms.
pub const MOMENT_SHIFT: u32 = 21;

/// One fault of a thread in so many, on average, is sampled: timed, counted for the pace, its return addresses compared.
pub const FAULT_SAMPLE: u32 = 16;

/// A moment of an mm, in which its sampled faults are counted, for finding bursts.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct MomentKey {
    /// `ns >> MOMENT_SHIFT`.
    pub moment: u64,
    /// Slot of the mm.
    pub slot: u64,
}

/// Identity of one merged record: all changes of an epoch that are equal in this.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct RecordKey {
    /// Which code path of the thread, as [`StackKey::stack`]; 0 for kernel threads.
    pub stack: u64,
    /// Where; see [`place`].
    pub place: u64,
    /// Thread that acted (not always one of the target's).
    pub tid: u32,
    /// Which life of the place: changes when something that begins there is unmapped (munmap, mremap, MAP_FIXED …).
    pub life: u32,
    /// Slot of the mm that changed.
    pub slot: u16,
    /// System call in progress, −1 for none.
    pub nr: i16,
    /// [`crate::Cause`] code.
    pub cause: u8,
    /// What `place` is.
    pub place_kind: u8,
    /// For `madvise` and `process_madvise`, the advice (truncated to 16 bits); else 0.
    pub detail: u16,
}

/// Buckets of [`RecordValue::hist`]: bucket `i` counts latencies in `[2^(i+7), 2^(i+8))` ns; the first and the last are open-ended.
pub const HIST_BUCKETS: usize = 24;

/// What a merged record holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct RecordValue {
    // What every change touches lies together, in one line of the cache.
    /// Pages, per counter.
    pub delta: [i64; MEMBERS],
    /// Page faults (`major` included). Below zero where one that an earlier interval counted was moved to another record.
    pub faults: i32,
    /// Faults taken in kernel mode (system calls that read or write user memory).
    pub kernel_mode: u32,
    /// Lowest faulting address, 0 where there is none.
    pub low: u64,
    /// Highest faulting address.
    pub high: u64,
    /// End of the place; see [`place`].
    pub end: u64,
    /// Time of the first change.
    pub first_ns: u64,
    /// Time of the last change that was timed (each one that created a record or carried a latency sample).
    pub last_ns: u64,
    /// Instruction that faulted or, for a system call, the user instruction after it; 0 for kernel threads.
    pub ip: u64,
    /// Sum of the sampled latencies.
    pub latency_sum_ns: u64,
    /// Largest sampled latency.
    pub latency_max_ns: u64,
    /// Latencies sampled.
    pub latency_samples: u32,
    /// Page faults for which the kernel counted `maj_flt`.
    pub major: u32,
    /// Sampled latencies by power of two; see [`HIST_BUCKETS`].
    pub hist: [u16; HIST_BUCKETS],
}

/// `Head::kind` of the ring's records.
pub mod kind {
    /// [`super::SyscallRecord`]
    pub const SYSCALL: u16 = 1;
    /// [`super::MmRecord`]: an mm came under observation.
    pub const MM_OPENED: u16 = 2;
    /// [`super::MmRecord`]: an mm was torn down; `counters` is what was left (zero, or the kernel complains).
    pub const MM_CLOSED: u16 = 3;
    /// [`super::TaskRecord`]: a thread of a traced mm was seen for the first time.
    pub const THREAD_SEEN: u16 = 4;
    /// [`super::TaskRecord`]: a thread ended.
    pub const THREAD_EXITED: u16 = 5;
    /// [`super::TaskRecord`]: fork, vfork or clone by a thread of a traced mm.
    pub const FORKED: u16 = 6;
    /// [`super::TaskRecord`]: execve succeeded.
    pub const EXECED: u16 = 7;
    /// [`super::TaskRecord`]: chosen by the OOM killer.
    pub const OOM_VICTIM: u16 = 8;
    /// [`super::StackRecord`], followed by the pages; in a ring of its own.
    pub const STACK: u16 = 9;
    /// [`crate::SpanRecord`], followed by its text: an edge.
    pub const SPAN: u16 = 10;
}

/// First field of each record in the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Head {
    /// See [`kind`].
    pub kind: u16,
    /// Slot of the mm that this is about; [`NO_SLOT`] when it is about none.
    pub slot: u16,
    /// Thread that acted.
    pub tid: u32,
    /// When.
    pub ts_ns: u64,
    /// Process that acted.
    pub tgid: u32,
    /// Generation of the slot: slots are used again.
    pub generation: u32,
}

/// A slot number that is none.
pub const NO_SLOT: u16 = u16::MAX;

/// A mapping system call that returned.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SyscallRecord {
    /// Who, when, on which mm.
    pub head: Head,
    /// Number of the call.
    pub nr: i64,
    /// Its arguments.
    pub args: [u64; 6],
    /// What it returned.
    pub ret: i64,
    /// User instruction pointer after the call.
    pub ip: u64,
    /// How many mapping calls this thread had made before this one.
    pub call: u64,
    /// The caller's code path, as [`StackKey::stack`].
    pub stack: u64,
}

/// Why an mm came under observation; `MmRecord::why`.
pub mod why {
    /// memtrace attached to a running process.
    pub const ATTACH: u32 = 0;
    /// A traced process forked.
    pub const FORK: u32 = 1;
    /// A traced process called execve.
    pub const EXEC: u32 = 2;
}

/// An mm's life.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct MmRecord {
    /// Who, when, which slot.
    pub head: Head,
    /// Counters at that moment, in pages.
    pub counters: [i64; MEMBERS],
    /// Size of the address space (`mm->total_vm`), in pages.
    pub total_vm: u64,
    /// See [`why`].
    pub why: u32,
    /// For a fork, the parent's process id; for an exec, the slot of the mm that was left (or [`NO_SLOT`]).
    pub from: u32,
    /// Program break at that moment.
    pub brk: u64,
    /// Start of the heap.
    pub start_brk: u64,
    /// Address of the first argument's area: the main stack lies below.
    pub start_stack: u64,
    /// Name of the task.
    pub comm: [u8; 16],
}

/// A task's life.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct TaskRecord {
    /// Who, when, on which mm.
    pub head: Head,
    /// For a fork: the child's thread id. Else the head's.
    pub other_tid: u32,
    /// For a fork: the child's process id (the parent's own for a new thread). Else the head's.
    pub other_tgid: u32,
    /// For a fork: 1 when the child shares the mm (thread, vfork, CLONE_VM). For an exit: 1 when it was the process's last thread.
    pub flag: u32,
    /// Exit code as the kernel keeps it (signal in the low 7 bits, status in bits 8–15), for an exit.
    pub code: u32,
    /// Name of the task (for a fork, the child's).
    pub comm: [u8; 16],
}

/// Below the stack pointer as much belongs to the function that runs: a caller's registers are still found there when they
/// have been popped already.
pub const RED_ZONE: u64 = 128;

/// Pages of stack that are copied at most, from that on which holds what lies [`RED_ZONE`] below the stack pointer.
pub const STACK_PAGES: usize = 8;

/// Identity of a code path: one copy of the stack is taken for each, and everything that the thread does there is
/// counted under it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct StackKey {
    /// Mix of instruction and stack pointer and, where two paths reach the same one at the same depth, of the return
    /// addresses that tell them apart. Never 0.
    pub stack: u64,
    /// Thread.
    pub tid: u32,
    /// Slot of the thread's mm and, in the upper half, the lower half of the slot's generation.
    pub mm: u32,
}

/// Return addresses of a path that are compared before more is counted under it.
pub const STACK_RETURNS: usize = 6;

/// What the program knows of a path once it has unwound its copy: where its return addresses lie. The probes look
/// whether they are still there; the first that is not makes another path. Those more than 2 KiB behind the first are
/// not compared.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct StackPath {
    /// Distance of each return address from the stack pointer, innermost first. It is 0 in a function that has pushed
    /// nothing: many a `memcpy`.
    pub offsets: [u32; STACK_RETURNS],
    /// The lower half of each; 0 ends the list.
    pub returns: [u32; STACK_RETURNS],
}

/// A copied stack. `pages × 4096` bytes follow, from `start` on.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct StackRecord {
    /// Who, when, in which mm.
    pub head: Head,
    /// [`StackKey::stack`].
    pub stack: u64,
    /// Registers in the order of `struct pt_regs`: r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax,
    /// ip, cs, flags, sp, ss.
    pub regs: [u64; 21],
    /// Address of the first byte that follows, the begin of a page. What lies more than 128 bytes below the stack pointer
    /// means nothing.
    pub start: u64,
    /// Where the stack ends (the thread's first frame lies below), as far as the kernel knows; else the largest number.
    pub end: u64,
    /// Pages that follow.
    pub pages: u32,
    /// Bit `i`: page `i` could not be read (it is not present); its bytes mean nothing.
    pub absent: u32,
}
