//! What the probes keep between events, and what the program gives them at load.

use crate::{MEMBERS, RecordKey};
use bytemuck::{Pod, Zeroable};

macro_rules! layout {
    ($($field:ident: $doc:literal,)*) => {
        /// Offsets in bytes inside this kernel's structs, found in its BTF, and a few sizes. Constants for the verifier.
        /// What every fault needs comes first: it lies in one line of the cache.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
        pub struct KernelLayout { $(#[doc = $doc] pub $field: u32,)* }
    };
}

layout! {
    task_mm: "`task_struct.mm`",
    task_pid: "`task_struct.pid`",
    task_min_flt: "`task_struct.min_flt`",
    task_maj_flt: "`task_struct.maj_flt`",
    task_flags: "`task_struct.flags`",
    task_pagefault_disabled: "`task_struct.pagefault_disabled`",
    regs_ip: "`pt_regs.ip`",
    regs_sp: "`pt_regs.sp`",
    regs_orig_ax: "`pt_regs.orig_ax`: the system call in progress, or −1",
    regs_cs: "`pt_regs.cs`: tells 32-bit code",
    vma_start: "`vm_area_struct.vm_start`",
    vma_end: "`vm_area_struct.vm_end`",
    vma_ops: "`vm_area_struct.vm_ops`: null for anonymous memory",
    task_tgid: "`task_struct.tgid`",
    task_comm: "`task_struct.comm`",
    mm_users: "`mm_struct.mm_users.counter`",
    task_exit_code: "`task_struct.exit_code`",
    task_signal: "`task_struct.signal`",
    task_files: "`task_struct.files`",
    task_fsbase: "`task_struct.thread.fsbase`: a thread's own variables, on top of its stack",
    signal_live: "`signal_struct.live.counter`",
    mm_rss_stat: "`mm_struct.rss_stat`",
    mm_total_vm: "`mm_struct.total_vm`",
    mm_brk: "`mm_struct.brk`",
    mm_start_brk: "`mm_struct.start_brk`",
    mm_start_stack: "`mm_struct.start_stack`",
    counter_size: "size of `percpu_counter`",
    counter_count: "`percpu_counter.count`",
    counter_locals: "`percpu_counter.counters`",
    regs_di: "`pt_regs.di`: first argument",
    regs_si: "`pt_regs.si`: second argument",
    regs_dx: "`pt_regs.dx`: third argument",
    regs_r10: "`pt_regs.r10`: fourth argument",
    regs_r8: "`pt_regs.r8`: fifth argument",
    regs_r9: "`pt_regs.r9`: sixth argument",
    files_fdt: "`files_struct.fdt`",
    fdt_max_fds: "`fdtable.max_fds`",
    fdt_fd: "`fdtable.fd`",
    file_inode: "`file.f_inode`",
    inode_ino: "`inode.i_ino`",
    inode_sb: "`inode.i_sb`",
    sb_dev: "`super_block.s_dev`",
    array_pptrs: "`bpf_array.pptrs`",
    cpus: "possible CPUs",
    follow: "1: children are traced too",
    stacks: "1: stacks are copied",
    time: "1: threads' time is booked",
    spans: "1: what threads do between edges is summed",
    task_state: "`task_struct.__state`",
    task_on_cpu: "`task_struct.on_cpu`",
    task_jobctl: "`task_struct.jobctl`",
    task_real_parent: "`task_struct.real_parent`",
    task_runtime: "`task_struct.se.sum_exec_runtime`",
    lock_memcg: "1: the tracepoints of mmap_lock have a path for their second argument",
}

/// What the program tells the probes while they run; one element.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Control {
    /// Number of the current interval; its lowest bit says which of the two record maps is live.
    pub epoch: u32,
    /// Process to look for when the task iterator runs.
    pub attach_tgid: u32,
    /// The last interval in which there are edges, and what they sum: what comes later is in no ledger.
    pub spans_until: u32,
    /// Keeps `begins_ns` aligned.
    pub reserved: u32,
    /// When the latest even and the latest odd interval of [`crate::Clock`]s begins. That may be in a moment: the interval
    /// at any time is the one of the two that began last before it. So an interval's begin is one number, set before it
    /// comes, whoever reads it when.
    pub begins_ns: [u64; 2],
}

/// Ranges of a slot's address space, by hash, that are told apart when something is unmapped.
pub const LIVES: usize = 256;

/// One mm under observation, by slot. What every fault reads lies apart from what CPUs write in turns: a line of the
/// cache that another CPU has written is the most expensive thing that a probe can touch.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Slot {
    /// The kernel's pointer; 0 when the slot is free.
    pub mm: u64,
    /// Addresses of `rss_stat[m].count`.
    pub count: [u64; MEMBERS],
    /// Which use of the slot this is.
    pub generation: u32,
    /// Calls that changed the mappings so far: a cached VMA range is good while this stands still.
    pub vma_seq: u32,
    /// Process that owns it.
    pub tgid: u32,
    /// Keeps what follows apart.
    pub reserved: [u32; 19],
    /// How much of each `count` has been booked.
    pub attributed: [i64; MEMBERS],
    /// The counters as they were booked: the opening and every change since. Kept where there are spans.
    pub totals: [i64; MEMBERS],
    /// Anonymous pages given back last, for another CPU's handler to find.
    pub given_back: i64,
    /// `attributed` of the anonymous counter after that: as long as it stands there, nobody has come.
    pub given_at: i64,
    /// Record that consumed the growth of the anonymous `count` last, outside a fault: where a fault finds its own page
    /// that another CPU's handler took for its own.
    pub consumer: RecordKey,
    /// Instruction of its code path.
    pub consumer_ip: u64,
    /// Program break as last seen.
    pub brk: u64,
    /// Calls that unmapped a range beginning at an address of this hash: part of a record's key, so that no record
    /// spans two lives of a range.
    pub lives: [u32; LIVES],
}

/// One CPU's view of one mm: where its part of the counters stood when it last looked.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Cpu {
    /// Interval of the last event.
    pub epoch: u32,
    /// Keeps `events` aligned.
    pub reserved: u32,
    /// Counter events seen, those without a change too: stands still while nothing happens.
    pub events: u64,
    /// This CPU's local part of each counter as last seen.
    pub last: [i32; MEMBERS],
    /// Addresses of those parts.
    pub locals: [u64; MEMBERS],
    /// Pages booked by this CPU since the books opened.
    pub booked: [i64; MEMBERS],
    /// The same when the interval before `epoch` ended.
    pub booked_before: [i64; MEMBERS],
}

/// `Thread::state` bits.
pub mod thread {
    /// A fault began.
    pub const STARTED: u32 = 1;
    /// It has been counted in a record.
    pub const BOOKED: u32 = 2;
    /// It took away a file or shared page: the anonymous page that follows is its copy.
    pub const COPYING: u32 = 4;
    /// It was taken in kernel mode.
    pub const KERNEL: u32 = 8;
    /// It wrote to a page that was present.
    pub const WRITE_PRESENT: u32 = 16;
    /// The kernel counted it as major before anything was booked.
    pub const MAJOR: u32 = 32;
    /// `vma_start..vma_end` is a file's or shared memory's.
    pub const VMA_HAS_OPS: u32 = 64;
}

/// One thread of a traced mm: its fault in progress (or the last one), and the VMA that it hit.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Thread {
    /// Its mm when it was last seen.
    pub mm: u64,
    /// `min_flt + maj_flt` when the fault began; once that has moved, the fault is over.
    pub fault_count: u64,
    /// 1: the fault has changed no counter so far; who exchanges it for 0 books it.
    pub pending: i64,
    /// User instruction of the fault.
    pub ip: u64,
    /// User stack pointer of the fault.
    pub sp: u64,
    /// Code path of the fault, as [`crate::StackKey::stack`]; 0 while it has not been looked up.
    pub stack: u64,
    /// Faulting address.
    pub address: u64,
    /// When the fault began; 0 for one whose time is not taken.
    pub start_ns: u64,
    /// Slot of `mm`.
    pub slot: u32,
    /// See [`thread`].
    pub state: u32,
    /// System call of a kernel-mode fault, −1 for none.
    pub nr: i32,
    /// Faults to come that are not sampled.
    pub unsampled: u32,
    /// Cached VMA.
    pub vma_start: u64,
    /// Its end.
    pub vma_end: u64,
    /// `Slot::vma_seq` for which the cached VMA holds.
    pub vma_seq: u32,
    /// Its life; see [`Slot::lives`].
    pub vma_life: u32,
    /// Interval in which the fault was booked last.
    pub last_epoch: u32,
    /// [`crate::Cause`] code of that record.
    pub last_cause: u16,
    /// What `last_place` is.
    pub last_place_kind: u16,
    /// Pages booked then, to be moved when a later event of the same fault tells the true cause.
    pub last_pages: i64,
    /// Latency given to that record for this fault; 0 for none.
    pub last_latency_ns: u64,
    /// Start of the place of that record.
    pub last_place: u64,
    /// Mapping calls made.
    pub calls: u64,
    /// Value of `calls` in the mmap call that has begun to populate; `u64::MAX` for none.
    pub populating: u64,
    /// 1: time of the fault stands in the thread's [`crate::Clock`]. Not in `state`, which the thread changes while a sample
    /// or another CPU may set this.
    pub waited: u64,
    /// Code paths of its last faults, by hash of `ip`: programs that fault much do so at a few places in turn.
    pub recent: [Recent; RECENT],
}

/// Code paths that a thread remembers.
pub const RECENT: usize = 16;

/// A code path that need not be looked up.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Recent {
    /// User instruction.
    pub ip: u64,
    /// User stack pointer.
    pub sp: u64,
    /// As [`crate::StackKey::stack`]; 0 when it is to be looked up again.
    pub stack: u64,
}

/// A task that reclaims memory now.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Reclaimer {
    /// Pages of `last` to be moved if a swap entry follows.
    pub last_pages: i64,
    /// Anonymous pages taken last: offered with MADV_FREE, unless a swap entry follows.
    pub last: RecordKey,
    /// [`crate::Cause`] code of this reclaim.
    pub cause: u64,
}

/// Amounts whose record had no room, per slot, cause and interval's parity.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Overflow {
    /// Pages.
    pub delta: [i64; MEMBERS],
    /// Page faults; below zero as in a record.
    pub faults: i64,
    /// Changes.
    pub changes: u64,
}

/// Losses, one element per CPU; names as in the outputs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Losses {
    /// Changes whose record had no room.
    pub records: u64,
    /// Ring records that had no room.
    pub ring: u64,
    /// Threads that had no room.
    pub threads: u64,
    /// Mms that had no room.
    pub mms: u64,
    /// Copies of stacks that had no room.
    pub stacks: u64,
    /// Spans of time that had no room.
    pub times: u64,
}
