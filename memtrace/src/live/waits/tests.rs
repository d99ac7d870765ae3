//! Children that wait for something known, and what a look at them says. No probes.

mod groups;
mod looks;
mod objects;

use super::*;
use crate::procfs::Directory;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

const MM: MmId = MmId(7);

/// One test at a time: their children have copies of all descriptors.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that makes system calls until it waits; killed at the end.
struct Child {
    pid: u32,
}

impl Child {
    /// The child is a fork of a program with threads: it may make system calls, and nothing else.
    fn start(wait: impl FnOnce()) -> Self {
        // SAFETY: the child makes system calls only, of the parent's memory it has a copy, and it ends without returning.
        unsafe {
            let pid = libc::fork();
            assert!(pid >= 0, "{}", std::io::Error::last_os_error());
            if pid == 0 {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                wait();
                libc::_exit(1);
            }
            Self { pid: pid.cast_unsigned() }
        }
    }

    /// In this call, asleep.
    fn waits_in(self, call: &str) -> Self {
        self.until(|directory| {
            let mut text = Vec::new();
            directory.read("syscall", 512, &mut text).expect("the child lives");
            let nr = parse_syscall(&text).and_then(|call| call.nr);
            nr.and_then(syscalls::name) == Some(call) && state(directory) == b'S'
        })
    }

    fn until(self, condition: impl Fn(&Directory) -> bool) -> Self {
        let directory = Directory::open(&format!("/proc/{}", self.pid)).expect("the child lives");
        let begin = monotonic_ns();
        while !condition(&directory) {
            assert!(monotonic_ns() - begin < 30_000_000_000, "child {} never got there", self.pid);
            std::thread::yield_now();
        }
        self
    }

    fn files(&self) -> ProcessFiles {
        ProcessFiles::open(self.pid).expect("the child lives")
    }

    /// One look at it by who has not looked before.
    fn wait(&self) -> Wait {
        look(&mut Waits::default(), &self.files()).pop().expect("it waits")
    }

    fn object(&self) -> WaitObject {
        self.wait().object
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let mut status = 0;
        // SAFETY: our own child, not waited for yet.
        unsafe {
            libc::kill(self.pid.cast_signed(), libc::SIGKILL);
            libc::waitpid(self.pid.cast_signed(), &raw mut status, 0);
        }
    }
}

fn look(waits: &mut Waits, files: &ProcessFiles) -> Vec<Wait> {
    // A search may need several turns where there are many processes.
    for _ in 0..100 {
        let seen = waits.look([(MM, files)].into_iter(), &MmapLock::default(), &mut Vec::new, None);
        if !waits.threads.values().any(|seen| seen.read_ns == 0) {
            return seen;
        }
        std::thread::yield_now();
    }
    panic!("the search is never over");
}

fn state(directory: &Directory) -> u8 {
    let mut text = Vec::new();
    directory.read("stat", 4096, &mut text).expect("the process lives");
    parse_stat(&text).expect("the kernel's text").state
}

fn name_of(pid: u32) -> Vec<u8> {
    search::read_comm(pid).expect("it lives")
}

/// System calls that a child waits in, by number: nothing of the C library's that takes locks.
fn call(nr: libc::c_long, arguments: [u64; 6]) {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the tests give addresses of what lives for as long as the child.
    unsafe { libc::syscall(nr, a, b, c, d, e, f) };
}

fn fd(fd: &impl std::os::fd::AsRawFd) -> u64 {
    fd.as_raw_fd() as u64
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let mut fds: [RawFd; 2] = [0; 2];
    // SAFETY: pipe2 fills two descriptors that are nobody else's.
    unsafe {
        assert_eq!(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    }
}

/// A page that child and parent share.
fn shared_page() -> *mut u64 {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: a mapping at a place of the kernel's choice; it stays until the tests end.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    page.cast()
}
