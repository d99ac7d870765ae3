//! The mappings: how large, how much of each is in memory, how that changed.

use super::changes::part;
use super::{Page, faint, line};
use crate::screen::app::App;
use crate::screen::process::{Area, Inside};
use crate::screen::scope::View;
use crate::screen::theme::{Part, Theme, left, right};
use crate::screen::words;
use crate::statement::{Kind, MappingRef};
use crate::units::Amounts;
use crate::views::Scale;
use crate::views::human::{duration, percent, signed_size, size};
use crate::views::words::{mapping_phrase, permissions, syscall_label};
use ratatui::style::Style;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Columns of the bar.
const BAR: usize = 10;

/// How the list is sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::screen) enum Order {
    /// What changed in the stretch.
    #[default]
    Change,
    /// What is in memory.
    Resident,
    /// Address space.
    Size,
    /// Where it is.
    Address,
}

impl Order {
    pub(in crate::screen) const fn next(self) -> Self {
        match self {
            Self::Change => Self::Resident,
            Self::Resident => Self::Size,
            Self::Size => Self::Address,
            Self::Address => Self::Change,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Resident => "memory",
            Self::Size => "size",
            Self::Address => "address",
        }
    }
}

/// A mapping in the list.
#[derive(Clone, Debug)]
pub(in crate::screen) struct Row {
    pub(in crate::screen) area: Area,
    delta: Amounts,
    since: Amounts,
    gross: i64,
}

impl Row {
    fn size(&self) -> u64 {
        self.area.mapping.end.saturating_sub(self.area.mapping.start)
    }
}

/// What a mapping is made of, bytes; adds up to its size, but for shared pages that were booked since smaps was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Makeup {
    pub(super) private: u64,
    pub(super) shared: u64,
    pub(super) swapped: u64,
    pub(super) untouched: u64,
}

impl Makeup {
    pub(super) fn of(area: &Area, scale: Scale) -> Option<Self> {
        let inside = area.inside?;
        let extent = area.mapping.end.saturating_sub(area.mapping.start);
        let booked = scale.bytes(inside.since);
        // What came since is the process's own until smaps says otherwise, but in what is made for sharing.
        let is_shared = area.mapping.permissions & crate::event::permission::SHARED != 0;
        let (mut private, mut shared) = (inside.private, inside.shared);
        let grows = if is_shared { &mut shared } else { &mut private };
        *grows = grows.saturating_add_signed(booked.max(0));
        let shrinks = booked.min(0).unsigned_abs();
        let from_private = shrinks.min(private);
        private -= from_private;
        shared = shared.saturating_sub(shrinks - from_private);
        let swapped = inside.swap.saturating_add_signed(scale.bytes(inside.swap_since));
        let held = private.saturating_add(shared).saturating_add(swapped);
        Some(Self { private, shared, swapped, untouched: extent.saturating_sub(held) })
    }

    pub(super) const fn resident(self) -> u64 {
        self.private.saturating_add(self.shared)
    }

    /// In order.
    pub(super) const fn parts(self) -> [(Part, u64); 4] {
        [
            (Part::Private, self.private),
            (Part::Shared, self.shared),
            (Part::Swapped, self.swapped),
            (Part::Untouched, self.untouched),
        ]
    }
}

/// Sorted.
pub(in crate::screen) fn rows(view: &View<'_>, order: Order) -> Vec<Row> {
    let mut rows: BTreeMap<u64, Row> = BTreeMap::new();
    for area in view.process.areas(view.to) {
        let row = Row { area, delta: Amounts::ZERO, since: Amounts::ZERO, gross: 0 };
        rows.insert(row.area.mapping.id, row);
    }
    let mut touched = std::collections::BTreeSet::new();
    let missing = |mapping: &Arc<MappingRef>| Row {
        area: Area { mapping: Arc::clone(mapping), inside: None },
        delta: Amounts::ZERO,
        since: Amounts::ZERO,
        gross: 0,
    };
    for entry in view.entries() {
        let Some(mapping) = &entry.mapping else { continue };
        // What is over by now is shown where it changed.
        let row = rows.entry(mapping.id).or_insert_with(|| missing(mapping));
        row.delta += entry.delta;
        row.gross = row.gross.saturating_add(entry.delta.gross());
        touched.insert(mapping.id);
    }
    for entry in view.entries_since() {
        let Some(mapping) = &entry.mapping else { continue };
        if let Some(row) = rows.get_mut(&mapping.id) {
            row.since += entry.delta;
            touched.insert(mapping.id);
        }
    }
    let partial = view.is_partial();
    let mut rows: Vec<Row> = rows
        .into_values()
        .filter(|row| !partial || touched.contains(&row.area.mapping.id) || view.wants_mapping(&row.area.mapping))
        .collect();
    let resident = |row: &Row| Makeup::of(&row.area, view.scale).map_or(0, Makeup::resident);
    match order {
        Order::Change => {
            rows.sort_by_cached_key(|row| std::cmp::Reverse((row.gross, row.since.gross(), resident(row))))
        }
        Order::Resident => rows.sort_by_cached_key(|row| std::cmp::Reverse(resident(row))),
        Order::Size => rows.sort_by_key(|row| std::cmp::Reverse(row.size())),
        Order::Address => rows.sort_by_key(|row| row.area.mapping.start),
    }
    rows
}

pub(super) fn page(app: &App, view: &View<'_>, width: usize) -> Page {
    let (theme, scale) = (app.theme, view.scale);
    let rows = Arc::new(rows(view, app.order));
    let keys = rows.iter().map(|row| row.area.mapping.id).collect();
    let read = view.process.reading(view.to).map(|reading| reading.ts_ns);
    let both = width >= 76 && !app.is_all();
    let sized = width >= 64;
    let listed = Arc::clone(&rows);
    let row = move |index: usize, width: usize| {
        let Some(row) = listed.get(index) else { return line(Vec::new()) };
        let makeup = Makeup::of(&row.area, scale);
        let resident = match (makeup, read) {
            (Some(makeup), _) => size(makeup.resident()),
            (None, Some(_)) if row.area.mapping.kind != Kind::Several => "gone".to_owned(),
            (None, _) => "?".to_owned(),
        };
        let change = |amounts: Amounts| match amounts.is_zero() {
            true => "·".to_owned(),
            false => signed_size(scale.bytes(amounts.res())),
        };
        let mut pieces = vec![(" ".to_owned(), Style::new())];
        if sized {
            pieces.push((format!("{} ", right(&size(row.size()), 10)), Style::new()));
        }
        pieces.extend(bar(row.area.inside.as_ref().and(makeup), theme));
        let now = scale.bytes(row.delta.res());
        pieces.push((format!(" {}", right(&resident, 10)), Style::new()));
        pieces.push((format!(" {}", right(&change(row.delta), 11)), theme.change(now)));
        let mut used = 1 + if sized { 11 } else { 0 } + BAR + 1 + 10 + 1 + 11;
        if both {
            pieces.push((format!(" {}", right(&change(row.since), 11)), Style::new()));
            used += 12;
        }
        let name = words::mapping(&row.area.mapping);
        pieces.push((format!("  {}", left(&name, width.saturating_sub(used + 2))), Style::new()));
        line(pieces)
    };
    let detail_rows = Arc::clone(&rows);
    let now_ns = view.to;
    let read_at = read.map_or_else(String::new, |ts_ns| app.time(ts_ns, false));
    let detail = move |index: usize, width: usize| {
        let Some(row) = detail_rows.get(index) else { return Vec::new() };
        describe(row, scale, now_ns, &read_at).iter().flat_map(|text| faint(theme, text, width)).collect()
    };
    let known = match read {
        Some(ts_ns) => format!("smaps {} + ledger", app.time(ts_ns, false)),
        None => "smaps not read yet".to_owned(),
    };
    let title = format!("2 mappings · {} by {} · {known}{}", rows.len(), app.order.name(), part(app));
    let mut page = Page::list(title, keys, Box::new(row));
    let shown = app.stretch_name();
    let extent = if sized { format!("{} ", right("size", 10)) } else { String::new() };
    let mut columns = format!(" {extent}{} {} {}", left("in memory", BAR), right("RES", 10), right(&shown, 11));
    if both {
        columns.push_str(&format!(" {}", right("all", 11)));
    }
    page.head = vec![line(vec![(format!("{columns}  mapping"), theme.faint())])];
    page.detail = Some(Box::new(detail));
    page.empty = "no mapping is known yet: they come with the first reading of smaps, or when one changes".to_owned();
    page
}

/// Private, shared, swapped, untouched.
fn bar(makeup: Option<Makeup>, theme: Theme) -> Vec<(String, Style)> {
    let Some(makeup) = makeup else {
        let (style, _) = theme.part(Part::Unknown);
        return vec![(" ".repeat(BAR), style)];
    };
    let parts = makeup.parts();
    let whole: u128 = parts.iter().map(|&(_, bytes)| u128::from(bytes)).sum::<u128>().max(1);
    let mut pieces = Vec::with_capacity(4);
    let (mut sum, mut drawn) = (0_u128, 0_usize);
    for (part, bytes) in parts {
        sum += u128::from(bytes);
        // Something is never drawn as nothing.
        let least = usize::from(bytes > 0 && part != Part::Untouched && drawn < BAR);
        let end = (((sum * BAR as u128) + whole / 2) / whole) as usize;
        let cells = end.saturating_sub(drawn).max(least).min(BAR - drawn);
        drawn += cells;
        let (style, character) = theme.part(part);
        pieces.push((character.to_string().repeat(cells), style));
    }
    let (style, character) = theme.part(Part::Untouched);
    pieces.push((character.to_string().repeat(BAR - drawn), style));
    pieces
}

/// The chosen mapping in sentences.
fn describe(row: &Row, scale: Scale, now_ns: u64, read: &str) -> Vec<String> {
    let mapping = &row.area.mapping;
    let mut first = format!(
        "{} {} {:#x}–{:#x} {}",
        mapping_phrase(mapping),
        size(row.size()),
        mapping.start,
        mapping.end,
        permissions(mapping.permissions)
    );
    if let Some(birth) = &mapping.birth {
        let age = duration(now_ns.saturating_sub(birth.ts_ns));
        first.push_str(&format!(" · {age} old: {} by tid {}", syscall_label(birth.nr), birth.tid));
        if let Some(stack) = &birth.stack {
            first.push_str(&format!(" in {}", crate::views::fold::short(stack, 4)));
        }
    }
    let mut lines = vec![first];
    if let (Some(makeup), Some(Inside { pss, dirty, .. })) = (Makeup::of(&row.area, scale), row.area.inside) {
        let share = percent(makeup.resident(), row.size()).unwrap_or_default();
        let mut text =
            format!("in memory {share}: yours alone {}, shared {}", size(makeup.private), size(makeup.shared));
        if makeup.swapped > 0 {
            text.push_str(&format!(", swapped out {}", size(makeup.swapped)));
        }
        text.push_str(&format!("; PSS {}, dirty {} at {read}", size(pss), size(dirty)));
        lines.push(text);
    } else if mapping.kind == Kind::Several {
        lines.push("a range over several mappings; the kernel does not say how much of each".to_owned());
    }
    lines
}
