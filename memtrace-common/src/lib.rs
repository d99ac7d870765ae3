//! What the probes and the program say to each other.
//!
//! One `repr(C)` struct of integers per record, `Pod`, so that padding is a compile error and decoding
//! needs no `unsafe`. Amounts are in **pages**, times in nanoseconds of `CLOCK_MONOTONIC`, arrays over
//! [`MEMBERS`] are in the kernel's order (`MM_FILEPAGES`, `MM_ANONPAGES`, `MM_SWAPENTS`, `MM_SHMEMPAGES`).
#![no_std]

mod cause;
pub mod nr;
mod span;
mod state;
mod time;
mod wire;

pub use cause::Cause;
pub use span::*;
pub use state::*;
pub use time::*;
pub use wire::*;

/// Number of counters in `mm->rss_stat`.
pub const MEMBERS: usize = 4;
/// Index of `MM_FILEPAGES`: resident pages of files.
pub const FILE: usize = 0;
/// Index of `MM_ANONPAGES`: resident anonymous pages.
pub const ANON: usize = 1;
/// Index of `MM_SWAPENTS`: anonymous pages that live in swap.
pub const SWAP: usize = 2;
/// Index of `MM_SHMEMPAGES`: resident shared-memory and tmpfs pages.
pub const SHMEM: usize = 3;
