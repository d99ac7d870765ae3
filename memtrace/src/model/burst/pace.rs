//! When faults come much faster than before: the rule of the module's head, on counts per moment. Integers only, so that a
//! replay finds the same.

use memtrace_common::MOMENT_SHIFT;
use std::collections::VecDeque;

/// A moment lasts this long.
pub(super) const MOMENT_NS: u64 = 1 << MOMENT_SHIFT;
/// Moments in what counts as a second here: 1.007 s, eight bins.
const SECOND: u64 = 480;
/// Moments in a bin: 126 ms.
const BIN: u64 = 60;
const BINS_A_SECOND: usize = (SECOND / BIN) as usize;
/// Seconds that the level is the median of.
const LEVEL_SECONDS: usize = 15;
/// Seconds that must be known before the level is a median of seconds and no longer of bins.
const SECONDS_TO_KNOW: usize = 3;
/// A rise is beyond this many times the level …
const RISE: u64 = 4;
/// … and beyond this many faults a second.
const FLOOR: u64 = 2_000;
/// Faults beyond those that a rise needs at least: four samples.
const EXCESS: u64 = 64;
/// Moments of silence that end a burst: 50 ms.
const SILENCE: u64 = 24;
/// What comes at less than this part of a rise's own pace is not part of it.
const REMNANT: u64 = 16;
/// Moments after which a rise is the new level: 30 s.
const LONGEST: u64 = 30 * SECOND;
/// Empty moments after which nothing is remembered: a minute.
const FORGET: u64 = 60 * SECOND;

/// Numbers of moments from the first to the one after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Faults a second before.
    pub(super) level: u64,
}

/// What became of a rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// It was a burst.
    Burst(Window),
    /// It was none.
    Nothing,
}

/// A rise in progress.
#[derive(Clone, Copy, Debug)]
struct Rise {
    window: Window,
    /// Faults a second that make a rise.
    threshold: u64,
    /// All faults since the start.
    faults: u64,
    /// Those up to the window's end.
    faults_in: u64,
    /// Faults beyond the threshold since the start, times [`SECOND`].
    above: u64,
    /// The most that they were, at the window's end.
    peak: u64,
    /// Faults missing to half of the threshold since they last were enough, times [`SECOND`].
    below: u64,
    found: bool,
}

/// The pace of one mm.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// The moment to come.
    pub(super) next: u64,
    /// Faults per bin, the last [`LEVEL_SECONDS`].
    bins: VecDeque<u64>,
    bin: u64,
    bin_moments: u64,
    /// Faults a second, lately; `None` when it is too early to say.
    level: Option<u64>,
    rise: Option<Rise>,
}

impl Pace {
    /// Of an mm that is watched from this moment on; `born` when it was not there before.
    pub(super) fn new(next: u64, born: bool) -> Self {
        let bins = if born { VecDeque::from([0]) } else { VecDeque::new() };
        Self { next, bins, bin: 0, bin_moments: 0, level: born.then_some(0), rise: None }
    }

    /// The rise in progress, and whether it goes on at this moment (and not perhaps is over).
    pub(super) fn rise(&self) -> Option<(Window, bool)> {
        self.rise.map(|rise| (rise.window, rise.above == rise.peak))
    }

    /// Takes empty moments up to `moment`, which is next then.
    pub(super) fn skip_to(&mut self, moment: u64, over: &mut Vec<Over>) {
        let empty = moment.saturating_sub(self.next).min(FORGET);
        for _ in 0..empty {
            self.step(0, over);
        }
        self.next = self.next.max(moment);
    }

    /// Takes the faults of the moment to come.
    pub(super) fn step(&mut self, faults: u64, over: &mut Vec<Over>) {
        if self.rise.is_none() {
            self.rise = self.level.and_then(|level| Rise::begin(self.next, level, faults));
        } else if let Some(rise) = &mut self.rise {
            rise.go_on(self.next, faults);
        }
        self.next = self.next.saturating_add(1);
        if let Some(what) = self.rise.as_mut().and_then(|rise| rise.judge(self.next)) {
            self.rise = None;
            over.push(what);
        }
        self.bin = self.bin.saturating_add(faults);
        self.bin_moments += 1;
        if self.bin_moments == BIN {
            if self.bins.len() == LEVEL_SECONDS * BINS_A_SECOND {
                self.bins.pop_front();
            }
            self.bins.push_back(std::mem::take(&mut self.bin));
            self.bin_moments = 0;
            self.level = self.median();
        }
    }

    /// Ends the rise in progress.
    pub(super) fn end(&mut self) -> Option<Over> {
        let rise = self.rise.take()?;
        Some(if rise.found { Over::Burst(rise.window) } else { Over::Nothing })
    }

    fn median(&self) -> Option<u64> {
        let seconds = self.bins.len() / BINS_A_SECOND;
        let (mut counts, factor): (Vec<u64>, u64) = if seconds >= SECONDS_TO_KNOW {
            let bins: Vec<u64> = self.bins.iter().rev().copied().collect();
            (
                bins.chunks_exact(BINS_A_SECOND)
                    .map(|bins| bins.iter().fold(0_u64, |sum, &bin| sum.saturating_add(bin)))
                    .collect(),
                1,
            )
        } else {
            (self.bins.iter().copied().collect(), BINS_A_SECOND as u64)
        };
        counts.sort_unstable();
        // The lower one of two in the middle.
        let middle = counts.len().checked_sub(1)? / 2;
        counts.get(middle).map(|count| count.saturating_mul(factor))
    }
}

impl Rise {
    fn begin(moment: u64, level: u64, faults: u64) -> Option<Self> {
        let threshold = level.saturating_mul(RISE).max(FLOOR);
        let above = faults.saturating_mul(SECOND).checked_sub(threshold).filter(|&above| above > 0)?;
        let window = Window { start: moment, end: moment.saturating_add(1), level };
        Some(Self { window, threshold, faults, faults_in: faults, above, peak: above, below: 0, found: false })
    }

    /// Faults a second without which it is not going on: what comes after a storm is not more of it.
    fn least(&self) -> u64 {
        let moments = self.window.end - self.window.start;
        (self.faults_in.saturating_mul(SECOND) / moments / REMNANT).max(self.threshold)
    }

    fn go_on(&mut self, moment: u64, faults: u64) {
        let least = self.least();
        self.faults = self.faults.saturating_add(faults);
        let faults = faults.saturating_mul(SECOND);
        self.above = self.above.saturating_add(faults).saturating_sub(least);
        self.below = self.below.saturating_add(least / 2).saturating_sub(faults);
        if self.above > self.peak {
            self.peak = self.above;
            self.faults_in = self.faults;
            self.window.end = moment.saturating_add(1);
        }
    }

    fn judge(&mut self, now: u64) -> Option<Over> {
        let needed = self.window.level.max(EXCESS).saturating_mul(SECOND);
        self.found |= self.peak >= needed;
        let silent = self.below >= (self.least() / 2).saturating_mul(SILENCE) || now - self.window.end >= SECOND;
        match (self.found, silent) {
            _ if self.window.end - self.window.start > LONGEST => Some(Over::Nothing),
            (true, true) => Some(Over::Burst(self.window)),
            (false, _) if self.above == 0 => Some(Over::Nothing),
            _ => None,
        }
    }
}
