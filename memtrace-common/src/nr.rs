//! System calls of x86-64 that move memory or wait, by number, and those of their arguments that decide what they do.
//!
//! Both sides speak of calls by these numbers; a target of another architecture would be translated where it enters.

macro_rules! numbers {
    ($($name:ident = $nr:literal;)*) => {
        $(#[doc = concat!("Number of `", stringify!($name), "`.")] pub const $name: u32 = $nr;)*
    };
}

numbers! {
    READ = 0;
    OPEN = 2;
    MMAP = 9;
    MPROTECT = 10;
    MUNMAP = 11;
    BRK = 12;
    IOCTL = 16;
    PREAD64 = 17;
    PWRITE64 = 18;
    MREMAP = 25;
    MADVISE = 28;
    SHMAT = 30;
    CLONE = 56;
    EXECVE = 59;
    SHMDT = 67;
    FCNTL = 72;
    FLOCK = 73;
    TRUNCATE = 76;
    FTRUNCATE = 77;
    CREAT = 85;
    PTRACE = 101;
    MLOCK = 149;
    MLOCKALL = 151;
    PRCTL = 157;
    SWAPOFF = 168;
    FUTEX = 202;
    REMAP_FILE_PAGES = 216;
    OPENAT = 257;
    FALLOCATE = 285;
    PROCESS_VM_WRITEV = 311;
    EXECVEAT = 322;
    USERFAULTFD = 323;
    MLOCK2 = 325;
    PKEY_MPROTECT = 329;
    CLONE3 = 435;
    OPENAT2 = 437;
    PROCESS_MADVISE = 440;
    PROCESS_MRELEASE = 448;
    MAP_SHADOW_STACK = 453;
    MSEAL = 462;
}

/// Arguments of `mmap` and `mprotect`.
pub mod mmap {
    /// `PROT_READ | PROT_WRITE | PROT_EXEC`
    pub const PROT_MASK: u64 = 7;
    /// `PROT_EXEC`
    pub const PROT_EXEC: u64 = 4;
    /// `MAP_SHARED`, also set in `MAP_SHARED_VALIDATE`.
    pub const SHARED: u64 = 0x1;
    /// `MAP_FIXED`: the place is given, what lies there is unmapped first.
    pub const FIXED: u64 = 0x10;
    /// `MAP_ANONYMOUS`
    pub const ANONYMOUS: u64 = 0x20;
    /// `MAP_GROWSDOWN`
    pub const GROWSDOWN: u64 = 0x100;
    /// `MAP_STACK`
    pub const STACK: u64 = 0x2_0000;
    /// `MAP_HUGETLB`
    pub const HUGETLB: u64 = 0x4_0000;
    /// `MAP_FIXED_NOREPLACE`: the place is given, nothing lies there.
    pub const FIXED_NOREPLACE: u64 = 0x10_0000;
    /// Where the huge page size's logarithm lies in the flags; 0 there is the default size.
    pub const HUGE_SHIFT: u32 = 26;
}

/// Flags of `mremap`.
pub mod mremap {
    /// `MREMAP_FIXED`: the new place is given, what lies there is unmapped first.
    pub const FIXED: u64 = 2;
    /// `MREMAP_DONTUNMAP`
    pub const DONTUNMAP: u64 = 4;
}

/// Advice of `madvise`.
pub mod madvise {
    /// `MADV_DONTNEED`
    pub const DONTNEED: u64 = 4;
    /// `MADV_FREE`
    pub const FREE: u64 = 8;
    /// `MADV_REMOVE`
    pub const REMOVE: u64 = 9;
    /// `MADV_DONTFORK`
    pub const DONTFORK: u64 = 10;
    /// `MADV_DOFORK`
    pub const DOFORK: u64 = 11;
    /// `MADV_PAGEOUT`
    pub const PAGEOUT: u64 = 21;
    /// `MADV_POPULATE_READ`
    pub const POPULATE_READ: u64 = 22;
    /// `MADV_POPULATE_WRITE`
    pub const POPULATE_WRITE: u64 = 23;
    /// `MADV_DONTNEED_LOCKED`
    pub const DONTNEED_LOCKED: u64 = 24;
    /// `MADV_COLLAPSE`
    pub const COLLAPSE: u64 = 25;
    /// `MADV_GUARD_INSTALL`
    pub const GUARD_INSTALL: u64 = 102;
}

/// Flags of `clone`.
pub mod clone {
    /// `CLONE_VM`
    pub const VM: u64 = 0x100;
    /// `CLONE_THREAD`
    pub const THREAD: u64 = 0x1_0000;
}

/// `prctl`'s first argument `PR_SET_VMA`: name an anonymous mapping.
pub const PR_SET_VMA: u64 = 0x5356_4d41;
