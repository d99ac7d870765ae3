//! Tables that keep to the terminal's width: the first column takes what room there is, figures stand at the right, and
//! the least important columns go first. Below stands which ones did, and where they are to be seen.

use super::labels::Label;
use crate::views::columns::{columns, left, right};
use crate::views::human::{or_unknown, short};
use crate::views::sheet::{Look, Sheet};

/// Fewest and most columns for the names of rows; without a limit they are whole.
const LABEL: std::ops::RangeInclusive<usize> = 20..=64;
/// Names are not longer: the kernel's limit of paths.
const WHOLE: usize = 4096;
const GAP: usize = 2;

/// Figures of all rows.
pub(super) struct Column {
    head: String,
    cells: Vec<String>,
    /// Goes before those with more when there is no room.
    weight: u8,
    /// Nothing is lost with it.
    empty: bool,
    /// In no row is it known that there is anything.
    unknown: bool,
    /// What its head means, where that is no common word; empty for none.
    meaning: &'static str,
}

impl Column {
    /// Bytes.
    pub(super) fn bytes(head: impl Into<String>, weight: u8, cells: impl IntoIterator<Item = Option<u64>>) -> Self {
        let cells: Vec<Option<u64>> = cells.into_iter().collect();
        let empty = cells.iter().all(|&cell| cell == Some(0));
        // Where there is nothing, all of it is known.
        let unknown = cells.contains(&None) && cells.iter().all(|cell| cell.is_none_or(|bytes| bytes == 0));
        Self {
            head: head.into(),
            cells: cells.into_iter().map(|cell| or_unknown(cell, short)).collect(),
            weight,
            empty,
            unknown,
            meaning: "",
        }
    }

    /// Words or other figures.
    pub(super) fn text(head: impl Into<String>, weight: u8, cells: impl IntoIterator<Item = String>) -> Self {
        Self {
            head: head.into(),
            cells: cells.into_iter().collect(),
            weight,
            empty: false,
            unknown: false,
            meaning: "",
        }
    }

    /// Left out when no cell has anything, or none is known: what is rarely of interest.
    pub(super) const fn if_any(mut self) -> Self {
        if self.empty || self.unknown {
            self.weight = 0;
        }
        self
    }

    /// The one of this head goes last: rows are sorted by it.
    pub(super) fn kept_if(mut self, head: &str) -> Self {
        if self.weight > 0 && self.head == head {
            self.weight = u8::MAX;
        }
        self
    }

    /// Below the table stands what its head means.
    pub(super) const fn meaning(mut self, meaning: &'static str) -> Self {
        self.meaning = meaning;
        self
    }

    /// Its last cells would add what cannot be added.
    pub(super) fn without_sums(mut self, sums: usize) -> Self {
        self.cells.iter_mut().rev().take(sums).for_each(String::clear);
        self
    }

    fn width(&self) -> usize {
        self.cells.iter().map(|cell| columns(cell)).chain([columns(&self.head)]).max().unwrap_or(0)
    }
}

/// A table, printed at once.
pub(super) struct Table<'a> {
    /// Over the names of rows.
    pub(super) head: &'static str,
    /// Fixed text before each name, all of one width: addresses.
    pub(super) leads: Vec<String>,
    /// Names of rows.
    pub(super) labels: Vec<Label<'a>>,
    /// How many of the last rows are sums.
    pub(super) sums: usize,
    /// From left to right.
    pub(super) columns: Vec<Column>,
}

impl Table<'_> {
    /// Prints it, indented.
    pub(super) fn print(mut self, sheet: &mut Sheet, indent: usize) {
        self.columns.retain(|column| column.weight > 0);
        let unknown: Vec<&str> =
            self.columns.iter().filter(|column| column.unknown).map(|column| column.head.as_str()).collect();
        let unknown = unknown.join(", ");
        self.columns.retain(|column| !column.unknown);
        let lead = self.leads.iter().map(|lead| columns(lead)).max().unwrap_or(0);
        let most = if sheet.lines() == usize::MAX { WHOLE } else { *LABEL.end() };
        let names = self.labels.iter().map(|label| columns(&label.fit(most)));
        let wanted = names.chain([columns(self.head).saturating_sub(lead)]).max().unwrap_or(0);
        let width = sheet.lines().saturating_sub(indent);
        let taken = |shown: &[Column]| shown.iter().map(|column| column.width() + GAP).sum::<usize>();
        let least_name = lead + wanted.clamp(1, *LABEL.start());
        let all = indent + least_name + taken(&self.columns);
        let mut left_out: Vec<String> = self.columns.iter().map(|column| column.head.clone()).collect();
        let room = loop {
            let room = width.saturating_sub(taken(&self.columns));
            // The first columns are never in the way of a name that fits its least width.
            if room >= least_name || self.columns.len() <= 1 {
                break room;
            }
            let Some(least) = self.columns.iter().enumerate().min_by_key(|(_, column)| column.weight) else {
                break room;
            };
            self.columns.remove(least.0);
        };
        left_out.retain(|head| self.columns.iter().all(|column| column.head != *head));
        let name = room.saturating_sub(lead).clamp(1, wanted.max(1));
        let first = lead + name;
        let margin = " ".repeat(indent);
        let heads: String = self.columns.iter().map(|column| cell(&column.head, column)).collect();
        sheet.line(&[(Look::Faint, &format!("{margin}{}{heads}", left(self.head, first)))]);
        let figures = self.labels.len().saturating_sub(self.sums);
        for (row, label) in self.labels.iter().enumerate() {
            let text = format!("{}{}", self.leads.get(row).map_or("", String::as_str), label.fit(name));
            // Sums have no address of their own: their names begin where the addresses do.
            let text = if row < figures { text } else { label.fit(lead + name) };
            let cells: String = self
                .columns
                .iter()
                .map(|column| cell(column.cells.get(row).map_or("", String::as_str), column))
                .collect();
            let look = if row < figures { Look::Plain } else { Look::Strong };
            sheet.line(&[(look, &format!("{margin}{}{cells}", left(&text, first)))]);
        }
        if !unknown.is_empty() {
            // Said once, not in every row.
            sheet.wrapped((Look::Plain, &margin), indent, (Look::Faint, &format!("{unknown}: unknown")));
        }
        if !left_out.is_empty() {
            let heads = left_out.join(", ");
            let text =
                format!("left out for want of room: {heads}; {all} columns show all, and so does a pipe (| less -S)");
            sheet.wrapped((Look::Plain, &margin), indent, (Look::Faint, &text));
        }
        let meanings = self.columns.iter().filter(|column| !column.meaning.is_empty());
        let meanings: Vec<String> = meanings.map(|column| format!("{}: {}", column.head, column.meaning)).collect();
        if !meanings.is_empty() {
            sheet.wrapped((Look::Plain, &margin), indent, (Look::Faint, &meanings.join(" · ")));
        }
    }
}

fn cell(text: &str, column: &Column) -> String {
    format!("{}{}", " ".repeat(GAP), right(text, column.width()))
}
