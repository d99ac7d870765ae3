//! Changes worth telling: statements add up until they are, then make one paragraph.

use super::paths::{Paths, mapper};
use super::{Look, Session};
use crate::event::{Lost, MmId, StackId};
use crate::statement::{Entry, Faults, Kind, MappingRef, Stack, Statement};
use crate::units::Amounts;
use crate::views::Scale;
use crate::views::escape::escape;
use crate::views::human::{count, counted, duration, exact, level, percent, signed_size, size};
use crate::views::words::{cause_phrase, losses, mapping_phrase, syscall_adds, syscall_label};
use memtrace_common::Cause;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Entries that a paragraph shows; the rest is summed.
const SHOWN: usize = 6;
/// Distinct entries and code paths that may wait to be told. A process that makes more of them has something to tell.
const WAITING: usize = 4096;
/// A paragraph this much later explains everything anew.
const FORGET_NS: u64 = 10_000_000_000;
/// Sampled latencies of which a median says something.
const SAMPLES_FOR_P50: u64 = 4;
/// The same for the slowest hundredth.
const SAMPLES_FOR_P99: u64 = 50;
/// Column at which an entry's words begin.
const INDENT: usize = 15;

/// What entries are merged by: cause, mapping's life, thread.
pub(super) type Key = (Cause, Option<(u64, u64)>, u32);

fn key(entry: &Entry) -> Key {
    // A range over several mappings is no life of its own; its bounds tell it apart.
    let place = entry.mapping.as_ref().map(|m| match m.kind {
        Kind::Several => (m.start, m.end),
        _ => (m.id, 0),
    });
    (entry.cause, place, entry.tid)
}

#[derive(Debug)]
struct Merged {
    entry: Entry,
    paths: Paths,
    /// Gross pages of the largest part, from which the system call is taken.
    largest: i64,
}

/// What a paragraph was about: not explained again at once.
#[derive(Debug, Default)]
pub(super) struct Told {
    ts_ns: u64,
    keys: BTreeSet<Key>,
    stacks: BTreeSet<StackId>,
}

/// Statements of one mm that have not been told yet.
#[derive(Debug)]
pub(super) struct Pending {
    mm: MmId,
    pid: u32,
    comm: Vec<u8>,
    start_ns: u64,
    ts_ns: u64,
    opening: Amounts,
    closing: Amounts,
    gross: i64,
    merged: BTreeMap<Key, Merged>,
    /// Code paths in all of them.
    paths: usize,
    unexplained: Amounts,
    has_unexplained: bool,
    /// No probes: nothing is ever explained, so that is no news.
    causeless: bool,
    lost: Lost,
}

impl Pending {
    /// Nothing yet; begins where `statement` begins.
    pub(super) fn open(statement: &Statement, causeless: bool) -> Self {
        Self {
            mm: statement.mm,
            pid: statement.pid,
            comm: Vec::new(),
            start_ns: statement.start_ns,
            ts_ns: statement.ts_ns,
            opening: statement.opening.amounts,
            closing: statement.opening.amounts,
            gross: 0,
            merged: BTreeMap::new(),
            paths: 0,
            unexplained: Amounts::ZERO,
            has_unexplained: false,
            causeless,
            lost: Lost::default(),
        }
    }

    pub(super) fn add(&mut self, statement: &Statement) {
        self.pid = statement.pid;
        self.comm.clone_from(&statement.comm);
        self.ts_ns = statement.ts_ns;
        self.closing = statement.closing.amounts;
        self.unexplained += statement.unexplained;
        if self.causeless {
            self.gross = self.gross.saturating_add(statement.unexplained.gross());
        } else {
            self.has_unexplained |= !statement.unexplained.is_zero();
        }
        self.lost = self.lost + statement.lost;
        for entry in &statement.entries {
            let gross = entry.delta.gross();
            self.gross = self.gross.saturating_add(gross);
            let merged = self
                .merged
                .entry(key(entry))
                .and_modify(|merged| merged.add(entry, gross))
                .or_insert_with(|| Merged { entry: entry.clone(), paths: Paths::default(), largest: gross });
            let before = merged.paths.len();
            merged.paths.add(entry);
            self.paths += merged.paths.len() - before;
        }
    }

    /// The gross change reached the threshold, or the books of an interval did not close, or something was lost.
    pub(super) fn is_worth_telling(&self, scale: Scale, threshold_bytes: u64) -> bool {
        self.has_unexplained
            || self.lost.total() > 0
            || self.paths > WAITING
            || (self.gross > 0 && scale.bytes(self.gross).unsigned_abs() >= threshold_bytes)
    }
}

impl Merged {
    fn add(&mut self, more: &Entry, gross: i64) {
        let entry = &mut self.entry;
        entry.delta += more.delta;
        entry.faults += more.faults;
        entry.mapping.clone_from(&more.mapping);
        entry.comm.clone_from(&more.comm);
        entry.latency.merge(&more.latency);
        entry.last_ns = entry.last_ns.max(more.last_ns);
        if gross > self.largest {
            self.largest = gross;
            entry.syscall = more.syscall;
        }
    }
}

impl Session {
    pub(super) fn paragraph(&mut self, pending: Pending) {
        let scale = self.scale;
        let span = pending.ts_ns.saturating_sub(pending.start_ns);
        self.head(&pending, span);

        let told = self.told.remove(&pending.mm);
        let fresh = told.filter(|told| pending.start_ns.saturating_sub(told.ts_ns) <= FORGET_NS).unwrap_or_default();
        let mut now = Told { ts_ns: pending.ts_ns, keys: BTreeSet::new(), stacks: fresh.stacks };
        let mut entries: Vec<(Key, Merged)> = pending.merged.into_iter().collect();
        // The map's order decides among equals, so that a replay prints the same.
        entries.sort_by_key(|(_, m)| std::cmp::Reverse((m.entry.delta.gross(), m.entry.faults.all())));

        for (key, merged) in entries.iter().take(SHOWN) {
            let heaviest = merged.paths.heaviest().filter(|_| self.options.verbose);
            let whole = heaviest.filter(|stack| now.stacks.insert(stack.id));
            self.entry(merged, span, fresh.keys.contains(key), whole);
            now.keys.insert(*key);
        }
        if let Some(rest) = entries.get(SHOWN..).filter(|rest| !rest.is_empty()) {
            let res: i64 = rest.iter().map(|(_, m)| m.entry.delta.res()).sum();
            let mut faults = Faults::default();
            rest.iter().for_each(|(_, m)| faults += m.entry.faults);
            let mut text = format!("and {} more, together {}", count(rest.len() as u64), signed_size(scale.bytes(res)));
            if faults.shown() > 0 {
                text.push_str(&format!(", {}", counted(faults.shown(), "fault", "faults")));
            }
            self.sheet.wrapped((Look::Plain, &" ".repeat(INDENT)), INDENT, (Look::Faint, &text));
        }
        if pending.has_unexplained {
            self.unexplained(pending.unexplained);
        }
        if pending.causeless {
            self.causeless(pending.unexplained);
        }
        if pending.lost.total() > 0 {
            for (name, n, meaning) in losses(pending.lost).into_iter().filter(|&(_, n, _)| n > 0) {
                let text = format!("{name} {}: {meaning}", count(n));
                self.sheet.wrapped((Look::Alarm, &format!("{:>13}  ", "lost")), INDENT, (Look::Alarm, &text));
            }
        }
        self.told.insert(pending.mm, now);
    }

    /// `12:00:03.332  RES +64.3 MiB → 376.7 MiB in 212 ms`
    fn head(&mut self, pending: &Pending, span: u64) {
        let scale = self.scale;
        let stamp = self.stamp(pending.ts_ns);
        let whose = self.whose(pending.pid, &pending.comm);
        let change = pending.closing - pending.opening;
        let res = scale.bytes(change.res());
        let (mut up, mut down) = (0_i64, 0_i64);
        for merged in pending.merged.values() {
            let part = merged.entry.delta.res();
            *(if part > 0 { &mut up } else { &mut down }) += part;
        }
        let amount = format!("RES {}", signed_size(res));
        let mut rest = format!(" → {}", level(scale.bytes(pending.closing.res())));
        if up > 0 && down < 0 {
            rest.push_str(&format!(" ({} {})", signed_size(scale.bytes(up)), signed_size(scale.bytes(down))));
        }
        if change.swap != 0 {
            rest.push_str(&format!(", swap {}", signed_size(scale.bytes(change.swap))));
        }
        rest.push_str(&format!(" in {}", duration(span)));
        self.sheet.line(&[
            (Look::Faint, &stamp),
            (Look::Strong, &whose),
            (Look::of(res), &amount),
            (Look::Strong, &rest),
        ]);
    }

    fn entry(&mut self, merged: &Merged, span: u64, known: bool, whole: Option<&Arc<Stack>>) {
        let scale = self.scale;
        let entry = &merged.entry;
        let res = scale.bytes(entry.delta.res());
        let label = format!("{:>13}  ", signed_size(res));
        let mut what = cause_phrase(entry.cause).to_owned();
        if let Some(nr) = entry.syscall.filter(|_| syscall_adds(entry.cause)) {
            what.push_str(&format!(" inside {}", syscall_label(nr)));
        }
        if let Some(classes) = classes(entry.delta, scale) {
            what.push_str(&format!(" ({classes})"));
        }
        if let Some(mapping) = &entry.mapping {
            what.push_str(" · ");
            what.push_str(&place(mapping, entry, known));
        }
        let mut paths = merged.paths.told().into_iter();
        let who = [who(entry), paths.next()].into_iter().flatten().collect::<Vec<_>>().join(" · ");
        let details = [faults(entry, span, known), (!who.is_empty()).then_some(who)];
        let indent = " ".repeat(INDENT);
        if known {
            let [faults, who] = details;
            let line = [Some(what), faults, who].into_iter().flatten().collect::<Vec<_>>().join(" · ");
            self.sheet.wrapped((Look::of(res), &label), INDENT, (Look::Plain, &line));
        } else {
            self.sheet.wrapped((Look::of(res), &label), INDENT, (Look::Plain, &what));
            for detail in details.into_iter().flatten().chain(paths) {
                self.sheet.wrapped((Look::Plain, &indent), INDENT, (Look::Faint, &detail));
            }
        }
        if let Some(stack) = whole {
            self.whole_stack(stack, INDENT);
        }
        self.hint_once(entry.cause, INDENT);
    }

    /// What moved, where no probe could see why.
    fn causeless(&mut self, pages: Amounts) {
        let mut text = moved(pages, self.scale).join(", ");
        if text.is_empty() {
            text.push_str("back to where it was");
        }
        if !std::mem::replace(&mut self.causeless_said, true) {
            text.push_str(" · causes unknown: no probe saw what happened between two readings of /proc");
        }
        self.sheet.wrapped((Look::Plain, &" ".repeat(INDENT)), INDENT, (Look::Plain, &text));
    }

    fn unexplained(&mut self, pages: Amounts) {
        let bytes = self.scale.amounts(pages);
        let text = format!(
            "{} B of RES (anon {}, file {}, shmem {}; swap {}): the entries do not explain this",
            exact(bytes.res()),
            exact(bytes.anon),
            exact(bytes.file),
            exact(bytes.shmem),
            exact(bytes.swap)
        );
        self.sheet.wrapped((Look::Alarm, &format!("{:>13}  ", "unexplained")), INDENT, (Look::Alarm, &text));
    }
}

/// `anon +60.2 MiB, file −60.2 MiB`, where RES alone does not say it.
pub(super) fn classes(pages: Amounts, scale: Scale) -> Option<String> {
    let moved = moved(pages, scale);
    (moved.len() > 1 || pages.swap != 0).then(|| moved.join(", "))
}

fn moved(pages: Amounts, scale: Scale) -> Vec<String> {
    [("anon", pages.anon), ("file", pages.file), ("shmem", pages.shmem), ("swap", pages.swap)]
        .into_iter()
        .filter(|&(_, pages)| pages != 0)
        .map(|(name, pages)| format!("{name} {}", signed_size(scale.bytes(pages))))
        .collect()
}

fn place(mapping: &MappingRef, entry: &Entry, known: bool) -> String {
    let name = mapping_phrase(mapping);
    let extent = size(mapping.end.saturating_sub(mapping.start));
    if known {
        return format!("the same {name}, {extent}");
    }
    match &mapping.birth {
        Some(birth) => {
            let age = duration(entry.first_ns.saturating_sub(birth.ts_ns));
            let by = if birth.tid == entry.tid { String::new() } else { format!(" by tid {}", birth.tid) };
            let mapper = mapper(mapping).map_or_else(String::new, |mapper| format!(", mapped by {mapper}"));
            format!("{name} {extent}, {age} old{mapper} ({}{by})", syscall_label(birth.nr))
        }
        None => format!("{name} {extent}"),
    }
}

fn faults(entry: &Entry, span: u64, brief: bool) -> Option<String> {
    let Faults { minor, major } = entry.faults;
    if entry.faults.shown() == 0 {
        return None;
    }
    let mut parts = Vec::new();
    if minor > 0 {
        parts.push(counted(minor.unsigned_abs(), "minor fault", "minor faults"));
    }
    if major > 0 {
        parts.push(counted(major.unsigned_abs(), "major fault", "major faults"));
    }
    let samples = entry.latency.samples;
    if let Some(p50) = entry.latency.quantile_ns(500).filter(|_| samples >= SAMPLES_FOR_P50) {
        parts.push(format!("p50 {}", duration(p50)));
    }
    if let Some(p99) = entry.latency.quantile_ns(990).filter(|_| samples >= SAMPLES_FOR_P99 && !brief) {
        parts.push(format!("p99 {}", duration(p99)));
    }
    if let Some(total) = entry.latency.estimated_total_ns(entry.faults.shown()) {
        // Less than a thousandth of the time is no news.
        let share = percent(total, span).filter(|_| total > span / 1000);
        let share = share.map_or_else(String::new, |share| format!(" ({share} of the time)"));
        parts.push(format!("about {} in faults{share}", duration(total)));
    }
    Some(parts.join(", "))
}

/// `tid 4711 postgres`
fn who(entry: &Entry) -> Option<String> {
    match entry.tid {
        0 => None,
        tid if entry.comm.is_empty() => Some(format!("tid {tid}")),
        tid => Some(format!("tid {tid} {}", escape(&entry.comm, 32))),
    }
}
