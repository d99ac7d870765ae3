use super::*;
use crate::event::{EndReason, TaskWhat};
use crate::statement::{EndReport, Faults, ProcessChange};
use crate::views::sample;
use memtrace_common::Cause;
use proptest::prelude::*;
use serde_json::Value;

fn lines(reports: &[Report]) -> Vec<String> {
    let mut out = Vec::new();
    let mut view = JsonView::new(&mut out);
    for report in reports {
        view.render(report).expect("a Vec takes everything");
    }
    String::from_utf8(out).expect("JSON is UTF-8").lines().map(str::to_owned).collect()
}

fn values(reports: &[Report]) -> Vec<Value> {
    lines(reports).iter().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

fn with_meta(report: Report) -> Value {
    values(&[Report::Meta(sample::meta()), report]).remove(1)
}

const CLASSES: [&str; 4] = ["anon", "file", "shmem", "swap"];

#[test]
fn the_sample_session() {
    insta::assert_snapshot!(lines(&sample::session()).join("\n"));
}

#[test]
fn every_line_says_what_and_when() {
    for value in values(&sample::session()) {
        let keys: Vec<_> = value.as_object().expect("an object").keys().take(3).cloned().collect();
        assert_eq!(keys, ["type", "ts_ns", "time"]);
    }
    assert_eq!(values(&sample::session())[0]["time"], "2026-01-31T12:00:00.000000000Z");
}

#[test]
fn the_books_close_in_bytes_on_every_line() {
    for value in values(&sample::session()) {
        for class in CLASSES {
            let of = |v: &Value| v[class].as_i64().expect("bytes");
            let sum: i64 = match value["type"].as_str() {
                Some("statement") => value["entries"].as_array().unwrap().iter().map(|e| of(&e["delta"])).sum(),
                Some("closing" | "end") => value["by_cause"].as_object().unwrap().values().map(of).sum(),
                _ => continue,
            };
            assert_eq!(of(&value["closing"]) - of(&value["opening"]), sum + of(&value["unexplained"]));
            assert_eq!(sum % 4096, 0);
        }
    }
}

#[test]
fn the_books_of_spans_close_in_bytes() {
    let values = values(&sample::session());
    let of = |v: &Value, class: &str| v[class].as_i64().expect("bytes");
    let sums = |v: &Value| v["by_cause"].as_object().unwrap().values().map(|v| v.as_i64().expect("bytes")).sum::<i64>();
    let (mut spans, mut threads) = (0, 0);
    for value in &values {
        if let Some(span) = value.get("own").filter(|_| value["type"] == "span") {
            spans += 1;
            for class in CLASSES {
                let change = of(&value["closing"], class) - of(&value["opening"], class);
                assert_eq!(change, of(&span["delta"], class) + of(&value["others"], class));
            }
            let res = ["anon", "file", "shmem"].map(|class| of(&span["delta"], class)).iter().sum::<i64>();
            assert_eq!(sums(span), res);
        }
        for thread in value["by_thread"].as_array().into_iter().flatten() {
            threads += 1;
            for class in CLASSES {
                let both = of(&thread["within"]["delta"], class) + of(&thread["between"]["delta"], class);
                assert_eq!(both, of(&thread["booked"], class));
            }
        }
    }
    assert_eq!((spans, threads), (1, 1));
}

#[test]
fn spans_only_prints_the_meta_spans_losses_and_the_time_that_was_asked_for() {
    let only = |reports: &[Report]| -> Vec<String> {
        let mut out = Vec::new();
        let mut view = JsonView::only(&mut out, Some(Only::Spans));
        reports.iter().for_each(|report| view.render(report).expect("a Vec takes everything"));
        let value = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["type"].to_string();
        String::from_utf8(out).expect("JSON").lines().map(value).collect()
    };
    assert_eq!(only(&sample::session()), ["\"meta\"", "\"span\"", "\"loss\"", "\"stuck\"", "\"spans\""]);
    // That there were none is an answer to who asked for them, and to nobody else.
    let none = [Report::Meta(sample::meta()), Report::Spans(Box::default())];
    assert_eq!(only(&none), ["\"meta\"", "\"spans\""]);
    assert_eq!(lines(&none).len(), 1);
}

#[test]
fn a_statement_of_any_bytes_can_be_had_back() {
    let [Report::Span(span), _] = sample::spans() else { panic!("a span first") };
    let with = |text: Option<&[u8]>| {
        let span = crate::statement::Span { text: text.map(<[u8]>::to_vec), ..(*span).clone() };
        with_meta(Report::Span(Arc::new(span)))
    };
    let value = with(Some(b"select '\xff'"));
    assert_eq!((&value["text"], &value["text_hex"]), (&"select '\u{fffd}'".into(), &"73656c6563742027ff27".into()));
    assert!(with(None)["text"].is_null() && with(None).get("text_hex").is_none());
}

#[test]
fn untrusted_strings_are_lossless_and_harmless() {
    let mut statement = sample::growth();
    statement.comm = b"a\xff\x1b[2J".to_vec();
    statement.entries[0].comm = "\u{202e}\u{9b}é\"".as_bytes().to_vec();
    statement.entries[1].comm = Vec::new();
    let reports = [Report::Meta(sample::meta()), Report::Statement(statement)];
    let line = &lines(&reports)[1];
    assert!(line.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{line}");

    let value = &values(&reports)[1];
    assert_eq!(value["comm"], "a\u{fffd}\x1b[2J");
    assert_eq!(value["comm_hex"], "61ff1b5b324a");
    assert_eq!(value["entries"][0]["comm"], "\u{202e}\u{9b}é\"");
    assert_eq!(value["entries"][0].get("comm_hex"), None);
    assert_eq!(value["entries"][1]["comm"], Value::Null);
}

proptest! {
    #[test]
    fn any_name_can_be_had_back(name in proptest::collection::vec(any::<u8>(), 0..40)) {
        let mut statement = sample::growth();
        statement.comm = name.clone();
        let value = with_meta(Report::Statement(statement));
        let back = match (value.get("comm_hex"), value["comm"].as_str()) {
            (Some(hex), _) => {
                let hex = hex.as_str().expect("a string");
                (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex")).collect()
            }
            (None, Some(text)) => text.as_bytes().to_vec(),
            (None, None) => Vec::new(),
        };
        prop_assert_eq!(back, name);
    }
}

#[test]
fn long_strings_are_capped() {
    let mut meta = sample::meta();
    meta.exe = "é".repeat(4000).into_bytes();
    meta.cmdline = b"x\0\xff y\0".to_vec();
    let value = values(&[Report::Meta(meta)]).remove(0);
    assert_eq!(value["exe"].as_str().expect("a string"), "é".repeat(2048));
    assert_eq!(value["exe_hex"].as_str().expect("its twin").len(), 8192);
    assert_eq!(value["cmdline"], serde_json::json!(["x", "\u{fffd} y"]));
    assert_eq!(value["cmdline_hex"], "7800ff207900");
}

#[test]
fn what_a_title_leaves_of_the_arguments_is_left_out() {
    let arguments = |cmdline: &[u8]| {
        let mut meta = sample::meta();
        meta.cmdline = cmdline.to_vec();
        values(&[Report::Meta(meta)]).remove(0)["cmdline"].take()
    };
    assert_eq!(arguments(b"postgres: a b idle\0\0\0\0"), serde_json::json!(["postgres: a b idle"]));
    assert_eq!(arguments(b"redis-server\0--save\0\0"), serde_json::json!(["redis-server", "--save", ""]));
    assert_eq!(arguments(b""), serde_json::json!([]));
}

#[test]
fn what_is_unknown_is_null() {
    let mut statement = sample::growth();
    statement.closing.virt = None;
    statement.entries[0].mapping = None;
    statement.entries[0].latency = crate::event::Latency::default();
    statement.entries[0].stack = None;
    statement.entries[0].syscall = Some(999);
    let value = with_meta(Report::Statement(statement));
    assert!(value["closing"]["virt"].is_null());
    let entry = &value["entries"][0];
    assert!(entry["mapping"].is_null() && entry["fault_ns"].is_null() && entry["stack_id"].is_null());
    assert_eq!(entry["syscall"], "syscall_999");
}

#[test]
fn faults_that_an_interval_takes_back_are_below_zero() {
    let mut statement = sample::growth();
    statement.entries[0].faults = Faults { minor: -1, major: 1 };
    let value = with_meta(Report::Statement(statement));
    assert_eq!(value["entries"][0]["faults"], serde_json::json!({"minor": -1, "major": 1}));
}

#[test]
fn exits_by_signal() {
    let task = sample::task(TaskWhat::ProcessExited { code: 9 });
    let value = with_meta(Report::Process(ProcessChange { task }));
    assert_eq!(value["exit"], serde_json::json!({"status": null, "signal": "SIGKILL"}));
    let mut end = sample::end();
    end.end.reason = EndReason::Truncated;
    assert!(with_meta(Report::End(Box::new(end)))["exit"].is_null());
}

#[test]
fn nothing_measured_is_not_zero() {
    let mut end = sample::end();
    end.own.bpf_ns = None;
    end.total.faults = crate::statement::Faults::default();
    let value = with_meta(Report::End(Box::new(EndReport { ..end })));
    assert!(value["own"]["bpf_ns"].is_null() && value["own"]["bpf_ns_per_fault"].is_null());
}

/// Every `stack_id` and `born_stack_id` below a value.
fn references(value: &Value, out: &mut Vec<u64>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_u64().filter(|_| name == "stack_id" || name == "born_stack_id") {
                    Some(id) => out.push(id),
                    None => references(value, out),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, out)),
        _ => {}
    }
}

fn assert_stacks_come_first(values: &[Value]) -> usize {
    let mut known = std::collections::BTreeSet::new();
    let mut referred = Vec::new();
    for value in values {
        if value["type"] == "stack" {
            assert!(known.insert(value["id"].as_u64().expect("a number")), "twice: {value}");
        }
        let mut here = Vec::new();
        references(value, &mut here);
        assert!(here.iter().all(|id| known.contains(id)), "a stack that nobody knows: {value}");
        referred.extend(here);
    }
    referred.len()
}

#[test]
fn stacks_come_before_what_refers_to_them() {
    assert!(assert_stacks_come_first(&values(&sample::session())) > 5);
}

#[test]
fn plumbing_is_marked_frame_by_frame() {
    let value = with_meta(Report::Stack(sample::table_stack()));
    let plumbing: Vec<_> = value["frames"].as_array().expect("frames").iter().map(|f| &f["plumbing"]).collect();
    assert_eq!(plumbing[..5], [true, true, true, false, false]);
    assert_eq!((&value["complete"], &value["end"]), (&Value::Bool(true), &Value::from("root")));
    // What was inlined into a function of the program's own is no plumbing frame.
    let value = with_meta(Report::Stack(sample::hash_stack()));
    assert_eq!(value["frames"][0]["symbols"][0]["name"], "dense_alloc");
    assert_eq!(value["frames"][0]["plumbing"], false);
    let value = with_meta(Report::Stack(sample::code(5)));
    assert_eq!((&value["complete"], &value["end"]), (&Value::Bool(false), &Value::from("deep")));
}

#[test]
fn bursts_only_prints_the_meta_bursts_and_their_stacks_once() {
    let burst = || Report::Burst(Box::new(sample::burst()));
    let mut out = Vec::new();
    let mut view = JsonView::only(&mut out, Some(Only::Bursts));
    for report in sample::session().into_iter().chain([burst(), burst()]) {
        view.render(&report).expect("a Vec takes everything");
    }
    let values: Vec<Value> =
        String::from_utf8(out).expect("JSON").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_stacks_come_first(&values);
    let kinds: Vec<_> = values.iter().map(|v| v["type"].as_str().expect("a type")).filter(|&t| t != "burst").collect();
    assert_eq!(kinds, ["meta", "stack", "stack", "stack"]);
}

#[test]
fn a_report_before_the_meta_is_refused() {
    let error = JsonView::new(Vec::new()).render(&Report::Statement(sample::growth())).expect_err("no page size yet");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_closed_pipe_comes_out_as_it_is() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }
    let mut view = JsonView::new(Closed);
    let error = view.render(&Report::Meta(sample::meta())).expect_err("nobody reads");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(view.flush().expect_err("nobody reads").kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn absurd_amounts_do_not_panic() {
    let mut statement = sample::growth();
    statement.closing.amounts.swap = i64::MAX;
    statement.closing.virt = Some(u64::MAX);
    statement.entries[0].cause = Cause::Other;
    let value = with_meta(Report::Statement(statement));
    assert_eq!(value["closing"]["swap"], i64::MAX);
}

/// The examples in docs/ndjson.md are lines of the sample session and of the sample snapshots. `MEMTRACE_BLESS=1 cargo test -p memtrace
/// --no-default-features --lib the_documented_examples` writes them anew.
#[test]
#[expect(clippy::disallowed_methods, reason = "the document is a file, and whoever blesses it says so")]
fn the_documented_examples_are_real() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ndjson.md");
    let document = std::fs::read_to_string(path).expect("docs/ndjson.md is in the repository");
    let mut values = values(&sample::session());
    values.extend(crate::views::snapshot::json::tests::documented());
    let mut fresh = String::new();
    let mut documented = Vec::new();
    let mut rest = document.as_str();
    while let Some((before, block)) = rest.split_once("```json\n") {
        let (example, after) = block.split_once("```").expect("a block that ends");
        let kind = serde_json::from_str::<Value>(example).expect("an example that parses")["type"].clone();
        let value = values.iter().find(|v| v["type"] == kind).expect("an example of a type that exists");
        documented.push(kind);
        let pretty = serde_json::to_string_pretty(value).expect("a value prints");
        fresh.push_str(&format!("{before}```json\n{pretty}\n```"));
        rest = after;
    }
    fresh.push_str(rest);
    for value in &values {
        assert!(documented.contains(&value["type"]), "docs/ndjson.md has no example of {}", value["type"]);
    }
    if std::env::var_os("MEMTRACE_BLESS").is_some() {
        std::fs::write(path, fresh).expect("docs/ndjson.md can be written");
    } else {
        assert!(
            document == fresh,
            "docs/ndjson.md is stale: MEMTRACE_BLESS=1 cargo test -p memtrace --no-default-features --lib the_documented_examples"
        );
    }
}
