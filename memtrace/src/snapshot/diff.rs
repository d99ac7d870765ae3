//! What changed between two snapshots of a process, by mapping. The books close here too:
//! `closing RES − opening RES = Σ rows + unexplained`, the last being what the two readings themselves leave open.
//!
//! A mapping is the same one when kind, name and file are the same and the ranges overlap: it may have grown, lost its
//! end, been split or merged. One that was moved is another one. Differences wrap, and so close whatever they are.

use super::rows::Sums;
use super::{Counters, Detail, Mapping, Process};
use crate::statement::Kind;
use std::collections::BTreeMap;

/// What changed in a process.
#[derive(Clone, Debug, PartialEq)]
pub struct Diff<'a> {
    /// The opening.
    pub before: &'a Process,
    /// The closing.
    pub after: &'a Process,
    /// How far changes can be told.
    pub detail: Level,
    /// Mappings of which something changed, by address.
    pub rows: Vec<Row<'a>>,
    /// What no row explains; `None` when RES itself is unknown on either side.
    pub unexplained: Option<Change>,
}

/// How far changes can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// By mapping.
    Mapping,
    /// Mappings are known, but on one side or both not what of each is in memory: rows tell of address space.
    Size,
    /// Not even the mappings are known on one side: only the counters can be compared.
    Total,
}

impl Level {
    /// Name in the NDJSON contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mapping => "mapping",
            Self::Size => "size",
            Self::Total => "total",
        }
    }
}

/// What changed in a mapping, or in what became of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Row<'a> {
    /// As it is now, or was last; of several the first.
    pub mapping: &'a Mapping,
    /// Where the last of them ends.
    pub end: u64,
    /// What of it was where before; no mapping when it was not there.
    pub from: Sums,
    /// After; no mapping when it is gone.
    pub to: Sums,
}

/// What became of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It was not there before.
    Born,
    /// It is not there any more.
    Gone,
    /// It has another size.
    Resized,
    /// Only what is in memory of it changed.
    Changed,
}

impl What {
    /// Name in the NDJSON contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Born => "born",
            Self::Gone => "gone",
            Self::Resized => "resized",
            Self::Changed => "changed",
        }
    }
}

impl Row<'_> {
    /// What became of it.
    #[must_use]
    pub fn what(&self) -> What {
        match (self.from.mappings, self.to.mappings) {
            (0, _) => What::Born,
            (_, 0) => What::Gone,
            _ if self.from.size != self.to.size => What::Resized,
            _ => What::Changed,
        }
    }

    /// Whether only its PSS is another: nothing of it changed here, others who map the same pages came or went.
    #[must_use]
    pub fn is_only_pss(&self) -> bool {
        // PSS, and what of it is in swap or locked, are parts of pages; all else is whole pages.
        let whole = |sums: Sums| {
            (sums.size, sums.resident, sums.detail.map(|d| Detail { pss: 0, swap_pss: 0, locked: 0, ..d }))
        };
        self.what() == What::Changed && self.from.detail.is_some() && whole(self.from) == whole(self.to)
    }

    /// By how much; `None` when that is unknown before or after.
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        let (from, to) = self.from.resident.zip(self.to.resident)?;
        let others = |resident: super::Resident| resident.rss.wrapping_sub(resident.anonymous);
        Some(Change { anon: difference(from.anonymous, to.anonymous), shr: difference(others(from), others(to)) })
    }
}

/// Signed bytes of RES: what is anonymous, and what `top` counts as SHR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Anonymous memory.
    pub anon: i64,
    /// Pages of files and shared memory.
    pub shr: i64,
}

impl Change {
    /// RES.
    #[must_use]
    pub const fn res(self) -> i64 {
        self.anon.wrapping_add(self.shr)
    }

    /// Of the kernel's counters.
    #[must_use]
    pub const fn of(before: &Counters, after: &Counters) -> Self {
        Self { anon: difference(before.anon, after.anon), shr: difference(before.shr(), after.shr()) }
    }

    const fn plus(self, other: Self) -> Self {
        Self { anon: self.anon.wrapping_add(other.anon), shr: self.shr.wrapping_add(other.shr) }
    }

    const fn minus(self, other: Self) -> Self {
        Self { anon: self.anon.wrapping_sub(other.anon), shr: self.shr.wrapping_sub(other.shr) }
    }
}

impl std::iter::Sum for Change {
    fn sum<I: Iterator<Item = Self>>(changes: I) -> Self {
        changes.fold(Self::default(), Self::plus)
    }
}

/// Signed; wraps.
#[must_use]
pub const fn difference(before: u64, after: u64) -> i64 {
    after.wrapping_sub(before).cast_signed()
}

/// Compares.
#[must_use]
pub fn diff<'a>(before: &'a Process, after: &'a Process) -> Diff<'a> {
    let (rows, detail) = match before.mappings.as_deref().zip(after.mappings.as_deref()) {
        None => (Vec::new(), Level::Total),
        Some((a, b)) => {
            let known = a.iter().chain(b).all(|mapping| mapping.resident.is_some());
            (rows(a, b), if known { Level::Mapping } else { Level::Size })
        }
    };
    let explained = rows.iter().filter_map(Row::change).sum();
    let whole = before.counters.zip(after.counters).map(|(before, after)| Change::of(&before, &after));
    Diff { before, after, detail, rows, unexplained: whole.map(|whole| whole.minus(explained)) }
}

/// What makes two mappings the same one, besides where they are: the file, whatever it is called now (the kernel appends
/// ` (deleted)`); else the kind and name that the kernel gives.
type Identity<'a> = (Option<Kind>, &'a [u8], u64, u64);

fn identity(mapping: &Mapping) -> Identity<'_> {
    if mapping.inode != 0 {
        return (None, &[], mapping.device, mapping.inode);
    }
    let kind = match mapping.kind {
        // Recognised by what lies beside it, or by the thread that happens to sleep in it: the mapping is the same.
        Kind::ThreadStack | Kind::Arena | Kind::Guard => Kind::Anon,
        kind => kind,
    };
    (Some(kind), &mapping.name, mapping.device, 0)
}

fn rows<'a>(before: &'a [Mapping], after: &'a [Mapping]) -> Vec<Row<'a>> {
    let mut same: BTreeMap<Identity<'a>, Vec<(&'a Mapping, bool)>> = BTreeMap::new();
    for (mappings, is_after) in [(before, false), (after, true)] {
        for mapping in mappings {
            same.entry(identity(mapping)).or_default().push((mapping, is_after));
        }
    }
    let mut rows: Vec<Row<'a>> = same.into_values().flat_map(overlapping).filter(has_changed).collect();
    rows.sort_by_key(|row| (row.mapping.start, row.what() == What::Born));
    rows
}

/// Mappings of one identity, in groups that overlap from one side to the other.
fn overlapping<'a>(mut mappings: Vec<(&'a Mapping, bool)>) -> Vec<Row<'a>> {
    mappings.sort_by_key(|&(mapping, is_after)| (mapping.start, is_after));
    let mut rows: Vec<Row<'a>> = Vec::new();
    // How far the last row reaches, before and after. Mappings of one side never overlap, so that one belongs to it
    // exactly when it begins before the other side ends.
    let mut reach = [0, 0];
    for (mapping, is_after) in mappings {
        let (own, other) = (usize::from(is_after), usize::from(!is_after));
        if rows.is_empty() || mapping.start >= reach[other] {
            rows.push(Row { mapping, end: mapping.end, from: Sums::ZERO, to: Sums::ZERO });
            reach = [0, 0];
        }
        reach[own] = reach[own].max(mapping.end);
        let Some(row) = rows.last_mut() else { continue };
        if is_after && row.to.mappings == 0 {
            (row.mapping, row.end) = (mapping, mapping.end);
        } else if is_after || row.to.mappings == 0 {
            row.end = mapping.end;
        }
        let sums = if is_after { &mut row.to } else { &mut row.from };
        *sums = sums.plus(mapping.into());
    }
    rows
}

/// Something that is known on both sides is another.
fn has_changed(row: &Row<'_>) -> bool {
    fn differ<T: PartialEq>(from: Option<T>, to: Option<T>) -> bool {
        from.zip(to).is_some_and(|(from, to)| from != to)
    }
    let (from, to) = (row.from, row.to);
    let one_sided = from.mappings == 0 || to.mappings == 0;
    one_sided || from.size != to.size || differ(from.resident, to.resident) || differ(from.detail, to.detail)
}

/// The processes of two snapshots, who is who.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs<'a> {
    /// Before and after.
    pub pairs: Vec<(&'a Process, &'a Process)>,
    /// Only before.
    pub gone: Vec<&'a Process>,
    /// Only after.
    pub new: Vec<&'a Process>,
}

/// The same process has the same number and start. Where there is one on each side, these two are meant, whoever they are:
/// a service before and after its restart.
#[must_use]
pub fn pair<'a>(before: &'a [Process], after: &'a [Process]) -> Pairs<'a> {
    if let ([one], [other]) = (before, after) {
        return Pairs { pairs: vec![(one, other)], ..Pairs::default() };
    }
    let identity = |process: &Process| (process.pid, process.start_time);
    let mut later: BTreeMap<(u32, u64), &'a Process> =
        after.iter().map(|process| (identity(process), process)).collect();
    let mut pairs = Pairs::default();
    for process in before {
        match later.remove(&identity(process)) {
            Some(partner) => pairs.pairs.push((process, partner)),
            None => pairs.gone.push(process),
        }
    }
    // In the order of the file, not of their numbers.
    pairs.new = after.iter().filter(|process| later.contains_key(&identity(process))).collect();
    pairs
}

/// What several processes come to at one moment, to be compared with another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Together {
    /// When, ns since 1970: that of the last one.
    pub time_ns: i64,
    /// Who.
    pub pids: Vec<u32>,
    /// What they come to.
    pub levels: Levels,
}

/// Of several processes. Bytes; `None` for what is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// See [`super::Group::sum_res`].
    pub sum_res: Option<u64>,
    /// See [`super::Group::sum_pss`].
    pub sum_pss: Option<u64>,
    /// See [`super::Physical::res`].
    pub res: Option<u64>,
    /// See [`super::Physical::uss`].
    pub uss: Option<u64>,
}

impl Levels {
    /// Names in the NDJSON contract.
    pub const NAMES: [&'static str; 4] = ["sum_res", "sum_pss", "res", "uss"];

    /// In the order of [`Self::NAMES`].
    #[must_use]
    pub const fn amounts(&self) -> [Option<u64>; Self::NAMES.len()] {
        [self.sum_res, self.sum_pss, self.res, self.uss]
    }
}

impl Together {
    /// Of these: their sums. How much they share is not known from them.
    #[must_use]
    pub fn of<'a>(processes: impl IntoIterator<Item = &'a Process>) -> Self {
        let zero = Levels { sum_res: Some(0), sum_pss: Some(0), ..Levels::default() };
        let mut together = Self { levels: zero, ..Self::default() };
        let add = |sum: Option<u64>, amount: Option<u64>| sum.zip(amount).map(|(a, b)| a.saturating_add(b));
        for process in processes {
            let levels = &mut together.levels;
            levels.sum_res = add(levels.sum_res, process.counters.map(|counters| counters.res()));
            levels.sum_pss = add(levels.sum_pss, process.rollup.map(|rollup| rollup.pss));
            together.time_ns = together.time_ns.max(process.time_ns);
            together.pids.push(process.pid);
        }
        together
    }

    /// Whether there is anything that one process does not say by itself.
    #[must_use]
    pub fn is_worth_telling(&self, after: &Self) -> bool {
        self.pids.len() > 1 || after.pids.len() > 1
    }
}

#[cfg(test)]
mod tests;
