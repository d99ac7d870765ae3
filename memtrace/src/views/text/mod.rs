//! Text for people: a header that reads like `top` and corrects it, one paragraph per change worth telling,
//! a closing statement. Quiet intervals stay quiet; what was too small to tell is told once it has added up.

mod burst;
mod closing;
mod header;
mod incident;
mod paragraph;
mod paths;
mod spans;
mod stuck;

use crate::cli::Only;
use crate::event::{Meta, MmId, Mode};
use crate::hints;
use crate::statement::{ClosingStatement, Report, Span, SpanEnd, Statement};
use crate::views::clock::Clock;
use crate::views::escape::escape;
use crate::views::sheet::{Look, Sheet};
use crate::views::{Scale, View, before_meta};
use memtrace_common::Cause;
use paragraph::{Pending, Told};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::Arc;
use time::UtcOffset;

/// How the text looks and how much of it there is.
#[derive(Clone, Copy, Debug)]
pub struct TextOptions {
    /// Terminal colours.
    pub color: bool,
    /// Gross change in bytes from which on a paragraph is written; `None` for the default, the larger of
    /// 256 KiB and 0.5 % of RES.
    pub threshold_bytes: Option<u64>,
    /// Columns; longer sentences are wrapped.
    pub width: usize,
    /// Zone of the printed times. UTC unless asked, so that a replay reads the same everywhere.
    pub utc_offset: UtcOffset,
    /// Nothing but the closing statement.
    pub closing_only: bool,
    /// Nothing but these reports.
    pub only: Option<Only>,
    /// Also mappings as they are born and die, threads as they come and go, audits that agree, and whole stacks.
    pub verbose: bool,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self {
            color: false,
            threshold_bytes: None,
            width: 100,
            utc_offset: UtcOffset::UTC,
            closing_only: false,
            only: None,
            verbose: false,
        }
    }
}

impl TextOptions {
    /// Smallest default threshold: below this, a change is noise to a reader.
    const FLOOR: u64 = 256 << 10;

    fn threshold(&self, res_bytes: i64) -> u64 {
        self.threshold_bytes.unwrap_or_else(|| Self::FLOOR.max(u64::try_from(res_bytes).unwrap_or(0) / 200))
    }
}

/// Writes text.
#[derive(Debug)]
pub struct TextView<W> {
    out: W,
    options: TextOptions,
    session: Option<Session>,
}

impl<W: Write> TextView<W> {
    /// A view that writes to `out`, one `write` call per report.
    pub const fn new(out: W, options: TextOptions) -> Self {
        Self { out, options, session: None }
    }
}

impl<W: Write> View for TextView<W> {
    fn render(&mut self, report: &Report) -> io::Result<()> {
        if let Report::Meta(meta) = report {
            self.session = Some(Session::of(meta, self.options));
        }
        let session = self.session.as_mut().ok_or_else(before_meta)?;
        session.tell(report);
        let text = std::mem::take(&mut session.sheet.text);
        if text.is_empty() { Ok(()) } else { self.out.write_all(text.as_bytes()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What the text view remembers between reports.
#[derive(Debug)]
struct Session {
    options: TextOptions,
    scale: Scale,
    sheet: Sheet,
    meta: Meta,
    /// Date of the last line; a new one gets a rule.
    date: String,
    /// Process of each mm, as far as it was named.
    names: BTreeMap<MmId, (u32, Vec<u8>)>,
    overviews: BTreeSet<MmId>,
    pending: BTreeMap<MmId, Pending>,
    /// What each mm's last paragraph was about.
    told: BTreeMap<MmId, Told>,
    hinted: BTreeSet<Cause>,
    audits: incident::Audits,
    /// It has been said that causes are unknown.
    causeless_said: bool,
    /// The last closing statement, until it is known whether the end says the same.
    held: Option<ClosingStatement>,
    /// Spans that were not over when the session ended: told together.
    open_spans: Vec<Arc<Span>>,
}

impl Session {
    fn of(meta: &Meta, options: TextOptions) -> Self {
        let scale = Scale::of(meta);
        Self {
            options,
            scale,
            sheet: Sheet::new(options.color, options.width),
            meta: meta.clone(),
            date: String::new(),
            names: BTreeMap::new(),
            overviews: BTreeSet::new(),
            pending: BTreeMap::new(),
            told: BTreeMap::new(),
            hinted: BTreeSet::new(),
            audits: incident::Audits::default(),
            causeless_said: false,
            held: None,
            open_spans: Vec::new(),
        }
    }

    /// No probes: entries never explain anything, and that they do not is no alarm.
    const fn without_probes(&self) -> bool {
        matches!(self.meta.mode, Mode::Procfs)
    }

    const fn clock(&self) -> Clock {
        self.scale.clock
    }

    fn tell(&mut self, report: &Report) {
        let closing = match report {
            Report::Closing(_) | Report::End(_) | Report::Audit(_) | Report::Stuck(_) | Report::Spans(_) => true,
            Report::Span(span) => span.end == SpanEnd::Open,
            _ => false,
        };
        if self.options.closing_only && !closing {
            return;
        }
        let wanted = match self.options.only {
            None => true,
            Some(Only::Bursts) => matches!(report, Report::Burst(_)),
            Some(Only::Stuck) => matches!(report, Report::Stuck(_)),
            Some(Only::Spans) => {
                matches!(report, Report::Span(_) | Report::Spans(_) | Report::Stuck(_) | Report::Loss { .. })
            }
        };
        if !wanted {
            return;
        }
        if !matches!(
            report,
            Report::Closing(_)
                | Report::End(_)
                | Report::Overview(_)
                | Report::Process(_)
                | Report::Tick { .. }
                | Report::Span(_)
                | Report::Spans(_)
        ) {
            self.release_held();
        }
        match report {
            Report::Meta(meta) => self.meta(meta),
            Report::Overview(overview) => self.overview(overview),
            Report::Statement(statement) => self.statement(statement),
            Report::Mapping(change) => self.mapping(change),
            Report::Process(change) => self.process(&change.task),
            Report::Audit(audit) => self.audit(audit),
            Report::Stack(_) | Report::Residency(_) | Report::Tick { .. } => {}
            Report::Span(span) => self.span(span),
            Report::Spans(spans) => self.spans(spans),
            Report::Stuck(stuck) => {
                if stuck.whole {
                    self.stuck(stuck);
                }
            }
            Report::Burst(burst) => self.burst(burst),
            Report::Loss { ts_ns, lost } => self.loss(*ts_ns, *lost),
            Report::Closing(closing) => {
                self.release_held();
                self.forget(closing.mm);
                self.held = Some(closing.clone());
            }
            Report::End(end) => {
                // With one mm, the session's total is that mm's closing statement.
                if end.mms > 1 {
                    self.release_held();
                }
                self.end(end);
            }
        }
    }

    fn statement(&mut self, statement: &Statement) {
        self.names.insert(statement.mm, (statement.pid, statement.comm.clone()));
        let causeless = self.without_probes();
        let pending = self.pending.entry(statement.mm).or_insert_with(|| Pending::open(statement, causeless));
        pending.add(statement);
        let threshold = self.options.threshold(self.scale.bytes(statement.closing.amounts.res()));
        if pending.is_worth_telling(self.scale, threshold)
            && let Some(pending) = self.pending.remove(&statement.mm)
        {
            self.paragraph(pending);
        }
    }

    fn forget(&mut self, mm: MmId) {
        self.pending.remove(&mm);
        self.told.remove(&mm);
        self.names.remove(&mm);
    }

    fn release_held(&mut self) {
        if let Some(closing) = self.held.take() {
            self.closing(&closing);
        }
    }

    /// `12:00:03.120  `, and before it the date when that is a new one.
    fn stamp(&mut self, ts_ns: u64) -> String {
        let (date, time) = self.clock().date_and_time(ts_ns, self.options.utc_offset);
        if date != self.date {
            if !self.date.is_empty() {
                self.sheet.rule(&date);
            }
            self.date = date;
        }
        format!("{time}  ")
    }

    /// `postgres[4711]  ` where lines of several processes mix, else nothing.
    fn whose(&self, pid: u32, comm: &[u8]) -> String {
        if self.meta.follow || pid != self.meta.pid { format!("{}  ", process_name(pid, comm)) } else { String::new() }
    }

    fn whose_mm(&self, mm: MmId) -> String {
        match self.names.get(&mm) {
            Some((pid, comm)) => self.whose(*pid, comm),
            None if self.meta.follow => format!("mm {}  ", mm.0),
            None => String::new(),
        }
    }

    /// Advice about a cause, once a session.
    fn hint_once(&mut self, cause: Cause, indent: usize) {
        if let Some(hint) = hints::for_cause(cause)
            && self.hinted.insert(cause)
        {
            self.sheet.wrapped((Look::Plain, &" ".repeat(indent)), indent + 2, (Look::Faint, &format!("→ {hint}")));
        }
    }
}

fn process_name(pid: u32, comm: &[u8]) -> String {
    format!("{}[{pid}]", escape(comm, 32))
}

#[cfg(test)]
mod tests;
