//! Exit codes, and what is told to type.

use super::*;

#[test]
fn the_codes_of_the_contract() {
    assert_eq!(Failure::NoSuchPid { pid: 7 }.exit_code() as u8, 3);
    assert_eq!(Failure::NotPermitted { what: "load".into(), capability: "CAP_BPF" }.exit_code() as u8, 4);
    assert_eq!(Failure::BpfRefused { what: "x".into(), errno: 22, log: String::new() }.exit_code() as u8, 5);
    assert_eq!(Failure::BpfRefused { what: "x".into(), errno: EPERM, log: String::new() }.exit_code() as u8, 4);
    assert_eq!(Failure::Loss { total: 1 }.exit_code() as u8, 6);
}

#[test]
fn an_error_names_the_line_to_type() {
    let text = render(&Failure::NotPermitted { what: "load BPF programs".into(), capability: "CAP_BPF" });
    assert!(text.starts_with("memtrace: not permitted to load BPF programs: CAP_BPF is missing\n  try: "), "{text}");
    assert!(text.contains("sudo setcap cap_bpf,"), "{text}");
    let text = render(&Failure::ThreadId { tid: 12, pid: 11 });
    assert_eq!(text, "memtrace: 12 is a thread of process 11\n  try: memtrace --pid 11\n");
}

#[test]
fn where_the_kernel_takes_no_probes_there_is_a_way_without() {
    for failure in [
        Failure::BpfRefused { what: "x".into(), errno: 22, log: String::new() },
        Failure::NoBtf,
        Failure::BtfShape { what: "x".into() },
        Failure::NoTracefs,
        Failure::PidNamespace,
        Failure::OldKernel { release: "5.4".into(), missing: "x".into() },
    ] {
        assert_eq!(failure.exit_code(), ExitCode::KernelNotUsable, "{failure}");
        assert!(render(&failure).contains("try: memtrace --no-bpf --pid N"), "{failure}");
    }
}

#[test]
fn who_wants_a_snapshot_is_told_how_to_get_one() {
    let of = |failure: Failure| failure.within("snapshot");
    let text = render(&of(Failure::ThreadId { tid: 12, pid: 11 }));
    assert_eq!(text, "memtrace: 12 is a thread of process 11\n  try: memtrace snapshot --pid 11\n");
    for failure in [Failure::NoSuchPid { pid: 7 }, Failure::Zombie { pid: 7 }, Failure::TargetGone { pid: 7 }] {
        let text = render(&of(failure.clone()));
        assert!(text.contains("try: memtrace snapshot --pid N") && !text.contains("memtrace -- "), "{text}");
        assert_eq!(of(failure.clone()).exit_code(), failure.exit_code());
    }
}

#[test]
fn who_asks_why_it_is_stuck_is_told_how_to() {
    let text = render(&Failure::ThreadId { tid: 12, pid: 11 }.within("stuck"));
    assert_eq!(text, "memtrace: 12 is a thread of process 11\n  try: memtrace stuck --pid 11\n");
    // What does not go away is its parent's doing.
    let text = render(&Failure::Zombie { pid: 7 }.within("stuck"));
    assert!(text.contains("try: memtrace stuck --pid $(ps -o ppid= -p 7)        its parent"), "{text}");
    let text = render(&Failure::NoSuchPid { pid: 7 }.within("stuck"));
    assert!(text.contains("try: memtrace stuck --pid N"), "{text}");
}

#[test]
fn what_is_no_cgroup_is_told_with_those_that_are() {
    let of = |roots: &[&str]| {
        let roots = roots.iter().map(|root| format!("/sys/fs/cgroup/{root}")).collect();
        render(&Failure::NotACgroup { path: "/sys/fs/cgroup".into(), roots })
    };
    let text = of(&["memory", "cpu"]);
    assert!(text.contains("version 1 they are below /sys/fs/cgroup/memory, /sys/fs/cgroup/cpu\n"), "{text}");
    assert!(text.contains("try: memtrace snapshot --cgroup /sys/fs/cgroup/memory/PATH"), "{text}");
    assert!(of(&[]).contains("none are mounted"), "{}", of(&[]));
}

#[test]
fn root_is_not_asked_to_become_root() {
    let text = render(&Failure::NotPermitted { what: "see it".into(), capability: "" });
    assert!(text.contains("memtrace doctor") && !text.contains("sudo"), "{text}");
}

#[test]
fn names_cannot_drive_the_terminal() {
    let failure = Failure::KernelThread { pid: 2, comm: b"a\x1b[2Jb".to_vec() };
    assert!(!render(&failure).contains('\x1b'));
}

#[test]
fn lines_to_type_are_words_of_a_shell() {
    let (path, bad) = ("/srv/a;curl x|sh", "f\u{1b}[2J");
    let missing = |near: &[&str], function: &str, path: &str| Failure::NoSpanFunction {
        path: path.into(),
        function: function.into(),
        near: near.iter().map(|&name| name.to_owned()).collect(),
        several: false,
        stripped: false,
    };
    let advice = missing(&["work", bad, "a,b", "f\u{202e}", "`id`"], "wrok", "/bin/x").advice();
    assert_eq!(advice, ["--span NAME=/bin/x:work", "--span 'NAME=/bin/x:`id`'"]);
    assert_eq!(missing(&["work"], "wrok", path).advice(), ["--span 'NAME=/srv/a;curl x|sh:work'"]);
    assert_eq!(missing(&["work"], "wrok", bad).advice(), [""; 0]);
    let advice = missing(&[], "wrok", path).advice();
    assert_eq!(advice, ["nm -C '/srv/a;curl x|sh' | grep -i wrok        to see what it has"]);
    for (failure, line) in [
        (Failure::NoneInCgroup { path: path.into() }, "find '/srv/a;curl x|sh' -name"),
        (Failure::CommandNotStarted { command: path.into(), errno: ENOENT }, "command -v '/srv/a;curl x|sh' "),
        (Failure::CommandNotStarted { command: path.into(), errno: EACCES }, "ls -l '/srv/a;curl x|sh' "),
        (Failure::FileExists { path: path.into() }, "rm '/srv/a;curl x|sh'"),
        (Failure::NotACgroup { path: "/".into(), roots: vec![path.into()] }, "--cgroup '/srv/a;curl x|sh'/PATH"),
    ] {
        assert!(failure.advice()[0].contains(line), "{:?}", failure.advice());
    }
    for failure in [
        Failure::NoneInCgroup { path: bad.into() },
        Failure::CommandNotStarted { command: bad.into(), errno: ENOENT },
        Failure::FileExists { path: bad.into() },
        Failure::NotACgroup { path: "/".into(), roots: vec![bad.into()] },
        missing(&[], bad, bad),
    ] {
        assert!(!render(&failure).contains('\u{1b}'), "{failure}");
    }
}

#[test]
fn a_span_whose_functions_are_one_is_refused_with_what_to_type() {
    let failure = Failure::SpanWithoutEnd { path: "/bin/x".into(), begin: "open".into(), end: "close".into() };
    let text = render(&failure);
    assert!(text.starts_with("memtrace: open and close are the same code in /bin/x: every call"), "{text}");
    assert!(text.contains("try: --span NAME=/bin/x:open        each call"), "{text}");
    assert_eq!(failure.exit_code(), ExitCode::NoSuchTarget);
}
