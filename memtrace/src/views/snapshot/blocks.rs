//! The address space in blocks: what pictures draw. Mappings of one thing that lie together are one block, and where
//! there are more blocks than a picture has room for, the small ones join their neighbours. Nothing is left out: sums
//! over all blocks are the process's.

use super::labels::{Filter, Label, kind_words};
use crate::cli::PictureScale;
use crate::event::permission;
use crate::snapshot::rows::Sums;
use crate::snapshot::{Mapping, PageMap, Process, Slice, Slices};
use crate::statement::Kind;
use crate::views::columns::{columns, cut};
use crate::views::escape::escape;
use crate::views::human;
use crate::views::part::{Part, Parts};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What lies further apart than this has a gap between that is worth telling.
pub(super) const FAR: u64 = 1 << 30;
/// Characters of a name that comes from the target.
const NAME: usize = 200;

/// Neighbouring mappings that are drawn as one.
#[derive(Clone, Debug)]
pub(super) struct Block<'a> {
    /// Their indices in [`Process::mappings`], and themselves.
    pub(super) mappings: Vec<(usize, &'a Mapping)>,
    /// The mapping that gives the block its name: not the guard before it.
    chief: &'a Mapping,
    /// First address.
    pub(super) start: u64,
    /// Address after the last.
    pub(super) end: u64,
    /// Bytes that are mapped; less than between the addresses when there are gaps.
    pub(super) size: u64,
    /// Bytes before it that nothing maps.
    pub(super) gap: u64,
    /// What it consists of; adds up to `size`.
    pub(super) parts: Parts,
    /// In memory; `None` when that of one mapping is unknown.
    pub(super) resident: Option<u64>,
}

impl<'a> Block<'a> {
    fn of(index: usize, mapping: &'a Mapping, gap: u64, map: &PageMap) -> Self {
        let mut parts = Parts::default();
        pieces(index, mapping, map, |piece| parts += piece);
        let resident = match mapping.resident {
            // RES leaves it out; in memory it is all the same.
            Some(_) if mapping.kind == Kind::Hugetlb => mapping.detail.map(|detail| detail.hugetlb),
            Some(resident) => Some(resident.rss),
            None => (parts[Part::Unknown] == 0).then(|| parts[Part::Private].saturating_add(parts[Part::Shared])),
        };
        let (start, end) = (mapping.start, mapping.end);
        Self {
            mappings: vec![(index, mapping)],
            chief: mapping,
            start,
            end,
            size: mapping.size(),
            gap,
            parts,
            resident,
        }
    }

    fn join(&mut self, next: Self) {
        if is_bare(self.chief) && !is_bare(next.chief) {
            self.chief = next.chief;
        }
        self.mappings.extend(next.mappings);
        self.end = next.end;
        self.size = self.size.saturating_add(next.size);
        self.parts += next.parts;
        self.resident = self.resident.zip(next.resident).map(|(a, b)| a.saturating_add(b));
    }

    fn is_one_thing(&self) -> bool {
        self.mappings.iter().all(|(_, mapping)| is_part_of(self.chief, mapping))
    }

    /// What it is, escaped, in at most so many columns: `libc.so.6`, `libraries, anonymous (25)`.
    pub(super) fn label(&self, width: usize) -> String {
        if self.is_one_thing() {
            return Label::of_mapping(self.chief).fit(width);
        }
        let count = format!(" ({})", human::count(self.mappings.len() as u64));
        format!("{}{count}", cut(&self.kinds().join(", "), width.saturating_sub(columns(&count))))
    }

    /// What it is, with its whole path, escaped.
    pub(super) fn full_label(&self) -> String {
        if self.is_one_thing() && self.chief.name.starts_with(b"/") {
            escape(&self.chief.name, NAME)
        } else {
            self.label(NAME)
        }
    }

    /// The kinds it holds, that with most memory first; guards are told only where there is nothing else.
    fn kinds(&self) -> Vec<&'static str> {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        let nothing_else = self.chief.kind == Kind::Guard;
        for (_, mapping) in self.mappings.iter().filter(|(_, mapping)| nothing_else || mapping.kind != Kind::Guard) {
            let sum = sums.entry(kind_words(mapping.kind)).or_default();
            *sum = sum.saturating_add(mapping.resident.map_or(0, |r| r.rss.saturating_add(r.swap.unwrap_or(0))));
        }
        let mut kinds: Vec<_> = sums.into_iter().collect();
        kinds.sort_by_key(|&(_, sum)| Reverse(sum));
        kinds.into_iter().map(|(kind, _)| kind).collect()
    }

    /// What is where in it: so many cells of equal size by address. Their sums are the block's parts, to the byte.
    pub(super) fn cells(&self, map: &PageMap, count: usize) -> Vec<Parts> {
        let count = count.max(1);
        let mut cells = vec![Parts::default(); count];
        let whole = u128::from(self.parts.total());
        let ends = |cell: usize| ((cell as u128 + 1) * whole).div_ceil(count as u128) as u64;
        let (mut at, mut cell) = (0_u64, 0);
        for &(index, mapping) in &self.mappings {
            pieces(index, mapping, map, |piece| {
                let length = piece.total();
                let (mut told, mut done) = (Parts::default(), 0);
                // What lies across a cell's end is divided in proportion; the last cell has the rest.
                while cell + 1 < count && ends(cell) <= at.saturating_add(length) {
                    done = ends(cell).saturating_sub(at);
                    let until = piece.first(done, length);
                    cells[cell] += until.without(&told);
                    told = until;
                    cell += 1;
                }
                if done < length {
                    cells[cell] += piece.without(&told);
                }
                at = at.saturating_add(length);
            });
        }
        cells
    }
}

/// The mapping, slice by slice; where only its sums are known, one part after the other, as the live screen draws it.
fn pieces(index: usize, mapping: &Mapping, map: &PageMap, mut each: impl FnMut(Parts)) {
    match map.mappings.get(index) {
        Some(slices) if is_looked_at(mapping, slices) => {
            slices.slices.iter().for_each(|slice| each(Parts::from(*slice)))
        }
        _ => sums(mapping).iter().for_each(|(part, bytes)| each(Parts::only(part, bytes))),
    }
}

/// Whether its pages were looked at one by one. Those of hugetlbfs never are: RES leaves them out.
fn is_looked_at(mapping: &Mapping, slices: &Slices) -> bool {
    mapping.kind != Kind::Hugetlb && !slices.slices.is_empty()
}

fn sums(mapping: &Mapping) -> Parts {
    let Some(resident) = mapping.resident else { return Parts::only(Part::Unknown, mapping.size()) };
    if mapping.kind == Kind::Hugetlb {
        // Whether anyone shares what is in memory is not known, and without smaps not even how much is.
        let unknown = mapping.detail.map_or(mapping.size(), |detail| detail.hugetlb.min(mapping.size()));
        let mut parts = Parts::only(Part::Unknown, unknown);
        parts[Part::Untouched] = mapping.size().saturating_sub(unknown);
        return parts;
    }
    let mut parts = Parts::only(Part::Swapped, resident.swap.unwrap_or(0));
    match mapping.detail {
        Some(detail) => {
            parts[Part::Private] = detail.private_clean.saturating_add(detail.private_dirty);
            parts[Part::Shared] = detail.shared_clean.saturating_add(detail.shared_dirty);
        }
        // In memory, and whether anyone shares it was not read.
        None => parts[Part::Unknown] = resident.rss,
    }
    let rest = if resident.swap.is_some() { Part::Untouched } else { Part::Unknown };
    parts[rest] = parts[rest].saturating_add(mapping.size().saturating_sub(parts.total()));
    parts
}

impl From<Slice> for Parts {
    fn from(slice: Slice) -> Self {
        let mut parts = Self::default();
        parts[Part::Private] = slice.private;
        parts[Part::Shared] = slice.shared;
        parts[Part::Swapped] = slice.swap;
        parts[Part::Untouched] = slice.untouched;
        parts
    }
}

/// Whether pages were looked at one by one, so that their place is known; `true` also when there is nothing to place.
pub(super) fn is_placed(blocks: &[Block<'_>], map: &PageMap) -> bool {
    blocks.iter().flat_map(|block| &block.mappings).all(|&(index, mapping)| {
        map.mappings.get(index).is_some_and(|slices| is_looked_at(mapping, slices))
            || Sums::from(mapping).not_here() == Some(mapping.size())
    })
}

/// The process in at most so many blocks, by address; only mappings whose kind or name contains the filter.
pub(super) fn blocks<'a>(process: &'a Process, map: &PageMap, filter: Option<&str>, most: usize) -> Vec<Block<'a>> {
    let filter = Filter::new(filter);
    let mut before = None;
    let mut blocks: Vec<Block<'a>> = Vec::new();
    for (index, mapping) in process.mappings.iter().flatten().enumerate() {
        // Before the kernel's half (vsyscall) lies what nothing can ever map.
        let gap = before.filter(|_| mapping.start >> 63 == 0).map_or(0, |end| mapping.start.saturating_sub(end));
        before = Some(mapping.end);
        if !filter.matches_mapping(mapping) {
            continue;
        }
        let next = Block::of(index, mapping, gap, map);
        match blocks.last_mut() {
            Some(last) if is_one(last.chief, last.end, mapping) => last.join(next),
            _ => blocks.push(next),
        }
    }
    fit(blocks, most.max(1))
}

/// Nothing may be there: a guard, or the unused rest of something.
fn is_bare(mapping: &Mapping) -> bool {
    mapping.kind == Kind::Guard
        || mapping.permissions & (permission::READ | permission::WRITE | permission::EXECUTE) == 0
}

/// Whether the mapping goes on what the one before began.
fn is_one(chief: &Mapping, end: u64, next: &Mapping) -> bool {
    if !next.name.is_empty() && chief.name == next.name {
        return next.start.saturating_sub(end) < FAR;
    }
    // A stack's guard lies before it, the unused rest of an arena behind.
    let contiguous = end == next.start;
    match (is_bare(chief), is_bare(next)) {
        (true, false) => contiguous && next.kind == Kind::ThreadStack && is_part_of(next, chief),
        (false, true) => contiguous && chief.kind == Kind::Arena && is_part_of(chief, next),
        _ => false,
    }
}

fn is_part_of(chief: &Mapping, mapping: &Mapping) -> bool {
    let fits = mapping.kind == Kind::Guard || mapping.kind == chief.kind;
    let bare_part = is_bare(mapping) && fits && matches!(chief.kind, Kind::ThreadStack | Kind::Arena);
    std::ptr::eq(chief, mapping) || (!chief.name.is_empty() && chief.name == mapping.name) || bare_part
}

/// Joins the smallest neighbours until there are so many: rather those of one kind, and rather near ones. Of those
/// that are equally small some are joined, evenly over the address space.
fn fit(blocks: Vec<Block<'_>>, most: usize) -> Vec<Block<'_>> {
    let Some(surplus) = blocks.len().checked_sub(most).filter(|&surplus| surplus > 0) else { return blocks };
    let costs: Vec<u32> = blocks.windows(2).map(|pair| cost(&pair[0], &pair[1])).collect();
    let mut sorted = costs.clone();
    sorted.sort_unstable();
    let dearest = sorted.get(surplus - 1).copied().unwrap_or(u32::MAX);
    let cheaper = sorted.partition_point(|&cost| cost < dearest);
    let (wanted, equal) = (surplus - cheaper, sorted.partition_point(|&cost| cost <= dearest) - cheaper);
    let mut seen = 0;
    let mut joins = |cost: u32| {
        let before = seen * wanted / equal.max(1);
        seen += usize::from(cost == dearest);
        cost < dearest || seen * wanted / equal.max(1) > before
    };
    let mut fitted: Vec<Block<'_>> = Vec::with_capacity(most);
    // The first has no neighbour before it.
    for (block, cost) in blocks.into_iter().zip(std::iter::once(u32::MAX).chain(costs)) {
        match fitted.last_mut() {
            Some(last) if joins(cost) => last.join(block),
            _ => fitted.push(block),
        }
    }
    fitted
}

/// In doublings of what the larger one has in memory; its address space counts little.
fn cost(a: &Block<'_>, b: &Block<'_>) -> u32 {
    /// Neighbours of two kinds cost as much as those of one that are 64 times as large.
    const STEP: u32 = 6;
    let weight = |block: &Block<'_>| {
        let parts = &block.parts;
        let here = parts.total().saturating_sub(parts[Part::Untouched]);
        here.saturating_add(block.size / 256).max(1).ilog2()
    };
    // Guards are at home everywhere.
    let kind = |block: &Block<'_>| Some(block.chief.kind).filter(|&kind| kind != Kind::Guard);
    let other = u32::from(kind(a).zip(kind(b)).is_some_and(|(a, b)| a != b));
    let far = u32::from(b.gap >= FAR);
    weight(a).max(weight(b)) + STEP * (other + 2 * far)
}

/// An address in at most twelve digits: what only vsyscall has more of is cut.
pub(super) fn address(address: u64) -> String {
    match address >> 48 {
        0 => format!("{address:x}"),
        _ => format!("…{:011x}", address & ((1 << 44) - 1)),
    }
}

/// How long a block of so many bytes is drawn when the largest is `most` long; never shorter than `least`.
pub(super) fn length(size: u64, largest: u64, page_size: u64, (least, most): (u64, u64), scale: PictureScale) -> u64 {
    let room = u128::from(most.saturating_sub(least));
    let (value, whole) = match scale {
        PictureScale::Log => (doublings(size, page_size), doublings(largest, page_size)),
        PictureScale::Linear => {
            let length = (u128::from(size) * u128::from(most) + u128::from(largest) / 2) / u128::from(largest.max(1));
            return (length as u64).clamp(least, most);
        }
    };
    least + (u128::from(value) * room / u128::from(whole.max(1))) as u64
}

/// How often a page must be doubled for this size, in 256ths. Between powers of two the line is straight: whole
/// numbers, so that every machine draws the same.
fn doublings(size: u64, page_size: u64) -> u64 {
    let pages = (size / page_size.max(1)).max(1);
    let whole = pages.ilog2();
    let rest = (u128::from(pages) << 8 >> whole) as u64 - 256;
    u64::from(whole) * 256 + rest
}

#[cfg(test)]
pub(super) mod tests;
