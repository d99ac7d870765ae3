//! Which code it was: a tree of calls, from the thread's beginning down or from who touched memory up.

use super::changes::part;
use super::{Page, line};
use crate::screen::app::App;
use crate::screen::scope::View;
use crate::screen::theme::{columns, cut, left, right};
use crate::screen::tree::{Branch, Tree};
use crate::statement::Entry;
use crate::views::human::{count, percent, size};
use ratatui::style::Style;
use ratatui::text::Line;
use std::sync::Arc;

/// What the shares are shares of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::screen) enum Measure {
    /// RES that came.
    #[default]
    Grown,
    /// RES that went.
    GivenBack,
    /// Page faults.
    Faults,
}

impl Measure {
    pub(in crate::screen) const fn next(self) -> Self {
        match self {
            Self::Grown => Self::GivenBack,
            Self::GivenBack => Self::Faults,
            Self::Faults => Self::Grown,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Grown => "grown",
            Self::GivenBack => "given back",
            Self::Faults => "faults",
        }
    }

    /// Pages or faults.
    fn of(self, entry: &Entry) -> u64 {
        match self {
            Self::Grown => entry.delta.res().max(0).unsigned_abs(),
            Self::GivenBack => entry.delta.res().min(0).unsigned_abs(),
            Self::Faults => entry.faults.shown(),
        }
    }
}

/// The tree's lines, and its total.
pub(in crate::screen) fn branches(app: &App, view: &View<'_>) -> (Vec<Branch>, u64) {
    let mut tree = Tree::default();
    let nobody: Arc<str> = "(no code is known)".into();
    for entry in view.entries() {
        let weight = app.measure.of(entry);
        let Some(named) = view.names.get(entry.stack.as_ref()).filter(|named| !named.frames.is_empty()) else {
            tree.add([&nobody], weight);
            continue;
        };
        let frames = named.frames.iter().filter(|(_, folded)| app.unfolded || !folded).map(|(name, _)| name);
        let stop: Option<Arc<str>> = named.end.map(|end| format!("… ({})", end.replace('_', " ")).into());
        if app.callees {
            tree.add(frames.chain(stop.as_ref()), weight);
        } else {
            let frames: Vec<&Arc<str>> = frames.collect();
            tree.add(stop.as_ref().into_iter().chain(frames.into_iter().rev()), weight);
        }
    }
    (tree.branches(&app.toggled), tree.total)
}

pub(super) fn page(app: &App, view: &View<'_>) -> Page {
    let (theme, scale, measure) = (app.theme, view.scale, app.measure);
    let (branches, total) = branches(app, view);
    let keys = branches.iter().map(|branch| branch.path).collect();
    let amount = move |weight: u64| match measure {
        Measure::Faults => count(weight),
        _ => size(scale.bytes(i64::try_from(weight).unwrap_or(i64::MAX)).unsigned_abs()),
    };
    let callees = app.callees;
    let arrow = if callees { " ◂ " } else { " ▸ " };
    let row = move |index: usize, width: usize| -> Line<'static> {
        let Some(branch) = branches.get(index) else { return Line::default() };
        let share = percent(branch.weight, total).unwrap_or_default().replace("under ", "<");
        let sign = match branch.open {
            Some(true) => "▾ ",
            Some(false) => "▹ ",
            None => "  ",
        };
        let indent = "  ".repeat(branch.depth.min(width / 6));
        let begin = format!(" {} {} {indent}{sign}", right(&share, 6), right(&amount(branch.weight), 10));
        let room = width.saturating_sub(columns(&begin));
        let names = chain(&branch.names, arrow, room, callees);
        let hot = branch.weight.saturating_mul(2) >= total;
        let style = if hot { theme.strong() } else { Style::new() };
        line(vec![(begin, Style::new()), (left(&names, room), style)])
    };
    let view_name = if app.callees { "who touched ◂ callers" } else { "callers ▸ who touched" };
    let folded = if app.unfolded { "" } else { ", plumbing and nameless folded" };
    let what = match measure {
        Measure::Faults => format!("{} faults", count(total)),
        _ => format!("{} {}", amount_of(total, scale), measure.name()),
    };
    let mut page = Page::list(format!("3 code · {what} · {view_name}{folded}{}", part(app)), keys, Box::new(row));
    page.empty = match measure {
        Measure::Grown => "nothing grew in this stretch; s shows what was given back, a everything since attach",
        Measure::GivenBack => "nothing was given back in this stretch",
        Measure::Faults => "no faults in this stretch",
    }
    .to_owned();
    page
}

fn amount_of(pages: u64, scale: crate::views::Scale) -> String {
    size(scale.bytes(i64::try_from(pages).unwrap_or(i64::MAX)).unsigned_abs())
}

/// The names in a line; where there is no room for all, the one at the caller's end stays and as many as can at the end
/// where memory was touched, which is the first where callees come first.
fn chain(names: &[Arc<str>], arrow: &str, room: usize, callees: bool) -> String {
    let whole = names.iter().map(|name| &**name).collect::<Vec<_>>().join(arrow);
    if columns(&whole) <= room || names.len() < 3 {
        return cut(&whole, room);
    }
    let mut inward: Vec<&str> = names.iter().map(|name| &**name).collect();
    if callees {
        inward.reverse();
    }
    let [caller, rest @ ..] = inward.as_slice() else { return String::new() };
    let mut used = columns(caller) + columns(arrow) + 1;
    let mut kept: Vec<&str> = Vec::new();
    for name in rest.iter().rev() {
        used += columns(name) + columns(arrow);
        if used > room && !kept.is_empty() {
            break;
        }
        kept.push(name);
    }
    kept.extend(["…", caller]);
    if !callees {
        kept.reverse();
    }
    cut(&kept.join(arrow), room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_chains_lose_their_middle() {
        let names: Vec<Arc<str>> = ["main", "run", "execute", "build", "insert"].map(Arc::from).to_vec();
        assert_eq!(chain(&names, ">", 80, false), "main>run>execute>build>insert");
        assert_eq!(chain(&names, ">", 24, false), "main>…>build>insert");
        assert_eq!(chain(&names, ">", 10, false), "main>…>in…");
        assert_eq!(chain(&[], ">", 10, false), "");
        let inside_out: Vec<Arc<str>> = names.into_iter().rev().collect();
        assert_eq!(chain(&inside_out, "<", 24, true), "insert<build<…<main");
        assert_eq!(chain(&inside_out, "<", 10, true), "insert<…<…");
    }
}
