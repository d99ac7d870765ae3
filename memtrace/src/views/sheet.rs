//! The page that text is written on: indentation, wrapping, colour. Knows nothing about memory.

/// How a piece of text looks when colour is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::views) enum Look {
    Plain,
    Strong,
    Faint,
    Growth,
    Shrink,
    Alarm,
}

impl Look {
    /// The look of a signed amount.
    pub(in crate::views) const fn of(amount: i64) -> Self {
        match amount {
            0 => Self::Plain,
            1.. => Self::Growth,
            _ => Self::Shrink,
        }
    }

    const fn sgr(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Strong => "\x1b[1m",
            Self::Faint => "\x1b[2m",
            Self::Growth => "\x1b[33m",
            Self::Shrink => "\x1b[32m",
            Self::Alarm => "\x1b[1;31m",
        }
    }
}

/// Lines on their way out.
#[derive(Debug)]
pub(in crate::views) struct Sheet {
    pub(in crate::views) text: String,
    color: bool,
    width: usize,
    /// Columns of lines that are not wrapped.
    lines: usize,
}

impl Sheet {
    pub(in crate::views) const fn new(color: bool, width: usize) -> Self {
        Self { text: String::new(), color, width, lines: width }
    }

    /// Lines that are not wrapped may take so many columns, whatever text is wrapped at.
    pub(in crate::views) const fn with_lines(mut self, columns: usize) -> Self {
        self.lines = columns;
        self
    }

    /// Columns of lines that are not wrapped.
    pub(in crate::views) const fn lines(&self) -> usize {
        self.lines
    }

    fn put(&mut self, look: Look, text: &str) {
        if self.color && look != Look::Plain && !text.is_empty() {
            self.text.push_str(look.sgr());
            self.text.push_str(text);
            self.text.push_str("\x1b[0m");
        } else {
            self.text.push_str(text);
        }
    }

    /// A line as it is, never wrapped.
    pub(in crate::views) fn line(&mut self, pieces: &[(Look, &str)]) {
        for &(look, text) in pieces {
            self.put(look, text);
        }
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
    }

    /// `label`, then `body` wrapped at the page's width with every further line indented to `indent`.
    pub(in crate::views) fn wrapped(&mut self, label: (Look, &str), indent: usize, body: (Look, &str)) {
        let label_width = label.1.chars().count();
        let room = self.width.saturating_sub(indent).max(30);
        let first = self.width.saturating_sub(label_width).max(30);
        self.put(label.0, label.1);
        for (i, line) in wrap(body.1, first, room).iter().enumerate() {
            if i > 0 {
                self.text.push_str(&" ".repeat(indent));
            }
            self.put(body.0, line);
            self.text.push('\n');
        }
    }

    /// `── title ─────`
    pub(in crate::views) fn rule(&mut self, title: &str) {
        let mut line = format!("── {title} ");
        let missing = self.width.min(100).saturating_sub(line.chars().count());
        line.push_str(&"─".repeat(missing));
        self.line(&[(Look::Strong, &line)]);
    }
}

/// Breaks at spaces, but never between a number and its unit.
fn wrap(text: &str, first: usize, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut width = 0;
    for atom in atoms(text) {
        let atom_width = atom.chars().count();
        let limit = if lines.is_empty() { first } else { room };
        if width > 0 && width + 1 + atom_width > limit {
            lines.push(std::mem::take(&mut line));
            width = 0;
        }
        if width > 0 {
            line.push(' ');
            width += 1;
        }
        line.push_str(atom);
        width += atom_width;
    }
    lines.push(line);
    lines
}

/// Words, with a unit kept on its number and a separator dot on the word before it.
fn atoms(text: &str) -> Vec<&str> {
    const UNITS: [&str; 12] = ["B", "KiB", "MiB", "GiB", "TiB", "ns", "µs", "ms", "s", "min", "h", "%"];
    let mut atoms: Vec<&str> = Vec::new();
    let mut start = 0;
    let mut end = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let at = word.as_ptr() as usize - text.as_ptr() as usize;
        let glued = end > start
            && (word == "·"
                || (text[start..end].ends_with(|c: char| c.is_ascii_digit())
                    && UNITS.contains(&word.trim_end_matches([',', '.', ')', ':', ';']))));
        if !glued {
            if end > start {
                atoms.push(&text[start..end]);
            }
            start = at;
        }
        end = at + word.len();
    }
    if end > start {
        atoms.push(&text[start..end]);
    }
    atoms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_units() {
        assert_eq!(
            atoms("a  mapping of 96.0 MiB, 3 ms old · here"),
            ["a", "mapping", "of", "96.0 MiB,", "3 ms", "old ·", "here"]
        );
        assert_eq!(wrap("one two three", 7, 5), ["one two", "three"]);
        assert_eq!(wrap("unbreakable", 3, 3), ["unbreakable"]);
        assert_eq!(wrap("", 3, 3), [""]);
    }

    #[test]
    fn colour_is_closed_on_every_line() {
        let mut sheet = Sheet::new(true, 20);
        sheet.wrapped((Look::Growth, "+1 "), 3, (Look::Faint, "some words that do not fit on one line of this page"));
        assert!(sheet.text.lines().all(|line| line.ends_with("\x1b[0m")));
        let mut plain = Sheet::new(false, 20);
        plain.rule("x");
        assert!(!plain.text.contains('\x1b'));
    }
}
