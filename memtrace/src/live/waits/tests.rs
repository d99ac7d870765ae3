//! Children that wait for something known, and what a look at them says. No probes.

use super::surroundings::Reader;
use super::*;
use crate::event::Cgroup;
use crate::procfs::{CgroupMount, Directory};
use std::ffi::CString;
use std::fs::File;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
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
        let seen = waits.look([(MM, files)].into_iter(), &mut Vec::new, None);
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

#[test]
fn a_pipe_and_who_writes() {
    let _alone = alone();
    let (read, write) = pipe();
    let inode = std::fs::metadata(format!("/proc/self/fd/{}", read.as_raw_fd())).unwrap().ino();
    let mut byte = 0u8;
    let child = Child::start(|| {
        // SAFETY: the child's own copies.
        unsafe { libc::close(write.as_raw_fd()) };
        call(libc::SYS_read, [fd(&read), (&raw mut byte) as u64, 1, 0, 0, 0]);
    })
    .waits_in("read");
    let wait = child.wait();
    let me = std::process::id();
    let WaitObject::Pipe { fd: found, inode: number, others } = wait.object else { panic!("{wait:?}") };
    assert_eq!((found, number), (read.as_raw_fd(), inode));
    assert_eq!(others, [(me, name_of(me))]);
    assert_eq!((wait.nr, wait.state, wait.pid, wait.tid), (Some(0), b'S', child.pid, child.pid));
    assert!(wait.kernel.iter().any(|name| name.ends_with(b"pipe_read")) || wait.kernel.is_empty(), "{:?}", wait.kernel);
}

#[test]
fn a_fifo_by_its_path() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a string that ends.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let opening = Child::start(|| {
        // SAFETY: as above.
        unsafe { libc::open(name.as_ptr(), libc::O_RDONLY) };
    })
    .waits_in("openat");
    assert_eq!(opening.object(), WaitObject::File { fd: -1, path: name.to_bytes().to_vec(), offset: None });
    drop(opening);
    let both = File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = 0u8;
    let child = Child::start(|| call(libc::SYS_read, [fd(&both), (&raw mut byte) as u64, 1, 0, 0, 0])).waits_in("read");
    let WaitObject::Pipe { inode, others, .. } = child.object() else { panic!("{:?}", child.object()) };
    assert_eq!(inode, both.metadata().unwrap().ino());
    assert!(others.iter().any(|(pid, _)| *pid == std::process::id()), "{others:?}");
}

#[test]
fn a_lock_on_a_file_and_who_holds_it() {
    let _alone = alone();
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().as_os_str().as_bytes().to_vec();
    let other = file.reopen().unwrap();
    let me = std::process::id();
    // SAFETY: descriptors that are open.
    unsafe { assert_eq!(libc::flock(file.as_raw_fd(), libc::LOCK_EX), 0) };
    // It inherits the descriptor that holds the lock: that one is closed in it.
    let holder = file.as_raw_fd();
    let child = Child::start(|| {
        // SAFETY: the child's own copy.
        unsafe { libc::close(holder) };
        call(libc::SYS_flock, [fd(&other), libc::LOCK_EX as u64, 0, 0, 0, 0]);
    })
    .waits_in("flock");
    let expected = WaitObject::FileLock { fd: other.as_raw_fd(), path: path.clone(), holder: Some((me, name_of(me))) };
    assert_eq!(child.object(), expected);
    drop(child);

    let lock = libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start: 10, l_len: 5, l_pid: 0 };
    // SAFETY: a descriptor that is open and the kernel's layout.
    unsafe { assert_eq!(libc::fcntl(other.as_raw_fd(), libc::F_SETLK, &raw const lock), 0) };
    let wanted = lock;
    for command in [libc::F_SETLKW, libc::F_OFD_SETLKW] {
        let arguments = [fd(&other), command as u64, (&raw const wanted) as u64, 0, 0, 0];
        let child = Child::start(|| call(libc::SYS_fcntl, arguments)).waits_in("fcntl");
        assert_eq!(child.object(), expected, "{command}");
    }
}

#[test]
fn a_lock_that_was_given_on() {
    let _alone = alone();
    let file = tempfile::NamedTempFile::new().unwrap();
    let (holding, waiting) = (file.reopen().unwrap(), file.reopen().unwrap());
    let (gone_read, gone_write) = pipe();
    // Takes the lock, has a child, and ends: the child holds the lock that /proc/locks names the dead one for.
    let first = Child::start(|| {
        // SAFETY: system calls of a child with descriptors of its own.
        unsafe {
            libc::flock(holding.as_raw_fd(), libc::LOCK_EX);
            let second = libc::fork();
            if second == 0 {
                libc::pause();
            }
            libc::write(gone_write.as_raw_fd(), (&raw const second).cast(), 4);
            libc::_exit(0);
        }
    })
    .until(|directory| state(directory) == b'Z');
    drop(first);
    let mut second = [0; 4];
    std::io::Read::read_exact(&mut File::from(gone_read), &mut second).unwrap();
    let second = Child { pid: u32::from_ne_bytes(second) };
    drop(holding);
    let child =
        Child::start(|| call(libc::SYS_flock, [fd(&waiting), libc::LOCK_EX as u64, 0, 0, 0, 0])).waits_in("flock");
    let WaitObject::FileLock { holder, .. } = child.object() else { panic!("{:?}", child.object()) };
    assert_eq!(holder.map(|(pid, _)| pid), Some(second.pid));
}

#[test]
fn a_connection_and_the_process_at_its_other_end() {
    let _alone = alone();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let me = std::process::id();
    let mut byte = 0u8;
    let child = Child::start(|| {
        // SAFETY: the child's own copies.
        unsafe {
            libc::close(server.as_raw_fd());
            libc::close(listener.as_raw_fd());
        }
        call(libc::SYS_recvfrom, [fd(&client), (&raw mut byte) as u64, 1, 0, 0, 0]);
    })
    .waits_in("recvfrom");
    let WaitObject::Socket { fd, protocol, local, peer, process, queued } = child.object() else {
        panic!("{:?}", child.object())
    };
    assert_eq!((fd, protocol.as_str(), queued), (client.as_raw_fd(), "tcp", Some((0, 0))));
    assert_eq!(local, client.local_addr().unwrap().to_string().into_bytes());
    assert_eq!(peer, client.peer_addr().unwrap().to_string().into_bytes());
    assert_eq!(process, Some((me, name_of(me))));
    drop(child);

    // Nobody reads: what was written is queued, and who writes more waits.
    server.set_nonblocking(true).unwrap();
    let chunk = [0u8; 65536];
    while server.write(&chunk).is_ok() {}
    server.set_nonblocking(false).unwrap();
    let arguments = [server.as_raw_fd() as u64, chunk.as_ptr() as u64, chunk.len() as u64, 0, 0, 0];
    let writer = Child::start(|| call(libc::SYS_write, arguments)).waits_in("write");
    let WaitObject::Socket { queued, .. } = writer.object() else { panic!("{:?}", writer.object()) };
    assert!(queued.is_some_and(|(to_send, _)| to_send > 0), "{queued:?}");

    let accepting =
        Child::start(|| call(libc::SYS_accept4, [listener.as_raw_fd() as u64, 0, 0, 0, 0, 0])).waits_in("accept4");
    let WaitObject::Socket { local, peer, process, .. } = accepting.object() else {
        panic!("{:?}", accepting.object())
    };
    assert_eq!(local, listener.local_addr().unwrap().to_string().into_bytes());
    assert_eq!((peer, process), (Vec::new(), None));
}

#[test]
fn a_local_socket_and_the_process_at_its_other_end() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    let (server, _) = listener.accept().unwrap();
    let mut byte = 0u8;
    let child = Child::start(|| {
        // SAFETY: the child's own copies.
        unsafe {
            libc::close(server.as_raw_fd());
            libc::close(listener.as_raw_fd());
        }
        call(libc::SYS_read, [fd(&client), (&raw mut byte) as u64, 1, 0, 0, 0]);
    })
    .waits_in("read");
    let WaitObject::Socket { protocol, local, peer, process, .. } = child.object() else {
        panic!("{:?}", child.object())
    };
    assert_eq!((protocol.as_str(), local.as_slice(), peer.as_slice()), ("unix", &b""[..], path.as_os_str().as_bytes()));
    assert_eq!(process, Some((std::process::id(), name_of(std::process::id()))));
}

#[test]
fn a_futex_and_the_owner_of_the_mutex() {
    let _alone = alone();
    let page = shared_page();
    let word = |lock: u32, owner: u32| {
        // SAFETY: within the page: the lock's word, a count, the owner's number.
        unsafe {
            page.cast::<[u32; 3]>().write_volatile([lock, 0, owner]);
        }
    };
    word(2, 0);
    let child =
        Child::start(|| call(libc::SYS_futex, [page as u64, libc::FUTEX_WAIT as u64, 2, 0, 0, 0])).waits_in("futex");
    let owner = |child: &Child| match child.object() {
        WaitObject::Futex { address, mapping, owner } => {
            assert_eq!((address, mapping.as_slice()), (page as u64, &b"/dev/zero (deleted)"[..]));
            owner
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(owner(&child), None);
    word(2, child.pid);
    assert_eq!(owner(&child), Some(child.pid));
    // Not locked; another process's; no thread's.
    for (lock, number) in [(0, child.pid), (1, child.pid), (2, std::process::id()), (2, 0x3fff_fff0)] {
        word(lock, number);
        assert_eq!(owner(&child), None, "{lock} {number}");
    }
    // As the kernel marks one that it hands on.
    word(0x8000_0000 | child.pid, child.pid);
    assert_eq!(owner(&child), Some(child.pid));
}

#[test]
fn descriptors_of_poll_select_and_epoll() {
    let _alone = alone();
    let (read, write) = pipe();
    let link = |fd: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap().into_os_string();
    let path = link(&read).as_bytes().to_vec();
    let polled = [
        libc::pollfd { fd: read.as_raw_fd(), events: libc::POLLIN, revents: 0 },
        libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 },
    ];
    let of = vec![(read.as_raw_fd(), path)];
    let child = Child::start(|| call(libc::SYS_poll, [polled.as_ptr() as u64, 2, u64::MAX, 0, 0, 0])).waits_in("poll");
    assert_eq!(child.object(), WaitObject::Descriptors { of: of.clone(), total: 2, timeout_ns: None });
    let child = Child::start(|| call(libc::SYS_poll, [polled.as_ptr() as u64, 2, 60_000, 0, 0, 0])).waits_in("poll");
    assert_eq!(child.object(), WaitObject::Descriptors { of: of.clone(), total: 2, timeout_ns: Some(60_000_000_000) });

    let limit = libc::timespec { tv_sec: 61, tv_nsec: 5 };
    let mut set = [0u64; 16];
    set[read.as_raw_fd() as usize / 64] |= 1 << (read.as_raw_fd() % 64);
    let arguments = [read.as_raw_fd() as u64 + 1, set.as_ptr() as u64, 0, 0, (&raw const limit) as u64, 0];
    let child = Child::start(|| call(libc::SYS_pselect6, arguments)).waits_in("pselect6");
    let expected = WaitObject::Descriptors { of: of.clone(), total: 1, timeout_ns: Some(61_000_000_005) };
    assert_eq!(child.object(), expected);

    // SAFETY: descriptors that are open, and the kernel's layout.
    let epoll = unsafe {
        let epoll = OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC));
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        assert_eq!(libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, read.as_raw_fd(), &raw mut event), 0);
        epoll
    };
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    let arguments = [fd(&epoll), (&raw mut event) as u64, 1, u64::MAX, 0, 0];
    let child = Child::start(|| call(libc::SYS_epoll_wait, arguments)).waits_in("epoll_wait");
    assert_eq!(child.object(), WaitObject::Descriptors { of, total: 1, timeout_ns: None });
    drop(write);
}

#[test]
fn times_children_and_system_v() {
    let _alone = alone();
    let time = libc::timespec { tv_sec: 1000, tv_nsec: 7 };
    let address = (&raw const time) as u64;
    let child = Child::start(|| call(libc::SYS_nanosleep, [address, 0, 0, 0, 0, 0])).waits_in("nanosleep");
    assert_eq!(child.object(), WaitObject::Timer { ns: Some(1_000_000_000_007) });
    let until = libc::timespec { tv_sec: 1 << 40, tv_nsec: 0 };
    for (flags, address, ns) in [(0, address, Some(1_000_000_000_007)), (1, (&raw const until) as u64, None)] {
        let child =
            Child::start(|| call(libc::SYS_clock_nanosleep, [1, flags, address, 0, 0, 0])).waits_in("clock_nanosleep");
        assert_eq!(child.object(), WaitObject::Timer { ns }, "{flags}");
    }

    let page = shared_page();
    let parent = Child::start(|| {
        // SAFETY: the child makes system calls only, and its own child as well.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::pause();
            }
            page.write_volatile(pid as u64);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
    })
    .waits_in("wait4");
    // SAFETY: the shared page.
    let pid = unsafe { page.read_volatile() } as u32;
    assert_eq!(parent.object(), WaitObject::Child { pid });

    // SAFETY: a set of semaphores that is removed below.
    let id = unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) };
    assert!(id >= 0);
    let operation = libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 };
    let arguments = [id as u64, (&raw const operation) as u64, 1, 0, 0, 0];
    let child = Child::start(|| call(libc::SYS_semop, arguments));
    let child = child.until(|directory| {
        let mut text = Vec::new();
        directory.read("syscall", 512, &mut text).expect("the child lives");
        let name = parse_syscall(&text).and_then(|call| call.nr).and_then(syscalls::name);
        matches!(name, Some("semop" | "semtimedop")) && state(directory) == b'S'
    });
    let object = child.object();
    // SAFETY: the set made above.
    unsafe { libc::semctl(id, 0, libc::IPC_RMID) };
    assert_eq!(object, WaitObject::SystemV { id: id as u64 });
}

#[test]
fn a_stop_and_a_debugger() {
    let _alone = alone();
    let child = Child::start(|| {
        // SAFETY: a signal to itself.
        unsafe { libc::raise(libc::SIGSTOP) };
    })
    .until(|directory| state(directory) == b'T');
    let wait = child.wait();
    assert_eq!((wait.state, wait.object), (b'T', WaitObject::Unknown));
    drop(child);

    let child = Child::start(|| {
        // SAFETY: as above; its parent is who traces it.
        unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
        }
    })
    .until(|directory| state(directory) == b't');
    let me = std::process::id();
    assert_eq!(child.object(), WaitObject::Tracer { pid: me, comm: name_of(me) });
}

#[test]
fn a_call_that_a_stop_had_interrupted() {
    let _alone = alone();
    let stop_and_go = |child: Child| {
        // SAFETY: signals to our own child.
        unsafe { libc::kill(child.pid.cast_signed(), libc::SIGSTOP) };
        let child = child.until(|directory| state(directory) == b'T');
        // SAFETY: as above.
        unsafe { libc::kill(child.pid.cast_signed(), libc::SIGCONT) };
        child.waits_in("restart_syscall")
    };
    let time = libc::timespec { tv_sec: 1000, tv_nsec: 7 };
    let address = (&raw const time) as u64;
    for (nr, arguments) in
        [(libc::SYS_nanosleep, [address, 0, 0, 0, 0, 0]), (libc::SYS_clock_nanosleep, [1, 0, address, 0, 0, 0])]
    {
        let child = Child::start(|| call(nr, arguments)).until(|directory| state(directory) == b'S');
        assert_eq!(stop_and_go(child).object(), WaitObject::Timer { ns: Some(1_000_000_000_007) }, "{nr}");
    }
    let page = shared_page();
    let arguments = [page as u64, libc::FUTEX_WAIT as u64, 0, address, 0, 0];
    let child = Child::start(|| call(libc::SYS_futex, arguments)).waits_in("futex");
    let object = stop_and_go(child).object();
    assert!(matches!(object, WaitObject::Futex { address, .. } if address == page as u64), "{object:?}");
    let child = Child::start(|| call(libc::SYS_poll, [0, 0, 60_000, 0, 0, 0])).waits_in("poll");
    let expected = WaitObject::Descriptors { of: Vec::new(), total: 0, timeout_ns: Some(60_000_000_000) };
    assert_eq!(stop_and_go(child).object(), expected);
}

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
    for _ in 0..200 {
        let mut waits = Waits::default();
        let seen = waits.look([(MM, &files)].into_iter(), &mut Vec::new, Some(&mut stacks));
        assert_eq!(seen[0].object, WaitObject::Descriptors { of: Vec::new(), total: 1, timeout_ns: None });
        assert!(seen[0].stack.is_some());
    }
    assert_eq!(resident(&files), before);
}

#[test]
fn the_stack_is_followed_without_all_registers() {
    let _alone = alone();
    use crate::event::{Event, StackEnd};
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
    let seen = Waits::default().look([(MM, &files)].into_iter(), &mut Vec::new, Some(&mut stacks));
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

#[test]
fn the_surroundings_are_those_that_other_files_tell() {
    let _alone = alone();
    let child = Child::start(|| {
        // SAFETY: a system call.
        unsafe { libc::pause() };
    })
    .waits_in("pause");
    let found = Reader::new(&child.files()).expect("the child lives").read();
    // SAFETY: no pointers.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    assert_eq!(i64::from(found.cpus), online);
    assert!((1..=found.cpus).contains(&found.allowed_cpus));
    assert_eq!(found.pid, child.pid);
    assert!(found.faults.0 > 0);
    if let Some(cgroup) = found.cgroup {
        assert!(
            std::fs::read(format!("/proc/{}/cgroup", child.pid))
                .is_ok_and(|text| { memchr::memmem::find(&text, &cgroup.path).is_some() })
        );
        assert_ne!(cgroup.frozen, Some(true));
        assert!(cgroup.others.iter().all(|(pid, ..)| *pid != child.pid));
        assert!(cgroup.others.is_sorted_by(|a, b| a.2 >= b.2));
    }
}

/// A tree of files that stands for cgroups and a process in them.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = tree.0.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        tree
    }

    fn cgroup(&self, mounts: &[&'static str]) -> Cgroup {
        let root = self.0.path();
        let mounted = |name: &&'static str| {
            let point = root.join(if name.is_empty() { "unified" } else { name });
            (*name, CgroupMount { root: b"/".to_vec(), point })
        };
        let process = Directory::open(&format!("{}/process", root.display())).unwrap();
        Reader::with(7, process, mounts.iter().map(mounted).collect()).read().cgroup.expect("it is in a group")
    }
}

#[test]
fn groups_of_version_1() {
    let me = std::process::id();
    let procs = format!("7\n0\nx\n{me}\n");
    let tree = Tree::new(&[
        ("process/cgroup", "4:memory:/a/b\n3:cpu,cpuacct:/c\n2:freezer:/f\n0::/u\n"),
        ("memory/memory.usage_in_bytes", "999999999\n"),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory/a/memory.usage_in_bytes", "1000\n"),
        ("memory/a/memory.limit_in_bytes", "4096000\n"),
        ("memory/a/memory.failcnt", "17\n"),
        ("memory/a/b/memory.usage_in_bytes", "500\n"),
        ("memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory/a/b/memory.failcnt", "0\n"),
        ("memory/a/b/cgroup.procs", "7\n"),
        ("memory/a/other/cgroup.procs", &procs),
        ("cpu/c/cpu.stat", "nr_periods 3\nnr_throttled 2\nthrottled_time 81000\n"),
        ("cpu/c/cpu.cfs_quota_us", "50000\n"),
        ("cpu/c/cpu.cfs_period_us", "100000\n"),
        ("freezer/f/freezer.state", "FROZEN\n"),
    ]);
    let found = tree.cgroup(&["memory", "cpu", "freezer", ""]);
    assert_eq!(found.path, b"/a/b");
    assert_eq!((found.memory, found.limit_hits), (Some((1000, Some(4_096_000))), Some(17)));
    assert_eq!(found.throttled, Some((81_000, Some((50_000_000, 100_000_000)))));
    assert_eq!(found.frozen, Some(true));
    assert_eq!(found.others.iter().map(|(pid, ..)| *pid).collect::<Vec<_>>(), [me]);
    assert!(found.others[0].2 > 0);
}

#[test]
fn groups_of_version_2() {
    let tree = Tree::new(&[
        ("process/cgroup", "0::/a/b\n"),
        ("unified/a/memory.current", "2000\n"),
        ("unified/a/memory.max", "max\n"),
        ("unified/a/memory.high", "8192\n"),
        ("unified/a/memory.events", "low 0\nhigh 5\nmax 1\n"),
        ("unified/a/cpu.stat", "usage_usec 5\nthrottled_usec 81\n"),
        ("unified/a/cpu.max", "max 100000\n"),
        ("unified/a/b/memory.current", "500\n"),
        ("unified/a/b/memory.max", "max\n"),
        ("unified/a/b/cgroup.events", "populated 1\nfrozen 0\n"),
        ("unified/a/b/memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 total=3\n"),
    ]);
    let found = tree.cgroup(&[""]);
    assert_eq!((found.path.as_slice(), found.frozen), (&b"/a/b"[..], Some(false)));
    assert_eq!((found.memory, found.limit_hits), (Some((2000, Some(8192))), Some(5)));
    assert_eq!(found.throttled, Some((81_000, None)));
    assert_eq!((found.pressure.memory, found.pressure.io), (Some((12_000, 3_000)), None));
    assert_eq!(found.others, []);
}

#[test]
fn at_the_root_nobody_is_called_another_member() {
    let tree = Tree::new(&[
        ("process/cgroup", "4:memory:/\n"),
        ("memory/memory.usage_in_bytes", "999\n"),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory/cgroup.procs", &format!("{}\n", std::process::id())),
    ]);
    let found = tree.cgroup(&["memory"]);
    assert_eq!((found.memory, found.others), (Some((999, None)), Vec::new()));
}
