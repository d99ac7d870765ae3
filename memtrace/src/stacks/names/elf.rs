//! An ELF file's symbols by address, and what its calls through relocated slots call.
//!
//! A symbol names the bytes it spans, no byte after them: in a stripped file the next function is another one, whose
//! name is not known. Names are never guessed.

use super::question::{Callee, Place};
use super::text;
use memmap2::Mmap;
use object::elf::{self, FileHeader64};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader, Rela, SectionHeader, Sym, SymbolTable};
use object::{LittleEndian as LE, Object, ObjectSection};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::Deref;

/// A file of the only kind that is read: 64 bits, little-endian.
pub(super) type Parsed<'a> = ElfFile64<'a, LE>;
type Symbols<'a> = SymbolTable<'a, FileHeader64<LE>>;

/// Largest decompressed `.gnu_debugdata`, bytes: those of whole distributions are below 8 MiB.
const MAX_DEBUGDATA: u64 = 256 << 20;
/// Memory that the decoder of `.gnu_debugdata` may use, bytes.
const MAX_XZ_MEMORY: u64 = 256 << 20;
/// Bytes of code that are read at a stub or before a return address.
const STUB: usize = 16;

/// A file's bytes.
pub(super) enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl Bytes {
    pub(super) fn map(file: &File) -> std::io::Result<Self> {
        // SAFETY: the mapping is only read, as bytes, of which each value is valid. A file that is cut while it is
        // mapped ends this process by SIGBUS, which is why symbols are read by a process of their own.
        Ok(Self::Mapped(unsafe { Mmap::map(file)? }))
    }
}

/// One symbol of code.
#[derive(Clone, Copy)]
struct Entry {
    start: u64,
    /// Address after the last byte.
    end: u64,
    /// Highest `end` of this and all entries before it.
    reach: u64,
    /// Where its name begins, in image `image`.
    name: u64,
    image: u8,
    local: bool,
}

/// One loadable segment.
struct Segment {
    offset: u64,
    size: u64,
    address: u64,
}

/// The symbols of a module, from all files that hold some.
pub(super) struct Elf {
    /// The module itself; then its `.gnu_debugdata`, its separate debug file.
    images: Vec<Bytes>,
    segments: Vec<Segment>,
    /// By start.
    symbols: Vec<Entry>,
    /// There is a complete symbol table.
    pub whole: bool,
    /// What fills a slot of the global offset table, by the slot's address.
    slots: Option<HashMap<u64, Callee>>,
}

/// A function that holds a place.
pub(super) struct Function<'a> {
    pub start: u64,
    /// As the file has it.
    pub name: &'a [u8],
}

pub(super) fn parse(bytes: &[u8]) -> object::read::Result<Parsed<'_>> {
    Parsed::parse(bytes)
}

impl Elf {
    /// `separate` is the debug file that belongs to the module.
    ///
    /// `None` when `module` is no ELF file of 64 bits for x86-64, or contradicts itself.
    pub(super) fn new(module: Bytes, separate: Option<Bytes>) -> Option<Self> {
        let parsed = parse(&module).ok()?;
        if parsed.elf_header().e_machine(LE) != elf::EM_X86_64 {
            return None;
        }
        let loads = parsed.elf_program_headers().iter().filter(|segment| segment.p_type(LE) == elf::PT_LOAD);
        let segments = loads
            .map(|load| Segment { offset: load.p_offset(LE), size: load.p_filesz(LE), address: load.p_vaddr(LE) })
            .collect();
        let debugdata = parsed.section_by_name(".gnu_debugdata").and_then(|section| unpack(section.data().ok()?));
        let mut images = vec![module];
        images.extend(debugdata.map(Bytes::Owned));
        let mut symbols = Vec::new();
        let mut whole = separate.is_some();
        images.extend(separate);
        for (index, image) in (0..).zip(&images) {
            // Only the module itself had to be an ELF file; what the others cannot give is missing.
            if let Ok(parsed) = parse(image) {
                collect(&parsed, index, &mut symbols);
                whole |= index == 0 && !parsed.elf_symbol_table().is_empty();
            }
        }
        index(&mut symbols);
        Some(Self { images, segments, symbols, whole, slots: None })
    }

    /// The module's own bytes.
    pub(super) fn image(&self) -> &[u8] {
        &self.images[0]
    }

    /// The address that the file asks for the byte at `offset`.
    pub(super) fn address(&self, offset: u64) -> Option<u64> {
        let holds = |segment: &&Segment| offset.checked_sub(segment.offset).is_some_and(|at| at < segment.size);
        let segment = self.segments.iter().find(holds)?;
        segment.address.checked_add(offset - segment.offset)
    }

    fn offset(&self, address: u64) -> Option<u64> {
        let holds = |segment: &&Segment| address.checked_sub(segment.address).is_some_and(|at| at < segment.size);
        let segment = self.segments.iter().find(holds)?;
        segment.offset.checked_add(address - segment.address)
    }

    /// The function whose symbol spans `address`: the innermost, and of its names the best.
    pub(super) fn function(&self, address: u64) -> Option<Function<'_>> {
        let after = self.symbols.partition_point(|symbol| symbol.start <= address);
        let reaching = self.symbols[..after].iter().rev().take_while(|symbol| symbol.reach > address);
        let mut spanning = reaching.filter(|symbol| symbol.end > address).peekable();
        let start = spanning.peek()?.start;
        let best = spanning
            .take_while(|symbol| symbol.start == start)
            .filter_map(|symbol| self.name(symbol).map(|name| (symbol, name)))
            .min_by(|(a, a_name), (b, b_name)| text::rank(a_name, a.local).cmp(&text::rank(b_name, b.local)))?;
        Some(Function { start, name: best.1 })
    }

    fn name(&self, symbol: &Entry) -> Option<&[u8]> {
        let image = self.images.get(usize::from(symbol.image))?;
        let name = image.get(usize::try_from(symbol.name).ok()?..)?;
        let name = &name[..memchr::memchr(0, name)?];
        (!name.is_empty()).then_some(name)
    }

    /// The address of the code at `place`, where the call is when it is after one.
    pub(super) fn code(&self, place: Place) -> Option<u64> {
        if place.after_call { self.address(place.at.checked_sub(1)?) } else { self.address(place.at) }
    }

    /// What the call that returns to file offset `returns_to` calls, where that goes through a slot that a relocation
    /// fills: directly, or by way of a stub.
    pub(super) fn callee(&mut self, returns_to: u64) -> Option<Callee> {
        let next = self.address(returns_to.checked_sub(1)?)?.checked_add(1)?;
        let end = usize::try_from(returns_to).ok()?;
        let before = self.image().get(end.checked_sub(6)?..end)?;
        let relative = |bytes: &[u8], next: u64| {
            let distance = i32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
            next.checked_add_signed(i64::from(distance))
        };
        // call *slot(%rip), or call stub: the other reading of the same bytes finds no slot.
        let direct = if before.starts_with(b"\xff\x15") { relative(&before[2..], next) } else { None };
        let stub = if before[1] == 0xe8 { relative(&before[2..], next) } else { None };
        let through = stub.and_then(|stub| {
            let at = usize::try_from(self.offset(stub)?).ok()?;
            let code = self.image().get(at..)?;
            let code = &code[..code.len().min(STUB)];
            // endbr64 and the bnd prefix, where the linker put them; then jmp *slot(%rip).
            let jump = code.strip_prefix(b"\xf3\x0f\x1e\xfa").unwrap_or(code);
            let jump = jump.strip_prefix(b"\xf2").unwrap_or(jump);
            let jump = jump.strip_prefix(b"\xff\x25")?;
            relative(jump, stub + (code.len() - jump.len()) as u64 + 4)
        });
        let slots =
            self.slots.get_or_insert_with(|| parse(&self.images[0]).map(|file| slots(&file)).unwrap_or_default());
        [direct, through].into_iter().flatten().find_map(|slot| slots.get(&slot).cloned())
    }

    /// The name of the indirect function that `callee` is, if this module defines it: what it chose has no symbol that
    /// is exported. Any other function has its own symbol, and a place outside of that is other code.
    pub(super) fn variant(&self, callee: &Callee) -> Option<Vec<u8>> {
        let parsed = parse(self.image()).ok()?;
        let table = parsed.elf_dynamic_symbol_table();
        let indirect = table.iter().filter(|symbol| {
            symbol.st_type() == elf::STT_GNU_IFUNC && symbol.st_shndx(LE) != elf::SHN_UNDEF && symbol.st_value(LE) != 0
        });
        let mut names = indirect.filter_map(|symbol| Some((symbol, table.symbol_name(LE, symbol).ok()?)));
        match callee {
            Callee::Symbol(wanted) => names.find(|(_, name)| name == wanted).map(|(_, name)| name.to_vec()),
            Callee::Resolver(address) => names
                .filter(|(symbol, _)| symbol.st_value(LE) == *address)
                .map(|(_, name)| name)
                .min_by(|a, b| text::rank(a, false).cmp(&text::rank(b, false)))
                .map(<[u8]>::to_vec),
        }
    }
}

/// What is in a `.gnu_debugdata`: an ELF file packed by xz, of which its maker left only the symbols.
fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let stream = xz2::stream::Stream::new_stream_decoder(MAX_XZ_MEMORY, 0).ok()?;
    let mut unpacked = Vec::new();
    let decoder = xz2::read::XzDecoder::new_stream(packed, stream);
    let length = decoder.take(MAX_DEBUGDATA + 1).read_to_end(&mut unpacked).ok()?;
    (length as u64 <= MAX_DEBUGDATA).then_some(unpacked)
}

/// Adds the symbols of code that a file has, dynamic ones included.
fn collect(parsed: &Parsed<'_>, image: u8, into: &mut Vec<Entry>) {
    let sections = parsed.elf_section_table();
    let mut add = |table: &Symbols<'_>, complete: bool| {
        let Ok(names) = sections.section(table.string_section()) else { return };
        let names = names.sh_offset(LE);
        for (number, symbol) in table.enumerate() {
            if !matches!(symbol.st_type(), elf::STT_FUNC | elf::STT_GNU_IFUNC | elf::STT_NOTYPE) {
                continue;
            }
            let Ok(Some(section)) = table.symbol_section(LE, symbol, number) else { continue };
            let Ok(section) = sections.section(section) else { continue };
            if section.sh_flags(LE) & u64::from(elf::SHF_EXECINSTR) == 0 {
                continue;
            }
            let (start, size) = (symbol.st_value(LE), symbol.st_size(LE));
            let local = symbol.st_bind() == elf::STB_LOCAL;
            // Assembly may leave the size out: in a table of all symbols the next one ends it, or the section. Its local
            // labels are no functions.
            let label = local && symbol.st_type() == elf::STT_NOTYPE;
            if size == 0 && (!complete || label) {
                continue;
            }
            let end = if size == 0 { 0 } else { start.saturating_add(size) };
            let Some(name) = names.checked_add(u64::from(symbol.st_name(LE))) else { continue };
            let reach = section.sh_addr(LE).saturating_add(section.sh_size(LE));
            into.push(Entry { start, end, reach, name, image, local });
        }
    };
    add(parsed.elf_symbol_table(), true);
    add(parsed.elf_dynamic_symbol_table(), false);
}

/// Sorts the symbols, ends those without a size, and notes how far each prefix reaches.
fn index(symbols: &mut Vec<Entry>) {
    symbols.sort_unstable_by_key(|symbol| (symbol.start, symbol.end == 0, symbol.image, symbol.name));
    let mut sized = 0;
    symbols.retain(|symbol| {
        sized = sized.max(symbol.end);
        symbol.end != 0 || symbol.start >= sized
    });
    let mut next = (u64::MAX, u64::MAX);
    for symbol in symbols.iter_mut().rev() {
        if symbol.start != next.0 {
            next = (symbol.start, next.0);
        }
        if symbol.end == 0 {
            symbol.end = next.1.min(symbol.reach);
        }
    }
    let mut reach = 0;
    for symbol in symbols {
        reach = reach.max(symbol.end);
        symbol.reach = reach;
    }
}

/// What relocations put into slots that calls go through.
fn slots(parsed: &Parsed<'_>) -> HashMap<u64, Callee> {
    let symbols = parsed.elf_dynamic_symbol_table();
    let tables = parsed.elf_section_table().iter().filter_map(|section| section.rela(LE, parsed.data()).ok().flatten());
    let relocations = tables.flat_map(|(relocations, _)| relocations);
    relocations
        .filter_map(|relocation| {
            let callee = match relocation.r_type(LE, false) {
                elf::R_X86_64_JUMP_SLOT | elf::R_X86_64_GLOB_DAT => {
                    let symbol = symbols.symbol(relocation.symbol(LE, false)?).ok()?;
                    let name = symbols.symbol_name(LE, symbol).ok()?;
                    Callee::Symbol(name.get(..name.len().min(text::MAX_NAME))?.to_vec())
                }
                elf::R_X86_64_IRELATIVE => Callee::Resolver(relocation.r_addend(LE).cast_unsigned()),
                _ => return None,
            };
            Some((relocation.r_offset(LE), callee))
        })
        .collect()
}
