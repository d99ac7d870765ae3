//! What is seen.

use super::sample::{self, BEGIN, MM, PID};
use super::*;
use crate::event::{EndReason, StackEnd};
use crate::statement::{Kind, MappingRef, Residency, Resident, Statement};
use crate::units::Amounts;
use memtrace_common::Cause;
use std::sync::Arc;

#[test]
fn every_pane_in_the_smallest_terminal() {
    let mut app = joined();
    for pane in ["1", "2", "3", "4", "5", "6", "7"] {
        press(&mut app, pane);
        insta::assert_snapshot!(format!("narrow_{pane}"), seen(&mut app, NARROW));
    }
}

#[test]
fn everything_at_once_in_a_large_one() {
    let mut app = joined();
    insta::assert_snapshot!("wide", seen(&mut app, WIDE));
    insta::assert_snapshot!("usual", seen(&mut app, (120, 40)));
    press(&mut app, "?");
    assert!(seen(&mut app, WIDE).contains("mark a moment"));
}

#[test]
fn two_panes_where_there_is_height() {
    let text = seen(&mut joined(), (80, 50));
    assert!(text.contains("1 changes") && text.contains("2 mappings"), "{text}");
}

#[test]
fn what_is_too_small_says_so_and_can_be_left() {
    for size in [(40, 10), (59, 40), (100, 13), (3, 2), (1, 1)] {
        let mut app = joined();
        let text = seen(&mut app, size);
        assert!(size.0 < 20 || text.contains("too small"), "{text}");
        assert_eq!(press(&mut app, "q"), Reaction::Quit);
    }
    assert!(!seen(&mut joined(), (60, 14)).contains("too small"));
    assert!(!seen(&mut joined(), (256, 70)).contains("too small"));
}

#[test]
fn without_colours_weight_and_characters_tell_apart() {
    let mut plain = joined();
    let mut colored = app(&sample::hash_join(), Options { color: true, replay: false });
    for keys in ["1", "2", "3", "4", "5", "6", "7", "?", "space", "1 enter"] {
        press(&mut plain, keys);
        press(&mut colored, keys);
        assert!(is_plain(&buffer(&mut plain, WIDE)), "after {keys}");
        assert!(!is_plain(&buffer(&mut colored, WIDE)), "after {keys}");
    }
    let text = seen(&mut joined(), WIDE);
    assert!(["█", "▒", "░", "s swapped", "·"].iter().all(|sign| text.contains(sign)), "{text}");
}

#[test]
fn a_session_without_anything() {
    let mut app = App::new(Options::default());
    let text = seen(&mut app, NARROW);
    assert!(text.contains("waiting for the session"), "{text}");
    press(&mut app, "1 2 3 4 5 6 left right enter m d s c f t z p end");
    assert!(matches!(press(&mut app, "e"), Reaction::Draw) && matches!(press(&mut app, "E"), Reaction::Draw));
    assert!(seen(&mut app, WIDE).contains("nothing to save"));
    app.take(&Report::Meta(sample::meta()));
    assert!(seen(&mut app, NARROW).contains("postgres[4711]"));
    app.ended();
    assert!(seen(&mut app, NARROW).contains("nothing was recorded"));
}

#[test]
fn what_a_session_ended_with_stays_until_it_is_left() {
    let mut app = joined();
    app.take(&sample::end(EndReason::Exited { code: Some(9) }));
    app.ended();
    let text = seen(&mut app, NARROW);
    assert!(text.contains("6 closing statement · was killed by SIGKILL"), "{text}");
    assert!(text.contains(" % of what grew has a complete"), "{text}");
    assert!(!app.was_interrupted());
    assert!(matches!(app.closing().as_slice(), [Report::Meta(_), .., Report::End(_)]));
    app.take(&sample::end(EndReason::Interrupted));
    assert!(app.was_interrupted());
}

/// Names that would drive the terminal, turn the text around, hide in it, or fill it.
fn hostile() -> Vec<Vec<u8>> {
    vec![
        b"\x1b[2J\x1b[31mowned\x07".to_vec(),
        "\u{202e}gpj.exe\u{200b}\u{feff}".as_bytes().to_vec(),
        b"x".repeat(4096),
        "大".repeat(2000).into_bytes(),
        format!("e{}", "\u{301}".repeat(500)).into_bytes(),
        vec![0xff, 0x00, 0x9b, b'\n', b'\r', b'\t'],
        "👩‍👩‍👧‍👦🇩🇪".repeat(50).into_bytes(),
        Vec::new(),
    ]
}

#[test]
fn hostile_names_are_text() {
    let mut reports = vec![Report::Meta(crate::event::Meta { comm: hostile()[0].clone(), ..sample::meta() })];
    for (n, name) in hostile().into_iter().enumerate() {
        let id = n as u64;
        let mapping = sample::mapping(id, if n % 2 == 0 { Kind::File } else { Kind::Anon }, &name, 100);
        let stack = sample::stack_of(n as u32, &[&name, b"main"], StackEnd::Jit);
        let mut statement = sample::statement(id, &[]);
        statement.comm.clone_from(&name);
        let entry = sample::entry(id, Cause::FaultAnon, sample::anon(100), &mapping);
        statement.entries = vec![crate::statement::Entry { comm: name.clone(), stack: Some(stack.clone()), ..entry }];
        statement.closing.amounts += sample::anon(100);
        reports.push(Report::Statement(statement));
        let burst = sample::burst(&mapping, &stack, 100);
        reports.push(Report::Burst(Box::new(crate::statement::Burst { comm: name.clone(), ..burst })));
        let here = Resident { mapping, private: 4096, shared: 0, pss: 0, swap: 0, dirty: 0 };
        reports.push(Report::Residency(Residency { mm: MM, pid: PID, ts_ns: BEGIN + id, mappings: vec![here] }));
    }
    reports.extend(crate::stuck::tests::hostile().reports().into_iter().filter(|r| matches!(r, Report::Stuck(_))));
    for size in [NARROW, WIDE, (60, 14), (121, 37)] {
        let mut app = app(&reports, Options::default());
        press(&mut app, "a");
        for keys in ["1", "2", "3", "4", "5", "6", "7", "c", "f", "1 down enter", "/ \u{202e} \u{7}"] {
            press(&mut app, keys);
            let buffer = buffer(&mut app, size);
            for cell in &buffer.content {
                let bad = |c: char| c.is_control() || crate::views::escape::deceives(c);
                assert!(!cell.symbol().chars().any(bad), "{:?} after {keys}", cell.symbol());
            }
        }
        let text = saved(press(&mut app, "esc esc esc e")).contents;
        assert!(!text.contains(&0x1b) && !text.contains(&b'\r'));
    }
}

#[test]
fn the_seconds_of_a_stall_can_be_seen() {
    let reports = crate::stuck::tests::stall("a mutex whose owner swaps").reports();
    let mut app = app(&reports, Options { color: false, replay: true });
    press(&mut app, "7");
    let text = seen(&mut app, (100, 30));
    insta::assert_snapshot!("time", text);
    press(&mut app, "/");
    type_in(&mut app, "4713");
    let text = seen(&mut app, (100, 30));
    assert!(text.contains("4713") && !text.contains("4711 server    "), "{text}");
    press(&mut app, "esc [");
    assert!(seen(&mut app, NARROW).contains("Memory."), "the first second has an answer, too");
}

#[test]
fn thousands_of_mappings_can_be_walked() {
    const MANY: u64 = 20_000;
    let row = |id: u64| Resident {
        mapping: Arc::new(MappingRef {
            start: 0x1000_0000 + id * 8192,
            end: 0x1000_0000 + id * 8192 + 4096,
            ..(*sample::mapping(id, Kind::Anon, b"", 1)).clone()
        }),
        private: 4096 * (id % 2),
        shared: 0,
        pss: 0,
        swap: 0,
        dirty: 0,
    };
    let residency = Residency { mm: MM, pid: PID, ts_ns: BEGIN + 1, mappings: (0..MANY).map(row).collect() };
    let mut app =
        app(&[Report::Meta(sample::meta()), Report::Residency(residency), sample::tick(1)], Options::default());
    press(&mut app, "2 s s s");
    let top = seen(&mut app, NARROW);
    assert!(top.contains("20000 by address"), "{top}");
    press(&mut app, "end");
    seen(&mut app, NARROW);
    let last = format!("{:#x}", 0x1000_0000 + (MANY - 1) * 8192);
    assert!(seen(&mut app, NARROW).contains(&last));
    press(&mut app, "5 end");
    let space = seen(&mut app, NARROW);
    assert!(space.contains("20000 mappings"), "{space}");
    press(&mut app, "enter");
    assert!(seen(&mut app, NARROW).contains("only anon 4 KiB"));
}

#[test]
fn bars_show_what_is_there_however_little() {
    let mapping = sample::mapping(1, Kind::Anon, b"", 1 << 20);
    let here = Resident { mapping, private: 4096, shared: 4096, pss: 0, swap: 4096, dirty: 0 };
    let residency = Residency { mm: MM, pid: PID, ts_ns: BEGIN + 1, mappings: vec![here] };
    let mut app = app(&[Report::Meta(sample::meta()), Report::Residency(residency)], Options::default());
    press(&mut app, "2");
    assert!(seen(&mut app, NARROW).contains("█▒s·······"));
}

#[test]
fn loss_and_gaps_are_alarming() {
    let mut reports = sample::hash_join();
    let lost = crate::event::Lost { records: 12, ..Default::default() };
    reports.push(Report::Loss { ts_ns: BEGIN, lost });
    let mut statement: Statement = sample::statement(40, &[(Cause::FaultAnon, 10, 1)]);
    statement.unexplained = Amounts { anon: 2, ..Amounts::ZERO };
    statement.closing.amounts += statement.unexplained;
    reports.push(Report::Statement(statement));
    let mut app = app(&reports, Options::default());
    let text = seen(&mut app, NARROW);
    assert!(text.contains("lost 12 (records)") && text.contains("unexplained 8 KiB"), "{text}");
    press(&mut app, "6");
    assert!(seen(&mut app, NARROW).contains("changes whose record had no room"));
}
