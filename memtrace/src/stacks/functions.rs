//! A program's functions by name, for probes that the user wants on them.
//!
//! The file is somebody else's: sizes are bounded, and what contradicts itself is a refusal. Names that are not there
//! are never guessed; those that are close are told.

use super::elf::Bytes;
use super::names::shown;
use object::LittleEndian as LE;
use object::elf::{self, ProgramHeader64, SectionHeader64, Sym64};
use object::pod;
use std::collections::BTreeMap;

/// Bytes of a table of symbols, and of one of names.
const TABLE_MAX: u64 = 256 << 20;
/// Length of a name that is looked at.
const NAME_MAX: usize = 4096;
/// Bytes of the names of all functions: as many as a table of names has, in which they may overlap.
const SPELLED_MAX: usize = TABLE_MAX as usize;
/// Places that are kept of one name: more than one is several.
const PLACES_MAX: usize = 2;
/// Names that are told when one was not found.
const NEAR_MAX: usize = 5;

/// A program's functions.
#[derive(Debug)]
pub struct Functions {
    /// Place in the file by name. Local functions of several sources may share a name.
    by_name: BTreeMap<Vec<u8>, Vec<u64>>,
    /// There is a complete table, not only what is exported.
    whole: bool,
}

/// Why there is no function of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoFunction {
    /// Names that are close, or those of which several are meant.
    pub near: Vec<String>,
    /// Several have the name.
    pub several: bool,
    /// The program has only the names that it exports.
    pub stripped: bool,
}

impl Functions {
    /// Reads the tables. `None` for what is not a 64-bit x86 program or library, or claims what cannot be.
    #[must_use]
    pub fn read(bytes: &Bytes) -> Option<Self> {
        let header = bytes.program_header().filter(|header| header.e_machine.get(LE) == elf::EM_X86_64)?;
        let programs: Vec<ProgramHeader64<LE>> =
            bytes.headers(header.e_phoff.get(LE), u64::from(header.e_phnum.get(LE)))?;
        let mut functions = Self { by_name: BTreeMap::new(), whole: false };
        if usize::from(header.e_shentsize.get(LE)) == size_of::<SectionHeader64<LE>>() {
            let sections: Vec<SectionHeader64<LE>> =
                bytes.headers(header.e_shoff.get(LE), u64::from(header.e_shnum.get(LE)))?;
            let mut left = SPELLED_MAX;
            // A file has one of each.
            for kind in [elf::SHT_SYMTAB, elf::SHT_DYNSYM] {
                let Some(section) = sections.iter().find(|section| section.sh_type.get(LE) == kind) else { continue };
                let names = sections.get(section.sh_link.get(LE) as usize)?;
                functions.add(&read(bytes, section)?, &read(bytes, names)?, &programs, &mut left)?;
                functions.whole |= kind == elf::SHT_SYMTAB;
            }
        }
        Some(functions)
    }

    fn add(&mut self, symbols: &[u8], names: &[u8], programs: &[ProgramHeader64<LE>], left: &mut usize) -> Option<()> {
        for symbol in pod::slice_from_all_bytes::<Sym64<LE>>(symbols).ok()? {
            if symbol.st_info & 0xf != elf::STT_FUNC || symbol.st_shndx.get(LE) == elf::SHN_UNDEF {
                continue;
            }
            let Some(rest) = names.get(symbol.st_name.get(LE) as usize..) else { continue };
            let rest = &rest[..rest.len().min(NAME_MAX)];
            let Some(length) = memchr::memchr(0, rest).filter(|length| *length > 0) else { continue };
            let Some(offset) = offset(symbol.st_value.get(LE), programs) else { continue };
            *left = left.checked_sub(length)?;
            let places = self.by_name.entry(rest[..length].to_vec()).or_default();
            if places.len() < PLACES_MAX && !places.contains(&offset) {
                places.push(offset);
            }
        }
        Some(())
    }

    /// Place in the file of the function that is called so: in the file's own words or, where only one is meant, as
    /// they are shown, with or without its parameters.
    ///
    /// # Errors
    /// There is none, or several are.
    pub fn find(&self, wanted: &str) -> Result<u64, NoFunction> {
        match self.by_name.get(wanted.as_bytes()).map(Vec::as_slice) {
            Some([offset]) => return Ok(*offset),
            Some(_) => return Err(NoFunction { near: Vec::new(), several: true, stripped: !self.whole }),
            None => {}
        }
        let meant = self.shown_as(wanted);
        let mut offsets: Vec<u64> = meant.iter().flat_map(|(_, offsets)| offsets.iter().copied()).collect();
        offsets.sort_unstable();
        offsets.dedup();
        match offsets[..] {
            [offset] => Ok(offset),
            [] => Err(NoFunction { near: self.near(wanted), several: false, stripped: !self.whole }),
            _ => {
                let near = meant.iter().filter_map(|(name, _)| text(name)).take(NEAR_MAX).collect();
                Err(NoFunction { near, several: true, stripped: !self.whole })
            }
        }
    }

    /// Functions whose names are shown so.
    fn shown_as(&self, wanted: &str) -> Vec<(&[u8], &[u64])> {
        // A mangled name has the last word of the name in it: only those are worth demangling.
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let path = wanted.split('(').next().unwrap_or(wanted);
        let last = path.rsplit(|c| !word(c)).find(|part| !part.is_empty()).unwrap_or(path);
        let finder = memchr::memmem::Finder::new(last.as_bytes());
        let mangled = self.by_name.iter().filter(|(name, _)| {
            // What the compiler made of a part of a function has a suffix.
            name.starts_with(b"_") && !name.contains(&b'.') && finder.find(name).is_some()
        });
        let is_meant = |name: &[u8]| {
            let shown = shown(name);
            let bare = memchr::memchr(b'(', &shown).map_or(&shown[..], |end| &shown[..end]);
            shown == wanted.as_bytes() || bare == wanted.as_bytes()
        };
        mangled.filter(|(name, _)| is_meant(name)).map(|(name, offsets)| (&name[..], &offsets[..])).collect()
    }

    /// Names that look like it, the closest first.
    fn near(&self, wanted: &str) -> Vec<String> {
        let lower = wanted.to_ascii_lowercase();
        let close = |name: &[u8]| {
            let name = name.to_ascii_lowercase();
            if memchr::memmem::find(&name, lower.as_bytes()).is_some() {
                return Some(name.len().abs_diff(lower.len()).min(99) + 3);
            }
            let similar = name.first() == lower.as_bytes().first() && name.len().abs_diff(lower.len()) <= 2;
            similar.then(|| distance(&name, lower.as_bytes())).filter(|distance| *distance <= 2)
        };
        let mut names: Vec<_> = self.by_name.keys().filter_map(|name| Some((close(name)?, text(name)?))).collect();
        names.sort();
        names.truncate(NEAR_MAX);
        names.into_iter().map(|(_, name)| name).collect()
    }
}

/// A name that can be typed: what is no text has none, and what would be shown for it is another one.
fn text(name: &[u8]) -> Option<String> {
    std::str::from_utf8(name).ok().map(str::to_owned)
}

fn read(bytes: &Bytes, section: &SectionHeader64<LE>) -> Option<Vec<u8>> {
    bytes.read(section.sh_offset.get(LE), section.sh_size.get(LE), TABLE_MAX)
}

/// Where in the file the code at an address is.
fn offset(address: u64, programs: &[ProgramHeader64<LE>]) -> Option<u64> {
    programs.iter().find_map(|program| {
        let within = address.checked_sub(program.p_vaddr.get(LE))?;
        let is_code = program.p_type.get(LE) == elf::PT_LOAD && program.p_flags.get(LE) & elf::PF_X != 0;
        if is_code && within < program.p_filesz.get(LE) { program.p_offset.get(LE).checked_add(within) } else { None }
    })
}

/// Bytes that are to be changed, put in or taken out.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn functions(names: &[(&str, u64)]) -> Functions {
        let mut by_name: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
        for (name, offset) in names {
            by_name.entry(name.as_bytes().to_vec()).or_default().push(*offset);
        }
        Functions { by_name, whole: true }
    }

    #[test]
    fn a_name_is_the_files_or_as_it_is_shown() {
        let functions = functions(&[
            ("_Z10do_commandP3THDb", 1),
            ("_ZN3THD13end_statementEv", 2),
            ("_ZN8Protocol13end_statementEv", 3),
            ("_Z3runi", 4),
            ("_Z3rund", 5),
            ("_ZN3THD13end_statementEv.cold", 6),
            ("work", 7),
        ]);
        let found = ["work", "_Z3runi", "do_command", "THD::end_statement", "THD::end_statement()", "run(double)"];
        assert_eq!(found.map(|name| functions.find(name).unwrap()), [7, 4, 1, 2, 2, 5]);
        let several = functions.find("run").unwrap_err();
        assert_eq!((several.several, several.near), (true, vec!["_Z3rund".to_owned(), "_Z3runi".to_owned()]));
        let near = functions.find("wrok").unwrap_err();
        assert_eq!((near.several, near.near), (false, vec!["work".to_owned()]));
    }

    #[test]
    fn a_name_that_is_no_text_is_not_told_as_another_one() {
        let mut functions = functions(&[("work", 1)]);
        functions.by_name.insert(b"wor\xff".to_vec(), vec![2]);
        assert_eq!(functions.find("worx").unwrap_err().near, ["work"]);
    }

    #[test]
    fn own_functions_are_where_they_are() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let length = file.metadata().unwrap().len();
        let functions = Functions::read(&Bytes::File(file, length)).unwrap();
        assert!(functions.whole && functions.find("memtrace::stacks::functions::distance").is_ok());
        assert_eq!(distance(b"kitten", b"sitting"), 3);
    }

    #[test]
    fn what_is_no_program_has_none() {
        for bytes in [b"".as_slice(), b"\x7fELF", &[0xff; 200]] {
            assert!(Functions::read(&Bytes::Memory(bytes.to_vec())).is_none());
        }
    }
}
