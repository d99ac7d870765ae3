//! The program from outside: what works without root, without probes and on any machine.

use assert_cmd::Command;
use memtrace::event::{End, EndReason, Event, Meta, Mode};
use memtrace::trace::Writer;

fn memtrace(arguments: &[&str]) -> assert_cmd::assert::Assert {
    Command::cargo_bin("memtrace").expect("the program was built").args(arguments).assert()
}

#[test]
fn help_and_version_are_data_on_stdout() {
    for arguments in [["--help"], ["-h"], ["--version"]] {
        let output = memtrace(&arguments).success().get_output().clone();
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
    let version = memtrace(&["--version"]).get_output().stdout.clone();
    assert_eq!(String::from_utf8_lossy(&version), format!("memtrace {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_command_line_without_sense_ends_with_2_and_says_what_to_type() {
    let output = memtrace(&[]).code(2).get_output().clone();
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("memtrace --pid PID"));
    memtrace(&["--pid", "none"]).code(2);
    memtrace(&["--pid", "1", "--interval", "1ms"]).code(2);
}

/// The smallest session: it begins and ends.
fn trace() -> Vec<u8> {
    let meta = Meta {
        version: "0.1.0".into(),
        pid: 1,
        comm: b"init".to_vec(),
        exe: Vec::new(),
        cmdline: Vec::new(),
        kernel: "6.18".into(),
        page_size: 4096,
        mode: Mode::Exact,
        mode_reason: String::new(),
        interval_ns: 1,
        ts_ns: 1,
        wall_ns: 0,
        spawned: false,
        follow: false,
    };
    let mut writer = Writer::new(Vec::new()).expect("a Vec takes everything");
    for event in [Event::Meta(meta), Event::End(End::new(2, EndReason::Duration))] {
        writer.push(&event).expect("a Vec takes everything");
    }
    writer.finish().expect("a Vec takes everything")
}

#[test]
fn an_output_file_with_something_in_it_is_overwritten_only_when_forced() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("a plain path").to_owned();
    let (recording, output) = (path("run.memtrace"), path("out.ndjson"));
    std::fs::write(&recording, trace()).expect("a file can be written");
    std::fs::write(&output, "precious").expect("a file can be written");
    let refused = memtrace(&["replay", &recording, "--json", "-o", &output]).code(1).get_output().clone();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("is there already") && said.contains("--force"), "{said}");
    assert_eq!(std::fs::read(&output).expect("a file can be read"), b"precious");
    memtrace(&["replay", &recording, "--json", "-o", &output, "--force"]).success();
    let written = std::fs::read_to_string(&output).expect("a file can be read");
    assert!(written.starts_with("{\"type\":\"meta\"") && written.lines().count() == 2, "{written}");
    memtrace(&["replay", &recording, "--force"]).code(2);
}

#[test]
fn bursts_alone_are_nothing_where_there_were_none() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let recording = directory.path().join("run.memtrace");
    std::fs::write(&recording, trace()).expect("a file can be written");
    let recording = recording.to_str().expect("a plain path");
    let text = memtrace(&["replay", recording, "--burst-only"]).success().get_output().clone();
    assert!(text.stdout.is_empty() && text.stderr.is_empty());
    let json = memtrace(&["replay", recording, "--burst-only", "--json"]).success().get_output().clone();
    let json = String::from_utf8(json.stdout).expect("JSON is text");
    assert!(json.starts_with("{\"type\":\"meta\"") && json.lines().count() == 1, "{json}");
}

/// A process as `memtrace snapshot --json` writes it, with so many pages in its heap.
fn snapshot(heap_pages: u64) -> Vec<u8> {
    use memtrace::snapshot::{Counters, Mapping, Process, Resident, Snapshot};
    let anonymous = heap_pages * 4096;
    let heap = Mapping {
        start: 0x5000_0000,
        end: 0x5010_0000,
        permissions: 3,
        offset: 0,
        device: 0,
        inode: 0,
        kind: memtrace::statement::Kind::Heap,
        name: b"[heap]".to_vec(),
        allocator: None,
        thread: None,
        resident: Some(Resident { rss: anonymous, anonymous, ..Resident::default() }),
        detail: None,
    };
    let counters = Counters { virt: 1 << 20, anon: anonymous, ..Counters::default() };
    let process = Process {
        pid: 7,
        start_time: 1,
        comm: b"st\x1bore".to_vec(),
        exe: None,
        cmdline: Vec::new(),
        time_ns: heap_pages as i64 * 1_000_000_000,
        page_size: 4096,
        state: b'S',
        counters: Some(counters),
        counters_after: Some(counters),
        rollup: None,
        mappings: Some(vec![heap]),
        files: None,
        sources: Vec::new(),
        given_up: Vec::new(),
    };
    let mut out = Vec::new();
    let snapshot = Snapshot { processes: vec![process], ..Snapshot::default() };
    memtrace::views::snapshot::json::render(&snapshot, &mut out).expect("a Vec takes everything");
    out
}

#[test]
fn two_snapshots_are_compared_anywhere() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("a plain path").to_owned();
    let (before, after, output) = (path("before.json"), path("after.json"), path("out.txt"));
    std::fs::write(&before, snapshot(3)).expect("a file can be written");
    std::fs::write(&after, snapshot(5)).expect("a file can be written");
    let compared = memtrace(&["snapshot", "--diff", &before, &after]).success().get_output().clone();
    let text = String::from_utf8(compared.stdout).expect("text");
    assert!(text.starts_with("st\\x1bore[7] · 2.0 s until 1970-01-01 00:00:05.000 UTC\n"), "{text}");
    assert!(text.contains("RES 12 KiB → 20 KiB, +8 KiB = anon +8 KiB + SHR ±0"), "{text}");
    let json = memtrace(&["snapshot", "--diff", &before, &after, "--json"]).success().get_output().clone();
    let line: serde_json::Value = serde_json::from_slice(&json.stdout).expect("one line");
    assert_eq!((&line["type"], &line["rows"][0]["change"]["res"]), (&"diff".into(), &8192.into()));
    assert_eq!(line["unexplained"], serde_json::json!({"res": 0, "anon": 0, "shr": 0}));
    memtrace(&["snapshot", "--diff", &before, &after, "-o", &output]).success();
    assert_eq!(std::fs::read_to_string(&output).expect("a file can be read"), text);
    memtrace(&["snapshot", "--diff", &before, &after, "-o", &output]).code(1);
    memtrace(&["snapshot", "--diff", &before, &after, "-o", &output, "--force"]).success();
}

#[test]
fn a_file_that_is_no_snapshot_is_refused_with_what_to_type() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("a plain path").to_owned();
    let (good, bad) = (path("good.json"), path("bad\x1b.json"));
    std::fs::write(&good, snapshot(3)).expect("a file can be written");
    let said = |arguments: &[&str]| {
        let refused = memtrace(arguments).code(1).get_output().clone();
        assert!(refused.stdout.is_empty());
        String::from_utf8(refused.stderr).expect("text")
    };
    for (content, what) in [
        (&b""[..], "no line of it is a snapshot"),
        (b"\x1b[2J", ": not a memtrace snapshot"),
        (b"\n{\"type\":\"snapshot\",\"schema\":2}", "line 2: a snapshot of another schema"),
        (b"{\"type\":\"snapshot\",\"schema\":1}", "line 1: column 30: missing field"),
    ] {
        std::fs::write(&bad, content).expect("a file can be written");
        let text = said(&["snapshot", "--diff", &good, &bad]);
        assert!(text.contains(what) && text.contains("try: memtrace snapshot --pid N --json -o FILE"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }
    assert!(said(&["snapshot", "--diff", &good, &path("missing")]).contains("failed to open"));
}
