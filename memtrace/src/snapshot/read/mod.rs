//! Snapshots of live processes from /proc: the dearest source that the budget and our rights allow, and what was given up.

mod costs;
mod files;

pub use costs::Costs;
pub use files::read_files;

use super::{Reason, Snapshot};
use crate::cli::{ReadOptions, Subject};
use crate::procfs;
use anyhow::Result;

/// Finds the processes that are meant, and reads each; several also as a group, by physical page.
///
/// # Errors
/// None was found, or the one process asked for cannot be read; see [`crate::hints::Failure`].
pub fn read(_subject: &Subject, _options: &ReadOptions) -> Result<Snapshot> {
    anyhow::bail!("not yet")
}

impl From<&procfs::Error> for Reason {
    fn from(error: &procfs::Error) -> Self {
        match error {
            procfs::Error::PermissionDenied { .. } => Self::NotPermitted { capability: "CAP_SYS_PTRACE".to_owned() },
            procfs::Error::NoSuchProcess(_) | procfs::Error::Gone(_) | procfs::Error::Zombie(_) => Self::Gone,
            procfs::Error::Io { source, .. } => Self::Failed { what: source.to_string() },
            other => Self::Failed { what: other.to_string() },
        }
    }
}
