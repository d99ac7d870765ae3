//! The past of one process: statements in the order of time, bounded, so that any stretch of it can be told again.
//!
//! A [`Tally`] is a statement over more than one interval; adding statements keeps `closing − opening = Σ entries +
//! unexplained`. When there are more than [`MOMENTS`] statements, or more than [`ENTRIES`] entries in them, the oldest
//! half of the moments are joined in pairs: the law holds for what is joined, only the time of it becomes coarser. So
//! the whole session stays, the last twenty minutes of one that changes ten times a second interval by interval.

use crate::event::{Lost, StackId};
use crate::statement::{Entry, Statement};
use crate::units::Amounts;
use memtrace_common::Cause;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Statements that are kept: twenty minutes at ten a second.
pub(super) const MOMENTS: usize = 12_000;
/// Entries in all of them together, about 300 bytes each.
pub(super) const ENTRIES: usize = 80_000;
/// Entries of a joined moment and of a tally; the smallest of more become one a cause.
const ENTRIES_JOINED: usize = 512;
const ENTRIES_TALLIED: usize = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    cause: Cause,
    mapping: Option<u64>,
    tid: u32,
    syscall: Option<u32>,
    stack: Option<StackId>,
}

impl Key {
    fn of(entry: &Entry) -> Self {
        Self {
            cause: entry.cause,
            mapping: entry.mapping.as_ref().map(|mapping| mapping.id),
            tid: entry.tid,
            syscall: entry.syscall,
            stack: entry.stack.as_ref().map(|stack| stack.id),
        }
    }
}

/// The sum of statements that follow each other.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Everything but the entries.
    pub(super) frame: Statement,
    entries: BTreeMap<Key, Entry>,
}

impl Tally {
    /// Nothing yet, at the statement's beginning.
    pub(super) fn before(statement: &Statement) -> Self {
        let frame = Statement {
            mm: statement.mm,
            pid: statement.pid,
            comm: statement.comm.clone(),
            start_ns: statement.start_ns,
            ts_ns: statement.start_ns,
            opening: statement.opening,
            closing: statement.opening,
            entries: Vec::new(),
            unexplained: Amounts::ZERO,
            lost: Lost::default(),
        };
        Self { frame, entries: BTreeMap::new() }
    }

    /// The sum of all of them; `None` when there are none.
    pub(super) fn of<'a>(statements: impl IntoIterator<Item = &'a Arc<Statement>>) -> Option<Self> {
        let mut statements = statements.into_iter().peekable();
        let mut tally = Self::before(statements.peek()?);
        statements.for_each(|statement| tally.add(statement));
        Some(tally)
    }

    /// Adds the next statement.
    pub(super) fn add(&mut self, next: &Statement) {
        let frame = &mut self.frame;
        frame.comm.clone_from(&next.comm);
        frame.ts_ns = next.ts_ns;
        frame.closing = next.closing;
        frame.unexplained += next.unexplained;
        frame.lost = frame.lost + next.lost;
        next.entries.iter().for_each(|entry| self.enter(Key::of(entry), entry));
        self.limit(ENTRIES_TALLIED);
    }

    fn enter(&mut self, key: Key, more: &Entry) {
        let Some(entry) = self.entries.get_mut(&key) else {
            self.entries.insert(key, more.clone());
            return;
        };
        entry.delta += more.delta;
        entry.faults += more.faults;
        entry.latency.merge(&more.latency);
        entry.mapping.clone_from(&more.mapping);
        entry.comm.clone_from(&more.comm);
        entry.first_ns = entry.first_ns.min(more.first_ns);
        entry.last_ns = entry.last_ns.max(more.last_ns);
    }

    /// Beyond twice the limit, the smallest entries become one a cause.
    fn limit(&mut self, limit: usize) {
        if self.entries.len() <= 2 * limit {
            return;
        }
        let mut sizes: Vec<i64> = self.entries.values().map(|entry| entry.delta.gross()).collect();
        sizes.sort_unstable_by_key(|&gross| std::cmp::Reverse(gross));
        let least = sizes[limit];
        for (key, entry) in std::mem::take(&mut self.entries) {
            if entry.delta.gross() > least {
                self.enter(key, &entry);
            } else {
                let rest = Entry { mapping: None, tid: 0, comm: Vec::new(), syscall: None, stack: None, ..entry };
                self.enter(Key::of(&rest), &rest);
            }
        }
    }

    /// By key.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// How the balance moved.
    pub(super) fn change(&self) -> Amounts {
        self.frame.closing.amounts - self.frame.opening.amounts
    }

    /// As the model would have said it: entries by amount.
    pub(super) fn statement(&self) -> Statement {
        let mut entries: Vec<Entry> = self.entries.values().cloned().collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.delta.gross()));
        Statement { entries, ..self.frame.clone() }
    }
}

/// Statements by time.
#[derive(Clone, Debug, Default)]
pub(super) struct Moments {
    list: VecDeque<Arc<Statement>>,
    entries: usize,
    /// Moments up to this one may be several intervals.
    pub(super) joined_until: Option<u64>,
}

impl Moments {
    /// Appends; statements that do not follow in time are left out, for a trace may say anything.
    pub(super) fn push(&mut self, statement: &Statement) -> bool {
        let follows = self.list.back().is_none_or(|last| last.ts_ns < statement.ts_ns);
        if follows {
            self.entries += statement.entries.len();
            self.list.push_back(Arc::new(statement.clone()));
            if self.list.len() > MOMENTS || self.entries > ENTRIES && self.list.len() > 2 {
                self.join();
            }
        }
        follows
    }

    /// Joins the older half in pairs.
    fn join(&mut self) {
        let newer = self.list.split_off(self.list.len() / 4 * 2);
        let older = std::mem::take(&mut self.list);
        for pair in older.into_iter().collect::<Vec<_>>().chunks(2) {
            let Some(mut tally) = Tally::of(pair) else { continue };
            tally.limit(ENTRIES_JOINED);
            self.list.push_back(Arc::new(tally.statement()));
        }
        self.joined_until = self.list.back().map(|last| last.ts_ns);
        self.list.extend(newer);
        self.entries = self.list.iter().map(|statement| statement.entries.len()).sum();
    }

    /// All, by time.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Statement>> {
        self.list.iter()
    }

    /// Those that ended after `from` and not after `to`.
    pub(super) fn between(&self, from: u64, to: u64) -> impl DoubleEndedIterator<Item = &Arc<Statement>> {
        let end = self.list.partition_point(|statement| statement.ts_ns <= to);
        let begin = self.list.partition_point(|statement| statement.ts_ns <= from).min(end);
        self.list.range(begin..end)
    }

    /// The last one that ended at or before a time.
    pub(super) fn at(&self, ts_ns: u64) -> Option<&Arc<Statement>> {
        let end = self.list.partition_point(|statement| statement.ts_ns <= ts_ns);
        end.checked_sub(1).and_then(|last| self.list.get(last))
    }

    /// The first one that ended after a time.
    pub(super) fn after(&self, ts_ns: u64) -> Option<&Arc<Statement>> {
        self.list.get(self.list.partition_point(|statement| statement.ts_ns <= ts_ns))
    }

    pub(super) fn first(&self) -> Option<&Arc<Statement>> {
        self.list.front()
    }

    pub(super) fn last(&self) -> Option<&Arc<Statement>> {
        self.list.back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::tests::sample;

    #[test]
    fn the_law_holds_however_much_is_joined() {
        let mut moments = Moments::default();
        for n in 0..3 * MOMENTS as u64 {
            assert!(moments.push(&sample::statement(n, &[(Cause::FaultAnon, 3, n % 40), (Cause::Munmap, -2, n % 7)])));
        }
        assert!(moments.iter().count() <= MOMENTS && moments.entries <= ENTRIES);
        let whole = Tally::of(moments.iter()).expect("there are moments");
        let booked: Amounts = whole.entries().map(|entry| entry.delta).sum();
        assert_eq!(whole.change(), booked + whole.frame.unexplained);
        assert_eq!(booked.res(), 3 * MOMENTS as i64);
        // Each begins where the one before it ended.
        let all: Vec<_> = moments.iter().collect();
        assert!(all.windows(2).all(|pair| pair[0].closing == pair[1].opening && pair[0].ts_ns <= pair[1].start_ns));
        // The last ones are as they came.
        assert_eq!(moments.last().map(|last| last.entries.len()), Some(2));
        assert!(moments.joined_until < all.get(MOMENTS / 2).map(|moment| moment.ts_ns));
    }

    #[test]
    fn what_is_too_much_becomes_one_a_cause() {
        let first = sample::statement(0, &[]);
        let mut tally = Tally::before(&first);
        for n in 0..60 {
            let entries: Vec<_> = (0..1000).map(|id| (Cause::FaultAnon, 1 + (id % 3) as i64, n * 1000 + id)).collect();
            tally.add(&sample::statement(n, &entries));
        }
        assert!(tally.entries.len() <= 2 * ENTRIES_TALLIED);
        let booked: i64 = tally.entries().map(|entry| entry.delta.res()).sum();
        assert_eq!(booked, 60 * (0..1000).map(|id| 1 + id % 3).sum::<i64>());
        assert!(tally.entries().any(|entry| entry.mapping.is_none()));
    }

    #[test]
    fn stretches() {
        let mut moments = Moments::default();
        (0..5).for_each(|n| assert!(moments.push(&sample::statement(n, &[(Cause::FaultAnon, 1, 0)]))));
        let ends: Vec<_> = moments.iter().map(|statement| statement.ts_ns).collect();
        assert_eq!(moments.between(ends[0], ends[3]).count(), 3);
        assert_eq!(moments.between(ends[3], ends[0]).count(), 0);
        assert_eq!(moments.at(ends[2] + 1).map(|at| at.ts_ns), Some(ends[2]));
        assert_eq!(moments.at(0).map(|at| at.ts_ns), None);
        assert_eq!(moments.after(ends[2]).map(|after| after.ts_ns), Some(ends[3]));
        assert!(!moments.push(&sample::statement(1, &[])), "the past is past");
    }
}
