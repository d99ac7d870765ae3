//! Twenty stalls and more: what is said of each, whole. `INSTA_UPDATE=always` writes the snapshot anew.

use super::scenes::*;
use super::*;
use crate::event::{Pressures, WaitObject};
use crate::statement::Report;
use crate::units::Amounts;
use crate::views::sample::{BEGIN, MM, MS, PID};
use crate::views::{JsonView, TextOptions, TextView, View};
use memtrace_common::{Cause, Doing};

const NONE: WaitObject = WaitObject::Unknown;
const WORKER: u32 = PID + 2;
const OTHER: u32 = PID + 3;

fn pages(anon: i64, swap: i64) -> Amounts {
    Amounts { anon, swap, ..Amounts::ZERO }
}

/// Its name, what must be found, and the stall.
type Stall = (&'static str, Option<State>, Option<bool>, Scene);

fn stalls() -> Vec<Stall> {
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
        Scene::default().spans([
            span(PID, Doing::Running, 998),
            samples(PID, Doing::User, 990),
            samples(PID, Doing::Kernel, 5),
            span(PID, Doing::Runnable, 2),
        ]),
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
                now.cgroup.as_mut().expect("it has one").frozen = Some(true);
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
        "PostgreSQL's lock",
        some(State::BlockedPoll, false),
        Scene::default()
            .spans([blocked(PID, "epoll_wait", 4)])
            .wait(
                PID,
                "epoll_wait",
                &[4],
                WaitObject::Descriptors { of: Vec::new(), total: 3, timeout_ns: None },
                &["ep_poll"],
                &["epoll_wait", "WaitLatch", "ProcSleep", "LockAcquireExtended", "XactLockTableWait", "heap_update"],
            )
            .backend(backend("Lock", "transactionid")),
    );
    stall(
        "PostgreSQL's client does not read",
        some(State::BlockedPoll, false),
        Scene::default().spans([blocked(PID, "epoll_wait", 4)]).backend(backend("Client", "ClientWrite")),
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
    stalls
}

use crate::event::{Surroundings, TimeSpan};

fn text(reports: &[Report], options: TextOptions) -> String {
    let mut out = Vec::new();
    let mut view = TextView::new(&mut out, TextOptions { only: Some(crate::cli::Only::Stuck), ..options });
    reports.iter().for_each(|report| view.render(report).expect("a Vec takes everything"));
    String::from_utf8(out).expect("text is UTF-8")
}

#[test]
fn each_stall_is_found() {
    for (name, state, memory, scene) in stalls() {
        let verdict = scene.stuck().verdict;
        assert_eq!((verdict.state, verdict.memory), (state, memory), "{name}: {verdict:#?}");
        assert_eq!(verdict.state.is_none(), verdict.between.len() == 2, "{name}");
        assert!(!verdict.next.is_empty(), "{name}");
    }
}

#[test]
fn what_is_said_of_each_stall() {
    let said = stalls()
        .into_iter()
        .map(|(name, _, _, scene)| format!("═══ {name}\n{}", text(&scene.reports(), TextOptions::default())));
    insta::assert_snapshot!(said.collect::<Vec<_>>().join("\n"));
}

#[test]
fn a_threads_shares_are_its_time() {
    for (name, _, _, scene) in stalls() {
        for report in scene.reports() {
            let Report::Stuck(stuck) = report else { continue };
            for thread in &stuck.threads {
                let sum: u64 = thread.shares.iter().map(|share| share.ns).sum();
                assert_eq!(sum, thread.total_ns, "{name}, thread {}", thread.tid);
                assert_eq!(sum, stuck.ts_ns - stuck.start_ns, "{name}: all lived all the time");
            }
        }
    }
}

#[test]
fn each_second_has_an_answer_of_its_own() {
    for (name, state, memory, scene) in stalls() {
        let seconds: Vec<_> = scene
            .reports()
            .into_iter()
            .filter_map(|report| match report {
                Report::Stuck(stuck) if !stuck.whole => Some(*stuck),
                _ => None,
            })
            .collect();
        assert_eq!(seconds.len(), 5, "{name}");
        assert!(seconds.iter().all(|stuck| stuck.ts_ns - stuck.start_ns == 1000 * MS), "{name}");
        // The last one has heard of everything.
        let last = seconds.last().expect("five of them");
        assert_eq!((last.verdict.state, last.verdict.memory), (state, memory), "{name}");
    }
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
        .backend(crate::event::Backend { query: Some(bad.clone()), server: "\u{1b}".into(), ..backend("\u{1b}", "\n") })
        .around(surroundings(), |last| {
            let group = last.cgroup.as_mut().expect("it has one");
            group.path = bad.clone();
            group.limit_hits = Some(9_999);
            group.pressure = Pressures { memory: Some((u64::MAX, u64::MAX)), ..group.pressure };
        })
}

#[test]
fn a_thread_has_the_time_that_it_lived() {
    use crate::event::{Event, Task, TaskWhat};
    let task = |what, tid, ms| {
        Event::Task(Task { mm: Some(MM), ts_ns: BEGIN + ms * MS, pid: PID, tid, what, comm: b"late".to_vec() })
    };
    // The last interval begins at 4000 ms; there is nothing of this thread in those before.
    let scene = Scene::default()
        .spans([blocked(PID, "pause", 0)])
        .event(task(TaskWhat::ThreadStarted { child: OTHER }, PID, 4_250))
        .last([span(OTHER, Doing::Running, 700), samples(OTHER, Doing::User, 700)]);
    let stuck = scene.stuck();
    let thread = stuck.threads.iter().find(|thread| thread.tid == OTHER).expect("it lived");
    assert_eq!((thread.total_ns, thread.comm.as_slice()), (750 * MS, &b"late"[..]));
    let lost = thread.shares.iter().find(|share| share.state == State::Unaccounted).expect("50 ms are not known");
    assert_eq!(lost.ns, 50 * MS);
    assert!(!stuck.ended);
}

#[test]
fn an_end_is_told() {
    use crate::event::{Event, Task, TaskWhat};
    let what = TaskWhat::ProcessExited { code: 0 };
    let scene = Scene::default().spans([blocked(PID, "pause", 0)]).event(Event::Task(Task {
        mm: Some(MM),
        ts_ns: BEGIN + 4_900 * MS,
        pid: PID,
        tid: PID,
        what,
        comm: b"server".to_vec(),
    }));
    let verdict = scene.stuck().verdict;
    assert_eq!(
        (verdict.state, verdict.sentence.as_str()),
        (Some(State::BlockedOther), "The process ended after 5.0 s")
    );
}

#[test]
fn hostile_names_are_text() {
    let scene = hostile();
    for verbose in [false, true] {
        for width in [40, 80, 100, 160] {
            let said = text(&scene.reports(), TextOptions { verbose, width, ..TextOptions::default() });
            assert!(said.lines().all(|line| !line.chars().any(|c| c.is_control() || c == '\u{202e}')), "{said}");
            assert!(said.len() < 20_000, "{} bytes", said.len());
        }
    }
    let mut out = Vec::new();
    let mut view = JsonView::only(&mut out, Some(crate::cli::Only::Stuck));
    scene.reports().iter().for_each(|report| view.render(report).expect("a Vec takes everything"));
    let line = String::from_utf8(out).expect("JSON is UTF-8");
    assert_eq!(line.lines().count(), 1);
    assert!(!line.trim_end().chars().any(|c| c.is_control() || c == '\u{202e}'), "{line}");
    let value: serde_json::Value = serde_json::from_str(&line).expect("one object");
    assert_eq!((&value["type"], &value["pid"]), (&"stuck".into(), &PID.into()));
    assert_eq!(value["threads"][0]["states"].as_object().map(serde_json::Map::len), Some(1));
}
