//! The kernel's hooks that programs hang on, and what each tells.

use std::fmt;

/// What kind of hook a program hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// A tracepoint, by its BTF; the program has its name.
    Tracepoint,
    /// The return of a system call, by its classic tracepoint: of all calls only these pay for it.
    CallReturn,
    /// The software event of major faults, on every CPU.
    MajorFaults,
    /// The task iterator; the program has this name. It is loaded with the rest and runs when it is needed.
    TaskIterator,
    /// The software clock of each CPU, so many times a second.
    Samples,
}

/// A hook of the kernel and what memtrace learns there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// What kind.
    pub kind: HookKind,
    /// Name of the tracepoint or the system call.
    pub name: &'static str,
    /// Without it there are no books. Without one of the others, what it tells is missing.
    pub needed: bool,
    /// What it tells.
    pub tells: &'static str,
    /// It tells of threads' time, and is loaded where that is asked for. The books do without it.
    pub time: bool,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            HookKind::Tracepoint => write!(f, "tp_btf/{}", self.name),
            HookKind::CallReturn => write!(f, "syscalls:sys_exit_{}", self.name),
            HookKind::MajorFaults => write!(f, "perf_event/{}", self.name),
            HookKind::TaskIterator => write!(f, "iter/task ({})", self.name),
            HookKind::Samples => write!(f, "perf_event/{}", self.name),
        }
    }
}

const fn needed(kind: HookKind, name: &'static str, tells: &'static str) -> Hook {
    Hook { kind, name, needed: true, tells, time: false }
}

const fn optional(kind: HookKind, name: &'static str, tells: &'static str) -> Hook {
    Hook { kind, name, needed: false, tells, time: false }
}

const fn time(hook: Hook) -> Hook {
    Hook { time: true, ..hook }
}

/// Every hook, in the order in which programs are hung up: counters after what they need to know of a task.
pub const HOOKS: &[Hook] = &{
    use HookKind::{CallReturn, MajorFaults, Samples, TaskIterator, Tracepoint};
    const RECLAIM: &str = "who takes pages away: direct reclaim";
    const MEMCG: &str = "who takes pages away: the cgroup's limit";
    const NODE: &str = "who takes pages away: node reclaim";
    const LOCK: &str = "who waits for the lock on the address space";
    [
        needed(Tracepoint, "sched_process_exit", "a thread or process ends"),
        needed(Tracepoint, "sched_process_exec", "a process becomes another program"),
        needed(Tracepoint, "sched_process_fork", "a child or thread is made"),
        needed(Tracepoint, "exit_mmap", "an address space is torn down"),
        needed(Tracepoint, "page_fault_kernel", "page faults in kernel mode"),
        needed(Tracepoint, "page_fault_user", "page faults in user mode"),
        needed(Tracepoint, "rss_stat", "every change of a counter"),
        optional(Tracepoint, "mm_vmscan_direct_reclaim_begin", RECLAIM),
        optional(Tracepoint, "mm_vmscan_direct_reclaim_end", RECLAIM),
        optional(Tracepoint, "mm_vmscan_memcg_reclaim_begin", MEMCG),
        optional(Tracepoint, "mm_vmscan_memcg_reclaim_end", MEMCG),
        optional(Tracepoint, "mm_vmscan_node_reclaim_begin", NODE),
        optional(Tracepoint, "mm_vmscan_node_reclaim_end", NODE),
        optional(Tracepoint, "mark_victim", "the OOM killer's choice"),
        needed(CallReturn, "mmap", "mappings made"),
        needed(CallReturn, "munmap", "mappings removed"),
        needed(CallReturn, "mremap", "mappings moved and resized"),
        needed(CallReturn, "mprotect", "mappings split by permissions"),
        optional(CallReturn, "pkey_mprotect", "mappings split by protection keys"),
        needed(CallReturn, "brk", "the heap's end"),
        optional(CallReturn, "shmat", "System V segments attached"),
        optional(CallReturn, "shmdt", "System V segments detached"),
        optional(CallReturn, "remap_file_pages", "mappings made nonlinear"),
        optional(CallReturn, "prctl", "names given to mappings"),
        needed(MajorFaults, "major-faults", "which faults the kernel counts as major"),
        needed(TaskIterator, "attach", "the address space of a process that sleeps"),
        needed(TaskIterator, "flush", "the last fault of each thread"),
        time(needed(Tracepoint, "sched_switch", "who runs and who does not, and why")),
        time(needed(Tracepoint, "sched_wakeup", "who waits for a CPU")),
        time(needed(Tracepoint, "sched_wakeup_new", "new threads that wait for a CPU")),
        time(optional(Samples, "cpu-clock", "what threads do on a CPU")),
        time(optional(Tracepoint, "mmap_lock_start_locking", LOCK)),
        time(optional(Tracepoint, "mmap_lock_acquire_returned", LOCK)),
        time(optional(Tracepoint, "mmap_lock_released", "who holds the lock on the address space")),
        time(needed(TaskIterator, "clocks", "what threads do that have done so since before")),
        time(optional(TaskIterator, "registers", "where threads wait")),
    ]
};

/// Tracepoints that begin and end the same thing: without one of them the others would leave a thread in it for ever.
pub(super) const TOGETHER: &[&[&str]] = &[
    &["mm_vmscan_direct_reclaim_begin", "mm_vmscan_direct_reclaim_end"],
    &["mm_vmscan_memcg_reclaim_begin", "mm_vmscan_memcg_reclaim_end"],
    &["mm_vmscan_node_reclaim_begin", "mm_vmscan_node_reclaim_end"],
    &["mmap_lock_start_locking", "mmap_lock_acquire_returned", "mmap_lock_released"],
];
