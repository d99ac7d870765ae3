//! Arithmetic on sampled fault latencies. Counts and sums are merged exactly; quantiles are read off the histogram's
//! powers of two and totals are scaled up: estimates, and named so wherever they are printed.

use crate::event::Latency;
use memtrace_common::HIST_BUCKETS;

impl Latency {
    /// Adds `other`'s samples.
    pub fn merge(&mut self, other: &Self) {
        self.samples = self.samples.saturating_add(other.samples);
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        for (mine, theirs) in self.hist.iter_mut().zip(other.hist) {
            *mine = mine.saturating_add(theirs);
        }
    }

    /// The latency in nanoseconds below which `per_mille` of 1000 samples lie, from the histogram of powers of two:
    /// linear within a bucket, never above the largest sample. `None` when nothing was sampled.
    #[must_use]
    pub fn quantile_ns(&self, per_mille: u64) -> Option<u64> {
        let total: u64 = self.hist.iter().map(|&n| u64::from(n)).sum();
        if total == 0 {
            return None;
        }
        let rank = (total * per_mille.min(1_000)).div_ceil(1_000).max(1);
        let mut below = 0;
        for (i, &n) in self.hist.iter().enumerate() {
            let n = u64::from(n);
            if below + n >= rank {
                let low = if i == 0 { 0 } else { 1_u64 << (i + 7) };
                // The last bucket is open-ended: only the largest sample bounds it.
                let high = if i + 1 == HIST_BUCKETS { self.max_ns.max(low) } else { 1_u64 << (i + 8) };
                let high = high.min(self.max_ns.max(low));
                let position = u128::from(rank - below) * 2 - 1;
                let inside = u128::from(high - low) * position / (u128::from(n) * 2);
                return Some((low + inside as u64).min(self.max_ns));
            }
            below += n;
        }
        None
    }

    /// What `faults` faults took in all, if the sampled ones are like the rest; `None` when nothing was sampled.
    #[must_use]
    pub fn estimated_total_ns(&self, faults: u64) -> Option<u64> {
        let samples = u128::from(self.samples);
        if samples == 0 {
            return None;
        }
        let total = u128::from(self.sum_ns) * u128::from(faults.max(self.samples)) / samples;
        Some(u64::try_from(total).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(ns: u64) -> usize {
        (ns.max(1).ilog2() as usize).saturating_sub(7).min(HIST_BUCKETS - 1)
    }

    fn of(samples: &[u64]) -> Latency {
        let mut latency = Latency::default();
        for &ns in samples {
            latency.samples += 1;
            latency.sum_ns += ns;
            latency.max_ns = latency.max_ns.max(ns);
            latency.hist[bucket(ns)] += 1;
        }
        latency
    }

    #[test]
    fn nothing_sampled_is_unknown() {
        assert_eq!(Latency::default().quantile_ns(500), None);
        assert_eq!(Latency::default().estimated_total_ns(10), None);
    }

    #[test]
    fn totals_scale_by_the_faults() {
        assert_eq!(of(&[1_000, 3_000]).estimated_total_ns(16), Some(32_000));
    }

    #[test]
    fn never_above_the_largest_sample() {
        assert!((1024..=1030).contains(&of(&[1030]).quantile_ns(990).unwrap()));
        assert!(of(&[u64::MAX]).quantile_ns(1000).is_some_and(|ns| ns >= 1 << 30));
    }

    #[test]
    fn merging_is_the_same_as_having_seen_both() {
        let mut left = of(&[130, 5_000]);
        left.merge(&of(&[9_000_000, 200]));
        assert_eq!(left, of(&[130, 5_000, 9_000_000, 200]));
    }

    proptest! {
        #[test]
        fn a_quantile_lies_in_the_bucket_of_the_true_one(
            mut samples in proptest::collection::vec(0_u64..1 << 36, 1..50),
            per_mille in 0_u64..=1000,
        ) {
            samples.sort_unstable();
            let latency = of(&samples);
            let rank = (samples.len() as u64 * per_mille).div_ceil(1000).max(1) as usize;
            let estimate = latency.quantile_ns(per_mille).unwrap();
            prop_assert_eq!(bucket(estimate), bucket(samples[rank - 1]));
            prop_assert!(estimate <= latency.max_ns);
        }
    }
}
