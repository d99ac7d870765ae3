//! What each mapping system call does to an [`AddressSpace`].
//!
//! Calls arrive in the order in which they *returned*. The kernel's order can differ: thread A's `munmap` has freed
//! the range, thread B maps it and returns first. An `mmap` that was not told to overwrite, but lands on a life, shows
//! that; the later `munmap` of another thread then leaves the newcomer alone.
//!
//! Not followed, because the event does not say it: the name that `prctl(PR_SET_VMA)` gives (a reading tells), the
//! size of a `shmat` segment (the kernel's VMA or a reading tells), the rings of `io_setup` (a reading tells).

use super::address_space::{AddressSpace, Backing, OWN_LIFE_BYTES, OWN_LIFE_FACTOR, Seed, Segment};
use super::journal::without;
use crate::event::Syscall;
use crate::event::permission::{EXECUTE, READ, SHARED, WRITE};
use crate::kind::{self, Hint};
use crate::statement::Birth;
use crate::syscalls::{self, clone, madvise, mmap, mremap};
use std::sync::Arc;

impl AddressSpace {
    /// Follows one call that returned. Failed and unknown ones change nothing.
    pub fn apply_syscall(&mut self, call: &Syscall) {
        if (-4095..0).contains(&call.ret) {
            return;
        }
        if self.journal.read.is_some_and(|(begin_ns, _)| call.ts_ns < begin_ns) {
            if call.nr == syscalls::MMAP {
                let anonymous = call.args[3] & (mmap::ANONYMOUS | mmap::SHARED | mmap::HUGETLB);
                let backing = if anonymous == mmap::ANONYMOUS { Backing::Anon } else { Backing::File(None) };
                self.adopt(call, backing);
            }
            return;
        }
        let [first, second, third, fourth, ..] = call.args;
        match call.nr {
            syscalls::MMAP => self.map(call),
            syscalls::MUNMAP => {
                if let Some((start, end)) = self.span(first, second) {
                    self.unmap(call, start, end);
                }
            }
            syscalls::MREMAP => self.remap(call),
            syscalls::MPROTECT | syscalls::PKEY_MPROTECT => {
                if let Some((start, end)) = self.span(first, second) {
                    self.protect(start, end, (third & mmap::PROT_MASK) as u8);
                    self.journal.note(call.ts_ns, start, end);
                    self.recognise_arena(start);
                }
            }
            syscalls::BRK => self.set_break(call),
            syscalls::SHMAT => self.attach_segment(call),
            syscalls::SHMDT => self.detach_segment(call),
            syscalls::MAP_SHADOW_STACK => {
                if let Some((start, end)) = self.span(call.ret as u64, second) {
                    self.place(call, start, end, READ | WRITE, self.anonymous(call, Hint::None), false);
                }
            }
            syscalls::REMAP_FILE_PAGES => {
                if let Some((start, end)) = self.span(first, second) {
                    self.split_life(start);
                    self.split_life(end);
                    if let Some(life) = self.life_at(start).and_then(|life| self.lives.get_mut(&life)) {
                        life.seed.offset = fourth.wrapping_mul(self.page);
                    }
                }
            }
            syscalls::MADVISE if matches!(third, madvise::DONTFORK | madvise::DOFORK) => {
                if let Some((start, end)) = self.span(first, second) {
                    for number in self.lives_in(start, end, usize::MAX) {
                        if let Some(life) = self.lives.get_mut(&number)
                            && start <= life.start
                            && life.end <= end
                        {
                            life.dont_fork = third == madvise::DONTFORK;
                        }
                    }
                }
            }
            syscalls::CLONE if first & (clone::VM | clone::THREAD) == clone::VM | clone::THREAD && second != 0 => {
                if let Some(life) = self.life_at(second - 1).and_then(|life| self.lives.get_mut(&life))
                    && life.seed.backing == Backing::Anon
                    && life.seed.hint == Hint::None
                {
                    life.seed.hint = Hint::ThreadStack;
                    life.cached = None;
                }
            }
            _ => {}
        }
    }

    /// A page-aligned, non-empty range; `None` when there is no such.
    fn span(&self, start: u64, length: u64) -> Option<(u64, u64)> {
        let start = self.down(start);
        let length = length.checked_next_multiple_of(self.page)?;
        let end = start.checked_add(length)?;
        (start < end).then_some((start, end))
    }

    fn map(&mut self, call: &Syscall) {
        let [_, length, protection, flags, _, offset] = call.args;
        let huge = flags & mmap::HUGETLB != 0;
        let length = if huge {
            let shift = match (flags >> mmap::HUGE_SHIFT) & 63 {
                0 => 21,
                shift => shift,
            };
            length.checked_next_multiple_of(1 << shift)
        } else {
            Some(length)
        };
        let Some((start, end)) = length.and_then(|length| self.span(call.ret as u64, length)) else {
            return;
        };
        let shared = flags & mmap::SHARED != 0;
        let permissions = (protection & mmap::PROT_MASK) as u8 | if shared { SHARED } else { 0 };
        let (backing, hint) = match (flags & mmap::ANONYMOUS != 0, shared) {
            (true, _) if huge => (Backing::File(None), Hint::Hugetlb),
            (true, true) => (Backing::File(None), Hint::SharedAnon),
            (true, false) if flags & (mmap::STACK | mmap::GROWSDOWN) != 0 => (Backing::Anon, Hint::ThreadStack),
            (true, false) => (Backing::Anon, Hint::None),
            (false, _) => (Backing::File(None), Hint::None),
        };
        let offset = if flags & mmap::ANONYMOUS == 0 { offset } else { 0 };
        let seed = Seed { backing, offset, name: Arc::from([]), hint, birth: Some(self.birth(call)) };
        self.place(call, start, end, permissions, seed, flags & mmap::FIXED != 0);
    }

    /// Puts a new mapping into a range, over whatever was there.
    fn place(&mut self, call: &Syscall, start: u64, end: u64, permissions: u8, seed: Seed, fixed: bool) {
        if self.is_read_already(call) && self.adopt(call, seed.backing) {
            self.protect(start, end, permissions);
            return;
        }
        if !fixed {
            for number in self.lives_in(start, end, usize::MAX) {
                if let Some((life_start, life_end)) = self.range(number) {
                    let (start, end) = (start.max(life_start), end.min(life_end));
                    self.journal.overtaken.push((start, end, call.tid, call.ts_ns));
                }
            }
        }
        self.remove(start, end);
        self.journal.note(call.ts_ns, start, end);
        match self.growing_neighbour(start, end, permissions, &seed) {
            Some(life) => self.extend(life, start, end, permissions),
            None => {
                self.insert(start, end, permissions, seed);
            }
        }
    }

    /// The life that a new anonymous mapping is growth of; see the rules on top of `address_space`.
    fn growing_neighbour(&self, start: u64, end: u64, permissions: u8, seed: &Seed) -> Option<u64> {
        let plain = |seed: &Seed| seed.backing == Backing::Anon && seed.hint == Hint::None && seed.name.is_empty();
        if !plain(seed) || permissions & (READ | WRITE | EXECUTE) == 0 {
            return None;
        }
        let left = start.checked_sub(1).and_then(|address| self.segment_at(address)).map(|(_, segment)| segment);
        let right = self.segments.get(&end).copied();
        let length = end - start;
        let fits = |segment: Segment| {
            let life = self.lives.get(&segment.life)?;
            let own = length >= OWN_LIFE_BYTES && length > life.len().saturating_mul(OWN_LIFE_FACTOR);
            (plain(&life.seed) && life.segments == 1 && segment.permissions == permissions && !own)
                .then_some((life.len(), segment.life))
        };
        match (left.and_then(fits), right.and_then(fits)) {
            (Some(left), Some(right)) if right.0 > left.0 => Some(right.1),
            (Some(left), _) => Some(left.1),
            (None, right) => right.map(|right| right.1),
        }
    }

    /// The last reading may contain this call's effect.
    fn is_read_already(&self, call: &Syscall) -> bool {
        self.journal.read.is_some_and(|(_, end_ns)| call.ts_ns <= end_ns)
    }

    fn is_covered(&self, start: u64, end: u64, backing: Backing) -> bool {
        let mut at = start;
        while at < end {
            let Some((_, segment)) = self.segment_at(at) else {
                return false;
            };
            if !self.lives.get(&segment.life).is_some_and(|life| life.seed.backing.agrees(backing)) {
                return false;
            }
            at = segment.end;
        }
        true
    }

    /// A reading showed the mapping before its call was known: now it has a birth. False when no such life is there.
    fn adopt(&mut self, call: &Syscall, backing: Backing) -> bool {
        let range = self.span(call.ret as u64, call.args[1]);
        let life = self.life_at(call.ret as u64);
        let birth = self.birth(call);
        if let Some(life) = life.and_then(|life| self.lives.get_mut(&life))
            && Some((life.start, life.end)) == range
            && life.seed.birth.is_none()
            && life.seed.backing.agrees(backing)
        {
            life.seed.birth = Some(birth);
            life.cached = None;
            return true;
        }
        false
    }

    fn unmap(&mut self, call: &Syscall, start: u64, end: u64) {
        let mut kept: Vec<(u64, u64)> = self
            .journal
            .overtaken
            .iter()
            .filter(|&&(from, to, tid, _)| tid != call.tid && from < end && start < to)
            .map(|&(from, to, ..)| (from, to))
            .collect();
        kept.sort_unstable();
        self.journal.overtaken.retain(|&(from, to, ..)| to <= start || end <= from);
        for (start, end) in without(start, end, &kept) {
            self.remove(start, end);
        }
        self.journal.note(call.ts_ns, start, end);
    }

    fn remap(&mut self, call: &Syscall) {
        let [old, old_length, new_length, flags, ..] = call.args;
        let Some((new, new_end)) = self.span(call.ret as u64, new_length) else {
            return;
        };
        let Some((old, old_end)) = self.span(old, old_length) else {
            self.duplicate(call, old, new, new_end);
            return;
        };
        let (old_length, new_length) = (old_end - old, new_end - new);
        let kept = old_length.min(new_length);
        if new == old {
            if new_length < old_length {
                self.unmap(call, new_end, old_end);
            } else {
                self.lengthen(call, old_end, new_end);
            }
            return;
        }
        if new < old_end && old < new_end {
            return;
        }
        if self.lives_in(old, old + kept, 1).is_empty() {
            if !self.is_covered(new, new_end, Backing::Anon) && !self.is_covered(new, new_end, Backing::File(None)) {
                self.place(call, new, new_end, READ | WRITE, self.anonymous(call, Hint::None), true);
            }
            return;
        }
        self.remove(new, new_end);
        if kept < old_length {
            self.remove(old + kept, old_end);
        }
        self.split_life(old);
        self.split_life(old + kept);
        let lifted = self.lift(old, old + kept);
        self.drop_at(&lifted, old, new);
        self.journal.note(call.ts_ns, old, old_end);
        self.journal.note(call.ts_ns, new, new_end);
        if flags & mremap::DONTUNMAP != 0 {
            self.leave_behind(call, &lifted);
        }
        self.lengthen(call, new + kept, new_end);
    }

    /// Grows the life that ends at `from`.
    fn lengthen(&mut self, call: &Syscall, from: u64, to: u64) {
        if from >= to {
            return;
        }
        self.journal.note(call.ts_ns, from, to);
        let Some((_, last)) = from.checked_sub(1).and_then(|address| self.segment_at(address)) else {
            return;
        };
        self.remove(from, to);
        if self.range(last.life).is_some_and(|(_, end)| end == from) {
            self.extend(last.life, from, to, last.permissions);
        }
    }

    /// `MREMAP_DONTUNMAP`: the old range stays mapped, without its pages.
    fn leave_behind(&mut self, call: &Syscall, lifted: &[(u64, Segment)]) {
        let mut last: Option<(u64, u64)> = None;
        for &(start, segment) in lifted {
            if let Some((_, number)) = last.filter(|&(life, _)| life == segment.life) {
                self.extend(number, start, segment.end, segment.permissions);
                continue;
            }
            let Some(life) = self.lives.get(&segment.life) else {
                continue;
            };
            let seed = Seed { birth: Some(self.birth(call)), ..life.seed.clone() };
            let number = self.insert(start, segment.end, segment.permissions, seed);
            last = Some((segment.life, number));
        }
    }

    /// `mremap` of length 0: a second mapping of the same shared pages.
    fn duplicate(&mut self, call: &Syscall, old: u64, new: u64, new_end: u64) {
        let Some((_, segment)) = self.segment_at(self.down(old)) else {
            return;
        };
        let Some(life) = self.lives.get(&segment.life) else {
            return;
        };
        let offset = life.seed.offset.wrapping_add(self.down(old) - life.start);
        let seed = Seed { birth: Some(self.birth(call)), offset, ..life.seed.clone() };
        self.place(call, new, new_end, segment.permissions, seed, true);
    }

    fn set_break(&mut self, call: &Syscall) {
        let old = self.brk;
        let new = self.up(call.ret as u64);
        self.brk = new;
        self.journal.break_ns = call.ts_ns;
        if old == 0 || old == new {
            return;
        }
        self.journal.note(call.ts_ns, old.min(new), old.max(new));
        if new < old {
            self.remove(new, old);
            return;
        }
        self.remove(old, new);
        let heap = old
            .checked_sub(1)
            .and_then(|address| self.segment_at(address))
            .filter(|(_, segment)| self.lives.get(&segment.life).is_some_and(|life| life.seed.hint == Hint::Heap));
        match heap {
            Some((_, segment)) => self.extend(segment.life, old, new, READ | WRITE),
            None => {
                self.insert(old, new, READ | WRITE, self.anonymous(call, Hint::Heap));
            }
        }
    }

    fn attach_segment(&mut self, call: &Syscall) {
        const SHM_RDONLY: u64 = 0o10_000;
        const SHM_EXEC: u64 = 0o100_000;
        let Some((start, end)) = self.span(call.ret as u64, self.page) else {
            return;
        };
        let flags = call.args[2];
        let permissions = READ
            | SHARED
            | if flags & SHM_RDONLY == 0 { WRITE } else { 0 }
            | if flags & SHM_EXEC == 0 { 0 } else { EXECUTE };
        let seed = Seed { backing: Backing::File(None), ..self.anonymous(call, Hint::Sysv) };
        self.place(call, start, end, permissions, seed, true);
    }

    fn detach_segment(&mut self, call: &Syscall) {
        let start = self.down(call.args[0]);
        let Some(life) = self.life_at(start).and_then(|life| self.lives.get(&life)) else {
            return;
        };
        if life.start != start || !life.shared {
            return;
        }
        let (mut end, backing, mut offset) = (life.end, life.seed.backing, life.seed.offset.wrapping_add(life.len()));
        while let Backing::File(Some(_)) = backing
            && let Some(next) = self.life_at(end).and_then(|life| self.lives.get(&life))
            && next.seed.backing == backing
            && next.seed.offset == offset
        {
            offset = offset.wrapping_add(next.len());
            end = next.end;
        }
        self.unmap(call, start, end);
    }

    /// glibc reserves 64 MiB aligned to 64 MiB without access and opens it from the bottom.
    fn recognise_arena(&mut self, start: u64) {
        if let Some(life) = self.life_at(start).and_then(|life| self.lives.get_mut(&life))
            && life.seed.backing == Backing::Anon
            && life.seed.hint == Hint::None
            && life.len() == kind::ARENA_BYTES
            && life.start.is_multiple_of(kind::ARENA_BYTES)
        {
            life.seed.hint = Hint::Arena;
            life.cached = None;
        }
    }

    /// The kernel told a VMA in which a fault happened: the main stack grows downwards without a call, and the size
    /// of a System V segment is known from it only. True when `address` belongs to a life now.
    pub fn grow_by_fault(&mut self, start: u64, end: u64, address: u64) -> bool {
        let (start, end) = (self.down(start), self.down(end));
        if address < start || end <= address {
            return false;
        }
        let above = self.segments.range(address..end).next().map(|(&at, &segment)| (at, segment));
        if let Some((at, segment)) = above
            && let Some(life) = self.lives.get(&segment.life)
            && matches!(life.seed.hint, Hint::Stack | Hint::ThreadStack)
        {
            self.extend(segment.life, start.max(self.end_below(at)), at, segment.permissions);
            return self.life_at(address).is_some();
        }
        if let Some((_, segment)) = self.segment_at(start)
            && let Some(life) = self.lives.get(&segment.life)
            && life.seed.hint == Hint::Sysv
            && life.seed.backing == Backing::File(None)
            && let Some(known) = self.range(segment.life).map(|range| range.1)
        {
            let limit = self.segments.range(known..end).next().map_or(end, |(&at, _)| at);
            if known < limit {
                self.extend(segment.life, known, limit, segment.permissions);
            }
            return self.life_at(address).is_some();
        }
        false
    }

    fn end_below(&self, address: u64) -> u64 {
        self.segments.range(..address).next_back().map_or(0, |(_, segment)| segment.end)
    }

    fn birth(&self, call: &Syscall) -> Birth {
        Birth { ts_ns: call.ts_ns, nr: call.nr, tid: call.tid, stack: self.caller.clone() }
    }

    fn anonymous(&self, call: &Syscall, hint: Hint) -> Seed {
        Seed { backing: Backing::Anon, offset: 0, name: Arc::from([]), hint, birth: Some(self.birth(call)) }
    }
}
