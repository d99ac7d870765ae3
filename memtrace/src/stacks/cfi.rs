//! Call frame information: from an address to the row that says how the caller's registers are found.
//!
//! Rows are compact and kept for all processes together. What a file can make us do per row is bounded, by the length of
//! the entries that are accepted.

use super::elf::Image;
use gimli::{BaseAddresses, CfaRule, DebugFrame, EhFrame, EndianSlice, LittleEndian, RegisterRule, UnwindSection};
use gimli::{CieOrFde, UnwindContext};
use std::collections::HashMap;
use std::sync::OnceLock;

/// Bytes of a common entry: real ones have less than a hundred.
const CIE_MAX: u64 = 4096;
/// Bytes of a function's entry, each of which may be an instruction: the longest ones known have some thousand.
const FDE_MAX: usize = 64 << 10;
/// Functions of a file without a search table.
const INDEX_MAX: usize = 1 << 20;
/// Rows that are kept, about 10 MB; then all are forgotten. A row costs some microseconds to be found again.
const ROWS_MAX: usize = 128 << 10;

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// A section in memory.
#[derive(Debug, Default)]
pub struct Section {
    /// Where the file wants it to be.
    pub address: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Section {
    fn word(&self, at: usize) -> Option<[u8; 4]> {
        self.bytes.get(at..)?.first_chunk().copied()
    }

    /// Of an `.eh_frame_hdr` whose encodings are those that every linker uses, the address of `.eh_frame`.
    pub(super) fn frames_address(&self) -> Option<u64> {
        // Version 1; pointer relative to itself, count absolute, table relative to the section; all of four bytes.
        (self.word(0)? == [1, 0x1b, 0x03, 0x3b]).then_some(())?;
        let relative = i32::from_le_bytes(self.word(4)?);
        Some(self.address.wrapping_add(4).wrapping_add_signed(relative.into()))
    }

    /// Of such an `.eh_frame_hdr`, the entries of the table: address and entry, relative to the section.
    fn table(&self) -> Option<&[[u8; 8]]> {
        self.frames_address()?;
        let count = usize::try_from(u32::from_le_bytes(self.word(8)?)).ok()?;
        self.bytes.get(12..)?.as_chunks().0.get(..count)
    }
}

/// The unwinding information of a file.
#[derive(Debug, Default)]
pub struct Cfi {
    eh_frame: Option<Section>,
    /// The search table of `eh_frame`, where it is of the usual kind.
    table: Option<Section>,
    debug_frame: Option<Section>,
    /// Where there is no search table: begin and offset of each entry, by begin.
    eh_index: OnceLock<Vec<(u64, usize)>>,
    debug_index: OnceLock<Vec<(u64, usize)>>,
}

impl Cfi {
    /// From the sections that there are.
    pub(super) fn new(eh_frame: Option<Section>, table: Option<Section>, debug_frame: Option<Section>) -> Self {
        let table = table.filter(|table| table.table().is_some());
        Self { eh_frame, table, debug_frame, ..Self::default() }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.eh_frame.is_none() && self.debug_frame.is_none()
    }

    pub(super) fn weight(&self) -> usize {
        [&self.eh_frame, &self.table, &self.debug_frame].into_iter().flatten().map(|section| section.bytes.len()).sum()
    }

    /// The bytes of an expression that a row of this file names.
    pub(super) fn expression(&self, rule: Rule, in_debug_frame: bool) -> Option<&[u8]> {
        let section = if in_debug_frame { &self.debug_frame } else { &self.eh_frame };
        let begin = usize::try_from(rule.value).ok()?;
        section.as_ref()?.bytes.get(begin..)?.get(..usize::from(rule.length))
    }

    /// Offset in `.eh_frame` of the entry that covers an address, if one does.
    fn eh_entry(&self, frames: &EhFrame<Bytes<'_>>, bases: &BaseAddresses, address: u64) -> Option<usize> {
        let Some(table) = &self.table else {
            return nearest(self.eh_index.get_or_init(|| index(frames, bases)), address);
        };
        let entries = table.table()?;
        let number = |entry: &[u8; 8], at| {
            let bytes = entry[at..].first_chunk().copied().unwrap_or_default();
            table.address.wrapping_add_signed(i32::from_le_bytes(bytes).into())
        };
        let after = entries.partition_point(|entry| number(entry, 0) <= address);
        let entry = number(entries.get(after.checked_sub(1)?)?, 4);
        usize::try_from(entry.checked_sub(self.eh_frame.as_ref()?.address)?).ok()
    }

    fn debug_entry(&self, frames: &DebugFrame<Bytes<'_>>, bases: &BaseAddresses, address: u64) -> Option<usize> {
        nearest(self.debug_index.get_or_init(|| index(frames, bases)), address)
    }
}

fn nearest(index: &[(u64, usize)], address: u64) -> Option<usize> {
    let after = index.partition_point(|(begin, _)| *begin <= address);
    index.get(after.checked_sub(1)?).map(|(_, offset)| *offset)
}

/// All entries of a section, by address. Ends at the first that cannot be read.
fn index<'a, S: UnwindSection<Bytes<'a>>>(section: &S, bases: &BaseAddresses) -> Vec<(u64, usize)> {
    let mut index = Vec::new();
    let mut entries = section.entries(bases);
    while let Ok(Some(entry)) = entries.next()
        && index.len() < INDEX_MAX
    {
        let CieOrFde::Fde(partial) = entry else { continue };
        let offset = partial.offset();
        if let Ok(entry) = partial.parse(|section, bases, offset| cie(section, bases, offset)) {
            index.push((entry.initial_address(), offset));
        }
    }
    index.sort_unstable();
    index.shrink_to_fit();
    index
}

/// A common entry, if it is of a believable length.
fn cie<'a, S: UnwindSection<Bytes<'a>>>(
    section: &S,
    bases: &BaseAddresses,
    offset: S::Offset,
) -> gimli::Result<gimli::CommonInformationEntry<Bytes<'a>>> {
    let bytes = section.section().slice().get(gimli::UnwindOffset::into(offset)..).unwrap_or_default();
    let length = bytes.first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
    // The escape to 64-bit lengths is longer than that, too.
    if u64::from(length) > CIE_MAX {
        return Err(gimli::Error::UnsupportedOffset);
    }
    section.cie_from_offset(bases, offset)
}

/// How a value is found; for the canonical frame address, `register` is the base of [`Kind::Base`], else the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How.
    pub kind: Kind,
    /// DWARF number.
    pub register: u8,
    /// Of an expression, its length.
    pub length: u16,
    /// Distance from the canonical frame address or the base; register; place of an expression in its section.
    pub value: i32,
}

/// The kinds of [`Rule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It cannot be found.
    Undefined,
    /// It is what it is in the callee.
    Same,
    /// `register` plus `value`.
    Base,
    /// In memory, `value` from the canonical frame address.
    Offset,
    /// The canonical frame address plus `value`.
    ValOffset,
    /// In the register `value`.
    Register,
    /// In memory, where an expression says.
    Expression,
    /// What an expression says.
    ValExpression,
}

/// How the caller's registers are found.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The canonical frame address: the stack pointer after the return.
    pub cfa: Rule,
    first: u32,
    count: u8,
    /// DWARF number of the column of the return address.
    pub return_column: u8,
    /// The caller was interrupted by a signal and not calling.
    pub signal: bool,
    /// Expressions are in `.debug_frame`.
    pub in_debug_frame: bool,
}

/// What there is for an address.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// A row.
    Row(Row),
    /// No function's entry covers the address.
    Nothing,
    /// What covers it cannot be followed.
    Bad,
}

/// Finds rows, and keeps them: by file, which is a number that is never used again, and address as the file has it.
#[derive(Debug)]
pub struct Rows {
    context: Box<UnwindContext<usize>>,
    found: HashMap<(u64, u64), Found>,
    rules: Vec<Rule>,
}

impl Rows {
    /// None yet.
    pub fn new() -> Self {
        Self { context: Box::default(), found: HashMap::new(), rules: Vec::new() }
    }

    /// The rules of the registers that do not keep their value; valid until the next row is looked for.
    pub fn rules(&self, row: &Row) -> &[Rule] {
        self.rules.get(row.first as usize..).and_then(|rules| rules.get(..row.count.into())).unwrap_or_default()
    }

    /// The row for an address of a file.
    pub fn find(&mut self, file: u64, image: &Image, address: u64) -> Found {
        if let Some(found) = self.found.get(&(file, address)) {
            return *found;
        }
        if self.found.len() >= ROWS_MAX || self.rules.len() >= 16 * ROWS_MAX {
            self.found.clear();
            self.rules.clear();
        }
        let found = self.read(image.cfi(), address);
        self.found.insert((file, address), found);
        found
    }

    fn read(&mut self, cfi: &Cfi, address: u64) -> Found {
        if let Some(section) = &cfi.eh_frame {
            let frames = EhFrame::new(&section.bytes, LittleEndian);
            let mut bases = BaseAddresses::default().set_eh_frame(section.address);
            if let Some(table) = &cfi.table {
                bases = bases.set_eh_frame_hdr(table.address);
            }
            let entry = cfi.eh_entry(&frames, &bases, address);
            match entry.map_or(Found::Nothing, |entry| self.evaluate(&frames, &bases, entry.into(), address, false)) {
                Found::Nothing => {}
                found => return found,
            }
        }
        let Some(section) = &cfi.debug_frame else { return Found::Nothing };
        let mut frames = DebugFrame::new(&section.bytes, LittleEndian);
        frames.set_address_size(8);
        let bases = BaseAddresses::default();
        let entry = cfi.debug_entry(&frames, &bases, address);
        entry.map_or(Found::Nothing, |entry| self.evaluate(&frames, &bases, entry.into(), address, true))
    }

    fn evaluate<'a, S: UnwindSection<Bytes<'a>>>(
        &mut self,
        section: &S,
        bases: &BaseAddresses,
        entry: S::Offset,
        address: u64,
        in_debug_frame: bool,
    ) -> Found {
        let Ok(entry) = section.fde_from_offset(bases, entry, cie) else { return Found::Bad };
        if !entry.contains(address) {
            return Found::Nothing;
        }
        if entry.entry_len() > FDE_MAX {
            return Found::Bad;
        }
        let Ok(row) = entry.unwind_info_for_address(section, bases, &mut self.context, address) else {
            return Found::Bad;
        };
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => rule(Kind::Base, register.0, *offset),
            CfaRule::Expression(expression) => {
                expression_rule(Kind::ValExpression, 0, expression.offset, expression.length)
            }
        };
        let first = self.rules.len();
        let mut whole = true;
        for (register, how) in row.registers() {
            let register = register.0;
            let rule = match *how {
                RegisterRule::Undefined => rule(Kind::Undefined, register, 0),
                RegisterRule::SameValue => rule(Kind::Same, register, 0),
                RegisterRule::Offset(offset) => rule(Kind::Offset, register, offset),
                RegisterRule::ValOffset(offset) => rule(Kind::ValOffset, register, offset),
                RegisterRule::Register(other) => rule(Kind::Register, register, other.0.into()),
                RegisterRule::Expression(e) => expression_rule(Kind::Expression, register, e.offset, e.length),
                RegisterRule::ValExpression(e) => expression_rule(Kind::ValExpression, register, e.offset, e.length),
                _ => None,
            };
            match rule {
                // Vector registers and flags lead to no caller.
                _ if register > 16 => {}
                Some(rule) => self.rules.push(rule),
                None => whole = false,
            }
        }
        let count = u8::try_from(self.rules.len() - first);
        let return_column = u8::try_from(entry.cie().return_address_register().0).ok().filter(|column| *column <= 16);
        match (cfa, u32::try_from(first), count, return_column) {
            (Some(cfa), Ok(first), Ok(count), Some(return_column)) if whole => {
                let signal = entry.is_signal_trampoline();
                Found::Row(Row { cfa, first, count, return_column, signal, in_debug_frame })
            }
            _ => {
                self.rules.truncate(first);
                Found::Bad
            }
        }
    }
}

fn rule(kind: Kind, register: u16, value: i64) -> Option<Rule> {
    Some(Rule { kind, register: u8::try_from(register).ok()?, length: 0, value: i32::try_from(value).ok()? })
}

fn expression_rule(kind: Kind, register: u16, offset: usize, length: usize) -> Option<Rule> {
    let length = u16::try_from(length).ok()?;
    Some(Rule { length, ..rule(kind, register, i64::try_from(offset).ok()?)? })
}
