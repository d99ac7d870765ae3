//! Which code path a thread is in: a number for its user registers, and for each number one copy of its stack.
//!
//! Instruction and stack pointer make the number; almost always that is one path. Where it is not, the program says
//! where a copy's return addresses lie, and what stands there now tells the next number. Nothing is unwound here.

use crate::kernel::{Regs, Task, layout, load, peek};
use crate::maps::{SLOTS, STACK_COPIES, STACK_WINDOW, STACK_WORDS, STACKS, lose};
use crate::slot::head;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};
use core::mem::offset_of;
use core::ptr::read_volatile;
use memtrace_common::{
    RECENT, RED_ZONE, Recent, STACK_PAGES, STACK_RETURNS, StackKey, StackPath, StackRecord, Thread, kind,
};

/// Paths with the same instruction and stack pointer that are told apart one after another.
const LEVELS: u32 = 6;
const PAGE: usize = 4096;
/// Of a main thread's stack: mappings begin further below it than this.
const MAIN_STACK: u64 = 64 << 20;
const REGS: usize = 168;

/// What a path starts from: nothing is known of it.
static UNKNOWN: StackPath = StackPath { offsets: [0; STACK_RETURNS], returns: [0; STACK_RETURNS] };

/// Number of the code path that the user registers show, its stack copied if nobody has done so. 0 for none: a thread
/// that never was in user space.
#[inline(never)]
pub fn path(task: Task, regs: Regs, slot: u32) -> u64 {
    let (ip, sp) = (regs.ip(), regs.sp());
    if ip | sp == 0 {
        return 0;
    }
    if layout!(stacks) == 0 {
        return mix(ip, 0);
    }
    let mut key = key(mix(ip, sp), task.pid(), slot);
    let mut level = 0;
    loop {
        let Some(path) = STACKS.get_ptr(&key) else {
            // Only what has been copied is known; else the path's next fault tries again.
            if copy(&key, task, regs, sp, slot) {
                let _ = STACKS.insert(&key, &UNKNOWN, u64::from(BPF_NOEXIST));
            }
            return key.stack;
        };
        level += 1;
        match unsafe { other(key.stack, path, sp) } {
            Some(next) if level < LEVELS => key.stack = next,
            _ => return key.stack,
        }
    }
}

/// Looks up the path of the thread's fault, and remembers it.
#[inline(always)]
pub unsafe fn look_up(th: *mut Thread, task: Task, regs: Regs) {
    unsafe {
        let stack = path(task, regs, (*th).slot);
        (*th).stack = stack;
        *recent(th) = Recent { ip: (*th).ip, sp: (*th).sp, stack };
    }
}

/// The path of the thread's fault, if it was looked up not long ago; else 0.
#[inline(always)]
pub unsafe fn remembered(th: *mut Thread) -> u64 {
    unsafe {
        let recent = recent(th);
        if (*recent).ip == (*th).ip && (*recent).sp == (*th).sp { (*recent).stack } else { 0 }
    }
}

/// Every path is to be looked up again: another may have come to the same place.
#[inline(always)]
pub unsafe fn doubt(th: *mut Thread) {
    let mut i = 0;
    while i < RECENT {
        unsafe { (*th).recent[i].stack = 0 };
        i += 1;
    }
}

#[inline(always)]
unsafe fn recent(th: *mut Thread) -> *mut Recent {
    unsafe {
        let ip = (*th).ip;
        // The upper bits of a product depend on all of the lower.
        let hash = ((ip as u32).wrapping_mul(0x9e37_79b1) >> 24) as usize & (RECENT - 1);
        (&raw mut (*th).recent).cast::<Recent>().wrapping_add(hash)
    }
}

/// Number of the path of a fault in kernel mode that changed nothing. 0 when no copy of it has been taken: by now the
/// thread is elsewhere.
#[inline(always)]
pub fn seen(th: *const Thread, tid: u32) -> u64 {
    unsafe {
        if (*th).stack != 0 {
            return (*th).stack;
        }
        if layout!(stacks) == 0 {
            return mix((*th).ip, 0);
        }
        let key = key(mix((*th).ip, (*th).sp), tid, (*th).slot);
        if STACKS.get_ptr(&key).is_some() { key.stack } else { 0 }
    }
}

#[inline(always)]
fn key(stack: u64, tid: u32, slot: u32) -> StackKey {
    let generation = match SLOTS.get_ptr(slot) {
        Some(slot) => unsafe { read_volatile(&raw const (*slot).generation) },
        None => 0,
    };
    StackKey { stack, tid, mm: (generation << 16) | (slot & 0xffff) }
}

/// Never 0.
#[inline(always)]
fn mix(a: u64, b: u64) -> u64 {
    let mut x = a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 32;
    x = x.wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^= x >> 29;
    if x == 0 { 1 } else { x }
}

/// The number to go on with when a return address of `path` is not where it was. Most lie close together, and each
/// reading of the user's memory costs 70 ns, however short: all are read at once.
#[inline(always)]
unsafe fn other(stack: u64, path: *const StackPath, sp: u64) -> Option<u64> {
    let buffer = STACK_WORDS.get_ptr_mut(0)?.cast::<u8>();
    unsafe {
        let base = (*path).offsets[0];
        let mut length = 0;
        let mut i = 0;
        while i < STACK_RETURNS && (*path).returns[i] != 0 {
            let at = (*path).offsets[i].wrapping_sub(base);
            if at as usize > STACK_WINDOW - 4 {
                break;
            }
            length = at + 4;
            i += 1;
        }
        let start = sp.wrapping_add(u64::from(base));
        if length as usize > STACK_WINDOW || bpf_probe_read_user(buffer.cast(), length, start as *const _) != 0 {
            return None;
        }
        let compared = i;
        i = 0;
        while i < STACK_RETURNS && i < compared {
            let at = (*path).offsets[i].wrapping_sub(base) as usize;
            if at > STACK_WINDOW - 4 {
                return None;
            }
            let found = read_volatile(buffer.wrapping_add(at).cast::<u32>());
            if found != (*path).returns[i] {
                return Some(mix(stack.wrapping_add(i as u64 + 1), u64::from(found)));
            }
            i += 1;
        }
    }
    None
}

/// Copies registers and stack into the ring. False when it had no room, which is counted.
#[inline(always)]
fn copy(key: &StackKey, task: Task, regs: Regs, sp: u64, slot: u32) -> bool {
    let start = sp.wrapping_sub(RED_ZONE) & !(PAGE as u64 - 1);
    let end = end_of_stack(task, sp);
    let pages = end.wrapping_sub(start).wrapping_add(PAGE as u64 - 1) / PAGE as u64;
    // The ring takes sizes that the verifier knows.
    if pages <= 2 {
        fill::<2>(key, task, regs, sp, slot, end, pages as u32)
    } else if pages <= 4 {
        fill::<4>(key, task, regs, sp, slot, end, pages as u32)
    } else {
        fill::<STACK_PAGES>(key, task, regs, sp, slot, end, STACK_PAGES as u32)
    }
}

/// Where the thread's first frame lies below; `u64::MAX` where the kernel does not know.
#[inline(always)]
fn end_of_stack(task: Task, sp: u64) -> u64 {
    let main: u64 = unsafe { peek(task.mm().wrapping_add(layout!(mm_start_stack) as u64)) };
    if main.wrapping_sub(sp) < MAIN_STACK {
        return main;
    }
    // Threads have their own block of variables on top of their stack.
    let block: u64 = unsafe { load(task.0, layout!(task_fsbase)) };
    if block > sp { block } else { u64::MAX }
}

/// [`StackRecord`] and what follows it.
#[repr(C)]
struct Copy<const PAGES: usize> {
    record: StackRecord,
    bytes: [[u8; PAGE]; PAGES],
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn fill<const PAGES: usize>(key: &StackKey, task: Task, regs: Regs, sp: u64, slot: u32, end: u64, pages: u32) -> bool {
    let Some(mut entry) = STACK_COPIES.reserve::<Copy<PAGES>>(0) else {
        lose!(stacks);
        return false;
    };
    let copy = entry.as_mut_ptr();
    unsafe {
        let record = &raw mut (*copy).record;
        (*record).head = head(kind::STACK, slot, key.tid, task.tgid());
        (*record).stack = key.stack;
        bpf_probe_read_kernel((&raw mut (*record).regs).cast(), REGS as u32, regs.0.cast());
        let bottom = sp.wrapping_sub(RED_ZONE);
        (*record).start = bottom & !(PAGE as u64 - 1);
        (*record).end = end;
        (*record).pages = pages;
        // The first page from the red zone on, at its place in the page. What lies below means nothing.
        let bytes = (&raw mut (*copy).bytes).cast::<u8>();
        let offset = bottom as usize & (PAGE - 1);
        let failed = bpf_probe_read_user(bytes.wrapping_add(offset).cast(), (PAGE - offset) as u32, bottom as *const _);
        let mut absent = u32::from(failed != 0);
        let mut page = 1;
        while page < PAGES && (page as u32) < pages {
            let at = (*record).start.wrapping_add((page * PAGE) as u64);
            let failed = bpf_probe_read_user(bytes.wrapping_add(page * PAGE).cast(), PAGE as u32, at as *const _);
            absent |= u32::from(failed != 0) << page;
            page += 1;
        }
        (*record).absent = absent;
    }
    // Wakes the program if it had read everything: it is to say soon how this path is told from others.
    entry.submit(0);
    true
}

const _: () = assert!(size_of::<StackRecord>() == offset_of!(Copy<2>, bytes) && REGS == 21 * 8);
