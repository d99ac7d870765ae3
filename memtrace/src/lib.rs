//! memtrace explains why a Linux process's resident memory changed, as it happens.
//!
//! Events go into the [`model`], [`statement`]s come out, [`views`] print them. See ARCHITECTURE.md.

pub mod event;
pub mod procfs;
pub mod statement;
pub mod trace;
pub mod units;
