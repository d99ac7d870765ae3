//! Where a process's memory is, at one moment: what `top`'s VIRT, RES and SHR consist of, by mapping, kind, file and
//! physical page. No probes, no history.
//!
//! Amounts are bytes. `None` is *unknown*: not permitted, not offered by this kernel, or given up to keep within the
//! budget, and then [`Process::given_up`] says so. Unknown is never 0, and nothing unknown is guessed from what is known.
//!
//! This room is pure but for [`read`]: a snapshot that was written as JSON is read back and compared like a fresh one.

#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod allocator;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod diff;
#[cfg(feature = "live")]
pub mod read;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod rows;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod sharing;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
mod source;

use crate::event::permission;
use crate::hints::Failure;
pub use crate::procfs::Rollup;
use crate::statement::Kind;
pub use source::{GivenUp, Reason, Source, SourceCost};

/// One process at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// Its number in our PID namespace.
    pub pid: u32,
    /// When it started, in clock ticks since boot: with the pid, its identity.
    pub start_time: u64,
    /// Its name. Any bytes.
    pub comm: Vec<u8>,
    /// Its program, as `/proc/PID/exe` links; `None` where that may not be read. Any bytes.
    pub exe: Option<Vec<u8>>,
    /// Its command line, arguments separated by NUL, capped; empty for none. Any bytes.
    pub cmdline: Vec<u8>,
    /// When the counters were read, ns since 1970.
    pub time_ns: i64,
    /// Bytes of a page.
    pub page_size: u64,
    /// `R`, `S`, `T`, …; see proc(5). Of the main thread, or, when that has exited alone, of one that goes on.
    pub state: u8,
    /// The kernel's counters: exact since Linux 6.16 and in its stable series (else to some pages per CPU), and readable for
    /// everyone. `None`: no address space (zombie, kernel thread).
    pub counters: Option<Counters>,
    /// The counters again, after everything else was read. What differs happened meanwhile: the bound of every sum below.
    pub counters_after: Option<Counters>,
    /// The whole process in one walk of its page tables.
    pub rollup: Option<Rollup>,
    /// The mappings by address; `None` when not even maps could be read.
    pub mappings: Option<Vec<Mapping>>,
    /// Files of which parts are mapped; `None` when they were not looked at.
    pub files: Option<Vec<MappedFile>>,
    /// What was read, and what it cost.
    pub sources: Vec<SourceCost>,
    /// What was not read, and why.
    pub given_up: Vec<GivenUp>,
}

/// `/proc/PID/status` and `statm`, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Size of the address space: VIRT.
    pub virt: u64,
    /// Resident anonymous memory.
    pub anon: u64,
    /// Resident pages of files.
    pub file: u64,
    /// Resident shared memory.
    pub shmem: u64,
    /// Anonymous memory in swap.
    pub swap: u64,
    /// Huge pages of hugetlbfs: outside of RES.
    pub hugetlb: u64,
    /// `VmLck`: size of the mappings that are locked.
    pub locked: u64,
    /// Page tables: memory that the process costs and RES leaves out.
    pub page_tables: u64,
}

impl Counters {
    /// RES.
    #[must_use]
    pub const fn res(&self) -> u64 {
        self.anon.saturating_add(self.file).saturating_add(self.shmem)
    }

    /// How much of RES came, went or turned from one sort into another on the way to `later`.
    #[must_use]
    pub const fn moved(&self, later: &Self) -> u64 {
        let anon = self.anon.abs_diff(later.anon);
        anon.saturating_add(self.file.abs_diff(later.file)).saturating_add(self.shmem.abs_diff(later.shmem))
    }

    /// What `top` calls SHR: file + shmem, whether or not anyone else maps them.
    #[must_use]
    pub const fn shr(&self) -> u64 {
        self.file.saturating_add(self.shmem)
    }
}

/// One line of maps, and what of it is in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// See [`crate::event::permission`].
    pub permissions: u8,
    /// Offset in the file.
    pub offset: u64,
    /// Device, `major << 32 | minor`.
    pub device: u64,
    /// Inode; 0 for none.
    pub inode: u64,
    /// What it is.
    pub kind: Kind,
    /// Path, `[heap]`, name given by prctl (without `[anon:` `]`), file whose `.bss` it is; empty for none. Any bytes.
    pub name: Vec<u8>,
    /// Whose anonymous memory it is, where that can be recognised.
    pub allocator: Option<Allocator>,
    /// For a thread's stack: the thread.
    pub thread: Option<Thread>,
    /// What is in memory and in swap; `None` when only maps was read.
    pub resident: Option<Resident>,
    /// What only smaps says; `None` when it was not read.
    pub detail: Option<Detail>,
}

impl Mapping {
    /// Of which nothing else is known: of no file, and with no name.
    #[must_use]
    pub const fn bare(start: u64, end: u64, permissions: u8, kind: Kind) -> Self {
        Self {
            start,
            end,
            permissions,
            offset: 0,
            device: 0,
            inode: 0,
            kind,
            name: Vec::new(),
            allocator: None,
            thread: None,
            resident: None,
            detail: None,
        }
    }

    /// Bytes of address space.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether its pages that are no file's may be anonymous memory. Where they may not, there is no page behind a
    /// page-table entry that RSS would count: it is a device's memory, or the kernel's own.
    #[must_use]
    pub const fn may_be_anonymous(&self) -> bool {
        self.permissions & permission::SHARED == 0 && !matches!(self.kind, Kind::Vdso | Kind::Device)
    }
}

/// Major and minor number of a device as mappings and files have it.
#[must_use]
pub const fn device_numbers(device: u64) -> (u64, u64) {
    (device >> 32, device & u32::MAX as u64)
}

/// What of a mapping is where; from smaps or from PAGEMAP_SCAN. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Resident, as RES counts: without zero pages, device memory and hugetlbfs.
    pub rss: u64,
    /// Of these, anonymous.
    pub anonymous: u64,
    /// In swap. `None` where the page tables have markers of userfaultfd that we may not tell from it.
    pub swap: Option<u64>,
    /// Mapped by huge page-table entries.
    pub huge: u64,
}

/// The rest of a mapping's smaps. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// See [`Rollup::pss`].
    pub pss: u64,
    /// Mapped once.
    pub private_clean: u64,
    /// The same, dirty.
    pub private_dirty: u64,
    /// Mapped more than once.
    pub shared_clean: u64,
    /// The same, dirty.
    pub shared_dirty: u64,
    /// See [`Rollup::swap_pss`].
    pub swap_pss: u64,
    /// PSS, if the mapping is locked.
    pub locked: u64,
    /// hugetlbfs: outside of RES.
    pub hugetlb: u64,
    /// Of the anonymous pages, those that KSM has merged.
    pub ksm: u64,
    /// Of the anonymous pages, those offered to the kernel with `MADV_FREE`.
    pub lazy_free: u64,
}

/// Who made anonymous memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Allocator {
    /// glibc's malloc: its arenas.
    Glibc,
    /// jemalloc, by the name it gives.
    Jemalloc,
    /// tcmalloc, by the name it gives.
    Tcmalloc,
    /// mimalloc, by the name it gives.
    Mimalloc,
    /// The Go runtime, by the name it gives.
    Go,
    /// A JVM's heap.
    JavaHeap,
}

impl Allocator {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Glibc, Self::Jemalloc, Self::Tcmalloc, Self::Mimalloc, Self::Go, Self::JavaHeap];

    /// Name in the NDJSON contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Glibc => "glibc",
            Self::Jemalloc => "jemalloc",
            Self::Tcmalloc => "tcmalloc",
            Self::Mimalloc => "mimalloc",
            Self::Go => "go",
            Self::JavaHeap => "java_heap",
        }
    }
}

/// A thread with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Thread id.
    pub tid: u32,
    /// Its name. Any bytes.
    pub comm: Vec<u8>,
}

/// A file of which parts are mapped: what of it is in this process, in the page cache at all, and nowhere but on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct MappedFile {
    /// Path as maps prints it. Any bytes.
    pub path: Vec<u8>,
    /// Device, `major << 32 | minor`.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Its size; `None` when it cannot be opened.
    pub size: Option<u64>,
    /// Bytes of it that are mapped here, each once, whichever mappings show it.
    pub mapped: u64,
    /// Resident here through page tables, copies on write excluded: Σ of its mappings' file pages.
    pub resident: Option<u64>,
    /// It has a place on a disk or a server. `Some(false)`: shared memory (memfd, tmpfs), of which the page cache is all
    /// there is; then nothing is ever dirty, and what is not in the page cache is a hole or in swap. `None` when unknown.
    pub on_disk: Option<bool>,
    /// In the page cache, mapped by anyone or not.
    pub page_cache: Option<u64>,
    /// Of these, dirty and not yet being written back. The kernel counts and writes whole folios: on a file system with
    /// large ones, one byte that was written makes 64 KiB or more dirty. Pages that were changed again while they are
    /// being written are here and in `writeback`.
    pub dirty: Option<u64>,
    /// Of these, being written back now.
    pub writeback: Option<u64>,
    /// A writable shared mapping of it exists here: this process can make it dirty through memory.
    pub writable_shared: bool,
}

impl MappedFile {
    /// Not in the page cache: on disk only, or a hole; see [`Self::on_disk`] for files that are on none. Whole pages of x86-64.
    #[must_use]
    pub fn not_loaded(&self) -> Option<u64> {
        Some(self.size?.next_multiple_of(4096).saturating_sub(self.page_cache?))
    }
}

/// What is in which part of a mapping: for pictures. Bytes, `private + shared + swap + untouched` is the slice's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// Resident, mapped by nobody else.
    pub private: u64,
    /// Resident, mapped more than once.
    pub shared: u64,
    /// In swap.
    pub swap: u64,
    /// Neither.
    pub untouched: u64,
}

/// The pages of one process: the slices of each mapping, in the order of [`Process::mappings`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageMap {
    /// For each mapping its slices by address, all of `slice_bytes` but the last; empty when the mapping was not looked at.
    pub mappings: Vec<Slices>,
}

/// One mapping in equal slices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slices {
    /// Bytes of a slice; the last may be shorter.
    pub slice_bytes: u64,
    /// By address.
    pub slices: Vec<Slice>,
}

/// Several processes together, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// Who belongs to it, in the order of the processes shown. Left out are those of which nothing could be read, those
    /// that ended meanwhile, and those whose address space is that of one before them (`CLONE_VM`).
    pub pids: Vec<u32>,
    /// Of the processes shown, those whose memory is that of one before them (`CLONE_VM`): number and start time.
    pub twins: Vec<(u32, u64)>,
    /// By how much the counters of its members moved, up or down, from when they were read until all pages had been looked
    /// at: sums may be off by that.
    pub changed: u64,
    /// Σ RES: counts a shared page once for each process.
    pub sum_res: u64,
    /// Σ PSS: `None` when one of them is unknown.
    pub sum_pss: Option<u64>,
    /// By physical page; `None` when that could not be looked at, and then [`Self::given_up`] says why.
    pub physical: Option<Physical>,
    /// What was not read, and why.
    pub given_up: Vec<GivenUp>,
    /// What was read for it.
    pub sources: Vec<SourceCost>,
}

/// What several processes have in memory, each physical page counted once. Bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Physical {
    /// RES of the group: pages that any of them maps.
    pub res: u64,
    /// USS of the group: pages that nobody outside maps. Comes free when all of them end, but for pages of files and
    /// shared memory that lives on by itself.
    pub uss: u64,
    /// For each process, as in [`Group::pids`]: pages that another one of the group maps as well.
    pub shared_with_group: Vec<u64>,
    /// For each two, by their index in [`Group::pids`], `a < b`: pages that both map. Pairs that share nothing are left out.
    /// `None` for groups of more than [`sharing::PAIRS_OF`].
    pub pairs: Option<Vec<Pair>>,
    /// What is shared, the largest first: by file, segment or origin.
    pub objects: Vec<SharedObject>,
    /// For the first two processes only: which of their mappings show the same pages.
    pub links: Vec<Link>,
}

/// Pages that two processes both map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Index in [`Group::pids`].
    pub a: usize,
    /// Index in [`Group::pids`].
    pub b: usize,
    /// Bytes, each physical page once.
    pub shared: u64,
}

/// A file, segment or heap whose pages more than one process of the group maps.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedObject {
    /// What it is, where it was seen first.
    pub kind: Kind,
    /// Its name. Any bytes.
    pub name: Vec<u8>,
    /// Device and inode; zeros for anonymous memory.
    pub device: u64,
    /// See `device`.
    pub inode: u64,
    /// How many processes of the group map pages of it.
    pub processes: usize,
    /// Bytes in memory, each physical page once.
    pub res: u64,
    /// Of these, what at least two processes of the group map.
    pub shared: u64,
    /// What it adds to Σ RES.
    pub sum_res: u64,
}

/// Pages that a mapping of the first and one of the second process both show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index of the first process's mapping.
    pub a: usize,
    /// Index of the second one's.
    pub b: usize,
    /// Bytes, each physical page once.
    pub shared: u64,
}

/// What one `memtrace snapshot` saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The processes, in the order asked for.
    pub processes: Vec<Process>,
    /// For each process its pages, where a picture was asked for.
    pub page_maps: Vec<Option<PageMap>>,
    /// Together, when there are several.
    pub group: Option<Group>,
    /// Who was meant and is not there.
    pub missing: Missing,
}

/// Processes that were meant, and of which nothing could be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Missing {
    /// They ended before they could be read, or are hidden from us (`hidepid`), which nobody can tell apart.
    pub vanished: usize,
    /// They are there, and could not be read.
    pub unreadable: usize,
    /// Why the first of the unreadable could not; empty where there is none. Escape it.
    pub why: String,
    /// Of those that were asked for by their number: what happened to each, as far as there is a name for it.
    pub failures: Vec<Failure>,
}

impl Missing {
    /// Everybody was read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.vanished == 0 && self.unreadable == 0
    }
}
