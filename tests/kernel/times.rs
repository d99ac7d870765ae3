//! Where threads' time goes, held against the threads' own clocks: CPU time, wall, switches, faults. Every thread's states
//! are the whole of every interval.

use anyhow::{Context, Result, ensure};
use memtrace::event::{CodeId, Event, LockHold, RanAt, TimeSpan, Times};
use memtrace::trace::Reader;
use memtrace_common::{Cause, Doing};
use memtrace_tests::machine::TempDir;
use memtrace_tests::recording::Recording;
use memtrace_tests::runner::{self, Test};
use memtrace_tests::scene::{Play, options};
use memtrace_tests::target::{Target, stop};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::process::ExitCode;
use std::time::Duration;

const TESTS: &[Test] = &[
    ("times.spin", spin),
    ("times.functions", functions),
    ("times.share", share),
    ("times.sleep", sleep),
    ("times.futex", futex),
    ("times.pipe", pipe),
    ("times.short", short),
    ("times.lock", lock),
    ("times.file", file),
    ("times.stopped", stopped),
    ("times.spawned", spawned),
];

const NR_READ: u32 = 0;
const NR_FUTEX: u32 = 202;
const NR_CLOCK_NANOSLEEP: u32 = 230;

fn main() -> ExitCode {
    runner::run(TESTS)
}

/// A recorded session: what it says of threads' time.
struct Told {
    intervals: Vec<Times>,
    /// Where threads' own code was.
    places: Vec<RanAt>,
    /// Functions by place.
    names: BTreeMap<CodeId, String>,
    /// What the machine's owner took of its CPUs meanwhile: a thread's own clock stands still then.
    stolen_ns: u64,
}

impl Told {
    fn read(trace: &std::path::Path) -> Result<Self> {
        let mut told = Self { intervals: Vec::new(), places: Vec::new(), names: BTreeMap::new(), stolen_ns: 0 };
        let mut lost = 0;
        for event in Reader::new(File::open(trace)?)? {
            match event? {
                Event::Times(times) => told.intervals.push(times),
                Event::Ran(ran) => told.places.extend(ran.places),
                Event::Code(code) => {
                    let name = code.symbols.last().map(|symbol| String::from_utf8_lossy(&symbol.name).into_owned());
                    told.names.insert(code.id, name.unwrap_or_default());
                }
                Event::Tick(tick) => lost = tick.lost.times,
                _ => {}
            }
        }
        ensure!(!told.intervals.is_empty(), "nothing is told of threads' time");
        ensure!(lost == 0, "{lost} spans were lost");
        told.assert_whole()?;
        Ok(told)
    }

    /// A thread that is there before and after an interval has all of it in its states; others no more than it.
    fn assert_whole(&self) -> Result<()> {
        let sums: Vec<BTreeMap<u32, u64>> = self
            .intervals
            .iter()
            .map(|times| {
                let mut sums = BTreeMap::new();
                for span in &times.spans {
                    *sums.entry(span.tid).or_default() += span.ns;
                }
                sums
            })
            .collect();
        let mut whole = 0;
        for (i, times) in self.intervals.iter().enumerate() {
            let length = times.ts_ns - times.begin_ns;
            if let Some(before) = i.checked_sub(1).and_then(|i| self.intervals.get(i)) {
                ensure!(before.ts_ns == times.begin_ns, "interval {i} does not follow the one before it");
            }
            let there = |i: Option<usize>, tid| i.and_then(|i| sums.get(i)).is_some_and(|sums| sums.contains_key(tid));
            for (tid, sum) in &sums[i] {
                ensure!(*sum <= length, "thread {tid} has {sum} ns in the {length} ns of interval {i}: {times:?}");
                if there(i.checked_sub(1), tid) && there(Some(i + 1), tid) {
                    ensure!(*sum == length, "thread {tid} has {sum} ns of the {length} of interval {i}: {times:?}");
                    whole += 1;
                }
            }
        }
        ensure!(whole > 0, "no thread lived through an interval");
        Ok(())
    }

    /// Sum of a thread's spans of a kind, with the longest.
    fn sum(&self, tid: u32, wanted: impl Fn(&TimeSpan) -> bool) -> Sum {
        let spans = self.intervals.iter().flat_map(|times| &times.spans);
        spans.filter(|span| span.tid == tid && wanted(span)).fold(Sum::default(), |sum, span| Sum {
            ns: sum.ns + span.ns,
            count: sum.count + span.count,
            samples: sum.samples + span.samples,
            max_ns: sum.max_ns.max(span.max_ns),
        })
    }

    fn of(&self, tid: u32, doing: Doing) -> Sum {
        self.sum(tid, |span| span.doing == doing)
    }

    fn holds(&self) -> impl Iterator<Item = &LockHold> {
        self.intervals.iter().flat_map(|times| &times.holds)
    }

    /// All that is told of a thread, for a failure's message.
    fn all_of(&self, tid: u32) -> String {
        let mut sums: BTreeMap<_, u64> = BTreeMap::new();
        for span in self.intervals.iter().flat_map(|times| &times.spans).filter(|span| span.tid == tid) {
            *sums.entry((span.doing, span.nr, span.cause.map(Cause::name))).or_default() += span.ns;
        }
        format!("{sums:?}")
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    ns: u64,
    count: u64,
    samples: u64,
    max_ns: u64,
}

/// What a thread says of itself.
#[derive(Debug)]
struct Thread {
    tid: u32,
    wall_ns: u64,
    cpu_ns: u64,
    delay_ns: u64,
    slept: u64,
    more: Value,
}

fn number(value: &Value, name: &str) -> Result<u64> {
    value[name].as_u64().with_context(|| format!("no {name} in {value}"))
}

/// Plays a scene that is recorded from before its beginning until after its end.
fn record(scene: &str) -> Result<(Told, Vec<Thread>)> {
    let dir = TempDir::new()?;
    let mut target =
        Target::workload(scene, &options(&dir, &Play { options: &[("--seconds", "2")], ..Play::default() }))?;
    let stolen = stolen_ns()?;
    let recording = Recording::attach(target.pid(), &["--time"])?;
    target.send("x")?;
    let truth = target.report()?;
    let trace = recording.trace().to_owned();
    recording.finish()?;
    let stolen_ns = stolen_ns()? - stolen;
    let threads = truth["more"]["threads"].as_array().context("threads")?;
    ensure!(!threads.is_empty(), "nobody did anything: {truth}");
    let threads = threads.iter().map(|thread| {
        Ok(Thread {
            tid: u32::try_from(number(thread, "tid")?)?,
            wall_ns: number(thread, "wall_ns")?,
            cpu_ns: number(thread, "cpu_ns")?,
            delay_ns: number(thread, "delay_ns")?,
            slept: number(thread, "slept")?,
            more: thread["more"].clone(),
        })
    });
    Ok((Told { stolen_ns, ..Told::read(&trace)? }, threads.collect::<Result<_>>()?))
}

/// Time that the host did not give to this machine's CPUs, as far as the kernel knows: in hundredths of a second.
fn stolen_ns() -> Result<u64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let stolen = stat.split_whitespace().nth(8).context("/proc/stat has no steal")?;
    Ok(stolen.parse::<u64>()? * 10_000_000)
}

/// What a thread does besides its act: it wakes, waits at the gate, tells.
const BESIDES_NS: u64 = 2_000_000;
/// The kernel's clock of a thread may begin with the wakeup that made it the next one to run, which is before it runs:
/// so much of what the kernel calls running is told as waiting for the CPU, each time.
const PER_TURN_NS: u64 = 20_000;

/// Equal within one percent, `more` and `less`.
fn assert_close(what: &str, told: u64, truth: u64, (more, less): (u64, u64)) -> Result<()> {
    println!("    {what}: {:.3} ms told, {:.3} ms in truth", told as f64 / 1e6, truth as f64 / 1e6);
    let besides = truth / 100 + BESIDES_NS;
    ensure!(told <= truth + more + besides, "{what}: {told} ns told, {truth} ns in truth, {more} more allowed");
    ensure!(told + less + besides >= truth, "{what}: {told} ns told, {truth} ns in truth, {less} less allowed");
    Ok(())
}

impl Thread {
    /// What of its waiting for a CPU its own clock may call running.
    fn waking_ns(&self, told: &Told) -> u64 {
        let runnable = told.of(self.tid, Doing::Runnable);
        runnable.ns.min(runnable.count * PER_TURN_NS)
    }

    fn assert_running(&self, told: &Told) -> Result<()> {
        let running = told.of(self.tid, Doing::Running).ns;
        assert_close("running", running, self.cpu_ns, (told.stolen_ns, self.waking_ns(told)))
            .with_context(|| told.all_of(self.tid))
    }

    /// What it waited for a CPU: not less than the scheduler says, and not more than the gaps that it saw itself, in which
    /// interrupts and the host are too, and the shortest are not.
    fn assert_gaps(&self, told: &Told) -> Result<()> {
        let runnable = told.of(self.tid, Doing::Runnable);
        let (gaps, short) = (number(&self.more, "gaps_ns")?, runnable.count * PER_TURN_NS);
        assert_close("waiting", runnable.ns, self.delay_ns, (gaps.saturating_sub(self.delay_ns) + short, 0))
            .with_context(|| told.all_of(self.tid))
    }

    /// What is told of its time off the CPU is all of that.
    fn assert_off(&self, told: &Told, ns: u64) -> Result<()> {
        assert_close("off the CPU", ns, self.wall_ns - self.cpu_ns, (self.waking_ns(told), told.stolen_ns))
            .with_context(|| told.all_of(self.tid))
    }
}

/// On a CPU in its own code: each sample says so.
fn spin() -> Result<()> {
    let (told, threads) = record("times.spin")?;
    for thread in &threads {
        thread.assert_running(&told)?;
        thread.assert_gaps(&told)?;
        let (user, kernel) = (told.of(thread.tid, Doing::User), told.of(thread.tid, Doing::Kernel));
        println!("    samples: {} user, {} kernel", user.samples, kernel.samples);
        let expected = thread.cpu_ns * 997 / 1_000_000_000;
        ensure!(
            (user.samples + kernel.samples).abs_diff(expected) <= expected / 10 + 20,
            "{user:?} and {kernel:?} of {expected} samples"
        );
        ensure!(user.samples > 9 * kernel.samples, "{user:?} and {kernel:?}: it only spins");
    }
    Ok(())
}

/// Every sample of a thread's own code has its place, and the functions have the shares that the thread measured.
fn functions() -> Result<()> {
    let (told, threads) = record("times.functions")?;
    let [thread] = &threads[..] else { anyhow::bail!("{threads:?}") };
    let samples = told.of(thread.tid, Doing::User).samples;
    let at = |function: &str| {
        let here = |place: &&RanAt| told.names.get(&place.code).is_some_and(|name| name.ends_with(function));
        let places = told.places.iter().filter(|place| place.tid == thread.tid);
        places.filter(here).map(|place| place.samples).sum::<u64>()
    };
    ensure!(at("") == samples, "{} samples have a place, of {samples}", at(""));
    let (long, short) = (at("::computes_long"), at("::computes_short"));
    let (long_ns, short_ns) = (number(&thread.more, "long_ns")?, number(&thread.more, "short_ns")?);
    println!("    {long} and {short} of {samples} samples; {long_ns} and {short_ns} ns by the thread's clock");
    ensure!(long + short >= samples * 95 / 100, "{long} and {short} of {samples} samples");
    let truth = long_ns as f64 / (long_ns + short_ns) as f64;
    let found = long as f64 / (long + short) as f64;
    // Four standard deviations of so many samples.
    let close = 4.0 * (truth * (1.0 - truth) / (long + short) as f64).sqrt();
    ensure!((found - truth).abs() <= close, "{found:.3} of the samples, {truth:.3} of the time, ± {close:.3}");
    Ok(())
}

/// What two on one CPU do not run they wait for it.
fn share() -> Result<()> {
    let (told, threads) = record("times.share")?;
    for thread in &threads {
        thread.assert_running(&told)?;
        let runnable = told.of(thread.tid, Doing::Runnable).ns;
        thread.assert_off(&told, runnable)?;
        thread.assert_gaps(&told)?;
    }
    Ok(())
}

fn sleep() -> Result<()> {
    let (told, threads) = record("times.sleep")?;
    let [thread] = &threads[..] else { anyhow::bail!("{threads:?}") };
    let slept = told.sum(thread.tid, |span| span.doing == Doing::Blocked && span.nr == Some(NR_CLOCK_NANOSLEEP));
    let runnable_ns = told.of(thread.tid, Doing::Runnable).ns;
    assert_close("asleep", slept.ns, thread.wall_ns, (0, runnable_ns))?;
    ensure!(slept.count == 1, "{slept:?}");
    assert_close("longest sleep", slept.max_ns, thread.wall_ns, (0, runnable_ns))
}

fn futex() -> Result<()> {
    let (told, threads) = record("times.futex")?;
    let waiter = &threads[0];
    let (address, operation) = (number(&waiter.more, "address")?, number(&waiter.more, "operation")?);
    let waited = told.sum(waiter.tid, |span| {
        span.doing == Doing::Blocked
            && (span.nr, span.object, span.detail) == (Some(NR_FUTEX), address, operation)
            && !span.before
    });
    waiter.assert_off(&told, waited.ns + told.of(waiter.tid, Doing::Runnable).ns)?;
    threads[1].assert_running(&told)?;
    threads[1].assert_gaps(&told)
}

/// Every sleep is one, under its descriptor.
fn pipe() -> Result<()> {
    let (told, threads) = record("times.pipe")?;
    for thread in &threads {
        thread.assert_running(&told)?;
        let fd = number(&thread.more, "fd")?;
        let reads =
            told.sum(thread.tid, |span| span.doing == Doing::Blocked && (span.nr, span.object) == (Some(NR_READ), fd));
        println!("    {reads:?}; it says it slept {} times in {}", thread.slept, thread.more);
        ensure!(reads.count.abs_diff(thread.slept) <= 4, "{reads:?}; it says it slept {} times", thread.slept);
        let runnable = told.of(thread.tid, Doing::Runnable).ns;
        thread.assert_off(&told, reads.ns + runnable)?;
    }
    Ok(())
}

/// Threads that began and ended under our eyes.
fn short() -> Result<()> {
    let (told, threads) = record("times.short")?;
    let parent = &threads[0];
    parent.assert_running(&told)?;
    let children = parent.more.as_array().context("threads")?;
    let (mut running, mut truth) = (0, 0);
    for child in children {
        let tid = u32::try_from(number(child, "tid")?)?;
        let sum = told.of(tid, Doing::Running);
        let cpu = number(child, "cpu_ns")?;
        let ready = told.of(tid, Doing::Runnable);
        ensure!(sum.ns + ready.ns >= cpu, "thread {tid} ran {cpu} ns, {sum:?} and {ready:?} are told");
        (running, truth) = (running + sum.ns, truth + cpu);
    }
    println!("    {} threads", children.len());
    // What each does before its clock can be read and after that is its own as well: 0.1 ms of 5.
    ensure!(running.abs_diff(truth) <= truth / 25 + told.stolen_ns, "{running} ns told of {truth}");
    Ok(())
}

/// Who wants mmap_lock waits for it and for nothing else, as long as the other holds it.
fn lock() -> Result<()> {
    let (told, threads) = record("times.lock")?;
    let [holder, waiter] = &threads[..] else { anyhow::bail!("{threads:?}") };
    waiter.assert_running(&told)?;
    let waited = told.of(waiter.tid, Doing::MmapLock);
    let runnable = told.of(waiter.tid, Doing::Runnable);
    waiter.assert_off(&told, waited.ns + runnable.ns)?;
    let held: u64 = told.holds().filter(|hold| hold.tid == holder.tid && hold.write).map(|hold| hold.ns).sum();
    let times: u64 = told.holds().filter(|hold| hold.tid == holder.tid && hold.write).map(|hold| hold.count).sum();
    println!("    {waited:?}; held for writing {held} ns, {times} times, {} calls", holder.more);
    ensure!(times.abs_diff(number(&holder.more, "calls")?) <= 16, "{times} holds of {} calls", holder.more);
    // What was waited for was held by somebody.
    ensure!(waited.ns > 0 && waited.ns <= held + waited.count * 1_000_000, "{waited:?}, but held {held} ns");
    Ok(())
}

/// Off the CPU in major faults of the mapping, and known as what the books call them.
fn file() -> Result<()> {
    let (told, threads) = record("times.file")?;
    let [thread] = &threads[..] else { anyhow::bail!("{threads:?}") };
    let start = number(&thread.more, "start")?;
    let (major, slept) = (number(&thread.more, "major")?, number(&thread.more, "slept")?);
    let read = told.sum(thread.tid, |span| {
        // A fault that an interval's end cuts has the part before it under no cause.
        let cause = span.cause == Some(Cause::FaultFileRead) || span.open && span.cause.is_none();
        span.doing == Doing::Fault && cause && span.object == start
    });
    let faults = told.of(thread.tid, Doing::Fault);
    println!("    {read:?} of {faults:?}; {major} major faults, slept {slept} times; {}", told.all_of(thread.tid));
    ensure!(major > 100, "{major} major faults: the file stayed in memory");
    ensure!(faults.count.abs_diff(slept) <= slept / 20 + 4, "{faults:?} of {slept}");
    ensure!(read.ns >= faults.ns / 10 * 9, "{read:?} of {faults:?}");
    thread.assert_running(&told)?;
    let others = told.of(thread.tid, Doing::Runnable).ns;
    thread.assert_off(&told, faults.ns + others)
}

/// A process that a signal has stopped is stopped, and was asleep before.
fn stopped() -> Result<()> {
    let dir = TempDir::new()?;
    let target = Target::workload("times.sleep", &options(&dir, &Play::default()))?;
    let recording = Recording::attach(target.pid(), &["--time"])?;
    let began = std::time::Instant::now();
    let stop = stop(target.pid())?;
    let asked = began.elapsed();
    std::thread::sleep(Duration::from_millis(400));
    let until = began.elapsed();
    drop(stop);
    let trace = recording.trace().to_owned();
    recording.finish()?;
    let told = Told::read(&trace)?;
    let stopped = told.of(target.pid(), Doing::Stopped);
    println!("    {stopped:?}, between {:?} and {:?}", until.saturating_sub(asked), began.elapsed());
    ensure!(stopped.ns >= u64::try_from((until - asked).as_nanos())?, "{stopped:?}");
    ensure!(stopped.ns <= u64::try_from(began.elapsed().as_nanos())?, "{stopped:?}");
    let before = told.sum(target.pid(), |span| span.before && span.doing == Doing::Blocked && span.nr == Some(NR_READ));
    ensure!(before.count == 1, "it waited for a byte since before: {}", told.all_of(target.pid()));
    Ok(())
}

/// A command is told of from its execve on.
fn spawned() -> Result<()> {
    let recording = Recording::start(&["--time", "--", "sleep", "0.5"])?;
    let trace = recording.trace().to_owned();
    recording.wait()?;
    let told = Told::read(&trace)?;
    let tid = told.intervals[0].spans[0].tid;
    let slept = told.sum(tid, |span| span.doing == Doing::Blocked && span.nr == Some(NR_CLOCK_NANOSLEEP));
    println!("    {slept:?}; {}", told.all_of(tid));
    ensure!((500_000_000..600_000_000).contains(&slept.ns), "{slept:?} of half a second");
    Ok(())
}
