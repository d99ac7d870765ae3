//! One address space as the screen knows it: its past, its mappings, what of them was in memory and when.

use super::moments::{Moments, Tally};
use crate::event::{MmId, Overview};
use crate::statement::{Audit, Balance, ClosingStatement, Entry, Kind, MappingRef, MappingWhat, Residency, Statement};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Rows of readings of smaps that are kept, in all readings together.
const ROWS: usize = 100_000;
/// Births, and deaths, that are remembered.
const LIVES: usize = 50_000;

/// One address space.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) mm: MmId,
    pub(super) pid: u32,
    pub(super) comm: Vec<u8>,
    pub(super) moments: Moments,
    /// Everything since it came under observation; `None` until something changed.
    pub(super) total: Option<Tally>,
    pub(super) overview: Option<Overview>,
    pub(super) audit: Option<Audit>,
    /// Audits in which something differed, and all.
    pub(super) audits: (u64, u64),
    readings: VecDeque<Arc<Residency>>,
    /// Mappings whose birth was seen; the latest ones, as those that died.
    born: BTreeMap<u64, Arc<MappingRef>>,
    /// When a mapping died.
    died: BTreeMap<u64, u64>,
    pub(super) closing: Option<ClosingStatement>,
}

/// How much of a mapping was in memory at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Inside {
    /// As the last reading said, bytes.
    pub(super) private: u64,
    pub(super) shared: u64,
    pub(super) swap: u64,
    pub(super) pss: u64,
    pub(super) dirty: u64,
    /// RES and swap that were booked since that reading, pages.
    pub(super) since: i64,
    pub(super) swap_since: i64,
}

/// A mapping at a moment.
#[derive(Clone, Debug)]
pub(super) struct Area {
    pub(super) mapping: Arc<MappingRef>,
    /// `None` where smaps was not read.
    pub(super) inside: Option<Inside>,
}

impl Process {
    pub(super) fn new(mm: MmId, pid: u32, comm: &[u8]) -> Self {
        Self {
            mm,
            pid,
            comm: comm.to_vec(),
            moments: Moments::default(),
            total: None,
            overview: None,
            audit: None,
            audits: (0, 0),
            readings: VecDeque::new(),
            born: BTreeMap::new(),
            died: BTreeMap::new(),
            closing: None,
        }
    }

    pub(super) fn statement(&mut self, statement: &Statement) {
        if !self.moments.push(statement) {
            return;
        }
        self.comm.clone_from(&statement.comm);
        self.total.get_or_insert_with(|| Tally::before(statement)).add(statement);
    }

    pub(super) fn mapping(&mut self, what: MappingWhat, mapping: &Arc<MappingRef>, ts_ns: u64) {
        match what {
            MappingWhat::Born => _ = self.born.insert(mapping.id, Arc::clone(mapping)),
            MappingWhat::Died => _ = self.died.insert(mapping.id, ts_ns),
        }
        if self.born.len() > LIVES {
            self.born.pop_first();
        }
        if self.died.len() > LIVES {
            self.died.pop_first();
        }
    }

    pub(super) fn read(&mut self, residency: &Residency) {
        if self.readings.back().is_some_and(|last| last.ts_ns >= residency.ts_ns) {
            return;
        }
        self.readings.push_back(Arc::new(residency.clone()));
        let rows = |readings: &VecDeque<Arc<Residency>>| readings.iter().map(|reading| reading.mappings.len()).sum();
        while self.readings.len() > 2 && ROWS < rows(&self.readings) {
            // Every second of the older half: what is long ago is known less often.
            let older = self.readings.len() / 2;
            let mut index = 0;
            self.readings.retain(|_| {
                index += 1;
                index > older.max(1) || index % 2 == 0
            });
        }
    }

    /// The last reading at or before a time, else the first one.
    pub(super) fn reading(&self, ts_ns: u64) -> Option<&Arc<Residency>> {
        let after = self.readings.partition_point(|reading| reading.ts_ns <= ts_ns);
        after.checked_sub(1).map_or(self.readings.front(), |last| self.readings.get(last))
    }

    /// What the counters said at a time.
    pub(super) fn balance(&self, ts_ns: u64) -> Option<Balance> {
        let opening = || self.moments.first().map(|first| first.opening);
        self.moments.at(ts_ns).map(|statement| statement.closing).or_else(opening)
    }

    /// The mappings at a time, by address: those of the last reading and those born since.
    pub(super) fn areas(&self, ts_ns: u64) -> Vec<Area> {
        let mut areas: BTreeMap<u64, Area> = BTreeMap::new();
        let is_over = |id: u64| self.died.get(&id).is_some_and(|&died| died <= ts_ns);
        let mut read_ns = 0;
        if let Some(reading) = self.reading(ts_ns) {
            read_ns = reading.ts_ns;
            for row in reading.mappings.iter().filter(|row| !is_over(row.mapping.id)) {
                let inside = Inside {
                    private: row.private,
                    shared: row.shared,
                    swap: row.swap,
                    pss: row.pss,
                    dirty: row.dirty,
                    since: 0,
                    swap_since: 0,
                };
                areas.insert(row.mapping.id, Area { mapping: Arc::clone(&row.mapping), inside: Some(inside) });
            }
            let since = |mapping: &&Arc<MappingRef>| {
                mapping.birth.as_ref().is_some_and(|birth| read_ns < birth.ts_ns && birth.ts_ns <= ts_ns)
            };
            for mapping in self.born.values().filter(since).filter(|mapping| !is_over(mapping.id)) {
                areas.insert(mapping.id, Area { mapping: Arc::clone(mapping), inside: Some(Inside::default()) });
            }
        }
        let known = !areas.is_empty();
        for statement in self.moments.between(read_ns, ts_ns) {
            for (entry, mapping) in statement.entries.iter().filter_map(|e| Some((e, e.mapping.as_ref()?))) {
                match areas.get_mut(&mapping.id) {
                    Some(area) => {
                        area.mapping = Arc::clone(mapping);
                        if let Some(inside) = area.inside.as_mut().filter(|_| is_after(entry, read_ns)) {
                            inside.since = inside.since.saturating_add(entry.delta.res());
                            inside.swap_since = inside.swap_since.saturating_add(entry.delta.swap);
                        }
                    }
                    // Without a reading, what changed is all that is known.
                    None if !known && mapping.kind != Kind::Several && !is_over(mapping.id) => {
                        areas.insert(mapping.id, Area { mapping: Arc::clone(mapping), inside: None });
                    }
                    None => {}
                }
            }
        }
        let mut areas: Vec<Area> = areas.into_values().collect();
        areas.sort_by_key(|area| (area.mapping.start, area.mapping.id));
        areas
    }
}

/// What began before a reading is taken to be in it, as the audit takes it.
const fn is_after(entry: &Entry, read_ns: u64) -> bool {
    entry.first_ns >= read_ns
}
