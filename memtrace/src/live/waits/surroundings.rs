//! What surrounds a process: its cgroups, of either version, and the machine.
//!
//! Where a group itself has no limit, its nearest ancestor that has one speaks for it. What cannot be read is `None`.

use super::search::read_comm;
use crate::event::{Cgroup, Pressures, Surroundings};
use crate::procfs::{
    CgroupMount, Directory, Error, ProcessFiles, monotonic_ns, page_size, parse_cgroup, parse_cgroup_mount,
    parse_cpu_max, parse_cpus, parse_keyed, parse_limit, parse_pressure, parse_running, parse_stat, parse_statm,
};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Other processes of the group that are told.
const OTHERS_MAX: usize = 16;
/// And looked at, to find the largest.
const MEMBERS_MAX: usize = 1024;
/// Groups below the limiting one that are looked at for members.
const GROUPS_MAX: usize = 256;
/// Looking for members ends after this time.
const MEMBERS_NS: u64 = 20_000_000;
/// No file that is read here is longer, but those of processes.
const FILE_MAX: u64 = 64 << 10;
/// As much of mountinfo is read.
const MOUNTS_MAX: u64 = 16 << 20;
const NS_PER_US: u64 = 1000;
/// Controllers of version 1 that are asked, and version 2.
const CONTROLLERS: [&str; 4] = ["memory", "cpu", "freezer", ""];

/// Reads what surrounds one process.
#[derive(Debug)]
pub struct Reader {
    pid: u32,
    process: Directory,
    /// By controller; version 2's has no name.
    mounts: Vec<(&'static str, CgroupMount)>,
}

/// Memory in use and its limit, how often that was hit, and the directory of the group that is limited.
type Memory = ((u64, Option<u64>), Option<u64>, PathBuf);

impl Reader {
    /// For a process that somebody has opened.
    ///
    /// # Errors
    /// It is gone.
    pub fn new(files: &ProcessFiles) -> Result<Self, Error> {
        let process = Directory::new(files.open_directory()?);
        let mounts = read(Path::new("/proc/self/mountinfo"), MOUNTS_MAX).unwrap_or_default();
        let mounted = |name| Some((name, parse_cgroup_mount(&mounts, name)?));
        Ok(Self::with(files.pid(), process, CONTROLLERS.into_iter().filter_map(mounted).collect()))
    }

    pub(super) const fn with(pid: u32, process: Directory, mounts: Vec<(&'static str, CgroupMount)>) -> Self {
        Self { pid, process, mounts }
    }

    /// Reads.
    #[must_use]
    pub fn read(&self) -> Surroundings {
        let file = |name: &str| self.read_of_process(name).unwrap_or_default();
        let of = |path: &str| read(Path::new(path), FILE_MAX).unwrap_or_default();
        let (cpus, allowed_cpus) =
            parse_cpus(&of("/sys/devices/system/cpu/online"), &file("status")).unwrap_or_default();
        let (io, vmstat) = (file("io"), of("/proc/vmstat"));
        let stat = parse_stat(&file("stat"));
        Surroundings {
            ts_ns: monotonic_ns(),
            pid: self.pid,
            cpus,
            allowed_cpus,
            // One of them is who reads this.
            running: parse_running(&of("/proc/loadavg")).unwrap_or(1).saturating_sub(1),
            faults: stat.map(|stat| (stat.minor_faults, stat.major_faults)).unwrap_or_default(),
            io: parse_keyed(&io, "read_bytes:").zip(parse_keyed(&io, "write_bytes:")),
            swapped: parse_keyed(&vmstat, "pswpin").zip(parse_keyed(&vmstat, "pswpout")),
            machine: pressures(|what| PathBuf::from(format!("/proc/pressure/{what}"))),
            cgroup: self.read_cgroup(),
        }
    }

    fn read_of_process(&self, name: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.process.read(name, FILE_MAX, &mut bytes).ok()?;
        Some(bytes)
    }

    fn read_cgroup(&self) -> Option<Cgroup> {
        let groups = self.read_of_process("cgroup")?;
        let (memory, version2) = (self.chain(&groups, "memory"), self.chain(&groups, ""));
        let found = match &memory {
            Some(memory) => memory_1(memory),
            None => version2.as_ref().and_then(memory_2),
        };
        let limiting = found.as_ref().map(|(.., directory)| directory.as_path());
        let own = memory.as_ref().or(version2.as_ref()).and_then(Chain::own);
        let path = match (limiting.or(own), parse_cgroup(&groups, "")) {
            (Some(directory), _) => bytes(directory),
            (None, Some(group)) => group.to_vec(),
            (None, None) => return None,
        };
        // Everybody is a member of the hierarchy's root: those are not meant.
        let (frozen, frozen_by) = self.frozen(&groups, version2.as_ref()).unzip();
        let cpu = self.chain(&groups, "cpu").and_then(|cpu| throttled_1(&cpu));
        let (throttled, quota_file) = cpu.or_else(|| throttled_2(version2.as_ref()?)).unzip();
        let closed = found.as_ref().filter(|((_, limit), _, directory)| limit.is_some() || !self.is_top(directory));
        let others = closed.map(|(.., directory)| self.read_others(directory));
        Some(Cgroup {
            path,
            memory: found.as_ref().map(|(memory, ..)| *memory),
            limit_hits: found.and_then(|(_, hits, _)| hits),
            throttled,
            quota_file: quota_file.unwrap_or_default(),
            frozen,
            frozen_by: frozen_by.unwrap_or_default(),
            others: others.unwrap_or_default(),
            // The hierarchy's root has no events; what it says of pressure is the machine's.
            pressure: match version2
                .as_ref()
                .filter(|chain| chain.read_own("cgroup.events").is_some())
                .and_then(Chain::own)
            {
                Some(own) => pressures(|what| own.join(format!("{what}.pressure"))),
                None => Pressures::default(),
            },
        })
    }

    /// The directories of the process's group and its ancestors in a controller's hierarchy; `None` where it has none.
    fn chain(&self, groups: &[u8], controller: &str) -> Option<Chain> {
        let (_, mount) = self.mounts.iter().find(|(name, _)| *name == controller)?;
        let group = parse_cgroup(groups, controller)?;
        let own = mount.directory(group)?;
        let directories = own.ancestors().take_while(|path| path.starts_with(&mount.point));
        Some(Chain { directories: directories.map(Path::to_path_buf).collect() })
    }

    fn is_top(&self, directory: &Path) -> bool {
        self.mounts.iter().any(|(_, mount)| mount.point == directory)
    }

    /// Whether it is frozen, and by which files. Of either version: the freezers do not know each other.
    fn frozen(&self, groups: &[u8], version2: Option<&Chain>) -> Option<(bool, Vec<Vec<u8>>)> {
        // An ancestor's freezing shows in the group's own state; whose it is, in what each was told itself.
        let old = self.chain(groups, "freezer").and_then(|chain| {
            let frozen = matches!(chain.read_own("freezer.state")?.trim_ascii(), b"FROZEN" | b"FREEZING");
            Some((frozen, chain.files_that_say_1("freezer.self_freezing", "freezer.state")))
        });
        let new = version2.and_then(|chain| {
            let frozen = parse_keyed(&chain.read_own("cgroup.events")?, "frozen")? != 0;
            Some((frozen, chain.files_that_say_1("cgroup.freeze", "cgroup.freeze")))
        });
        if old.is_none() && new.is_none() {
            return None;
        }
        let frozen: Vec<_> = [old, new].into_iter().flatten().filter(|(frozen, _)| *frozen).collect();
        Some((!frozen.is_empty(), frozen.into_iter().flat_map(|(_, files)| files).collect()))
    }

    /// The largest other processes of a group and of those below it.
    fn read_others(&self, group: &Path) -> Vec<(u32, Vec<u8>, u64)> {
        let deadline = monotonic_ns().saturating_add(MEMBERS_NS);
        let mut groups = vec![group.to_path_buf()];
        let (mut seen, mut members) = (0, Vec::new());
        while let Some(group) = groups.pop() {
            seen += 1;
            for word in read(&group.join("cgroup.procs"), 1 << 20).unwrap_or_default().split(|&byte| byte == b'\n') {
                let Some(pid) = std::str::from_utf8(word).ok().and_then(|word| word.parse::<u32>().ok()) else {
                    continue;
                };
                // 0: of another PID namespace.
                if pid == self.pid || pid == 0 {
                    continue;
                }
                if members.len() >= MEMBERS_MAX || monotonic_ns() > deadline {
                    break;
                }
                let statm =
                    read(Path::new(&format!("/proc/{pid}/statm")), 256).and_then(|bytes| parse_statm(&bytes).ok());
                members.extend(statm.map(|statm| (pid, statm.resident.saturating_mul(page_size()))));
            }
            let below = std::fs::read_dir(&group).into_iter().flatten().flatten();
            let below =
                below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path());
            groups.extend(below.take(GROUPS_MAX.saturating_sub(seen + groups.len())));
        }
        members.sort_unstable_by_key(|(pid, res)| (std::cmp::Reverse(*res), *pid));
        members.truncate(OTHERS_MAX);
        members.into_iter().filter_map(|(pid, res)| Some((pid, read_comm(pid)?, res))).collect()
    }
}

/// A group and its ancestors, to the top of what is mounted: that is the hierarchy's root, or a container's own group.
struct Chain {
    /// The group's own first.
    directories: Vec<PathBuf>,
}

impl Chain {
    fn own(&self) -> Option<&Path> {
        self.directories.first().map(PathBuf::as_path)
    }

    fn read_own(&self, name: &str) -> Option<Vec<u8>> {
        read(&self.own()?.join(name), FILE_MAX)
    }

    /// The file `named` of each group whose file `asked` says 1.
    fn files_that_say_1(&self, asked: &str, named: &str) -> Vec<Vec<u8>> {
        let says =
            |directory: &&PathBuf| read(&directory.join(asked), FILE_MAX).is_some_and(|is| is.trim_ascii() == b"1");
        self.directories.iter().filter(says).map(|directory| bytes(&directory.join(named))).collect()
    }
}

fn memory_1(chain: &Chain) -> Option<Memory> {
    let of = |directory: &PathBuf| {
        let number = |name: &str| read(&directory.join(name), FILE_MAX);
        let used = parse_limit(&number("memory.usage_in_bytes")?)??;
        let limit = parse_limit(&number("memory.limit_in_bytes")?)?;
        let hits = number("memory.failcnt").and_then(|bytes| parse_limit(&bytes)?);
        Some(((used, limit), hits, directory.clone()))
    };
    nearest(chain, of)
}

fn memory_2(chain: &Chain) -> Option<Memory> {
    let of = |directory: &PathBuf| {
        let number = |name: &str| read(&directory.join(name), FILE_MAX);
        let used = parse_limit(&number("memory.current")?)??;
        let events = number("memory.events").unwrap_or_default();
        let [max, high] = ["memory.max", "memory.high"].map(|name| number(name).and_then(|bytes| parse_limit(&bytes)?));
        // Beyond `high`, a process that asks for memory has to reclaim as much, as at a limit.
        let (limit, hits) = match (max, high) {
            (Some(max), Some(high)) if high < max => (Some(high), "high"),
            (None, Some(high)) => (Some(high), "high"),
            (max, _) => (max, "max"),
        };
        Some(((used, limit), parse_keyed(&events, hits), directory.clone()))
    };
    nearest(chain, of)
}

/// The nearest group that has a limit; if none has, the process's own.
fn nearest(chain: &Chain, of: impl Fn(&PathBuf) -> Option<Memory>) -> Option<Memory> {
    let mut own = None;
    for directory in &chain.directories {
        let Some(found) = of(directory) else { continue };
        if found.0.1.is_some() {
            return Some(found);
        }
        own.get_or_insert(found);
    }
    own
}

/// Time without the CPU that was due, and quota and period; of the nearest group with a quota, else of the own one.
type Throttled = (u64, Option<(u64, u64)>);

fn throttled_1(chain: &Chain) -> Option<(Throttled, Vec<u8>)> {
    nearest_quota(chain, "cpu.cfs_quota_us", |directory| {
        let number = |name: &str| read(&directory.join(name), FILE_MAX);
        let waited = parse_keyed(&number("cpu.stat")?, "throttled_time")?;
        let quota = number("cpu.cfs_quota_us").and_then(|bytes| parse_limit(&bytes)?);
        let period = number("cpu.cfs_period_us").and_then(|bytes| parse_limit(&bytes)?);
        Some((
            waited,
            quota
                .zip(period)
                .map(|(quota, period)| (quota.saturating_mul(NS_PER_US), period.saturating_mul(NS_PER_US))),
        ))
    })
}

fn throttled_2(chain: &Chain) -> Option<(Throttled, Vec<u8>)> {
    nearest_quota(chain, "cpu.max", |directory| {
        let waited = parse_keyed(&read(&directory.join("cpu.stat"), FILE_MAX)?, "throttled_usec")?;
        let quota = read(&directory.join("cpu.max"), FILE_MAX).and_then(|bytes| parse_cpu_max(&bytes)?);
        Some((waited.saturating_mul(NS_PER_US), quota))
    })
}

/// With the file of that name that it is in.
fn nearest_quota(
    chain: &Chain,
    file: &str,
    of: impl Fn(&PathBuf) -> Option<Throttled>,
) -> Option<(Throttled, Vec<u8>)> {
    let mut own = None;
    for directory in &chain.directories {
        let Some(found) = of(directory) else { continue };
        let has_quota = found.1.is_some();
        let found = (found, bytes(&directory.join(file)));
        if has_quota {
            return Some(found);
        }
        own.get_or_insert(found);
    }
    own
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

fn pressures(path: impl Fn(&str) -> PathBuf) -> Pressures {
    let of = |what| parse_pressure(&read(&path(what), FILE_MAX)?);
    Pressures { cpu: of("cpu"), memory: of("memory"), io: of("io") }
}

fn read(path: &Path, cap: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(cap).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
