//! The keys.

use super::line;
use crate::screen::theme::{Theme, left};
use ratatui::style::Style;
use ratatui::text::Line;

const KEYS: [(&str, &str); 16] = [
    ("q", "end the session and leave; its closing statement is printed"),
    ("space", "pause; again: back to now"),
    ("← →", "back and forth by one moment; with shift, or < >, by more"),
    ("[ ]", "the first moment; now"),
    ("+ − a", "look at more or less time; at all since attach"),
    ("t", "how much time the picture at the top covers"),
    ("m d", "mark a moment; what changed between it and this one"),
    ("1–7 tab z", "panes; z: this one alone"),
    ("↑ ↓", "rows; also PgUp PgDn Home End"),
    ("enter", "hold this stretch and look into the row; code: open, close"),
    ("esc", "one step back out"),
    ("/", "filter by mapping, function, thread, cause"),
    ("s", "sort; code: grown, given back or faults"),
    ("c f", "code: callers or callees first; show what is folded away"),
    ("e E", "save what is looked at as text, as NDJSON"),
    ("p", "next process"),
];

pub(super) fn lines(theme: Theme) -> Vec<Line<'static>> {
    let row = |(key, text): &(&str, &str)| {
        line(vec![(format!(" {}", left(key, 11)), theme.key()), ((*text).to_owned(), Style::new())])
    };
    KEYS.iter().map(row).collect()
}
