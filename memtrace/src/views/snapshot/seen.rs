//! What of a process is private and what is shared, from wherever it is known: smaps, or else the pages that were looked
//! at one by one for a picture. So text and pictures say the same. Nothing is guessed: of a mapping that neither tells of,
//! it is unknown.

use crate::snapshot::rows::Sums;
use crate::snapshot::{Mapping, PageMap, Process, Rollup, Snapshot};
use std::collections::BTreeMap;

/// A process with what was seen of its pages.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) process: &'a Process,
    map: Option<&'a PageMap>,
}

/// Bytes in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pages {
    /// Mapped by nobody else.
    pub(super) private: u64,
    /// Mapped more than once.
    pub(super) shared: u64,
}

impl Pages {
    const fn plus(self, other: Self) -> Self {
        Self { private: self.private.saturating_add(other.private), shared: self.shared.saturating_add(other.shared) }
    }
}

/// Of several, if it is known of each.
pub(super) fn sum(pages: impl IntoIterator<Item = Option<Pages>>) -> Option<Pages> {
    pages.into_iter().try_fold(Pages::default(), |sum, pages| Some(sum.plus(pages?)))
}

impl<'a> Seen<'a> {
    /// The processes of a snapshot.
    pub(super) fn all(snapshot: &'a Snapshot) -> impl Iterator<Item = Self> {
        let map = |index: usize| snapshot.page_maps.get(index).and_then(Option::as_ref);
        snapshot.processes.iter().enumerate().map(move |(index, process)| Self { process, map: map(index) })
    }

    /// Of each mapping.
    pub(super) fn pages(self) -> impl Iterator<Item = (&'a Mapping, Option<Pages>)> {
        let pages = move |(index, mapping): (usize, &'a Mapping)| (mapping, self.of_mapping(index, mapping));
        self.process.mappings.iter().flatten().enumerate().map(pages)
    }

    fn of_mapping(self, index: usize, mapping: &Mapping) -> Option<Pages> {
        let sums = Sums::from(mapping);
        if let Some((private, shared)) = sums.private().zip(sums.shared()) {
            return Some(Pages { private, shared });
        }
        if sums.rss() == Some(0) {
            return Some(Pages::default());
        }
        let slices = &self.map?.mappings.get(index)?.slices;
        let of = |slice: &crate::snapshot::Slice| Some(Pages { private: slice.private, shared: slice.shared });
        sum(slices.iter().map(of)).filter(|_| !slices.is_empty())
    }

    /// Of the mappings that have the same key together.
    pub(super) fn by<K: Ord>(self, key: impl Fn(&'a Mapping) -> K) -> BTreeMap<K, Option<Pages>> {
        let mut sums = BTreeMap::new();
        for (mapping, pages) in self.pages() {
            let entry = sums.entry(key(mapping)).or_insert(Some(Pages::default()));
            *entry = sum([*entry, pages]);
        }
        sums
    }

    /// What nobody else maps.
    pub(super) fn uss(self) -> Option<u64> {
        let added_up = || self.process.mappings.as_ref().and(sum(self.pages().map(|(_, pages)| pages)));
        let rollup = self.process.rollup.as_ref().map(Rollup::uss);
        rollup.or_else(|| added_up().map(|pages| pages.private))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::snapshot::blocks::tests::placed;
    use crate::views::snapshot::sample;

    #[test]
    fn what_smaps_says_and_what_the_page_map_says_is_the_same_and_without_both_it_is_unknown() {
        let (full, over) = (sample::postgres(), sample::over_budget());
        let map = placed(&full);
        let of = |process, map| Seen { process, map }.pages().map(|(_, pages)| pages).collect::<Vec<_>>();
        assert_eq!(of(&over, Some(&map)), of(&full, None));
        assert_eq!(Seen { process: &over, map: Some(&map) }.uss(), full.rollup.as_ref().map(Rollup::uss));
        assert_eq!(Seen { process: &over, map: None }.uss(), None);
        let known = of(&over, None);
        let mappings = over.mappings.as_deref().unwrap_or_default();
        assert!(mappings.iter().zip(&known).all(|(m, pages)| pages.is_some() == (Sums::from(m).rss() == Some(0))));
    }
}
