//! Amounts per class, in pages, as `/proc/PID/status` has them.
//!
//! Reading does not allocate and touches nothing but its own stack: a workload may do it between two touches
//! of memory that it counts.

use std::fmt;
use std::io;
use std::ops::{Add, AddAssign, Neg, Sub};

/// Pages per class; signed, because most of them are differences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// `RssAnon`.
    pub anon: i64,
    /// `RssFile`.
    pub file: i64,
    /// `RssShmem`.
    pub shmem: i64,
    /// `VmSwap`.
    pub swap: i64,
}

impl Pages {
    /// Nothing.
    pub const ZERO: Self = Self { anon: 0, file: 0, shmem: 0, swap: 0 };

    /// The classes by their names in the NDJSON contract.
    #[must_use]
    pub const fn classes(self) -> [(&'static str, i64); 4] {
        [("anon", self.anon), ("file", self.file), ("shmem", self.shmem), ("swap", self.swap)]
    }

    /// From bytes per class; `None` unless all four are whole pages.
    #[must_use]
    pub fn from_bytes(anon: i64, file: i64, shmem: i64, swap: i64) -> Option<Self> {
        let page = page_size() as i64;
        let pages = |bytes: i64| (bytes % page == 0).then_some(bytes / page);
        Some(Self { anon: pages(anon)?, file: pages(file)?, shmem: pages(shmem)?, swap: pages(swap)? })
    }

    /// Counters of a process, `"self"` or a number; exact since 6.16 (`get_mm_counter_sum`).
    ///
    /// # Errors
    /// No such process, or one that has no address space (a zombie, a kernel thread).
    pub fn read(pid: Pid) -> io::Result<Self> {
        let mut buffer = [0_u8; 8192];
        let text = read_proc(pid, b"status", &mut buffer)?;
        let kib = |key: &[u8]| {
            text.split(|&byte| byte == b'\n')
                .find_map(|line| line.strip_prefix(key))
                .map(|rest| {
                    rest.iter()
                        .filter(|byte| byte.is_ascii_digit())
                        .fold(0_i64, |number, digit| number * 10 + i64::from(digit - b'0'))
                })
                .ok_or(io::ErrorKind::NotFound)
        };
        let per_page = page_size() as i64 / 1024;
        Ok(Self {
            anon: kib(b"RssAnon:")? / per_page,
            file: kib(b"RssFile:")? / per_page,
            shmem: kib(b"RssShmem:")? / per_page,
            swap: kib(b"VmSwap:")? / per_page,
        })
    }
}

/// Whose `/proc` directory.
#[derive(Clone, Copy, Debug)]
pub enum Pid {
    /// The caller's.
    Own,
    /// Another's.
    Of(u32),
}

/// Reads `/proc/PID/NAME` into `buffer` without allocating; what does not fit is cut.
///
/// # Errors
/// What `open` and `read` say.
pub fn read_proc<'a>(pid: Pid, name: &[u8], buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    use io::Write as _;
    let mut path = [0_u8; 64];
    let mut cursor = &mut path[..63];
    match pid {
        Pid::Own => cursor.write_all(b"/proc/self/")?,
        Pid::Of(pid) => write!(cursor, "/proc/{pid}/")?,
    }
    cursor.write_all(name)?;
    // SAFETY: the path is on our stack and ends with the NUL that was not written over.
    let fd = unsafe { libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut length = 0;
    let outcome = loop {
        let rest = &mut buffer[length..];
        // SAFETY: the kernel writes at most `rest.len()` bytes into `rest`.
        match unsafe { libc::read(fd, rest.as_mut_ptr().cast(), rest.len()) } {
            0 => break Ok(()),
            count if count > 0 => length += count as usize,
            _ => break Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: `fd` is ours and nobody else has it.
    unsafe { libc::close(fd) };
    outcome.map(|()| &buffer[..length])
}

/// Bytes in a page.
#[must_use]
pub fn page_size() -> usize {
    // SAFETY: no memory is involved.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of the NDJSON contract's `ts_ns`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the struct that we own.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

impl Add for Pages {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            anon: self.anon + other.anon,
            file: self.file + other.file,
            shmem: self.shmem + other.shmem,
            swap: self.swap + other.swap,
        }
    }
}

impl Neg for Pages {
    type Output = Self;
    fn neg(self) -> Self {
        Self { anon: -self.anon, file: -self.file, shmem: -self.shmem, swap: -self.swap }
    }
}

impl Sub for Pages {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl AddAssign for Pages {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Pages {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "anon {:+} file {:+} shmem {:+} swap {:+}", self.anon, self.file, self.shmem, self.swap)
    }
}
