//! One file per family of hooks; a program is named after its hook.

mod attach;
mod fault;
mod lock;
mod mapping;
mod process;
mod reclaim;
pub(crate) mod rss;
mod span;
mod time;
