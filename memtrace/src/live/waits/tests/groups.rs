//! What surrounds a process: against the system's own files, and on trees of files that stand for cgroups.

use super::super::surroundings::Reader;
use super::*;
use crate::event::{Cgroup, Pressures};
use crate::procfs::CgroupMount;

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
        use std::os::unix::ffi::OsStrExt as _;
        // It is told by the directory, which all of its members are below.
        let directory = std::path::Path::new(std::ffi::OsStr::from_bytes(&cgroup.path));
        assert!(directory.join("cgroup.procs").exists(), "{}", directory.display());
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
        ("freezer/f/freezer.self_freezing", "1\n"),
    ]);
    let found = tree.cgroup(&["memory", "cpu", "freezer", ""]);
    assert!(found.path.ends_with(b"/memory/a"));
    assert_eq!((found.memory, found.limit_hits), (Some((1000, Some(4_096_000))), Some(17)));
    assert_eq!(found.throttled, Some((81_000, Some((50_000_000, 100_000_000)))));
    assert!(found.quota_file.ends_with(b"/cpu/c/cpu.cfs_quota_us"));
    assert_eq!(found.frozen, Some(true));
    assert!(found.frozen_by.len() == 1 && found.frozen_by[0].ends_with(b"/freezer/f/freezer.state"));
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
    assert!(found.path.ends_with(b"/unified/a"));
    assert_eq!(found.frozen, Some(false));
    assert_eq!((found.memory, found.limit_hits), (Some((2000, Some(8192))), Some(5)));
    assert_eq!(found.throttled, Some((81_000, None)));
    assert_eq!((found.pressure.memory, found.pressure.io), (Some((12_000, 3_000)), None));
    assert_eq!(found.others, []);
}

#[test]
fn each_limit_is_told_with_the_group_that_has_it() {
    let frozen = |own: &str, above: &str, frozen: &str| {
        let tree = Tree::new(&[
            ("process/cgroup", "0::/x.slice/y.slice/z.service\n"),
            ("unified/x.slice/memory.current", "2000\n"),
            ("unified/x.slice/memory.max", "8192\n"),
            ("unified/x.slice/cpu.stat", "throttled_usec 5\n"),
            ("unified/x.slice/cpu.max", "max 100000\n"),
            ("unified/x.slice/cgroup.freeze", above),
            ("unified/x.slice/y.slice/cpu.stat", "throttled_usec 81\n"),
            ("unified/x.slice/y.slice/cpu.max", "20000 100000\n"),
            ("unified/x.slice/y.slice/cgroup.freeze", "0\n"),
            ("unified/x.slice/y.slice/z.service/cgroup.freeze", own),
            ("unified/x.slice/y.slice/z.service/cgroup.events", frozen),
        ]);
        let root = tree.0.path().join("unified");
        let found = tree.cgroup(&[""]);
        let below = |path: &[u8]| {
            let path = std::str::from_utf8(path).unwrap();
            path.strip_prefix(&format!("{}/", root.display())).unwrap().to_owned()
        };
        assert_eq!(below(&found.path), "x.slice");
        assert_eq!(found.throttled, Some((81_000, Some((20_000_000, 100_000_000)))));
        assert_eq!(below(&found.quota_file), "x.slice/y.slice/cpu.max");
        (found.frozen, found.frozen_by.iter().map(|file| below(file)).collect::<Vec<_>>())
    };
    let (own, above) = ("x.slice/y.slice/z.service/cgroup.freeze".to_owned(), "x.slice/cgroup.freeze".to_owned());
    assert_eq!(frozen("1\n", "0\n", "populated 1\nfrozen 1\n"), (Some(true), vec![own.clone()]));
    // Inherited: to thaw the group itself would change nothing.
    assert_eq!(frozen("0\n", "1\n", "populated 1\nfrozen 1\n"), (Some(true), vec![above.clone()]));
    assert_eq!(frozen("1\n", "1\n", "populated 1\nfrozen 1\n"), (Some(true), vec![own, above]));
    assert_eq!(frozen("0\n", "0\n", "populated 1\nfrozen 0\n"), (Some(false), vec![]));
}

#[test]
fn what_the_root_says_is_said_of_the_machine() {
    let tree = Tree::new(&[
        ("process/cgroup", "4:memory:/\n0::/\n"),
        ("unified/memory.pressure", "some total=12\nfull total=3\n"),
        ("memory/memory.usage_in_bytes", "999\n"),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory/cgroup.procs", &format!("{}\n", std::process::id())),
    ]);
    let found = tree.cgroup(&["memory", ""]);
    assert_eq!((found.memory, found.others), (Some((999, None)), Vec::new()));
    assert_eq!(found.pressure, Pressures::default());
}
