use super::*;
use crate::event::{EndReason, Lost, Mode, StackEnd, StackId, TaskWhat};
use crate::statement::{Balance, Entry, Faults, ProcessChange, StackSums};
use crate::units::Amounts;
use crate::views::sample;

pub(super) fn text_with(options: TextOptions, reports: &[Report]) -> String {
    let mut out = Vec::new();
    let mut view = TextView::new(&mut out, options);
    for report in reports {
        view.render(report).expect("a Vec takes everything");
    }
    String::from_utf8(out).expect("text is UTF-8")
}

fn text(reports: &[Report]) -> String {
    text_with(TextOptions::default(), reports)
}

/// Without the header.
fn told(reports: Vec<Report>) -> String {
    let header = text(&[Report::Meta(sample::meta())]);
    let mut all = vec![Report::Meta(sample::meta())];
    all.extend(reports);
    text(&all)[header.len()..].to_owned()
}

#[test]
fn the_sample_session() {
    insta::assert_snapshot!(text(&sample::session()));
}

#[test]
fn the_sample_session_in_colour_and_verbose() {
    let options = TextOptions { color: true, verbose: true, width: 72, ..TextOptions::default() };
    insta::assert_snapshot!(text_with(options, &sample::session()).replace('\x1b', "␛"));
}

#[test]
fn only_the_closing_statement() {
    let options = TextOptions { closing_only: true, ..TextOptions::default() };
    let text = text_with(options, &sample::session());
    let (answer, closing) = text.split_once("── closing statement, 5.0 s").expect("there is one");
    assert!(answer.starts_with("── where the time went, 5.0 s"), "what was asked for comes first: {answer}");
    assert!(answer.lines().nth(1).is_some_and(|line| line.starts_with("Not memory. ")), "{answer}");
    assert!(closing.contains("unexplained"), "{text}");
}

#[test]
fn colour_changes_nothing_but_colour() {
    let plain = text(&sample::session());
    let mut colored = text_with(TextOptions { color: true, ..TextOptions::default() }, &sample::session());
    while let Some(start) = colored.find('\x1b') {
        let end = start + colored[start..].find('m').expect("an SGR sequence ends");
        colored.replace_range(start..=end, "");
    }
    let trimmed = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    assert_eq!(trimmed(&colored), trimmed(&plain));
}

#[test]
fn quiet_intervals_stay_quiet_until_they_have_added_up() {
    assert_eq!(told((1..20).map(|i| Report::Statement(sample::ripple(i))).collect()), "");
    // The default threshold is 0.5 % of 312 MiB: 134 ripples of three pages.
    let reports: Vec<_> = (1..=134).map(|i| Report::Statement(sample::ripple(i))).collect();
    insta::assert_snapshot!(told(reports));
}

#[test]
fn the_threshold_can_be_chosen() {
    let options = TextOptions { threshold_bytes: Some(3 * 4096), ..TextOptions::default() };
    let reports = [Report::Meta(sample::meta()), Report::Statement(sample::ripple(1))];
    assert!(text_with(options, &reports).contains("RES +12 KiB"));
    let options = TextOptions { threshold_bytes: Some(3 * 4096 + 1), ..TextOptions::default() };
    assert!(!text_with(options, &reports).contains("RES +12 KiB"));
}

#[test]
fn what_does_not_add_up_is_told_at_once() {
    let mut statement = sample::ripple(1);
    statement.closing.amounts.anon += 2;
    statement.unexplained = Amounts { anon: 2, ..Amounts::ZERO };
    statement.lost = Lost { skipped: 1, ..Lost::default() };
    insta::assert_snapshot!(told(vec![Report::Statement(statement)]));
}

#[test]
fn a_repeated_entry_is_told_in_one_line() {
    let mut again = sample::growth();
    again.start_ns = again.ts_ns;
    again.ts_ns += 100_000_000;
    insta::assert_snapshot!(told(vec![Report::Statement(sample::growth()), Report::Statement(again)]));
}

#[test]
fn faults_that_an_interval_takes_back_are_not_told() {
    let line = |faults| {
        let mut statement = sample::growth();
        statement.entries.truncate(1);
        statement.entries[0].faults = faults;
        let text = told(vec![Report::Statement(statement)]);
        text.lines().find(|line| line.contains(" in faults")).map(|line| line.trim().to_owned())
    };
    assert_eq!(line(Faults { minor: -1, major: 0 }), None);
    assert_eq!(line(Faults { minor: -1, major: 1 }), None);
    let told = line(Faults { minor: -1, major: 3 }).expect("three that were major");
    assert!(told.starts_with("3 major faults, p50 "), "{told}");
}

/// One cause, mapping and thread, several code paths.
fn branching() -> Statement {
    let mut statement = sample::growth();
    let by = |pages, stack| Entry {
        stack,
        ..sample::entry(Cause::FaultAnon, Amounts { anon: pages, ..Amounts::ZERO }, Some(sample::hash_table()))
    };
    let mut unlike = (*sample::hash_stack()).clone();
    unlike.id = StackId(8);
    std::sync::Arc::make_mut(&mut unlike.frames[0]).offset += 16;
    let unlike = Some(std::sync::Arc::new(unlike));
    statement.entries = vec![
        by(400, Some(sample::code(0x1000))),
        by(300, Some(sample::hash_stack())),
        by(280, unlike),
        by(15, Some(sample::table_stack())),
        by(5, None),
    ];
    statement
}

#[test]
fn an_entry_with_several_code_paths_tells_the_largest_with_their_shares() {
    insta::assert_snapshot!(told(vec![Report::Statement(branching())]));
}

#[test]
fn whole_stacks_are_told_once_where_more_is_asked_for() {
    let options = TextOptions { verbose: true, ..TextOptions::default() };
    let mut again = sample::growth();
    again.start_ns = again.ts_ns;
    again.ts_ns += 100_000_000;
    let reports = [Report::Meta(sample::meta()), Report::Statement(sample::growth()), Report::Statement(again)];
    let text = text_with(options, &reports);
    for frame in [
        "#1  ExecHashTableInsert+0x1f  postgres",
        "#0  dense_alloc  (inlined)",
        "\n               … (deeper than 32 KiB)",
    ] {
        assert_eq!(text.matches(frame).count(), 1, "{frame}\n{text}");
    }
}

#[test]
fn a_very_deep_stack_is_listed_in_part() {
    let mut stack = (*sample::hash_stack()).clone();
    stack.frames = vec![stack.frames[1].clone(); 1000];
    let mut statement = sample::growth();
    statement.entries.truncate(1);
    statement.entries[0].stack = Some(stack.into());
    let options = TextOptions { verbose: true, ..TextOptions::default() };
    let text = text_with(options, &[Report::Meta(sample::meta()), Report::Statement(statement)]);
    assert!(text.contains("#127") && !text.contains("#128") && text.contains("… 872 more"), "{text}");
}

#[test]
fn where_stacks_are_off_that_is_said_at_the_end() {
    let mut end = sample::end();
    let stacks = |grown, complete, failures: &[(StackEnd, (u64, u64))], without| StackSums {
        grown,
        complete,
        failures: failures.iter().copied().collect(),
        without,
    };
    end.stacks = stacks(10, 0, &[(StackEnd::Off, (3, 10))], 0);
    let said = |end: &crate::statement::EndReport| {
        let text = told(vec![Report::End(Box::new(end.clone()))]);
        let from = text.lines().skip_while(|line| !line.starts_with("stacks "));
        from.take_while(|line| !line.starts_with("names") && !line.starts_with("own"))
            .map(str::trim)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(said(&end), "stacks       not copied (--no-stacks): of the code one frame is known");
    end.stacks = stacks(100_000, 99_990, &[(StackEnd::Deep, (2, 4)), (StackEnd::Jit, (1, 1))], 5);
    assert_eq!(
        said(&end),
        "stacks       99.9 % of what grew has a complete one; 20 KiB do not: deep 2, jit 1; 20 KiB without code \
         (kernel threads, fork, exec)"
    );
    end.stacks = stacks(10, 10, &[], 0);
    assert_eq!(said(&end), "stacks       100 % of what grew has a complete one");
    end.stacks = StackSums::default();
    assert_eq!(said(&end), "");
}

#[test]
fn bursts_only_says_nothing_of_the_rest() {
    let options = TextOptions { only: Some(Only::Bursts), ..TextOptions::default() };
    let calm: Vec<_> = sample::session().into_iter().filter(|report| !matches!(report, Report::Burst(_))).collect();
    assert_eq!(text_with(options, &calm), "");
}

#[test]
fn many_entries_are_cut_and_summed() {
    let mut statement = sample::growth();
    statement.entries = (0..9)
        .map(|i| Entry {
            tid: 100 + i,
            faults: Faults { minor: 1000, major: 0 },
            ..sample::entry(
                Cause::FaultAnon,
                Amounts { anon: 1000 - i64::from(i), ..Amounts::ZERO },
                Some(sample::hash_table()),
            )
        })
        .collect();
    let text = told(vec![Report::Statement(statement)]);
    assert_eq!(text.matches("first touch").count(), 6, "{text}");
    assert!(text.contains("and 3 more, together +11.6 MiB, 3,000 faults"), "{text}");
}

#[test]
fn zero_sum_moves_show_both_classes() {
    let mut statement = sample::growth();
    let moves = |cause, delta| Entry { stack: None, ..sample::entry(cause, delta, None) };
    statement.entries = vec![
        moves(Cause::FaultCow, Amounts { anon: 2560, file: -2560, ..Amounts::ZERO }),
        moves(Cause::ReclaimKswapd, Amounts { anon: -1280, swap: 1280, ..Amounts::ZERO }),
    ];
    statement.entries[1].tid = 61;
    statement.entries[1].comm = b"kswapd0".to_vec();
    statement.closing = Balance {
        amounts: statement.opening.amounts + Amounts { anon: 1280, file: -2560, shmem: 0, swap: 1280 },
        virt: None,
    };
    insta::assert_snapshot!(told(vec![Report::Statement(statement)]));
}

#[test]
fn the_header_says_less_where_less_is_known() {
    let mut meta = sample::meta();
    meta.mode = Mode::Batched;
    meta.mode_reason = "rss_stat fires in batches on this kernel".into();
    meta.cmdline.clear();
    let mut overview = sample::overview();
    overview.uss = None;
    overview.private_file = None;
    overview.pss = None;
    overview.swap = 5 << 20;
    overview.hugetlb = 2 << 20;
    insta::assert_snapshot!(text(&[Report::Meta(meta), Report::Overview(overview)]));
}

#[test]
fn audits_are_told_when_they_are_news() {
    let agreeing = Report::Audit(sample::audit(false));
    let differing = Report::Audit(sample::audit(true));
    assert_eq!(told(vec![agreeing.clone(), agreeing.clone(), agreeing.clone()]).lines().count(), 1);
    insta::assert_snapshot!(told(vec![agreeing.clone(), differing, agreeing.clone(), agreeing]));
}

#[test]
fn processes_and_losses() {
    let process = |what| Report::Process(ProcessChange { task: sample::task(what) });
    insta::assert_snapshot!(told(vec![
        process(TaskWhat::Forked { child: 4720 }),
        process(TaskWhat::SharedMm { child: 4721 }),
        process(TaskWhat::ThreadStarted { child: 4722 }),
        process(TaskWhat::Execed),
        process(TaskWhat::OomVictim),
        process(TaskWhat::ProcessExited { code: 9 }),
        Report::Loss { ts_ns: sample::BEGIN, lost: sample::LOST },
    ]));
}

#[test]
fn a_followed_child_has_its_own_name_and_books() {
    let mut meta = sample::meta();
    meta.follow = true;
    let mut child = sample::growth();
    child.mm = MmId(1);
    child.pid = 4720;
    let mut child_closing = sample::closing();
    child_closing.mm = MmId(1);
    child_closing.pid = 4720;
    let mut end = sample::end();
    end.mms = 2;
    end.end.reason = EndReason::Interrupted;
    let text = text(&[
        Report::Meta(meta),
        Report::Statement(child),
        Report::Closing(child_closing),
        Report::Statement(sample::shrinkage()),
        Report::Closing(sample::closing()),
        Report::End(Box::new(end)),
    ]);
    insta::assert_snapshot!(text);
}

#[test]
fn books_that_do_not_close_are_called_so() {
    let mut end = sample::end();
    end.total.closing.amounts.anon += 1;
    let text = told(vec![Report::End(Box::new(end.clone()))]);
    assert!(text.contains("DOES NOT CLOSE: "), "{text}");
    end.total.unexplained.anon = 1;
    let text = told(vec![Report::End(Box::new(end))]);
    assert!(text.contains("closes, not all explained: "), "{text}");
    assert!(text.contains("unexplained 4,096 B"), "{text}");
}

#[test]
fn hostile_names_stay_visible_and_short() {
    let mut statement = sample::growth();
    let mut mapping = (*sample::hash_table()).clone();
    mapping.name = [b"\x1b]0;owned\x07\xff".as_slice(), &[b'A'; 5000]].concat();
    statement.entries[0].mapping = Some(mapping.into());
    statement.entries[0].comm = "\u{202e}evil\n".as_bytes().to_vec();
    let mut stack = (*sample::code(0)).clone();
    std::sync::Arc::make_mut(&mut stack.frames[0]).module = b"/tmp/\r\x1b[A".to_vec();
    statement.entries[0].stack = Some(stack.into());
    let text = told(vec![Report::Statement(statement)]);
    assert!(text.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}')), "{text}");
    assert!(text.contains("\\x1b]0;owned\\x07\\xff") && text.contains("\\u{202e}evil\\x0a"), "{text}");
    assert!(text.len() < 2000);
}

#[test]
fn a_new_day_gets_a_rule() {
    let mut late = sample::growth();
    late.start_ns += 86_400_000_000_000;
    late.ts_ns += 86_400_000_000_000;
    let text = told(vec![Report::Statement(sample::growth()), Report::Statement(late)]);
    assert_eq!(text.matches("── 2026-02-01 ─").count(), 1, "{text}");
}

#[test]
fn a_report_before_the_meta_is_refused() {
    let mut view = TextView::new(Vec::new(), TextOptions::default());
    let error = view.render(&Report::End(Box::new(sample::end()))).expect_err("no page size yet");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

/// As `--no-bpf` sees the sample's hash table grow: counters move, no entry says why.
#[test]
fn without_probes_differences_are_told_and_are_no_alarm() {
    let meta = crate::event::Meta { mode: Mode::Procfs, mode_reason: "--no-bpf was given".into(), ..sample::meta() };
    let step = |n, pages: i64| {
        let ripple = sample::ripple(n);
        let opening = Balance::default();
        let moved = Amounts { anon: pages, ..Amounts::ZERO };
        let closing = Balance { amounts: opening.amounts + moved, virt: opening.virt };
        Report::Statement(Statement { opening, closing, entries: Vec::new(), unexplained: moved, ..ripple })
    };
    let audit = |n: u64, smaps: i64| {
        let status = Amounts { anon: 20_000, ..Amounts::ZERO };
        Report::Audit(crate::statement::Audit {
            ts_ns: sample::BEGIN + n * 1_000_000_000,
            mm: crate::event::MmId(0),
            pid: meta.pid,
            quiet: true,
            ledger: status,
            status,
            smaps_rss: smaps,
            difference: Amounts::ZERO,
            moved: Amounts::ZERO,
            mappings: 214,
            differing: vec![crate::statement::AuditDifference {
                mapping: sample::hash_table(),
                smaps: 2_000,
                ledger: 0,
            }],
            differing_count: 1,
            placeless: 0,
            cost_ns: 1_000_000,
            longest_hold_ns: 100_000,
        })
    };
    let text = text_with(
        TextOptions { width: 200, ..TextOptions::default() },
        &[Report::Meta(meta.clone()), step(1, 3), step(2, 1_000), step(3, 2_000), audit(5, 20_000), audit(10, 20_001)],
    );
    assert!(text.contains("no ledger (procfs)"), "{text}");
    assert!(!text.contains("do not explain"), "{text}");
    assert!(text.contains("anon +3.9 MiB · causes unknown: no probe saw"), "{text}");
    assert!(text.contains("anon +7.8 MiB\n"), "said once: {text}");
    assert!(text.contains("smaps of 214 mappings agrees with status"), "{text}");
    assert!(text.contains("since the audit before: +7.8 MiB anonymous mapping"), "{text}");
    assert!(text.contains("smaps of 214 mappings − /proc/PID/status: +4 KiB"), "{text}");
}
