//! Text cut to columns, which is not the same as characters.

use unicode_width::UnicodeWidthChar as _;

/// Columns that a text takes.
pub(crate) fn columns(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// The text in at most so many columns; what is cut ends with `…`.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut out = head(text, width.saturating_sub(1));
    if width > 0 {
        out.push('…');
    }
    out
}

/// The text in at most so many columns; what is cut is its middle: names often differ at their ends only.
pub(crate) fn cut_middle(text: &str, width: usize) -> String {
    if columns(text) <= width || width < 3 {
        return cut(text, width);
    }
    let after = (width - 1) / 2;
    let end: String = text.chars().rev().collect();
    let end: String = head(&end, after).chars().rev().collect();
    format!("{}…{end}", head(text, width - 1 - after))
}

/// As much of the text as so many columns hold.
fn head(text: &str, width: usize) -> String {
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= width
    };
    text.chars().take_while(fits).collect()
}

/// The text in exactly so many columns, at the left.
pub(crate) fn left(text: &str, width: usize) -> String {
    let mut out = cut(text, width);
    let used = columns(&out);
    out.extend(std::iter::repeat_n(' ', width.saturating_sub(used)));
    out
}

/// The text in exactly so many columns, at the right.
pub(crate) fn right(text: &str, width: usize) -> String {
    let text = cut(text, width);
    format!("{}{text}", " ".repeat(width.saturating_sub(columns(&text))))
}

/// Words in lines of at most so many columns; a word that is longer is cut.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split(' ').filter(|word| !word.is_empty()) {
            let word = cut(word, width);
            if !line.is_empty() && columns(&line) + 1 + columns(&word) > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_by_columns_not_by_characters() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 5), "abcd…");
        assert_eq!(cut("大小大", 5), "大小…");
        assert_eq!(cut("大小大", 4), "大…");
        assert_eq!((cut("ab", 0).as_str(), cut("ab", 1).as_str()), ("", "…"));
        assert_eq!((left("大", 4).as_str(), right("大", 4).as_str()), ("大  ", "  大"));
    }

    #[test]
    fn the_middle_is_cut() {
        assert_eq!(cut_middle("abcdefgh", 8), "abcdefgh");
        assert_eq!(cut_middle("abcdefgh", 6), "abc…gh");
        assert_eq!(cut_middle("abcdefgh", 5), "ab…gh");
        assert_eq!(cut_middle("大小大小大", 6), "大…大");
        assert_eq!(cut_middle("abcdefgh", 1), "…");
    }

    #[test]
    fn words_wrap() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a\n\nlonger", 4), ["a", "", "lon…"]);
    }
}
