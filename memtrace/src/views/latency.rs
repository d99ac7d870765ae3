//! Quantiles and totals of sampled fault latencies. Estimates, and named so wherever they are printed.

use crate::event::Latency;
use memtrace_common::HIST_BUCKETS;

/// The latency in nanoseconds below which `per_mille` of 1000 samples lie, from the histogram of powers of two:
/// linear within a bucket, never above the largest sample. `None` when nothing was sampled.
#[must_use]
pub fn quantile_ns(latency: &Latency, per_mille: u64) -> Option<u64> {
    let total: u64 = latency.hist.iter().map(|&n| u64::from(n)).sum();
    if total == 0 {
        return None;
    }
    let rank = (total * per_mille.min(1_000)).div_ceil(1_000).max(1);
    let mut below = 0;
    for (i, &n) in latency.hist.iter().enumerate() {
        let n = u64::from(n);
        if below + n >= rank {
            let low = if i == 0 { 0 } else { 1_u64 << (i + 7) };
            // The last bucket is open-ended: only the largest sample bounds it.
            let high = if i + 1 == HIST_BUCKETS { latency.max_ns.max(low) } else { 1_u64 << (i + 8) };
            let high = high.min(latency.max_ns.max(low));
            let position = u128::from(rank - below) * 2 - 1;
            let inside = u128::from(high - low) * position / (u128::from(n) * 2);
            return Some((low + inside as u64).min(latency.max_ns));
        }
        below += n;
    }
    None
}

/// What `faults` faults took in all, if the sampled ones are like the rest; `None` when nothing was sampled.
#[must_use]
pub fn estimated_total_ns(latency: &Latency, faults: u64) -> Option<u64> {
    let samples = u128::from(latency.samples);
    if samples == 0 {
        return None;
    }
    let total = u128::from(latency.sum_ns) * u128::from(faults.max(latency.samples)) / samples;
    Some(u64::try_from(total).unwrap_or(u64::MAX))
}

/// Adds samples to samples.
pub(super) fn add(to: &mut Latency, more: &Latency) {
    to.samples = to.samples.saturating_add(more.samples);
    to.sum_ns = to.sum_ns.saturating_add(more.sum_ns);
    to.max_ns = to.max_ns.max(more.max_ns);
    for (a, b) in to.hist.iter_mut().zip(more.hist) {
        *a = a.saturating_add(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn of(samples: &[u64]) -> Latency {
        let mut latency = Latency::default();
        for &ns in samples {
            let bucket = (ns.max(1).ilog2() as usize).saturating_sub(7).min(HIST_BUCKETS - 1);
            latency.hist[bucket] += 1;
            latency.samples += 1;
            latency.sum_ns += ns;
            latency.max_ns = latency.max_ns.max(ns);
        }
        latency
    }

    #[test]
    fn nothing_sampled_is_unknown() {
        assert_eq!(quantile_ns(&Latency::default(), 500), None);
        assert_eq!(estimated_total_ns(&Latency::default(), 10), None);
    }

    #[test]
    fn totals_scale_by_the_faults() {
        assert_eq!(estimated_total_ns(&of(&[1_000, 3_000]), 16), Some(32_000));
    }

    proptest! {
        #[test]
        fn a_quantile_lies_in_the_bucket_of_the_true_one(mut samples in proptest::collection::vec(0_u64..1 << 36, 1..50), per_mille in 0_u64..=1000) {
            samples.sort_unstable();
            let latency = of(&samples);
            let rank = (samples.len() as u64 * per_mille).div_ceil(1000).max(1) as usize;
            let bucket = |ns: u64| (ns.max(1).ilog2() as usize).saturating_sub(7).min(HIST_BUCKETS - 1);
            let estimate = quantile_ns(&latency, per_mille).unwrap();
            prop_assert_eq!(bucket(estimate), bucket(samples[rank - 1]));
            prop_assert!(estimate <= latency.max_ns);
        }
    }
}
