//! Processes that are not what they look like: without a main thread, with page-table entries that are no pages, with
//! huge pages under an ordinary name.

use crate::Scene;
use crate::region::{HUGE, READ_WRITE, Region};
use crate::sharing::Child;
use crate::stage::{Check, Stage, await_byte, gettid, say};
use crate::uffd;
use memtrace_tests::pages::page_size;
use serde_json::json;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

pub const SCENES: &[(&str, Scene)] =
    &[("odd.leaderless", leaderless), ("odd.markers", markers), ("odd.hugetlb", hugetlb)];

/// Enough for smaps to be over a budget of one millisecond.
const BALLAST_PAGES: usize = 100_000;

fn ballast() -> Region {
    let ballast = Region::anon(BALLAST_PAGES);
    ballast.advise(libc::MADV_NOHUGEPAGE);
    ballast.write();
    ballast
}

/// The main thread exits, another one holds memory: /proc/PID shows a zombie.
fn leaderless(stage: &mut Stage) {
    const PAGES: usize = 300;
    // SAFETY: a NUL-terminated name, which the kernel copies.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NAME, c"leaderless".as_ptr()) }, 0);
    let region = Region::anon(PAGES);
    let main = gettid();
    std::thread::spawn(move || {
        // SAFETY: as above.
        unsafe { libc::prctl(libc::PR_SET_NAME, c"heir".as_ptr()) };
        let stat = format!("/proc/self/task/{main}/stat");
        while !std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z ")) {
            std::thread::yield_now();
        }
        region.write();
        let mapping = json!({"start": format!("{:#x}", region.start()), "rss": PAGES * page_size()});
        say(&json!({"done": true, "more": {"tid": gettid(), "mapping": mapping}}));
        await_byte();
        // SAFETY: nothing of this process is to be run down.
        unsafe { libc::_exit(0) };
    });
    stage.begin();
    // SAFETY: ends this thread and nothing else; its stack, which the stage is on, stays mapped.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

/// Swap, and what looks like it: pages that userfaultfd protects and poisons before there are any, and guards.
fn markers(stage: &mut Stage) {
    const SWAPPED: usize = 20;
    stage.settle();
    let (swapped, marked, guarded) = (Region::anon(40), Region::anon(60), Region::anon(30));
    let _ballast = ballast();
    stage.begin();
    let uffd = uffd::open(uffd::EMPTY_PAGES);
    uffd::register(uffd.as_raw_fd(), &marked, uffd::MISSING | uffd::PROTECTED);
    for region in [&swapped, &guarded] {
        region.part(0, SWAPPED).write();
        region.part(0, SWAPPED).advise(libc::MADV_PAGEOUT);
    }
    let ask = |request: u64, part: Region, words: &[u64]| {
        let words = [&[part.start() as u64, part.bytes() as u64], words].concat();
        uffd::ask(uffd.as_raw_fd(), request, &mut words.clone());
    };
    ask(uffd::request::WRITEPROTECT, marked.part(0, 25), &[1]);
    ask(uffd::request::POISON, marked.part(25, 40), &[0, 0]);
    const MADV_GUARD_INSTALL: i32 = 102;
    guarded.part(SWAPPED, 30).advise(MADV_GUARD_INSTALL);
    let told = |region: &Region, swapped: usize| json!({"start": format!("{:#x}", region.start()), "rss": 0, "swap": swapped * page_size()});
    let mappings = json!([told(&swapped, SWAPPED), told(&marked, 0), told(&guarded, SWAPPED)]);
    stage.finish_with(Check::Nothing, &[], json!({"mappings": mappings}));
}

/// A memfd of huge pages, which a child maps too.
fn hugetlb(stage: &mut Stage) {
    // SAFETY: a NUL-terminated name; the descriptor is new and ours.
    let file = unsafe {
        let fd = libc::memfd_create(c"odd".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_HUGETLB);
        assert!(fd >= 0, "memfd_create: {}", io::Error::last_os_error());
        File::from(OwnedFd::from_raw_fd(fd))
    };
    file.set_len(2 * HUGE as u64).expect("room for it");
    stage.settle();
    let region = Region::hole(2 * HUGE / page_size(), HUGE).place(READ_WRITE, libc::MAP_SHARED, file.as_raw_fd());
    stage.begin();
    region.write();
    let _ballast = ballast();
    let child = Child::fork(|| {
        region.write();
        ballast();
    });
    let more = json!({
        "pids": [std::process::id(), child.pid as u32], "start": format!("{:#x}", region.start()), "hugetlb": 2 * HUGE,
    });
    stage.finish_with(Check::Nothing, &[], more);
}
