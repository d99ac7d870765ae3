//! Whose process ids we see. The probes see the machine's, whichever namespace memtrace runs in.

use std::io;
use std::os::unix::fs::MetadataExt as _;

/// `PROC_PID_INIT_INO` of `include/uapi/linux/nsfs.h` (`linux/proc_ns.h` before): the inode of the first PID namespace.
const INITIAL: u64 = 0xEFFF_FFFC;

/// Whether we run in the machine's own PID namespace.
///
/// # Errors
/// /proc is not mounted.
pub fn is_initial() -> io::Result<bool> {
    Ok(std::fs::metadata("/proc/self/ns/pid")?.ino() == INITIAL)
}
