//! What a look costs its target, which is nothing, and what it remembers.

use super::*;
use crate::event::{Event, StackEnd};
use std::os::fd::AsRawFd as _;

#[test]
fn a_thread_that_did_not_run_is_counted_and_read_once() {
    let _alone = alone();
    let child = Child::start(|| {
        // SAFETY: a system call.
        unsafe { libc::pause() };
    })
    .waits_in("pause");
    let files = child.files();
    let mut waits = Waits::default();
    let first = look(&mut waits, &files);
    let second = look(&mut waits, &files);
    assert_eq!((first.len(), second.len(), waits.cost().looks), (1, 1, 2));
    assert!(first[0].at_attach && !second[0].at_attach);
    assert!(second[0].ts_ns > first[0].ts_ns);
    assert_eq!((first[0].nr, &first[0].kernel), (second[0].nr, &second[0].kernel));
    let read_ns = waits.threads[&child.pid].read_ns;
    assert_eq!(read_ns, first[0].ts_ns, "the second look read nothing anew");
}

/// Pages of the process that are there, of the whole address space.
fn resident(files: &ProcessFiles) -> crate::procfs::Statm {
    files.read_statm().expect("the child lives")
}

#[test]
fn looking_brings_nothing_in() {
    let _alone = alone();
    // The array that it polls lies in memory that is gone by then: the parent takes it away.
    // SAFETY: a file of one page, mapped and shared.
    let (memory, page) = unsafe {
        let memory = OwnedFd::from_raw_fd(libc::memfd_create(c"polled".as_ptr(), libc::MFD_CLOEXEC));
        assert_eq!(libc::ftruncate(memory.as_raw_fd(), 4096), 0);
        let flags = libc::MAP_SHARED;
        let page =
            libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, memory.as_raw_fd(), 0);
        (memory, page.cast::<libc::pollfd>())
    };
    let (read, _write) = pipe();
    // SAFETY: the page mapped above.
    unsafe { page.write_volatile(libc::pollfd { fd: read.as_raw_fd(), events: libc::POLLIN, revents: 0 }) };
    let child = Child::start(|| call(libc::SYS_poll, [page as u64, 1, u64::MAX, 0, 0, 0])).waits_in("poll");
    let files = child.files();
    let WaitObject::Descriptors { of, .. } = child.object() else { panic!("{:?}", child.object()) };
    assert_eq!(of.len(), 1);
    let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: a descriptor that is open.
    unsafe { assert_eq!(libc::fallocate(memory.as_raw_fd(), hole, 0, 4096), 0) };
    let before = resident(&files);
    let mut stacks = Stacks::new();
    let mut whole = 0;
    for _ in 0..200 {
        let mut waits = Waits::default();
        let seen = waits
            .look([(MM, &files)].into_iter(), &MmapLock::default(), &mut Vec::new, Some(&mut stacks))
            .pop()
            .expect("it waits");
        let absent = WaitObject::Descriptors { of: Vec::new(), total: 1, timeout_ns: None };
        // On a machine that is busy, a look may be over before it has come to the object.
        assert!(seen.object == absent || seen.object == WaitObject::Unknown, "{seen:?}");
        whole += u32::from(seen.object == absent && seen.stack.is_some());
    }
    assert!(whole > 0);
    assert_eq!(resident(&files), before);
}

#[test]
fn the_stack_is_followed_without_all_registers() {
    let _alone = alone();
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("there is a sleep");
    let files = ProcessFiles::open(child.id()).unwrap();
    let directory = Directory::open(&format!("/proc/{}", child.id())).unwrap();
    let begin = monotonic_ns();
    loop {
        let mut text = Vec::new();
        directory.read("syscall", 512, &mut text).unwrap();
        if parse_syscall(&text).and_then(|call| call.nr).and_then(syscalls::name) == Some("clock_nanosleep") {
            break;
        }
        assert!(monotonic_ns() - begin < 30_000_000_000, "it never slept");
        std::thread::yield_now();
    }
    let mut stacks = Stacks::new();
    let seen =
        Waits::default().look([(MM, &files)].into_iter(), &MmapLock::default(), &mut Vec::new, Some(&mut stacks));
    let events = stacks.take_events();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(seen[0].object, WaitObject::Timer { ns: Some(1_000_000_000_000) });
    let stack = events.iter().find_map(|event| match event {
        Event::Stack(stack) if Some(stack.id) == seen[0].stack => Some(stack),
        _ => None,
    });
    let stack = stack.expect("the stack is told");
    assert_eq!(stack.end, StackEnd::Root, "{events:#?}");
    assert!(stack.frames.len() >= 4, "{events:#?}");
}
