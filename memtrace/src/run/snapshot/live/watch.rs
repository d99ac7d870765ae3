//! `--watch`: what changed since the last look, again and again, until the time is over, everyone has ended, or ^C.

use crate::cli::{Format, ReadOptions, SnapshotOptions, Subject};
use crate::hints::Failure;
use crate::run::snapshot::Output;
use crate::snapshot::diff::Together;
use crate::snapshot::read::read;
use crate::snapshot::{Process, Snapshot};
use crate::units::nanos;
use crate::views::{escape, human};
use anyhow::{Context as _, Result};
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::{pipe, unregister};
use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A reading is followed by a wait of so many times its cost, as between the live tracer's audits.
const WAIT_PER_COST: u32 = 50;

/// What a group's watcher should know.
const WATCHED: &str = "from here on what changes, with Σ RES and Σ PSS of all together. RES and USS of all, each page \
                       counted once, would take a walk over all their pages each time: for these, write two snapshots \
                       with --json and compare them with --diff.";

pub(super) fn watch(
    first: Snapshot,
    interval: Duration,
    options: &SnapshotOptions,
    output: &mut Output<'_>,
) -> Result<()> {
    let mut signals = Signals::catch().context("failed to catch signals")?;
    let begin = Instant::now();
    let mut subject = options.subject.clone();
    if let Subject::Pids(pids) = &mut subject {
        // Of the others it has been told why not.
        pids.retain(|&pid| first.processes.iter().any(|process| process.pid == pid));
    }
    let reading = ReadOptions { for_diff: true, ..options.reading };
    // Whose memory is another one's, and who is therefore in no sum.
    let twins: &[(u32, u64)] = first.group.as_ref().map_or(&[], |group| &group.twins);
    let together =
        |processes: &[Process]| Together::of(processes.iter().filter(|p| !twins.contains(&(p.pid, p.start_time))));
    if first.group.is_some() && options.show.format == Format::Text {
        output.say(WATCHED)?;
    }
    let mut before = first.processes;
    let mut stretched = false;
    loop {
        let spent = if reading.full { Duration::ZERO } else { longest_reading(&before) };
        let due = next_turn(begin.elapsed(), interval, spent);
        if spent.saturating_mul(WAIT_PER_COST) > interval && !std::mem::replace(&mut stretched, true) {
            eprintln!(
                "memtrace: reading one of them takes {}, so that looks are further apart than {} (--full: as asked)",
                human::duration(nanos(spent)),
                human::duration(nanos(interval))
            );
        }
        if options.duration.is_some_and(|duration| due > duration) {
            signals.wait(options.duration.unwrap_or_default().saturating_sub(begin.elapsed()))?;
            break;
        }
        if signals.wait(due.saturating_sub(begin.elapsed()))? {
            break;
        }
        let after = look_again(&mut subject, &before, &reading)?;
        output.changes(&before, after.as_deref().unwrap_or_default())?;
        match after {
            Some(after) => {
                output.together(&together(&before), &together(&after))?;
                before = after;
            }
            None => break,
        }
    }
    Ok(())
}

/// The first multiple of the interval, from the beginning, that is not over and leaves the processes in peace for long
/// enough after a reading that took so long: a turn that was missed is not made up for.
fn next_turn(now: Duration, interval: Duration, spent: Duration) -> Duration {
    let earliest = nanos(now.saturating_add(spent.saturating_mul(WAIT_PER_COST)));
    let interval = nanos(interval).max(1);
    Duration::from_nanos((earliest / interval).saturating_add(1).saturating_mul(interval))
}

/// Of the process that took longest: wall time of the sources whose reading may keep it waiting.
fn longest_reading(processes: &[Process]) -> Duration {
    let of = |process: &Process| {
        let held = process.sources.iter().filter(|cost| cost.source.holds_lock());
        held.map(|cost| cost.cost_ns).fold(0, u64::saturating_add)
    };
    Duration::from_nanos(processes.iter().map(of).max().unwrap_or(0))
}

/// Those of the processes that are still there; `None` when none is. Who was asked for by number is told of as it ends.
fn look_again(subject: &mut Subject, before: &[Process], reading: &ReadOptions) -> Result<Option<Vec<Process>>> {
    loop {
        if matches!(subject, Subject::Pids(pids) if pids.is_empty()) {
            return Ok(None);
        }
        let (mut processes, ended) = match read(subject, reading) {
            Ok(Snapshot { processes, .. }) if !matches!(subject, Subject::Pids(_)) => return Ok(Some(processes)),
            Ok(Snapshot { processes, missing, .. }) => {
                if let Some(failure) = missing.failures.iter().find(|failure| failure.ended().is_none()) {
                    return Err(failure.clone().into());
                }
                // Another process has its number.
                let reused = processes.iter().filter(|now| {
                    let same = before.iter().find(|then| then.pid == now.pid);
                    same.is_some_and(|then| then.start_time != now.start_time)
                });
                let ended: Vec<u32> =
                    missing.failures.iter().filter_map(Failure::ended).chain(reused.map(|now| now.pid)).collect();
                (processes, ended)
            }
            Err(error) => match (error.downcast_ref::<Failure>(), &subject) {
                (Some(failure), Subject::Pids(_)) => match failure.ended() {
                    Some(pid) => (Vec::new(), vec![pid]),
                    None => return Err(error),
                },
                (Some(Failure::NoneNamed { .. } | Failure::NoneInCgroup { .. } | Failure::NoSuchCgroup { .. }), _) => {
                    before.iter().for_each(tell);
                    return Ok(None);
                }
                _ => return Err(error),
            },
        };
        let Subject::Pids(pids) = subject else { return Ok(None) };
        let watched = pids.len();
        pids.retain(|pid| !ended.contains(pid));
        processes.retain(|process| !ended.contains(&process.pid));
        before.iter().filter(|process| ended.contains(&process.pid)).for_each(tell);
        if !processes.is_empty() {
            return Ok(Some(processes));
        }
        if pids.len() == watched {
            // Not one of ours: asking again would not help.
            return Ok(None);
        }
    }
}

fn tell(process: &Process) {
    eprintln!("memtrace: {}[{}] ended", escape(&process.comm, 32), process.pid);
}

/// Signals that end the watch, as something to wait for.
struct Signals {
    caught: UnixStream,
    handlers: Vec<SigId>,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        let (caught, raised) = UnixStream::pair()?;
        let mut signals = Self { caught, handlers: Vec::new() };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signals.handlers.push(pipe::register(signal, raised.try_clone()?)?);
        }
        Ok(signals)
    }

    /// True when a signal came within the time.
    fn wait(&mut self, time: Duration) -> io::Result<bool> {
        if time.is_zero() {
            // As a timeout, 0 means for ever.
            self.caught.set_nonblocking(true)?;
        } else {
            self.caught.set_nonblocking(false)?;
            self.caught.set_read_timeout(Some(time))?;
        }
        let until = Instant::now() + time;
        loop {
            match self.caught.read(&mut [0]) {
                Ok(_) => return Ok(true),
                // The signal's handler ran first, its byte is there.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() >= until {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for &handler in &self.handlers {
            unregister(handler);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_that_were_missed_are_not_made_up_for() {
        let ms = Duration::from_millis;
        assert_eq!(next_turn(ms(0), ms(100), ms(0)), ms(100));
        assert_eq!(next_turn(ms(130), ms(100), ms(0)), ms(200));
        assert_eq!(next_turn(ms(8_050), ms(100), ms(1)), ms(8_200));
        assert_eq!(next_turn(ms(10), ms(100), ms(20)), ms(1_100));
        assert_eq!(next_turn(Duration::MAX, ms(1), ms(1)), Duration::from_nanos(u64::MAX));
    }
}
