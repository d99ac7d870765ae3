//! `/proc/PID`: the kernel's own view of a process, for openings, audits and overviews.
//!
//! `parse_` functions are pure, take bytes and always compile; `read_` functions touch the system and need the
//! feature `live`. maps, smaps, smaps_rollup, statm, status and stat are parsed here, because names in them may be
//! any bytes and because a reading of smaps is part of what memtrace costs; the rest is left to the procfs crate.
//!
//! This room refuses to guess: a line that it cannot read is counted, never turned into a number, and what
//! the kernel does not say is `None`.

mod budget;
mod descriptors;
mod maps;
mod mounts;
mod pagemap;
mod scan;
mod smaps;
mod sockets;
mod status;
mod surroundings;
mod waiting;

#[cfg(feature = "live")]
mod directory;
#[cfg(feature = "live")]
mod error;
#[cfg(feature = "live")]
mod files;
#[cfg(feature = "live")]
mod mapped_file;
#[cfg(feature = "live")]
mod memory;
#[cfg(feature = "live")]
mod page_cache;
#[cfg(feature = "live")]
mod pages;
#[cfg(feature = "live")]
mod system;
#[cfg(feature = "live")]
mod unix_diag;

pub use budget::{Refusal, SmapsBudget, SmapsSize};
pub use descriptors::{DescriptorInfo, Link, LockHolder, parse_fdinfo, parse_link, parse_lock_holder};
pub use maps::{MapsHeader, parse_maps, visit_maps};
pub use mounts::visit_mounts;
pub use pagemap::{PageEntry, PageRange, parse_pagemap};
pub use smaps::{PrivateFile, Rollup, SmapsPieces, parse_rollup, parse_smaps, private_file, visit_smaps};
pub use sockets::{InetSocket, visit_inet};
pub use status::{Malformed, Stat, Statm, Status, parse_stack_pointer, parse_stat, parse_statm, parse_status};
pub use surroundings::{
    CgroupMount, parse_cgroup, parse_cgroup_mount, parse_cpu_max, parse_cpus, parse_keyed, parse_limit, parse_pressure,
    parse_running,
};
pub use waiting::{CurrentCall, counts_runs, parse_kernel_stack, parse_syscall, parse_wchan};

#[cfg(feature = "live")]
pub use directory::Directory;
#[cfg(feature = "live")]
pub use error::Error;
#[cfg(feature = "live")]
pub(crate) use files::PAGEMAP_BYTES;
#[cfg(feature = "live")]
pub use files::ProcessFiles;
#[cfg(feature = "live")]
pub use mapped_file::{FileSystem, NotOpened, OpenedFile, Place, open_mapped};
#[cfg(feature = "live")]
pub use maps::MAPS_MAX;
#[cfg(feature = "live")]
pub use memory::PresentMemory;
#[cfg(feature = "live")]
pub use page_cache::{CacheStat, read_cachestat, read_mincore};
#[cfg(feature = "live")]
pub use pages::{KernelPages, Pagemap, read_own_entry};
#[cfg(feature = "live")]
pub use system::{monotonic_ns, page_size, read_kernel_release, read_migrations};
#[cfg(feature = "live")]
pub use unix_diag::{UnixSocket, UnixSockets};

/// How a parse went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParseReport {
    /// Mappings that were read.
    pub mappings: usize,
    /// Lines that could not be read: broken ones, fields without a mapping, a last line without its newline.
    /// Zero on every kernel known; each one means that an amount may be missing.
    pub malformed: usize,
}

/// What a reading took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadCost {
    /// Opening and reading, wall time.
    pub cost_ns: u64,
    /// Longest single `read(2)`. The kernel drops mmap_lock between reads, so it was held (or waited for) no longer at a time.
    pub longest_hold_ns: u64,
    /// How many `read(2)` it took.
    pub reads: u32,
}

#[cfg(feature = "live")]
impl ReadCost {
    /// One call, which ends now. What it took.
    fn add_call(&mut self, begin: std::time::Instant) -> std::time::Duration {
        let took = begin.elapsed();
        self.add(Self::of_call(took));
        took
    }

    /// Of one call that took so long.
    pub(crate) fn of_call(took: std::time::Duration) -> Self {
        let nanos = crate::units::nanos(took);
        Self { cost_ns: nanos, longest_hold_ns: nanos, reads: 1 }
    }

    /// Other calls.
    pub fn add(&mut self, other: Self) {
        self.cost_ns = self.cost_ns.saturating_add(other.cost_ns);
        self.longest_hold_ns = self.longest_hold_ns.max(other.longest_hold_ns);
        self.reads = self.reads.saturating_add(other.reads);
    }
}
