//! The address space in blocks: what pictures draw. Mappings of one thing that lie together are one block, and where
//! there are more blocks than a picture has room for, the small ones join their neighbours. Nothing is left out: sums
//! over all blocks are the process's.

use crate::cli::PictureScale;
use crate::snapshot::{Mapping, PageMap, Process, Slice};
use crate::statement::Kind;
use crate::views::escape::escape;
use crate::views::part::{Part, Parts};
use crate::views::words::{kind_noun, mapping_label};

/// What lies further apart than this has a gap between that is worth telling.
pub(super) const FAR: u64 = 1 << 30;
/// Characters of a name that comes from the target.
const NAME: usize = 200;

/// Neighbouring mappings that are drawn as one.
#[derive(Clone, Debug)]
pub(super) struct Block<'a> {
    /// Their indices in [`Process::mappings`], and themselves.
    pub(super) mappings: Vec<(usize, &'a Mapping)>,
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
            Some(resident) => Some(resident.rss),
            None => (parts[Part::Unknown] == 0).then(|| parts[Part::Private].saturating_add(parts[Part::Shared])),
        };
        let (start, end) = (mapping.start, mapping.end);
        Self { mappings: vec![(index, mapping)], start, end, size: mapping.size(), gap, parts, resident }
    }

    fn join(&mut self, next: Self) {
        self.mappings.extend(next.mappings);
        self.end = next.end;
        self.size = self.size.saturating_add(next.size);
        self.parts += next.parts;
        self.resident = self.resident.zip(next.resident).map(|(a, b)| a.saturating_add(b));
    }

    /// The mapping that gives the block its name: not the guard before it.
    fn chief(&self) -> Option<&'a Mapping> {
        let all = || self.mappings.iter().map(|&(_, mapping)| mapping);
        all().find(|mapping| mapping.kind != Kind::Guard).or_else(|| all().next())
    }

    fn is_one_thing(&self) -> bool {
        let Some(chief) = self.chief() else { return false };
        self.mappings.iter().all(|(_, mapping)| is_part_of(chief, mapping))
    }

    /// What it is, escaped: `libc.so.6`, `anon`, `12 mappings: library, anon`.
    pub(super) fn label(&self) -> String {
        let Some(chief) = self.chief() else { return String::new() };
        if !self.is_one_thing() {
            let count = crate::views::human::count(self.mappings.len() as u64);
            return format!("{count} mappings: {}", self.kinds().join(", "));
        }
        let label = mapping_label(chief.kind, &chief.name);
        match (&chief.thread, chief.allocator) {
            (Some(thread), _) => format!("{label} {} ({})", escape(&thread.comm, 16), thread.tid),
            (None, Some(allocator)) => format!("{label} ({})", allocator.name()),
            (None, None) => label,
        }
    }

    /// What it is, with its whole name, escaped.
    pub(super) fn full_label(&self) -> String {
        match self.chief() {
            Some(chief) if self.is_one_thing() && chief.name.contains(&b'/') => {
                format!("{} {}", kind_noun(chief.kind), escape(&chief.name, NAME))
            }
            _ => self.label(),
        }
    }

    /// The kinds it holds, that with most memory first.
    fn kinds(&self) -> Vec<&'static str> {
        let mut sums: Vec<(Kind, u64)> = Vec::new();
        for (_, mapping) in &self.mappings {
            let amount = mapping.resident.map_or(0, |r| r.rss.saturating_add(r.swap));
            match sums.iter_mut().find(|(kind, _)| *kind == mapping.kind) {
                Some((_, sum)) => *sum = sum.saturating_add(amount),
                None => sums.push((mapping.kind, amount)),
            }
        }
        sums.sort_by_key(|&(_, sum)| std::cmp::Reverse(sum));
        sums.into_iter().map(|(kind, _)| kind_noun(kind)).collect()
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

/// The mapping, slice by slice; in one piece where only its sums are known.
fn pieces(index: usize, mapping: &Mapping, map: &PageMap, mut each: impl FnMut(Parts)) {
    match map.mappings.get(index) {
        Some(slices) if !slices.slices.is_empty() => slices.slices.iter().for_each(|slice| each(Parts::from(*slice))),
        _ => each(sums(mapping)),
    }
}

fn sums(mapping: &Mapping) -> Parts {
    let Some(resident) = mapping.resident else { return Parts::only(Part::Unknown, mapping.size()) };
    let mut parts = Parts::only(Part::Swapped, resident.swap);
    match mapping.detail {
        Some(detail) => {
            parts[Part::Private] = detail.private_clean.saturating_add(detail.private_dirty);
            parts[Part::Shared] = detail.shared_clean.saturating_add(detail.shared_dirty);
        }
        // In memory, and whether anyone shares it was not read.
        None => parts[Part::Unknown] = resident.rss,
    }
    parts[Part::Untouched] = mapping.size().saturating_sub(parts.total());
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
        map.mappings.get(index).is_some_and(|slices| !slices.slices.is_empty())
            || mapping.resident.is_some_and(|resident| resident.rss == 0 && resident.swap == 0)
    })
}

/// The process in at most so many blocks, by address; only mappings whose kind or name contains the filter.
pub(super) fn blocks<'a>(process: &'a Process, map: &PageMap, filter: Option<&str>, most: usize) -> Vec<Block<'a>> {
    let mut before = None;
    let mut blocks: Vec<Block<'a>> = Vec::new();
    for (index, mapping) in process.mappings.iter().flatten().enumerate() {
        let gap = before.map_or(0, |end| mapping.start.saturating_sub(end));
        before = Some(mapping.end);
        if !filter.is_none_or(|text| matches(mapping, text)) {
            continue;
        }
        let next = Block::of(index, mapping, gap, map);
        match blocks.last_mut() {
            Some(last) if last.chief().is_some_and(|chief| is_one(chief, last.end, mapping)) => last.join(next),
            _ => blocks.push(next),
        }
    }
    fit(blocks, most.max(1))
}

fn matches(mapping: &Mapping, text: &str) -> bool {
    mapping.kind.name().contains(text) || memchr::memmem::find(&mapping.name, text.as_bytes()).is_some()
}

/// Whether the mapping goes on what the one before began.
fn is_one(chief: &Mapping, end: u64, next: &Mapping) -> bool {
    let contiguous = end == next.start;
    match (chief.kind, next.kind) {
        // A stack's guard lies before it, the unused rest of an arena behind.
        (Kind::Guard, Kind::ThreadStack) | (Kind::Arena, Kind::Guard) => contiguous && next.name.is_empty(),
        _ => !next.name.is_empty() && chief.name == next.name && next.start.saturating_sub(end) < FAR,
    }
}

fn is_part_of(chief: &Mapping, mapping: &Mapping) -> bool {
    std::ptr::eq(chief, mapping)
        || (!chief.name.is_empty() && chief.name == mapping.name)
        || (mapping.kind == Kind::Guard && matches!(chief.kind, Kind::ThreadStack | Kind::Arena))
}

/// Joins the smallest neighbours until there are at most so many: rather those of one kind, and rather near ones.
/// Neighbours that are equally small are treated alike, so that there may be fewer in the end.
fn fit(blocks: Vec<Block<'_>>, most: usize) -> Vec<Block<'_>> {
    let Some(surplus) = blocks.len().checked_sub(most).filter(|&surplus| surplus > 0) else { return blocks };
    let costs: Vec<u32> = blocks.windows(2).map(|pair| cost(&pair[0], &pair[1])).collect();
    let mut sorted = costs.clone();
    sorted.sort_unstable();
    let dearest = sorted.get(surplus - 1).copied().unwrap_or(u32::MAX);
    let mut fitted: Vec<Block<'_>> = Vec::with_capacity(most);
    // The first has no neighbour before it.
    for (block, joins) in blocks.into_iter().zip(std::iter::once(false).chain(costs.iter().map(|&c| c <= dearest))) {
        match fitted.last_mut() {
            Some(last) if joins => last.join(block),
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
    let kind = |block: &Block<'_>| block.chief().map(|chief| chief.kind);
    let other = u32::from(kind(a) != kind(b));
    let far = u32::from(b.gap >= FAR);
    weight(a).max(weight(b)) + STEP * (other + 2 * far)
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
