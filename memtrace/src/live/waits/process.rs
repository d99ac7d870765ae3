//! A process whose threads are looked at: its handle, and what of it is read only when a look needs it.

use crate::event::MapsLine;
use crate::procfs::{Directory, MAPS_MAX, PresentMemory, ProcessFiles, Status, monotonic_ns, parse_maps, parse_status};
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::io;

/// After a reading of maps, none for so many times what it cost.
const WAIT_PER_COST: u64 = 50;
/// How long maps is believed.
const BELIEVED_NS: u64 = 1_000_000_000;
/// Threads and children of a process in another PID namespace that are asked for their numbers there.
const NUMBERS_MAX: usize = 4096;

/// A process.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its directory in /proc.
    pub directory: Directory,
    /// It lives in another PID namespace: the numbers that it uses are not ours.
    namespaced: bool,
    /// Where the main thread's stack ends; 0 when we may not know.
    start_stack: u64,
    maps: RefCell<Maps>,
    /// Opened when a look needs it. `None` inside: not to be touched now.
    memory: OnceCell<Option<PresentMemory>>,
    /// Our numbers of its threads by those that they have where it lives, as they were when a look needed them.
    numbers: OnceCell<HashMap<u32, u32>>,
}

#[derive(Debug, Default)]
struct Maps {
    lines: Vec<MapsLine>,
    read_ns: u64,
    due_ns: u64,
}

impl Process {
    /// Takes a process that somebody has opened.
    ///
    /// # Errors
    /// It is gone.
    pub fn open(files: &ProcessFiles) -> io::Result<Self> {
        let directory = Directory::new(files.open_directory().map_err(io::Error::other)?);
        let mut process = Self {
            pid: files.pid(),
            directory,
            namespaced: false,
            start_stack: 0,
            maps: RefCell::default(),
            memory: OnceCell::new(),
            numbers: OnceCell::new(),
        };
        process.namespaced = process.read_status(process.pid).is_some_and(|status| status.ns_pid.len() > 1);
        let mut stat = Vec::new();
        let _ = process.directory.read("stat", 4096, &mut stat);
        process.start_stack = start_stack(&stat).unwrap_or(0);
        Ok(process)
    }

    /// A look begins: it opens the memory anew, if it needs it, and asks the threads for their numbers.
    pub fn begin(&mut self) {
        self.memory = OnceCell::new();
        self.numbers = OnceCell::new();
    }

    /// In this look, its memory is not read: that takes mmap_lock.
    pub fn leave_memory_alone(&mut self) {
        self.memory = OnceCell::from(None);
    }

    /// Its memory; `None` when it is not to be read.
    pub fn memory(&self) -> Option<&PresentMemory> {
        self.memory.get_or_init(|| PresentMemory::open(&self.directory).ok()).as_ref()
    }

    /// Where the main thread's stack ends.
    pub const fn start_stack(&self) -> u64 {
        self.start_stack
    }

    /// status of a thread.
    pub fn read_status(&self, tid: u32) -> Option<Status> {
        let mut status = Vec::new();
        self.directory.read(&format!("task/{tid}/status"), 65_536, &mut status).ok()?;
        parse_status(&status).ok()
    }

    /// The name of the mapping at an address, as maps has it; empty for one without, and for none.
    pub fn mapping_of(&self, address: u64) -> Vec<u8> {
        let mut maps = self.maps.borrow_mut();
        let now = monotonic_ns();
        let may_read = now >= maps.due_ns && self.memory().is_some();
        if may_read && (now.saturating_sub(maps.read_ns) >= BELIEVED_NS || maps.find(address).is_none()) {
            let mut text = Vec::new();
            maps.lines.clear();
            if self.directory.read("maps", MAPS_MAX, &mut text).is_ok() {
                parse_maps(&text, &mut maps.lines);
            }
            maps.read_ns = monotonic_ns();
            maps.due_ns = maps.read_ns + (maps.read_ns - now).saturating_mul(WAIT_PER_COST);
        }
        maps.find(address).map(|line| line.name.clone()).unwrap_or_default()
    }

    /// The thread of this process that has this number where it lives; `None` when it has no such thread.
    pub fn outer_thread(&self, number: u32) -> Option<u32> {
        let number = if self.namespaced {
            *self.numbers.get_or_init(|| self.read_thread_numbers()).get(&number)?
        } else {
            number
        };
        // Of this process, not of any.
        self.read_status(number).map(|_| number)
    }

    fn read_thread_numbers(&self) -> HashMap<u32, u32> {
        let tids = self.directory.read_numbers("task", NUMBERS_MAX).unwrap_or_default();
        tids.into_iter().filter_map(|tid| Some((*self.read_status(tid)?.ns_pid.last()?, tid))).collect()
    }

    /// The child that has this number where the process lives; 0 for any stays 0, and nobody knows is `None`.
    pub fn outer_child(&self, number: u32) -> Option<u32> {
        if number == 0 || !self.namespaced {
            return Some(number);
        }
        let tids = self.directory.read_numbers("task", NUMBERS_MAX).ok()?;
        let mut children = Vec::new();
        let mut asked = 0;
        for tid in tids {
            let _ = self.directory.read(&format!("task/{tid}/children"), 65_536, &mut children);
            for child in children.split(|&byte| byte == b' ') {
                let Some(pid) = std::str::from_utf8(child).ok().and_then(|text| text.parse::<u32>().ok()) else {
                    continue;
                };
                asked += 1;
                if asked > NUMBERS_MAX {
                    return None;
                }
                let status =
                    std::fs::read(format!("/proc/{pid}/status")).ok().and_then(|text| parse_status(&text).ok());
                if status.is_some_and(|status| status.ns_pid.last() == Some(&number)) {
                    return Some(pid);
                }
            }
        }
        None
    }
}

impl Maps {
    fn find(&self, address: u64) -> Option<&MapsLine> {
        let after = self.lines.partition_point(|line| line.start <= address);
        self.lines.get(after.checked_sub(1)?).filter(|line| address < line.end)
    }
}

/// Field 28 of stat, as proc(5) numbers them; the name, the second one, may hold anything.
fn start_stack(stat: &[u8]) -> Option<u64> {
    let rest = stat.get(memchr::memrchr(b')', stat)? + 2..)?;
    let field = rest.split(|&byte| byte == b' ').nth(28 - 3)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}
