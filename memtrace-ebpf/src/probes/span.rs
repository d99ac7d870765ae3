//! Functions of the target whose entry or return is an edge of a span.

use crate::kernel::Task;
use crate::maps::{POINTS, SPANS, epoch, maybe_traced};
use crate::probes::fault::{self, book_unchanged};
use crate::span::{self, Edge, Text};
use aya_ebpf::{
    EbpfContext,
    bindings::pt_regs,
    helpers::{bpf_get_attach_cookie, bpf_probe_read_user},
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use core::ptr::read_volatile;
use memtrace_common::{SPAN_DEFINITIONS, SPAN_NO_ARGUMENT, SpanPoint, SpanState, edge};

#[uprobe]
pub fn span_entry(ctx: ProbeContext) -> u32 {
    pass(&ctx)
}

#[uretprobe]
pub fn span_return(ctx: RetProbeContext) -> u32 {
    pass(&ctx)
}

#[inline(always)]
fn pass(ctx: &impl EbpfContext) -> u32 {
    let task = Task::current();
    let mm = task.mm();
    if !maybe_traced(mm) || span::is_over(epoch()) {
        return 0;
    }
    let Some(point) = POINTS.get_ptr(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } as u32) else { return 0 };
    // Makes the thread known if this is the first that is seen of it.
    let Some(th) = fault::of(task, mm) else { return 0 };
    // A fault that moved no counter waits for its thread's next one to be booked; it was before this edge.
    if unsafe { (*th).pending != 0 && task.fault_count() != (*th).fault_count } {
        book_unchanged(task, th, 0);
    }
    let tid = task.pid();
    let Some(state) = SPANS.get_ptr_mut(tid) else { return 0 };
    let regs: *const pt_regs = ctx.as_ptr().cast_const().cast();
    unsafe {
        // All of them, and then one: a load from the registers wants a constant offset.
        let arguments = [
            read_volatile(&raw const (*regs).rdi),
            read_volatile(&raw const (*regs).rsi),
            read_volatile(&raw const (*regs).rdx),
            read_volatile(&raw const (*regs).rcx),
            read_volatile(&raw const (*regs).r8),
            read_volatile(&raw const (*regs).r9),
        ];
        if (*point).nests != 0 && is_within(state, point, read_volatile(&raw const (*regs).rsp)) {
            return 0;
        }
        let mut told = Edge { definition: (*point).definition, edge: (*point).edge, argument: 0 };
        let mut bit = 1;
        if (*point).argument != SPAN_NO_ARGUMENT {
            // A number of 32 bits or less: what stands above it in the register means nothing.
            told.argument = nth(&arguments, (*point).argument) & 0xffff_ffff;
            bit = if told.argument < 64 { 1 << (told.argument & 63) } else { 0 };
        }
        if (*point).ends & bit != 0 {
            told.edge = edge::END;
        }
        let mut text = span::NO_TEXT;
        if told.edge == edge::BEGIN && (*point).texts & bit != 0 {
            find(&mut text, point, &arguments);
        }
        span::pass(state, tid, &told, &text);
    }
    0
}

/// Whether this entry or return is of a call within the outermost one. Stacks grow downwards, so frames tell: even
/// when a call was left by a jump, which no return probe sees, the next one is found to be an outermost one again, if its
/// frame does not lie below. One that always lies below (the jump left a shallow call, and what is called from then on is
/// called from deeper frames) counts as an inner one until the thread calls the function from as high again.
#[inline(always)]
unsafe fn is_within(state: *mut SpanState, point: *const SpanPoint, sp: u64) -> bool {
    unsafe {
        let index = (*point).definition as usize & (SPAN_DEFINITIONS - 1);
        let frame = &raw mut (*state).frames[index];
        let outermost = *frame;
        if (*point).edge == edge::BEGIN {
            if outermost != 0 && sp < outermost {
                return true;
            }
            *frame = sp;
        } else {
            // The return address has been popped.
            if outermost != 0 && sp <= outermost {
                return true;
            }
            *frame = 0;
        }
    }
    false
}

#[inline(always)]
fn nth(arguments: &[u64; 6], n: u8) -> u64 {
    let mut i = 0;
    while i < 6 {
        if i == n as usize {
            return unsafe { read_volatile(&raw const arguments[i]) };
        }
        i += 1;
    }
    0
}

#[inline(always)]
unsafe fn find(text: &mut Text, point: *const SpanPoint, arguments: &[u64; 6]) {
    unsafe {
        if (*point).text == SPAN_NO_ARGUMENT {
            return;
        }
        let address = nth(arguments, (*point).text);
        if (*point).indirect != 0 {
            let Ok([pointer, length]) = bpf_probe_read_user(address as *const [u64; 2]) else { return };
            text.address = pointer;
            text.length = length as u32;
            return;
        }
        text.address = address;
        if (*point).length != SPAN_NO_ARGUMENT {
            text.length = nth(arguments, (*point).length) as u32;
        }
    }
}
