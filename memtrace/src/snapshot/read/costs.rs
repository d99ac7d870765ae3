//! What each source cost, added up call by call. The clock is the caller's.

use crate::procfs::ReadCost;
use crate::snapshot::{Source, SourceCost};
use std::time::{Duration, Instant};

/// Costs by source, in the order in which the sources were first used.
#[derive(Clone, Debug, Default)]
pub struct Costs(Vec<SourceCost>);

impl From<Vec<SourceCost>> for Costs {
    /// Goes on from there.
    fn from(sources: Vec<SourceCost>) -> Self {
        Self(sources)
    }
}

impl Costs {
    /// One call of a source.
    pub fn add(&mut self, source: Source, duration: Duration) {
        self.add_reading(source, ReadCost::of_call(duration));
    }

    /// One file, in however many calls.
    pub fn add_reading(&mut self, source: Source, cost: ReadCost) {
        let ReadCost { cost_ns, longest_hold_ns, reads } = cost;
        match self.0.iter_mut().find(|known| known.source == source) {
            Some(known) => {
                known.cost_ns = known.cost_ns.saturating_add(cost_ns);
                known.longest_call_ns = known.longest_call_ns.max(longest_hold_ns);
                known.calls = known.calls.saturating_add(reads);
            }
            None => self.0.push(SourceCost { source, cost_ns, longest_call_ns: longest_hold_ns, calls: reads }),
        }
    }

    /// Makes one call of a source.
    pub fn time<T>(&mut self, source: Source, call: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = call();
        self.add(source, begin.elapsed());
        result
    }

    /// What it all cost.
    #[must_use]
    pub fn into_sources(self) -> Vec<SourceCost> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_a_source_add_up() {
        let mut costs = Costs::default();
        costs.add(Source::Maps, Duration::from_nanos(5));
        costs.add(Source::Status, Duration::from_nanos(7));
        costs.add_reading(Source::Maps, ReadCost { cost_ns: 20, longest_hold_ns: 12, reads: 3 });
        assert_eq!(costs.time(Source::Threads, || 3), 3);
        let sources = costs.into_sources();
        assert_eq!(sources[0], SourceCost { source: Source::Maps, cost_ns: 25, longest_call_ns: 12, calls: 4 });
        assert_eq!(sources[1], SourceCost { source: Source::Status, cost_ns: 7, longest_call_ns: 7, calls: 1 });
        assert_eq!((sources[2].source, sources[2].calls), (Source::Threads, 1));
    }
}
