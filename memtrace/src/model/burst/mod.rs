//! Bursts of page faults, found while they happen from how many faults an mm took when ([`crate::event::Pace`]) and told
//! from the entries of its statements. Knows nothing of what a burst means; that is for the views.
//!
//! # The rule
//! All threads of an mm count together, in moments of 2.1 ms. A *rise* begins with the first moment in which faults come
//! faster than **four times the level**, and at least 2,000 a second. Faults beyond that are added up, those that a later
//! moment lacks are taken off, and when nothing is left it was none. It is a **burst** once what is left is more than the
//! level brings **in a second** (and 64 at least): a thread that catches up after it was not run for half a second does not
//! get there, nor do batches that come several times a second. It is over when faults have stayed below half of that rate
//! for **50 ms** (strictly: when fifty milliseconds' worth of them are missing), so what is closer together is one burst;
//! it ended where they began to be missing. It is told if its own entries hold **256 faults** or move 4,096 pages (huge
//! pages need few faults).
//!
//! The **level** is the median of the faults in each of the last 15 seconds; in the first three seconds that of eighths of a
//! second, times eight. A median does not see a burst, and sees what happens in most seconds whatever its pattern. An mm
//! that was born under our eyes has the level 0 until it has shown another. One that we came to is listened to for an
//! eighth of a second; what it was doing then is its level, and not a burst. A rise that lasts for **30 s** is the new level,
//! and nothing is told of it.
//!
//! # What belongs to it
//! Entries have a first and a last time. One that lies in the burst (or within 8 ms of it: the pace is a sample of one fault
//! in sixteen of each thread, so the first and the last few are not in it) belongs to it wholly: **a burst with code or a
//! mapping of its own has its exact amounts**. An entry that reaches further, because the same code path faulted on the same
//! mapping before or after it in the same interval, belongs to it by a share: the pace says how many faults happened inside
//! and outside of the burst, entries that lie on one side are taken off, and the rest is divided. Of this part only the sum
//! is known, to one sample a thread and a moment at each end; it is told as [`Burst::uncertain`]. Between a burst's first and
//! last interval nothing is divided.
//!
//! The start is the first time of the paths that have half as many faults as the largest or more, and the end their last,
//! where they lie within 8 ms of the pace's; else the moment.

mod pace;
mod story;
#[cfg(test)]
mod tests;

use crate::event::{MmId, Why};
use crate::statement::{Burst, Entry};
use pace::{MOMENT_NS, Over, Pace, Window};
use std::collections::BTreeMap;
use story::{Interval, Story, eve_of};

/// Entries that wait for the end of a burst to be known.
const ENTRIES_WAITING: usize = 16_384;
/// A burst has at least so many faults …
const LEAST_FAULTS: u64 = 256;
/// … or moves so many pages.
const LEAST_PAGES: u64 = 4_096;

/// Finds the bursts of one mm.
#[derive(Clone, Debug)]
pub(super) struct Finder {
    pace: Pace,
    /// Moments that are not over, or not taken yet.
    moments: BTreeMap<u64, u64>,
    /// What this interval said of moments.
    heard: Vec<(u64, u64)>,
    /// Intervals of which it is not known what belongs to a burst.
    waiting: Vec<Interval>,
    /// What belongs to the rise in progress for sure.
    story: Story,
}

impl Finder {
    pub(super) fn new(ts_ns: u64, why: Why) -> Self {
        let born = !matches!(why, Why::Attach);
        Self {
            pace: Pace::new(ts_ns / MOMENT_NS, born),
            moments: BTreeMap::new(),
            heard: Vec::new(),
            waiting: Vec::new(),
            story: Story::default(),
        }
    }

    pub(super) fn pace(&mut self, moments: &[(u64, u32)]) {
        for &(ts_ns, faults) in moments {
            let moment = (ts_ns / MOMENT_NS).max(self.pace.next);
            let sum = self.moments.entry(moment).or_default();
            *sum = sum.saturating_add(u64::from(faults));
            self.heard.push((moment, u64::from(faults)));
        }
    }

    /// An interval ends, with these entries and this RES. Bursts that are over; their numbers and names are the caller's.
    pub(super) fn tick(&mut self, ts_ns: u64, entries: &[Entry], res: i64) -> Vec<Burst> {
        let now = ts_ns / MOMENT_NS;
        let rising = self.pace.rise().is_some();
        // The present moment is not over; what is said of the future is nonsense.
        let mut later = self.moments.split_off(&now.max(self.pace.next));
        later.split_off(&now.saturating_add(2));
        let mut over = self.take_moments(later);
        self.pace.skip_to(now, &mut over);
        let rise = self.pace.rise();

        let from_ns = if rising || rise.is_some() || !over.is_empty() { 0 } else { eve_of(ts_ns) };
        self.waiting.push(Interval::of(entries, from_ns, res, std::mem::take(&mut self.heard)));
        let bursts = over.into_iter().filter_map(|over| self.finish(over)).collect();
        match rise {
            None => {
                self.waiting.drain(..self.waiting.len() - 1);
                self.waiting.iter_mut().for_each(|interval| interval.forget_before(eve_of(ts_ns)));
            }
            Some((window, goes_on)) => {
                let entries: usize = self.waiting.iter().map(Interval::len).sum();
                if goes_on || entries > ENTRIES_WAITING {
                    self.story.add(&self.waiting, Window { end: u64::MAX / MOMENT_NS, ..window });
                    self.waiting.clear();
                }
            }
        }
        bursts
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self) -> Vec<Burst> {
        let mut over = self.take_moments(BTreeMap::new());
        over.extend(self.pace.end());
        over.into_iter().filter_map(|over| self.finish(over)).collect()
    }

    /// Takes the moments, `rest` remaining.
    fn take_moments(&mut self, rest: BTreeMap<u64, u64>) -> Vec<Over> {
        let mut over = Vec::new();
        for (moment, faults) in std::mem::replace(&mut self.moments, rest) {
            self.pace.skip_to(moment, &mut over);
            self.pace.step(faults, &mut over);
        }
        over
    }

    fn finish(&mut self, over: Over) -> Option<Burst> {
        let mut story = std::mem::take(&mut self.story);
        let Over::Burst(window) = over else { return None };
        story.add(&self.waiting, window);
        let burst = story.told(window);
        let moved = burst.delta.gross().unsigned_abs();
        (burst.faults.shown() >= LEAST_FAULTS || moved >= LEAST_PAGES).then_some(burst)
    }
}

impl Burst {
    /// One without anything in it.
    fn empty(start_ns: u64, ts_ns: u64, level: u64) -> Self {
        Self {
            number: 0,
            mm: MmId(0),
            pid: 0,
            comm: Vec::new(),
            start_ns,
            ts_ns,
            delta: Default::default(),
            res: 0,
            faults: Default::default(),
            uncertain: Default::default(),
            level,
            latency: Default::default(),
            causes: Vec::new(),
            mappings: Vec::new(),
            threads: Vec::new(),
            stacks: Vec::new(),
            displaced: Default::default(),
            given_back: Default::default(),
        }
    }
}
