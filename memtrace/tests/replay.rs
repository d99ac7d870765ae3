//! Recorded sessions replayed: the same statements, byte for byte, without root, without probes, on any machine.
//!
//! Every trace in `tests/traces` is replayed; what it must print lies beside it. `MEMTRACE_BLESS=1` writes that anew.

use assert_cmd::Command;
use memtrace::event::Event;
use memtrace::trace::{ReadEnd, Reader};
use serde_json::Value;
use std::path::{Path, PathBuf};

const TRACE: &str = "memtrace";
const CLASSES: [&str; 4] = ["anon", "file", "shmem", "swap"];

/// What a replay printed.
struct Replay {
    stdout: Vec<u8>,
    stderr: String,
}

impl Replay {
    /// Replays a trace, which must succeed.
    fn of(trace: &Path, arguments: &[&str]) -> Self {
        let output = Command::cargo_bin("memtrace")
            .expect("the program was built")
            .arg("replay")
            .arg(trace)
            .args(arguments)
            .assert()
            .success()
            .get_output()
            .clone();
        Self { stdout: output.stdout, stderr: String::from_utf8(output.stderr).expect("stderr is text") }
    }

    fn objects(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.stdout).expect("NDJSON is text");
        text.lines().map(|line| serde_json::from_str(line).expect("each line is an object")).collect()
    }
}

fn traces() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/traces");
    let mut traces: Vec<PathBuf> = std::fs::read_dir(&dir)
        .expect("tests/traces is there")
        .map(|entry| entry.expect("tests/traces can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == TRACE))
        .collect();
    traces.sort();
    assert!(!traces.is_empty(), "no trace in {}", dir.display());
    traces
}

/// Compares with the golden file, or makes it.
fn assert_golden(golden: &Path, printed: &[u8]) {
    if std::env::var_os("MEMTRACE_BLESS").is_some_and(|bless| bless == "1") {
        std::fs::write(golden, printed).expect("the golden file can be written");
        return;
    }
    let told = std::fs::read(golden).unwrap_or_default();
    if told == printed {
        return;
    }
    let (told, printed) = (String::from_utf8_lossy(&told), String::from_utf8_lossy(printed));
    let (mut told_lines, mut printed_lines) = (told.lines(), printed.lines());
    for number in 1.. {
        let pair = (told_lines.next(), printed_lines.next());
        if pair.0 != pair.1 || pair == (None, None) {
            panic!(
                "{}, line {number}\n  golden: {}\n  replay: {}\nif the replay is right: \
                 MEMTRACE_BLESS=1 cargo test -p memtrace --no-default-features --test replay",
                golden.display(),
                pair.0.unwrap_or("(the end)"),
                pair.1.unwrap_or("(the end)")
            );
        }
    }
}

#[test]
fn every_trace_prints_its_golden_text() {
    for trace in traces() {
        let replay = Replay::of(&trace, &[]);
        assert_eq!(replay.stderr, "", "{}", trace.display());
        assert_golden(&trace.with_extension("txt"), &replay.stdout);
    }
}

#[test]
fn every_trace_prints_its_golden_ndjson() {
    for trace in traces() {
        let replay = Replay::of(&trace, &["--json"]);
        assert_eq!(replay.stderr, "", "{}", trace.display());
        assert_golden(&trace.with_extension("ndjson"), &replay.stdout);
    }
}

fn bytes(amounts: &Value) -> [i64; 4] {
    CLASSES.map(|class| amounts[class].as_i64().expect("an amount in bytes"))
}

fn sum(amounts: impl Iterator<Item = [i64; 4]>) -> [i64; 4] {
    amounts.fold([0; 4], |sum, amount| std::array::from_fn(|class| sum[class] + amount[class]))
}

/// `closing − opening = Σ causes + unexplained`, per class; the number of lines on which that was held.
fn assert_books(objects: &[Value]) -> usize {
    let mut held = 0;
    for object in objects {
        let causes = match object["type"].as_str().expect("a type") {
            "statement" => {
                sum(object["entries"].as_array().expect("entries").iter().map(|entry| bytes(&entry["delta"])))
            }
            "closing" | "end" => sum(object["by_cause"].as_object().expect("by_cause").values().map(bytes)),
            _ => continue,
        };
        let (opening, closing) = (bytes(&object["opening"]), bytes(&object["closing"]));
        let told = sum([causes, bytes(&object["unexplained"])].into_iter());
        let change: [i64; 4] = std::array::from_fn(|class| closing[class] - opening[class]);
        assert_eq!(change, told, "the books do not close: {object}");
        held += 1;
    }
    held
}

#[test]
fn the_books_of_every_trace_close_with_nothing_unexplained() {
    let mut most = 0;
    for trace in traces() {
        let objects = Replay::of(&trace, &["--json"]).objects();
        let held = assert_books(&objects);
        assert!(held >= 2, "{} has no closing and no end", trace.display());
        most = most.max(held);
        for object in objects.iter().filter(|object| object.get("unexplained").is_some()) {
            assert_eq!(bytes(&object["unexplained"]), [0; 4], "{object}");
        }
    }
    assert!(most > 2, "no trace tells of a change");
}

/// A file of its own with these bytes.
fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("a temporary file can be written");
    file
}

/// Where the frames of a trace end, the first one excepted: it holds the session's begin. After the last one only the
/// file's own end is missing.
fn cuts(trace: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 10;
    while let Some(length) = trace.get(at..at + 4) {
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        at += 12 + length;
        ends.push(at);
        if length == 0 {
            break;
        }
    }
    assert_eq!(ends.pop(), Some(trace.len()), "the end is the last thing in the file");
    ends.split_off(1)
}

#[test]
fn a_cut_trace_replays_up_to_the_cut_and_says_so() {
    for trace in traces() {
        let whole = std::fs::read(&trace).expect("the trace can be read");
        let all = Replay::of(&trace, &["--json"]).objects();
        let cuts = cuts(&whole);
        let mut shortest = usize::MAX;
        for end in &cuts {
            let whole_end = all.last().expect("an end")["reason"].as_str().expect("a reason");
            let reason = if end == cuts.last().expect("a last frame") { whole_end } else { "truncated" };
            // Between two frames, and within the one that follows.
            for cut in [*end, end + 5] {
                let file = file_of(&whole[..cut]);
                let replay = Replay::of(file.path(), &["--json"]);
                let said = format!(
                    "the trace is cut: what is complete ends at byte {end}; everything before it was replayed\n"
                );
                assert!(replay.stderr.ends_with(&said), "cut at {cut}: {}", replay.stderr);
                let objects = replay.objects();
                assert_books(&objects);
                let ends: Vec<&Value> = objects.iter().filter(|object| object["type"] == "end").collect();
                assert_eq!(ends.len(), 1, "cut at {cut}");
                assert_eq!(objects.last(), Some(ends[0]), "cut at {cut}");
                assert_eq!(ends[0]["reason"], reason, "cut at {cut}");
                // What is told before the closing statement; an interval that the cut left open is told in nothing.
                let mut told = objects.iter().take_while(|object| object["type"] != "closing").count();
                // What the cut interrupts is told with what is known of it, and so is what the session comes to.
                let cut_off =
                    |object: &Value| ["burst", "span", "spans", "stuck"].iter().any(|kind| object["type"] == *kind);
                while cut_off(&objects[told - 1]) {
                    told -= 1;
                }
                assert!(objects[..told] == all[..told], "cut at {cut}");
                shortest = shortest.min(told);
            }
        }
        assert!(cuts.len() > 5 && shortest < all.len() / 2, "the trace is too short to be cut");
    }
}

#[test]
fn a_damaged_trace_replays_up_to_the_damage_and_says_so() {
    for trace in traces() {
        let mut bytes = std::fs::read(&trace).expect("the trace can be read");
        let cuts = cuts(&bytes);
        let frame = cuts[cuts.len() / 2];
        bytes[frame + 12] ^= 1;
        let replay = Replay::of(file_of(&bytes).path(), &["--json"]);
        let said = format!("the checksum of the frame at byte {frame} is wrong; everything before it was replayed\n");
        assert!(replay.stderr.ends_with(&said), "{}", replay.stderr);
        let objects = replay.objects();
        assert_books(&objects);
        assert_eq!(objects.last().expect("an end")["reason"], "truncated");
    }
}

#[test]
fn traces_in_the_repository_name_no_home() {
    for trace in traces() {
        let bytes = std::fs::read(&trace).expect("the trace can be read");
        let mut reader = Reader::new(bytes.as_slice()).expect("a trace");
        for event in &mut reader {
            let event = event.expect("an undamaged trace");
            let names: Vec<&[u8]> = match &event {
                Event::Meta(meta) => vec![&meta.exe, &meta.cmdline],
                Event::Maps(maps) => maps.lines.iter().map(|line| line.name.as_slice()).collect(),
                _ => continue,
            };
            for name in names {
                let text = String::from_utf8_lossy(name);
                assert!(!["/home/", "/root/", "/work/"].iter().any(|home| text.contains(home)), "{text}");
            }
        }
        assert_eq!(reader.end(), Some(ReadEnd::Complete), "{}", trace.display());
    }
}
