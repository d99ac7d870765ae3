//! What a module calls its code, by the tables in the module's own file, read with binutils: independent of the tool,
//! and blind to debug packages.

use crate::database::program;
use crate::stacks::Frame;
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, HashMap};
use std::process::Command;

/// What may be said of a frame's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The tool gave none.
    Unnamed,
    /// A symbol of that name, in the module's own tables, covers the place.
    Own,
    /// The same, but it is mangled there: only that there is one was looked at.
    Mangled,
    /// The caller calls that name through its procedure linkage table or global offset table.
    Linked,
    /// Nothing here says so: a debug file, a perf map, or a guess.
    Elsewhere,
}

impl Verdict {
    /// The module itself, or its caller, has the name.
    #[must_use]
    pub const fn without_debug_files(self) -> bool {
        matches!(self, Self::Own | Self::Mangled | Self::Linked)
    }
}

/// The modules that were looked at.
#[derive(Debug, Default)]
pub struct Symbols(HashMap<String, Option<Module>>);

#[derive(Debug)]
struct Module {
    bytes: Vec<u8>,
    /// Offset in the file, size there, address.
    loads: Vec<(u64, u64, u64)>,
    /// By begin: end and name. Several begin at one address.
    symbols: BTreeMap<u64, Vec<(u64, String)>>,
    /// Entries of the procedure linkage table.
    stubs: HashMap<u64, String>,
    /// Slots of the global offset table.
    slots: HashMap<u64, String>,
}

impl Symbols {
    /// Judges frame `index` of a stack.
    ///
    /// # Errors
    /// binutils are missing: skipped.
    pub fn judge(&mut self, frames: &[Frame], index: usize) -> Result<Verdict> {
        let frame = &frames[index];
        // The function that holds the code is the last one.
        let (Some(name), Some(offset)) = (frame.names.last(), frame.offset) else {
            return Ok(if frame.names.is_empty() { Verdict::Unnamed } else { Verdict::Elsewhere });
        };
        if let Some(module) = self.module(&frame.module)? {
            let covering = module.covering(offset, index > 0);
            if covering.iter().any(|own| own == name) {
                return Ok(Verdict::Own);
            }
            if covering.iter().any(|own| own.starts_with("_Z") || own.starts_with("_R")) {
                return Ok(Verdict::Mangled);
            }
        }
        if let Some(Frame { module, offset: Some(offset), .. }) = frames.get(index + 1)
            && let Some(caller) = self.module(&module.clone())?
            && caller.called(*offset).is_some_and(|called| called == name)
        {
            return Ok(Verdict::Linked);
        }
        Ok(Verdict::Elsewhere)
    }

    fn module(&mut self, path: &str) -> Result<Option<&Module>> {
        if !self.0.contains_key(path) {
            let module = if path.starts_with('/') { Module::read(path)? } else { None };
            self.0.insert(path.to_owned(), module);
        }
        Ok(self.0.get(path).and_then(Option::as_ref))
    }
}

impl Module {
    fn read(path: &str) -> Result<Option<Self>> {
        let Ok(bytes) = std::fs::read(path) else {
            return Ok(None);
        };
        let mut module =
            Self { bytes, loads: Vec::new(), symbols: BTreeMap::new(), stubs: HashMap::new(), slots: HashMap::new() };
        for line in output("readelf", &["-lW", path])?.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let ["LOAD", offset, address, _, size, ..] = words[..] {
                module.loads.push((hex(offset)?, hex(size)?, hex(address)?));
            }
        }
        for line in output("readelf", &["-sW", path])?.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [_, value, size, "FUNC" | "IFUNC" | "NOTYPE", _, _, section, name, ..] = words[..]
                && section != "UND"
            {
                // Sizes above 99999 are hexadecimal.
                let size = size.strip_prefix("0x").map_or_else(|| size.parse().ok(), |size| hex(size).ok());
                let (value, size) = (hex(value)?, size.unwrap_or(0));
                let name = name.split('@').next().unwrap_or_default().to_owned();
                module.symbols.entry(value).or_default().push((value + size, name));
            }
        }
        for line in output("objdump", &["-d", "-j", ".plt", "-j", ".plt.got", "-j", ".plt.sec", path])?.lines() {
            if let Some((address, name)) = line.strip_suffix("@plt>:").and_then(|line| line.split_once(" <")) {
                module.stubs.insert(hex(address)?, plain(name));
            }
        }
        for line in output("readelf", &["-rW", path])?.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [slot, _, "R_X86_64_GLOB_DAT" | "R_X86_64_JUMP_SLOT", _, name, ..] = words[..] {
                module.slots.insert(hex(slot)?, plain(name));
            }
        }
        Ok(Some(module))
    }

    fn address(&self, offset: u64) -> Option<u64> {
        self.loads
            .iter()
            .find(|(start, size, _)| (*start..start + size).contains(&offset))
            .map(|(start, _, address)| address + (offset - start))
    }

    /// Names of the symbols that hold the place. A return address belongs to the call before it; whether the frame
    /// below is a signal's, and the address exact, is not known here: then both count.
    fn covering(&self, offset: u64, returned: bool) -> Vec<String> {
        let Some(address) = self.address(offset) else {
            return Vec::new();
        };
        let at = |place: u64| {
            self.symbols
                .range(..=place)
                .rev()
                .take(64)
                .flat_map(|(_, symbols)| symbols)
                .filter(move |(end, _)| place < *end)
                .map(|(_, name)| name.clone())
        };
        if returned { at(address - 1).chain(at(address)).collect() } else { at(address).collect() }
    }

    /// What the call before this return address calls by name; what a module's own resolver chooses has the resolver's.
    fn called(&self, offset: u64) -> Option<&str> {
        let name = self.linked(offset)?;
        let Some(resolver) = name.strip_prefix("*ABS*+") else {
            return Some(name);
        };
        Some(&self.symbols.get(&hex(resolver).ok()?)?.first()?.1)
    }

    fn linked(&self, offset: u64) -> Option<&str> {
        let address = self.address(offset)?;
        let at = usize::try_from(offset).ok()?;
        let relative = i32::from_le_bytes(self.bytes.get(at.checked_sub(4)?..at)?.try_into().ok()?);
        let target = address.wrapping_add_signed(i64::from(relative));
        // `call *slot(%rip)`, `call stub`.
        if self.bytes.get(at.checked_sub(6)?..at - 4)? == [0xff, 0x15] {
            return self.slots.get(&target).map(String::as_str);
        }
        (self.bytes[at - 5] == 0xe8).then(|| self.stubs.get(&target).map(String::as_str))?
    }
}

fn plain(name: &str) -> String {
    name.split('@').next().unwrap_or_default().to_owned()
}

fn hex(text: &str) -> Result<u64> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).with_context(|| format!("no hexadecimal number: {text}"))
}

fn output(name: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program(&[name], "binutils")?).args(arguments).output()?;
    ensure!(!output.stdout.is_empty() || output.status.success(), "{name} {arguments:?} says nothing");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The module exports one of these functions: the first, in this order.
///
/// # Errors
/// binutils are missing: skipped.
pub fn exported<'a>(path: &str, wanted: &[&'a str]) -> Result<Vec<&'a str>> {
    let table = output("nm", &["-D", "--defined-only", path])?;
    let names: std::collections::HashSet<&str> =
        table.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    Ok(wanted.iter().copied().filter(|name| names.contains(name)).collect())
}
