//! memtrace explains why a Linux process's resident memory changed, as it happens.
//!
//! Events go into the [`model`], [`statement`]s come out, [`views`] print them. See ARCHITECTURE.md.

pub mod cli;
pub mod decode;
pub mod event;
pub mod hints;
#[cfg(feature = "live")]
pub mod live;
pub mod procfs;
pub mod statement;
pub mod units;
pub mod views;
