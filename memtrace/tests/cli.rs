//! The program from outside: what works without root, without probes and on any machine.

use assert_cmd::Command;

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
