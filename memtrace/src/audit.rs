//! The ledger against /proc. It compares and reports; it never changes the ledger.
//!
//! **Counters**: `/proc/PID/status` against the probes' counters, read around it. When no counter event happened
//! meanwhile (`quiet`) they must be equal; else they may differ by what moved.
//!
//! **Mappings**: how smaps's Rss of a mapping changed since the last quiet reading, against the RES booked on that
//! mapping in the same time. The first quiet reading is the baseline: nothing can be compared with it. A reading that
//! was not quiet is compared, but does not become a baseline, because its own inexactness would show up as a
//! difference in the next one. A change belongs before the reading when its first moment lies before the reading's
//! end; when its last moment lies after the reading's begin, any part of it may be in the reading, and differences
//! up to its amount are none. Changes that wait for their mapping are booked when the interval ends, so the comparison
//! is made then, on the lives that were there when smaps was read.
//!
//! **Without probes** the ledger is made of status itself, so only status and Σ smaps can be compared, and nothing is
//! booked on mappings: their differences then are how much each of them changed since the reading before, quiet or not.
//!
//! A VMA of the kernel may hold several lives, and a life several VMAs; lives are split. What is compared is therefore
//! the smallest set of lives and VMAs that is closed under all of these; it is shown as its largest mapping.
//! Changes without a mapping (reclaim, khugepaged) are seen by smaps and not by any mapping's account: the differences
//! of the mappings add up to their sum, `placeless`, when quiet and nothing is wrong.

use crate::event::{Change, MmId, Smaps};
use crate::model::address_space::AddressSpace;
use crate::statement::{Audit, AuditDifference, Kind, MappingRef};
use crate::units::Amounts;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Differences that a report shows.
const SHOWN: usize = 20;
/// Lives with bookings between two quiet readings; beyond, mappings are not compared until the next baseline.
const BOOKED_LIVES: usize = 262_144;

/// One VMA of a reading and the lives that it held.
#[derive(Clone, Debug)]
struct Held {
    mapping: Arc<MappingRef>,
    lives: Vec<u64>,
    rss: i64,
}

/// What happened between two moments.
#[derive(Clone, Debug, Default)]
struct Booked {
    lives: BTreeMap<u64, (Arc<MappingRef>, i64)>,
    placeless: i64,
    splits: Vec<(u64, u64)>,
}

impl Booked {
    fn absorb(&mut self, later: Self) {
        for (life, (mapping, pages)) in later.lives {
            let entry = self.lives.entry(life).or_insert_with(|| (Arc::clone(&mapping), 0));
            *entry = (mapping, entry.1.wrapping_add(pages));
        }
        self.placeless = self.placeless.wrapping_add(later.placeless);
        self.splits.extend(later.splits);
    }
}

/// A reading that waits for the end of its interval.
#[derive(Clone, Debug)]
struct Pending {
    smaps: Smaps,
    held: Vec<Held>,
    /// Resident VMAs in which no life is known.
    unknown: Vec<AuditDifference>,
    ledger: Amounts,
    smaps_rss: i64,
}

impl Pending {
    /// The change was under way while smaps was read.
    fn is_unsure_of(&self, change: &Change) -> bool {
        let begin_ns = self.smaps.ts_ns.saturating_sub(self.smaps.cost_ns);
        change.first_ns < self.smaps.ts_ns && change.ts_ns >= begin_ns
    }
}

/// Compares one mm.
#[derive(Clone, Debug, Default)]
pub struct Auditor {
    baseline: Option<Vec<Held>>,
    since: Booked,
    pending: Option<Pending>,
    after: Booked,
    /// Pages by life that the baseline may or may not have seen.
    unsure_then: BTreeMap<u64, i64>,
    /// Pages by life that the reading that waits may or may not have seen.
    unsure_now: BTreeMap<u64, i64>,
}

impl Auditor {
    /// A change was booked on a life, or on none.
    pub fn book(&mut self, life: Option<Arc<MappingRef>>, change: &Change) {
        let booked = match &self.pending {
            Some(pending) if change.first_ns >= pending.smaps.ts_ns => &mut self.after,
            _ if self.baseline.is_some() => &mut self.since,
            _ => return,
        };
        let pages = change.delta.res();
        match life {
            Some(mapping) if pages != 0 => {
                if self.pending.as_ref().is_some_and(|pending| pending.is_unsure_of(change)) {
                    let unsure = self.unsure_now.entry(mapping.id).or_default();
                    *unsure = unsure.saturating_add(pages.saturating_abs());
                }
                let entry = booked.lives.entry(mapping.id).or_insert_with(|| (Arc::clone(&mapping), 0));
                *entry = (mapping, entry.1.wrapping_add(pages));
            }
            Some(_) => {}
            None => booked.placeless = booked.placeless.wrapping_add(pages),
        }
        if booked.lives.len() > BOOKED_LIVES {
            self.baseline = None;
            *booked = Booked::default();
        }
    }

    /// A part of a life became a life of its own.
    pub fn split(&mut self, from: u64, to: u64) {
        if self.pending.is_some() {
            self.after.splits.push((from, to));
        } else if self.baseline.is_some() {
            self.since.splits.push((from, to));
        }
    }

    /// smaps was read. `booked`: the ledger's balance at the last tick, used where the probes' counters are not known.
    pub fn read(&mut self, smaps: &Smaps, booked: Amounts, space: &mut AddressSpace) {
        let page = space.page_size();
        let pages = |bytes: u64| i64::try_from(bytes / page).unwrap_or(i64::MAX);
        let mut held = Vec::with_capacity(smaps.mappings.len());
        let mut unknown = Vec::new();
        let mut smaps_rss = 0_i64;
        for vma in &smaps.mappings {
            let rss = pages(vma.rss);
            smaps_rss = smaps_rss.saturating_add(rss);
            let lives = space.lives_in(vma.start, vma.end, usize::MAX);
            if rss > 0 {
                lives.iter().for_each(|&life| space.set_touchable(life));
            }
            let mapping = lives.first().and_then(|&life| space.mapping(life));
            match mapping {
                Some(mapping) => held.push(Held { mapping, lives, rss }),
                None if rss > 0 => unknown.push(AuditDifference {
                    mapping: Arc::new(MappingRef {
                        id: u64::MAX,
                        kind: Kind::Several,
                        name: Vec::new(),
                        start: vma.start,
                        end: vma.end,
                        permissions: 0,
                        birth: None,
                    }),
                    smaps: rss,
                    ledger: 0,
                }),
                None => {}
            }
        }
        let ledger = match smaps.after {
            Some(after) => after,
            None if without_probes(smaps) => smaps.status,
            None => booked,
        };
        self.pending = Some(Pending { smaps: smaps.clone(), held, unknown, ledger, smaps_rss });
    }

    /// Everything up to the reading is booked: compares. `None` when nothing was read.
    pub fn settle(&mut self, mm: MmId, pid: u32, space: &mut AddressSpace) -> Option<Audit> {
        let Pending { smaps, held, unknown, ledger, smaps_rss } = self.pending.take()?;
        let placeless = self.since.placeless;
        let mut differing = match &self.baseline {
            Some(baseline) => {
                let unsure = self.unsure_then.iter().chain(&self.unsure_now);
                differences(baseline, &held, &self.since, unsure.map(|(&life, &pages)| (life, pages)), space)
            }
            None => Vec::new(),
        };
        if self.baseline.is_some() {
            differing.extend(unknown);
        }
        differing.sort_by_key(|difference| {
            let gap = difference.smaps.wrapping_sub(difference.ledger).unsigned_abs();
            (std::cmp::Reverse(gap), difference.mapping.id, difference.mapping.start)
        });
        let differing_count = differing.len();
        differing.truncate(SHOWN);
        let mappings = smaps.mappings.len();
        let after = std::mem::take(&mut self.after);
        if smaps.quiet || without_probes(&smaps) {
            self.baseline = Some(held);
            self.since = after;
            self.unsure_then = std::mem::take(&mut self.unsure_now);
        } else if self.baseline.is_some() {
            self.since.absorb(after);
        }
        self.unsure_now.clear();
        let moved = match (smaps.before, smaps.after) {
            (Some(before), Some(after)) => absolute(after - before),
            _ => Amounts::ZERO,
        };
        Some(Audit {
            ts_ns: smaps.ts_ns,
            mm,
            pid,
            quiet: smaps.quiet,
            ledger,
            status: smaps.status,
            smaps_rss,
            difference: smaps.status - ledger,
            moved,
            mappings,
            differing,
            differing_count,
            placeless,
            cost_ns: smaps.cost_ns,
            longest_hold_ns: smaps.longest_hold_ns,
        })
    }
}

/// Read without probes: the ledger *is* status, and no change was booked on any mapping.
const fn without_probes(smaps: &Smaps) -> bool {
    smaps.before.is_none() && smaps.after.is_none()
}

fn absolute(amounts: Amounts) -> Amounts {
    Amounts {
        anon: amounts.anon.saturating_abs(),
        file: amounts.file.saturating_abs(),
        shmem: amounts.shmem.saturating_abs(),
        swap: amounts.swap.saturating_abs(),
    }
}

/// Sets of lives that must be compared together.
#[derive(Default)]
struct Sets {
    parent: BTreeMap<u64, u64>,
}

impl Sets {
    fn root(&mut self, life: u64) -> u64 {
        let mut at = life;
        loop {
            let up = *self.parent.entry(at).or_insert(at);
            if up == at {
                break;
            }
            let above = *self.parent.get(&up).unwrap_or(&up);
            self.parent.insert(at, above);
            at = above;
        }
        at
    }

    fn join(&mut self, one: u64, two: u64) {
        let (one, two) = (self.root(one), self.root(two));
        self.parent.insert(one.max(two), one.min(two));
    }
}

/// What one set says.
#[derive(Default)]
struct Side {
    smaps: i64,
    ledger: i64,
    /// So much may have come before a reading or after it.
    unsure: i64,
    /// The one to show: size and mapping.
    shown: Option<Arc<MappingRef>>,
}

impl Side {
    fn show(&mut self, mapping: &Arc<MappingRef>) {
        let size = |mapping: &MappingRef| mapping.end - mapping.start;
        if self.shown.as_ref().is_none_or(|shown| size(shown) <= size(mapping)) {
            self.shown = Some(Arc::clone(mapping));
        }
    }
}

fn differences(
    before: &[Held],
    now: &[Held],
    booked: &Booked,
    unsure: impl Iterator<Item = (u64, i64)>,
    space: &mut AddressSpace,
) -> Vec<AuditDifference> {
    let mut sets = Sets::default();
    for held in before.iter().chain(now) {
        for pair in held.lives.windows(2) {
            sets.join(pair[0], pair[1]);
        }
    }
    for &(from, to) in &booked.splits {
        sets.join(from, to);
    }
    let mut sides: BTreeMap<u64, Side> = BTreeMap::new();
    for (held, sign) in before.iter().map(|held| (held, -1)).chain(now.iter().map(|held| (held, 1))) {
        let side = sides.entry(sets.root(held.mapping.id)).or_default();
        side.smaps = side.smaps.wrapping_add(held.rss.wrapping_mul(sign));
        side.show(&held.mapping);
    }
    for (&life, (mapping, pages)) in &booked.lives {
        let side = sides.entry(sets.root(life)).or_default();
        side.ledger = side.ledger.wrapping_add(*pages);
        side.show(mapping);
    }
    for (life, pages) in unsure {
        if let Some(side) = sides.get_mut(&sets.root(life)) {
            side.unsure = side.unsure.saturating_add(pages);
        }
    }
    sides
        .into_values()
        .filter(|side| side.smaps.abs_diff(side.ledger) > side.unsure.unsigned_abs())
        .filter_map(|side| {
            let shown = side.shown?;
            let mapping = space.mapping(shown.id).unwrap_or(shown);
            Some(AuditDifference { mapping, smaps: side.smaps, ledger: side.ledger })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Maps, MapsLine, SmapsMapping, permission};

    const PAGE: u64 = 4096;

    fn heap() -> AddressSpace {
        let mut space = AddressSpace::new(PAGE);
        let line = MapsLine {
            start: 0x10_0000,
            end: 0x20_0000,
            permissions: permission::READ | permission::WRITE,
            offset: 0,
            device: 0,
            inode: 0,
            name: b"[heap]".to_vec(),
        };
        space.apply_reading(&Maps { mm: MmId(0), begin_ns: 1, ts_ns: 2, lines: vec![line] });
        space
    }

    fn polled(ts_ns: u64, pages: u64, status: i64, quiet: bool) -> Smaps {
        let mapping = SmapsMapping { start: 0x10_0000, end: 0x20_0000, rss: pages * PAGE, ..SmapsMapping::default() };
        Smaps {
            mm: MmId(0),
            ts_ns,
            cost_ns: 0,
            longest_hold_ns: 0,
            before: None,
            after: None,
            quiet,
            status: Amounts { anon: status, ..Amounts::ZERO },
            mappings: vec![mapping],
        }
    }

    #[test]
    fn without_probes_status_is_the_ledger_and_mappings_tell_how_they_changed() {
        let (mut auditor, mut space) = (Auditor::default(), heap());
        let mut read = |smaps: &Smaps| {
            // The last tick's balance is older than the reading and must not be held against it.
            auditor.read(smaps, Amounts { anon: 1, ..Amounts::ZERO }, &mut space);
            auditor.settle(MmId(0), 7, &mut space).unwrap()
        };
        let first = read(&polled(10, 5, 5, true));
        assert!(first.difference.is_zero() && first.differing.is_empty());
        assert_eq!((first.ledger, first.smaps_rss), (first.status, 5));

        // A reading that was not quiet is compared, and is what the next one is compared with.
        let second = read(&polled(20, 12, 11, false));
        assert!(second.difference.is_zero());
        assert_eq!((second.differing[0].smaps, second.differing[0].ledger), (7, 0));
        assert_eq!(second.differing[0].mapping.kind, Kind::Heap);
        let third = read(&polled(30, 12, 12, true));
        assert_eq!((third.differing_count, third.smaps_rss), (0, 12));
    }
}
