//! What changed, by cause, mapping and code: in the stretch that is looked at, and since attach.

use super::{Page, faint, line};
use crate::screen::app::App;
use crate::screen::scope::View;
use crate::screen::theme::{cut, left, right};
use crate::screen::words;
use crate::statement::{Entry, Faults, MappingRef};
use crate::units::Amounts;
use crate::views::cause_phrase;
use crate::views::escape::escape;
use crate::views::human::{count, counted, duration, percent, signed_size, size};
use crate::views::words::{mapping_phrase, syscall_adds, syscall_label};
use memtrace_common::Cause;
use ratatui::style::Style;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

/// Entries of one cause, mapping and first telling function.
#[derive(Clone, Debug)]
pub(in crate::screen) struct Row {
    pub(in crate::screen) cause: Cause,
    pub(in crate::screen) mapping: Option<Arc<MappingRef>>,
    pub(in crate::screen) lead: Option<Arc<str>>,
    short: Option<Arc<str>>,
    delta: Amounts,
    since: Amounts,
    /// The largest entry, for what cannot be added.
    entry: Entry,
    faults: Faults,
    latency: crate::event::Latency,
    threads: std::collections::BTreeSet<u32>,
}

impl Row {
    /// In a few words.
    pub(in crate::screen) fn name(&self) -> String {
        let mapping = self.mapping.as_ref().map(|mapping| words::mapping(mapping));
        let lead = self.lead.as_ref().map(|lead| lead.to_string());
        let parts = [Some(words::cause(self.cause).to_owned()), mapping, lead];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
    }

    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.cause, self.mapping.as_ref().map(|mapping| mapping.id), &self.lead).hash(&mut hasher);
        hasher.finish()
    }
}

/// What a row is told by: cause, mapping, first telling function.
type Key<'a> = (Cause, Option<u64>, Option<&'a Arc<str>>);

/// Largest first.
pub(in crate::screen) fn rows(view: &View<'_>, by_since: bool) -> Vec<Row> {
    let mut rows: BTreeMap<Key<'_>, Row> = BTreeMap::new();
    for (entries, now) in
        [(Box::new(view.entries()) as Box<dyn Iterator<Item = &Entry>>, true), (Box::new(view.entries_since()), false)]
    {
        for entry in entries {
            let lead = view.lead(entry);
            let key = (entry.cause, entry.mapping.as_ref().map(|mapping| mapping.id), lead);
            let row = rows.entry(key).or_insert_with(|| Row {
                cause: entry.cause,
                mapping: entry.mapping.clone(),
                lead: lead.cloned(),
                short: view.names.get(entry.stack.as_ref()).map(|named| Arc::clone(&named.short)),
                delta: Amounts::ZERO,
                since: Amounts::ZERO,
                entry: entry.clone(),
                faults: Faults::default(),
                latency: crate::event::Latency::default(),
                threads: std::collections::BTreeSet::new(),
            });
            if now {
                row.delta += entry.delta;
                row.faults += entry.faults;
                row.latency.merge(&entry.latency);
                row.threads.insert(entry.tid);
                if entry.delta.gross() > row.entry.delta.gross() {
                    row.short = view.names.get(entry.stack.as_ref()).map(|named| Arc::clone(&named.short));
                    row.mapping.clone_from(&entry.mapping);
                    row.entry = entry.clone();
                }
            } else {
                row.since += entry.delta;
            }
        }
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    rows.sort_by_key(|row| {
        let (now, since) = (row.delta.gross(), row.since.gross());
        let faults = row.faults.all();
        std::cmp::Reverse(if by_since { (since, now, faults) } else { (now, since, faults) })
    });
    rows
}

/// Columns of an amount and of a cause.
const AMOUNT: usize = 12;
const CAUSE: usize = 15;

/// What there is room for.
#[derive(Clone, Copy)]
struct Columns {
    now: bool,
    since: bool,
    mapping: usize,
}

impl Columns {
    /// Where there is no room for both amounts, the one that sorts.
    fn of(app: &App, width: usize) -> Self {
        let both = width >= 76 && !app.is_all();
        let since = !app.is_all() && (both || app.by_since);
        Self { now: both || !since, since, mapping: if width >= 100 { 28 } else { 16 } }
    }

    fn used(self) -> usize {
        AMOUNT * (usize::from(self.now) + usize::from(self.since)) + 2 + CAUSE + 1 + self.mapping + 1
    }

    fn titles(self, app: &App) -> String {
        let mut text = String::new();
        for (shown, name, sorts) in
            [(self.now, app.stretch_name(), !app.by_since), (self.since, "all".to_owned(), app.by_since)]
        {
            if shown {
                text.push_str(&right(&format!("{}{name}", if sorts { "▾" } else { "" }), AMOUNT));
            }
        }
        format!("{text}  {} {} who", left("why", CAUSE), left("where", self.mapping))
    }
}

pub(super) fn page(app: &App, view: &View<'_>, width: usize) -> Page {
    let (theme, scale) = (app.theme, view.scale);
    let rows = rows(view, app.by_since);
    let change = scale.bytes(view.change().res());
    let (start, span) = view.window.as_ref().map_or((view.from, 0), |window| {
        (window.frame.start_ns, window.frame.ts_ns.saturating_sub(window.frame.start_ns))
    });
    let when = match (&app.scope.range, app.scope.span, app.scope.cursor) {
        (Some((_, _, what)), ..) => format!("{what} {} → {}", app.time(start, true), app.time(view.to, true)),
        (None, crate::screen::scope::Span::All, None) => "since attach".to_owned(),
        (None, span, None) => format!("last {}", span.name()).replace("last one", "last"),
        (None, span, Some(_)) => format!("{} up to {}", span.name(), app.time(view.to, true)),
    };
    let mut head = Vec::new();
    let mut up = 0_i64;
    let mut down = 0_i64;
    view.entries().for_each(|entry| {
        let part = scale.bytes(entry.delta.res());
        let side = if part > 0 { &mut up } else { &mut down };
        *side = side.saturating_add(part);
    });
    let mut pieces = vec![(format!(" RES {}", signed_size(change)), theme.change(change))];
    if let Some(window) = &view.window {
        let opening = scale.bytes(window.frame.opening.amounts.res());
        let closing = scale.bytes(window.frame.closing.amounts.res());
        pieces.push((
            format!("  {} → {}", size(opening.max(0).unsigned_abs()), size(closing.max(0).unsigned_abs())),
            theme.strong(),
        ));
        let shown = if view.is_partial() { "shown: " } else { "" };
        pieces.push((
            format!("  ({shown}{} {}) in {}", signed_size(up), signed_size(down), duration(span)),
            Style::new(),
        ));
        let unexplained = scale.bytes(window.frame.unexplained.gross());
        if app.without_probes() {
            pieces.push(("  causes unknown: no probes".to_owned(), theme.faint()));
        } else if unexplained != 0 {
            pieces.push((format!("  unexplained {}", size(unexplained.unsigned_abs())), theme.alarm()));
        } else {
            pieces.push(("  unexplained 0 B".to_owned(), theme.faint()));
        }
    } else {
        let quiet = view.process.moments.at(view.to).map(|last| view.to.saturating_sub(last.ts_ns));
        let text = quiet.map_or_else(String::new, |quiet| format!("  nothing changed for {}", duration(quiet)));
        pieces.push((text, theme.faint()));
    }
    if width < 100 {
        pieces.iter_mut().for_each(|(text, _)| *text = words::compact(text));
    }
    head.push(line(pieces));
    let columns = Columns::of(app, width);
    head.push(line(vec![(columns.titles(app), theme.faint())]));
    let keys = rows.iter().map(Row::key).collect();
    let rows = Arc::new(rows);
    let listed = Arc::clone(&rows);
    let row = move |index: usize, width: usize| {
        let Some(row) = listed.get(index) else { return line(Vec::new()) };
        let who = row.short.as_ref().or(row.lead.as_ref()).map_or_else(|| actor(&row.entry), |short| short.to_string());
        let mapping = row.mapping.as_ref().map_or_else(|| "·".to_owned(), |mapping| words::mapping(mapping));
        let mut pieces: Vec<(String, Style)> = Vec::with_capacity(5);
        for amounts in [columns.now.then_some(row.delta), columns.since.then_some(row.since)].into_iter().flatten() {
            let bytes = scale.bytes(amounts.res());
            let text = if amounts.is_zero() { "·".to_owned() } else { signed_size(bytes) };
            let style = if pieces.is_empty() { theme.change(bytes) } else { Style::new() };
            pieces.push((right(&text, AMOUNT), style));
        }
        pieces.push((format!("  {}", left(words::cause(row.cause), CAUSE)), Style::new()));
        pieces.push((format!(" {}", left(&mapping, columns.mapping)), Style::new()));
        pieces.push((format!(" {}", left(&who, width.saturating_sub(columns.used()))), Style::new()));
        line(pieces)
    };
    let detail = move |index: usize, width: usize| {
        let Some(row) = rows.get(index) else { return Vec::new() };
        describe(row, scale, span).iter().flat_map(|text| faint(theme, text, width)).collect()
    };
    let mut page = Page::list(format!("1 changes · {when}{}", part(app)), keys, Box::new(row));
    page.head = head;
    page.detail = Some(Box::new(detail));
    page.empty = if view.is_partial() {
        "nothing that the filter lets through changed; esc goes back".to_owned()
    } else {
        "nothing changed yet".to_owned()
    };
    page
}

/// What limits the view, for titles.
pub(super) fn part(app: &App) -> String {
    let mut text = String::new();
    if let Some(drill) = &app.scope.drill {
        text.push_str(&format!(" · only {}", drill.name));
    }
    if !app.scope.filter.is_empty() {
        text.push_str(&format!(" · /{}", escape(app.scope.filter.as_bytes(), 40)));
    }
    text
}

fn actor(entry: &Entry) -> String {
    match entry.tid {
        0 => String::new(),
        tid => format!("tid {tid} {}", escape(&entry.comm, 32)),
    }
}

/// The chosen row in sentences.
fn describe(row: &Row, scale: crate::views::Scale, span: u64) -> Vec<String> {
    let mut what = cause_phrase(row.cause).to_owned();
    if let Some(nr) = row.entry.syscall.filter(|_| syscall_adds(row.cause)) {
        what.push_str(&format!(" inside {}", syscall_label(nr)));
    }
    let shown = if row.delta.is_zero() { row.since } else { row.delta };
    let classes: Vec<String> =
        [("anon", shown.anon), ("file", shown.file), ("shmem", shown.shmem), ("swap", shown.swap)]
            .into_iter()
            .filter(|(_, pages)| *pages != 0)
            .map(|(name, pages)| format!("{name} {}", signed_size(scale.bytes(pages))))
            .collect();
    what.push_str(&format!(": {}", if classes.is_empty() { "±0".to_owned() } else { classes.join(", ") }));
    if let Some(mapping) = &row.mapping {
        let extent = size(mapping.end.saturating_sub(mapping.start));
        what.push_str(&format!(" · {} {extent} at {:#x}", mapping_phrase(mapping), mapping.start));
        if let Some(birth) = &mapping.birth {
            let age = duration(row.entry.first_ns.saturating_sub(birth.ts_ns));
            what.push_str(&format!(", {age} old ({})", syscall_label(birth.nr)));
        }
    }
    let mut lines = vec![what];
    let faults = row.faults.shown();
    if faults > 0 {
        let mut text = counted(faults, "fault", "faults");
        if row.faults.major > 0 {
            text.push_str(&format!(" ({} major)", count(row.faults.major.unsigned_abs())));
        }
        if let (Some(p50), Some(p99)) = (row.latency.quantile_ns(500), row.latency.quantile_ns(990)) {
            text.push_str(&format!(", p50 {}, p99 {}", duration(p50), duration(p99)));
        }
        if let Some(total) = row.latency.estimated_total_ns(faults) {
            let share = percent(total, span).map_or_else(String::new, |share| format!(" = {share} of the time"));
            text.push_str(&format!(", about {} in faults{share}", duration(total)));
        }
        lines.push(text);
    }
    let threads = match row.threads.len() {
        0 | 1 => actor(&row.entry),
        n => format!("{n} threads"),
    };
    let short = row.short.as_ref().map_or_else(String::new, |short| short.to_string());
    let by: Vec<String> = [threads, short].into_iter().filter(|text| !text.is_empty()).collect();
    if !by.is_empty() {
        lines.push(by.join(" · "));
    }
    if let Some(hint) = crate::hints::for_cause(row.cause) {
        lines.push(format!("→ {}", cut(hint, 400)));
    }
    lines
}
