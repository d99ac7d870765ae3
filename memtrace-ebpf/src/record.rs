//! Merged records: booking an amount under its key, and moving it when a later event tells the true cause.

use crate::kernel::{add, layout};
use crate::maps::{MOMENTS_0, MOMENTS_1, OVERFLOW, RECORDS_0, RECORDS_1, epoch, lose};
use crate::span;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use memtrace_common::{Cause, HIST_BUCKETS, MOMENT_SHIFT, MomentKey, Overflow, RecordKey, RecordValue};

/// What a new record starts from; in read-only data, so that it costs no stack.
static EMPTY: RecordValue = unsafe { core::mem::zeroed() };

/// The record of `key` in the interval's map, made if it is not there. `ip` is the instruction of the key's code path.
#[inline(always)]
pub fn at(epoch: u32, key: &RecordKey, ip: u64) -> Option<*mut RecordValue> {
    let records = if epoch & 1 == 0 { &RECORDS_0 } else { &RECORDS_1 };
    if let Some(record) = records.get_ptr_mut(key) {
        return Some(record);
    }
    // Another thread may have made it meanwhile; then that one is the record.
    let made = records.insert(key, &EMPTY, u64::from(BPF_NOEXIST)).is_ok();
    let record = records.get_ptr_mut(key)?;
    if !made {
        return Some(record);
    }
    unsafe {
        let now = bpf_ktime_get_ns();
        (*record).first_ns = now;
        (*record).last_ns = now;
        (*record).ip = ip;
    }
    Some(record)
}

/// The table for amounts whose record had no room.
#[inline(always)]
pub fn overflow(epoch: u32, key: &RecordKey) -> Option<*mut Overflow> {
    let index = (u32::from(key.slot) * Cause::COUNT as u32 + u32::from(key.cause)) * 2 + (epoch & 1);
    OVERFLOW.get_ptr_mut(index)
}

/// Books `pages` (and `faults`) of `member` under `key`. Returns the record, if it had room.
#[inline(always)]
pub fn book(epoch: u32, key: &RecordKey, ip: u64, member: usize, pages: i64, faults: i32) -> Option<*mut RecordValue> {
    if layout!(spans) != 0 {
        span::add(epoch, key, member, pages, faults);
    }
    match at(epoch, key, ip) {
        Some(record) => {
            unsafe {
                (*record).delta[member & 3] += pages;
                (*record).faults = (*record).faults.wrapping_add(faults);
            }
            Some(record)
        }
        None => {
            spill(epoch, key, member, pages, faults);
            None
        }
    }
}

/// As [`book`], for records that more than one thread writes: those of system calls, reclaim and teardown, which
/// another thread's fault may set right.
#[inline(always)]
pub fn book_shared(epoch: u32, key: &RecordKey, ip: u64, member: usize, pages: i64) -> Option<*mut RecordValue> {
    if layout!(spans) != 0 {
        span::add(epoch, key, member, pages, 0);
    }
    match at(epoch, key, ip) {
        Some(record) => {
            unsafe { add(&raw mut (*record).delta[member & 3], pages) };
            Some(record)
        }
        None => {
            spill(epoch, key, member, pages, 0);
            None
        }
    }
}

/// Keeps by cause alone what has no room for a record.
#[inline(always)]
fn spill(epoch: u32, key: &RecordKey, member: usize, pages: i64, faults: i32) {
    lose!(records);
    if let Some(overflow) = overflow(epoch, key) {
        unsafe {
            add(&raw mut (*overflow).delta[member & 3], pages);
            add(&raw mut (*overflow).faults, i64::from(faults));
            add((&raw mut (*overflow).changes).cast(), 1);
        }
    }
}

/// Takes `pages` of `member` and `faults` from the record of `from` and gives them to that of `to`, on the same code path.
/// When the interval in which they were booked is over and its map drained, they are taken from a new record of this one,
/// which is below zero then: the sum over both intervals is right.
#[inline(always)]
pub fn shift(epoch: u32, from: &RecordKey, to: &RecordKey, ip: u64, (member, pages, faults): (usize, i64, i32)) {
    let _ = book(epoch, from, ip, member, -pages, -faults);
    let _ = book(epoch, to, ip, member, pages, faults);
}

/// Counts `faults` of an mm at a time, for finding bursts. In an interval of many moments the oldest make room.
#[inline(never)]
pub fn pace(slot: u32, now_ns: u64, faults: u32) -> i32 {
    let moments = if epoch() & 1 == 0 { &MOMENTS_0 } else { &MOMENTS_1 };
    let key = MomentKey { moment: now_ns >> MOMENT_SHIFT, slot: u64::from(slot) };
    let count = match moments.get_ptr_mut(&key) {
        Some(count) => count,
        None => {
            let _ = moments.insert(&key, &0, u64::from(BPF_NOEXIST));
            let Some(count) = moments.get_ptr_mut(&key) else { return 0 };
            count
        }
    };
    unsafe { add(count.cast(), i64::from(faults)) };
    0
}

/// Counts a fault that was booked under `key` as major.
#[inline(always)]
pub fn major(epoch: u32, key: &RecordKey, record: *mut RecordValue) {
    if layout!(spans) != 0 {
        span::major(epoch, key);
    }
    unsafe { (*record).major += 1 };
}

/// Adds the latency of a fault that was booked under `key`.
#[inline(always)]
pub fn time(epoch: u32, key: &RecordKey, record: *mut RecordValue, latency_ns: u64, now_ns: u64) {
    if layout!(spans) != 0 {
        span::time(epoch, key, latency_ns as i64, 1);
    }
    unsafe {
        (*record).last_ns = now_ns;
        (*record).latency_samples += 1;
        (*record).latency_sum_ns += latency_ns;
        if latency_ns > (*record).latency_max_ns {
            (*record).latency_max_ns = latency_ns;
        }
        let bucket = bucket(latency_ns);
        let cell = (&raw mut (*record).hist).cast::<u16>().wrapping_add(bucket);
        let count = core::ptr::read_volatile(cell);
        if count != u16::MAX {
            core::ptr::write_volatile(cell, count + 1);
        }
    }
}

/// Takes a latency back: the fault turned out to be a longer one, under another key.
#[inline(always)]
pub fn untime(epoch: u32, key: &RecordKey, record: *mut RecordValue, latency_ns: u64) {
    if layout!(spans) != 0 {
        span::time(epoch, key, -(latency_ns as i64), -1);
    }
    unsafe {
        (*record).latency_samples = (*record).latency_samples.wrapping_sub(1);
        (*record).latency_sum_ns = (*record).latency_sum_ns.wrapping_sub(latency_ns);
        let cell = (&raw mut (*record).hist).cast::<u16>().wrapping_add(bucket(latency_ns));
        let count = core::ptr::read_volatile(cell);
        if count != 0 {
            core::ptr::write_volatile(cell, count - 1);
        }
    }
}

/// `floor(log2(ns)) − 7`, kept within the table. BPF has no count-leading-zeros, so this halves the search.
#[inline(always)]
fn bucket(latency_ns: u64) -> usize {
    let mut value = if latency_ns >> 31 != 0 { (1 << 31) - 1 } else { latency_ns };
    let mut log = 0;
    if value >> 16 != 0 {
        value >>= 16;
        log += 16;
    }
    if value >> 8 != 0 {
        value >>= 8;
        log += 8;
    }
    if value >> 4 != 0 {
        value >>= 4;
        log += 4;
    }
    if value >> 2 != 0 {
        value >>= 2;
        log += 2;
    }
    if value >> 1 != 0 {
        log += 1;
    }
    let bucket: usize = if log < 7 { 0 } else { log - 7 };
    if bucket < HIST_BUCKETS { bucket } else { HIST_BUCKETS - 1 }
}
