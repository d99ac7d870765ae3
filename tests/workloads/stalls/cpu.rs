//! On a CPU, or kept from one.

use super::{Forked, Ledger, Measure, Stall, direct, goes_first, no_object, nothing};
use crate::Scene;
use crate::stage::Stage;
use memtrace_tests::machine::Bound;
use serde_json::json;
use std::fs::File;
use std::io::Read;

pub const SCENES: &[(&str, Scene)] = &[
    ("stall.cpu.user", user),
    ("stall.cpu.kernel", kernel),
    ("stall.cpu.starved", starved),
    ("stall.cpu.throttled", throttled),
];

const fn goes_on(class: &'static [&'static str], measure: Measure) -> Stall {
    Stall { class, memory: false, measure, stand: None }
}

/// Computes for ever.
#[inline(never)]
fn spin() {
    let mut number = 1_u64;
    loop {
        number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

fn spins(ledger: &Ledger) {
    ledger.await_go();
    ledger.enter();
    spin();
}

fn user(stage: &mut Stage) {
    let act = |ledger: &Ledger| {
        goes_first();
        spins(ledger);
    };
    let object = |_: &Ledger| json!({ "kind": "function", "name": "spin" });
    direct(stage, &goes_on(&["cpu.user"], Measure::Cpu), act, nothing, object);
}

/// Has the kernel fill a buffer with zeros.
fn kernel(stage: &mut Stage) {
    let mut zeros = File::open("/dev/zero").expect("/dev/zero");
    let mut buffer = vec![1; 1 << 20];
    let act = |ledger: &Ledger| {
        goes_first();
        // The actor's own pages, before it begins: no copies on write meanwhile.
        buffer.fill(2);
        ledger.await_go();
        loop {
            ledger.within(|| zeros.read_exact(&mut buffer)).expect("/dev/zero has no end");
        }
    };
    direct(stage, &goes_on(&["cpu.kernel"], Measure::ActScheduled), act, nothing, no_object);
}

/// It wants the CPU, and others that count a hundred times as much have it.
fn starved(stage: &mut Stage) {
    let act = |ledger: &Ledger| {
        let _bound = Bound::to_first().expect("a CPU");
        // SAFETY: no memory is involved.
        unsafe { libc::nice(19) };
        spins(ledger);
    };
    let crowd = |_| {
        [(); 2].map(|()| {
            Forked::new(|| {
                let _bound = Bound::to_first().expect("a CPU");
                spin();
            })
        })
    };
    direct(stage, &goes_on(&["runnable"], Measure::Off), act, crowd, no_object);
}

/// It wants the CPU, and its cgroup, into which somebody has put it, has used up what it may have.
fn throttled(stage: &mut Stage) {
    direct(stage, &goes_on(&["throttled"], Measure::Off), spins, nothing, no_object);
}
