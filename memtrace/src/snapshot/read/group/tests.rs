use super::*;
use std::process::{Child, Command, Stdio};

const OPTIONS: ReadOptions =
    ReadOptions { max_hold: std::time::Duration::from_secs(60), full: false, page_map: false, for_diff: false };

/// A program that waits until it is dropped.
struct Waits(Child);

impl Waits {
    fn spawn() -> Self {
        Self(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn read(&self) -> Member {
        Member::read(self.0.id(), &OPTIONS).unwrap()
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn hide(process: &mut Process) -> GivenUp {
    let reason = Reason::NotPermitted { capability: String::new() };
    let given_up = GivenUp { source: Source::Maps, reason };
    (process.mappings, process.rollup) = (None, None);
    process.given_up = vec![given_up.clone()];
    given_up
}

#[test]
fn one_that_hides_its_pages_is_left_out_and_the_others_are_told() {
    let processes = [Waits::spawn(), Waits::spawn(), Waits::spawn()];
    let mut read: Vec<_> = processes.iter().map(Waits::read).collect();
    hide(&mut read[1].process);
    let pid = |index: usize| processes[index].0.id();
    let group = read_pages(&mut read, &OPTIONS).group.unwrap();
    if open_kernel_pages().is_err() {
        // Nobody's page frames are told: nobody is left out.
        assert_eq!((group.physical, group.given_up.len()), (None, 1));
        assert_eq!(group.pids, [pid(0), pid(1), pid(2)]);
        return;
    }
    assert_eq!(group.pids, [pid(0), pid(2)]);
    let res = |index: usize| read[index].process.counters.unwrap().res();
    assert_eq!(group.sum_res, res(0) + res(2));
    let physical = group.physical.unwrap();
    assert_eq!(physical.shared_with_group.len(), 2);
    assert!(physical.res > 0 && physical.res < group.sum_res, "{physical:?}");
}

#[test]
fn where_all_hide_their_pages_it_is_said_why() {
    let processes = [Waits::spawn(), Waits::spawn()];
    let mut read: Vec<_> = processes.iter().map(Waits::read).collect();
    let given_up: Vec<GivenUp> = read.iter_mut().map(|member| hide(&mut member.process)).collect();
    let group = read_pages(&mut read, &OPTIONS).group.unwrap();
    assert_eq!((group.physical, group.pids.len()), (None, 2));
    assert_eq!(group.given_up, [open_kernel_pages().err().unwrap_or_else(|| given_up[0].clone())]);
}

/// A shell that executes another program when it is told to.
fn about_to_execute() -> Waits {
    let mut shell = Command::new("sh");
    Waits(shell.args(["-c", "read x; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
}

/// Has it execute the other one; returns when it has.
fn execute(shell: &mut Waits) {
    use std::io::Write as _;
    let comm = |pid: u32| std::fs::read(format!("/proc/{pid}/comm")).unwrap();
    shell.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    while comm(shell.0.id()) != b"cat\n" {
        std::thread::yield_now();
    }
}

#[test]
fn one_that_executes_another_program_between_its_mappings_and_its_pages_is_left_out() {
    let (stays, mut changes) = (Waits::spawn(), about_to_execute());
    let mut read = vec![stays.read(), changes.read()];
    execute(&mut changes);
    assert!(!read[0].has_executed() && read[1].has_executed());
    let looked = read_pages(&mut read, &ReadOptions { page_map: true, ..OPTIONS });
    let (group, told) = (looked.group.unwrap(), executed(changes.0.id()));
    if open_kernel_pages().is_ok() {
        assert_eq!(group.pids, [stays.0.id()]);
        assert_eq!(group.given_up, [GivenUp { source: Source::Pagemap, reason: told.clone() }]);
    }
    assert!(looked.page_maps[0].is_some() && looked.page_maps[1].is_none());
    assert!(read[1].process.given_up.iter().any(|given_up| given_up.reason == told), "{:?}", read[1].process.given_up);
    // Read again, it is the other one.
    let member = changes.read();
    assert!(!member.has_executed() && member.process.comm == b"cat" && member.process.given_up.is_empty());
}

#[test]
fn one_address_space_is_in_a_group_once_and_the_other_is_its_twin() {
    let (process, other) = (Waits::spawn(), Waits::spawn());
    let mut read = [process.read(), other.read(), process.read()];
    let tids = [process.0.id(), process.0.id()];
    if address_spaces(&tids).len() == 2 {
        // A kernel without kcmp.
        return;
    }
    let start_time = read[2].process.start_time;
    let group = read_pages(&mut read, &OPTIONS).group.unwrap();
    assert_eq!(group.twins, [(process.0.id(), start_time)]);
    assert_eq!(group.pids, [process.0.id(), other.0.id()]);
}

#[test]
fn what_moved_since_its_own_reading_is_said_of_the_group() {
    const MOVED: u64 = 1 << 40;
    let processes = [Waits::spawn(), Waits::spawn()];
    let mut read: Vec<_> = processes.iter().map(Waits::read).collect();
    for member in &mut read {
        member.process.counters.as_mut().unwrap().anon += MOVED;
    }
    let changed = read_pages(&mut read, &OPTIONS).group.unwrap().changed;
    // They may still be starting.
    assert!(changed.abs_diff(2 * MOVED) < 64 << 20, "{changed}");
}
