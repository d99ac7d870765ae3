//! Cutting, growing, moving: the few operations that change an [`AddressSpace`]. Each leaves lives contiguous, disjoint
//! and covered by their segments, whatever the range; what became of lives is noted in the order in which it happened.

use super::address_space::{AddressSpace, Life, LifeChange, Seed, Segment};
use crate::event::permission::SHARED;

impl AddressSpace {
    fn put_segment(&mut self, start: u64, segment: Segment) {
        if let Some(life) = self.lives.get_mut(&segment.life) {
            life.count(segment.permissions, 1);
        }
        self.segments.insert(start, segment);
    }

    fn take_segment(&mut self, start: u64) -> Option<Segment> {
        let segment = self.segments.remove(&start)?;
        if let Some(life) = self.lives.get_mut(&segment.life) {
            life.count(segment.permissions, -1);
        }
        Some(segment)
    }

    fn split_segment(&mut self, address: u64) {
        if let Some((start, segment)) = self.segment_at(address).filter(|&(start, _)| start < address) {
            self.take_segment(start);
            self.put_segment(start, Segment { end: address, ..segment });
            self.put_segment(address, segment);
        }
    }

    /// Joins neighbours of equal permissions and life around an address.
    fn join_segments(&mut self, address: u64) {
        let Some((start, left)) = self.segments.range(..address).next_back().map(|(&s, &l)| (s, l)) else {
            return;
        };
        let Some(&right) = self.segments.get(&address) else {
            return;
        };
        if left.end == address && left.life == right.life && left.permissions == right.permissions {
            self.take_segment(start);
            self.take_segment(address);
            self.put_segment(start, right);
        }
    }

    /// A new life in a range that must be free.
    pub(super) fn insert(&mut self, start: u64, end: u64, permissions: u8, seed: Seed) -> u64 {
        let number = self.take_number();
        let known = seed.birth.is_some();
        self.index(number, seed.backing, true);
        self.lives.insert(
            number,
            Life {
                start,
                end,
                seed,
                shared: permissions & SHARED != 0,
                touchable: false,
                dont_fork: false,
                counts: [0; 3],
                segments: 0,
                cached: None,
            },
        );
        self.put_segment(start, Segment { end, life: number, permissions });
        if known && let Some(mapping) = self.mapping(number) {
            self.changes.push(LifeChange::Born(mapping));
        }
        number
    }

    /// Grows a life by a free range at its end or its start.
    pub(super) fn extend(&mut self, number: u64, start: u64, end: u64, permissions: u8) {
        let Some(life) = self.lives.get_mut(&number) else {
            return;
        };
        if life.end == start {
            life.end = end;
        } else {
            life.seed.offset = life.seed.offset.wrapping_sub(life.start - start);
            life.start = start;
        }
        self.put_segment(start, Segment { end, life: number, permissions });
        self.join_segments(start);
        self.join_segments(end);
    }

    /// Cuts a life in two at an address inside it: the smaller part gets a new number.
    pub(super) fn split_life(&mut self, address: u64) {
        let Some((_, segment)) = self.segment_at(address) else {
            return;
        };
        let Some(life) = self.lives.get(&segment.life) else {
            return;
        };
        let (start, end) = (life.start, life.end);
        if start == address {
            return;
        }
        self.split_segment(address);
        let upper_is_new = end - address <= address - start;
        let (part_start, part_end) = if upper_is_new { (address, end) } else { (start, address) };
        let number = self.take_number();
        let Some(old) = self.lives.get_mut(&segment.life) else {
            return;
        };
        let mut part =
            Life { start: part_start, end: part_end, counts: [0; 3], segments: 0, cached: None, ..old.clone() };
        let distance = address - start;
        if upper_is_new {
            old.end = address;
            part.seed.offset = part.seed.offset.wrapping_add(distance);
        } else {
            old.start = address;
            old.seed.offset = old.seed.offset.wrapping_add(distance);
        }
        old.cached = None;
        self.index(number, part.seed.backing, true);
        self.lives.insert(number, part);
        let moved: Vec<u64> = self.segments.range(part_start..part_end).map(|(&start, _)| start).collect();
        for start in moved {
            if let Some(segment) = self.take_segment(start) {
                self.put_segment(start, Segment { life: number, ..segment });
            }
        }
        self.changes.push(LifeChange::Split { from: segment.life, to: number });
        if let Some(mapping) = self.mapping(number).filter(|mapping| mapping.birth.is_some()) {
            self.changes.push(LifeChange::Born(mapping));
        }
    }

    /// Unmaps a range.
    pub(super) fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        for number in self.lives_in(start, end, usize::MAX) {
            let Some((life_start, life_end)) = self.range(number) else {
                continue;
            };
            if life_start < start && end < life_end {
                let keep_lower = start - life_start >= life_end - end;
                self.split_life(if keep_lower { end } else { start });
            }
            let Some(number) = self.life_at(start.max(life_start)) else {
                continue;
            };
            self.trim(number, start, end);
        }
    }

    /// Unmaps a range that holds one end of a life or all of it.
    fn trim(&mut self, number: u64, start: u64, end: u64) {
        let Some((life_start, life_end)) = self.range(number) else {
            return;
        };
        let (start, end) = (start.max(life_start), end.min(life_end));
        let whole = start == life_start && end == life_end;
        let before = if whole { self.mapping(number) } else { None };
        self.split_segment(start);
        self.split_segment(end);
        let gone: Vec<u64> = self.segments.range(start..end).map(|(&start, _)| start).collect();
        for start in gone {
            self.take_segment(start);
        }
        if whole {
            if let Some(life) = self.lives.remove(&number) {
                self.index(number, life.seed.backing, false);
            }
            self.changes.extend(before.map(LifeChange::Died));
        } else if let Some(life) = self.lives.get_mut(&number) {
            if start == life_start {
                life.seed.offset = life.seed.offset.wrapping_add(end - start);
                life.start = end;
            } else {
                life.end = start;
            }
        }
    }

    /// Sets permissions in a range, as far as it is mapped.
    pub(super) fn protect(&mut self, start: u64, end: u64, permissions: u8) {
        if start >= end {
            return;
        }
        self.split_segment(start);
        self.split_segment(end);
        let inside: Vec<u64> = self.segments.range(start..end).map(|(&start, _)| start).collect();
        for &at in &inside {
            if let Some(segment) = self.take_segment(at) {
                let permissions = permissions & !SHARED | segment.permissions & SHARED;
                self.put_segment(at, Segment { permissions, ..segment });
            }
        }
        for at in inside.into_iter().chain([end]) {
            self.join_segments(at);
        }
    }

    /// Takes whole lives' segments out of a range, for moving. The range must not cut a life.
    pub(super) fn lift(&mut self, start: u64, end: u64) -> Vec<(u64, Segment)> {
        let starts: Vec<u64> = self.segments.range(start..end).map(|(&start, _)| start).collect();
        starts.into_iter().filter_map(|start| Some((start, self.take_segment(start)?))).collect()
    }

    /// Puts lifted segments down again, `from` becoming `to`.
    pub(super) fn drop_at(&mut self, lifted: &[(u64, Segment)], from: u64, to: u64) {
        let place = |address: u64| to.wrapping_add(address.wrapping_sub(from));
        for &(start, segment) in lifted {
            if let Some(life) = self.lives.get_mut(&segment.life) {
                if life.segments == 0 {
                    life.start = place(start);
                }
                life.end = place(segment.end);
            }
            self.put_segment(place(start), Segment { end: place(segment.end), ..segment });
        }
    }
}
