//! RES over time, stacked by class, from zero: what looks like nothing is nothing. Below it the time, with the moment
//! that is looked at, the mark, and where bursts began.

use crate::screen::app::App;
use crate::screen::theme::{Class, right};
use crate::units::Amounts;
use crate::views::human::level;
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};

/// Columns for the numbers at the left.
const LABEL: usize = 11;
const MINUTE: u64 = 60_000_000_000;

/// How much time the picture covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::screen) enum Zoom {
    /// The whole session in a recording, the last five minutes of a live one.
    #[default]
    Fitting,
    Minute,
    TenMinutes,
    Hour,
    Whole,
}

impl Zoom {
    pub(in crate::screen) const fn next(self) -> Self {
        match self {
            Self::Fitting => Self::Minute,
            Self::Minute => Self::TenMinutes,
            Self::TenMinutes => Self::Hour,
            Self::Hour => Self::Whole,
            Self::Whole => Self::Fitting,
        }
    }

    const fn length(self, replay: bool) -> Option<u64> {
        match self {
            Self::Fitting if replay => None,
            Self::Fitting => Some(5 * MINUTE),
            Self::Minute => Some(MINUTE),
            Self::TenMinutes => Some(10 * MINUTE),
            Self::Hour => Some(60 * MINUTE),
            Self::Whole => None,
        }
    }
}

impl App {
    /// The picture in so many rows, and the line of time.
    pub(in crate::screen) fn chart(&self, width: usize, rows: usize) -> Vec<Line<'static>> {
        let columns = width.saturating_sub(LABEL + 1);
        let Some((process, scale)) = self.current().zip(self.scale()).filter(|_| columns > 0) else {
            return Vec::new();
        };
        let begin = self.meta.as_ref().map_or(0, |meta| meta.ts_ns);
        let to = self.now_ns.max(begin + 1);
        let mut from = begin;
        if let Some(length) = self.zoom.length(self.options.replay || self.over) {
            // The moment stays in the picture.
            from = from.max(to.min(self.moment().max(begin + length)).saturating_sub(length));
        }
        let to =
            self.zoom.length(self.options.replay || self.over).map_or(to, |length| to.min(from + length)).max(from + 1);
        let time_of = |column: usize| from + (u128::from(to - from) * (column as u128) / (columns as u128)) as u64;
        let column_of = |ts_ns: u64| {
            let inside = (from..=to).contains(&ts_ns);
            inside.then(|| {
                ((u128::from(ts_ns - from) * columns as u128 / u128::from(to - from)) as usize).min(columns - 1)
            })
        };
        // Before its first change it was as it was at attach.
        let attached = process.overview.as_ref().map(|overview| overview.ts_ns);
        let changed = process.moments.first().map(|first| first.start_ns);
        let began = attached.into_iter().chain(changed).min();
        let mut amounts: Vec<Option<Amounts>> = Vec::with_capacity(columns);
        for column in 0..columns {
            let (start, end) = (time_of(column), time_of(column + 1));
            let most =
                process.moments.between(start, end).map(|s| s.closing.amounts).max_by_key(|amounts| amounts.res());
            let first = began.is_some_and(|began| began <= end);
            amounts.push(most.or_else(|| first.then(|| process.balance(end).map(|b| b.amounts)).flatten()));
        }
        let peak = amounts.iter().flatten().map(|amounts| amounts.res()).max().unwrap_or(0).max(1);
        let mut lines = Vec::with_capacity(rows + 1);
        for row in (0..rows).rev() {
            let label = match row {
                _ if row + 1 == rows => level(scale.bytes(peak)),
                0 => "0".to_owned(),
                _ => String::new(),
            };
            let mut spans = vec![Span::styled(format!("{} ", right(&label, LABEL)), self.theme.faint())];
            spans.extend(amounts.iter().map(|amounts| match amounts {
                Some(amounts) => self.cell(*amounts, peak, row, rows),
                None => Span::raw(" "),
            }));
            lines.push(Line::from(spans));
        }
        lines.push(self.line_of_time(columns, (from, to), column_of));
        lines
    }

    /// One cell: in eighths, the class at its bottom and the one that begins in it.
    fn cell(&self, amounts: Amounts, peak: i64, row: usize, rows: usize) -> Span<'static> {
        const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let eighths = |pages: i64| (i128::from(pages.max(0)) * rows as i128 * 8 / i128::from(peak)) as i64;
        let floor = row as i64 * 8;
        let tops = [
            (Class::Anon, eighths(amounts.anon)),
            (Class::File, eighths(amounts.anon.saturating_add(amounts.file))),
            (Class::Shmem, eighths(amounts.res())),
        ];
        let Some(&(class, top)) = tops.iter().find(|(_, top)| *top > floor) else {
            let trace = row == 0 && amounts.res() > 0;
            return if trace { Span::styled("▁", self.theme.class(Class::Anon).0) } else { Span::raw(" ") };
        };
        let (style, full) = self.theme.class(class);
        let part = (top - floor).clamp(0, 8) as usize;
        if !self.theme.color {
            let all = (eighths(amounts.res()) - floor).clamp(0, 8) as usize;
            return Span::raw(if all == 8 { full } else { EIGHTHS[all] }.to_string());
        }
        let above = tops.iter().find(|(_, other)| *other > top && top < floor + 8).map(|(class, _)| *class);
        let style = match above {
            Some(above) if part < 8 => style.bg(self.theme.class(above).0.fg.unwrap_or(Color::Reset)),
            _ => style,
        };
        Span::styled(EIGHTHS[part].to_string(), style)
    }

    fn line_of_time(
        &self,
        columns: usize,
        (from, to): (u64, u64),
        column_of: impl Fn(u64) -> Option<usize>,
    ) -> Line<'static> {
        let theme = self.theme;
        let mut cells: Vec<(char, Style)> = vec![('─', theme.faint()); columns];
        if let Some((start, end, _)) = self.scope.range {
            let (start, end) = (column_of(start.max(from)).unwrap_or(0), column_of(end.min(to)).unwrap_or(0));
            for cell in cells.iter_mut().take(end + 1).skip(start) {
                *cell = ('━', theme.mark());
            }
        }
        for burst in self.bursts.iter().filter(|burst| Some(burst.mm) == self.shown) {
            if let Some(cell) = column_of(burst.start_ns).and_then(|column| cells.get_mut(column)) {
                *cell = ('▾', theme.change(1));
            }
        }
        if let Some(cell) = self.mark.and_then(&column_of).and_then(|column| cells.get_mut(column)) {
            *cell = ('◆', theme.mark());
        }
        if let Some(cell) = column_of(self.moment()).and_then(|column| cells.get_mut(column)) {
            *cell = ('▲', theme.strong());
        }
        // The times stand where nothing is marked.
        for (at, ts_ns) in [(0, from), (columns.saturating_sub(8), to)] {
            let time = self.time(ts_ns, false);
            let free = cells.iter().skip(at).take(time.len()).all(|(c, _)| *c == '─');
            if free && columns > 24 {
                for (cell, character) in cells.iter_mut().skip(at).zip(time.chars()) {
                    *cell = (character, theme.faint());
                }
            }
        }
        let label = crate::views::human::duration(to - from);
        let mut spans = vec![Span::styled(format!("{} ", right(&label, LABEL)), theme.faint())];
        spans.extend(cells.into_iter().map(|(character, style)| Span::styled(character.to_string(), style)));
        Line::from(spans)
    }
}
