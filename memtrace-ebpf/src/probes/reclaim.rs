//! Reclaim brackets: who takes pages away, and for whose sake.

use crate::kernel::{PF_KSWAPD, Task};
use crate::maps::RECLAIMERS;
use crate::probes::rss::Change;
use crate::record;
use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::btf_tracepoint, programs::BtfTracePointContext};
use memtrace_common::{ANON, Cause, Reclaimer, RecordKey, SWAP, place};

static NEW: Reclaimer = unsafe { core::mem::zeroed() };

#[inline(always)]
fn begin(tid: u32, cause: Cause) -> i32 {
    if RECLAIMERS.insert(tid, &NEW, 0).is_err() {
        return 1;
    }
    match RECLAIMERS.get_ptr_mut(tid) {
        Some(reclaimer) => {
            unsafe { (*reclaimer).cause = cause as u64 };
            0
        }
        None => 1,
    }
}

#[inline(always)]
fn current_tid() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// The current task's reclaim, if it is reclaiming. kswapd has no brackets of the kind that matters: it does nothing else.
#[inline(always)]
pub fn of(task: Task, tid: u32) -> Option<*mut Reclaimer> {
    if let Some(reclaimer) = RECLAIMERS.get_ptr_mut(tid) {
        return Some(reclaimer);
    }
    if task.flags() & PF_KSWAPD == 0 || begin(tid, Cause::ReclaimKswapd) != 0 {
        return None;
    }
    RECLAIMERS.get_ptr_mut(tid)
}

/// A change made by a reclaiming task, on whichever mm. `try_to_unmap_one` takes the anonymous page first and adds
/// the swap entry after; no swap entry follows a page that was offered with MADV_FREE.
#[inline(never)]
pub fn book(change: &Change, reclaimer: *mut Reclaimer) -> i32 {
    let Change { epoch, index, tid, member, delta, .. } = *change;
    unsafe {
        let reclaim = (*reclaimer).cause as u8;
        let cause = if member == ANON && delta < 0 { Cause::MadviseFree as u8 } else { reclaim };
        let mut key = RecordKey {
            stack: 0,
            place: 0,
            tid,
            life: 0,
            slot: index as u16,
            nr: -1,
            cause,
            place_kind: place::NONE,
            detail: 0,
        };
        let _ = record::book_shared(epoch, &key, 0, member, delta);
        change.remember(&key, 0);
        if member == ANON && delta < 0 {
            (*reclaimer).last = key;
            (*reclaimer).last_pages = delta;
        } else if member == SWAP && delta > 0 && (*reclaimer).last_pages != 0 {
            if (*reclaimer).last.slot == index as u16 {
                key.cause = reclaim;
                let last = (*reclaimer).last_pages;
                record::shift(epoch, &(*reclaimer).last, &key, 0, (ANON, last, 0));
            }
            (*reclaimer).last_pages = 0;
        }
    }
    0
}

macro_rules! bracket {
    ($begin:ident, $begin_name:literal, $end:ident, $end_name:literal, $cause:expr) => {
        #[btf_tracepoint(function = $begin_name)]
        pub fn $begin(_ctx: BtfTracePointContext) -> i32 {
            begin(current_tid(), $cause)
        }

        #[btf_tracepoint(function = $end_name)]
        pub fn $end(_ctx: BtfTracePointContext) -> i32 {
            let _ = RECLAIMERS.remove(&current_tid());
            0
        }
    };
}

bracket!(
    mm_vmscan_direct_reclaim_begin,
    "mm_vmscan_direct_reclaim_begin",
    mm_vmscan_direct_reclaim_end,
    "mm_vmscan_direct_reclaim_end",
    Cause::ReclaimDirect
);
bracket!(
    mm_vmscan_memcg_reclaim_begin,
    "mm_vmscan_memcg_reclaim_begin",
    mm_vmscan_memcg_reclaim_end,
    "mm_vmscan_memcg_reclaim_end",
    Cause::ReclaimMemcg
);
bracket!(
    mm_vmscan_node_reclaim_begin,
    "mm_vmscan_node_reclaim_begin",
    mm_vmscan_node_reclaim_end,
    "mm_vmscan_node_reclaim_end",
    Cause::ReclaimDirect
);
