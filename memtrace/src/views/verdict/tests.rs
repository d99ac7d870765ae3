use super::*;
use crate::event::{StackEnd, StackId, Symbol};
use crate::statement::{Birth, Faults, Frame};
use crate::views::sample;
use std::sync::Arc;

fn stack(module: &str, names: &[&str]) -> Arc<Stack> {
    let frame = |name: &&str| {
        let symbol = Symbol { name: name.as_bytes().to_vec(), file: Vec::new(), line: 0 };
        Arc::new(Frame {
            ip: 1,
            module: module.as_bytes().to_vec(),
            offset: 1,
            build_id: Vec::new(),
            symbols: vec![symbol],
            symbol_offset: 0,
        })
    };
    Arc::new(Stack { id: StackId(1), frames: names.iter().map(frame).collect(), end: StackEnd::Root })
}

/// A burst of one cause on one mapping by one stack.
fn plain(cause: Cause, kind: Kind, name: &str, stack: Option<Arc<Stack>>) -> Burst {
    let burst = sample::burst();
    let (delta, faults) = (burst.causes[0].delta, burst.causes[0].faults);
    let mapping = MappingRef { kind, name: name.as_bytes().to_vec(), birth: None, ..(*sample::hash_table()).clone() };
    Burst {
        delta,
        faults,
        causes: vec![Part { of: cause, delta, faults }],
        mappings: vec![Part { of: Some(Arc::new(mapping)), delta, faults }],
        stacks: stack.map(|stack| Part { of: Some(stack), delta, faults }).into_iter().collect(),
        latency: Default::default(),
        ..burst
    }
}

#[test]
fn the_sample_burst() {
    assert_eq!(
        verdict(&sample::burst()),
        "first touch of a 96.0 MiB anonymous mapping that ExecHashTableCreate had made 3.0 ms before: 93 % of it in \
         ExecHashTableInsert (hash join build); pre-faulting or huge pages would save at most the 15 % of the time that \
         went into faults"
    );
}

#[test]
fn each_kind_has_its_words() {
    for (cause, kind, name, expected) in [
        (Cause::FaultAnon, Kind::Heap, "[heap]", "first touch of the heap (96.0 MiB)"),
        (
            Cause::FaultThp,
            Kind::Anon,
            "work_mem",
            "first touch, in huge pages, of anonymous mapping work_mem (96.0 MiB)",
        ),
        (
            Cause::FaultCow,
            Kind::Heap,
            "[heap]",
            "writes to pages still shared since a fork, each one copied, in the heap (96.0 MiB)",
        ),
        (
            Cause::FaultCow,
            Kind::File,
            "/srv/a",
            "writes to private pages of a file, each one copied, in file /srv/a (96.0 MiB)",
        ),
        (Cause::FaultFile, Kind::File, "/srv/a", "pages mapped in from the page cache, of file /srv/a (96.0 MiB)"),
        (
            Cause::FaultFileRead,
            Kind::File,
            "/srv/a",
            "pages that were not in the page cache and were read from disk, of file /srv/a (96.0 MiB)",
        ),
        (
            Cause::FaultShmem,
            Kind::SharedAnon,
            "/dev/zero (deleted)",
            "this process's first touch of shared anonymous memory (96.0 MiB)",
        ),
        (
            Cause::FaultSwapin,
            Kind::Heap,
            "[heap]",
            "pages read back from swap, of the heap (96.0 MiB); memory was too short to keep them before",
        ),
        (Cause::FaultNone, Kind::Several, "", "faults that brought no page, in several mappings"),
    ] {
        assert_eq!(verdict(&plain(cause, kind, name, None)), expected);
    }
}

#[test]
fn functions_name_nodes_of_a_plan() {
    for (node_expected, names) in [
        (Some("hash join build"), &["ExecHashTableInsert", "MultiExecHash", "ExecHashJoin"][..]),
        (Some("hash join"), &["ExecHashJoinImpl.part.0", "standard_ExecutorRun"]),
        (Some("sort"), &["tuplesort_puttuple_common", "tuplesort_puttupleslot", "ExecSort"]),
        (Some("index build"), &["tuplesort_performsort", "_bt_leafbuild", "btbuild", "index_build"]),
        (Some("scan of a table"), &["ReadBuffer_common", "heapgettup_pagemode", "SeqNext", "ExecSort"]),
        (None, &["PostgresMain", "main"]),
    ] {
        assert_eq!(node(&stack("/usr/lib/postgresql/15/bin/postgres", names)), node_expected, "{names:?}");
        assert_eq!(node(&stack("/usr/bin/other", names)), None);
    }
}

#[test]
fn several_mappings_and_causes_are_said() {
    let mut burst = sample::burst();
    for (part, pages) in burst.causes.iter_mut().zip([600, 400]) {
        part.delta = Amounts { anon: pages, ..Amounts::ZERO };
    }
    for (part, pages) in burst.mappings.iter_mut().zip([600, 400]) {
        part.delta = Amounts { anon: pages, ..Amounts::ZERO };
    }
    burst.faults = Faults { minor: 1_000, major: 0 };
    burst.stacks.clear();
    burst.latency = Default::default();
    assert_eq!(
        verdict(&burst),
        "first touch of several mappings, 60 % of it a 96.0 MiB anonymous mapping; 40 % was first touch of shared memory"
    );
}

#[test]
fn copies_that_move_no_counter_are_weighed_by_faults() {
    let mut burst = plain(Cause::FaultCow, Kind::Anon, "", Some(stack("a", &["snapshot"])));
    burst.delta = Amounts::ZERO;
    burst.causes[0].delta = Amounts::ZERO;
    burst.stacks[0].delta = Amounts::ZERO;
    burst.mappings[0].delta = Amounts::ZERO;
    assert_eq!(
        verdict(&burst),
        "writes to pages still shared since a fork, each one copied, in a 96.0 MiB anonymous mapping: all of it in snapshot"
    );
}

#[test]
fn hostile_names_are_escaped() {
    let evil = "\x1b[2J\u{202e}evil";
    let mut burst = plain(Cause::FaultAnon, Kind::File, evil, Some(stack("a", &[evil])));
    let birth = Birth { ts_ns: 0, nr: 9, tid: 1, stack: Some(stack("a", &[evil])) };
    let mapping = MappingRef { name: evil.as_bytes().to_vec(), birth: Some(birth), ..(*sample::hash_table()).clone() };
    burst.mappings[0].of = Some(Arc::new(mapping));
    let text = verdict(&burst);
    assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text}");
    assert_eq!(text.matches("\\x1b[2J\\u{202e}evil").count(), 3, "{text}");
}

#[test]
fn an_empty_burst_has_a_verdict() {
    let empty = Burst { causes: Vec::new(), mappings: Vec::new(), stacks: Vec::new(), ..sample::burst() };
    assert_eq!(verdict(&empty), "faults of unknown code");
}
