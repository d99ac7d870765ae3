//! Looks at threads that do not run: what /proc says of them, what they wait for, and where their own code waits.
//!
//! A look costs the target nothing but short locks of its own tables. None of its pages is brought in: memory is read only
//! where it is present. What cannot be read is unknown, and what is too much for a look is counted.

mod object;
mod process;
mod search;
mod sockets;
mod stack;
pub(super) mod surroundings;
#[cfg(test)]
mod tests;

pub use stack::Registers;

use super::mmap_lock::MmapLock;
use crate::event::{MmId, Wait, WaitObject};
use crate::procfs::{
    CurrentCall, ProcessFiles, counts_runs, monotonic_ns, parse_kernel_stack, parse_stat, parse_syscall, parse_wchan,
};
use crate::stacks::Stacks;
use crate::syscalls;
use object::{Look, World};
use process::Process;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Distance of looks.
pub const DISTANCE: Duration = Duration::from_millis(250);

/// Threads that one look sees; the next one goes on after them.
const THREADS_MAX: usize = 256;
/// Threads of one process that are counted.
const TASKS_MAX: usize = 65_536;
/// Reading of threads may take so long, and all of a look twice as long: then it is over, and the next one goes on there.
const LOOK_NS: u64 = 50_000_000;
/// A thread that has not run waits for the same thing; what belongs to that (who holds a lock, what is queued) is read anew
/// after this time.
const OBJECT_BELIEVED_NS: u64 = 900_000_000;

/// What looks cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Threads that were looked at, each time counted.
    pub looks: u64,
    /// Time that it took.
    pub ns: u64,
    /// Threads that a look had no room for, each time counted.
    pub unseen: u64,
    /// Searches for who is at the other end that were not over when their look was.
    pub unsearched: u64,
}

/// Looks at threads.
#[derive(Debug, Default)]
pub struct Waits {
    processes: BTreeMap<MmId, Process>,
    world: World,
    threads: HashMap<u32, Seen>,
    /// The thread after which the last look ended before it had seen all.
    after: Option<(MmId, u32)>,
    cost: Cost,
    buffer: Vec<u8>,
}

/// A thread as it was seen last.
#[derive(Debug)]
struct Seen {
    wait: Wait,
    call: CurrentCall,
    /// schedstat then; empty on a kernel that does not count.
    schedstat: Vec<u8>,
    /// When its object was read.
    read_ns: u64,
}

/// A thread that waits, as far as it has been read.
struct Draft {
    wait: Wait,
    call: CurrentCall,
    schedstat: Vec<u8>,
    /// Since the last look, or this is the first.
    ran: bool,
    /// What it waits for is to be found out still.
    missing: bool,
}

impl Draft {
    /// A thread that has not run has the stack that it had.
    const fn wants_stack(&self) -> bool {
        self.ran || self.wait.stack.is_none()
    }
}

impl Waits {
    /// Looks at the threads of these processes; memory that takes `lock` is left alone while it is held. `registers` tells those of threads that wait, where that can be had.
    /// `stacks`: where their stacks are numbered, if that is wanted; what is new there is to be told before these waits.
    pub fn look<'a>(
        &mut self,
        processes: impl Iterator<Item = (MmId, &'a ProcessFiles)>,
        lock: &MmapLock,
        registers: &mut dyn FnMut() -> Vec<(u32, Registers)>,
        mut stacks: Option<&mut Stacks>,
    ) -> Vec<Wait> {
        let begin = monotonic_ns();
        self.look_begins(processes, lock);
        let chosen = self.choose();
        let mut drafts = Vec::new();
        let mut waits = Vec::new();
        for (at, &(mm, tid)) in chosen.iter().enumerate() {
            // One thread at least: the next look would get no further.
            if at > 0 && monotonic_ns().saturating_sub(begin) > LOOK_NS {
                self.cost.unseen += (chosen.len() - at) as u64;
                self.after = at.checked_sub(1).and_then(|before| chosen.get(before)).copied();
                break;
            }
            self.cost.looks += 1;
            match self.read(mm, tid) {
                Some(Ok(wait)) => waits.push(wait),
                Some(Err(draft)) => drafts.push(draft),
                None => drop(self.threads.remove(&tid)),
            }
        }
        let looked = waits.iter().map(|wait| (wait, false)).chain(drafts.iter().map(|draft| (&draft.wait, draft.ran)));
        for (wait, _) in looked.filter(|(wait, ran)| is_mmap_lock_held(wait, *ran)) {
            if let Some(process) = self.processes.get_mut(&wait.mm) {
                process.leave_memory_alone();
            }
        }
        // What there is no time for now is found at the next look: it is missing until then.
        let over = || monotonic_ns().saturating_sub(begin) > 2 * LOOK_NS;
        for draft in &mut drafts {
            if over() {
                self.cost.unseen += 1;
            } else {
                self.find_object(draft);
            }
        }
        if drafts.iter().any(|draft| draft.missing) {
            self.world.search.run();
            for draft in drafts.iter_mut().filter(|draft| draft.missing && !over()) {
                self.find_object(draft);
            }
        }
        let wanted = stacks.is_some() && drafts.iter().any(Draft::wants_stack);
        let registers: HashMap<u32, Registers> =
            if wanted { registers().into_iter().collect() } else { HashMap::new() };
        for draft in drafts {
            let stacks = stacks.as_deref_mut().filter(|_| !over());
            waits.push(self.finish(draft, &registers, stacks));
        }
        self.threads.retain(|_, seen| begin.saturating_sub(seen.wait.ts_ns) < 60_000_000_000);
        self.cost.unsearched = self.world.search.cut();
        self.cost.ns += monotonic_ns().saturating_sub(begin);
        waits
    }

    /// What looks cost since the session began.
    pub const fn cost(&self) -> Cost {
        self.cost
    }

    fn look_begins<'a>(&mut self, processes: impl Iterator<Item = (MmId, &'a ProcessFiles)>, lock: &MmapLock) {
        let mut known = std::mem::take(&mut self.processes);
        for (mm, files) in processes {
            let mut process = match known.remove(&mm) {
                Some(mut process) => {
                    process.begin();
                    process
                }
                None => match Process::open(files) {
                    Ok(process) => process,
                    Err(_) => continue,
                },
            };
            if lock.hangs(files.pid()) {
                process.leave_memory_alone();
            }
            self.processes.insert(mm, process);
        }
    }

    /// The threads that this look is at: those after the last one of the last look, and around.
    fn choose(&mut self) -> Vec<(MmId, u32)> {
        let mut all: Vec<(MmId, u32)> = Vec::new();
        for (mm, process) in &self.processes {
            let tids = process.directory.read_numbers("task", TASKS_MAX).unwrap_or_default();
            all.extend(tids.into_iter().map(|tid| (*mm, tid)));
        }
        all.sort_unstable();
        if let Some(after) = self.after.take() {
            let first = all.partition_point(|thread| *thread <= after);
            all.rotate_left(first);
        }
        if all.len() > THREADS_MAX {
            self.cost.unseen += (all.len() - THREADS_MAX) as u64;
            all.truncate(THREADS_MAX);
            self.after = all.last().copied();
        }
        all
    }

    /// A thread that waits: the last look's, when it has not run since, or what is to be found out. `None` when it runs.
    fn read(&mut self, mm: MmId, tid: u32) -> Option<Result<Wait, Draft>> {
        let process = self.processes.get(&mm)?;
        let ts_ns = monotonic_ns();
        let mut schedstat = Vec::new();
        let _ = process.directory.read(&format!("task/{tid}/schedstat"), 256, &mut schedstat);
        process.directory.read(&format!("task/{tid}/stat"), 4096, &mut self.buffer).ok()?;
        let stat = parse_stat(&self.buffer).ok()?;
        if matches!(stat.state, b'R' | b'Z' | b'X') {
            return None;
        }
        let seen = self.threads.get_mut(&tid).filter(|seen| seen.wait.mm == mm);
        let at_attach = seen.is_none();
        if let Some(seen) = seen
            && seen.wait.state == stat.state
            && counts_runs(&schedstat)
            && seen.schedstat == schedstat
        {
            seen.wait.ts_ns = ts_ns;
            seen.wait.at_attach = false;
            let wait = seen.wait.clone();
            if ts_ns.saturating_sub(seen.read_ns) < OBJECT_BELIEVED_NS {
                return Some(Ok(wait));
            }
            return Some(Err(Draft { wait, call: seen.call, schedstat, ran: false, missing: true }));
        }
        process.directory.read(&format!("task/{tid}/syscall"), 512, &mut self.buffer).ok();
        // It runs, or we may not know: whoever may not see this sees neither memory nor descriptors.
        let call = parse_syscall(&self.buffer);
        if self.buffer == b"running\n" {
            return None;
        }
        let kernel = self.read_kernel(mm, tid);
        let call = call.unwrap_or_default();
        let wait = Wait {
            mm,
            ts_ns,
            pid: self.processes.get(&mm)?.pid,
            tid,
            comm: stat.comm,
            state: stat.state,
            nr: call.nr,
            args: call.args,
            object: WaitObject::Unknown,
            kernel,
            stack: None,
            at_attach,
        };
        Some(Err(Draft { wait, call, schedstat, ran: true, missing: true }))
    }

    fn read_kernel(&mut self, mm: MmId, tid: u32) -> Vec<Vec<u8>> {
        let Some(process) = self.processes.get(&mm) else { return Vec::new() };
        let _ = process.directory.read(&format!("task/{tid}/stack"), 65_536, &mut self.buffer);
        let kernel = parse_kernel_stack(&self.buffer);
        if !kernel.is_empty() {
            return kernel;
        }
        let _ = process.directory.read(&format!("task/{tid}/wchan"), 1024, &mut self.buffer);
        parse_wchan(&self.buffer).into_iter().collect()
    }

    fn find_object(&mut self, draft: &mut Draft) {
        let Some(process) = self.processes.get(&draft.wait.mm) else { return };
        let look = Look {
            process,
            tid: draft.wait.tid,
            state: draft.wait.state,
            call: &draft.call,
            kernel: &draft.wait.kernel,
        };
        self.world.missing = false;
        draft.wait.object = object::find(look, &mut self.world);
        draft.missing = self.world.missing;
    }

    fn finish(&mut self, draft: Draft, registers: &HashMap<u32, Registers>, stacks: Option<&mut Stacks>) -> Wait {
        let wants_stack = draft.wants_stack();
        let Draft { mut wait, call, schedstat, missing, .. } = draft;
        if wants_stack
            && let Some(process) = self.processes.get(&wait.mm)
            && let Some(stacks) = stacks
        {
            wait.stack = stack::read(wait.mm, process, wait.tid, wait.ts_ns, &call, registers.get(&wait.tid), stacks);
        }
        // What is missing is asked for at the next look again.
        let read_ns = if missing { 0 } else { wait.ts_ns };
        self.threads.insert(wait.tid, Seen { wait: wait.clone(), call, schedstat, read_ns });
        wait
    }
}

/// Whether somebody may hold mmap_lock for long, as far as this thread shows. Whoever reads the process's memory or maps
/// then would wait with it: either the thread itself sleeps in a call that takes the lock for writing, or it has been
/// waiting for a lock since the last look.
fn is_mmap_lock_held(wait: &Wait, ran: bool) -> bool {
    if wait.state != b'D' {
        return false;
    }
    let waits_for_lock = wait.kernel.iter().any(|name| name.starts_with(b"rwsem_down_"));
    let name = wait.nr.and_then(syscalls::name).unwrap_or_default();
    match waits_for_lock {
        true => !ran,
        false => matches!(
            name,
            "mmap"
                | "munmap"
                | "mprotect"
                | "mremap"
                | "brk"
                | "madvise"
                | "mlock"
                | "mlock2"
                | "mlockall"
                | "munlock"
                | "munlockall"
                | "remap_file_pages"
                | "pkey_mprotect"
                | "shmat"
                | "shmdt"
                | "mseal"
        ),
    }
}
