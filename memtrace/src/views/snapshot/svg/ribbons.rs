//! Ribbons between two columns: blocks that show the same physical pages. Their widths are in proportion to the bytes,
//! as far as a hair can be thinner than a hair.

use super::xml::Xml;
use super::{COLUMN, Column};
use crate::snapshot::Group;
use crate::views::human::{counted, size};
use std::collections::BTreeMap;

/// Ribbons that are drawn, the widest.
const MOST: usize = 300;
/// The thinnest, tenths of a pixel.
const HAIR: u64 = 10;

/// What two columns share.
pub(super) struct Ribbons {
    /// Block of the first, block of the second, bytes; by address.
    drawn: Vec<(usize, usize, u64)>,
    /// How many are not drawn, and their bytes.
    rest: (usize, u64),
    /// Bytes that both map, each physical page once; `None` when that is not known.
    both: Option<u64>,
}

impl Ribbons {
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = vec![match (self.both, self.drawn.is_empty()) {
            (_, true) => "They share no page.".to_owned(),
            (Some(both), _) => {
                format!("Ribbons, as wide as there are bytes: physical pages that both map, {}.", size(both))
            }
            (None, _) => "Ribbons, as wide as there are bytes: physical pages that both map.".to_owned(),
        }];
        if self.rest.0 > 0 {
            let count = counted(self.rest.0 as u64, "smaller ribbon", "smaller ribbons");
            notes.push(format!("Not drawn: {count}, {} in all.", size(self.rest.1)));
        }
        notes
    }
}

/// What the group says about these two; `None` when it does not say anything.
pub(super) fn find(group: Option<&Group>, first: &Column<'_>, second: &Column<'_>) -> Option<Ribbons> {
    let group = group?;
    let physical = group.physical.as_ref()?;
    // Links are of the first two of the group.
    if group.pids.get(..2)? != [first.process.pid, second.process.pid] {
        return None;
    }
    let (from, to) = (blocks_of(first), blocks_of(second));
    let mut sums: BTreeMap<(usize, usize), u64> = BTreeMap::new();
    for link in physical.links.iter().filter(|link| link.shared > 0) {
        if let (Some(&a), Some(&b)) = (from.get(&link.a), to.get(&link.b)) {
            let sum = sums.entry((a, b)).or_default();
            *sum = sum.saturating_add(link.shared);
        }
    }
    let mut all: Vec<_> = sums.into_iter().map(|((a, b), shared)| (a, b, shared)).collect();
    all.sort_by_key(|&(_, _, shared)| std::cmp::Reverse(shared));
    let rest = all.split_off(all.len().min(MOST));
    all.sort_unstable();
    let both = physical.pairs.iter().flatten().find(|pair| (pair.a, pair.b) == (0, 1)).map(|pair| pair.shared);
    let rest = (rest.len(), rest.iter().fold(0, |sum: u64, &(_, _, shared)| sum.saturating_add(shared)));
    Some(Ribbons { drawn: all, rest, both })
}

/// Which block each mapping is in.
fn blocks_of(column: &Column<'_>) -> BTreeMap<usize, usize> {
    let blocks = column.blocks.iter().enumerate();
    blocks.flat_map(|(at, block)| block.mappings.iter().map(move |&(index, _)| (index, at))).collect()
}

pub(super) fn draw(ribbons: &Ribbons, first: &Column<'_>, second: &Column<'_>, xml: &mut Xml) {
    let mut ends = [vec![0_u64; first.blocks.len()], vec![0; second.blocks.len()]];
    for &(a, b, shared) in &ribbons.drawn {
        ends[0][a] = ends[0][a].saturating_add(shared);
        ends[1][b] = ends[1][b].saturating_add(shared);
    }
    // One measure for all, with which no block's ribbons are higher than their share of it.
    let places = |column: &Column<'_>, sums: &[u64]| -> Option<(u64, u64)> {
        let each = column.places.iter().zip(&column.blocks).zip(sums).filter(|&(_, &sum)| sum > 0);
        let each = each.map(|((&(_, height), block), &sum)| (u64::from(height) * 10, sum.max(block.size)));
        each.min_by(|a, b| (u128::from(a.0) * u128::from(b.1)).cmp(&(u128::from(b.0) * u128::from(a.1))))
    };
    let measures = [places(first, &ends[0]), places(second, &ends[1])].into_iter().flatten();
    let Some((tenths, bytes)) =
        measures.min_by(|a, b| (u128::from(a.0) * u128::from(b.1)).cmp(&(u128::from(b.0) * u128::from(a.1))))
    else {
        return;
    };
    let measure = |shared: u64| (u128::from(shared) * u128::from(tenths) / u128::from(bytes.max(1))) as u64;
    // Each end's ribbons lie together in the middle of the block's edge.
    let mut next = [vec![0_u64; first.blocks.len()], vec![0; second.blocks.len()]];
    for (side, column) in [first, second].into_iter().enumerate() {
        for (at, &(top, height)) in column.places.iter().enumerate() {
            let (top, height) = (u64::from(top) * 10, u64::from(height) * 10);
            next[side][at] = top + height.saturating_sub(measure(ends[side][at]).max(HAIR)) / 2;
        }
    }
    let (from, to) = (first.left + COLUMN, second.left);
    let middle = (from + to) / 2;
    for &(a, b, shared) in &ribbons.drawn {
        let width = measure(shared).max(HAIR);
        let start = |side: usize, at: usize, column: &Column<'_>| {
            let (top, height) = column.places[at];
            // Hairs are wider than they should be: the last ones may lie on each other, never outside.
            next[side][at].min(u64::from(top + height) * 10 - width)
        };
        let (y0, y1) = (start(0, a, first), start(1, b, second));
        next[0][a] += measure(shared);
        next[1][b] += measure(shared);
        let tenths = |y: u64| format!("{}.{}", y / 10, y % 10);
        let (t0, t1, b0, b1) = (tenths(y0), tenths(y1), tenths(y0 + width), tenths(y1 + width));
        let path =
            format!("M{from} {t0}C{middle} {t0} {middle} {t1} {to} {t1}V{b1}C{middle} {b1} {middle} {b0} {from} {b0}z");
        let tooltip =
            format!("{} ↔ {}\n{} in both", first.blocks[a].label(80), second.blocks[b].label(80), size(shared));
        xml.path_with_tooltip("l", &path, &tooltip);
    }
}
