//! The state of the screen: a function of the reports that it took and the keys that it got. No clock, no file, no
//! environment; a recorded session shows what the live one did.

use super::moments::Tally;
use super::names::Names;
use super::panes::{Cursor, Pane};
use super::process::Process;
use super::scope::{Scope, Span, View, stretch};
use super::theme::Theme;
use super::times::Times;
use crate::event::{EndReason, Lost, Meta, MmId, Own, TaskWhat};
use crate::statement::{Audit, Burst, EndReport, Report, Spans, Statement};
use crate::views::Scale;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Bursts that are remembered.
const BURSTS: usize = 2_000;
/// Address spaces that are over and remembered.
const GONE: usize = 200;

/// How the screen looks and begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Colours.
    pub color: bool,
    /// What is shown is a recording: the whole of it at first, and its end is no news.
    pub replay: bool,
}

/// What the terminal is to do after a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Draw.
    Draw,
    /// End the session, then leave.
    Quit,
    /// Give the terminal back until the shell continues us.
    Suspend,
    /// Write a file in the current directory, never over another one; then tell [`App::saved`].
    Save(Save),
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Save {
    /// The file's name without its extension.
    pub stem: String,
    /// Its extension.
    pub extension: &'static str,
    /// All of it.
    pub contents: Vec<u8>,
}

/// The screen.
#[derive(Debug)]
pub struct App {
    pub(super) options: Options,
    pub(super) theme: Theme,
    pub(super) meta: Option<Meta>,
    pub(super) now_ns: u64,
    pub(super) own: Option<Own>,
    pub(super) lost: Lost,
    pub(super) processes: BTreeMap<MmId, Process>,
    pub(super) shown: Option<MmId>,
    /// Address spaces that were forgotten.
    pub(super) forgotten: u64,
    pub(super) names: Names,
    pub(super) bursts: VecDeque<Arc<Burst>>,
    pub(super) times: Times,
    pub(super) bursts_seen: u64,
    pub(super) end: Option<Box<EndReport>>,
    /// For the closing statement.
    spans: Option<Box<Spans>>,
    /// For the closing statement, which tells those that differ.
    audits: Vec<Audit>,
    /// No more reports will come.
    pub(super) over: bool,
    pub(super) leaving: bool,
    pub(super) scope: Scope,
    /// Sum from attach up to a moment that is not now.
    past: Option<(MmId, u64, Tally)>,
    pub(super) mark: Option<u64>,
    pub(super) focus: Pane,
    /// The pane that was last looked at of those that share a place.
    pub(super) lodger: Pane,
    pub(super) alone: bool,
    pub(super) help: bool,
    /// What is being typed, and what the filter was before.
    pub(super) typing: Option<String>,
    pub(super) note: Option<String>,
    pub(super) cursors: [Cursor; Pane::ALL.len()],
    pub(super) by_since: bool,
    pub(super) order: super::panes::Order,
    pub(super) callees: bool,
    pub(super) unfolded: bool,
    pub(super) measure: super::panes::Measure,
    pub(super) toggled: BTreeSet<u64>,
    pub(super) zoom: super::panes::Zoom,
}

/// Audits that are kept; of a longer session the later ones are counted on the screen only.
const AUDITS: usize = 4096;

impl App {
    /// A screen that knows nothing yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let span = if options.replay { Span::All } else { Span::Seconds(10) };
        Self {
            options,
            theme: Theme { color: options.color },
            meta: None,
            now_ns: 0,
            own: None,
            lost: Lost::default(),
            processes: BTreeMap::new(),
            shown: None,
            forgotten: 0,
            names: Names::default(),
            bursts: VecDeque::new(),
            times: Times::default(),
            bursts_seen: 0,
            end: None,
            spans: None,
            audits: Vec::new(),
            over: false,
            leaving: false,
            scope: Scope { cursor: None, span, range: None, drill: None, filter: String::new() },
            past: None,
            mark: None,
            focus: Pane::Changes,
            lodger: Pane::Bursts,
            alone: false,
            help: false,
            typing: None,
            note: None,
            cursors: Default::default(),
            by_since: false,
            order: Default::default(),
            callees: false,
            unfolded: false,
            measure: Default::default(),
            toggled: BTreeSet::new(),
            zoom: Default::default(),
        }
    }

    /// Takes what the model said, in its order.
    pub fn take(&mut self, report: &Report) {
        match report {
            Report::Meta(meta) => {
                self.see(meta.ts_ns);
                self.meta = Some(meta.clone());
            }
            Report::Stuck(stuck) => self.times.push(stuck),
            Report::Span(_) => {}
            Report::Spans(spans) => self.spans = Some(spans.clone()),
            Report::Overview(overview) => {
                self.see(overview.ts_ns);
                if let Some(pid) = self.pid_of(overview.mm) {
                    self.process(overview.mm, pid, &[]).overview = Some(overview.clone());
                }
            }
            Report::Statement(statement) => {
                self.see(statement.ts_ns);
                for stack in statement.entries.iter().filter_map(|entry| entry.stack.as_ref()) {
                    self.names.learn(stack);
                }
                self.process(statement.mm, statement.pid, &statement.comm).statement(statement);
            }
            Report::Mapping(change) => {
                self.process(change.mm, change.pid, &[]).mapping(change.what, &change.mapping, change.ts_ns);
            }
            Report::Process(change) => {
                if change.task.what == TaskWhat::OomVictim {
                    self.note = Some("the OOM killer chose this process".to_owned());
                }
            }
            Report::Audit(audit) => {
                if self.audits.len() < AUDITS {
                    self.audits.push(audit.clone());
                }
                let process = self.process(audit.mm, audit.pid, &[]);
                let differs = !audit.difference.is_zero() && audit.quiet || audit.differing_count > 0;
                process.audits = (process.audits.0 + u64::from(differs), process.audits.1 + 1);
                process.audit = Some(audit.clone());
            }
            Report::Residency(residency) => {
                self.see(residency.ts_ns);
                self.process(residency.mm, residency.pid, &[]).read(residency);
            }
            Report::Stack(stack) => self.names.learn(stack),
            Report::Burst(burst) => {
                for stack in burst.stacks.iter().filter_map(|part| part.of.as_ref()) {
                    self.names.learn(stack);
                }
                self.bursts_seen += 1;
                self.bursts.push_back(Arc::new(Burst::clone(burst)));
                if self.bursts.len() > BURSTS {
                    self.bursts.pop_front();
                }
            }
            Report::Loss { lost, .. } => self.lost = *lost,
            Report::Tick { ts_ns, own } => {
                self.see(*ts_ns);
                self.own = Some(*own);
            }
            Report::Closing(closing) => {
                self.see(closing.ts_ns);
                self.process(closing.mm, closing.pid, &closing.comm).closing = Some(closing.clone());
                self.forget();
            }
            Report::End(end) => {
                self.see(end.end.ts_ns);
                self.own = Some(end.own);
                self.lost = end.lost;
                self.end = Some(end.clone());
                if !self.options.replay {
                    self.visit(Pane::Summary);
                }
            }
        }
    }

    /// Nothing more will come. A recording of a process that is gone by then is shown where it had most memory: its end
    /// is that it had none.
    pub fn ended(&mut self) {
        self.over = true;
        if !self.options.replay {
            self.note = Some("it is over: ← goes back in time, q leaves".to_owned());
        }
        let untouched = self.scope.cursor.is_none() && self.scope.range.is_none();
        let Some(process) = self.current().filter(|_| self.options.replay && untouched) else { return };
        if process.moments.last().is_none_or(|last| last.closing.amounts.res() > 0) {
            return;
        }
        let res = |statement: &&Arc<Statement>| statement.closing.amounts.res();
        if let Some(peak) = process.moments.between(0, u64::MAX).max_by_key(res) {
            let peak = peak.ts_ns;
            self.scope.cursor = Some(peak);
            self.note = Some(format!(
                "{}: the moment of most memory; ] goes to the end, ← → through time",
                self.time(peak, true)
            ));
        }
    }

    /// The session was ended from outside, so nobody waits for the screen to stay.
    #[must_use]
    pub fn was_interrupted(&self) -> bool {
        let reason = self.end.as_ref().map(|end| &end.end.reason);
        matches!(reason, Some(EndReason::Interrupted | EndReason::OutputClosed))
    }

    /// What became of a [`Reaction::Save`]: the name that it got, or why not.
    pub fn saved(&mut self, outcome: Result<String, String>) {
        self.note = Some(match outcome {
            Ok(name) => format!("saved {name}"),
            Err(why) => format!("not saved: {why}"),
        });
    }

    /// It was recorded earlier: nobody waits for its end.
    pub(super) const fn is_replay(&self) -> bool {
        self.options.replay
    }

    /// What the session ended with, for whoever prints it after the screen is gone: meta, audits, closings, end.
    #[must_use]
    pub fn closing(&self) -> Vec<Report> {
        let Some((meta, end)) = self.meta.as_ref().zip(self.end.as_ref()) else { return Vec::new() };
        let closings = self.processes.values().filter_map(|process| process.closing.clone()).map(Report::Closing);
        let audits = self.audits.iter().cloned().map(Report::Audit);
        let begin = [Report::Meta(meta.clone())].into_iter().chain(audits);
        let spans = self.spans.iter().cloned().map(Report::Spans);
        begin.chain(closings).chain(spans).chain([Report::End(end.clone())]).collect()
    }

    fn see(&mut self, ts_ns: u64) {
        self.now_ns = self.now_ns.max(ts_ns);
    }

    fn pid_of(&self, mm: MmId) -> Option<u32> {
        let known = self.processes.get(&mm).map(|process| process.pid);
        known.or_else(|| self.meta.as_ref().map(|meta| meta.pid))
    }

    fn process(&mut self, mm: MmId, pid: u32, comm: &[u8]) -> &mut Process {
        // A program that replaces another has a new address space; who looked at the old one looks at the new one.
        let follows = match self.shown.and_then(|shown| self.processes.get(&shown)) {
            None => true,
            Some(shown) => shown.pid == pid && shown.closing.is_some() && shown.mm < mm,
        };
        if follows {
            self.shown = Some(mm);
        }
        let comm = if comm.is_empty() { self.meta.as_ref().map_or(&[][..], |meta| &meta.comm) } else { comm };
        self.processes.entry(mm).or_insert_with(|| Process::new(mm, pid, comm))
    }

    fn forget(&mut self) {
        let gone: Vec<MmId> = self
            .processes
            .values()
            .filter(|process| process.closing.is_some() && Some(process.mm) != self.shown)
            .map(|process| process.mm)
            .collect();
        if let Some(oldest) = gone.first().filter(|_| gone.len() > GONE) {
            self.processes.remove(oldest);
            self.forgotten += 1;
        }
    }

    pub(super) fn visit(&mut self, pane: Pane) {
        self.focus = pane;
        if pane.is_lodger() {
            self.lodger = pane;
        }
    }

    pub(super) fn current(&self) -> Option<&Process> {
        self.shown.and_then(|shown| self.processes.get(&shown))
    }

    pub(super) fn scale(&self) -> Option<Scale> {
        self.meta.as_ref().map(Scale::of)
    }

    /// The stretch is everything since attach, so there is nothing else to compare it with.
    pub(super) fn is_all(&self) -> bool {
        self.scope.range.is_none() && self.scope.span == Span::All
    }

    /// The stretch in a column's head.
    pub(super) fn stretch_name(&self) -> String {
        match (&self.scope.range, self.scope.span) {
            (Some((_, _, what)), _) => (*what).to_owned(),
            (None, Span::All) => "all".to_owned(),
            (None, Span::Interval) => "interval".to_owned(),
            (None, span) => span.name(),
        }
    }

    /// The end of what is looked at.
    pub(super) fn moment(&self) -> u64 {
        self.scope.range.map_or_else(|| self.scope.cursor.unwrap_or(self.now_ns), |(_, to, _)| to)
    }

    /// Makes the sum up to the moment, where that is not now.
    pub(super) fn prepare(&mut self) {
        let to = self.moment();
        let Some(process) = self.shown.and_then(|shown| self.processes.get(&shown)) else {
            self.past = None;
            return;
        };
        if process.moments.last().is_none_or(|last| last.ts_ns <= to) {
            self.past = None;
        } else if self.past.as_ref().is_none_or(|(mm, ts_ns, _)| (*mm, *ts_ns) != (process.mm, to)) {
            self.past = Tally::of(process.moments.between(0, to)).map(|tally| (process.mm, to, tally));
        }
    }

    /// What is looked at; after [`Self::prepare`].
    pub(super) fn view(&self) -> Option<View<'_>> {
        let process = self.current()?;
        let (_, to) = stretch(process, &self.scope, self.now_ns);
        let is_now = process.moments.last().is_none_or(|last| last.ts_ns <= to);
        let since = if is_now { process.total.as_ref() } else { self.past.as_ref().map(|(_, _, tally)| tally) };
        Some(View::new(process, &self.names, &self.scope, self.scale()?, self.now_ns, since))
    }
}
