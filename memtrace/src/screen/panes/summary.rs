//! The whole session so far in one page; when it is over, its closing statement.

use super::frame::end_words;
use super::{Page, line};
use crate::screen::app::App;
use crate::screen::scope::View;
use crate::screen::theme::{left, right, wrap};
use crate::statement::Faults;
use crate::units::Amounts;
use crate::views::cause_phrase;
use crate::views::escape::escape;
use crate::views::human::{count, duration, level, percent, signed_size, size};
use crate::views::words::{bpf_ns_per_fault, losses};
use memtrace_common::Cause;
use ratatui::style::Style;
use ratatui::text::Line;
use std::collections::BTreeMap;

/// Processes that are listed.
const PROCESSES: usize = 200;

pub(super) fn page(app: &App, view: &View<'_>, width: usize) -> Page {
    let (theme, scale) = (app.theme, view.scale);
    let plain = Style::new();
    let mut lines: Vec<Line<'static>> = Vec::new();
    // ` label     words that go on below themselves`
    let tell = |lines: &mut Vec<Line<'static>>, label: &str, text: &str, style: Style| {
        for (number, part) in wrap(text, width.saturating_sub(12)).into_iter().enumerate() {
            let label = if number == 0 { label } else { "" };
            lines.push(Line::styled(format!(" {} {part}", left(label, 9)), style));
        }
    };
    if let Some(since) = view.since {
        let frame = &since.frame;
        let change = scale.bytes(since.change().res());
        lines.push(line(vec![
            (
                format!(
                    " opening {}   closing {}   change ",
                    level(scale.bytes(frame.opening.amounts.res())),
                    level(scale.bytes(frame.closing.amounts.res()))
                ),
                plain,
            ),
            (signed_size(change), theme.change(change)),
            (format!("   in {}", duration(frame.ts_ns.saturating_sub(frame.start_ns))), plain),
        ]));
        let mut causes: BTreeMap<Cause, (Amounts, Faults)> = BTreeMap::new();
        for entry in view.entries_since() {
            let sum = causes.entry(entry.cause).or_default();
            sum.0 += entry.delta;
            sum.1 += entry.faults;
        }
        let mut causes: Vec<_> = causes.into_iter().collect();
        causes.sort_by_key(|(_, (delta, _))| std::cmp::Reverse(delta.gross()));
        for (cause, (delta, faults)) in causes {
            let bytes = scale.bytes(delta.res());
            let n = faults.shown();
            let mut tail = if n > 0 { format!("{} faults", count(n)) } else { String::new() };
            if faults.major > 0 {
                tail.push_str(&format!(", {} major", count(faults.major.unsigned_abs())));
            }
            if delta.swap != 0 {
                tail.push_str(&format!("  swap {}", signed_size(scale.bytes(delta.swap))));
            }
            lines.push(line(vec![
                (right(&signed_size(bytes), 13), theme.change(bytes)),
                (format!("  {}", left(cause_phrase(cause), 48)), plain),
                (format!(" {tail}"), theme.faint()),
            ]));
        }
        let gap = scale.bytes(frame.unexplained.gross());
        let style = if gap == 0 || app.without_probes() { plain } else { theme.alarm() };
        lines.push(line(vec![
            (right(if gap == 0 { "0 B" } else { "" }, 13), style),
            (if gap == 0 { "  unexplained".to_owned() } else { format!("  unexplained {}", level(gap)) }, style),
        ]));
    } else {
        lines.push(Line::styled(" nothing changed yet", theme.faint()));
    }
    lines.push(Line::default());
    if app.lost.total() == 0 {
        tell(&mut lines, "lost", "nothing", plain);
    }
    for (name, n, meaning) in losses(app.lost).into_iter().filter(|&(_, n, _)| n > 0) {
        tell(&mut lines, "lost", &format!("{name} {}: {meaning}", count(n)), theme.alarm());
    }
    if let Some(audit) = &view.process.audit {
        let (off, all) = view.process.audits;
        let text = format!(
            "{} of {} agreed; the last one, {}: {} mappings in {}, longest hold {}",
            count(all.saturating_sub(off)),
            count(all),
            app.time(audit.ts_ns, true),
            count(audit.mappings as u64),
            duration(audit.cost_ns),
            duration(audit.longest_hold_ns)
        );
        tell(&mut lines, "audits", &text, plain);
        for difference in audit.differing.iter().take(5) {
            lines.push(Line::raw(format!(
                "           smaps {}, ledger {}: {}",
                signed_size(scale.bytes(difference.smaps)),
                signed_size(scale.bytes(difference.ledger)),
                crate::screen::words::mapping(&difference.mapping)
            )));
        }
    }
    if let (Some(own), Some(meta)) = (app.own, &app.meta) {
        let wall = app.now_ns.saturating_sub(meta.ts_ns);
        let share = percent(own.cpu_ns, wall).unwrap_or_else(|| "0.0 %".to_owned());
        let mut text = format!("{share} of a core, {} at most", size(own.max_rss));
        if let Some(bpf) = own.bpf_ns {
            text.push_str(&format!("; in BPF programs {}", duration(bpf)));
        }
        if let Some(ns) = app.end.as_ref().and_then(|end| bpf_ns_per_fault(own, end.total.faults)) {
            text.push_str(&format!(", at most {} a fault", duration(ns)));
        }
        tell(&mut lines, "own cost", &text, plain);
    }
    if let Some(end) = &app.end {
        let stacks = &end.stacks;
        if let Some(share) = percent(stacks.complete, stacks.grown) {
            let text = format!("{share} of what grew has a complete one");
            tell(&mut lines, "stacks", &text, plain);
        }
    }
    if let Some(until) = view.process.moments.joined_until {
        let text = format!("until {} coarser than one interval", app.time(until, true));
        tell(&mut lines, "history", &text, theme.faint());
    }
    if app.processes.len() > 1 {
        lines.push(Line::default());
        lines.push(Line::styled(format!(" {} processes; p shows the next one", app.processes.len()), theme.strong()));
        for process in app.processes.values().take(PROCESSES) {
            let res = process.balance(view.to).map_or(0, |balance| scale.bytes(balance.amounts.res()));
            let here = if Some(process.mm) == app.shown { "▸" } else { " " };
            let gone = if process.closing.is_some() { "  ended" } else { "" };
            lines.push(Line::raw(format!(
                " {here} {} {}{gone}",
                left(&format!("{}[{}]", escape(&process.comm, 20), process.pid), 30),
                right(&level(res), 12)
            )));
        }
        if app.forgotten > 0 {
            lines.push(Line::styled(format!("   and {} that ended before", count(app.forgotten)), theme.faint()));
        }
    }
    let title = match &app.end {
        Some(end) => format!("6 closing statement · {}", end_words(&end.end.reason)),
        None => format!("6 summary · since attach{}", super::changes::part(app)),
    };
    Page::text(title, lines)
}
