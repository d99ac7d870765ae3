//! Events without probes: what `/proc` says now and then. A tick has the counters of `/proc/PID/status`; no entry
//! explains how they came to differ from those before, so the whole difference is unexplained, and said to be.
//!
//! The counters of any process can be read by anybody; maps and smaps need the right to trace it, which one has over
//! one's own processes. A process that becomes another program keeps its books: it is one process to /proc.

use super::own;
use super::reading::{self, MAPS_WAIT_PER_COST};
use crate::event::{Closing, Event, Lost, Maps, MmClosed, MmId, MmOpened, Smaps, Task, TaskWhat, Tick, Why};
use crate::procfs::{Error, ProcessFiles, Status, monotonic_ns, page_size, parse_maps};
use crate::units::Amounts;

/// There is one process, hence one mm.
const MM: MmId = MmId(0);

/// A process under observation.
struct Process {
    files: ProcessFiles,
    /// maps as last read.
    maps: Vec<u8>,
    /// The auxiliary vector as last read: another one is another program.
    auxv: Vec<u8>,
    maps_due_ns: u64,
}

/// The source of events that needs no probes.
#[derive(Default)]
pub struct Poller {
    process: Option<Process>,
    opening: Vec<Event>,
    awaited: Option<u32>,
    /// Scratch for readings.
    buffer: Vec<u8>,
}

impl Poller {
    /// Opens the books of a running process. False when it has no memory any more.
    ///
    /// # Errors
    /// As [`ProcessFiles::open`].
    pub fn attach(&mut self, pid: u32) -> Result<bool, Error> {
        let files = ProcessFiles::open(pid)?;
        let Some((counters, virt)) = counters(&files) else { return Ok(false) };
        let ts_ns = monotonic_ns();
        self.opening.push(Event::MmOpened(MmOpened {
            mm: MM,
            ts_ns,
            pid,
            comm: files.read_comm()?,
            why: Why::Attach,
            counters,
            virt,
            // /proc/PID/maps names heap and stack.
            start_brk: 0,
            brk: 0,
            start_stack: 0,
        }));
        let mut process = Process { files, maps: Vec::new(), auxv: Vec::new(), maps_due_ns: 0 };
        // Without the right to read it there is nothing to compare, and exec goes unnoticed.
        let _ = process.files.read_auxv(&mut process.auxv);
        self.opening.extend(process.read_maps(&mut self.buffer));
        self.process = Some(process);
        Ok(true)
    }

    /// The process will be attached to when the opening events are asked for: its execve is over by then.
    pub const fn await_exec_of(&mut self, pid: u32) {
        self.awaited = Some(pid);
    }

    /// The opening of the books and the first maps. Nothing when the process ended before.
    pub fn opening_events(&mut self) -> Vec<Event> {
        if let Some(pid) = self.awaited.take()
            && let Err(error) = self.attach(pid)
        {
            log::info!("process {pid} could not be read any more: {error}");
        }
        std::mem::take(&mut self.opening)
    }

    /// The mm, while the process lives.
    #[must_use]
    pub fn open_mm(&self) -> Option<MmId> {
        self.process.as_ref().map(|_| MM)
    }

    /// /proc of the process, while it lives.
    #[must_use]
    pub fn files(&self) -> Option<&ProcessFiles> {
        self.process.as_ref().map(|process| &process.files)
    }

    /// Ends an interval.
    pub fn tick(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut closings = Vec::new();
        if let Some(mut process) = self.process.take() {
            match counters(&process.files) {
                Some((counters, virt)) => {
                    if monotonic_ns() >= process.maps_due_ns {
                        events.extend(process.look_again(&mut self.buffer));
                    }
                    closings.push(Closing { mm: MM, counters, virt: Some(virt) });
                    self.process = Some(process);
                }
                None => {
                    events.push(Event::MmClosed(MmClosed { mm: MM, ts_ns: monotonic_ns(), counters: Amounts::ZERO }));
                    closings.push(Closing { mm: MM, counters: Amounts::ZERO, virt: Some(0) });
                }
            }
        }
        events.push(Event::Tick(Tick {
            ts_ns: monotonic_ns(),
            closings,
            lost: Lost::default(),
            own: own::read_process(),
        }));
        events
    }

    /// Reads smaps between two readings of status, and maps before it, so that each of its mappings is known.
    pub fn read_smaps(&mut self) -> Vec<Event> {
        let Some(process) = &mut self.process else { return Vec::new() };
        let mut events = process.look_again(&mut self.buffer);
        let before = counters(&process.files);
        if let Some(smaps) = reading::read_smaps(&process.files, MM, &mut self.buffer) {
            let quiet = before.is_some_and(|(before, _)| before == smaps.status);
            events.push(Event::Smaps(Smaps { quiet, ..smaps }));
        }
        events
    }
}

impl Process {
    /// maps when they changed, and before them that it is another program, if it is.
    fn look_again(&mut self, buffer: &mut Vec<u8>) -> Vec<Event> {
        let Some(maps) = self.read_maps(buffer) else { return Vec::new() };
        let mut events = Vec::new();
        if self.files.read_auxv(buffer).is_ok() && !buffer.is_empty() && *buffer != self.auxv {
            let known = !std::mem::replace(&mut self.auxv, std::mem::take(buffer)).is_empty();
            let pid = self.files.pid();
            if known {
                events.push(Event::Task(Task {
                    mm: Some(MM),
                    ts_ns: monotonic_ns(),
                    pid,
                    tid: pid,
                    what: TaskWhat::Execed,
                    comm: self.files.read_comm().unwrap_or_default(),
                }));
            }
        }
        events.push(maps);
        events
    }

    /// maps, when they can be read and are not as they were.
    fn read_maps(&mut self, buffer: &mut Vec<u8>) -> Option<Event> {
        let begin_ns = monotonic_ns();
        let cost = self.files.read_maps(buffer).ok()?;
        let ts_ns = monotonic_ns();
        self.maps_due_ns = ts_ns.saturating_add(cost.cost_ns.saturating_mul(MAPS_WAIT_PER_COST));
        if buffer.is_empty() || *buffer == self.maps {
            return None;
        }
        std::mem::swap(&mut self.maps, buffer);
        let mut lines = Vec::new();
        parse_maps(&self.maps, &mut lines);
        Some(Event::Maps(Maps { mm: MM, begin_ns, ts_ns, lines }))
    }
}

/// Counters and size, in pages; `None` when the process has no memory any more.
fn counters(files: &ProcessFiles) -> Option<(Amounts, u64)> {
    let of = |status: Status| Some((status.amounts(page_size())?, status.virt_pages(page_size())?));
    if let Some(counters) = files.read_status().ok().and_then(of) {
        return Some(counters);
    }
    // Its main thread may have exited alone; then the other threads still show its memory.
    let threads = files.read_threads().ok()?;
    threads.into_iter().find_map(|tid| files.read_thread_status(tid).ok().and_then(of))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().expect("there is a sleep")
    }

    #[test]
    fn a_process_is_opened_ticked_and_closed_when_it_is_gone() {
        let mut child = sleeper();
        let mut poller = Poller::default();
        assert!(poller.attach(child.id()).unwrap());
        let opening = poller.opening_events();
        let Event::MmOpened(opened) = &opening[0] else { panic!("{opening:?}") };
        assert_eq!((opened.mm, opened.pid, opened.why), (MM, child.id(), Why::Attach));
        assert!(opened.counters.res() > 0 && opened.virt > 0);
        assert!(matches!(&opening[1], Event::Maps(maps) if !maps.lines.is_empty()), "{opening:?}");
        assert!(poller.opening_events().is_empty());

        let Some(Event::Tick(tick)) = poller.tick().pop() else { panic!("no tick") };
        assert_eq!(tick.closings.len(), 1);
        assert!(tick.closings[0].counters.res() > 0 && poller.open_mm().is_some());

        child.kill().unwrap();
        child.wait().unwrap();
        let events = poller.tick();
        assert!(matches!(&events[0], Event::MmClosed(closed) if closed.counters.is_zero()), "{events:?}");
        let Some(Event::Tick(tick)) = events.last() else { panic!("no tick") };
        assert!(tick.closings[0].counters.is_zero() && tick.closings[0].virt == Some(0));
        assert!(poller.open_mm().is_none());
        let Some(Event::Tick(tick)) = poller.tick().pop() else { panic!("no tick") };
        assert!(tick.closings.is_empty());
    }

    #[test]
    fn nobody_there_is_an_error_and_later_on_nothing() {
        let mut child = sleeper();
        child.kill().unwrap();
        child.wait().unwrap();
        let mut poller = Poller::default();
        assert!(matches!(poller.attach(child.id()), Err(Error::NoSuchProcess(_))));
        poller.await_exec_of(child.id());
        assert!(poller.opening_events().is_empty());
    }
}
