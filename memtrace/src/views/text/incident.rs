//! What happens beside the amounts: processes come and go, audits, losses, mappings.

use super::{Look, Session, process_name};
use crate::event::{Lost, Task, TaskWhat};
use crate::statement::{Audit, MappingChange, MappingWhat};
use crate::views::fold::short;
use crate::views::human::{count, counted, duration, exact, signed_size, size};
use crate::views::words::{exit_phrase, losses, mapping_phrase, syscall_label};

/// Column at which the words after a time begin.
const INDENT: usize = 14;
/// Mappings that are named when several changed.
const SHOWN: usize = 5;

/// What the audits of the session said.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Audits {
    pub(super) made: u64,
    pub(super) disagreed: u64,
    /// The last one that was told disagreed.
    open: bool,
}

impl Session {
    fn note(&mut self, ts_ns: u64, look: Look, text: &str) {
        let stamp = self.stamp(ts_ns);
        self.sheet.wrapped((Look::Faint, &stamp), INDENT, (look, text));
    }

    pub(super) fn process(&mut self, task: &Task) {
        if let Some(mm) = task.mm {
            self.names.entry(mm).or_insert_with(|| (task.pid, task.comm.clone()));
        }
        let who = process_name(task.pid, &task.comm);
        let (look, text) = match task.what {
            TaskWhat::Forked { child } => {
                (Look::Plain, format!("process {} forked {}", task.pid, process_name(child, &task.comm)))
            }
            TaskWhat::SharedMm { child } => {
                let child = process_name(child, &task.comm);
                (Look::Plain, format!("process {} made {child}, which shares its memory", task.pid))
            }
            TaskWhat::Execed => (Look::Plain, format!("{who} is a new program now (exec)")),
            TaskWhat::ProcessExited { code } => (Look::Plain, format!("{who} {}", exit_phrase(code))),
            TaskWhat::OomVictim => {
                (Look::Alarm, format!("{who} was chosen by the OOM killer; `dmesg | grep -i oom` says why"))
            }
            TaskWhat::ThreadStarted { child } if self.options.verbose => {
                (Look::Faint, format!("process {} started thread {}", task.pid, process_name(child, &task.comm)))
            }
            TaskWhat::ThreadExited if self.options.verbose => {
                (Look::Faint, format!("thread {} of process {} ended", process_name(task.tid, &task.comm), task.pid))
            }
            TaskWhat::ThreadStarted { .. } | TaskWhat::ThreadExited => return,
        };
        self.note(task.ts_ns, look, &text);
    }

    pub(super) fn mapping(&mut self, change: &MappingChange) {
        if !self.options.verbose {
            return;
        }
        let what = match change.what {
            MappingWhat::Born => "new",
            MappingWhat::Died => "gone",
        };
        let mapping = &change.mapping;
        let call = change.syscall.map_or_else(String::new, |nr| format!(" by {}", syscall_label(nr)));
        let code = change.stack.as_ref().map_or_else(String::new, |stack| format!(" · at {}", short(stack, 3)));
        let text = format!(
            "{}{what}: {} {} at {:#x}{call} (tid {}){code}",
            self.whose_mm(change.mm),
            mapping_phrase(mapping),
            size(mapping.end.saturating_sub(mapping.start)),
            mapping.start,
            change.tid
        );
        self.note(change.ts_ns, Look::Faint, &text);
    }

    pub(super) fn loss(&mut self, ts_ns: u64, lost: Lost) {
        let parts: Vec<String> = losses(lost)
            .into_iter()
            .filter(|&(_, n, _)| n > 0)
            .map(|(name, n, meaning)| format!("{name} {} ({meaning})", count(n)))
            .collect();
        self.note(ts_ns, Look::Alarm, &format!("lost since the session began: {}", parts.join("; ")));
    }

    /// The first audit, every one that disagrees, and the first that agrees again.
    pub(super) fn audit(&mut self, audit: &Audit) {
        if self.without_probes() {
            return self.reading(audit);
        }
        let agrees = audit.differing_count == 0 && (audit.difference.is_zero() || !audit.quiet);
        let first = self.audits.made == 0;
        self.audits.made += 1;
        self.audits.disagreed += u64::from(!agrees);
        let news = first || !agrees || self.audits.open || self.options.verbose;
        self.audits.open = !agrees;
        if !news || self.options.closing_only {
            return;
        }
        let cost = format!("{}, longest read {}", duration(audit.cost_ns), duration(audit.longest_hold_ns));
        let whose = self.whose_mm(audit.mm);
        let mappings = counted(audit.mappings as u64, "mapping", "mappings");
        if agrees {
            let busy = if audit.quiet { "" } else { ", counters moved meanwhile" };
            self.note(audit.ts_ns, Look::Faint, &format!("{whose}audit: /proc agrees on {mappings} ({cost}{busy})"));
            return;
        }
        let mut text = format!("{whose}audit ({cost}): ");
        let difference = self.scale.amounts(audit.difference);
        if audit.quiet && !audit.difference.is_zero() {
            text.push_str(&format!(
                "/proc/PID/status − ledger: anon {}, file {}, shmem {}, swap {} B. ",
                exact(difference.anon),
                exact(difference.file),
                exact(difference.shmem),
                exact(difference.swap)
            ));
        }
        if audit.differing_count > 0 {
            text.push_str(&format!("smaps and ledger differ on {} of {mappings}", count(audit.differing_count as u64)));
            if audit.placeless != 0 {
                let placeless = signed_size(self.scale.bytes(audit.placeless));
                text.push_str(&format!(", as they must by {placeless} that the kernel did not place"));
            }
            text.push('.');
        }
        self.note(audit.ts_ns, if audit.quiet { Look::Alarm } else { Look::Plain }, text.trim_end());
        for difference in audit.differing.iter().take(3) {
            let line = format!(
                "{}: smaps {}, ledger {}",
                mapping_phrase(&difference.mapping),
                signed_size(self.scale.bytes(difference.smaps)),
                signed_size(self.scale.bytes(difference.ledger))
            );
            self.sheet.wrapped((Look::Plain, &" ".repeat(INDENT + 2)), INDENT + 4, (Look::Faint, &line));
        }
    }

    /// smaps without a ledger to hold against it: whether it agrees with status, and which mappings changed since the
    /// reading before.
    fn reading(&mut self, audit: &Audit) {
        let gap = audit.smaps_rss.saturating_sub(audit.status.res());
        let agrees = gap == 0 || !audit.quiet;
        let first = self.audits.made == 0;
        self.audits.made += 1;
        self.audits.disagreed += u64::from(!agrees);
        if self.options.closing_only {
            return;
        }
        let cost = format!("{}, longest read {}", duration(audit.cost_ns), duration(audit.longest_hold_ns));
        let mappings = counted(audit.mappings as u64, "mapping", "mappings");
        if !agrees {
            let gap = signed_size(self.scale.bytes(gap));
            let text = format!("audit ({cost}): smaps of {mappings} − /proc/PID/status: {gap}");
            self.note(audit.ts_ns, Look::Alarm, &text);
        } else if first || self.options.verbose {
            let busy = if audit.quiet { "" } else { ", counters moved meanwhile" };
            self.note(
                audit.ts_ns,
                Look::Faint,
                &format!("audit: smaps of {mappings} agrees with status ({cost}{busy})"),
            );
        }
        let moved = |change: i64| self.scale.bytes(change).unsigned_abs();
        let gross = audit.differing.iter().fold(0_u64, |sum, d| sum.saturating_add(moved(d.smaps)));
        if gross == 0 || gross < self.options.threshold(self.scale.bytes(audit.status.res())) {
            return;
        }
        let mut parts: Vec<String> = audit
            .differing
            .iter()
            .take(SHOWN)
            .map(|d| format!("{} {}", signed_size(self.scale.bytes(d.smaps)), mapping_phrase(&d.mapping)))
            .collect();
        if audit.differing_count > parts.len() {
            parts.push(format!("and {} more", count((audit.differing_count - parts.len()) as u64)));
        }
        self.note(audit.ts_ns, Look::Plain, &format!("since the audit before: {}", parts.join(", ")));
    }
}
