//! Twenty stalls and more: what is said of each, whole. `INSTA_UPDATE=always` writes the snapshot anew.

use super::scenes::*;
use super::stalls::*;
use super::*;
use crate::event::TimeSpan;
use crate::statement::Report;
use crate::views::sample::{BEGIN, MM, MS, PID};
use crate::views::{JsonView, TextOptions, TextView, View};
use memtrace_common::Doing;

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
        (Some(State::BlockedOther), None, "The process ended after 5.0 s"),
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
