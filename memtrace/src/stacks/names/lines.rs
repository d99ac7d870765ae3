//! Inlined functions and source lines, from DWARF, by blazesym.

use super::question::Named;
use super::text;
use crate::event::Symbol;
use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolizer};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// Most functions of one place.
const MAX_INLINED: usize = 64;
/// How often the reader may panic in one file before it is asked no more.
const MAX_PANICS: u32 = 8;
/// Where blazesym may look for what a trusted debug file refers to.
const DEBUG_FOLDERS: [&str; 1] = ["/usr/lib/debug"];

/// The debugging information of one file.
pub(super) struct Lines {
    symbolizer: Symbolizer,
    source: Source<'static>,
    panics: u32,
    /// Places at which the information could not be read, since the last answer.
    pub unreadable: u32,
}

impl Lines {
    /// `follow`: what the file refers to may be opened.
    pub(super) fn new(path: PathBuf, follow: bool) -> Self {
        let folders: &[&str] = if follow { &DEBUG_FOLDERS } else { &[] };
        let symbolizer = Symbolizer::builder()
            .enable_auto_reload(false)
            .enable_code_info(true)
            .enable_inlined_fns(true)
            .enable_demangling(false)
            .set_debug_dirs(Some(folders))
            .build();
        Self { symbolizer, source: Source::Elf(Elf::new(path)), panics: 0, unreadable: 0 }
    }

    /// The functions at `address`, innermost first.
    pub(super) fn name(&mut self, address: u64) -> Option<Named> {
        if self.panics >= MAX_PANICS {
            return None;
        }
        let ask = || self.symbolizer.symbolize_single(&self.source, Input::VirtOffset(address));
        match catch_unwind(AssertUnwindSafe(|| ask().map(|found| found.as_sym().map(named)))) {
            Ok(Ok(named)) => return named,
            Ok(Err(_)) => {}
            Err(_) => self.panics += 1,
        }
        self.unreadable += 1;
        None
    }
}

fn named(found: &Sym<'_>) -> Named {
    let symbol = |name: &str, place: Option<&CodeInfo<'_>>| Symbol {
        name: text::shown(name.as_bytes()),
        file: place.map(|place| text::capped(place.to_path().as_os_str().as_encoded_bytes())).unwrap_or_default(),
        line: place.and_then(|place| place.line).unwrap_or_default(),
    };
    let named = found.inlined.iter().rev().filter(|function| !function.name.is_empty());
    let inlined = named.take(MAX_INLINED - 1);
    let mut symbols: Vec<Symbol> =
        inlined.map(|function| symbol(&function.name, function.code_info.as_ref())).collect();
    symbols.push(symbol(&found.name, found.code_info.as_deref()));
    Named { symbols, offset: found.offset as u64 }
}
