use super::*;
use crate::model::code::CODE_ROWS;

const AT: u64 = 0x7f00_0000_0000;
const VMA: (u64, u64) = (AT, AT + 64 * PAGE);

impl Session {
    fn learn(&mut self, id: u32, end: StackEnd) {
        self.apply(Event::Stack(crate::event::Stack { id: StackId(id), frames: vec![CodeId(5)], end }));
    }

    /// Anonymous pages that a stack brought or gave back.
    fn by(&mut self, stack: Option<u32>, cause: Cause, pages: i64) {
        self.counters.anon += pages;
        let first_ns = self.later();
        self.apply(Event::Change(Change {
            mm: MM,
            first_ns,
            ts_ns: first_ns,
            cause,
            delta: Amounts { anon: pages, ..Amounts::ZERO },
            place: Place::Vma { start: VMA.0, end: VMA.1 },
            touched: (AT, AT),
            tid: PID,
            ip: 0,
            stack: stack.map(StackId),
            nr: None,
            detail: 0,
            faults: 0,
            major: 0,
            kernel_mode: 0,
            latency: Latency::default(),
        }));
    }
}

fn begun() -> Session {
    let mut session = Session::attached("");
    session.mmap(AT, 64, 3, ANON);
    session
}

#[test]
fn what_grew_is_told_by_how_its_stack_ends() {
    let mut session = begun();
    session.learn(10, StackEnd::Deep);
    session.learn(11, StackEnd::Deep);
    session.learn(12, StackEnd::Jit);
    session.learn(13, StackEnd::Jit);
    for (stack, pages) in [(Some(3), 100), (Some(10), 7), (Some(11), 5), (Some(12), 2), (None, 1), (Some(999), 4)] {
        session.by(stack, Cause::FaultAnon, pages);
    }
    // What shrinks is no growth, whatever its stack.
    session.by(Some(13), Cause::MadviseDontneed, -50);
    session.tick();
    session.by(Some(10), Cause::FaultAnon, 3);
    session.tick();
    let sums = session.end().stacks;
    assert_eq!((sums.grown, sums.complete, sums.without), (122, 100, 5));
    let failures: Vec<_> = sums.failures.into_iter().collect();
    assert_eq!(failures, [(StackEnd::Deep, (2, 15)), (StackEnd::Jit, (1, 2))], "each stack once");
}

#[test]
fn what_came_and_went_is_not_lost_in_the_net() {
    let mut session = begun();
    session.learn(10, StackEnd::Root);
    session.by(Some(3), Cause::FaultAnon, 40);
    session.tick();
    session.by(Some(10), Cause::MadviseDontneed, -40);
    session.tick();
    let total = session.end().total;
    let row = total.by_mapping.iter().find(|(mapping, _)| mapping.is_some()).expect("a mapping");
    assert_eq!((row.1.delta, row.1.grown, row.1.shrunk), (Amounts::ZERO, 40, 40));
    let codes: Vec<_> = total.by_code.iter().map(|code| (code.stack.as_ref().expect("known").id, &code.sum)).collect();
    assert_eq!(codes.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [3, 10], "of equals the older first");
    assert_eq!((codes[0].1.grown, codes[0].1.shrunk, codes[1].1.grown, codes[1].1.shrunk), (40, 0, 0, 40));
}

#[test]
fn any_number_of_stacks_leaves_bounded_rows_with_exact_sums() {
    const STACKS: u32 = 10_000;
    let mut session = begun();
    for stack in 0..STACKS {
        session.learn(100 + stack, StackEnd::Root);
        session.by(Some(100 + stack), Cause::FaultAnon, if stack == 17 { 9 } else { 1 });
        if stack % 100 == 0 {
            session.tick();
        }
    }
    session.by(None, Cause::Khugepaged, 2);
    session.tick();
    let codes = session.end().total.by_code;
    assert_eq!(codes.len(), CODE_ROWS + 2, "the largest, the one without a stack, the rest");
    assert_eq!(codes.iter().map(|code| code.sum.grown).sum::<u64>(), u64::from(STACKS) + 8 + 2);
    assert_eq!((codes[0].stack.as_ref().expect("known").id, codes[0].sum.grown), (StackId(117), 9));
    let rest = codes.last().expect("a row");
    assert_eq!(
        (rest.folded, rest.sum.grown, rest.stack.is_none()),
        (u64::from(STACKS) - 1024, u64::from(STACKS) - 1024, true)
    );
    assert!(codes.iter().any(|code| code.stack.is_none() && code.folded == 0 && code.sum.grown == 2));
}

#[test]
fn a_mapping_knows_who_made_it() {
    let mut session = Session::attached("");
    let ts_ns = session.later();
    session.apply(Event::Syscall(Syscall {
        mm: MM,
        ts_ns,
        pid: PID,
        tid: PID,
        nr: syscalls::MMAP,
        args: [0, 64 * PAGE, 3, ANON, u64::MAX, 0],
        ret: AT as i64,
        ip: 0,
        stack: Some(StackId(3)),
    }));
    let birth = session.mapping_at(AT).birth.expect("seen");
    assert_eq!(birth.stack.expect("known").id, StackId(3));
}
