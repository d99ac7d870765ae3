//! Three processes that share memory in every way there is, page by page as they say.
//!
//! What is told is which page each of their page-table entries shows, as numbers of the scene's own: equal numbers are
//! one page. Anonymous memory has a name where it is a private mapping of a file, written to.

use crate::Scene;
use crate::children::Pipe;
use crate::region::{HUGE, READ_WRITE, Region};
use crate::stage::{Check, Stage};
use memtrace_tests::pages::page_size;
use memtrace_tests::smaps;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

pub const SCENES: &[(&str, Scene)] = &[
    ("sharing", sharing),
    ("sharing.ksm", merged),
    ("sharing.many", many),
    ("sharing.one", one),
    ("sharing.restless", restless),
];

/// A forked child that does its part, stands still, and leaves when this is dropped.
pub struct Child {
    pub pid: i32,
    leave: Pipe,
}

impl Child {
    /// Returns once the child has done its part.
    pub fn fork(part: impl FnOnce()) -> Self {
        let (done, leave) = (Pipe::new(), Pipe::new());
        // SAFETY: the child makes system calls and touches memory that is mapped, then leaves.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: no memory is involved. The parent may be killed: nobody would tell this one to leave.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            leave.reads();
            part();
            done.send();
            leave.wait();
            // SAFETY: nothing of this process is to be run down.
            unsafe { libc::_exit(0) };
        }
        assert!(pid > 0, "fork: {}", std::io::Error::last_os_error());
        done.reads();
        assert!(done.wait(), "the child ended before it had done its part");
        Self { pid, leave }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.leave.send();
        // SAFETY: our own child.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

/// A mapping, at the same addresses in all three.
struct Shared {
    what: &'static str,
    kind: &'static str,
    /// What its name contains; empty when it has none of its own.
    name: &'static str,
    region: Region,
    /// Of each process: the pages that it shows, by number.
    pages: [Vec<usize>; 3],
    /// Pages of a file or segment, which belong to it whoever maps them.
    file: bool,
}

impl Shared {
    fn tell(&self) -> Value {
        json!({
            "what": self.what, "kind": self.kind, "name": self.name, "file": self.file, "pages": self.pages,
            "start": format!("{:#x}", self.region.start()),
        })
    }
}

fn sparse(stage: &Stage, name: &str, pages: usize) -> File {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(stage.dir.join(name)).expect("a file in --dir");
    file.set_len((pages * page_size()) as u64).expect("room for the file");
    file
}

fn memfd(name: &std::ffi::CStr, pages: usize) -> File {
    // SAFETY: a NUL-terminated name; the descriptor is new and nobody else's.
    let file = unsafe { File::from(OwnedFd::from_raw_fd(libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC))) };
    file.set_len((pages * page_size()) as u64).expect("room for the memfd");
    file
}

fn shared(file: &File, pages: usize) -> Region {
    Region::hole(pages, page_size()).place(READ_WRITE, libc::MAP_SHARED, file.as_raw_fd())
}

/// Private memory with a name: pages that are written are anonymous, and the file stays empty.
fn private(file: &File, pages: usize) -> Region {
    Region::hole(pages, page_size()).place(READ_WRITE, libc::MAP_PRIVATE, file.as_raw_fd())
}

fn range(from: usize, to: usize) -> Vec<usize> {
    (from..to).collect()
}

fn sharing(stage: &mut Stage) {
    let (written, copied) = (sparse(stage, "written", 300), sparse(stage, "copied", 200));
    let (overlap, twice, alone) = (memfd(c"overlap", 100), memfd(c"twice", 40), memfd(c"alone", 16));
    stage.settle();
    // Written, not read: a read fault brings neighbours along.
    let file = shared(&written, 300);
    let overlap = shared(&overlap, 100);
    let (twice, again) = (shared(&twice, 40), shared(&twice, 40));
    let (alone, too) = (shared(&alone, 16), shared(&alone, 16));
    let anonymous = Region::hole(64, page_size()).place(READ_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1);
    let copied = private(&copied, 200);
    let huge = Region::anon_aligned(HUGE / page_size(), HUGE);
    huge.advise(libc::MADV_HUGEPAGE);
    let zero = Region::anon_aligned(2 * HUGE / page_size(), HUGE);
    zero.part(0, HUGE / page_size()).advise(libc::MADV_HUGEPAGE);
    let own = Region::anon(50);
    stage.begin();

    copied.write();
    huge.write();
    // The huge zero page, and 512 times the small one: in nobody's RES.
    zero.read();
    let pages = HUGE / page_size();
    if smaps::smaps(std::process::id()).is_ok_and(|areas| {
        areas.iter().any(|area| area.start == huge.start() as u64 && area.get("AnonHugePages") != HUGE as u64)
    }) {
        stage.fail("no huge page was to be had");
    }
    let first = Child::fork(|| {
        file.part(80, 200).write();
        overlap.part(30, 70).write();
        anonymous.write();
        twice.part(0, 10).write();
        huge.part(3, 4).write();
        own.part(0, 20).write();
    });
    let second = Child::fork(|| {
        overlap.part(40, 100).write();
        anonymous.write();
        own.part(0, 30).write();
    });
    file.part(0, 120).write();
    overlap.part(0, 50).write();
    anonymous.write();
    twice.write();
    again.write();
    alone.write();
    too.write();
    copied.part(0, 60).write();

    let all = [
        Shared {
            what: "a file, shared",
            kind: "file",
            name: "/written",
            region: file,
            pages: [range(0, 120), range(80, 200), vec![]],
            file: true,
        },
        Shared {
            what: "a memfd, three overlaps",
            kind: "memfd",
            name: "overlap",
            region: overlap,
            pages: [range(0, 50), range(30, 70), range(40, 100)],
            file: true,
        },
        Shared {
            what: "a memfd that one process maps twice",
            kind: "memfd",
            name: "twice",
            region: twice,
            pages: [range(0, 40), range(0, 10), vec![]],
            file: true,
        },
        Shared {
            what: "the same again",
            kind: "memfd",
            name: "twice",
            region: again,
            pages: [range(0, 40), vec![], vec![]],
            file: true,
        },
        Shared {
            what: "a memfd that only one process maps, twice",
            kind: "memfd",
            name: "alone",
            region: alone,
            pages: [range(0, 16), vec![], vec![]],
            file: true,
        },
        Shared {
            what: "shared anonymous memory",
            kind: "shared_anon",
            name: "",
            region: anonymous,
            pages: [range(0, 64), range(0, 64), range(0, 64)],
            file: true,
        },
        // The first 60 pages were the parent's once, and are the children's now; it has new ones.
        Shared {
            what: "copy on write",
            kind: "file",
            name: "/copied",
            region: copied,
            pages: [range(1000, 1060).into_iter().chain(range(60, 200)).collect(), range(0, 200), range(0, 200)],
            file: false,
        },
        // One page of it was copied by the first child, whose huge mapping fell apart.
        Shared {
            what: "a huge page after a fork",
            kind: "anon",
            name: "",
            region: huge,
            pages: [
                range(0, pages),
                range(0, pages).into_iter().map(|page| if page == 3 { 1003 } else { page }).collect(),
                range(0, pages),
            ],
            file: false,
        },
        Shared {
            what: "zero pages",
            kind: "anon",
            name: "",
            region: zero,
            pages: [vec![], vec![], vec![]],
            file: false,
        },
        Shared {
            what: "private memory",
            kind: "anon",
            name: "",
            region: own,
            pages: [vec![], range(1000, 1020), range(2000, 2030)],
            file: false,
        },
    ];
    tell(stage, &[&first, &second], &all);
}

fn tell(stage: &mut Stage, children: &[&Child], all: &[Shared]) {
    let mut pids = vec![std::process::id() as i32];
    pids.extend(children.iter().map(|child| child.pid));
    let mappings: Vec<Value> = all.iter().map(Shared::tell).collect();
    stage.finish_with(Check::Nothing, &[], json!({"pids": pids, "mappings": mappings}));
}

/// Equal pages in three processes, found by ksmd: one page in all their places. What differs stays.
fn merged(stage: &mut Stage) {
    let file = sparse(stage, "merged", 100);
    stage.settle();
    let region = private(&file, 100);
    stage.begin();
    let equal = |pages: usize| {
        for page in 0..region.pages() {
            let mark = if page < pages { 0 } else { (std::process::id() as usize) << 8 | page };
            // SAFETY: inside the region, at the page's second word; the first byte differs from a page of zeros.
            unsafe {
                region.pointer().add(page * page_size()).write_volatile(42);
                region.pointer().add(page * page_size() + 8).cast::<usize>().write_volatile(mark);
            }
        }
        region.advise(libc::MADV_MERGEABLE);
    };
    let first = Child::fork(|| equal(50));
    let second = Child::fork(|| equal(1));
    equal(60);
    let pids = [std::process::id(), first.pid as u32, second.pid as u32];
    let deadline = Instant::now() + Duration::from_secs(60);
    let merged = |pid: u32, pages: usize| {
        let areas = smaps::smaps(pid).expect("smaps of a child");
        let area = areas.iter().find(|area| area.start == region.start() as u64);
        area.is_some_and(|area| area.get("KSM") == (pages * page_size()) as u64)
    };
    while !(merged(pids[0], 60) && merged(pids[1], 50) && merged(pids[2], 1)) {
        if Instant::now() > deadline {
            stage.fail("ksmd did not merge what is equal");
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let pages = |process: usize, equal: usize| {
        (0..100).map(|page| if page < equal { 0 } else { 1000 * (process + 1) + page }).collect()
    };
    let region = Shared {
        what: "pages that KSM merged",
        kind: "file",
        name: "/merged",
        region,
        pages: [pages(0, 60), pages(1, 50), pages(2, 1)],
        file: false,
    };
    tell(stage, &[&first, &second], &[region]);
}

/// Twenty processes that have 256 MiB in common: what a group costs.
fn many(stage: &mut Stage) {
    const PAGES: usize = 65_536;
    let file = memfd(c"common", PAGES);
    stage.settle();
    let region = shared(&file, PAGES);
    stage.begin();
    region.write();
    let children: Vec<Child> = (1..20).map(|_| Child::fork(|| region.write())).collect();
    let mut pids = vec![std::process::id() as i32];
    pids.extend(children.iter().map(|child| child.pid));
    stage.finish_with(Check::Nothing, &[], json!({"pids": pids, "shared": PAGES * page_size()}));
}

/// One address space under two numbers, which stands still.
fn one(stage: &mut Stage) {
    extern "C" fn stand(_: *mut libc::c_void) -> i32 {
        // SAFETY: no memory is involved. Whoever kills the parent does not know of this one.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        loop {
            // SAFETY: no memory is involved; it returns on signals.
            unsafe { libc::pause() };
        }
    }
    twins(stage, stand);
}

/// One address space under two numbers, which has another size each time that one looks.
fn restless(stage: &mut Stage) {
    extern "C" fn move_about(_: *mut libc::c_void) -> i32 {
        // SAFETY: as above.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        for pages in (1..4093).cycle() {
            let (bytes, flags) = (pages * page_size(), libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: a new mapping, of which nobody knows.
            unsafe {
                let at = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0);
                libc::munmap(at, bytes);
            }
        }
        0
    }
    twins(stage, move_about);
}

/// Two processes in one address space (`CLONE_VM`): the same page-table entries under two numbers.
fn twins(stage: &mut Stage, second: extern "C" fn(*mut libc::c_void) -> i32) {
    stage.settle();
    let (region, stack) = (Region::anon(300), Region::anon(16));
    region.write();
    stack.write();
    // SAFETY: the stack stays mapped until the child is gone.
    let child = unsafe {
        libc::clone(second, stack.end() as *mut libc::c_void, libc::CLONE_VM | libc::SIGCHLD, std::ptr::null_mut())
    };
    assert!(child > 0, "clone: {}", std::io::Error::last_os_error());
    stage.begin();
    stage.finish_with(Check::Nothing, &[], json!({"pids": [std::process::id(), child as u32]}));
    // SAFETY: our own child, which only waits.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
}
