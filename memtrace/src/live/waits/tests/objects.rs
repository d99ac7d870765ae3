//! What each kind of call waits for.

use super::*;
use std::ffi::CString;
use std::fs::File;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};

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
    let to_send = queued.map_or(0, |(to_send, _)| to_send);
    assert!(to_send > 0, "{queued:?}");
    drop(writer);
    let polled = libc::pollfd { fd: server.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    let arguments = [(&raw const polled) as u64, 1, u64::MAX, 0, 0, 0];
    let polling = Child::start(|| call(libc::SYS_poll, arguments)).waits_in("poll");
    let WaitObject::Descriptors { of, .. } = polling.object() else { panic!("{:?}", polling.object()) };
    let (from, to) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
    let name = String::from_utf8(name_of(me)).unwrap();
    let said = String::from_utf8_lossy(&of[0].1);
    assert!(said.starts_with(&format!("tcp {from} to {to} (pid {me} {name}), ")), "{said}");
    assert!(said.ends_with(" bytes to be sent"), "{said}");
    drop(polling);

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
