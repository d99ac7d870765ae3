//! In page faults, at the lock on the address space, in reclaim. Each act is some touches, timed by who touches.

use super::{Forked, Ledger, Measure, Stall, direct, goes_first, no_object, nothing};
use crate::Scene;
use crate::region::{HUGE, Region, evict, make_file};
use crate::stage::Stage;
use memtrace_tests::pages::page_size;
use serde_json::json;
use std::io::{Seek, Write};

pub const SCENES: &[(&str, Scene)] = &[
    ("stall.fault.minor", minor),
    ("stall.fault.file_read", file_read),
    ("stall.fault.swapin", swapin),
    ("stall.fault.cow", cow),
    ("stall.fault.thp", thp),
    ("stall.mmap_lock", mmap_lock),
    ("stall.reclaim.memcg", reclaim_memcg),
    ("stall.reclaim.thrash", thrash),
    ("stall.reclaim.direct", reclaim_direct),
];

const fn memory(class: &'static [&'static str]) -> Stall {
    Stall { class, memory: true, measure: Measure::ActScheduled, stand: None }
}

/// To write an act down takes a tenth of what a small fault does, and is none: so many touches are one act.
const TOUCHES: usize = 64;

/// Touches every `step`th page.
fn touch(ledger: &Ledger, region: Region, step: usize, write: bool) {
    let (distance, mut address, mut left) = (step * page_size(), region.pointer(), region.pages().div_ceil(step));
    while left > 0 {
        let some = left.min(TOUCHES);
        left -= some;
        ledger.within(|| {
            let mut touches = some;
            while touches > 0 {
                // SAFETY: inside the region, which is readable, and writable where it is written.
                unsafe {
                    if write {
                        address.write_volatile(7);
                    } else {
                        address.read_volatile();
                    }
                }
                address = address.wrapping_add(distance);
                touches -= 1;
            }
        });
    }
}

/// A program that is given fresh pages, again and again.
fn minor(stage: &mut Stage) {
    let act = |ledger: &Ledger| {
        goes_first();
        let region = Region::anon(8192);
        region.advise(libc::MADV_NOHUGEPAGE);
        ledger.await_go();
        loop {
            touch(ledger, region, 1, true);
            region.advise(libc::MADV_DONTNEED);
        }
    };
    direct(stage, &memory(&["fault.minor"]), act, nothing, no_object);
}

/// Cold pages of a mapped file, here and there, from a device that somebody has made slow.
fn file_read(stage: &mut Stage) {
    const PAGES: usize = 16384;
    let file = make_file(&stage.dir, PAGES);
    let act = |ledger: &Ledger| {
        goes_first();
        let region = Region::file(&file, PAGES, libc::MAP_SHARED);
        region.advise(libc::MADV_RANDOM);
        evict(&file, PAGES);
        ledger.await_go();
        loop {
            touch(ledger, region, 5, false);
            region.advise(libc::MADV_DONTNEED);
            evict(&file, PAGES);
        }
    };
    let path = stage.dir.join("pages").display().to_string();
    direct(stage, &memory(&["fault.file_read"]), act, nothing, |_| json!({"kind": "file_page", "path": path}));
}

/// Its memory is in swap, on a device that somebody has made slow, and nowhere else: `ready` is said once it is written,
/// in a cgroup that somebody then empties.
fn swapin(stage: &mut Stage) {
    let cgroup = stage.cgroup.clone().expect("this scene wants --cgroup");
    let act = |ledger: &Ledger| {
        goes_first();
        std::fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).expect("joins the cgroup");
        let region = Region::anon(32_768);
        region.advise(libc::MADV_NOHUGEPAGE);
        region.write();
        ledger.await_go();
        // Sixteen pages on: swap reads eight ahead.
        touch(ledger, region, 16, true);
    };
    direct(stage, &memory(&["fault.swapin"]), act, nothing, no_object);
}

/// It writes what it shares with a child, and has a new child whenever nothing is shared any more.
fn cow(stage: &mut Stage) {
    let act = |ledger: &Ledger| {
        goes_first();
        let region = Region::anon(16384);
        region.advise(libc::MADV_NOHUGEPAGE);
        region.write();
        ledger.await_go();
        loop {
            let _child = Forked::new(|| {
                // SAFETY: no memory is involved.
                unsafe { libc::pause() };
            });
            touch(ledger, region, 1, true);
        }
    };
    direct(stage, &memory(&["fault.cow"]), act, nothing, no_object);
}

/// Huge pages, cleared at each first touch.
fn thp(stage: &mut Stage) {
    let act = |ledger: &Ledger| {
        goes_first();
        let region = Region::anon_aligned(64 * HUGE / page_size(), HUGE);
        region.advise(libc::MADV_HUGEPAGE);
        ledger.await_go();
        loop {
            touch(ledger, region, HUGE / page_size(), true);
            region.advise(libc::MADV_DONTNEED);
        }
    };
    direct(stage, &memory(&["fault.thp"]), act, nothing, no_object);
}

/// One thread changes the protection of much memory, which it locks the address space for; another one faults in it.
fn mmap_lock(stage: &mut Stage) {
    let act = |ledger: &Ledger| {
        goes_first();
        let region = Region::anon(65_536);
        region.advise(libc::MADV_NOHUGEPAGE);
        region.write();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                ledger.set_other(crate::stage::gettid());
                ledger.released();
                loop {
                    region.protect(libc::PROT_READ);
                    region.protect(crate::region::READ_WRITE);
                }
            });
            while ledger.other() == 0 {
                std::thread::yield_now();
            }
            ledger.await_go();
            let page = region.part(region.pages() / 2, region.pages() / 2 + 1);
            loop {
                // Giving the page back needs the lock as well as faulting it in.
                ledger.within(|| {
                    page.advise(libc::MADV_DONTNEED);
                    page.read();
                });
            }
        });
    };
    let stall = Stall { measure: Measure::ActWaiting, ..memory(&["mmap_lock"]) };
    direct(stage, &stall, act, nothing, |ledger| json!({"kind": "mmap_lock", "holder": ledger.other()}));
}

/// It writes a file, and its cgroup, which somebody has limited, has room for a part of that.
fn reclaim_memcg(stage: &mut Stage) {
    let mut file = make_file(&stage.dir, 1);
    let act = |ledger: &Ledger| {
        goes_first();
        let block = vec![3; 256 << 10];
        ledger.await_go();
        loop {
            for _ in 0..1024 {
                let _ = ledger.within(|| file.write_all(&block));
            }
            let _ = file.rewind();
        }
    };
    let stall = Stall { measure: Measure::ActWaiting, ..memory(&["reclaim.memcg"]) };
    direct(stage, &stall, act, nothing, no_object);
}

/// It uses more than its cgroup, which somebody has limited, has room for: what comes in from swap drives out what it
/// needs next.
fn thrash(stage: &mut Stage) {
    let act = |ledger: &Ledger| {
        goes_first();
        let region = Region::anon(16384);
        region.advise(libc::MADV_NOHUGEPAGE);
        ledger.await_go();
        loop {
            touch(ledger, region, 1, true);
        }
    };
    direct(stage, &memory(&["fault.swapin", "reclaim.memcg"]), act, nothing, no_object);
}

/// It has the machine's own reclaim run in its thread.
fn reclaim_direct(stage: &mut Stage) {
    let act = |ledger: &Ledger| {
        goes_first();
        ledger.await_go();
        loop {
            // A node that has nothing to give says so: it has looked for it all the same.
            let _ = ledger.within(|| std::fs::write("/sys/devices/system/node/node0/reclaim", "4M"));
        }
    };
    direct(stage, &memory(&["reclaim.direct"]), act, nothing, no_object);
}
