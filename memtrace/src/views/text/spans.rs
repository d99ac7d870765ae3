//! Spans: a statement's memory as the statement ends, and at the end the slowest and the largest ones, who ran them, and
//! the books.

use super::{Look, Session, process_name};
use crate::cli::Only;
use crate::event::SpanSums;
use crate::statement::{Span, SpanEnd, SpanThread, Spans};
use crate::units::Amounts;
use crate::views::Scale;
use crate::views::columns::{cut, right};
use crate::views::escape::escape;
use crate::views::human::{MINUS, count, counted, duration, exact, level, percent, signed_size, size};
use memtrace_common::Cause;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Column at which the words after a time begin.
const INDENT: usize = 14;
/// Spans, and threads, in a table; with `-v` more.
const ROWS: usize = 10;
const ROWS_VERBOSE: usize = 100;
/// Characters of a text that are shown where all of it is wanted: more than is ever copied.
const TEXT: usize = 8_192;
/// Columns of a table's figures.
const FIGURES: [usize; 5] = [10, 12, 12, 12, 9];

impl Session {
    /// A span that is over, in a few lines. One that is not waits for those that are not either.
    pub(super) fn span(&mut self, span: &Arc<Span>) {
        if span.end == SpanEnd::Open {
            self.open_spans.push(Arc::clone(span));
        } else if self.is_large(span) {
            self.span_lines(span);
        }
    }

    /// It moved as much as was asked for; without that wish every span is worth its lines.
    fn is_large(&self, span: &Span) -> bool {
        self.options.threshold_bytes.is_none_or(|least| self.scale.bytes(span.weight()).max(0).unsigned_abs() >= least)
    }

    fn span_lines(&mut self, span: &Span) {
        let scale = self.scale;
        let stamp = self.stamp(span.ts_ns);
        let mut who = process_name(span.pid, &span.comm);
        if span.tid != span.pid {
            who.push_str(&format!(" tid {}", span.tid));
        }
        if !span.is_statement() {
            who.push_str(&format!("  {}", escape(span.name.as_bytes(), 32)));
        }
        let res = scale.bytes((span.closing - span.opening).res());
        let mut rest = format!(" → {}", level(scale.bytes(span.closing.res())));
        let (peak, is_exact) = span.peak();
        if !is_exact && span.own.peak > 0 {
            let own = signed_size(scale.bytes(span.own.peak));
            rest.push_str(&format!(", peak ≥ {}, its own {own}", level(scale.bytes(peak))));
        } else if peak > span.opening.res().max(span.closing.res()) {
            rest.push_str(&format!(", peak {}", level(scale.bytes(peak))));
        }
        self.sheet.line(&[
            (Look::Faint, &stamp),
            (Look::Strong, &format!("{who}  {}  ", lasted(span))),
            (Look::of(res), &format!("RES {}", signed_size(res))),
            (Look::Strong, &rest),
        ]);
        let details = self.details(span);
        let indent = " ".repeat(INDENT);
        if !details.is_empty() {
            self.sheet.wrapped((Look::Plain, &indent), INDENT, (Look::Faint, &details.join(" · ")));
        }
        if self.options.verbose && !span.own.causes.is_empty() {
            let by_cause = span.own.causes.iter();
            let by_cause: Vec<String> =
                by_cause.map(|of| format!("{} {}", of.cause.name(), signed_size(scale.bytes(of.pages)))).collect();
            self.sheet.wrapped((Look::Plain, &indent), INDENT, (Look::Faint, &by_cause.join(", ")));
        }
        let Some(text) = words(span) else { return };
        if self.options.verbose {
            self.sheet.wrapped((Look::Plain, &indent), INDENT, (Look::Plain, &text));
        } else {
            let room = self.sheet.lines().saturating_sub(INDENT);
            self.sheet.line(&[(Look::Plain, &indent), (Look::Plain, &cut(&text, room))]);
        }
    }

    /// What it did, in words; nothing where it did nothing.
    fn details(&mut self, span: &Span) -> Vec<String> {
        let scale = self.scale;
        let mut details = Vec::new();
        let own = own_classes(span, scale);
        if !own.is_empty() {
            details.push(own.join(", "));
        }
        let others = classes(span.others(), scale);
        if !others.is_empty() {
            details.push(format!("others (reclaim, other threads) {}", others.join(", ")));
        }
        let calls: Vec<String> = [("mapped", span.mapped), ("given back", span.unmapped)]
            .into_iter()
            .filter(|&(_, bytes)| bytes > 0)
            .map(|(what, bytes)| format!("{what} {}", size(bytes)))
            .collect();
        if !calls.is_empty() {
            details.push(calls.join(", "));
        }
        details.extend(faults(&span.own, span.duration_ns()));
        for (cause, what) in [(Cause::FaultFileRead, "read from disk in faults"), (Cause::FaultSwapin, "swapped in")] {
            let pages = span.own.pages(cause);
            if pages > 0 {
                details.push(format!("{} {what}", level(scale.bytes(pages))));
            }
        }
        if span.told_ns < span.ts_ns {
            let (_, time) = self.clock().date_and_time(span.told_ns, self.options.utc_offset);
            details.push(format!("amounts as of {time}: what it did after that was not told"));
        }
        details
    }

    /// The session's spans.
    pub(super) fn spans(&mut self, spans: &Spans) {
        let asked = self.options.only == Some(Only::Spans);
        if !asked && spans.is_empty() {
            return;
        }
        let noun = Noun::of(spans);
        let length = duration(spans.ts_ns.saturating_sub(spans.start_ns));
        let ended = spans.count.saturating_sub(spans.open);
        self.still_running(noun, ended, &length);
        if ended == 0 && spans.open == 0 {
            self.sheet.line(&[(Look::Strong, &format!("no {} began or ended in {length}", noun.one))]);
        }
        if ended > 0 {
            let running = if spans.open > 0 { format!(", {} still running", count(spans.open)) } else { String::new() };
            self.sheet.rule(&format!("{}, {length}: {} ended{running}", noun.many, count(ended)));
            self.best("slowest", &spans.slowest);
            let most = self.rows();
            let numbers =
                |spans: &[Arc<Span>]| spans.iter().take(most).map(|span| span.number).collect::<BTreeSet<_>>();
            let largest: Vec<_> = spans.largest.iter().filter(|span| span.weight() > 0).cloned().collect();
            if !largest.is_empty() && numbers(&spans.slowest) != numbers(&largest) {
                self.best("largest", &largest);
            }
        }
        self.by_thread(noun, &spans.by_thread);
        self.span_books(&spans.by_thread);
    }

    const fn rows(&self) -> usize {
        if self.options.verbose { ROWS_VERBOSE } else { ROWS }
    }

    fn still_running(&mut self, noun: Noun, ended: u64, length: &str) {
        let mut open = std::mem::take(&mut self.open_spans);
        if open.is_empty() {
            return;
        }
        open.sort_by_key(|span| (Reverse(span.whole_ns()), span.number));
        let title = match (ended, open.len()) {
            (0, 1) => format!("no {} ended in {length}; the current one:", noun.one),
            (0, _) => format!("no {} ended in {length}; the current ones:", noun.one),
            _ => "still running:".to_owned(),
        };
        self.sheet.line(&[(Look::Strong, &title)]);
        for span in open.iter().take(self.rows()) {
            self.span_lines(span);
        }
        let more = open.len().saturating_sub(self.rows());
        if more > 0 {
            let text = format!("{:INDENT$}and {} more", "", count(more as u64));
            self.sheet.line(&[(Look::Faint, &text)]);
        }
    }

    /// A table of spans.
    fn best(&mut self, title: &str, spans: &[Arc<Span>]) {
        let scale = self.scale;
        let [time, res, peak, faults, pid] = FIGURES;
        let head =
            [right("time", time), right("RES", res), right("peak", peak), right("faults", faults), right("pid", pid)];
        self.sheet.line(&[(Look::Strong, title)]);
        self.sheet.line(&[(Look::Faint, &format!("{}  what", head.concat()))]);
        let room = self.sheet.lines().saturating_sub(FIGURES.iter().sum::<usize>() + 2);
        for span in spans.iter().take(self.rows()) {
            let moved = scale.bytes(span.own.delta.res());
            let rest = [
                right(&signed_size(scale.bytes(span.own.peak)), peak),
                right(&count(span.own.faults.max(0).unsigned_abs()), faults),
                right(&span.pid.to_string(), pid),
            ];
            let mark = match (span.before, span.end) {
                (_, SpanEnd::Open) => "(still running) ",
                (_, SpanEnd::Died) => "(process ended) ",
                (true, SpanEnd::Ended) => "(began before) ",
                (false, SpanEnd::Ended) => "",
            };
            let label = match (words(span), span.is_statement()) {
                (Some(text), true) => text,
                (Some(text), false) => format!("{}: {text}", escape(span.name.as_bytes(), 32)),
                (None, _) => escape(span.name.as_bytes(), 32),
            };
            self.sheet.line(&[
                (Look::Plain, &right(&duration(span.whole_ns()), time)),
                (Look::of(moved), &right(&signed_size(moved), res)),
                (Look::Plain, &rest.concat()),
                (Look::Plain, &format!("  {}", cut(&format!("{mark}{label}"), room))),
            ]);
        }
    }

    fn by_thread(&mut self, noun: Noun, threads: &[SpanThread]) {
        let scale = self.scale;
        let mut rows: Vec<&SpanThread> = threads.iter().filter(|row| row.count > 0).collect();
        if rows.len() < 2 {
            return;
        }
        let kinds: BTreeSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        rows.sort_by_key(|row| (row.folded > 0, Reverse(row.ns)));
        let [time, within, between, number, _] = FIGURES;
        let title = if rows.iter().all(|row| row.tid == row.pid) { "by process" } else { "by thread" };
        self.sheet.line(&[(Look::Strong, title)]);
        let head =
            [right("time", time), right("RES within", within), right("between", between), right(noun.many, number)];
        self.sheet.line(&[(Look::Faint, &format!("{}  who", head.concat()))]);
        for row in rows.iter().take(self.rows()) {
            let [inside, outside] = [&row.within, &row.between].map(|sums| scale.bytes(sums.delta.res()));
            let mut who = match row.folded {
                0 if row.tid == row.pid => process_name(row.pid, &row.comm),
                0 => format!("{} tid {}", process_name(row.pid, &row.comm), row.tid),
                n => counted(n, "other thread", "other threads"),
            };
            if kinds.len() > 1 {
                who.push_str(&format!("  {}", escape(row.name.as_bytes(), 32)));
            }
            self.sheet.line(&[
                (Look::Plain, &right(&duration(row.ns), time)),
                (Look::of(inside), &right(&signed_size(inside), within)),
                (Look::of(outside), &right(&signed_size(outside), between)),
                (Look::Plain, &right(&count(row.count), number)),
                (Look::Plain, &format!("  {who}")),
            ]);
        }
        if let Some(rest) = rows.get(self.rows()..).filter(|rest| !rest.is_empty()) {
            let spans = rest.iter().fold(0_u64, |sum, row| sum.saturating_add(row.count));
            let text = format!("and {} more, with {}", count(rest.len() as u64), noun.counted(spans));
            self.sheet.line(&[(Look::Faint, &format!("{:>1$}{text}", "", time + within + between + number + 2))]);
        }
    }

    /// The books in bytes, of each kind: rounded figures above need not add up; these do.
    fn span_books(&mut self, threads: &[SpanThread]) {
        let scale = self.scale;
        let mut kinds: BTreeMap<&str, SpanThread> = BTreeMap::new();
        let mut open = BTreeSet::new();
        for row in threads {
            kinds.entry(&row.name).or_default().absorb(row);
            if !row.closes() {
                open.insert(row.name.as_str());
            }
        }
        for (name, sum) in &kinds {
            let res = |amounts: Amounts| scale.bytes(amounts.res());
            let (within, between) = (res(sum.within.delta), res(sum.between.delta));
            let sign = if between < 0 { MINUS } else { '+' };
            let of = if kinds.len() > 1 { format!(", {}", escape(name.as_bytes(), 32)) } else { String::new() };
            let text = format!(
                "RES {} within {sign} {} between = {} booked for {}{of}",
                exact(within),
                exact(between).trim_start_matches(MINUS),
                exact(res(sum.booked)),
                if sum.folded == 1 { "this thread".to_owned() } else { format!("these {} threads", count(sum.folded)) },
            );
            let (look, verdict) =
                if open.contains(name) { (Look::Alarm, "DOES NOT CLOSE: ") } else { (Look::Strong, "in bytes     ") };
            self.sheet.wrapped((look, verdict), INDENT - 1, (Look::Plain, &text));
        }
    }
}

/// What the spans of a session are called.
#[derive(Clone, Copy)]
struct Noun {
    one: &'static str,
    many: &'static str,
}

impl Noun {
    fn of(spans: &Spans) -> Self {
        let mut rows = spans.by_thread.iter().peekable();
        if rows.peek().is_none() {
            Self { one: "statement or span", many: "spans" }
        } else if rows.all(SpanThread::is_statement) {
            Self { one: "statement", many: "statements" }
        } else {
            Self { one: "span", many: "spans" }
        }
    }

    fn counted(self, n: u64) -> String {
        counted(n, self.one, self.many)
    }
}

/// `1.2 s`, and what is to be said of that.
fn lasted(span: &Span) -> String {
    let seen = duration(span.duration_ns());
    let how_long = match (span.before, span.earlier_ns) {
        (false, _) => seen,
        (true, Some(_)) => format!("{}, of which the last {seen} watched", duration(span.whole_ns())),
        (true, None) => format!("≥ {seen}, began before it was watched"),
    };
    match span.end {
        SpanEnd::Ended => how_long,
        SpanEnd::Open => format!("{how_long}, still running"),
        SpanEnd::Died if span.tid == span.pid => format!("{how_long}, until its process ended"),
        SpanEnd::Died => format!("{how_long}, until its thread ended"),
    }
}

/// `anon +60.2 MiB its own, shared memory +4.1 MiB first touched`
fn own_classes(span: &Span, scale: Scale) -> Vec<String> {
    let own = span.own.delta;
    let of = |name: &str, pages: i64, remark: &str| {
        (pages != 0).then(|| format!("{name} {}{remark}", signed_size(scale.bytes(pages))))
    };
    // Whose memory it is: a server's buffers are every backend's, whoever touches them first.
    let touched = own.shmem > 0 && span.own.pages(Cause::FaultShmem) == own.shmem;
    let (shared, first) = match (span.name.as_str(), touched) {
        ("postgresql", true) => ("shared memory (shared_buffers, …)", " first touched"),
        ("postgresql", false) => ("shared memory (shared_buffers, …)", ""),
        (_, true) => ("shmem", " first touched"),
        (_, false) => ("shmem", ""),
    };
    let private = if own.anon > 0 { " its own" } else { "" };
    [of("anon", own.anon, private), of("file", own.file, ""), of(shared, own.shmem, first), of("swap", own.swap, "")]
        .into_iter()
        .flatten()
        .collect()
}

fn classes(pages: Amounts, scale: Scale) -> Vec<String> {
    [("anon", pages.anon), ("file", pages.file), ("shmem", pages.shmem), ("swap", pages.swap)]
        .into_iter()
        .filter(|&(_, pages)| pages != 0)
        .map(|(name, pages)| format!("{name} {}", signed_size(scale.bytes(pages))))
        .collect()
}

/// `16,461 faults (1 major), ≈ 33 ms in them (15 % of the time)`
fn faults(own: &SpanSums, length_ns: u64) -> Option<String> {
    let faults = own.faults.max(0).unsigned_abs();
    if faults == 0 {
        return None;
    }
    let mut text = counted(faults, "fault", "faults");
    if own.major > 0 {
        text.push_str(&format!(" ({} major)", count(own.major.unsigned_abs())));
    }
    if let Some(ns) = own.estimated_fault_ns() {
        text.push_str(&format!(", ≈ {} in them", duration(ns)));
        // An estimate may exceed what it is a part of.
        if let Some(share) = percent(ns.min(length_ns), length_ns).filter(|_| ns > length_ns / 100) {
            text.push_str(&format!(" ({share} of the time)"));
        }
    }
    Some(text)
}

/// A span's text on one line, harmless; `None` where there is nothing to be said.
fn words(span: &Span) -> Option<String> {
    match &span.text {
        Some(text) => {
            let words: Vec<&[u8]> =
                text.split(|byte| matches!(byte, b' ' | b'\t'..=b'\r')).filter(|word| !word.is_empty()).collect();
            let text = escape(&words.join(&b' '), TEXT);
            Some(if text.is_empty() { "(empty)".to_owned() } else { text })
        }
        None if span.is_statement() => Some("(text unknown)".to_owned()),
        None => None,
    }
}

#[cfg(test)]
mod tests;
