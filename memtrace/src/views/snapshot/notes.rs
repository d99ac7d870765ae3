//! What stands below a snapshot: by how much it moved while it was read, what reading it cost, and what was not read and
//! why, with what to type.

use super::text::{Page, name};
use crate::cli::{ExitCode, ShowOptions};
use crate::snapshot::diff::difference;
use crate::snapshot::{Counters, GivenUp, Process, Reason, Snapshot, Source, SourceCost};
use crate::units::nanos;
use crate::views::escape::escape;
use crate::views::human::{count, counted, duration, signed_size, size};
use crate::views::sheet::{Look, Sheet};
use std::collections::BTreeMap;
use std::io::{self, Write};

const INDENT: usize = 12;
/// Processes of which it is told one by one that nothing could be read.
const FEW: usize = 10;

pub(super) fn print(process: &Process, show: &ShowOptions, sheet: &mut Sheet) {
    if let Some((before, after)) = process.counters.zip(process.counters_after) {
        changed(before, after, sheet);
    }
    cost(&process.sources, show, sheet);
    given_up(&process.given_up, &format!("{}{}", command(process), flags(show)), sheet);
}

/// That were typed: any bytes.
pub(super) fn flags(show: &ShowOptions) -> String {
    escape(show.typed.flags.as_bytes(), 200)
}

/// What stands below the picture of a process. Of one that could not be read, [`unread`] tells.
///
/// # Errors
/// What the writer returned.
pub fn render(process: &Process, show: &ShowOptions, page: Page, out: &mut dyn Write) -> io::Result<()> {
    let mut sheet = page.sheet();
    print(process, show, &mut sheet);
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
    Some((sheet.text, exit_code(processes.iter().flat_map(|process| &process.given_up))))
}

/// When a picture was asked for and where the pages of a process lie could not be looked at, so that it is drawn by what
/// its mappings hold in sum, or not at all: whose, why, what to type, and the status to exit with. `drawn`: of how many
/// processes there is a picture; `flags`: what was asked for.
#[must_use]
pub fn unplaced(snapshot: &Snapshot, drawn: usize, flags: &str, width: usize) -> Option<(String, ExitCode)> {
    let pages = |given_up: &&GivenUp| matches!(given_up.source, Source::Pagemap | Source::PagemapScan);
    let placed = |index: usize| snapshot.page_maps.get(index).is_some_and(Option::is_some);
    let known = snapshot.processes.iter().enumerate().filter(|(_, process)| process.mappings.is_some());
    let unplaced = known.take(drawn).filter(|&(index, _)| !placed(index)).map(|(_, process)| process);
    let (mut sheet, mut reasons) = (Sheet::new(false, width), Vec::new());
    for process in unplaced {
        let why: Vec<GivenUp> = process.given_up.iter().filter(pages).cloned().collect();
        let text =
            format!("memtrace: the picture of {} has no places: its pages could not be looked at", name(process));
        sheet.line(&[(Look::Plain, &text)]);
        given_up(&why, &format!("{}{flags}", command(process)), &mut sheet);
        reasons.extend(why);
    }
    let code = exit_code(&reasons);
    (!sheet.text.is_empty()).then_some((sheet.text, code))
}

/// What to exit with when this is why there is nothing to show.
fn exit_code<'a>(given_up: impl IntoIterator<Item = &'a GivenUp>) -> ExitCode {
    match given_up.into_iter().any(|given_up| matches!(given_up.reason, Reason::NotPermitted { .. })) {
        true => ExitCode::NotPermitted,
        false => ExitCode::Failure,
    }
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

/// How long all took and for how long the target was held up, in a line; when that is longer than allowed, it is told.
/// A source may be there more than once: of several processes.
pub(super) fn cost(sources: &[SourceCost], show: &ShowOptions, sheet: &mut Sheet) {
    if sources.is_empty() {
        return;
    }
    let held = sources.iter().filter(|s| s.source.holds_lock()).max_by_key(|s| s.longest_call_ns);
    let mut text = duration(sources.iter().fold(0, |sum, s| sum.saturating_add(s.cost_ns)));
    if let Some(held) = held {
        let (longest, source) = (duration(held.longest_call_ns), held.source.name());
        text.push_str(&format!("; held its mmap_lock for at most {longest} at a time ({source})"));
    }
    if !show.costs {
        text.push_str("; -v: more");
    }
    sheet.wrapped((Look::Faint, "cost        "), INDENT, (Look::Faint, &text));
    let limit_ns = show.hold_limit.map_or(u64::MAX, nanos);
    if let Some(held) = held.filter(|held| held.longest_call_ns > limit_ns) {
        let text = format!(
            "a call of {} took {}, and {} are allowed (--max-snapshot-ms): larger than estimated, or it had to wait",
            held.source.name(),
            duration(held.longest_call_ns),
            duration(limit_ns),
        );
        sheet.wrapped((Look::Alarm, "too long    "), INDENT, (Look::Plain, &text));
    }
    let mut each: Vec<SourceCost> = Vec::new();
    for s in sources.iter().filter(|_| show.costs) {
        match each.iter_mut().find(|sum| sum.source == s.source) {
            Some(sum) => {
                sum.cost_ns = sum.cost_ns.saturating_add(s.cost_ns);
                sum.longest_call_ns = sum.longest_call_ns.max(s.longest_call_ns);
                sum.calls = sum.calls.saturating_add(s.calls);
            }
            None => each.push(*s),
        }
    }
    for s in each {
        let calls = counted(s.calls.into(), "call", "calls");
        let (all, longest) = (duration(s.cost_ns), duration(s.longest_call_ns));
        let text = format!("            {}: {all} in {calls}, longest {longest}", s.source.name());
        sheet.line(&[(Look::Faint, &text)]);
    }
}

/// One line for each reason, with what it concerns.
pub(super) fn given_up(given_up: &[GivenUp], command: &str, sheet: &mut Sheet) {
    for (reason, sources) in by_reason(given_up) {
        not_read(&sources, reason, command, sheet);
    }
}

/// Of several processes: one line for each sort of reason, with the first process that it concerns and how many more.
pub(super) fn given_up_of(processes: &[&Process], command: &str, sheet: &mut Sheet) {
    type Concerned<'a> = (&'a Process, &'a Reason, u64);
    let mut told: BTreeMap<(String, &'static str), Concerned<'_>> = BTreeMap::new();
    for process in processes {
        for (reason, sources) in by_reason(&process.given_up) {
            told.entry((sources, reason.name())).or_insert((process, reason, 0)).2 += 1;
        }
    }
    for ((sources, _), (process, reason, concerned)) in told {
        let others = if concerned > 1 { format!(" and {} more", count(concerned - 1)) } else { String::new() };
        not_read(&format!("{sources} of {}{others}", name(process)), reason, command, sheet);
    }
}

/// Reasons, each with the names of what was not read because of it.
fn by_reason(given_up: &[GivenUp]) -> Vec<(&Reason, String)> {
    let mut told: Vec<(&Reason, String)> = Vec::new();
    for one in given_up {
        match told.iter_mut().find(|(reason, _)| *reason == &one.reason) {
            Some((_, sources)) => sources.push_str(&format!(", {}", one.source.name())),
            None => told.push((&one.reason, one.source.name().to_owned())),
        }
    }
    told
}

fn not_read(what: &str, reason: &Reason, command: &str, sheet: &mut Sheet) {
    let (why, advice) = words(reason, command);
    sheet.wrapped((Look::Alarm, "not read    "), INDENT, (Look::Plain, &format!("{what}: {why}")));
    if let Some(advice) = advice {
        sheet.wrapped((Look::Plain, "            "), INDENT + 2, (Look::Plain, &format!("→ {advice}")));
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
