//! Events in, reports out. Pure and synchronous: no clock, no file, no environment, and an order of output that
//! depends on the events alone, so a recorded session gives the same statements again.
//!
//! The model refuses nothing. A trace is input like any other: events about unknown mms are ignored, calls that
//! cannot be true do what the kernel would have done with their result, amounts wrap.

pub mod address_space;
mod books;
mod burst;
mod calls;
mod code;
mod cut;
mod journal;
mod latency;
pub mod ledger;
mod reading;
mod residency;
mod spans;
#[cfg(test)]
mod tests;
mod time;

use crate::event::{Closing, Event, Lost, Meta, MmId, MmOpened, Own, Task, TaskWhat, Tick, Why};
use crate::statement::{Balance, Burst, EndReport, MappingRef, ProcessChange, Report};
use crate::units::Amounts;
use address_space::AddressSpace;
use books::Books;
use code::CodeTable;
use ledger::Sums;
use spans::Spanner;
use std::collections::BTreeMap;
use std::sync::Arc;
use time::Timekeeper;

/// Everything known of a session.
#[derive(Default)]
pub struct Model {
    meta: Option<Meta>,
    books: BTreeMap<MmId, Books>,
    /// The mm that a process has or had last.
    mm_of_pid: BTreeMap<u32, MmId>,
    comms: BTreeMap<u32, Vec<u8>>,
    code: CodeTable,
    /// Threads that ended in this interval; their names are needed until it is over.
    exited: Vec<u32>,
    lost: Lost,
    own: Own,
    /// Sum over mms that are gone.
    total: Sums,
    mms: usize,
    begin_ns: Option<u64>,
    first: Option<(MmId, u32, Vec<u8>)>,
    bursts: Bursts,
    times: Timekeeper,
    spans: Spanner,
}

/// Numbers bursts.
#[derive(Default)]
struct Bursts(usize);

impl Bursts {
    fn tell(&mut self, books: &Books, found: Vec<Burst>, out: &mut Vec<Report>) {
        for burst in found {
            self.0 += 1;
            let (mm, pid, comm) = (books.mm, books.pid, books.comm.clone());
            out.push(Report::Burst(Box::new(Burst { number: self.0 as u64, mm, pid, comm, ..burst })));
        }
    }
}

impl Model {
    /// A session that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one event; appends what there is to say about it.
    pub fn apply(&mut self, event: &Event, out: &mut Vec<Report>) {
        match event {
            Event::Meta(meta) => {
                self.comms.insert(meta.pid, meta.comm.clone());
                self.begin_ns.get_or_insert(meta.ts_ns);
                self.meta = Some(meta.clone());
                out.push(Report::Meta(meta.clone()));
            }
            Event::MmOpened(opened) => self.open(opened),
            Event::MmClosed(closed) => {
                let context = spans::Context { meta: self.meta.as_ref(), comms: &self.comms };
                self.spans.close(closed.mm, closed.ts_ns, context, out);
                if let Some(books) = self.books.get_mut(&closed.mm) {
                    books.closed = Some(closed.counters);
                }
            }
            Event::Task(task) => self.task(task, out),
            Event::Comm { tid, comm } => self.rename(*tid, comm),
            Event::Maps(maps) => {
                if let Some(books) = self.books.get_mut(&maps.mm) {
                    books.reading(maps, out);
                }
            }
            Event::Smaps(smaps) => {
                if let Some(books) = self.books.get_mut(&smaps.mm) {
                    let unsettled = books.auditor.settle(books.mm, books.pid, &mut books.space);
                    out.extend(unsettled.map(Report::Audit));
                    let booked = books.ledger.opening.amounts;
                    books.auditor.read(smaps, booked, &mut books.space);
                    out.push(Report::Residency(residency::residency(smaps, books.pid, &mut books.space)));
                }
            }
            Event::Overview(overview) => out.push(Report::Overview(overview.clone())),
            Event::Syscall(call) => {
                if let Some(books) = self.books.get_mut(&call.mm) {
                    self.spans.syscall(call, books.space.page, books.space.brk);
                    let caller = call.stack.and_then(|id| self.code.stack(id));
                    books.syscall(call, caller, out);
                }
            }
            Event::Code(code) => self.code.learn_code(code),
            Event::Stack(stack) => out.push(Report::Stack(self.code.learn_stack(stack))),
            Event::Pace(pace) => {
                if let Some(books) = self.books.get_mut(&pace.mm) {
                    books.bursts.pace(&pace.moments);
                }
            }
            Event::Change(change) => {
                if let Some(books) = self.books.get_mut(&change.mm) {
                    books.change(change);
                    self.times.change(books.pid, change);
                }
            }
            Event::Times(times) => {
                if let Some(books) = self.books.get_mut(&times.mm) {
                    self.times.times(books.pid, times, &mut books.space);
                }
            }
            Event::Ran(ran) => {
                if let Some(books) = self.books.get(&ran.mm) {
                    self.times.ran(books.pid, ran);
                }
            }
            Event::Wait(wait) => {
                self.comms.insert(wait.tid, wait.comm.clone());
                self.times.wait(wait);
            }
            Event::Surroundings(now) => self.times.surroundings(now),
            Event::Span(edge) => {
                let context = spans::Context { meta: self.meta.as_ref(), comms: &self.comms };
                self.spans.edge(edge, context, out);
            }
            Event::Backend(backend) => {
                self.times.backend(backend);
                self.spans.backend(backend);
            }
            Event::Tick(tick) => self.tick(tick, out),
            Event::End(end) => {
                self.exited.clear();
                self.stuck(true, out);
                let start_ns = self.begin_ns.unwrap_or(end.ts_ns);
                let context = spans::Context { meta: self.meta.as_ref(), comms: &self.comms };
                let spans = self.spans.end(start_ns, end.ts_ns, context, out);
                out.push(Report::Spans(Box::new(spans)));
                // An audit that waits for its interval's end is that of a session that was cut: it cannot be made.
                for (_, books) in std::mem::take(&mut self.books) {
                    self.finish(books, end.ts_ns, out);
                }
                let (mm, pid, comm) = self.first.clone().unwrap_or((MmId(0), 0, Vec::new()));
                let (pid, comm) = match &self.meta {
                    Some(meta) => (meta.pid, self.comms.get(&meta.pid).unwrap_or(&meta.comm).clone()),
                    None => (pid, comm),
                };
                let mut total = std::mem::take(&mut self.total);
                total.fold();
                let total = total.statement(mm, pid, comm, start_ns, end.ts_ns, &self.code);
                out.push(Report::End(Box::new(EndReport {
                    end: end.clone(),
                    total,
                    lost: self.lost,
                    own: self.own,
                    mms: self.mms,
                    stacks: self.code.sums.clone(),
                    bursts: self.bursts.0,
                })));
            }
        }
    }

    /// The present mappings of an mm, by address. Empty when it is not under observation.
    pub fn mappings(&mut self, mm: MmId) -> Vec<Arc<MappingRef>> {
        let Some(books) = self.books.get_mut(&mm) else {
            return Vec::new();
        };
        let lives = books.space.lives();
        lives.into_iter().filter_map(|life| books.space.mapping(life)).collect()
    }

    /// The address space of an mm.
    #[must_use]
    pub fn address_space(&self, mm: MmId) -> Option<&AddressSpace> {
        self.books.get(&mm).map(|books| &books.space)
    }

    fn open(&mut self, opened: &MmOpened) {
        if self.books.contains_key(&opened.mm) {
            return;
        }
        let page = self.meta.as_ref().map_or(4096, |meta| meta.page_size);
        let parent = match opened.why {
            Why::Fork { parent } => self.mm_of_pid.get(&parent).and_then(|mm| self.books.get(mm)),
            Why::Attach | Why::Exec { .. } => None,
        };
        let space = match parent {
            Some(parent) => parent.space.forked(),
            None => {
                let mut space = AddressSpace::new(page);
                let program = self.meta.as_ref().filter(|meta| meta.pid == opened.pid).map(|meta| meta.exe.as_slice());
                space.set_layout(opened.start_brk, opened.brk, opened.start_stack, program.unwrap_or_default());
                space
            }
        };
        self.comms.insert(opened.pid, opened.comm.clone());
        self.mm_of_pid.insert(opened.pid, opened.mm);
        self.first.get_or_insert_with(|| (opened.mm, opened.pid, opened.comm.clone()));
        self.begin_ns.get_or_insert(opened.ts_ns);
        self.mms += 1;
        self.books.insert(opened.mm, Books::open(opened, space));
        self.times.open(opened);
        self.spans.open(opened);
        self.see_peak();
    }

    fn task(&mut self, task: &Task, out: &mut Vec<Report>) {
        match task.what {
            TaskWhat::ThreadStarted { child } => {
                self.times.born(task.pid, child, task.ts_ns);
                if let Some(mm) = task.mm {
                    self.spans.born(child, mm);
                }
            }
            TaskWhat::ThreadExited | TaskWhat::ProcessExited { .. } => {
                self.times.exited(task.pid, task.tid, task.ts_ns, task.what);
                let context = spans::Context { meta: self.meta.as_ref(), comms: &self.comms };
                self.spans.exited(task.tid, task.ts_ns, context, out);
                if task.what != TaskWhat::ThreadExited {
                    self.spans.forget(task.pid);
                }
            }
            TaskWhat::OomVictim => self.times.oom_victim(task.pid),
            _ => {}
        }
        match task.what {
            TaskWhat::Forked { child } | TaskWhat::ThreadStarted { child } => self.rename(child, &task.comm),
            TaskWhat::SharedMm { child } => {
                if let Some(mm) = task.mm {
                    self.mm_of_pid.insert(child, mm);
                }
                self.rename(child, &task.comm);
            }
            TaskWhat::Execed => self.rename(task.tid, &task.comm),
            TaskWhat::ThreadExited | TaskWhat::ProcessExited { .. } => self.exited.push(task.tid),
            TaskWhat::OomVictim => {}
        }
        out.push(Report::Process(ProcessChange { task: task.clone() }));
    }

    fn rename(&mut self, tid: u32, comm: &[u8]) {
        if let Some(books) = self.mm_of_pid.get(&tid).and_then(|mm| self.books.get_mut(mm)).filter(|b| b.pid == tid) {
            books.comm = comm.to_vec();
        }
        self.comms.insert(tid, comm.to_vec());
    }

    fn tick(&mut self, tick: &Tick, out: &mut Vec<Report>) {
        let lost = since(tick.lost, self.lost);
        if tick.lost != self.lost {
            out.push(Report::Loss { ts_ns: tick.ts_ns, lost: tick.lost });
        }
        self.lost = tick.lost;
        self.own = tick.own;
        for closing in &tick.closings {
            self.close_interval(*closing, tick.ts_ns, lost, out);
        }
        let unnamed: Vec<Closing> = self
            .books
            .iter()
            .filter_map(|(&mm, books)| Some(Closing { mm, counters: books.closed?, virt: None }))
            .collect();
        for closing in unnamed {
            self.close_interval(closing, tick.ts_ns, lost, out);
        }
        self.see_peak();
        self.stuck(false, out);
        for tid in std::mem::take(&mut self.exited) {
            self.comms.remove(&tid);
        }
        out.push(Report::Tick { ts_ns: tick.ts_ns, own: tick.own });
    }

    fn close_interval(&mut self, closing: Closing, ts_ns: u64, lost: Lost, out: &mut Vec<Report>) {
        let Some(books) = self.books.get_mut(&closing.mm) else {
            return;
        };
        self.times.closing(books.pid, closing.counters, ts_ns);
        let balance = Balance { amounts: closing.counters, virt: closing.virt };
        let found = books.tick(balance, ts_ns, lost, &self.comms, &mut self.code, out);
        self.bursts.tell(books, found, out);
        if books.closed.is_some()
            && let Some(books) = self.books.remove(&closing.mm)
        {
            self.mm_of_pid.retain(|_, mm| *mm != closing.mm);
            self.finish(books, ts_ns, out);
        }
    }

    /// The session's answer for one mm, added to the total.
    fn finish(&mut self, mut books: Books, ts_ns: u64, out: &mut Vec<Report>) {
        let found = books.bursts.end();
        self.bursts.tell(&books, found, out);
        let sums = books.ledger.sums(&mut books.space);
        self.total.add(&sums);
        let (mm, pid, begin_ns) = (books.mm, books.pid, books.begin_ns);
        out.push(Report::Closing(sums.statement(mm, pid, books.comm, begin_ns, ts_ns, &self.code)));
    }

    /// Where the threads' time went, of the windows that are full, or of the whole session.
    fn stuck(&mut self, whole: bool, out: &mut Vec<Report>) {
        let Some(meta) = &self.meta else { return };
        let context = time::Context {
            pid: meta.pid,
            page_size: meta.page_size,
            epoch: (meta.ts_ns, meta.wall_ns),
            lost: self.lost,
            own: self.own,
            comms: &self.comms,
            code: &self.code,
        };
        let found = self.times.report(whole, &context);
        out.extend(found.into_iter().map(|stuck| Report::Stuck(Box::new(stuck))));
    }

    /// RES of all open mms together, for the total's peak.
    fn see_peak(&mut self) {
        let open: Amounts = self.books.values().map(|books| books.ledger.opening.amounts).sum();
        self.total.peak_res = self.total.peak_res.max(open.res());
    }
}

fn since(now: Lost, before: Lost) -> Lost {
    Lost {
        records: now.records.saturating_sub(before.records),
        ring: now.ring.saturating_sub(before.ring),
        skipped: now.skipped.saturating_sub(before.skipped),
        threads: now.threads.saturating_sub(before.threads),
        mms: now.mms.saturating_sub(before.mms),
        undecodable: now.undecodable.saturating_sub(before.undecodable),
        stacks: now.stacks.saturating_sub(before.stacks),
        times: now.times.saturating_sub(before.times),
    }
}
