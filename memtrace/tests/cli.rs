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
