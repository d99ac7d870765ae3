//! What is looked at, as a file: text as the panes show it, but all rows of them; or NDJSON of the contract.

use super::app::{App, Reaction, Save};
use super::moments::Tally;
use crate::statement::{Report, Stack};
use crate::views::{JsonView, View as _};
use ratatui::text::Line;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Columns of the text.
const WIDTH: usize = 160;
/// Rows of the picture.
const HEIGHT: usize = 24;
/// Rows of each pane.
const ROWS: usize = 5_000;

impl App {
    pub(super) fn export_text(&mut self) -> Reaction {
        self.prepare();
        let mut lines = self.header(WIDTH);
        lines.extend(self.chart(WIDTH, 6));
        let view = self.view();
        for pane in self.seen() {
            lines.push(Line::default());
            let page = self.page(pane, view.as_ref(), (WIDTH, HEIGHT));
            lines.extend(page.lines(WIDTH, ROWS));
            let chosen = self.cursors[pane as usize].at;
            if let Some(detail) = page.detail.as_ref().filter(|_| chosen < page.keys.len()) {
                lines.push(Line::default());
                lines.extend(detail(chosen, WIDTH));
            }
        }
        lines.push(Line::default());
        lines.extend(self.footer(WIDTH).into_iter().take(1));
        let mut text = String::new();
        for line in lines {
            let line: String = line.spans.iter().map(|span| span.content.as_ref()).collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
        self.save("txt", text.into_bytes())
    }

    /// Meta, the statement of the stretch with its stacks, and the bursts in it. Entries that the filter or the drill
    /// hides are left out, and what they made of the balance is then no part of the statement either.
    pub(super) fn export_json(&mut self) -> Reaction {
        self.prepare();
        let mut reports: Vec<Report> = self.meta.iter().cloned().map(Report::Meta).collect();
        if let Some(view) = self.view()
            && let Some(window) = &view.window
        {
            let mut statement = window.statement();
            if view.is_partial() {
                let mut part = Tally::before(&statement);
                statement.entries = view.entries().cloned().collect();
                let booked = statement.entries.iter().map(|entry| entry.delta).sum();
                statement.closing.amounts = statement.opening.amounts + booked;
                statement.unexplained = crate::units::Amounts::ZERO;
                part.add(&statement);
                statement = part.statement();
            }
            let bursts: Vec<_> = self
                .bursts
                .iter()
                .filter(|burst| burst.mm == view.process.mm && burst.ts_ns > view.from && burst.start_ns <= view.to)
                .collect();
            let mut stacks: BTreeMap<_, &Arc<Stack>> = BTreeMap::new();
            for stack in statement.entries.iter().filter_map(|entry| entry.stack.as_ref()) {
                stacks.insert(stack.id, stack);
            }
            for stack in bursts.iter().flat_map(|burst| &burst.stacks).filter_map(|part| part.of.as_ref()) {
                stacks.insert(stack.id, stack);
            }
            reports.extend(stacks.into_values().map(|stack| Report::Stack(Arc::clone(stack))));
            reports.push(Report::Statement(statement.clone()));
            reports.extend(bursts.into_iter().map(|burst| Report::Burst(Box::new(burst.as_ref().clone()))));
        }
        let mut contents = Vec::new();
        let mut view = JsonView::new(&mut contents);
        for report in &reports {
            // Writing to memory fails only before the session has begun, and then there is nothing to write.
            let _ = view.render(report);
        }
        drop(view);
        self.save("ndjson", contents)
    }

    fn save(&mut self, extension: &'static str, contents: Vec<u8>) -> Reaction {
        let Some(meta) = self.meta.as_ref().filter(|_| !contents.is_empty()) else {
            self.note = Some("there is nothing to save yet".to_owned());
            return Reaction::Draw;
        };
        let pid = self.current().map_or(meta.pid, |process| process.pid);
        let time = self.scale().map_or_else(String::new, |scale| scale.clock.rfc3339(self.moment()));
        // `20260131T120003.120`: no sign that a file system or a shell minds.
        let stamp: String = time.chars().take(23).filter(|c| !matches!(c, '-' | ':')).collect();
        Reaction::Save(Save { stem: format!("memtrace-{pid}-{stamp}"), extension, contents })
    }
}
