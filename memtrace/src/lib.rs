//! memtrace explains why a Linux process's resident memory changed, as it happens.
//!
//! Events go into the [`model`], [`statement`]s come out, [`views`] print them. See ARCHITECTURE.md.
//!
//! Rooms with `deny` are functions of what they are given: no clock, no file, no environment. clippy.toml has the list.

#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod audit;
pub mod cli;
#[cfg(feature = "live")]
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod database;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod decode;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod event;
pub mod hints;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod kind;
#[cfg(feature = "live")]
pub mod live;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod model;
pub mod procfs;
pub mod run;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod screen;
pub mod snapshot;
#[cfg(feature = "live")]
pub mod stacks;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod statement;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod stuck;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod syscalls;
pub mod trace;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod units;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod views;
