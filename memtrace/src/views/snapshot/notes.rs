//! What stands below a snapshot: by how much it moved while it was read, what reading it cost, and what was not read and
//! why, with what to type.

use super::text::{Page, name};
use crate::cli::ExitCode;
use crate::snapshot::diff::difference;
use crate::snapshot::{Counters, GivenUp, Process, Reason, Snapshot, SourceCost};
use crate::views::escape::escape;
use crate::views::human::{counted, duration, signed_size, size};
use crate::views::sheet::{Look, Sheet};
use std::io::{self, Write};

const INDENT: usize = 12;
/// Processes of which it is told one by one that nothing could be read.
const FEW: usize = 10;

pub(super) fn print(process: &Process, sheet: &mut Sheet) {
    if let Some((before, after)) = process.counters.zip(process.counters_after) {
        changed(before, after, sheet);
    }
    cost(&process.sources, sheet);
    given_up(&process.given_up, &command(process), sheet);
}

/// What stands below the picture of a process. Of one that could not be read, [`unread`] tells.
///
/// # Errors
/// What the writer returned.
pub fn render(process: &Process, page: Page, out: &mut dyn Write) -> io::Result<()> {
    let mut sheet = page.sheet();
    print(process, &mut sheet);
    out.write_all(sheet.text.as_bytes())
}

fn command(process: &Process) -> String {
    format!("memtrace snapshot --pid {}", process.pid)
}

/// When the mappings of no process could be read, so that there is nothing to draw and no row: what was not read, in the
/// words of the summary, and the status to exit with.
#[must_use]
pub fn unread(snapshot: &Snapshot, width: usize) -> Option<(String, ExitCode)> {
    let processes = &snapshot.processes;
    if processes.is_empty() || processes.iter().any(|process| process.mappings.is_some()) {
        return None;
    }
    let mut sheet = Sheet::new(false, width);
    for process in processes.iter().take(FEW) {
        let text = format!("memtrace: nothing to show of {}: its mappings could not be read", name(process));
        sheet.line(&[(Look::Plain, &text)]);
        given_up(&process.given_up, &command(process), &mut sheet);
    }
    if let Some(more @ 1..) = processes.len().checked_sub(FEW) {
        let text = format!("memtrace: and nothing of {}", counted(more as u64, "other process", "other processes"));
        sheet.line(&[(Look::Plain, &text)]);
    }
    let reasons = processes.iter().flat_map(|process| &process.given_up).map(|given_up| &given_up.reason);
    let code = match reasons.into_iter().any(|reason| matches!(reason, Reason::NotPermitted { .. })) {
        true => ExitCode::NotPermitted,
        false => ExitCode::Failure,
    };
    Some((sheet.text, code))
}

fn changed(before: Counters, after: Counters, sheet: &mut Sheet) {
    let of = |name, from, to| (name, difference(from, to));
    let classes = [
        of("anon", before.anon, after.anon),
        of("file", before.file, after.file),
        of("shmem", before.shmem, after.shmem),
        of("swap", before.swap, after.swap),
    ];
    let moved: Vec<String> = classes
        .iter()
        .filter(|&&(_, change)| change != 0)
        .map(|&(name, change)| format!("{name} {}", signed_size(change)))
        .collect();
    if moved.is_empty() {
        return;
    }
    let bound = classes[..3].iter().fold(0_u64, |sum, (_, change)| sum.saturating_add(change.unsigned_abs()));
    let text = format!(
        "{} while it was read: sums may be off by {}, more if it went up and down",
        moved.join(", "),
        size(bound)
    );
    sheet.wrapped((Look::Alarm, "changed     "), INDENT, (Look::Plain, &text));
}

pub(super) fn cost(sources: &[SourceCost], sheet: &mut Sheet) {
    if sources.is_empty() {
        return;
    }
    let told: Vec<String> = sources
        .iter()
        .map(|s| {
            let calls = counted(s.calls.into(), "call", "calls");
            format!("{} {} in {calls}, longest {}", s.source.name(), duration(s.cost_ns), duration(s.longest_call_ns))
        })
        .collect();
    let mut text = told.join(" · ");
    if let Some(longest) = sources.iter().filter(|s| s.source.holds_lock()).map(|s| s.longest_call_ns).max() {
        text.push_str(&format!(". No call held its mmap_lock longer than {}", duration(longest)));
    }
    sheet.wrapped((Look::Faint, "cost        "), INDENT, (Look::Faint, &text));
}

/// One line for each reason, with what it concerns.
pub(super) fn given_up(given_up: &[GivenUp], command: &str, sheet: &mut Sheet) {
    let mut told: Vec<(&Reason, Vec<&str>)> = Vec::new();
    for one in given_up {
        match told.iter_mut().find(|(reason, _)| *reason == &one.reason) {
            Some((_, sources)) => sources.push(one.source.name()),
            None => told.push((&one.reason, vec![one.source.name()])),
        }
    }
    for (reason, sources) in told {
        let (why, advice) = words(reason, command);
        let text = format!("{}: {why}", sources.join(", "));
        sheet.wrapped((Look::Alarm, "not read    "), INDENT, (Look::Plain, &text));
        if let Some(advice) = advice {
            sheet.wrapped((Look::Plain, "            "), INDENT + 2, (Look::Plain, &format!("→ {advice}")));
        }
    }
}

/// Why, and what to type.
pub(super) fn words(reason: &Reason, command: &str) -> (String, Option<String>) {
    match reason {
        Reason::NotPermitted { capability } if capability.is_empty() => (
            "not permitted, although no capability is known to be missing: the process has rights that memtrace lacks \
             (another user namespace), or a security module forbids it"
                .to_owned(),
            None,
        ),
        Reason::NotPermitted { capability } => (
            format!("not permitted, {} is missing", escape(capability.as_bytes(), 40)),
            Some(format!("sudo {command}")),
        ),
        Reason::OverBudget { estimate_ns, limit_ns } => (
            format!(
                "one call would hold the process up for about {}, and {} are allowed (--max-snapshot-ms)",
                duration(*estimate_ns),
                duration(*limit_ns)
            ),
            Some(format!("{command} --full        reads it all the same")),
        ),
        Reason::NotOffered => ("this kernel does not offer it".to_owned(), None),
        Reason::Gone => ("the process ended meanwhile".to_owned(), None),
        Reason::Failed { what } => (escape(what.as_bytes(), 300), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_is_advised_only_where_a_capability_is_missing() {
        let words = |capability: &str| words(&Reason::NotPermitted { capability: capability.to_owned() }, "memtrace x");
        let (why, advice) = words("CAP_SYS_PTRACE");
        assert_eq!(
            (why.as_str(), advice.as_deref()),
            ("not permitted, CAP_SYS_PTRACE is missing", Some("sudo memtrace x"))
        );
        let (why, advice) = words("");
        assert!(why.contains("security module") && !why.contains("is missing"), "{why}");
        assert_eq!(advice, None);
    }
}
