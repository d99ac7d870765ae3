//! Which state a span of a thread's time is: from what the probes saw, the system call and its object, and, for what began
//! before they looked, the functions of the kernel that the thread waits in.
//!
//! What the probes bracketed (faults, reclaim, mmap_lock, stops) is believed. Of the rest the system call decides, and of
//! calls that take a descriptor what the descriptor is. Nothing is guessed from a thread's name.

use super::State;
use crate::event::WaitObject;
use crate::statement::Kind;
use crate::syscalls;
use memtrace_common::{Cause, Doing};

/// What the probes say of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// What.
    pub doing: Doing,
    /// For a fault, what it was booked under.
    pub cause: Option<Cause>,
    /// System call in progress.
    pub nr: Option<u32>,
    /// Its second argument.
    pub detail: u64,
    /// It began before the probes looked.
    pub before: bool,
}

/// What looks at the waiting thread add.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look<'a> {
    /// Functions of the kernel, innermost first.
    pub kernel: &'a [Vec<u8>],
    /// What it waits for.
    pub object: &'a WaitObject,
    /// Its own code waits in the C library's semaphores.
    pub in_semaphore: bool,
}

/// Functions of the kernel and what a thread is in that waits below them; of a stack the innermost decides.
const FUNCTIONS: [(State, &[&str]); 11] = [
    (State::Frozen, &["do_freezer_trap", "__refrigerator"]),
    (State::Stopped, &["do_signal_stop"]),
    (State::Traced, &["ptrace_stop"]),
    (
        State::ReclaimMemcg,
        &[
            "try_to_free_mem_cgroup_pages",
            "mem_cgroup_handle_over_high",
            "__mem_cgroup_handle_over_high",
            "mem_cgroup_oom",
        ],
    ),
    (
        State::ReclaimDirect,
        &["try_to_free_pages", "__alloc_pages_direct_compact", "try_to_compact_pages", "throttle_direct_reclaim"],
    ),
    (
        State::FaultSwapin,
        &[
            "do_swap_page",
            "swap_read_folio",
            "swap_readpage",
            "swapin_readahead",
            "swap_cluster_readahead",
            "swap_vma_readahead",
            "read_swap_cache_async",
            "shmem_swapin_folio",
        ],
    ),
    (State::FaultThp, &["clear_huge_page", "folio_zero_user", "do_huge_pmd_anonymous_page", "hugetlb_fault"]),
    (State::FaultCow, &["wp_page_copy", "do_wp_page", "do_huge_pmd_wp_page"]),
    (
        State::FaultFileRead,
        &["filemap_fault", "__do_fault", "do_read_fault", "do_cow_fault", "do_shared_fault", "do_fault"],
    ),
    (State::FaultMinor, &["handle_userfault", "handle_mm_fault", "exc_page_fault", "asm_exc_page_fault"]),
    (State::BlockedFileIo, &["balance_dirty_pages", "balance_dirty_pages_ratelimited_flags"]),
];

/// Where the kernel takes mmap_lock; a semaphore for reading and writing below one of them is that lock, elsewhere it may be
/// an inode's.
const TAKES_MMAP_LOCK: [&str; 20] = [
    "lock_mm_and_find_vma",
    "do_user_addr_fault",
    "vm_mmap_pgoff",
    "ksys_mmap_pgoff",
    "__vm_munmap",
    "__x64_sys_munmap",
    "do_mprotect_pkey",
    "__x64_sys_mprotect",
    "do_madvise",
    "madvise_lock",
    "__x64_sys_madvise",
    "__do_sys_brk",
    "__x64_sys_brk",
    "__do_sys_mremap",
    "__x64_sys_mremap",
    "__mm_populate",
    "do_mlock",
    "process_vm_rw_core",
    "access_remote_vm",
    "dup_mmap",
];

/// A kernel function's name without offset and compiler's suffix.
fn plain(function: &[u8]) -> &[u8] {
    function.split(|byte| b"+. ".contains(byte)).next().unwrap_or_default()
}

/// What the kernel's functions say.
#[must_use]
pub(super) fn of_kernel(kernel: &[Vec<u8>]) -> Option<State> {
    let is = |function: &[u8], names: &[&str]| names.iter().any(|name| name.as_bytes() == function);
    let mut in_lock = false;
    for function in kernel.iter().map(|function| plain(function)) {
        if in_lock && is(function, &TAKES_MMAP_LOCK)
            || function.starts_with(b"mmap_read_lock")
            || function.starts_with(b"mmap_write_lock")
        {
            return Some(State::MmapLock);
        }
        in_lock |= function.starts_with(b"rwsem_down_")
            || function.starts_with(b"down_read")
            || function.starts_with(b"down_write");
        if let Some((state, _)) = FUNCTIONS.iter().find(|(_, names)| is(function, names)) {
            return Some(*state);
        }
    }
    None
}

/// The state of a span, and the object that it waits for. `known` is what its descriptor is, where that is known from another
/// look, or for a fault the page; `kind` the fault's mapping.
#[must_use]
pub(crate) fn state_of(
    span: Span,
    look: Option<&Look<'_>>,
    known: Option<&WaitObject>,
    kind: Option<Kind>,
) -> (State, WaitObject) {
    let kernel = look.and_then(|look| of_kernel(look.kernel));
    let looked = look.map(|look| look.object).filter(|object| **object != WaitObject::Unknown);
    // A look at a thread that faults below a system call sees what the call is about.
    let object = if span.doing == Doing::Fault { known } else { looked.or(known) };
    let object = || object.cloned().unwrap_or_default();
    match span.doing {
        // Running is split by its samples, which come here as the others.
        Doing::Running => (State::Cpu, WaitObject::Unknown),
        Doing::User => (State::CpuUser, WaitObject::Unknown),
        Doing::Kernel => (State::CpuKernel, WaitObject::Unknown),
        Doing::Runnable => (State::Runnable, WaitObject::Unknown),
        Doing::MmapLock => (State::MmapLock, WaitObject::Unknown),
        Doing::ReclaimDirect => (State::ReclaimDirect, WaitObject::Unknown),
        Doing::ReclaimMemcg => (State::ReclaimMemcg, WaitObject::Unknown),
        Doing::Stopped => (State::Stopped, object()),
        Doing::Traced => (State::Traced, object()),
        Doing::Frozen => (State::Frozen, object()),
        Doing::Fault => of_fault(span.cause, kernel, kind, true, object),
        Doing::Blocked | Doing::Uninterruptible => match kernel {
            Some(state @ (State::Frozen | State::Stopped | State::Traced)) => (state, object()),
            // A fault or a lock that the probes would have bracketed, had it begun in their time.
            Some(state) if span.before || span.nr.is_none() => (state, WaitObject::Unknown),
            _ => of_call(span, look, object()),
        },
    }
}

/// The state of the part of a fault that was spent off a CPU; on it no device is waited for.
fn of_fault(
    cause: Option<Cause>,
    kernel: Option<State>,
    kind: Option<Kind>,
    off_cpu: bool,
    object: impl Fn() -> WaitObject,
) -> (State, WaitObject) {
    let of_file = matches!(kind, Some(Kind::File | Kind::Program | Kind::Library));
    match (cause, kernel) {
        (Some(Cause::FaultSwapin), _) => (State::FaultSwapin, WaitObject::Unknown),
        (Some(Cause::FaultFileRead), _) => (State::FaultFileRead, object()),
        (Some(Cause::FaultCow), _) => (State::FaultCow, WaitObject::Unknown),
        (Some(Cause::FaultThp), _) => (State::FaultThp, WaitObject::Unknown),
        // The page was in the cache, but whoever reads it was not done.
        (Some(Cause::FaultFile), _) if off_cpu => (State::FaultFileRead, object()),
        (Some(Cause::FaultFile | Cause::FaultAnon), _) => (State::FaultMinor, WaitObject::Unknown),
        (_, Some(state)) if state.is_memory() => match state {
            State::FaultFileRead | State::FaultSwapin => (state, object()),
            state => (state, WaitObject::Unknown),
        },
        _ if off_cpu && of_file => (State::FaultFileRead, object()),
        _ => (State::FaultMinor, WaitObject::Unknown),
    }
}

/// The state of a fault's samples on a CPU.
#[must_use]
pub(crate) fn of_fault_on_cpu(cause: Option<Cause>) -> State {
    of_fault(cause, None, None, false, WaitObject::default).0
}

/// What a descriptor is to who waits on it.
fn of_descriptor(object: &WaitObject) -> Option<State> {
    Some(match object {
        WaitObject::Socket { .. } => State::BlockedSocket,
        WaitObject::Pipe { .. } => State::BlockedPipe,
        WaitObject::FileLock { .. } => State::BlockedFlock,
        WaitObject::File { path, .. } if path.starts_with(b"socket:") => State::BlockedSocket,
        WaitObject::File { path, .. } if path.starts_with(b"pipe:") => State::BlockedPipe,
        // eventfd, timerfd, terminals: neither files nor connections.
        WaitObject::File { path, .. } if path.starts_with(b"anon_inode:") || path.starts_with(b"/dev/") => {
            State::BlockedOther
        }
        WaitObject::File { .. } | WaitObject::FilePage { .. } => State::BlockedFileIo,
        _ => return None,
    })
}

/// A look at a thread in a page fault, in reclaim or waiting for mmap_lock.
#[must_use]
pub(crate) fn is_memory_wait(kernel: &[Vec<u8>]) -> bool {
    of_kernel(kernel).is_some_and(State::is_memory)
}

/// What the call waits for is named by its first argument: a look at one with another argument was at another object.
#[must_use]
pub(crate) fn is_about_its_argument(nr: Option<u32>) -> bool {
    let futex = |name| matches!(name, "futex" | "futex_wait" | "futex_waitv");
    takes_descriptor(nr) || nr.and_then(syscalls::name).is_some_and(futex)
}

/// The call's first argument is a descriptor.
#[must_use]
pub(crate) fn takes_descriptor(nr: Option<u32>) -> bool {
    const NAMES: [&str; 32] = [
        "read",
        "write",
        "readv",
        "writev",
        "pread64",
        "pwrite64",
        "preadv",
        "pwritev",
        "preadv2",
        "pwritev2",
        "connect",
        "accept",
        "accept4",
        "sendto",
        "recvfrom",
        "sendmsg",
        "recvmsg",
        "sendmmsg",
        "recvmmsg",
        "fsync",
        "fdatasync",
        "syncfs",
        "sync_file_range",
        "ftruncate",
        "fallocate",
        "getdents",
        "getdents64",
        "splice",
        "copy_file_range",
        "ioctl",
        "flock",
        "fcntl",
    ];
    nr.and_then(syscalls::name).is_some_and(|name| NAMES.contains(&name))
}

const F_SETLKW: u64 = 7;
const F_OFD_SETLKW: u64 = 38;

/// By the name of the system call.
fn of_call(span: Span, look: Option<&Look<'_>>, object: WaitObject) -> (State, WaitObject) {
    let uninterruptible = span.doing == Doing::Uninterruptible;
    let Some(name) = span.nr.and_then(syscalls::name) else {
        return (if uninterruptible { State::Uninterruptible } else { State::BlockedOther }, object);
    };
    let state = match name {
        "futex" | "futex_wait" | "futex_waitv" if look.is_some_and(|look| look.in_semaphore) => State::BlockedSemaphore,
        "futex" | "futex_wait" | "futex_waitv" => State::BlockedFutex,
        "semop" | "semtimedop" => State::BlockedSemaphore,
        "flock" => State::BlockedFlock,
        "fcntl" if matches!(span.detail, F_SETLKW | F_OFD_SETLKW) => State::BlockedFlock,
        "fcntl" if matches!(object, WaitObject::FileLock { .. }) => State::BlockedFlock,
        "nanosleep" | "clock_nanosleep" => State::BlockedSleep,
        "poll" | "ppoll" | "select" | "pselect6" | "epoll_wait" | "epoll_pwait" | "epoll_pwait2" => State::BlockedPoll,
        "wait4" | "waitid" => State::BlockedChild,
        "connect" | "accept" | "accept4" | "sendto" | "recvfrom" | "sendmsg" | "recvmsg" | "sendmmsg" | "recvmmsg" => {
            State::BlockedSocket
        }
        "read" | "write" | "readv" | "writev" | "pread64" | "pwrite64" | "preadv" | "pwritev" | "preadv2"
        | "pwritev2" | "sendfile" | "splice" | "tee" | "vmsplice" | "copy_file_range" | "ioctl" | "close" => {
            match of_descriptor(&object) {
                Some(state) => state,
                // Only what waits for a device sleeps so that no signal ends it.
                None if uninterruptible && name != "ioctl" => State::BlockedFileIo,
                None => State::BlockedOther,
            }
        }
        // A FIFO is opened when both ends are.
        "open" | "openat" | "openat2" if waits_for_partner(look) => State::BlockedPipe,
        "fsync" | "fdatasync" | "sync" | "syncfs" | "sync_file_range" | "msync" | "open" | "openat" | "openat2"
        | "creat" | "stat" | "lstat" | "fstat" | "newfstatat" | "statx" | "access" | "faccessat" | "faccessat2"
        | "readlink" | "readlinkat" | "rename" | "renameat" | "renameat2" | "link" | "linkat" | "unlink"
        | "unlinkat" | "mkdir" | "mkdirat" | "rmdir" | "symlink" | "symlinkat" | "truncate" | "ftruncate"
        | "fallocate" | "getdents" | "getdents64" | "readahead" | "fadvise64" | "io_getevents" | "io_pgetevents" => {
            State::BlockedFileIo
        }
        "restart_syscall" => match &object {
            WaitObject::Timer { .. } => State::BlockedSleep,
            WaitObject::Futex { .. } => State::BlockedFutex,
            WaitObject::Descriptors { .. } => State::BlockedPoll,
            _ => State::BlockedOther,
        },
        _ if uninterruptible => State::Uninterruptible,
        "fork" | "vfork" | "clone" | "clone3" => State::BlockedChild,
        _ => State::BlockedOther,
    };
    (state, object)
}

fn waits_for_partner(look: Option<&Look<'_>>) -> bool {
    look.is_some_and(|look| {
        let partner = |function: &Vec<u8>| matches!(plain(function), b"wait_for_partner" | b"fifo_open");
        look.kernel.iter().any(partner) || matches!(look.object, WaitObject::Pipe { .. })
    })
}

/// Of the time that a thread was ready to run without running, how much its cgroup's limit of CPU time kept it from one, and
/// by how much that may be wrong. The group's figure is a sum over its CPUs and knows no threads: at most all of it was this
/// thread's, at least what one CPU's part of it is.
#[must_use]
pub(crate) fn throttled(runnable_ns: u64, group_ns: u64, cpus: u32) -> (u64, u64) {
    let most = runnable_ns.min(group_ns);
    let least = runnable_ns.min(group_ns / u64::from(cpus.max(1)));
    (most, most - least)
}

#[cfg(test)]
mod tests;
