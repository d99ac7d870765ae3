//! Mapping calls, when they return. The arguments are still in the user registers on the kernel stack.

use crate::kernel::{Task, add_u32};
use crate::maps::{SLOTS, emit_call, maybe_traced};
use crate::probes::fault;
use crate::slot::{self, head};
use crate::stack;
use aya_ebpf::{EbpfContext, helpers::bpf_probe_read_kernel, macros::tracepoint, programs::TracePointContext};
use memtrace_common::nr::{self, PR_SET_VMA, mmap};
use memtrace_common::{SyscallRecord, kind};

/// `sys_exit_*`: `field:int __syscall_nr offset:8; field:long ret offset:16`.
const RET_OFFSET: usize = 16;

#[tracepoint]
pub fn mapping_call_exit(ctx: TracePointContext) -> u32 {
    let task = Task::current();
    let mm = task.mm();
    if !maybe_traced(mm) {
        return 0;
    }
    let ret = unsafe { bpf_probe_read_kernel(ctx.as_ptr().cast::<u8>().wrapping_add(RET_OFFSET).cast::<i64>()) }
        .unwrap_or(-1);
    let regs = task.regs();
    let nr = regs.syscall();
    let Some(th) = fault::of(task, mm) else { return 0 };
    let call = unsafe {
        let call = (*th).calls;
        (*th).calls = call + 1;
        call
    };
    if (-4095..0).contains(&ret) || (nr as u32 == nr::PRCTL && regs.arg0() != PR_SET_VMA) {
        return 0;
    }
    let index = unsafe { (*th).slot };
    let Some(slot) = SLOTS.get_ptr_mut(index) else { return 0 };
    unsafe {
        match nr as u32 {
            nr::MUNMAP | nr::MREMAP | nr::SHMDT | nr::REMAP_FILE_PAGES => add_u32(slot::life(slot, regs.arg0()), 1),
            nr::MMAP if regs.arg3() & mmap::FIXED != 0 => add_u32(slot::life(slot, regs.arg0()), 1),
            nr::BRK => (*slot).brk = ret as u64,
            _ => {}
        }
        // Several threads of an mm map at once: an increment lost would leave a stale VMA in a cache.
        add_u32(&raw mut (*slot).vma_seq, 1);
    }
    emit_call(SyscallRecord {
        head: head(kind::SYSCALL, index, task.pid(), task.tgid()),
        nr: i64::from(nr),
        args: [regs.arg0(), regs.arg1(), regs.arg2(), regs.arg3(), regs.arg4(), regs.arg5()],
        ret,
        ip: regs.ip(),
        call,
        stack: stack::path(task, regs, index),
    });
    0
}
