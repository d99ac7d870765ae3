//! Stalls of a database server's backend, with what the server says of them.

use super::State;
use super::scenes::*;
use super::stalls::Stall;
use crate::event::{Backend, Blocker, TimeSpan, WaitObject};
use crate::views::sample::{PID, meta};
use memtrace_common::Doing;

/// Whoever holds what a backend waits for, so many seconds before the session's end.
fn holder(own_pid: u32, pid: Option<u32>, seconds: i64) -> Blocker {
    let since = Some(meta().wall_ns + 5_000_000_000 - seconds * 1_000_000_000);
    Blocker {
        pid,
        own_pid,
        state: Some("idle in transaction".into()),
        since_ns: since,
        query: Some("UPDATE accounts\n  SET v = 1 WHERE id = 7;".into()),
        transaction_start_ns: since.map(|since| since - 2_000_000_000),
        wait: Some(("Client".into(), "ClientRead".into())),
        ..Blocker::default()
    }
}

fn wait(kind: &str, event: &str, times: u64) -> (Option<(String, String)>, u64) {
    (Some((kind.into(), event.into())), times)
}

pub(super) fn databases() -> Vec<Stall> {
    let descriptors = |of: &[(i32, &str)]| WaitObject::Descriptors {
        of: of.iter().map(|(fd, words)| (*fd, words.as_bytes().to_vec())).collect(),
        total: 3,
        timeout_ns: None,
    };
    let polls = |of: &[(i32, &str)], own: &[&str]| {
        Scene::default().spans([blocked(PID, "epoll_wait", 4)]).wait(
            PID,
            "epoll_wait",
            &[4],
            descriptors(of),
            &["ep_poll"],
            own,
        )
    };
    let for_lock = || {
        polls(&[], &["epoll_wait", "WaitLatch", "ProcSleep", "LockAcquireExtended", "XactLockTableWait", "heap_update"])
    };
    let locked = || backend("Lock", "transactionid");
    let poll = (Some(State::BlockedPoll), Some(false));
    let mut stalls = Vec::new();
    let mut stall = |name, (state, memory), scene| stalls.push((name, state, memory, scene));

    stall("PostgreSQL's lock", poll, for_lock().backend(locked()));
    let first = holder(4710, Some(4710), 312);
    stall(
        "PostgreSQL's lock, whose holder it names",
        poll,
        for_lock().backend(Backend { blocked_by: Some(vec![first.clone()]), ..locked() }),
    );
    let second = Blocker {
        state: Some("active".into()),
        query: Some("select 1".into()),
        wait: Some(("Lock".into(), "tuple".into())),
        ..holder(72, None, 3)
    };
    stall(
        "PostgreSQL's lock in a container, which two hold",
        poll,
        for_lock().backend(Backend {
            own_pid: 71,
            blocked_by: Some(vec![holder(70, Some(4710), 312), second]),
            ..locked()
        }),
    );
    // A server that tells no chain.
    let queued = Blocker { state: Some("active".into()), wait: Some(("Lock".into(), "tuple".into())), ..first.clone() };
    stall(
        "PostgreSQL's lock, whose holder waits as well",
        poll,
        for_lock().backend(Backend {
            blocked_by: Some(vec![queued.clone()]),
            asked: Some("host=db user='o''brien'".into()),
            ..locked()
        }),
    );
    let fellow = |own_pid, behind: &[u32], indirect| Blocker {
        pid: Some(own_pid),
        own_pid,
        behind: behind.to_vec(),
        indirect,
        ..queued.clone()
    };
    let far = Blocker { indirect: true, ..first.clone() };
    stall(
        "PostgreSQL's lock, at the end of a chain",
        poll,
        for_lock().backend(Backend { blocked_by: Some(vec![far.clone(), fellow(4709, &[4710], false)]), ..locked() }),
    );
    stall(
        "PostgreSQL's lock, at the end of a longer chain",
        poll,
        for_lock().backend(Backend {
            blocked_by: Some(vec![
                far,
                fellow(4709, &[4710], true),
                fellow(4708, &[4709], true),
                fellow(4707, &[4708], false),
            ]),
            ..locked()
        }),
    );
    let without = Blocker {
        state: Some("idle".into()),
        query: Some("select pg_advisory_lock(7)".into()),
        transaction_start_ns: None,
        ..first.clone()
    };
    stall(
        "PostgreSQL's advisory lock, in whose queue another waits before it",
        poll,
        for_lock().backend(Backend {
            blocked_by: Some(vec![fellow(4709, &[4710], false), without]),
            ..backend("Lock", "advisory")
        }),
    );
    let hidden = Blocker { pid: Some(4710), own_pid: 4710, indirect: true, hidden: true, ..Blocker::default() };
    let hidden_fellow =
        Blocker { pid: Some(4709), own_pid: 4709, behind: vec![4710], indirect: false, ..hidden.clone() };
    stall(
        "PostgreSQL's lock, asked for by a role that may see nothing",
        poll,
        for_lock().backend(Backend { blocked_by: Some(vec![hidden, hidden_fellow.clone()]), ..locked() }),
    );
    stall(
        "PostgreSQL's lock, asked for with a password, and nobody knows who is to blame",
        poll,
        for_lock().backend(Backend { blocked_by: Some(vec![hidden_fellow]), ..locked() }),
    );
    stall(
        "PostgreSQL's lock, of a prepared transaction",
        poll,
        for_lock().backend(Backend { blocked_by: Some(vec![Blocker::default()]), ..locked() }),
    );
    stall(
        "PostgreSQL's lock, and a server that does not answer",
        poll,
        for_lock().backend(Backend { own_pid: 71, unanswered: "no answer within 2 s".into(), ..locked() }),
    );
    stall(
        "PostgreSQL's client does not read",
        poll,
        polls(
            &[
                (3, "pipe:[2540330]"),
                (6, "unix /run/postgresql/.s.PGSQL.5432 (pid 4700 psql), 219264 bytes to be sent"),
                (7, "anon_inode:[signalfd]"),
            ],
            &["epoll_wait", "WaitEventSetWait", "secure_write"],
        )
        .backend(backend("Client", "ClientWrite")),
    );
    let on_semaphore = Scene::default().spans([blocked(PID, "futex", 0x7f00_0000_0010)]).wait(
        PID,
        "futex",
        &[0x7f00_0000_0010],
        WaitObject::Unknown,
        &["futex_wait_queue"],
        &["sem_wait", "PGSemaphoreLock", "LWLockAcquireOrWait", "XLogFlush"],
    );
    stall(
        "PostgreSQL's internal lock",
        (Some(State::BlockedSemaphore), Some(false)),
        on_semaphore.backend(Backend {
            waits: vec![
                (None, 30),
                wait("LWLock", "WALWrite", 50),
                wait("IO", "WALSync", 20),
                wait("LWLock", "XidGen", 1),
            ],
            ..backend("LWLock", "WALWrite")
        }),
    );
    stall(
        "PostgreSQL's sort is on disk",
        (Some(State::CpuUser), Some(false)),
        Scene::default()
            .spans([
                TimeSpan { ns: 900_000_000, ..span(PID, Doing::Running, 900) },
                samples(PID, Doing::User, 800),
                TimeSpan { nr: crate::syscalls::number("pwrite64"), ..samples(PID, Doing::Kernel, 100) },
                span(PID, Doing::Runnable, 100),
            ])
            .backend(Backend {
                waits: vec![(None, 40), wait("IO", "BufFileWrite", 8)],
                spilled: Some((2, 431 << 20)),
                ..backend("IO", "BufFileWrite")
            }),
    );
    stall(
        "PostgreSQL reads a table",
        (Some(State::BlockedFileIo), Some(false)),
        Scene::default()
            .spans([blocked(PID, "pread64", 26)])
            .wait(
                PID,
                "pread64",
                &[26],
                WaitObject::File { fd: 26, path: b"/srv/data/base/5/16384.1".to_vec(), offset: Some(75_497_472) },
                &["folio_wait_bit_common", "filemap_read"],
                &["pread64", "FileRead", "mdread", "ReadBufferExtended"],
            )
            .backend(backend("IO", "DataFileRead")),
    );
    stalls
}

/// Every text of it could drive a terminal.
pub(super) fn hostile_backend(bad: &[u8]) -> Backend {
    let text = String::from_utf8_lossy(bad).into_owned();
    let wait = ("Lock".to_owned(), text.clone());
    let blocker = Blocker {
        pid: Some(1),
        own_pid: 1,
        state: Some(text.clone()),
        since_ns: Some(i64::MIN),
        query: Some(text.clone()),
        transaction_start_ns: Some(i64::MAX),
        wait: Some(wait.clone()),
        behind: vec![1; 1000],
        indirect: false,
        hidden: true,
    };
    Backend {
        query: Some(bad.to_vec()),
        server: "\u{1b}".into(),
        waits: vec![(Some(wait), 3)],
        spilled: Some((u64::MAX, u64::MAX)),
        work_mem: Some(u64::MAX),
        blocked_by: Some(vec![blocker; 1000]),
        asked: Some(text.clone()),
        unanswered: text.clone(),
        refused: text,
        ..backend("", "")
    }
}
