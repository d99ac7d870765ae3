//! What of each mapping is in memory: the rows of a reading of smaps, summed over the lives that they belong to.
//!
//! A life may be several VMAs (a stack and its guard): its rows are added. A VMA may hold several lives, and smaps does
//! not say how much of it each has: the row is given to the life that covers most of it, never divided by a guess.

use super::address_space::AddressSpace;
use crate::event::{Smaps, SmapsMapping};
use crate::statement::{Residency, Resident};
use std::collections::BTreeMap;

/// What a reading says about each life. Rows in which no life is known are left out.
pub(super) fn residency(smaps: &Smaps, pid: u32, space: &mut AddressSpace) -> Residency {
    let mut lives: BTreeMap<u64, Resident> = BTreeMap::new();
    for row in &smaps.mappings {
        let Some(mapping) = owner(row, space).and_then(|life| space.mapping(life)) else {
            continue;
        };
        let life = lives.entry(mapping.start).or_insert(Resident {
            mapping,
            private: 0,
            shared: 0,
            pss: 0,
            swap: 0,
            dirty: 0,
        });
        let dirty = row.private_dirty.saturating_add(row.shared_dirty);
        for (sum, bytes) in [
            (&mut life.private, row.private_clean.saturating_add(row.private_dirty)),
            (&mut life.shared, row.shared_clean.saturating_add(row.shared_dirty)),
            (&mut life.pss, row.pss),
            (&mut life.swap, row.swap),
            // Anonymous pages that are clean (read back from swap) have no file to be read from again either.
            (&mut life.dirty, dirty.max(row.anonymous)),
        ] {
            *sum = sum.saturating_add(bytes);
        }
    }
    Residency { mm: smaps.mm, pid, ts_ns: smaps.ts_ns, mappings: lives.into_values().collect() }
}

/// The life that covers most of a row; of equals, the first by address.
fn owner(row: &SmapsMapping, space: &AddressSpace) -> Option<u64> {
    let covered = |life: u64| {
        let (start, end) = space.range(life).unwrap_or_default();
        end.min(row.end).saturating_sub(start.max(row.start))
    };
    let lives = space.lives_in(row.start, row.end, usize::MAX);
    lives.into_iter().rev().max_by_key(|&life| covered(life))
}
