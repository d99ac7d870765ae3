//! The books of one mm: opening them, and the exact difference of a counter at each change.
//!
//! Since Linux 6.2 a counter is a `percpu_counter`: each CPU adds to a local part and, when that reaches a batch,
//! moves it into the common `count` under a lock. So the pages that this CPU moved are `local now − local before`,
//! plus, when the local part is zero after a flush, what `count` grew since somebody last booked it.
//! The sum over CPUs telescopes: whatever a single event's share was, all together are exactly `Σ now − Σ at opening`.
//! <https://elixir.bootlin.com/linux/v6.12/source/lib/percpu_counter.c#L93>

use crate::kernel::{add, exchange, layout, peek};
use crate::maps::{CPU_OFFSETS, CPU_PROBE, CPUS, FREE_SLOTS, MMS, SLOTS, emit, epoch, lose, mark_traced};
use crate::record;
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_map_lookup_percpu_elem};
use core::ptr::{read_volatile, write_volatile};
use memtrace_common::{ANON, Cause, Cpu, Head, LIVES, MEMBERS, MmRecord, RecordKey, Slot, kind};

/// The key of no record.
const NOBODY: RecordKey =
    RecordKey { stack: 0, place: 0, tid: 0, life: 0, slot: 0, nr: 0, cause: 0, place_kind: 0, detail: 0 };

/// What the books of an mm open with besides its counters.
pub struct Opening {
    pub tid: u32,
    pub tgid: u32,
    pub why: u32,
    pub from: u32,
    pub comm: [u8; 16],
}

/// Learns each CPU's offset: the address of our own per-CPU variable there, minus its per-CPU address.
/// Map pointers cannot be calculated with, so they go through the stack and come back as plain numbers.
#[inline(never)]
pub fn learn_cpu_offsets() -> i32 {
    let map: u64 = (&raw const CPU_PROBE) as u64;
    let mut spilled = 0u64;
    unsafe { write_volatile(&raw mut spilled, map) };
    let map: u64 = unsafe { peek(&raw const spilled as u64) };
    let base: u64 = unsafe { peek(map.wrapping_add(layout!(array_pptrs) as u64)) };
    if base == 0 {
        return 0;
    }
    let cpus = layout!(cpus) as u32;
    let mut i = 0u32;
    while i < cpus {
        let key = 0u32;
        let element =
            unsafe { bpf_map_lookup_percpu_elem((&raw const CPU_PROBE).cast_mut().cast(), (&raw const key).cast(), i) };
        if !element.is_null() {
            unsafe { write_volatile(&raw mut spilled, element as u64) };
            let address: u64 = unsafe { peek(&raw const spilled as u64) };
            if let Some(offset) = CPU_OFFSETS.get_ptr_mut(i) {
                unsafe { *offset = address.wrapping_sub(base) };
            }
        }
        i += 1;
    }
    1
}

/// Where a CPU's part of a per-CPU variable lies.
#[inline(always)]
fn of_cpu(address: u64, cpu: u32) -> u64 {
    match CPU_OFFSETS.get(cpu) {
        Some(offset) => address.wrapping_add(*offset),
        None => 0,
    }
}

/// Per-CPU address of the local parts of a counter of `mm`.
#[inline(always)]
fn locals(mm: u64, member: usize) -> u64 {
    let counter = counter(mm, member);
    unsafe { peek(counter.wrapping_add(layout!(counter_locals) as u64)) }
}

/// Address of a counter of `mm`.
#[inline(always)]
fn counter(mm: u64, member: usize) -> u64 {
    mm.wrapping_add(layout!(mm_rss_stat) as u64).wrapping_add((member * layout!(counter_size)) as u64)
}

/// How a counter moved as this CPU sees it.
#[derive(Clone, Copy)]
pub struct Difference {
    /// Pages.
    pub delta: i64,
    /// The local part was flushed: `delta` holds what `count` grew, which may be another CPU's.
    pub flushed: bool,
    /// What `count` grew; meaningful when flushed.
    pub consumed: i64,
    /// How much of `count` had been booked before; meaningful when flushed.
    pub before: i64,
}

/// Pages by which `member` moved since this CPU last looked. To be called on the CPU that moved it.
#[inline(always)]
pub fn difference(slot: *mut Slot, view: *mut Cpu, member: usize) -> Difference {
    unsafe {
        let member = member & 3;
        let now: i32 = peek((*view).locals[member]);
        let before = (*view).last[member];
        (*view).last[member] = now;
        let (mut consumed, mut booked_before) = (0, 0);
        if now == 0 {
            // A flush: book what `count` holds beyond what has been booked. Another CPU may do the same with a newer
            // value between our read and our exchange, so whoever exchanged last looks once more. And another CPU's
            // handler that took our part for its own gives it back within some hundred nanoseconds.
            let count = (*slot).count[member];
            let booked = &raw mut (*slot).attributed[member];
            booked_before = read_volatile(booked);
            let mut tries = 0;
            while tries < 16 {
                let seen: i64 = peek(count);
                if seen != read_volatile(booked) {
                    consumed += seen - exchange(booked, seen);
                } else if consumed != 0 {
                    break;
                }
                tries += 1;
            }
        }
        Difference {
            delta: i64::from(now) - i64::from(before) + consumed,
            flushed: now == 0,
            consumed,
            before: booked_before,
        }
    }
}

/// Gives back anonymous pages that were consumed but belong to another CPU, whose handler is about to look.
#[inline(always)]
pub fn give_back(slot: *mut Slot, pages: i64) {
    unsafe {
        let booked = &raw mut (*slot).attributed[ANON];
        add(booked, -pages);
        (*slot).given_back = pages;
        (*slot).given_at = read_volatile(booked);
    }
}

/// What was given back and nobody came for: `before` is how much of `count` had been booked when we came.
#[inline(always)]
pub fn take_abandoned(slot: *mut Slot, before: i64) -> i64 {
    unsafe {
        let pages = (*slot).given_back;
        if pages == 0 || (*slot).given_at != before {
            return 0;
        }
        (*slot).given_back = 0;
        pages
    }
}

/// Books anonymous pages that belong to whoever consumed last outside a fault, or to nobody known.
#[inline(always)]
pub fn book_for_other(index: u32, slot: *mut Slot, epoch: u32, pages: i64) {
    let mut key = unsafe { (*slot).consumer };
    if key == NOBODY {
        key.cause = Cause::Other as u8;
        key.slot = index as u16;
        key.nr = -1;
    }
    let ip = unsafe { (*slot).consumer_ip };
    let _ = record::book_shared(epoch, &key, ip, ANON, pages);
}

/// Books what was given back and nobody came for: the CPU that it belonged to had looked a moment too early.
#[inline(never)]
pub fn sweep(mm: u64) -> i32 {
    let Some(index) = MMS.get_ptr(&mm).map(|p| unsafe { *p }) else { return 0 };
    let Some(slot) = SLOTS.get_ptr_mut(index) else { return 0 };
    let epoch = epoch();
    let Some(view) = view(index, epoch) else { return 0 };
    unsafe {
        let seen: i64 = peek((*slot).count[ANON]);
        if seen == read_volatile(&raw const (*slot).attributed[ANON]) {
            return 0;
        }
        let left = seen - exchange(&raw mut (*slot).attributed[ANON], seen);
        // Not on behalf of an event on this CPU: one may come between any two instructions here.
        add(&raw mut (*view).booked[ANON], left);
        if layout!(spans) != 0 {
            add(&raw mut (*slot).totals[ANON], left);
        }
        book_for_other(index, slot, epoch, left);
    }
    0
}

/// Counter of unmappings for the range that begins at `start`.
#[inline(always)]
pub fn life(slot: *mut Slot, start: u64) -> *mut u32 {
    let page = start >> 12;
    let hash = (page ^ (page >> 8) ^ (page >> 16)) as usize & (LIVES - 1);
    unsafe { (&raw mut (*slot).lives).cast::<u32>().wrapping_add(hash) }
}

/// Which life of the range that begins at `start`.
#[inline(always)]
pub fn life_of(slot: *mut Slot, start: u64) -> u32 {
    unsafe { read_volatile(life(slot, start)) }
}

/// Makes everything that the counters hold now the beginning. 0 when one was flushed meanwhile.
#[inline(always)]
fn seed(mm: u64, index: u32, slot: *mut Slot, epoch: u32, counters: &mut [i64; MEMBERS]) -> i32 {
    unsafe {
        let mut m = 0;
        while m < MEMBERS {
            (*slot).count[m] = counter(mm, m).wrapping_add(layout!(counter_count) as u64);
            let count: i64 = peek((*slot).count[m]);
            (*slot).attributed[m] = count;
            counters[m] = count;
            m += 1;
        }
        let cpus = layout!(cpus) as u32;
        let mut i = 0u32;
        while i < cpus {
            let view: *mut Cpu =
                bpf_map_lookup_percpu_elem((&raw const CPUS).cast_mut().cast(), (&raw const index).cast(), i).cast();
            if !view.is_null() {
                let mut m = 0;
                while m < MEMBERS {
                    let address = of_cpu(locals(mm, m), i);
                    let now: i32 = peek(address);
                    (*view).locals[m] = address;
                    (*view).last[m] = now;
                    (*view).booked[m] = 0;
                    (*view).booked_before[m] = 0;
                    counters[m] += i64::from(now);
                    m += 1;
                }
                (*view).epoch = epoch;
                (*view).events = 0;
            }
            i += 1;
        }
        let mut m = 0;
        while m < MEMBERS {
            if peek::<i64>((*slot).count[m]) != (*slot).attributed[m] {
                return 0;
            }
            m += 1;
        }
    }
    1
}

/// Opens the books of `mm` in a free slot, in the order seed, publish: what happens in between is part of the first
/// change that a CPU sees, never lost. Returns the slot, or [`memtrace_common::NO_SLOT`].
#[inline(never)]
pub fn open(mm: u64, opening: &Opening) -> u32 {
    if let Some(known) = MMS.get_ptr(&mm) {
        return unsafe { *known };
    }
    let Ok(Some(index)) = FREE_SLOTS.pop() else {
        lose!(mms);
        return u32::from(memtrace_common::NO_SLOT);
    };
    let Some(slot) = SLOTS.get_ptr_mut(index) else {
        return u32::from(memtrace_common::NO_SLOT);
    };
    let mut counters = [0i64; MEMBERS];
    let epoch = epoch();
    // A CPU that flushes between our two readings would be missing from both: read again.
    let mut tries = 0;
    while seed(mm, index, slot, epoch, &mut counters) == 0 && tries < 4 {
        tries += 1;
    }
    unsafe {
        (*slot).brk = peek(mm.wrapping_add(layout!(mm_brk) as u64));
        (*slot).consumer = NOBODY;
        (*slot).consumer_ip = 0;
        (*slot).given_back = 0;
        (*slot).totals = counters;
        (*slot).generation += 1;
        (*slot).vma_seq = 1;
        (*slot).tgid = opening.tgid;
        write_volatile(&raw mut (*slot).mm, mm);
        mark_traced(mm);
    }
    if MMS.insert(mm, index, 0).is_err() {
        let _ = FREE_SLOTS.push(index, 0);
        lose!(mms);
        return u32::from(memtrace_common::NO_SLOT);
    }
    emit(MmRecord {
        head: head(kind::MM_OPENED, index, opening.tid, opening.tgid),
        counters,
        total_vm: unsafe { peek(mm.wrapping_add(layout!(mm_total_vm) as u64)) },
        why: opening.why,
        from: opening.from,
        brk: unsafe { (*slot).brk },
        start_brk: unsafe { peek(mm.wrapping_add(layout!(mm_start_brk) as u64)) },
        start_stack: unsafe { peek(mm.wrapping_add(layout!(mm_start_stack) as u64)) },
        comm: opening.comm,
    });
    index
}

/// Closes the books of `mm`. The slot comes back through the program, once it has drained the last records.
#[inline(always)]
pub fn close(mm: u64) {
    let Some(index) = MMS.get_ptr(&mm).map(|p| unsafe { *p }) else { return };
    let Some(slot) = SLOTS.get_ptr_mut(index) else { return };
    let mut counters = [0i64; MEMBERS];
    unsafe {
        let mut m = 0;
        while m < MEMBERS {
            counters[m] = peek((*slot).count[m]);
            let cpus = layout!(cpus) as u32;
            let mut i = 0u32;
            while i < cpus {
                counters[m] += i64::from(peek::<i32>(of_cpu(locals(mm, m), i)));
                i += 1;
            }
            m += 1;
        }
        let tgid = (*slot).tgid;
        let _ = MMS.remove(&mm);
        write_volatile(&raw mut (*slot).mm, 0);
        emit(MmRecord {
            head: head(kind::MM_CLOSED, index, tgid, tgid),
            counters,
            total_vm: 0,
            why: 0,
            from: 0,
            brk: 0,
            start_brk: 0,
            start_stack: 0,
            comm: [0; 16],
        });
    }
}

/// Head of a ring record about `slot`.
#[inline(always)]
pub fn head(kind: u16, slot: u32, tid: u32, tgid: u32) -> Head {
    let generation = match SLOTS.get_ptr(slot) {
        Some(slot) => unsafe { read_volatile(&raw const (*slot).generation) },
        None => 0,
    };
    Head { kind, slot: slot as u16, tid, ts_ns: unsafe { bpf_ktime_get_ns() }, tgid, generation }
}

/// This CPU's view of `slot`, rolled over into the interval `epoch`.
#[inline(always)]
pub fn view(slot: u32, epoch: u32) -> Option<*mut Cpu> {
    let view = CPUS.get_ptr_mut(slot)?;
    unsafe {
        if (*view).epoch != epoch {
            (*view).booked_before = (*view).booked;
            (*view).epoch = epoch;
        }
    }
    Some(view)
}
