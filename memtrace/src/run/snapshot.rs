//! `memtrace snapshot`: select, read, show; once or again and again.

use crate::cli::SnapshotOptions;
use crate::hints::Failure;
use anyhow::Result;

/// Does what was asked for. The status to exit with.
///
/// # Errors
/// Nothing could be read, or the output could not be written.
pub(super) fn run(_options: &SnapshotOptions) -> Result<u8> {
    Err(Failure::NoLiveFeature.into())
}
