//! Readings of /proc that both sources make.

use crate::event::{MmId, Smaps};
use crate::procfs::{ProcessFiles, monotonic_ns, page_size, parse_smaps};

/// A reading of maps is followed by a wait of this many times its cost.
pub const MAPS_WAIT_PER_COST: u64 = 50;

/// Reads smaps, and status right after it. The bracket (`before`, `after`, `quiet`) is the caller's. `None` when the
/// process is gone or does not let us. `buffer` is scratch.
#[must_use]
pub fn read_smaps(files: &ProcessFiles, mm: MmId, buffer: &mut Vec<u8>) -> Option<Smaps> {
    let cost = files.read_smaps(buffer).ok()?;
    let status = files.read_status().ok()?.amounts(page_size())?;
    let mut mappings = Vec::new();
    parse_smaps(buffer, &mut mappings);
    Some(Smaps {
        mm,
        ts_ns: monotonic_ns(),
        cost_ns: cost.cost_ns,
        longest_hold_ns: cost.longest_hold_ns,
        before: None,
        after: None,
        quiet: false,
        status,
        mappings,
    })
}
