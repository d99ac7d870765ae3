//! `memtrace doctor` from outside, with whatever rights and kernel the tests run under.

use assert_cmd::Command;
use serde_json::Value;
use std::process::Output;

fn doctor(arguments: &[&str]) -> Output {
    let mut command = Command::cargo_bin("memtrace").expect("the program was built");
    command.arg("doctor").args(arguments).output().expect("the program runs")
}

#[test]
fn the_object_agrees_with_itself_and_with_the_exit_code() {
    let output = doctor(&["--json"]);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches('\n').count(), 1);
    let object: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&object["type"], &object["schema"]), (&"doctor".into(), &1.into()));
    assert_eq!(object["exit_code"], output.status.code().unwrap());
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(object["kernel"], release.trim());

    let checks = object["checks"].as_array().unwrap();
    let state = |check: &Value| check["state"].as_str().unwrap().to_owned();
    for check in checks {
        let state = state(check);
        assert!(["ok", "failed", "limited", "untried", "fact"].contains(&state.as_str()), "{check}");
        assert_eq!(check["blame"].is_string(), state == "failed", "{check}");
        assert_eq!(check["detail"].is_null(), state == "untried", "{check}");
    }
    for group in ["machine", "rights", "kernel types", "probes", "services", "books"] {
        assert!(checks.iter().any(|check| check["group"] == group), "{group}");
    }
    for name in ["BTF", "tracefs", "tp_btf/rss_stat", "syscalls:sys_exit_mmap", "membarrier", "a known change"] {
        assert_eq!(checks.iter().filter(|check| check["name"] == name).count(), 1, "{name}");
    }

    let failed: Vec<&Value> = checks.iter().filter(|check| state(check) == "failed").collect();
    let wanted = if failed.is_empty() {
        0
    } else if failed.iter().any(|check| check["blame"] == "kernel") {
        5
    } else {
        4
    };
    assert_eq!(object["exit_code"], wanted, "{failed:?}");
    assert_eq!(object["mode"], if failed.is_empty() { "exact" } else { "procfs" });
    assert_eq!(object["mode_reason"].is_null(), failed.is_empty());
    if failed.is_empty() {
        assert!(!checks.iter().any(|check| state(check) == "untried"), "exact, and something was not tried");
    }
}

#[test]
fn the_text_ends_with_the_same_verdict() {
    let output = doctor(&["--color", "never"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\x1b'));
    let exact = text.contains("\nmode exact: ");
    assert_eq!(exact, output.status.code() == Some(0), "{text}");
    assert_eq!(exact, !text.contains("\n  ✗ "), "{text}");
    assert_eq!(exact, !text.contains("\nmode procfs: "), "{text}");
    if !exact {
        assert!(text.contains("      try: "), "{text}");
    }
}

/// `memtrace` under another program that takes something away first. `None` where that program cannot.
fn under(program: &str, arguments: &[&str], memtrace: &[&str]) -> Option<Output> {
    let run = |tail: &[&str]| std::process::Command::new(program).args(arguments).args(tail).output();
    match run(&["true"]) {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            println!("skipped: {program}: {}", String::from_utf8_lossy(&output.stderr).trim());
            return None;
        }
        Err(error) => {
            println!("skipped: {program}: {error}");
            return None;
        }
    }
    Some(run(&[&[env!("CARGO_BIN_EXE_memtrace")], memtrace].concat()).expect("it ran a moment ago"))
}

#[test]
fn without_capabilities_it_is_told_which_are_missing() {
    let Some(output) = under("setpriv", &["--bounding-set=-all", "--inh-caps=-all"], &["doctor", "--json"]) else {
        return;
    };
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_ne!(output.status.code(), Some(0), "{object}");
    let checks = object["checks"].as_array().unwrap();
    let of = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap();
    assert_eq!(of("CAP_BPF")["state"], "limited");
    // User 0 without capabilities is still called what it is.
    // SAFETY: geteuid takes nothing and cannot fail.
    assert_eq!(of("user")["detail"] == "root", unsafe { libc::geteuid() } == 0);
    let maps = checks.iter().find(|check| check["name"] == "maps and ring buffer");
    // A kernel without types fails before that.
    if let Some(maps) = maps {
        assert_eq!((&maps["state"], &maps["blame"]), (&"failed".into(), &"permission".into()), "{maps}");
        assert!(maps["detail"].as_str().unwrap().contains("CAP_BPF is missing"), "{maps}");
    }
    assert_eq!(of("tp_btf/rss_stat")["state"], "untried");
}

#[test]
fn other_process_ids_than_the_machines_are_refused() {
    const NAMESPACE: [&str; 2] = ["--pid", "--fork"];
    let Some(output) = under("unshare", &NAMESPACE, &["doctor", "--json"]) else { return };
    assert_eq!(output.status.code(), Some(5));
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = object["checks"].as_array().unwrap();
    let of = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap();
    assert_eq!(of("PID namespace")["state"], "failed");
    assert_eq!(of("a known change")["state"], "untried");

    let Some(output) = under("unshare", &NAMESPACE, &["--duration", "1s", "--", "true"]) else { return };
    assert_eq!(output.status.code(), Some(5));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("PID namespace") && text.contains("try: memtrace --no-bpf --pid N"), "{text}");
    let Some(output) = under("unshare", &NAMESPACE, &["--no-bpf", "--duration", "1s", "--", "true"]) else { return };
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}
