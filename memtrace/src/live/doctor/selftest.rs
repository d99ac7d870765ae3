//! The proof: the books of a process of our own are opened, moved by known amounts and closed, and at both ends
//! compared with what /proc says while that process stands still.

use super::checks::BOOKS;
use super::{Blame, Check};
use crate::database::{begin, end};
use crate::event::{Change, Edge, Event, Place, SpanEdge};
use crate::live::observer::Observer;
use crate::live::probes::{PointPlace, Probes};
use crate::procfs::{ProcessFiles, page_size, visit_maps};
use crate::units::Amounts;
use anyhow::{Context as _, Result, anyhow, bail};
use memtrace_common::{Cause, SpanPoint};
use std::io;
use std::path::Path;

/// What is proved, in order.
pub(super) const NAMES: [&str; 4] = ["task iterator", "per-CPU counters", "a known change", "a known span"];

/// Pages that the process touches: more than two batches of a small machine's per-CPU counters.
const PAGES: usize = 150;

/// A process of our own that stands still, touches [`PAGES`] pages when told, and stands still again.
struct Subject {
    pid: libc::pid_t,
    region: Region,
}

/// Memory that nobody has touched, without huge pages.
struct Region {
    start: *mut u8,
    length: usize,
}

impl Region {
    fn map() -> Result<Self> {
        let length = PAGES * usize::try_from(page_size()).unwrap_or(4096);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, access, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("failed to map memory");
        }
        // SAFETY: advice about the mapping just made. A kernel without huge pages refuses it, and needs it not.
        unsafe { libc::madvise(start, length, libc::MADV_NOHUGEPAGE) };
        Ok(Self { start: start.cast(), length })
    }

    fn holds(&self, address: u64) -> bool {
        let start = self.start as u64;
        (start..start + self.length as u64).contains(&address)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

/// What the process does when told: the span that is watched. Its first instruction and its return are found by its
/// address, so it must be a function of its own.
#[inline(never)]
extern "C" fn touch(start: *mut u8, step: usize) {
    for page in 0..PAGES {
        // SAFETY: of a `Region`, which is as long.
        unsafe { start.add(page * step).write_volatile(1) };
    }
}

/// Where [`touch`] begins in the file of this program.
fn offset_of_touch() -> Result<u64> {
    let address = touch as *const () as u64;
    let mut offset = None;
    visit_maps(&std::fs::read("/proc/self/maps")?, |line| {
        if (line.start..line.end).contains(&address) {
            offset = Some(address - line.start + line.offset);
        }
    });
    offset.context("this program is not in its own maps")
}

/// Hangs probes on [`touch`] in a process: its return first, or its span would have no end when it is entered in between.
fn watch_touch(probes: &mut Probes, pid: u32) -> Result<()> {
    let offset = offset_of_touch()?;
    for (returns, point) in [(true, end()), (false, begin())] {
        let place = PointPlace { file: Path::new("/proc/self/exe"), offset, returns, pid: Some(pid) };
        probes.add_point(SpanPoint { nests: 1, ..point }, &place)?;
    }
    Ok(())
}

impl Subject {
    fn start() -> Result<Self> {
        let region = Region::map()?;
        let step = region.length / PAGES;
        // SAFETY: the child calls prctl, raise and _exit and writes into the region, all of which a fork of a process
        // with threads may do.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: as above.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::raise(libc::SIGSTOP);
                touch(region.start, step);
                libc::raise(libc::SIGSTOP);
                libc::_exit(0);
            }
        }
        if pid < 0 {
            return Err(io::Error::last_os_error()).context("failed to fork");
        }
        let subject = Self { pid, region };
        subject.wait_for_stop()?;
        Ok(subject)
    }

    fn wait_for_stop(&self) -> Result<()> {
        let mut status = 0;
        // SAFETY: `status` is a valid place for an int; the child is ours and not reaped before `drop`.
        let waited = unsafe { libc::waitpid(self.pid, &raw mut status, libc::WUNTRACED) };
        if waited != self.pid || !libc::WIFSTOPPED(status) {
            bail!("the test process ended");
        }
        Ok(())
    }

    fn touch(&self) -> Result<()> {
        // SAFETY: the child is ours and not reaped before `drop`.
        unsafe { libc::kill(self.pid, libc::SIGCONT) };
        self.wait_for_stop()
    }

    fn files(&self) -> Result<ProcessFiles> {
        Ok(ProcessFiles::open(self.pid.cast_unsigned())?)
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // SAFETY: the child is ours and not reaped yet.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}

/// Proves what [`NAMES`] promise; what comes after a failure is not tried.
pub(super) fn run(observer: Observer, checks: &mut Vec<Check>) {
    let before = checks.len();
    if let Err(error) = prove(observer, checks) {
        let name = NAMES[(checks.len() - before).min(NAMES.len() - 1)];
        checks.push(Check::refused(BOOKS, name, error));
    }
    let made = checks.len() - before;
    checks.extend(NAMES.iter().skip(made).map(|name| Check::untried(BOOKS, *name)));
}

fn prove(mut observer: Observer, checks: &mut Vec<Check>) -> Result<()> {
    let subject = Subject::start()?;
    let files = subject.files()?;
    let counters = || -> Result<Amounts> {
        files.read_status()?.amounts(page_size()).ok_or_else(|| anyhow!("the test process has no memory"))
    };

    // Before the books open: the kernel copies the page that it puts a trap into.
    let watched = watch_touch(observer.probes_mut(), subject.pid.cast_unsigned());
    observer.name_spans(vec!["touch".to_owned()]);
    let found = observer.attach(subject.pid.cast_unsigned())?;
    let opened = observer.opening_events().into_iter().find_map(|event| match event {
        Event::MmOpened(opened) => Some(opened),
        _ => None,
    });
    let Some(opened) = opened.filter(|_| found) else {
        let detail = "it did not find a process that was there, or its record did not come through the ring";
        checks.push(Check::failed(BOOKS, NAMES[0], Blame::Kernel, detail));
        return Ok(());
    };
    checks.push(Check::ok(BOOKS, NAMES[0], "it found a sleeping process, whose opening came through the ring"));

    let check = agreement(opened.counters, counters()?);
    let failed = check.blame.is_some();
    checks.push(check);
    if failed {
        return Ok(());
    }

    subject.touch()?;
    let events = observer.last_tick()?;
    let closing = events.iter().find_map(|event| match event {
        Event::Tick(tick) => tick.closings.iter().find(|closing| closing.mm == opened.mm).map(|c| c.counters),
        _ => None,
    });
    let changes: Vec<&Change> = events
        .iter()
        .filter_map(|event| match event {
            Event::Change(change) if change.mm == opened.mm => Some(change),
            _ => None,
        })
        .collect();
    let closing = closing.ok_or_else(|| anyhow!("no counters came at the interval's end"))?;
    checks.push(known_change(&subject.region, opened.counters, closing, &changes, counters()?));
    let edges = events.iter().filter_map(|event| match event {
        Event::Span(edge) => Some(&**edge),
        _ => None,
    });
    checks.push(known_span(watched, edges));
    Ok(())
}

/// How far statm and status may be off on a kernel that does not sum the CPUs' parts for them (before 6.16).
fn approximation(cpus: usize) -> i64 {
    let batch = (2 * cpus).max(32);
    i64::try_from((batch - 1) * cpus).unwrap_or(i64::MAX)
}

fn agreement(ours: Amounts, proc: Amounts) -> Check {
    let shown = format!("anon {}, file {}, shmem {}, swap {} pages", ours.anon, ours.file, ours.shmem, ours.swap);
    if ours == proc {
        return Check::ok(BOOKS, NAMES[1], format!("of a stopped process equal /proc's: {shown}"));
    }
    let difference = proc - ours;
    let off = [difference.anon, difference.file, difference.shmem, difference.swap].map(i64::abs).into_iter().max();
    let bound = approximation(aya::util::nr_cpus().unwrap_or(1));
    let differs = format!("anon {}, file {}, shmem {}, swap {}", proc.anon, proc.file, proc.shmem, proc.swap);
    if off.unwrap_or(0) <= bound {
        return Check::limited(
            BOOKS,
            NAMES[1],
            format!(
                "{shown}; /proc says {differs}: its figures are approximate before Linux 6.16, by {bound} pages here"
            ),
        );
    }
    Check::failed(BOOKS, NAMES[1], Blame::Kernel, format!("{shown}, but /proc says {differs}"))
        .advise("memtrace doctor --json        and report its output")
}

fn known_change(region: &Region, opening: Amounts, closing: Amounts, changes: &[&Change], proc: Amounts) -> Check {
    let explained: Amounts = changes.iter().map(|change| change.delta).sum();
    let touched: i64 = changes
        .iter()
        .filter(|change| change.cause == Cause::FaultAnon)
        .filter(|change| match change.place {
            Place::Vma { start, end } => region.holds(start.max(region.start as u64)) && end > region.start as u64,
            Place::Address(address) => region.holds(address),
            _ => false,
        })
        .map(|change| change.delta.anon)
        .sum();
    let unexplained = closing - opening - explained;
    let wanted = i64::try_from(PAGES).unwrap_or(i64::MAX);
    let moved = (closing - opening).res();
    if touched == wanted && unexplained.is_zero() {
        let proc = if closing == proc { ", and closing counters equal to /proc's" } else { "" };
        return Check::ok(
            BOOKS,
            NAMES[2],
            format!("{PAGES} pages touched: {touched} booked as fault.anon at their addresses, 0 unexplained{proc}"),
        );
    }
    Check::failed(
        BOOKS,
        NAMES[2],
        Blame::Kernel,
        format!(
            "{PAGES} pages touched: {touched} booked as fault.anon at their addresses; RES moved by {moved} pages, {} unexplained",
            unexplained.res()
        ),
    )
    .advise("memtrace doctor --json        and report its output")
}

/// What is booked between the two edges of [`touch`]. Without probes on functions the books are kept all the same.
fn known_span<'a>(watched: Result<()>, edges: impl Iterator<Item = &'a SpanEdge>) -> Check {
    if let Err(error) = watched {
        let detail = format!("refused: {}; spans and statements cannot be watched", error.root_cause());
        return Check::limited(BOOKS, NAMES[3], detail);
    }
    let told: Vec<&SpanEdge> = edges.filter(|edge| edge.edge != Edge::Cut).collect();
    if let [SpanEdge { edge: Edge::Begin { .. }, .. }, SpanEdge { edge: Edge::End, sums, .. }] = &told[..]
        && usize::try_from(sums.delta.anon).is_ok_and(|pages| pages == PAGES)
    {
        let detail = format!("{PAGES} pages between a function's entry and its return, as booked");
        return Check::ok(BOOKS, NAMES[3], detail);
    }
    let pages: Vec<i64> = told.iter().map(|edge| edge.sums.delta.anon).collect();
    let detail = format!("{PAGES} pages touched in a function; told at its entry and return: {pages:?}");
    Check::limited(BOOKS, NAMES[3], detail).advise("memtrace doctor --json        and report its output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_of_proc_is_the_kernels_batch() {
        assert_eq!((approximation(1), approximation(2), approximation(256)), (31, 62, 511 * 256));
    }

    #[test]
    fn a_subject_stands_still_between_known_amounts() {
        let subject = Subject::start().unwrap();
        let files = subject.files().unwrap();
        let read = || files.read_status().unwrap().amounts(page_size()).unwrap();
        let before = read();
        assert_eq!(before, read());
        subject.touch().unwrap();
        let after = read();
        assert_eq!(after, read());
        assert!(after.anon - before.anon >= PAGES as i64, "{before:?} {after:?}");
    }
}
