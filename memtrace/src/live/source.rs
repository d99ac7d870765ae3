//! Where a session's events come from: probes, or /proc alone. A session asks and does not know which.

use super::mmap_lock::MmapLock;
use super::observer::Observer;
use super::poller::Poller;
use super::probes::Options;
use super::session::poll;
use super::spans::{self, Who};
use crate::cli::TraceOptions;
use crate::event::{CodeId, Event, MmId};
use crate::hints::Failure;
use crate::procfs::ProcessFiles;
use crate::stacks::names::NewCode;
use anyhow::Result;
use std::collections::HashMap;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// The source of a session's events.
pub enum Source {
    /// Every change with its cause.
    Probes(Box<Observer>),
    /// Differences of /proc.
    Poller(Poller),
}

impl Source {
    /// With probes, unless they are not wanted. Nothing is traced yet.
    ///
    /// # Errors
    /// The kernel refuses the probes, or they would not see the ids that we see.
    pub fn new(options: &TraceOptions) -> Result<Self> {
        if options.no_bpf {
            return Ok(Self::Poller(Poller::default()));
        }
        // Where /proc does not say, the attach finds out.
        if !super::namespace::is_initial().unwrap_or(true) {
            return Err(Failure::PidNamespace.into());
        }
        let wanted = Options::of(options.follow, options.stacks, options.time, options.spans.any());
        let mut observer = Observer::new(wanted, options.bpf_stats)?;
        for (name, reason) in &observer.probes_mut().missing {
            log::info!("{name} cannot be had here ({reason}): what it tells is missing");
        }
        if options.verbose > 0 {
            start_probe_log(&mut observer);
        }
        Ok(Self::Probes(Box::new(observer)))
    }

    /// What takes this lock is left out while it is held.
    pub fn mind(&mut self, lock: &MmapLock) {
        if let Self::Probes(observer) = self {
            observer.mind(lock);
        }
    }

    /// Opens the books of a running process. False when it has no memory (any more).
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach(&mut self, pid: u32) -> Result<bool> {
        match self {
            Self::Probes(observer) => observer.attach(pid),
            Self::Poller(poller) => Ok(poller.attach(pid)?),
        }
    }

    /// Hangs probes on the functions that begin and end spans. What the user should know about them is returned. To be
    /// called before the books open: the kernel copies the pages that it puts a trap into.
    ///
    /// # Errors
    /// A file or function is not there, or the kernel refuses.
    pub fn attach_spans(&mut self, who: &Who<'_>, options: &TraceOptions) -> Result<Vec<String>> {
        match self {
            Self::Probes(observer) if options.spans.any() => {
                let attached = spans::attach(observer.probes_mut(), who, &options.spans, options.follow)?;
                observer.name_spans(attached.names);
                Ok(attached.warnings)
            }
            // Without probes there are no edges, and the command line has refused that.
            Self::Probes(_) | Self::Poller(_) => Ok(Vec::new()),
        }
    }

    /// Watches a process from its next execve on. What [`Self::opening_events`] says once it has happened is its beginning.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach_at_exec(&mut self, pid: u32) -> Result<()> {
        match self {
            Self::Probes(observer) => observer.attach_at_exec(pid),
            Self::Poller(poller) => {
                poller.await_exec_of(pid);
                Ok(())
            }
        }
    }

    /// The books that are open already, before the first interval ends.
    pub fn opening_events(&mut self) -> Vec<Event> {
        match self {
            Self::Probes(observer) => observer.opening_events(),
            Self::Poller(poller) => poller.opening_events(),
        }
    }

    /// Ends an interval: everything that happened in it, and the tick.
    ///
    /// # Errors
    /// The books cannot be closed.
    pub fn tick(&mut self) -> Result<Vec<Event>> {
        match self {
            Self::Probes(observer) => observer.tick(),
            Self::Poller(poller) => Ok(poller.tick()),
        }
    }

    /// Ends the last interval: what waits for something to happen first is not waited for.
    ///
    /// # Errors
    /// As [`Self::tick`].
    pub fn last_tick(&mut self) -> Result<Vec<Event>> {
        match self {
            Self::Probes(observer) => observer.last_tick(),
            Self::Poller(poller) => Ok(poller.tick()),
        }
    }

    /// Where the names of code are that was new since the last call.
    pub fn take_new_code(&mut self) -> HashMap<CodeId, NewCode> {
        match self {
            Self::Probes(observer) => observer.take_new_code(),
            Self::Poller(_) => HashMap::new(),
        }
    }

    /// Descriptors that are readable when much waits to be read before the interval ends; `None` where nothing waits.
    #[must_use]
    pub fn ring_fds(&self) -> Option<[BorrowedFd<'_>; 2]> {
        match self {
            Self::Probes(observer) => Some(observer.ring_fds()),
            Self::Poller(_) => None,
        }
    }

    /// Something waits for which no descriptor will become readable.
    #[must_use]
    pub const fn has_more(&self) -> bool {
        match self {
            Self::Probes(observer) => observer.has_more(),
            Self::Poller(_) => false,
        }
    }

    /// Takes what waits.
    pub fn read_ring(&mut self) {
        if let Self::Probes(observer) = self {
            observer.read_ring();
        }
    }

    /// Looks at the threads that wait; the interval's end tells what was seen.
    pub fn look(&mut self) {
        if let Self::Probes(observer) = self {
            observer.look();
        }
    }

    /// Some mm is still under observation.
    #[must_use]
    pub fn observes_any(&self) -> bool {
        match self {
            Self::Probes(observer) => observer.observes_any(),
            Self::Poller(poller) => poller.open_mm().is_some(),
        }
    }

    /// The same, or something that waits to be read will be.
    pub fn observes_any_later(&mut self) -> bool {
        match self {
            Self::Probes(observer) => observer.observes_any_later(),
            Self::Poller(poller) => poller.open_mm().is_some(),
        }
    }

    /// The first mm of a process that is under observation.
    #[must_use]
    pub fn mm_of(&self, pid: u32) -> Option<MmId> {
        match self {
            Self::Probes(observer) => observer.mm_of(pid),
            Self::Poller(poller) => poller.open_mm().filter(|_| poller.files().is_some_and(|files| files.pid() == pid)),
        }
    }

    /// /proc of an mm's process.
    #[must_use]
    pub fn files(&self, mm: MmId) -> Option<&ProcessFiles> {
        match self {
            Self::Probes(observer) => observer.files(mm),
            Self::Poller(poller) => poller.files(),
        }
    }

    /// Open mms whose /proc can be read.
    #[must_use]
    pub fn open_mms(&self) -> Vec<MmId> {
        match self {
            Self::Probes(observer) => observer.open_mms(),
            Self::Poller(poller) => poller.open_mm().into_iter().collect(),
        }
    }

    /// Reads smaps of an mm between two looks at its counters. `None` when the process is gone or does not let us.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn read_smaps(&mut self, mm: MmId) -> Result<Vec<Event>> {
        match self {
            Self::Probes(observer) => Ok(observer.read_smaps(mm)?.into_iter().collect()),
            Self::Poller(poller) => Ok(poller.read_smaps()),
        }
    }
}

/// Shows the probes' own warnings.
fn start_probe_log(observer: &mut Observer) {
    let mut logger = match aya_log::EbpfLogger::init(observer.probes_mut().ebpf_mut()) {
        Ok(logger) => logger,
        Err(error) => return log::info!("the probes' log cannot be read: {error}"),
    };
    // SAFETY: the ring's descriptor is open for as long as the logger, which the task below owns.
    let fd = unsafe { BorrowedFd::borrow_raw(logger.as_raw_fd()) };
    match poll(fd) {
        Ok(readiness) => {
            tokio::spawn(async move {
                while let Ok(mut guard) = readiness.readable().await {
                    logger.flush();
                    guard.clear_ready();
                }
            });
        }
        Err(error) => log::info!("the probes' log cannot be watched: {error}"),
    }
}
