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
    /// How often the reader panicked.
    pub panics: u32,
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
        Self { symbolizer, source: Source::Elf(Elf::new(path)), panics: 0 }
    }

    /// The functions at `address`, innermost first.
    pub(super) fn name(&mut self, address: u64) -> Option<Named> {
        if self.panics >= MAX_PANICS {
            return None;
        }
        let ask = || self.symbolizer.symbolize_single(&self.source, Input::VirtOffset(address));
        match catch_unwind(AssertUnwindSafe(|| ask().ok().and_then(|found| found.as_sym().map(named)))) {
            Ok(named) => named,
            Err(_) => {
                self.panics += 1;
                None
            }
        }
    }
}

fn named(found: &Sym<'_>) -> Named {
    let symbol = |name: &str, place: Option<&CodeInfo<'_>>| Symbol {
        name: text::shown(name.as_bytes()),
        file: place.map(|place| text::capped(place.to_path().as_os_str().as_encoded_bytes())).unwrap_or_default(),
        line: place.and_then(|place| place.line).unwrap_or_default(),
    };
    let inlined = found.inlined.iter().rev().take(MAX_INLINED - 1);
    let mut symbols: Vec<Symbol> =
        inlined.map(|function| symbol(&function.name, function.code_info.as_ref())).collect();
    symbols.push(symbol(&found.name, found.code_info.as_deref()));
    Named { symbols, offset: found.offset as u64 }
}
