//! Where the threads' time went in the second up to the moment: the verdict, then each thread with its states; where the
//! chosen one waits.

use super::{Page, faint, line};
use crate::screen::app::App;
use crate::screen::scope::View;
use crate::screen::theme::{Theme, left, right, wrap};
use crate::stuck::{Share, State, Stuck, ThreadTimes, waiting};
use crate::views::escape::escape;
use crate::views::human::{duration, percent};
use ratatui::style::Style;
use ratatui::text::Line;
use std::sync::Arc;

/// States of a thread in its row.
const STATES: usize = 5;
/// Lines of the verdict.
const VERDICT: usize = 4;

pub(super) fn page(app: &App, view: &View<'_>, width: usize) -> Page {
    let theme = app.theme;
    let Some(stuck) = app.times.at(view.process.pid, view.to) else {
        let empty = "where the threads' time went is not known: on the screen --no-time switches it off, a recording has it \
                     after memtrace record --time";
        return Page { empty: empty.to_owned(), ..Page::text("7 time".to_owned(), Vec::new()) };
    };
    let wanted = |thread: &&ThreadTimes| {
        view.finds(&String::from_utf8_lossy(&thread.comm)) || view.finds(&thread.tid.to_string())
    };
    let keep = |thread: &&ThreadTimes| app.scope.filter.is_empty() || wanted(thread);
    let threads: Arc<Vec<ThreadTimes>> = Arc::new(stuck.threads.iter().filter(keep).cloned().collect());
    let keys = threads.iter().map(|thread| u64::from(thread.tid)).collect();
    let of = duration(stuck.ts_ns.saturating_sub(stuck.start_ns));
    let rows = Arc::clone(&threads);
    let row = move |index: usize, _: usize| rows.get(index).map(|thread| row(theme, thread)).unwrap_or_default();
    let mut page = Page::list(format!("7 time · {of}{}", super::changes::part(app)), keys, Box::new(row));
    page.head = verdict(theme, stuck, width);
    page.detail = Some(Box::new(move |index, width| {
        threads.get(index).map(|thread| detail(theme, thread, width)).unwrap_or_default()
    }));
    page
}

fn verdict(theme: Theme, stuck: &Stuck, width: usize) -> Vec<Line<'static>> {
    let (answer, style) = match stuck.verdict.memory {
        Some(true) => ("Memory. ", theme.alarm()),
        Some(false) => ("Not memory. ", theme.strong()),
        None => ("Undecided. ", theme.strong()),
    };
    let text = format!("{answer}{}", stuck.verdict.sentence);
    let words = wrap(&text, width.saturating_sub(2));
    words.into_iter().take(VERDICT).map(|text| Line::styled(format!(" {text}"), style)).collect()
}

/// ` 4711 server           94 % fault.swapin   4.0 % reclaim.memcg`
fn row(theme: Theme, thread: &ThreadTimes) -> Line<'static> {
    let mut states: Vec<(State, u64)> = Vec::new();
    for &Share { state, ns, .. } in &thread.shares {
        match states.iter_mut().find(|(known, _)| *known == state) {
            Some((_, sum)) => *sum = sum.saturating_add(ns),
            None => states.push((state, ns)),
        }
    }
    states.sort_by_key(|&(state, ns)| (std::cmp::Reverse(ns), state));
    let mut pieces = vec![(left(&format!(" {} {}", thread.tid, escape(&thread.comm, 32)), 24), Style::new())];
    for (state, ns) in states.into_iter().take(STATES) {
        let style = match state {
            State::Unaccounted => theme.mark(),
            state if state.is_memory() => theme.strong(),
            _ => Style::new(),
        };
        let share = percent(ns, thread.total_ns).unwrap_or_default();
        pieces.push((format!("{} {}  ", right(&share, 6), state.name()), style));
    }
    line(pieces)
}

fn detail(theme: Theme, thread: &ThreadTimes, width: usize) -> Vec<Line<'static>> {
    let nr = thread.shares.first().and_then(|share| share.nr);
    let places = thread.waits.iter().filter_map(|wait| waiting(wait, nr));
    places.flat_map(|place| faint(theme, &place, width)).collect()
}
