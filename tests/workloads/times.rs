//! Threads that know where their time goes: by their own CPU clock, by what they asked for, and by the wall.

use crate::Scene;
use crate::stage::{Check, Stage, gettid};
use memtrace_tests::machine::Bound;
use memtrace_tests::pages::monotonic_ns;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

pub const SCENES: &[(&str, Scene)] = &[
    ("times.spin", spin),
    ("times.functions", functions),
    ("times.share", share),
    ("times.sleep", sleep),
    ("times.futex", futex),
    ("times.pipe", pipe),
    ("times.short", short),
    ("times.lock", lock),
    ("times.file", file),
];

/// Nanoseconds that the caller has run.
fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds that the caller was ready to run and did not, as the scheduler counts.
fn delay_ns() -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{}/schedstat", gettid())).unwrap_or_default();
    stat.split_whitespace().nth(1).and_then(|delay| delay.parse().ok()).unwrap_or(0)
}

/// Times that the caller went to sleep.
fn voluntary_switches() -> i64 {
    // SAFETY: all-zero is a valid rusage, and the kernel fills it.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage.ru_nvcsw
    }
}

/// Longer than that between two looks at the clock: it did not run.
const GAP_NS: u64 = 20_000;

/// Runs, and returns how long it did not: the gaps between its looks at the clock.
fn spin_for(seconds: f64) -> u64 {
    let mut last = monotonic_ns();
    let end = last + (seconds * 1e9) as u64;
    let mut gaps = 0;
    while last < end {
        let now = monotonic_ns();
        if now - last > GAP_NS {
            gaps += now - last;
        }
        last = now;
    }
    gaps
}

/// Plays each part in a thread of its own that sleeps before and after it, and tells what each did by its own clocks.
fn play(stage: &mut Stage, parts: Vec<Box<dyn FnOnce() -> Value + Send>>) {
    let gate = Arc::new(Barrier::new(parts.len() + 1));
    let threads: Vec<_> = parts
        .into_iter()
        .map(|part| {
            let gate = Arc::clone(&gate);
            std::thread::spawn(move || {
                gate.wait();
                let (wall, cpu, slept, delay) = (monotonic_ns(), cpu_ns(), voluntary_switches(), delay_ns());
                let more = part();
                let told = json!({
                    "tid": gettid(),
                    "wall_ns": monotonic_ns() - wall,
                    "cpu_ns": cpu_ns() - cpu,
                    "delay_ns": delay_ns() - delay,
                    "slept": voluntary_switches() - slept,
                    "more": more,
                });
                gate.wait();
                told
            })
        })
        .collect();
    stage.begin();
    gate.wait();
    gate.wait();
    let told: Vec<Value> = threads.into_iter().map(|thread| thread.join().expect("the thread ends")).collect();
    stage.finish_with(Check::Nothing, &[], json!({ "threads": told }));
}

fn spin(stage: &mut Stage) {
    let seconds = stage.seconds;
    play(stage, vec![Box::new(move || json!({ "gaps_ns": spin_for(seconds) }))]);
}

/// Takes three times as long as [`computes_short`].
#[inline(never)]
fn computes_long(rounds: u64) {
    for round in 0..rounds * 3 {
        std::hint::black_box(round.wrapping_mul(6_364_136_223_846_793_005));
    }
}

#[inline(never)]
fn computes_short(rounds: u64) {
    for round in 0..rounds {
        std::hint::black_box(round.wrapping_mul(2_862_933_555_777_941_757));
    }
}

/// Two functions by turns, each timed by the thread's own clock.
fn functions(stage: &mut Stage) {
    let seconds = stage.seconds;
    let part = move || {
        let (mut long_ns, mut short_ns) = (0, 0);
        let end = monotonic_ns() + (seconds * 1e9) as u64;
        let mut turn = 0;
        while monotonic_ns() < end {
            // Not in step with what samples it.
            turn = turn % 7 + 1;
            let rounds = turn * 1_000_000;
            let begin = cpu_ns();
            computes_long(rounds);
            let between = cpu_ns();
            computes_short(rounds);
            short_ns += cpu_ns() - between;
            long_ns += between - begin;
        }
        json!({ "long_ns": long_ns, "short_ns": short_ns })
    };
    play(stage, vec![Box::new(part)]);
}

/// Two that spin on one CPU.
fn share(stage: &mut Stage) {
    let seconds = stage.seconds;
    let part = || -> Box<dyn FnOnce() -> Value + Send> {
        Box::new(move || {
            let _bound = Bound::to_first().expect("a CPU");
            json!({ "gaps_ns": spin_for(seconds) })
        })
    };
    play(stage, vec![part(), part()]);
}

fn sleep(stage: &mut Stage) {
    let seconds = stage.seconds;
    play(
        stage,
        vec![Box::new(move || {
            std::thread::sleep(Duration::from_secs_f64(seconds));
            Value::Null
        })],
    );
}

/// One waits for a word to change; the other changes it.
fn futex(stage: &mut Stage) {
    static WORD: AtomicU32 = AtomicU32::new(0);
    let seconds = stage.seconds;
    let call = |operation: libc::c_int, value: u32| {
        // SAFETY: a static word; no time limit.
        unsafe { libc::syscall(libc::SYS_futex, WORD.as_ptr(), operation, value, std::ptr::null::<u8>()) }
    };
    play(
        stage,
        vec![
            Box::new(move || {
                while WORD.load(Ordering::Acquire) == 0 {
                    call(libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 0);
                }
                json!({ "address": WORD.as_ptr() as u64, "operation": libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG })
            }),
            Box::new(move || {
                let gaps_ns = spin_for(seconds);
                WORD.store(1, Ordering::Release);
                call(libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1);
                json!({ "gaps_ns": gaps_ns })
            }),
        ],
    );
}

/// Two that send each other a byte, as fast as they can.
fn pipe(stage: &mut Stage) {
    let seconds = stage.seconds;
    let (mut ping_in, mut pong_out) = std::io::pipe().expect("a pipe");
    let (mut pong_in, mut ping_out) = std::io::pipe().expect("a pipe");
    play(
        stage,
        vec![
            Box::new(move || {
                let mut byte = [1_u8];
                let (end, mut turns) = (monotonic_ns() + (seconds * 1e9) as u64, 0_u64);
                let fd = ping_in.as_raw_fd();
                while monotonic_ns() < end {
                    ping_out.write_all(&byte).expect("it is read");
                    ping_in.read_exact(&mut byte).expect("it is answered");
                    turns += 1;
                }
                // A pipe that is closed ends the other.
                drop(ping_out);
                json!({ "turns": turns, "fd": fd })
            }),
            Box::new(move || {
                let (mut byte, mut turns) = ([0_u8], 0_u64);
                let fd = pong_in.as_raw_fd();
                while pong_in.read(&mut byte).expect("a byte or the end") == 1 {
                    pong_out.write_all(&byte).expect("it is read");
                    turns += 1;
                }
                json!({ "turns": turns, "fd": fd })
            }),
        ],
    );
}

/// Threads that come and go, one after the other.
fn short(stage: &mut Stage) {
    let seconds = stage.seconds;
    play(
        stage,
        vec![Box::new(move || {
            let end = monotonic_ns() + (seconds * 1e9) as u64;
            let mut told = Vec::new();
            while monotonic_ns() < end {
                let one = std::thread::spawn(|| {
                    spin_for(0.005);
                    (gettid(), cpu_ns())
                });
                let (tid, cpu_ns) = one.join().expect("it ends");
                told.push(json!({ "tid": tid, "cpu_ns": cpu_ns }));
            }
            Value::Array(told)
        })],
    );
}

/// One holds mmap_lock long, to change the protection of much; the other wants it often, for a page.
fn lock(stage: &mut Stage) {
    const MUCH: usize = 256 << 20;
    let seconds = stage.seconds;
    play(
        stage,
        vec![
            Box::new(move || {
                // SAFETY: a mapping of our own, removed below.
                unsafe {
                    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
                    let start =
                        libc::mmap(std::ptr::null_mut(), MUCH, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
                    assert_ne!(start, libc::MAP_FAILED);
                    let end = monotonic_ns() + (seconds * 1e9) as u64;
                    let mut calls = 0_u64;
                    while monotonic_ns() < end {
                        libc::mprotect(start, MUCH, libc::PROT_READ);
                        libc::mprotect(start, MUCH, libc::PROT_READ | libc::PROT_WRITE);
                        calls += 2;
                    }
                    libc::munmap(start, MUCH);
                    json!({ "calls": calls })
                }
            }),
            Box::new(move || {
                let end = monotonic_ns() + (seconds * 1e9) as u64;
                let mut calls = 0_u64;
                while monotonic_ns() < end {
                    // SAFETY: a page of our own, removed at once.
                    unsafe {
                        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                        let page = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, flags, -1, 0);
                        libc::munmap(page, 4096);
                    }
                    calls += 2;
                }
                json!({ "calls": calls })
            }),
        ],
    );
}

/// Pages of a file that is not in memory, touched one by one.
fn file(stage: &mut Stage) {
    const PAGES: usize = 2048;
    let path = stage.dir.join("times.file");
    let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
    let file = file.expect("a file");
    for page in 0..PAGES {
        file.write_all_at(&[page as u8; 4096], page as u64 * 4096).expect("it is written");
    }
    file.sync_all().expect("it is on the disk");
    play(
        stage,
        vec![Box::new(move || {
            // SAFETY: a mapping of our own of a file that stays as long; rusage is filled by the kernel.
            unsafe {
                let length = PAGES * 4096;
                let start =
                    libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
                assert_ne!(start, libc::MAP_FAILED);
                libc::madvise(start, length, libc::MADV_RANDOM);
                let mut before: libc::rusage = std::mem::zeroed();
                libc::getrusage(libc::RUSAGE_THREAD, &raw mut before);
                // Some intervals long on a fast disk, and once through on a slow one.
                let end = monotonic_ns() + 800_000_000;
                while monotonic_ns() < end {
                    libc::madvise(start, length, libc::MADV_DONTNEED);
                    libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED);
                    for page in 0..PAGES {
                        start.cast::<u8>().add(page * 4096).read_volatile();
                    }
                }
                let mut after: libc::rusage = std::mem::zeroed();
                libc::getrusage(libc::RUSAGE_THREAD, &raw mut after);
                json!({
                    "start": start as u64,
                    "major": after.ru_majflt - before.ru_majflt,
                    "slept": after.ru_nvcsw - before.ru_nvcsw,
                })
            }
        })],
    );
}
