//! The address space as a picture: each cell is a slice of a mapping, by address.
//!
//! smaps says how much of a mapping is in memory, not where in it, so a mapping's cells are filled in order: private,
//! shared, swapped, untouched. All cells stand for the same amount, but a long untouched rest is cut short, or one
//! reserve of a terabyte would be all that is seen.

use super::mappings::{self, Makeup, Order, Row};
use super::{Page, line};
use crate::screen::app::App;
use crate::screen::scope::View;
use crate::screen::theme::{Part, Theme, cut};
use crate::screen::words;
use crate::views::Scale;
use crate::views::human::size;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

/// Least rows that the picture has, if need be by scrolling: the cells' size follows from them.
const ROWS: usize = 6;
/// Mappings that are drawn.
const MOST: usize = 60_000;
/// Untouched cells of one mapping before they are counted by doublings.
const UNTOUCHED: u64 = 8;

/// A cell: what it is and whose.
#[derive(Clone, Copy)]
struct Cell {
    part: Option<Part>,
    item: usize,
}

pub(super) fn page(app: &App, view: &View<'_>, width: usize, height: usize) -> Page {
    let theme = app.theme;
    let rows = mappings::rows(view, Order::Address);
    let makeups: Vec<Option<Makeup>> = rows.iter().take(MOST).map(|row| Makeup::of(&row.area, view.scale)).collect();
    let width = width.saturating_sub(2).max(1);
    let bytes = cell_bytes(&makeups, (width * height.saturating_sub(2).max(ROWS)) as u64);
    let cells = cells(&makeups, bytes);
    let mut line_of = vec![0; rows.len()];
    for (index, cell) in cells.iter().enumerate().rev() {
        if let Some(line) = line_of.get_mut(cell.item) {
            *line = index / width;
        }
    }
    let keys: Vec<u64> = rows.iter().take(MOST).map(|row| row.area.mapping.id).collect();
    let chosen = app.cursors[super::Pane::Space as usize].at.min(keys.len().saturating_sub(1));
    let focused = app.focus == super::Pane::Space;
    let lines: Vec<Line<'static>> = cells
        .chunks(width)
        .map(|cells| {
            let mut spans = vec![Span::raw(" ")];
            spans.extend(cells.iter().map(|cell| {
                let (mut style, character) = cell.part.map_or((Style::new(), ' '), |part| theme.part(part));
                if focused && cell.item == chosen && cell.part.is_some() {
                    style = style.add_modifier(Modifier::REVERSED);
                }
                Span::styled(character.to_string(), style)
            }));
            Line::from(spans)
        })
        .collect();
    let mut page = Page::text(format!("5 space · {} mappings · a cell is {}", rows.len(), size(bytes)), lines);
    let legend = legend(theme);
    page.head = vec![legend];
    page.line_of = Some(line_of);
    page.keys = keys;
    let about: Vec<String> = match rows.get(chosen).filter(|_| focused) {
        Some(row) => vec![describe(row, view.scale)],
        None => Vec::new(),
    };
    page.head.extend(about.into_iter().map(|text| line(vec![(cut(&text, width), theme.strong())])));
    page.empty = "no mapping is known yet".to_owned();
    if makeups.iter().all(Option::is_none) {
        page.rows = 0;
        page.empty = "smaps was not read yet: what is in memory is not known".to_owned();
    }
    page
}

fn legend(theme: Theme) -> Line<'static> {
    let mut pieces = Vec::new();
    for (part, name) in [
        (Part::Private, "yours alone"),
        (Part::Shared, "shared"),
        (Part::Swapped, "swapped"),
        (Part::Untouched, "untouched (shortened)"),
    ] {
        let (style, character) = theme.part(part);
        pieces.push((format!(" {character}"), style));
        pieces.push((format!(" {name} "), theme.faint()));
    }
    line(pieces)
}

fn describe(row: &Row, scale: Scale) -> String {
    let mapping = &row.area.mapping;
    let extent = size(mapping.end.saturating_sub(mapping.start));
    let inside = match Makeup::of(&row.area, scale) {
        Some(m) => format!("private {} shared {} swapped {}", size(m.private), size(m.shared), size(m.swapped)),
        None => "not read".to_owned(),
    };
    format!(" {} · {extent} at {:#x} · {inside}", words::mapping(mapping), mapping.start)
}

/// The smallest power of two from a page on with which everything fits.
fn cell_bytes(makeups: &[Option<Makeup>], room: u64) -> u64 {
    (12..=62).map(|shift| 1_u64 << shift).find(|&bytes| count(makeups, bytes) <= room).unwrap_or(1 << 62)
}

fn count(makeups: &[Option<Makeup>], bytes: u64) -> u64 {
    makeups.iter().flatten().map(|makeup| lengths(*makeup, bytes).iter().map(|(_, n)| n).sum::<u64>() + 1).sum()
}

/// Cells of each part. A mapping smaller than half a cell has one cell, of its largest part.
fn lengths(makeup: Makeup, bytes: u64) -> [(Part, u64); 4] {
    let mut lengths = makeup.parts().map(|(part, amount)| {
        let cells = amount / bytes + u64::from(amount % bytes >= bytes / 2);
        let shown = match part {
            Part::Untouched if cells > UNTOUCHED => UNTOUCHED + u64::from((cells / UNTOUCHED).ilog2()),
            _ => cells,
        };
        (part, shown)
    });
    if lengths.iter().all(|(_, n)| *n == 0) {
        let present = makeup.parts().into_iter().rev().filter(|(_, amount)| *amount > 0);
        let largest = present.max_by_key(|(_, amount)| *amount).map_or(Part::Untouched, |(part, _)| part);
        for (part, n) in &mut lengths {
            *n = u64::from(*part == largest);
        }
    }
    lengths
}

/// Mappings follow each other with a gap, small ones without.
fn cells(makeups: &[Option<Makeup>], bytes: u64) -> Vec<Cell> {
    let mut cells: Vec<Cell> = Vec::new();
    let mut small_before = true;
    for (item, makeup) in makeups.iter().enumerate() {
        let Some(makeup) = makeup else { continue };
        let lengths = lengths(*makeup, bytes);
        let small = lengths.iter().map(|(_, n)| n).sum::<u64>() <= 1;
        let together = small && small_before;
        if !together && !cells.is_empty() {
            cells.push(Cell { part: None, item });
        }
        small_before = small;
        for (part, n) in lengths {
            cells.extend((0..n).map(|_| Cell { part: Some(part), item }));
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn text(makeups: &[Option<Makeup>], bytes: u64) -> String {
        let theme = Theme { color: false };
        cells(makeups, bytes).iter().map(|cell| cell.part.map_or(' ', |part| theme.part(part).1)).collect()
    }

    #[test]
    fn cells_follow_the_amounts_and_small_mappings_stand_together() {
        let heap = Makeup { private: 3 * MIB, shared: MIB, swapped: 2 * MIB, untouched: MIB };
        let small = Makeup { private: 4096, shared: 0, swapped: 0, untouched: 0 };
        let library = Makeup { private: 4096, shared: 8192, ..small };
        let reserve = Makeup { untouched: 1 << 40, ..Makeup::default() };
        let all = [Some(small), Some(library), Some(heap), Some(reserve), None];
        assert_eq!(text(&all, MIB), "█▒ ███▒ss· ·························");
        assert_eq!(text(&[Some(Makeup::default())], MIB), "·");
    }

    #[test]
    fn everything_fits() {
        let many = vec![Some(Makeup { private: 64 * MIB, ..Makeup::default() }); 100];
        let bytes = cell_bytes(&many, 1000);
        assert!(count(&many, bytes) <= 1000 && count(&many, bytes / 2) > 1000);
        let absurd = vec![Some(Makeup { private: u64::MAX, shared: u64::MAX, swapped: 1, untouched: 0 }); 3];
        assert!(cells(&absurd, cell_bytes(&absurd, 100)).len() <= 100);
    }
}
