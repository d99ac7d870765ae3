//! What belongs to a burst: entries of intervals against its window. See the module's head for what is exact.

use super::pace::{MOMENT_NS, Window};
use crate::event::{Latency, StackId};
use crate::statement::{Burst, Entry, Faults, MappingRef, Part, Stack};
use crate::units::Amounts;
use memtrace_common::{Cause, FAULT_SAMPLE};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How far an entry may reach beyond a burst's moments and still be wholly its own, four moments.
const SLACK_NS: u64 = 4 * MOMENT_NS;
/// A fault in so many is in the pace.
const SAMPLE: u64 = FAULT_SAMPLE as u64;
/// Rows of each kind that a burst in progress has at most, and that it is told with.
const ROWS: usize = 1_024;
const ROWS_TOLD: usize = 16;

/// From here on, what happens before an interval's end may belong to a burst that begins after it.
pub(super) const fn eve_of(ts_ns: u64) -> u64 {
    ts_ns.saturating_sub(SLACK_NS)
}

/// One code path on one mapping.
type Path = (Cause, Option<u64>, u32, Option<StackId>);

fn path(entry: &Entry) -> Path {
    (entry.cause, entry.mapping.as_ref().map(|m| m.id), entry.tid, entry.stack.as_ref().map(|s| s.id))
}

/// What an interval said.
#[derive(Clone, Debug)]
pub(super) struct Interval {
    entries: Vec<Entry>,
    /// RES at its end.
    res: i64,
    /// Faults per moment.
    pace: Vec<(u64, u64)>,
}

impl Interval {
    /// What of it may belong to a burst, if that happened from `from_ns` on.
    pub(super) fn of(entries: &[Entry], from_ns: u64, res: i64, pace: Vec<(u64, u64)>) -> Self {
        let of_interest = |entry: &&Entry| entry.first_ns >= from_ns && (is_fault(entry.cause) || shrinks(entry));
        Self { entries: entries.iter().filter(of_interest).cloned().collect(), res, pace }
    }

    pub(super) fn forget_before(&mut self, from_ns: u64) {
        self.entries.retain(|entry| entry.first_ns >= from_ns);
        self.pace.clear();
    }

    pub(super) const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Faults per moment that the pace shows in a range of moments.
    fn faults(&self, moments: std::ops::Range<u64>) -> u64 {
        self.pace.iter().filter(|(m, _)| moments.contains(m)).fold(0, |sum, (_, faults)| sum.saturating_add(*faults))
    }
}

/// Page faults and what they waited for; the rest of a statement is not the burst's doing.
const fn is_fault(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::FaultAnon
            | Cause::FaultThp
            | Cause::FaultCow
            | Cause::FaultFile
            | Cause::FaultFileRead
            | Cause::FaultShmem
            | Cause::FaultSwapin
            | Cause::FaultNone
            | Cause::Uffd
    )
}

const fn is_reclaim(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::ReclaimKswapd | Cause::ReclaimDirect | Cause::ReclaimMemcg | Cause::MadviseFree | Cause::OomReaper
    )
}

const fn shrinks(entry: &Entry) -> bool {
    entry.delta.anon < 0 || entry.delta.file < 0 || entry.delta.shmem < 0
}

/// A part of one.
#[derive(Clone, Copy, Debug)]
struct Share {
    part: u64,
    whole: u64,
}

impl Share {
    const ALL: Self = Self { part: 1, whole: 1 };

    fn of(self, amount: u64) -> u64 {
        let scaled = (u128::from(amount) * u128::from(self.part) + u128::from(self.whole) / 2) / u128::from(self.whole);
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }

    fn of_signed(self, amount: i64) -> i64 {
        let scaled = i64::try_from(self.of(amount.unsigned_abs())).unwrap_or(i64::MAX);
        if amount < 0 { -scaled } else { scaled }
    }

    fn of_amounts(self, amounts: Amounts) -> Amounts {
        Amounts {
            anon: self.of_signed(amounts.anon),
            file: self.of_signed(amounts.file),
            shmem: self.of_signed(amounts.shmem),
            swap: self.of_signed(amounts.swap),
        }
    }

    fn of_faults(self, faults: Faults) -> Faults {
        Faults { minor: self.of_signed(faults.minor), major: self.of_signed(faults.major) }
    }

    fn of_latency(self, latency: &Latency) -> Latency {
        Latency {
            samples: self.of(latency.samples),
            sum_ns: self.of(latency.sum_ns),
            max_ns: latency.max_ns,
            hist: latency.hist.map(|n| u32::try_from(self.of(u64::from(n))).unwrap_or(u32::MAX)),
        }
    }
}

/// What an entry is to a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Belongs {
    /// It lies in it.
    Wholly,
    /// It lies beside it, within what a sample may miss: if its path is the burst's, it is, too.
    Beside,
    /// It reaches into it.
    Partly,
    /// It happened at another time.
    Not,
}

fn belongs(entry: &Entry, start_ns: u64, end_ns: u64) -> Belongs {
    let near = entry.first_ns >= start_ns.saturating_sub(SLACK_NS) && entry.last_ns <= end_ns.saturating_add(SLACK_NS);
    let touches = entry.first_ns < end_ns && entry.last_ns >= start_ns;
    match (near, touches) {
        (true, true) => Belongs::Wholly,
        (true, false) => Belongs::Beside,
        (false, true) => Belongs::Partly,
        (false, false) => Belongs::Not,
    }
}

/// Rows by something, with their names.
#[derive(Clone, Debug)]
struct Rows<K, T>(BTreeMap<K, Part<T>>);

impl<K, T> Default for Rows<K, T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Copy, T: Clone> Rows<K, T> {
    fn add(&mut self, key: K, of: T, delta: Amounts, faults: Faults) {
        let row = self.0.entry(key).or_insert_with(|| Part {
            of: of.clone(),
            delta: Amounts::ZERO,
            faults: Faults::default(),
        });
        row.of = of;
        row.delta += delta;
        row.faults += faults;
        if self.0.len() > 2 * ROWS {
            let keep: Vec<K> = self.sorted().into_iter().take(ROWS).map(|(key, _)| key).collect();
            self.0.retain(|key, _| keep.contains(key));
        }
    }

    fn sorted(&self) -> Vec<(K, &Part<T>)> {
        let mut rows: Vec<_> = self.0.iter().map(|(&key, row)| (key, row)).collect();
        rows.sort_by_key(|(_, row)| std::cmp::Reverse((row.faults.all(), row.delta.gross())));
        rows
    }

    fn told(&self) -> Vec<Part<T>> {
        self.sorted().into_iter().take(ROWS_TOLD).map(|(_, row)| row.clone()).collect()
    }
}

/// A burst being added up.
#[derive(Clone, Debug, Default)]
pub(super) struct Story {
    delta: Amounts,
    faults: Faults,
    uncertain: Part<()>,
    latency: Latency,
    res: i64,
    causes: Rows<Cause, Cause>,
    mappings: Rows<Option<u64>, Option<Arc<MappingRef>>>,
    threads: Rows<u32, (u32, Vec<u8>)>,
    stacks: Rows<Option<StackId>, Option<Arc<Stack>>>,
    displaced: Amounts,
    given_back: Amounts,
    /// Of each path that is wholly its own, in this interval or one before: faults, first and last time.
    paths: BTreeMap<Path, (i64, u64, u64)>,
}

impl Story {
    /// Adds what of these intervals belongs to a burst in this window.
    pub(super) fn add(&mut self, intervals: &[Interval], window: Window) {
        let (start_ns, end_ns) = (window.start.saturating_mul(MOMENT_NS), window.end.saturating_mul(MOMENT_NS));
        let whole = |entry: &&Entry| is_fault(entry.cause) && belongs(entry, start_ns, end_ns) == Belongs::Wholly;
        let entries = intervals.iter().flat_map(|interval| &interval.entries);
        let own: BTreeSet<Path> = entries.filter(whole).map(path).collect();
        for interval in intervals {
            let dividing = Dividing::of(interval, window, start_ns, end_ns);
            let mut touched = false;
            for entry in &interval.entries {
                let belongs = belongs(entry, start_ns, end_ns);
                touched |= matches!(belongs, Belongs::Wholly | Belongs::Partly);
                if !is_fault(entry.cause) {
                    self.add_loss(entry, start_ns, end_ns);
                    continue;
                }
                match belongs {
                    Belongs::Wholly | Belongs::Beside => {
                        let path = path(entry);
                        if own.contains(&path) || self.paths.contains_key(&path) {
                            self.add_entry(entry, Share::ALL);
                            self.note_times(entry);
                        }
                    }
                    Belongs::Partly => self.add_part(entry, dividing.share(interval, entry)),
                    Belongs::Not => {}
                }
            }
            if touched {
                self.res = interval.res;
            }
        }
    }

    fn add_part(&mut self, entry: &Entry, share: Share) {
        let faults = entry.faults.shown();
        let outside = faults - share.of(faults).min(faults);
        let unsure = if outside <= SAMPLE && outside < faults / 2 {
            // No more than a sample of it is outside, which is nothing but chance.
            self.add_entry(entry, Share::ALL);
            Share { part: SAMPLE.min(faults), whole: faults }
        } else {
            self.add_entry(entry, share);
            share
        };
        self.uncertain.delta += unsure.of_amounts(entry.delta);
        self.uncertain.faults += unsure.of_faults(entry.faults);
    }

    fn add_entry(&mut self, entry: &Entry, share: Share) {
        let delta = share.of_amounts(entry.delta);
        let faults = share.of_faults(entry.faults);
        self.delta += delta;
        self.faults += faults;
        self.latency.merge(&share.of_latency(&entry.latency));
        let (.., stack) = path(entry);
        self.causes.add(entry.cause, entry.cause, delta, faults);
        self.mappings.add(entry.mapping.as_ref().map(|m| m.id), entry.mapping.clone(), delta, faults);
        self.threads.add(entry.tid, (entry.tid, entry.comm.clone()), delta, faults);
        self.stacks.add(stack, entry.stack.clone(), delta, faults);
    }

    fn note_times(&mut self, entry: &Entry) {
        let (faults, first, last) = self.paths.entry(path(entry)).or_insert((0, u64::MAX, 0));
        *faults = faults.saturating_add(entry.faults.all());
        (*first, *last) = ((*first).min(entry.first_ns), (*last).max(entry.last_ns));
        if self.paths.len() > 2 * ROWS {
            let half = self.half_of_largest();
            self.paths.retain(|_, (faults, ..)| *faults >= half);
            if self.paths.len() > ROWS {
                self.paths.clear();
            }
        }
    }

    /// Half of the faults of the path that has most.
    fn half_of_largest(&self) -> i64 {
        self.paths.values().map(|(faults, ..)| *faults).max().unwrap_or_default() / 2
    }

    /// First and last time of the paths that have most faults.
    fn span(&self) -> Option<(u64, u64)> {
        let half = self.half_of_largest();
        let large = self.paths.values().filter(|(faults, ..)| *faults >= half);
        large.map(|(_, first, last)| (*first, *last)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// What left meanwhile, in proportion to the time where that reaches further. Entries that are no faults often have no
    /// time but their first.
    fn add_loss(&mut self, entry: &Entry, start_ns: u64, end_ns: u64) {
        let share = match belongs(entry, start_ns, end_ns) {
            Belongs::Wholly | Belongs::Beside => Share::ALL,
            Belongs::Partly => Share {
                part: entry.last_ns.min(end_ns).saturating_sub(entry.first_ns.max(start_ns)),
                whole: entry.last_ns.saturating_sub(entry.first_ns).max(1),
            },
            Belongs::Not => return,
        };
        let lost = Amounts {
            anon: entry.delta.anon.min(0),
            file: entry.delta.file.min(0),
            shmem: entry.delta.shmem.min(0),
            swap: entry.delta.swap.min(0),
        };
        let sum = if is_reclaim(entry.cause) { &mut self.displaced } else { &mut self.given_back };
        *sum += share.of_amounts(lost);
    }

    /// The burst.
    pub(super) fn told(self, window: Window) -> Burst {
        let (start, end) = (window.start.saturating_mul(MOMENT_NS), window.end.saturating_mul(MOMENT_NS));
        let near = |exact: u64, pace: u64| if exact.abs_diff(pace) <= SLACK_NS { exact } else { pace };
        let (first, last) = self.span().unwrap_or((start, end));
        let start_ns = near(first, start);
        Burst {
            delta: self.delta,
            res: self.res,
            faults: self.faults,
            uncertain: self.uncertain,
            latency: self.latency,
            causes: self.causes.told(),
            mappings: self.mappings.told(),
            threads: self.threads.told(),
            stacks: self.stacks.told(),
            displaced: self.displaced,
            given_back: self.given_back,
            ..Burst::empty(start_ns, near(last, end).max(start_ns), window.level)
        }
    }
}

/// How the faults of entries that lie on both sides of a burst's ends are divided.
#[derive(Clone, Debug)]
struct Dividing {
    window: Window,
    /// Of the pace's faults inside and outside, those that are not of an entry that lies on one side.
    inside: Share,
    outside: Share,
}

impl Dividing {
    fn of(interval: &Interval, window: Window, start_ns: u64, end_ns: u64) -> Self {
        let (mut own, mut others) = (Faults::default(), Faults::default());
        for entry in interval.entries.iter().filter(|entry| is_fault(entry.cause)) {
            match belongs(entry, start_ns, end_ns) {
                Belongs::Wholly => own += entry.faults,
                Belongs::Beside | Belongs::Not => others += entry.faults,
                Belongs::Partly => {}
            }
        }
        let inside = interval.faults(window.start..window.end);
        let outside = interval.faults(0..u64::MAX).saturating_sub(inside);
        let rest = |all: u64, known: Faults| Share { part: all.saturating_sub(known.shown()), whole: all.max(1) };
        Self { window, inside: rest(inside, own), outside: rest(outside, others) }
    }

    /// The part of an entry that is inside.
    fn share(&self, interval: &Interval, entry: &Entry) -> Share {
        let (first, last) = (entry.first_ns / MOMENT_NS, (entry.last_ns / MOMENT_NS).saturating_add(1));
        let within = first.max(self.window.start)..last.min(self.window.end);
        let inside = interval.faults(within.clone());
        let outside = interval.faults(first..last).saturating_sub(inside);
        // In 1/256 of a fault: few faults are divided, too.
        let fine = |share: Share, faults: u64| share.of(faults.saturating_mul(256));
        let (inside, outside) = (fine(self.inside, inside), fine(self.outside, outside));
        match inside.saturating_add(outside) {
            // The pace knows nothing of it: by time.
            0 => Share { part: within.end.saturating_sub(within.start), whole: (last - first).max(1) },
            whole => Share { part: inside, whole },
        }
    }
}
