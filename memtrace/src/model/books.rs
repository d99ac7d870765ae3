//! One mm under observation: its address space and its ledger, and the way of a change from the one into the other.
//!
//! A change is booked on the mapping that was at its place at its time. Changes enter in the order of their first
//! moment, calls in the order of their return, so a change made *inside* a call that maps (`MAP_POPULATE`, `mremap` of
//! locked memory) comes before its mapping is known. Such changes wait for the mapping; what still waits when the
//! interval ends is looked for among the mappings that are there, then among those that died in the interval.

use super::address_space::{AddressSpace, LifeChange};
use super::burst::Finder;
use super::code::CodeTable;
use super::ledger::{Ledger, Spot};
use crate::audit::Auditor;
use crate::event::{Change, Maps, MmId, MmOpened, Place, Syscall, Why};
use crate::event::{Latency, Lost};
use crate::statement::{Balance, Burst, Entry, Kind, MappingChange, MappingRef, MappingWhat, Report, Stack, Statement};
use crate::syscalls;
use crate::units::Amounts;
use memtrace_common::Cause;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Lives that a range is searched for before it is called several.
const LIVES_LOOKED_AT: usize = 64;
/// References to ranges that are kept for reuse.
const SEVERAL_KEPT: usize = 4096;

pub(super) struct Books {
    pub(super) mm: MmId,
    pub(super) pid: u32,
    pub(super) comm: Vec<u8>,
    pub(super) begin_ns: u64,
    pub(super) space: AddressSpace,
    pub(super) ledger: Ledger,
    pub(super) bursts: Finder,
    /// Counters at the end of the teardown, once it is over.
    pub(super) closed: Option<Amounts>,
    pub(super) auditor: Auditor,
    /// Changes whose mapping is not known yet, by address.
    waiting: BTreeMap<u64, Vec<Change>>,
    /// Mappings that died in this interval: start → end and mapping. Newer ones cover older ones.
    graveyard: BTreeMap<u64, (u64, Arc<MappingRef>)>,
    several: BTreeMap<Spot, Arc<MappingRef>>,
}

impl Books {
    pub(super) fn open(opened: &MmOpened, space: AddressSpace) -> Self {
        let (opening, cause) = match opened.why {
            Why::Attach => (Balance { amounts: opened.counters, virt: Some(opened.virt) }, None),
            Why::Fork { .. } => (Balance { amounts: Amounts::ZERO, virt: Some(0) }, Some(Cause::Fork)),
            Why::Exec { .. } => (Balance { amounts: Amounts::ZERO, virt: Some(0) }, Some(Cause::Exec)),
        };
        let mut ledger = Ledger::open(opening, opened.ts_ns);
        if let Some(cause) = cause.filter(|_| !opened.counters.is_zero()) {
            let first = Change {
                mm: opened.mm,
                first_ns: opened.ts_ns,
                ts_ns: opened.ts_ns,
                cause,
                delta: opened.counters,
                place: Place::Nowhere,
                touched: (0, 0),
                tid: opened.pid,
                ip: 0,
                stack: None,
                nr: None,
                detail: 0,
                faults: 0,
                major: 0,
                kernel_mode: 0,
                latency: Latency::default(),
            };
            ledger.book(Spot::Nowhere, &first, None);
        }
        Self {
            mm: opened.mm,
            pid: opened.pid,
            comm: opened.comm.clone(),
            begin_ns: opened.ts_ns,
            space,
            ledger,
            bursts: Finder::new(opened.ts_ns, opened.why),
            closed: None,
            auditor: Auditor::default(),
            waiting: BTreeMap::new(),
            graveyard: BTreeMap::new(),
            several: BTreeMap::new(),
        }
    }

    pub(super) fn syscall(&mut self, call: &Syscall, caller: Option<Arc<Stack>>, out: &mut Vec<Report>) {
        let old_break = self.space.brk;
        self.space.caller.clone_from(&caller);
        self.space.apply_syscall(call);
        self.space.caller = None;
        self.follow(call.ts_ns, Some((call, caller)), out);
        if self.waiting.is_empty() {
            return;
        }
        let start = call.ret as u64;
        match call.nr {
            syscalls::MMAP => self.retry(start, start.saturating_add(call.args[1]), None),
            syscalls::BRK => self.retry(old_break, start, None),
            syscalls::MREMAP => {
                self.retry(call.args[0], call.args[0].saturating_add(call.args[1]), Some(start));
                self.retry(start, start.saturating_add(call.args[2]), None);
            }
            _ => {}
        }
    }

    pub(super) fn reading(&mut self, maps: &Maps, out: &mut Vec<Report>) {
        self.space.apply_reading(maps);
        self.follow(maps.ts_ns, None, out);
    }

    /// Reports births and deaths, and remembers the dead until the interval ends.
    fn follow(&mut self, ts_ns: u64, call: Option<(&Syscall, Option<Arc<Stack>>)>, out: &mut Vec<Report>) {
        let syscall = call.as_ref().map(|(call, _)| call.nr);
        let tid = call.as_ref().map_or(0, |(call, _)| call.tid);
        let stack = call.and_then(|(_, stack)| stack);
        for change in self.space.take_changes() {
            let (what, mapping) = match change {
                LifeChange::Born(mapping) => (MappingWhat::Born, mapping),
                LifeChange::Died(mapping) => {
                    self.bury(&mapping);
                    (MappingWhat::Died, mapping)
                }
                LifeChange::Split { from, to } => {
                    self.auditor.split(from, to);
                    continue;
                }
            };
            out.push(Report::Mapping(MappingChange {
                ts_ns,
                mm: self.mm,
                pid: self.pid,
                what,
                mapping,
                syscall,
                tid,
                stack: stack.clone(),
            }));
        }
    }

    fn bury(&mut self, mapping: &Arc<MappingRef>) {
        let (start, end) = (mapping.start, mapping.end);
        let older: Vec<(u64, u64, Arc<MappingRef>)> = self
            .graveyard
            .range(..end)
            .rev()
            .take_while(|(_, (older_end, _))| *older_end > start)
            .map(|(&at, (older_end, older))| (at, *older_end, Arc::clone(older)))
            .collect();
        for (at, older_end, older) in older {
            self.graveyard.remove(&at);
            if at < start {
                self.graveyard.insert(at, (start, Arc::clone(&older)));
            }
            if end < older_end {
                self.graveyard.insert(end, (older_end, older));
            }
        }
        self.graveyard.insert(start, (end, Arc::clone(mapping)));
    }

    pub(super) fn change(&mut self, change: &Change) {
        match self.resolve(change).filter(|&spot| spot == Spot::Nowhere || !is_inside_mapping_call(change)) {
            Some(spot) => self.book(spot, change),
            None => self.waiting.entry(address_of(change)).or_default().push(change.clone()),
        }
    }

    /// Books the waiting changes of a range, whose mapping is known now. With `moved_to`, only what `mremap` brought in
    /// while it moved the range there.
    fn retry(&mut self, start: u64, end: u64, moved_to: Option<u64>) {
        if start >= end {
            return;
        }
        let addresses: Vec<u64> = self.waiting.range(start..end).map(|(&address, _)| address).collect();
        let mut changes = Vec::new();
        for address in addresses {
            changes.extend(self.waiting.remove(&address).into_iter().flatten());
        }
        for change in changes {
            let spot = match moved_to {
                Some(to) if change.nr == Some(syscalls::MREMAP) => self.space.life_at(to).map(Spot::Life),
                Some(_) => None,
                None => self.resolve(&change),
            };
            match spot {
                Some(spot) => self.book(spot, &change),
                None => self.waiting.entry(address_of(&change)).or_default().push(change),
            }
        }
    }

    fn book(&mut self, spot: Spot, change: &Change) {
        let mapping = match spot {
            Spot::Nowhere => None,
            Spot::Life(life) => self.space.mapping(life),
            Spot::Range(start, end) => Some(self.several(spot, start, end, Vec::new())),
            Spot::Inode(inode, device) => {
                let lives = self.space.lives_of_inode(inode, device);
                let name = lives.first().and_then(|&life| self.space.mapping(life)).map(|mapping| mapping.name.clone());
                Some(self.several(spot, 0, 0, name.unwrap_or_default()))
            }
        };
        self.post(spot, change, mapping);
    }

    fn post(&mut self, spot: Spot, change: &Change, mapping: Option<Arc<MappingRef>>) {
        let life = match spot {
            Spot::Life(_) => mapping.clone(),
            _ => None,
        };
        self.auditor.book(life, change);
        self.ledger.book(spot, change, mapping);
    }

    fn several(&mut self, spot: Spot, start: u64, end: u64, name: Vec<u8>) -> Arc<MappingRef> {
        let space = &mut self.space;
        Arc::clone(self.several.entry(spot).or_insert_with(|| {
            let id = space.take_number();
            Arc::new(MappingRef { id, kind: Kind::Several, name, start, end, permissions: 0, birth: None })
        }))
    }

    /// Where a change belongs, as far as the address space knows now.
    fn resolve(&mut self, change: &Change) -> Option<Spot> {
        match change.place {
            Place::Nowhere => Some(Spot::Nowhere),
            Place::Address(address) => self.space.life_at(address).map(Spot::Life),
            Place::Inode { inode, device } => match self.space.lives_of_inode(inode, device).as_slice() {
                [] => None,
                [life] => Some(Spot::Life(*life)),
                _ => Some(Spot::Inode(inode, device)),
            },
            Place::Vma { start, end } | Place::Range { start, end } => {
                let (low, high) = change.touched;
                if low < start || end <= high || high < low {
                    return self.resolve_range(start, end);
                }
                if self.space.life_at(low).is_none() {
                    self.space.grow_by_fault(start, end, low);
                }
                let (first, last) = (self.space.life_at(low)?, self.space.life_at(high)?);
                Some(if first == last { Spot::Life(first) } else { Spot::Range(start, end) })
            }
        }
    }

    /// One life in the range, or the only one in it that can hold pages.
    fn resolve_range(&self, start: u64, end: u64) -> Option<Spot> {
        let lives = self.space.lives_in(start, end, LIVES_LOOKED_AT);
        if let [life] = lives.as_slice() {
            return Some(Spot::Life(*life));
        }
        let mut touchable = lives.iter().filter(|&&life| self.space.is_touchable(life));
        match (touchable.next(), touchable.next()) {
            (Some(&life), None) if lives.len() < LIVES_LOOKED_AT => Some(Spot::Life(life)),
            _ if lives.is_empty() => None,
            _ => Some(Spot::Range(start, end)),
        }
    }

    /// Books what waited in vain: on what is there now, on what died in this interval, or nowhere.
    fn settle(&mut self) {
        for change in std::mem::take(&mut self.waiting).into_values().flatten() {
            if let Some(spot) = self.resolve(&change) {
                self.book(spot, &change);
                continue;
            }
            let address = address_of(&change);
            let dead = self.graveyard.range(..=address).next_back().filter(|(_, (end, _))| address < *end);
            if let Some((_, (_, mapping))) = dead {
                let mapping = Arc::clone(mapping);
                self.post(Spot::Life(mapping.id), &change, Some(mapping));
                continue;
            }
            let spot = match change.place {
                Place::Vma { start, end } | Place::Range { start, end } => {
                    self.shrunk_since(&change).map_or(Spot::Range(start, end), Spot::Life)
                }
                Place::Inode { inode, device } => Spot::Inode(inode, device),
                Place::Address(_) | Place::Nowhere => Spot::Nowhere,
            };
            self.book(spot, &change);
        }
    }

    /// The life that grew and shrank within the interval, as a heap does: it is at one end of what was touched, and
    /// nothing is or died at the other.
    fn shrunk_since(&self, change: &Change) -> Option<u64> {
        let (low, high) = change.touched;
        let died = |address| self.graveyard.range(..=address).next_back().is_some_and(|(_, (end, _))| address < *end);
        match (self.space.life_at(low), self.space.life_at(high)) {
            (Some(life), None) if !died(high) => Some(life),
            (None, Some(life)) if !died(low) => Some(life),
            _ => None,
        }
    }

    /// Ends the interval. A statement unless nothing happened. Bursts that it finds over are returned.
    pub(super) fn tick(
        &mut self,
        closing: Balance,
        ts_ns: u64,
        lost: Lost,
        comms: &BTreeMap<u32, Vec<u8>>,
        code: &mut CodeTable,
        out: &mut Vec<Report>,
    ) -> Vec<Burst> {
        self.settle();
        let start_ns = self.ledger.start_ns;
        let (accounts, opening, unexplained) = self.ledger.close(closing, ts_ns, &mut self.space, code);
        let virt_moved = opening.virt.is_some() && closing.virt.is_some() && opening.virt != closing.virt;
        let news = !accounts.is_empty() || opening.amounts != closing.amounts || virt_moved || !unexplained.is_zero();
        let entries: Vec<Entry> = accounts
            .into_iter()
            .map(|(key, account)| Entry {
                cause: key.cause,
                delta: account.delta,
                faults: account.faults,
                stack: key.stack.and_then(|id| code.stack(id)),
                mapping: account.mapping,
                tid: key.tid,
                comm: comms.get(&key.tid).cloned().unwrap_or_default(),
                syscall: key.syscall,
                latency: account.latency,
                first_ns: account.first_ns,
                last_ns: account.last_ns,
            })
            .collect();
        let bursts = self.bursts.tick(ts_ns, &entries, closing.amounts.res());
        if news {
            out.push(Report::Statement(Statement {
                mm: self.mm,
                pid: self.pid,
                comm: self.comm.clone(),
                start_ns,
                ts_ns,
                opening,
                closing,
                entries,
                unexplained,
                lost,
            }));
        }
        self.graveyard.clear();
        if self.several.len() > SEVERAL_KEPT {
            self.several.clear();
        }
        self.space.journal.tick(ts_ns);
        out.extend(self.auditor.settle(self.mm, self.pid, &mut self.space).map(Report::Audit));
        bursts
    }
}

/// Pages that a call brings into the mapping that it is about to make.
fn is_inside_mapping_call(change: &Change) -> bool {
    matches!(change.nr, Some(syscalls::MMAP | syscalls::MREMAP))
        && !matches!(change.cause, Cause::MmapFixed | Cause::Mremap | Cause::Munmap)
        && change.delta.res() >= 0
}

fn address_of(change: &Change) -> u64 {
    match change.place {
        Place::Nowhere | Place::Inode { .. } => u64::MAX,
        Place::Address(address) => address,
        Place::Vma { start, end } | Place::Range { start, end } => {
            if (start..end).contains(&change.touched.0) {
                change.touched.0
            } else {
                start
            }
        }
    }
}
