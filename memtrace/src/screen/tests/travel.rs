//! Through time, into rows, and out again.

use super::sample::{self, BEGIN, MS};
use super::*;
use serde_json::Value;

#[test]
fn back_and_forth_in_time() {
    let mut app = joined();
    assert!(seen(&mut app, NARROW).contains("LIVE 12:00:03.000"));
    press(&mut app, "left");
    let text = seen(&mut app, NARROW);
    assert!(text.contains("PAST  12:00:02.600") && text.contains("RES 316.0M"), "{text}");
    press(&mut app, "left left");
    let text = seen(&mut app, NARROW);
    assert!(text.contains("12:00:01.900") && text.contains("RES 370.0M"), "{text}");
    // Everything since attach is everything up to there.
    press(&mut app, "a 6");
    assert!(seen(&mut app, NARROW).contains("closing 370.0 MiB"));
    press(&mut app, "[");
    assert!(seen(&mut app, NARROW).contains("12:00:01.100"));
    press(&mut app, "left left");
    assert!(seen(&mut app, NARROW).contains("12:00:01.100"), "there is nothing before the first one");
    press(&mut app, "]");
    assert!(seen(&mut app, NARROW).contains("LIVE"));
    press(&mut app, "left right");
    assert!(seen(&mut app, NARROW).contains("LIVE"), "after the last moment comes now");
}

#[test]
fn a_pause_holds_the_moment_while_reports_go_on() {
    let mut app = joined();
    press(&mut app, "space");
    let before = seen(&mut app, WIDE);
    app.take(&Report::Statement(sample::statement(50, &[(memtrace_common::Cause::FaultAnon, 512, 77)])));
    app.take(&sample::tick(51));
    let after = seen(&mut app, WIDE);
    let pane = |text: &str| text.lines().skip(8).take(14).collect::<Vec<_>>().join("\n");
    assert_eq!(pane(&before), pane(&after));
    press(&mut app, "space");
    assert!(seen(&mut app, WIDE).contains("anon 4.0 MiB"));
}

#[test]
fn spans_are_what_they_say() {
    let mut app = joined();
    // Ten seconds hold everything; one second only what was given back.
    assert!(seen(&mut app, NARROW).contains("first touch"));
    press(&mut app, "-");
    let text = seen(&mut app, NARROW);
    assert!(text.contains("last 1 s") && text.contains("RES −60.0M"), "{text}");
    press(&mut app, "left left -");
    let text = seen(&mut app, NARROW);
    assert!(text.contains("one interval up to 12:00:02.000") && text.contains("RES +6.0M"), "{text}");
    press(&mut app, "+ + + + +");
    assert!(seen(&mut app, NARROW).contains("since attach up to"));
}

#[test]
fn the_difference_of_two_moments() {
    let mut app = joined();
    press(&mut app, "d");
    assert!(seen(&mut app, NARROW).contains("mark a moment with m first"));
    press(&mut app, "[ m");
    assert!(seen(&mut app, NARROW).contains("marked"));
    press(&mut app, "d");
    assert!(seen(&mut app, NARROW).contains("this is the marked moment"));
    press(&mut app, "right right d");
    let text = seen(&mut app, NARROW);
    assert!(text.contains("diff 12:00:01.100 → 12:00:01.300") && text.contains("RES +12.0M"), "{text}");
    press(&mut app, "esc m [ d");
    assert!(seen(&mut app, NARROW).contains("12:00:01.100 → 12:00:01.300"), "in whichever order");
}

#[test]
fn into_a_row_and_out_again() {
    let mut app = joined();
    seen(&mut app, NARROW);
    press(&mut app, "down enter");
    let text = seen(&mut app, WIDE);
    assert!(text.contains("3 code") && text.contains("only munmap · anon 96.0 MiB · ExecEndHashJoin"), "{text}");
    assert!(text.contains("nothing grew"), "{text}");
    press(&mut app, "s");
    assert!(seen(&mut app, NARROW).contains("60.0 MiB given back"));
    press(&mut app, "esc esc 2");
    let text = seen(&mut app, NARROW);
    assert!(text.contains("LIVE") && !text.contains("only"), "{text}");
    // The mapping that changed most, then what changed in it.
    press(&mut app, "enter");
    let text = seen(&mut app, NARROW);
    assert!(
        text.contains("1 changes") && text.contains("only anon 96.0 MiB") && !text.contains("shared memory"),
        "{text}"
    );
}

#[test]
fn a_burst_is_a_stretch_of_time() {
    let mut app = joined();
    press(&mut app, "4 enter");
    let text = seen(&mut app, NARROW);
    assert!(text.contains("BURST") && text.contains("64.0 MiB grown"), "{text}");
    assert!(text.contains("94 %") || text.contains("93 %"), "{text}");
    press(&mut app, "1");
    assert!(seen(&mut app, NARROW).contains("burst 12:00:01.000 → 12:00:02.000"));
}

#[test]
fn code_from_both_ends() {
    let mut app = joined();
    press(&mut app, "3");
    let text = seen(&mut app, NARROW);
    assert!(text.contains("main ▸ standard_ExecutorRun ▸ ExecHashJoin"), "{text}");
    press(&mut app, "c");
    let text = seen(&mut app, NARROW);
    assert!(text.contains("ExecHashTableInsert ◂ MultiExecHash ◂ … ◂ main"), "{text}");
    press(&mut app, "c enter");
    let closed = seen(&mut app, NARROW);
    assert!(!closed.contains("MultiExecHash"), "{closed}");
    press(&mut app, "enter s");
    assert!(seen(&mut app, NARROW).contains("ExecEndHashJoin"));
}

#[test]
fn a_filter_works_while_it_is_typed() {
    let mut app = joined();
    press(&mut app, "a /");
    type_in(&mut app, "seqnext");
    let text = seen(&mut app, NARROW);
    assert!(text.contains("/ seqnext") && text.contains("shared memory") && !text.contains("anon 96.0 MiB"), "{text}");
    press(&mut app, "esc");
    assert!(seen(&mut app, NARROW).contains("anon 96.0 MiB"), "esc: as before");
    press(&mut app, "/");
    type_in(&mut app, "nosuchthing");
    press(&mut app, "enter");
    for pane in ["1", "2", "3", "4", "5", "6", "7"] {
        press(&mut app, pane);
        seen(&mut app, WIDE);
    }
    press(&mut app, "1");
    assert!(seen(&mut app, NARROW).contains("nothing that the filter lets through"));
    press(&mut app, "esc");
    assert!(seen(&mut app, NARROW).contains("first touch"));
    // Letters are letters here, not keys.
    press(&mut app, "/ q");
    assert!(!app.leaving);
}

#[test]
fn what_is_seen_can_be_kept() {
    let mut app = joined();
    let text = saved(press(&mut app, "a e"));
    assert_eq!((text.stem.as_str(), text.extension), ("memtrace-4711-20260131T120003.000", "txt"));
    insta::assert_snapshot!("export", String::from_utf8(text.contents).expect("text is text"));
    app.saved(Ok("memtrace-4711-x.txt".to_owned()));
    assert!(seen(&mut app, NARROW).contains("saved memtrace-4711-x.txt"));
    app.saved(Err("no space".to_owned()));
    assert!(seen(&mut app, NARROW).contains("not saved: no space"));
}

fn objects(save: &Save) -> Vec<Value> {
    let text = std::str::from_utf8(&save.contents).expect("NDJSON is text");
    text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

#[test]
fn ndjson_holds_the_stretch_and_its_books_close() {
    let mut app = joined();
    let whole = objects(&saved(press(&mut app, "a E")));
    let drilled = {
        seen(&mut app, NARROW);
        press(&mut app, "down enter");
        objects(&saved(press(&mut app, "E")))
    };
    for lines in [&whole, &drilled] {
        assert_eq!(lines[0]["type"], "meta");
        let statement = lines.iter().find(|line| line["type"] == "statement").expect("a statement");
        let entries = statement["entries"].as_array().expect("entries");
        for class in ["anon", "file", "shmem", "swap"] {
            let side = |side: &str| statement[side][class].as_i64().expect("bytes");
            let booked: i64 = entries.iter().map(|entry| entry["delta"][class].as_i64().expect("bytes")).sum();
            assert_eq!(side("closing") - side("opening"), booked + side("unexplained"));
        }
        for entry in entries {
            let id = &entry["stack_id"];
            assert!(
                lines.iter().any(|line| line["type"] == "stack" && line["id"] == *id || line["stack_id"] == *id),
                "{id}"
            );
        }
    }
    let count = |lines: &[Value]| {
        lines.iter().find(|l| l["type"] == "statement").map(|s| s["entries"].as_array().map(Vec::len))
    };
    assert_eq!(count(&whole), Some(Some(3)));
    assert_eq!(count(&drilled), Some(Some(1)));
    let statement = whole.iter().find(|line| line["type"] == "statement").expect("a statement");
    assert_eq!(statement["ts_ns"], BEGIN + 2600 * MS);
}

#[test]
fn a_recording_of_what_is_gone_opens_at_its_peak() {
    let mut reports = sample::hash_join();
    let mut last = sample::statement(35, &[]);
    last.opening.amounts = crate::units::Amounts { anon: 10, ..Default::default() };
    last.closing.amounts = crate::units::Amounts::ZERO;
    reports.push(Report::Statement(last));
    let options = Options { color: false, replay: true };
    let mut app = app(&reports, options);
    app.ended();
    let text = seen(&mut app, NARROW);
    assert!(text.contains("the moment of most memory") && text.contains("RES 376.0M"), "{text}");
    press(&mut app, "]");
    assert!(seen(&mut app, NARROW).contains("RES 0"));
}

#[test]
fn the_row_stays_when_others_overtake_it() {
    let mut app = joined();
    press(&mut app, "a 1");
    seen(&mut app, NARROW);
    press(&mut app, "down");
    let line = |app: &mut App| app.cursors[0].at;
    seen(&mut app, NARROW);
    assert_eq!(line(&mut app), 1);
    for n in 40..60 {
        app.take(&Report::Statement(sample::statement(n, &[(memtrace_common::Cause::FaultAnon, 9000, 99)])));
    }
    seen(&mut app, NARROW);
    assert_eq!(line(&mut app), 2, "a larger one came above it");
}
