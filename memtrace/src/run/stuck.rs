//! `memtrace stuck`: a session as any other, of which only the answer is printed.

use super::watch;
use crate::cli::StuckOptions;
use anyhow::Result;

/// Watches for as long as was asked, or until SIGINT, and prints why the process does not move. The status to exit with.
///
/// # Errors
/// The target cannot be watched, or the kernel refuses.
pub(super) fn run(options: &StuckOptions) -> Result<u8> {
    watch(&options.target, &options.trace, None, &options.output, false)
}
