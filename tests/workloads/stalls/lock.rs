//! Waiting for a lock: mutexes, semaphores, locks on files.

use super::{Ledger, Measure, Stall, Stand, direct, goes_first, no_object, nothing};
use crate::Scene;
use crate::stage::{Stage, gettid};
use serde_json::json;
use std::cell::UnsafeCell;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

pub const SCENES: &[(&str, Scene)] = &[
    ("stall.futex", futex),
    ("stall.futex.contended", contended),
    ("stall.semaphore.posix", semaphore_posix),
    ("stall.semaphore.sysv", semaphore_sysv),
    ("stall.flock", flock),
    ("stall.fcntl", fcntl),
];

/// A wait that never ends, in this system call.
const fn waits(class: &'static [&'static str], nr: i64) -> Stall {
    Stall { class, memory: false, measure: Measure::Act, stand: Stand::call(nr) }
}

/// A mutex of the C library.
struct Mutex(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: that is what it is for.
unsafe impl Sync for Mutex {}

impl Mutex {
    const fn new() -> Self {
        Self(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER))
    }
    fn lock(&self) {
        // SAFETY: initialised, and never moved: it is static.
        unsafe { libc::pthread_mutex_lock(self.0.get()) };
    }
    fn unlock(&self) {
        // SAFETY: as above; the caller has it.
        unsafe { libc::pthread_mutex_unlock(self.0.get()) };
    }
}

/// Two threads, each with the lock that the other one wants.
fn futex(stage: &mut Stage) {
    static FIRST: Mutex = Mutex::new();
    static SECOND: Mutex = Mutex::new();
    let address = SECOND.0.get() as usize;
    direct(
        stage,
        &waits(&["blocked.futex"], libc::SYS_futex),
        |ledger| {
            std::thread::scope(|scope| {
                FIRST.lock();
                scope.spawn(|| {
                    SECOND.lock();
                    ledger.set_other(gettid());
                    ledger.released();
                    FIRST.lock();
                });
                while ledger.other() == 0 {
                    std::thread::yield_now();
                }
                ledger.await_go();
                ledger.enter();
                SECOND.lock();
            });
        },
        nothing,
        |ledger| json!({"kind": "futex", "owner": ledger.other(), "address": format!("{address:#x}")}),
    );
}

/// So many threads have the mutex in turn, each for so long, and pause after that, so that another one gets it.
const TURNS: usize = 8;
const HELD: Duration = Duration::from_millis(4);
const PAUSE: Duration = Duration::from_micros(500);

/// Threads that all want one mutex, again and again: each waits most of the time, and all of them go on.
fn contended(stage: &mut Stage) {
    static HOT: Mutex = Mutex::new();
    let address = HOT.0.get() as usize;
    let turn = |lock: &dyn Fn()| {
        lock();
        std::thread::sleep(HELD);
        HOT.unlock();
        std::thread::sleep(PAUSE);
    };
    let stall = Stall { measure: Measure::ActWaiting, stand: None, ..waits(&["blocked.futex"], libc::SYS_futex) };
    direct(
        stage,
        &stall,
        |ledger| {
            goes_first();
            std::thread::scope(|scope| {
                for _ in 1..TURNS {
                    scope.spawn(|| {
                        ledger.released();
                        loop {
                            turn(&|| HOT.lock());
                        }
                    });
                }
                ledger.await_go();
                loop {
                    turn(&|| ledger.within(|| HOT.lock()));
                }
            });
        },
        nothing,
        |_| json!({"kind": "futex", "address": format!("{address:#x}")}),
    );
}

fn semaphore_posix(stage: &mut Stage) {
    // A futex to the kernel: only the call stack knows better.
    let stall = waits(&["blocked.semaphore", "blocked.futex"], libc::SYS_futex);
    let wait = |ledger: &Ledger| {
        // SAFETY: all zero is what sem_init fills in.
        let mut semaphore: libc::sem_t = unsafe { std::mem::zeroed() };
        // SAFETY: ours, and on this stack until the process is killed.
        unsafe { libc::sem_init(&raw mut semaphore, 0, 0) };
        ledger.await_go();
        ledger.enter();
        // SAFETY: as above.
        unsafe { libc::sem_wait(&raw mut semaphore) };
    };
    direct(stage, &stall, wait, nothing, no_object);
}

fn semaphore_sysv(stage: &mut Stage) {
    // In a namespace of its own, which takes the set along when the director ends, however it ends.
    // SAFETY: no memory is involved.
    let id = unsafe {
        assert_eq!(libc::unshare(libc::CLONE_NEWIPC), 0, "unshare: {}", std::io::Error::last_os_error());
        libc::semget(libc::IPC_PRIVATE, 1, 0o600)
    };
    assert!(id >= 0, "semget: {}", std::io::Error::last_os_error());
    let wait = |ledger: &Ledger| {
        ledger.await_go();
        ledger.enter();
        let mut down = libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 };
        // SAFETY: one operation, which is ours.
        unsafe { libc::semop(id, &raw mut down, 1) };
    };
    // Which of the two calls semop is, the C library decides.
    let nr = if cfg!(target_env = "gnu") { libc::SYS_semtimedop } else { libc::SYS_semop };
    direct(stage, &waits(&["blocked.semaphore"], nr), wait, nothing, |_| json!({"kind": "system_v", "id": id}));
}

fn open(path: &Path) -> i32 {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path");
    // SAFETY: a NUL-terminated path.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o600) };
    assert!(fd >= 0, "open: {}", std::io::Error::last_os_error());
    fd
}

/// The director holds the lock; who holds it and on what is the truth.
fn file_lock(stage: &mut Stage, nr: i64, lock: impl Fn(i32) -> i32) {
    let path = stage.dir.join("locked");
    let director = std::process::id();
    assert_eq!(lock(open(&path)), 0, "nobody else has the lock");
    let wait = |ledger: &Ledger| {
        // Its own opening: one that is inherited would share the lock.
        let fd = open(&path);
        ledger.await_go();
        ledger.enter();
        lock(fd);
    };
    let object =
        |_: &Ledger| json!({"kind": "file_lock", "path": path.display().to_string(), "holder": {"pid": director}});
    direct(stage, &waits(&["blocked.flock"], nr), wait, nothing, object);
}

fn flock(stage: &mut Stage) {
    // SAFETY: no memory is involved.
    file_lock(stage, libc::SYS_flock, |fd| unsafe { libc::flock(fd, libc::LOCK_EX) });
}

fn fcntl(stage: &mut Stage) {
    file_lock(stage, libc::SYS_fcntl, |fd| {
        // SAFETY: all zero is a valid description: from the start to the end.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = libc::F_WRLCK as i16;
        // SAFETY: the kernel reads our struct.
        unsafe { libc::fcntl(fd, libc::F_SETLKW, &raw mut lock) }
    });
}
