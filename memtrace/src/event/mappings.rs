//! Mappings, as `/proc` has them.

use super::MmId;
use crate::units::Amounts;
use serde::{Deserialize, Serialize};

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapsLine {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Readable 1, writable 2, executable 4, shared 8.
    pub permissions: u8,
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Device, `major << 32 | minor`.
    pub device: u64,
    /// Inode, 0 for none.
    pub inode: u64,
    /// Name as printed, with the kernel's `\012` escapes undone.
    pub name: Vec<u8>,
}

/// `MapsLine::permissions` bits.
pub mod permission {
    /// Readable.
    pub const READ: u8 = 1;
    /// Writable.
    pub const WRITE: u8 = 2;
    /// Executable.
    pub const EXECUTE: u8 = 4;
    /// `MAP_SHARED`.
    pub const SHARED: u8 = 8;
}

/// A reading of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Maps {
    /// The mm.
    pub mm: MmId,
    /// When the reading began. Mapping events before it are contained in it.
    pub begin_ns: u64,
    /// When the reading was complete. A mapping event between the two may or may not be contained.
    pub ts_ns: u64,
    /// By address.
    pub lines: Vec<MapsLine>,
}

/// One mapping of smaps; amounts in **kB as printed**, multiplied by 1024 (bytes).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmapsMapping {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// `Rss`.
    pub rss: u64,
    /// `Pss`.
    pub pss: u64,
    /// `Shared_Clean`.
    pub shared_clean: u64,
    /// `Shared_Dirty`.
    pub shared_dirty: u64,
    /// `Private_Clean`.
    pub private_clean: u64,
    /// `Private_Dirty`.
    pub private_dirty: u64,
    /// `Anonymous`.
    pub anonymous: u64,
    /// `AnonHugePages`.
    pub anon_huge: u64,
    /// `ShmemPmdMapped`.
    pub shmem_pmd: u64,
    /// `FilePmdMapped`.
    pub file_pmd: u64,
    /// `Shared_Hugetlb` + `Private_Hugetlb`: never part of RES.
    pub hugetlb: u64,
    /// `Swap`.
    pub swap: u64,
    /// `SwapPss`.
    pub swap_pss: u64,
    /// `Locked`.
    pub locked: u64,
    /// `KSM`. Snapshots alone want this and what follows: it is in no trace.
    #[serde(skip)]
    pub ksm: u64,
    /// `LazyFree`.
    #[serde(skip)]
    pub lazy_free: u64,
    /// `KernelPageSize`: more than a page for hugetlbfs.
    #[serde(skip)]
    pub kernel_page: u64,
}

/// A reading of smaps with the counters before and after, for the audit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Smaps {
    /// The mm.
    pub mm: MmId,
    /// When it was complete.
    pub ts_ns: u64,
    /// What it cost.
    pub cost_ns: u64,
    /// Longest single read, in which the kernel may hold mmap_lock.
    pub longest_hold_ns: u64,
    /// What the probes' counters said before. `None` in procfs mode.
    pub before: Option<Amounts>,
    /// What the probes' counters said after.
    pub after: Option<Amounts>,
    /// No counter event of this mm happened between `before` and `after`: the comparison is exact.
    pub quiet: bool,
    /// `/proc/PID/statm` in the bracket (resident, of which file + shmem is `shared`) and `status`: anon, file, shmem, swap.
    pub status: Amounts,
    /// The mappings by address.
    pub mappings: Vec<SmapsMapping>,
}

/// What `top` would say and what it leaves out; bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// The mm.
    pub mm: MmId,
    /// When.
    pub ts_ns: u64,
    /// VIRT.
    pub virt: u64,
    /// RssAnon.
    pub anon: u64,
    /// RssFile.
    pub file: u64,
    /// RssShmem.
    pub shmem: u64,
    /// VmSwap.
    pub swap: u64,
    /// USS: Private_Clean + Private_Dirty of smaps_rollup; `None` where that could not be read.
    pub uss: Option<u64>,
    /// Of USS, what is file or shmem pages that nobody else maps: USS − private anonymous; `None` where it could not be read.
    pub private_file: Option<u64>,
    /// Pss of smaps_rollup.
    pub pss: Option<u64>,
    /// HugetlbPages of status.
    pub hugetlb: u64,
}
