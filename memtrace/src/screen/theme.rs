//! How things look, with colours and without: where there are none, weight, reverse and the characters tell apart.

pub(super) use crate::views::columns::{columns, cut, left, right, wrap};
pub(super) use crate::views::part::Part;
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
        let style = match part.color() {
            Some(color) => self.fg(Color::Indexed(color)),
            None => self.faint(),
        };
        (style, part.glyph())
    }
}

/// The classes of RES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Anon,
    File,
    Shmem,
}
