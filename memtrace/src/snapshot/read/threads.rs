//! Whose stack is whose: a thread that waits has its stack pointer in its stack.
//!
//! A thread on a CPU tells nothing, and one whose stack pointer is in memory that others share with it (a coroutine, a
//! goroutine on the heap of its runtime) has no stack that could be named.

use super::Costs;
use crate::event::permission::{READ, SHARED, WRITE};
use crate::kind::GUARD_BYTES;
use crate::procfs::{Error, ProcessFiles};
use crate::snapshot::{GivenUp, Mapping, Reason, Source, Thread};
use crate::statement::Kind;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long threads may be looked at, unless everything was asked for: some thousand of them. No lock of the target is held meanwhile.
const TIME_CAP: Duration = Duration::from_millis(200);
/// How often a thread that was on a CPU is looked at.
const TRIES: usize = 4;
/// The largest mapping without a guard that is taken for a stack: above, it is an allocator's, and one of its pieces is a
/// coroutine's stack.
const UNGUARDED_BYTES: u64 = 16 << 20;

/// Names the stacks among `mappings`, which are sorted; the main thread's too. What was left out, if anything.
pub(super) fn name_stacks(
    files: &ProcessFiles,
    mappings: &mut [Mapping],
    full: bool,
    costs: &mut Costs,
) -> Option<GivenUp> {
    let begin = Instant::now();
    let result = find_stacks(files, mappings, || !full && begin.elapsed() > TIME_CAP);
    costs.add(Source::Threads, begin.elapsed());
    let reason = match result {
        Ok(0) => return None,
        Ok(left_out) => Reason::Failed {
            what: format!("{left_out} threads were left out after {} ms; --full looks at all", TIME_CAP.as_millis()),
        },
        // A kernel without CONFIG_HAVE_ARCH_TRACEHOOK has no such file.
        Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => Reason::NotOffered,
        Err(error) => (&error).into(),
    };
    Some(GivenUp { source: Source::Threads, reason })
}

/// How many threads were not looked at.
fn find_stacks(files: &ProcessFiles, mappings: &mut [Mapping], is_late: impl Fn() -> bool) -> Result<usize, Error> {
    let main = files.pid();
    if let Some(stack) = mappings.iter_mut().find(|mapping| mapping.kind == Kind::Stack) {
        stack.thread = Some(Thread { tid: main, comm: files.read_comm()? });
    }
    let tids: Vec<u32> = files.read_threads()?.into_iter().filter(|&tid| tid != main).collect();
    // Which thread points into a mapping; `None` for several.
    let mut claims: BTreeMap<usize, Option<u32>> = BTreeMap::new();
    // A main thread that runs a coroutine stands in memory that is no stack of another thread.
    if let Some(index) = read_stack_pointer(files, main)?.and_then(|pointer| index_of(mappings, pointer)) {
        claims.insert(index, None);
    }
    let mut looked_at = 0;
    for &tid in &tids {
        if is_late() {
            break;
        }
        looked_at += 1;
        let Some(stack_pointer) = read_stack_pointer(files, tid)? else { continue };
        if let Some(index) = index_of(mappings, stack_pointer) {
            claims.entry(index).and_modify(|claim| *claim = None).or_insert(Some(tid));
        }
    }
    for (index, tid) in claims.into_iter().filter_map(|(index, claim)| Some((index, claim?))) {
        let Some(stack) = mappings.get(index).filter(|mapping| may_be_stack(mapping)) else { continue };
        let start = stack.start;
        let guard =
            index.checked_sub(1).filter(|&below| mappings.get(below).is_some_and(|below| is_guard(below, start)));
        if guard.is_none() && stack.kind != Kind::ThreadStack && stack.size() > UNGUARDED_BYTES {
            continue;
        }
        let Some(comm) = of_thread(files, files.read_thread_comm(tid))? else { continue };
        for at in guard.into_iter().chain([index]) {
            if let Some(mapping) = mappings.get_mut(at) {
                mapping.kind = Kind::ThreadStack;
                mapping.thread = Some(Thread { tid, comm: comm.clone() });
            }
        }
    }
    Ok(tids.len() - looked_at)
}

/// A thread on a CPU may wait a moment later.
fn read_stack_pointer(files: &ProcessFiles, tid: u32) -> Result<Option<u64>, Error> {
    for _ in 0..TRIES {
        match of_thread(files, files.read_stack_pointer(tid))? {
            Some(None) => std::thread::yield_now(),
            Some(found) => return Ok(found),
            None => break,
        }
    }
    Ok(None)
}

/// `None` for a thread that has ended meanwhile: no error while its process goes on.
fn of_thread<T>(files: &ProcessFiles, result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Err(Error::Io { .. } | Error::Gone(_)) if files.exists() => Ok(None),
        result => result.map(Some),
    }
}

fn index_of(mappings: &[Mapping], address: u64) -> Option<usize> {
    let index = mappings.partition_point(|mapping| mapping.end <= address);
    mappings.get(index).filter(|mapping| mapping.start <= address).map(|_| index)
}

fn may_be_stack(mapping: &Mapping) -> bool {
    let anonymous = mapping.inode == 0 && mapping.permissions & SHARED == 0;
    let open = mapping.permissions & (READ | WRITE) == READ | WRITE;
    anonymous && open && mapping.allocator.is_none() && matches!(mapping.kind, Kind::Anon | Kind::ThreadStack)
}

fn is_guard(mapping: &Mapping, end: u64) -> bool {
    mapping.end == end
        && mapping.permissions == 0
        && mapping.inode == 0
        && mapping.size() <= GUARD_BYTES
        && matches!(mapping.kind, Kind::Guard | Kind::ThreadStack)
}
