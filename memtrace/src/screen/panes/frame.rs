//! What stands above and below the panes: how much memory there is, how exact this is, which keys there are.

use super::{Pane, line};
use crate::event::{EndReason, Mode};
use crate::screen::app::App;
use crate::screen::scope::Span;
use crate::screen::theme::{columns, cut};
use crate::screen::words;
use crate::views::escape::escape;
use crate::views::human::{count, duration, level, percent, signed_size, size};
use crate::views::words::{exit_phrase, losses};
use ratatui::style::Style;
use ratatui::text::Line;
use time::UtcOffset;

type Piece = (String, Style);

impl App {
    /// Two lines.
    pub(in crate::screen) fn header(&self, width: usize) -> Vec<Line<'static>> {
        let theme = self.theme;
        let Some(meta) = &self.meta else {
            return vec![Line::styled(" memtrace", theme.strong()), Line::raw(" waiting for the session to begin")];
        };
        let process = self.current();
        let (pid, comm) = process.map_or((meta.pid, &meta.comm), |process| (process.pid, &process.comm));
        let name = format!(" {}[{pid}]", escape(comm, 20));
        let Some((view, process)) = self.view().zip(process) else {
            return vec![Line::styled(name, theme.strong()), line(self.moment_pieces())];
        };
        let plain = Style::new();
        let mut first = vec![(name, theme.strong())];
        let mut second: Vec<Piece> = Vec::new();
        let balance = process.balance(view.to);
        let overview = process.overview.as_ref();
        let (virt, amounts) = match (balance, overview) {
            (Some(balance), _) => (
                balance.virt.map(|pages| view.scale.bytes(i64::try_from(pages).unwrap_or(i64::MAX))),
                view.scale.amounts(balance.amounts),
            ),
            (None, Some(o)) => {
                let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
                let amounts = crate::units::Amounts {
                    anon: bytes(o.anon),
                    file: bytes(o.file),
                    shmem: bytes(o.shmem),
                    swap: bytes(o.swap),
                };
                (Some(bytes(o.virt)), amounts)
            }
            (None, None) => return vec![line(first), line(self.moment_pieces())],
        };
        first.push((format!("  RES {}", level(amounts.res())), theme.strong()));
        first.push((
            format!(" = anon {} + file {} + shmem {}", level(amounts.anon), level(amounts.file), level(amounts.shmem)),
            plain,
        ));
        let command = meta.cmdline.split(|&byte| byte == 0).collect::<Vec<_>>().join(&b' ');
        if !narrow(width) && pid == meta.pid && !command.is_empty() {
            first.push((format!("   {}", escape(&command, width)), theme.faint()));
        }
        let virt = virt.map_or_else(|| "?".to_owned(), level);
        let shr = level(amounts.file.saturating_add(amounts.shmem));
        second.push((format!(" VIRT {virt}  SHR {shr}  SWAP {}", level(amounts.swap)), plain));
        let read = process.reading(view.to);
        let shares = read.map(|reading| {
            let sum = |part: fn(&crate::statement::Resident) -> u64| {
                reading.mappings.iter().map(part).fold(0, u64::saturating_add)
            };
            (sum(|r| r.private), sum(|r| r.pss), reading.ts_ns)
        });
        let at_attach = overview.and_then(|o| Some((o.uss?, o.pss?, o.ts_ns)));
        if let Some((uss, pss, ts_ns)) = shares.or(at_attach) {
            second.push((format!("  USS {}  PSS {}", size(uss), size(pss)), plain));
            second.push((format!(" at {}", self.time(ts_ns, false)), theme.faint()));
        }
        let tail = self.moment_pieces();
        let room = width.saturating_sub(tail.iter().map(|(text, _)| columns(text)).sum::<usize>() + 1);
        let mut second = if narrow(width) { compacted(second) } else { second };
        // What has no room is left out from the right, but never which moment this is.
        while second.len() > 1 && columns_of(&second) > room {
            second.pop();
        }
        let mut second = cut_pieces(second, room);
        second.push((" ".repeat(room.saturating_sub(columns_of(&second))), plain));
        second.extend(tail);
        let first = if narrow(width) { compacted(first) } else { first };
        vec![line(cut_pieces(first, width)), line(second)]
    }

    /// Which moment this is, and whether it is now.
    fn moment_pieces(&self) -> Vec<Piece> {
        let theme = self.theme;
        let time = self.time(self.moment(), true);
        match (&self.scope.range, self.scope.cursor) {
            (Some((_, _, what)), _) => {
                vec![(format!(" {} ", what.to_uppercase()), theme.alarm()), (format!(" {time}"), theme.strong())]
            }
            (None, Some(_)) => vec![(" PAST ".to_owned(), theme.alarm()), (format!(" {time}"), theme.strong())],
            (None, None) if self.over => vec![(" END ".to_owned(), theme.strong()), (time, theme.strong())],
            (None, None) => vec![(" LIVE ".to_owned(), theme.key()), (time, theme.strong())],
        }
    }

    /// `12:00:03.120`, UTC.
    pub(in crate::screen) fn time(&self, ts_ns: u64, millis: bool) -> String {
        let Some(scale) = self.scale() else { return String::new() };
        let (_, time) = scale.clock.date_and_time(ts_ns, UtcOffset::UTC);
        if millis { time } else { time.split('.').next().unwrap_or_default().to_owned() }
    }

    /// Two lines: how far this can be believed, and the keys.
    pub(in crate::screen) fn footer(&self, width: usize) -> Vec<Line<'static>> {
        let theme = self.theme;
        vec![line(cut_pieces(self.status(), width)), self.keys_line(width, theme.key(), theme.faint())]
    }

    fn status(&self) -> Vec<Piece> {
        let theme = self.theme;
        let plain = Style::new();
        if let Some(filter) = self.typing.as_ref().map(|_| &self.scope.filter) {
            return vec![
                (format!(" / {}▏", escape(filter.as_bytes(), 200)), theme.key()),
                ("  enter: keep, esc: as before".to_owned(), theme.faint()),
            ];
        }
        if let Some(note) = &self.note {
            return vec![(format!(" {note} "), theme.mark())];
        }
        let mut pieces: Vec<Piece> = Vec::new();
        if self.leaving && !self.over {
            pieces.push(("ending the session …".to_owned(), theme.mark()));
        }
        if let Some(meta) = &self.meta {
            let (words, style) = match meta.mode {
                Mode::Exact => ("exact", plain),
                Mode::Summed => ("summed", plain),
                Mode::Batched => ("batched: up to 64 pages a thread unexplained", theme.alarm()),
                Mode::Procfs => ("no probes: causes unknown", theme.alarm()),
            };
            pieces.push((words.to_owned(), style));
        }
        let lost = self.lost.total();
        if lost == 0 {
            pieces.push(("lost 0".to_owned(), plain));
        } else {
            let most = losses(self.lost).into_iter().max_by_key(|(_, n, _)| *n);
            let name = most.map_or("", |(name, _, _)| name);
            pieces.push((format!("lost {} ({name})", count(lost)), theme.alarm()));
        }
        if let Some(process) = self.current() {
            let scale = self.scale();
            let unexplained = process.total.as_ref().map_or(0, |total| total.frame.unexplained.gross());
            let bytes = scale.map_or(0, |scale| scale.bytes(unexplained));
            let style = if bytes == 0 || self.without_probes() { plain } else { theme.alarm() };
            pieces.push((format!("unexplained {}", if bytes == 0 { "0 B".to_owned() } else { level(bytes) }), style));
            if let Some(audit) = &process.audit {
                let real = audit.quiet && !audit.difference.is_zero();
                let text = match (real, audit.differing_count) {
                    (true, _) => {
                        format!("audit: {} off", signed_size(scale.map_or(0, |s| s.bytes(audit.difference.res()))))
                    }
                    (false, 0) => "audit ok".to_owned(),
                    (false, n) => format!("audit: {} differ", count(n as u64)),
                };
                let style = if real { theme.alarm() } else { plain };
                pieces.push((format!("{text} {}", duration(audit.cost_ns)), style));
            }
        }
        if let (Some(own), Some(meta)) = (self.own, &self.meta) {
            let wall = self.now_ns.saturating_sub(meta.ts_ns);
            if let Some(share) = percent(own.cpu_ns.saturating_add(own.bpf_ns.unwrap_or(0)), wall) {
                pieces.push((format!("own {share}"), plain));
            }
        }
        if let Some(end) = &self.end {
            pieces.push((end_words(&end.end.reason), theme.mark()));
        }
        let mut joined: Vec<Piece> = vec![(" ".to_owned(), plain)];
        for (index, piece) in pieces.into_iter().enumerate() {
            if index > 0 {
                joined.push((" · ".to_owned(), theme.faint()));
            }
            joined.push(piece);
        }
        joined
    }

    pub(in crate::screen) fn without_probes(&self) -> bool {
        self.meta.as_ref().is_some_and(|meta| meta.mode == Mode::Procfs)
    }

    fn keys_line(&self, width: usize, key: Style, words: Style) -> Line<'static> {
        let sort = match self.focus {
            Pane::Code => "measure",
            _ => "sort",
        };
        let enter = match self.focus {
            Pane::Code => "open",
            Pane::Summary | Pane::Time => "",
            _ => "look into",
        };
        let span = if self.scope.span == Span::All { "10 s" } else { "all" };
        let mut hints = vec![
            ("q", "quit"),
            ("?", "help"),
            ("␣", if self.scope.cursor.is_some() || self.scope.range.is_some() { "live" } else { "pause" }),
            ("←→", "time"),
            ("1-7", "panes"),
            ("⏎", enter),
            ("esc", "back"),
            ("/", "filter"),
            ("s", sort),
            ("a", span),
            ("+-", "span"),
            ("m d", "diff"),
            ("c", "callers"),
            ("f", "fold"),
            ("e E", "save"),
            ("z", "alone"),
            ("p", "process"),
        ];
        let inside =
            self.scope.drill.is_some() || self.scope.range.is_some() || !self.scope.filter.is_empty() || self.alone;
        hints.retain(|(name, what)| {
            !what.is_empty()
                && (self.focus == Pane::Code || !matches!(*name, "c" | "f"))
                && (self.processes.len() > 1 || *name != "p")
                && (inside || *name != "esc")
        });
        let mut pieces = vec![(" ".to_owned(), words)];
        let mut used = 1;
        for (name, what) in hints {
            used += columns(name) + columns(what) + 3;
            if used > width {
                break;
            }
            pieces.push((name.to_owned(), key));
            pieces.push((format!(" {what}  "), words));
        }
        line(pieces)
    }
}

/// Why the session is over.
pub(super) fn end_words(reason: &EndReason) -> String {
    match reason {
        EndReason::Exited { code: Some(code) } => exit_phrase(*code),
        EndReason::Exited { code: None } => "ended".to_owned(),
        EndReason::Interrupted => "ended by request".to_owned(),
        EndReason::Duration => "the time is over".to_owned(),
        EndReason::OutputClosed => "the output was closed".to_owned(),
        EndReason::Truncated => "the recording is cut here".to_owned(),
    }
}

fn narrow(width: usize) -> bool {
    width < 110
}

fn compacted(pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.into_iter().map(|(text, style)| (words::compact(&text), style)).collect()
}

fn columns_of(pieces: &[Piece]) -> usize {
    pieces.iter().map(|(text, _)| columns(text)).sum()
}

fn cut_pieces(pieces: Vec<Piece>, width: usize) -> Vec<Piece> {
    let mut left = width;
    let mut kept = Vec::new();
    for (text, style) in pieces {
        if left == 0 {
            break;
        }
        let text = cut(&text, left);
        left -= columns(&text);
        kept.push((text, style));
    }
    kept
}
