//! When smaps may be read: watching must not hurt.
//!
//! While the kernel prints smaps it holds the target's mmap_lock, which the target's own mmap and munmap wait for. It
//! drops the lock each time a buffer of about 4 kB is full, so a hold lasts for some neighbouring mappings and their
//! resident pages. Two rules: a reading is followed by a wait of 50 times its cost, and none is begun whose longest
//! hold is estimated above the limit.

use super::{MapsHeader, ReadCost};

/// Duty: of 51 moments, one is spent on smaps.
const WAIT_PER_COST: u64 = 50;
/// Measured: what a mapping costs.
const NS_PER_MAPPING: f64 = 1_700.0;
/// Measured: what a resident 4 KiB page costs. One in swap has its sharers counted, too: about as much.
const NS_PER_PAGE: f64 = 18.0;
/// Measured: what a mapping costs that nothing is printed of.
const ROLLUP_NS_PER_MAPPING: f64 = 200.0;
/// Mappings that one hold may cover: 4 kB of text at about 700 bytes each, rounded up.
const MAPPINGS_PER_HOLD: usize = 6;
/// The buffer that the kernel fills between two locks. One that is too small for a mapping is doubled, and stays so.
const BUFFER_BYTES: usize = 4096;
/// Text of a mapping but for its name, at most.
const BYTES_PER_MAPPING: usize = 900;
/// The longest name: a path of 4 kB, of which each byte is escaped.
const LONGEST_NAME: usize = 4 * 4096;
/// Mappings that a hold may cover where there are such names.
const MOST_PER_HOLD: usize = mappings_per_hold(LONGEST_NAME);

const fn mappings_per_hold(longest_name: usize) -> usize {
    let name = if longest_name < LONGEST_NAME { longest_name } else { LONGEST_NAME };
    let buffer = (name + BYTES_PER_MAPPING).next_power_of_two();
    MAPPINGS_PER_HOLD * if buffer > BUFFER_BYTES { buffer / BUFFER_BYTES } else { 1 }
}
/// How far a measurement may move the estimate away from the constants, either way. One reading that was
/// preempted for long must not forbid all later ones.
const LARGEST_CORRECTION: f64 = 4.0;

/// What decides the cost of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmapsSize {
    /// Number of mappings.
    pub mappings: u64,
    /// Pages that the walk looks at: those in memory and those in swap.
    pub walked_pages: u64,
    /// Upper bound of the pages under one hold: the largest sum of the sizes of so many neighbouring mappings
    /// as a buffer holds (six, unless names are long), in pages.
    pub neighbouring_pages: u64,
    window: [u64; MOST_PER_HOLD],
    next: usize,
    longest_name: usize,
}

impl SmapsSize {
    /// Of a process with so many pages in memory and in swap; its mappings are then given to [`Self::add`].
    #[must_use]
    pub const fn new(walked_pages: u64) -> Self {
        let window = [0; MOST_PER_HOLD];
        Self { mappings: 0, walked_pages, neighbouring_pages: 0, window, next: 0, longest_name: 0 }
    }

    /// Of a process whose mappings are not known: at worst, all of its pages are under one hold, and names are long.
    #[must_use]
    pub fn at_worst(walked_pages: u64) -> Self {
        let mappings = MOST_PER_HOLD as u64;
        Self { mappings, neighbouring_pages: u64::MAX, longest_name: LONGEST_NAME, ..Self::new(walked_pages) }
    }

    /// Takes the next mapping by address.
    pub fn add(&mut self, mapping: &MapsHeader<'_>, page_size: u64) {
        self.longest_name = self.longest_name.max(mapping.raw_name.len());
        self.add_pages((mapping.end - mapping.start) / page_size.max(1));
    }

    fn add_pages(&mut self, pages: u64) {
        self.mappings += 1;
        self.window[self.next] = pages;
        self.next = (self.next + 1) % MOST_PER_HOLD;
        // In a ring, the last ones are before the next one's place and at the end.
        let (newer, older) = self.window.split_at(self.next);
        let latest = newer.iter().rev().chain(older.iter().rev()).take(mappings_per_hold(self.longest_name));
        let sum = latest.fold(0u64, |sum, pages| sum.saturating_add(*pages));
        self.neighbouring_pages = self.neighbouring_pages.max(sum);
    }

    /// How long smaps_rollup is expected to take: the kernel holds mmap_lock for all of it, unless someone waits for it.
    #[must_use]
    pub fn estimate_rollup_ns(&self) -> u64 {
        (self.mappings as f64 * ROLLUP_NS_PER_MAPPING + self.walked_pages as f64 * NS_PER_PAGE) as u64
    }

    fn whole_ns(&self) -> f64 {
        self.mappings as f64 * NS_PER_MAPPING + self.walked_pages as f64 * NS_PER_PAGE
    }

    fn hold_ns(&self) -> f64 {
        let mappings = self.mappings.min(mappings_per_hold(self.longest_name) as u64);
        let pages = self.walked_pages.min(self.neighbouring_pages);
        mappings as f64 * NS_PER_MAPPING + pages as f64 * NS_PER_PAGE
    }
}

/// Why smaps is not read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The last reading is not long enough ago.
    #[error("the next smaps reading is not due yet")]
    NotDue {
        /// When it is.
        due_ns: u64,
    },
    /// The reading would hold mmap_lock for too long.
    #[error(
        "reading smaps may hold mmap_lock for {:.1} ms at a time, and the limit (--max-snapshot-ms) is {:.1} ms",
        *estimate_ns as f64 / 1e6,
        *limit_ns as f64 / 1e6
    )]
    HoldTooLong {
        /// The estimate.
        estimate_ns: u64,
        /// The limit.
        limit_ns: u64,
    },
}

/// Decides when smaps may be read. Knows no clock: times are whatever the caller counts, in ns.
#[derive(Clone, Copy, Debug)]
pub struct SmapsBudget {
    interval_ns: u64,
    limit_ns: Option<u64>,
    due_ns: u64,
    /// Measured cost over estimated cost, of the reading that was least disturbed.
    correction: Option<f64>,
}

impl SmapsBudget {
    /// `interval_ns`: wanted distance of readings. `limit_ns`: longest hold; `None` where the user asked for smaps whatever it costs.
    /// The first reading is due at once.
    #[must_use]
    pub const fn new(interval_ns: u64, limit_ns: Option<u64>) -> Self {
        Self { interval_ns, limit_ns, due_ns: 0, correction: None }
    }

    /// When the next reading is due.
    #[must_use]
    pub const fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Longest hold that a reading of this size is expected to take, from the constants and, after a reading, from
    /// what this machine needed for it.
    #[must_use]
    pub fn estimate_hold_ns(&self, size: &SmapsSize) -> u64 {
        (size.hold_ns() * self.correction.unwrap_or(1.0)) as u64
    }

    /// Whether smaps may be read now.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, now_ns: u64, size: &SmapsSize) -> Result<(), Refusal> {
        if now_ns < self.due_ns {
            return Err(Refusal::NotDue { due_ns: self.due_ns });
        }
        let estimate_ns = self.estimate_hold_ns(size);
        match self.limit_ns {
            Some(limit_ns) if estimate_ns > limit_ns => Err(Refusal::HoldTooLong { estimate_ns, limit_ns }),
            _ => Ok(()),
        }
    }

    /// Takes note of a reading that ended now; the next is due after the interval or after 50 times its cost.
    pub fn spent(&mut self, now_ns: u64, size: &SmapsSize, cost: ReadCost) {
        self.due_ns = now_ns.saturating_add(cost.cost_ns.saturating_mul(WAIT_PER_COST).max(self.interval_ns));
        let estimate = size.whole_ns();
        if estimate > 0.0 && cost.cost_ns > 0 {
            let ratio = (cost.cost_ns as f64 / estimate).clamp(LARGEST_CORRECTION.recip(), LARGEST_CORRECTION);
            self.correction = Some(self.correction.map_or(ratio, |before| before.min(ratio)));
        }
    }

    /// Takes note that a due reading was refused: it is looked at again after the interval.
    pub fn skipped(&mut self, now_ns: u64) {
        self.due_ns = self.due_ns.max(now_ns.saturating_add(self.interval_ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1_000 * MS;

    fn size(resident: u64, mappings: &[u64]) -> SmapsSize {
        let mut size = SmapsSize::new(resident);
        for &pages in mappings {
            size.add_pages(pages);
        }
        size
    }

    fn cost(ns: u64) -> ReadCost {
        ReadCost { cost_ns: ns, longest_hold_ns: ns, reads: 1 }
    }

    #[test]
    fn waits_the_interval_or_fifty_times_the_cost() {
        let mut budget = SmapsBudget::new(5 * SECOND, Some(50 * MS));
        let small = size(1000, &[10; 100]);
        assert_eq!(budget.check(0, &small), Ok(()));
        budget.spent(SECOND, &small, cost(MS));
        assert_eq!(budget.due_ns(), 6 * SECOND);
        assert_eq!(budget.check(6 * SECOND - 1, &small), Err(Refusal::NotDue { due_ns: 6 * SECOND }));
        assert_eq!(budget.check(6 * SECOND, &small), Ok(()));
        budget.spent(6 * SECOND, &small, cost(200 * MS));
        assert_eq!(budget.due_ns(), 16 * SECOND);
    }

    #[test]
    fn a_huge_mapping_is_refused_but_many_small_ones_are_not() {
        let budget = SmapsBudget::new(SECOND, Some(50 * MS));
        // 16 GiB of shared memory in one mapping: 4 Mi pages under one hold, 75 ms.
        let shared = size(4 << 20, &[1, 2, 4 << 20, 3]);
        let Err(Refusal::HoldTooLong { estimate_ns, limit_ns }) = budget.check(0, &shared) else {
            panic!("must refuse")
        };
        assert!((75 * MS..77 * MS).contains(&estimate_ns), "{estimate_ns}");
        assert_eq!(limit_ns, 50 * MS);
        // The same memory in 4096 mappings: the whole costs as much, each hold little.
        assert_eq!(budget.check(0, &size(4 << 20, &[1024; 4096])), Ok(()));
        // Mapped but not touched costs nothing.
        assert_eq!(budget.check(0, &size(1000, &[1, 2, 4 << 20, 3])), Ok(()));
        assert_eq!(SmapsBudget::new(SECOND, None).check(0, &shared), Ok(()));
    }

    #[test]
    fn at_worst_nothing_is_better_than_known() {
        let known = size(1000, &[400; 10]);
        let budget = SmapsBudget::new(0, None);
        assert!(budget.estimate_hold_ns(&SmapsSize::at_worst(1000)) >= budget.estimate_hold_ns(&known));
        let mut long = SmapsSize { longest_name: LONGEST_NAME, ..SmapsSize::new(1000) };
        for _ in 0..100 {
            long.add_pages(1000);
        }
        assert_eq!(long.hold_ns(), SmapsSize::at_worst(1000).hold_ns());
    }

    #[test]
    fn six_neighbours_share_a_hold() {
        assert_eq!(size(0, &[9, 1, 1, 1, 1, 1, 1, 9]).neighbouring_pages, 14);
        assert_eq!(size(0, &[u64::MAX, u64::MAX]).neighbouring_pages, u64::MAX);
    }

    #[test]
    fn a_long_name_makes_the_kernel_hold_for_more_mappings_from_there_on() {
        let mut text = String::new();
        for start in 0..40_u64 {
            let name = if start == 9 { format!("/{}", "x".repeat(3500)) } else { String::new() };
            text += &format!("{start:x}0000-{start:x}1000 r--p 00000000 08:01 7 {name}\n");
        }
        let of = |text: &str| {
            let mut size = SmapsSize::new(1 << 20);
            crate::procfs::visit_maps(text.as_bytes(), |header| size.add(header, 4096));
            size
        };
        // Seen of Linux 6.18: 8 kB in one call after a name of 3.5 kB, as a process's smaps is read.
        assert_eq!(of(&text).neighbouring_pages, 12);
        assert_eq!(of(&text.replace('x', "")).neighbouring_pages, 6);
        assert_eq!((mappings_per_hold(0), mappings_per_hold(usize::MAX)), (6, 48));
    }

    #[test]
    fn a_measurement_corrects_the_estimate_within_bounds() {
        let mut budget = SmapsBudget::new(0, Some(50 * MS));
        let big = size(2 << 20, &[2 << 20]);
        assert_eq!(budget.check(0, &big), Ok(()));
        // Twice as slow as the constants say: about 75 ms.
        budget.spent(0, &big, cost(76 * MS));
        assert!(matches!(budget.check(100 * SECOND, &big), Err(Refusal::HoldTooLong { .. })));
        // The fastest reading is the least disturbed one, and a disturbance of seconds counts as fourfold.
        budget.spent(0, &big, cost(38 * MS));
        assert_eq!(budget.check(100 * SECOND, &big), Ok(()));
        let mut budget = SmapsBudget::new(0, Some(50 * MS));
        budget.spent(0, &size(100, &[100]), cost(10 * SECOND));
        assert_eq!(budget.check(10_000 * SECOND, &size(1000, &[1000; 10])), Ok(()));
    }

    #[test]
    fn a_refused_reading_is_not_asked_for_at_each_tick() {
        let mut budget = SmapsBudget::new(5 * SECOND, Some(MS));
        budget.skipped(SECOND);
        assert_eq!(budget.due_ns(), 6 * SECOND);
        assert_eq!(
            budget.check(7 * SECOND, &size(1 << 20, &[1 << 20])).unwrap_err().to_string(),
            "reading smaps may hold mmap_lock for 18.9 ms at a time, and the limit (--max-snapshot-ms) is 1.0 ms"
        );
    }
}
