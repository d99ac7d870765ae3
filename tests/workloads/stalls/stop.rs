//! Made to stand still by others, or by its own wish: stopped, traced, frozen, asleep, waiting for a child, and what no
//! signal ends.

use super::{Forked, Ledger, Measure, Stall, Stand, dies_with_its_parent, direct, no_object, nothing};
use crate::Scene;
use crate::stage::Stage;
use serde_json::json;
use std::path::PathBuf;

pub const SCENES: &[(&str, Scene)] = &[
    ("stall.stopped", stopped),
    ("stall.traced", traced),
    ("stall.frozen.v1", frozen_v1),
    ("stall.frozen.v2", frozen_v2),
    ("stall.sleep", sleep),
    ("stall.child", child),
    ("stall.vfork", vfork),
    ("stall.uninterruptible", uninterruptible),
    ("stall.uninterruptible.write", uninterruptible_write),
];

const fn stands(class: &'static [&'static str], state: char, nr: Option<i64>) -> Stall {
    Stall { class, memory: false, measure: Measure::Act, stand: Some(Stand { state, nr }) }
}

/// Computes until somebody makes it stand still: it does nothing of which that could be guessed.
fn busy(ledger: &Ledger) {
    ledger.await_go();
    ledger.enter();
    let mut number = 1_u64;
    loop {
        number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

fn stopped(stage: &mut Stage) {
    let stop = |actor: u32| {
        // SAFETY: a signal to our own child.
        unsafe { libc::kill(actor as i32, libc::SIGSTOP) };
    };
    direct(stage, &stands(&["stopped"], 'T', None), busy, stop, no_object);
}

fn traced(stage: &mut Stage) {
    let trace = |actor: u32| {
        // SAFETY: ptrace on our own child, without memory.
        unsafe {
            let nothing = std::ptr::null_mut::<libc::c_void>();
            assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, actor as i32, nothing, nothing), 0);
            assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, actor as i32, nothing, nothing), 0);
            let mut status = 0;
            libc::waitpid(actor as i32, &raw mut status, libc::__WALL);
        }
    };
    let object = json!({"kind": "tracer", "pid": std::process::id()});
    direct(stage, &stands(&["traced"], 't', None), busy, trace, |_| object.clone());
}

fn frozen_v1(stage: &mut Stage) {
    freeze(stage, "freezer.state", ["FROZEN", "THAWED"], 'D');
}

fn frozen_v2(stage: &mut Stage) {
    freeze(stage, "cgroup.freeze", ["1", "0"], 'S');
}

/// Writes this when dropped.
struct Thaw(PathBuf, &'static str);

impl Drop for Thaw {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.0, self.1);
    }
}

fn freeze(stage: &mut Stage, file: &str, [frozen, thawed]: [&'static str; 2], state: char) {
    let cgroup: PathBuf = stage.cgroup.clone().expect("this scene wants --cgroup");
    let freeze = |actor: u32| {
        std::fs::write(cgroup.join("cgroup.procs"), actor.to_string()).expect("joins the cgroup");
        let thaw = Thaw(cgroup.join(file), thawed);
        std::fs::write(&thaw.0, frozen).expect("the cgroup can be frozen");
        thaw
    };
    direct(stage, &stands(&["frozen"], state, None), busy, freeze, no_object);
}

fn sleep(stage: &mut Stage) {
    let act = |ledger: &Ledger| {
        let long = libc::timespec { tv_sec: 3600, tv_nsec: 0 };
        ledger.await_go();
        ledger.enter();
        // SAFETY: reads our struct.
        unsafe { libc::nanosleep(&raw const long, std::ptr::null_mut()) };
    };
    direct(
        stage,
        &stands(&["blocked.sleep"], 'S', Some(libc::SYS_clock_nanosleep)),
        act,
        nothing,
        |_| json!({"kind": "timer", "ns": 3_600_000_000_000_u64}),
    );
}

fn pause() {
    // SAFETY: no memory is involved.
    unsafe { libc::pause() };
}

fn child(stage: &mut Stage) {
    let act = |ledger: &Ledger| {
        let child = Forked::new(pause);
        ledger.set_other(child.pid());
        ledger.await_go();
        ledger.enter();
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(child.pid() as i32, std::ptr::null_mut(), 0) };
    };
    let stall = stands(&["blocked.child"], 'S', Some(libc::SYS_wait4));
    direct(stage, &stall, act, nothing, |ledger| json!({"kind": "child", "pid": ledger.other()}));
}

/// The parent has lent its memory to a child that neither ends nor becomes another program.
fn vfork(stage: &mut Stage) {
    extern "C" fn lie_down(_: *mut libc::c_void) -> libc::c_int {
        dies_with_its_parent();
        loop {
            pause();
        }
    }
    let act = |ledger: &Ledger| {
        let mut stack = vec![0_u8; 64 << 10];
        ledger.await_go();
        ledger.enter();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: a stack of its own, aligned, that outlives the child; the child makes only system calls.
        unsafe {
            let top = stack.as_mut_ptr().add(stack.len());
            libc::clone(lie_down, top.map_addr(|top| top & !15).cast(), flags, std::ptr::null_mut());
        }
    };
    let stall = stands(&["blocked.child", "uninterruptible"], 'D', Some(libc::SYS_clone));
    direct(stage, &stall, act, nothing, no_object);
}

/// Makes a directory on a file system that somebody has frozen: no descriptor tells what it waits for.
fn uninterruptible(stage: &mut Stage) {
    let path = stage.dir.join("directory");
    let act = |ledger: &Ledger| {
        ledger.await_go();
        ledger.enter();
        let _ = std::fs::create_dir(&path);
    };
    direct(stage, &stands(&["uninterruptible"], 'D', Some(libc::SYS_mkdir)), act, nothing, no_object);
}

/// Writes to a file there.
fn uninterruptible_write(stage: &mut Stage) {
    let path = stage.dir.join("written");
    let file = std::fs::File::create(&path).expect("a file in --dir");
    let act = |ledger: &Ledger| {
        ledger.await_go();
        ledger.enter();
        let _ = std::io::Write::write(&mut &file, b"x");
    };
    let stall = stands(&["blocked.file_io", "uninterruptible"], 'D', Some(libc::SYS_write));
    direct(stage, &stall, act, nothing, |_| json!({"kind": "file", "path": path.display().to_string()}));
}
