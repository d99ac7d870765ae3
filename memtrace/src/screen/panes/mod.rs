//! The panes: each makes lines of what is looked at; here they are arranged.
//!
//! Lines are made for the rows that are seen, so ten thousand mappings cost as much as twenty.

pub(super) mod bursts;
pub(super) mod changes;
mod chart;
pub(super) mod code;
mod frame;
mod help;
pub(super) mod mappings;
mod space;
mod summary;
mod time;

use super::app::App;
use super::scope::View;
use super::theme::{Theme, cut};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph};

pub(super) use chart::Zoom;
pub(super) use code::Measure;
pub(super) use mappings::Order;

/// Smaller than this, nothing is shown but that.
const LEAST: (u16, u16) = (60, 14);
/// From here on panes stand side by side.
const WIDE: u16 = 120;
/// From here on two panes stand one above the other.
const TALL: u16 = 36;

/// A pane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Pane {
    Changes,
    Mappings,
    Code,
    Bursts,
    Space,
    Summary,
    Time,
}

impl Pane {
    /// By number.
    pub(super) const ALL: [Self; 7] =
        [Self::Changes, Self::Mappings, Self::Code, Self::Bursts, Self::Space, Self::Summary, Self::Time];

    pub(super) fn next(self, by: usize) -> Self {
        Self::ALL[(self as usize + by) % Self::ALL.len()]
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Changes => "changes",
            Self::Mappings => "mappings",
            Self::Code => "code",
            Self::Bursts => "bursts",
            Self::Space => "space",
            Self::Summary => "summary",
            Self::Time => "time",
        }
    }

    /// It shares a place with others where panes stand side by side.
    pub(super) const fn is_lodger(self) -> bool {
        matches!(self, Self::Bursts | Self::Space | Self::Summary | Self::Time)
    }
}

/// Where in a list one is. It stays on its row when rows move, but for the first: who looks at the top, stays there.
#[derive(Clone, Debug, Default)]
pub(super) struct Cursor {
    pub(super) at: usize,
    key: Option<u64>,
    top: usize,
    height: usize,
    len: usize,
}

impl Cursor {
    pub(super) fn up(&mut self, by: usize) {
        self.at = self.at.saturating_sub(by);
        self.key = None;
    }

    pub(super) fn down(&mut self, by: usize) {
        self.at = self.at.saturating_add(by).min(self.len.saturating_sub(1));
        self.key = None;
    }

    pub(super) fn page_up(&mut self) {
        self.up(self.height.saturating_sub(1).max(1));
    }

    pub(super) fn page_down(&mut self) {
        self.down(self.height.saturating_sub(1).max(1));
    }

    /// Finds its row again.
    fn find(&mut self, keys: &[u64]) {
        self.len = keys.len();
        if self.at > 0
            && let Some(key) = self.key
            && keys.get(self.at) != Some(&key)
            && let Some(found) = keys.iter().position(|&other| other == key)
        {
            self.at = found;
        }
        self.at = self.at.min(keys.len().saturating_sub(1));
        self.key = keys.get(self.at).copied();
    }

    /// First line to show, so that `line` is among `height`.
    fn scroll(&mut self, line: usize, lines: usize, height: usize) -> usize {
        self.height = height;
        self.top =
            self.top.min(line).max((line + 1).saturating_sub(height)).min(lines.saturating_sub(height.min(lines)));
        self.top
    }
}

type MakeLine = Box<dyn Fn(usize, usize) -> Line<'static>>;
type MakeLines = Box<dyn Fn(usize, usize) -> Vec<Line<'static>>>;

/// What a pane has to show.
pub(super) struct Page {
    pub(super) title: String,
    /// Above the rows, does not scroll.
    pub(super) head: Vec<Line<'static>>,
    /// Identity of each item that can be chosen.
    pub(super) keys: Vec<u64>,
    /// The row of an item, where items are no rows.
    pub(super) line_of: Option<Vec<usize>>,
    pub(super) rows: usize,
    /// A row by its number, for so many columns.
    pub(super) row: MakeLine,
    /// About the chosen item, below the rows.
    pub(super) detail: Option<MakeLines>,
    /// Said where there are no rows.
    pub(super) empty: String,
}

impl Page {
    /// One row an item.
    pub(super) fn list(title: String, keys: Vec<u64>, row: MakeLine) -> Self {
        let rows = keys.len();
        Self { title, head: Vec::new(), keys, line_of: None, rows, row, detail: None, empty: String::new() }
    }

    /// Lines without items.
    pub(super) fn text(title: String, lines: Vec<Line<'static>>) -> Self {
        let keys: Vec<u64> = (0..lines.len() as u64).collect();
        let row = move |index: usize, _| lines.get(index).cloned().unwrap_or_default();
        Self::list(title, keys, Box::new(row))
    }

    /// All of it.
    pub(super) fn lines(&self, width: usize, most: usize) -> Vec<Line<'static>> {
        let mut lines = vec![Line::raw(format!("── {}", self.title))];
        lines.extend(self.head.iter().cloned());
        lines.extend((0..self.rows.min(most)).map(|index| (self.row)(index, width)));
        if self.rows > most {
            lines.push(Line::raw(format!("… and {} more", self.rows - most)));
        }
        if self.rows == 0 {
            lines.push(Line::raw(self.empty.clone()));
        }
        lines
    }
}

impl App {
    /// Draws everything.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        if area.width < LEAST.0 || area.height < LEAST.1 {
            let text =
                format!("{}×{} is too small: {}×{} is the least. q quits.", area.width, area.height, LEAST.0, LEAST.1);
            let lines: Vec<Line<'_>> =
                super::theme::wrap(&text, area.width as usize).into_iter().map(Line::raw).collect();
            frame.render_widget(Paragraph::new(lines), area);
            return;
        }
        self.prepare();
        let chart = if area.height >= 30 { 4 } else { 2 };
        let [top, chart, middle, bottom] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Length(chart + 1),
            Constraint::Min(0),
            Constraint::Length(2),
        ])
        .areas(area);
        let width = area.width as usize;
        frame.render_widget(Paragraph::new(self.header(width)), top);
        frame.render_widget(Paragraph::new(self.chart(width, chart.height as usize - 1)), chart);
        frame.render_widget(Paragraph::new(self.footer(width)), bottom);
        let pages: Vec<(Pane, Rect, Page)> = {
            let view = self.view();
            let places = self.places(middle).into_iter();
            places.map(|(pane, area)| (pane, area, self.page(pane, view.as_ref(), inside(area)))).collect()
        };
        for (pane, area, page) in pages {
            self.draw_page(frame, pane, area, page);
        }
        if self.help {
            self.draw_help(frame, middle);
        }
    }

    /// Which panes are seen, and where.
    fn places(&self, area: Rect) -> Vec<(Pane, Rect)> {
        if self.alone || area.width < WIDE && area.height + 7 < TALL {
            return vec![(self.focus, area)];
        }
        if area.width < WIDE {
            let [above, below] = Layout::vertical([Constraint::Percentage(45), Constraint::Percentage(55)]).areas(area);
            let second = if self.focus == Pane::Changes { Pane::Mappings } else { self.focus };
            return vec![(Pane::Changes, above), (second, below)];
        }
        let [left, right] = Layout::horizontal([Constraint::Percentage(56), Constraint::Percentage(44)]).areas(area);
        let half = [Constraint::Percentage(45), Constraint::Percentage(55)];
        let [changes, code] = Layout::vertical(half).areas(left);
        if area.height >= 46 {
            let thirds = [Constraint::Percentage(34), Constraint::Percentage(36), Constraint::Percentage(30)];
            let [mappings, lodger, space] = Layout::vertical(thirds).areas(right);
            let middle = if self.lodger == Pane::Space { Pane::Bursts } else { self.lodger };
            return vec![
                (Pane::Changes, changes),
                (Pane::Code, code),
                (Pane::Mappings, mappings),
                (middle, lodger),
                (Pane::Space, space),
            ];
        }
        let [mappings, lodger] = Layout::vertical(half).areas(right);
        vec![(Pane::Changes, changes), (Pane::Code, code), (Pane::Mappings, mappings), (self.lodger, lodger)]
    }

    /// The panes that are seen at this size, for what is exported.
    pub(super) fn seen(&self) -> Vec<Pane> {
        if self.alone { vec![self.focus] } else { Pane::ALL.to_vec() }
    }

    pub(super) fn page(&self, pane: Pane, view: Option<&View<'_>>, (width, height): (usize, usize)) -> Page {
        let Some(view) = view else {
            let text = if self.over { "nothing was recorded" } else { "waiting for the first statement" };
            return Page {
                empty: text.to_owned(),
                ..Page::text(format!("{} {}", pane as usize + 1, pane.name()), vec![])
            };
        };
        match pane {
            Pane::Changes => changes::page(self, view, width),
            Pane::Mappings => mappings::page(self, view, width),
            Pane::Code => code::page(self, view),
            Pane::Bursts => bursts::page(self, view),
            Pane::Space => space::page(self, view, width, height),
            Pane::Summary => summary::page(self, view, width),
            Pane::Time => time::page(self, view, width),
        }
    }

    fn draw_page(&mut self, frame: &mut Frame<'_>, pane: Pane, area: Rect, page: Page) {
        let focused = pane == self.focus;
        let theme = self.theme;
        let borders = if area.x > 0 { Borders::TOP | Borders::LEFT } else { Borders::TOP };
        let block = Block::new().borders(borders).border_style(theme.border(focused));
        let inner = block.inner(area);
        let title = cut(&page.title, area.width.saturating_sub(4) as usize);
        let style = if focused { theme.key() } else { theme.strong() };
        frame.render_widget(block.title(Span::styled(format!(" {title} "), style)), area);

        let cursor = &mut self.cursors[pane as usize];
        cursor.find(&page.keys);
        let width = inner.width as usize;
        let below = inner.height.saturating_sub(page.head.len() as u16) as usize;
        let mut detail = match &page.detail {
            Some(detail) if !page.keys.is_empty() && below >= 8 => detail(cursor.at, width),
            _ => Vec::new(),
        };
        let height = if detail.is_empty() {
            below
        } else {
            let least = page.rows.clamp(3, (below / 2).max(3));
            detail.truncate(below.saturating_sub(least + 1));
            below.saturating_sub(detail.len() + 1)
        };
        let mut lines = page.head.clone();
        let chosen = page.line_of.as_ref().map_or(Some(cursor.at), |lines| lines.get(cursor.at).copied()).unwrap_or(0);
        let top = cursor.scroll(chosen, page.rows, height);
        for index in top..page.rows.min(top + height) {
            let mut line = (page.row)(index, width);
            if focused && page.line_of.is_none() && index == cursor.at {
                line = line.patch_style(theme.selected());
            }
            lines.push(line);
        }
        if page.rows == 0 {
            let words = super::theme::wrap(&page.empty, width.saturating_sub(1));
            lines.extend(words.into_iter().map(|text| Line::styled(format!(" {text}"), theme.faint())));
        }
        frame.render_widget(Paragraph::new(lines), inner);
        if !detail.is_empty() {
            let area = Rect { y: inner.bottom() - detail.len() as u16, height: detail.len() as u16, ..inner };
            frame.render_widget(Paragraph::new(detail), area);
        }
    }

    fn draw_help(&self, frame: &mut Frame<'_>, area: Rect) {
        let lines = help::lines(self.theme);
        let height = (lines.len() as u16 + 2).min(area.height);
        let width = 76.min(area.width);
        let area = Rect { x: (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
        frame.render_widget(Clear, area);
        let block = Block::bordered().border_style(self.theme.border(true)).title(" keys; any key goes back ");
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }
}

/// Columns and rows of a pane without the lines that divide it from its neighbours.
const fn inside(area: Rect) -> (usize, usize) {
    let divider = if area.x > 0 { 1 } else { 0 };
    (area.width.saturating_sub(divider) as usize, area.height.saturating_sub(1) as usize)
}

/// A line of styled pieces.
pub(super) fn line(pieces: Vec<(String, Style)>) -> Line<'static> {
    Line::from(pieces.into_iter().map(|(text, style)| Span::styled(text, style)).collect::<Vec<_>>())
}

/// Words in faint lines, indented by one.
pub(super) fn faint(theme: Theme, text: &str, width: usize) -> Vec<Line<'static>> {
    let words = super::theme::wrap(text, width.saturating_sub(2));
    words.into_iter().map(|text| Line::styled(format!(" {text}"), theme.faint())).collect()
}
