//! Faults whose end tells what they were, with the end of an interval in between: each is counted once, as what it was.

use super::*;
use crate::decode::{Decoder, Raw};
use bytemuck::Zeroable;
use memtrace_common::{ANON as ANON_PAGES, FILE, Head, MmRecord, RecordKey, RecordValue, SWAP, kind};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The records of an interval, as the probes keep them.
#[derive(Default)]
struct Records(BTreeMap<Cause, RecordValue>);

impl Records {
    fn of(&mut self, cause: Cause) -> &mut RecordValue {
        self.0.entry(cause).or_insert_with(RecordValue::zeroed)
    }

    fn book(&mut self, cause: Cause, member: usize, pages: i64, faults: i32) {
        let record = self.of(cause);
        record.delta[member] += pages;
        record.faults += faults;
    }

    fn shift(&mut self, from: Cause, to: Cause, member: usize) {
        self.book(from, member, -1, -1);
        self.book(to, member, 1, 1);
    }

    /// Ends the interval.
    fn tick(&mut self, session: &mut Session, decoder: &mut Decoder) -> Option<Statement> {
        for (cause, value) in std::mem::take(&mut self.0) {
            let key = RecordKey { tid: PID, nr: -1, cause: cause as u8, ..RecordKey::zeroed() };
            let event = decoder.decode_record(&key, &value, &mut ()).expect("its mm is known");
            session.counters += Amounts::from_members(value.delta);
            session.apply(event);
        }
        session.tick()
    }
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// In the page cache.
    File,
    /// Not yet there: what the kernel says only at the end.
    FileRead,
    /// From swap: the kernel takes the page first, the swap entry after, and says at the end whether it had to read.
    Swapin { read: bool },
}

/// What of these faults the closing statement says, and the lowest count that any entry had. After each step of a fault an
/// interval may end.
fn closing(faults: &[(What, [bool; 3])]) -> (BTreeMap<Cause, (Amounts, Faults)>, i64) {
    let (mut session, mut decoder) = (Session::attached(""), Decoder::default());
    let opened = MmRecord { head: Head { kind: kind::MM_OPENED, ..Head::zeroed() }, ..MmRecord::zeroed() };
    decoder.decode_ring(&Raw::Mm(opened), &mut ()).expect("an mm");
    let mut records = Records::default();
    let mut lowest = 0;
    let mut tick = |records: &mut Records| {
        let entries = records.tick(&mut session, &mut decoder).map(|statement| statement.entries);
        let counts = entries.iter().flatten().flat_map(|entry| [entry.faults.minor, entry.faults.all()]);
        lowest = counts.fold(lowest, i64::min);
    };
    for &(what, ends) in faults {
        for (step, over) in ends.into_iter().enumerate() {
            match (what, step) {
                (What::File | What::FileRead, 0) => records.book(Cause::FaultFile, FILE, 1, 1),
                (What::FileRead, 2) => {
                    records.shift(Cause::FaultFile, Cause::FaultFileRead, FILE);
                    records.of(Cause::FaultFileRead).major += 1;
                }
                (What::Swapin { .. }, 0) => records.book(Cause::FaultAnon, ANON_PAGES, 1, 1),
                (What::Swapin { .. }, 1) => {
                    records.shift(Cause::FaultAnon, Cause::FaultSwapin, ANON_PAGES);
                    records.book(Cause::FaultSwapin, SWAP, -1, 0);
                }
                (What::Swapin { read: true }, 2) => records.of(Cause::FaultSwapin).major += 1,
                _ => {}
            }
            if over {
                tick(&mut records);
            }
        }
    }
    tick(&mut records);
    let total = session.end().total;
    let mut all = Faults::default();
    total.by_cause.iter().for_each(|(_, sum)| all += sum.faults);
    assert_eq!(total.faults, all);
    let sums = total.by_cause.into_iter().map(|(cause, sum)| (cause, (sum.delta, sum.faults)));
    (sums.filter(|(_, sum)| *sum != Default::default()).collect(), lowest)
}

#[test]
fn a_fault_that_ends_in_the_next_interval_is_taken_back_there() {
    let sum = |delta, minor, major| (delta, Faults { minor, major });
    let file = |pages| Amounts { file: pages, ..Amounts::ZERO };
    let between = [true, false, false];
    let (sums, lowest) = closing(&[(What::File, between), (What::FileRead, between), (What::FileRead, between)]);
    let truth = [(Cause::FaultFile, sum(file(1), 1, 0)), (Cause::FaultFileRead, sum(file(2), 0, 2))];
    assert_eq!((sums, lowest), (truth.into(), -1));

    let (sums, lowest) = closing(&[(What::Swapin { read: true }, [true; 3])]);
    let truth = [(Cause::FaultSwapin, sum(Amounts { anon: 1, swap: -1, ..Amounts::ZERO }, 0, 1))];
    assert_eq!((sums, lowest), (truth.into(), -1));
}

fn what() -> impl Strategy<Value = What> {
    let swapin = any::<bool>().prop_map(|read| What::Swapin { read });
    prop_oneof![Just(What::File), Just(What::FileRead), swapin]
}

proptest! {
    #[test]
    fn where_intervals_end_changes_no_sum(faults in proptest::collection::vec((what(), any::<[bool; 3]>()), 0..40)) {
        let whole: Vec<_> = faults.iter().map(|&(what, _)| (what, [false; 3])).collect();
        let (sums, _) = closing(&faults);
        let (in_one, lowest) = closing(&whole);
        prop_assert_eq!(lowest, 0);
        prop_assert_eq!(&sums, &in_one);
        let faults_of = |cause| sums.get(&cause).map_or(Faults::default(), |(_, faults)| *faults);
        let count = |of: fn(&What) -> bool| faults.iter().filter(|(what, _)| of(what)).count() as i64;
        let reads = count(|what| matches!(what, What::Swapin { read: true }));
        prop_assert_eq!(faults_of(Cause::FaultFile), Faults { minor: count(|what| matches!(what, What::File)), major: 0 });
        let read = Faults { minor: 0, major: count(|what| matches!(what, What::FileRead)) };
        prop_assert_eq!(faults_of(Cause::FaultFileRead), read);
        let swapins = Faults { minor: count(|what| matches!(what, What::Swapin { .. })) - reads, major: reads };
        prop_assert_eq!(faults_of(Cause::FaultSwapin), swapins);
    }
}
