//! The rows of `--by`: which of them are shown, in which order, and what the others come to. Columns add up to the line
//! `total` whatever was left out.

use super::labels::{Filter, Label};
use super::seen::{self, Pages, Seen};
use super::table::{Column, Table};
use crate::cli::{By, ShowOptions, Sort};
use crate::snapshot::rows::{self, Group, Sums};
use crate::snapshot::{MappedFile, Mapping, Process};
use crate::views::escape::escape;
use crate::views::human::count;
use crate::views::sheet::{Look, Sheet};
use crate::views::words::permissions;
use std::cmp::Reverse;

const NOTHING_DIRTY: &str = "nothing of these is dirty";
const NOTHING_IN_SWAP: &str = "nothing of these is in swap";

/// What a row is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Of<'a> {
    Kind(Group<'a>),
    Mapping(&'a Mapping),
    Permissions(u8),
}

/// A row of sums.
pub(super) struct Row<'a> {
    pub(super) of: Of<'a>,
    pub(super) label: Label<'a>,
    pub(super) sums: Sums,
    pages: Option<Pages>,
}

impl Row<'_> {
    fn matches(&self, filter: &Filter) -> bool {
        match self.of {
            Of::Kind(group) => filter.matches(Some(group.kind), &self.label, group.name),
            Of::Mapping(mapping) => filter.matches_mapping(mapping),
            Of::Permissions(_) => filter.matches(None, &self.label, &[]),
        }
    }

    const fn address(&self) -> u64 {
        match self.of {
            Of::Mapping(mapping) => mapping.start,
            Of::Kind(_) | Of::Permissions(_) => 0,
        }
    }
}

/// Rows that are shown, and those that are not.
pub(super) struct Chosen<T> {
    pub(super) shown: Vec<T>,
    pub(super) rest: Vec<T>,
}

impl<T> Chosen<T> {
    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.shown.iter().chain(&self.rest)
    }
}

/// Sums by kind, mapping or permissions; `None` when not even the mappings are known.
pub(super) fn rows<'a>(seen: Seen<'a>, by: By, show: &ShowOptions) -> Option<Chosen<Row<'a>>> {
    let mappings = seen.process.mappings.as_deref()?;
    let mut rows: Vec<Row<'a>> = match by {
        By::Kind => {
            let pages = seen.by(Group::of);
            let row = |(group, sums)| {
                let pages = pages.get(&group).copied().flatten();
                Row { label: Label::of_group(&group), of: Of::Kind(group), sums, pages }
            };
            rows::by_kind(mappings).into_iter().map(row).collect()
        }
        By::Permissions => {
            let pages = seen.by(|mapping| mapping.permissions);
            let row = |(bits, sums)| {
                let pages = pages.get(&bits).copied().flatten();
                Row { label: Label::plain(permissions(bits)), of: Of::Permissions(bits), sums, pages }
            };
            rows::by_permissions(mappings).into_iter().map(row).collect()
        }
        By::Mapping | By::File => {
            let row = |(mapping, pages): (&'a Mapping, _)| Row {
                label: Label::of_mapping(mapping),
                of: Of::Mapping(mapping),
                sums: mapping.into(),
                pages,
            };
            seen.pages().map(row).collect()
        }
    };
    let filter = Filter::new(show.filter.as_deref());
    rows.retain(|row| row.matches(&filter));
    match show.sort {
        Sort::Address => rows.sort_by_key(Row::address),
        Sort::Name => rows.sort_by_cached_key(|row| row.label.order()),
        by => rows.sort_by_key(|row| Reverse((amount(row, by), row.sums.rss(), row.sums.size))),
    }
    Some(cut(rows, show.top))
}

fn cut<T>(mut rows: Vec<T>, top: Option<usize>) -> Chosen<T> {
    // A line for one other row would say less than the row.
    let rest = match top {
        Some(top) if rows.len() > top + 1 => rows.split_off(top),
        _ => Vec::new(),
    };
    Chosen { shown: rows, rest }
}

fn amount(row: &Row<'_>, sort: Sort) -> Option<u64> {
    let (sums, pages) = (&row.sums, row.pages);
    match sort {
        Sort::Size => Some(sums.size),
        Sort::Pss => sums.pss(),
        Sort::Private => pages.map(|pages| pages.private),
        Sort::Shared => pages.map(|pages| pages.shared),
        Sort::Dirty => sums.dirty(),
        Sort::Swap => sums.swap(),
        Sort::Rss | Sort::Address | Sort::Name => sums.rss(),
    }
}

/// Prints the table; what all its rows come to, shown or not.
pub(super) fn print(chosen: Chosen<Row<'_>>, by: By, show: &ShowOptions, sheet: &mut Sheet) -> Sums {
    let head = match by {
        By::Kind => "by kind",
        By::Mapping => "by mapping",
        By::File => "by file",
        By::Permissions => "by permissions",
    };
    if chosen.shown.is_empty() && nothing_matches(head, show, sheet) {
        return Sums::ZERO;
    }
    let sum = |rows: &[Row<'_>]| {
        let pages = seen::sum(rows.iter().map(|row| row.pages));
        (rows.iter().fold(Sums::ZERO, |sum, row| sum.plus(row.sums)), pages)
    };
    let (shown, rest) = (sum(&chosen.shown), sum(&chosen.rest));
    let total = (shown.0.plus(rest.0), seen::sum([shown.1, rest.1]));
    let leads = match by {
        By::Mapping => chosen.shown.iter().map(lead).collect(),
        _ => Vec::new(),
    };
    let mut sums: Vec<(Sums, Option<Pages>)> = chosen.shown.iter().map(|row| (row.sums, row.pages)).collect();
    let mut labels: Vec<Label<'_>> = chosen.shown.into_iter().map(|row| row.label).collect();
    let figures = labels.len();
    if !chosen.rest.is_empty() {
        labels.push(others(chosen.rest.len()));
        sums.push(rest);
    }
    labels.push(total_label(show));
    sums.push(total);
    let bytes =
        |head, weight, of: fn(&Sums) -> Option<u64>| Column::bytes(head, weight, sums.iter().map(|(sums, _)| of(sums)));
    let pages =
        |head, weight, of: fn(Pages) -> u64| Column::bytes(head, weight, sums.iter().map(|(_, pages)| pages.map(of)));
    let columns = vec![
        bytes("size", 8, |s| Some(s.size)),
        bytes("resident", 11, Sums::rss),
        pages("private", 10, |pages| pages.private),
        pages("shared", 9, |pages| pages.shared),
        bytes("PSS", 7, Sums::pss),
        bytes("swap", 6, Sums::swap).if_any(),
        bytes("dirty", 4, Sums::dirty).if_any().meaning("written to, no such copy on disk"),
        bytes("huge", 3, |s| s.resident.map(|r| r.huge)).if_any(),
        bytes("locked", 3, |s| s.detail.map(|d| d.locked)).if_any(),
        bytes("hugetlb", 5, |s| s.detail.map(|d| d.hugetlb)).if_any(),
        bytes("KSM", 2, |s| s.detail.map(|d| d.ksm)).if_any(),
        bytes("lazy-free", 2, |s| s.detail.map(|d| d.lazy_free)).if_any(),
        bytes("untouched", 1, Sums::not_here)
            .meaning("neither in RES nor in swap: never touched, given back, or not in use here"),
    ];
    let sorted_by = match show.sort {
        Sort::Size => "size",
        Sort::Pss => "PSS",
        Sort::Private => "private",
        Sort::Shared => "shared",
        Sort::Dirty => "dirty",
        Sort::Swap => "swap",
        Sort::Rss | Sort::Address | Sort::Name => "resident",
    };
    let columns = columns.into_iter().map(|column| column.kept_if(sorted_by)).collect();
    Table { head, leads, sums: labels.len() - figures, labels, columns }.print(sheet, 0);
    let nothing = match show.sort {
        Sort::Dirty if total.0.dirty() == Some(0) => Some(NOTHING_DIRTY),
        Sort::Swap if total.0.swap() == Some(0) => Some(NOTHING_IN_SWAP),
        _ => None,
    };
    if let Some(nothing) = nothing {
        sheet.line(&[(Look::Plain, nothing)]);
    }
    total.0
}

/// In the place of a table without rows; whether it was a filter that left none.
fn nothing_matches(head: &str, show: &ShowOptions, sheet: &mut Sheet) -> bool {
    let Some(wanted) = &show.filter else { return false };
    sheet.line(&[(Look::Plain, &format!("{head}: nothing matches \"{}\"", escape(wanted.as_bytes(), 40)))]);
    true
}

/// With a filter the rows are not the whole.
fn total_label(show: &ShowOptions) -> Label<'static> {
    Label::plain(if show.filter.is_some() { "total of these" } else { "total" })
}

/// `7f12a4000000 rw-p `, as maps prints it.
fn lead(row: &Row<'_>) -> String {
    match row.of {
        Of::Mapping(mapping) => format!("{:012x} {} ", mapping.start, permissions(mapping.permissions)),
        Of::Kind(_) | Of::Permissions(_) => String::new(),
    }
}

pub(super) fn others(rows: usize) -> Label<'static> {
    Label::plain(format!("other {} rows (--top 0)", count(rows as u64)))
}

/// The files of a process; `None` when they were not looked at.
pub(super) fn files<'a>(process: &'a Process, show: &ShowOptions) -> Option<Chosen<&'a MappedFile>> {
    let mut files: Vec<&MappedFile> = process.files.as_deref()?.iter().collect();
    let filter = Filter::new(show.filter.as_deref());
    files.retain(|file| filter.matches(None, &Label::name(&file.path), &[]));
    match show.sort {
        Sort::Address => {}
        Sort::Name => files.sort_by_cached_key(|file| Label::name(&file.path).order()),
        Sort::Size => files.sort_by_key(|file| Reverse(file.size)),
        Sort::Dirty => files.sort_by_key(|file| Reverse(file.dirty)),
        Sort::Rss | Sort::Pss | Sort::Private | Sort::Shared | Sort::Swap => {
            files.sort_by_key(|file| Reverse((file.resident, file.page_cache, file.mapped)));
        }
    }
    Some(cut(files, show.top))
}

/// Prints files with what of each is where. `rest`: what the line of those that are not shown is called.
pub(super) fn print_files(chosen: &Chosen<&MappedFile>, rest: Label<'_>, show: &ShowOptions, sheet: &mut Sheet) {
    if chosen.shown.is_empty() && nothing_matches("mapped files", show, sheet) {
        return;
    }
    let mut labels: Vec<Label<'_>> = chosen.shown.iter().map(|file| Label::name(&file.path)).collect();
    let rows = labels.len();
    if !chosen.rest.is_empty() {
        labels.push(rest);
    }
    labels.push(total_label(show));
    let bytes = |head, weight, of: fn(&MappedFile) -> Option<u64>| {
        // A sum of which a part is unknown is unknown.
        let sum = |files: &[&MappedFile]| {
            files.iter().map(|file| of(file)).try_fold(0_u64, |sum, bytes| Some(sum.saturating_add(bytes?)))
        };
        let (shown, rest) = (sum(&chosen.shown), sum(&chosen.rest));
        let mut cells: Vec<Option<u64>> = chosen.shown.iter().map(|file| of(file)).collect();
        if !chosen.rest.is_empty() {
            cells.push(rest);
        }
        cells.push(shown.zip(rest).map(|(shown, rest)| shown.saturating_add(rest)));
        Column::bytes(head, weight, cells)
    };
    let columns = vec![
        bytes("size", 2, |f| f.size),
        bytes("mapped", 5, |f| Some(f.mapped)),
        bytes("in RES", 10, |f| f.resident).meaning("of this process"),
        bytes("in cache", 9, |f| f.page_cache).meaning("in memory, whoever maps it"),
        // Of shared memory nothing is on a disk.
        bytes("disk only", 7, |f| if f.on_disk == Some(false) { Some(0) } else { f.not_loaded() })
            .meaning("on disk or a hole"),
        bytes("dirty", 6, |f| f.dirty).if_any().meaning("not yet on disk"),
        bytes("writeback", 3, |f| f.writeback).if_any(),
    ];
    let sorted_by = match show.sort {
        Sort::Size => "size",
        Sort::Dirty => "dirty",
        Sort::Rss | Sort::Pss | Sort::Private | Sort::Shared | Sort::Swap | Sort::Address | Sort::Name => "in RES",
    };
    let columns = columns.into_iter().map(|column| column.kept_if(sorted_by)).collect();
    Table { head: "mapped files", leads: Vec::new(), sums: labels.len() - rows, labels, columns }.print(sheet, 0);
    let unmapped = "what it only reads or writes through descriptors is not listed";
    sheet.wrapped((Look::Plain, ""), 0, (Look::Faint, unmapped));
    let nothing = match show.sort {
        Sort::Dirty if chosen.all().all(|file| file.dirty == Some(0)) => Some(NOTHING_DIRTY),
        _ => None,
    };
    if let Some(nothing) = nothing {
        sheet.line(&[(Look::Plain, nothing)]);
    }
    let writable = chosen.shown.iter().filter(|file| file.writable_shared && file.on_disk != Some(false)).count();
    if writable > 0 {
        let are = if writable == 1 { "is" } else { "are" };
        let text = format!(
            "{} of these {are} mapped writable and shared: writing to that memory makes the file dirty",
            count(writable as u64)
        );
        sheet.wrapped((Look::Plain, ""), 0, (Look::Faint, &text));
    }
}
