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

use super::{Missing, Reason, Snapshot};
use crate::cli::{ReadOptions, Subject};
use crate::hints::Failure;
use crate::live::rights::{bit, named_if_missing};
use crate::procfs;
use anyhow::Result;
use group::{Pages, read_pages};
use process::Member;
use procfs::Error;

/// Finds the processes that are meant, and reads each; several also as a group, by physical page. One that cannot be read
/// does not keep the others from being told: it is among [`Snapshot::missing`].
///
/// # Errors
/// None was found, or none of them could be read; see [`crate::hints::Failure`].
pub fn read(subject: &Subject, options: &ReadOptions) -> Result<Snapshot> {
    let selected = select::select(subject)?;
    let mut snapshot = Snapshot::default();
    let mut read = Vec::new();
    let mut first = None;
    for pid in selected.pids {
        match Member::read(pid, options) {
            Ok(member) => read.push(member),
            Err(Error::KernelThread { .. }) if !selected.one_by_one => {}
            Err(error) => {
                note_missing(&mut snapshot.missing, &error, selected.one_by_one);
                // Whoever was found by a name and has ended is nobody to complain of.
                if selected.one_by_one || !has_vanished(&error) {
                    first.get_or_insert(error);
                }
            }
        }
    }
    if read.is_empty() {
        return Err(match first {
            Some(error) => Failure::of_process(&error).map_or_else(|| error.into(), Into::into),
            None => select::none(subject),
        });
    }
    let Pages { page_maps, group } = if options.for_diff { Pages::default() } else { read_pages(&mut read, options) };
    snapshot.processes = read.into_iter().map(|member| member.process).collect();
    snapshot.page_maps = page_maps;
    snapshot.group = group;
    Ok(snapshot)
}

/// It has ended, or is hidden from us. Its number may be a thread's by now.
const fn has_vanished(error: &Error) -> bool {
    matches!(error, Error::NoSuchProcess(_) | Error::Gone(_) | Error::Zombie(_) | Error::IsThread { .. })
}

fn note_missing(missing: &mut Missing, error: &Error, one_by_one: bool) {
    if has_vanished(error) {
        missing.vanished += 1;
    } else {
        missing.unreadable += 1;
        if missing.why.is_empty() {
            missing.why = match std::error::Error::source(error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
        }
    }
    if one_by_one {
        missing.failures.extend(Failure::of_process(error));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ended_and_who_could_not_be_read_are_counted_apart() {
        let mut missing = Missing::default();
        let denied = |pid| Error::PermissionDenied { pid, file: "statm".to_owned() };
        let many = std::io::Error::from_raw_os_error(libc::EMFILE);
        let errors = [
            Error::NoSuchProcess(7),
            denied(1),
            Error::IsThread { tid: 8, pid: 6 },
            Error::Io { pid: 9, file: "stat".to_owned(), source: many },
        ];
        for error in &errors {
            note_missing(&mut missing, error, false);
        }
        assert_eq!((missing.vanished, missing.unreadable, missing.failures.len()), (2, 2, 0));
        assert_eq!(missing.why, "not permitted to read /proc/1/statm");
        for error in &errors {
            note_missing(&mut missing, error, true);
        }
        assert_eq!(missing.failures.iter().filter_map(Failure::ended).collect::<Vec<_>>(), [7, 8]);
    }
}
