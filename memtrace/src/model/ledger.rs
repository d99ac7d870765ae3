//! The books of one mm: changes go in under (cause, mapping, thread, call, stack), statements come out and are summed up.
//!
//! Arithmetic on amounts and on fault counts wraps, so that `closing − opening = Σ entries + unexplained` and the sums of
//! faults hold for any input.

use super::address_space::AddressSpace;
use super::code::{CodeSums, CodeTable};
use crate::event::{Change, Latency, MmId, StackId};
use crate::statement::{Balance, ClosingStatement, Faults, Kind, MappingRef, Sum};
use crate::units::Amounts;
use memtrace_common::Cause;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Mappings that are over and still have a row of their own in the closing statement.
pub const DEAD_ROWS: usize = 4096;

/// Where a change belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spot {
    /// The kernel does not say, or nothing is known there.
    Nowhere,
    /// One mapping's life.
    Life(u64),
    /// A range over several lives.
    Range(u64, u64),
    /// Several mappings of a file: inode and device.
    Inode(u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) cause: Cause,
    pub(super) spot: Spot,
    pub(super) tid: u32,
    pub(super) syscall: Option<u32>,
    pub(super) stack: Option<StackId>,
}

/// An entry being added up.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub(super) delta: Amounts,
    pub(super) faults: Faults,
    pub(super) latency: Latency,
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
    pub(super) mapping: Option<Arc<MappingRef>>,
}

impl Account {
    fn add(&mut self, change: &Change, mapping: Option<Arc<MappingRef>>) {
        let fresh = self.first_ns == 0 && self.last_ns == 0;
        self.first_ns = if fresh { change.first_ns } else { self.first_ns.min(change.first_ns) };
        self.last_ns = self.last_ns.max(change.ts_ns);
        self.delta += change.delta;
        self.faults += Faults { minor: change.faults.wrapping_sub(change.major), major: change.major };
        self.latency.merge(&change.latency);
        self.mapping = larger(self.mapping.take(), mapping);
    }
}

/// Bytes; 0 for the range of a call whose arguments were no range.
fn length(mapping: &MappingRef) -> u64 {
    mapping.end.saturating_sub(mapping.start)
}

/// Of two states of one mapping, the one to show: that which got its name, then the larger, then the later.
pub(super) fn larger(old: Option<Arc<MappingRef>>, new: Option<Arc<MappingRef>>) -> Option<Arc<MappingRef>> {
    match (old, new) {
        (Some(old), Some(new)) if old.name == new.name && length(&new) < length(&old) => Some(old),
        (old, new) => new.or(old),
    }
}

/// A row of the closing statement's mappings.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) mapping: Option<Arc<MappingRef>>,
    pub(super) sum: Sum,
    pub(super) gross: u64,
    /// How many mappings are in it when it stands for several that were folded.
    pub(super) folded: u64,
}

impl Row {
    fn absorb(&mut self, other: &Self) {
        add_sum(&mut self.sum, &other.sum);
        self.gross = self.gross.saturating_add(other.gross);
        self.folded = self.folded.saturating_add(other.folded.max(1));
    }
}

pub(super) fn add_sum(sum: &mut Sum, other: &Sum) {
    sum.delta += other.delta;
    sum.grown = sum.grown.saturating_add(other.grown);
    sum.shrunk = sum.shrunk.saturating_add(other.shrunk);
    sum.faults += other.faults;
    sum.latency.merge(&other.latency);
}

/// Keeps the `limit` rows of largest gross amount (and the one without mapping), adds the others up per kind.
pub(super) fn fold(rows: &mut Vec<Row>, limit: usize) {
    let (several, mut rest): (Vec<Row>, Vec<Row>) =
        std::mem::take(rows).into_iter().partition(|row| row.folded > 0 || row.mapping.is_none());
    rest.sort_by_key(|row| (std::cmp::Reverse(row.gross), row.mapping.as_ref().map(|mapping| mapping.id)));
    let over = if rest.len() > limit { rest.split_off(limit) } else { Vec::new() };
    let mut kinds: BTreeMap<Option<Kind>, Row> = BTreeMap::new();
    for row in several.into_iter().chain(over) {
        match &row.mapping {
            None if row.folded == 0 => {
                let nowhere = kinds.entry(None).or_default();
                nowhere.absorb(&row);
                nowhere.folded = 0;
            }
            mapping => kinds.entry(mapping.as_ref().map(|mapping| mapping.kind)).or_default().absorb(&row),
        }
    }
    rows.extend(kinds.into_iter().map(|(kind, row)| {
        let mapping = kind.map(|kind| {
            Arc::new(MappingRef {
                id: u64::MAX,
                kind,
                name: format!("({} more)", row.folded).into_bytes(),
                start: 0,
                end: 0,
                permissions: 0,
                birth: None,
            })
        });
        Row { mapping, ..row }
    }));
    rows.extend(rest);
}

/// Sums over statements: of one mm, or of all mms of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    pub(super) by_cause: BTreeMap<Cause, Sum>,
    pub(super) faults: Faults,
    pub(super) unexplained: Amounts,
    pub(super) opening: Balance,
    pub(super) closing: Balance,
    pub(super) peak_res: i64,
    pub(super) rows: Vec<Row>,
    codes: CodeSums,
}

impl Sums {
    /// Adds a finished mm.
    pub(super) fn add(&mut self, other: &Self) {
        for (&cause, sum) in &other.by_cause {
            add_sum(self.by_cause.entry(cause).or_default(), sum);
        }
        self.faults += other.faults;
        self.unexplained += other.unexplained;
        self.opening = add_balance(self.opening, other.opening);
        self.closing = add_balance(self.closing, other.closing);
        self.codes.add(&other.codes);
        self.rows.extend(other.rows.iter().cloned());
        // Sorting all rows for each of thousands of short processes would cost more than watching them.
        if self.rows.len() > 3 * DEAD_ROWS {
            self.fold();
        }
    }

    /// Leaves [`DEAD_ROWS`] rows and one a kind for the others.
    pub(super) fn fold(&mut self) {
        fold(&mut self.rows, DEAD_ROWS);
    }

    /// As a closing statement.
    pub(super) fn statement(
        mut self,
        mm: MmId,
        pid: u32,
        comm: Vec<u8>,
        start_ns: u64,
        ts_ns: u64,
        code: &CodeTable,
    ) -> ClosingStatement {
        let id = |row: &Row| row.mapping.as_ref().map(|mapping| (mapping.id, mapping.start, mapping.kind));
        self.rows.sort_by_key(|row| (std::cmp::Reverse(row.gross), id(row)));
        ClosingStatement {
            mm,
            pid,
            comm,
            start_ns,
            ts_ns,
            opening: self.opening,
            closing: self.closing,
            peak_res: self.peak_res,
            by_cause: self.by_cause.into_iter().collect(),
            by_mapping: self.rows.into_iter().map(|row| (row.mapping, row.sum)).collect(),
            by_code: self.codes.statement(code),
            faults: self.faults,
            unexplained: self.unexplained,
        }
    }
}

fn add_balance(one: Balance, two: Balance) -> Balance {
    let virt = match (one.virt, two.virt) {
        (Some(one), Some(two)) => Some(one.saturating_add(two)),
        (one, two) => one.or(two),
    };
    Balance { amounts: one.amounts + two.amounts, virt }
}

/// The books of one mm.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    accounts: BTreeMap<Key, Account>,
    /// Where the running interval began.
    pub(super) opening: Balance,
    pub(super) start_ns: u64,
    sums: Sums,
    rows: BTreeMap<Spot, Row>,
    /// Number of rows at which to look for dead ones.
    shrink_at: usize,
}

impl Ledger {
    pub(super) fn open(opening: Balance, ts_ns: u64) -> Self {
        Self {
            accounts: BTreeMap::new(),
            opening,
            start_ns: ts_ns,
            sums: Sums { opening, closing: opening, peak_res: opening.amounts.res(), ..Sums::default() },
            rows: BTreeMap::new(),
            shrink_at: 3 * DEAD_ROWS,
        }
    }

    pub(super) fn book(&mut self, spot: Spot, change: &Change, mapping: Option<Arc<MappingRef>>) {
        let key = Key { cause: change.cause, spot, tid: change.tid, syscall: change.nr, stack: change.stack };
        self.accounts.entry(key).or_default().add(change, mapping);
    }

    /// Ends the interval: its accounts, by gross amount, then by key; the opening, and what they leave unexplained.
    pub(super) fn close(
        &mut self,
        closing: Balance,
        ts_ns: u64,
        space: &mut AddressSpace,
        code: &mut CodeTable,
    ) -> (Vec<(Key, Account)>, Balance, Amounts) {
        let opening = std::mem::replace(&mut self.opening, closing);
        let mut accounts: Vec<(Key, Account)> = std::mem::take(&mut self.accounts).into_iter().collect();
        let mut unexplained = closing.amounts - opening.amounts;
        for (key, account) in &mut accounts {
            if let Spot::Life(life) = key.spot {
                account.mapping = larger(account.mapping.take(), space.mapping(life));
            }
            unexplained -= account.delta;
            let res = account.delta.res();
            let sum = Sum {
                delta: account.delta,
                grown: res.max(0).unsigned_abs(),
                shrunk: res.min(0).unsigned_abs(),
                faults: account.faults,
                latency: account.latency,
            };
            let stack = key.stack.filter(|&id| code.knows(id));
            code.grew(stack, sum.grown);
            self.sums.codes.book(stack, &sum);
            add_sum(self.sums.by_cause.entry(key.cause).or_default(), &sum);
            self.sums.faults += account.faults;
            let row = self.rows.entry(key.spot).or_default();
            add_sum(&mut row.sum, &sum);
            row.gross = row.gross.saturating_add(account.delta.gross().unsigned_abs());
            row.mapping = account.mapping.clone().or(row.mapping.take());
        }
        accounts.sort_by_key(|(_, account)| std::cmp::Reverse(account.delta.gross()));
        self.start_ns = ts_ns;
        self.sums.unexplained += unexplained;
        self.sums.closing = closing;
        self.sums.peak_res = self.sums.peak_res.max(closing.amounts.res());
        self.shrink(space);
        (accounts, opening, unexplained)
    }

    /// Folds the rows of mappings that are over, once there may be three times as many as may stay: looking at all rows
    /// costs, so it is done once in 2 × [`DEAD_ROWS`] new rows.
    fn shrink(&mut self, space: &AddressSpace) {
        let over = |spot: &Spot| match *spot {
            Spot::Life(life) => space.range(life).is_none(),
            Spot::Nowhere => false,
            Spot::Range(..) | Spot::Inode(..) => true,
        };
        if self.rows.len() < self.shrink_at {
            return;
        }
        let mut dead: Vec<(Spot, u64)> =
            self.rows.iter().filter(|(spot, _)| over(spot)).map(|(&spot, row)| (spot, row.gross)).collect();
        self.shrink_at = self.rows.len() - dead.len() + 3 * DEAD_ROWS;
        if dead.len() <= DEAD_ROWS {
            return;
        }
        dead.sort_by_key(|&(spot, gross)| (std::cmp::Reverse(gross), spot));
        for (spot, _) in dead.split_off(DEAD_ROWS) {
            self.sums.rows.extend(self.rows.remove(&spot));
        }
        fold(&mut self.sums.rows, 0);
    }

    /// Sums up to now, with the mappings' present names.
    pub(super) fn sums(&self, space: &mut AddressSpace) -> Sums {
        let mut sums = self.sums.clone();
        for (&spot, row) in &self.rows {
            let mut row = row.clone();
            if let Spot::Life(life) = spot {
                row.mapping = space.mapping(life).or(row.mapping);
            }
            sums.rows.push(row);
        }
        sums
    }
}
