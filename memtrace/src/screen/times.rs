//! Where the threads' time went, second by second, as long as there is room.

use crate::stuck::Stuck;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Seconds of a process that are kept.
const SECONDS: usize = 1_200;
/// Threads of one second that are kept: those that decide come first.
const THREADS: usize = 64;
/// Processes.
const PROCESSES: usize = 200;

/// By process and time.
#[derive(Debug, Default)]
pub(super) struct Times(BTreeMap<u32, VecDeque<Arc<Stuck>>>);

impl Times {
    pub(super) fn push(&mut self, stuck: &Stuck) {
        if stuck.whole || self.0.len() >= PROCESSES && !self.0.contains_key(&stuck.pid) {
            return;
        }
        let kept = self.0.entry(stuck.pid).or_default();
        let mut stuck = stuck.clone();
        stuck.threads.truncate(THREADS);
        kept.push_back(Arc::new(stuck));
        if kept.len() > SECONDS {
            kept.pop_front();
        }
    }

    /// The last second that ended at or before a time; at the begin, the first one.
    pub(super) fn at(&self, pid: u32, ts_ns: u64) -> Option<&Arc<Stuck>> {
        let kept = self.0.get(&pid)?;
        let after = kept.partition_point(|stuck| stuck.ts_ns <= ts_ns);
        kept.get(after.saturating_sub(1))
    }
}
