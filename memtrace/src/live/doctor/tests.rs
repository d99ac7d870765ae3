use super::*;

fn examination(checks: Vec<Check>) -> Examination {
    Examination { kernel: "6.18.0".to_owned(), arch: "x86_64", checks }
}

fn healthy() -> Vec<Check> {
    vec![
        Check::ok("machine", "kernel", "6.18.0 on x86_64"),
        Check::limited("rights", "CAP_SYS_RESOURCE", "missing: to raise a limit"),
        Check::fact("rights", "user", "root"),
        Check::ok("probes", "tp_btf/rss_stat", "every change of a counter"),
    ]
}

#[test]
fn a_healthy_machine_is_exact() {
    let examination = examination(healthy());
    assert_eq!(examination.mode(), Mode::Exact);
    assert_eq!(examination.exit_code(), ExitCode::Done);
    assert_eq!(
        render::text(&examination, false),
        format!(
            "memtrace {} doctor\n\nmachine\n  ✓ kernel            6.18.0 on x86_64\n\nrights\n  \
             ! CAP_SYS_RESOURCE  missing: to raise a limit\n  · user              root\n\nprobes\n  \
             ✓ tp_btf/rss_stat   every change of a counter\n\n\
             mode exact: every change of RES will be explained to the byte.\n\
             The line marked ! says what is less precise, or dearer; the sum is not.\n",
            env!("CARGO_PKG_VERSION")
        )
    );
}

#[test]
fn a_refusal_names_the_line_to_type_once() {
    let refusal = || Failure::NotPermitted { what: "load BPF programs".to_owned(), capability: "CAP_BPF" }.into();
    let mut checks = healthy();
    checks.push(Check::refused("probes", "maps", refusal()));
    checks.push(Check::refused("probes", "iter/task", refusal()));
    checks.push(Check::untried("books", "task iterator"));
    checks.push(Check::untried("books", "per-CPU counters"));
    let examination = examination(checks);
    assert_eq!((examination.mode(), examination.exit_code()), (Mode::Procfs, ExitCode::NotPermitted));
    let text = render::text(&examination, false);
    let wanted = "  ✗ maps              not permitted to load BPF programs: CAP_BPF is missing\n      \
                  try: run it as root: sudo memtrace …\n";
    assert!(text.contains(wanted), "{text}");
    assert_eq!(text.matches("run it as root").count(), 1, "{text}");
    assert!(!text.contains("try: memtrace doctor  "), "{text}");
    assert!(text.contains("  - task iterator     not tried, like 1 more: what is above failed\n"), "{text}");
    assert!(
        text.ends_with("what root may):\n  maps: not permitted to load BPF programs: CAP_BPF is missing\n"),
        "{text}"
    );
}

#[test]
fn what_no_user_could_change_outweighs_a_missing_right() {
    let mut checks = healthy();
    checks.push(Check::failed("kernel types", "BTF", Blame::Kernel, "none"));
    checks.push(Check::failed("probes", "tracefs", Blame::Permission, "denied"));
    assert_eq!(examination(checks).exit_code(), ExitCode::KernelNotUsable);
}

#[test]
fn what_the_kernel_says_cannot_drive_the_terminal_and_keeps_its_lines() {
    let check = Check::failed("probes", "iter/task", Blame::Kernel, "first\x1b[2J\n\n  second");
    let text = render::text(&examination(vec![check]), false);
    assert!(!text.contains('\x1b'), "{text:?}");
    assert!(text.contains("first\\x1b[2J\n        second\n"), "{text:?}");
}

#[test]
fn colour_is_only_paint() {
    let examination = examination(healthy());
    let painted = render::text(&examination, true);
    assert!(painted.contains("\x1b[32m✓\x1b[0m"));
    let mut plain = painted;
    for paint in ["32", "31;1", "33", "2", "32;1", "0"] {
        plain = plain.replace(&format!("\x1b[{paint}m"), "");
    }
    assert_eq!(plain, render::text(&examination, false));
}

#[test]
fn json_is_one_line_with_every_check() {
    let mut checks = healthy();
    checks.push(Check::failed("kernel types", "BTF", Blame::Kernel, "none\nat all").advise("boot another"));
    let line = render::json(&examination(checks));
    assert_eq!(line.matches('\n').count(), 1);
    let object: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(object["type"], "doctor");
    assert_eq!((&object["mode"], &object["exit_code"]), (&"procfs".into(), &5.into()));
    assert_eq!(object["mode_reason"], "BTF: none");
    let checks = object["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 5);
    assert_eq!((&checks[0]["state"], &checks[0]["blame"]), (&"ok".into(), &serde_json::Value::Null));
    assert_eq!((&checks[4]["blame"], &checks[4]["advice"][0]), (&"kernel".into(), &"boot another".into()));
}

#[test]
fn the_lockdown_in_brackets_is_the_one_chosen() {
    assert_eq!(machine::selected("none [integrity] confidentiality\n"), Some("integrity"));
    assert_eq!(machine::selected("[none] integrity\n"), Some("none"));
    assert_eq!(machine::selected("nonsense"), None);
}
