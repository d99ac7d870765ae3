//! The screen on a buffer: what is seen at which size, what keys do, and that nothing from outside can break it.

mod any;
mod pictures;
pub(super) mod sample;
mod travel;

use super::{App, Options, Reaction, Save};
use crate::statement::Report;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

const NARROW: (u16, u16) = (80, 24);
const WIDE: (u16, u16) = (200, 60);

fn app(reports: &[Report], options: Options) -> App {
    let mut app = App::new(options);
    reports.iter().for_each(|report| app.take(report));
    app
}

/// The hash join, live, without colours, at its last tick.
fn joined() -> App {
    app(&sample::hash_join(), Options::default())
}

fn press(app: &mut App, keys: &str) -> Reaction {
    let mut last = Reaction::Draw;
    for key in keys.split(' ').filter(|key| !key.is_empty()) {
        let code = match key {
            "enter" => KeyCode::Enter,
            "esc" => KeyCode::Esc,
            "left" => KeyCode::Left,
            "right" => KeyCode::Right,
            "down" => KeyCode::Down,
            "up" => KeyCode::Up,
            "end" => KeyCode::End,
            "pgdn" => KeyCode::PageDown,
            "space" => KeyCode::Char(' '),
            "tab" => KeyCode::Tab,
            one => KeyCode::Char(one.chars().next().unwrap_or(' ')),
        };
        last = app.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
    last
}

fn type_in(app: &mut App, text: &str) {
    text.chars().for_each(|c| _ = app.key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE)));
}

fn buffer(app: &mut App, (width, height): (u16, u16)) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a buffer");
    terminal.draw(|frame| app.draw(frame)).expect("a buffer takes everything");
    terminal.backend().buffer().clone()
}

fn text_of(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in 0..buffer.area.height {
        let mut x = 0;
        let mut line = String::new();
        while x < buffer.area.width {
            let symbol = buffer[(x, y)].symbol();
            line.push_str(symbol);
            // A wide character covers the next cell.
            x += super::theme::columns(symbol).max(1) as u16;
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn seen(app: &mut App, size: (u16, u16)) -> String {
    text_of(&buffer(app, size))
}

fn saved(reaction: Reaction) -> Save {
    match reaction {
        Reaction::Save(save) => save,
        other => panic!("nothing to save: {other:?}"),
    }
}

fn is_plain(buffer: &Buffer) -> bool {
    let allowed = Modifier::BOLD | Modifier::REVERSED;
    buffer
        .content
        .iter()
        .all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset && (cell.modifier - allowed).is_empty())
}
