//! Arithmetic on fault latencies. Counts and sums are merged exactly; quantiles are read off the histogram's powers of two.

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

    /// The latency below which the share `q` (0 to 1) of the samples lies, in nanoseconds: linear within the
    /// power of two that holds it, never above the largest sample. `None` without samples.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let counted: u64 = self.hist.iter().map(|&count| u64::from(count)).sum();
        if counted == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * counted as f64;
        let mut below = 0.0;
        for (bucket, &count) in self.hist.iter().enumerate() {
            let count = f64::from(count);
            if count > 0.0 && below + count >= rank {
                let low = if bucket == 0 { 0 } else { 1_u64 << (bucket + 7) };
                let high = if bucket + 1 == HIST_BUCKETS { self.max_ns.max(low) } else { 1 << (bucket + 8) };
                let inside = low as f64 + (high - low) as f64 * ((rank - below) / count).max(0.0);
                return Some((inside as u64).min(self.max_ns));
            }
            below += count;
        }
        Some(self.max_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(samples: &[u64]) -> Latency {
        let mut latency = Latency::default();
        for &ns in samples {
            latency.samples += 1;
            latency.sum_ns += ns;
            latency.max_ns = latency.max_ns.max(ns);
            let bucket = (63 - ns.max(1).leading_zeros()).saturating_sub(7).min(HIST_BUCKETS as u32 - 1);
            latency.hist[bucket as usize] += 1;
        }
        latency
    }

    #[test]
    fn quantiles_lie_in_the_bucket_of_the_true_one() {
        assert_eq!(Latency::default().quantile(0.5), None);
        let latency = of(&[1500; 99].into_iter().chain([80_000]).collect::<Vec<_>>());
        assert!((1024..2048).contains(&latency.quantile(0.5).unwrap()));
        assert!((1024..=2048).contains(&latency.quantile(0.99).unwrap()));
        assert!((65_536..=80_000).contains(&latency.quantile(1.0).unwrap()));
    }

    #[test]
    fn never_above_the_largest_sample() {
        assert_eq!(of(&[1030]).quantile(0.99), Some(1030));
        assert_eq!(of(&[u64::MAX]).quantile(1.0), Some(u64::MAX));
    }

    #[test]
    fn merging_is_the_same_as_having_seen_both() {
        let mut left = of(&[130, 5_000]);
        left.merge(&of(&[9_000_000, 200]));
        assert_eq!(left, of(&[130, 5_000, 9_000_000, 200]));
    }
}
