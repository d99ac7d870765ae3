//! Snapshots of live processes against what the kernel says elsewhere, and against what the tests themselves did. No privileges needed.

use memtrace::cli::{ReadOptions, Subject};
use memtrace::hints::Failure;
use memtrace::procfs::{ProcessFiles, page_size};
use memtrace::snapshot::read::read;
use memtrace::snapshot::{Mapping, Process, Reason, Resident, Source};
use memtrace::statement::Kind;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const OPTIONS: ReadOptions =
    ReadOptions { max_hold: Duration::from_millis(50), full: false, page_map: false, for_diff: false };

/// A child that is killed and reaped whatever happens.
struct Guard(Child);

impl Guard {
    /// Returned once it has printed its first line.
    fn spawn(command: &mut Command) -> Self {
        let mut child = Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program exists"));
        let mut line = String::new();
        BufReader::new(child.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        child
    }

    fn shell(script: &str) -> Self {
        Self::spawn(Command::new("sh").args(["-c", script]))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a plain system call; the child is not reaped before `drop`, so the number is still its own.
        assert_eq!(unsafe { libc::kill(self.pid() as i32, signal) }, 0);
    }

    /// Stops it, and returns once it is stopped.
    fn stop(self) -> Self {
        self.signal(libc::SIGSTOP);
        let mut status = 0;
        // SAFETY: `status` is a valid place for an int. WUNTRACED reports the stop; nothing is reaped.
        let waited = unsafe { libc::waitpid(self.pid() as i32, &raw mut status, libc::WUNTRACED) };
        assert_eq!(waited, self.pid() as i32);
        assert!(libc::WIFSTOPPED(status), "it ended instead: {status:#x}");
        self
    }

    /// Kills it, and returns once it is a zombie.
    fn kill_unreaped(&self) {
        self.signal(libc::SIGKILL);
        // SAFETY: siginfo_t is plain data, for which zeros are valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is a valid place; WNOWAIT leaves the child a zombie.
        let waited = unsafe { libc::waitid(libc::P_PID, self.pid(), &raw mut info, libc::WEXITED | libc::WNOWAIT) };
        assert_eq!(waited, 0);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn one(pid: u32, options: &ReadOptions) -> Process {
    let mut snapshot = read(&Subject::Pids(vec![pid]), options).unwrap();
    assert_eq!((snapshot.processes.len(), snapshot.missing.is_empty()), (1, true));
    snapshot.processes.remove(0)
}

fn failure(subject: Subject) -> Failure {
    read(&subject, &OPTIONS).unwrap_err().downcast::<Failure>().unwrap()
}

fn sum(process: &Process, amount: impl Fn(&Mapping) -> u64) -> u64 {
    process.mappings.as_ref().unwrap().iter().map(amount).sum()
}

#[test]
fn the_sums_of_a_stopped_process_are_its_counters() {
    let child = Guard::shell("echo ready; read line").stop();
    let process = one(child.pid(), &OPTIONS);
    let counters = process.counters.unwrap();
    assert_eq!(process.counters_after, Some(counters), "it is stopped");
    assert_eq!((process.state, process.comm.as_slice()), (b'T', &b"sh"[..]));
    assert_eq!(process.cmdline, b"sh\0-c\0echo ready; read line");
    let exe = std::fs::read_link(format!("/proc/{}/exe", child.pid())).unwrap();
    assert_eq!(process.exe.as_deref(), Some(exe.as_os_str().as_encoded_bytes()));

    assert_eq!(sum(&process, |mapping| mapping.resident.unwrap().rss), counters.res());
    assert_eq!(sum(&process, |mapping| mapping.resident.unwrap().anonymous), counters.anon);
    assert_eq!(sum(&process, |mapping| mapping.resident.unwrap().swap.unwrap()), counters.swap);
    // The kernel's own page at the end of the address space is in maps and not in VIRT.
    let vsyscall = |mapping: &Mapping| if mapping.name == b"[vsyscall]" { mapping.size() } else { 0 };
    assert_eq!(sum(&process, Mapping::size) - sum(&process, vsyscall), counters.virt);

    // The whole in one walk, by another source.
    let kernel = ProcessFiles::open(child.pid()).unwrap().read_rollup().unwrap().unwrap();
    let rollup = process.rollup.unwrap();
    assert_eq!((rollup.rss, rollup.anonymous, rollup.swap), (kernel.rss, kernel.anonymous, kernel.swap));
    assert_eq!((rollup.hugetlb, rollup.locked), (kernel.hugetlb, kernel.locked));
    // Others come and go: what of the rest is shared changes meanwhile, but not what it adds up to.
    assert_eq!(rollup.uss() + rollup.shared_clean + rollup.shared_dirty, rollup.rss);
    let private_file = rollup.private_file.unwrap();
    assert!(private_file <= counters.shr() && private_file <= rollup.uss());

    for source in [Source::Status, Source::Smaps, Source::Threads] {
        let cost = process.sources.iter().find(|cost| cost.source == source).unwrap();
        assert!(0 < cost.longest_call_ns && cost.longest_call_ns <= cost.cost_ns && cost.calls > 0, "{cost:?}");
    }
    assert_eq!(process.given_up, []);
}

#[test]
fn one_that_has_ended_does_not_keep_the_others_from_being_told() {
    let child = Guard::shell("echo ready; read line").stop();
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let ended = ended.id();
    let of = |pids: &[u32]| read(&Subject::Pids(pids.to_vec()), &OPTIONS);
    for pids in [[child.pid(), ended], [ended, child.pid()]] {
        let snapshot = of(&pids).unwrap();
        assert_eq!(snapshot.processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [child.pid()]);
        assert_eq!((snapshot.missing.vanished, snapshot.missing.unreadable), (1, 0));
        assert_eq!(snapshot.missing.failures, [Failure::NoSuchPid { pid: ended }]);
        assert_eq!(snapshot.group, None);
    }
    let error = of(&[ended]).unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Failure::NoSuchPid { pid: ended }));
}

#[test]
fn over_budget_maps_are_read_and_what_was_given_up_is_said() {
    let child = Guard::shell("echo ready; read line").stop();
    let frugal = ReadOptions { max_hold: Duration::from_nanos(1), ..OPTIONS };
    let process = one(child.pid(), &frugal);
    assert!(process.mappings.as_ref().unwrap().iter().all(|mapping| mapping.detail.is_none()));
    assert_eq!(process.rollup, None);
    for source in [Source::Smaps, Source::Rollup] {
        let given_up = process.given_up.iter().find(|given_up| given_up.source == source).unwrap();
        assert!(
            matches!(given_up.reason, Reason::OverBudget { estimate_ns, limit_ns: 1 } if estimate_ns > 1),
            "{given_up:?}"
        );
    }
    let counters = process.counters.unwrap();
    let resident = |amount: fn(Resident) -> u64| sum(&process, |mapping| amount(mapping.resident.unwrap()));
    assert_eq!(resident(|resident| resident.rss), counters.res());
    assert_eq!(
        (resident(|resident| resident.anonymous), resident(|resident| resident.swap.unwrap())),
        (counters.anon, counters.swap)
    );
    let full = one(child.pid(), &ReadOptions { full: true, ..frugal });
    let by_mapping = |process: &Process| -> Vec<_> {
        process.mappings.as_ref().unwrap().iter().map(|mapping| mapping.resident).collect()
    };
    assert_eq!(by_mapping(&process), by_mapping(&full));
    let ranges = |process: &Process| -> Vec<(u64, u64, Kind)> {
        process.mappings.as_ref().unwrap().iter().map(|mapping| (mapping.start, mapping.end, mapping.kind)).collect()
    };
    assert_eq!(ranges(&process), ranges(&full));
    assert_eq!(full.rollup.unwrap().rss, full.counters.unwrap().res());
}

#[test]
fn stacks_bear_their_threads_names() {
    let (tell, told) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::Builder::new().name("bill\u{1}ing".to_owned());
    let thread = thread
        .spawn(move || {
            let local = 0u8;
            // SAFETY: a plain system call.
            tell.send((std::ptr::from_ref(&local).addr() as u64, unsafe { libc::gettid() })).unwrap();
            // Waits for us, asleep.
            let _ = ended.recv();
        })
        .unwrap();
    let (address, tid) = told.recv().unwrap();
    let find = || {
        let process = one(std::process::id(), &OPTIONS);
        let mappings = process.mappings.unwrap();
        let at = mappings.iter().position(|mapping| (mapping.start..mapping.end).contains(&address)).unwrap();
        (mappings[at - 1].clone(), mappings[at].clone(), mappings)
    };
    let (mut guard, mut stack, mut mappings) = find();
    // It may still be on its way to sleep.
    while stack.thread.is_none() {
        std::thread::yield_now();
        (guard, stack, mappings) = find();
    }
    assert_eq!(stack.kind, Kind::ThreadStack);
    let named = stack.thread.unwrap();
    assert_eq!((named.tid, named.comm.as_slice()), (tid as u32, &b"bill\x01ing"[..]));
    assert_eq!((guard.kind, guard.permissions, guard.thread.unwrap().tid), (Kind::ThreadStack, 0, tid as u32));
    let main = mappings.iter().find(|mapping| mapping.kind == Kind::Stack).unwrap();
    assert_eq!((main.thread.as_ref().unwrap().tid, main.name.as_slice()), (std::process::id(), &b"[stack]"[..]));
    drop(end);
    thread.join().unwrap();
}

#[test]
fn by_name_zombies_are_left_out_and_the_others_found() {
    let directory = tempfile::tempdir().unwrap();
    // A name of its own, longer than comm can be, and hostile.
    let program = directory.path().join("a (b)\n\u{1b}[2J name.sh");
    // By a process of its own: a file that another test's child still holds open for writing cannot be run.
    assert!(Command::new("cp").arg("/bin/sh").arg(&program).status().unwrap().success());
    let spawn = || Guard::spawn(Command::new(&program).args(["-c", "echo ready; read line"]));
    let (one, two) = (spawn().stop(), spawn().stop());
    let name = program.file_name().unwrap().to_str().unwrap().to_owned();
    let pids = |name: &str| -> Vec<u32> {
        let snapshot = read(&Subject::Name(name.to_owned()), &OPTIONS).unwrap();
        snapshot.processes.iter().map(|process| process.pid).collect()
    };
    let mut both = [one.pid(), two.pid()];
    both.sort_unstable();
    assert_eq!(pids(&name), both);
    assert_eq!(pids(&name[..15]), both, "comm");
    let process = self::one(one.pid(), &OPTIONS);
    let own = process.mappings.unwrap().into_iter().filter(|mapping| mapping.kind == Kind::Program);
    let names: Vec<Vec<u8>> = own.map(|mapping| mapping.name).collect();
    assert!(names.len() > 1 && names.iter().all(|name| name == program.as_os_str().as_encoded_bytes()), "{names:?}");

    std::fs::remove_file(&program).unwrap();
    assert_eq!(pids(&name), both, "a deleted program keeps its name");
    two.kill_unreaped();
    assert_eq!(pids(&name), [one.pid()]);
    one.kill_unreaped();
    assert_eq!(failure(Subject::Name(name.clone())), Failure::NoneNamed { name: name.clone() });
    assert_eq!(failure(Subject::Name(name.clone())).exit_code() as u8, 3);
    assert_eq!(failure(Subject::Pids(vec![one.pid()])), Failure::Zombie { pid: one.pid() });
}

#[test]
fn what_is_no_process_is_said() {
    assert_eq!(failure(Subject::Pids(vec![4_194_304])), Failure::NoSuchPid { pid: 4_194_304 });
    let thread = std::thread::spawn(|| {
        // SAFETY: a plain system call.
        let tid = unsafe { libc::gettid() } as u32;
        (tid, failure(Subject::Pids(vec![tid])))
    });
    let (tid, failed) = thread.join().unwrap();
    assert_eq!(failed, Failure::ThreadId { tid, pid: std::process::id() });
    let path = PathBuf::from("no/such\ngroup");
    assert_eq!(failure(Subject::Cgroup(path)), Failure::NoSuchCgroup { path: "no/such\ngroup".to_owned() });
}

#[test]
fn processes_that_come_and_go_while_they_are_read_are_no_error() {
    // A shell that starts and reaps children of its own name all the time.
    let busy = Guard::spawn(Command::new("sh").args(["-c", "echo ready; while :; do (:); done"]));
    for _ in 0..30 {
        let snapshot = read(&Subject::Name("sh".to_owned()), &OPTIONS).unwrap();
        assert!(snapshot.processes.iter().any(|process| process.pid == busy.pid()));
        for process in &snapshot.processes {
            // Whoever ended in between is known in part, and no part of it is made up.
            let gone = process.given_up.iter().any(|given_up| given_up.reason == Reason::Gone);
            assert!(gone || process.counters.is_some() && process.mappings.is_some(), "{process:?}");
        }
    }
}

#[test]
fn another_mount_and_pid_namespace_is_read_from_outside() {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child"]);
        command
    };
    if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: namespaces of our own are not permitted");
        return;
    }
    // A program that only the target sees, on a file system that only the target has.
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("hidden_program");
    let script = r#"mount -t tmpfs none "$1" && cp /bin/sh "$2" && exec "$2" -c 'echo ready; read line'"#;
    let outer = Guard::spawn(unshare().args(["sh", "-c", script, "sh"]).arg(directory.path()).arg(&program));
    assert!(!program.exists());
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", outer.pid())).unwrap();
    let inner: u32 = children.trim().parse().unwrap();
    let by_name = read(&Subject::Name("hidden_program".to_owned()), &OPTIONS).unwrap();
    assert_eq!(by_name.processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [inner]);
    let process = one(inner, &OPTIONS);
    assert_eq!(process.exe.as_deref(), Some(program.as_os_str().as_encoded_bytes()));
    let mappings = process.mappings.unwrap();
    let own = mappings.iter().filter(|mapping| mapping.name == program.as_os_str().as_encoded_bytes());
    assert!(own.clone().count() > 1 && own.clone().all(|mapping| mapping.kind == Kind::Program));
}

#[test]
fn a_file_on_a_tmpfs_is_told_from_one_on_a_disk() {
    let Some(mount) = ["/run/lock", "/run/user", "/run", "/tmp"].into_iter().find(|directory| {
        let Ok(path) = std::ffi::CString::new(*directory) else { return false };
        // SAFETY: statfs is plain data, for which zeros are valid.
        let mut found: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: a terminated path and a valid place.
        let known = unsafe { libc::statfs(path.as_ptr(), &raw mut found) } == 0;
        known && found.f_type == libc::TMPFS_MAGIC && tempfile::tempfile_in(directory).is_ok()
    }) else {
        eprintln!("skipped: no tmpfs that we may write to");
        return;
    };
    let file = tempfile::NamedTempFile::new_in(mount).unwrap();
    file.as_file().set_len(page_size()).unwrap();
    let path = file.path().to_owned();
    use std::os::fd::AsRawFd;
    let (length, access) = (page_size() as usize, libc::PROT_READ);
    // SAFETY: a new mapping of a file that we have open.
    let start =
        unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, file.as_file().as_raw_fd(), 0) };
    assert_ne!(start, libc::MAP_FAILED);
    // SAFETY: within the mapping made above.
    unsafe { start.cast::<u8>().read_volatile() };
    let mappings = one(std::process::id(), &OPTIONS).mappings.unwrap();
    let mapping = mappings.iter().find(|mapping| mapping.start == start.addr() as u64).unwrap();
    assert_eq!((mapping.kind, mapping.name.as_slice()), (Kind::Tmpfs, path.as_os_str().as_encoded_bytes()));
    assert_eq!(mapping.resident.unwrap().rss, page_size());
    // SAFETY: the mapping made above, to which nothing refers any more.
    unsafe { libc::munmap(start, length) };
}
