//! What the actor writes down while it stalls, where the director can read it: a page that both have mapped.

use crate::region::{READ_WRITE, Region};
use memtrace_tests::pages::{monotonic_ns, page_size};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How long the actor may prepare.
const PATIENCE_NS: u64 = 60_000_000_000;
/// The actor looks so often whether it may go: it is the act before the stall, and nothing that a stall looks like.
const LOOK_NS: i64 = 1_000_000;

/// The actor's books. All zero is a new one.
pub struct Ledger {
    prepared: AtomicU32,
    go: AtomicU32,
    /// A thread or process beside the actor that matters.
    other: AtomicU32,
    begun_ns: AtomicU64,
    /// Odd while the two below change.
    version: AtomicU64,
    /// Time in acts that are over.
    sum_ns: AtomicU64,
    /// When the present one began; 0 for none.
    open_ns: AtomicU64,
    acts: AtomicU64,
    longest_ns: AtomicU64,
}

impl Ledger {
    /// In memory that a forked child shares.
    pub fn shared() -> &'static Self {
        let page = Region::hole(1, page_size()).place(READ_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1);
        // SAFETY: a page of zeros, aligned and large enough, never unmapped; everything in it is atomic.
        unsafe { &*page.pointer().cast::<Self>() }
    }

    /// The actor: all is prepared; waits until it may stall.
    pub fn await_go(&self) {
        self.prepared.store(1, Ordering::Release);
        self.released();
    }

    /// Another thread of the actor's.
    pub fn released(&self) {
        let pause = libc::timespec { tv_sec: 0, tv_nsec: LOOK_NS };
        while self.go.load(Ordering::Acquire) == 0 {
            // SAFETY: reads our struct.
            unsafe { libc::nanosleep(&raw const pause, std::ptr::null_mut()) };
        }
    }

    /// The director: waits until the actor is prepared.
    pub fn await_prepared(&self, actor: u32) {
        let deadline = monotonic_ns() + PATIENCE_NS;
        while self.prepared.load(Ordering::Acquire) == 0 {
            let state = super::state_of(actor);
            assert!(!matches!(state, None | Some('Z')), "the actor ended before it was prepared");
            assert!(monotonic_ns() < deadline, "the actor does not get prepared");
            std::thread::sleep(super::SAMPLE);
        }
    }

    /// The director: the stall may begin.
    pub fn go(&self) {
        self.go.store(1, Ordering::Release);
    }

    /// Notes who else matters.
    pub fn set_other(&self, id: u32) {
        self.other.store(id, Ordering::Release);
    }

    pub fn other(&self) -> u32 {
        self.other.load(Ordering::Acquire)
    }

    /// An act begins, the stall with the first one.
    pub fn enter(&self) {
        let now = monotonic_ns();
        let _ = self.begun_ns.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
        self.change(|| self.open_ns.store(now, Ordering::Relaxed));
    }

    /// The act is over.
    pub fn leave(&self) {
        let now = monotonic_ns();
        let took = now - self.open_ns.load(Ordering::Relaxed);
        self.change(|| {
            self.sum_ns.fetch_add(took, Ordering::Relaxed);
            self.open_ns.store(0, Ordering::Relaxed);
        });
        self.acts.fetch_add(1, Ordering::Relaxed);
        self.longest_ns.fetch_max(took, Ordering::Relaxed);
    }

    /// Does it within an act.
    pub fn within<T>(&self, act: impl FnOnce() -> T) -> T {
        self.enter();
        let outcome = act();
        self.leave();
        outcome
    }

    fn change(&self, write: impl FnOnce()) {
        self.version.fetch_add(1, Ordering::SeqCst);
        write();
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// Time in acts until now, the present one included, and that now.
    fn until_now(&self) -> (u64, u64) {
        loop {
            let version = self.version.load(Ordering::SeqCst);
            let now = monotonic_ns();
            let (sum, open) = (self.sum_ns.load(Ordering::SeqCst), self.open_ns.load(Ordering::SeqCst));
            if version.is_multiple_of(2) && version == self.version.load(Ordering::SeqCst) {
                return (now, sum + if open == 0 { 0 } else { now.saturating_sub(open) });
            }
        }
    }

    pub fn begun_ns(&self) -> u64 {
        self.begun_ns.load(Ordering::Acquire)
    }

    pub fn acts(&self) -> u64 {
        self.acts.load(Ordering::Relaxed)
    }

    pub fn longest_ns(&self) -> u64 {
        self.longest_ns.load(Ordering::Relaxed)
    }
}

/// What the scheduler counts of a thread.
#[derive(Clone, Copy, Default)]
pub struct Scheduled {
    /// On a CPU.
    pub cpu_ns: u64,
    /// Ready to run without one.
    pub delay_ns: u64,
}

impl Scheduled {
    pub fn read(pid: u32, tid: u32) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).unwrap_or_default();
        let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap_or(0));
        Self { cpu_ns: numbers.next().unwrap_or(0), delay_ns: numbers.next().unwrap_or(0) }
    }
}

/// The truth at a moment.
pub struct Sample {
    at_ns: u64,
    act_ns: u64,
    scheduled: Scheduled,
}

impl Sample {
    pub fn take(ledger: &Ledger, tid: u32) -> Self {
        let (at_ns, act_ns) = ledger.until_now();
        Self { at_ns, act_ns, scheduled: Scheduled::read(tid, tid) }
    }

    /// When, in acts, on a CPU, waiting for one.
    pub fn told(&self) -> Value {
        json!([self.at_ns, self.act_ns, self.scheduled.cpu_ns, self.scheduled.delay_ns])
    }
}
