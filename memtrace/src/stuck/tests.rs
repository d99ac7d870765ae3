//! Twenty stalls and more: what is said of each, whole. `INSTA_UPDATE=always` writes the snapshot anew.

use super::scenes::*;
use super::stalls::*;
use super::*;
use crate::event::{Backend, Cgroup, TimeSpan};
use crate::statement::Report;
use crate::views::sample::{BEGIN, MM, MS, PID};
use crate::views::{JsonView, TextOptions, TextView, View};
use memtrace_common::Doing;
use std::collections::BTreeSet;

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

    // It ended, and nothing is missing of the time after that.
    let scene = Scene::default()
        .spans([blocked(PID, "pause", 0)])
        .event(task(TaskWhat::ThreadStarted { child: OTHER }, PID, 4_250))
        .event(task(TaskWhat::ThreadExited, OTHER, 4_600))
        .last([span(OTHER, Doing::Running, 350), samples(OTHER, Doing::User, 350)]);
    let stuck = scene.stuck();
    let thread = stuck.threads.iter().find(|thread| thread.tid == OTHER).expect("it lived");
    assert_eq!((thread.total_ns, thread.shares.len()), (350 * MS, 1), "{:?}", thread.shares);
}

#[test]
fn an_end_is_told() {
    use crate::event::{Event, Task, TaskWhat};
    let task = |what| {
        let ts_ns = BEGIN + 4_900 * MS;
        Event::Task(Task { mm: Some(MM), ts_ns, pid: PID, tid: PID, what, comm: b"server".to_vec() })
    };
    let exited = task(TaskWhat::ProcessExited { code: 9 });
    let scene = Scene::default().spans([blocked(PID, "pause", 0)]);
    let verdict = scene.clone().event(exited.clone()).stuck().verdict;
    assert_eq!(
        (verdict.state, verdict.memory, verdict.sentence.as_str()),
        (Some(State::BlockedOther), None, "The process was killed by SIGKILL after 5.0 s"),
        "why is not known"
    );
    let scene = scene.event(task(TaskWhat::OomVictim)).event(exited);
    let verdict = scene.stuck().verdict;
    assert_eq!(verdict.memory, Some(true));
    assert!(verdict.sentence.starts_with("The OOM killer ended the process after 5.0 s"), "{}", verdict.sentence);
    let said = text(&scene.reports(), TextOptions::default());
    assert!(said.contains("Memory. The OOM killer") && !said.contains("Not memory"), "{said}");
}

#[test]
fn threads_that_take_turns_are_at_work() {
    let parked = stall("a virtual machine parks its threads");
    assert!(parked.clone().stuck().verdict.sentence.starts_with("No thread works: "));
    // Each waits most of its time as before, and runs the rest: one of them always does.
    let mut busy = parked.clone();
    for span in &mut busy.spans {
        span.ns = span.ns / 10 * 7;
    }
    let tids: BTreeSet<u32> = busy.spans.iter().map(|span| span.tid).collect();
    let run = |tid| [span(tid, Doing::Running, 300), samples(tid, Doing::User, 300)];
    let verdict = busy.spans(tids.into_iter().flat_map(run)).stuck().verdict;
    assert!(!verdict.sentence.contains("No thread works"), "{}", verdict.sentence);
}

#[test]
fn a_pipe_with_both_ends_in_one_process_leads_to_nobody_else() {
    let scene = |others: Vec<(u32, Vec<u8>)>| {
        let pipe = WaitObject::Pipe { fd: 3, inode: 9, others };
        Scene::default().spans([blocked(PID, "read", 3)]).wait(PID, "read", &[3], pipe, &[], &[]).stuck().verdict
    };
    let own = scene(vec![(PID, b"server".to_vec())]);
    assert!(own.sentence.ends_with("(read), which nobody has but itself"), "{}", own.sentence);
    assert_eq!(own.next, ["only a signal ends it: nobody else has either end of the pipe"]);
    let two = scene(vec![(PID, b"server".to_vec()), (99, b"sh".to_vec())]);
    assert_eq!(two.next, ["memtrace stuck --pid 99        the other end of the pipe"]);
}

#[test]
fn who_opens_a_fifo_waits_for_who_opens_it_too() {
    let fifo = WaitObject::File { fd: -1, path: b"/run/queue".to_vec(), offset: None };
    let scene = Scene::default().spans([blocked(PID, "openat", 0)]);
    let verdict = scene.wait(PID, "openat", &[], fifo, &["wait_for_partner", "fifo_open"], &[]).stuck().verdict;
    assert_eq!(verdict.state, Some(State::BlockedPipe));
    assert!(
        verdict.sentence.ends_with("somebody to open the other end of /run/queue (openat)"),
        "{}",
        verdict.sentence
    );
    assert_eq!(fact(&verdict, "object"), "");
    assert!(verdict.next[0].starts_with("it goes on when another process opens the other end"), "{:?}", verdict.next);
}

#[test]
fn who_waits_for_those_that_work_does_not_decide() {
    let first = |percent: u64| {
        let mut scene = Scene::default().spans([blocked(PID, "futex", 0x1000)]);
        for tid in [WORKER, OTHER, OTHER + 1] {
            let turn = TimeSpan { ns: (1000 - 10 * percent) * MS, ..blocked(tid, "futex", 0x2000) };
            scene = scene
                .spans([turn, span(tid, Doing::Running, 10 * percent), samples(tid, Doing::User, 10 * percent)])
                .wait(tid, "futex", &[0x2000], WaitObject::Unknown, &[], &["pthread_cond_timedwait", "take_gil"]);
        }
        scene.stuck().threads[0].tid
    };
    // Three threads of Python that take turns, and the one that has started them: together they work, or hardly.
    assert_ne!(first(33), PID);
    assert_eq!(first(10), PID);
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

#[test]
fn only_waits_that_last_are_a_deadlock() {
    // Each holds what the other one wants, as the last looks had it: in waits that end, or that have ended.
    let scene = |count, max_ms, open| {
        let waits = |tid, address| TimeSpan {
            count,
            max_ns: max_ms * MS,
            open,
            before: false,
            ..blocked(tid, "futex", address)
        };
        let owned = |address, owner| WaitObject::Futex { address, mapping: Vec::new(), owner: Some(owner) };
        Scene::default()
            .spans([waits(PID, 0x1000), waits(WORKER, 0x2000)])
            .wait(PID, "futex", &[0x1000], owned(0x1000, WORKER), &[], &[])
            .wait(WORKER, "futex", &[0x2000], owned(0x2000, PID), &[], &[])
            .stuck()
            .verdict
    };
    assert!(scene(0, 0, true).sentence.starts_with("Deadlock: thread "));
    for verdict in [scene(300, 9, true), scene(1, 5_000, false)] {
        assert_eq!(verdict.state, Some(State::BlockedFutex));
        assert!(!verdict.sentence.contains("eadlock"), "{}", verdict.sentence);
        assert!(verdict.sentence.contains("last seen held by"), "{}", verdict.sentence);
    }
}

/// A stall whose cgroup is made another one.
fn in_group(name: &str, change: impl Fn(&mut Cgroup)) -> Verdict {
    let scene = stall(name);
    let (mut first, mut last) = scene.surroundings.clone().expect("it has a cgroup");
    for now in [&mut first, &mut last] {
        change(now.cgroup.as_mut().expect("it has a cgroup"));
    }
    scene.around(first, |now| *now = last).stuck().verdict
}

fn fact<'a>(verdict: &'a Verdict, wanted: &str) -> &'a str {
    verdict.evidence.iter().find(|(about, _)| *about == wanted).map_or("", |(_, fact)| fact.as_str())
}

#[test]
fn each_limit_of_a_cgroup_is_said_of_the_group_that_has_it() {
    let throttled = in_group("throttled", |group| {
        group.path = b"/sys/fs/cgroup/x.slice".to_vec();
        group.quota_file = b"/sys/fs/cgroup/x.slice/y.service/cpu.max".to_vec();
    });
    let said = fact(&throttled, "cgroup");
    assert!(said.starts_with("/sys/fs/cgroup/x.slice/y.service: may use 10 ms of CPU time in each 100 ms; "), "{said}");
    let line =
        "cat /sys/fs/cgroup/x.slice/y.service/cpu.max /sys/fs/cgroup/x.slice/y.service/cpu.stat        the quota";
    assert_eq!(throttled.next, [line]);
    let old = in_group("throttled", |group| group.quota_file = b"/sys/fs/cgroup/cpu/y/cpu.cfs_quota_us".to_vec());
    let line = "cat /sys/fs/cgroup/cpu/y/cpu.cfs_quota_us /sys/fs/cgroup/cpu/y/cpu.stat        the quota";
    assert_eq!(old.next, [line]);

    let frozen = in_group("frozen", |group| {
        let files = ["/sys/fs/cgroup/x.slice/y.service/cgroup.freeze", "/sys/fs/cgroup/x.slice/cgroup.freeze"];
        group.frozen_by = files.map(|file| file.as_bytes().to_vec()).to_vec();
    });
    let said = fact(&frozen, "cgroup");
    assert!(said.ends_with("/sys/fs/cgroup/x.slice/y.service: frozen; /sys/fs/cgroup/x.slice: frozen"), "{said}");
    let lines =
        ["echo 0 > /sys/fs/cgroup/x.slice/y.service/cgroup.freeze", "echo 0 > /sys/fs/cgroup/x.slice/cgroup.freeze"];
    assert_eq!(frozen.next, lines);
    let old = in_group("frozen", |group| group.frozen_by = vec![b"/sys/fs/cgroup/freezer/y/freezer.state".to_vec()]);
    assert_eq!(old.next, ["echo THAWED > /sys/fs/cgroup/freezer/y/freezer.state"]);
}

#[test]
fn no_name_of_a_cgroup_is_a_command() {
    let named = |name: &[u8]| {
        let path = |rest: &[u8]| [b"/sys/fs/cgroup/", name, rest].concat();
        ["frozen", "throttled", "swap thrash under a cgroup's limit"].map(|stall| {
            let verdict = in_group(stall, |group| {
                (group.path, group.quota_file) = (path(b""), path(b"/cpu.max"));
                if group.frozen == Some(true) {
                    group.frozen_by = vec![path(b"/cgroup.freeze")];
                }
            });
            verdict.next.join("\n")
        })
    };
    let [frozen, throttled, swapping] = named(b"a;curl x|sh");
    assert_eq!(frozen, "echo 0 > '/sys/fs/cgroup/a;curl x|sh/cgroup.freeze'");
    assert!(throttled.contains("cat '/sys/fs/cgroup/a;curl x|sh/cpu.max' '/sys/fs/cgroup/a;curl x|sh/cpu.stat'"));
    assert!(swapping.contains("memtrace snapshot --cgroup '/sys/fs/cgroup/a;curl x|sh'        "), "{swapping}");
    // What systemd makes of a dash is a backslash: it is no other path.
    assert_eq!(named(br"a\x2db.slice")[0], r"echo 0 > '/sys/fs/cgroup/a\x2db.slice/cgroup.freeze'");
    for bad in [&b"a\x1b[2J"[..], b"a\xff", "a\u{202e}".as_bytes(), &[b'a'; 600]] {
        let [frozen, throttled, swapping] = named(bad);
        assert!(!frozen.contains("/sys/fs/cgroup") && frozen.starts_with("cat /proc/"), "{frozen}");
        assert!(!throttled.contains("/sys/fs/cgroup") && !swapping.contains("--cgroup"), "{throttled} {swapping}");
    }
}

#[test]
fn a_session_that_no_longer_blocks_is_not_to_be_ended() {
    let verdict = |change: &dyn Fn(&mut Backend)| {
        let mut scene = stall("PostgreSQL's lock, whose holder it names");
        let end = BEGIN + 5_000 * MS;
        let backend = scene.backend.as_mut().expect("it is one");
        (backend.ts_ns, backend.asked_ns) = (end, Some(end - 1_000 * MS));
        change(backend);
        scene.stuck().verdict
    };
    let held = verdict(&|_| {});
    assert!(held.sentence.contains(" behind process 4710 (idle in transaction for 5 min 12 s"), "{}", held.sentence);
    assert!(held.next.iter().any(|line| line.contains("pg_terminate_backend(4710)")), "{:?}", held.next);
    assert!(!fact(&held, "blocked by").is_empty());

    // It goes on, and so does whoever kept it. What is told of that one is as of the answer: a second ago.
    let over = verdict(&|backend| backend.in_lock = false);
    let said = "; it was blocked by process 4710 (idle in transaction for 5 min 11 s";
    assert!(over.sentence.contains(said) && over.sentence.contains("), which is over"), "{}", over.sentence);
    // Nobody knows whether it still is the same one.
    let stale = verdict(&|backend| backend.asked_ns = Some(backend.ts_ns - 2_001 * MS));
    assert!(stale.sentence.contains("; it was blocked by process 4710"), "{}", stale.sentence);
    assert!(stale.next[0].contains("pg_blocking_pids"), "{:?}", stale.next);
    for was in [&over, &stale] {
        assert!(!was.next.iter().any(|line| line.contains("terminate") || line.contains("4710")), "{:?}", was.next);
        assert!(fact(was, "blocked by").is_empty() && !fact(was, "was blocked by").is_empty(), "{:?}", was.evidence);
    }
    // Of another time altogether.
    let old = verdict(&|backend| (backend.asked_ns, backend.in_lock) = (Some(BEGIN - 3_000 * MS), false));
    assert!(!old.sentence.contains("4710") && fact(&old, "was blocked by").is_empty(), "{}", old.sentence);
}

#[test]
fn samples_without_a_place_may_be_any_functions() {
    let spins = |placed: u64| {
        let scene = Scene::default().spans([span(PID, Doing::Running, 1000), samples(PID, Doing::User, 1000)]);
        let stuck = scene.ran(PID, b"first", b"/usr/bin/program", placed).ran(PID, b"second", b"", 100).stuck();
        let bound = |at: usize| stuck.threads[0].ran[at].bound_ns * 1000 / stuck.threads[0].total_ns;
        (stuck.threads[0].ran.iter().map(|f| f.samples).collect::<Vec<_>>(), bound(0), stuck.verdict.sentence)
    };
    // 5,000 samples in all: what chance leaves is a percent.
    let (counts, bound, sentence) = spins(900);
    assert_eq!((counts, bound < 10), (vec![4500, 500], true), "{bound}");
    assert!(sentence.contains("most of it in first (program)"), "{sentence}");
    // A fourth of them is nowhere.
    let (counts, bound, sentence) = spins(650);
    assert_eq!((counts, bound), (vec![3250, 500], 263), "{bound}");
    assert!(!sentence.contains("most of it"), "{sentence}");
}
