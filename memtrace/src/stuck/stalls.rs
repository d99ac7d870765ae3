//! Thirty stalls, each with what must be found.

use super::State;
use super::scenes::*;
use super::stalled_backends::{databases, hostile_backend};
use crate::event::{Own, Pressures, Surroundings, TimeSpan, WaitObject};
use crate::syscalls;
use crate::units::Amounts;
use crate::views::sample::{MS, PID};
use memtrace_common::{Cause, Doing};

const NONE: WaitObject = WaitObject::Unknown;
pub(super) const WORKER: u32 = PID + 2;
pub(super) const OTHER: u32 = PID + 3;

fn pages(anon: i64, swap: i64) -> Amounts {
    Amounts { anon, swap, ..Amounts::ZERO }
}

/// Its name, what must be found, and the stall.
pub(super) type Stall = (&'static str, Option<State>, Option<bool>, Scene);

pub(super) fn stalls() -> Vec<Stall> {
    let some = |state, memory| (Some(state), Some(memory));
    let mut stalls: Vec<Stall> = Vec::new();
    let mut stall = |name, (state, memory), scene| stalls.push((name, state, memory, scene));

    stall(
        "swap thrash under a cgroup's limit",
        some(State::FaultSwapin, true),
        Scene::default()
            .in_swap(812 * 256)
            .spans([
                faults(PID, Cause::FaultSwapin, 940, 3_100, HEAP + 0x5000),
                span(PID, Doing::ReclaimMemcg, 40),
                span(PID, Doing::Running, 20),
                samples(PID, Doing::User, 20),
            ])
            .wait(
                PID,
                "",
                &[],
                NONE,
                &["folio_wait_bit_common", "do_swap_page", "handle_mm_fault"],
                &["lookup", "main"],
            )
            .change(Cause::FaultSwapin, pages(300, -300), 300, 300)
            .change(Cause::ReclaimMemcg, pages(-280, 280), 0, 0)
            .around(surroundings(), |last| {
                let group = last.cgroup.as_mut().expect("it has one");
                group.limit_hits = Some(4_100);
                group.pressure.memory = Some((4_600 * MS, 3_050 * MS));
                group.others[0].2 += 1 << 30;
            }),
    );
    stall(
        "cold file",
        some(State::FaultFileRead, true),
        Scene::default()
            .spans([
                faults(PID, Cause::FaultFileRead, 600, 9_000, FILE + 0x3000),
                faults(PID, Cause::FaultFile, 350, 9_000, FILE + 0x9000),
                span(PID, Doing::Running, 50),
                samples(PID, Doing::Fault, 9),
                samples(PID, Doing::User, 41),
            ])
            .wait(PID, "", &[], NONE, &["folio_wait_bit_common", "filemap_fault", "__do_fault"], &["scan", "main"])
            .change(Cause::FaultFileRead, Amounts { file: 66, ..Amounts::ZERO }, 66, 66),
    );
    stall(
        "first touch",
        some(State::FaultMinor, true),
        Scene::default()
            .spans([
                span(PID, Doing::Running, 1000),
                TimeSpan { cause: Some(Cause::FaultAnon), ..samples(PID, Doing::Fault, 820) },
                samples(PID, Doing::User, 170),
            ])
            .change(Cause::FaultAnon, pages(400_000, 0), 400_000, 0),
    );
    stall(
        "copies after a fork",
        some(State::FaultCow, true),
        Scene::default().spans([
            span(PID, Doing::Running, 1000),
            TimeSpan { cause: Some(Cause::FaultCow), ..samples(PID, Doing::Fault, 900) },
            samples(PID, Doing::User, 90),
        ]),
    );
    stall(
        "huge pages are cleared",
        some(State::FaultThp, true),
        Scene::default().spans([
            span(PID, Doing::Running, 1000),
            TimeSpan { cause: Some(Cause::FaultThp), ..samples(PID, Doing::Fault, 930) },
            samples(PID, Doing::User, 60),
        ]),
    );
    let fights = |tid| {
        [
            span(tid, Doing::MmapLock, 700),
            TimeSpan { cause: Some(Cause::FaultAnon), ..samples(tid, Doing::Fault, 100) },
            samples(tid, Doing::Kernel, 100),
            span(tid, Doing::Running, 200),
            span(tid, Doing::Runnable, 100),
        ]
    };
    stall(
        "mmap_lock fight",
        some(State::MmapLock, true),
        Scene::default()
            .spans(fights(WORKER))
            .spans(fights(OTHER))
            .spans([blocked(PID, "futex", 0x7f00_0000_0990)])
            .wait(
                PID,
                "futex",
                &[0x7f00_0000_0990, 265],
                NONE,
                &["futex_wait_queue"],
                &["__pthread_clockjoin_ex", "main"],
            )
            .wait(WORKER, "munmap", &[], NONE, &["rwsem_down_write_slowpath", "__vm_munmap"], &["__munmap", "churn"])
            .hold(WORKER, b"worker", true, 480)
            .hold(900, b"ps", false, 20),
    );
    stall(
        "one works with mmap_lock, the other waits for it",
        some(State::MmapLock, true),
        Scene::default()
            .spans([
                span(PID, Doing::Running, 990),
                TimeSpan { nr: syscalls::number("mprotect"), ..samples(PID, Doing::Kernel, 980) },
                span(PID, Doing::MmapLock, 10),
            ])
            .spans(fights(WORKER))
            .hold(PID, b"server", true, 930)
            .hold(WORKER, b"worker", false, 20)
            .own(Own {
                cpu_ns: 400 * MS,
                looks: 38,
                look_ns: 9 * MS,
                unseen: 2,
                unsearched: 1,
                max_rss: 1 << 26,
                ..Own::default()
            }),
    );
    stall(
        "blocked in mmap_lock since before",
        some(State::MmapLock, true),
        Scene::default().spans([blocked(PID, "mmap", 0)]).wait(
            PID,
            "mmap",
            &[],
            NONE,
            &["rwsem_down_write_slowpath+0x1a", "vm_mmap_pgoff"],
            &["mmap", "main"],
        ),
    );
    stall(
        "direct reclaim",
        some(State::ReclaimDirect, true),
        Scene::default()
            .spans([
                span(PID, Doing::ReclaimDirect, 900),
                span(PID, Doing::Running, 100),
                samples(PID, Doing::Kernel, 99),
            ])
            .around(surroundings(), |last| {
                last.machine.memory = Some((4_800 * MS, 4_000 * MS));
                last.cgroup.as_mut().expect("it has one").memory = Some((1 << 30, None));
            }),
    );
    stall(
        "deadlock",
        some(State::BlockedFutex, false),
        Scene::default()
            .spans([blocked(PID, "futex", 9), blocked(WORKER, "futex", 0x1000), blocked(OTHER, "futex", 0x2000)])
            .wait(PID, "futex", &[9], NONE, &["futex_wait_queue"], &["__pthread_clockjoin_ex", "main"])
            .wait(
                WORKER,
                "futex",
                &[0x1000],
                WaitObject::Futex { address: 0x1000, mapping: b"[heap]".to_vec(), owner: Some(OTHER) },
                &["futex_wait_queue"],
                &["__lll_lock_wait", "pthread_mutex_lock", "transfer"],
            )
            .wait(
                OTHER,
                "futex",
                &[0x2000],
                WaitObject::Futex { address: 0x2000, mapping: b"[heap]".to_vec(), owner: Some(WORKER) },
                &["futex_wait_queue"],
                &["__lll_lock_wait", "pthread_mutex_lock", "transfer"],
            ),
    );
    // Whoever looks sees each of them wait for another one, and the last look at each makes a circle of all three.
    let turns = |tid| {
        let waits = TimeSpan {
            before: false,
            count: 330,
            max_ns: 7 * MS,
            open: false,
            ns: 655 * MS,
            ..blocked(tid, "futex", 0x1000)
        };
        let goes_on = TimeSpan { open: true, count: 0, max_ns: 2 * MS, ns: 2 * MS, ..waits.clone() };
        [waits, goes_on, span(tid, Doing::Running, 343), samples(tid, Doing::User, 340)]
    };
    let owned = |owner| WaitObject::Futex { address: 0x1000, mapping: b"[heap]".to_vec(), owner: Some(owner) };
    let locks = ["__lll_lock_wait", "pthread_mutex_lock", "work"];
    stall(
        "a mutex that three threads take turns with",
        some(State::BlockedFutex, false),
        Scene::default()
            .spans([PID, WORKER, OTHER].into_iter().flat_map(turns))
            .wait(PID, "futex", &[0x1000], owned(WORKER), &["futex_wait_queue"], &locks)
            .wait(WORKER, "futex", &[0x1000], owned(OTHER), &["futex_wait_queue"], &locks)
            .wait(OTHER, "futex", &[0x1000], owned(PID), &["futex_wait_queue"], &locks),
    );
    stall(
        "none is left to wake them",
        some(State::BlockedSemaphore, false),
        Scene::default()
            .spans([blocked(PID, "futex", 0x10), blocked(WORKER, "futex", 0x20), blocked(OTHER, "futex", 0x30)])
            .wait(PID, "futex", &[0x10], NONE, &[], &["__pthread_clockjoin_ex", "main"])
            .wait(WORKER, "futex", &[0x20], NONE, &[], &["sem_wait", "PyThread_acquire_lock_timed"])
            .wait(OTHER, "futex", &[0x30], NONE, &[], &["sem_wait", "PyThread_acquire_lock_timed"]),
    );
    stall(
        "a virtual machine parks its threads",
        some(State::BlockedFutex, false),
        Scene::default()
            .spans([blocked(PID, "futex", 0x10), blocked(WORKER, "futex", 0x20), blocked(OTHER, "futex", 0x30)])
            .wait(PID, "futex", &[0x10], NONE, &[], &["__pthread_clockjoin_ex", "main"])
            .wait(WORKER, "futex", &[0x20], NONE, &[], &["sem_wait", "GangWorker::loop"])
            .wait(OTHER, "futex", &[0x30], NONE, &[], &["pthread_cond_wait", "Unsafe_Park"]),
    );
    stall(
        "a mutex whose owner sleeps",
        some(State::BlockedFutex, false),
        Scene::default().spans([blocked(PID, "futex", 0x1000), blocked(WORKER, "nanosleep", 0)]).wait(
            PID,
            "futex",
            &[0x1000],
            WaitObject::Futex { address: 0x1000, mapping: b"[heap]".to_vec(), owner: Some(WORKER) },
            &["futex_wait_queue"],
            &["__lll_lock_wait", "pthread_mutex_lock", "serve"],
        ),
    );
    stall(
        "a mutex whose owner swaps",
        some(State::FaultSwapin, true),
        Scene::default()
            .spans([blocked(PID, "futex", 0x1000), faults(WORKER, Cause::FaultSwapin, 1000, 8_000, HEAP)])
            .wait(
                PID,
                "futex",
                &[0x1000],
                WaitObject::Futex { address: 0x1000, mapping: b"[heap]".to_vec(), owner: Some(WORKER) },
                &["futex_wait_queue"],
                &["__lll_lock_wait", "pthread_mutex_lock", "serve"],
            ),
    );
    stall(
        "POSIX semaphore",
        some(State::BlockedSemaphore, false),
        Scene::default().spans([blocked(PID, "futex", 0x7f00)]).wait(
            PID,
            "futex",
            &[0x7f00],
            NONE,
            &["futex_wait_queue"],
            &["__new_sem_wait_slow64.constprop.0", "sem_wait", "PGSemaphoreLock"],
        ),
    );
    stall(
        "System V semaphore",
        some(State::BlockedSemaphore, false),
        Scene::default().spans([blocked(PID, "semtimedop", 5)]).wait(
            PID,
            "semtimedop",
            &[5],
            WaitObject::SystemV { id: 5 },
            &["do_semtimedop"],
            &[],
        ),
    );
    let lock = |holder| WaitObject::FileLock { fd: 3, path: b"/run/app.lock".to_vec(), holder };
    stall(
        "flock",
        some(State::BlockedFlock, false),
        Scene::default().spans([blocked(PID, "flock", 3)]).wait(
            PID,
            "flock",
            &[3, 2],
            lock(Some((77, b"backup".to_vec()))),
            &["locks_lock_inode_wait"],
            &["flock", "take_lock", "main"],
        ),
    );
    stall(
        "POSIX file lock",
        some(State::BlockedFlock, false),
        Scene::default().spans([TimeSpan { detail: 7, ..blocked(PID, "fcntl", 3) }]).wait(
            PID,
            "fcntl",
            &[3, 7],
            lock(None),
            &["fcntl_setlk"],
            &[],
        ),
    );
    stall(
        "pipe",
        some(State::BlockedPipe, false),
        Scene::default().spans([blocked(PID, "read", 0)]).wait(
            PID,
            "read",
            &[0],
            WaitObject::Pipe { fd: 0, inode: 991, others: vec![(88, b"gzip".to_vec())] },
            &["anon_pipe_read"],
            &["__read", "main"],
        ),
    );
    stall(
        "socket",
        some(State::BlockedSocket, false),
        Scene::default().spans([blocked(PID, "recvfrom", 5)]).wait(
            PID,
            "recvfrom",
            &[5],
            WaitObject::Socket {
                fd: 5,
                protocol: "tcp".into(),
                local: b"127.0.0.1:41234".to_vec(),
                peer: b"127.0.0.1:5432".to_vec(),
                process: Some((99, b"postgres".to_vec())),
                queued: Some((0, 0)),
            },
            &["wait_woken", "tcp_recvmsg"],
            &["__libc_recv", "pqsecure_read", "PQexec"],
        ),
    );
    stall(
        "fsync",
        some(State::BlockedFileIo, false),
        Scene::default()
            .spans([
                TimeSpan {
                    nr: crate::syscalls::number("fsync"),
                    object: 8,
                    count: 60,
                    max_ns: 44 * MS,
                    ..span(PID, Doing::Uninterruptible, 980)
                },
                span(PID, Doing::Running, 20),
                samples(PID, Doing::Kernel, 15),
                samples(PID, Doing::User, 5),
            ])
            .wait(
                PID,
                "fsync",
                &[8],
                WaitObject::File { fd: 8, path: b"/srv/data/wal".to_vec(), offset: None },
                &["jbd2_log_wait_commit"],
                &["fsync", "XLogFlush"],
            )
            .around(surroundings(), |last| last.machine.io = Some((4_000 * MS, 3_900 * MS))),
    );
    stall(
        "spins",
        some(State::CpuUser, false),
        Scene::default()
            .spans([
                span(PID, Doing::Running, 998),
                samples(PID, Doing::User, 990),
                samples(PID, Doing::Kernel, 5),
                span(PID, Doing::Runnable, 2),
            ])
            .ran(PID, b"sha256_block", b"/usr/lib/libcrypto.so.3", 400)
            .ran(PID, b"sha256_block", b"/usr/lib/libcrypto.so.3", 300)
            .ran(PID, b"evil\x1b[2Jname", b"/srv/a\nb", 200)
            .ran(PID, b"", b"/usr/bin/program", 50)
            .ran(PID, b"", b"", 30)
            .ran(PID, b"main", b"/usr/bin/program", 5),
    );
    stall(
        "gives memory back without end",
        some(State::CpuKernel, true),
        Scene::default().spans([
            span(PID, Doing::Running, 1000),
            TimeSpan { nr: crate::syscalls::number("munmap"), ..samples(PID, Doing::Kernel, 900) },
            samples(PID, Doing::User, 90),
        ]),
    );
    stall(
        "no CPU",
        some(State::Runnable, false),
        Scene::default()
            .spans([
                span(PID, Doing::Running, 120),
                samples(PID, Doing::User, 119),
                TimeSpan { count: 40, max_ns: 90 * MS, ..span(PID, Doing::Runnable, 880) },
            ])
            .around(Surroundings { allowed_cpus: 1, ..surroundings() }, |last| {
                last.running = 9;
                last.machine.cpu = Some((4_500 * MS, 0));
            }),
    );
    stall(
        "throttled",
        some(State::Throttled, false),
        Scene::default()
            .spans([span(PID, Doing::Running, 100), samples(PID, Doing::User, 99), span(PID, Doing::Runnable, 900)])
            .around(surroundings(), |last| {
                last.cgroup.as_mut().expect("it has one").throttled = Some((4_400 * MS, Some((10 * MS, 100 * MS))));
            }),
    );
    stall(
        "stopped",
        some(State::Stopped, false),
        Scene::default().spans([TimeSpan { before: true, count: 0, ..span(PID, Doing::Stopped, 1000) }]),
    );
    stall(
        "traced",
        some(State::Traced, false),
        Scene::default().spans([span(PID, Doing::Traced, 1000)]).wait(
            PID,
            "",
            &[],
            WaitObject::Tracer { pid: 66, comm: b"gdb".to_vec() },
            &["ptrace_stop"],
            &["main"],
        ),
    );
    stall(
        "frozen",
        some(State::Frozen, false),
        Scene::default().spans([blocked(PID, "clock_nanosleep", 0)]).around(
            {
                let mut now = surroundings();
                let group = now.cgroup.as_mut().expect("it has one");
                (group.frozen, group.frozen_by) = (Some(true), vec![b"/sys/fs/cgroup/db/cgroup.freeze".to_vec()]);
                now
            },
            |_| {},
        ),
    );
    stall(
        "sleep",
        some(State::BlockedSleep, false),
        Scene::default().spans([blocked(PID, "clock_nanosleep", 0)]).wait(
            PID,
            "clock_nanosleep",
            &[0],
            WaitObject::Timer { ns: Some(3_600_000_000_000) },
            &["hrtimer_nanosleep"],
            &["clock_nanosleep", "sleep", "main"],
        ),
    );
    stall(
        "nothing to do",
        some(State::BlockedPoll, false),
        Scene::default()
            .spans([blocked(PID, "epoll_wait", 4), blocked(WORKER, "futex", 0x40), blocked(OTHER, "futex", 0x40)])
            .wait(
                PID,
                "epoll_wait",
                &[4],
                WaitObject::Descriptors {
                    of: vec![(5, b"socket:[123]".to_vec()), (6, b"anon_inode:[eventfd]".to_vec())],
                    total: 12,
                    timeout_ns: None,
                },
                &["ep_poll"],
                &["epoll_wait", "event_loop", "main"],
            )
            .wait(WORKER, "futex", &[0x40], NONE, &["futex_wait_queue"], &["pthread_cond_wait", "pool_worker"])
            .wait(OTHER, "futex", &[0x40], NONE, &["futex_wait_queue"], &["pthread_cond_wait", "pool_worker"]),
    );
    stall(
        "child",
        some(State::BlockedChild, false),
        Scene::default().spans([blocked(PID, "wait4", 4800)]).wait(
            PID,
            "wait4",
            &[4800],
            WaitObject::Child { pid: 4800 },
            &["do_wait"],
            &["wait4", "main"],
        ),
    );
    stall(
        "state D",
        some(State::Uninterruptible, false),
        Scene::default().spans([TimeSpan { doing: Doing::Uninterruptible, ..blocked(PID, "umount2", 0) }]).wait(
            PID,
            "umount2",
            &[],
            NONE,
            &["__schedule", "rpc_wait_bit_killable", "nfs_umount"],
            &[],
        ),
    );
    stall(
        "between two",
        (None, Some(false)),
        Scene::default().spans([
            span(PID, Doing::Running, 480),
            samples(PID, Doing::User, 480),
            TimeSpan { nr: crate::syscalls::number("read"), object: 3, ..span(PID, Doing::Uninterruptible, 450) },
            span(PID, Doing::Runnable, 70),
        ]),
    );
    stall(
        "not observed",
        (Some(State::Unaccounted), None),
        Scene::default().spans([span(PID, Doing::Running, 100), samples(PID, Doing::User, 90)]),
    );
    stalls.extend(databases());
    stalls
}

/// The stall of this name.
pub(crate) fn stall(name: &str) -> Scene {
    stalls().into_iter().find(|(known, ..)| *known == name).map(|(.., scene)| scene).expect("a stall of this name")
}

/// Every name in it could drive a terminal.
pub(crate) fn hostile() -> Scene {
    let bad = b"a\x1b[2J\xff\xe2\x80\xae\n".repeat(200);
    Scene::default()
        .spans([blocked(PID, "flock", 3), blocked(WORKER, "recvfrom", 5)])
        .wait(
            PID,
            "flock",
            &[3],
            WaitObject::FileLock { fd: 3, path: bad.clone(), holder: Some((1, bad.clone())) },
            &["a\u{1b}[2J"],
            &["f\u{1b}[2J\u{202e}", "main"],
        )
        .wait(
            WORKER,
            "recvfrom",
            &[5],
            WaitObject::Socket {
                fd: 5,
                protocol: "\u{1b}[2J".into(),
                local: bad.clone(),
                peer: bad.clone(),
                process: Some((1, bad.clone())),
                queued: None,
            },
            &[],
            &[],
        )
        .backend(hostile_backend(&bad))
        .around(surroundings(), |last| {
            let group = last.cgroup.as_mut().expect("it has one");
            (group.path, group.quota_file, group.frozen_by) = (bad.clone(), bad.clone(), vec![bad.clone()]);
            group.limit_hits = Some(9_999);
            group.pressure = Pressures { memory: Some((u64::MAX, u64::MAX)), ..group.pressure };
        })
}
