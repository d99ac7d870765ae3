//! Half a million faults a second, and sixteen threads in the allocator.

use crate::Scene;
use crate::region::Region;
use crate::stage::{Check, Stage, gettid};
use memtrace_tests::pages::monotonic_ns;
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Barrier};

pub const SCENES: &[(&str, Scene)] = &[("storm", storm), ("storm.endless", endless), ("allocator", allocator)];

/// Pages touched before they are given back.
const ROUND: usize = 512;

struct Share {
    tid: u32,
    rounds: usize,
    minor: i64,
    major: i64,
}

/// Touches and gives back until told to stop; counts for itself.
fn rage(region: Region, stop: &AtomicBool) -> Share {
    let (minor, major) = thread_faults();
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        region.write();
        region.advise(libc::MADV_DONTNEED);
        rounds += 1;
    }
    let after = thread_faults();
    Share { tid: gettid(), rounds, minor: after.0 - minor, major: after.1 - major }
}

/// Minor and major.
fn thread_faults() -> (i64, i64) {
    // SAFETY: all-zero is a valid rusage, and the kernel fills it.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        (usage.ru_minflt, usage.ru_majflt)
    }
}

struct Crew {
    gate: Arc<Barrier>,
    stop: Arc<AtomicBool>,
    regions: Vec<SyncSender<Region>>,
    shares: Receiver<Share>,
}

/// Two threads, started and idle, their stacks locked in by the stage's settling.
fn crew() -> Crew {
    let gate = Arc::new(Barrier::new(3));
    let stop = Arc::new(AtomicBool::new(false));
    let (results, shares) = sync_channel(2);
    let (ups, up) = sync_channel(2);
    let regions = (0..2)
        .map(|_| {
            let (sender, regions) = sync_channel::<Region>(1);
            let (gate, stop, results, ups) = (Arc::clone(&gate), Arc::clone(&stop), results.clone(), ups.clone());
            std::thread::spawn(move || {
                let _ = ups.send(());
                let region = regions.recv().expect("the main thread sends it");
                gate.wait();
                let share = rage(region, &stop);
                let _ = results.send(share);
                gate.wait();
            });
            sender
        })
        .collect();
    for _ in 0..2 {
        up.recv().expect("the thread starts");
    }
    Crew { gate, stop, regions, shares }
}

fn storm(stage: &mut Stage) {
    let crew = crew();
    stage.settle();
    let regions = [Region::anon(ROUND), Region::anon(ROUND)];
    for (sender, region) in crew.regions.iter().zip(regions) {
        sender.send(region).expect("the thread waits");
    }
    stage.begin();
    crew.gate.wait();
    let begin = monotonic_ns();
    std::thread::sleep(std::time::Duration::from_secs_f64(stage.seconds));
    crew.stop.store(true, Ordering::Relaxed);
    let shares: Vec<Share> = crew.shares.iter().take(2).collect();
    let took = monotonic_ns() - begin;
    let faults: usize = shares.iter().map(|share| share.rounds * ROUND).sum();
    if let Some(share) = shares.iter().find(|share| share.major != 0) {
        stage.fail(&format!("getrusage counted {} major faults of a thread on anonymous memory", share.major));
    }
    let threads: Vec<_> = shares
        .iter()
        .map(|share| json!({"tid": share.tid, "touches": share.rounds * ROUND, "minor": share.minor}))
        .collect();
    let rate = faults as f64 * 1e9 / took as f64;
    stage.finish_with(Check::Nothing, &[], json!({"threads": threads, "faults_per_second": rate as u64}));
    crew.gate.wait();
}

/// A storm that only the end of the process ends; it says nothing about itself.
fn endless(stage: &mut Stage) {
    let crew = crew();
    stage.settle();
    for sender in &crew.regions {
        sender.send(Region::anon(ROUND)).expect("the thread waits");
    }
    crew.gate.wait();
    stage.begin();
    crew.stop.store(true, Ordering::Relaxed);
    crew.gate.wait();
    stage.finish(Check::Nothing, &[]);
}

/// Sixteen threads that allocate and free random sizes with malloc for the given time.
fn allocator(stage: &mut Stage) {
    const THREADS: usize = 16;
    let gate = Arc::new(Barrier::new(THREADS + 1));
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..THREADS as u64)
        .map(|seed| {
            let (gate, stop) = (Arc::clone(&gate), Arc::clone(&stop));
            std::thread::spawn(move || {
                gate.wait();
                churn(seed + 1, &stop)
            })
        })
        .collect();
    stage.begin();
    gate.wait();
    std::thread::sleep(std::time::Duration::from_secs_f64(stage.seconds));
    stop.store(true, Ordering::Relaxed);
    let blocks: u64 = threads.into_iter().map(|thread| thread.join().expect("the thread ends")).sum();
    stage.finish_with(Check::Nothing, &[], json!({"blocks": blocks}));
}

/// Holds up to 256 blocks of 16 bytes to 4 MiB, small ones mostly; returns how many it made.
fn churn(seed: u64, stop: &AtomicBool) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut held: Vec<Vec<u8>> = (0..256).map(|_| Vec::new()).collect();
    let mut blocks = 0;
    while !stop.load(Ordering::Relaxed) {
        let size = 16_usize << (next() % 19).min(next() % 19);
        let mut block = vec![0_u8; size + (next() as usize % size)];
        for byte in block.iter_mut().step_by(4096) {
            *byte = 1;
        }
        held[next() as usize % 256] = block;
        blocks += 1;
    }
    std::hint::black_box(&held);
    blocks
}
