//! What a burst means, in one sentence, for every view. Nothing is said that the burst does not hold: a kind of memory by
//! its cause, a mapping where nearly all of it is one, code by its name, a node of a plan where a function names it.

use super::escape::basename;
use super::fold::fold;
use super::human::{count, duration, percent, size};
use super::words::{mapping_phrase, syscall_label};
use crate::statement::{Burst, Kind, MappingRef, Part, Stack};
use crate::units::Amounts;
use memtrace_common::Cause;
use std::collections::BTreeMap;

/// PostgreSQL's functions by what they do for a query. A stack is asked from its innermost function on; a sort inside an
/// index build is that. Names end with `*` where only their beginning counts.
const NODES: [(&str, &[&str]); 10] = [
    (
        INDEX_BUILD,
        &[
            "index_build",
            "btbuild",
            "_bt_leafbuild",
            "_bt_load",
            "gistbuild",
            "ginbuild",
            "brinbuild",
            "hashbuild",
            "spgbuild",
            "_bt_parallel_build_main",
        ],
    ),
    (
        "hash join build",
        &[
            "MultiExecHash",
            "MultiExecParallelHash",
            "MultiExecPrivateHash",
            "ExecHashTable*",
            "ExecHashIncrease*",
            "ExecParallelHash*",
        ],
    ),
    ("hash join", &["ExecHashJoin*"]),
    (SORT, &["tuplesort_*", "ExecSort", "ExecIncrementalSort"]),
    (
        "hash aggregation",
        &[
            "agg_fill_hash_table",
            "agg_retrieve_hash_table*",
            "lookup_hash_entries",
            "hash_agg_*",
            "hashagg_*",
            "LookupTupleHashEntry*",
        ],
    ),
    ("aggregation", &["ExecAgg", "agg_retrieve_direct", "ExecWindowAgg"]),
    ("materialisation", &["ExecMaterial", "tuplestore_*", "ExecMemoize", "ExecCteScan"]),
    ("bitmap scan", &["MultiExecBitmap*", "tbm_*", "BitmapHeapNext"]),
    ("just-in-time compilation", &["llvm_compile_*", "llvm_get_function", "llvm_optimize_module"]),
    ("scan of a table", &["SeqNext", "ExecSeqScan*", "IndexNext*", "ExecIndexScan*", "heapam_index_build_range_scan"]),
];
const INDEX_BUILD: &str = "index build";
const SORT: &str = "sort";

/// From this part on, in percent, one mapping is what the burst was; what is not less than the rest is worth a word.
const MOST: u64 = 80;
/// A thread with less than this part of the faults is not one of those that rose.
const THREAD: u64 = 16;
/// Time in faults below this many per cent is not worth advice.
const ADVICE: u64 = 5;

/// How large parts are of the whole: by pages that moved, or by faults where hardly any page did (copies of a parent's
/// pages leave the counters as they are).
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    by_pages: bool,
    /// Of the whole burst.
    pub whole: u64,
}

impl Weights {
    /// Of a burst.
    #[must_use]
    pub fn of(burst: &Burst) -> Self {
        let sum = |of: fn(&Part<Cause>) -> u64| burst.causes.iter().map(of).fold(0, u64::saturating_add);
        let (pages, faults) = (sum(|part| pages(part.delta)), burst.faults.shown());
        let by_pages = pages >= faults / 2;
        Self { by_pages, whole: if by_pages { pages } else { faults } }
    }

    /// Of a part of it.
    #[must_use]
    pub const fn part<T>(self, part: &Part<T>) -> u64 {
        if self.by_pages { pages(part.delta) } else { part.faults.shown() }
    }
}

const fn pages(delta: Amounts) -> u64 {
    delta.anon.unsigned_abs().saturating_add(delta.file.unsigned_abs()).saturating_add(delta.shmem.unsigned_abs())
}

/// Time in faults, nanoseconds, and the time that the threads had which rose: the burst's length times their number. `None`
/// where no fault was timed.
#[must_use]
pub fn time_in_faults(burst: &Burst) -> Option<(u64, u64)> {
    let total = burst.latency.estimated_total_ns(burst.faults.shown())?;
    let rose = burst.threads.iter().filter(|part| part.faults.shown() >= burst.faults.shown() / THREAD).count();
    let wall = burst.ts_ns.saturating_sub(burst.start_ns).saturating_mul(rose.max(1) as u64);
    // A few samples of a short burst may promise more time than there was.
    Some((total.min(wall), wall))
}

/// What a stack does for a query, where one of its functions says so.
#[must_use]
pub fn node(stack: &Stack) -> Option<&'static str> {
    let mut found = None;
    for frame in stack.frames.iter().filter(|frame| basename(&frame.module).starts_with(b"postgres")) {
        for symbol in &frame.symbols {
            let named = NODES.iter().find(|(_, names)| names.iter().any(|name| matches(name, &symbol.name)));
            match named {
                Some(&(INDEX_BUILD, _)) if matches!(found, None | Some(SORT)) => return Some(INDEX_BUILD),
                Some(&(node, _)) => found = found.or(Some(node)),
                None => {}
            }
        }
    }
    found
}

fn matches(pattern: &str, name: &[u8]) -> bool {
    // Compilers append what they did to a function: `.part.0`.
    let name = name.split(|&byte| byte == b'.').next().unwrap_or_default();
    match pattern.strip_suffix('*') {
        Some(begin) => name.starts_with(begin.as_bytes()),
        None => name == pattern.as_bytes(),
    }
}

/// Parts of a burst by the function that says what its memory is for, largest first: name, weight, and the largest stack.
#[must_use]
pub fn by_function(burst: &Burst) -> Vec<(String, u64, &Stack)> {
    let weights = Weights::of(burst);
    let mut functions: BTreeMap<String, (u64, u64, &Stack)> = BTreeMap::new();
    for part in &burst.stacks {
        let Some(stack) = part.of.as_deref() else { continue };
        let Some(name) = fold(stack).first().map(super::fold::Call::name) else { continue };
        let weight = weights.part(part);
        let (sum, largest, shown) = functions.entry(name).or_insert((0, weight, stack));
        *sum = sum.saturating_add(weight);
        if weight > *largest {
            (*largest, *shown) = (weight, stack);
        }
    }
    let mut sorted: Vec<_> = functions.into_iter().map(|(name, (sum, _, stack))| (name, sum, stack)).collect();
    sorted.sort_by_key(|(_, sum, _)| std::cmp::Reverse(*sum));
    sorted
}

/// The burst in one sentence without its full stop: what came, where that was, which code, and what follows from it.
#[must_use]
pub fn verdict(burst: &Burst) -> String {
    let weights = Weights::of(burst);
    let largest = burst.causes.iter().max_by_key(|part| weights.part(part));
    let Some(main) = largest else { return "faults of unknown code".to_owned() };
    let mut text = what(burst, main.of, &memory(burst, weights));
    let functions = by_function(burst);
    let telling = |weight: u64| weight > 0 && weight.saturating_mul(100) >= weights.whole.saturating_mul(100 - MOST);
    if let Some((name, weight, stack)) = functions.first().filter(|(_, weight, _)| telling(*weight)) {
        text.push_str(&match part_of(*weight, weights.whole) {
            None => format!(": all of it in {name}"),
            Some(share) => format!(": {share} of it in {name}"),
        });
        if let Some(node) = node(stack) {
            text.push_str(&format!(" ({node})"));
        }
    }
    let other = burst.causes.iter().filter(|part| part.of != main.of).max_by_key(|part| weights.part(part));
    if let Some(other) = other.filter(|other| telling(weights.part(other)))
        && let Some(share) = percent(weights.part(other), weights.whole)
    {
        text.push_str(&format!("; {share} was {}", super::words::cause_phrase(other.of)));
    }
    if let Some(advice) = advice(burst, main.of) {
        text.push_str(&format!("; {advice}"));
    }
    text
}

/// `None` for all but less than half a percent.
fn part_of(part: u64, whole: u64) -> Option<String> {
    if part.saturating_mul(1_000) >= whole.saturating_mul(995) { None } else { percent(part, whole) }
}

fn what(burst: &Burst, cause: Cause, memory: &str) -> String {
    let forked = |mapping: &MappingRef| {
        matches!(mapping.kind, Kind::Heap | Kind::Stack | Kind::ThreadStack | Kind::Anon | Kind::Arena)
    };
    let of_forked = burst.mappings.first().and_then(|part| part.of.as_deref()).is_some_and(forked);
    match cause {
        Cause::FaultAnon => format!("first touch of {memory}"),
        Cause::FaultThp => format!("first touch, in huge pages, of {memory}"),
        Cause::FaultCow if of_forked => {
            format!("writes to pages still shared since a fork, each one copied, in {memory}")
        }
        Cause::FaultCow => format!("writes to private pages of a file, each one copied, in {memory}"),
        Cause::FaultFile => format!("pages mapped in from the page cache, of {memory}"),
        Cause::FaultFileRead => format!("pages that were not in the page cache and were read from disk, of {memory}"),
        Cause::FaultShmem => format!("this process's first touch of {memory}"),
        Cause::FaultSwapin => format!("pages read back from swap, of {memory}"),
        Cause::Uffd => format!("pages filled in through userfaultfd, of {memory}"),
        _ => format!("faults that brought no page, in {memory}"),
    }
}

/// Which memory.
fn memory(burst: &Burst, weights: Weights) -> String {
    let Some(first) = burst.mappings.iter().max_by_key(|part| weights.part(part)) else {
        return "unknown memory".to_owned();
    };
    let Some(mapping) = &first.of else { return "memory that has no mapping any more".to_owned() };
    let share = weights.part(first);
    if share.saturating_mul(100) < weights.whole.saturating_mul(MOST) {
        let most = percent(share, weights.whole).unwrap_or_default();
        return format!("several mappings, {most} of it {}", named(mapping));
    }
    let mut text = named(mapping);
    // A heap and a stack grow; when they began says nothing.
    if let Some(birth) = mapping.birth.as_ref().filter(|_| !matches!(mapping.kind, Kind::Heap | Kind::Stack)) {
        let age = match burst.start_ns.checked_sub(birth.ts_ns) {
            Some(age) => format!("{} before", duration(age)),
            None => "meanwhile".to_owned(),
        };
        match birth.stack.as_deref().and_then(|stack| fold(stack).first().map(super::fold::Call::name)) {
            Some(maker) => text.push_str(&format!(" that {maker} had made {age}")),
            None => text.push_str(&format!(" made {age} by {}", syscall_label(birth.nr))),
        }
    }
    text
}

/// `a 512.0 MiB anonymous mapping`, `the heap (12.0 MiB)`, `file /srv/data (1.00 GiB)`.
fn named(mapping: &MappingRef) -> String {
    let extent = size(mapping.end.saturating_sub(mapping.start));
    let phrase = mapping_phrase(mapping);
    match mapping.kind {
        Kind::Several => phrase,
        Kind::Anon | Kind::Arena | Kind::ThreadStack if mapping.name.is_empty() => format!("a {extent} {phrase}"),
        Kind::Heap | Kind::Stack => format!("the {phrase} ({extent})"),
        _ => format!("{phrase} ({extent})"),
    }
}

fn advice(burst: &Burst, cause: Cause) -> Option<String> {
    if cause == Cause::FaultSwapin {
        return Some("memory was too short to keep them before".to_owned());
    }
    let (faulting, wall) = time_in_faults(burst)?;
    if faulting.saturating_mul(100) < wall.saturating_mul(ADVICE) {
        return None;
    }
    let share = percent(faulting.min(wall), wall)?;
    match cause {
        Cause::FaultAnon | Cause::FaultShmem => {
            Some(format!("pre-faulting or huge pages would save at most the {share} of the time that went into faults"))
        }
        Cause::FaultThp => {
            Some(format!("pre-faulting would save at most the {share} of the time that went into faults"))
        }
        Cause::FaultFileRead => {
            Some(format!("reading ahead would save at most the {share} of the time that went into faults"))
        }
        Cause::FaultFile if is_data(burst) => {
            Some(format!("MAP_POPULATE would save at most the {share} of the time that went into faults"))
        }
        _ => None,
    }
}

/// Nearly all of it is in one file that is not code.
fn is_data(burst: &Burst) -> bool {
    let weights = Weights::of(burst);
    burst.mappings.first().is_some_and(|part| {
        let data =
            |mapping: &MappingRef| matches!(mapping.kind, Kind::File | Kind::Tmpfs | Kind::PosixShm | Kind::Memfd);
        part.of.as_deref().is_some_and(data)
            && weights.part(part).saturating_mul(100) >= weights.whole.saturating_mul(MOST)
    })
}

/// `72,700 faults/s`.
pub(super) fn rate(burst: &Burst) -> String {
    let wall = u128::from(burst.ts_ns.saturating_sub(burst.start_ns).max(1));
    let rate = u128::from(burst.faults.shown()) * 1_000_000_000 / wall;
    format!("{} faults/s", count(u64::try_from(rate).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests;
