//! What a thread did on a CPU is sampled: its exact time there, split by samples, with the bound that so few samples give.

/// Quantile of the normal distribution for 95 % on both sides.
const Z: f64 = 1.959_964;

/// One part of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// How long.
    pub ns: u64,
    /// With 95 % certainty it is not further off than this.
    pub bound_ns: u64,
}

/// Splits `ns` by `samples`, each one class; the parts add up to `ns` exactly. `None` when there is no sample at all.
///
/// The bound is the farther end of Wilson's interval for the class's share, which keeps its promise for few samples and
/// for shares of 0 and 1, where the usual one claims certainty.
#[must_use]
pub(crate) fn split(ns: u64, samples: &[u64]) -> Option<Vec<Part>> {
    // A trace may say any number: below this one, no product overflows.
    let samples = samples.iter().map(|&n| n.min(u64::from(u32::MAX)));
    let all: u128 = samples.clone().map(u128::from).sum();
    if all == 0 {
        return None;
    }
    let mut seen: u128 = 0;
    let mut begin = 0;
    let parts = samples.map(|n| {
        // The ends of the parts are rounded, not the parts: so they add up.
        seen += u128::from(n);
        let end = u64::try_from(u128::from(ns) * seen / all).unwrap_or(ns);
        let part = Part { ns: end - begin, bound_ns: bound(ns, n, all as f64) };
        begin = end;
        part
    });
    Some(parts.collect())
}

fn bound(ns: u64, n: u64, all: f64) -> u64 {
    let share = n as f64 / all;
    let z2 = Z * Z / all;
    let centre = (share + z2 / 2.0) / (1.0 + z2);
    let half = Z / (1.0 + z2) * ((share * (1.0 - share) + z2 / 4.0) / all).sqrt();
    let farthest = (centre + half - share).max(share - (centre - half));
    (farthest * ns as f64).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bound_is_wilsons() {
        // 9 of 10: 0.5958..0.9821 (any table of Wilson's intervals); of 1000 ns the lower end is 304 away.
        let parts = split(1_000, &[9, 1]).expect("there are samples");
        assert_eq!(parts, [Part { ns: 900, bound_ns: 304 }, Part { ns: 100, bound_ns: 304 }]);
        // All of 4: not before 0.5101.
        assert_eq!(split(1_000, &[4]), Some(vec![Part { ns: 1_000, bound_ns: 490 }]));
        assert_eq!(split(1_000, &[0, 0]), None);
        assert_eq!(split(1_000, &[]), None);
    }

    proptest! {
        #[test]
        fn parts_add_up(ns in any::<u64>(), samples in proptest::collection::vec(any::<u64>(), 1..20)) {
            match split(ns, &samples) {
                Some(parts) => prop_assert_eq!(parts.iter().map(|part| part.ns).sum::<u64>(), ns),
                None => prop_assert!(samples.iter().all(|&n| n == 0)),
            }
        }

        #[test]
        fn more_samples_never_widen_the_bound(n in 0_u64..1000, m in 1_u64..1000) {
            let few = split(1 << 40, &[n, m]).expect("there are samples");
            let many = split(1 << 40, &[n * 10, m * 10]).expect("there are samples");
            prop_assert!(many[0].bound_ns <= few[0].bound_ns);
        }
    }
}
