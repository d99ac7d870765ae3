//! What the probes and /proc say, as events. One call of [`Observer::tick`] ends an interval: it swaps the record maps,
//! waits until no program writes into the old one, and drains it.

use super::batch;
use super::copies::{Copies, Cost};
use super::mmap_lock::MmapLock;
use super::own;
use super::probes::{Options, Probes, Wire};
use super::reading;
use super::times;
use super::waits::{self, Waits};
use crate::decode::{Decoder, Raw};
use crate::event::{Closing, CodeId, Event, Lost, Maps, MmId, Own, Smaps, Tick, Wait, Why};
use crate::procfs::{ProcessFiles, monotonic_ns, parse_maps};
use crate::stacks::Stacks;
use crate::stacks::names::NewCode;
use crate::units::Amounts;
use anyhow::{Context as _, Result};
use memtrace_common::{Cause, Losses, MomentKey, Overflow, RecordKey, RecordValue, kind, nr};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// How long a thread's name is believed.
const COMM_BELIEVED_NS: u64 = 1_000_000_000;

/// A process whose /proc is open.
struct Process {
    files: ProcessFiles,
    /// Not to be read before; what a reading costs decides.
    maps_due_ns: u64,
    /// The address space may hold something that only maps knows: names of files, segments of System V.
    wants_maps: bool,
}

/// The live source of events.
pub struct Observer {
    probes: Probes,
    decoder: Decoder,
    /// Ring records of intervals that are not over.
    waiting: Vec<Raw>,
    /// Openings of mms whose interval is not over.
    opened: Vec<(u64, Event)>,
    copies: Copies,
    stacks: Stacks,
    processes: BTreeMap<MmId, Process>,
    comms: HashMap<u32, (Vec<u8>, u64)>,
    /// What was lost when the last interval ended.
    losses: Losses,
    /// The last tick saw records lost, of which some may be in the other half of the overflow table.
    overflowed: bool,
    buffer: Vec<u8>,
    reader: own::Reader,
    waits: Waits,
    /// What was seen of threads that wait, in the interval that is not over.
    looks: Vec<Wait>,
    lock: MmapLock,
}

impl Observer {
    /// Loads the probes; nothing is traced yet.
    ///
    /// # Errors
    /// As [`Probes::load`].
    pub fn new(options: Options, measure: bool) -> Result<Self> {
        Self::with(Probes::load(options)?, measure)
    }

    /// With probes that hang on their hooks already.
    ///
    /// # Errors
    /// A descriptor cannot be duplicated.
    pub fn with(probes: Probes, measure: bool) -> Result<Self> {
        let reader = own::Reader::new(&probes, measure)?;
        let stacks = if probes.copies_stacks() { Stacks::new() } else { Stacks::off() };
        Ok(Self {
            probes,
            decoder: Decoder::default(),
            waiting: Vec::new(),
            opened: Vec::new(),
            copies: Copies::default(),
            stacks,
            processes: BTreeMap::new(),
            comms: HashMap::new(),
            losses: Losses::default(),
            overflowed: false,
            buffer: Vec::new(),
            reader,
            waits: Waits::default(),
            looks: Vec::new(),
            lock: MmapLock::default(),
        })
    }

    /// The probes, for their log and what they miss.
    pub const fn probes_mut(&mut self) -> &mut Probes {
        &mut self.probes
    }

    /// Opens the books of a running process and, where they are followed, of those that descend from it. False when the task iterator did not find an mm of it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach(&mut self, pid: u32) -> Result<bool> {
        let mut known = 0;
        loop {
            self.probes.attach_to(pid)?;
            self.read_ring();
            // Who is followed may have children whose numbers are lower than its own.
            if !self.probes.follows() || self.opened.len() == known {
                break;
            }
            known = self.opened.len();
        }
        self.begin_times()?;
        Ok(self.opened.iter().any(|(_, event)| matches!(event, Event::MmOpened(opened) if opened.pid == pid)))
    }

    /// Traces a process from its next execve on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach_at_exec(&mut self, pid: u32) -> Result<()> {
        self.probes.attach_to(0)?;
        self.begin_times()?;
        self.probes.await_exec_of(pid)
    }

    fn begin_times(&mut self) -> Result<()> {
        if self.probes.books_time() { times::begin(&mut self.probes) } else { Ok(()) }
    }

    /// What takes this lock is left out while it is held.
    pub fn mind(&mut self, lock: &MmapLock) {
        self.lock = lock.clone();
    }

    /// Something waits in the rings for which they will not become readable.
    #[must_use]
    pub const fn has_more(&self) -> bool {
        self.copies.has_more()
    }

    /// Takes what waits in the rings. To be called when one is readable, so that it does not run full between ticks.
    pub fn read_ring(&mut self) {
        let mut code = Vec::new();
        while let Some(item) = self.probes.ring.next() {
            if let Some(raw) = self.decoder.parse_ring(&item) {
                code.extend(raw.mapped_code().map(|addresses| (*raw.head(), addresses)));
                self.waiting.push(raw);
            }
        }
        // Before their interval ends: a program that is gone by then has been looked at.
        let opened = self.decode_openings();
        self.open_new_processes(&opened);
        self.opened.extend(opened);
        for (head, addresses) in code {
            if let Some(mm) = self.decoder.mm(&head) {
                self.stacks.code_mapped(mm, addresses, head.ts_ns);
            }
        }
        self.copies.read(&mut self.probes.copies, &mut self.decoder, &mut self.stacks);
        self.learn_paths();
    }

    /// Tells the probes how to tell code paths apart. Where that fails, two of equal depth are one.
    fn learn_paths(&mut self) {
        if let Err(error) = self.probes.learn_paths(&self.stacks.take_paths()) {
            log::info!("paths of code cannot be told apart: {error:#}");
        }
    }

    /// The books that are open already, before the first interval ends. What else waits stays in the ring's order.
    pub fn opening_events(&mut self) -> Vec<Event> {
        self.read_ring();
        if self.opened.is_empty() {
            return Vec::new();
        }
        let mut events = vec![self.opened.remove(0).1];
        self.read_wanted_maps(&mut events);
        events
    }

    /// Where the names of code are that was new since the last call.
    pub fn take_new_code(&mut self) -> HashMap<CodeId, NewCode> {
        self.stacks.take_new_code()
    }

    /// The rings' descriptors, readable when much waits.
    #[must_use]
    pub fn ring_fds(&self) -> [BorrowedFd<'_>; 2] {
        // SAFETY: the rings own these descriptors and live as long as the borrow of `self`.
        [&self.probes.ring, &self.probes.copies].map(|ring| unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) })
    }

    /// Some mm is still under observation.
    #[must_use]
    pub fn observes_any(&self) -> bool {
        self.decoder.occupants().any(|(_, occupant)| !occupant.closed)
    }

    /// The same, or something that waits in the ring will be.
    pub fn observes_any_later(&mut self) -> bool {
        self.read_ring();
        self.observes_any() || self.waiting.iter().any(|raw| matches!(raw, Raw::Mm(_)))
    }

    /// The first mm of a process that is under observation.
    #[must_use]
    pub fn mm_of(&self, pid: u32) -> Option<MmId> {
        self.decoder.occupants().find(|(_, o)| o.pid == pid && !o.closed).map(|(_, o)| o.mm)
    }

    /// /proc of an mm's process.
    #[must_use]
    pub fn files(&self, mm: MmId) -> Option<&ProcessFiles> {
        self.processes.get(&mm).map(|process| &process.files)
    }

    /// Looks at the threads that wait; the interval's end tells what was seen.
    pub fn look(&mut self) {
        let processes = self.processes.iter().map(|(mm, process)| (*mm, &process.files));
        let stacks = self.probes.copies_stacks().then_some(&mut self.stacks);
        let mut registers = || {
            let registers = self.probes.waiting_registers();
            registers
                .inspect_err(|error| log::info!("registers of threads cannot be had: {error:#}"))
                .unwrap_or_default()
        };
        self.looks.extend(self.waits.look(processes, &self.lock, &mut registers, stacks));
    }

    /// Ends an interval: everything that happened in it, the readings that it calls for, and the tick.
    ///
    /// # Errors
    /// A map cannot be read: the books cannot be closed.
    pub fn tick(&mut self) -> Result<Vec<Event>> {
        let ended = self.probes.epoch();
        let before = monotonic_ns();
        self.probes.next_epoch()?;
        let now = monotonic_ns();
        if self.probes.books_time() {
            times::wait_for_begin(&self.probes);
        }
        own::wait_for_running_programs();
        self.read_ring();
        let losses = self.probes.losses()?;
        if losses.ring != self.losses.ring {
            for process in self.processes.values_mut() {
                process.wants_maps = true;
            }
        }
        // What is mapped is to be known before stacks are unwound, and they before what refers to them.
        let (mut timed, later): (Vec<_>, Vec<_>) = self.opened.drain(..).partition(|(ts, _)| *ts <= now);
        self.opened = later;
        self.want_maps_of_calls(now);
        let mut maps = Vec::new();
        self.read_wanted_maps(&mut maps);
        self.copies.hand_over(now, &self.decoder, &mut self.stacks);
        self.decode_ring_until(before, now, &mut timed);
        self.drain_records(ended, &mut timed)?;
        if self.probes.books_time() {
            let raw = times::take(&mut self.probes, ended)?;
            timed
                .extend(self.decoder.decode_times(&raw, &mut self.stacks).into_iter().map(|event| (raw.end_ns, event)));
        }
        self.learn_paths();
        timed.extend(self.looks.drain(..).map(|wait| (wait.ts_ns, Event::Wait(wait))));
        let overflowed = losses.records != self.losses.records;
        if overflowed || self.overflowed {
            self.drain_overflow(ended, now, &mut timed)?;
        }
        self.overflowed = overflowed;
        self.losses = losses;
        let ordered = self.order(timed);
        let mut events = self.stacks.take_events();
        events.extend(ordered);
        events.append(&mut maps);
        events.append(&mut self.decoder.take_paces());
        let closings = self.closings(ended)?;
        if self.probes.spans_are_over() {
            events.append(&mut self.cut_spans(&closings, now)?);
        }
        for (slot, mm) in self.decoder.take_closed() {
            self.stacks.closed(mm);
            self.probes.free_slot(u32::from(slot))?;
        }
        let observed: BTreeSet<MmId> = self.decoder.occupants().map(|(_, o)| o.mm).collect();
        self.processes.retain(|mm, _| observed.contains(mm));
        self.decoder.next_interval();
        let Cost { copies, bytes: copied_bytes, ns: unwind_ns } = self.copies.cost();
        let waits::Cost { looks, ns: look_ns, unseen, unsearched } = self.waits.cost();
        let own = Own { copies, copied_bytes, unwind_ns, looks, look_ns, unseen, unsearched, ..self.reader.read() };
        let lost = Lost {
            records: losses.records,
            ring: losses.ring,
            skipped: self.reader.skipped(),
            threads: losses.threads,
            mms: losses.mms,
            undecodable: self.decoder.undecodable(),
            stacks: losses.stacks + self.copies.lost(),
            times: losses.times,
        };
        events.push(Event::Tick(Tick { ts_ns: now, closings, lost, own }));
        Ok(events)
    }

    /// Ends the last interval: faults that wait for their thread's next one are booked, too.
    ///
    /// # Errors
    /// As [`Self::tick`].
    pub fn last_tick(&mut self) -> Result<Vec<Event>> {
        self.probes.flush()?;
        self.probes.end_spans()?;
        self.tick()
    }

    /// Spans have these names, by the numbers of their definitions.
    pub fn name_spans(&mut self, names: Vec<String>) {
        self.decoder.name_spans(names);
    }

    /// How far each thread has come since its last edge. The interval that ended is the last one: nothing is added any more.
    fn cut_spans(&mut self, closings: &[Closing], now: u64) -> Result<Vec<Event>> {
        let counters: HashMap<MmId, Amounts> = closings.iter().map(|closing| (closing.mm, closing.counters)).collect();
        let mut cuts = Vec::new();
        // Processes of whose first thread there is nothing to tell.
        let open = self.decoder.occupants().filter(|(_, occupant)| !occupant.closed);
        let mut quiet: BTreeMap<MmId, u32> = open.map(|(_, occupant)| (occupant.mm, occupant.pid)).collect();
        for (tid, state) in self.probes.spans()? {
            let Some(mm) = u16::try_from(state.slot).ok().and_then(|slot| self.decoder.mm_in(slot)) else { continue };
            let Some(counters) = counters.get(&mm) else { continue };
            let cut = self.decoder.decode_cut(tid, &state, *counters, now);
            if cut.is_some() && quiet.get(&mm) == Some(&tid) {
                quiet.remove(&mm);
            }
            cuts.extend(cut);
        }
        cuts.extend(
            quiet.into_iter().filter_map(|(mm, pid)| self.decoder.quiet_cut(mm, pid, *counters.get(&mm)?, now)),
        );
        Ok(cuts)
    }

    /// The mms that were opened, by time.
    fn decode_openings(&mut self) -> Vec<(u64, Event)> {
        let is_one = |raw: &Raw| raw.head().kind == kind::MM_OPENED;
        if !self.waiting.iter().any(is_one) {
            return Vec::new();
        }
        let (mut opened, waiting): (Vec<Raw>, Vec<Raw>) =
            std::mem::take(&mut self.waiting).into_iter().partition(is_one);
        self.waiting = waiting;
        opened.sort_by_key(|raw| raw.head().ts_ns);
        let timed = |raw: Raw| Some((raw.head().ts_ns, self.decoder.decode_ring(&raw, &mut self.stacks)?));
        opened.into_iter().filter_map(timed).collect()
    }

    /// What else happened in the interval, which ended between `before` and `now`. A teardown between the two has its changes
    /// in the next interval: its end waits for them, or its slot would be used again while they are still to come.
    fn decode_ring_until(&mut self, before: u64, now: u64, timed: &mut Vec<(u64, Event)>) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.sort_by_key(|raw| raw.head().ts_ns);
        for raw in waiting {
            let head = raw.head();
            // No edge of the next interval is here when there is none.
            let last = head.kind == kind::SPAN && self.probes.spans_are_over();
            if !last && head.ts_ns > if head.kind == kind::MM_CLOSED { before } else { now } {
                self.waiting.push(raw);
            } else if let Some(event) = self.decoder.decode_ring(&raw, &mut self.stacks) {
                timed.push((raw.head().ts_ns, event));
            }
        }
    }

    fn drain_records(&mut self, ended: u32, timed: &mut Vec<(u64, Event)>) -> Result<()> {
        let (decoder, stacks) = (&mut self.decoder, &mut self.stacks);
        batch::drain::<RecordKey, RecordValue>(&self.probes.records[(ended & 1) as usize], |key, value| {
            if let Some(event) = decoder.decode_record(key, value, stacks) {
                timed.push((value.first_ns, event));
            }
        })
        .context("failed to drain the records")?;
        batch::drain::<MomentKey, u64>(&self.probes.moments[(ended & 1) as usize], |key, faults| {
            decoder.decode_moment(key, *faults);
        })
        .context("failed to drain the moments")
    }

    fn drain_overflow(&mut self, ended: u32, now: u64, timed: &mut Vec<(u64, Event)>) -> Result<()> {
        let slots: Vec<u16> = self.decoder.occupants().map(|(slot, _)| slot).collect();
        for slot in slots {
            for cause in Cause::ALL {
                let index = (u32::from(slot) * Cause::COUNT as u32 + *cause as u32) * 2 + (ended & 1);
                let Wire(overflow) = self.probes.overflow.get(&index, 0).context("failed to read the overflow")?;
                if overflow.changes == 0 {
                    continue;
                }
                self.probes
                    .overflow
                    .set(index, Wire(Overflow::default()), 0)
                    .context("failed to clear the overflow")?;
                if let Some(event) = self.decoder.decode_overflow(slot, *cause, &overflow, now) {
                    timed.push((now, event));
                }
            }
        }
        Ok(())
    }

    /// By time; the opening of an mm before its first change (which another CPU may have stamped a little earlier).
    /// Names of threads that had to be looked up come last: nothing is said before the tick.
    fn order(&mut self, mut timed: Vec<(u64, Event)>) -> Vec<Event> {
        let mut first_change: HashMap<MmId, u64> = HashMap::new();
        let mut tids = BTreeSet::new();
        for (ts, event) in &timed {
            if let Event::Change(change) = event {
                let first = first_change.entry(change.mm).or_insert(*ts);
                *first = (*first).min(*ts);
                tids.insert(change.tid);
            }
            if let Event::Span(span) = event {
                tids.insert(span.tid);
            }
            if let Event::Times(times) = event {
                tids.extend(times.spans.iter().map(|span| span.tid));
            }
        }
        for (ts, event) in &mut timed {
            if let Event::MmOpened(opened) = event
                && let Some(first) = first_change.get(&opened.mm)
            {
                *ts = (*ts).min(*first);
            }
        }
        timed.sort_by_key(|(ts, event)| (*ts, !matches!(event, Event::MmOpened(_))));
        let mut events = Vec::with_capacity(timed.len() + 8);
        for (_, event) in timed {
            if let Event::Comm { tid, comm } = &event {
                self.comms.insert(*tid, (comm.clone(), 0));
            }
            events.push(event);
        }
        let now = monotonic_ns();
        for tid in tids.into_iter().filter(|tid| *tid != 0) {
            let known = self.comms.get(&tid);
            if known.is_some_and(|(_, read)| now.saturating_sub(*read) < COMM_BELIEVED_NS) {
                continue;
            }
            let Ok(mut comm) = std::fs::read(format!("/proc/{tid}/comm")) else { continue };
            comm.truncate(comm.trim_ascii_end().len().max(comm.len().saturating_sub(1)));
            if known.is_none_or(|(before, _)| *before != comm) {
                events.push(Event::Comm { tid, comm: comm.clone() });
            }
            self.comms.insert(tid, (comm, now));
        }
        if self.comms.len() > 65536 {
            self.comms.clear();
        }
        events
    }

    fn open_new_processes(&mut self, opened: &[(u64, Event)]) {
        for (_, event) in opened {
            let Event::MmOpened(opened) = event else { continue };
            if let Why::Fork { parent } = opened.why
                && let Some(parent) = self.mm_of(parent)
            {
                self.stacks.forked(opened.mm, parent);
            }
            if let Why::Exec { left: Some(left) } = opened.why {
                self.stacks.left(left);
            }
            match ProcessFiles::open(opened.pid) {
                Ok(files) => {
                    let process = Process { files, maps_due_ns: 0, wants_maps: true };
                    self.processes.insert(opened.mm, process);
                }
                Err(error) => log::info!("the mappings of process {} cannot be read: {error}", opened.pid),
            }
        }
    }

    /// Of some calls of the interval only maps tells what they mapped.
    fn want_maps_of_calls(&mut self, now: u64) {
        for raw in &self.waiting {
            let Raw::Syscall(call) = raw else { continue };
            let named = match u32::try_from(call.nr) {
                Ok(nr::MMAP) => call.args[3] & nr::mmap::ANONYMOUS == 0 || call.args[3] & nr::mmap::SHARED != 0,
                Ok(nr::SHMAT | nr::PRCTL | nr::REMAP_FILE_PAGES) => true,
                _ => false,
            };
            if named
                && call.head.ts_ns <= now
                && let Some(mm) = self.decoder.mm(&call.head)
                && let Some(process) = self.processes.get_mut(&mm)
            {
                process.wants_maps = true;
            }
        }
    }

    fn read_wanted_maps(&mut self, events: &mut Vec<Event>) {
        // /proc has what a process maps now, which may be another program by now.
        let closed: BTreeSet<MmId> = self
            .waiting
            .iter()
            .filter(|raw| raw.head().kind == kind::MM_CLOSED)
            .filter_map(|raw| self.decoder.mm(raw.head()))
            .collect();
        for (mm, process) in &mut self.processes {
            let begin_ns = monotonic_ns();
            let hangs = self.lock.hangs(process.files.pid());
            self.stacks.keep_from_maps(*mm, hangs);
            if !process.wants_maps || hangs || begin_ns < process.maps_due_ns || closed.contains(mm) {
                continue;
            }
            process.wants_maps = false;
            let mut lines = Vec::new();
            // A process that has just exited or become another program has no such maps any more: nothing to say.
            let Ok(cost) = process.files.read_maps(&mut self.buffer) else { continue };
            parse_maps(&self.buffer, &mut lines);
            if lines.is_empty() {
                continue;
            }
            let ts_ns = monotonic_ns();
            process.maps_due_ns = ts_ns.saturating_add(cost.cost_ns.saturating_mul(reading::MAPS_WAIT_PER_COST));
            self.stacks.maps_read(*mm, &lines);
            events.push(Event::Maps(Maps { mm: *mm, begin_ns, ts_ns, lines }));
        }
    }

    /// What the counters said when the interval `ended` was over, for every mm.
    fn closings(&self, ended: u32) -> Result<Vec<Closing>> {
        let mut closings = Vec::new();
        for (slot, occupant) in self.decoder.occupants() {
            let booked = self.booked(slot, Some(ended))?;
            let virt = self.processes.get(&occupant.mm).and_then(|p| p.files.read_statm().ok()).map(|statm| statm.virt);
            closings.push(Closing {
                mm: occupant.mm,
                counters: occupant.counters + booked,
                virt: if occupant.closed { Some(0) } else { virt },
            });
        }
        closings.sort_by_key(|closing| closing.mm);
        Ok(closings)
    }

    /// Pages that all CPUs booked on a slot, until the interval `ended` was over or until now.
    fn booked(&self, slot: u16, ended: Option<u32>) -> Result<Amounts> {
        Ok(self.view(slot, ended)?.0)
    }

    fn view(&self, slot: u16, ended: Option<u32>) -> Result<(Amounts, u64)> {
        let mut sum = Amounts::ZERO;
        let mut events = 0u64;
        for Wire(cpu) in self.probes.cpus.get(&u32::from(slot), 0).context("failed to read the counters")?.iter() {
            // A CPU that has seen nothing since still says what it said then.
            let later = ended.is_some_and(|ended| cpu.epoch == ended.wrapping_add(1));
            sum += Amounts::from_members(if later { cpu.booked_before } else { cpu.booked });
            events = events.wrapping_add(cpu.events);
        }
        Ok((sum, events))
    }

    /// Reads smaps between two looks at the counters. `None` when the process is gone.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn read_smaps(&mut self, mm: MmId) -> Result<Option<Event>> {
        let Some((slot, counters)) =
            self.decoder.occupants().find(|(_, o)| o.mm == mm && !o.closed).map(|(slot, o)| (slot, o.counters))
        else {
            return Ok(None);
        };
        let Some(process) = self.processes.get(&mm) else { return Ok(None) };
        let (before, events_before) = self.view(slot, None)?;
        let read = reading::read_smaps(&process.files, mm, &mut self.buffer);
        let process_pid = process.files.pid();
        let (after, events_after) = self.view(slot, None)?;
        // /proc follows the process into its next program: what was read may be of another mm than the books.
        self.read_ring();
        let left = |raw: &Raw| match raw {
            Raw::Mm(record) => record.head.slot == slot || record.head.tgid == process_pid,
            _ => false,
        };
        if self.waiting.iter().any(left) {
            return Ok(None);
        }
        Ok(read.map(|smaps| {
            Event::Smaps(Smaps {
                before: Some(counters + before),
                after: Some(counters + after),
                quiet: events_before == events_after,
                ..smaps
            })
        }))
    }

    /// Open mms whose /proc can be read.
    pub fn open_mms(&self) -> Vec<MmId> {
        self.decoder
            .occupants()
            .filter(|(_, o)| !o.closed && self.processes.contains_key(&o.mm))
            .map(|(_, o)| o.mm)
            .collect()
    }
}
