//! Which processes are meant.

use crate::cli::Subject;
use crate::hints::Failure;
use anyhow::{Context as _, Result};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A name in `comm` is cut to this.
const COMM_BYTES: usize = 15;
/// How deep cgroups may be nested. The kernel has no lower limit by default.
const CGROUP_DEPTH: usize = 64;
/// Where cgroups are mounted: version 2; version 1, by the hierarchy that accounts for memory; both at once.
const CGROUP_ROOTS: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"];

/// Processes to read, in the order they are shown.
pub(super) struct Selected {
    pub(super) pids: Vec<u32>,
    /// They were named one by one: one that cannot be read is an error, not one less.
    pub(super) one_by_one: bool,
}

/// Finds who is meant. Who was found by a name or cgroup may be a kernel thread or a zombie, which shows when it is opened.
///
/// # Errors
/// [`Failure::NoneNamed`], [`Failure::NoSuchCgroup`], [`Failure::NotACgroup`], [`Failure::NoneInCgroup`]; /proc cannot be read.
pub(super) fn select(subject: &Subject) -> Result<Selected> {
    let pids = match subject {
        Subject::Pids(pids) => return Ok(Selected { pids: pids.clone(), one_by_one: true }),
        Subject::Name(name) => named(name.as_bytes())?,
        Subject::Cgroup(path) => of_cgroup(path)?,
        Subject::Files(..) => anyhow::bail!("two files are compared, not read from /proc"),
    };
    let own = std::process::id();
    let pids: Vec<u32> = pids.into_iter().filter(|&pid| pid != own).collect();
    if pids.is_empty() { Err(none(subject)) } else { Ok(Selected { pids, one_by_one: false }) }
}

/// Nobody is left of those who were meant.
pub(super) fn none(subject: &Subject) -> anyhow::Error {
    match subject {
        Subject::Name(name) => Failure::NoneNamed { name: name.clone() }.into(),
        Subject::Cgroup(path) => Failure::NoneInCgroup { path: path.display().to_string() }.into(),
        Subject::Pids(pids) => Failure::NoSuchPid { pid: pids.first().copied().unwrap_or(0) }.into(),
        Subject::Files(..) => anyhow::anyhow!("two files are compared, not read from /proc"),
    }
}

fn named(name: &[u8]) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").context("failed to read /proc")? {
        // Whoever ends while the list is read is not in it.
        let Some(pid) = entry.ok().and_then(|entry| entry.file_name().to_str()?.parse().ok()) else { continue };
        let Ok(comm) = fs::read(format!("/proc/{pid}/comm")) else { continue };
        let exe = program(pid);
        let exe = exe.as_ref().map(|exe| exe.as_os_str().as_bytes());
        if is_named(name, comm.strip_suffix(b"\n").unwrap_or(&comm), exe) {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    Ok(pids)
}

/// `None` where it is hidden from us, and for what has none.
fn program(pid: u32) -> Option<PathBuf> {
    match fs::read_link(format!("/proc/{pid}/exe")) {
        // A main thread that has exited alone has none any more, the other threads still do.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
            tasks.flatten().find_map(|task| fs::read_link(task.path().join("exe")).ok())
        }
        link => link.ok(),
    }
}

fn is_named(name: &[u8], comm: &[u8], exe: Option<&[u8]>) -> bool {
    if comm == name {
        return true;
    }
    match exe {
        Some(exe) => {
            let exe = exe.strip_suffix(b" (deleted)").unwrap_or(exe);
            exe == name || exe.rsplit(|&byte| byte == b'/').next() == Some(name)
        }
        // The name is longer than comm can be, and the rest of it is hidden from us.
        None => name.get(..COMM_BYTES) == Some(comm),
    }
}

fn of_cgroup(path: &Path) -> Result<Vec<u32>> {
    let found = cgroup_directory(path, &CGROUP_ROOTS.map(Path::new));
    let directory = found.ok_or_else(|| no_cgroup(path, Path::new(CGROUP_ROOTS[0])))?;
    let mut pids = Vec::new();
    collect(&directory, CGROUP_DEPTH, &mut pids);
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// A path as it is, or below one of `roots`, with or without the leading `/` that /proc/PID/cgroup prints.
fn cgroup_directory(path: &Path, roots: &[&Path]) -> Option<PathBuf> {
    let below = path.strip_prefix("/").unwrap_or(path);
    let as_it_is = path.is_absolute().then(|| path.to_owned());
    let candidates = as_it_is.into_iter().chain(roots.iter().map(|root| root.join(below)));
    candidates.into_iter().find(|directory| directory.join("cgroup.procs").is_file())
}

/// What this path is instead of a cgroup, with the cgroups that are mounted below `mounts`.
fn no_cgroup(path: &Path, mounts: &Path) -> Failure {
    let shown = path.display().to_string();
    if !path.is_absolute() || !path.is_dir() {
        return Failure::NoSuchCgroup { path: shown };
    }
    let is_cgroup = |directory: &PathBuf| directory.join("cgroup.procs").is_file();
    // Version 2 has one tree, and `mounts` is its root; version 1 has several, one beside the other.
    let mut roots: Vec<PathBuf> = if is_cgroup(&mounts.to_owned()) {
        vec![mounts.to_owned()]
    } else {
        fs::read_dir(mounts).into_iter().flatten().flatten().map(|entry| entry.path()).filter(is_cgroup).collect()
    };
    // First the one that accounts for memory.
    roots.sort_by_key(|root| (!root.ends_with("memory"), root.clone()));
    Failure::NotACgroup { path: shown, roots: roots.iter().map(|root| root.display().to_string()).collect() }
}

/// Adds the processes of a cgroup and of all below it. What vanishes meanwhile has none.
fn collect(directory: &Path, depth: usize, pids: &mut Vec<u32>) {
    // Of a threaded cgroup the kernel does not say it here: its processes are those of the cgroup above.
    if let Ok(text) = fs::read_to_string(directory.join("cgroup.procs")) {
        // 0 is a process that our PID namespace does not show.
        pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|&pid| pid != 0));
    }
    let Some(depth) = depth.checked_sub(1) else { return };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), depth, pids);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_whole_of_comm_or_of_the_program() {
        let exe = |path: &'static str| Some(path.as_bytes());
        assert!(is_named(b"postgres", b"postgres", exe("/usr/lib/postgresql/15/bin/postgres")));
        assert!(is_named(b"postgres", b"checkpointer", exe("/usr/lib/postgresql/15/bin/postgres")));
        assert!(is_named(b"postgres", b"checkpointer", exe("/usr/lib/postgresql/15/bin/postgres (deleted)")));
        assert!(is_named(b"a b\n", b"a b\n", None));
        let path = b"/usr/lib/postgresql/15/bin/postgres";
        assert!(is_named(path, b"checkpointer", exe("/usr/lib/postgresql/15/bin/postgres")));
        assert!(is_named(path, b"checkpointer", exe("/usr/lib/postgresql/15/bin/postgres (deleted)")));
        assert!(!is_named(b"bin/postgres", b"checkpointer", exe("/usr/lib/postgresql/15/bin/postgres")));
        assert!(!is_named(b"postgres", b"postgres_export", exe("/usr/bin/postgres_exporter")));
        assert!(!is_named(b"post", b"postgres", exe("/bin/postgres")));
        assert!(!is_named(b"bin", b"x", exe("/bin/x")));
        assert!(is_named(b"postgres_exporter", b"postgres_export", None));
        assert!(!is_named(b"postgres_exporter", b"postgres_export", exe("/bin/postgres_export")));
        assert!(!is_named(b"postgres", b"", None));
    }

    #[test]
    fn a_cgroup_is_meant_with_all_below_it() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("system.slice/db.service");
        fs::create_dir_all(group.join("worker/deep")).unwrap();
        fs::write(group.join("cgroup.procs"), "12\n7\n0\n").unwrap();
        fs::write(group.join("worker/cgroup.procs"), "7\n99\n").unwrap();
        fs::write(group.join("worker/deep/cgroup.procs"), "100\nhostile\n-3\n").unwrap();
        fs::write(root.path().join("system.slice/cgroup.procs"), "1\n").unwrap();
        let roots = [Path::new("/does/not/exist"), root.path()];
        for path in ["system.slice/db.service", "/system.slice/db.service"] {
            assert_eq!(cgroup_directory(Path::new(path), &roots).as_ref(), Some(&group));
        }
        assert_eq!(cgroup_directory(&group, &[]).as_ref(), Some(&group));
        assert_eq!(cgroup_directory(Path::new("system.slice/other"), &roots), None);
        let mut pids = Vec::new();
        collect(&group, CGROUP_DEPTH, &mut pids);
        pids.sort_unstable();
        assert_eq!(pids, [7, 7, 12, 99, 100]);
        pids.clear();
        collect(&group, 0, &mut pids);
        assert_eq!(pids, [12, 7]);
    }

    #[test]
    fn a_directory_that_is_no_cgroup_is_told_from_one_that_is_not_there() {
        let mounts = tempfile::tempdir().unwrap();
        let of = |path: &Path, roots: &[&str]| Failure::NotACgroup {
            path: path.display().to_string(),
            roots: roots.iter().map(|root| mounts.path().join(root).display().to_string()).collect(),
        };
        for root in ["cpu", "memory", "no cgroup"] {
            fs::create_dir(mounts.path().join(root)).unwrap();
        }
        assert_eq!(no_cgroup(mounts.path(), mounts.path()), of(mounts.path(), &[]));
        for root in ["cpu", "memory"] {
            fs::write(mounts.path().join(root).join("cgroup.procs"), "").unwrap();
        }
        assert_eq!(no_cgroup(mounts.path(), mounts.path()), of(mounts.path(), &["memory", "cpu"]));
        assert_eq!(no_cgroup(Path::new("/"), mounts.path()), of(Path::new("/"), &["memory", "cpu"]));
        for absent in ["/no/such/directory", "no/such/directory"] {
            assert_eq!(no_cgroup(Path::new(absent), mounts.path()), Failure::NoSuchCgroup { path: absent.to_owned() });
        }
    }
}
