//! What surrounds a process, as text: cgroups of both versions, pressure, load, CPUs, I/O.
//!
//! Nothing here touches the system; who knows where the files are reads them.

use super::scan::{Lines, after, decimal, skip_blanks, whole_decimal};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// CPUs that a list may name at most; a larger number is none.
const CPUS_MAX: u64 = 1 << 20;

/// The path of a process's cgroup in the hierarchy of a controller (`memory`, `cpu`, `freezer`; empty for version 2), from
/// `/proc/PID/cgroup`.
#[must_use]
pub fn parse_cgroup<'a>(bytes: &'a [u8], controller: &str) -> Option<&'a [u8]> {
    Lines::new(bytes).find_map(|line| {
        let (_, rest) = decimal(line)?;
        let rest = after(rest, b':')?;
        let (names, path) = rest.split_at(memchr::memchr(b':', rest)?);
        names.split(|&byte| byte == b',').any(|name| name == controller.as_bytes()).then(|| &path[1..])
    })
}

/// A hierarchy of cgroups, mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupMount {
    /// The group that the mount point shows.
    pub root: Vec<u8>,
    /// Where it is mounted.
    pub point: PathBuf,
}

impl CgroupMount {
    /// The directory of a group; `None` when this mount does not show it.
    #[must_use]
    pub fn directory(&self, group: &[u8]) -> Option<PathBuf> {
        let within = match self.root.as_slice() {
            b"/" => group,
            root => group.strip_prefix(root)?,
        };
        // "/a" shows "/a/b" and not "/ab"; and ".." leads out of what is mounted.
        let steps = match within {
            [] => within,
            within => after(within, b'/')?,
        };
        if steps.split(|&byte| byte == b'/').any(|step| step == b"..") {
            return None;
        }
        let mut path = self.point.clone();
        // One by one: pushing what begins with a slash would begin anew.
        for step in steps.split(|&byte| byte == b'/').filter(|step| !step.is_empty()) {
            path.push(std::ffi::OsString::from_vec(step.to_vec()));
        }
        Some(path)
    }
}

/// The mount of a controller's hierarchy of version 1, or (with an empty name) of version 2, from mountinfo.
#[must_use]
pub fn parse_cgroup_mount(mountinfo: &[u8], controller: &str) -> Option<CgroupMount> {
    Lines::new(mountinfo).find_map(|line| {
        let end = memchr::memmem::find(line, b" - ")?;
        let mut fields = line[..end].split(|&byte| byte == b' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        let mut kind = line[end + 3..].split(|&byte| byte == b' ');
        let (file_system, options) = (kind.next()?, kind.nth(1)?);
        let wanted = match controller {
            "" => file_system == b"cgroup2",
            name => {
                file_system == b"cgroup" && options.split(|&byte| byte == b',').any(|option| option == name.as_bytes())
            }
        };
        wanted.then(|| CgroupMount {
            root: unescape(root),
            point: PathBuf::from(std::ffi::OsString::from_vec(unescape(point))),
        })
    })
}

/// In mountinfo, blanks, newlines and backslashes are printed in octal.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                Some(((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), tail))
            }
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((byte, after));
        out.push(byte);
        rest = after;
    }
    out
}

/// The number behind a word: `cpu.stat`, `memory.events`, vmstat; with a colon, `/proc/PID/io`.
#[must_use]
pub fn parse_keyed(bytes: &[u8], key: &str) -> Option<u64> {
    Lines::new(bytes).find_map(|line| {
        let rest = line.strip_prefix(key.as_bytes())?;
        matches!(rest.first(), Some(b' ' | b'\t')).then(|| whole_decimal(rest))?
    })
}

/// A limit: the outer `None` when it is no number; the inner one for none (`max`, −1, or as much as version 1 can say).
#[must_use]
pub fn parse_limit(bytes: &[u8]) -> Option<Option<u64>> {
    /// `PAGE_COUNTER_MAX` of 64-bit kernels, bytes, whatever size their pages have.
    const NO_LIMIT: u64 = i64::MAX as u64 & !0xffff;
    match bytes.trim_ascii() {
        b"max" | b"-1" => Some(None),
        number => Some(Some(whole_decimal(number)?).filter(|limit| *limit < NO_LIMIT)),
    }
}

/// Version 2's `cpu.max`: CPU time per period, both in nanoseconds. The inner `None` for no limit.
#[must_use]
pub fn parse_cpu_max(bytes: &[u8]) -> Option<Option<(u64, u64)>> {
    let (quota, period) = bytes.trim_ascii().split_at_checked(memchr::memchr(b' ', bytes)?)?;
    let period = whole_decimal(&period[1..])?.checked_mul(1000)?;
    match quota {
        b"max" => Some(None),
        quota => Some(Some((whole_decimal(quota)?.checked_mul(1000)?, period))),
    }
}

/// Stall times (`some`, `full`) in nanoseconds. A kernel may leave out `full` for the CPU: zero then.
#[must_use]
pub fn parse_pressure(bytes: &[u8]) -> Option<(u64, u64)> {
    let total = |kind: &[u8]| {
        Lines::new(bytes).find_map(|line| {
            let rest = after(line.strip_prefix(kind)?, b' ')?;
            let total = &rest[memchr::memmem::find(rest, b"total=")? + 6..];
            whole_decimal(total)?.checked_mul(1000)
        })
    };
    Some((total(b"some")?, total(b"full").unwrap_or(0)))
}

/// Processes and threads that run or are ready to, from loadavg; whoever reads it is among them.
#[must_use]
pub fn parse_running(loadavg: &[u8]) -> Option<u32> {
    let field = loadavg.split(|&byte| byte == b' ').nth(3)?;
    match decimal(field)? {
        (running, [b'/', ..]) => u32::try_from(running).ok(),
        _ => None,
    }
}

/// A list of CPUs (`0-3,8`), as ranges.
fn parse_cpu_list(bytes: &[u8]) -> Option<Vec<(u64, u64)>> {
    let range = |text: &[u8]| {
        let (first, rest) = decimal(text)?;
        let last = match rest {
            [] => first,
            rest => whole_decimal(after(rest, b'-')?)?,
        };
        (first <= last && last < CPUS_MAX).then_some((first, last))
    };
    bytes.trim_ascii().split(|&byte| byte == b',').map(range).collect()
}

/// How many CPUs are online, and how many of these a process may use, from sysfs's `online` and its status.
#[must_use]
pub fn parse_cpus(online: &[u8], status: &[u8]) -> Option<(u32, u32)> {
    let online = parse_cpu_list(online)?;
    let allowed = Lines::new(status).find_map(|line| line.strip_prefix(b"Cpus_allowed_list:"))?;
    let allowed = parse_cpu_list(skip_blanks(allowed))?;
    let both = online.iter().flat_map(|a| {
        allowed.iter().filter_map(move |b| {
            let (first, last) = (a.0.max(b.0), a.1.min(b.1));
            (first <= last).then_some((first, last))
        })
    });
    let count = |sum: u64| u32::try_from(sum).unwrap_or(u32::MAX);
    Some((count(online.iter().map(|(a, b)| b - a + 1).sum()), count(both.map(|(a, b)| b - a + 1).sum())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    const MOUNTS: &[u8] = b"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 /docker/a\\040b /sys/fs/cgroup/me\\134mory rw shared:9 - cgroup cgroup rw,memory\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn groups_and_their_directories() {
        let text = b"9:name=systemd:/\n4:memory:/docker/a b/c\n2:cpu,cpuacct:/x:y\n0::/user.slice\n";
        assert_eq!(parse_cgroup(text, "memory"), Some(&b"/docker/a b/c"[..]));
        assert_eq!(parse_cgroup(text, "cpu"), Some(&b"/x:y"[..]));
        assert_eq!(parse_cgroup(text, ""), Some(&b"/user.slice"[..]));
        assert_eq!(parse_cgroup(text, "freezer"), None);

        let memory = parse_cgroup_mount(MOUNTS, "memory").unwrap();
        assert_eq!(memory.directory(b"/docker/a b/c").as_deref(), Some(Path::new("/sys/fs/cgroup/me\\mory/c")));
        assert_eq!(memory.directory(b"/docker/a b").as_deref(), Some(Path::new("/sys/fs/cgroup/me\\mory")));
        for hidden in [&b"/docker/a bc"[..], b"/docker", b"/", b"/docker/a b/../..", b"/../x"] {
            assert_eq!(memory.directory(hidden), None, "{hidden:?}");
        }
        let unified = parse_cgroup_mount(MOUNTS, "").unwrap();
        assert_eq!(unified.directory(b"/").as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(unified.directory(b"/a/..b").as_deref(), Some(Path::new("/sys/fs/cgroup/unified/a/..b")));
        assert_eq!(unified.directory(b"/.."), None);
        assert_eq!(parse_cgroup_mount(MOUNTS, "cpuacct").unwrap().point, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(parse_cgroup_mount(MOUNTS, "freezer"), None);
    }

    #[test]
    fn numbers_of_the_controllers() {
        let stat = b"nr_periods 10\nnr_throttled 4\nthrottled_time 81000\n";
        assert_eq!(parse_keyed(stat, "throttled_time"), Some(81_000));
        assert_eq!(parse_keyed(stat, "throttled"), None);
        assert_eq!(parse_keyed(b"rchar: 1\nread_bytes: 4096\n", "read_bytes:"), Some(4096));
        assert_eq!(parse_limit(b"104857600\n"), Some(Some(104_857_600)));
        assert_eq!(parse_limit(b"9223372036854771712\n"), Some(None));
        assert_eq!((parse_limit(b"max\n"), parse_limit(b"-1\n"), parse_limit(b"x\n")), (Some(None), Some(None), None));
        assert_eq!(parse_cpu_max(b"50000 100000\n"), Some(Some((50_000_000, 100_000_000))));
        assert_eq!((parse_cpu_max(b"max 100000\n"), parse_cpu_max(b"max\n")), (Some(None), None));
        let pressure = b"some avg10=2.44 avg60=4.26 avg300=6.15 total=12914705705\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        assert_eq!(parse_pressure(pressure), Some((12_914_705_705_000, 3000)));
        assert_eq!(parse_pressure(b"some avg10=2.44 total=7\n"), Some((7000, 0)));
        assert_eq!(parse_running(b"0.20 0.18 0.12 3/80 11206\n"), Some(3));
        assert_eq!(parse_running(b"0.20 0.18 0.12 3 80\n"), None);
    }

    #[test]
    fn cpus_that_are_online_and_allowed() {
        assert_eq!(parse_cpus(b"0-3,8\n", b"Pid:\t1\nCpus_allowed_list:\t2-127\n"), Some((5, 3)));
        assert_eq!(parse_cpus(b"0\n", b"Cpus_allowed_list:\t0-1\n"), Some((1, 1)));
        for hostile in ["", "3-1", "0-99999999999", "a", "0,"] {
            assert_eq!(parse_cpus(hostile.as_bytes(), b"Cpus_allowed_list:\t0\n"), None, "{hostile}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_cgroup(&bytes, "memory");
            let _ = parse_cgroup_mount(&bytes, "").and_then(|mount| mount.directory(&bytes));
            let _ = parse_keyed(&bytes, "x");
            let _ = (parse_limit(&bytes), parse_cpu_max(&bytes), parse_pressure(&bytes), parse_running(&bytes));
            let _ = parse_cpus(&bytes, &bytes);
        }

        #[test]
        fn a_directory_never_leaves_its_mount(root in "/[a./]{0,6}", group in "/[a./]{0,12}") {
            let mount = CgroupMount { root: root.into(), point: "/mount".into() };
            if let Some(path) = mount.directory(group.as_bytes()) {
                prop_assert!(path.starts_with("/mount"));
                prop_assert!(path.components().all(|part| part != std::path::Component::ParentDir));
            }
        }
    }
}
