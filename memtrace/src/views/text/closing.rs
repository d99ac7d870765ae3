//! The closing statement: by cause, by mapping, then the books in bytes, where everything must add up exactly.

use super::{Look, Session, process_name};
use crate::event::{EndReason, Own};
use crate::hints;
use crate::statement::{ClosingStatement, EndReport, Faults, Sum};
use crate::units::Amounts;
use crate::views::Scale;
use crate::views::human::{count, counted, duration, exact, level, percent, signed_size, size};
use crate::views::words::{bpf_ns_per_fault, cause_phrase, exit_phrase, losses, mapping_phrase};
use memtrace_common::Cause;

/// Mappings that are listed; the rest is summed.
const MAPPINGS: usize = 10;
/// Hints at the end: more would not be read.
const HINTS: usize = 4;
/// Column at which what follows a two-word label begins.
const INDENT: usize = 13;

impl Session {
    /// The closing statement of one mm among several: whole for the process that was asked for and for books that
    /// leave something open, one sentence for children, of which there may be thousands.
    pub(super) fn closing(&mut self, closing: &ClosingStatement) {
        if closing.pid != self.meta.pid && closing.unexplained.is_zero() && !self.options.verbose {
            return self.closing_sentence(closing);
        }
        let title = format!(
            "closing statement of {}, {}",
            process_name(closing.pid, &closing.comm),
            duration(closing.ts_ns.saturating_sub(closing.start_ns))
        );
        self.sheet.rule(&title);
        self.books(closing);
    }

    /// `12:00:05.000  sh[4720]  closes: RES 0 → 0, peak 1.2 MiB: +1.1 MiB fork, −1.1 MiB exit; 321 faults; unexplained 0 B`
    fn closing_sentence(&mut self, c: &ClosingStatement) {
        let scale = self.scale;
        let mut causes: Vec<&(Cause, Sum)> = c.by_cause.iter().filter(|(_, sum)| !sum.delta.is_zero()).collect();
        causes.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.delta.gross()));
        let mut parts: Vec<String> = causes
            .iter()
            .take(4)
            .map(|(cause, sum)| format!("{} {}", signed_size(scale.bytes(sum.delta.res())), cause.name()))
            .collect();
        if causes.len() > parts.len() {
            parts.push(counted((causes.len() - parts.len()) as u64, "more cause", "more causes"));
        }
        let text = format!(
            "{}  closes: RES {} → {}, peak {}: {}; {}; unexplained 0 B",
            process_name(c.pid, &c.comm),
            level(scale.bytes(c.opening.amounts.res())),
            level(scale.bytes(c.closing.amounts.res())),
            level(scale.bytes(c.peak_res)),
            if parts.is_empty() { "nothing changed".to_owned() } else { parts.join(", ") },
            counted(c.faults.shown(), "fault", "faults"),
        );
        let stamp = self.stamp(c.ts_ns);
        let indent = stamp.chars().count();
        self.sheet.wrapped((Look::Faint, &stamp), indent, (Look::Plain, &text));
    }

    /// The closing statement of the session.
    pub(super) fn end(&mut self, end: &EndReport) {
        let span = end.total.ts_ns.saturating_sub(end.total.start_ns);
        let title = if end.mms > 1 {
            format!("closing statement, {} address spaces together, {}", count(end.mms as u64), duration(span))
        } else {
            format!("closing statement, {}", duration(span))
        };
        let name = process_name(self.meta.pid, &self.meta.comm);
        let reason = match &end.end.reason {
            EndReason::Exited { code: Some(code) } => format!("{name} {}", exit_phrase(*code)),
            EndReason::Exited { code: None } => format!("{name} ended"),
            EndReason::Interrupted => "interrupted".to_owned(),
            EndReason::Duration => "--duration is over".to_owned(),
            EndReason::OutputClosed => "the reader of the output went away".to_owned(),
            EndReason::Truncated => "the trace ends here without a proper end: it was cut off".to_owned(),
        };
        self.sheet.rule(&title);
        let look = if end.end.reason == EndReason::Truncated { Look::Alarm } else { Look::Plain };
        self.sheet.wrapped((Look::Plain, "ended        "), INDENT, (look, &reason));
        self.books(&end.total);
        self.lost(end);
        self.stacks(&end.stacks);
        self.names(&end.end.naming);
        self.audits_line();
        self.own(end.own, end.total.faults, span);
        self.next_steps(&end.total);
    }

    fn books(&mut self, c: &ClosingStatement) {
        let scale = self.scale;
        let (opening, closing) = (c.opening.amounts, c.closing.amounts);
        let change = scale.bytes((closing - opening).res());
        self.sheet.line(&[
            (Look::Plain, &format!("RES          opening {} · closing ", level(scale.bytes(opening.res())))),
            (Look::Plain, &level(scale.bytes(closing.res()))),
            (Look::Plain, " · change "),
            (Look::of(change), &signed_size(change)),
            (Look::Plain, &format!(" · largest at a tick {}", level(scale.bytes(c.peak_res)))),
        ]);
        self.causes(c);
        self.mappings(c);
        self.code(c);
        self.ledger(c);
    }

    fn causes(&mut self, c: &ClosingStatement) {
        let scale = self.scale;
        let rows: Vec<&(Cause, Sum)> =
            c.by_cause.iter().filter(|(_, sum)| !sum.delta.is_zero() || sum.faults.shown() > 0).collect();
        if rows.is_empty() {
            let moved = c.opening.amounts != c.closing.amounts || c.peak_res != c.opening.amounts.res();
            let text = if moved && self.without_probes() {
                "by cause     unknown: without probes nothing tells why (memtrace doctor: what is in their way)"
            } else {
                "by cause     nothing changed"
            };
            self.sheet.line(&[(Look::Plain, text)]);
            return;
        }
        self.sheet.line(&[(Look::Strong, "by cause")]);
        let phrase_width = rows.iter().map(|(c, _)| cause_phrase(*c).chars().count()).max().unwrap_or(0);
        let name_width = rows.iter().map(|(c, _)| c.name().len()).max().unwrap_or(0);
        for (cause, sum) in rows {
            let res = scale.bytes(sum.delta.res());
            self.sheet.line(&[
                (Look::of(res), &format!("{:>13}", signed_size(res))),
                (Look::Plain, &format!("  {:<phrase_width$}", cause_phrase(*cause))),
                (Look::Faint, &format!("  {:<name_width$}", cause.name())),
                (Look::Plain, &fault_columns(sum)),
            ]);
            if let Some(classes) = super::paragraph::classes(sum.delta, scale) {
                self.sheet.line(&[(Look::Faint, &format!("{:15}{classes}", ""))]);
            }
        }
    }

    fn mappings(&mut self, c: &ClosingStatement) {
        let scale = self.scale;
        let rows: Vec<_> =
            c.by_mapping.iter().filter(|(_, sum)| !sum.delta.is_zero() || sum.faults.shown() > 0).collect();
        if rows.is_empty() {
            return;
        }
        self.sheet.line(&[(Look::Strong, "by mapping")]);
        for (mapping, sum) in rows.iter().take(MAPPINGS) {
            let res = scale.bytes(sum.delta.res());
            let mut text = match mapping {
                None => "nowhere in particular: the kernel does not say which mapping".to_owned(),
                Some(m) => {
                    let extent = size(m.end.saturating_sub(m.start));
                    let mut text = format!("{} {extent} at {:#x}", mapping_phrase(m), m.start);
                    if let Some(birth) = &m.birth {
                        let (_, time) = self.scale.clock.date_and_time(birth.ts_ns, self.options.utc_offset);
                        text.push_str(&format!(", since {time}"));
                    }
                    text
                }
            };
            if sum.grown > 0 && sum.shrunk > 0 {
                text.push_str(&format!(" · {}", in_and_out(sum, scale)));
            }
            if sum.faults.shown() > 0 {
                text.push_str(&format!(" · {}", counted(sum.faults.shown(), "fault", "faults")));
            }
            self.sheet.wrapped((Look::of(res), &format!("{:>13}  ", signed_size(res))), 15, (Look::Plain, &text));
        }
        if let Some(rest) = rows.get(MAPPINGS..).filter(|rest| !rest.is_empty()) {
            let res: i64 = rest.iter().map(|(_, sum)| sum.delta.res()).sum();
            let text = format!("and {} more, together", counted(rest.len() as u64, "mapping", "mappings"));
            let label = format!("{:>13}  ", signed_size(scale.bytes(res)));
            self.sheet.wrapped((Look::Plain, &label), 15, (Look::Faint, &text));
        }
    }

    /// The books in bytes. Rounded figures above need not add up; these do.
    fn ledger(&mut self, c: &ClosingStatement) {
        let scale = self.scale;
        let explained: Amounts = c.by_cause.iter().map(|(_, sum)| sum.delta).sum();
        let (opening, closing) = (c.opening.amounts, c.closing.amounts);
        let rows = Ledger { opening, closing, explained, unexplained: c.unexplained };

        self.sheet.line(&[
            (Look::Strong, "in bytes"),
            (
                Look::Faint,
                &format!(
                    "{:>20}{:>20}{:>20}{:>20}{:>16}",
                    "closing", "− opening", "= change", "= Σ causes", "+ unexplained"
                ),
            ),
        ]);
        let classes: [(&str, Class); 5] = [
            ("anon", |a| a.anon),
            ("file", |a| a.file),
            ("shmem", |a| a.shmem),
            ("RES", Amounts::res),
            ("swap", |a| a.swap),
        ];
        for (name, class) in classes {
            let figures = rows.figures(class, scale);
            let look = if figures[4] != 0 && !self.without_probes() { Look::Alarm } else { Look::Plain };
            let [closing, opening, change, explained, unexplained] = figures.map(exact);
            let line = format!("  {name:<6}{closing:>20}{opening:>20}{change:>20}{explained:>20}{unexplained:>16}");
            self.sheet.line(&[(look, &line)]);
        }
        let [closing, opening, change, explained, unexplained] = rows.figures(Amounts::res, scale).map(exact);
        let (look, verdict) = if !rows.closes() {
            (Look::Alarm, "DOES NOT CLOSE: ")
        } else if c.unexplained.is_zero() {
            (Look::Strong, "closes: ")
        } else if self.without_probes() {
            (Look::Strong, "closes, causes unknown: ")
        } else {
            (Look::Alarm, "closes, not all explained: ")
        };
        let sum = format!("{closing} − {opening} = {change} = Σ {explained} + unexplained {unexplained} B");
        self.sheet.wrapped((look, verdict), INDENT, (Look::Plain, &sum));
    }

    fn lost(&mut self, end: &EndReport) {
        if end.lost.total() == 0 {
            self.sheet.line(&[(Look::Plain, "lost         0")]);
            return;
        }
        self.sheet.line(&[(Look::Alarm, &format!("lost         {}", count(end.lost.total())))]);
        for (name, n, meaning) in losses(end.lost).into_iter().filter(|&(_, n, _)| n > 0) {
            let text = format!("{name} {}: {meaning}", count(n));
            self.sheet.wrapped((Look::Plain, &" ".repeat(INDENT)), INDENT, (Look::Alarm, &text));
        }
    }

    fn audits_line(&mut self) {
        let audits = self.audits;
        if audits.made == 0 {
            return;
        }
        let made = counted(audits.made, "comparison with /proc", "comparisons with /proc");
        let (look, verdict) = match audits.disagreed {
            0 => (Look::Plain, "all agreed".to_owned()),
            n => (Look::Alarm, format!("{} with differences", count(n))),
        };
        self.sheet.line(&[(Look::Plain, "audits       "), (look, &format!("{made}, {verdict}"))]);
    }

    fn own(&mut self, own: Own, faults: Faults, span: u64) {
        let mut parts = Vec::new();
        match percent(own.cpu_ns, span) {
            Some(share) => parts.push(format!("{share} of a core ({} in {})", duration(own.cpu_ns), duration(span))),
            None => parts.push(duration(own.cpu_ns)),
        }
        if let Some(bpf_ns) = own.bpf_ns {
            let each = |runs: u64| bpf_ns.checked_div(runs).map(|ns| format!(" in {} runs of {ns} ns", count(runs)));
            let runs = own.bpf_runs.and_then(each).unwrap_or_default();
            parts.push(format!("probes about {}{runs}", duration(bpf_ns)));
        }
        if let Some(ns) = bpf_ns_per_fault(own, faults) {
            parts.push(format!("about {ns} ns of BPF per fault"));
        }
        parts.push(format!("RES at most {}", size(own.max_rss)));
        self.sheet.wrapped((Look::Plain, "own cost     "), INDENT, (Look::Plain, &parts.join(" · ")));
    }

    fn next_steps(&mut self, c: &ClosingStatement) {
        let mut causes: Vec<&(Cause, Sum)> = c.by_cause.iter().filter(|(_, sum)| !sum.delta.is_zero()).collect();
        causes.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.delta.gross()));
        let hints = causes.iter().filter_map(|(cause, _)| hints::for_cause(*cause).map(|hint| (cause, hint)));
        for (i, (cause, hint)) in hints.take(HINTS).enumerate() {
            let label = if i == 0 { "good to know " } else { "             " };
            self.sheet.wrapped((Look::Plain, label), INDENT, (Look::Plain, &format!("{}: {hint}", cause.name())));
        }
    }
}

pub(super) fn bytes(pages: u64, scale: Scale) -> i64 {
    scale.bytes(i64::try_from(pages).unwrap_or(i64::MAX))
}

/// `+96.0 MiB −96.0 MiB`
fn in_and_out(sum: &Sum, scale: Scale) -> String {
    format!("{} {}", signed_size(bytes(sum.grown, scale)), signed_size(bytes(sum.shrunk, scale).saturating_neg()))
}

/// Picks one class, or RES, out of four.
type Class = fn(Amounts) -> i64;

/// One row per class, five figures that must satisfy `closing − opening = change = explained + unexplained`.
struct Ledger {
    opening: Amounts,
    closing: Amounts,
    explained: Amounts,
    unexplained: Amounts,
}

impl Ledger {
    fn figures(&self, class: Class, scale: Scale) -> [i64; 5] {
        let change = self.closing - self.opening;
        [self.closing, self.opening, change, self.explained, self.unexplained].map(|a| scale.bytes(class(a)))
    }

    fn closes(&self) -> bool {
        self.closing - self.opening == self.explained + self.unexplained
    }
}

/// `     15,411 faults (3 major)   about 31 ms`
fn fault_columns(sum: &Sum) -> String {
    if sum.faults.shown() == 0 {
        return String::new();
    }
    let mut text =
        format!("  {:>11} {}", count(sum.faults.shown()), if sum.faults.shown() == 1 { "fault" } else { "faults" });
    if sum.faults.major > 0 {
        text.push_str(&format!(" ({} major)", count(sum.faults.major.unsigned_abs())));
    }
    if let Some(total) = sum.latency.estimated_total_ns(sum.faults.shown()) {
        text.push_str(&format!("  about {}", duration(total)));
    }
    text
}
