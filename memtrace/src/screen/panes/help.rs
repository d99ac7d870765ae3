//! The keys.

use super::line;
use crate::screen::theme::{Theme, left};
use ratatui::text::Line;

const KEYS: [(&str, &str); 15] = [
    ("q", "end the session and leave; its closing statement is printed"),
    ("space", "pause; again: back to now"),
    ("← →", "back and forth in time by one moment; with shift, or < >, by more"),
    ("[ ]", "the first moment, and now"),
    ("+ −  a", "look at more or less time; a: everything since attach"),
    ("t", "how much time the picture at the top covers"),
    ("m  d", "mark a moment; difference between it and this one"),
    ("1–6 tab z", "panes; z: this pane alone"),
    ("↑ ↓ PgUp PgDn Home End", "rows"),
    ("enter", "freeze this stretch and look into the row; in code: open, close"),
    ("esc", "one step back out"),
    ("/", "filter by mapping, function, thread, cause; esc: as before"),
    ("s", "order: changes now or since attach; mappings; grown, given back, faults"),
    ("c  f", "code: callers or callees first; show folded plumbing"),
    ("e E  p", "save as text, as NDJSON; next process"),
];

pub(super) fn lines(theme: Theme) -> Vec<Line<'static>> {
    KEYS.iter()
        .map(|(key, text)| {
            let wide = if key.chars().count() > 10 { 24 } else { 11 };
            line(vec![
                (format!(" {}", left(key, wide)), theme.key()),
                ((*text).to_owned(), ratatui::style::Style::new()),
            ])
        })
        .collect()
}
