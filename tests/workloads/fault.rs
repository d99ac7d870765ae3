//! Growing by page faults on anonymous and shared memory.

use crate::Scene;
use crate::children::Sharer;
use crate::region::{HUGE, READ_WRITE, Region};
use crate::stage::{Check, Expect, Stage, await_byte, gettid, say};
use memtrace_tests::pages::{Pid, monotonic_ns, page_size, read_proc};
use serde_json::json;
use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Barrier};

pub const SCENES: &[(&str, Scene)] = &[
    ("fault.anon", anon),
    ("fault.anon.mapped_meanwhile", anon_mapped_meanwhile),
    ("fault.anon.thread", anon_thread),
    ("fault.anon.kernel_mode", anon_kernel_mode),
    ("fault.anon.stack", anon_stack),
    ("fault.none.zero_page", zero_page),
    ("fault.anon.zero_page", anon_zero_page),
    ("fault.cow.fork", cow_fork),
    ("fault.thp", thp),
    ("fault.thp.split", thp_split),
    ("fault.shmem.anon", shmem_anon),
    ("fault.shmem.memfd", shmem_memfd),
    ("fault.shmem.posix", shmem_posix),
    ("fault.shmem.sysv", shmem_sysv),
    ("fault.shmem.around", shmem_around),
    ("latency", latency),
];

fn anon(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(1000);
    stage.begin();
    region.write();
    stage.finish(Check::All, &[Expect::new("fault.anon").anon(1000).minor(1000).at(&region)]);
}

/// The mapping is made in the act: the tool knows it by the call only.
fn anon_mapped_meanwhile(stage: &mut Stage) {
    stage.settle();
    let region = Region::hole(700, page_size());
    stage.begin();
    region.place(READ_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1).write();
    stage.finish(Check::All, &[Expect::new("fault.anon").anon(700).minor(700).at(&region)]);
}

fn anon_thread(stage: &mut Stage) {
    let gate = Arc::new(Barrier::new(2));
    let (sender, regions) = std::sync::mpsc::sync_channel::<Region>(1);
    let (tids, tid) = std::sync::mpsc::sync_channel(1);
    let thread_gate = Arc::clone(&gate);
    let thread = std::thread::spawn(move || {
        let _ = tids.send(gettid());
        let region = regions.recv().expect("the main thread sends it");
        thread_gate.wait();
        region.write();
        thread_gate.wait();
        // Its end gives its stack back: not before the truth is told.
        thread_gate.wait();
    });
    let tid = tid.recv().expect("the thread starts");
    stage.settle();
    let region = Region::anon(500);
    sender.send(region).expect("the thread waits");
    stage.begin();
    gate.wait();
    gate.wait();
    stage.finish(Check::All, &[Expect::new("fault.anon").anon(500).minor(500).at(&region).by(tid)]);
    gate.wait();
    thread.join().expect("the thread ends");
}

/// The kernel touches the pages, for `read(2)`.
fn anon_kernel_mode(stage: &mut Stage) {
    let zero = std::fs::File::open("/dev/zero").expect("/dev/zero");
    stage.settle();
    let region = Region::anon(300);
    stage.begin();
    // SAFETY: the kernel writes into the region only.
    let count = unsafe { libc::read(zero.as_raw_fd(), region.pointer().cast(), region.bytes()) };
    if count != region.bytes() as isize {
        stage.fail("/dev/zero was short");
    }
    stage.finish(Check::All, &[Expect::new("fault.anon").anon(300).minor(300).at(&region)]);
}

/// The main thread's stack grows downwards from where it ends now.
fn anon_stack(stage: &mut Stage) {
    stage.settle();
    let (start, _) = stack_range();
    stage.begin();
    for page in 1..=200 {
        // SAFETY: below the stack, where the kernel extends it on touch; nothing of ours lives there.
        unsafe { ((start - page * page_size()) as *mut u8).write_volatile(1) };
    }
    let (low, high) = stack_range();
    if low != start - 200 * page_size() {
        stage.fail("the stack did not grow page by page");
    }
    stage.finish(Check::All, &[Expect::new("fault.anon").anon(200).minor(200).range(low, high).kind("stack")]);
}

fn stack_range() -> (usize, usize) {
    // The text is long; the buffer is on the stack, which is locked in already and deep enough for it.
    let mut buffer = [0_u8; 32 << 10];
    let text = read_proc(Pid::Own, b"maps", &mut buffer).expect("/proc/self/maps");
    let line = text.split(|&byte| byte == b'\n').find(|line| line.ends_with(b"[stack]")).expect("a stack");
    let mut numbers = line.splitn(2, |&byte| byte == b' ').next().unwrap_or_default().split(|&byte| byte == b'-');
    let mut number = || {
        numbers
            .next()
            .unwrap_or_default()
            .iter()
            .fold(0, |number, &digit| number << 4 | (digit as char).to_digit(16).expect("hexadecimal") as usize)
    };
    (number(), number())
}

fn zero_page(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(400);
    stage.begin();
    region.read();
    stage.finish(Check::All, &[Expect::new("fault.none").minor(400).at(&region)]);
}

/// Read first, which maps the zero page and counts nothing: to the counters the write is the first touch.
fn anon_zero_page(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(400);
    region.read();
    stage.begin();
    region.write();
    stage.finish(Check::All, &[Expect::new("fault.anon").anon(400).minor(400).at(&region)]);
}

/// Written by the parent while a child holds the same pages: copies, and no counter of the parent moves.
fn cow_fork(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(256);
    region.write();
    let _sharer = Sharer::fork();
    stage.begin();
    region.write();
    stage.finish(Check::Counters, &[Expect::new("fault.cow").minor(256).at(&region)]);
}

fn thp(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon_aligned(4 * HUGE / page_size(), HUGE);
    region.advise(libc::MADV_HUGEPAGE);
    stage.begin();
    region.write_each(HUGE / page_size());
    let pages = region.pages();
    stage.finish(Check::All, &[Expect::new("fault.thp").anon(pages).minor(4).at(&region)]);
}

/// Half of each huge page is given back: it is split, which moves no counter, and then zapped.
fn thp_split(stage: &mut Stage) {
    stage.settle();
    let huge = HUGE / page_size();
    let region = Region::anon_aligned(2 * huge, HUGE);
    region.advise(libc::MADV_HUGEPAGE);
    stage.begin();
    region.write_each(huge);
    region.part(0, huge / 2).advise(libc::MADV_DONTNEED);
    region.part(huge, huge + huge / 2).advise(libc::MADV_DONTNEED);
    stage.finish(
        Check::All,
        &[
            Expect::new("fault.thp").anon(2 * huge).minor(2).at(&region),
            Expect::new("madvise.dontneed").anon(huge).negative().at(&region),
        ],
    );
}

fn shmem_anon(stage: &mut Stage) {
    stage.settle();
    let region = Region::hole(600, page_size()).place(READ_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1);
    stage.begin();
    region.write();
    stage.finish(Check::All, &[Expect::new("fault.shmem").shmem(600).minor(600).at(&region).kind("shared_anon")]);
}

fn memfd(pages: usize) -> std::fs::File {
    use std::os::fd::FromRawFd;
    // SAFETY: a constant name; the descriptor is new and ours.
    let file = unsafe {
        let fd = libc::memfd_create(c"truth".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        std::fs::File::from_raw_fd(fd)
    };
    file.set_len((pages * page_size()) as u64).expect("room for a memfd");
    file
}

fn shmem_memfd(stage: &mut Stage) {
    let file = memfd(600);
    stage.settle();
    let region = Region::file(&file, 600, libc::MAP_SHARED);
    stage.begin();
    region.write();
    stage.finish(Check::All, &[Expect::new("fault.shmem").shmem(600).minor(600).at(&region).kind("memfd")]);
}

fn shmem_posix(stage: &mut Stage) {
    use std::os::fd::FromRawFd;
    let name = CString::new(format!("/memtrace-truth-{}", std::process::id())).expect("no NUL");
    // SAFETY: a NUL-terminated name; the descriptor is new and ours. Unlinked at the end of the scene.
    let file = unsafe {
        let fd = libc::shm_open(name.as_ptr(), libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, 0o600);
        assert!(fd >= 0, "shm_open: {}", std::io::Error::last_os_error());
        std::fs::File::from_raw_fd(fd)
    };
    file.set_len((600 * page_size()) as u64).expect("room in /dev/shm");
    stage.settle();
    let region = Region::file(&file, 600, libc::MAP_SHARED);
    stage.begin();
    region.write();
    stage.finish(Check::All, &[Expect::new("fault.shmem").shmem(600).minor(600).at(&region).kind("posix_shm")]);
    // SAFETY: the name from above.
    unsafe { libc::shm_unlink(name.as_ptr()) };
}

/// A System V segment, attached, touched, detached.
fn shmem_sysv(stage: &mut Stage) {
    stage.settle();
    let region = Region::hole(600, page_size());
    region.unmap();
    stage.begin();
    // SAFETY: a segment of our own, removed once attached; the address was free a moment ago.
    unsafe {
        let id = libc::shmget(libc::IPC_PRIVATE, region.bytes(), libc::IPC_CREAT | 0o600);
        assert!(id >= 0, "shmget: {}", std::io::Error::last_os_error());
        let address = libc::shmat(id, region.pointer().cast(), 0);
        libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut());
        if address != region.pointer().cast() {
            stage.fail("shmat went elsewhere");
        }
    }
    region.write();
    // SAFETY: attached above.
    unsafe { libc::shmdt(region.pointer().cast()) };
    stage.finish(
        Check::All,
        &[
            Expect::new("fault.shmem").shmem(600).minor(600).at(&region).kind("sysv_shm"),
            Expect::new("munmap").shmem(600).negative().at(&region).kind("sysv_shm"),
        ],
    );
}

/// Pages that another mapping has filled: a read maps a window of sixteen.
fn shmem_around(stage: &mut Stage) {
    let file = memfd(640);
    let filler = Region::file(&file, 640, libc::MAP_SHARED);
    filler.write();
    filler.unmap();
    stage.settle();
    let region = Region::file(&file, 640, libc::MAP_SHARED);
    stage.begin();
    region.read_each(16);
    stage.finish(Check::All, &[Expect::new("fault.shmem").shmem(640).minor(40).at(&region)]);
}

/// On each byte: 16 MiB are touched and the end is stamped. For the time from a change to its line.
fn latency(stage: &mut Stage) {
    const PAGES: usize = 4096;
    stage.settle();
    let region = Region::anon(PAGES);
    stage.begin();
    let mut rounds = 0;
    loop {
        region.write();
        let stamp_ns = monotonic_ns();
        region.advise(libc::MADV_DONTNEED);
        rounds += 1;
        say(&json!({
            "round": rounds, "stamp_ns": stamp_ns, "bytes": region.bytes(),
            "start": format!("{:#x}", region.start()), "end": format!("{:#x}", region.end()),
        }));
        if await_byte() != Some(b'n') {
            break;
        }
    }
    stage.finish(
        Check::All,
        &[
            Expect::new("fault.anon").anon(rounds * PAGES).minor(rounds * PAGES).at(&region),
            Expect::new("madvise.dontneed").anon(rounds * PAGES).negative().at(&region),
        ],
    );
}
