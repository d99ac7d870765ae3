//! Why a counter moved: from the innermost thing that the acting task is doing.
//!
//! A page fault in progress is known from its start and from `min_flt + maj_flt` not having moved since. Reclaim is
//! known from its brackets. Otherwise the user registers on the kernel stack still hold the system call's number and
//! arguments, for the target's own calls as for somebody else's that act on the target.

use crate::kernel::{PF_IO_WORKER, PF_KSWAPD, PF_KTHREAD, Regs, Task, layout, peek};
use crate::vma::Place;
use aya_ebpf::helpers::bpf_probe_read_user;
use memtrace_common::nr::{self, madvise, mmap, mremap};
use memtrace_common::{ANON, Cause, SWAP, Slot, Thread, place};

/// A change's cause and place outside page faults and reclaim.
pub struct Why {
    pub cause: Cause,
    pub place: Place,
    pub nr: i32,
    pub detail: u16,
    pub ip: u64,
}

/// The cause of a change that a kernel thread made.
#[inline(always)]
pub fn of_kernel_thread(task: Task, flags: u32) -> Cause {
    if flags & PF_KSWAPD != 0 {
        return Cause::ReclaimKswapd;
    }
    match task.comm_head() {
        KHUGEPAGED => Cause::Khugepaged,
        OOM_REAPER => Cause::OomReaper,
        head if head as u32 == KSMD => Cause::Ksm,
        _ => Cause::Other,
    }
}

const KHUGEPAGED: u64 = u64::from_le_bytes(*b"khugepag");
const OOM_REAPER: u64 = u64::from_le_bytes(*b"oom_reap");
const KSMD: u32 = u32::from_le_bytes(*b"ksmd");

/// Kernel thread, as far as cause is concerned.
#[inline(always)]
pub fn is_kernel_thread(flags: u32) -> bool {
    flags & PF_KTHREAD != 0
}

/// The cause of a change that the task made in a system call, on its own mm (`mine`) or another's. `own` is the thread's
/// state, where it has one.
#[inline(always)]
pub fn of_syscall(task: Task, mine: bool, own: Option<*mut Thread>, slot: *mut Slot, member: usize, delta: i64) -> Why {
    let regs = task.regs();
    let nr = if task.flags() & PF_IO_WORKER != 0 { -1 } else { regs.syscall() };
    let mut why = Why { cause: Cause::Other, place: Place::NOWHERE, nr, detail: 0, ip: regs.ip() };
    let grew = delta > 0;
    match nr as u32 {
        nr::MUNMAP => {
            why.cause = Cause::Munmap;
            why.place = Place::range(regs.arg0(), page_up(regs.arg1()));
        }
        nr::MADVISE | nr::PROCESS_MADVISE => {
            let advice = if nr as u32 == nr::MADVISE { regs.arg2() } else { regs.arg3() };
            why.detail = advice as u16;
            why.cause = of_advice(advice, member, grew);
            why.place = if nr as u32 == nr::PROCESS_MADVISE {
                only_range(regs.arg1(), regs.arg2())
            } else if mine {
                Place::range(regs.arg0(), page_up(regs.arg1()))
            } else {
                Place::NOWHERE
            };
        }
        nr::BRK => {
            why.cause = if grew { Cause::Populate } else { Cause::Brk };
            let known = unsafe { (*slot).brk };
            let new = page_up(regs.arg0());
            why.place = if new < known {
                Place::range(new, page_up(known) - new)
            } else {
                Place::range(page_up(known), new - page_up(known))
            };
        }
        nr::MMAP => of_mmap(&mut why, regs, own, grew),
        nr::MREMAP => {
            why.cause = if grew { Cause::Populate } else { Cause::Mremap };
            let (old_len, new_len) = (page_up(regs.arg1()), page_up(regs.arg2()));
            why.place = if grew {
                Place::range(regs.arg0(), old_len)
            } else if new_len < old_len {
                Place::range(regs.arg0().wrapping_add(new_len), old_len - new_len)
            } else if regs.arg3() & mremap::FIXED != 0 {
                Place::range(regs.arg4(), new_len)
            } else {
                Place::range(regs.arg0(), old_len)
            };
        }
        nr::MLOCK | nr::MLOCK2 | nr::MPROTECT | nr::PKEY_MPROTECT => {
            why.cause = Cause::Populate;
            let start = regs.arg0() & !0xfff;
            why.place = Place { place: start, end: page_up(regs.arg0().wrapping_add(regs.arg1())), kind: place::RANGE };
        }
        nr::MLOCKALL => why.cause = Cause::Populate,
        nr::SHMDT => {
            why.cause = Cause::Munmap;
            why.place = Place::address(regs.arg0());
        }
        nr::SHMAT | nr::REMAP_FILE_PAGES => {
            why.cause = if grew { Cause::Populate } else { Cause::Munmap };
            why.place = Place::address(regs.arg0());
        }
        nr::EXECVE | nr::EXECVEAT => why.cause = Cause::Exec,
        nr::FTRUNCATE | nr::FALLOCATE if !grew => {
            why.cause = Cause::Truncate;
            why.place = file_of(task, regs.arg0());
        }
        nr::TRUNCATE | nr::OPEN | nr::OPENAT | nr::OPENAT2 | nr::CREAT if !grew => why.cause = Cause::Truncate,
        nr::SWAPOFF => why.cause = Cause::Swapoff,
        nr::PROCESS_MRELEASE => why.cause = Cause::OomReaper,
        nr::IOCTL if grew && (regs.arg1() >> 8) as u8 == UFFD_TYPE => {
            why.cause = Cause::Uffd;
            // uffdio_copy, _zeropage and _continue all begin with the destination's address.
            why.place = match unsafe { bpf_probe_read_user(regs.arg2() as *const u64) } {
                Ok(start) => Place::address(start),
                Err(_) => Place::NOWHERE,
            };
        }
        _ if !mine => {
            why.cause = Cause::Remote;
            why.place = match nr as u32 {
                nr::PROCESS_VM_WRITEV => only_range(regs.arg3(), regs.arg4()),
                nr::PTRACE => Place::address(regs.arg2()),
                nr::PWRITE64 | nr::PREAD64 => Place::range(regs.arg3(), regs.arg2()),
                _ => Place::NOWHERE,
            };
        }
        // get_user_pages: I/O into memory that nobody has touched yet.
        nr::READ | nr::PREAD64 if grew => {
            why.cause = Cause::Populate;
            why.place = Place::range(regs.arg1() & !0xfff, page_up(regs.arg2()));
        }
        _ if grew && nr >= 0 => why.cause = Cause::Populate,
        _ => {}
    }
    why
}

/// `ioctl` type byte of userfaultfd.
const UFFD_TYPE: u8 = 0xaa;

#[inline(always)]
fn of_mmap(why: &mut Why, regs: Regs, own: Option<*mut Thread>, grew: bool) {
    let fixed = regs.arg3() & (mmap::FIXED | mmap::FIXED_NOREPLACE) != 0;
    let mut populating = grew;
    let mut call = 0;
    if let Some(th) = own {
        unsafe {
            call = (*th).calls;
            if grew {
                (*th).populating = call;
            }
            populating = (*th).populating == call;
        }
    }
    why.cause = if populating { Cause::Populate } else { Cause::MmapFixed };
    why.place = if fixed {
        Place::range(regs.arg0(), page_up(regs.arg1()))
    } else {
        Place { place: call, end: page_up(regs.arg1()), kind: place::CALL }
    };
}

#[inline(always)]
fn of_advice(advice: u64, member: usize, grew: bool) -> Cause {
    match advice {
        madvise::DONTNEED | madvise::DONTNEED_LOCKED | madvise::GUARD_INSTALL => Cause::MadviseDontneed,
        madvise::FREE => Cause::MadviseFree,
        madvise::REMOVE => Cause::MadviseRemove,
        madvise::PAGEOUT => Cause::MadvisePageout,
        madvise::POPULATE_READ | madvise::POPULATE_WRITE => Cause::Populate,
        madvise::COLLAPSE => Cause::Khugepaged,
        _ if grew && (member == ANON || member == SWAP) => Cause::Populate,
        _ => Cause::Other,
    }
}

/// The range of a vector of one `iovec`; a longer vector's ranges are several places.
#[inline(always)]
fn only_range(vector: u64, count: u64) -> Place {
    if count != 1 {
        return Place::NOWHERE;
    }
    match unsafe { bpf_probe_read_user(vector as *const [u64; 2]) } {
        Ok([start, len]) => Place::range(start & !0xfff, page_up(len.wrapping_add(start & 0xfff))),
        Err(_) => Place::NOWHERE,
    }
}

/// Inode and device of one of the task's open files.
#[inline(always)]
fn file_of(task: Task, fd: u64) -> Place {
    unsafe {
        let files: u64 = peek((task.0 as u64).wrapping_add(layout!(task_files) as u64));
        let table: u64 = peek(files.wrapping_add(layout!(files_fdt) as u64));
        let max: u32 = peek(table.wrapping_add(layout!(fdt_max_fds) as u64));
        if fd >= u64::from(max) {
            return Place::NOWHERE;
        }
        let array: u64 = peek(table.wrapping_add(layout!(fdt_fd) as u64));
        let file: u64 = peek(array.wrapping_add(fd * 8));
        let inode: u64 = peek(file.wrapping_add(layout!(file_inode) as u64));
        let number: u64 = peek(inode.wrapping_add(layout!(inode_ino) as u64));
        let superblock: u64 = peek(inode.wrapping_add(layout!(inode_sb) as u64));
        let device: u32 = peek(superblock.wrapping_add(layout!(sb_dev) as u64));
        if number == 0 {
            return Place::NOWHERE;
        }
        Place { place: number, end: u64::from(device), kind: place::INODE }
    }
}

#[inline(always)]
fn page_up(bytes: u64) -> u64 {
    bytes.wrapping_add(0xfff) & !0xfff
}
