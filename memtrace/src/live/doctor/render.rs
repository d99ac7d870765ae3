//! The answer as text, one line a check with the line to type under what failed, and as one JSON object.

use super::{Check, Examination, State};
use crate::cli::ExitCode;
use crate::event::Mode;
use crate::views::escape;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Version of the object in docs/doctor.md; a field may be added within it, none changes its meaning.
const SCHEMA: u32 = 1;
/// Longest line of a detail that is shown.
const CAP: usize = 400;

/// For people. Marks can be told apart without colour.
pub(super) fn text(examination: &Examination, color: bool) -> String {
    let mut out = format!("memtrace {} doctor\n", env!("CARGO_PKG_VERSION"));
    let width = examination.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut group = "";
    let mut advised = BTreeSet::new();
    let mut checks = examination.checks.iter().peekable();
    while let Some(check) = checks.next() {
        if check.group != group {
            group = check.group;
            let _ = write!(out, "\n{group}\n");
        }
        if check.state == State::Untried {
            let mut more = 0;
            while checks.next_if(|next| next.state == State::Untried && next.group == group).is_some() {
                more += 1;
            }
            untried(&mut out, check, more, width, color);
            continue;
        }
        line(&mut out, check, width, color);
        for advice in check.advice.iter().filter(|advice| advised.insert(advice.as_str())) {
            let _ = writeln!(out, "      try: {advice}");
        }
    }
    verdict(&mut out, examination, color);
    out
}

/// Checks of one group that were not tried, in one line.
fn untried(out: &mut String, first: &Check, more: usize, width: usize, color: bool) {
    let mark = painted(mark(State::Untried).0, mark(State::Untried).1, color);
    let name = escape(first.name.as_bytes(), 80);
    let others = match more {
        0 => String::new(),
        more => format!(", like {more} more"),
    };
    let _ = writeln!(out, "  {mark} {name:<width$}  not tried{others}: what is above failed");
}

const fn mark(state: State) -> (&'static str, &'static str) {
    match state {
        State::Ok => ("✓", "32"),
        State::Failed => ("✗", "31;1"),
        State::Limited => ("!", "33"),
        State::Untried => ("-", "2"),
        State::Fact => ("·", "2"),
    }
}

fn line(out: &mut String, check: &Check, width: usize, color: bool) {
    let (mark, paint) = mark(check.state);
    let mark = painted(mark, paint, color);
    let mut lines = check.detail.lines();
    let first = escape(lines.next().unwrap_or_default().as_bytes(), CAP);
    let name = escape(check.name.as_bytes(), 80);
    let _ = writeln!(out, "  {mark} {name:<width$}  {first}");
    for more in lines.filter(|more| !more.trim().is_empty()) {
        let _ = writeln!(out, "        {}", escape(more.trim().as_bytes(), CAP));
    }
}

fn painted(text: &str, paint: &str, color: bool) -> String {
    if color { format!("\x1b[{paint}m{text}\x1b[0m") } else { text.to_owned() }
}

fn verdict(out: &mut String, examination: &Examination, color: bool) {
    let _ = match examination.reason() {
        None => {
            let limited = examination.checks.iter().filter(|check| check.state == State::Limited).count();
            let rest = match limited {
                0 => "",
                1 => "\nThe line marked ! says what is less precise, or dearer; the sum is not.",
                _ => "\nThe lines marked ! say what is less precise, or dearer; the sum is not.",
            };
            let exact = painted("mode exact", "32;1", color);
            writeln!(out, "\n{exact}: every change of RES will be explained to the byte.{rest}")
        }
        Some(reason) => {
            let procfs = painted("mode procfs", "31;1", color);
            writeln!(
                out,
                "\n{procfs}: memtrace --no-bpf --pid N shows how RES changes, and not why. {}:\n  {}",
                match examination.exit_code() {
                    ExitCode::NotPermitted => "Not permitted (sudo memtrace doctor says what root may)",
                    _ => "In the way",
                },
                escape(reason.as_bytes(), CAP)
            )
        }
    };
}

/// For programs; see docs/doctor.md.
pub(super) fn json(examination: &Examination) -> String {
    let mode = match examination.mode() {
        Mode::Exact => "exact",
        _ => "procfs",
    };
    let object = json!({
        "type": "doctor",
        "schema": SCHEMA,
        "version": env!("CARGO_PKG_VERSION"),
        "kernel": examination.kernel,
        "arch": examination.arch,
        "mode": mode,
        "mode_reason": examination.reason(),
        "exit_code": examination.exit_code() as u8,
        "checks": examination.checks.iter().map(check).collect::<Vec<_>>(),
    });
    format!("{object}\n")
}

fn check(check: &Check) -> Value {
    let state = match check.state {
        State::Ok => "ok",
        State::Failed => "failed",
        State::Limited => "limited",
        State::Untried => "untried",
        State::Fact => "fact",
    };
    json!({
        "group": check.group,
        "name": check.name,
        "state": state,
        "blame": check.blame.map(|blame| match blame {
            super::Blame::Permission => "permission",
            super::Blame::Kernel => "kernel",
        }),
        "detail": (!check.detail.is_empty()).then_some(&check.detail),
        "advice": check.advice,
    })
}
