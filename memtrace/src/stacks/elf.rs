//! ELF files: what unwinding needs of them, read into memory once.
//!
//! Nothing is mapped: a file that its owner truncates under us would end us. Every read is bounded, whatever the headers
//! claim, and a file that is stranger or larger than [`Image::read`] accepts is none.

use super::cfi::{Cfi, Section};
use object::elf::{self, FileHeader64, NoteHeader64, ProgramHeader64, SectionHeader64};
use object::{LittleEndian as LE, pod};
use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// Headers of either kind that are looked at. The largest programs known have some dozens; objects built with a section
/// per function have thousands, but those are not mapped.
const HEADERS_MAX: u64 = 4096;
/// Bytes of section names.
const NAMES_MAX: u64 = 1 << 20;
/// Bytes of notes that are searched for a build-id.
const NOTES_MAX: u64 = 1 << 16;
/// Bytes of a build-id that are believed: SHA-1 has 20, SHA-256 32.
const BUILD_ID_MAX: usize = 64;
/// Bytes of one section of unwinding information. LLVM's has 12 MiB, a browser's 20.
pub const SECTION_MAX: u64 = 64 << 20;

/// Where the bytes of an ELF file are.
#[derive(Debug)]
pub enum Bytes {
    /// In a regular file, of this length when it was opened.
    File(File, u64),
    /// In memory: the vdso is in no file.
    Memory(Vec<u8>),
}

impl Bytes {
    const fn len(&self) -> u64 {
        match self {
            Self::File(_, length) => *length,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// `length` bytes from `offset` on; `None` when there are not as many, or more than `cap`.
    pub(crate) fn read(&self, offset: u64, length: u64, cap: u64) -> Option<Vec<u8>> {
        if length > cap || offset.checked_add(length)? > self.len() {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        self.read_exact(offset, &mut bytes).then_some(bytes)
    }

    fn read_exact(&self, offset: u64, into: &mut [u8]) -> bool {
        match self {
            Self::File(file, _) => file.read_exact_at(into, offset).is_ok(),
            Self::Memory(bytes) => {
                let Ok(begin) = usize::try_from(offset) else { return false };
                let Some(bytes) = bytes.get(begin..).and_then(|rest| rest.get(..into.len())) else { return false };
                into.copy_from_slice(bytes);
                true
            }
        }
    }

    /// The header of a 64-bit little-endian program or library of any machine; `None` for any other file.
    pub(crate) fn program_header(&self) -> Option<FileHeader64<LE>> {
        let header = self.headers::<FileHeader64<LE>>(0, 1)?.pop()?;
        let ident = &header.e_ident;
        let is_one = ident.magic == elf::ELFMAG
            && ident.class == elf::ELFCLASS64
            && ident.data == elf::ELFDATA2LSB
            && usize::from(header.e_phentsize.get(LE)) == size_of::<ProgramHeader64<LE>>();
        is_one.then_some(header)
    }

    /// An array of headers, `count` of them from `offset` on.
    pub(crate) fn headers<T: pod::Pod + Copy>(&self, offset: u64, count: u64) -> Option<Vec<T>> {
        let bytes =
            self.read(offset, count.checked_mul(size_of::<T>() as u64)?, HEADERS_MAX * size_of::<T>() as u64)?;
        pod::slice_from_all_bytes::<T>(&bytes).ok().map(<[T]>::to_vec)
    }
}

/// A `PT_LOAD` segment.
#[derive(Clone, Copy, Debug)]
struct Load {
    address: u64,
    offset: u64,
    length: u64,
    executable: bool,
}

/// An ELF file.
#[derive(Debug)]
pub struct Image {
    bytes: Bytes,
    build_id: Vec<u8>,
    entry: u64,
    loads: Vec<Load>,
    cfi: Cfi,
}

impl Image {
    /// Reads what unwinding needs. `None` for what is not a 64-bit x86 program or library, or claims what cannot be.
    #[must_use]
    pub fn read(bytes: Bytes) -> Option<Self> {
        let header = bytes.program_header().filter(|header| header.e_machine.get(LE) == elf::EM_X86_64)?;
        let programs: Vec<ProgramHeader64<LE>> =
            bytes.headers(header.e_phoff.get(LE), u64::from(header.e_phnum.get(LE)))?;
        let loads = programs
            .iter()
            .filter(|program| program.p_type.get(LE) == elf::PT_LOAD)
            .map(|program| Load {
                address: program.p_vaddr.get(LE),
                offset: program.p_offset.get(LE),
                length: program.p_filesz.get(LE),
                executable: program.p_flags.get(LE) & elf::PF_X != 0,
            })
            .collect();
        let build_id = programs
            .iter()
            .filter(|program| program.p_type.get(LE) == elf::PT_NOTE)
            .filter_map(|program| bytes.read(program.p_offset.get(LE), program.p_filesz.get(LE), NOTES_MAX))
            .find_map(|notes| find_build_id(&notes))
            .unwrap_or_default();
        let cfi = read_sections(&bytes, &header).or_else(|| read_segments(&bytes, &programs)).unwrap_or_default();
        Some(Self { bytes, build_id, entry: header.e_entry.get(LE), loads, cfi })
    }

    /// The GNU build-id, empty when there is none.
    #[must_use]
    pub fn build_id(&self) -> &[u8] {
        &self.build_id
    }

    /// Where the program begins, an address as the file has it.
    pub(super) const fn entry(&self) -> u64 {
        self.entry
    }

    pub(super) const fn cfi(&self) -> &Cfi {
        &self.cfi
    }

    /// Bytes of memory that this takes, more or less.
    pub(super) fn weight(&self) -> u64 {
        (self.cfi.weight() + self.loads.len() * size_of::<Load>()) as u64
    }

    /// What has to be added to an address as the file has it, where executable memory that begins at `start` maps the
    /// file from `offset` on. `None` when no segment is there.
    pub(super) fn bias(&self, start: u64, offset: u64) -> Option<u64> {
        // A segment begins and ends within pages, which two of them can share: the executable one is meant.
        let covers = |load: &&Load| load.offset & !0xfff <= offset && offset < load.offset.saturating_add(load.length);
        let executable = self.loads.iter().filter(|load| load.executable).find(covers);
        let load = executable.or_else(|| self.loads.iter().find(covers))?;
        Some(start.wrapping_sub(offset).wrapping_add(load.offset).wrapping_sub(load.address))
    }

    /// Fills `into` with code from a file offset on.
    pub(super) fn read_code(&self, offset: u64, into: &mut [u8]) -> bool {
        self.bytes.read_exact(offset, into)
    }
}

fn find_build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    loop {
        let (header, rest) = pod::from_bytes::<NoteHeader64<LE>>(notes).ok()?;
        let name_length = header.n_namesz.get(LE) as usize;
        let length = header.n_descsz.get(LE) as usize;
        let name = rest.get(..name_length)?;
        let rest = rest.get(name_length.next_multiple_of(4)..)?;
        let description = rest.get(..length)?;
        if name == elf::ELF_NOTE_GNU && header.n_type.get(LE) == elf::NT_GNU_BUILD_ID {
            return (length <= BUILD_ID_MAX).then(|| description.to_vec());
        }
        notes = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// The sections by name. `None` when there are no section headers, or no unwinding information among them.
fn read_sections(bytes: &Bytes, header: &FileHeader64<LE>) -> Option<Cfi> {
    if usize::from(header.e_shentsize.get(LE)) != size_of::<SectionHeader64<LE>>() {
        return None;
    }
    let sections: Vec<SectionHeader64<LE>> =
        bytes.headers(header.e_shoff.get(LE), u64::from(header.e_shnum.get(LE)))?;
    let names = sections.get(usize::from(header.e_shstrndx.get(LE)))?;
    let names = bytes.read(names.sh_offset.get(LE), names.sh_size.get(LE), NAMES_MAX)?;
    let section = |wanted: &[u8]| {
        let found = sections.iter().find(|section| {
            let name = names.get(section.sh_name.get(LE) as usize..).and_then(|name| name.strip_prefix(wanted));
            name.is_some_and(|rest| rest.first() == Some(&0))
        })?;
        let in_file =
            found.sh_type.get(LE) != elf::SHT_NOBITS && found.sh_flags.get(LE) & u64::from(elf::SHF_COMPRESSED) == 0;
        let read = || bytes.read(found.sh_offset.get(LE), found.sh_size.get(LE), SECTION_MAX);
        Some(Section { address: found.sh_addr.get(LE), bytes: in_file.then(read)?? })
    };
    let cfi = Cfi::new(section(b".eh_frame"), section(b".eh_frame_hdr"), section(b".debug_frame"));
    (!cfi.is_empty()).then_some(cfi)
}

/// The same where section headers are stripped: the search table has a segment of its own, and says where the rest is.
fn read_segments(bytes: &Bytes, programs: &[ProgramHeader64<LE>]) -> Option<Cfi> {
    let table = programs.iter().find(|program| program.p_type.get(LE) == elf::PT_GNU_EH_FRAME)?;
    let header = Section {
        address: table.p_vaddr.get(LE),
        bytes: bytes.read(table.p_offset.get(LE), table.p_filesz.get(LE), SECTION_MAX)?,
    };
    let address = header.frames_address()?;
    let load = programs.iter().find(|program| {
        let within = address.checked_sub(program.p_vaddr.get(LE));
        program.p_type.get(LE) == elf::PT_LOAD && within.is_some_and(|within| within < program.p_filesz.get(LE))
    })?;
    let skipped = address - load.p_vaddr.get(LE);
    let offset = load.p_offset.get(LE).checked_add(skipped)?;
    let frames = Section { address, bytes: bytes.read(offset, load.p_filesz.get(LE) - skipped, SECTION_MAX)? };
    Some(Cfi::new(Some(frames), Some(header), None))
}
