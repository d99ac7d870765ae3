//! Reads what lies in a process's directory of /proc by a handle that names that process for ever, so much and no more.

use super::scan::decimal;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

/// As long as a path can be.
const LINK_MAX: usize = 4096;

/// A directory, mostly `/proc/PID`.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl Directory {
    /// The one that is open there.
    #[must_use]
    pub fn new(directory: File) -> Self {
        Self(directory.into())
    }

    /// By path.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &str) -> io::Result<Self> {
        Ok(Self::new(File::open(path)?))
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// The system's.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        let name = CString::new(name)?;
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOCTTY;
        // SAFETY: a descriptor that is open and a string that ends; what comes back is nobody else's.
        unsafe {
            match libc::openat(self.0.as_raw_fd(), name.as_ptr(), flags) {
                fd if fd >= 0 => Ok(File::from_raw_fd(fd)),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }

    /// Reads a file into `buffer`, which is cleared first; `cap` bytes at most.
    ///
    /// # Errors
    /// The system's; `buffer` is empty then.
    pub fn read(&self, name: &str, cap: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.clear();
        let result = self.open_file(name).and_then(|file| file.take(cap).read_to_end(buffer));
        if result.is_err() {
            buffer.clear();
        }
        result.map(drop)
    }

    /// Where a link leads: any bytes.
    ///
    /// # Errors
    /// The system's.
    pub fn read_link(&self, name: &str) -> io::Result<Vec<u8>> {
        let name = CString::new(name)?;
        let mut path = vec![0; LINK_MAX];
        // SAFETY: the descriptor is open, the string ends, and the place has as many bytes as are said.
        let length =
            unsafe { libc::readlinkat(self.0.as_raw_fd(), name.as_ptr(), path.as_mut_ptr().cast(), path.len()) };
        path.truncate(usize::try_from(length).map_err(|_| io::Error::last_os_error())?);
        Ok(path)
    }

    /// Kind (`S_IFMT`) and inode of what lies behind a link, as far as the kernel knows them itself: no server is asked,
    /// which might not answer.
    #[must_use]
    pub fn read_kind(&self, name: &str) -> Option<(u32, u64)> {
        let stat = self.stat(name, libc::STATX_TYPE | libc::STATX_INO)?;
        Some((u32::from(stat.stx_mode) & libc::S_IFMT, stat.stx_ino))
    }

    /// Device and inode of what lies behind a link, as [`Self::read_kind`] does.
    #[must_use]
    pub fn read_identity(&self, name: &str) -> Option<(u64, u64)> {
        let stat = self.stat(name, libc::STATX_INO)?;
        Some((libc::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino))
    }

    /// Bytes of the file behind a link, as [`Self::read_kind`] does.
    #[must_use]
    pub fn read_size(&self, name: &str) -> Option<u64> {
        self.stat(name, libc::STATX_SIZE).map(|stat| stat.stx_size)
    }

    fn stat(&self, name: &str, mask: u32) -> Option<libc::statx> {
        let name = CString::new(name).ok()?;
        // SAFETY: all zeros is a valid statx; the descriptor is open, the string ends, the place is of the kernel's size.
        unsafe {
            let mut stat: libc::statx = std::mem::zeroed();
            let flags = libc::AT_STATX_DONT_SYNC;
            let result = libc::statx(self.0.as_raw_fd(), name.as_ptr(), flags, mask, &raw mut stat);
            (result == 0).then_some(stat)
        }
    }

    /// The numbers among the names of a directory in it, in the kernel's order; `cap` of them at most.
    ///
    /// # Errors
    /// The system's.
    pub fn read_numbers(&self, name: &str, cap: usize) -> io::Result<Vec<u32>> {
        let entries = std::fs::read_dir(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))?;
        let number = |entry: io::Result<std::fs::DirEntry>| match decimal(entry.ok()?.file_name().as_bytes())? {
            (number, []) => u32::try_from(number).ok(),
            _ => None,
        };
        Ok(entries.filter_map(number).take(cap).collect())
    }
}
