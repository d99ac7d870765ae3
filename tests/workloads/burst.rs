//! Bursts of page faults that are known beforehand: when they begin and end, how much they bring, by which function; and
//! how long each touch took, measured by the one who touches.

use crate::Scene;
use crate::children::Sharer;
use crate::region::{HUGE, READ_WRITE, Region, cache, evict, make_file};
use crate::stage::{Check, Expect, Stage, gettid};
use memtrace_tests::pages::{monotonic_ns, page_size};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

pub const SCENES: &[(&str, Scene)] = &[
    ("burst.anon", anon),
    ("burst.same_mapping", same_mapping),
    ("burst.cow", cow),
    ("burst.file", file),
    ("burst.file_read", file_read),
    ("burst.shmem", shmem),
    ("burst.threads", threads),
    ("burst.amid", amid),
    ("burst.thp", thp),
    ("burst.steady", steady),
];

/// Rest before and after a burst: the level is zero then, and the burst is over.
const REST: Duration = Duration::from_millis(600);
/// A steady thread's distance between touches.
const TRICKLE: Duration = Duration::from_micros(500);

/// Nobody takes the processor away from this thread until it is dropped: a burst that stands still for a while is two.
struct Undisturbed;

impl Undisturbed {
    fn now() -> Self {
        Self::set(libc::SCHED_FIFO, 1);
        Self
    }

    fn set(policy: i32, priority: i32) {
        let parameter = libc::sched_param { sched_priority: priority };
        // SAFETY: the calling thread, and a parameter that the kernel only reads.
        let outcome = unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) };
        assert_eq!(outcome, 0, "sched_setscheduler: {}", std::io::Error::last_os_error());
    }
}

impl Drop for Undisturbed {
    fn drop(&mut self) {
        Self::set(libc::SCHED_OTHER, 0);
    }
}

/// How long touches took, with room for all of them.
struct Watch {
    took_ns: Vec<u32>,
}

impl Watch {
    /// Before the stage settles: its memory must be locked.
    fn with_room(touches: usize) -> Self {
        Self { took_ns: Vec::with_capacity(touches) }
    }

    /// Sum, and how many took less than each power of two, less 5 %, and more 5 %.
    fn told(&self) -> Value {
        let below = |ns: f64| self.took_ns.iter().filter(|took| f64::from(**took) < ns).count();
        let edges: Vec<Value> = (8..32)
            .map(|power| {
                let edge = f64::from(1_u32 << power);
                json!({"ns": 1_u64 << power, "below": below(edge), "low": below(edge / 1.05), "high": below(edge * 1.05)})
            })
            .collect();
        let sum: u64 = self.took_ns.iter().map(|took| u64::from(*took)).sum();
        let longest = self.took_ns.iter().max().copied().unwrap_or_default();
        json!({"count": self.took_ns.len(), "sum_ns": sum, "longest_ns": longest, "edges": edges})
    }
}

/// Touches every `step`th page: the function that a burst must name.
#[inline(never)]
fn burst_fill(region: Region, step: usize, watch: &mut Watch) -> (u64, u64) {
    let _undisturbed = Undisturbed::now();
    let begin = monotonic_ns();
    for page in (0..region.pages()).step_by(step) {
        let address = region.pointer().wrapping_add(page * page_size());
        let before = monotonic_ns();
        // SAFETY: inside the region, which is writable.
        unsafe { address.write_volatile(7) };
        watch.took_ns.push(u32::try_from(monotonic_ns() - before).unwrap_or(u32::MAX));
    }
    (begin, monotonic_ns())
}

/// The same by reading.
#[inline(never)]
fn burst_read(region: Region, watch: &mut Watch) -> (u64, u64) {
    let _undisturbed = Undisturbed::now();
    let begin = monotonic_ns();
    for page in 0..region.pages() {
        let address = region.pointer().wrapping_add(page * page_size());
        let before = monotonic_ns();
        // SAFETY: inside the region, which is readable.
        let _ = unsafe { address.read_volatile() };
        watch.took_ns.push(u32::try_from(monotonic_ns() - before).unwrap_or(u32::MAX));
    }
    (begin, monotonic_ns())
}

/// A page now and then, until told to stop.
#[inline(never)]
fn trickle(region: Region, stop: &AtomicBool) -> usize {
    let mut pages = 0;
    while !stop.load(Ordering::Relaxed) && pages < region.pages() {
        // SAFETY: inside the region.
        unsafe { region.pointer().add(pages * page_size()).write_volatile(7) };
        pages += 1;
        std::thread::sleep(TRICKLE);
    }
    pages
}

fn truth(
    (start, end): (u64, u64),
    faults: usize,
    pages: usize,
    function: &str,
    region: &Region,
    watch: &Watch,
) -> Value {
    json!({
        "start_ns": start,
        "end_ns": end,
        "faults": faults,
        "pages": pages,
        "function": function,
        "start": format!("{:#x}", region.start()),
        "end": format!("{:#x}", region.end()),
        "touches": watch.told(),
    })
}

/// What is done between two rests.
fn rested<T>(act: impl FnOnce() -> T) -> T {
    std::thread::sleep(REST);
    let done = act();
    std::thread::sleep(REST);
    done
}

/// The end of a scene of one burst that is all of this entry: a fault a page.
fn tell(stage: &mut Stage, span: (u64, u64), function: &str, region: &Region, watch: &Watch, entry: Expect) {
    let pages = region.pages();
    let burst = truth(span, pages, pages, function, region, watch);
    stage.finish_with(Check::All, &[entry.at(region)], json!({"bursts": [burst]}));
}

/// One burst of writes, one fault a page, in a mapping that is made for it.
fn anon(stage: &mut Stage) {
    const PAGES: usize = 15_411;
    let mut watch = Watch::with_room(PAGES);
    stage.settle();
    let region = Region::hole(PAGES, page_size());
    stage.begin();
    let span = rested(|| {
        region.place(READ_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
        burst_fill(region, 1, &mut watch)
    });
    tell(stage, span, "burst_fill", &region, &watch, Expect::new("fault.anon").anon(PAGES).minor(PAGES));
}

/// Touched now and then for a while by one function, then at once by another, in the same mapping.
fn same_mapping(stage: &mut Stage) {
    const PAGES: usize = 12_000;
    const SLOW: usize = 3_000;
    let mut watch = Watch::with_room(PAGES);
    stage.settle();
    let region = Region::anon(PAGES + SLOW);
    stage.begin();
    let before = trickle(region.part(PAGES, PAGES + SLOW / 2), &AtomicBool::new(false));
    let span = burst_fill(region.part(0, PAGES), 1, &mut watch);
    let after = trickle(region.part(PAGES + SLOW / 2, PAGES + SLOW), &AtomicBool::new(false));
    let all = PAGES + before + after;
    let mut burst = truth(span, PAGES, PAGES, "burst_fill", &region, &watch);
    // The mapping's part holds the slow ones, too.
    burst["shared"] = json!(true);
    stage.finish_with(
        Check::All,
        &[Expect::new("fault.anon").anon(all).minor(all).at(&region)],
        json!({"bursts": [burst]}),
    );
}

/// Pages shared with a forked child, written.
fn cow(stage: &mut Stage) {
    const PAGES: usize = 12_000;
    let mut watch = Watch::with_room(PAGES);
    stage.settle();
    let region = Region::anon(PAGES);
    region.write();
    let _sharer = Sharer::fork();
    stage.begin();
    let span = rested(|| burst_fill(region, 1, &mut watch));
    let mut burst = truth(span, PAGES, 0, "burst_fill", &region, &watch);
    // A fault that moves no counter is booked when its thread's next one begins: the last one after the rest.
    burst["late"] = json!(1);
    stage.finish_with(
        Check::Counters,
        &[Expect::new("fault.cow").minor(PAGES).at(&region)],
        json!({"bursts": [burst]}),
    );
}

/// In the page cache; a shared write maps its own page only.
fn file(stage: &mut Stage) {
    const PAGES: usize = 8_000;
    let file = make_file(&stage.dir, PAGES);
    let mut watch = Watch::with_room(PAGES);
    stage.settle();
    let region = Region::file(&file, PAGES, libc::MAP_SHARED);
    stage.begin();
    let span = rested(|| {
        cache(&file, PAGES);
        burst_fill(region, 1, &mut watch)
    });
    tell(stage, span, "burst_fill", &region, &watch, Expect::new("fault.file").file(PAGES).minor(PAGES));
}

/// Not in the page cache, no readahead: each page is read in by its own fault.
fn file_read(stage: &mut Stage) {
    const PAGES: usize = 3_000;
    let file = make_file(&stage.dir, PAGES);
    let mut watch = Watch::with_room(PAGES);
    stage.settle();
    if !evict(&file, PAGES) {
        stage.fail("the page cache kept pages of the file");
    }
    let region = Region::file(&file, PAGES, libc::MAP_PRIVATE);
    region.advise(libc::MADV_RANDOM);
    stage.begin();
    let span = rested(|| burst_read(region, &mut watch));
    tell(stage, span, "burst_read", &region, &watch, Expect::new("fault.file.read").file(PAGES).major(PAGES));
}

fn shmem(stage: &mut Stage) {
    const PAGES: usize = 10_000;
    let mut watch = Watch::with_room(PAGES);
    stage.settle();
    let region = Region::hole(PAGES, page_size()).place(READ_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1);
    stage.begin();
    let span = rested(|| burst_fill(region, 1, &mut watch));
    tell(stage, span, "burst_fill", &region, &watch, Expect::new("fault.shmem").shmem(PAGES).minor(PAGES));
}

/// Four threads rise at once, each in its own mapping.
fn threads(stage: &mut Stage) {
    const PAGES: usize = 4_000;
    const THREADS: usize = 4;
    let gate = Arc::new(Barrier::new(THREADS + 1));
    let (ups, up) = std::sync::mpsc::sync_channel(THREADS);
    let (results, spans) = std::sync::mpsc::sync_channel(THREADS);
    let senders: Vec<_> = (0..THREADS)
        .map(|_| {
            let (sender, regions) = std::sync::mpsc::sync_channel::<Region>(1);
            let (gate, ups, results) = (Arc::clone(&gate), ups.clone(), results.clone());
            std::thread::spawn(move || {
                let mut watch = Watch::with_room(PAGES);
                // Written once, so that the stage's settling locks it.
                watch.took_ns.resize(PAGES, 0);
                watch.took_ns.clear();
                let _ = ups.send(());
                let region = regions.recv().expect("the main thread sends it");
                gate.wait();
                let span = burst_fill(region, 1, &mut watch);
                let _ = results.send((span, gettid()));
                gate.wait();
            });
            sender
        })
        .collect();
    for _ in 0..THREADS {
        up.recv().expect("the thread starts");
    }
    stage.settle();
    let regions: Vec<Region> = (0..THREADS).map(|_| Region::anon(PAGES)).collect();
    for (sender, region) in senders.iter().zip(&regions) {
        sender.send(*region).expect("the thread waits");
    }
    stage.begin();
    let spans: Vec<((u64, u64), u32)> = rested(|| {
        gate.wait();
        spans.iter().take(THREADS).collect()
    });
    let span = (
        spans.iter().map(|(span, _)| span.0).min().unwrap_or_default(),
        spans.iter().map(|(span, _)| span.1).max().unwrap_or_default(),
    );
    let (first, last) = (regions[0], regions[THREADS - 1]);
    let mut burst = truth(span, PAGES * THREADS, PAGES * THREADS, "burst_fill", &first, &Watch::with_room(0));
    burst["start"] = format!("{:#x}", first.start().min(last.start())).into();
    burst["end"] = format!("{:#x}", first.end().max(last.end())).into();
    burst["threads"] = json!(spans.iter().map(|(_, tid)| *tid).collect::<Vec<_>>());
    let expect: Vec<Expect> =
        regions.iter().map(|region| Expect::new("fault.anon").anon(PAGES).minor(PAGES).at(region)).collect();
    stage.finish_with(Check::Counters, &expect, json!({"bursts": [burst]}));
    gate.wait();
}

/// One thread faults steadily, another rises.
fn amid(stage: &mut Stage) {
    const PAGES: usize = 16_000;
    let mut watch = Watch::with_room(PAGES);
    watch.took_ns.resize(PAGES, 0);
    watch.took_ns.clear();
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, regions) = std::sync::mpsc::sync_channel::<Region>(1);
    let (results, result) = std::sync::mpsc::sync_channel(1);
    let (ups, up) = std::sync::mpsc::sync_channel(1);
    let thread_stop = Arc::clone(&stop);
    std::thread::spawn(move || {
        let _ = ups.send(());
        let region = regions.recv().expect("the main thread sends it");
        let _ = results.send(trickle(region, &thread_stop));
        std::thread::park();
    });
    up.recv().expect("the thread starts");
    stage.settle();
    let (slow, region) = (Region::anon(40_000), Region::anon(PAGES));
    stage.begin();
    sender.send(slow).expect("the thread waits");
    std::thread::sleep(5 * REST);
    let span = burst_fill(region, 1, &mut watch);
    std::thread::sleep(2 * REST);
    stop.store(true, Ordering::Relaxed);
    let trickled = result.recv().expect("the thread tells");
    let burst = truth(span, PAGES, PAGES, "burst_fill", &region, &watch);
    let expect = [
        Expect::new("fault.anon").anon(PAGES).minor(PAGES).at(&region),
        Expect::new("fault.anon").anon(trickled).minor(trickled).at(&slow),
    ];
    stage.finish_with(Check::Counters, &expect, json!({"bursts": [burst]}));
}

/// Huge pages, again and again: slow faults, each of which clears 2 MiB.
fn thp(stage: &mut Stage) {
    // Few at a time: the machine hands out those that it was just given back. And no part of sixteen, or the tool, which
    // times each sixteenth fault, would always time the same ones.
    const ROUNDS: usize = 900;
    const HUGES: usize = 7;
    let mut watch = Watch::with_room(ROUNDS * HUGES);
    stage.settle();
    let step = HUGE / page_size();
    let region = Region::anon_aligned(HUGES * step, HUGE);
    region.advise(libc::MADV_HUGEPAGE);
    // The machine finds its huge pages once before.
    region.write_each(step);
    region.advise(libc::MADV_DONTNEED);
    stage.begin();
    let span = rested(|| {
        let mut span = (u64::MAX, 0);
        for _ in 0..ROUNDS {
            let (begin, end) = burst_fill(region, step, &mut watch);
            span = (span.0.min(begin), end);
            region.advise(libc::MADV_DONTNEED);
        }
        span
    });
    let (faults, pages) = (ROUNDS * HUGES, ROUNDS * region.pages());
    let burst = truth(span, faults, pages, "burst_fill", &region, &watch);
    let expect = [
        Expect::new("fault.thp").anon(pages).minor(faults).at(&region),
        Expect::new("madvise.dontneed").anon(pages).negative().at(&region),
    ];
    stage.finish_with(Check::All, &expect, json!({"bursts": [burst]}));
}

/// Steady: each touch is a fault, 4,000 a second, for as long as is asked.
fn steady(stage: &mut Stage) {
    const ROUND: usize = 4_000;
    stage.settle();
    let region = Region::anon(ROUND);
    let begin = monotonic_ns();
    let (mut touches, mut ready) = (0_u64, false);
    let mut end = u64::MAX;
    while monotonic_ns() < end {
        region.part(touches as usize % ROUND, touches as usize % ROUND + 1).write();
        touches += 1;
        if touches.is_multiple_of(ROUND as u64) {
            region.advise(libc::MADV_DONTNEED);
        }
        let due = begin + touches * 250_000;
        let now = monotonic_ns();
        if due > now {
            std::thread::sleep(Duration::from_nanos(due - now));
        }
        // It faults like this before anyone looks, and goes on when somebody does.
        if !ready && touches == 2 * ROUND as u64 {
            ready = true;
            crate::stage::say(&json!({"ready": true, "pid": std::process::id(), "scene": "burst.steady"}));
            end = monotonic_ns() + (stage.seconds * 1e9) as u64;
        }
    }
    stage.finish_with(Check::Nothing, &[], json!({"bursts": [], "touches": touches}));
}
