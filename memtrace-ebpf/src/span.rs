//! What each thread does between two edges: sums of all that is booked for it, told and set back at each edge.
//!
//! Whoever books for a thread adds to its sums, another thread's handler too: so everything is added atomically, and an
//! edge takes what is there by exchange. An edge that finds no room in the ring takes nothing: the next one has it.
//! Nothing here is reached unless spans are asked for.

use crate::kernel::{Task, add as add_to, exchange};
use crate::maps::{CONTROL, EVENTS, SLOTS, SPANS, epoch, is_for_lives_only, lose, wakeup};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{bpf_probe_read_user, bpf_probe_read_user_str};
use core::ptr::{read_volatile, write_volatile};
use core::sync::atomic::{Ordering, compiler_fence};
use memtrace_common::{
    ANON, Cause, FILE, Head, MEMBERS, RecordKey, SHMEM, SPAN_CAUSES, SPAN_NO_TEXT, SPAN_TEXT, SPAN_TEXT_SHORT, SWAP,
    SpanRecord, SpanState, SpanSums, edge, kind,
};

static NEW: SpanState = unsafe { core::mem::zeroed() };

/// The state of a thread, when what `key` is about is the thread's own mm, and the interval is one of the session's. What
/// is taken down at the end of a program is nobody's: some kernels tell of the thread's end before it, some after it.
#[inline(always)]
fn of(epoch: u32, key: &RecordKey) -> Option<*mut SpanState> {
    let state = SPANS.get_ptr_mut(key.tid)?;
    let ends = key.cause == Cause::Exit as u8 || key.cause == Cause::Exec as u8;
    if unsafe { (*state).slot } != u32::from(key.slot) || ends || is_over(epoch) { None } else { Some(state) }
}

/// Something has been added. After it: an edge that comes between leaves it to the next one, which must see this.
#[inline(always)]
unsafe fn is_dirty(state: *mut SpanState) {
    compiler_fence(Ordering::SeqCst);
    unsafe { write_volatile(&raw mut (*state).dirty, 1) };
}

/// The session's last interval is over: what is booked now is in no ledger.
#[inline(always)]
pub fn is_over(epoch: u32) -> bool {
    match CONTROL.get_ptr(0) {
        Some(control) => epoch > unsafe { read_volatile(&raw const (*control).spans_until) },
        None => true,
    }
}

/// Adds what is booked under `key`.
#[inline(never)]
pub fn add(epoch: u32, key: &RecordKey, member: usize, pages: i64, faults: i32) -> i32 {
    let Some(state) = of(epoch, key) else { return 0 };
    unsafe {
        sum(state, key, member, pages, faults);
        is_dirty(state);
    }
    0
}

#[inline(always)]
unsafe fn sum(state: *mut SpanState, key: &RecordKey, member: usize, pages: i64, faults: i32) {
    unsafe {
        let sums = &raw mut (*state).sums;
        if faults != 0 {
            add_to(&raw mut (*sums).faults, i64::from(faults));
        }
        if pages == 0 {
            return;
        }
        add_to(&raw mut (*sums).delta[member & 3], pages);
        if member & 3 == SWAP {
            return;
        }
        add_to(&raw mut (*sums).causes[key.cause as usize & (SPAN_CAUSES - 1)], pages);
        // The thread alone moves its peak: another CPU's handler might write what an edge has just taken.
        if pages < 0 || Task::current().pid() != key.tid {
            return;
        }
        let delta = &raw const (*sums).delta;
        let resident = read_volatile(&raw const (*delta)[FILE])
            + read_volatile(&raw const (*delta)[ANON])
            + read_volatile(&raw const (*delta)[SHMEM]);
        if resident > (*sums).peak {
            (*sums).peak = resident;
        }
    }
}

/// Adds a sampled latency, or takes it back. The largest stays, as it does in a record.
#[inline(never)]
pub fn time(epoch: u32, key: &RecordKey, latency_ns: i64, samples: i64) -> i32 {
    let Some(state) = of(epoch, key) else { return 0 };
    unsafe {
        let sums = &raw mut (*state).sums;
        add_to((&raw mut (*sums).latency_sum_ns).cast(), latency_ns);
        add_to((&raw mut (*sums).latency_samples).cast(), samples);
        if latency_ns > 0 && latency_ns as u64 > (*sums).latency_max_ns {
            (*sums).latency_max_ns = latency_ns as u64;
        }
        is_dirty(state);
    }
    0
}

/// Counts a major fault.
#[inline(never)]
pub fn major(epoch: u32, key: &RecordKey) -> i32 {
    let Some(state) = of(epoch, key) else { return 0 };
    unsafe {
        add_to(&raw mut (*state).sums.major, 1);
        is_dirty(state);
    }
    0
}

/// The thread's sums begin. What it did in another mm before is told.
#[inline(never)]
pub fn begin(tid: u32, tgid: u32, mm: u64, slot: u32) -> i32 {
    end(tid);
    if is_over(epoch()) {
        return 0;
    }
    if SPANS.insert(tid, &NEW, 0).is_err() {
        lose!(threads);
        return 0;
    }
    let Some(state) = SPANS.get_ptr_mut(tid) else { return 0 };
    let Some(generation) = SLOTS.get_ptr(slot).map(|slot| unsafe { (*slot).generation }) else { return 0 };
    unsafe {
        (*state).mm = mm;
        (*state).generation = generation;
        (*state).tgid = tgid;
        (*state).slot = slot;
    }
    0
}

/// The thread ends, or leaves its mm: how far it has come. That nothing of it goes on is told by the life of the task or mm.
/// When the session is over, the program reads what is there.
#[inline(never)]
pub fn end(tid: u32) -> i32 {
    if is_over(epoch()) {
        return 0;
    }
    let Some(state) = SPANS.get_ptr_mut(tid) else { return 0 };
    if unsafe { (*state).dirty != 0 || (*state).last_ns != 0 } {
        let definition = unsafe { (*state).definition };
        pass(state, tid, &Edge { definition: definition as u16, edge: edge::CUT, argument: 0 }, &NO_TEXT);
    }
    let _ = SPANS.remove(&tid);
    0
}

/// As [`end`], if the thread's sums are about this mm.
#[inline(always)]
pub fn end_in(tid: u32, mm: u64) {
    if SPANS.get_ptr(&tid).is_some_and(|state| unsafe { (*state).mm == mm }) {
        end(tid);
    }
}

/// An edge, as the record has it.
pub struct Edge {
    pub definition: u16,
    pub edge: u16,
    pub argument: u64,
}

/// Where the text is; address 0 for none. (No `Option`: what is not there would be no value to the verifier.)
pub struct Text {
    pub address: u64,
    /// Or [`TERMINATED`].
    pub length: u32,
}

/// [`Text::length`] of a text that ends with NUL.
pub const TERMINATED: u32 = u32::MAX;

pub const NO_TEXT: Text = Text { address: 0, length: TERMINATED };

/// Words of [`SpanSums`].
const SUMS: usize = size_of::<SpanSums>() / 8;
const _: () = assert!(size_of::<SpanSums>().is_multiple_of(8));

/// [`SpanRecord`] and what follows it.
#[repr(C)]
struct Told<const WORDS: usize, const TEXT: usize> {
    record: SpanRecord,
    sums: [i64; WORDS],
    text: [u8; TEXT],
}

/// Tells an edge with as much room as it needs: what goes through the ring is most of what an edge costs besides its trap.
#[inline(always)]
pub fn pass(state: *mut SpanState, tid: u32, edge: &Edge, text: &Text) {
    if is_for_lives_only() {
        lose!(ring);
        return;
    }
    if unsafe { read_volatile(&raw const (*state).dirty) } == 0 {
        with::<0>(state, tid, edge, text);
    } else {
        with::<SUMS>(state, tid, edge, text);
    }
}

#[inline(always)]
fn with<const WORDS: usize>(state: *mut SpanState, tid: u32, edge: &Edge, text: &Text) {
    if text.address == 0 {
        let _ = tell::<WORDS, 0>(state, tid, edge, text);
    } else if (text.length != TERMINATED && text.length > SPAN_TEXT_SHORT as u32)
        || !tell::<WORDS, SPAN_TEXT_SHORT>(state, tid, edge, text)
    {
        let _ = tell::<WORDS, SPAN_TEXT>(state, tid, edge, text);
    }
}

/// False when a text that ends with NUL is longer than there is room: then nothing has been told, unless there is no
/// more room than this.
#[inline(always)]
fn tell<const WORDS: usize, const TEXT: usize>(state: *mut SpanState, tid: u32, edge: &Edge, text: &Text) -> bool {
    let Some(mut entry) = EVENTS.reserve::<Told<WORDS, TEXT>>(0) else {
        lose!(ring);
        return true;
    };
    let told = entry.as_mut_ptr();
    unsafe {
        let mut bytes = SPAN_NO_TEXT;
        if TEXT != 0 {
            let into = (&raw mut (*told).text).cast();
            if text.length != TERMINATED {
                let length = bounded(text.length, TEXT as u32);
                if bpf_probe_read_user(into, length, text.address as *const _) == 0 {
                    bytes = length;
                }
            } else {
                let length = bpf_probe_read_user_str(into, TEXT as u32, text.address as *const _);
                if TEXT < SPAN_TEXT && length == TEXT as i64 {
                    entry.discard(0);
                    return false;
                }
                if length > 0 {
                    bytes = length as u32 - 1;
                }
            }
        }
        let record = &raw mut (*told).record;
        let slot = (*state).slot;
        let (tgid, generation) = ((*state).tgid, (*state).generation);
        let ts_ns = bpf_ktime_get_ns();
        (*record).head = Head { kind: kind::SPAN, slot: slot as u16, tid, ts_ns, tgid, generation };
        (*record).definition = edge.definition;
        (*record).edge = edge.edge;
        (*record).text = bytes;
        (*record).argument = edge.argument;
        (*record).since_ns = (*state).last_ns;
        (*record).counters = match SLOTS.get_ptr(slot) {
            Some(slot) => read_volatile(&raw const (*slot).totals),
            None => [0; MEMBERS],
        };
        (*record).sums = u64::from(WORDS != 0);
        if WORDS != 0 {
            write_volatile(&raw mut (*state).dirty, 0);
            compiler_fence(Ordering::SeqCst);
            take(&raw mut (*state).sums, (&raw mut (*told).sums).cast());
        }
        (*state).last_ns = ts_ns;
        (*state).definition = u32::from(edge.definition);
    }
    entry.submit(wakeup(&EVENTS));
    true
}

/// The smaller one. A 32-bit move first: the verifier wants to know that nothing stands in the upper half.
#[inline(always)]
fn bounded(length: u32, most: u32) -> u32 {
    let lower: u32;
    unsafe { core::arch::asm!("{o} = {i}", o = lateout(wreg) lower, i = in(wreg) length) };
    if lower > most { most } else { lower }
}

/// Moves the sums, whoever adds to them meanwhile.
#[inline(always)]
unsafe fn take(from: *mut SpanSums, to: *mut i64) {
    unsafe {
        // One at a time, not as a copy: what is added between two instructions is the next segment's.
        let from = from.cast::<i64>();
        let mut i = 0;
        while i < SUMS {
            let cell = from.wrapping_add(i);
            let value = if read_volatile(cell) == 0 { 0 } else { exchange(cell, 0) };
            to.wrapping_add(i).write_volatile(value);
            i += 1;
        }
    }
}
