//! What is known of a process's threads in one window: sums of spans, and places where threads were seen waiting.

use super::shares::Shares;
use super::{DETAILS, HOLDS, Life, THREADS};
use crate::event::{CodeId, LockHold, RanAt, StackId, Surroundings, TimeSpan, Times, Wait, WaitObject};
use crate::model::address_space::AddressSpace;
use crate::model::code::CodeTable;
use crate::statement::{Kind, MappingRef};
use crate::stuck::{self, Function, Memory, Share, State, Waiting};
use crate::units::Amounts;
use memtrace_common::{Cause, Doing};
use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Kinds of spans per thread; those beyond are one kind each, without their object.
const SPANS: usize = 256;
/// Object of spans without theirs: no descriptor, and no address.
pub(super) const NO_OBJECT: u64 = u64::MAX;
/// Places in a thread's own code at which it was sampled; samples at those beyond are of no known place.
const PLACES: usize = 4_096;
/// Functions of a thread that are told.
const FUNCTIONS: usize = 8;
/// Places where a thread was seen waiting.
const LOOKS: usize = 32;
/// Places where a thread waits that are told.
const WAITS: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Window {
    /// Begin and end of the intervals that were added; `None` before the first one.
    pub(super) range: Option<(u64, u64)>,
    pub(super) threads: BTreeMap<u32, Thread>,
    pub(super) holds: BTreeMap<(u32, bool), LockHold>,
    pub(super) opening: Amounts,
    pub(super) memory: Memory,
    /// The last ones before it and in it.
    pub(super) surroundings: Option<Box<(Surroundings, Surroundings)>>,
    /// The most threads of an interval that there was no room for.
    pub(super) left_out: u64,
}

#[derive(Debug, Default)]
pub(super) struct Thread {
    pub(super) since_ns: u64,
    pub(super) until_ns: u64,
    pub(super) spans: BTreeMap<Key, Sum>,
    /// Samples of its own code by place.
    pub(super) places: BTreeMap<CodeId, u64>,
    pub(super) looks: Vec<Seen>,
    pub(super) looked: u64,
    /// Its end was seen.
    pub(super) ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) doing: Doing,
    pub(super) cause: Option<Cause>,
    pub(super) nr: Option<u32>,
    pub(super) object: u64,
    pub(super) detail: u64,
    pub(super) before: bool,
}

#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) ns: u64,
    pub(super) max_ns: u64,
    pub(super) count: u64,
    pub(super) samples: u64,
    /// Begin of the first interval with such a span and end of the last one.
    pub(super) since_ns: u64,
    pub(super) until_ns: u64,
    /// End of the last interval in which one went on.
    pub(super) open_ns: Option<u64>,
    /// For a fault: the mapping and, of a file, where in it.
    pub(super) place: Option<(Arc<MappingRef>, WaitObject)>,
}

/// Looks at a thread that found it in the same place.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) nr: Option<u32>,
    pub(super) args: [u64; 2],
    pub(super) kernel: Vec<Vec<u8>>,
    pub(super) stack: Option<StackId>,
    pub(super) object: WaitObject,
    pub(super) times: u64,
}

impl Window {
    /// The freezer of cgroup version 2 stops threads in a sleep like any other.
    pub(super) fn is_frozen(&self) -> bool {
        let frozen = |now: &Surroundings| now.cgroup.as_ref().is_some_and(|group| group.frozen == Some(true));
        self.surroundings.as_deref().is_some_and(|(first, last)| frozen(first) && frozen(last))
    }

    /// Divides the time without a CPU by who withheld it.
    pub(super) fn throttle(&self, shares: &mut Shares) {
        let Some((first, last)) = self.surroundings.as_deref() else { return };
        let group = |now: &Surroundings| now.cgroup.as_ref().and_then(|group| group.throttled).map(|(ns, _)| ns);
        let (Some(before), Some(after)) = (group(first), group(last)) else { return };
        let Some(runnable) = shares.list.iter_mut().find(|share| share.state == State::Runnable) else { return };
        // Not this process's CPUs or threads: the group's others wait in its queues too.
        let cpus = last.cpus.max(last.allowed_cpus);
        let (ns, bound_ns) = stuck::throttled(runnable.ns, after.saturating_sub(before), cpus);
        if ns > 0 {
            let mut throttled = Share { state: State::Throttled, ns, bound_ns, ..runnable.clone() };
            runnable.ns -= ns;
            runnable.bound_ns = bound_ns;
            // Which of its waits these were is not known: they are counted once, where most of them are.
            let other = if throttled.ns > runnable.ns { &mut *runnable } else { &mut throttled };
            (other.count, other.max_ns) = (0, 0);
            shares.list.push(throttled);
        }
    }

    /// How many kinds of spans and places its threads have.
    pub(super) fn details(&self) -> usize {
        self.threads.values().map(|thread| thread.spans.len() + thread.places.len() + thread.looks.len()).sum()
    }

    pub(super) fn thread(&mut self, tid: u32) -> Option<&mut Thread> {
        if self.threads.len() >= THREADS && !self.threads.contains_key(&tid) {
            return None;
        }
        Some(self.threads.entry(tid).or_default())
    }

    pub(super) fn times(
        &mut self,
        times: &Times,
        lives: &BTreeMap<u32, Life>,
        space: &mut AddressSpace,
        details: &mut usize,
    ) {
        let mut left_out = BTreeSet::new();
        let (_, until) = self.range.get_or_insert((times.begin_ns, times.ts_ns));
        *until = (*until).max(times.ts_ns);
        for span in &times.spans {
            let Some(thread) = self.thread(span.tid) else {
                left_out.insert(span.tid);
                continue;
            };
            let life = lives.get(&span.tid).copied().unwrap_or(Life::UNSEEN);
            if thread.until_ns == 0 {
                thread.since_ns = times.begin_ns.max(life.born_ns).min(times.ts_ns);
            }
            thread.until_ns = thread.until_ns.max(times.ts_ns.min(life.ended_ns));
            thread.ended = life.ended_ns <= times.ts_ns;
            thread.span(span, times, space, details);
        }
        self.left_out = self.left_out.max(left_out.len() as u64);
        for hold in &times.holds {
            let known = self.holds.entry((hold.tid, hold.write)).or_insert_with(|| LockHold {
                ns: 0,
                max_ns: 0,
                count: 0,
                ..hold.clone()
            });
            known.ns = known.ns.saturating_add(hold.ns);
            known.max_ns = known.max_ns.max(hold.max_ns);
            known.count = known.count.saturating_add(hold.count);
        }
        if self.holds.len() > 64 * HOLDS
            && let Some((&shortest, _)) = self.holds.iter().min_by_key(|(_, hold)| hold.ns)
        {
            self.holds.remove(&shortest);
        }
    }
}

impl Thread {
    fn span(&mut self, span: &TimeSpan, times: &Times, space: &mut AddressSpace, details: &mut usize) {
        let mut key = Key {
            doing: span.doing,
            cause: span.cause,
            nr: span.nr,
            object: span.object,
            detail: span.detail,
            before: span.before,
        };
        if !self.spans.contains_key(&key) {
            if self.spans.len() >= SPANS || *details >= DETAILS {
                // A trace may name any number of system calls.
                let nr = key.nr.filter(|_| self.spans.len() < 2 * SPANS);
                key = Key { nr, object: NO_OBJECT, detail: 0, before: false, ..key };
            }
            *details += 1;
        }
        let fresh = || Sum { since_ns: times.begin_ns, ..Sum::default() };
        let sum = self.spans.entry(key).or_insert_with(fresh);
        sum.until_ns = times.ts_ns;
        sum.open_ns = span.open.then_some(times.ts_ns).or(sum.open_ns);
        sum.ns = sum.ns.saturating_add(span.ns);
        sum.max_ns = sum.max_ns.max(span.max_ns);
        sum.count = sum.count.saturating_add(span.count);
        sum.samples = sum.samples.saturating_add(span.samples);
        if span.doing == Doing::Fault {
            let address = if span.address == 0 { span.object } else { span.address };
            sum.place = place(address, space).or(sum.place.take());
        }
    }

    pub(super) fn ran(&mut self, at: &RanAt, details: &mut usize) {
        let has_room = self.places.len() < PLACES && *details < DETAILS;
        match self.places.entry(at.code) {
            Entry::Occupied(mut known) => *known.get_mut() = known.get().saturating_add(at.samples),
            Entry::Vacant(place) if has_room => {
                *details += 1;
                place.insert(at.samples);
            }
            Entry::Vacant(_) => {}
        }
    }

    /// The functions of its own code that it ran for `own_ns` in all, by samples, most first. Those of no known place are in
    /// none of them and in the bound of each: they may be any one's.
    pub(super) fn functions(&self, own_ns: u64, code: &CodeTable) -> Vec<Function> {
        let of_own = self.spans.iter().filter(|(key, _)| key.doing == Doing::User).map(|(_, sum)| sum.samples);
        let all = of_own.fold(0, u64::saturating_add);
        let mut sums: HashMap<(&[u8], &[u8]), u64> = HashMap::new();
        for (frame, samples) in self.places.iter().filter_map(|(&id, &n)| Some((code.frame(id)?, n))) {
            let name = frame.symbols.last().map_or(&[][..], |symbol| &symbol.name);
            let sum = sums.entry((name, &frame.module)).or_default();
            *sum = sum.saturating_add(samples);
        }
        let placed = sums.values().copied().fold(0, u64::saturating_add);
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_unstable_by_key(|&(function, samples)| (Reverse(samples), function));
        sums.truncate(FUNCTIONS);
        let told = sums.iter().map(|(_, samples)| *samples).fold(0, u64::saturating_add);
        let samples: Vec<u64> = sums.iter().map(|(_, samples)| *samples).chain([all.saturating_sub(told)]).collect();
        let missing = u128::from(all.saturating_sub(placed)) * u128::from(own_ns) / u128::from(all.max(1));
        let missing_ns = u64::try_from(missing).unwrap_or(own_ns);
        let parts = stuck::split(own_ns, &samples).unwrap_or_default();
        let parts = sums.into_iter().zip(parts);
        parts
            .map(|(((name, module), samples), part)| Function {
                name: name.to_vec(),
                module: module.to_vec(),
                samples,
                ns: part.ns,
                bound_ns: part.bound_ns.saturating_add(missing_ns),
            })
            .collect()
    }

    pub(super) fn look(&mut self, wait: &Wait, details: &mut usize) {
        self.looked += 1;
        let args = [wait.args[0], wait.args[1]];
        let same = |seen: &&mut Seen| {
            seen.nr == wait.nr && seen.args == args && seen.stack == wait.stack && seen.kernel == wait.kernel
        };
        if let Some(seen) = self.looks.iter_mut().find(same) {
            seen.times += 1;
            if wait.object != WaitObject::Unknown {
                seen.object = wait.object.clone();
            }
            return;
        }
        *details += 1;
        if self.looks.len() >= if *details > DETAILS { 1 } else { LOOKS }
            && let Some(rarest) = (0..self.looks.len()).min_by_key(|&i| self.looks[i].times)
        {
            self.looks.remove(rarest);
        }
        self.looks.push(Seen {
            nr: wait.nr,
            args,
            kernel: wait.kernel.clone(),
            stack: wait.stack,
            object: wait.object.clone(),
            times: 1,
        });
    }

    /// What looks say of a kind of span: one at the same call and object, else at the same call, where that does not matter;
    /// of a fault, any at one.
    pub(super) fn seen(&self, key: &Key) -> Option<&Seen> {
        let most = |wanted: &dyn Fn(&&Seen) -> bool| self.looks.iter().filter(wanted).max_by_key(|seen| seen.times);
        match key.doing {
            Doing::Fault => most(&|seen| stuck::is_memory_wait(&seen.kernel)),
            Doing::Blocked | Doing::Uninterruptible | Doing::Stopped | Doing::Traced | Doing::Frozen => {
                let exact = most(&|seen| seen.nr == key.nr && seen.args[0] == key.object);
                if stuck::is_about_its_argument(key.nr) {
                    return exact;
                }
                exact
                    .or_else(|| most(&|seen| seen.nr == key.nr))
                    .or_else(|| most(&|_| key.before && self.looks.len() == 1))
            }
            _ => None,
        }
    }

    pub(super) fn waits(&self, code: &CodeTable) -> Vec<Waiting> {
        let mut waits: Vec<Waiting> = Vec::new();
        for seen in &self.looks {
            let stack = seen.stack.and_then(|id| code.stack(id));
            match waits.iter_mut().find(|wait| wait.stack == stack && wait.kernel == seen.kernel) {
                Some(wait) => wait.seen += seen.times,
                None => {
                    waits.push(Waiting { kernel: seen.kernel.clone(), stack, seen: seen.times, looks: self.looked });
                }
            }
        }
        waits.sort_by_key(|wait| Reverse(wait.seen));
        waits.truncate(WAITS);
        waits
    }
}

fn place(address: u64, space: &mut AddressSpace) -> Option<(Arc<MappingRef>, WaitObject)> {
    let life = space.life_at(address)?;
    let mapping = space.mapping(life)?;
    let page = match mapping.kind {
        Kind::File | Kind::Program | Kind::Library | Kind::Tmpfs => {
            WaitObject::FilePage { path: mapping.name.clone(), offset: space.file_offset(address).unwrap_or(0) }
        }
        _ => WaitObject::Unknown,
    };
    Some((mapping, page))
}
