//! From copies of stacks to numbered call stacks.
//!
//! Each copy is unwound when it comes, with the unwinding information of the files that the process has mapped: a frame
//! pointer is believed nowhere. Stacks that are equal, frame by frame, have one number. This room says where code lies
//! and not what it is called: names are found later, on another thread.
//!
//! It refuses to guess. A stack that cannot be followed to the thread's first frame ends where it cannot, and says why.
//! Everything that it reads belongs to somebody else: sizes, steps and tables are bounded, and a file that is broken on
//! purpose costs the frames that lie in it.

mod cfi;
mod elf;
mod expression;
mod functions;
mod module;
pub mod names;
mod recent;
mod space;
#[cfg(test)]
mod tests;
mod unwind;

pub(crate) use elf::Bytes;
pub(crate) use functions::{Functions, NoFunction};
pub(crate) use module::{find_below, open_regular};
use names::NewCode;

use crate::decode::StackNumbers;
use crate::event::{Code, CodeId, Event, MapsLine, MmId, Stack, StackEnd, StackId};
use memtrace_common::{StackKey, StackPath, StackRecord};
use module::{Files, Module};
use recent::Recent;
use space::Space;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use unwind::{Frame, Place, Registers, StackCopy, Unwinder};

/// Stacks, code paths and places in code that are known at once. What was not used while half as many new ones came is
/// forgotten, and would have a new number: numbers are never used again.
const KNOWN_MAX: usize = 1 << 17;
/// Places in code of a session that only samples found: each is named and kept. Those beyond are of no known place.
const PLACED_MAX: usize = 1 << 15;
/// The code segment of 64-bit programs.
const CS_64: u64 = 0x33;

/// Which of a record's registers are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// All.
    All,
    /// Those of the stack pointer and the instruction pointer: enough where no function on the way needs another one that
    /// was not saved on the stack.
    StackAndCode,
}

/// Which code: module's number, address, offset in the file, and whether the address is the instruction's own.
type CodeKey = (u64, u64, u64, bool);

/// Knows every stack that was copied.
#[derive(Debug)]
pub struct Stacks {
    spaces: HashMap<MmId, Space>,
    /// Closed since events were taken last.
    closed: Vec<MmId>,
    /// Closed before that.
    retiring: Vec<MmId>,
    files: Files,
    unwinder: Unwinder,
    paths: Recent<(MmId, u32, u64), StackId>,
    stacks: Recent<Box<[u32]>, StackId>,
    codes: Recent<CodeKey, CodeId>,
    next_stack: u32,
    next_code: u32,
    /// Places that samples found first.
    placed: usize,
    /// How a stack ends of which nothing but the innermost frame is known.
    unknown: StackEnd,
    events: Vec<Event>,
    new_code: HashMap<CodeId, NewCode>,
    /// The same, of those whose events were taken.
    told_code: HashMap<CodeId, NewCode>,
    new_paths: Vec<(StackKey, StackPath)>,
    scratch: Vec<u32>,
}

impl Default for Stacks {
    fn default() -> Self {
        Self::new()
    }
}

impl Stacks {
    /// Nothing is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::with(StackEnd::Lost)
    }

    /// Where no stacks are copied: each has one frame.
    #[must_use]
    pub fn off() -> Self {
        Self::with(StackEnd::Off)
    }

    fn with(unknown: StackEnd) -> Self {
        Self {
            spaces: HashMap::new(),
            closed: Vec::new(),
            retiring: Vec::new(),
            files: Files::default(),
            unwinder: Unwinder::new(),
            paths: Recent::new(KNOWN_MAX),
            stacks: Recent::new(KNOWN_MAX),
            codes: Recent::new(KNOWN_MAX),
            next_stack: 0,
            next_code: 0,
            placed: 0,
            unknown,
            events: Vec::new(),
            new_code: HashMap::new(),
            told_code: HashMap::new(),
            new_paths: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// A stack of a thread of `mm` was copied: `bytes` are the pages that follow the record.
    pub fn copied(&mut self, mm: MmId, record: &StackRecord, bytes: &[u8]) {
        let end = self.unwind(mm, record, bytes);
        self.learn(mm, record, end);
    }

    /// The same, if all code is known that the stack leads through: else false, and nothing was done. What is mapped may
    /// have changed since maps was read.
    pub fn copied_just_now(&mut self, mm: MmId, record: &StackRecord, bytes: &[u8]) -> bool {
        let end = self.unwind(mm, record, bytes);
        let known = !matches!(end, StackEnd::Unmapped | StackEnd::Gone);
        if known {
            self.learn(mm, record, end);
        }
        known
    }

    /// The number of the stack that a thread of `mm` waits with. It is no path that faults come by: the probes are not told.
    pub fn waits(&mut self, mm: MmId, record: &StackRecord, saved: Saved, bytes: &[u8]) -> StackId {
        let end = self.unwind_with(mm, record, saved, bytes);
        self.number_frames(end)
    }

    /// Leaves the frames with the unwinder.
    fn unwind(&mut self, mm: MmId, record: &StackRecord, bytes: &[u8]) -> StackEnd {
        self.unwind_with(mm, record, Saved::All, bytes)
    }

    fn unwind_with(&mut self, mm: MmId, record: &StackRecord, saved: Saved, bytes: &[u8]) -> StackEnd {
        let Self { spaces, files, unwinder, .. } = self;
        let space = spaces.entry(mm).or_default();
        let (pid, then_ns) = (record.head.tgid, record.head.ts_ns);
        let [.., ip, cs, _, _, _] = record.regs;
        if cs != CS_64 {
            unwinder.only(Frame { ip, exact: true, place: space.find_then(pid, ip, then_ns, files) });
            return StackEnd::Foreign;
        }
        let find = |address| space.find_then(pid, address, then_ns, files);
        let registers = match saved {
            Saved::All => Registers::new(&record.regs),
            Saved::StackAndCode => Registers::stack_and_code(&record.regs),
        };
        unwinder.unwind(registers, &StackCopy::new(record, bytes), find)
    }

    /// Numbers the frames that the unwinder holds.
    fn learn(&mut self, mm: MmId, record: &StackRecord, end: StackEnd) {
        let id = self.number_frames(end);
        self.paths.insert((mm, record.head.tid, record.stack), id);
        let slot = u32::from(record.head.slot) | record.head.generation << 16;
        let key = StackKey { stack: record.stack, tid: record.head.tid, mm: slot };
        self.new_paths.push((key, self.unwinder.path));
    }

    /// Somebody has read maps of an mm.
    pub fn maps_read(&mut self, mm: MmId, lines: &[MapsLine]) {
        self.spaces.entry(mm).or_default().update(lines);
    }

    /// Maps is not to be read for an unknown address: who holds the lock that a reading takes keeps it.
    pub fn keep_from_maps(&mut self, mm: MmId, keep: bool) {
        self.spaces.entry(mm).or_default().keep_from_maps(keep);
    }

    /// Code was mapped at these addresses of an mm.
    pub fn code_mapped(&mut self, mm: MmId, addresses: Range<u64>, ts_ns: u64) {
        self.spaces.entry(mm).or_default().mapped(addresses, ts_ns);
    }

    /// `child` is a copy of `parent`: until its own maps are read, and for ever if it is gone by then, it has the same code.
    pub fn forked(&mut self, child: MmId, parent: MmId) {
        if let Some(parent) = self.spaces.get(&parent).map(Space::fork) {
            self.spaces.insert(child, parent);
        }
    }

    /// The process has left this mm for another program: /proc has nothing of it any more.
    pub fn left(&mut self, mm: MmId) {
        self.spaces.entry(mm).or_default().close();
    }

    /// An mm was torn down. What is known of its code is kept until events have been taken twice: copies may still come.
    pub fn closed(&mut self, mm: MmId) {
        if let Some(space) = self.spaces.get_mut(&mm) {
            space.close();
        }
        self.closed.push(mm);
    }

    /// What was numbered since the last call: each [`Event::Code`] before the first [`Event::Stack`] that has it.
    pub fn take_events(&mut self) -> Vec<Event> {
        for mm in std::mem::replace(&mut self.retiring, std::mem::take(&mut self.closed)) {
            self.spaces.remove(&mm);
        }
        self.told_code.extend(self.new_code.drain());
        std::mem::take(&mut self.events)
    }

    /// Of the [`Event::Code`]s that were taken since the last call, where their names are; those that have none anywhere
    /// are left out. What is not taken yet is not told either: copies are unwound between intervals, too.
    pub fn take_new_code(&mut self) -> HashMap<CodeId, NewCode> {
        std::mem::take(&mut self.told_code)
    }

    /// What the probes are to compare, for each copy since the last call.
    pub fn take_paths(&mut self) -> Vec<(StackKey, StackPath)> {
        std::mem::take(&mut self.new_paths)
    }

    /// The number of the stack whose frames the unwinder holds.
    fn number_frames(&mut self, end: StackEnd) -> StackId {
        let mut key = std::mem::take(&mut self.scratch);
        key.clear();
        for at in 0..self.unwinder.frames.len() {
            key.push(self.number_code(at).0);
        }
        key.push(end as u32);
        let id = self.stacks.get(key.as_slice()).unwrap_or_else(|| {
            let id = StackId(self.next_stack);
            self.next_stack = self.next_stack.wrapping_add(1);
            let frames = key[..key.len() - 1].iter().map(|code| CodeId(*code)).collect();
            self.events.push(Event::Stack(Stack { id, frames, end }));
            self.stacks.insert(key.as_slice().into(), id);
            id
        });
        self.scratch = key;
        id
    }

    fn number_code(&mut self, at: usize) -> CodeId {
        let key = self.unwinder.frames[at].key();
        if let Some(id) = self.codes.get(&key) {
            return id;
        }
        let (_, ip, offset, exact) = key;
        let module = self.unwinder.frames[at].place.module();
        let id = CodeId(self.next_code);
        self.next_code = self.next_code.wrapping_add(1);
        if let Some(named) = module.and_then(|module| module.named()) {
            self.new_code.insert(id, NewCode { file: Arc::clone(named), after_call: !exact });
        }
        self.events.push(Event::Code(Code {
            id,
            ip,
            module: module.map(|module| module.path().to_vec()).unwrap_or_default(),
            offset,
            build_id: module.map(|module| module.build_id().to_vec()).unwrap_or_default(),
            symbols: Vec::new(),
            symbol_offset: 0,
        }));
        self.codes.insert(key, id);
        id
    }
}

impl Frame {
    /// A file can be mapped at several places, and several of its pages at one in turn: both addresses are the key.
    fn key(&self) -> CodeKey {
        let offset = match self.place {
            Place::Code(_, offset) => offset.wrapping_add(u64::from(!self.exact)),
            _ => 0,
        };
        (self.place.module().map_or(0, Module::code), self.ip, offset, self.exact)
    }
}

impl Place {
    fn module(&self) -> Option<&Module> {
        match self {
            Self::Code(module, _) | Self::Jit(module) => Some(module),
            Self::Unmapped | Self::Gone => None,
        }
    }
}

impl StackNumbers for Stacks {
    fn number(&mut self, mm: MmId, pid: u32, tid: u32, stack: u64, ip: u64) -> Option<StackId> {
        if stack == 0 {
            return None;
        }
        if let Some(id) = self.paths.get(&(mm, tid, stack)) {
            return Some(id);
        }
        let place = self.spaces.entry(mm).or_default().find(pid, ip, &mut self.files);
        let end = if matches!(place, Place::Gone) { StackEnd::Gone } else { self.unknown };
        self.unwinder.only(Frame { ip, exact: true, place });
        Some(self.number_frames(end))
    }

    fn place(&mut self, mm: MmId, pid: u32, ip: u64, then_ns: u64) -> Option<CodeId> {
        let place = self.spaces.entry(mm).or_default().find_then(pid, ip, then_ns, &mut self.files);
        place.module()?;
        let frame = Frame { ip, exact: true, place };
        if self.placed >= PLACED_MAX {
            return self.codes.get(&frame.key());
        }
        self.unwinder.only(frame);
        let known = self.next_code;
        let id = self.number_code(0);
        self.placed += usize::from(self.next_code != known);
        Some(id)
    }
}
