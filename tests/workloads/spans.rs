//! A program whose functions begin and end spans, and that knows what it did between them: the counters as it reads them
//! next to each edge, and its own faults.

use crate::Scene;
use crate::region::Region;
use crate::stage::{Check, Stage, gettid};
use memtrace_tests::pages::{Pages, Pid};
use serde_json::{Value, json};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

pub const SCENES: &[(&str, Scene)] =
    &[("spans.alone", alone), ("spans.beside", beside), ("spans.nested", nested), ("spans.edges", edges)];

/// Pages that each span touches.
const TOUCHED: [usize; 6] = [0, 1, 7, 64, 300, 33];

/// Begins a span.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn workload_span_begin(number: usize) {
    black_box(number);
}

/// Ends it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn workload_span_end(number: usize) {
    // Not as the other one does: two functions that are the same are one to the compiler.
    black_box(!number);
}

/// A span from its entry to its return; calls itself `depth` times before it returns.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn workload_span_call(region: &Region, page: usize, depth: usize) {
    region.part(page, page + 3).write();
    if depth > 0 {
        workload_span_call(region, page + 3, depth - 1);
    }
    // After the inner call has returned: it is the outer one's, and this is no tail call.
    region.part(page, page + 1).write();
    black_box(region);
}

fn counters() -> Pages {
    Pages::read(Pid::Own).expect("/proc/self/status is readable")
}

fn told(pages: Pages) -> Value {
    let Pages { anon, file, shmem, swap } = pages;
    json!([anon, file, shmem, swap])
}

/// Faults of the caller so far.
fn faults() -> i64 {
    // SAFETY: all-zero is a valid rusage, and the kernel fills it.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage.ru_minflt + usage.ru_majflt
    }
}

/// What one span did.
#[derive(Clone, Copy, Default)]
struct Truth {
    pages: usize,
    before: Pages,
    after: Pages,
    faults: i64,
}

/// Spans that touch pages and give some back and do `more`, with other pages between them.
fn play(region: &Region, mut more: impl FnMut()) -> [Truth; TOUCHED.len()] {
    let mut truths = [Truth::default(); TOUCHED.len()];
    let mut page = 0;
    for (pages, truth) in TOUCHED.iter().zip(&mut truths) {
        truth.pages = *pages;
        let before = faults();
        truth.before = counters();
        workload_span_begin(*pages);
        let part = region.part(page, page + pages);
        if *pages > 0 {
            part.write();
            region.part(page, page + pages.div_ceil(2)).advise(libc::MADV_DONTNEED);
        }
        page += pages;
        more();
        truth.after = counters();
        truth.faults = faults() - before;
        workload_span_end(*pages);
        region.part(page, page + 5).write();
        page += 5;
    }
    truths
}

fn room() -> Region {
    Region::anon(TOUCHED.iter().sum::<usize>() + 5 * TOUCHED.len() + 64)
}

fn tell(truths: &[Truth]) -> Vec<Value> {
    let tell = |truth: &Truth| {
        json!({
            "pages": truth.pages,
            "before": told(truth.before),
            "after": told(truth.after),
            "faults": truth.faults,
        })
    };
    truths.iter().map(tell).collect()
}

/// One thread. A span is in progress when the tool attaches, and another one when it leaves.
fn alone(stage: &mut Stage) {
    stage.settle();
    let region = room();
    workload_span_begin(usize::MAX);
    stage.begin();
    region.part(0, 3).write();
    workload_span_end(usize::MAX);
    let truths = play(&region.part(3, region.pages()), || {});
    workload_span_begin(usize::MAX);
    region.part(region.pages() - 11, region.pages()).write();
    let more = json!({"tid": gettid(), "spans": tell(&truths), "first": 3, "last": 11});
    stage.finish_with(Check::Nothing, &[], more);
}

/// The same while another thread maps and touches all the time, and unmaps half of it: some of that in each span.
fn beside(stage: &mut Stage) {
    static OVER: AtomicBool = AtomicBool::new(false);
    static TOUCHES: AtomicI64 = AtomicI64::new(0);
    let (begin, begun) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        let _ = begun.recv();
        while !OVER.load(Ordering::Relaxed) {
            let region = Region::anon(64);
            region.write();
            if TOUCHES.fetch_add(64, Ordering::Relaxed) & 64 != 0 {
                region.unmap();
            }
        }
    });
    stage.settle();
    let region = room();
    stage.begin();
    let _ = begin.send(());
    while TOUCHES.load(Ordering::Relaxed) == 0 {
        std::thread::yield_now();
    }
    let truths = play(&region, || {
        let before = TOUCHES.load(Ordering::Relaxed);
        while TOUCHES.load(Ordering::Relaxed) < before + 256 {
            std::thread::yield_now();
        }
    });
    OVER.store(true, Ordering::Relaxed);
    other.join().expect("the other thread ends");
    let more = json!({"tid": gettid(), "spans": tell(&truths), "others": TOUCHES.load(Ordering::Relaxed)});
    stage.finish_with(Check::Nothing, &[], more);
}

/// A function that calls itself: the outermost call is the span.
fn nested(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(64);
    stage.begin();
    let mut spans = Vec::with_capacity(4);
    for (depth, page) in [(0, 0), (3, 10), (1, 30)] {
        let before = counters();
        workload_span_call(&region, page, depth);
        spans.push((3 * (depth + 1), before, counters()));
    }
    let spans: Vec<Value> = spans
        .into_iter()
        .map(|(pages, before, after)| json!({"pages": pages, "before": told(before), "after": told(after)}))
        .collect();
    stage.finish_with(Check::Nothing, &[], json!({"tid": gettid(), "spans": spans}));
}

/// Nanoseconds that the caller has run.
fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Nothing but edges, as fast as they come, for `--seconds`: what one costs, in time that the thread runs.
fn edges(stage: &mut Stage) {
    stage.settle();
    stage.begin();
    let (begin, cpu) = (memtrace_tests::pages::monotonic_ns(), cpu_ns());
    let mut pairs = 0_u64;
    while memtrace_tests::pages::monotonic_ns() - begin < (stage.seconds * 1e9) as u64 {
        for number in 0..100 {
            workload_span_begin(number);
            workload_span_end(number);
        }
        pairs += 100;
    }
    let ns = cpu_ns() - cpu;
    stage.finish_with(Check::Nothing, &[], json!({"tid": gettid(), "pairs": pairs, "ns": ns}));
}
