//! memtrace explains why a Linux process's resident memory changed, as it happens.
//!
//! Events go into the [`model`], [`statement`]s come out, [`views`] print them. See ARCHITECTURE.md.

pub mod audit;
pub mod cli;
pub mod decode;
pub mod event;
pub mod hints;
#[cfg(feature = "live")]
pub mod live;
pub mod model;
pub mod procfs;
pub mod run;
pub mod statement;
pub mod syscalls;
pub mod trace;
pub mod units;
pub mod views;
