//! `/proc/PID/mountinfo`: which file system a device is.

use super::scan::{Lines, after, decimal};

/// Calls `visit` for each mount with its device (`major << 32 | minor`) and the type of its file system.
/// Lines that the kernel would not print are passed over.
pub fn visit_mounts<'a>(bytes: &'a [u8], mut visit: impl FnMut(u64, &'a [u8])) {
    for (device, file_system) in Lines::new(bytes).filter_map(parse) {
        visit(device, file_system);
    }
}

/// `25 30 0:23 / /dev/shm rw,nosuid shared:5 - tmpfs tmpfs rw`: a blank in a path is printed as `\040`.
fn parse(line: &[u8]) -> Option<(u64, &[u8])> {
    let (_, rest) = decimal(line)?;
    let (_, rest) = decimal(after(rest, b' ')?)?;
    let (major, rest) = decimal(after(rest, b' ')?)?;
    let (minor, rest) = decimal(after(rest, b':')?)?;
    let (major, minor) = (u32::try_from(major).ok()?, u32::try_from(minor).ok()?);
    let kind = &rest[memchr::memmem::find(rest, b" - ")? + 3..];
    Some((u64::from(major) << 32 | u64::from(minor), &kind[..memchr::memchr(b' ', kind)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_a_container_with_hostile_paths() {
        let text = b"25 30 0:23 / /dev/shm rw,nosuid shared:5 - tmpfs tmpfs rw\n\
            36 35 98:4294967295 /a\\040-\\040b /mnt\xff rw master:1 propagate_from:2 - ext4 /dev/root rw,errors=continue\n\
            zzz\n1 2 3\n1 2 0:4294967296 / / rw - tmpfs x rw\n40 30 0:50 / /huge rw - hugetlbfs hugetlbfs rw\n41 30 0:51 / /cut - tmp";
        let mut mounts = Vec::new();
        visit_mounts(text, |device, file_system| mounts.push((device, file_system)));
        assert_eq!(mounts, [(23, &b"tmpfs"[..]), (98 << 32 | 0xffff_ffff, b"ext4"), (50, b"hugetlbfs")]);
    }
}
