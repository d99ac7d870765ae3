//! What calls did lately, by range and time: what a reading of `/proc/PID/maps` and a late `munmap` must not undo.

use std::collections::VecDeque;

/// Ranges that calls touched, so that a reading of `/proc/PID/maps` which began earlier does not undo them.
#[derive(Clone, Debug, Default)]
pub(super) struct Journal {
    entries: VecDeque<(u64, u64, u64)>,
    /// Everything up to this time may be missing from `entries`.
    forgotten_ns: Option<u64>,
    /// Ranges mapped while their unmapping had not returned: start, end, thread that mapped, when.
    pub(super) overtaken: Vec<(u64, u64, u32, u64)>,
    last_tick_ns: u64,
    /// When the last `brk` returned that was followed.
    pub(super) break_ns: u64,
    /// Begin and end of the last reading.
    pub(super) read: Option<(u64, u64)>,
}

/// Enough for a storm of mapping calls during one reading.
const JOURNAL_ENTRIES: usize = 65_536;

impl Journal {
    /// A call that returned at `ts_ns` decided what is in the range.
    pub(super) fn note(&mut self, ts_ns: u64, start: u64, end: u64) {
        if self.entries.len() == JOURNAL_ENTRIES
            && let Some((oldest, ..)) = self.entries.pop_front()
        {
            self.forgotten_ns = self.forgotten_ns.max(Some(oldest));
        }
        self.entries.push_back((ts_ns, start, end));
    }

    /// Disjoint, sorted ranges that calls after `begin_ns` touched; `None` when that is not known any more.
    pub(super) fn since(&mut self, begin_ns: u64) -> Option<Vec<(u64, u64)>> {
        if self.forgotten_ns.is_some_and(|forgotten| forgotten >= begin_ns) {
            return None;
        }
        self.entries.retain(|&(ts_ns, ..)| ts_ns >= begin_ns);
        let mut ranges: Vec<(u64, u64)> = self.entries.iter().map(|&(_, start, end)| (start, end)).collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (start, end) in ranges {
            match merged.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        Some(merged)
    }

    /// An interval ended: races older than the interval before are over.
    pub(super) fn tick(&mut self, ts_ns: u64) {
        let before = std::mem::replace(&mut self.last_tick_ns, ts_ns);
        self.overtaken.retain(|&(.., when)| when >= before);
    }
}

/// `ranges` without the sorted, disjoint `holes`.
pub(super) fn without(start: u64, end: u64, holes: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut rest = Vec::new();
    let mut at = start;
    let first = holes.partition_point(|hole| hole.1 <= start);
    for &(hole_start, hole_end) in holes.get(first..).unwrap_or_default() {
        if hole_start >= end {
            break;
        }
        if at < hole_start {
            rest.push((at, hole_start));
        }
        at = at.max(hole_end);
    }
    if at < end {
        rest.push((at, end));
    }
    rest
}
