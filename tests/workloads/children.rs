//! Processes that make processes, become others, and end.

use crate::Scene;
use crate::region::Region;
use crate::stage::{Check, Expect, Stage};
use memtrace_tests::pages::{Pages, Pid, page_size};
use serde_json::json;

pub const SCENES: &[(&str, Scene)] = &[
    ("idle", idle),
    ("fork", fork),
    ("vfork", vfork),
    ("clone_vm", clone_vm),
    ("exec", exec),
    ("exit.code", exit_code),
    ("exit.signal", exit_signal),
    ("exit.group", exit_group),
    ("threads", threads),
];

/// Holds some memory of each class and does nothing.
fn idle(stage: &mut Stage) {
    let file = crate::region::make_file(&stage.dir, 160);
    stage.settle();
    let region = Region::anon(1000);
    region.write();
    let shared =
        Region::hole(100, page_size()).place(crate::region::READ_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1);
    shared.write();
    Region::file(&file, 160, libc::MAP_SHARED).read();
    stage.begin();
    stage.finish(Check::All, &[]);
}

/// A word between two processes.
pub struct Pipe {
    read: i32,
    write: i32,
}

impl Pipe {
    pub fn new() -> Self {
        let mut ends = [0; 2];
        // SAFETY: two descriptors into our array.
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        Self { read: ends[0], write: ends[1] }
    }
    pub fn send(&self) {
        // SAFETY: one byte from a constant.
        unsafe { libc::write(self.write, b"x".as_ptr().cast(), 1) };
    }
    /// False when the other side is gone without a word.
    pub fn wait(&self) -> bool {
        let mut byte = 0_u8;
        // SAFETY: one byte into one byte.
        unsafe { libc::read(self.read, (&raw mut byte).cast(), 1) == 1 }
    }
    /// Who only reads lets go of the other end, else it would wait for itself when nobody else is left.
    pub fn reads(&self) {
        // SAFETY: our own descriptor, which nothing uses any more.
        unsafe { libc::close(self.write) };
    }
}

/// A forked child that does nothing: it shares the parent's pages until this is dropped.
pub struct Sharer {
    leave: Pipe,
    child: i32,
}

impl Sharer {
    pub fn fork() -> Self {
        let leave = Pipe::new();
        // SAFETY: the child makes only system calls, then leaves.
        let child = unsafe { libc::fork() };
        if child == 0 {
            leave.reads();
            leave.wait();
            // SAFETY: nothing of this process is to be run down.
            unsafe { libc::_exit(0) };
        }
        assert!(child > 0, "fork: {}", std::io::Error::last_os_error());
        Self { leave, child }
    }
}

impl Drop for Sharer {
    fn drop(&mut self) {
        self.leave.send();
        // SAFETY: our own child.
        unsafe { libc::waitpid(self.child, std::ptr::null_mut(), 0) };
    }
}

/// A child that copies what the parent has, touches its share, and leaves when told.
fn fork(stage: &mut Stage) {
    let (up, down) = (Pipe::new(), Pipe::new());
    stage.settle();
    let region = Region::anon(600);
    region.write();
    let fresh = Region::anon(100);
    stage.begin();
    let parent = Pages::read(Pid::Own).expect("own status");
    // SAFETY: the child makes only system calls and touches the two regions, then leaves.
    let child = unsafe {
        let child = libc::fork();
        if child == 0 {
            // The parent may be killed: nobody would tell this one to leave.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            down.reads();
            region.part(0, 50).write();
            fresh.write();
            up.send();
            down.wait();
            libc::_exit(0);
        }
        child as u32
    };
    up.reads();
    if !up.wait() {
        stage.fail("the child ended before it had touched its share");
    }
    stage.finish(
        Check::Nothing,
        &[
            Expect::new("fork").anon(parent.anon as usize).shmem(0).any_file().of(child).placeless(),
            Expect::new("fault.cow").minor(50).at(&region).of(child),
            Expect::new("fault.anon").anon(100).minor(100).at(&fresh).of(child),
        ],
    );
    down.send();
    // SAFETY: our own child.
    unsafe { libc::waitpid(child as i32, std::ptr::null_mut(), 0) };
}

/// A child that runs in the parent's memory: what it touches is the parent's.
fn shared_mm(stage: &mut Stage, flags: i32) {
    stage.settle();
    let region = Region::anon(400);
    let stack = Region::anon(64);
    stack.write();
    stage.begin();
    extern "C" fn touch(region: *mut libc::c_void) -> i32 {
        // SAFETY: the pointer is the scene's region, which outlives the child.
        unsafe { (*region.cast::<Region>()).write() };
        0
    }
    let mut given = region;
    // SAFETY: the stack and the region stay mapped until the child is gone.
    let child =
        unsafe { libc::clone(touch, stack.end() as *mut libc::c_void, flags | libc::SIGCHLD, (&raw mut given).cast()) };
    let mut status = 0;
    // SAFETY: our own child, our own status.
    let reaped = unsafe { libc::waitpid(child, &raw mut status, 0) };
    if child <= 0 || reaped != child || status != 0 {
        stage.fail("the child did not run");
    }
    let entry = Expect::new("fault.anon").anon(400).minor(400).at(&region).by(child as u32);
    stage.finish(Check::Counters, &[entry]);
}

fn vfork(stage: &mut Stage) {
    shared_mm(stage, libc::CLONE_VM | libc::CLONE_VFORK);
}

fn clone_vm(stage: &mut Stage) {
    shared_mm(stage, libc::CLONE_VM);
}

/// Becomes `idle`, which says ready in its turn. The report of the old program comes before it goes.
fn exec(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(800);
    region.write();
    stage.begin();
    let before = Pages::read(Pid::Own).expect("own status");
    stage.finish_with(Check::All, &[], json!({"before_exec": {"anon": before.anon, "shmem": before.shmem}}));
    let image =
        std::ffi::CString::new(std::env::current_exe().expect("our own path").into_os_string().into_encoded_bytes());
    let image = image.expect("no NUL");
    let dir = std::ffi::CString::new(stage.dir.as_os_str().as_encoded_bytes()).expect("no NUL");
    let arguments = [image.as_ptr(), c"idle".as_ptr(), c"--dir".as_ptr(), dir.as_ptr(), std::ptr::null()];
    // SAFETY: NUL-terminated strings and a NULL at the end.
    unsafe { libc::execv(image.as_ptr(), arguments.as_ptr()) };
    stage.fail("exec failed");
}

fn with_memory(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(300);
    stage.begin();
    region.write();
    stage.finish(Check::All, &[Expect::new("fault.anon").anon(300).minor(300).at(&region)]);
}

fn exit_code(stage: &mut Stage) {
    with_memory(stage);
    std::process::exit(37);
}

fn exit_signal(stage: &mut Stage) {
    with_memory(stage);
    // SAFETY: a signal to ourselves.
    unsafe { libc::raise(libc::SIGTERM) };
}

/// `exit_group` from a thread while the others wait.
fn exit_group(stage: &mut Stage) {
    for _ in 0..4 {
        std::thread::spawn(|| {
            loop {
                std::thread::park();
            }
        });
    }
    with_memory(stage);
    let leaver = std::thread::spawn(|| std::process::exit(5));
    let _ = leaver.join();
}

/// Eight threads, started in the act, each with its own share, each ending by itself.
fn threads(stage: &mut Stage) {
    stage.settle();
    let regions: Vec<Region> = (0..8).map(|_| Region::anon(100)).collect();
    stage.begin();
    let threads: Vec<_> = regions
        .iter()
        .copied()
        .map(|region| {
            std::thread::spawn(move || {
                region.write();
                crate::stage::gettid()
            })
        })
        .collect();
    let tids: Vec<u32> = threads.into_iter().map(|thread| thread.join().expect("the thread ends")).collect();
    let entries: Vec<Expect> = regions
        .iter()
        .zip(tids)
        .map(|(region, tid)| Expect::new("fault.anon").anon(100).minor(100).at(region).by(tid))
        .collect();
    stage.finish(Check::Nothing, &entries);
}
