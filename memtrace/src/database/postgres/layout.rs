//! Where PostgreSQL keeps what: offsets in its structs, by major version.
//!
//! `PgBackendStatus` (src/include/utils/backend_status.h; pgstat.h in 13) has had the same fields in the same order
//! from 13 to 18, and the same alignment on every 64-bit machine. What differs is said here.

/// `PgBackendStatus`, as far as it is read: up to `st_activity_raw` and the pointer itself.
pub(super) const ENTRY: usize = 256;

/// `st_changecount`: odd while the backend writes.
pub(super) const CHANGE_COUNT: usize = 0;
/// `st_procpid`.
pub(super) const PID: usize = 4;
/// `st_backendType`.
pub(super) const BACKEND_TYPE: usize = 8;
/// `st_proc_start_timestamp`.
pub(super) const STARTED: usize = 16;
/// `st_xact_start_timestamp`.
pub(super) const TRANSACTION: usize = 24;
/// `st_activity_start_timestamp`.
pub(super) const ACTIVITY: usize = 32;
/// `st_state`.
pub(super) const STATE: usize = 232;
/// `st_activity_raw`.
pub(super) const TEXT: usize = 248;

/// `bgw_type` in `BackgroundWorker`, and its length (`BGW_MAXLEN`).
pub(super) const WORKER_TYPE: (u64, usize) = (96, 96);

/// In 13, `pid` and `wait_event_info` in `PGPROC`; later there is a pointer to the latter.
pub(super) const PROC_13: (u64, u64) = (44, 684);

/// Instructions of 13's `pgstat_report_activity` that `MyBEEntry`, which it does not export, is loaded within.
pub(super) const REPORT_13: u64 = 64;

/// PostgreSQL's epoch is the year 2000: seconds since the Unix epoch.
const EPOCH: i64 = 946_684_800;

/// Nanoseconds since the Unix epoch; `None` for no time, and for what is none.
pub(super) const fn unix_ns(timestamp: i64) -> Option<i64> {
    if timestamp == 0 {
        return None;
    }
    match timestamp.checked_add(EPOCH * 1_000_000) {
        Some(micros) => micros.checked_mul(1000),
        None => None,
    }
}

/// A backend's state as `pg_stat_activity` prints it, `Some(None)` where it prints none; `None` for a number that is none.
pub(super) fn state(version: u32, number: u32) -> Option<Option<&'static str>> {
    const STATES: [Option<&str>; 8] = [
        None,
        // From 18 on.
        Some("starting"),
        Some("idle"),
        Some("active"),
        Some("idle in transaction"),
        Some("fastpath function call"),
        Some("idle in transaction (aborted)"),
        Some("disabled"),
    ];
    let number = usize::try_from(number).ok()?;
    STATES.get(if version < 18 && number > 0 { number.checked_add(1)? } else { number }).copied()
}
