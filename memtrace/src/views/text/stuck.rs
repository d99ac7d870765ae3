//! Why a process does not move: the verdict with its evidence, a table of threads and their states, where each of them
//! waits, what to run next.

use super::{Look, Only, Session, process_name};
use crate::stuck::{Share, State, Stuck, ThreadTimes, main_function, waiting};
use crate::views::columns::{columns, left, right};
use crate::views::escape::escape;
use crate::views::human::{count, counted, duration, percent, percent_within};
use crate::views::words::{losses, stack_end_phrase};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Column at which the words of a fact begin.
const INDENT: usize = 15;
/// Threads in the table; with `-v` more.
const THREADS: usize = 8;
const THREADS_VERBOSE: usize = 200;
/// Columns of a thread's number and name.
const NAMES: usize = 26;
/// States below this part of all threads' time, in thousandths, have no column.
const LEAST: u128 = 5;
/// Functions of the kernel that are listed.
const KERNEL: usize = 32;

impl Session {
    pub(super) fn stuck(&mut self, stuck: &Stuck) {
        let verdict = &stuck.verdict;
        let (look, answer) = match verdict.memory {
            Some(true) => (Look::Alarm, "Memory. "),
            Some(false) => (Look::Strong, "Not memory. "),
            None => (Look::Strong, "Undecided. "),
        };
        let whose = if self.options.only == Some(Only::Stuck) {
            let when = self.clock().date_time_and_zone(stuck.start_ns, self.options.utc_offset);
            let when = format!(" · {when} · {}", window(stuck));
            self.sheet.line(&[(Look::Strong, &process_name(stuck.pid, &stuck.comm)), (Look::Plain, &when)]);
            String::new()
        } else {
            if self.options.only.is_none() {
                self.sheet.rule(&format!("where the time went, {}", window(stuck)));
            }
            self.whose(stuck.pid, &stuck.comm)
        };
        let sentence = format!("{}.", verdict.sentence);
        self.sheet.wrapped((look, &format!("{whose}{answer}")), 2, (Look::Strong, &sentence));
        for (about, fact) in &verdict.evidence {
            self.fact(Look::Faint, about, fact);
        }
        for (nth, next) in verdict.next.iter().enumerate() {
            // What is typed is never broken.
            let label = if nth == 0 { "next" } else { "" };
            self.sheet.line(&[(Look::Faint, &format!("  {}", left(label, INDENT - 2))), (Look::Plain, next)]);
        }
        for (name, n, meaning) in losses(stuck.lost).into_iter().filter(|&(_, n, _)| n > 0) {
            self.fact(Look::Alarm, "lost", &format!("{name} {} ({meaning})", count(n)));
        }
        self.sheet.line(&[]);
        self.threads(stuck);
        self.waits(stuck);
        self.looks(stuck);
    }

    /// What the looks at waiting threads cost, and what they did not see.
    fn looks(&mut self, stuck: &Stuck) {
        let own = stuck.own;
        if own.looks == 0 {
            return;
        }
        self.sheet.line(&[]);
        let whole = percent(own.cpu_ns, stuck.ts_ns.saturating_sub(stuck.start_ns)).unwrap_or_default();
        let cost = format!(
            "{whole} of a core ({}, its start among it) · {} looks at waiting threads {}",
            duration(own.cpu_ns),
            count(own.looks),
            duration(own.look_ns)
        );
        self.fact(Look::Faint, "own cost", &cost);
        let mut missed = Vec::new();
        if own.unseen > 0 {
            missed.push(format!(
                "{} at a thread were left out, for want of time: the next began with it",
                counted(own.unseen, "look", "looks")
            ));
        }
        if own.unsearched > 0 {
            missed.push(format!(
                "{} for who is at the other end of a socket or pipe ran out of time",
                counted(own.unsearched, "search", "searches")
            ));
        }
        if !missed.is_empty() {
            self.fact(Look::Alarm, "not seen", &missed.join("; "));
        }
    }

    fn fact(&mut self, look: Look, about: &str, fact: &str) {
        self.sheet.wrapped((look, &format!("  {}", left(about, INDENT - 2))), INDENT, (Look::Plain, fact));
    }

    fn shown<'a>(&self, stuck: &'a Stuck) -> &'a [ThreadTimes] {
        let most = if self.options.verbose { THREADS_VERBOSE } else { THREADS };
        &stuck.threads[..stuck.threads.len().min(most)]
    }

    /// Threads by states; a state has a column where some thread spent time worth a word in it.
    fn threads(&mut self, stuck: &Stuck) {
        let shown = self.shown(stuck);
        let states = states(shown);
        let room = self.sheet.lines().saturating_sub(NAMES + 2);
        let width = |state: State| columns(state.name()).max(8) + 2;
        let mut used = 0;
        let fit = states.iter().take_while(|state| {
            used += width(**state);
            used <= room
        });
        let mut columns: Vec<State> = fit.copied().collect();
        // What was not observed may not be left out for want of room.
        if states.contains(&State::Unaccounted) && !columns.contains(&State::Unaccounted) {
            columns.pop();
            columns.push(State::Unaccounted);
        }
        let mut head = format!("  {}", left(&format!("threads, of {}", window(stuck)), NAMES));
        columns.iter().for_each(|&state| head.push_str(&right(state.name(), width(state))));
        self.sheet.line(&[(Look::Strong, &head)]);
        for thread in shown {
            let mut row = format!("  {}", left(&format!("{} {}", thread.tid, escape(name(stuck, thread), 32)), NAMES));
            columns
                .iter()
                .for_each(|&state| row.push_str(&right(&cell(&thread.shares, thread.total_ns, state), width(state))));
            self.sheet.line(&[(Look::Plain, &row)]);
        }
        let more = stuck.threads.len() - shown.len();
        if more > 0 {
            let hint = if self.options.verbose { "" } else { "; -v shows them" };
            let text = format!("  and {} more, of which no one decides{hint}", count(more as u64));
            self.sheet.line(&[(Look::Faint, &text)]);
        }
        if let Some(ended) = &stuck.ended_threads {
            let mut row = format!("  {}", left(&format!("{} more that ended", count(ended.threads)), NAMES));
            let cell = |state| cell(&ended.shares, ended.total_ns, state);
            columns.iter().for_each(|&state| row.push_str(&right(&cell(state), width(state))));
            self.sheet.line(&[(Look::Faint, &row)]);
        }
        let left_out = states.len() - columns.len();
        if left_out > 0 {
            let text = match left_out {
                1 => "  1 smaller state is left out".to_owned(),
                n => format!("  {} smaller states are left out", count(n as u64)),
            };
            self.sheet.line(&[(Look::Faint, &text)]);
        }
        for (n, what) in [(stuck.left_out.threads, "threads"), (stuck.left_out.processes, "processes")] {
            if n > 0 {
                self.fact(Look::Alarm, "left out", &format!("{} {what}: more than there is room for", count(n)));
            }
        }
    }

    /// Where each thread waits, threads at the same place together; whole stacks where more is asked for.
    fn waits(&mut self, stuck: &Stuck) {
        let mut places: BTreeMap<String, (usize, Vec<&ThreadTimes>)> = BTreeMap::new();
        for thread in self.shown(stuck) {
            let nr = thread.shares.first().and_then(|share| share.nr);
            let place = match runs(thread) {
                true => main_function(thread).map(|function| format!("on a CPU in {function}")),
                false => thread.waits.first().and_then(|wait| waiting(wait, nr)),
            };
            if let Some(place) = place {
                let next = places.len();
                places.entry(place).or_insert_with(|| (next, Vec::new())).1.push(thread);
            }
        }
        if places.is_empty() || places.len() == 1 && stuck.threads.len() == 1 && !self.options.verbose {
            return;
        }
        self.sheet.line(&[]);
        let mut places: Vec<(String, (usize, Vec<&ThreadTimes>))> = places.into_iter().collect();
        places.sort_by_key(|(_, (nth, _))| *nth);
        for (place, (_, threads)) in places {
            let first = threads.first().map_or(0, |thread| thread.tid);
            let who = match threads.len() {
                1 => first.to_string(),
                n => format!("{first} +{}", n - 1),
            };
            self.fact(Look::Faint, &who, &place);
            let waits = threads.first().filter(|thread| self.options.verbose && !runs(thread));
            if let Some(wait) = waits.and_then(|thread| thread.waits.first()) {
                for function in wait.kernel.iter().take(KERNEL) {
                    let text = format!("{}{}  kernel", " ".repeat(INDENT), escape(function, 64));
                    self.sheet.line(&[(Look::Faint, &text)]);
                }
                if let Some(stack) = &wait.stack {
                    self.whole_stack(stack, INDENT);
                }
            }
        }
        if !stuck.incomplete.is_empty() {
            let ends: Vec<String> =
                stuck.incomplete.iter().map(|&(end, n)| format!("{} {}", count(n), stack_end_phrase(end))).collect();
            self.fact(Look::Faint, "stacks", &format!("not complete: {}", ends.join("; ")));
        }
    }
}

/// Mostly in its own code: where it waits now and then is no place of what it does.
fn runs(thread: &ThreadTimes) -> bool {
    thread.shares.first().is_some_and(|share| share.state == State::CpuUser)
}

fn window(stuck: &Stuck) -> String {
    duration(stuck.ts_ns.saturating_sub(stuck.start_ns))
}

/// States of these threads that are worth a column, largest first.
fn states(threads: &[ThreadTimes]) -> Vec<State> {
    let mut sums: BTreeMap<State, u128> = BTreeMap::new();
    let mut whole: u128 = 0;
    for share in threads.iter().flat_map(|thread| &thread.shares) {
        *sums.entry(share.state).or_default() += u128::from(share.ns);
        whole += u128::from(share.ns);
    }
    let mut sums: Vec<(State, u128)> = sums.into_iter().filter(|(_, ns)| ns * 1000 >= whole * LEAST).collect();
    sums.sort_by_key(|&(state, ns)| (Reverse(ns), state));
    sums.into_iter().map(|(state, _)| state).collect()
}

/// A thread that has ended says no more what it is called; the first one is called as the process was.
fn name<'a>(stuck: &'a Stuck, thread: &'a ThreadTimes) -> &'a [u8] {
    if thread.comm.is_empty() && thread.tid == stuck.pid { &stuck.comm } else { &thread.comm }
}

/// `94 %`, `31 % ±2`; nothing for nothing.
fn cell(shares: &[Share], total_ns: u64, state: State) -> String {
    let of_state = || shares.iter().filter(|share| share.state == state);
    let sum = |of: fn(&Share) -> u64| of_state().map(of).fold(0, u64::saturating_add);
    let ns = sum(|share| share.ns);
    if ns == 0 {
        return "·".to_owned();
    }
    // The system calls of one state are split by the same samples.
    let bound = of_state().map(|share| share.bound_ns).max().unwrap_or(0);
    // A column has no room for a word.
    percent_within(ns, bound, total_ns).replace("under ", "<")
}
