//! The file behind a mapping of another process: found, identified, opened for reading.
//!
//! A path is only a hint: it may be deleted, be another file's by now, or belong to another mount namespace, and
//! somebody hostile may have put a pipe or a device there. So a candidate is opened as a name first (`O_PATH`, which
//! runs no driver and waits for nobody), and opened for reading only when it is a regular file, and the mapping's.
//!
//! What may hang is a dead server of a network file system, which nothing protects from: see the caller.

use super::page_cache::Window;
use super::{page_size, visit_maps};
use std::ffi::CString;
use std::fs::{File, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::os::unix::fs::MetadataExt;

/// A mapping of the file, as maps prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its addresses.
    pub range: Range<u64>,
    /// Device, `major << 32 | minor`.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Path. Any bytes.
    pub path: Vec<u8>,
}

/// The file, opened.
#[derive(Debug)]
pub struct OpenedFile {
    /// For reading, or why it cannot be: we may not, or its kind cannot be read.
    pub file: io::Result<File>,
    /// Its size, bytes.
    pub size: u64,
    /// What sort of file system it is on; `None` where that is not told.
    pub system: Option<FileSystem>,
}

/// What the file system means for the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// Shared memory: tmpfs, memfd, ramfs; memfd_secret, whose files cannot even be read. The page cache is the file.
    Memory,
    /// Huge pages of hugetlbfs: neither in RES nor to be asked about.
    Huge,
    /// It may pass its files' mappings on to a file of another file system, where the pages are: overlayfs, FUSE.
    Stacked,
    /// Everything else.
    Disk,
}

/// Why there is no [`OpenedFile`].
#[derive(Debug)]
pub enum NotOpened {
    /// A device or something else that is not a regular file.
    NotAFile,
    /// A right is missing; with it the mapping would have led to the file.
    Denied,
    /// Nothing that could be opened is the mapping's file.
    Lost,
}

/// Opens the file behind a mapping. `process` is the process's directory in /proc.
///
/// The ways, each tried until one leads to the same device and inode: `map_files`, which needs `CAP_SYS_ADMIN` or
/// `CAP_CHECKPOINT_RESTORE` and leads to deleted and foreign files too; the path as the process sees it; the path as we do.
/// Where a file system gives maps another device than `stat` (btrfs, overlayfs on some kernels), the candidate is mapped
/// here and maps read again: the same line then is the same file. (On btrfs, short of a file with the same inode number
/// in another subvolume at the same path.)
///
/// # Errors
/// See [`NotOpened`].
pub fn open_mapped(process: &File, place: &Place) -> Result<OpenedFile, NotOpened> {
    let direct = format!("map_files/{:x}-{:x}", place.range.start, place.range.end).into_bytes();
    let mut denied = false;
    let mut ways = vec![(direct, 0)];
    if place.path.first() == Some(&b'/') {
        ways.push(([b"root", place.path.as_slice()].concat(), libc::O_NOFOLLOW));
        ways.push((place.path.clone(), libc::O_NOFOLLOW));
    }
    for (path, flags) in ways {
        match open_at(process, path, libc::O_PATH | flags) {
            Ok(name) => match identify(&name, place) {
                Ok(Some(opened)) => return Ok(opened),
                Ok(None) => {}
                Err(not_opened) => return Err(not_opened),
            },
            Err(error) => denied |= matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)),
        }
    }
    Err(if denied { NotOpened::Denied } else { NotOpened::Lost })
}

/// `None`: it is another file.
fn identify(name: &File, place: &Place) -> Result<Option<OpenedFile>, NotOpened> {
    let Ok(meta) = name.metadata() else {
        return Ok(None);
    };
    let same = device_of(&meta) == place.device && meta.ino() == place.inode;
    if !meta.is_file() {
        return if same { Err(NotOpened::NotAFile) } else { Ok(None) };
    }
    let system = system_of(name);
    // To open a file has effects of its own, so only where that may still tell that it is the one.
    if !same && !system.is_some_and(numbers_twice) {
        return Ok(None);
    }
    let file = open_name(name);
    if !same && !file.as_ref().is_ok_and(|file| maps_as(file, place)) {
        return Ok(None);
    }
    Ok(Some(OpenedFile { size: meta.len(), system: system.map(FileSystem::of), file }))
}

fn device_of(meta: &Metadata) -> u64 {
    u64::from(libc::major(meta.dev())) << 32 | u64::from(libc::minor(meta.dev()))
}

/// A mapping of this file has the device and inode of that one.
fn maps_as(file: &File, place: &Place) -> bool {
    let Ok(window) = Window::map(file.as_fd(), 0, page_size()) else {
        return false;
    };
    let Ok(maps) = std::fs::read("/proc/self/maps") else {
        return false;
    };
    let mut same = false;
    visit_maps(&maps, |line| {
        same |= (line.start..line.end).contains(&window.start())
            && line.device == place.device
            && line.inode == place.inode;
    });
    same
}

/// Opens for reading what was opened as a name. The time of its last access stays as it is, where we may ask for that.
fn open_name(name: &File) -> io::Result<File> {
    let path = || format!("/proc/self/fd/{}", name.as_raw_fd()).into_bytes();
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    open_at(name, path(), flags | libc::O_NOATIME).or_else(|_| open_at(name, path(), flags))
}

fn open_at(directory: &File, path: Vec<u8>, flags: i32) -> io::Result<File> {
    let path = CString::new(path).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: a NUL-terminated path that lives across the call.
    let fd = unsafe { libc::openat(directory.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that is nobody else's.
    Ok(unsafe { File::from_raw_fd(fd) })
}

const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;

impl FileSystem {
    /// By the number that statfs(2) has for it.
    const fn of(magic: i64) -> Self {
        const RAMFS_MAGIC: i64 = 0x8584_58f6;
        const SECRETMEM_MAGIC: i64 = 0x5345_434d;
        match magic {
            libc::TMPFS_MAGIC | RAMFS_MAGIC | SECRETMEM_MAGIC => Self::Memory,
            libc::HUGETLBFS_MAGIC => Self::Huge,
            libc::OVERLAYFS_SUPER_MAGIC | FUSE_SUPER_MAGIC => Self::Stacked,
            _ => Self::Disk,
        }
    }
}

/// What stat says of its files is not what maps says of their mappings: another device for each subvolume, or the numbers
/// of a file below.
fn numbers_twice(magic: i64) -> bool {
    matches!(magic, libc::BTRFS_SUPER_MAGIC | libc::OVERLAYFS_SUPER_MAGIC | FUSE_SUPER_MAGIC)
}

fn system_of(file: &File) -> Option<i64> {
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the kernel fills the struct, for which zeros are valid as well.
    let (outcome, stat) = unsafe { (libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()), stat.assume_init()) };
    (outcome == 0).then_some(stat.f_type)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn own_directory() -> File {
        File::open("/proc/self").unwrap()
    }

    /// A mapping of the file, and its line in maps.
    fn place_of(file: &File) -> (Window, Place) {
        let window = Window::map(file.as_fd(), 0, page_size()).unwrap();
        let mut place = None;
        visit_maps(&std::fs::read("/proc/self/maps").unwrap(), |line| {
            if line.start == window.start() {
                place = Some(Place {
                    range: line.start..line.end,
                    device: line.device,
                    inode: line.inode,
                    path: line.name(),
                });
            }
        });
        (window, place.unwrap())
    }

    fn file_of(size: usize) -> (tempfile::TempDir, std::path::PathBuf, File) {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("a file\nof mine");
        std::fs::write(&path, vec![1; size]).unwrap();
        let file = File::open(&path).unwrap();
        (dir, path, file)
    }

    #[test]
    fn a_path_leads_to_the_file() {
        let (_dir, path, file) = file_of(5000);
        let (_window, mut place) = place_of(&file);
        assert_eq!(place.path, path.as_os_str().as_bytes());
        // No such mapping: only the path is left.
        place.range = 0..4096;
        let opened = open_mapped(&own_directory(), &place).unwrap();
        assert_eq!(opened.size, 5000);
        assert_eq!(opened.file.unwrap().metadata().unwrap().ino(), place.inode);
    }

    #[test]
    fn another_file_at_that_path_is_not_taken() {
        let (_dir, path, file) = file_of(5000);
        let (_window, mut place) = place_of(&file);
        place.range = 0..4096;
        std::fs::rename(&path, path.with_extension("old")).unwrap();
        std::fs::write(&path, b"another").unwrap();
        assert!(matches!(open_mapped(&own_directory(), &place), Err(NotOpened::Lost | NotOpened::Denied)));
        std::fs::remove_file(&path).unwrap();
        let name = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: a NUL-terminated path.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        assert!(matches!(open_mapped(&own_directory(), &place), Err(NotOpened::Lost | NotOpened::Denied)));
        // Nor through a link to the right one: the kernel prints no path with a link in its last part.
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(path.with_extension("old"), &path).unwrap();
        assert!(matches!(open_mapped(&own_directory(), &place), Err(NotOpened::Lost | NotOpened::Denied)));
    }

    #[test]
    fn a_device_is_no_file() {
        let null = File::open("/dev/null").unwrap().metadata().unwrap();
        let place = Place { range: 0..4096, device: device_of(&null), inode: null.ino(), path: b"/dev/null".to_vec() };
        assert!(matches!(open_mapped(&own_directory(), &place), Err(NotOpened::NotAFile)));
    }

    #[test]
    fn a_file_whose_stat_differs_is_known_by_its_mapping() {
        let (_dir, _, file) = file_of(10);
        let (_window, place) = place_of(&file);
        assert!(maps_as(&file, &place));
        assert!(!maps_as(&file, &Place { inode: place.inode + 1, ..place.clone() }));
        assert!(!maps_as(&file, &Place { device: place.device + 1, ..place }));
    }

    #[test]
    fn secret_memory_is_on_no_disk_and_cannot_be_read() {
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, 0) };
        let Ok(fd @ 0..) = i32::try_from(fd) else { return };
        // SAFETY: a new descriptor that is nobody else's.
        let secret = unsafe { File::from_raw_fd(fd) };
        secret.set_len(page_size()).unwrap();
        let name = open_at(&secret, format!("/proc/self/fd/{fd}").into_bytes(), libc::O_PATH).unwrap();
        let meta = name.metadata().unwrap();
        let place = Place { range: 0..page_size(), device: device_of(&meta), inode: meta.ino(), path: Vec::new() };
        let opened = identify(&name, &place).unwrap().unwrap();
        assert_eq!(opened.system, Some(FileSystem::Memory));
        assert_ne!(opened.file.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn any_path_is_survived() {
        for path in [&b""[..], b"/", b"//", b"/nul\0", b"not a path", b"/dev/ptmx", &[b'/'; 9000]] {
            let place = Place { range: 0..u64::MAX, device: 1, inode: 1, path: path.to_vec() };
            assert!(matches!(open_mapped(&own_directory(), &place), Err(NotOpened::Lost | NotOpened::Denied)));
        }
    }
}
