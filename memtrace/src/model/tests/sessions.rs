use super::*;

const AT: u64 = 0x7f00_0000_0000;

fn anon(pages: i64) -> Amounts {
    Amounts { anon: pages, ..Amounts::ZERO }
}

#[test]
fn quiet_intervals_say_nothing_but_that_they_are_over() {
    let mut session = Session::attached("");
    assert_eq!(session.tick(), None);
    let from = session.out.len();
    assert_eq!(session.tick(), None);
    assert!(matches!(session.out[from..], [Report::Tick { .. }]));
}

#[test]
fn what_nobody_booked_is_unexplained() {
    let mut session = Session::attached("");
    session.mmap(AT, 16, 3, ANON);
    session.touch((AT, AT + 16 * PAGE), AT, 5);
    let statement = session.tick_with(&[(MM, anon(7))], Lost::default()).expect("a statement");
    assert_eq!(statement.unexplained, anon(2));
    let end = session.end();
    assert_eq!((end.total.unexplained, end.total.closing.amounts), (anon(2), anon(7)));
}

#[test]
fn entries_are_merged_by_cause_mapping_thread_and_call() {
    let mut session = Session::attached("");
    session.mmap(AT, 64, 3, ANON);
    session.touch((AT, AT + 64 * PAGE), AT, 5);
    session.touch((AT, AT + 64 * PAGE), AT + 8 * PAGE, 7);
    let place = Place::Vma { start: AT, end: AT + 64 * PAGE };
    session.change(Cause::FaultAnon, 30, place, (AT, AT), Some(syscalls::number("read").expect("a call")));
    let statement = session.tick().expect("a statement");
    let entries: Vec<_> = statement.entries.iter().map(|e| (e.delta.anon, e.faults.minor, e.syscall)).collect();
    assert_eq!(entries, [(30, 30, Some(0)), (12, 12, None)]);
    assert_eq!(statement.entries[1].comm, b"postgres");
    assert_eq!(statement.entries[1].stack.as_ref().expect("known").frames[0].ip, 0x5600_0010_0123);
}

#[test]
fn loss_comes_first_and_is_counted_per_interval() {
    let mut session = Session::attached("");
    let lost = Lost { ring: 3, ..Lost::default() };
    session.tick_with(&[(MM, anon(1))], lost);
    let [.., loss, statement, Report::Tick { .. }] = session.out.as_slice() else { panic!("{:?}", session.out) };
    assert!(matches!(loss, Report::Loss { lost: said, .. } if *said == lost));
    assert!(matches!(statement, Report::Statement(statement) if statement.lost == lost));
    let statement = session.tick_with(&[(MM, anon(2))], Lost { ring: 5, ..lost }).expect("a statement");
    assert_eq!(statement.lost.ring, 2);
    assert_eq!(session.end().lost.ring, 5);
}

#[test]
fn a_child_has_the_parents_mappings_and_books_that_open_at_zero() {
    let mut session = Session::attached("7f0000000000-7f0000010000 rw-p 00000000 00:00 0 [anon:work]");
    session.opened(MmId(1), 5000, Why::Fork { parent: PID }, anon(16));
    let mappings = session.model.mappings(MmId(1));
    assert_eq!((mappings.len(), mappings[0].name.as_slice()), (1, &b"work"[..]));
    let statement = session.tick_with(&[(MmId(1), anon(16))], Lost::default()).expect("a statement");
    assert_eq!((statement.opening.amounts, statement.entries[0].cause), (Amounts::ZERO, Cause::Fork));
    assert_eq!((statement.entries[0].delta, &statement.entries[0].mapping), (anon(16), &None));
    assert!(statement.unexplained.is_zero());

    let ts_ns = session.later();
    session.apply(Event::MmClosed(MmClosed { mm: MmId(1), ts_ns, counters: Amounts::ZERO }));
    session.change_of(MmId(1), Cause::Exit, -16, Place::Nowhere, (0, 0), None);
    session.tick_with(&[(MmId(1), Amounts::ZERO)], Lost::default());
    let closing = session.out.iter().find_map(|report| match report {
        Report::Closing(closing) => Some(closing),
        _ => None,
    });
    let closing = closing.expect("the child's closing statement");
    assert_eq!((closing.mm, closing.closing.amounts, closing.peak_res), (MmId(1), Amounts::ZERO, 16));
    let end = session.end();
    assert_eq!((end.mms, end.total.peak_res), (2, 16));
    assert_eq!(end.total.by_cause.iter().map(|(cause, _)| *cause).collect::<Vec<_>>(), [Cause::Fork, Cause::Exit]);
}

#[test]
fn a_process_is_renamed_and_its_tasks_are_reported() {
    let mut session = Session::attached("");
    session.apply(Event::Comm { tid: PID, comm: b"postgres: joe".to_vec() });
    let task = Task {
        mm: Some(MM),
        ts_ns: 1,
        pid: PID,
        tid: PID,
        what: TaskWhat::ThreadStarted { child: 4712 },
        comm: b"worker".to_vec(),
    };
    session.apply(Event::Task(task.clone()));
    assert_eq!(session.out.last(), Some(&Report::Process(ProcessChange { task })));
    let statement = session.tick_with(&[(MM, anon(1))], Lost::default()).expect("a statement");
    assert_eq!(statement.comm, b"postgres: joe");
}

#[test]
fn millions_of_short_lives_leave_bounded_rows_with_exact_sums() {
    const ROUNDS: u64 = 30_000;
    let mut session = Session::attached("");
    for round in 0..ROUNDS {
        session.mmap(AT, 4, 3, ANON);
        session.touch((AT, AT + 4 * PAGE), AT, 1 + (round == 17) as i64);
        session.munmap(AT, 4);
        if round % 1000 == 0 {
            session.tick();
        }
    }
    session.tick();
    let end = session.end();
    assert!(end.total.by_mapping.len() <= super::super::ledger::DEAD_ROWS + 20);
    let pages: i64 = end.total.by_mapping.iter().map(|(_, sum)| sum.delta.anon).sum();
    assert_eq!(pages, ROUNDS as i64 + 1);
    let largest = end.total.by_mapping.iter().map(|(_, sum)| sum.delta.anon).filter(|&pages| pages < 100).max();
    assert_eq!(largest, Some(2), "the largest keeps its row");
    let folded: Vec<_> = end.total.by_mapping.iter().filter_map(|(mapping, _)| mapping.as_ref()).collect();
    let folded = folded.iter().find(|mapping| mapping.id == u64::MAX).expect("a row for the others");
    assert_eq!(String::from_utf8_lossy(&folded.name), format!("({} more)", ROUNDS - 4096));
}
