//! One file per family of hooks; a program is named after its hook.

mod attach;
mod fault;
mod mapping;
mod process;
mod reclaim;
mod rss;
