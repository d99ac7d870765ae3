//! The words for causes, mappings and system calls. A database administrator at three in the morning reads
//! these; the machine names stay beside them so that text and NDJSON can be matched.

use crate::event::{Lost, Own, StackEnd, permission};
use crate::statement::{Faults, Kind, MappingRef};
use crate::syscalls;
use crate::views::escape::{basename, escape};
use memtrace_common::Cause;

/// What happened, in a few words.
#[must_use]
pub const fn cause_phrase(cause: Cause) -> &'static str {
    match cause {
        Cause::FaultAnon => "first touch of anonymous memory",
        Cause::FaultThp => "first touch, huge page",
        Cause::FaultCow => "private copy of a shared page (copy on write)",
        Cause::FaultFile => "file pages mapped in from the page cache",
        Cause::FaultFileRead => "file pages read from disk",
        Cause::FaultShmem => "first touch of shared memory",
        Cause::FaultSwapin => "read back from swap",
        Cause::FaultNone => "faults that brought no page",
        Cause::Populate => "brought in by the kernel on request",
        Cause::Fork => "copied from the parent by fork",
        Cause::Exec => "program started or replaced (exec)",
        Cause::Khugepaged => "collapsed into huge pages",
        Cause::Uffd => "filled in through userfaultfd",
        Cause::Remote => "touched by another process",
        Cause::Swapoff => "brought back by swapoff",
        Cause::Munmap => "given back by munmap",
        Cause::Brk => "given back by shrinking the heap (brk)",
        Cause::Mremap => "given back by mremap",
        Cause::MadviseDontneed => "given back by madvise(DONTNEED)",
        Cause::MadviseFree => "offered by madvise(FREE), taken now",
        Cause::MadviseRemove => "punched out of its file (madvise REMOVE)",
        Cause::MadvisePageout => "paged out on request (madvise PAGEOUT)",
        Cause::MmapFixed => "overwritten by mmap(MAP_FIXED)",
        Cause::Truncate => "file cut short under the mapping",
        Cause::ReclaimKswapd => "taken by kswapd: the machine is short of memory",
        Cause::ReclaimDirect => "taken by direct reclaim: very short of memory",
        Cause::ReclaimMemcg => "taken at the cgroup's limit",
        Cause::Ksm => "merged with equal pages (KSM)",
        Cause::OomReaper => "taken by the OOM reaper",
        Cause::Exit => "given back because the process ended",
        Cause::Other => "changed in a way without a name here",
    }
}

/// The system call says more than the cause does: `fault.anon` inside `read`, but not `munmap` inside `munmap`.
pub(crate) const fn syscall_adds(cause: Cause) -> bool {
    !matches!(
        cause,
        Cause::Fork
            | Cause::Exec
            | Cause::Munmap
            | Cause::Brk
            | Cause::Mremap
            | Cause::MadviseDontneed
            | Cause::MadviseFree
            | Cause::MadviseRemove
            | Cause::MadvisePageout
            | Cause::MmapFixed
            | Cause::Exit
    )
}

/// One mapping, for a sentence: `heap`, `library libc.so.6`, `anonymous mapping [anon: work_mem]`.
pub(crate) fn mapping_phrase(mapping: &MappingRef) -> String {
    let noun = match mapping.kind {
        Kind::Heap => return "heap".to_owned(),
        Kind::Stack => return "main thread's stack".to_owned(),
        Kind::Several => return "several mappings".to_owned(),
        Kind::ThreadStack => "thread stack",
        Kind::Anon => "anonymous mapping",
        Kind::Arena => "malloc arena",
        Kind::Program => "program",
        Kind::Library => "library",
        Kind::File => "file",
        Kind::Tmpfs => "tmpfs file",
        Kind::SharedAnon => "shared anonymous memory",
        Kind::SysvShm => "System V shared memory",
        Kind::PosixShm => "POSIX shared memory",
        Kind::Memfd => "memfd",
        Kind::Hugetlb => "huge pages (hugetlb, not in RES)",
        Kind::Vdso => "kernel's vdso",
        Kind::Device => "device",
        Kind::Guard => "guard range (no access)",
    };
    // A program's and a library's own name says enough; of a data file the directory matters too.
    let name = match mapping.kind {
        Kind::Program | Kind::Library => escape(basename(&mapping.name), 60),
        // `/dev/zero` is how the kernel names what has no name.
        Kind::SharedAnon if mapping.name.starts_with(b"/dev/zero") => String::new(),
        Kind::Vdso => String::new(),
        _ => escape(&mapping.name, 80),
    };
    if name.is_empty() { noun.to_owned() } else { format!("{noun} {name}") }
}

/// Each cause of loss: name in the NDJSON contract, count, what it means.
pub(crate) const fn losses(lost: Lost) -> [(&'static str, u64, &'static str); 8] {
    [
        ("records", lost.records, "changes whose record had no room: their causes are known, their mappings are not"),
        ("ring", lost.ring, "mapping and task events that had no room: the address space was read again"),
        (
            "skipped",
            lost.skipped,
            "runs of the probes that the kernel skipped: their amounts are in that CPU's next change",
        ),
        ("threads", lost.threads, "threads without room: their faults have no address and no latency"),
        ("mms", lost.mms, "children or programs without room: not followed"),
        ("undecodable", lost.undecodable, "records that could not be decoded"),
        (
            "stacks",
            lost.stacks,
            "copies of stacks without room: the amounts are known, of the code only the instruction",
        ),
        ("times", lost.times, "spans of threads' time without room: what a thread's states lack of the window"),
    ]
}

/// Why a stack ends where it does.
pub(super) const fn stack_end_phrase(end: StackEnd) -> &'static str {
    match end {
        StackEnd::Root => "complete",
        // memtrace_common::STACK_PAGES.
        StackEnd::Deep => "deeper than 32 KiB",
        StackEnd::Absent => "a page of the stack is not in memory",
        StackEnd::NoUnwindInfo => "code without unwinding information",
        StackEnd::BadUnwindInfo => "unwinding information that cannot be followed",
        StackEnd::Jit => "just-in-time compiled code",
        StackEnd::Unmapped => "an address where no code is mapped",
        StackEnd::NoModule => "a module whose file cannot be read",
        StackEnd::Gone => "the process ended first",
        StackEnd::Lost => "the copy had no room",
        StackEnd::Foreign => "32-bit code",
        StackEnd::Off => "stacks are off: --no-stacks",
    }
}

/// The call's name, or `syscall_N`.
pub(crate) fn syscall_label(nr: u32) -> String {
    syscalls::name(nr).map_or_else(|| format!("syscall_{nr}"), str::to_owned)
}

/// `rw-p`, as `/proc/PID/maps` prints it.
pub(crate) fn permissions(bits: u8) -> String {
    let letter = |bit: u8, letter: char| if bits & bit != 0 { letter } else { '-' };
    let shared = if bits & permission::SHARED != 0 { 's' } else { 'p' };
    [letter(permission::READ, 'r'), letter(permission::WRITE, 'w'), letter(permission::EXECUTE, 'x'), shared]
        .into_iter()
        .collect()
}

/// All time in memtrace's BPF programs divided by the target's faults: an upper bound of what a fault paid,
/// because the programs also run for other events and other processes. `None` where not measured, and where most runs
/// were for others: then it would say nothing about the target. (A fault that brings a page makes two runs.)
pub(crate) fn bpf_ns_per_fault(own: Own, faults: Faults) -> Option<u64> {
    let faults = faults.shown();
    let runs_tell = own.bpf_runs.is_some_and(|runs| runs <= faults.saturating_mul(4));
    own.bpf_ns.filter(|_| runs_tell)?.checked_div(faults)
}

/// A command line as `/proc/PID/cmdline` has it, with spaces between its arguments; the program where there is none.
pub(crate) fn command_line(cmdline: &[u8], exe: &[u8]) -> Vec<u8> {
    // More than one at the end is what a title leaves that a program wrote over its arguments.
    let end = cmdline.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    if end == 0 {
        return exe.to_vec();
    }
    cmdline[..end].iter().map(|&byte| if byte == 0 { b' ' } else { byte }).collect()
}

/// The kernel's release without the build's suffix: `6.18` of `6.18.44-amd64`.
pub(crate) fn kernel_series(release: &str) -> String {
    let digits: Vec<&str> = release.splitn(3, ['.', '-']).take(2).collect();
    escape(digits.join(".").as_bytes(), 40)
}

/// What `wait` would tell of an exit code.
pub(crate) fn exit_phrase(code: u32) -> String {
    match code & 0x7f {
        0 => format!("exited with status {}", code >> 8 & 0xff),
        signal => format!("was killed by {}", signal_name(signal)),
    }
}

/// `SIGKILL`, or `signal 40`.
pub(crate) fn signal_name(signal: u32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    match NAMES.get((signal as usize).wrapping_sub(1)) {
        Some(name) => format!("SIG{name}"),
        None => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_cause_has_its_own_words() {
        let phrases: BTreeSet<_> = Cause::ALL.iter().map(|&c| cause_phrase(c)).collect();
        assert_eq!(phrases.len(), Cause::ALL.len());
        assert!(phrases.iter().all(|p| p.chars().count() <= 48), "the closing statement has 48 columns for it");
    }

    #[test]
    fn every_end_of_a_stack_has_its_own_words() {
        let phrases: BTreeSet<_> = StackEnd::ALL.iter().map(|&end| stack_end_phrase(end)).collect();
        assert_eq!(phrases.len(), StackEnd::ALL.len());
        let depth = format!("{} KiB", memtrace_common::STACK_PAGES * 4);
        assert!(stack_end_phrase(StackEnd::Deep).contains(&depth), "{depth} are copied");
    }

    #[test]
    fn exits() {
        assert_eq!(exit_phrase(0), "exited with status 0");
        assert_eq!(exit_phrase(3 << 8), "exited with status 3");
        assert_eq!(exit_phrase(9), "was killed by SIGKILL");
        assert_eq!(exit_phrase(0x8b), "was killed by SIGSEGV");
        assert_eq!(exit_phrase(64), "was killed by signal 64");
    }

    #[test]
    fn kernels() {
        assert_eq!(kernel_series("6.18.44-amd64"), "6.18");
        assert_eq!(kernel_series("6.1-rc3"), "6.1");
        assert_eq!(kernel_series(""), "");
    }
}
