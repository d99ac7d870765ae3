//! Bursts: a list, and the story of the chosen one.

use super::{Page, line};
use crate::screen::app::App;
use crate::screen::scope::View;
use crate::screen::theme::{left, right, wrap};
use crate::statement::Burst;
use crate::views::human::{count, duration, signed_size};
use ratatui::style::Style;
use ratatui::text::Line;
use std::sync::Arc;

/// The newest first.
pub(in crate::screen) fn rows(app: &App, view: &View<'_>) -> Vec<Arc<Burst>> {
    let wanted = |burst: &&Arc<Burst>| {
        app.scope.filter.is_empty()
            || burst.mappings.iter().filter_map(|part| part.of.as_ref()).any(|mapping| view.wants_mapping(mapping))
            || burst.threads.iter().any(|part| view.finds(&String::from_utf8_lossy(&part.of.1)))
            || burst
                .stacks
                .iter()
                .filter_map(|part| view.names.get(part.of.as_ref()))
                .any(|named| named.frames.iter().any(|(name, _)| view.finds(name)))
    };
    app.bursts.iter().rev().filter(wanted).cloned().collect()
}

pub(super) fn page(app: &App, view: &View<'_>) -> Page {
    let theme = app.theme;
    let scale = view.scale;
    let rows = Arc::new(rows(app, view));
    let keys = rows.iter().map(|burst| burst.number).collect();
    let several = app.processes.len() > 1;
    let lines: Vec<(String, i64, String)> = rows
        .iter()
        .map(|burst| {
            let lead = burst.stacks.iter().find_map(|part| view.names.get(part.of.as_ref()));
            let pid = if several { format!("[{}] ", burst.pid) } else { String::new() };
            let faults = burst.faults.shown();
            let when = format!(
                " {} {}",
                app.time(burst.start_ns, true),
                right(&duration(burst.ts_ns.saturating_sub(burst.start_ns)), 8)
            );
            let what = format!("{} faults  {pid}{}", right(&count(faults), 9), lead.map_or("", |named| &named.short));
            (when, scale.bytes(burst.delta.res()), what)
        })
        .collect();
    let row = move |index: usize, width: usize| {
        let Some((when, bytes, what)) = lines.get(index) else { return Line::default() };
        line(vec![
            (left(when, 23), Style::new()),
            (right(&signed_size(*bytes), 12), theme.change(*bytes)),
            (left(&format!(" {what}"), width.saturating_sub(35)), Style::new()),
        ])
    };
    let listed = Arc::clone(&rows);
    let (meta, color) = (app.meta.clone(), app.theme);
    let detail = move |index: usize, width: usize| {
        let (Some(burst), Some(meta)) = (listed.get(index), &meta) else { return Vec::new() };
        let mut lines = Vec::new();
        for (number, text) in story(burst, meta, width.saturating_sub(2)).into_iter().enumerate() {
            let style = if number == 0 { color.strong() } else { Style::new() };
            lines.push(Line::styled(format!(" {text}"), style));
        }
        lines
    };
    let forgotten = app.bursts_seen - app.bursts.len() as u64;
    let older = if forgotten > 0 { format!(" ({} older forgotten)", count(forgotten)) } else { String::new() };
    let mut page =
        Page::list(format!("4 bursts · {}{older}{}", rows.len(), super::changes::part(app)), keys, Box::new(row));
    page.detail = Some(Box::new(detail));
    page.empty = "no burst: faults never came much faster than just before".to_owned();
    page
}

/// What the text view says about it, in so many columns.
pub(in crate::screen) fn story(burst: &Burst, meta: &crate::event::Meta, width: usize) -> Vec<String> {
    use crate::statement::Report;
    use crate::views::{TextOptions, TextView, View as _};
    let text_of = |reports: &[Report]| {
        let mut out = Vec::new();
        let options =
            TextOptions { only: Some(crate::cli::Only::Bursts), width: width.max(40), ..TextOptions::default() };
        let mut view = TextView::new(&mut out, options);
        for report in reports {
            // Writing to memory does not fail.
            let _ = view.render(report);
        }
        drop(view);
        out
    };
    let before = text_of(&[Report::Meta(meta.clone())]).len();
    let all = text_of(&[Report::Meta(meta.clone()), Report::Burst(Box::new(burst.clone()))]);
    let text = String::from_utf8_lossy(all.get(before..).unwrap_or_default()).into_owned();
    text.lines().filter(|line| !line.is_empty()).flat_map(|line| hang(line, width)).collect()
}

/// Lines that are too long go on indented.
fn hang(line: &str, width: usize) -> Vec<String> {
    if crate::screen::theme::columns(line) <= width {
        return vec![line.to_owned()];
    }
    let indent = line.chars().take_while(|c| *c == ' ').count().min(width / 2);
    let pad = " ".repeat(indent);
    wrap(line, width.saturating_sub(indent)).into_iter().map(|part| format!("{pad}{part}")).collect()
}
