//! A reading of `/proc/PID/maps` set against the [`AddressSpace`].
//!
//! The reading took time. Calls that returned before it began are contained in it; the ranges that later calls
//! touched are known better from the calls, so the reading has no say there, whether it contains them or not. A
//! call that arrives after the reading but returned before it began changes nothing any more; one that returned
//! while it was taken is applied on top, which gives the same result once or twice, unless it moved a mapping and the
//! old place was used again within the reading (the next reading tells).
//!
//! Outside those ranges the reading is right: lives that it shows go on, with its names and permissions; ranges that
//! it does not show, or shows with another backing, die; ranges that were not known grow a neighbour in the same
//! line or begin a life without birth.

use super::address_space::{AddressSpace, Backing, Seed};
use super::journal::without;
use crate::event::permission::SHARED;
use crate::event::{Maps, MapsLine};
use crate::kind::{self, Hint, LineHint};
use std::sync::Arc;

/// For each line, the range of neighbours around it that bear the same name and the same file: what one life may span.
fn runs(lines: &[&MapsLine]) -> Vec<(u64, u64)> {
    let joins = |one: &MapsLine, two: &MapsLine| {
        one.end == two.start && one.name == two.name && Backing::of(one) == Backing::of(two)
    };
    let mut runs: Vec<(u64, u64)> = lines.iter().map(|line| (line.start, line.end)).collect();
    for index in 1..lines.len() {
        if joins(lines[index - 1], lines[index]) {
            runs[index].0 = runs[index - 1].0;
        }
    }
    for index in (1..lines.len()).rev() {
        if joins(lines[index - 1], lines[index]) {
            runs[index - 1].1 = runs[index].1;
        }
    }
    runs
}

impl AddressSpace {
    /// Applies a reading. Lines out of order, empty or overlapping are hostile and skipped.
    pub fn apply_reading(&mut self, maps: &Maps) {
        let mut lines: Vec<&MapsLine> = maps.lines.iter().filter(|line| line.start < line.end).collect();
        lines.sort_by_key(|line| line.start);
        let mut last_end = 0;
        lines.retain(|line| {
            let fits = line.start >= last_end;
            if fits {
                last_end = line.end;
            }
            fits
        });
        let touched = self.journal.since(maps.begin_ns).unwrap_or_else(|| vec![(0, u64::MAX)]);
        self.journal.read = self.journal.read.max(Some((maps.begin_ns, maps.ts_ns)));

        let kind_lines: Vec<kind::Line<'_>> = lines.iter().map(|line| (*line).into()).collect();
        self.context.learn(&kind_lines);
        let hints = kind::line_hints(&kind_lines, &self.context);
        for (start, end) in self.contradicted(&lines, &touched) {
            self.remove(start, end);
        }
        let news: Vec<bool> = lines.iter().map(|line| !self.is_known(line)).collect();
        for ((line, hint), _) in lines.iter().zip(&hints).zip(&news).filter(|(_, new)| **new) {
            self.fill(line, hint, &touched);
        }
        let runs = runs(&lines);
        let described = lines.iter().zip(&hints).zip(&runs).zip(&news);
        for (((line, hint), &run), _) in described.filter(|(_, new)| **new) {
            self.describe(line, hint, run, &touched);
        }
        if self.journal.break_ns < maps.begin_ns
            && let Some(heap) = lines.iter().rfind(|line| line.name == b"[heap]")
        {
            self.brk = heap.end;
        }
        self.refresh_kinds();
    }

    /// Ranges of segments that the reading does not show, or shows as something else.
    fn contradicted(&self, lines: &[&MapsLine], touched: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut wrong = Vec::new();
        let mut next = 0;
        for (start, segment) in self.segments() {
            let Some(life) = self.lives.get(&segment.life) else {
                continue;
            };
            while lines.get(next).is_some_and(|line| line.end <= start) {
                next += 1;
            }
            let mut right = Vec::new();
            for line in lines.get(next..).unwrap_or_default() {
                if line.start >= segment.end {
                    break;
                }
                let shared = line.permissions & SHARED != 0;
                if shared == life.shared && life.seed.backing.agrees(Backing::of(line)) {
                    right.push((line.start, line.end));
                }
            }
            for (start, end) in without(start, segment.end, &right) {
                wrong.extend(without(start, end, touched));
            }
        }
        wrong
    }

    /// The line says nothing new: it is one segment of a life with this file and name.
    fn is_known(&self, line: &MapsLine) -> bool {
        self.segments.get(&line.start).is_some_and(|segment| {
            segment.end == line.end
                && segment.permissions == line.permissions
                && self
                    .lives
                    .get(&segment.life)
                    .is_some_and(|life| *life.seed.name == *line.name && life.seed.backing == Backing::of(line))
        })
    }

    /// Maps the parts of a line that no life covers.
    fn fill(&mut self, line: &MapsLine, hint: &LineHint, touched: &[(u64, u64)]) {
        let covered: Vec<(u64, u64)> = self.covered(line.start, line.end);
        for (start, end) in without(line.start, line.end, &covered) {
            for (start, end) in without(start, end, touched) {
                let left = start.checked_sub(1).and_then(|address| self.segment_at(address));
                let left = left.filter(|_| start > line.start || hint.continues);
                let right = self.segments.get(&end).copied().filter(|_| end < line.end);
                let fits = |life: &u64| {
                    self.lives.get(life).is_some_and(|life| {
                        life.seed.backing.agrees(Backing::of(line)) && life.shared == (line.permissions & SHARED != 0)
                    })
                };
                let neighbour = left
                    .map(|(_, segment)| segment.life)
                    .filter(fits)
                    .or_else(|| right.map(|segment| segment.life).filter(fits));
                match neighbour {
                    Some(life) => self.extend(life, start, end, line.permissions),
                    None => {
                        let seed = Seed {
                            backing: Backing::of(line),
                            offset: line.offset.wrapping_add(start - line.start),
                            name: line.name.as_slice().into(),
                            hint: hint.hint.clone(),
                            birth: None,
                        };
                        self.insert(start, end, line.permissions, seed);
                    }
                }
            }
        }
    }

    fn covered(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let first = self.segment_at(start).map_or(start, |(start, _)| start);
        self.segments.range(first..end).map(|(&start, segment)| (start, segment.end)).collect()
    }

    /// Gives a line's permissions, file and name to the lives in it.
    fn describe(&mut self, line: &MapsLine, hint: &LineHint, run: (u64, u64), touched: &[(u64, u64)]) {
        for (start, end) in without(line.start, line.end, touched) {
            let differs = self
                .covered(start, end)
                .into_iter()
                .filter_map(|(at, _)| self.segments.get(&at))
                .any(|segment| segment.permissions != line.permissions);
            if differs {
                self.protect(start, end, line.permissions);
            }
        }
        let backing = Backing::of(line);
        for number in self.lives_in(line.start, line.end, usize::MAX) {
            let Some((start, end)) = self.range(number) else {
                continue;
            };
            let fresh_range = (start, end) == (line.start, line.end);
            let (start, end) = (start.max(run.0), end.min(run.1));
            let clean = without(start, end, touched) == [(start, end)];
            let Some(life) = self.lives.get(&number) else {
                continue;
            };
            let fresh_file = backing != Backing::Anon && life.seed.backing == Backing::File(None);
            if !(clean || fresh_file && fresh_range)
                || !life.seed.backing.agrees(backing)
                || *life.seed.name == *line.name && life.seed.backing == backing
            {
                continue;
            }
            let number = self.isolate(number, start, end);
            self.set_backing(number, backing);
            let offset = line.offset.wrapping_add(start).wrapping_sub(line.start);
            if let Some(life) = self.lives.get_mut(&number) {
                life.seed.name = Arc::from(line.name.as_slice());
                life.cached = None;
                if backing != Backing::Anon {
                    life.seed.offset = offset;
                }
                if matches!(hint.hint, Hint::Heap | Hint::Stack) {
                    life.seed.hint = hint.hint.clone();
                }
            }
        }
    }

    /// The part of a life inside a range as a life of its own; the life itself when it is all inside.
    fn isolate(&mut self, number: u64, start: u64, end: u64) -> u64 {
        if self.range(number) != Some((start, end)) {
            self.split_life(start);
            self.split_life(end);
        }
        self.life_at(start).unwrap_or(number)
    }

    /// Forgets the kinds that this reading changed.
    fn refresh_kinds(&mut self) {
        for life in self.lives.values_mut() {
            if let Some(cached) = &life.cached {
                let (kind, name) = life.classify(&self.context);
                if cached.kind != kind || cached.name != name {
                    life.cached = None;
                }
            }
        }
    }
}
