//! Made faults, sampled and merged as the probes do it, against what is known of them.

use super::*;
use crate::event::{Latency, StackEnd, StackId};
use crate::statement::{Faults, Kind, MappingRef, Stack};
use crate::units::Amounts;
use memtrace_common::Cause;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
/// Where time begins: not at a moment's or an interval's edge.
const BEGIN: u64 = 5_000_123_457;
/// What start and end may be off by.
const CLOSE: u64 = 10 * MS;

/// A page fault: when, by whom, on which path; each path has a mapping and a stack of its own.
type Fault = (u64, u32, u32);

/// `count` faults from `from` on, one each `gap` nanoseconds.
fn even(from: u64, count: u64, gap: u64, tid: u32, path: u32) -> Vec<Fault> {
    (0..count).map(|i| (BEGIN + from + i * gap, tid, path)).collect()
}

/// Steady at so many a second.
fn steady(from: u64, to: u64, rate: u64, tid: u32, path: u32) -> Vec<Fault> {
    even(from, (to - from) / 1000 * rate / 1_000_000, SECOND / rate, tid, path)
}

fn all(parts: &[Vec<Fault>]) -> Vec<Fault> {
    let mut faults = parts.concat();
    faults.sort_unstable();
    faults
}

fn noise(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

fn entry(&(ts, tid, path): &Fault) -> Entry {
    let mapping = MappingRef {
        id: u64::from(path),
        kind: Kind::Anon,
        name: Vec::new(),
        start: 0,
        end: 1 << 30,
        permissions: 3,
        birth: None,
    };
    Entry {
        cause: Cause::FaultAnon,
        delta: Amounts::ZERO,
        faults: Faults::default(),
        mapping: Some(Arc::new(mapping)),
        tid,
        comm: Vec::new(),
        syscall: None,
        latency: Latency::default(),
        stack: Some(Arc::new(Stack { id: StackId(path), frames: Vec::new(), end: StackEnd::Root })),
        first_ns: ts,
        last_ns: ts,
    }
}

/// What the finder says of these faults, until `until` (from [`BEGIN`] on) in intervals of `interval`.
fn found(faults: &[Fault], why: Why, interval: u64, until: u64) -> Vec<Burst> {
    let mut finder = Finder::new(BEGIN, why);
    let mut seen: HashMap<u32, u64> = HashMap::new();
    let mut bursts = Vec::new();
    let mut rest = faults;
    let mut tick = BEGIN;
    while tick < BEGIN + until {
        tick = (tick + interval).min(BEGIN + until);
        let (now, later) = rest.split_at(rest.partition_point(|fault| fault.0 < tick));
        rest = later;
        let mut entries: BTreeMap<(u32, u32), Entry> = BTreeMap::new();
        let mut moments: BTreeMap<u64, u32> = BTreeMap::new();
        for fault in now {
            let of_thread = seen.entry(fault.1).or_default();
            let row = entries.entry((fault.1, fault.2)).or_insert_with(|| entry(fault));
            row.faults.minor += 1;
            row.delta.anon += 1;
            if of_thread.is_multiple_of(16) {
                *moments.entry(fault.0 / MOMENT_NS * MOMENT_NS).or_default() += 16;
                row.last_ns = fault.0;
            }
            *of_thread += 1;
        }
        finder.pace(&moments.into_iter().collect::<Vec<_>>());
        let entries: Vec<Entry> = entries.into_values().collect();
        bursts.extend(finder.tick(tick, &entries, 0));
    }
    bursts.extend(finder.end());
    bursts
}

fn of_path(burst: &Burst, path: u32) -> i64 {
    let part = burst.mappings.iter().find(|part| part.of.as_ref().is_some_and(|m| m.id == u64::from(path)));
    part.map_or(0, |part| part.faults.minor)
}

fn is_near(burst: &Burst, start: u64, end: u64) -> bool {
    burst.start_ns.abs_diff(BEGIN + start) <= CLOSE && burst.ts_ns.abs_diff(BEGIN + end) <= CLOSE
}

#[test]
fn a_burst_of_an_idle_process_is_exact_at_every_interval() {
    for interval in [10 * MS, 37 * MS, 100 * MS, SECOND, 3_600 * SECOND] {
        for (count, gap) in [(300, 20_000), (15_411, 13_000), (60_000, 25_000), (500, 300_000)] {
            let faults = even(200 * MS + 777, count, gap, 7, 1);
            let bursts = found(&faults, Why::Attach, interval, 4 * SECOND);
            assert_eq!(bursts.len(), 1, "{count} each {gap} ns in intervals of {interval}: {bursts:?}");
            let burst = &bursts[0];
            assert_eq!((burst.faults.shown(), burst.delta.anon), (count, count as i64), "{interval} {gap}");
            assert_eq!(burst.uncertain.faults, Faults::default());
            assert_eq!(burst.start_ns, BEGIN + 200 * MS + 777);
            assert!(is_near(burst, 200 * MS, 200 * MS + count * gap), "{burst:?}");
            assert_eq!(burst.level, 0);
        }
    }
}

#[test]
fn what_a_started_process_does_at_once_is_a_burst_and_what_an_attached_one_was_doing_is_not() {
    let faults = even(MS, 5_000, 10_000, 7, 1);
    assert_eq!(found(&faults, Why::Fork { parent: 1 }, 100 * MS, 2 * SECOND).len(), 1);
    assert_eq!(found(&faults, Why::Attach, 100 * MS, 2 * SECOND).len(), 0);
}

#[test]
fn steady_faulting_is_none_at_any_rate() {
    for rate in [50, 500, 1_900, 2_100, 10_000, 200_000] {
        let faults = steady(0, 60 * SECOND, rate, 7, 1);
        assert_eq!(found(&faults, Why::Attach, 100 * MS, 60 * SECOND), [], "{rate} a second");
    }
}

#[test]
fn a_rise_that_stays_is_a_new_level() {
    let faults = all(&[steady(0, 5 * SECOND, 1_000, 7, 1), steady(5 * SECOND, 90 * SECOND, 50_000, 7, 1)]);
    assert_eq!(found(&faults, Why::Attach, 100 * MS, 90 * SECOND), []);
    let faults = steady(0, 90 * SECOND, 5_000, 7, 1);
    assert_eq!(found(&faults, Why::Exec { left: None }, 100 * MS, 90 * SECOND), []);
}

#[test]
fn a_burst_that_leaves_a_higher_level_behind_is_told() {
    for after in [500, 1_500, 2_500] {
        let faults = all(&[even(5 * SECOND, 20_000, 10_000, 7, 1), steady(5_201 * MS, 60 * SECOND, after, 7, 2)]);
        let bursts = found(&faults, Why::Attach, 100 * MS, 60 * SECOND);
        assert_eq!(bursts.len(), 1, "{after}: {bursts:?}");
        assert!(bursts.iter().all(|burst| of_path(burst, 1) == 20_000 && is_near(burst, 5 * SECOND, 5_200 * MS)));
    }
}

#[test]
fn a_rise_of_seconds_is_a_burst_over_many_intervals() {
    let faults = all(&[steady(0, 30 * SECOND, 1_000, 7, 1), even(10 * SECOND, 200_000, 40_000, 8, 2)]);
    let bursts = found(&faults, Why::Attach, 100 * MS, 30 * SECOND);
    assert_eq!(bursts.len(), 1);
    assert_eq!(of_path(&bursts[0], 2), 200_000);
    assert!(is_near(&bursts[0], 10 * SECOND, 18 * SECOND), "{:?}", bursts[0]);
    assert!((900..1_100).contains(&bursts[0].level), "{}", bursts[0].level);
}

#[test]
fn a_burst_amid_steady_faulting_has_its_own_exact_amount() {
    for interval in [10 * MS, 100 * MS, SECOND, 20 * SECOND] {
        let steady = steady(0, 20 * SECOND, 3_000, 7, 1);
        let faults = all(&[steady.clone(), even(10_033 * MS, 20_000, 8_000, 8, 2)]);
        let bursts = found(&faults, Why::Attach, interval, 20 * SECOND);
        assert_eq!(bursts.len(), 1, "{interval}: {bursts:?}");
        let burst = &bursts[0];
        assert_eq!(of_path(burst, 2), 20_000, "{interval}");
        assert!(is_near(burst, 10_033 * MS, 10_193 * MS), "{interval}: {burst:?}");
        // Of the steady path, what happened in these 160 ms: 480.
        assert!(of_path(burst, 1).abs_diff(480) <= 64, "{interval}: {}", of_path(burst, 1));
        assert!(burst.uncertain.faults.minor <= of_path(burst, 1));
    }
}

#[test]
fn the_same_path_before_and_after_is_divided_by_the_pace() {
    let faults = all(&[steady(0, 20 * SECOND, 2_000, 7, 1), even(10_033 * MS, 20_000, 8_000, 7, 1)]);
    let bursts = found(&faults, Why::Attach, 100 * MS, 20 * SECOND);
    assert_eq!(bursts.len(), 1);
    let burst = &bursts[0];
    // The 160 ms have 320 of the steady ones, too; two ends, a sample and a moment each.
    assert!(burst.faults.minor.abs_diff(20_320) <= 2 * (16 + 270), "{}", burst.faults.minor);
    assert!(burst.uncertain.faults.minor > 0);
    assert!(is_near(burst, 10_033 * MS, 10_193 * MS), "{burst:?}");
}

#[test]
fn one_fault_before_in_the_same_interval_changes_nothing() {
    let mut faults = even(3_050 * MS, 5_000, 5_000, 7, 1);
    faults.insert(0, (BEGIN + 3_002 * MS, 7, 1));
    let bursts = found(&faults, Why::Attach, 100 * MS, 5 * SECOND);
    assert_eq!(bursts.len(), 1);
    assert_eq!(bursts[0].faults.minor, 5_001);
    assert_eq!(bursts[0].uncertain.faults.minor, 16);
    assert!(is_near(&bursts[0], 3_050 * MS, 3_075 * MS), "{:?}", bursts[0]);
}

#[test]
fn catching_up_is_none() {
    // A tenth of a second's work late, then done at ten times the pace.
    let mut faults = steady(0, 20 * SECOND, 10_000, 7, 1);
    for fault in &mut faults {
        let at = (fault.0 - BEGIN) % SECOND;
        if (300 * MS..700 * MS).contains(&at) {
            fault.0 += 700 * MS - at - (700 * MS - at) / 10;
        }
    }
    faults.sort_unstable();
    assert_eq!(found(&faults, Why::Attach, 100 * MS, 20 * SECOND), []);
}

#[test]
fn batches_are_a_level() {
    for (period, count) in [(20 * MS, 300), (100 * MS, 1_000), (250 * MS, 4_000), (SECOND, 5_000)] {
        let batches: Vec<_> = (0..60 * SECOND / period).map(|i| even(i * period, count, 2_000, 7, 1)).collect();
        let bursts = found(&all(&batches), Why::Attach, 100 * MS, 60 * SECOND);
        // A pattern that is slower than an eighth of a second takes three seconds to be known.
        let allowed = if period <= 125 * MS { 0 } else { 3 * SECOND / period };
        assert!(bursts.len() as u64 <= allowed, "{} bursts of batches each {period} ns", bursts.len());
        assert!(bursts.iter().all(|burst| burst.start_ns < BEGIN + 4 * SECOND));
    }
    // Once in five seconds is worth a story each.
    let rare: Vec<_> = (1..12).map(|i| even(i * 5 * SECOND, 5_000, 2_000, 7, 1)).collect();
    assert_eq!(found(&all(&rare), Why::Attach, 100 * MS, 60 * SECOND).len(), 11);
}

#[test]
fn threads_that_rise_together_are_one_burst_and_neighbours_in_time_too() {
    let threads: Vec<_> = (0..8).map(|i| even(2_000 * MS + u64::from(i) * MS, 3_000, 30_000, 100 + i, 1 + i)).collect();
    let bursts = found(&all(&threads), Why::Attach, 100 * MS, 5 * SECOND);
    assert_eq!(bursts.len(), 1);
    assert_eq!((bursts[0].faults.minor, bursts[0].threads.len()), (24_000, 8));

    let pair = |gap: u64| all(&[even(2 * SECOND, 1_000, 20_000, 7, 1), even(2_020 * MS + gap, 1_000, 20_000, 7, 2)]);
    assert_eq!(found(&pair(30 * MS), Why::Attach, 100 * MS, 5 * SECOND).len(), 1);
    let two = found(&pair(150 * MS), Why::Attach, 100 * MS, 5 * SECOND);
    assert_eq!(two.iter().map(|burst| burst.faults.minor).collect::<Vec<_>>(), [1_000, 1_000]);
}

#[test]
fn two_bursts_in_one_long_interval_are_told_apart() {
    let faults = all(&[even(2 * SECOND, 9_000, 10_000, 7, 1), even(7 * SECOND, 4_000, 10_000, 7, 2)]);
    let bursts = found(&faults, Why::Attach, 60 * SECOND, 60 * SECOND);
    assert_eq!(bursts.iter().map(|burst| burst.faults.minor).collect::<Vec<_>>(), [9_000, 4_000]);
    // By the same path they share one entry: the sum is right.
    let faults = all(&[even(2 * SECOND, 9_000, 10_000, 7, 1), even(7 * SECOND, 4_000, 10_000, 7, 1)]);
    let bursts = found(&faults, Why::Attach, 60 * SECOND, 60 * SECOND);
    assert_eq!(bursts.iter().map(|burst| burst.faults.minor).sum::<i64>(), 13_000);
    assert!(bursts[0].faults.minor.abs_diff(9_000) <= 32, "{}", bursts[0].faults.minor);
    assert!(bursts[0].uncertain.faults.minor > 0);
}

#[test]
fn small_ones_are_not_told_unless_they_move_much() {
    let small = even(SECOND, 240, 5_000, 7, 1);
    assert_eq!(found(&small, Why::Attach, 100 * MS, 3 * SECOND), []);
}

#[test]
fn a_fault_that_ends_in_the_next_interval_is_one_fault() {
    let mut finder = Finder::new(BEGIN, Why::Attach);
    finder.tick(BEGIN + SECOND, &[], 0);
    let at = BEGIN + SECOND + 10 * MS;
    let row = |cause, pages, minor, major, first_ns, last_ns| Entry {
        cause,
        delta: Amounts { file: pages, ..Amounts::ZERO },
        faults: Faults { minor, major },
        last_ns,
        ..entry(&(first_ns, 7, 1))
    };
    finder.pace(&(0..10).map(|i| (at + i * 2 * MS, 300)).collect::<Vec<_>>());
    let (over, end) = (at + 10 * MS, at + 20 * MS);
    let before = [row(Cause::FaultFileRead, 1_500, 0, 1_500, at, over), row(Cause::FaultFile, 1, 1, 0, over, over)];
    let after = [row(Cause::FaultFileRead, 1_500, 0, 1_500, over, end), row(Cause::FaultFile, -1, -1, 0, over, over)];
    let mut bursts = finder.tick(over, &before, 0);
    bursts.extend(finder.tick(end + MS, &after, 0));
    bursts.extend(finder.tick(end + 500 * MS, &[], 0));
    assert_eq!(bursts.len(), 1);
    let burst = &bursts[0];
    assert_eq!((burst.faults, burst.delta.file), (Faults { minor: 0, major: 3_000 }, 3_000));
    assert_eq!(burst.uncertain.faults, Faults::default());
    let causes: Vec<_> = burst.causes.iter().map(|part| (part.of, part.faults.all())).collect();
    assert_eq!(causes, [(Cause::FaultFileRead, 3_000), (Cause::FaultFile, 0)]);
}

#[test]
fn reclaim_and_what_is_given_back_meanwhile_stand_beside_it() {
    let mut finder = Finder::new(BEGIN, Why::Attach);
    finder.tick(BEGIN + SECOND, &[], 0);
    let at = BEGIN + SECOND + 10 * MS;
    finder.pace(&[(at, 4_000), (at + 2 * MOMENT_NS, 4_000)]);
    let fault = Entry {
        delta: Amounts { anon: 8_000, ..Amounts::ZERO },
        faults: Faults { minor: 8_000, major: 0 },
        last_ns: at + 5 * MS,
        ..entry(&(at, 7, 1))
    };
    let lost = |cause, pages: i64, from, to| Entry {
        cause,
        delta: Amounts { anon: -pages, swap: pages, ..Amounts::ZERO },
        faults: Faults::default(),
        last_ns: to,
        ..entry(&(from, 9, 2))
    };
    let entries = [
        fault,
        lost(Cause::ReclaimKswapd, 70, at + MS, at + 2 * MS),
        lost(Cause::Munmap, 30, at + MS, at + MS),
        lost(Cause::ReclaimMemcg, 500, at + 50 * MS, at + 60 * MS),
    ];
    let mut bursts = finder.tick(at + 80 * MS, &entries, 1_234);
    bursts.extend(finder.tick(at + 180 * MS, &[], 99));
    assert_eq!(bursts.len(), 1);
    assert_eq!(bursts[0].displaced, Amounts { anon: -70, ..Amounts::ZERO });
    assert_eq!(bursts[0].given_back, Amounts { anon: -30, ..Amounts::ZERO });
    assert_eq!((bursts[0].delta.anon, bursts[0].res), (8_000, 1_234));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn noisy_steady_faulting_is_none(seed in 1_u64.., threads in 1_u32..6, rate in 500_u64..40_000) {
        let mut seed = seed;
        let mut faults = Vec::new();
        for tid in 0..threads {
            let gap = SECOND * u64::from(threads) / rate;
            let mut at = noise(&mut seed) % gap;
            while at < 12 * SECOND {
                faults.push((BEGIN + at, tid, tid));
                // Exponential by its series is not needed: uniform over four times the mean's half is as rough.
                at += noise(&mut seed) % (2 * gap) + 1;
            }
        }
        faults.sort_unstable();
        prop_assert_eq!(found(&faults, Why::Attach, 100 * MS, 12 * SECOND), []);
    }

    #[test]
    fn a_step_with_a_path_of_its_own_is_found_whole(
        start in 1_000_u64..4_000,
        count in 4_000_u64..30_000,
        gap in 3_000_u64..40_000,
        background in 1_u64..2_000,
        interval in 10_u64..1_500,
        threads in 1_u32..5,
    ) {
        let start = start * MS + start;
        let mut parts = vec![steady(0, 8 * SECOND, background, 1, 0)];
        for thread in 0..threads {
            parts.push(even(start, count / u64::from(threads), gap * u64::from(threads), 10 + thread, 1 + thread));
        }
        let own = count / u64::from(threads) * u64::from(threads);
        prop_assume!(SECOND / gap > 4 * background.max(500) + 4 * background && own > 2 * background);
        let faults = all(&parts);
        let bursts = found(&faults, Why::Attach, interval * MS, 8 * SECOND);
        prop_assert_eq!(bursts.len(), 1);
        let burst = &bursts[0];
        prop_assert!(is_near(burst, start, start + count * gap), "{:?}", burst);
        prop_assert_eq!((1..=threads).map(|path| of_path(burst, path)).sum::<i64>() as u64, own);
        // No fault is told that was not there, and the parts add up.
        prop_assert!(burst.faults.minor as usize <= faults.len());
        prop_assert_eq!(burst.mappings.iter().map(|part| part.faults.minor).sum::<i64>(), burst.faults.minor);
        prop_assert_eq!(burst.delta.anon, burst.faults.minor);
        prop_assert_eq!(found(&faults, Why::Attach, interval * MS, 8 * SECOND), bursts);
    }

    #[test]
    fn anything_may_be_said(
        moments in proptest::collection::vec((any::<u64>(), any::<u32>()), 0..20),
        times in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<i64>(), any::<i64>()), 0..10),
        ticks in proptest::collection::vec(any::<u64>(), 1..6),
    ) {
        let mut finder = Finder::new(0, Why::Attach);
        for ts in ticks {
            finder.pace(&moments);
            let entries: Vec<Entry> = times
                .iter()
                .map(|&(first, last, pages, faults)| Entry {
                    delta: Amounts { anon: pages, swap: -pages.max(-5), ..Amounts::ZERO },
                    faults: Faults { minor: faults, major: faults / 2 },
                    last_ns: last,
                    ..entry(&(first, 7, 1))
                })
                .collect();
            let _ = finder.tick(ts, &entries, 0);
        }
        let _ = finder.end();
    }
}
