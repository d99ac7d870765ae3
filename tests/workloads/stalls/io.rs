//! Waiting for input or output: pipes, sockets, files, and for any of several.

use super::{Ledger, Measure, Stall, Stand, direct, goes_first, nothing};
use crate::Scene;
use crate::region::{evict, make_file};
use crate::stage::Stage;
use memtrace_tests::pages::page_size;
use serde_json::json;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

pub const SCENES: &[(&str, Scene)] = &[
    ("stall.pipe.read", pipe_read),
    ("stall.pipe.write", pipe_write),
    ("stall.socket.read", socket_read),
    ("stall.socket.write", socket_write),
    ("stall.socket.unix", socket_unix),
    ("stall.poll", poll),
    ("stall.epoll", epoll),
    ("stall.file.read", file_read),
    ("stall.fsync", fsync),
];

const fn waits(class: &'static [&'static str], nr: i64) -> Stall {
    Stall { class, memory: false, measure: Measure::Act, stand: Stand::call(nr) }
}

fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: two descriptors into our array.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: new descriptors, ours alone.
    let end = |fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    (end(ends[0]), end(ends[1]))
}

/// Reads until nothing comes any more, which is at once and for good.
fn read_all(ledger: &Ledger, mut from: impl Read) {
    ledger.await_go();
    ledger.enter();
    let _ = from.read(&mut [0; 512]);
}

/// Writes until the other side, which does not read, has room for no more.
fn write_all(ledger: &Ledger, mut to: impl Write) {
    ledger.await_go();
    ledger.enter();
    while to.write_all(&[7; 4096]).is_ok() {}
}

/// Closes the actor's copy of what only the director is to have.
fn without(end: &impl AsRawFd) {
    // SAFETY: the actor's copy, which it never uses: its owner's destructor does not run there.
    unsafe { libc::close(end.as_raw_fd()) };
}

fn pipe_read(stage: &mut Stage) {
    let (read, write) = pipe();
    let object = json!({"kind": "pipe", "others": [{"pid": std::process::id()}]});
    direct(
        stage,
        &waits(&["blocked.pipe"], libc::SYS_read),
        |ledger| {
            without(&write);
            read_all(ledger, &read);
        },
        nothing,
        |_| object.clone(),
    );
}

fn pipe_write(stage: &mut Stage) {
    let (read, write) = pipe();
    let object = json!({"kind": "pipe", "others": [{"pid": std::process::id()}]});
    direct(
        stage,
        &waits(&["blocked.pipe"], libc::SYS_write),
        |ledger| {
            without(&read);
            write_all(ledger, &write);
        },
        nothing,
        |_| object.clone(),
    );
}

/// A connection over the loopback: the actor's side, the director's.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let ours = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
    (ours, listener.accept().expect("was connected to").0)
}

fn socket_read(stage: &mut Stage) {
    socket(stage, libc::SYS_recvfrom, |ledger, stream| read_all(ledger, stream));
}

fn socket_write(stage: &mut Stage) {
    socket(stage, libc::SYS_sendto, |ledger, stream| write_all(ledger, stream));
}

fn socket(stage: &mut Stage, nr: i64, act: impl FnOnce(&Ledger, &TcpStream)) {
    let (own, peer) = connection();
    let address = peer.local_addr().expect("connected").to_string();
    let object = json!({"kind": "socket", "peer": address, "process": {"pid": std::process::id()}});
    direct(
        stage,
        &waits(&["blocked.socket"], nr),
        |ledger| {
            without(&peer);
            act(ledger, &own);
        },
        nothing,
        |_| object.clone(),
    );
}

fn socket_unix(stage: &mut Stage) {
    let (own, peer) = UnixStream::pair().expect("a pair");
    direct(
        stage,
        &waits(&["blocked.socket"], libc::SYS_recvfrom),
        |ledger| {
            without(&peer);
            read_all(ledger, &own);
        },
        nothing,
        |_| json!({"kind": "socket", "protocol": "unix"}),
    );
}

/// Waits for two pipes in which nothing ever comes: there is nothing to do.
fn poll(stage: &mut Stage) {
    let ((first, _one), (second, _two)) = (pipe(), pipe());
    let wait = |ledger: &Ledger| {
        let mut ends =
            [&first, &second].map(|end| libc::pollfd { fd: end.as_raw_fd(), events: libc::POLLIN, revents: 0 });
        ledger.await_go();
        ledger.enter();
        // SAFETY: two entries, which are ours.
        unsafe { libc::poll(ends.as_mut_ptr(), 2, -1) };
    };
    let object = |_: &Ledger| json!({"kind": "descriptors", "total": 2});
    direct(stage, &waits(&["blocked.poll"], libc::SYS_poll), wait, nothing, object);
}

fn epoll(stage: &mut Stage) {
    let (first, _one) = pipe();
    let wait = |ledger: &Ledger| {
        // SAFETY: events that are ours; descriptors that live as long as the process.
        unsafe {
            let set = libc::epoll_create1(0);
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
            assert_eq!(libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, first.as_raw_fd(), &raw mut event), 0);
            ledger.await_go();
            ledger.enter();
            libc::epoll_wait(set, &raw mut event, 1, -1);
        }
    };
    let object = |_: &Ledger| json!({"kind": "descriptors", "total": 1});
    direct(stage, &waits(&["blocked.poll"], libc::SYS_epoll_wait), wait, nothing, object);
}

/// A cold file, page by page, from a device that somebody has made slow.
fn file_read(stage: &mut Stage) {
    const PAGES: usize = 8192;
    let file = make_file(&stage.dir, PAGES);
    let stall = Stall { measure: Measure::ActScheduled, stand: None, ..waits(&["blocked.file_io"], libc::SYS_pread64) };
    let act = |ledger: &Ledger| {
        evict(&file, PAGES);
        let mut page = vec![0; page_size()];
        ledger.await_go();
        for number in (0..PAGES).cycle().step_by(97) {
            let _ = ledger.within(|| file.read_at(&mut page, (number * page_size()) as u64));
        }
    };
    let path = stage.dir.join("pages").display().to_string();
    direct(stage, &stall, act, nothing, |_| json!({"kind": "file", "path": path}));
}

/// A page written and synced, again and again, to a device that somebody has made slow.
fn fsync(stage: &mut Stage) {
    let file = make_file(&stage.dir, 64);
    let stall = Stall { measure: Measure::ActWaiting, stand: None, ..waits(&["blocked.file_io"], libc::SYS_fsync) };
    let act = |ledger: &Ledger| {
        goes_first();
        let page = vec![9; page_size()];
        ledger.await_go();
        for number in (0..64_u64).cycle() {
            let _ = file.write_at(&page, number * page_size() as u64);
            let _ = ledger.within(|| file.sync_all());
        }
    };
    let path = stage.dir.join("pages").display().to_string();
    direct(stage, &stall, act, nothing, |_| json!({"kind": "file", "path": path}));
}
