//! What the privileged tests share: a runner, the tool under test, targets, the machine's settings, and the
//! books that every line of NDJSON is held against.
//!
//! The workloads use [`pages`] too, so that both sides read the kernel's counters with the same code.

pub mod books;
pub mod database;
pub mod machine;
pub mod pages;
pub mod physical;
pub mod recording;
pub mod runner;
pub mod scene;
pub mod smaps;
pub mod snapshots;
pub mod source;
pub mod stacks;
pub mod stuck;
pub mod symbols;
pub mod target;
pub mod tool;
