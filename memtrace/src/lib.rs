//! memtrace explains why a Linux process's resident memory changed, as it happens.
//!
//! Events go into the [`model`], [`statement`]s come out, [`views`] print them. See ARCHITECTURE.md.

pub mod audit;
pub mod event;
pub mod model;
pub mod statement;
pub mod syscalls;
pub mod units;
