//! A live session: when to end an interval, when to read smaps, when it is over. tokio lives here.

use super::database::Backends;
use super::failure::recognise;
use super::mmap_lock::MmapLock;
use super::own;
use super::source::Source;
use super::spans::Who;
use super::spawn::Waiting;
use super::waits;
use super::waits::surroundings;
use super::watch::{Interval, Intervals, Outcome, Stop};
use crate::cli::{Target, TraceOptions};
use crate::event::{End, EndReason, Event, Meta, MmId, Mode, TaskWhat};
use crate::hints::Failure;
use crate::procfs::{ProcessFiles, SmapsBudget, SmapsSize, monotonic_ns, page_size, read_kernel_release};
use crate::units::nanos;
use anyhow::{Context as _, Result};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Child;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior};

/// Distance of readings of what surrounds the target; a little less than a second, for ticks are not exact.
const SURROUNDINGS_NS: u64 = 950_000_000;

/// A descriptor of our own for polling.
pub(super) fn poll(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = fd.try_clone_to_owned()?;
    // SAFETY: an OwnedFd's descriptor stays open and the same for as long as the AsyncFd that owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// A session that has begun.
pub(super) struct Session {
    source: Source,
    options: TraceOptions,
    pid: u32,
    pidfd: OwnedFd,
    child: Option<Child>,
    opening: Vec<Event>,
    budgets: HashMap<MmId, SmapsBudget>,
    /// What surrounds the target, when time is asked for; and when that was read last.
    surroundings: Option<(surroundings::Reader, u64)>,
    /// Whether the target's own lock lets anybody read what is mapped.
    lock: MmapLock,
    /// Reads what runs already where statements are asked for, until the first interval.
    running: Option<Backends>,
    /// Where the threads' time is asked for.
    backends: Option<Backends>,
    /// Exit code of the target, once seen.
    code: Option<u32>,
    /// The command has been given a signal to answer.
    told: bool,
}

impl Session {
    /// Watches a target until it ends, the user ends it, the time is over, or nobody takes what there is to say.
    pub(super) fn watch(
        target: &Target,
        options: &TraceOptions,
        stop: &Stop,
        intervals: &Intervals,
    ) -> Result<Outcome> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        runtime.block_on(async {
            let mut session = Self::start(target, options).map_err(recognise)?;
            if options.follow {
                // Not before: a command that we started keeps the limits that it was given.
                own::raise_file_limit();
            }
            session.run(stop, intervals).await
        })
    }

    fn start(target: &Target, options: &TraceOptions) -> Result<Self> {
        match target {
            Target::Pid(pid) => Self::attach(*pid, options),
            Target::Command(command) => Self::spawn(command, options),
        }
    }

    fn attach(pid: u32, options: &TraceOptions) -> Result<Self> {
        if pid == std::process::id() {
            return Err(Failure::OwnPid { pid }.into());
        }
        let files = ProcessFiles::open(pid)?;
        let pidfd = open_pidfd(pid).map_err(|_| Failure::TargetGone { pid })?;
        let mut source = Source::new(options)?;
        let reader = ProcessFiles::open(pid)?;
        let (cmdline, lock) =
            MmapLock::try_with(pid, move || reader.read_cmdline()).context("failed to start a thread")?;
        if lock.hangs(pid) {
            tell(&[format!(
                "the lock on the address space of process {pid} (mmap_lock) is held: what is mapped cannot be read until it is free"
            )]);
        }
        source.mind(&lock);
        let meta = Meta {
            comm: files.read_comm()?,
            exe: files.read_exe().unwrap_or_default(),
            cmdline: cmdline.and_then(Result::ok).unwrap_or_default(),
            ..meta(pid, options)?
        };
        tell(&source.attach_spans(&Who::Process(pid), options)?);
        // What runs already passed its first edge before we came: its server says what it is, and since when. It is
        // recognised now and read when the books are open, so that little can end in between.
        let statements = options.spans.statements.then(|| Backends::start(vec![pid], None)).transpose();
        let running = statements.context("failed to start a thread")?;
        if let Some(running) = &running {
            running.wait_until_ready();
        }
        let found = source.attach(pid)?;
        // Opened by number twice: only when both are the same, living process are its books really open.
        if !files.exists() {
            let reused = std::path::Path::new(&format!("/proc/{pid}")).exists();
            return Err(if reused { Failure::PidReused { pid } } else { Failure::TargetGone { pid } }.into());
        }
        if !found {
            // It lives, but the kernel shows its memory to nobody, not to the task iterator either.
            let hidden = Failure::NotPermitted { what: format!("see the memory of process {pid}"), capability: "" };
            return Err(if has_ended(&pidfd) { Failure::TargetGone { pid } } else { hidden }.into());
        }
        let mut opening = vec![Event::Meta(meta)];
        opening.append(&mut source.opening_events());
        if let Some(mm) = source.mm_of(pid).filter(|_| !lock.hangs(pid)) {
            let may_read_smaps = files
                .read_size(&mut Vec::new())
                .is_ok_and(|size| new_budget(options).check(monotonic_ns(), &size).is_ok());
            if let Ok(overview) = files.read_overview(mm, may_read_smaps) {
                opening.push(Event::Overview(overview));
            }
        }
        Ok(Self { running, lock, ..Self::new(source, options, (pid, pidfd), None, opening) })
    }

    fn spawn(command: &[OsString], options: &TraceOptions) -> Result<Self> {
        use std::os::unix::ffi::OsStrExt as _;
        let mut source = Source::new(options)?;
        let waiting = Waiting::start(command)?;
        let pid = waiting.pid;
        let pidfd = open_pidfd(pid).context("failed to open the command's process")?;
        let program = command.first().map(OsString::as_os_str).unwrap_or_default();
        tell(&source.attach_spans(&Who::Command { pid, program }, options)?);
        source.attach_at_exec(pid)?;
        let mut meta = Meta { spawned: true, ..meta(pid, options)? };
        let child = waiting.release()?;
        let opening = source.opening_events();
        let files = ProcessFiles::open(pid);
        let name = command.first().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        // A command that has ended already has no name any more but the one that was typed.
        meta.comm = opening
            .iter()
            .find_map(|event| match event {
                Event::MmOpened(opened) => Some(opened.comm.clone()),
                _ => None,
            })
            .unwrap_or_else(|| name.clone());
        meta.exe = files.as_ref().ok().and_then(|files| files.read_exe().ok()).unwrap_or(name);
        meta.cmdline = files.as_ref().ok().and_then(|files| files.read_cmdline().ok()).unwrap_or_default();
        let mut events = vec![Event::Meta(meta)];
        events.extend(opening);
        Ok(Self::new(source, options, (pid, pidfd), Some(child), events))
    }

    fn new(
        source: Source,
        options: &TraceOptions,
        (pid, pidfd): (u32, OwnedFd),
        child: Option<Child>,
        mut opening: Vec<Event>,
    ) -> Self {
        let files = source.mm_of(pid).and_then(|mm| source.files(mm)).filter(|_| options.time);
        let reader = files.and_then(|files| surroundings::Reader::new(files).ok());
        let surroundings = reader.map(|reader| (reader, monotonic_ns()));
        opening.extend(surroundings.as_ref().map(|(reader, _)| Event::Surroundings(Box::new(reader.read()))));
        Self {
            source,
            options: options.clone(),
            pid,
            pidfd,
            child,
            opening,
            budgets: HashMap::new(),
            surroundings,
            running: None,
            lock: MmapLock::default(),
            backends: None,
            code: None,
            told: false,
        }
    }

    async fn run(&mut self, stop: &Stop, intervals: &Intervals) -> Result<Outcome> {
        // Before the first line is out: whoever reads it may send a signal at once.
        let mut signals = Signals::new()?;
        let mut opening = std::mem::take(&mut self.opening);
        if let Some(running) = self.running.take() {
            running.watch(self.pids());
            opening.append(&mut running.finish());
        }
        if self.options.time {
            let ask = self.options.pg.clone().map(|dsn| (self.pid, dsn));
            self.backends = Some(Backends::start(self.pids(), ask).context("failed to start a thread")?);
        }
        let reason = if self.give(intervals, opening) {
            self.observe(stop, intervals, &mut signals).await?
        } else {
            EndReason::OutputClosed
        };
        // The books are closed first: a server's last answer may be waited for.
        let mut last = self.source.last_tick()?;
        self.add_surroundings(&mut last, true);
        let said = self.backends.take().map(Backends::finish).unwrap_or_default();
        let tick = last.len().saturating_sub(1);
        last.splice(tick..tick, said);
        self.note_exit(&last);
        if reason == EndReason::OutputClosed {
            return self.outcome(false);
        }
        let exited = matches!(reason, EndReason::Exited { .. });
        let outcome = self.outcome(exited)?;
        if let Some(mm) = self.source.mm_of(self.pid).filter(|_| !exited && !self.lock.hangs(self.pid)) {
            let overview = self.source.files(mm).and_then(|files| files.read_overview(mm, false).ok());
            last.extend(overview.map(Event::Overview));
        }
        let reason = if exited { EndReason::Exited { code: self.code } } else { reason };
        last.push(Event::End(End::new(monotonic_ns(), reason)));
        self.give(intervals, last);
        Ok(outcome)
    }

    /// Status of the command: waited for when it has ended, else success, for it goes on without us.
    fn outcome(&mut self, exited: bool) -> Result<Outcome> {
        let Some(child) = &mut self.child else { return Ok(Outcome { status: None, left_running: None }) };
        if !exited {
            return Ok(Outcome { status: Some(0), left_running: Some(child.id()) });
        }
        let status = child.wait().context("failed to wait for the command")?;
        self.code.get_or_insert(status.into_raw().cast_unsigned());
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Ok(Outcome { status: Some(u8::try_from(code & 0xff).unwrap_or(1)), left_running: None })
    }

    /// False when nobody takes what there is to say.
    fn give(&mut self, intervals: &Intervals, events: Vec<Event>) -> bool {
        intervals.send(Interval { events, code: self.source.take_new_code() })
    }

    async fn observe(&mut self, stop: &Stop, intervals: &Intervals, signals: &mut Signals) -> Result<EndReason> {
        let mut ticks = tokio::time::interval_at(Instant::now() + self.options.interval, self.options.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = tokio::time::interval(waits::DISTANCE);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = self.options.duration.map(|duration| Instant::now() + duration);
        let exit = poll(self.pidfd.as_fd()).context("failed to watch the target's end")?;
        let rings = match self.source.ring_fds() {
            Some([lives, copies]) => Some((
                poll(lives).context("failed to watch the ring")?,
                poll(copies).context("failed to watch the ring")?,
            )),
            None => None,
        };
        let mut gone = false;
        loop {
            let over = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let more = self.source.has_more();
            let filling = async {
                if more {
                    return Ok(());
                }
                let Some((lives, copies)) = &rings else { return std::future::pending().await };
                tokio::select! {
                    guard = lives.readable() => guard?.clear_ready(),
                    guard = copies.readable() => guard?.clear_ready(),
                }
                io::Result::Ok(())
            };
            tokio::select! {
                biased;
                _ = exit.readable(), if !gone => {
                    gone = true;
                    if !self.options.follow || !self.source.observes_any_later() {
                        return Ok(EndReason::Exited { code: None });
                    }
                }
                number = signals.next() => {
                    if !self.passes_on(number) {
                        return Ok(EndReason::Interrupted);
                    }
                }
                () = stop.stopped() => return Ok(EndReason::Interrupted),
                () = over => return Ok(EndReason::Duration),
                _ = ticks.tick() => {
                    let mut events = self.backends.as_ref().map(Backends::take).unwrap_or_default();
                    events.append(&mut self.source.tick()?);
                    self.add_surroundings(&mut events, false);
                    self.note_exit(&events);
                    if !self.give(intervals, events) {
                        return Ok(EndReason::OutputClosed);
                    }
                    if let Some(backends) = &self.backends {
                        backends.watch(self.pids());
                    }
                    let audit = self.audit()?;
                    if !audit.is_empty() && !self.give(intervals, audit) {
                        return Ok(EndReason::OutputClosed);
                    }
                    if gone && !self.source.observes_any() {
                        return Ok(EndReason::Exited { code: None });
                    }
                }
                _ = looks.tick(), if self.options.time => self.source.look(),
                // After the ticks: when copies come faster than they are unwound, intervals end all the same.
                watched = filling => {
                    watched.context("failed to watch the ring")?;
                    self.source.read_ring();
                }
            }
        }
    }

    /// The processes that are under observation.
    fn pids(&self) -> Vec<u32> {
        let files = self.source.open_mms().into_iter().filter_map(|mm| self.source.files(mm));
        files.map(ProcessFiles::pid).collect()
    }

    /// A signal to us while our command runs is the command's to answer: a terminal sends SIGINT to both, SIGTERM is
    /// passed on. The second one ends the session.
    fn passes_on(&mut self, number: i32) -> bool {
        let Some(child) = &mut self.child else { return false };
        if std::mem::replace(&mut self.told, true) {
            return false;
        }
        if number == libc::SIGTERM {
            // SAFETY: the child has not been waited for, so its number is its own.
            unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
        }
        true
    }

    /// Before the interval's tick, which is the last of its events; once a second, and when the session ends.
    fn add_surroundings(&mut self, events: &mut Vec<Event>, last: bool) {
        let now = monotonic_ns();
        if let Some((reader, read_ns)) = &mut self.surroundings
            && (last || now.saturating_sub(*read_ns) >= SURROUNDINGS_NS)
        {
            *read_ns = now;
            events.insert(events.len().saturating_sub(1), Event::Surroundings(Box::new(reader.read())));
        }
    }

    fn note_exit(&mut self, events: &[Event]) {
        for event in events {
            if let Event::Task(task) = event
                && let TaskWhat::ProcessExited { code } = task.what
                && task.pid == self.pid
            {
                self.code = Some(code);
            }
        }
    }

    /// Reads smaps of the mm that has waited longest, if its budget allows.
    fn audit(&mut self) -> Result<Vec<Event>> {
        if self.options.smaps_interval.is_none() {
            return Ok(Vec::new());
        }
        let now = monotonic_ns();
        let mms = self.source.open_mms();
        self.budgets.retain(|mm, _| mms.contains(mm));
        let hung = self.source.mm_of(self.pid).filter(|_| self.lock.hangs(self.pid));
        let due = mms
            .into_iter()
            .filter(|mm| hung != Some(*mm))
            .map(|mm| (self.budgets.get(&mm).map_or(0, SmapsBudget::due_ns), mm))
            .filter(|(due, _)| *due <= now)
            .min();
        let Some((_, mm)) = due else { return Ok(Vec::new()) };
        let budget = self.budgets.entry(mm).or_insert_with(|| new_budget(&self.options));
        let size = self.source.files(mm).and_then(|files| files.read_size(&mut Vec::new()).ok());
        let Some(size): Option<SmapsSize> = size else {
            budget.skipped(now);
            return Ok(Vec::new());
        };
        if let Err(refusal) = budget.check(now, &size) {
            log::info!("no audit of mm {}: {refusal}", mm.0);
            budget.skipped(now);
            return Ok(Vec::new());
        }
        let events = self.source.read_smaps(mm)?;
        let now = monotonic_ns();
        match events.last() {
            Some(Event::Smaps(smaps)) => {
                let cost = crate::procfs::ReadCost {
                    cost_ns: smaps.cost_ns,
                    longest_hold_ns: smaps.longest_hold_ns,
                    reads: 0,
                };
                budget.spent(now, &size, cost);
            }
            _ => budget.skipped(now),
        }
        Ok(events)
    }
}

/// What the user should know before anything else is printed.
fn tell(warnings: &[String]) {
    for warning in warnings {
        eprintln!("memtrace: {warning}");
    }
}

/// The signals that end a session.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self> {
        let of = |kind| signal(kind).context("failed to watch for signals");
        Ok(Self([of(SignalKind::interrupt())?, of(SignalKind::terminate())?, of(SignalKind::hangup())?]))
    }

    async fn next(&mut self) -> i32 {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => libc::SIGINT,
            _ = terminate.recv() => libc::SIGTERM,
            _ = hangup.recv() => libc::SIGHUP,
        }
    }
}

fn new_budget(options: &TraceOptions) -> SmapsBudget {
    let interval = options.smaps_interval.map_or(u64::MAX, nanos);
    SmapsBudget::new(interval, Some(nanos(options.max_snapshot)))
}

fn meta(pid: u32, options: &TraceOptions) -> Result<Meta> {
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(Meta {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid,
        comm: Vec::new(),
        exe: Vec::new(),
        cmdline: Vec::new(),
        kernel: read_kernel_release().context("failed to read the kernel's release")?,
        page_size: page_size(),
        mode: if options.no_bpf { Mode::Procfs } else { Mode::Exact },
        mode_reason: mode_reason(options.no_bpf, super::lag::counters_lag()).to_owned(),
        interval_ns: nanos(options.interval),
        ts_ns: monotonic_ns(),
        wall_ns: i64::try_from(wall.as_nanos()).unwrap_or(i64::MAX),
        spawned: false,
        follow: options.follow,
    })
}

/// Why not exact, and how good what `/proc` says is.
const fn mode_reason(no_bpf: bool, late: bool) -> &'static str {
    match (no_bpf, late) {
        (true, false) => "--no-bpf was given",
        (true, true) => {
            "--no-bpf was given; on this kernel /proc shows counters late, by up to 64 faults per thread or a batch per CPU"
        }
        (false, false) => "",
        (false, true) => {
            "on this kernel /proc shows counters late, by up to a batch per CPU: audits differ by that much, the ledger does not"
        }
    }
}

/// The process has ended: its pidfd is readable.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, of a descriptor that is open; no waiting.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}

fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a descriptor that nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}
