//! Changes that somebody else makes: khugepaged, userfaultfd's server, another process, KSM, swapoff.

use crate::Scene;
use crate::helper::{Helper, Order};
use crate::reclaim::page_out;
use crate::region::{HUGE, READ_WRITE, Region, make_file};
use crate::stage::{Check, Expect, Stage, gettid};
use crate::uffd;
use memtrace_tests::pages::{monotonic_ns, page_size};
use std::os::fd::AsRawFd;
use std::sync::mpsc::sync_channel;

pub const SCENES: &[(&str, Scene)] = &[
    ("khugepaged", khugepaged),
    ("khugepaged.madvise", collapse),
    ("uffd", uffd),
    ("remote.vm_writev", remote_vm_write),
    ("remote.ptrace", remote_ptrace),
    ("remote.proc_mem", remote_proc_mem),
    ("swapoff", swapoff),
    ("ksm", ksm),
    ("oom_reaper", held),
];

/// How long the kernel's threads may take.
const PATIENCE_NS: u64 = 60_000_000_000;

/// Looks every millisecond whether the kernel has done it: these threads tell nobody when they are done.
fn until(stage: &mut Stage, what: &str, mut done: impl FnMut(&Stage) -> bool) {
    let deadline = monotonic_ns() + PATIENCE_NS;
    while !done(stage) {
        if monotonic_ns() > deadline {
            return stage.fail(what);
        }
        let pause = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        // SAFETY: reads our struct.
        unsafe { libc::nanosleep(&raw const pause, std::ptr::null_mut()) };
    }
}

/// Every second page is there; the collapse fills in the others.
fn half_filled(huge_pages: usize) -> Region {
    let region = Region::anon_aligned(huge_pages * HUGE / page_size(), HUGE);
    region.advise(libc::MADV_NOHUGEPAGE);
    region.write_each(2);
    region
}

fn khugepaged(stage: &mut Stage) {
    stage.settle();
    let region = half_filled(2);
    let missing = region.pages() / 2;
    stage.begin();
    region.advise(libc::MADV_HUGEPAGE);
    until(stage, "khugepaged did not come", |stage| stage.moved().anon >= missing as i64);
    stage.finish(Check::All, &[Expect::new("khugepaged").anon(missing).placeless()]);
}

fn collapse(stage: &mut Stage) {
    stage.settle();
    let region = half_filled(2);
    let missing = region.pages() / 2;
    stage.begin();
    // From this advice on khugepaged itself may be faster than the call below: it is the same cause.
    region.advise(libc::MADV_HUGEPAGE);
    region.advise(libc::MADV_COLLAPSE);
    stage.finish(Check::All, &[Expect::new("khugepaged").anon(missing).placeless()]);
}

/// A thread answers the main thread's faults: half of the pages with copies, half with the zero page, which is
/// not counted.
fn uffd(stage: &mut Stage) {
    const PAGES: usize = 128;
    let (sender, receiver) = sync_channel::<Region>(1);
    let (tids, tid) = sync_channel(1);
    let uffd = uffd::open(0);
    let raw = uffd.as_raw_fd();
    let server = std::thread::spawn(move || {
        let _ = tids.send(gettid());
        let region = receiver.recv().expect("the main thread sends it");
        let source = vec![5_u8; page_size()];
        for _ in 0..PAGES {
            let mut message = [0_u64; 4];
            // SAFETY: a uffd_msg is 32 bytes; the third word of a page-fault message is the address.
            let count = unsafe { libc::read(raw, message.as_mut_ptr().cast(), 32) };
            assert_eq!(count, 32, "userfaultfd: {}", std::io::Error::last_os_error());
            let address = message[2] & !(page_size() as u64 - 1);
            let half = region.start() as u64 + region.bytes() as u64 / 2;
            if address < half {
                uffd::ask(raw, uffd::request::COPY, &mut [address, source.as_ptr() as u64, page_size() as u64, 0, 0]);
            } else {
                uffd::ask(raw, uffd::request::ZEROPAGE, &mut [address, page_size() as u64, 0, 0]);
            }
        }
        // Its end gives its stack back: not before the truth is told.
        let _ = receiver.recv();
    });
    let tid = tid.recv().expect("the thread starts");
    stage.settle();
    let region = Region::anon(PAGES);
    uffd::register(raw, &region, uffd::MISSING);
    sender.send(region).expect("the server waits");
    stage.begin();
    region.read();
    stage.finish(
        Check::Counters,
        &[
            Expect::new("uffd").anon(PAGES / 2).at(&region).by(tid),
            Expect::new("fault.none").faults(PAGES).at(&region).by(gettid()),
        ],
    );
    drop(sender);
    server.join().expect("the server ends");
}

fn remote_vm_write(stage: &mut Stage) {
    let mut helper = Helper::start(None);
    stage.settle();
    let region = Region::anon(256);
    stage.begin();
    helper.order(Order::VmWrite, me(&region));
    stage.finish(Check::Counters, &[Expect::new("remote").anon(256).at(&region).by(helper.pid())]);
}

/// As a debugger sets breakpoints: private copies of read-only file pages.
fn remote_ptrace(stage: &mut Stage) {
    let file = make_file(&stage.dir, 64);
    let mut helper = Helper::start(None);
    stage.settle();
    let region = Region::hole(64, 64 << 10).place(libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd());
    region.read();
    stage.begin();
    helper.order(Order::Poke, me(&region));
    let entry = Expect::new("remote").file(64).negative().anon(64).at(&region).by(helper.pid());
    stage.finish(Check::Counters, &[entry]);
}

fn remote_proc_mem(stage: &mut Stage) {
    let mut helper = Helper::start(None);
    stage.settle();
    let region = Region::hole(256, page_size()).place(READ_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1);
    stage.begin();
    helper.order(Order::ProcMem, me(&region));
    stage.finish(Check::Counters, &[Expect::new("remote").shmem(256).at(&region).by(helper.pid())]);
}

/// This process's memory, for an order.
pub fn me(region: &Region) -> [u64; 3] {
    [u64::from(std::process::id()), region.start() as u64, region.bytes() as u64]
}

fn swapoff(stage: &mut Stage) {
    let swap = stage.swap.clone().expect("this scene wants --swap");
    let mut helper = Helper::start(Some(&swap));
    stage.settle();
    let region = Region::anon(512);
    let swapped = page_out(stage, &region);
    stage.begin();
    helper.order(Order::Swapoff, [0; 3]);
    let entry = Expect::new("swapoff").swap(swapped).negative().anon(swapped);
    stage.finish(Check::Counters, &[entry.placeless().by(helper.pid())]);
}

/// Pages of zeros that become the zero page, which is not counted (`use_zero_pages`).
fn ksm(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(400);
    for page in 0..region.pages() {
        // SAFETY: inside the region; a written page of zeros.
        unsafe { region.pointer().add(page * page_size()).write_volatile(0) };
    }
    stage.begin();
    region.advise(libc::MADV_MERGEABLE);
    until(stage, "ksmd did not come", |stage| stage.moved().anon <= -400);
    stage.finish(Check::All, &[Expect::new("ksm").anon(400).negative().placeless()]);
}

/// Holds memory; the caller kills it and reaps it. What is expected is the caller's own measurement.
fn held(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(2000);
    region.write();
    stage.begin();
    stage.finish(Check::All, &[]);
}
