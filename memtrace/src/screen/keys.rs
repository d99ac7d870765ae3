//! What each key does.

use super::app::{App, Reaction};
use super::panes::{Order, Pane, bursts, changes, code, mappings};
use super::scope::{Drill, Span, stretch};
use super::words;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// Longest filter.
const FILTER: usize = 200;

impl App {
    /// Takes a key.
    pub fn key(&mut self, key: KeyEvent) -> Reaction {
        if key.kind == KeyEventKind::Release {
            return Reaction::Draw;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return self.leave(),
            KeyCode::Char('z') if control => return Reaction::Suspend,
            _ if control => return Reaction::Draw,
            _ => {}
        }
        self.note = None;
        if self.typing.is_some() {
            self.type_filter(key.code);
            return Reaction::Draw;
        }
        if self.help && key.code != KeyCode::Char('q') {
            self.help = false;
            return Reaction::Draw;
        }
        let far = key.modifiers.contains(KeyModifiers::SHIFT);
        match key.code {
            KeyCode::Char('q') => return self.leave(),
            KeyCode::Char('?') => self.help = true,
            KeyCode::Char(' ') => self.pause(),
            KeyCode::Left | KeyCode::Char('h') => self.step(far, false),
            KeyCode::Right | KeyCode::Char('l') => self.step(far, true),
            KeyCode::Char('<' | ',') => self.step(true, false),
            KeyCode::Char('>' | '.') => self.step(true, true),
            KeyCode::Char('[') => {
                let first = self.current().and_then(|process| process.moments.first());
                self.scope.cursor = first.map(|first| first.ts_ns);
                self.scope.range = None;
            }
            KeyCode::Char(']') => self.go_live(),
            KeyCode::Char('+' | '=') => self.widen(1),
            KeyCode::Char('-' | '_') => self.widen(-1),
            KeyCode::Char('a') => {
                self.scope.range = None;
                self.scope.span = if self.scope.span == Span::All { Span::Seconds(10) } else { Span::All };
            }
            KeyCode::Up | KeyCode::Char('k') => self.cursor().up(1),
            KeyCode::Down | KeyCode::Char('j') => self.cursor().down(1),
            KeyCode::PageUp => self.cursor().page_up(),
            KeyCode::PageDown => self.cursor().page_down(),
            KeyCode::Home | KeyCode::Char('g') => self.cursor().up(usize::MAX),
            KeyCode::End | KeyCode::Char('G') => self.cursor().down(usize::MAX),
            KeyCode::Char('s') => self.sort(),
            KeyCode::Char('c') => self.callees = !self.callees,
            KeyCode::Char('f') => self.unfolded = !self.unfolded,
            KeyCode::Char('t') => self.zoom = self.zoom.next(),
            KeyCode::Char('z') => self.alone = !self.alone,
            KeyCode::Char('/') => self.typing = Some(self.scope.filter.clone()),
            KeyCode::Char('m') => {
                self.mark = Some(self.moment());
                self.note = Some("marked; go to another moment and press d for what changed between them".to_owned());
            }
            KeyCode::Char('d') => self.diff(),
            KeyCode::Char('e') => return self.export_text(),
            KeyCode::Char('E') => return self.export_json(),
            KeyCode::Char('p') => self.next_process(),
            KeyCode::Char(digit @ '1'..='7') => {
                let number = digit as usize - '1' as usize;
                self.visit(Pane::ALL[number]);
            }
            KeyCode::Tab => self.visit(self.focus.next(1)),
            KeyCode::BackTab => self.visit(self.focus.next(Pane::ALL.len() - 1)),
            KeyCode::Enter => self.enter(),
            KeyCode::Esc | KeyCode::Backspace => self.back(),
            _ => {}
        }
        Reaction::Draw
    }

    fn leave(&mut self) -> Reaction {
        self.leaving = true;
        Reaction::Quit
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            // What was there before it was typed stays.
            KeyCode::Esc => {
                self.scope.filter = self.typing.take().unwrap_or_default();
            }
            KeyCode::Enter => self.typing = None,
            KeyCode::Backspace => {
                self.scope.filter.pop();
            }
            KeyCode::Char(character) if !character.is_control() && self.scope.filter.len() < FILTER => {
                self.scope.filter.push(character);
            }
            _ => {}
        }
    }

    fn go_live(&mut self) {
        self.scope.cursor = None;
        self.scope.range = None;
    }

    fn pause(&mut self) {
        if self.scope.cursor.is_some() || self.scope.range.is_some() {
            self.go_live();
        } else {
            self.scope.cursor = Some(self.now_ns);
        }
    }

    fn step(&mut self, far: bool, forward: bool) {
        let at = self.moment();
        self.scope.range = None;
        let Some(process) = self.current() else { return };
        let moments = &process.moments;
        let (Some(first), Some(last)) = (moments.first(), moments.last()) else { return };
        let (first, last) = (first.ts_ns, last.ts_ns);
        let stride = match self.scope.span {
            _ if !far => 0,
            Span::All | Span::Interval => last.saturating_sub(first) / 20,
            Span::Seconds(seconds) => seconds * 1_000_000_000,
        };
        let next = if forward {
            let aim = at.saturating_add(stride);
            moments.after(aim).map(|next| next.ts_ns)
        } else {
            let aim = at.saturating_sub(stride.max(1));
            Some(moments.at(aim).map_or(first, |before| before.ts_ns))
        };
        // After the last one comes now.
        self.scope.cursor = next;
    }

    fn widen(&mut self, by: isize) {
        self.scope.range = None;
        self.scope.span = self.scope.span.wider(by);
    }

    fn sort(&mut self) {
        match self.focus {
            Pane::Changes => self.by_since = !self.by_since,
            Pane::Mappings | Pane::Space => self.order = self.order.next(),
            Pane::Code => self.measure = self.measure.next(),
            Pane::Bursts | Pane::Summary | Pane::Time => {}
        }
    }

    fn next_process(&mut self) {
        let after = self.shown.and_then(|shown| self.processes.range(shown..).nth(1)).map(|(&mm, _)| mm);
        self.shown = after.or_else(|| self.processes.keys().next().copied());
        self.scope.drill = None;
        if self.processes.len() < 2 {
            self.note = Some("there is one process only; --follow watches its children, too".to_owned());
        }
    }

    fn diff(&mut self) {
        let to = self.moment();
        self.note = match self.mark {
            None => Some("mark a moment with m first".to_owned()),
            Some(mark) if mark == to => Some("this is the marked moment: go to another one".to_owned()),
            Some(mark) => {
                self.scope.range = Some((mark.min(to), mark.max(to), "diff"));
                None
            }
        };
    }

    /// The stretch stays as it is while time goes on.
    fn freeze(&mut self) {
        if let Some(process) = self.current().filter(|_| self.scope.range.is_none()) {
            let (from, to) = stretch(process, &self.scope, self.now_ns);
            self.scope.range = Some((from, to, "frozen"));
        }
    }

    fn enter(&mut self) {
        self.prepare();
        let at = self.cursors[self.focus as usize].at;
        let Some(view) = self.view() else { return };
        match self.focus {
            Pane::Changes => {
                let Some(row) = changes::rows(&view, self.by_since).into_iter().nth(at) else { return };
                let drill = Drill {
                    cause: Some(row.cause),
                    mapping: row.mapping.as_ref().map(|mapping| mapping.id),
                    name: row.name(),
                    lead: row.lead,
                };
                self.freeze();
                self.scope.drill = Some(drill);
                self.visit(Pane::Code);
            }
            Pane::Mappings | Pane::Space => {
                let order = if self.focus == Pane::Space { Order::Address } else { self.order };
                let Some(row) = mappings::rows(&view, order).into_iter().nth(at) else { return };
                let mapping = &row.area.mapping;
                let name = words::mapping(mapping);
                let drill = Drill { cause: None, mapping: Some(mapping.id), lead: None, name };
                self.freeze();
                self.scope.drill = Some(drill);
                self.visit(Pane::Changes);
            }
            Pane::Code => {
                let path = code::branches(self, &view).0.get(at).map(|branch| branch.path);
                if let Some(path) = path
                    && !self.toggled.remove(&path)
                {
                    self.toggled.insert(path);
                }
            }
            Pane::Bursts => {
                let Some(burst) = bursts::rows(self, &view).into_iter().nth(at) else { return };
                self.shown = Some(burst.mm).filter(|mm| self.processes.contains_key(mm)).or(self.shown);
                let moments = self.current().map(|process| &process.moments);
                let from = moments.and_then(|m| m.at(burst.start_ns)).map_or(0, |before| before.ts_ns);
                let end = burst.ts_ns.saturating_sub(1);
                let to = moments.and_then(|m| m.after(end)).map_or(self.now_ns, |last| last.ts_ns);
                self.scope.range = Some((from, to, "burst"));
                self.visit(Pane::Code);
            }
            Pane::Summary | Pane::Time => {}
        }
    }

    /// One step out: of the drill, of the frozen stretch, of the filter, of the past.
    fn back(&mut self) {
        if self.scope.drill.take().is_some() {
            return;
        }
        if self.scope.range.take().is_some() {
            return;
        }
        if !self.scope.filter.is_empty() {
            self.scope.filter.clear();
        } else if self.alone {
            self.alone = false;
        } else {
            self.scope.cursor = None;
        }
    }

    fn cursor(&mut self) -> &mut super::panes::Cursor {
        &mut self.cursors[self.focus as usize]
    }
}
