use super::*;
use std::ffi::OsStr;

fn request(line: &str) -> Result<Request, clap::Error> {
    parse(line.split_whitespace())
}

fn refused(line: &str) -> String {
    let error = request(line).expect_err(line);
    assert_eq!(error.exit_code(), ExitCode::Usage as i32, "{line}");
    error.to_string()
}

#[test]
fn the_definition_is_sound() {
    definition().debug_assert();
}

#[test]
fn watching_a_process_has_useful_defaults() {
    let Ok(Request::Watch { target, trace, output }) = request("memtrace --pid 4711") else { panic!("not a watch") };
    assert_eq!(target, Target::Pid(4711));
    assert_eq!(
        trace,
        TraceOptions {
            interval: Duration::from_millis(100),
            duration: None,
            follow: false,
            smaps_interval: Some(Duration::from_secs(5)),
            max_snapshot: Duration::from_millis(50),
            bpf_stats: true,
            no_bpf: false,
            stacks: true,
            time: false,
            may_time: true,
            spans: SpanOptions::default(),
            pg: None,
            verbose: 0,
        }
    );
    assert!(!output.json && output.file.is_none() && output.threshold_bytes.is_none() && !output.fail_on_loss);
}

#[test]
fn every_flag_arrives() {
    let line = "memtrace -p 1 --interval 20ms --duration 1m30s --follow --smaps-interval 0 --max-snapshot-ms 7 \
                --no-bpf-stats --no-stacks --burst-only --no-screen --json -o out.ndjson --force --threshold 1M --color never --fail-on-loss -vv";
    let Ok(Request::Watch { trace, output, .. }) = request(line) else { panic!("not a watch") };
    assert_eq!(trace.interval, Duration::from_millis(20));
    assert_eq!(trace.duration, Some(Duration::from_secs(90)));
    assert_eq!(trace.smaps_interval, None);
    assert_eq!(trace.max_snapshot, Duration::from_millis(7));
    assert!(trace.follow && !trace.bpf_stats && !trace.stacks);
    assert_eq!(trace.verbose, 2);
    assert_eq!(
        output,
        OutputOptions {
            json: true,
            file: Some("out.ndjson".into()),
            force: true,
            color: ColorChoice::Never,
            threshold_bytes: Some(1 << 20),
            fail_on_loss: true,
            verbose: true,
            only: Some(Only::Bursts),
            no_screen: true,
        }
    );
}

#[test]
fn probes_can_be_left_out() {
    let Ok(Request::Watch { trace, .. }) = request("memtrace --no-bpf --pid 1") else { panic!("not a watch") };
    assert!(trace.no_bpf && !trace.follow);
}

#[test]
fn a_command_is_taken_as_it_is() {
    let Ok(Request::Watch { target, .. }) = request("memtrace --json -- record -o x --pid 3") else {
        panic!("not a watch")
    };
    assert_eq!(target, Target::Command(["record", "-o", "x", "--pid", "3"].map(OsString::from).to_vec()));
    let Ok(Request::Record { target, file, force, .. }) = request("memtrace record --force -o t.mtr -- sleep 1") else {
        panic!("not a record")
    };
    assert_eq!(target, Target::Command(["sleep", "1"].map(OsString::from).to_vec()));
    assert_eq!((file, force), (PathBuf::from("t.mtr"), true));
}

#[test]
fn replay_and_doctor() {
    let Ok(Request::Replay { file, output }) = request("memtrace replay t.mtr --json") else { panic!("not a replay") };
    assert!(file.as_os_str() == "t.mtr" && output.json);
    let Ok(Request::Doctor { json, .. }) = request("memtrace doctor --json") else { panic!("not a doctor") };
    assert!(json);
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_to_type() {
    assert!(refused("memtrace").contains("memtrace --pid PID\n  memtrace -- COMMAND"));
    assert!(refused("memtrace record -o f").contains("memtrace record -o FILE --pid PID"));
    assert!(refused("memtrace ./server").contains("write `--` before it: memtrace -- ./server"));
    assert!(refused("memtrace --pid 1 --interval 5").contains("give a number with a unit"));
    assert!(refused("memtrace --pid 1 --threshold 1MB").contains("write MiB"));
    for line in [
        "memtrace --pid 1 --no-bpf --follow",
        "memtrace --pid 0",
        "memtrace --pid -5",
        "memtrace --pid 4194305",
        "memtrace --pid x",
        "memtrace --pid 1 -- sleep 1",
        "memtrace sleep",
        "memtrace --pid 1 doctor",
        "memtrace record --pid 1",
        "memtrace record -o f --json --pid 1",
        "memtrace replay",
        "memtrace replay f -o f",
        "memtrace replay f --pid 1",
        "memtrace snapshot",
        "memtrace snapshot --pid 0",
        "memtrace snapshot --pid 1 --name x",
        "memtrace snapshot --name=",
        "memtrace snapshot --pid 1 --json --csv",
        "memtrace snapshot --pid 1 --json --by kind",
        "memtrace snapshot --pid 1 --json --sort pss",
        "memtrace snapshot --pid 1 --duration 1s",
        "memtrace snapshot --pid 1 --watch 1s --csv",
        "memtrace snapshot --pid 1 --json --verbose",
        "memtrace snapshot --pid 1 --svg x -o x",
        "memtrace snapshot --diff a.json",
        "memtrace snapshot --diff a.json b.json --pid 1",
        "memtrace snapshot --diff a.json b.json --csv",
        "memtrace --pid 1 --color sometimes",
    ] {
        refused(line);
    }
}

#[test]
fn colour() {
    use ColorChoice::{Always, Auto, Never};
    assert!(Auto.enabled(true, None) && !Auto.enabled(false, None));
    assert!(!Auto.enabled(true, Some(OsStr::new("1"))) && Auto.enabled(true, Some(OsStr::new(""))));
    assert!(Always.enabled(false, Some(OsStr::new("1"))) && !Never.enabled(true, None));
}

#[test]
fn snapshots_have_useful_defaults_and_every_flag_arrives() {
    let options = |line: &str| match request(line) {
        Ok(Request::Snapshot(options)) => *options,
        other => panic!("{line}: {other:?}"),
    };
    let plain = options("memtrace snapshot --pid 7 --pid 9 --pid 7");
    assert_eq!(plain.subject, Subject::Pids(vec![7, 9]), "named twice is meant once");
    let listed = options("memtrace snapshot --pid 7,9 -p 8,7");
    assert_eq!(listed.subject, Subject::Pids(vec![7, 9, 8]), "as pgrep -d, prints them");
    assert_eq!(
        plain.reading,
        ReadOptions { max_hold: Duration::from_millis(50), full: false, page_map: false, for_diff: false }
    );
    assert_eq!((plain.show.format, plain.show.by, plain.show.top), (Format::Text, None, Some(20)));
    let other = options(
        "memtrace snapshot --name postgres --by mapping --sort swap --filter lib --top 0 --picture --scale linear \
         --svg a.svg -o b.txt --force --full --max-snapshot-ms 9 --color never -v",
    );
    assert_eq!(other.subject, Subject::Name("postgres".into()));
    assert_eq!(
        other.reading,
        ReadOptions { max_hold: Duration::from_millis(9), full: true, page_map: true, for_diff: false }
    );
    assert_eq!((other.show.by, other.show.sort, other.show.top), (Some(By::Mapping), Sort::Swap, None));
    assert_eq!((other.show.filter.as_deref(), other.show.scale), (Some("lib"), PictureScale::Linear));
    assert_eq!((other.show.costs, other.show.hold_limit), (true, None));
    assert!(other.force && other.svg == Some("a.svg".into()) && other.file == Some("b.txt".into()));
    assert_eq!(options("memtrace snapshot --pid 1 --csv").show.top, None, "CSV has all rows");
    let files = options("memtrace snapshot --diff a.json b.json --json");
    assert_eq!(files.subject, Subject::Files("a.json".into(), "b.json".into()));
    let watch = options("memtrace snapshot --cgroup /sys/fs/cgroup/x --watch 2s --duration 1m --json");
    assert_eq!((watch.watch, watch.duration), (Some(Duration::from_secs(2)), Some(Duration::from_secs(60))));
}

#[test]
fn stuck_is_a_session_of_which_only_the_answer_is_printed() {
    let Ok(Request::Stuck(plain)) = request("memtrace stuck --pid 7") else { panic!("not stuck") };
    assert_eq!(plain.target, Target::Pid(7));
    assert_eq!(plain.trace.duration, Some(Duration::from_secs(5)));
    assert!(plain.trace.time && plain.trace.stacks && plain.trace.smaps_interval.is_none());
    assert_eq!((plain.output.only, plain.output.json), (Some(Only::Stuck), false));
    let Ok(Request::Stuck(other)) =
        request("memtrace stuck -p 7 --duration 300ms --json -o a.json --force -v --color never --fail-on-loss")
    else {
        panic!("not stuck")
    };
    assert_eq!(other.trace.duration, Some(Duration::from_millis(300)));
    assert!(other.output.json && other.output.force && other.output.verbose && other.output.fail_on_loss);
    for refused in
        ["memtrace stuck", "memtrace stuck --pid 0", "memtrace stuck --pid 1 --duration 1ms", "memtrace stuck -- ls"]
    {
        assert!(request(refused).is_err(), "{refused}");
    }
}

#[test]
fn spans_are_told_instead_of_changes() {
    let Ok(Request::Watch { trace, output, .. }) =
        request("memtrace --pid 1 --statements --span a=/b:c --span d=/e:f,g")
    else {
        panic!("not a watch")
    };
    assert!(trace.spans.any() && trace.spans.statements);
    assert_eq!(trace.spans.named.iter().map(|point| point.name.as_str()).collect::<Vec<_>>(), ["a", "d"]);
    assert_eq!((output.only, output.no_screen), (Some(Only::Spans), true));
    let output = |line| match request(line) {
        Ok(Request::Watch { output, .. } | Request::Record { output, .. } | Request::Replay { output, .. }) => output,
        other => panic!("{line}: {other:?}"),
    };
    let more = output("memtrace --pid 1 --statements -v");
    assert_eq!((more.only, more.verbose, more.no_screen), (None, true, true), "what else there is, line by line");
    assert_eq!(output("memtrace replay x --statements").only, Some(Only::Spans));
    assert_eq!(output("memtrace record -o x --statements --pid 1").only, None, "the closing statement, too");
    assert!(refused("memtrace --pid 1 --span a=/b:c --span a=/e:f").contains("call one of them a2"));
    assert!(refused("memtrace --pid 1 --span a=b:c").contains("realpath"));
    assert!(refused("memtrace --pid 1 --statements --burst-only").contains("type one of them"));
    for line in ["memtrace --pid 1 --statements --no-bpf", "memtrace --no-bpf --pid 1 --span a=/b:c"] {
        refused(line);
    }
}

#[test]
fn times_are_kept_where_they_are_asked_for() {
    let of = |line| match request(line) {
        Ok(Request::Watch { trace, .. } | Request::Record { trace, .. }) => (trace.time, trace.may_time),
        _ => panic!("no session"),
    };
    assert_eq!(of("memtrace record --time -o x --pid 1"), (true, true));
    assert_eq!(of("memtrace --pid 1"), (false, true));
    assert_eq!(of("memtrace --pid 1 --no-time"), (false, false));
    assert_eq!(of("memtrace --pid 1 --no-bpf"), (false, false));
    assert!(request("memtrace --pid 1 --time --no-bpf").is_err());
}

/// The man pages in docs/ are made from the definition. `MEMTRACE_BLESS=1 cargo test -p memtrace
/// --no-default-features --lib the_man_pages` writes them anew.
#[test]
fn the_man_pages_are_current() {
    let docs = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"));
    let root = definition();
    let mut pages = vec![("memtrace".to_owned(), root.clone())];
    for subcommand in root.get_subcommands() {
        let name = format!("memtrace-{}", subcommand.get_name());
        let page = subcommand.clone().version(env!("CARGO_PKG_VERSION"));
        pages.push((name.clone(), page.name(name.leak() as &'static str)));
    }
    for (name, command) in pages {
        let mut page = Vec::new();
        clap_mangen::Man::new(command.disable_help_subcommand(true)).render(&mut page).expect("a Vec takes everything");
        let path = docs.join(format!("{name}.1"));
        if std::env::var_os("MEMTRACE_BLESS").is_some() {
            std::fs::write(&path, &page).expect("docs/ can be written");
        } else {
            let kept = std::fs::read(&path).unwrap_or_default();
            assert!(
                kept == page,
                "docs/{name}.1 is stale: MEMTRACE_BLESS=1 cargo test -p memtrace --no-default-features --lib the_man_pages"
            );
        }
    }
}

#[test]
fn a_password_is_never_repeated() {
    let stuck = |more: &[&str]| parse(["memtrace", "stuck", "--pid", "1"].iter().chain(more));
    let request = stuck(&["--pg", "host=db password=s3kret"]).expect("a request");
    assert!(!format!("{request:?}").contains("s3kret"), "{request:?}");
    let Request::Stuck(options) = request else { panic!("{request:?}") };
    assert_eq!(options.trace.pg.expect("it was given").expose(), "host=db password=s3kret");
    for more in [
        &["--pg", "host=db", "password=s3kret"][..],
        &["--pg", "password=s3kret", "--nothing"],
        &["--pg", "password=s3kret", "--pg", "password=s3kret"],
    ] {
        let error = stuck(more).expect_err("no sense").to_string();
        assert!(!error.contains("s3kret"), "{error}");
    }
    // The first @ ends the password: the rest of it would be a host, and hosts are named.
    for ambiguous in ["postgresql://u:x@s3kret@host/db", "postgres://u:s3kret@more@host"] {
        let error = stuck(&["--pg", ambiguous]).expect_err("which is the host?").to_string();
        assert!(!error.contains("s3kret") && error.contains("%40"), "{error}");
    }
    assert!(stuck(&["--pg", "postgresql://u:x%40y@host/db"]).is_ok());
    assert!(stuck(&["--pg", "host=db user=a@b password=x@y"]).is_ok());
    #[cfg(feature = "pg")]
    for broken in ["s3kret", "host=db password='s3kret", "postgres://u:s3kret@:x/y"] {
        let error = stuck(&["--pg", broken]).expect_err("no connection string");
        assert_eq!(error.exit_code(), ExitCode::Usage as i32);
        assert!(!error.to_string().contains("s3kret"), "{error}");
    }
}
