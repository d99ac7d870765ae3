//! The procfs room against the kernel. No privileges needed.

use memtrace::event::{MmId, SmapsMapping, permission};
use memtrace::procfs::{
    Error, ParseReport, ProcessFiles, Statm, page_size, parse_maps, parse_smaps, private_file, visit_smaps,
};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};

/// A child that is killed and reaped whatever happens.
struct Guard(Child);

impl Guard {
    fn spawn(program: &str, arguments: &[&[u8]]) -> Self {
        let child = Command::new(program)
            .args(arguments.iter().map(|argument| OsStr::from_bytes(argument)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program exists");
        Self(child)
    }

    /// A stopped process. A spawned one may still be on its way through exec, its command line not yet in place; a
    /// stop takes effect only when it returns to user mode.
    fn stopped(program: &str, arguments: &[&[u8]]) -> Self {
        let child = Self::spawn(program, arguments);
        child.stop();
        child
    }

    fn sleep() -> Self {
        Self::stopped("sleep", &[b"1000"])
    }

    /// A shell, returned once the script has printed its first line.
    fn shell(script: &str) -> Self {
        let mut shell = Self::spawn("sh", &[b"-c", script.as_bytes()]);
        let mut line = String::new();
        BufReader::new(shell.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        shell
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn files(&self) -> ProcessFiles {
        ProcessFiles::open(self.pid()).unwrap()
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a plain system call; the child is not reaped before `drop`, so the number is still its own.
        assert_eq!(unsafe { libc::kill(self.pid() as i32, signal) }, 0);
    }

    /// Stops it, and returns once it is stopped.
    fn stop(&self) {
        self.signal(libc::SIGSTOP);
        let mut status = 0;
        // SAFETY: `status` is a valid place for an int. WUNTRACED reports the stop; nothing is reaped.
        let waited = unsafe { libc::waitpid(self.pid() as i32, &raw mut status, libc::WUNTRACED) };
        assert_eq!(waited, self.pid() as i32);
        assert!(libc::WIFSTOPPED(status), "it ended instead: {status:#x}");
    }

    /// Kills it, and returns once it is a zombie.
    fn kill_unreaped(&self) {
        self.signal(libc::SIGKILL);
        // SAFETY: siginfo_t is plain data, for which zeros are valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WEXITED | libc::WNOWAIT;
        // SAFETY: `info` is a valid place; WNOWAIT leaves the child a zombie.
        let waited = unsafe { libc::waitid(libc::P_PID, self.pid(), &raw mut info, flags) };
        assert_eq!(waited, 0);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn smaps_rollup_status_and_statm_of_a_stopped_process_agree() {
    let child = Guard::sleep();
    let files = child.files();
    let (mut smaps_text, mut maps_text) = (Vec::new(), Vec::new());
    let cost = files.read_smaps(&mut smaps_text).unwrap();
    files.read_maps(&mut maps_text).unwrap();
    assert!(cost.reads >= 2 && cost.longest_hold_ns > 0 && cost.longest_hold_ns <= cost.cost_ns, "{cost:?}");

    let (mut mappings, mut lines) = (Vec::new(), Vec::new());
    let report = parse_smaps(&smaps_text, &mut mappings);
    assert_eq!(report.malformed, 0);
    assert_eq!(parse_maps(&maps_text, &mut lines), report);
    let ranges: Vec<_> = mappings.iter().map(|mapping| (mapping.start, mapping.end)).collect();
    assert_eq!(ranges, lines.iter().map(|line| (line.start, line.end)).collect::<Vec<_>>());

    let rollup = files.read_rollup().unwrap().unwrap();
    let sum = |field: fn(&SmapsMapping) -> u64| mappings.iter().map(field).sum::<u64>();
    assert_eq!(sum(|mapping| mapping.rss), rollup.rss);
    assert_eq!(sum(|mapping| mapping.anonymous), rollup.anonymous);
    assert_eq!(sum(|mapping| mapping.swap), rollup.swap);
    // Which of the four a library's page is in depends on who else maps it at that moment; their sum does not.
    let four = |mapping: &SmapsMapping| {
        mapping.shared_clean + mapping.shared_dirty + mapping.private_clean + mapping.private_dirty
    };
    assert_eq!(sum(four), rollup.rss);

    let status = files.read_status().unwrap();
    let amounts = status.amounts(page_size()).unwrap();
    assert_eq!((status.state, status.name.as_slice()), (b'T', &b"sleep"[..]));
    let statm = files.read_statm().unwrap();
    assert_eq!(statm.resident, amounts.res() as u64);
    assert_eq!(statm.shared, (amounts.file + amounts.shmem) as u64);
    assert_eq!(Some(statm.virt), status.virt_pages(page_size()));
    assert_eq!(statm.resident * page_size(), rollup.rss);
    assert_eq!(amounts.anon as u64 * page_size(), rollup.anonymous);

    let size = files.read_size(&mut maps_text).unwrap();
    assert_eq!((size.mappings, size.walked_pages), (lines.len() as u64, statm.resident));
}

#[test]
fn overview_splits_what_is_private() {
    let child = Guard::sleep();
    let overview = child.files().read_overview(MmId(3), false).unwrap();
    // It was executed and has not forked: all of RssAnon is its own.
    assert_eq!(overview.uss.unwrap(), overview.anon + overview.private_file.unwrap());
    assert!(overview.pss.unwrap() >= overview.uss.unwrap());
    assert!(overview.pss.unwrap() <= overview.anon + overview.file + overview.shmem);
    assert_eq!((overview.mm, overview.swap, overview.hugetlb), (MmId(3), 0, 0));
    assert!(overview.virt > overview.anon + overview.file);
}

/// Forks a child that maps a file of four pages privately and stops: the first page is written (an anonymous copy), the
/// second is mapped once more elsewhere, the other two are only read. It shares anonymous memory with us, as forks do.
fn forked_with_a_mixed_mapping() -> u32 {
    let page = page_size() as usize;
    // SAFETY: a plain system call with a terminated name.
    let file = unsafe { libc::memfd_create(c"mixed".as_ptr(), 0) };
    assert!(file >= 0);
    // SAFETY: the child calls nothing but mmap, raise and _exit, all of which are allowed after a fork of a process
    // with threads, and touches only what it has just mapped.
    let child = unsafe {
        assert_eq!(libc::ftruncate(file, 4 * page as libc::off_t), 0);
        let child = libc::fork();
        if child == 0 {
            let rw = libc::PROT_READ | libc::PROT_WRITE;
            let null = std::ptr::null_mut();
            let mixed = libc::mmap(null, 4 * page, rw, libc::MAP_PRIVATE, file, 0);
            let second = libc::mmap(null, page, rw, libc::MAP_SHARED, file, page as libc::off_t);
            if mixed == libc::MAP_FAILED || second == libc::MAP_FAILED {
                libc::_exit(1);
            }
            let (mixed, second) = (mixed.cast::<u8>(), second.cast::<u8>());
            mixed.write_volatile(1);
            for touched in [second, mixed.add(page), mixed.add(2 * page), mixed.add(3 * page)] {
                touched.read_volatile();
            }
            libc::raise(libc::SIGSTOP);
            libc::_exit(0);
        }
        libc::close(file);
        child
    };
    assert!(child > 0);
    let mut status = 0;
    // SAFETY: `status` is a valid place for an int.
    let waited = unsafe { libc::waitpid(child, &raw mut status, libc::WUNTRACED) };
    assert_eq!(waited, child);
    assert!(libc::WIFSTOPPED(status), "{status:#x}");
    child as u32
}

#[test]
fn overview_of_a_forked_process_asks_smaps_and_pagemap() {
    let child = forked_with_a_mixed_mapping();
    let files = ProcessFiles::open(child).unwrap();
    let rollup = files.read_rollup().unwrap().unwrap();
    assert_eq!(rollup.private_file, None, "a fork shares anonymous pages: {rollup:?}");
    assert_eq!(files.read_overview(MmId(0), false).unwrap().private_file, None);

    let sure = || {
        let (mut text, mut sum, mut open) = (Vec::new(), 0, Vec::new());
        files.read_smaps(&mut text).unwrap();
        visit_smaps(&text, |header, mapping| match private_file(mapping) {
            Some(bytes) => sum += bytes,
            None => open.push((header.name(), mapping.clone())),
        });
        assert_eq!(open.len(), 1, "{open:?}");
        assert_eq!(open[0].0, b"/memfd:mixed (deleted)");
        assert_eq!((open[0].1.rss, open[0].1.anonymous), (4 * page_size(), page_size()));
        sum
    };
    // Other tests run in our process, and what they touch turns the child's private pages into shared ones.
    let agreed = (0..1000).any(|_| {
        let before = sure();
        let overview = files.read_overview(MmId(0), true).unwrap();
        let quiet = before == sure();
        if quiet {
            assert_eq!(overview.private_file, Some(before + 2 * page_size()));
        }
        quiet
    });
    // SAFETY: plain system calls on a child that has not been reaped.
    unsafe {
        libc::kill(child as i32, libc::SIGKILL);
        libc::waitpid(child as i32, std::ptr::null_mut(), 0);
    }
    assert!(agreed, "the pages that it shares with us never stood still");
}

#[test]
fn names_of_a_process() {
    let child = Guard::sleep();
    let files = child.files();
    assert_eq!(files.read_comm().unwrap(), b"sleep");
    assert_eq!(files.read_cmdline().unwrap(), b"sleep\x001000");
    assert!(files.read_exe().unwrap().starts_with(b"/"));
    assert_eq!(files.read_threads().unwrap(), [child.pid()]);
    assert_eq!(files.read_thread_comms().unwrap(), [(child.pid(), b"sleep".to_vec())]);
    assert!(files.start_time() > 0);
}

#[test]
fn a_long_command_line_is_cut_and_any_byte_survives() {
    let child = Guard::stopped("sh", &[b"-c", b"read line", b"name", &[b'\xff'; 6000]]);
    let cmdline = child.files().read_cmdline().unwrap();
    assert_eq!(cmdline.len(), 4096);
    assert!(cmdline.starts_with(b"sh\0-c\0read line\0name\0\xff"));
}

#[test]
fn our_own_threads_and_mappings() {
    let files = ProcessFiles::open(std::process::id()).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (ready, started) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("any ) name (".to_owned())
        .spawn(move || {
            ready.send(()).unwrap();
            let _ = stopped.recv();
        })
        .unwrap();
    started.recv().unwrap();
    let comms = files.read_thread_comms().unwrap();
    let (tid, _) = comms.iter().find(|(_, comm)| comm == b"any ) name (").expect("our thread is listed");
    assert!(matches!(ProcessFiles::open(*tid), Err(Error::IsThread { pid, .. }) if pid == std::process::id()));
    drop(stop);
    thread.join().unwrap();

    let (mut text, mut lines) = (Vec::new(), Vec::new());
    files.read_maps(&mut text).unwrap();
    assert_eq!(parse_maps(&text, &mut lines).malformed, 0);
    let code = our_own_threads_and_mappings as fn() as usize as u64;
    let line = lines.iter().find(|line| (line.start..line.end).contains(&code)).unwrap();
    assert_eq!(line.permissions, permission::READ | permission::EXECUTE);
    assert_eq!(line.name, files.read_exe().unwrap());
}

#[test]
fn what_cannot_be_opened_says_why() {
    assert!(matches!(ProcessFiles::open(0), Err(Error::NoSuchProcess(0))));
    assert!(matches!(ProcessFiles::open(u32::MAX), Err(Error::NoSuchProcess(u32::MAX))));
    // pid_max is at most 2^22.
    assert!(matches!(ProcessFiles::open(1 << 23), Err(Error::NoSuchProcess(_))));
    match ProcessFiles::open(2) {
        Err(Error::KernelThread { pid: 2, comm }) => assert_eq!(comm, "kthreadd"),
        // In a PID namespace of its own, 2 is somebody or nobody.
        other => eprintln!("skipped: process 2 is not kthreadd here ({other:?})"),
    }
}

#[test]
fn death_is_told_from_emptiness() {
    let mut child = Guard::sleep();
    let files = child.files();
    child.kill_unreaped();
    let mut buffer = Vec::new();
    assert!(files.exists());
    assert!(files.read_status().unwrap().is_zombie());
    assert_eq!(files.read_statm().unwrap(), Statm::default());
    files.read_maps(&mut buffer).unwrap();
    assert_eq!(parse_maps(&buffer, &mut Vec::new()), ParseReport::default());
    files.read_smaps(&mut buffer).unwrap();
    assert!(buffer.is_empty());
    assert_eq!(files.read_rollup().unwrap(), None);
    assert_eq!(files.read_exe().unwrap(), b"");
    assert_eq!(files.read_cmdline().unwrap(), b"");
    assert!(matches!(files.read_overview(MmId(0), true), Err(Error::Zombie(_))));
    assert!(matches!(ProcessFiles::open(child.pid()), Err(Error::Zombie(_))));

    child.0.wait().unwrap();
    assert!(!files.exists());
    assert!(matches!(files.read_statm(), Err(Error::Gone(_))));
    assert!(matches!(files.read_status(), Err(Error::Gone(_))));
    assert!(matches!(files.read_maps(&mut buffer), Err(Error::Gone(_))));
    assert!(matches!(files.read_smaps(&mut buffer), Err(Error::Gone(_))));
    assert!(matches!(files.read_rollup(), Err(Error::Gone(_))));
    assert!(matches!(files.read_comm(), Err(Error::Gone(_))));
    assert!(matches!(files.read_exe(), Err(Error::Gone(_))));
    assert!(matches!(files.read_threads(), Err(Error::Gone(_))));
    assert!(matches!(files.read_thread_comms(), Err(Error::Gone(_))));
    assert!(matches!(files.read_overview(MmId(0), true), Err(Error::Gone(_))));
}

#[test]
fn the_handle_follows_exec() {
    let mut child = Guard::shell("echo ready; read line; exec cat");
    let files = child.files();
    let before = files.read_exe().unwrap();
    // The shell reads the first line, and the program that replaces it copies the second.
    child.0.stdin.as_mut().unwrap().write_all(b"go\nreplaced\n").unwrap();
    let mut line = String::new();
    BufReader::new(child.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "replaced\n");

    let exe = files.read_exe().unwrap();
    assert_ne!(exe, before);
    let (mut text, mut lines) = (Vec::new(), Vec::new());
    files.read_maps(&mut text).unwrap();
    parse_maps(&text, &mut lines);
    assert!(lines.iter().any(|line| line.name == exe) && lines.iter().all(|line| line.name != before));
    assert!(files.read_statm().unwrap().resident > 0);
    assert_eq!(files.read_status().unwrap().name, b"cat");
}
