//! An executable, as far as it tells which server it is: what it exports, its entry, and texts that it has.

use crate::stacks::Bytes;
use object::LittleEndian as LE;
use object::elf::{self, ProgramHeader64, SectionHeader64, Sym64};
use object::pod;
use std::collections::HashMap;

/// Bytes of exported symbols, and of their names. PostgreSQL has half a MiB of each, MySQL a few.
const SYMBOLS_MAX: u64 = 16 << 20;
/// Bytes of all segments that are searched for a text. PostgreSQL's constants are two MiB.
const CONSTANTS_MAX: u64 = 32 << 20;
/// Length of a name that is kept.
const NAME_MAX: usize = 64;

/// An executable.
#[derive(Debug)]
pub struct Program {
    bytes: Bytes,
    entry: u64,
    machine: u16,
    segments: Vec<ProgramHeader64<LE>>,
    exports: HashMap<Vec<u8>, u64>,
}

impl Program {
    /// Reads what it exports. `None` for what is not a 64-bit little-endian program, or claims what cannot be.
    #[must_use]
    pub fn read(bytes: Bytes) -> Option<Self> {
        let header = bytes.program_header()?;
        if usize::from(header.e_shentsize.get(LE)) != size_of::<SectionHeader64<LE>>() {
            return None;
        }
        let segments = bytes.headers(header.e_phoff.get(LE), u64::from(header.e_phnum.get(LE)))?;
        let sections: Vec<SectionHeader64<LE>> =
            bytes.headers(header.e_shoff.get(LE), u64::from(header.e_shnum.get(LE)))?;
        let exported = sections.iter().find(|section| section.sh_type.get(LE) == elf::SHT_DYNSYM)?;
        let names = sections.get(exported.sh_link.get(LE) as usize)?;
        let read =
            |section: &SectionHeader64<LE>| bytes.read(section.sh_offset.get(LE), section.sh_size.get(LE), SYMBOLS_MAX);
        let exports = exports(&read(exported)?, &read(names)?)?;
        let machine = header.e_machine.get(LE);
        Some(Self { entry: header.e_entry.get(LE), machine, segments, exports, bytes })
    }

    /// Where it begins, an address as the file has it.
    #[must_use]
    pub const fn entry(&self) -> u64 {
        self.entry
    }

    /// Address of what it exports by this name, as the file has it.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        self.exports.get(name.as_bytes()).copied()
    }

    /// Address of what it exports by a name that begins so; the first by name when there are several.
    #[must_use]
    pub fn address_by_prefix(&self, prefix: &str) -> Option<u64> {
        let named = self.exports.iter().filter(|(name, _)| name.starts_with(prefix.as_bytes()));
        named.min_by_key(|(name, _)| *name).map(|(_, address)| *address)
    }

    /// Where in the file the code at an address is.
    #[must_use]
    pub fn code_offset(&self, address: u64) -> Option<u64> {
        let (segment, within) = self.segment_of(address)?;
        let is_code = segment.p_flags.get(LE) & elf::PF_X != 0 && within < segment.p_filesz.get(LE);
        if is_code { segment.p_offset.get(LE).checked_add(within) } else { None }
    }

    /// The text between `before` and the end of the line or of the text, in its constants.
    pub(super) fn constant(&self, before: &[u8]) -> Option<Vec<u8>> {
        let constants = self.loads().filter(|segment| segment.p_flags.get(LE) & elf::PF_W == 0);
        let mut left = CONSTANTS_MAX;
        constants.into_iter().find_map(|segment| {
            let bytes = self.bytes.read(segment.p_offset.get(LE), segment.p_filesz.get(LE), left)?;
            left -= bytes.len() as u64;
            let begin = memchr::memmem::find(&bytes, before)? + before.len();
            let text = bytes.get(begin..)?;
            let end = memchr::memchr2(0, b'\n', text)?;
            Some(text[..end.min(NAME_MAX)].to_vec())
        })
    }

    /// Variables that the first `length` bytes of an exported function load whole: 64-bit loads relative to the
    /// instruction, of x86-64, whose target can be written. Bytes that only look like one are in it as well.
    pub(super) fn loaded_by(&self, function: &str, length: u64) -> Vec<u64> {
        let code = || {
            let address = self.address(function).filter(|_| self.machine == elf::EM_X86_64)?;
            let (segment, within) = self.segment_of(address)?;
            let left = segment.p_filesz.get(LE).checked_sub(within)?;
            let offset = segment.p_offset.get(LE).checked_add(within)?;
            Some((address, self.bytes.read(offset, left.min(length), length)?))
        };
        let Some((address, code)) = code() else { return Vec::new() };
        let targets = code.windows(7).enumerate().filter_map(|(at, bytes)| match *bytes {
            // REX.W mov reg, [rip + displacement]
            [0x48 | 0x4c, 0x8b, modrm, a, b, c, d] if modrm & 0xc7 == 0x05 => {
                let displacement = i64::from(i32::from_le_bytes([a, b, c, d]));
                Some(address.wrapping_add(at as u64 + 7).wrapping_add_signed(displacement))
            }
            _ => None,
        });
        let is_variable = |target: &u64| {
            target.is_multiple_of(8)
                && self.segment_of(*target).is_some_and(|(segment, _)| segment.p_flags.get(LE) & elf::PF_W != 0)
        };
        targets.filter(is_variable).collect()
    }

    fn loads(&self) -> impl Iterator<Item = &ProgramHeader64<LE>> {
        self.segments.iter().filter(|segment| segment.p_type.get(LE) == elf::PT_LOAD)
    }

    /// The segment that an address is in, and how far.
    fn segment_of(&self, address: u64) -> Option<(&ProgramHeader64<LE>, u64)> {
        self.loads().find_map(|segment| {
            let within = address.checked_sub(segment.p_vaddr.get(LE))?;
            (within < segment.p_memsz.get(LE)).then_some((segment, within))
        })
    }
}

/// Functions and variables by name.
fn exports(symbols: &[u8], names: &[u8]) -> Option<HashMap<Vec<u8>, u64>> {
    let symbols = pod::slice_from_all_bytes::<Sym64<LE>>(symbols).ok()?;
    let named = symbols.iter().filter(|symbol| {
        let kind = symbol.st_info & 0xf;
        symbol.st_shndx.get(LE) != elf::SHN_UNDEF && (kind == elf::STT_OBJECT || kind == elf::STT_FUNC)
    });
    let all = named.filter_map(|symbol| {
        let rest = names.get(symbol.st_name.get(LE) as usize..)?;
        let name = &rest[..rest.len().min(NAME_MAX)];
        Some((name[..memchr::memchr(0, name)?].to_vec(), symbol.st_value.get(LE)))
    });
    Some(all.collect())
}
