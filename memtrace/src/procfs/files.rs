//! The files of one process, through a handle that cannot be confused by a reused pid.

use super::{
    Error, Malformed, MapsHeader, Pagemap, ParseReport, PrivateFile, ReadCost, Rollup, SmapsPieces, SmapsSize, Statm,
    Status, page_size, parse_rollup, parse_stack_pointer, parse_stat, parse_statm, parse_status, visit_maps,
};
use crate::event::{MmId, Overview, SmapsMapping};
use crate::procfs::monotonic_ns;
use crate::units::nanos;
use ::procfs::ProcError;
use ::procfs::process::Process;
use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Longest command line that is kept; see [`crate::event::Meta::cmdline`].
const CMDLINE_CAP: u64 = 4096;
/// Room that each read(2) is offered. The kernel fills one buffer of its own (a page, grown for long lines) per read.
const READ_ROOM: usize = 64 << 10;
/// Address space of which pagemap may be looked at for [`PrivateFile`]: 2 MiB of pagemap, some milliseconds.
pub(crate) const PAGEMAP_BYTES: u64 = 1 << 30;

/// A process, opened once. The handle names this process for ever: after its death every reading is
/// [`Error::Gone`], even when another process has got the same pid.
#[derive(Debug)]
pub struct ProcessFiles {
    pid: u32,
    page_size: u64,
    start_time: u64,
    process: Process,
    /// Another task, whose main thread has exited: through that one none of the process's memory is to be seen any more.
    other: Option<Box<(u32, Process)>>,
    // These two follow the process through exec, because the kernel looks its address space up at each read.
    // maps and smaps hold on to the address space that was there when they were opened, so they are opened each time.
    statm: File,
    status: File,
}

impl ProcessFiles {
    /// Opens a process by its number in our PID namespace.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`], [`Error::IsThread`], [`Error::KernelThread`], [`Error::Zombie`] or [`Error::PermissionDenied`].
    pub fn open(pid: u32) -> Result<Self, Error> {
        let number = i32::try_from(pid).ok().filter(|number| *number > 0).ok_or(Error::NoSuchProcess(pid))?;
        let failed = |file: &str, failure: Failure| match failure {
            Failure::Denied => Error::PermissionDenied { pid, file: file.to_owned() },
            Failure::Missing => Error::NoSuchProcess(pid),
            Failure::Other(source) => Error::Io { pid, file: file.to_owned(), source },
        };
        let process = Process::new(number).map_err(|error| failed("", error.into()))?;
        let open = |file: &str| process.open_relative(file).map_err(|error| failed(file, error.into()));
        let (statm, status, mut stat_file) = (open("statm")?, open("status")?, open("stat")?);
        let mut stat = Vec::new();
        stat_file.read_to_end(&mut stat).map_err(|error| failed("stat", error.into()))?;
        let stat = parse_stat(&stat).map_err(|source| Error::Malformed { pid, source })?;
        let (page_size, start_time) = (page_size(), stat.start_time);
        let mut files = Self { pid, page_size, start_time, process, other: None, statm, status };
        if stat.is_kernel_thread() {
            return Err(Error::KernelThread { pid, comm: String::from_utf8_lossy(&stat.comm).into_owned() });
        }
        let status = files.read_status().map_err(|error| match error {
            Error::Gone(pid) => Error::NoSuchProcess(pid),
            error => error,
        })?;
        if let Some(owner) = status.tgid.filter(|owner| *owner != pid) {
            return Err(Error::IsThread { tid: pid, pid: owner });
        }
        if status.is_zombie() && status.amounts(page_size).is_none() && !files.turn_to_another_task() {
            return Err(Error::Zombie(pid));
        }
        Ok(files)
    }

    /// The main thread may have exited alone: then the memory is shown by the other tasks only. True if there is one.
    fn turn_to_another_task(&mut self) -> bool {
        let tids = self.read_threads().unwrap_or_default().into_iter().filter(|&tid| tid != self.pid);
        // /proc/TID is there for every task, with the same files as /proc/PID.
        let other = tids.into_iter().find_map(|tid| {
            let task = Process::new(i32::try_from(tid).ok()?).ok()?;
            let (statm, status) = (task.open_relative("statm").ok()?, task.open_relative("status").ok()?);
            let read = parse_status(&read_whole(&status).ok()?).ok()?;
            let is_ours = read.tgid == Some(self.pid) && read.amounts(self.page_size).is_some();
            is_ours.then_some((tid, task, statm, status))
        });
        let Some((tid, task, statm, status)) = other else { return false };
        self.other = Some(Box::new((tid, task)));
        (self.statm, self.status) = (statm, status);
        true
    }

    /// The process's number.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// The task by which its memory is read: its main thread, unless that has exited alone.
    #[must_use]
    pub fn tid(&self) -> u32 {
        self.other.as_ref().map_or(self.pid, |other| other.0)
    }

    /// /proc of that task.
    fn task(&self) -> &Process {
        self.other.as_ref().map_or(&self.process, |other| &other.1)
    }

    /// When it started, in clock ticks since boot.
    #[must_use]
    pub const fn start_time(&self) -> u64 {
        self.start_time
    }

    /// It has not been reaped: alive, or a zombie.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.statm.read_at(&mut [0], 0).is_ok()
            || self.other.is_some()
                && self.process.open_relative("statm").is_ok_and(|mut statm| statm.read(&mut [0]).is_ok())
    }

    /// Its directory in /proc: names this process for ever, as this handle does.
    ///
    /// # Errors
    /// [`Error::Gone`] after its death.
    pub fn open_directory(&self) -> Result<File, Error> {
        self.task().open_relative(".").map_err(|error| self.failed(".", error))
    }

    /// statm, in pages; one system call, about a microsecond.
    ///
    /// # Errors
    /// [`Error::Gone`] after its death.
    pub fn read_statm(&self) -> Result<Statm, Error> {
        let mut buffer = [0; 256];
        let length = self.statm.read_at(&mut buffer, 0).map_err(|error| self.failed("statm", error))?;
        parse_statm(&buffer[..length]).map_err(|source| self.malformed(source))
    }

    /// status. [`Status::amounts`] has its counters in pages, [`Status::virt_pages`] its size.
    ///
    /// # Errors
    /// [`Error::Gone`] after its death.
    pub fn read_status(&self) -> Result<Status, Error> {
        let bytes = read_whole(&self.status).map_err(|error| self.failed("status", error))?;
        parse_status(&bytes).map_err(|source| self.malformed(source))
    }

    /// Reads maps into `buffer`, which is cleared first. Empty when the process has no address space any more.
    ///
    /// # Errors
    /// [`Error::Gone`], or [`Error::PermissionDenied`]: the kernel wants the right to trace the process.
    pub fn read_maps(&self, buffer: &mut Vec<u8>) -> Result<ReadCost, Error> {
        self.read_all("maps", buffer)
    }

    /// Reads smaps into `buffer`, which is cleared first. The reading holds the target's mmap_lock, some mappings at a time:
    /// ask [`super::SmapsBudget`] before.
    ///
    /// # Errors
    /// As [`Self::read_maps`].
    pub fn read_smaps(&self, buffer: &mut Vec<u8>) -> Result<ReadCost, Error> {
        self.read_all("smaps", buffer)
    }

    /// As [`Self::read_smaps`], but calls `visit` for each mapping as it comes, and keeps nothing.
    ///
    /// # Errors
    /// As [`Self::read_maps`].
    pub fn visit_smaps(
        &self,
        mut visit: impl FnMut(&MapsHeader<'_>, &SmapsMapping),
    ) -> Result<(ReadCost, ParseReport), Error> {
        let mut cost = ReadCost::default();
        let begin = Instant::now();
        let mut file = self.open_file("smaps")?;
        cost.cost_ns = nanos(begin.elapsed());
        let mut pieces = SmapsPieces::default();
        loop {
            let begin = Instant::now();
            let read = file.read(pieces.room(READ_ROOM));
            cost.add_call(begin);
            match read {
                Ok(0) => return Ok((cost, pieces.finish(visit))),
                Ok(read) => pieces.take(read, &mut visit),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("smaps", error)),
            }
        }
    }

    /// Reads the auxiliary vector into `buffer`, which is cleared first: addresses and 16 random bytes' place that each
    /// exec makes anew. Empty when the process has no address space any more.
    ///
    /// # Errors
    /// As [`Self::read_maps`].
    pub fn read_auxv(&self, buffer: &mut Vec<u8>) -> Result<ReadCost, Error> {
        self.read_all("auxv", buffer)
    }

    /// status of one of its threads. When the main thread has exited alone, the process's memory is shown there only.
    ///
    /// # Errors
    /// [`Error::Gone`] after the process's death, [`Error::Io`] after the thread's.
    pub fn read_thread_status(&self, tid: u32) -> Result<Status, Error> {
        let mut bytes = Vec::new();
        self.read_all(&format!("task/{tid}/status"), &mut bytes)?;
        parse_status(&bytes).map_err(|source| self.malformed(source))
    }

    /// Reads smaps_rollup: one walk of all page tables, mmap_lock held throughout unless someone waits for it.
    /// `None` when the process has no address space any more.
    ///
    /// # Errors
    /// As [`Self::read_maps`].
    pub fn read_rollup(&self) -> Result<Option<Rollup>, Error> {
        let mut buffer = Vec::new();
        self.read_all("smaps_rollup", &mut buffer)?;
        parse_rollup(&buffer).map_err(|source| self.malformed(source))
    }

    /// Opens pagemap, of the address space that the process has now. `max_hold`: longest time that one call should hold its
    /// mmap_lock; `None` for any.
    ///
    /// # Errors
    /// As [`Self::read_maps`].
    pub fn open_pagemap(&self, max_hold: Option<Duration>) -> Result<Pagemap<'_>, Error> {
        Ok(Pagemap::new(self, self.open_file("pagemap")?, self.page_size, max_hold))
    }

    /// What a reading of smaps would have to walk, from maps and status. `buffer` is scratch.
    ///
    /// # Errors
    /// As [`Self::read_maps`].
    pub fn read_size(&self, buffer: &mut Vec<u8>) -> Result<SmapsSize, Error> {
        let status = self.read_status()?;
        let walked = status.vm_rss.unwrap_or(0).saturating_add(status.vm_swap.unwrap_or(0));
        let mut size = SmapsSize::new(walked / self.page_size);
        self.read_maps(buffer)?;
        visit_maps(buffer, |header| size.add(header, self.page_size));
        Ok(size)
    }

    /// What `top` would say, and what it leaves out.
    ///
    /// USS and PSS are those of smaps_rollup. `private_file` is taken from there as well when the rollup determines it
    /// ([`Rollup::private_file`]). Else, `may_read_smaps` allowing, it is added up mapping by mapping, with pagemap for
    /// those few that smaps leaves open; it is `None` when these are larger than 1 GiB. All of that is exact when the
    /// process does not run meanwhile. A missing permission or a process that has just exited leaves the three `None`.
    ///
    /// # Errors
    /// [`Error::Gone`]; [`Error::Zombie`] when it has no address space any more.
    pub fn read_overview(&self, mm: MmId, may_read_smaps: bool) -> Result<Overview, Error> {
        let status = self.read_status()?;
        let (Some(anon), Some(file), Some(shmem), Some(virt)) =
            (status.rss_anon, status.rss_file, status.rss_shmem, status.vm_size)
        else {
            return Err(Error::Zombie(self.pid));
        };
        let rollup = match self.read_rollup() {
            Err(Error::PermissionDenied { .. }) => None,
            result => result?,
        };
        let private_file = match rollup {
            None => None,
            Some(Rollup { private_file: None, .. }) if may_read_smaps => {
                let mut sum = PrivateFile::default();
                let (_, report) = self.visit_smaps(|_, mapping| sum.add(mapping))?;
                let whole = report.malformed == 0 && report.mappings > 0;
                if whole { self.read_private_file(&sum, PAGEMAP_BYTES)?.0 } else { None }
            }
            Some(rollup) => rollup.private_file,
        };
        Ok(Overview {
            mm,
            ts_ns: monotonic_ns(),
            virt,
            anon,
            file,
            shmem,
            swap: status.vm_swap.unwrap_or(0),
            uss: rollup.map(|rollup| rollup.uss()),
            private_file,
            pss: rollup.map(|rollup| rollup.pss),
            hugetlb: status.hugetlb.unwrap_or(0),
        })
    }

    /// What these mappings have of file and shared-memory pages that nobody else maps; where smaps leaves it open, from
    /// pagemap. `None` when that would be more than `limit` bytes of addresses.
    ///
    /// # Errors
    /// As [`Self::read_maps`].
    pub fn read_private_file(&self, sum: &PrivateFile, limit: u64) -> Result<(Option<u64>, ReadCost), Error> {
        let (mut pages, mut cost) = (0, ReadCost::default());
        if sum.open.is_empty() {
            return Ok((Some(sum.bytes), cost));
        }
        if sum.open_bytes() > limit {
            return Ok((None, cost));
        }
        let pagemap = self.open_pagemap(None)?;
        for addresses in &sum.open {
            cost.add(pagemap.read(addresses.clone(), |_, entry| {
                pages += u64::from(entry.present() && entry.file() && entry.exclusive());
                ControlFlow::Continue(())
            })?);
        }
        Ok((Some(sum.bytes.saturating_add(pages * self.page_size)), cost))
    }

    /// The name: any bytes.
    ///
    /// # Errors
    /// [`Error::Gone`] after its death.
    pub fn read_comm(&self) -> Result<Vec<u8>, Error> {
        self.read_comm_at("comm".to_owned())
    }

    /// The executable, as `/proc/PID/exe` links: any bytes, ` (deleted)` appended by the kernel. Empty when there is none any more.
    ///
    /// # Errors
    /// [`Error::Gone`], [`Error::PermissionDenied`].
    pub fn read_exe(&self) -> Result<Vec<u8>, Error> {
        match self.task().exe() {
            Ok(path) => Ok(path.into_os_string().into_vec()),
            Err(ProcError::NotFound(_)) if self.exists() => Ok(Vec::new()),
            Err(error) => Err(self.failed("exe", error)),
        }
    }

    /// The command line: arguments separated by NUL, at most 4096 bytes. Empty when the process has none (any more).
    ///
    /// # Errors
    /// [`Error::Gone`] after its death.
    pub fn read_cmdline(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let file = self.task().open_relative("cmdline").map_err(|error| self.failed("cmdline", error))?;
        file.take(CMDLINE_CAP).read_to_end(&mut bytes).map_err(|error| self.failed("cmdline", error))?;
        if (bytes.len() as u64) < CMDLINE_CAP && bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }

    /// Its threads, in the kernel's order: the oldest first.
    ///
    /// # Errors
    /// [`Error::Gone`] after its death.
    pub fn read_threads(&self) -> Result<Vec<u32>, Error> {
        let tasks = self.process.tasks().map_err(|error| self.failed("task", error))?;
        // A thread that ends while the list is read is no error: it is not in the list.
        Ok(tasks.filter_map(|task| u32::try_from(task.ok()?.tid).ok()).collect())
    }

    /// Its threads with their names: any bytes. A thread that ends meanwhile is left out.
    ///
    /// # Errors
    /// [`Error::Gone`] after its death.
    pub fn read_thread_comms(&self) -> Result<Vec<(u32, Vec<u8>)>, Error> {
        let mut comms = Vec::new();
        for tid in self.read_threads()? {
            match self.read_thread_comm(tid) {
                Ok(comm) => comms.push((tid, comm)),
                Err(Error::Gone(pid)) if !self.exists() => return Err(Error::Gone(pid)),
                Err(Error::Gone(_) | Error::Io { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(comms)
    }

    /// The name of one of its threads: any bytes.
    ///
    /// # Errors
    /// [`Error::Gone`] after the process's death, [`Error::Io`] after the thread's.
    pub fn read_thread_comm(&self, tid: u32) -> Result<Vec<u8>, Error> {
        self.read_comm_at(format!("task/{tid}/comm"))
    }

    /// Where the stack pointer of one of its threads is. `None` while the thread is on a CPU, or has no stack any more.
    ///
    /// # Errors
    /// As [`Self::read_maps`]; [`Error::Io`] after the thread's death, and on a kernel that does not offer it.
    pub fn read_stack_pointer(&self, tid: u32) -> Result<Option<u64>, Error> {
        let mut buffer = [0; 256];
        let file = format!("task/{tid}/syscall");
        let length = self.open_file(&file)?.read(&mut buffer).map_err(|error| self.failed(&file, error))?;
        Ok(parse_stack_pointer(&buffer[..length]))
    }

    /// The file systems mounted where the process looks, into `buffer`, which is cleared first.
    ///
    /// # Errors
    /// [`Error::Gone`], [`Error::PermissionDenied`].
    pub fn read_mounts(&self, buffer: &mut Vec<u8>) -> Result<ReadCost, Error> {
        self.read_all("mountinfo", buffer)
    }

    /// Opens one of its files.
    ///
    /// # Errors
    /// As [`Self::read_maps`]; [`Error::Io`] when there is no such file.
    pub fn open_file(&self, file: &str) -> Result<File, Error> {
        self.task().open_relative(file).map_err(|error| self.failed(file, error))
    }

    fn read_comm_at(&self, file: String) -> Result<Vec<u8>, Error> {
        let mut comm = Vec::new();
        match self.process.open_relative(&file).map(|mut opened| opened.read_to_end(&mut comm)) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(self.failed(&file, error)),
            Err(error) => return Err(self.failed(&file, error)),
        }
        // The kernel appends a newline; the name itself may end with one.
        if comm.last() == Some(&b'\n') {
            comm.pop();
        }
        Ok(comm)
    }

    fn read_all(&self, file: &str, buffer: &mut Vec<u8>) -> Result<ReadCost, Error> {
        buffer.clear();
        let mut cost = ReadCost::default();
        let begin = Instant::now();
        let result = self
            .task()
            .open_relative(file)
            .map_err(Failure::from)
            .and_then(|mut opened| read_in_chunks(&mut opened, buffer, &mut cost).map_err(Failure::from));
        cost.cost_ns = nanos(begin.elapsed());
        match result {
            Ok(()) => Ok(cost),
            // Some of these files, on some kernels, say so of a process that has lost its address space and is not reaped yet.
            Err(Failure::Missing) if self.exists() => {
                buffer.clear();
                Ok(cost)
            }
            Err(failure) => Err(self.failed(file, failure)),
        }
    }

    fn malformed(&self, source: Malformed) -> Error {
        // The kernel's text never is malformed, but that of a dying process may be incomplete.
        if self.exists() { Error::Malformed { pid: self.pid, source } } else { Error::Gone(self.pid) }
    }

    pub(super) fn failed(&self, file: &str, failure: impl Into<Failure>) -> Error {
        let (pid, file) = (self.pid, file.to_owned());
        match failure.into() {
            Failure::Denied => Error::PermissionDenied { pid, file },
            _ if !self.exists() => Error::Gone(pid),
            Failure::Missing => Error::Io { pid, file, source: io::Error::from_raw_os_error(libc::ESRCH) },
            Failure::Other(source) => Error::Io { pid, file, source },
        }
    }
}

/// What the system said, as far as it matters here.
pub(super) enum Failure {
    Denied,
    /// No such file, or no such process behind it.
    Missing,
    Other(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => Self::Denied,
            Some(libc::ESRCH | libc::ENOENT) => Self::Missing,
            _ => Self::Other(error),
        }
    }
}

impl From<ProcError> for Failure {
    fn from(error: ProcError) -> Self {
        match error {
            ProcError::PermissionDenied(_) => Self::Denied,
            ProcError::NotFound(_) => Self::Missing,
            ProcError::Io(error, _) => error.into(),
            other => Self::Other(io::Error::other(other.to_string())),
        }
    }
}

/// The whole of a file that is kept open.
fn read_whole(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4096];
    let mut length = 0;
    loop {
        match file.read_at(&mut bytes[length..], length as u64)? {
            0 => break,
            read => length += read,
        }
        if length == bytes.len() {
            bytes.resize(2 * length, 0);
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Reads to the end, each read(2) timed.
fn read_in_chunks(file: &mut File, buffer: &mut Vec<u8>, cost: &mut ReadCost) -> io::Result<()> {
    let mut length = 0;
    let result = loop {
        if buffer.len() < length + READ_ROOM {
            buffer.resize((2 * length).max(length + READ_ROOM), 0);
        }
        let begin = Instant::now();
        let read = file.read(&mut buffer[length..]);
        cost.longest_hold_ns = cost.longest_hold_ns.max(nanos(begin.elapsed()));
        cost.reads += 1;
        match read {
            Ok(0) => break Ok(()),
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    buffer.truncate(length);
    result
}
