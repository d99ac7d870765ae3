//! The address space against a naive page table that does what the kernel does.

use memtrace::event::{Maps, MapsLine, MmId, Syscall};
use memtrace::model::address_space::AddressSpace;
use memtrace::syscalls;
use proptest::prelude::*;
use std::collections::BTreeMap;

const PAGE: u64 = 4096;
pub const BASE: u64 = 0x7000_0000_0000;
pub const HEAP: u64 = 0x5555_0000_0000;
const PAGES: u64 = 48;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Page {
    permissions: u8,
    /// 0 for anonymous.
    inode: u64,
    /// Offset in the file, pages.
    index: u64,
}

#[derive(Clone, Debug)]
enum Op {
    Map { at: u64, pages: u64, protection: u64, file: bool, shared: bool, fixed: bool },
    Unmap { at: u64, pages: u64 },
    Protect { at: u64, pages: u64, protection: u64 },
    Move { from: u64, pages: u64, to: u64, new_pages: u64, dont_unmap: bool },
    Brk { pages: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let (at, pages) = (0..PAGES, 1..12_u64);
    let protection = prop::sample::select(vec![0_u64, 1, 3, 3, 3, 5]);
    let map = (at.clone(), pages.clone(), protection.clone(), any::<bool>(), any::<bool>(), any::<bool>());
    let protect = (at.clone(), pages.clone(), protection);
    let unmap = (at.clone(), pages.clone());
    let in_place = (at.clone(), pages.clone(), pages.clone());
    let moved = (at.clone(), pages.clone(), at, pages, any::<bool>());
    prop_oneof![
        4 => map.prop_map(|(at, pages, protection, file, shared, fixed)| {
            Op::Map { at, pages, protection, file, shared: shared && file, fixed }
        }),
        3 => unmap.prop_map(|(at, pages)| Op::Unmap { at, pages }),
        2 => protect.prop_map(|(at, pages, protection)| Op::Protect { at, pages, protection }),
        2 => moved.prop_map(|(from, pages, to, new_pages, dont_unmap)| {
            Op::Move { from, pages, to, new_pages, dont_unmap }
        }),
        1 => in_place.prop_map(|(from, pages, new_pages)| {
            Op::Move { from, pages, to: from, new_pages, dont_unmap: false }
        }),
        1 => (0..10_u64).prop_map(|pages| Op::Brk { pages }),
    ]
}

#[derive(Clone, Debug, Default)]
struct Oracle {
    pages: BTreeMap<u64, Page>,
    files: u64,
}

fn address(page: u64) -> u64 {
    BASE + page * PAGE
}

fn call(ts_ns: u64, nr: u32, args: [u64; 6], ret: u64) -> Option<Syscall> {
    Some(Syscall { mm: MmId(0), ts_ns, pid: 1, tid: 1, nr, args, ret: ret as i64, ip: 0, stack: None })
}

impl Oracle {
    /// Does what the kernel would; `None` when the call fails.
    fn apply(&mut self, op: &Op, ts_ns: u64) -> Option<Syscall> {
        match *op {
            Op::Map { at, pages, protection, file, shared, fixed } => {
                let range = address(at)..address(at + pages);
                if !fixed && self.pages.range(range).next().is_some() {
                    return None;
                }
                self.files += 1;
                let inode = if file { self.files } else { 0 };
                let permissions = protection as u8 | if shared { 8 } else { 0 };
                for page in 0..pages {
                    let index = if file { page } else { 0 };
                    self.pages.insert(address(at + page), Page { permissions, inode, index });
                }
                let sharing = if shared { 1 } else { 2 };
                let flags = sharing | if file { 0 } else { 0x20 } | if fixed { 0x10 } else { 0 };
                let hint = if fixed { address(at) } else { 0 };
                call(ts_ns, syscalls::MMAP, [hint, pages * PAGE - 1, protection, flags, 3, 0], address(at))
            }
            Op::Unmap { at, pages } => {
                self.forget(at, pages);
                call(ts_ns, syscalls::MUNMAP, [address(at), pages * PAGE, 0, 0, 0, 0], 0)
            }
            Op::Protect { at, pages, protection } => {
                if (at..at + pages).any(|page| !self.pages.contains_key(&address(page))) {
                    return None;
                }
                for (_, page) in self.pages.range_mut(address(at)..address(at + pages)) {
                    page.permissions = page.permissions & 8 | protection as u8;
                }
                call(ts_ns, syscalls::MPROTECT, [address(at), pages * PAGE, protection, 0, 0, 0], 0)
            }
            Op::Move { from, pages, to, new_pages, dont_unmap } => {
                self.remap(ts_ns, (from, pages), (to, new_pages), dont_unmap)
            }
            Op::Brk { pages } => {
                self.pages.retain(|&page, _| page >= BASE);
                for page in 0..=pages {
                    let heap = Page { permissions: 3, inode: 0, index: 0 };
                    self.pages.insert(HEAP + page * PAGE, heap);
                }
                let brk = HEAP + pages * PAGE + 123;
                call(ts_ns, syscalls::BRK, [brk, 0, 0, 0, 0, 0], brk)
            }
        }
    }

    fn remap(
        &mut self,
        ts_ns: u64,
        (from, pages): (u64, u64),
        (to, new_pages): (u64, u64),
        dont_unmap: bool,
    ) -> Option<Syscall> {
        let old = |page| self.pages.get(&address(page)).copied();
        let first = old(from)?;
        let one_vma = (0..pages).all(|step| {
            old(from + step).is_some_and(|page| {
                page.permissions == first.permissions
                    && page.inode == first.inode
                    && (page.inode == 0 || page.index == first.index + step)
            })
        });
        let dont_unmap = dont_unmap && first.inode == 0;
        let new_pages = if dont_unmap { pages } else { new_pages };
        let in_place = from == to;
        let overlaps = !in_place && from < to + new_pages && to < from + pages;
        let blocked = in_place && (from + pages..from + new_pages).any(|page| old(page).is_some());
        if !one_vma || overlaps || blocked || (in_place && dont_unmap) {
            return None;
        }
        if !dont_unmap {
            self.forget(from, pages);
        }
        for step in 0..new_pages {
            let index = if first.inode == 0 { 0 } else { first.index + step };
            self.pages.insert(address(to + step), Page { index, ..first });
        }
        let flags = 1 | if in_place { 0 } else { 2 } | if dont_unmap { 4 } else { 0 };
        let args = [address(from), pages * PAGE, new_pages * PAGE, flags, address(to), 0];
        call(ts_ns, syscalls::MREMAP, args, address(to))
    }

    fn forget(&mut self, at: u64, pages: u64) {
        self.pages.retain(|&page, _| page < address(at) || address(at + pages) <= page);
    }

    /// As `/proc/PID/maps` shows it: neighbours merged.
    fn lines(&self) -> Vec<MapsLine> {
        let mut lines: Vec<MapsLine> = Vec::new();
        for (&address, page) in &self.pages {
            let follows = lines.last().is_some_and(|last| {
                let length = (last.end - last.start) / PAGE;
                last.end == address
                    && last.permissions == page.permissions
                    && last.inode == page.inode
                    && (page.inode == 0 || last.offset / PAGE + length == page.index)
            });
            match lines.last_mut() {
                Some(last) if follows => last.end += PAGE,
                _ => lines.push(MapsLine {
                    start: address,
                    end: address + PAGE,
                    permissions: page.permissions,
                    offset: page.index * PAGE,
                    device: 5,
                    inode: page.inode,
                    name: match page.inode {
                        0 if address < BASE => b"[heap]".to_vec(),
                        0 => Vec::new(),
                        inode => format!("/data/{inode}").into_bytes(),
                    },
                }),
            }
        }
        lines
    }
}

fn fresh_space() -> AddressSpace {
    let mut space = AddressSpace::new(PAGE);
    space.set_layout(HEAP, HEAP, 0, b"/bin/program");
    space
}

/// Segments are disjoint, sorted and within their life; lives are disjoint, sorted and without holes.
pub fn check_shape(space: &AddressSpace) -> Result<(), TestCaseError> {
    let mut last_end = 0;
    let mut last_life = None;
    let mut seen = Vec::new();
    for (start, segment) in space.segments() {
        prop_assert!(last_end <= start && start < segment.end, "segments overlap at {start:#x}");
        let (life_start, life_end) = space.range(segment.life).expect("a segment belongs to a life");
        if last_life == Some(segment.life) {
            prop_assert_eq!(last_end, start, "a hole in a life");
        } else {
            prop_assert_eq!(life_start, start, "a life begins with a segment");
            seen.push(segment.life);
        }
        prop_assert!(segment.end <= life_end);
        let ends = space.segments_from(segment.end).next().is_none_or(|(_, next)| next.life != segment.life);
        prop_assert!(!ends || segment.end == life_end, "a life ends with a segment");
        (last_end, last_life) = (segment.end, Some(segment.life));
    }
    let listed = seen.len();
    seen.sort_unstable();
    seen.dedup();
    prop_assert_eq!(seen.len(), listed, "a life in two places");
    prop_assert_eq!(listed, space.life_count(), "a life without segments");
    Ok(())
}

fn check_pages(space: &AddressSpace, oracle: &Oracle) -> Result<(), TestCaseError> {
    check_shape(space)?;
    let mut mine = BTreeMap::new();
    for (start, segment) in space.segments() {
        for page in (start..segment.end).step_by(PAGE as usize) {
            mine.insert(page, segment.permissions);
        }
    }
    let theirs: BTreeMap<u64, u8> = oracle.pages.iter().map(|(&page, entry)| (page, entry.permissions)).collect();
    prop_assert_eq!(mine, theirs);
    Ok(())
}

fn reading(lines: Vec<MapsLine>, begin_ns: u64, ts_ns: u64) -> Maps {
    Maps { mm: MmId(0), begin_ns, ts_ns, lines }
}

proptest! {
    #[test]
    fn the_address_space_agrees_with_a_page_table(ops in prop::collection::vec(op(), 1..60)) {
        let (mut space, mut oracle) = (fresh_space(), Oracle::default());
        for (step, op) in ops.iter().enumerate() {
            if let Some(call) = oracle.apply(op, 10 * step as u64 + 10) {
                space.apply_syscall(&call);
                check_pages(&space, &oracle)?;
            }
        }
        let lives = space.lives();
        let end = 10 * ops.len() as u64 + 10;
        space.apply_reading(&reading(oracle.lines(), end, end + 5));
        check_pages(&space, &oracle)?;
        prop_assert_eq!(lives, space.lives(), "a reading that agrees ends no life and begins none");
        for line in oracle.lines() {
            for life in space.lives_in(line.start, line.end, 100) {
                let mapping = space.mapping(life).expect("a listed life");
                prop_assert_eq!(&mapping.name, &line.name);
            }
        }
    }

    #[test]
    fn a_reading_repairs_what_was_lost(
        ops in prop::collection::vec((op(), any::<bool>()), 1..60),
        extra in prop::collection::vec(op(), 0..10),
    ) {
        let (mut space, mut oracle) = (fresh_space(), Oracle::default());
        for (step, (op, lost)) in ops.iter().enumerate() {
            if let Some(call) = oracle.apply(op, 10 * step as u64 + 10)
                && !lost
            {
                space.apply_syscall(&call);
                check_shape(&space)?;
            }
        }
        let end = 10 * ops.len() as u64 + 10;
        space.apply_reading(&reading(oracle.lines(), end, end + 5));
        check_pages(&space, &oracle)?;
        for (step, op) in extra.iter().enumerate() {
            if let Some(call) = oracle.apply(op, end + 10 * step as u64 + 10) {
                space.apply_syscall(&call);
                check_pages(&space, &oracle)?;
            }
        }
    }

    /// The reading began after call `begin`, saw the state after `taken` more, was complete after `ready` more and
    /// reached the model `late` calls later. Nothing of what the calls told is undone by it.
    #[test]
    fn a_reading_may_come_at_any_time(
        ops in prop::collection::vec(op(), 8..40),
        (begin, taken, ready, late) in (0..30_usize, 0..5_usize, 0..5_usize, 0..5_u64),
    ) {
        let mut oracle = Oracle::default();
        let mut calls = Vec::new();
        let begin = begin % ops.len();
        let mut snapshot = None;
        for (step, op) in ops.iter().enumerate() {
            if step == begin + taken {
                snapshot = Some(oracle.lines());
            }
            calls.extend(oracle.apply(op, 10 * step as u64 + 10));
        }
        let (begin_ns, ts_ns) = (10 * begin as u64 + 5, 10 * (begin + taken + ready) as u64 + 5);
        let arrives_ns = ts_ns + 10 * late;
        let maps = reading(snapshot.unwrap_or_else(|| oracle.lines()), begin_ns, ts_ns);
        let mut space = fresh_space();
        let (before, after): (Vec<_>, Vec<_>) = calls.iter().partition(|call| call.ts_ns < arrives_ns);
        before.into_iter().for_each(|call| space.apply_syscall(call));
        space.apply_reading(&maps);
        check_shape(&space)?;
        after.into_iter().for_each(|call| space.apply_syscall(call));
        check_pages(&space, &oracle)?;
    }

    /// Disorder: calls arrive after a reading that contains them. What is wrong then is right after the next reading.
    #[test]
    fn calls_may_come_after_the_reading_that_contains_them(
        ops in prop::collection::vec(op(), 8..40),
        (begin, taken, early) in (0..30_usize, 0..5_usize, 0..8_u64),
    ) {
        let mut oracle = Oracle::default();
        let mut calls = Vec::new();
        let mut snapshot = None;
        for (step, op) in ops.iter().enumerate() {
            if step == begin + taken {
                snapshot = Some(oracle.lines());
            }
            calls.extend(oracle.apply(op, 10 * step as u64 + 10));
        }
        let (begin_ns, ts_ns) = (10 * begin as u64 + 5, 10 * (begin + taken) as u64 + 5);
        let arrives_ns = ts_ns.saturating_sub(10 * early);
        let mut space = fresh_space();
        let (before, after): (Vec<_>, Vec<_>) = calls.iter().partition(|call| call.ts_ns < arrives_ns);
        before.into_iter().for_each(|call| space.apply_syscall(call));
        space.apply_reading(&reading(snapshot.unwrap_or_else(|| oracle.lines()), begin_ns, ts_ns));
        for call in after {
            space.apply_syscall(call);
            check_shape(&space)?;
        }
        space.apply_reading(&reading(oracle.lines(), 10_000, 10_010));
        check_pages(&space, &oracle)?;
    }
}
