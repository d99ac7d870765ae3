//! Where a thread's own code waits: its registers and those pages of its stack that are there, unwound as the probes'
//! copies are.

use super::process::Process;
use crate::event::{MmId, StackId};
use crate::procfs::CurrentCall;
use crate::stacks::{Saved, Stacks};
use memtrace_common::{Head, RED_ZONE, STACK_PAGES, StackRecord};

/// `struct pt_regs`, of a thread.
pub type Registers = [u64; 21];

/// Places in `struct pt_regs`.
const IP: usize = 16;
const CS: usize = 17;
const SP: usize = 19;
/// The code segment of 64-bit programs.
const CS_64: u64 = 0x33;
const PAGE: u64 = 4096;
/// The main thread's stack is taken to be no larger than this; as in the probes.
const MAIN_STACK: u64 = 64 << 20;

/// Numbers the stack that a thread waits with. `registers`: all of them, where the probes told; else those are used that
/// the system call's line has.
pub fn read(
    mm: MmId,
    process: &Process,
    tid: u32,
    then_ns: u64,
    call: &CurrentCall,
    registers: Option<&Registers>,
    stacks: &mut Stacks,
) -> Option<StackId> {
    if call.stack == 0 || call.is_32_bit() {
        return None;
    }
    let memory = process.memory()?;
    // It ran since, when they do not agree: then both say something, and what was read last is what its stack belongs to.
    let whole = registers.filter(|registers| registers[SP] == call.stack && registers[IP] == call.instruction);
    let (regs, saved) = match whole {
        Some(registers) => (*registers, Saved::All),
        None => {
            let mut regs = [0; 21];
            (regs[IP], regs[CS], regs[SP]) = (call.instruction, CS_64, call.stack);
            (regs, Saved::StackAndCode)
        }
    };
    let start = call.stack.saturating_sub(RED_ZONE) & !(PAGE - 1);
    let end = end_of_stack(process, tid, call.stack);
    let needed = usize::try_from(end.saturating_sub(start).div_ceil(PAGE)).unwrap_or(usize::MAX);
    let pages = needed.min(2 * STACK_PAGES);
    let (bytes, absent) = memory.read_pages(start, pages);
    let head = Head { ts_ns: then_ns, tgid: process.pid, tid, ..bytemuck::Zeroable::zeroed() };
    let record = StackRecord { head, stack: 0, regs, start, end, pages: pages as u32, absent };
    Some(stacks.waits(mm, &record, saved, &bytes))
}

/// Where the thread's first frame lies below; the largest number where nobody knows.
fn end_of_stack(process: &Process, tid: u32, sp: u64) -> u64 {
    let main = process.start_stack();
    if main.wrapping_sub(sp) < MAIN_STACK {
        return main;
    }
    // The C library's block of a thread lies on top of its stack, and has the head of its list of robust futexes, which
    // the kernel tells.
    let (mut head, mut length) = (0u64, 0usize);
    // SAFETY: get_robust_list writes a pointer and a size to the two places.
    let result = unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut length) };
    if result == 0 && head > sp { head } else { u64::MAX }
}
