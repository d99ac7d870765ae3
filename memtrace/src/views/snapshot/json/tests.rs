use super::stored::{Error, read};
use super::*;
use crate::snapshot::diff::Levels;
use crate::snapshot::{Detail, GivenUp, MappedFile, Reason, Resident, Source, SourceCost, Thread};
use crate::statement::Kind;
use crate::views::snapshot::sample;
use proptest::prelude::*;
use serde_json::Value;

fn written(snapshot: &Snapshot) -> String {
    let mut out = Vec::new();
    render(snapshot, &mut out).expect("a Vec takes everything");
    String::from_utf8(out).expect("JSON is text")
}

fn alone(process: Process) -> Snapshot {
    Snapshot { processes: vec![process], ..Snapshot::default() }
}

/// The lines that docs/ndjson.md shows.
pub(in crate::views) fn documented() -> Vec<Value> {
    let snapshot = sample::two(1_024);
    let mut later = sample::small(4_711, 1_280);
    later.time_ns += 2_000_000_000;
    let mut text = Vec::new();
    diff::render(&crate::snapshot::diff::diff(&snapshot.processes[0], &later), &mut text)
        .expect("a Vec takes everything");
    let mut later = sample::two(1_280);
    later.processes.iter_mut().for_each(|process| process.time_ns += 2_000_000_000);
    let together = |snapshot| read(written(snapshot).as_bytes()).expect("it was just written").together.expect("two");
    diff::render_together(&together(&snapshot), &together(&later), &mut text).expect("a Vec takes everything");
    let text = written(&snapshot) + &String::from_utf8(text).expect("JSON is text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn the_samples_come_back() {
    for process in
        [sample::postgres(), sample::not_permitted(), sample::over_budget(), sample::zombie(), sample::hostile()]
    {
        let snapshot = alone(process);
        let text = written(&snapshot);
        assert_eq!(read(text.as_bytes()).expect("it was just written").processes, snapshot.processes, "{text}");
    }
}

#[test]
fn a_group_has_a_line_of_its_own_and_what_is_compared_of_it_comes_back() {
    let snapshot = sample::group(true);
    let text = written(&snapshot);
    assert_eq!(text.lines().count(), 10);
    assert_eq!(read(text.as_bytes()).expect("it was just written").processes, snapshot.processes);
    let levels = |text: &str| read(text.as_bytes()).expect("it was just written").together.expect("a group").levels;
    let (known, physical) =
        (snapshot.group.as_ref().expect("made so"), snapshot.group.as_ref().and_then(|g| g.physical.as_ref()));
    assert_eq!(
        levels(&text),
        Levels {
            sum_res: Some(known.sum_res),
            sum_pss: known.sum_pss,
            res: physical.map(|p| p.res),
            uss: physical.map(|p| p.uss)
        }
    );
    assert_eq!((levels(&written(&sample::group(false))).res, levels(&text).uss.is_some()), (None, true));
    let group: Value = serde_json::from_str(text.lines().last().expect("ten lines")).expect("JSON");
    assert_eq!(group["pairs"].as_array().map(Vec::len), Some(36));
    assert_eq!(group["pairs"][0]["b"], 4_712);
    let (process, buffers) = (&snapshot.processes[0], 4);
    let start = process.mappings.as_ref().expect("known")[buffers].start;
    assert_eq!(group["links"][0]["a"]["start"], format!("{start:#x}"));
    let unknown: Value =
        serde_json::from_str(written(&sample::group(false)).lines().last().expect("ten lines")).expect("JSON");
    assert_eq!((&unknown["res"], &unknown["pairs"]), (&Value::Null, &Value::Null));
    assert_eq!(unknown["given_up"][0]["capability"], "CAP_SYS_ADMIN");
}

#[test]
fn unknown_is_null_and_sums_are_those_of_the_mappings() {
    let value = |process| serde_json::from_str::<Value>(&written(&alone(process))).expect("JSON");
    let unknown = value(sample::not_permitted());
    for field in ["uss", "pss", "swap_pss", "private_file", "rollup", "kinds", "mappings", "files", "exe"] {
        assert_eq!(unknown[field], Value::Null, "{field}");
    }
    let zombie = value(sample::zombie());
    for field in ["virt", "res", "anon", "shr", "swap", "page_tables", "changed_meanwhile"] {
        assert_eq!(zombie[field], Value::Null, "{field}");
    }
    let known = value(sample::postgres());
    for (field, of) in [("rss", "res"), ("pss", "pss"), ("size", "virt")] {
        for rows in ["kinds", "mappings"] {
            let sum: u64 = known[rows].as_array().expect("rows").iter().filter_map(|row| row[field].as_u64()).sum();
            assert_eq!(Some(sum), known[of].as_u64(), "{field} of {rows}");
        }
    }
    let over = value(sample::over_budget());
    assert_eq!((&over["kinds"][0]["pss"], over["kinds"][0]["rss"].is_u64()), (&Value::Null, true));
    assert_eq!(over["changed_meanwhile"]["anon"], 5 << 20);
    assert_eq!(over["given_up"][0]["limit_ns"], 50_000_000);
}

#[test]
fn names_cannot_drive_the_terminal() {
    let text = written(&alone(sample::hostile()));
    assert_eq!(text.lines().count(), 1);
    assert!(!text.trim_end().chars().any(|c| c.is_control() || crate::views::escape::deceives(c)), "{text}");
}

#[test]
fn what_is_no_snapshot_is_refused_with_its_line() {
    let good = written(&alone(sample::postgres()));
    let wrong = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        let text = format!("{}\n\n{}", good.trim_end(), good.replacen(from, to, 1));
        match read(text.as_bytes()) {
            Err(Error::Line { line: 3, what }) => what,
            other => panic!("{to}: {other:?}"),
        }
    };
    assert!(wrong("\"schema\":1", "\"schema\":2").contains("another schema"));
    assert!(wrong("\"pid\":4711", "\"pid\":-1").starts_with("column "));
    assert!(wrong("\"start\":\"0x55d000000000\"", "\"start\":\"0x56d000000000\"").contains("ends before it begins"));
    assert!(wrong("\"end\":\"0x55d0000cf000\"", "\"end\":\"0x55d0000d1000\"").contains("overlap"));
    assert!(
        wrong("\"kind\":\"heap\",\"name\":\"[heap]\"", "\"kind\":\"he\\u001bap\",\"name\":\"\"").contains("unknown")
    );
    assert!(wrong("\"permissions\":\"rw-s\"", "\"permissions\":\"rw-ß\"").contains("permissions"));
    assert!(wrong("\"device\":\"8:2\"", "\"device\":\"8\"").contains("MAJOR:MINOR"));
    assert!(wrong("\"source\":\"smaps\"", "\"source\":\"dice\"").contains("unknown: dice"));
    assert!(matches!(read(&b""[..]), Err(Error::Empty)));
    assert!(matches!(read(&b"{\"type\":\"meta\"}\n"[..]), Err(Error::Empty)));
    for foreign in [&b"PK\x03\x04"[..], b"[1,2", b"{\"a\":1}\n", b"{", b"hello\n"] {
        assert_eq!(read(foreign).map_err(|error| error.to_string()), Err("not a memtrace snapshot".to_owned()));
    }
    let said = |text: String| read(text.as_bytes()).expect_err("it is refused").to_string();
    assert_eq!(said(format!("{good}hello\n")), "line 2: no line that memtrace writes");
    assert_eq!(said(format!("{good}{good}")), "line 2: process 4711 is in it twice: more than one snapshot");
    let several = written(&sample::group(true));
    assert!(several.lines().count() == 10 && read(several.as_bytes()).is_ok());
    let group = several.lines().last().expect("a group");
    assert_eq!(said(format!("{several}{group}\n")), "line 11: a second group: more than one snapshot");
    let up_to = |lines: usize| several.split_inclusive('\n').take(lines).collect::<String>();
    let cut = |lines: usize| said(up_to(lines).trim_end().strip_suffix('}').expect("an object").to_owned());
    assert_eq!(cut(5), "cut off in line 5; the 4 snapshots before it are whole");
    assert_eq!(cut(2), "cut off in line 2; the snapshot before it is whole");
    assert_eq!(cut(1), "cut off in line 1");
    let deep = format!("{{\"type\":\"snapshot\",\"schema\":1,\"x\":{}", "[".repeat(100_000));
    assert!(matches!(read(deep.as_bytes()), Err(Error::CutOff { line: 1, snapshots: 0 })));
}

fn amount() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..1 << 40, any::<u64>()]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-z/\\[\\]:\u{1b}\n\"\\\\é]{0,12}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..12)
    ]
}

prop_compose! {
    fn counters()(a in any::<[u64; 8]>()) -> Counters {
        let [virt, anon, file, shmem, swap, hugetlb, locked, page_tables] = a;
        Counters { virt, anon, file, shmem, swap, hugetlb, locked, page_tables }
    }
}

prop_compose! {
    fn rollup()(a in any::<[u64; 11]>(), private_file in proptest::option::of(amount())) -> Rollup {
        let [rss, pss, private_clean, private_dirty, shared_clean, shared_dirty, anonymous, swap, swap_pss, hugetlb,
             locked] = a;
        Rollup { rss, pss, private_clean, private_dirty, shared_clean, shared_dirty, anonymous, swap, swap_pss, hugetlb,
                 locked, private_file }
    }
}

prop_compose! {
    fn detail()(a in any::<[u64; 10]>()) -> Detail {
        let [pss, private_clean, private_dirty, shared_clean, shared_dirty, swap_pss, locked, hugetlb, ksm, lazy_free] = a;
        Detail { pss, private_clean, private_dirty, shared_clean, shared_dirty, swap_pss, locked, hugetlb, ksm, lazy_free }
    }
}

prop_compose! {
    fn thread()(tid in any::<u32>(), comm in name()) -> Thread {
        Thread { tid, comm }
    }
}

prop_compose! {
    fn resident()(
        [rss, anonymous, huge] in any::<[u64; 3]>(),
        swap in proptest::option::of(any::<u64>()),
    ) -> Resident {
        Resident { rss, anonymous, swap, huge }
    }
}

proptest::prop_compose! {
    /// Its range is a gap and a length, made addresses later.
    fn mapping()(
        (start, end) in (0_u64..1 << 20, 1_u64..1 << 20),
        permissions in 0_u8..16,
        (offset, device, inode) in any::<(u64, u64, u64)>(),
        kind in proptest::sample::select(&Kind::ALL[..]),
        name in name(),
        allocator in proptest::option::of(proptest::sample::select(&Allocator::ALL[..])),
        thread in proptest::option::of(thread()),
        resident in proptest::option::of(resident()),
        detail in proptest::option::of(detail()),
    ) -> Mapping {
        Mapping { start, end, permissions, offset, device, inode, kind, name, allocator, thread, resident, detail }
    }
}

prop_compose! {
    fn file()(
        path in name(),
        (device, inode, mapped, writable_shared, on_disk) in any::<(u64, u64, u64, bool, Option<bool>)>(),
        [size, resident, page_cache, dirty, writeback] in proptest::array::uniform5(proptest::option::of(0_u64..1 << 60)),
    ) -> MappedFile {
        MappedFile { path, device, inode, size, mapped, resident, on_disk, page_cache, dirty, writeback, writable_shared }
    }
}

fn given_up() -> impl Strategy<Value = GivenUp> {
    let reason = prop_oneof![
        "[A-Z_]{0,8}".prop_map(|capability| Reason::NotPermitted { capability }),
        any::<(u64, u64)>().prop_map(|(estimate_ns, limit_ns)| Reason::OverBudget { estimate_ns, limit_ns }),
        Just(Reason::NotOffered),
        Just(Reason::Gone),
        "\\PC{0,8}".prop_map(|what| Reason::Failed { what }),
    ];
    (proptest::sample::select(&Source::ALL[..]), reason).prop_map(|(source, reason)| GivenUp { source, reason })
}

fn source_cost() -> impl Strategy<Value = SourceCost> {
    (proptest::sample::select(&Source::ALL[..]), any::<(u64, u64, u32)>())
        .prop_map(|(source, (cost_ns, longest_call_ns, calls))| SourceCost { source, cost_ns, longest_call_ns, calls })
}

/// Arguments as the reader gives them: each ended by NUL, none empty at the end.
fn cmdline() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec("[a-zé]{1,5}", 0..4)
        .prop_map(|arguments| arguments.iter().flat_map(|a| a.bytes().chain([0])).collect())
}

prop_compose! {
    fn process()(
        (pid, start_time, page_size) in any::<(u32, u64, u64)>(),
        (comm, exe, cmdline) in (name(), proptest::option::of(name()), cmdline()),
        (time_ns, state) in (any::<i64>(), any::<u8>()),
        counters in proptest::option::of((counters(), proptest::option::of(counters()))),
        rollup in proptest::option::of(rollup()),
        mut mappings in proptest::option::of(proptest::collection::vec(mapping(), 0..6)),
        files in proptest::option::of(proptest::collection::vec(file(), 0..3)),
        sources in proptest::collection::vec(source_cost(), 0..4),
        given_up in proptest::collection::vec(given_up(), 0..4),
    ) -> Process {
        let mut at = 0;
        for mapping in mappings.iter_mut().flatten() {
            mapping.start += at;
            mapping.end += mapping.start;
            at = mapping.end;
        }
        Process {
            pid, start_time, comm, exe: exe.filter(|exe| !exe.is_empty()), cmdline, time_ns, page_size, state,
            counters: counters.map(|(counters, _)| counters), counters_after: counters.and_then(|(_, after)| after),
            rollup, mappings, files, sources, given_up,
        }
    }
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_back_equal(processes in proptest::collection::vec(process(), 1..3)) {
        let text = written(&Snapshot { processes: processes.clone(), ..Snapshot::default() });
        prop_assert_eq!(text.lines().count(), processes.len());
        prop_assert_eq!(read(text.as_bytes()).expect("it was just written").processes, processes);
    }

    #[test]
    fn a_damaged_file_is_an_error_or_another_snapshot(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = written(&alone(sample::hostile())).into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let _ = read(&text[..]);
        let _ = read(&text[..at]);
    }
}
