//! How things look, with colours and without: where there are none, weight, reverse and the characters tell apart.

pub(super) use crate::views::columns::{columns, cut, left, right};
use ratatui::style::{Color, Modifier, Style};

/// The looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    pub(super) color: bool,
}

impl Theme {
    const fn fg(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    pub(super) const fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) const fn faint(self) -> Style {
        self.fg(Color::DarkGray)
    }

    /// RES went up or down.
    pub(super) const fn change(self, amount: i64) -> Style {
        match amount {
            0 => self.faint(),
            1.. => self.fg(Color::Red).add_modifier(Modifier::BOLD),
            _ => self.fg(Color::Green).add_modifier(Modifier::BOLD),
        }
    }

    pub(super) const fn alarm(self) -> Style {
        let style = if self.color { Style::new().fg(Color::Black).bg(Color::Yellow) } else { Style::new() };
        style.add_modifier(if self.color { Modifier::BOLD } else { Modifier::REVERSED })
    }

    pub(super) const fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub(super) const fn border(self, focused: bool) -> Style {
        if focused { self.fg(Color::Cyan).add_modifier(Modifier::BOLD) } else { self.faint() }
    }

    pub(super) const fn key(self) -> Style {
        self.fg(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    pub(super) const fn mark(self) -> Style {
        self.fg(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    /// Colour and character of a class of RES.
    pub(super) const fn class(self, class: Class) -> (Style, char) {
        let (color, character) = match class {
            Class::Anon => (Color::Red, '█'),
            Class::File => (Color::Blue, '▒'),
            Class::Shmem => (Color::Magenta, '░'),
        };
        (self.fg(color), if self.color { '█' } else { character })
    }

    /// Colour and character of a part of a mapping.
    pub(super) const fn part(self, part: Part) -> (Style, char) {
        match part {
            Part::Private => (self.fg(Color::Red), '█'),
            Part::Shared => (self.fg(Color::Blue), '▒'),
            Part::Swapped => (self.fg(Color::Yellow), 's'),
            Part::Untouched => (self.faint(), '·'),
            Part::Unknown => (self.faint(), '?'),
        }
    }
}

/// The classes of RES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Anon,
    File,
    Shmem,
}

/// What a page of a mapping may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// In memory, and nobody else maps it.
    Private,
    /// In memory, mapped by others, too.
    Shared,
    /// In swap.
    Swapped,
    /// Not in memory.
    Untouched,
    /// smaps was not read.
    Unknown,
}

/// Words in lines of at most so many columns; a word that is longer is cut.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
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
    fn words_wrap() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a\n\nlonger", 4), ["a", "", "lon…"]);
    }
}
