//! Many threads and many processes: sums stay exact, and what is left out is told.

use super::*;
use crate::event::{Cgroup, TimeSpan};
use crate::event::{Closing, End, EndReason, Event, MmId, Task, TaskWhat, Tick};
use crate::model::Model;
use crate::statement::Report;

const SECOND: u64 = 1_000_000_000;

fn opened(mm: u32, pid: u32) -> Event {
    Event::MmOpened(MmOpened {
        mm: MmId(mm),
        ts_ns: 0,
        pid,
        comm: b"server".to_vec(),
        why: Why::Attach,
        counters: Amounts::default(),
        virt: 0,
        start_brk: 0,
        brk: 0,
        start_stack: 0,
    })
}

fn task(mm: u32, pid: u32, tid: u32, ts_ns: u64, what: TaskWhat) -> Event {
    Event::Task(Task { mm: Some(MmId(mm)), ts_ns, pid, tid, comm: b"worker".to_vec(), what })
}

/// Each of the threads slept for so long in the second that ends then.
fn slept(mm: u32, tids: impl Iterator<Item = u32>, ns: u64, ts_ns: u64) -> Event {
    let span = |tid| TimeSpan {
        tid,
        doing: Doing::Blocked,
        cause: None,
        nr: Some(35),
        object: 0,
        detail: 0,
        address: 0,
        before: false,
        open: false,
        ns,
        max_ns: ns,
        count: 1,
        samples: 0,
    };
    let (begin_ns, spans) = (ts_ns - SECOND, tids.map(span).collect());
    Event::Times(Times { mm: MmId(mm), begin_ns, ts_ns, sample_ns: 0, spans, holds: Vec::new() })
}

fn tick(ts_ns: u64) -> Event {
    let closing = Closing { mm: MmId(0), counters: Amounts::default(), virt: None };
    Event::Tick(Tick { ts_ns, closings: vec![closing], lost: Lost::default(), own: Own::default() })
}

/// The answers for the whole session.
fn answers(events: Vec<Event>) -> Vec<Stuck> {
    let (mut model, mut out) = (Model::new(), Vec::new());
    model.apply(&Event::Meta(crate::event::Meta { pid: 7, ts_ns: 0, ..crate::views::sample::meta() }), &mut out);
    events.iter().for_each(|event| model.apply(event, &mut out));
    let whole = |report| match report {
        Report::Stuck(stuck) if stuck.whole => Some(*stuck),
        _ => None,
    };
    out.into_iter().filter_map(whole).collect()
}

fn end(ts_ns: u64) -> Event {
    Event::End(End::new(ts_ns, EndReason::Duration))
}

#[test]
fn a_thread_for_each_connection_has_room_for_ever() {
    let mut events = vec![opened(0, 7)];
    // 20 seconds, in each of which a thousand threads live for half a second.
    for second in 0..20_u64 {
        let tids = 1_000 * second as u32 + 100..1_000 * second as u32 + 1_100;
        let (begin, ts_ns) = (second * SECOND, (second + 1) * SECOND);
        for tid in tids.clone() {
            events.push(task(0, 7, 7, begin, TaskWhat::ThreadStarted { child: tid }));
            events.push(task(0, 7, tid, begin + SECOND / 2, TaskWhat::ThreadExited));
        }
        events.push(slept(0, tids, 400_000_000, ts_ns));
        events.push(slept(0, 7..8, SECOND, ts_ns));
        events.push(tick(ts_ns));
    }
    events.push(end(20 * SECOND));
    let [stuck] = &answers(events)[..] else { panic!("one process") };
    assert_eq!(stuck.left_out, LeftOut::default());
    let ended = stuck.ended_threads.as_ref().expect("twenty thousand threads have no row each");
    assert_eq!(ended.threads + stuck.threads.len() as u64, 20_001);
    assert_eq!(stuck.threads.iter().map(|thread| thread.total_ns).sum::<u64>() + ended.total_ns, 10_020 * SECOND);
    let told: Vec<(State, u64)> = ended.shares.iter().map(|share| (share.state, share.ns)).collect();
    let each = |ns| ended.threads * ns;
    assert_eq!(told, [(State::BlockedSleep, each(400_000_000)), (State::Unaccounted, each(100_000_000))]);
    assert!(stuck.threads.iter().any(|thread| thread.tid == 7), "it lives");
}

#[test]
fn threads_without_room_are_counted() {
    let many = THREADS as u32 + 100;
    let events = vec![opened(0, 7), slept(0, 7..7 + many, SECOND, SECOND), tick(SECOND), end(SECOND)];
    let [stuck] = &answers(events)[..] else { panic!("one process") };
    assert_eq!((stuck.threads.len(), stuck.left_out.threads, stuck.ended_threads.as_ref()), (THREADS, 100, None));
}

#[test]
fn processes_that_ended_make_room() {
    let mut events = Vec::new();
    for nth in 0..PROCESSES as u32 + 3 {
        let (pid, ts_ns) = (7 + nth, u64::from(nth + 1) * SECOND);
        events.extend([opened(nth, pid), slept(nth, pid..pid + 1, SECOND, ts_ns)]);
        events.push(task(nth, pid, pid, ts_ns, TaskWhat::ProcessExited { code: 0 }));
    }
    events.push(end(5_000 * SECOND));
    let found = answers(events);
    assert!(found.iter().all(|stuck| stuck.left_out.processes == 3));
    let pids: Vec<u32> = found.iter().map(|stuck| stuck.pid).collect();
    assert!(
        pids.len() == PROCESSES && pids[0] == 7 && !pids.contains(&8) && pids.contains(&(7 + PROCESSES as u32 + 2))
    );
}

/// Each waited for so long in this call on this object.
fn waited(doing: Doing, call: &str, object: u64, ns: u64) -> TimeSpan {
    TimeSpan {
        tid: 7,
        doing,
        cause: None,
        nr: crate::syscalls::number(call),
        object,
        detail: 0,
        address: 0,
        before: false,
        open: false,
        ns,
        max_ns: ns / 10,
        count: 10,
        samples: 0,
    }
}

/// The second that ends then.
fn second(spans: Vec<TimeSpan>, ts_ns: u64) -> Event {
    Event::Times(Times { mm: MmId(0), begin_ns: ts_ns - SECOND, ts_ns, sample_ns: 0, spans, holds: Vec::new() })
}

fn look(tid: u32, call: &str, argument: u64, object: WaitObject, ts_ns: u64) -> Event {
    Event::Wait(Wait {
        mm: MmId(0),
        ts_ns,
        pid: 7,
        tid,
        comm: b"server".to_vec(),
        state: b'S',
        nr: crate::syscalls::number(call),
        args: [argument, 0, 0, 0, 0, 0],
        object,
        kernel: Vec::new(),
        stack: None,
        at_attach: false,
    })
}

fn pipe(fd: i32) -> WaitObject {
    WaitObject::Pipe { fd, inode: 991, others: Vec::new() }
}

/// State and object of the main thread's shares.
fn told(events: Vec<Event>) -> Vec<(State, WaitObject)> {
    let [stuck] = &answers(events)[..] else { panic!("one process") };
    let thread = stuck.threads.iter().find(|thread| thread.tid == 7).expect("the main thread");
    thread.shares.iter().map(|share| (share.state, share.object.clone())).collect()
}

#[test]
fn a_look_at_another_object_says_nothing() {
    let futex = |address| WaitObject::Futex { address, mapping: Vec::new(), owner: Some(8) };
    let spans = vec![
        waited(Doing::Uninterruptible, "read", 7, SECOND / 2),
        waited(Doing::Blocked, "futex", 0x2000, SECOND / 3),
        waited(Doing::Blocked, "read", 5, SECOND / 8),
    ];
    let events = vec![
        opened(0, 7),
        look(7, "read", 5, pipe(5), 1),
        look(7, "futex", 0x1000, futex(0x1000), 2),
        second(spans, SECOND),
        tick(SECOND),
        end(SECOND),
    ];
    let found = told(events);
    assert_eq!(found[0], (State::BlockedFileIo, WaitObject::Unknown));
    let unlooked = WaitObject::Futex { address: 0x2000, mapping: Vec::new(), owner: None };
    assert_eq!(found[1], (State::BlockedFutex, unlooked));
    assert_eq!(found[2], (State::BlockedPipe, pipe(5)));
}

#[test]
fn a_descriptor_is_believed_for_a_while() {
    // Another thread was seen at the descriptor; this one reads from it in one second of ten.
    let session = |seen_ns, read_second: u64, between: Vec<Event>| {
        let mut events = vec![opened(0, 7), look(8, "read", 5, pipe(5), seen_ns)];
        events.extend(between);
        for nth in 0..10 {
            let doing = if nth == read_second { Doing::Blocked } else { Doing::Runnable };
            events.push(second(vec![waited(doing, "read", 5, SECOND)], (nth + 1) * SECOND));
        }
        events.push(end(10 * SECOND));
        told(events).into_iter().find(|(state, _)| *state != State::Runnable).expect("the wait")
    };
    assert_eq!(session(SECOND, 2, Vec::new()), (State::BlockedPipe, pipe(5)));
    assert_eq!(session(SECOND, 8, Vec::new()), (State::BlockedOther, WaitObject::Unknown));
    let Event::MmOpened(first) = opened(0, 7) else { panic!("that event") };
    let program = MmOpened { mm: MmId(1), why: Why::Exec { left: Some(MmId(0)) }, ..first };
    let found = session(SECOND, 2, vec![Event::MmOpened(program)]);
    assert_eq!(found, (State::BlockedOther, WaitObject::Unknown), "another program's");
}

#[test]
fn a_groups_throttling_is_not_surely_this_process() {
    // Two of eight CPUs, one thread, and a group in which others may run.
    let around = |throttled_ns| {
        let cgroup = Cgroup { throttled: Some((throttled_ns, None)), ..Cgroup::default() };
        let now = Surroundings { pid: 7, cpus: 8, allowed_cpus: 2, cgroup: Some(cgroup), ..Surroundings::default() };
        Event::Surroundings(Box::new(now))
    };
    let spans = vec![TimeSpan { nr: None, ..waited(Doing::Runnable, "", 0, SECOND) }];
    let events = vec![opened(0, 7), around(0), around(SECOND / 10 * 8), second(spans, SECOND), end(SECOND)];
    let [stuck] = &answers(events)[..] else { panic!("one process") };
    let share = |state| stuck.threads[0].shares.iter().find(|share| share.state == state).expect("a share");
    let (throttled, runnable) = (share(State::Throttled), share(State::Runnable));
    assert_eq!((throttled.ns, throttled.bound_ns), (SECOND / 10 * 8, SECOND / 10 * 7));
    assert_eq!((throttled.count, throttled.max_ns, runnable.count, runnable.max_ns), (10, SECOND / 10, 0, 0));
}

/// What the backend says a moment before the second ends: what its looks found, and whom it waits for.
fn says(ts_ns: u64, event: (&str, &str), blockers: Option<(u64, &[u32], bool)>) -> Event {
    let ts_ns = ts_ns - 1_000_000;
    let blocker = |&own_pid: &u32| crate::event::Blocker { own_pid, ..Default::default() };
    Event::Backend(Box::new(Backend {
        ts_ns,
        pid: 7,
        waits: vec![(Some((event.0.to_owned(), event.1.to_owned())), 50)],
        blocked_by: blockers.map(|(_, pids, _)| pids.iter().map(blocker).collect()),
        asked_ns: blockers.map(|(asked_ns, ..)| asked_ns),
        in_lock: blockers.is_some_and(|(.., in_lock)| in_lock),
        ..Backend::default()
    }))
}

/// What is known of the backend in each second, and at last in the whole session.
fn backends(said: Vec<Option<Event>>) -> Vec<Backend> {
    let (mut model, mut out) = (Model::new(), Vec::new());
    model.apply(&Event::Meta(crate::event::Meta { pid: 7, ts_ns: 0, ..crate::views::sample::meta() }), &mut out);
    model.apply(&opened(0, 7), &mut out);
    let seconds = said.len() as u64;
    for (second, event) in (1..).zip(said) {
        let events = event.into_iter().chain([slept(0, 7..8, SECOND, second * SECOND), tick(second * SECOND)]);
        events.for_each(|event| model.apply(&event, &mut out));
    }
    model.apply(&end(seconds * SECOND), &mut out);
    let of = |report| match report {
        Report::Stuck(stuck) => stuck.backend,
        _ => None,
    };
    out.into_iter().filter_map(of).collect()
}

#[test]
fn a_second_has_its_own_wait_events() {
    let (idle, locked) = (("Client", "ClientRead"), ("Lock", "transactionid"));
    let said = |second: u64| Some(says(second * SECOND, if second <= 60 { idle } else { locked }, None));
    let found = backends((1..=62).map(said).chain([None]).collect());
    let waits = |event: (&str, &str), times| (Some((event.0.to_owned(), event.1.to_owned())), times);
    assert_eq!(found.len(), 64);
    assert_eq!(found[59].waits, [waits(idle, 50)]);
    assert_eq!(found[60].waits, [waits(locked, 50)], "not what it waited for before");
    assert_eq!(found[62].waits, [waits(locked, 50)], "the last word, where none came in time");
    assert_eq!(found[63].waits, [waits(idle, 3_000), waits(locked, 100)]);
}

#[test]
fn whom_it_waited_for_is_kept_as_what_was() {
    let lock = ("Lock", "transactionid");
    let found = backends(vec![
        Some(says(SECOND, lock, Some((5, &[4710], true)))),
        Some(says(2 * SECOND, lock, Some((SECOND, &[], true)))),
        Some(says(3 * SECOND, ("Client", "ClientRead"), None)),
    ]);
    let blocks = |backend: &Backend| {
        let pids = backend.blocked_by.as_ref().map(|them| them.iter().map(|one| one.own_pid).collect::<Vec<_>>());
        (pids, backend.asked_ns, backend.in_lock)
    };
    assert_eq!(blocks(&found[0]), (Some(vec![4710]), Some(5), true));
    assert_eq!(blocks(&found[1]), (Some(vec![]), Some(SECOND), true));
    assert_eq!(blocks(&found[2]), (None, None, false));
    assert_eq!(blocks(&found[3]), (Some(vec![4710]), Some(5), false), "of the whole session");
}
