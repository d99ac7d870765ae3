//! From a symbol's name as the file has it to the name that is shown.

use std::fmt::{self, Write};

/// Longest name, bytes.
pub(super) const MAX_NAME: usize = 512;
/// Longest name that is demangled: longer ones are cut as they are.
const MAX_MANGLED: usize = 16 << 10;
/// What GCC and LLVM append to the name of a function of which they made a variant or a part.
const VARIANTS: [&[u8]; 6] = [b".cold", b".part.", b".isra.", b".constprop.", b".lto_priv.", b".llvm."];

/// A string that ends at [`MAX_NAME`] bytes, whatever is written to it.
#[derive(Default)]
struct Capped {
    text: String,
    full: bool,
}

impl Write for Capped {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = text.floor_char_boundary(MAX_NAME - self.text.len());
        self.text.push_str(&text[..fits]);
        self.full |= fits < text.len();
        if self.full { Err(fmt::Error) } else { Ok(()) }
    }
}

/// The name that is shown: without symbol version, without the suffixes of compiler-made variants, demangled where it
/// is Rust or C++, capped.
pub(in crate::stacks) fn shown(name: &[u8]) -> Vec<u8> {
    let name = base(name);
    let text = match std::str::from_utf8(name) {
        Ok(text) if text.len() <= MAX_MANGLED => text,
        _ => return capped(name),
    };
    let mut shown = Capped::default();
    let written = if let Ok(rust) = rustc_demangle::try_demangle(text) {
        write!(shown, "{rust:#}").is_ok()
    } else if text.starts_with("_Z")
        && let Ok(cpp) = cpp_demangle::Symbol::new(text)
    {
        cpp.structured_demangle(&mut shown, &cpp_demangle::DemangleOptions::default()).is_ok()
    } else {
        false
    };
    if written || shown.full { shown.text.into_bytes() } else { capped(name) }
}

/// The first [`MAX_NAME`] bytes, ending at a character's end.
pub(super) fn capped(name: &[u8]) -> Vec<u8> {
    let mut end = name.len().min(MAX_NAME);
    // Inside a character: back to its first byte. Text that is no UTF-8 may lose three bytes more.
    while end < name.len() && end > MAX_NAME - 4 && name[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    name[..end].to_vec()
}

/// The name without `@VERSION` and without the suffixes of variants.
fn base(name: &[u8]) -> &[u8] {
    let cut = |name: &[u8], at: Option<usize>| at.filter(|&at| at > 0).unwrap_or(name.len());
    let name = &name[..cut(name, memchr::memchr(b'@', name))];
    let first = VARIANTS.iter().filter_map(|variant| memchr::memmem::find(name, variant)).min();
    &name[..cut(name, first)]
}

/// Orders the names of one address, the best first: what a programmer wrote before what a library calls it inside.
pub(super) fn rank(name: &[u8], local: bool) -> impl Ord {
    let mangled = name.starts_with(b"_Z") || name.starts_with(b"_R");
    let inner = name.starts_with(b"_") && !mangled;
    (name.starts_with(b"__GI_"), inner, local, name.contains(&b'@'), name.len(), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_demangled_and_stripped() {
        for (name, wanted) in [
            ("main", "main"),
            ("memcpy@@GLIBC_2.14", "memcpy"),
            ("@nothing", "@nothing"),
            ("ExecHashJoin.part.0.cold", "ExecHashJoin"),
            ("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", "core::fmt::Write::write_fmt"),
            (
                "_ZNSt6vectorIiSaIiEE9push_backERKi.isra.0",
                "std::vector<int, std::allocator<int> >::push_back(int const&)",
            ),
            ("_RNvC6_123foo3bar", "123foo::bar"),
            ("_Z", "_Z"),
        ] {
            assert_eq!(String::from_utf8(shown(name.as_bytes())).unwrap(), wanted, "{name}");
        }
    }

    #[test]
    fn a_name_is_cut_at_the_cap_and_not_in_a_character() {
        assert_eq!(shown(&vec![b'x'; 10 << 20]).len(), MAX_NAME);
        assert_eq!(shown(&[b'x'; MAX_NAME]).len(), MAX_NAME);
        let wide = "é".repeat(300);
        assert_eq!(capped(&[b"x", wide.as_bytes()].concat()).len(), MAX_NAME - 1);
        assert_eq!(capped(&[0xff; 600]).len(), MAX_NAME);
        assert_eq!(capped(&[0x80; 600]).len(), MAX_NAME - 4);
        // Each substitution doubles what the name stands for.
        let bomb = format!("_Z1fI{}", "St4pairIS_S_E".repeat(900));
        assert!(shown(bomb.as_bytes()).len() <= MAX_NAME);
    }

    #[test]
    fn the_programmers_name_comes_first() {
        let best = |names: &[(&'static str, bool)]| {
            let best = names.iter().min_by(|a, b| rank(a.0.as_bytes(), a.1).cmp(&rank(b.0.as_bytes(), b.1)));
            best.map(|name| name.0)
        };
        assert_eq!(best(&[("__libc_malloc", false), ("malloc", false), ("__GI___libc_malloc", true)]), Some("malloc"));
        assert_eq!(best(&[("__write", false), ("write", false), ("__GI___write", true)]), Some("write"));
        assert_eq!(best(&[("helper", true), ("_ZN1aC2Ev", false)]), Some("_ZN1aC2Ev"));
    }
}
