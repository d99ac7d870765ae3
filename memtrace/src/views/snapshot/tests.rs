use super::*;
use crate::cli::{By, Format, PictureScale, ShowOptions, Sort, Typed};
use crate::snapshot::{Process, Snapshot};
use crate::views::columns::columns;
use std::time::Duration;

fn show() -> ShowOptions {
    ShowOptions {
        format: Format::Text,
        by: None,
        sort: Sort::Rss,
        filter: None,
        top: Some(20),
        picture: false,
        scale: PictureScale::Log,
        costs: false,
        hold_limit: Some(Duration::from_millis(50)),
        typed: Typed::default(),
    }
}

fn by(by: By) -> ShowOptions {
    ShowOptions { by: Some(by), ..show() }
}

fn text(snapshot: &Snapshot, show: &ShowOptions, width: usize) -> String {
    let text = written(snapshot, show, Some(width));
    for line in text.lines() {
        assert!(columns(line) <= width, "{} columns: {line}", columns(line));
        assert!(!line.chars().any(|c| c.is_control() || crate::views::escape::deceives(c)), "{line:?}");
    }
    text
}

fn written(snapshot: &Snapshot, show: &ShowOptions, width: Option<usize>) -> String {
    let mut out = Vec::new();
    render(snapshot, show, Page { color: false, width }, &mut out).expect("a Vec takes everything");
    String::from_utf8(out).expect("text")
}

fn alone(process: Process) -> Snapshot {
    Snapshot { processes: vec![process], ..Snapshot::default() }
}

/// As on a narrow terminal and as on a wide one.
fn both(snapshot: &Snapshot, show: &ShowOptions) -> String {
    format!("{}\n════\n{}", text(snapshot, show, 80), text(snapshot, show, 120))
}

#[test]
fn a_database_backend() {
    insta::assert_snapshot!(both(&alone(sample::postgres()), &show()));
}

#[test]
fn not_permitted() {
    insta::assert_snapshot!(both(&alone(sample::not_permitted()), &show()));
}

#[test]
fn over_budget() {
    insta::assert_snapshot!(both(&alone(sample::over_budget()), &show()));
}

#[test]
fn a_zombie() {
    insta::assert_snapshot!(both(&alone(sample::zombie()), &show()));
}

#[test]
fn hostile_names() {
    insta::assert_snapshot!(both(&alone(sample::hostile()), &show()));
}

#[test]
fn a_group_by_physical_page() {
    insta::assert_snapshot!(both(&sample::group(true), &show()));
}

#[test]
fn a_group_without_a_look_at_pages() {
    insta::assert_snapshot!(both(&sample::group(false), &show()));
}

#[test]
fn of_a_group_it_is_told_what_was_not_read_of_its_members() {
    let mut snapshot = sample::group(true);
    let over = sample::over_budget();
    for process in snapshot.processes.iter_mut().skip(2).take(3) {
        (process.rollup, process.given_up) = (None, over.given_up.clone());
    }
    let text = text(&snapshot, &show(), 100);
    assert!(
        text.contains("not read    smaps, smaps_rollup of postgres[4713] and 2 more: one call would hold"),
        "{text}"
    );
    assert!(text.contains(" --full "), "{text}");
}

/// Paragraphs in one line, whatever their width.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn of_several_the_largest_cause_is_named_also_when_it_is_within_one() {
    use crate::snapshot::Mapping;
    use crate::statement::Kind;
    let mut snapshot = sample::two(2_048);
    for process in &mut snapshot.processes[..1] {
        let mut mappings = process.mappings.take().expect("known");
        let pattern = mappings.iter().find(|mapping| mapping.kind == Kind::File).cloned().expect("a file");
        for at in 1..=2 {
            let start = pattern.start + at * (1 << 32);
            let detail = pattern.detail.map(|d| crate::snapshot::Detail { shared_dirty: 100 << 20, ..d });
            let name = b"/memfd:ring (deleted)".to_vec();
            let (kind, inode, end) = (Kind::Memfd, 99, start + (100 << 20));
            mappings.push(Mapping { start, end, kind, inode, name, detail, ..pattern.clone() });
        }
        process.mappings = Some(mappings);
    }
    let told = flat(&text(&snapshot, &show(), 100));
    let first = snapshot.processes[0].pid;
    assert!(
        told.contains(&format!("100.0 MiB of memfd /memfd:ring (deleted) is mapped 2 times by store[{first}].")),
        "{told}"
    );
    assert!(!told.contains("what they share among themselves"), "{told}");
    let alone = flat(&text(&alone(snapshot.processes.remove(0)), &show(), 100));
    assert!(alone.contains("(mapped 2 times here: memfd /memfd:ring (deleted) 100.0 MiB)"), "{alone}");
    assert!(!alone.contains("others map too"), "{alone}");
}

#[test]
fn a_segment_is_postgresqls_only_if_all_who_hold_it_are() {
    let mut snapshot = sample::group(true);
    let told = |snapshot: &Snapshot| flat(&text(snapshot, &show(), 100));
    assert!(told(&snapshot).contains("PostgreSQL's shared memory"));
    // Who has it by its mapping; the other is anyone's.
    let holders = 6;
    let key = |snapshot: &Snapshot| {
        let mut mappings = snapshot.processes[0].mappings.iter().flatten();
        let segment = mappings.find(|m| m.kind == crate::statement::Kind::SharedAnon).expect("a segment");
        (segment.device, segment.inode)
    };
    let (device, inode) = key(&snapshot);
    for process in &mut snapshot.processes[holders..] {
        process.exe = Some(b"/usr/bin/python3".to_vec());
        for mapping in process.mappings.iter_mut().flatten().filter(|m| (m.device, m.inode) == (device, inode)) {
            mapping.inode = 7;
        }
    }
    let group = snapshot.group.as_mut().and_then(|group| group.physical.as_mut()).expect("looked at");
    (group.objects[0].device, group.objects[0].inode, group.objects[0].processes) = (device, inode, holders);
    assert!(told(&snapshot).contains("PostgreSQL's shared memory"), "a stranger without it");
    let group = snapshot.group.as_mut().and_then(|group| group.physical.as_mut()).expect("looked at");
    let mut second = group.objects[0].clone();
    (second.inode, second.processes, second.sum_res) = (7, 3, second.sum_res / 4);
    group.objects.push(second);
    let both = told(&snapshot);
    assert!(both.contains("counted in 6 processes: 4711, 4712, 4713, …."), "{both}");
    assert!(both.contains("shared anonymous: 4711,") && both.contains("shared anonymous: 4717,"), "{both}");
    snapshot.processes[1].exe = Some(b"/usr/bin/python3".to_vec());
    assert!(!told(&snapshot).contains("PostgreSQL's"), "one of those who hold it is another program");
}

#[test]
fn what_is_unknown_of_a_group_is_at_least_what_is_known() {
    let mut snapshot = sample::group(false);
    let told = flat(&text(&snapshot, &show(), 100));
    assert!(told.contains("of which 9.00 GiB (78 %) is between 1.00 GiB and 1.04 GiB of PostgreSQL's"), "{told}");
    let segment = |process: &mut Process| {
        let mut mappings = process.mappings.iter_mut().flatten();
        let segment = mappings.find(|m| m.kind == crate::statement::Kind::SharedAnon).expect("a segment");
        (segment.resident, segment.detail) = (None, None);
    };
    snapshot.processes.iter_mut().take(2).for_each(segment);
    let told = flat(&text(&snapshot, &show(), 100));
    assert!(told.contains("of which at least 7.00 GiB (61 %) is between 1.00 GiB"), "{told}");
    assert!(told.contains("mapped by 9 processes"), "{told}");
    snapshot.processes.iter_mut().for_each(segment);
    assert!(!flat(&text(&snapshot, &show(), 100)).contains("at least 0"));
}

#[test]
fn shared_memory_in_swap_is_no_anonymous_memory() {
    let mut process = sample::postgres();
    let told = |process: &Process| flat(&text(&alone(process.clone()), &show(), 100));
    assert!(told(&process).contains("pushed out of RES; 1.0 MiB of shared memory is in swap too"));
    let counters = process.counters.as_mut().expect("known");
    counters.swap = 0;
    // The heap's was swapped in between the two readings.
    let text = told(&process);
    assert!(text.contains("SWAP 0 of its anonymous memory; 1.0 MiB of shared memory is in swap too"), "{text}");
    assert!(text.contains("+3.0 MiB changed between the two readings"), "{text}");
    assert!(text.contains("in SWAP, 1.0 MiB is shared memory in swap;"), "{text}");
}

#[test]
fn what_rows_are_sorted_by_is_shown_or_said_to_be_nothing() {
    let mut process = sample::postgres();
    let sorted =
        |process: &Process, sort, by| text(&alone(process.clone()), &ShowOptions { sort, by: Some(by), ..show() }, 60);
    for (sort, head) in [(Sort::Pss, "PSS"), (Sort::Dirty, "dirty"), (Sort::Swap, "swap"), (Sort::Shared, "shared")] {
        let text = sorted(&process, sort, By::Mapping);
        let heads = text.lines().find(|line| line.starts_with("by mapping")).expect("a table");
        assert!(heads.split_whitespace().any(|word| word == head), "{head}: {heads}");
    }
    for mapping in process.mappings.iter_mut().flatten() {
        if let Some((resident, detail)) = mapping.resident.as_mut().zip(mapping.detail.as_mut()) {
            resident.swap = Some(0);
            (detail.private_dirty, detail.shared_dirty) = (0, 0);
        }
    }
    process.files.iter_mut().flatten().for_each(|file| file.dirty = Some(0));
    assert!(sorted(&process, Sort::Swap, By::Kind).contains("nothing of these is in swap\n"));
    assert!(sorted(&process, Sort::Dirty, By::Mapping).contains("nothing of these is dirty\n"));
    assert!(sorted(&process, Sort::Dirty, By::File).contains("nothing of these is dirty\n"));
}

#[test]
fn all_files_that_are_dirty_are_named() {
    let mut process = sample::postgres();
    let program = process.files.as_mut().and_then(|files| files.get_mut(1)).expect("a second file");
    program.dirty = Some(2 << 20);
    let text = flat(&text(&alone(process), &show(), 100));
    assert!(
        text.contains("not yet on disk: 12.0 MiB of /var/lib/postgresql/15/main/vectors.idx, 2.0 MiB of"),
        "{text}"
    );
}

#[test]
fn advice_is_what_was_typed_and_not_forty_numbers() {
    let snapshot = sample::group(false);
    let typed = |subject: Option<&str>| Typed { subject: subject.map(str::to_owned), flags: " --sort pss".into() };
    let told = |subject| flat(&written(&snapshot, &ShowOptions { typed: typed(subject), ..show() }, None));
    assert!(told(Some(" --name postgres")).contains("→ sudo memtrace snapshot --name postgres --sort pss"));
    assert!(told(None).contains("→ sudo memtrace snapshot --pid 4711 --pid 4712"));
    let one = alone(sample::not_permitted());
    let told = flat(&written(&one, &ShowOptions { typed: typed(Some(" --name x")), ..show() }, None));
    let pid = one.processes[0].pid;
    assert!(told.contains(&format!("→ sudo memtrace snapshot --pid {pid} --sort pss")), "{told}");
}

#[test]
fn tables() {
    let snapshot = alone(sample::postgres());
    let few = ShowOptions { top: Some(6), ..by(By::Mapping) };
    insta::assert_snapshot!("by_mapping", both(&snapshot, &few));
    insta::assert_snapshot!("by_file", both(&snapshot, &by(By::File)));
    insta::assert_snapshot!("by_permissions", both(&snapshot, &by(By::Permissions)));
    let filtered = ShowOptions { filter: Some("LIBC".into()), sort: Sort::Address, ..by(By::Mapping) };
    insta::assert_snapshot!("by_mapping_filtered", text(&snapshot, &filtered, 80));
}

/// The same backend two seconds later: the hash table is gone, the heap has grown, a page was written that a fork had
/// shared, and 4 KiB came between the reading of the counters and that of the mappings.
fn later() -> Process {
    let mut process = sample::postgres();
    process.time_ns += 2_000_000_000;
    let mut mappings = process.mappings.take().expect("known");
    mappings.retain(|mapping| mapping.start != 0x7f12_a400_0000);
    let heap = mappings.iter_mut().find(|mapping| mapping.start == 0x55d0_0200_0000).expect("a heap");
    heap.end += 2 << 20;
    if let Some((resident, detail)) = heap.resident.as_mut().zip(heap.detail.as_mut()) {
        resident.rss += 1_900 << 10;
        resident.anonymous += 1_900 << 10;
        detail.pss += 1_900 << 10;
        detail.private_dirty += 1_900 << 10;
    }
    if let Some(counters) = &mut process.counters {
        counters.virt = counters.virt + (2 << 20) - (96 << 20);
        counters.anon = counters.anon + (1_904 << 10) - (61_644 << 10);
    }
    process.mappings = Some(mappings);
    process
}

fn changes(before: &Process, after: &Process, width: usize) -> String {
    let mut out = Vec::new();
    let changed = crate::snapshot::diff::diff(before, after);
    diff::render(&changed, &show(), Page { color: false, width: Some(width) }, &mut out)
        .expect("a Vec takes everything");
    let text = String::from_utf8(out).expect("text");
    assert!(text.lines().all(|line| columns(line) <= width), "{text}");
    text
}

#[test]
fn what_changed() {
    let (before, after) = (sample::postgres(), later());
    insta::assert_snapshot!("diff", changes(&before, &after, 80) + "════\n" + &changes(&before, &after, 120));
    insta::assert_snapshot!("diff_of_nothing", changes(&before, &before, 80));
    insta::assert_snapshot!("diff_back_over_budget", changes(&later(), &sample::over_budget(), 80));
    insta::assert_snapshot!("diff_of_counters", changes(&before, &sample::not_permitted(), 80));
    insta::assert_snapshot!("diff_of_another", changes(&before, &sample::zombie(), 80));
    insta::assert_snapshot!("diff_hostile", changes(&sample::hostile(), &sample::postgres(), 80));
    let (mut json, mut single) = (Vec::new(), Vec::new());
    json::diff::render(&crate::snapshot::diff::diff(&before, &after), &mut json).expect("a Vec takes everything");
    json::diff::render_single(&sample::hostile(), true, &mut json).expect("a Vec takes everything");
    diff::render_single(&sample::hostile(), false, Page { color: false, width: Some(80) }, &mut single)
        .expect("a Vec takes everything");
    insta::assert_snapshot!("diff_json", String::from_utf8(json).expect("JSON is text"));
    insta::assert_snapshot!("diff_single", String::from_utf8(single).expect("text"));
}

#[test]
fn what_changed_in_several_together() {
    use crate::snapshot::diff::{Levels, Together};
    let compare = crate::snapshot::diff::diff;
    let levels =
        Levels { sum_res: Some(900 << 20), sum_pss: Some(300 << 20), res: Some(280 << 20), uss: Some(270 << 20) };
    let before = Together { time_ns: 1_769_860_803_120_000_000, pids: vec![4_711, 4_712, 4_713], levels };
    let levels = Levels { sum_res: Some(940 << 20), sum_pss: Some(299 << 20), res: Some(280 << 20), uss: None };
    let after = Together { time_ns: before.time_ns + 2_000_000_000, pids: vec![4_711, 4_712], levels };
    let page = Page { color: false, width: Some(80) };
    let (mut text, mut json) = (Vec::new(), Vec::new());
    diff::render_together(&before, &after, page, &mut text).expect("a Vec takes everything");
    diff::render_together(&after, &after, page, &mut text).expect("a Vec takes everything");
    let (one, later) = (sample::postgres(), later());
    let quiet = vec![compare(&one, &one); 9];
    assert!(quiet.iter().all(diff::is_quiet) && !diff::is_quiet(&compare(&one, &later)));
    diff::render_quiet(&quiet, page, &mut text).expect("a Vec takes everything");
    json::diff::render_together(&before, &after, &mut json).expect("a Vec takes everything");
    insta::assert_snapshot!("diff_together", String::from_utf8([text, json].concat()).expect("text"));
}

#[test]
fn who_else_maps_a_page_is_one_line() {
    let before = sample::postgres();
    let mut after = before.clone();
    after.time_ns += 2_000_000_000;
    let mut mappings = after.mappings.iter_mut().flatten();
    for mapping in mappings.by_ref().filter(|mapping| mapping.detail.is_some_and(|d| d.shared_clean > 0)).take(3) {
        mapping.detail = mapping.detail.map(|detail| crate::snapshot::Detail { pss: detail.pss - 1_000, ..detail });
    }
    insta::assert_snapshot!("diff_of_pss", changes(&before, &after, 80));
    // Together with something else it is a row, and the column still adds up.
    let mut later = later();
    let mapping = later.mappings.iter_mut().flatten().find(|mapping| mapping.name.ends_with(b"libc.so.6"));
    if let Some(detail) = mapping.and_then(|mapping| mapping.detail.as_mut()) {
        detail.pss -= 2_048;
    }
    insta::assert_snapshot!("diff_with_pss", changes(&before, &later, 120));
}

#[test]
fn what_a_narrow_table_leaves_out_is_named_and_the_width_that_it_names_has_it() {
    let snapshot = alone(sample::hostile());
    let narrow = text(&snapshot, &by(By::Mapping), 60);
    let (_, told) = narrow.split_once("left out for want of room: ").expect("named");
    let told = told.replace('\n', " ");
    let head = narrow.lines().find(|line| line.starts_with("by mapping")).expect("a table");
    let (left_out, rest) = told.split_once("; ").expect("heads and advice");
    let left_out: Vec<&str> = left_out.split(", ").collect();
    assert!(left_out.len() > 3 && left_out.iter().all(|left_out| !head.contains(left_out)), "{narrow}");
    let needed: usize = rest.split_whitespace().next().and_then(|figure| figure.parse().ok()).expect("columns");
    let lines = |width| written(&snapshot, &by(By::Mapping), width);
    assert!(lines(Some(needed - 1)).contains("want of room"));
    for all in [Some(needed), None] {
        let text = lines(all);
        assert!(!text.contains("want of room"), "{text}");
        let head = text.lines().find(|line| line.starts_with("by mapping")).expect("a table").to_owned();
        assert!(left_out.iter().all(|left_out| head.contains(left_out)), "{text}");
    }
}

#[test]
fn without_a_limit_names_are_whole() {
    let path = format!("/srv/{}/data", "x".repeat(200));
    let mut process = sample::postgres();
    if let Some(file) = process.files.iter_mut().flatten().next() {
        file.path = path.clone().into_bytes();
    }
    assert!(written(&alone(process.clone()), &by(By::File), None).contains(&path));
    assert!(!text(&alone(process), &by(By::File), 120).contains(&path));
}

#[test]
fn a_filter_that_nothing_matches_says_so() {
    let snapshot = alone(sample::postgres());
    for by in [Some(By::Mapping), Some(By::Kind), Some(By::File), None] {
        let text = text(&snapshot, &ShowOptions { by, filter: Some("nowhere\x1b".into()), ..show() }, 100);
        assert_eq!(text.matches("nothing matches \"nowhere\\x1b\"\n").count(), 1, "{text}");
        assert!(!text.contains("total"), "{text}");
    }
}

#[test]
fn unreadable_is_said_with_what_to_type() {
    use crate::cli::ExitCode;
    let told =
        |processes: &[Process]| notes::unread(&Snapshot { processes: processes.to_vec(), ..Snapshot::default() }, 100);
    assert_eq!(told(&[]), None);
    assert_eq!(told(&[sample::not_permitted(), sample::postgres()]), None, "one can be shown");
    let (text, code) = told(&[sample::zombie(), sample::not_permitted()]).expect("nothing to show");
    assert_eq!(code, ExitCode::NotPermitted);
    insta::assert_snapshot!("unread", text);
    assert_eq!(told(&[sample::zombie()]).expect("nothing to show").1, ExitCode::Failure);
    let (text, _) = told(&vec![sample::not_permitted(); 13]).expect("nothing to show");
    assert!(text.ends_with("memtrace: and nothing of 3 other processes\n"), "{text}");
}

#[test]
fn a_picture_whose_pages_were_refused_says_what_to_type_and_is_no_success() {
    use crate::cli::ExitCode;
    use crate::snapshot::{GivenUp, PageMap, Reason, Source};
    let because = |reason| {
        let mut process = sample::postgres();
        process.given_up.push(GivenUp { source: Source::Pagemap, reason });
        Snapshot {
            processes: vec![sample::postgres(), process],
            page_maps: vec![Some(PageMap::default()), None],
            ..Snapshot::default()
        }
    };
    let refused = because(Reason::NotPermitted { capability: "CAP_SYS_PTRACE".to_owned() });
    let (text, code) = notes::unplaced(&refused, usize::MAX, " --picture", 100).expect("one has no places");
    assert_eq!(code, ExitCode::NotPermitted);
    insta::assert_snapshot!("unplaced", text);
    assert_eq!(notes::unplaced(&refused, 1, " --svg FILE", 100), None, "it is not drawn");
    let broken = because(Reason::Failed { what: "no\x1bthing".to_owned() });
    let (text, code) = notes::unplaced(&broken, 2, " --svg FILE", 100).expect("one has no places");
    assert!(code == ExitCode::Failure && text.contains("no\\x1bthing"), "{text}");
    let zombies = Snapshot { processes: vec![sample::zombie()], page_maps: vec![None], ..Snapshot::default() };
    assert_eq!(notes::unplaced(&zombies, 1, "", 100), None, "of these it is told that nothing could be read");
}

#[test]
fn a_call_that_took_longer_than_allowed_is_told() {
    let mut process = sample::postgres();
    let show = || ShowOptions { hold_limit: Some(Duration::from_micros(200)), ..show() };
    assert!(
        text(&alone(process.clone()), &show(), 100).contains("too long    a call of smaps took 214 µs, and 200 µs")
    );
    let full = ShowOptions { hold_limit: None, costs: true, ..show() };
    insta::assert_snapshot!("costs", text(&alone(process.clone()), &full, 100).split_once("cost  ").expect("told").1);
    // cachestat asks about files: it keeps nobody waiting.
    process.sources.retain(|cost| !cost.source.holds_lock());
    assert!(!text(&alone(process), &show(), 100).contains("too long"));
}

#[test]
fn text_says_what_a_picture_shows() {
    let process = sample::over_budget();
    let map = blocks::tests::placed(&sample::postgres());
    let snapshot = Snapshot { processes: vec![process], page_maps: vec![Some(map)], ..Snapshot::default() };
    insta::assert_snapshot!("with_a_page_map", text(&snapshot, &show(), 100));
}

#[test]
fn of_three_processes_the_svg_says_who_is_not_drawn() {
    let three = |processes| Snapshot { processes, ..Snapshot::default() };
    let some = || sample::postgres();
    assert_eq!(svg::left_out(&three(vec![some(), sample::zombie(), some()])), None);
    let text = svg::left_out(&three(vec![some(), some(), some()])).expect("one is left out");
    assert_eq!(
        text,
        "memtrace: --svg draws two processes: postgres[4711] and postgres[4711]; 1 other process is not in it\n"
    );
}

#[test]
fn colours_are_closed_on_every_line_and_change_nothing_else() {
    let paint = |color| {
        let mut out = Vec::new();
        let snapshot = alone(sample::postgres());
        render(&snapshot, &show(), Page { color, width: Some(100) }, &mut out).expect("a Vec takes everything");
        String::from_utf8(out).expect("text")
    };
    let coloured = paint(true);
    for line in coloured.lines() {
        assert_eq!(line.matches("\x1b[0m").count() * 2, line.matches('\x1b').count(), "{line:?}");
    }
    let mut bare = coloured;
    for look in ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[33m", "\x1b[32m", "\x1b[1;31m"] {
        bare = bare.replace(look, "");
    }
    let trimmed: Vec<&str> = bare.lines().map(str::trim_end).collect();
    assert_eq!(trimmed, paint(false).lines().collect::<Vec<_>>());
}
