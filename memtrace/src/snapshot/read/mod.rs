//! Snapshots of live processes from /proc: the dearest source that the budget and our rights allow, and what was given up.

mod costs;
mod files;
mod group;
mod pages;
mod process;
mod scan;
mod select;
mod threads;
mod twins;

pub use costs::Costs;
pub use files::read_files;
pub use process::parse;

use super::{Reason, Snapshot};
use crate::cli::{ReadOptions, Subject};
use crate::hints::Failure;
use crate::live::rights::{bit, named_if_missing};
use crate::procfs;
use anyhow::Result;
use group::{Pages, read_pages};
use process::Member;
use procfs::Error;

/// Finds the processes that are meant, and reads each; several also as a group, by physical page.
///
/// # Errors
/// None was found, or the one process asked for cannot be read; see [`crate::hints::Failure`].
pub fn read(subject: &Subject, options: &ReadOptions) -> Result<Snapshot> {
    let selected = select::select(subject)?;
    let mut snapshot = Snapshot::default();
    let mut read = Vec::new();
    for pid in selected.pids {
        match Member::read(pid, options) {
            Ok(member) => read.push(member),
            Err(error) if selected.one_by_one => {
                return Err(Failure::of_process(&error).map_or_else(|| error.into(), Into::into));
            }
            Err(Error::KernelThread { .. }) => {}
            Err(Error::NoSuchProcess(_) | Error::Gone(_) | Error::Zombie(_)) => snapshot.vanished += 1,
            Err(error) => return Err(error.into()),
        }
    }
    if read.is_empty() {
        return Err(select::none(subject));
    }
    let Pages { page_maps, group } = if options.for_diff { Pages::default() } else { read_pages(&mut read, options) };
    snapshot.processes = read.into_iter().map(|member| member.process).collect();
    snapshot.page_maps = page_maps;
    snapshot.group = group;
    Ok(snapshot)
}

/// By this capability it would be permitted, unless we have it.
fn not_permitted(bit: u32, capability: &'static str) -> Reason {
    Reason::NotPermitted { capability: named_if_missing(bit, capability).to_owned() }
}

/// Page frames, and what is in swap where, are told to who has this.
fn frames_not_permitted() -> Reason {
    not_permitted(bit::SYS_ADMIN, "CAP_SYS_ADMIN")
}

impl From<&procfs::Error> for Reason {
    fn from(error: &procfs::Error) -> Self {
        match error {
            procfs::Error::PermissionDenied { .. } => not_permitted(bit::SYS_PTRACE, "CAP_SYS_PTRACE"),
            procfs::Error::NoSuchProcess(_) | procfs::Error::Gone(_) | procfs::Error::Zombie(_) => Self::Gone,
            // It is there, but its memory is gone.
            procfs::Error::Io { source, .. } if source.raw_os_error() == Some(libc::ESRCH) => Self::Gone,
            procfs::Error::Io { source, .. } => Self::Failed { what: source.to_string() },
            other => Self::Failed { what: other.to_string() },
        }
    }
}
