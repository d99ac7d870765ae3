//! Where the figures of a snapshot come from, what reading them cost, and why something was not read.

/// Where figures come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// `/proc/PID/status` and `statm`.
    Status,
    /// `/proc/PID/maps`.
    Maps,
    /// `/proc/PID/smaps`.
    Smaps,
    /// `/proc/PID/smaps_rollup`.
    Rollup,
    /// `ioctl(PAGEMAP_SCAN)`.
    PagemapScan,
    /// `/proc/PID/pagemap`.
    Pagemap,
    /// `/proc/kpagecount` and `kpageflags`.
    Kpage,
    /// `cachestat(2)`.
    Cachestat,
    /// `mincore(2)`.
    Mincore,
    /// `/proc/PID/task`.
    Threads,
}

impl Source {
    /// Reading it holds the target's mmap_lock (maps: before Linux 6.17).
    #[must_use]
    pub const fn holds_lock(self) -> bool {
        matches!(self, Self::Maps | Self::Smaps | Self::Rollup | Self::PagemapScan | Self::Pagemap)
    }

    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Status,
        Self::Maps,
        Self::Smaps,
        Self::Rollup,
        Self::PagemapScan,
        Self::Pagemap,
        Self::Kpage,
        Self::Cachestat,
        Self::Mincore,
        Self::Threads,
    ];

    /// Name in the NDJSON contract, and in text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Maps => "maps",
            Self::Smaps => "smaps",
            Self::Rollup => "smaps_rollup",
            Self::PagemapScan => "pagemap_scan",
            Self::Pagemap => "pagemap",
            Self::Kpage => "kpagecount",
            Self::Cachestat => "cachestat",
            Self::Mincore => "mincore",
            Self::Threads => "threads",
        }
    }
}

/// What a source cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceCost {
    /// Which.
    pub source: Source,
    /// Wall time of all its calls.
    pub cost_ns: u64,
    /// The longest single call. For smaps, smaps_rollup, pagemap and PAGEMAP_SCAN the kernel holds the target's mmap_lock within it.
    pub longest_call_ns: u64,
    /// How many calls.
    pub calls: u32,
}

/// Something that would have told more and was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// What.
    pub source: Source,
    /// Why.
    pub reason: Reason,
}

/// Why something was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A right is missing: `CAP_SYS_PTRACE`, `CAP_SYS_ADMIN`; empty when unknown.
    NotPermitted {
        /// The capability that would allow it.
        capability: String,
    },
    /// One call would hold the target's mmap_lock for longer than `--max-snapshot-ms`. `--full` reads it all the same.
    OverBudget {
        /// Estimate of the longest call.
        estimate_ns: u64,
        /// The limit.
        limit_ns: u64,
    },
    /// This kernel does not offer it.
    NotOffered,
    /// The process ended meanwhile.
    Gone,
    /// It failed, or its text could not be understood.
    Failed {
        /// What the system said. Escape it.
        what: String,
    },
}

impl Reason {
    /// Name in the NDJSON contract.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NotPermitted { .. } => "not_permitted",
            Self::OverBudget { .. } => "over_budget",
            Self::NotOffered => "not_offered",
            Self::Gone => "gone",
            Self::Failed { .. } => "failed",
        }
    }
}
