//! The program that `cargo xtask demo` watches: ten seconds, one step a second, each moving resident memory in another way.
//!
//! Before each step it says on stderr what it is about to do and by how much, so that what memtrace prints can be held
//! against it. The steps are functions that are not inlined: their names are what a stack shows.
//! It refuses nothing and tests nothing; an operation that the system denies ends it with a message.

use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::{Path, PathBuf};
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// Distance of steps: long enough to read a paragraph.
const PACE: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    let file = DataFile::new(48 * MIB)?;
    let mut clock = Clock::new();

    clock.step("map 64 MiB of anonymous memory and write to all of it: RES +64 MiB");
    let mut table = Mapping::anonymous(64 * MIB)?;
    fill_table(&mut table);

    clock.step("give the upper 24 MiB of it back with madvise(MADV_DONTNEED): RES -24 MiB");
    drop_upper_part(&mut table, 24 * MIB)?;

    clock.step("allocate 20 MiB in small pieces: the heap grows by brk, RES +20 MiB");
    let pieces = allocate_pieces(20 * MIB);

    clock.step("free the pieces: malloc lowers the program break, RES -20 MiB");
    free_pieces(pieces);

    clock.step("map a file of 48 MiB and read the whole: RES +48 MiB, class file, shared with the page cache");
    let mut private = Mapping::private_file(&file.file, 48 * MIB)?;
    let sum = read_file(&private);

    clock.step(
        "write to 16 MiB of the file's private mapping: copies on write, file -16 MiB, anon +16 MiB, RES unchanged",
    );
    copy_on_write(&mut private, 16 * MIB);

    clock.step(&format!(
        "fork, then write to 32 MiB that the child shares: {} faults, RES unchanged",
        32 * MIB / page_size()
    ));
    write_while_child_shares(&mut table, 32 * MIB)?;

    clock.step("write 24 MiB of shared memory, then cut its file to 8 MiB: shmem +24 MiB, -16 MiB");
    let (shared, memfd) = fill_shared_memory(24 * MIB)?;
    thread::sleep(PACE / 2);
    memfd.set_len(8 * MIB as u64).context("failed to cut the shared memory")?;

    clock.step("unmap all of it: RES falls to where it began");
    drop((table, private, shared));

    clock.step(&format!("end (the file's bytes add up to {sum})"));
    Ok(())
}

#[inline(never)]
fn fill_table(table: &mut Mapping) {
    for (number, page) in table.bytes().chunks_mut(page_size()).enumerate() {
        page[0] = number as u8;
    }
}

#[inline(never)]
fn drop_upper_part(table: &mut Mapping, length: usize) -> Result<()> {
    let part = &mut table.bytes()[table_split(length)..];
    // SAFETY: the range lies in the mapping, and no reference to it outlives this call; its pages read as zeros afterwards.
    let result = unsafe { libc::madvise(part.as_mut_ptr().cast(), part.len(), libc::MADV_DONTNEED) };
    checked(result, "failed to drop memory")
}

/// Where the upper `length` bytes of the 64 MiB table begin.
const fn table_split(length: usize) -> usize {
    64 * MIB - length
}

#[inline(never)]
fn allocate_pieces(total: usize) -> Vec<Vec<u8>> {
    (0..total / 1024).map(|number| vec![number as u8 | 1; 1024 - 16]).collect()
}

#[inline(never)]
fn free_pieces(pieces: Vec<Vec<u8>>) {
    drop(pieces);
}

#[inline(never)]
fn read_file(file: &Mapping) -> u64 {
    file.read().iter().step_by(64).map(|&byte| u64::from(byte)).sum()
}

#[inline(never)]
fn copy_on_write(file: &mut Mapping, length: usize) {
    for page in file.bytes()[..length].chunks_mut(page_size()) {
        page[0] ^= 0xff;
    }
}

#[inline(never)]
fn write_while_child_shares(table: &mut Mapping, length: usize) -> Result<()> {
    // SAFETY: this process has one thread, and the child only sleeps and leaves without running any destructor.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error()).context("failed to fork");
    }
    if child == 0 {
        thread::sleep(PACE / 2);
        // SAFETY: `_exit` takes any status and does not return.
        unsafe { libc::_exit(0) };
    }
    for page in table.bytes()[..length].chunks_mut(page_size()) {
        page[0] ^= 0xff;
    }
    let mut status = 0;
    // SAFETY: `status` is writable, and `child` is ours and not waited for yet.
    if unsafe { libc::waitpid(child, &raw mut status, 0) } != child || status != 0 {
        bail!("the child did not end well: status {status}");
    }
    Ok(())
}

#[inline(never)]
fn fill_shared_memory(length: usize) -> Result<(Mapping, File)> {
    // SAFETY: the name is a C string, and the flag is valid.
    let descriptor = unsafe { libc::memfd_create(c"demo".as_ptr(), libc::MFD_CLOEXEC) };
    checked(descriptor, "failed to create a memfd")?;
    // SAFETY: the descriptor is new, and nobody else has it.
    let memfd = unsafe { File::from_raw_fd(descriptor) };
    memfd.set_len(length as u64).context("failed to size the memfd")?;
    let mut shared = Mapping::new(length, libc::MAP_SHARED, memfd.as_raw_fd())?;
    for page in shared.bytes().chunks_mut(page_size()) {
        page[0] = 1;
    }
    Ok((shared, memfd))
}

/// Steps at whole seconds after the start, whatever the steps themselves take.
struct Clock {
    start: Instant,
    steps: u32,
}

impl Clock {
    fn new() -> Self {
        Self { start: Instant::now(), steps: 0 }
    }

    fn step(&mut self, what: &str) {
        self.steps += 1;
        thread::sleep((self.start + PACE * self.steps).saturating_duration_since(Instant::now()));
        // Whoever read our stderr may be gone; the steps go on.
        let _ = writeln!(io::stderr(), "demo: {what}");
    }
}

/// A file of known size beside the program (the temporary folder may be memory, and then it would be no file), removed at the end.
struct DataFile {
    file: File,
    path: PathBuf,
}

impl DataFile {
    fn new(length: usize) -> Result<Self> {
        let program = std::env::current_exe().context("failed to find the program's own folder")?;
        let folder = program.parent().unwrap_or(Path::new("."));
        let path = folder.join(format!("memtrace-demo.{}.data", std::process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("failed to create {}", path.display()))?;
        let data = Self { file, path };
        let block: Vec<u8> = (0..64 * 1024u32).map(|number| (number >> 3) as u8).collect();
        for _ in 0..length / block.len() {
            (&data.file).write_all(&block).with_context(|| format!("failed to write {}", data.path.display()))?;
        }
        Ok(data)
    }
}

impl Drop for DataFile {
    fn drop(&mut self) {
        // Nothing can be done about a file that cannot be removed.
        let _ = fs::remove_file(&self.path);
    }
}

/// A mapping that is ours alone.
struct Mapping {
    start: *mut libc::c_void,
    length: usize,
}

impl Mapping {
    fn new(length: usize, flags: i32, descriptor: i32) -> Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses the place, so nothing that exists is overwritten.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, descriptor, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("failed to map memory");
        }
        Ok(Self { start, length })
    }

    fn anonymous(length: usize) -> Result<Self> {
        let mapping = Self::new(length, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        // Without huge pages, so that the numbers are the same on every machine. A kernel that has none refuses; that is as good.
        // SAFETY: the range is the mapping just made.
        unsafe { libc::madvise(mapping.start, length, libc::MADV_NOHUGEPAGE) };
        Ok(mapping)
    }

    fn private_file(file: &File, length: usize) -> Result<Self> {
        Self::new(length, libc::MAP_PRIVATE, file.as_raw_fd())
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is readable, writable and `length` long, lives as long as `self`, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.length) }
    }

    fn read(&self) -> &[u8] {
        // SAFETY: as in `bytes`; nobody writes while `&self` is held.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference to it is left. It cannot fail for a whole mapping.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

fn checked(result: i32, what: &'static str) -> Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error()).context(what);
    }
    Ok(())
}

fn page_size() -> usize {
    // SAFETY: `sysconf` has no precondition.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}
