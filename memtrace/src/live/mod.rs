//! The live room: the only one that knows aya, and the only one that touches the kernel's probes.

#[cfg(feature = "pg")]
mod asker;
#[cfg(not(feature = "pg"))]
#[path = "no_asker.rs"]
mod asker;
mod batch;
pub mod btf;
mod copies;
mod database;
mod doctor;
mod failure;
mod hooks;
mod lag;
mod layout;
mod mmap_lock;
mod namespace;
mod observer;
mod own;
mod poller;
mod probes;
mod reading;
pub(crate) mod rights;
mod session;
mod source;
mod spans;
mod spawn;
mod times;
mod waits;
mod watch;

pub use database::read_backend;
pub use doctor::doctor;
pub use own::raise_file_limit;
pub use watch::{Outcome, Sink, Stop, watch};

use crate::cli::Request;

/// Sends our own and the probes' messages to stderr, as many as `-v`s were given.
pub fn start_log(request: &Request) {
    let verbose = match request {
        Request::Watch { trace, .. } | Request::Record { trace, .. } => trace.verbose,
        Request::Stuck(options) => options.trace.verbose,
        Request::Replay { .. } | Request::Snapshot(_) | Request::Doctor { .. } => 0,
    };
    let level = match verbose {
        0 => log::LevelFilter::Error,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    env_logger::Builder::new().filter_level(level).format_timestamp_millis().init();
}
