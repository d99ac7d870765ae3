//! Which processes have a descriptor of the same socket, pipe or file: found by going through all of `/proc/*/fd`, some at
//! a time. A link is what is searched for, as the kernel prints it.

use crate::procfs::{DescriptorInfo, Directory, monotonic_ns, parse_fdinfo};
use std::collections::{HashMap, HashSet};

/// A search may take so long at a time; what is left is gone through at the next look.
const TURN_NS: u64 = 15_000_000;
/// After all processes were gone through, nothing is searched for so many times what that took.
const WAIT_PER_COST: u64 = 50;
/// How long what was found is believed.
const BELIEVED_NS: u64 = 2_000_000_000;
/// Of one thing that is searched for, so many descriptors are kept.
const HOLDERS_MAX: usize = 64;
/// Things that are searched for at once.
const WANTED_MAX: usize = 1024;
/// Descriptors of one process that are looked at.
const DESCRIPTORS_MAX: usize = 65_536;
/// Between two looks at the clock.
const DESCRIPTORS_PER_CLOCK: usize = 256;

/// A descriptor of what was searched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process.
    pub pid: u32,
    /// Its name.
    pub comm: Vec<u8>,
    /// Its descriptor.
    pub fd: u32,
}

impl Holder {
    /// What fdinfo says of the descriptor now.
    #[must_use]
    pub fn read_info(&self) -> Option<DescriptorInfo> {
        let mut buffer = Vec::new();
        Directory::open(&format!("/proc/{}/fdinfo", self.pid))
            .ok()?
            .read(&self.fd.to_string(), 65_536, &mut buffer)
            .ok()?;
        Some(parse_fdinfo(&buffer))
    }

    /// Kind and inode of what the descriptor is of.
    #[must_use]
    pub fn read_kind(&self) -> Option<(u32, u64)> {
        Directory::open(&format!("/proc/{}/fd", self.pid)).ok()?.read_kind(&self.fd.to_string())
    }
}

/// Searches.
#[derive(Debug, Default)]
pub struct Search {
    found: HashMap<Vec<u8>, (Vec<Holder>, u64)>,
    /// Asked for since the last pass began.
    wanted: HashSet<Vec<u8>>,
    /// What the pass under way searches for, and has found.
    searched: HashMap<Vec<u8>, Vec<Holder>>,
    /// Processes that it has not come to yet.
    left: Vec<u32>,
    cost_ns: u64,
    due_ns: u64,
    /// Turns that were over before the pass was.
    cut: u64,
}

impl Search {
    /// Who has it, as far as is known; `None` when that is still to be searched for.
    pub fn holders(&mut self, link: &[u8]) -> Option<&[Holder]> {
        let now = monotonic_ns();
        let fresh = self.found.get(link).is_some_and(|(_, at)| now.saturating_sub(*at) < BELIEVED_NS);
        if !fresh && !self.searched.contains_key(link) && self.wanted.len() < WANTED_MAX {
            self.wanted.insert(link.to_vec());
        }
        match self.found.get(link) {
            Some((holders, _)) => Some(holders),
            None => self.searched.get(link).map(Vec::as_slice).filter(|holders| !holders.is_empty()),
        }
    }

    /// Turns that were over before all processes had been gone through.
    pub const fn cut(&self) -> u64 {
        self.cut
    }

    /// Searches for a while for what was asked for.
    pub fn run(&mut self) {
        let begin = monotonic_ns();
        if self.left.is_empty() {
            if self.wanted.is_empty() || begin < self.due_ns {
                return;
            }
            self.found.retain(|_, (_, at)| begin.saturating_sub(*at) < 30 * BELIEVED_NS);
            self.searched = self.wanted.drain().map(|link| (link, Vec::new())).collect();
            let Ok(mut pids) = Directory::open("/proc").and_then(|proc| proc.read_numbers(".", usize::MAX)) else {
                return;
            };
            // From the end: the oldest first.
            pids.reverse();
            self.left = pids;
            self.cost_ns = 0;
        }
        let deadline = begin + TURN_NS;
        let mut whole = true;
        while let Some(pid) = self.left.pop() {
            whole = self.search(pid, deadline);
            if monotonic_ns() > deadline {
                break;
            }
        }
        let end = monotonic_ns();
        self.cost_ns += end.saturating_sub(begin);
        if self.left.is_empty() {
            self.due_ns = end.saturating_add(self.cost_ns.saturating_mul(WAIT_PER_COST));
            let searched = std::mem::take(&mut self.searched);
            self.found.extend(searched.into_iter().map(|(link, holders)| (link, (holders, end))));
        } else {
            whole = false;
        }
        self.cut += u64::from(!whole);
    }

    /// False when the time was over before its descriptors were.
    fn search(&mut self, pid: u32, deadline: u64) -> bool {
        let Ok(process) = Directory::open(&format!("/proc/{pid}")) else { return true };
        let Ok(fds) = process.read_numbers("fd", DESCRIPTORS_MAX) else { return true };
        for (i, fd) in fds.into_iter().enumerate() {
            if i % DESCRIPTORS_PER_CLOCK == DESCRIPTORS_PER_CLOCK - 1 && monotonic_ns() > deadline {
                return false;
            }
            let Ok(link) = process.read_link(&format!("fd/{fd}")) else { continue };
            if let Some(holders) = self.searched.get_mut(&link)
                && holders.len() < HOLDERS_MAX
            {
                holders.push(Holder { pid, comm: read_comm(pid).unwrap_or_default(), fd });
            }
        }
        true
    }
}

/// The name of any process; `None` when there is none.
#[must_use]
pub fn read_comm(pid: u32) -> Option<Vec<u8>> {
    let mut comm = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    // The kernel appends a newline; the name itself may end with one.
    if comm.last() == Some(&b'\n') {
        comm.pop();
    }
    Some(comm)
}
