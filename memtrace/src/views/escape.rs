//! Names that the target chose are printed so that they can neither drive the terminal nor hide anything:
//! what is not plain text becomes a visible escape, nothing is dropped silently.

use std::fmt::Write as _;

/// Escapes any bytes for a terminal, at most `cap` characters long (then `…`).
///
/// Control characters and invalid UTF-8 become `\xNN`, characters that reorder or hide text `\u{NNNN}`,
/// a backslash is doubled. The rest is as it was.
#[must_use]
pub fn escape(bytes: &[u8], cap: usize) -> String {
    let mut out = String::with_capacity(bytes.len().min(cap));
    let mut length = 0;
    let mut piece = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            piece.clear();
            escape_char(&mut piece, character);
            if !push(&mut out, &mut length, &piece, cap) {
                return out;
            }
        }
        for byte in chunk.invalid() {
            piece.clear();
            let _ = write!(piece, "\\x{byte:02x}");
            if !push(&mut out, &mut length, &piece, cap) {
                return out;
            }
        }
    }
    out
}

/// A word of a line that somebody may paste into a shell: quoted where it needs that. `None` for what a shell or a terminal
/// would make something else of: what is longer than `cap` characters, no text, or would have to be escaped; what begins with
/// a dash, and would be an option.
#[must_use]
pub fn shell_word(bytes: &[u8], cap: usize) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    if text.is_empty() || text.starts_with('-') || text.chars().count() > cap {
        return None;
    }
    if text.chars().any(|c| c.is_control() || deceives(c)) {
        return None;
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@=".contains(c);
    if text.chars().all(is_plain) {
        return Some(text.to_owned());
    }
    Some(format!("'{}'", text.replace('\'', r"'\''")))
}

fn push(out: &mut String, length: &mut usize, piece: &str, cap: usize) -> bool {
    let added = piece.chars().count();
    if *length + added > cap {
        out.push('…');
        return false;
    }
    *length += added;
    out.push_str(piece);
    true
}

fn escape_char(out: &mut String, character: char) {
    match character {
        '\\' => out.push_str("\\\\"),
        c if c.is_control() => {
            let _ = write!(out, "\\x{:02x}", u32::from(c));
        }
        c if deceives(c) => {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        }
        c => out.push(c),
    }
}

/// Characters that reorder, hide or break text: bidirectional controls, zero-width ones, line and
/// paragraph separators, tags, interlinear annotations, soft hyphen.
pub(crate) const fn deceives(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The last component of a path.
pub(crate) fn basename(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) if slash + 1 < path.len() => &path[slash + 1..],
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_could_drive_a_terminal_is_visible() {
        assert_eq!(escape(b"a\x1b[31mb\n\x07\x9b", 80), "a\\x1b[31mb\\x0a\\x07\\x9b");
        assert_eq!(escape("x\u{9b}y\u{202e}z\u{200b}".as_bytes(), 80), "x\\x9by\\u{202e}z\\u{200b}");
        assert_eq!(escape(b"C:\\x1b", 80), "C:\\\\x1b");
        assert_eq!(escape("größe 大".as_bytes(), 80), "größe 大");
    }

    #[test]
    fn the_cap_never_cuts_an_escape_in_two() {
        assert_eq!(escape(b"abcdef", 6), "abcdef");
        assert_eq!(escape(b"abcdefg", 6), "abcdef…");
        assert_eq!(escape(b"abcde\x1b", 6), "abcde…");
    }

    #[test]
    fn what_a_shell_would_take_apart_is_quoted_or_left_out() {
        let word = |text: &str| shell_word(text.as_bytes(), 40);
        assert_eq!(word("/sys/fs/cgroup/db.slice/user@7.service").unwrap(), "/sys/fs/cgroup/db.slice/user@7.service");
        assert_eq!(word("/a;curl x|sh").unwrap(), "'/a;curl x|sh'");
        assert_eq!(word("/it's $(id)").unwrap(), r"'/it'\''s $(id)'");
        assert_eq!(word(r"/system-my\x2dunit.slice").unwrap(), r"'/system-my\x2dunit.slice'");
        assert_eq!(word("~root").unwrap(), "'~root'");
        for bad in ["", "-rf", "/a\nb", "/a\u{1b}[2J", "/a\u{202e}b", &"/a".repeat(21)] {
            assert_eq!(word(bad), None, "{bad:?}");
        }
        assert_eq!(shell_word(b"/a\xff", 40), None);
    }

    #[test]
    fn basenames() {
        assert_eq!(basename(b"/usr/bin/postgres"), b"postgres");
        assert_eq!(basename(b"[heap]"), b"[heap]");
        assert_eq!(basename(b"/dev/"), b"/dev/");
        assert_eq!(basename(b""), b"");
    }

    /// What a shell makes of a word of which it knows only single quotes and the backslash outside of them.
    fn unquoted(word: &str) -> Option<String> {
        let (mut out, mut quoted) = (String::new(), false);
        let mut letters = word.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '\'' => quoted = !quoted,
                _ if quoted => out.push(letter),
                '\\' => out.push(letters.next()?),
                c if c.is_ascii_alphanumeric() || "/._-+,:@=".contains(c) => out.push(c),
                _ => return None,
            }
        }
        (!quoted).then_some(out)
    }

    proptest! {
        #[test]
        fn a_shell_word_is_one_word_with_the_same_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            if let Some(word) = shell_word(&bytes, 80) {
                prop_assert_eq!(unquoted(&word).map(String::into_bytes), Some(bytes));
            }
        }

        #[test]
        fn any_bytes_come_out_plain_and_capped(bytes in proptest::collection::vec(any::<u8>(), 0..64), cap in 0_usize..80) {
            let text = escape(&bytes, cap);
            prop_assert!(text.chars().count() <= cap + 1);
            prop_assert!(!text.chars().any(|c| c.is_control() || deceives(c)));
        }

        #[test]
        fn different_bytes_never_look_the_same(a in proptest::collection::vec(any::<u8>(), 0..6), b in proptest::collection::vec(any::<u8>(), 0..6)) {
            // U+0080..U+009F and the raw bytes 80..9f share an escape; everything else is told apart.
            let c1 = |v: &[u8]| String::from_utf8_lossy(v).chars().any(|c| ('\u{80}'..='\u{9f}').contains(&c));
            prop_assume!(!c1(&a) && !c1(&b));
            prop_assert_eq!(a == b, escape(&a, 1000) == escape(&b, 1000));
        }
    }
}
