//! Why a counter moved.

macro_rules! causes {
    ($($variant:ident = $code:literal, $name:literal, $doc:literal;)*) => {
        /// Why a counter moved. The code is the wire's; the name is the NDJSON contract's.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Cause { $(#[doc = $doc] $variant = $code,)* }

        impl Cause {
            /// Every cause, by code.
            pub const ALL: &'static [Cause] = &[$(Cause::$variant,)*];

            /// The cause with this wire code; `None` for a code of another version.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Cause::$variant),)* _ => None }
            }

            /// The cause with this name in the NDJSON contract.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Cause::$variant),)* _ => None }
            }

            /// The name in the NDJSON contract.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Cause::$variant => $name,)* }
            }
        }
    };
}

causes! {
    FaultAnon = 0, "fault.anon", "First touch of anonymous memory.";
    FaultThp = 1, "fault.thp", "First touch that brought a huge page or a large folio.";
    FaultCow = 2, "fault.cow", "Write to a shared page: a private copy was made (or the page was kept, delta 0).";
    FaultFile = 3, "fault.file", "Touch of a file page that was in the page cache, with its neighbours.";
    FaultFileRead = 4, "fault.file.read", "Touch of a file page in a major fault: it was read in first.";
    FaultShmem = 5, "fault.shmem", "Touch of shared memory.";
    FaultSwapin = 6, "fault.swapin", "Touch of a page that was in swap.";
    FaultNone = 7, "fault.none", "Fault that changed no counter: zero page, mapped meanwhile by another thread, write notification.";
    Populate = 8, "populate", "Brought in by the kernel on request: MAP_POPULATE, mlock, MADV_POPULATE, pages pinned for I/O.";
    Fork = 9, "fork", "Copied from the parent by fork.";
    Exec = 10, "exec", "A new program's first pages, or the old program's last ones.";
    Khugepaged = 11, "khugepaged", "Collapsed into a huge page by khugepaged or MADV_COLLAPSE.";
    Uffd = 12, "uffd", "Filled in through userfaultfd.";
    Remote = 13, "remote", "Touched by another process: ptrace, process_vm_writev, /proc/PID/mem.";
    Swapoff = 14, "swapoff", "Brought back because a swap device was turned off.";
    Munmap = 15, "munmap", "Given back by munmap or shmdt.";
    Brk = 16, "brk", "Given back by lowering the program break.";
    Mremap = 17, "mremap", "Given back by mremap, which shrank or overwrote a mapping.";
    MadviseDontneed = 18, "madvise.dontneed", "Given back by madvise(MADV_DONTNEED).";
    MadviseFree = 19, "madvise.free", "Offered with madvise(MADV_FREE), taken now.";
    MadviseRemove = 20, "madvise.remove", "Punched out of its file by madvise(MADV_REMOVE).";
    MadvisePageout = 21, "madvise.pageout", "Paged out by madvise(MADV_PAGEOUT) or process_madvise.";
    MmapFixed = 22, "mmap.fixed", "Overwritten by mmap(MAP_FIXED).";
    Truncate = 23, "truncate", "The file became shorter or a hole was punched into it.";
    ReclaimKswapd = 24, "reclaim.kswapd", "Taken by kswapd: the machine is short of memory.";
    ReclaimDirect = 25, "reclaim.direct", "Taken by a process that needed memory at once: the machine is very short of memory.";
    ReclaimMemcg = 26, "reclaim.memcg", "Taken because the cgroup reached its limit.";
    Ksm = 27, "ksm", "Merged with an equal page by KSM.";
    OomReaper = 28, "oom_reaper", "Taken by the OOM killer's reaper or process_mrelease.";
    Exit = 29, "exit", "Given back because the process ended.";
    Other = 30, "other", "Changed in a context that has no name here; the system call is given.";
}

impl Cause {
    /// Number of cause codes; the size of tables indexed by cause.
    pub const COUNT: usize = 32;
}
