//! `rss_stat`: every change of a counter of a traced mm, by whomever.

use crate::clock;
use crate::kernel::{Task, add, layout, peek};
use crate::maps::{MMS, SLOTS, THREADS, epoch, maybe_traced};
use crate::probes::{fault, reclaim};
use crate::vma::Place;
use crate::{record, slot, stack, vma, why};
use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext};
use memtrace_common::nr;
use memtrace_common::{ANON, Cause, FILE, RecordKey, SHMEM, SWAP, Slot, Thread, place, thread};

#[btf_tracepoint(function = "rss_stat")]
pub fn rss_stat(ctx: BtfTracePointContext) -> i32 {
    let mm: u64 = ctx.arg(0);
    if !maybe_traced(mm) {
        return 0;
    }
    let member: u32 = ctx.arg(1);
    if member > 3 {
        return 0;
    }
    let member = member as usize;
    let task = Task::current();
    let tid = task.pid();
    let own = match THREADS.get_ptr_mut(tid) {
        Some(th) if unsafe { (*th).mm } == mm => Some(th),
        _ => None,
    };
    let index = match own {
        Some(th) => unsafe { (*th).slot },
        None => match MMS.get_ptr(&mm) {
            Some(index) => unsafe { *index },
            None => return 0,
        },
    };
    let Some(slot) = SLOTS.get_ptr_mut(index) else { return 0 };
    if unsafe { (*slot).mm } != mm {
        return 0;
    }
    let epoch = epoch();
    let Some(view) = slot::view(index, epoch) else { return 0 };
    let moved = slot::difference(slot, view, member);
    let fault = match own {
        Some(th) if unsafe { is_in_fault(task, th) } => Some(th),
        _ => None,
    };
    // Only reclaim takes pages away inside a fault or adds swap entries, and only then is it worth a lookup.
    let reclaimer = if moved.delta < 0 || member == SWAP { reclaim::of(task, tid) } else { None };
    let mut delta = moved.delta;
    let mut booked = moved.delta;
    if moved.flushed && member == ANON && fault.is_some() && reclaimer.is_none() && !is_fault_size(delta) {
        (delta, booked) = settle(index, slot, epoch, moved);
    }
    unsafe {
        (*view).events += 1;
        if delta == 0 {
            return 0;
        }
        (*view).booked[member & 3] += booked;
        if layout!(spans) != 0 {
            add(&raw mut (*slot).totals[member & 3], booked);
        }
    }
    let consumed = moved.flushed && moved.consumed != 0;
    let change = Change { epoch, index, slot, task, tid, member, delta, consumed };
    if let Some(reclaimer) = reclaimer {
        reclaim::book(&change, reclaimer);
        return 0;
    }
    if let Some(th) = fault {
        unsafe { book_fault(&change, th) };
        return 0;
    }
    // Made here and not where it is used: before Linux 6.13 all frames of a chain of calls share 512 bytes.
    let own = match own {
        None if task.mm() == mm && !why::is_kernel_thread(task.flags()) => fault::of(task, mm),
        known => known,
    };
    book_other(&change, mm, own);
    0
}

/// The fault that the thread started is not over. The kernel counts a fault when it has succeeded; one that ended in a
/// signal or in EFAULT is never counted, but then the thread has gone on to somewhere else.
#[inline(always)]
pub unsafe fn is_in_fault(task: Task, th: *const Thread) -> bool {
    unsafe {
        if (*th).state & thread::STARTED == 0 || (*th).fault_count != task.fault_count() {
            return false;
        }
        let regs = task.regs();
        regs.ip() == (*th).ip && regs.syscall() == (*th).nr
    }
}

/// What a fault adds to the anonymous counter: a page, or a folio, whose sizes are powers of two from four pages on.
#[inline(always)]
fn is_fault_size(delta: i64) -> bool {
    delta == 1 || (delta >= 4 && delta & (delta - 1) == 0)
}

/// Two CPUs flushed the same counter before either's handler looked. A fault knows that it added one page, so the rest
/// is the other's: either the other has already taken our part too, then its record is set right (no fault's, for a fault
/// never keeps what is not its own); or its handler is about to look, then it finds its part where we leave it.
/// Returns what we booked for ourselves, and in all.
#[inline(never)]
fn settle(index: u32, slot: *mut Slot, epoch: u32, moved: slot::Difference) -> (i64, i64) {
    let rest = moved.delta - 1;
    if moved.consumed == 0 {
        slot::book_for_other(index, slot, epoch, rest);
        return (1, moved.delta);
    }
    // What lies there since the last time has no owner who comes for it.
    let left = slot::take_abandoned(slot, moved.before);
    if left != 0 {
        slot::book_for_other(index, slot, epoch, left);
    }
    if rest != left {
        slot::give_back(slot, rest - left);
    }
    (1, 1 + left)
}

/// One change of one counter.
pub struct Change {
    pub epoch: u32,
    pub index: u32,
    pub slot: *mut Slot,
    pub task: Task,
    pub tid: u32,
    pub member: usize,
    pub delta: i64,
    /// It consumed what `count` had grown; see [`slot::Difference`].
    pub consumed: bool,
}

impl Change {
    /// Remembers the record that consumed last.
    #[inline(always)]
    pub fn remember(&self, key: &RecordKey, ip: u64) {
        if self.consumed && self.member == ANON {
            unsafe {
                (*self.slot).consumer = *key;
                (*self.slot).consumer_ip = ip;
            }
        }
    }
}

/// A change inside a page fault of the mm's own thread.
#[inline(always)]
unsafe fn book_fault(change: &Change, th: *mut Thread) {
    let Change { epoch, index, slot, task, tid, member, delta, .. } = *change;
    unsafe {
        // Before anything else is done: what follows is our time, not the fault's.
        let now = if (*th).start_ns != 0 { bpf_ktime_get_ns() } else { 0 };
        if (*th).stack == 0 {
            stack::look_up(th, task, task.regs());
        }
        let place = vma::of_fault(th, slot, task);
        let cause = match member {
            ANON if (*th).state & thread::COPYING != 0 => Cause::FaultCow,
            ANON if delta != 1 && is_fault_size(delta) => Cause::FaultThp,
            ANON if (*th).state & thread::VMA_HAS_OPS != 0 && place.kind == place::VMA => Cause::FaultCow,
            ANON => Cause::FaultAnon,
            SWAP => Cause::FaultSwapin,
            _ if delta < 0 => {
                (*th).state |= thread::COPYING;
                Cause::FaultCow
            }
            FILE => Cause::FaultFile,
            _ => Cause::FaultShmem,
        };
        let key = RecordKey {
            stack: (*th).stack,
            place: place.place,
            tid,
            life: (*th).vma_life,
            slot: index as u16,
            nr: (*th).nr as i16,
            cause: cause as u8,
            place_kind: place.kind,
            detail: 0,
        };
        let first = (*th).state & thread::BOOKED == 0;
        (*th).pending = 0;
        if member == SWAP && !first {
            // do_swap_page adds the page first and takes the swap entry after.
            let from = fault::last_key(th, tid);
            record::shift(epoch, &from, &key, (*th).ip, (ANON, (*th).last_pages, 1));
        }
        let record = record::book(epoch, &key, (*th).ip, member, delta, i32::from(first));
        let same = !first
            && (*th).last_epoch == epoch
            && (*th).last_cause == u16::from(key.cause)
            && (*th).last_place == key.place;
        (*th).last_pages = if same { (*th).last_pages + delta } else { delta };
        (*th).last_epoch = epoch;
        (*th).last_cause = u16::from(key.cause);
        (*th).last_place = key.place;
        (*th).last_place_kind = u16::from(key.place_kind);
        (*th).state |= thread::BOOKED;
        if layout!(time) != 0 && (*th).waited != 0 {
            clock::settle(th, tid, key.cause);
        }
        let Some(record) = record else { return };
        fault::widen(record, th, place.end);
        if first {
            (*th).last_latency_ns = 0;
            if (*th).state & thread::KERNEL != 0 {
                (*record).kernel_mode += 1;
            }
            if (*th).start_ns != 0 {
                let latency = now.wrapping_sub((*th).start_ns);
                (*th).last_latency_ns = latency;
                record::time(epoch, &key, record, latency, now);
            }
        }
    }
}

/// A change in a system call, by a kernel thread, or in a teardown.
#[inline(never)]
fn book_other(change: &Change, mm: u64, own: Option<*mut Thread>) -> i32 {
    let Change { epoch, index, slot, task, tid, member, delta, .. } = *change;
    let flags = task.flags();
    let users: i32 = unsafe { peek(mm.wrapping_add(layout!(mm_users) as u64)) };
    let mine = task.mm() == mm;
    let nowhere = |cause, nr| why::Why { cause, place: Place::NOWHERE, nr, detail: 0, ip: 0 };
    let mut why = if why::is_kernel_thread(flags) {
        let cause = why::of_kernel_thread(task, flags);
        // Some worker that happened to drop the last reference.
        nowhere(if users == 0 && cause == Cause::Other { Cause::Exit } else { cause }, -1)
    } else if users == 0 {
        let nr = task.regs().syscall();
        let cause = match nr as u32 {
            nr::EXECVE | nr::EXECVEAT => Cause::Exec,
            nr::PROCESS_MRELEASE => Cause::OomReaper,
            _ => Cause::Exit,
        };
        nowhere(cause, nr)
    } else {
        why::of_syscall(task, mine, own.filter(|_| mine), slot, member, delta)
    };
    // A fault of a thread that had no room: its start is unknown, its kind is not.
    if mine && why.nr < 0 && why.cause == Cause::Other {
        why.cause = match member {
            ANON => Cause::FaultAnon,
            FILE => Cause::FaultFile,
            SHMEM => Cause::FaultShmem,
            _ => Cause::FaultSwapin,
        };
    }
    // Somebody else's path is in another address space.
    let ip = if mine { why.ip } else { 0 };
    let key = RecordKey {
        stack: if ip != 0 { stack::path(task, task.regs(), index) } else { 0 },
        place: why.place.place,
        tid,
        life: slot::life_of(slot, why.place.place),
        slot: index as u16,
        nr: why.nr as i16,
        cause: why.cause as u8,
        place_kind: why.place.kind,
        detail: why.detail,
    };
    change.remember(&key, ip);
    if let Some(record) = record::book_shared(epoch, &key, ip, member, delta) {
        unsafe { (*record).end = why.place.end };
    }
    0
}
