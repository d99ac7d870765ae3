//! Task iterators. One attaches to a process that may be asleep, and to its children: it finds the mm and opens the books. The other books,
//! before the last interval ends, what only a thread's next fault would have booked.

use crate::kernel::{Task, layout, load};
use crate::maps::{CONTROL, CPU_OFFSETS, PROCESSES, THREADS};
use crate::probes::fault::book_unchanged;
use crate::slot::{self, Opening};
use memtrace_common::why;

/// The iterator's context: `{ meta, task }`, both pointers.
#[repr(C)]
pub struct IterTask {
    pub meta: *const u8,
    pub task: *const u8,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub unsafe extern "C" fn attach(ctx: *mut IterTask) -> i32 {
    let task = unsafe { (*ctx).task };
    if task.is_null() {
        return 0;
    }
    if CPU_OFFSETS.get(0).is_some_and(|offset| *offset == 0) && slot::learn_cpu_offsets() == 0 {
        return 0;
    }
    let Some(control) = CONTROL.get(0) else { return 0 };
    let task = Task(task);
    let tgid = task.tgid();
    if tgid != control.attach_tgid && !is_followed(task) {
        return 0;
    }
    let mm: u64 = unsafe { load(task.0, layout!(task_mm)) };
    if mm == 0 {
        return 0;
    }
    if PROCESSES.get_ptr(&tgid).is_some() {
        return 0;
    }
    let _ = PROCESSES.insert(tgid, 1, 0);
    let opening = Opening { tid: task.pid(), tgid, why: why::ATTACH, from: 0, comm: task.comm() };
    slot::open(mm, &opening);
    // It may have left this mm for good just before we opened: nobody would ever close it.
    if task.mm() != mm {
        slot::close(mm);
    }
    0
}

/// A child of a process that is traced, made before that was. The iterator goes by number, so parents mostly come first; it is
/// run again until it finds no more.
#[inline(always)]
fn is_followed(task: Task) -> bool {
    layout!(follow) != 0 && PROCESSES.get_ptr(&task.parent().tgid()).is_some()
}

/// Books every thread's last fault if that is over and changed no counter.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub unsafe extern "C" fn flush(ctx: *mut IterTask) -> i32 {
    let task = unsafe { (*ctx).task };
    if task.is_null() {
        return 0;
    }
    let task = Task(task);
    if PROCESSES.get_ptr(&task.pid()).is_some() {
        slot::sweep(task.mm());
    }
    let Some(th) = THREADS.get_ptr_mut(task.pid()) else { return 0 };
    if unsafe { (*th).pending != 0 && task.fault_count() != (*th).fault_count } {
        book_unchanged(task, th, FLUSHED);
    }
    0
}

/// `RecordKey::detail` of what [`flush`] books.
const FLUSHED: u16 = 1;
