//! Stalls whose truth is known: an actor that stands still in a known way, and a director that tells how.
//!
//! The actor is a process of its own, the only thing that is watched, and cannot speak once it is stuck: it keeps a
//! [`Ledger`] in memory that it shares with the director, who reads it, reads the scheduler's counters of the actor
//! beside it, and holds the actor against `/proc` before it tells anything. After `ready` a byte begins the stall, `{"begun":true}` is
//! said when it has begun, a second byte asks for the truth, a third ends it.

mod cpu;
mod io;
mod ledger;
mod lock;
mod memory;
mod stop;

use crate::Scene;
use crate::stage::{Check, Stage, await_byte, say};
pub use ledger::Ledger;
use ledger::{Sample, Scheduled};
use memtrace_tests::pages::monotonic_ns;
use serde_json::{Value, json};
use std::time::Duration;

pub const ROOMS: &[&[(&str, Scene)]] = &[memory::SCENES, lock::SCENES, io::SCENES, cpu::SCENES, stop::SCENES];

/// Time between two samples of the truth.
const SAMPLE: Duration = Duration::from_millis(10);
/// How long the kernel may take to bring the actor where it goes.
const PATIENCE_NS: u64 = 20_000_000_000;
/// What a thread that does not run may be charged while it is looked at.
const STILL_CPU_NS: u64 = 5_000_000;

/// Which of the truth's series is the time spent in the stall.
#[derive(Clone, Copy)]
pub enum Measure {
    /// Time that the actor measured around what it did.
    Act,
    /// The same, without what the scheduler says it waited for a CPU.
    ActScheduled,
    /// The same, of which what it did on a CPU may have been something else.
    ActWaiting,
    /// CPU time.
    Cpu,
    /// Time without a CPU, for whatever reason.
    Off,
}

impl Measure {
    const fn name(self) -> &'static str {
        match self {
            Self::Act => "act",
            Self::ActScheduled => "act_scheduled",
            Self::ActWaiting => "act_waiting",
            Self::Cpu => "cpu",
            Self::Off => "off",
        }
    }
}

/// How a thread stands that never goes on: as `/proc` shows it.
#[derive(Clone, Copy)]
pub struct Stand {
    /// Letter of its state.
    pub state: char,
    /// System call that it is in; `None` where /proc does not tell.
    pub nr: Option<i64>,
}

impl Stand {
    /// Asleep in a system call.
    pub const fn call(nr: i64) -> Option<Self> {
        Some(Self { state: 'S', nr: Some(nr) })
    }

    fn holds(self, tid: u32) -> bool {
        let nr = self.nr.is_none_or(|nr| {
            let text = std::fs::read_to_string(format!("/proc/{tid}/syscall")).unwrap_or_default();
            text.split_whitespace().next().and_then(|first| first.parse::<i64>().ok()) == Some(nr)
        });
        nr && state_of(tid) == Some(self.state)
    }
}

fn state_of(tid: u32) -> Option<char> {
    let stat = std::fs::read(format!("/proc/{tid}/stat")).ok()?;
    String::from_utf8_lossy(&stat).rsplit_once(") ")?.1.chars().next()
}

/// What is true of a stall.
pub struct Stall {
    /// Classes of the contract that are right: the first is the most exact, others are as true.
    pub class: &'static [&'static str],
    /// Memory is the cause.
    pub memory: bool,
    /// How much of the time.
    pub measure: Measure,
    /// Where the actor stands for good; `None` when it goes on and on.
    pub stand: Option<Stand>,
}

/// A child of the director, killed and reaped on drop.
pub struct Forked(i32);

impl Forked {
    /// Forks; the child does this and nothing else, and dies with its parent.
    pub fn new(act: impl FnOnce()) -> Self {
        // SAFETY: the caller has one thread, so that the child may do whatever a process does.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            dies_with_its_parent();
            act();
            // SAFETY: nothing of this process is to be run down: it is the parent's.
            unsafe { libc::_exit(0) };
        }
        Self(pid)
    }

    pub fn pid(&self) -> u32 {
        self.0 as u32
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        // SAFETY: our own child, not yet reaped.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), libc::__WALL);
        }
    }
}

/// The caller and the threads that it starts go before everybody else on the machine: what is told of its time is its own
/// doing, and not a neighbour's.
pub fn goes_first() {
    // SAFETY: no memory is involved.
    unsafe {
        libc::setsid();
        libc::setpriority(libc::PRIO_PROCESS, 0, -20);
    }
    // Where sessions are scheduled against each other, a thread's own priority counts within its session only.
    let _ = std::fs::write("/proc/self/autogroup", "-20");
}

/// Kills the caller when its parent is gone.
pub fn dies_with_its_parent() {
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Has the actor stall and tells the truth. `act` is the actor's: it prepares, calls [`Ledger::await_go`], and stalls.
/// `inflict` is what the director does to the actor to begin the stall, until what it returns is dropped; `object` is what
/// the stall is about.
pub fn direct<T>(
    stage: &mut Stage,
    stall: &Stall,
    act: impl FnOnce(&Ledger),
    inflict: impl FnOnce(u32) -> T,
    object: impl Fn(&Ledger) -> Value,
) {
    let ledger = Ledger::shared();
    let actor = Forked::new(|| {
        leave_the_stage();
        act(ledger);
    });
    ledger.await_prepared(actor.pid());
    stage.begin();
    let tid = actor.pid();
    let mut samples = Vec::with_capacity(1024);
    samples.push(Sample::take(ledger, tid).told());
    ledger.go();
    let mut begun = until(stage, tid, || {
        samples.push(Sample::take(ledger, tid).told());
        ledger.begun_ns() != 0
    });
    // Dropped before the actor is: one that is frozen cannot be killed.
    let _inflicted = inflict(tid);
    // When it stands, it has since the last look that found it elsewhere.
    let mut begun_ns = ledger.begun_ns();
    begun = begun
        && until(stage, tid, || {
            let now = monotonic_ns();
            let stands = stall.stand.is_none_or(|stand| stand.holds(tid));
            if !stands {
                begun_ns = now;
            }
            stands
        });
    say(&json!({"begun": begun}));
    let before = Scheduled::read(tid, tid);
    while !byte_within(SAMPLE) {
        samples.push(Sample::take(ledger, tid).told());
    }
    samples.push(Sample::take(ledger, tid).told());
    let spent = Scheduled::read(tid, tid).cpu_ns - before.cpu_ns;
    if let Some(stand) = stall.stand {
        if !stand.holds(tid) {
            stage.fail(&format!("the actor does not stand as it should: {}", described(tid)));
        }
        if spent > STILL_CPU_NS {
            stage.fail(&format!("the actor stands still and used {spent} ns of CPU"));
        }
    } else if !matches!(state_of(tid), Some('R' | 'S' | 'D')) {
        stage.fail(&format!("the actor does not go on: {}", described(tid)));
    }
    let truth = json!({
        "actor": tid,
        "class": stall.class,
        "memory": stall.memory,
        "measure": stall.measure.name(),
        "stands": stall.stand.is_some(),
        "object": object(ledger),
        "begun_ns": begun_ns,
        "acts": ledger.acts(),
        "longest_ns": ledger.longest_ns(),
        "samples": samples,
        "proc": described(tid),
    });
    stage.finish_with(Check::Nothing, &[], truth);
}

/// Waits until it is so; whether it came to that.
fn until(stage: &mut Stage, tid: u32, mut there: impl FnMut() -> bool) -> bool {
    let deadline = monotonic_ns() + PATIENCE_NS;
    while !there() {
        if monotonic_ns() > deadline {
            stage.fail(&format!("the stall does not begin: {}", described(tid)));
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// What /proc says of it, for whoever reads a failure.
fn described(tid: u32) -> Value {
    let read = |name: &str| {
        let bytes = std::fs::read(format!("/proc/{tid}/{name}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    };
    json!({
        "state": state_of(tid).map(String::from), "wchan": read("wchan"), "syscall": read("syscall"), "stack": read("stack"),
    })
}

/// True when a byte came, or nobody is there any more.
fn byte_within(patience: Duration) -> bool {
    let mut input = libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which is ours.
    if unsafe { libc::poll(&raw mut input, 1, patience.as_millis() as i32) } <= 0 {
        return false;
    }
    await_byte();
    true
}

/// The actor has no part in the director's talk, and a name of its own.
fn leave_the_stage() {
    // SAFETY: a constant path and name; the descriptors are the actor's copies.
    unsafe {
        let nothing = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        libc::dup2(nothing, 0);
        libc::dup2(nothing, 1);
        libc::close(nothing);
        libc::prctl(libc::PR_SET_NAME, c"actor".as_ptr());
    }
}

/// What a stall that the actor begins by itself is inflicted by.
pub fn nothing(_: u32) {}

/// A stall that is about nothing that could be named.
pub fn no_object(_: &Ledger) -> Value {
    Value::Null
}
