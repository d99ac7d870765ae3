//! What one process maps at several places: its pages are mapped more than once, though nobody else need have them. Known
//! by the file and the parts of it that mappings show; a page's number of mappings alone does not tell it.

use crate::snapshot::rows::Sums;
use crate::snapshot::{Mapping, Process};
use crate::statement::Kind;
use std::collections::BTreeMap;

/// Less is no news.
const LEAST: u64 = 1 << 20;

/// A file or segment of which parts are mapped at several places of one process.
pub(super) struct Twice<'a> {
    /// The first mapping of it.
    pub(super) mapping: &'a Mapping,
    /// At how many places, at most.
    pub(super) times: usize,
    /// Bytes of it that are at more than one; of these no more than are mapped more than once and in memory.
    pub(super) bytes: u64,
}

/// The largest first.
pub(super) fn of(process: &Process) -> Vec<Twice<'_>> {
    let mut files: BTreeMap<(u64, u64), Vec<&Mapping>> = BTreeMap::new();
    for mapping in process.mappings.iter().flatten().filter(|mapping| may_be(mapping)) {
        files.entry((mapping.device, mapping.inode)).or_default().push(mapping);
    }
    let mut several: Vec<Twice<'_>> = files.into_values().filter_map(|mappings| overlap(&mappings)).collect();
    several.sort_by_key(|twice| std::cmp::Reverse(twice.bytes));
    several
}

/// Segments of a program overlap in the page where one ends and the next begins: no news.
const fn may_be(mapping: &Mapping) -> bool {
    mapping.inode != 0 && !matches!(mapping.kind, Kind::Program | Kind::Library)
}

fn overlap<'a>(mappings: &[&'a Mapping]) -> Option<Twice<'a>> {
    let first = *mappings.first().filter(|_| mappings.len() > 1)?;
    // Offsets at which one begins or ends.
    let mut ends: BTreeMap<u64, i64> = BTreeMap::new();
    for mapping in mappings {
        *ends.entry(mapping.offset).or_default() += 1;
        *ends.entry(mapping.offset.saturating_add(mapping.size())).or_default() -= 1;
    }
    let (mut depth, mut times, mut before, mut bytes) = (0_i64, 0, 0, 0_u64);
    for (at, change) in ends {
        if depth > 1 {
            bytes = bytes.saturating_add(at.saturating_sub(before));
        }
        (depth, before) = (depth + change, at);
        times = times.max(depth);
    }
    // Each of their pages is in memory at two of the places at least, or it is not mapped twice.
    let shared = mappings.iter().try_fold(0_u64, |sum, m| Some(sum.saturating_add(Sums::from(*m).shared()?)));
    let bytes = bytes.min(shared.map_or(u64::MAX, |shared| shared / 2));
    (bytes >= LEAST).then_some(Twice { mapping: first, times: usize::try_from(times).unwrap_or(0), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Detail;
    use crate::views::snapshot::sample;

    #[test]
    fn what_one_process_maps_at_several_places_is_counted_by_the_parts_that_it_shows() {
        const MIB: u64 = 1 << 20;
        let mut process = sample::postgres();
        assert!(of(&process).is_empty(), "segments of a library are one after the other");
        let mapping = |start, offset, mib: u64| Mapping {
            offset,
            device: 1,
            inode: 99,
            name: b"/memfd:x (deleted)".to_vec(),
            detail: Some(Detail { shared_dirty: mib * MIB, ..Detail::default() }),
            ..Mapping::bare(start, start + mib * MIB, 3, Kind::Memfd)
        };
        let mut told = |mappings: Vec<Mapping>| {
            process.mappings = Some(mappings);
            of(&process).iter().map(|twice| (twice.times, twice.bytes / MIB)).collect::<Vec<_>>()
        };
        assert_eq!(told(vec![mapping(0, 0, 100), mapping(1 << 40, 0, 100)]), [(2, 100)]);
        assert_eq!(told(vec![mapping(0, 0, 100), mapping(1 << 40, 100 * MIB, 100)]), []);
        assert_eq!(told(vec![mapping(0, 0, 100), mapping(1 << 40, 90 * MIB, 100)]), [(2, 10)]);
        let three = [0, 1, 2].map(|at| mapping(at << 40, 0, 8));
        assert_eq!(told(three.to_vec()), [(3, 8)]);
        let mut idle = mapping(1 << 40, 0, 100);
        idle.detail = Some(Detail::default());
        let alone = Mapping { detail: idle.detail, ..mapping(0, 0, 100) };
        assert_eq!(told(vec![alone, idle]), [], "only one place has it in memory: nothing is mapped twice");
    }
}
