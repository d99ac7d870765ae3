//! What of an address space is code: the executable mappings of a process, as last read.

use super::module::{Files, Module};
use super::unwind::Place;
use crate::event::{MapsLine, permission};
use crate::procfs::{Error, ProcessFiles, monotonic_ns, parse_maps};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// After a reading of maps that an unknown address asked for, none for this many times what it cost.
const WAIT_PER_COST: u64 = 50;
/// Processes whose files are looked at for one: its own and those before a chain of forks.
const FOREBEARS: usize = 4;
/// Mappings of code that are remembered as new. A program that maps more libraries than that in an interval has older ones
/// forgotten.
const NEW: usize = 256;
/// User space ends here; what lies above, or in the first page, is no address of code.
const CODE: Range<u64> = 0x1000..0x7fff_ffff_f000;

/// An executable mapping.
#[derive(Clone, Debug)]
struct Mapping {
    line: MapsLine,
    /// Looked up when an address within is asked for; then `None` when no file holds the code.
    module: Option<Option<Arc<Module>>>,
}

/// The code of one mm.
#[derive(Clone, Debug, Default)]
pub struct Space {
    /// By address.
    mappings: Vec<Mapping>,
    /// What holds the code that no file holds.
    jit: Option<Arc<Module>>,
    /// Made anew by each exec: tells whether the process still has this mm.
    auxv: Vec<u8>,
    /// Processes that have or had this code at these addresses, the own one first.
    pids: Vec<u32>,
    /// Maps are not to be read before.
    due_ns: u64,
    /// The mm is, or seems to be, in no process any more.
    gone: bool,
    /// A reading of maps would hang.
    kept_from_maps: bool,
    /// Where code was mapped, and when, the latest last: what lay there before is not known any more.
    new: VecDeque<(Range<u64>, u64)>,
}

impl Space {
    /// What a child begins with.
    pub fn fork(&self) -> Self {
        Self { due_ns: 0, gone: false, ..self.clone() }
    }

    /// The mm was torn down: what is known stays, and nothing more will be.
    pub const fn close(&mut self) {
        self.gone = true;
    }

    /// Takes over a reading of maps.
    pub fn update(&mut self, lines: &[MapsLine]) {
        let mut before = std::mem::take(&mut self.mappings).into_iter().peekable();
        let executable = lines.iter().filter(|line| line.permissions & permission::EXECUTE != 0);
        self.mappings = executable
            .map(|line| {
                while before.next_if(|old| old.line.start < line.start).is_some() {}
                match before.next_if(|old| old.line == *line) {
                    Some(known) => known,
                    None => Mapping { line: line.clone(), module: None },
                }
            })
            .collect();
    }

    /// See [`Stacks::keep_from_maps`](super::Stacks::keep_from_maps).
    pub const fn keep_from_maps(&mut self, keep: bool) {
        self.kept_from_maps = keep;
    }

    /// Code was mapped there then.
    pub fn mapped(&mut self, addresses: Range<u64>, ts_ns: u64) {
        if self.new.len() == NEW {
            self.new.pop_front();
        }
        // CPUs tell a little out of order.
        let at = self.new.partition_point(|(_, known_ns)| *known_ns <= ts_ns);
        self.new.insert(at, (addresses, ts_ns));
    }

    /// What lay at an address at a time that is not long ago: nothing that is known where code was mapped since.
    pub fn find_then(&mut self, pid: u32, address: u64, then_ns: u64, files: &mut Files) -> Place {
        let mut since = self.new.iter().rev().take_while(|(_, ts_ns)| *ts_ns > then_ns);
        if since.any(|(addresses, _)| addresses.contains(&address)) {
            return Place::Unmapped;
        }
        self.find(pid, address, files)
    }

    /// What lies at an address. An address that is unknown is looked for in maps, if that is not too often.
    pub fn find(&mut self, pid: u32, address: u64, files: &mut Files) -> Place {
        if self.pids.first() != Some(&pid) {
            // Of the forebears the nearest are enough.
            self.pids.insert(0, pid);
            self.pids.truncate(FOREBEARS);
        }
        let at = self.position(address).or_else(|| {
            let asks = CODE.contains(&address) && self.read(pid);
            asks.then(|| self.position(address))?
        });
        let Some(at) = at else { return if self.gone { Place::Gone } else { Place::Unmapped } };
        let Mapping { line, module } = &mut self.mappings[at];
        match module.get_or_insert_with(|| files.module(&self.pids, line)) {
            Some(module) => Place::Code(Arc::clone(module), (address - line.start).wrapping_add(line.offset)),
            None => Place::Jit(Arc::clone(self.jit.get_or_insert_with(|| files.jit(pid)))),
        }
    }

    fn position(&self, address: u64) -> Option<usize> {
        let after = self.mappings.partition_point(|mapping| mapping.line.start <= address);
        let at = after.checked_sub(1)?;
        (address < self.mappings[at].line.end).then_some(at)
    }

    /// Reads maps; whether that was done.
    fn read(&mut self, pid: u32) -> bool {
        let begin = monotonic_ns();
        if self.gone || self.kept_from_maps || begin < self.due_ns {
            return false;
        }
        let mut lines = Vec::new();
        let result = ProcessFiles::open(pid).and_then(|process| {
            let (mut auxv, mut maps) = (Vec::new(), Vec::new());
            process.read_maps(&mut maps)?;
            process.read_auxv(&mut auxv)?;
            parse_maps(&maps, &mut lines);
            Ok(auxv)
        });
        let end = monotonic_ns();
        self.due_ns = end.saturating_add(end.saturating_sub(begin).saturating_mul(WAIT_PER_COST));
        match result {
            // Another program: the process is there, this mm is not.
            Ok(auxv) if lines.is_empty() || !self.auxv.is_empty() && auxv != self.auxv => self.gone = true,
            Ok(auxv) => {
                self.auxv = auxv;
                self.update(&lines);
                return true;
            }
            Err(Error::Gone(_) | Error::NoSuchProcess(_) | Error::Zombie(_)) => self.gone = true,
            Err(error) => log::debug!("the mappings of process {pid} cannot be read: {error}"),
        }
        false
    }
}
