//! Several processes together: what their RES comes to when each page is counted once, who shares how much with whom, and
//! what it is that they share.

use super::labels::{Filter, Label, kind_words};
use super::table::{Column, Table};
use super::twice::{self, Twice};
use super::{notes, tables, text};
use crate::cli::ShowOptions;
use crate::snapshot::{Counters, Group, Mapping, Missing, Physical, Process, SharedObject, Snapshot, Source};
use crate::statement::Kind;
use crate::views::columns::{cut, right};
use crate::views::escape::{basename, escape};
use crate::views::human::{count, counted, percent, short, size};
use crate::views::sheet::{Look, Sheet};
use crate::views::words;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Pairs in a list, and objects, unless `--top` says otherwise.
const FEW: usize = 10;
/// The largest group whose pairs are shown as a matrix.
const MATRIX: usize = 12;
/// Columns of a command line in a table.
const COMMAND: usize = 40;

pub(super) fn print(snapshot: &Snapshot, group: &Group, show: &ShowOptions, sheet: &mut Sheet) {
    let members = members(snapshot, group);
    let time_ns = snapshot.processes.iter().map(|process| process.time_ns).max().unwrap_or_default();
    let title = format!("{} together", counted(members.len() as u64, "process", "processes"));
    sheet.line(&[(Look::Strong, &title), (Look::Plain, &format!(" · {} · {}", names(&members), text::time(time_ns)))]);
    headline(&members, group, sheet);
    sheet.line(&[]);
    levels(&members, group, sheet);
    sheet.line(&[]);
    processes(&members, group, show, sheet);
    if let Some(physical) = &group.physical {
        pairs(group, physical, show, sheet);
        objects(&members, physical, show, sheet);
    }
    sheet.line(&[]);
    changed(group, sheet);
    absent(snapshot, group, sheet);
    let sources = members.iter().flat_map(|process| &process.sources).chain(&group.sources);
    notes::cost(&sources.copied().collect::<Vec<_>>(), show, sheet);
    notes::given_up_of(&members, &command(group, show), sheet);
    notes::given_up(&group.given_up, &command(group, show), sheet);
    if let Some(first) = members.first() {
        let text = format!("memtrace snapshot --pid {}        one of them, by kind and file", first.pid);
        sheet.line(&[(Look::Faint, &text)]);
    }
}

/// Below what each of them says of itself: who is not in it, what looking at them together cost, and what was not read.
pub(super) fn notes(snapshot: &Snapshot, group: &Group, show: &ShowOptions, sheet: &mut Sheet) {
    changed(group, sheet);
    absent(snapshot, group, sheet);
    notes::cost(&group.sources, show, sheet);
    notes::given_up(&group.given_up, &command(group, show), sheet);
}

/// That they did not stand still.
fn changed(group: &Group, sheet: &mut Sheet) {
    if group.changed > 0 {
        let text = format!(
            "their RES moved by {} while they were read: sums may be off by that, more if it went up and down",
            size(group.changed)
        );
        sheet.wrapped((Look::Alarm, "changed     "), 12, (Look::Plain, &text));
    }
}

/// What was typed, or comes to the same.
fn command(group: &Group, show: &ShowOptions) -> String {
    let flags = notes::flags(show);
    if let Some(subject) = &show.typed.subject {
        return format!("memtrace snapshot{}{flags}", escape(subject.as_bytes(), 200));
    }
    let pids: String = group.pids.iter().take(FEW).map(|pid| format!(" --pid {pid}")).collect();
    let more = if group.pids.len() > FEW { " …" } else { "" };
    format!("memtrace snapshot{pids}{more}{flags}")
}

/// Who is not in it.
fn absent(snapshot: &Snapshot, group: &Group, sheet: &mut Sheet) {
    if !snapshot.missing.is_empty() {
        sheet.wrapped((Look::Plain, "missing     "), 12, (Look::Plain, &missing(&snapshot.missing)));
    }
    let unread = snapshot.processes.iter().filter(|process| !group.pids.contains(&process.pid));
    for process in unread {
        sheet.wrapped((Look::Plain, "left out    "), 12, (Look::Plain, &left_out(process)));
    }
}

/// Who was meant and is not there, in a line.
#[must_use]
pub fn missing(missing: &Missing) -> String {
    let told = |count: usize, one: &str, several: &str| {
        (count > 0).then(|| {
            format!("{} {}", counted(count as u64, "process", "processes"), [several, one][usize::from(count == 1)])
        })
    };
    let gone = told(
        missing.vanished,
        "ended before it could be read, or is hidden (hidepid)",
        "ended before they could be read, or are hidden (hidepid)",
    );
    let unreadable = told(missing.unreadable, "could not be read", "could not be read").map(|told| {
        let first = if missing.unreadable > 1 { "the first: " } else { "" };
        format!("{told} ({first}{})", escape(missing.why.as_bytes(), 200))
    });
    gone.into_iter().chain(unreadable).collect::<Vec<_>>().join("; ")
}

/// Who is not in the group, and why.
fn left_out(process: &Process) -> String {
    let why = match (process.counters, &process.mappings) {
        (None, _) => "nothing of it could be read".to_owned(),
        (_, Some(_)) => {
            "it ended or executed another program meanwhile, or its memory is that of another one of them".to_owned()
        }
        (_, None) => {
            let maps = process.given_up.iter().find(|given_up| given_up.source == Source::Maps);
            maps.map_or_else(|| "its mappings are unknown".to_owned(), |maps| notes::words(&maps.reason, "").0)
        }
    };
    format!("{}: {why}", text::name(process))
}

/// The processes of the group, in its order.
fn members<'a>(snapshot: &'a Snapshot, group: &Group) -> Vec<&'a Process> {
    let by_pid: BTreeMap<u32, &Process> = snapshot.processes.iter().map(|process| (process.pid, process)).collect();
    group.pids.iter().filter_map(|pid| by_pid.get(pid).copied()).collect()
}

/// `postgres × 9, psql`
fn names(members: &[&Process]) -> String {
    let mut names: BTreeMap<&[u8], u64> = BTreeMap::new();
    for process in members {
        *names.entry(&process.comm).or_default() += 1;
    }
    let mut names: Vec<(&[u8], u64)> = names.into_iter().collect();
    names.sort_by_key(|&(_, n)| Reverse(n));
    let told = names.iter().take(4).map(|&(name, n)| match n {
        1 => escape(name, 32),
        n => format!("{} × {}", escape(name, 32), count(n)),
    });
    let told: Vec<String> = told.collect();
    format!("{}{}", told.join(", "), if names.len() > told.len() { ", …" } else { "" })
}

/// What is counted several times, as far as it is known.
fn headline(members: &[&Process], group: &Group, sheet: &mut Sheet) {
    let mut told = match &group.physical {
        Some(physical) => format!("{} of RES is {} of memory", size(group.sum_res), size(physical.res)),
        None => format!("{} of RES", size(group.sum_res)),
    };
    let of_all = |bytes| percent(bytes, group.sum_res).unwrap_or_default();
    match &group.physical {
        Some(physical) => {
            let shared = physical.objects.iter().filter(|object| object.processes > 1);
            let largest = shared.max_by_key(|object| object.sum_res);
            let more = |object: &SharedObject| object.sum_res.saturating_sub(object.res);
            let own = largest_in_one(members).filter(|own| own.more() > largest.map_or(0, more));
            match (own, largest) {
                (Some(own), _) => told.push_str(&format!(
                    ": {} of {} is mapped {} times by {}",
                    size(own.twice.bytes),
                    Label::of_mapping(own.twice.mapping).fit(60),
                    own.twice.times,
                    text::name(own.process),
                )),
                (None, Some(object)) => {
                    let holders = holders(members, object);
                    let what = what(object.kind, &object.name, &holders);
                    let pids = if is_one_of_several(object, physical) { pids(&holders) } else { String::new() };
                    told.push_str(&format!(
                        ": {} ({}) is {} of {what}, counted in {} processes{pids}",
                        size(object.sum_res),
                        of_all(object.sum_res),
                        size(object.res),
                        count(object.processes as u64),
                    ));
                }
                (None, None) => told.push_str(": they share nothing among themselves"),
            }
        }
        None => match largest_segment(members) {
            Some(l) => {
                let (least, counted) = if l.unknown { ("at least ", "mapped by") } else { ("", "counted in") };
                told.push_str(&format!(
                    ", of which {least}{} ({}) is {} of {}, {counted} {} processes",
                    size(l.sum_res),
                    of_all(l.sum_res),
                    l.bounds(),
                    l.what,
                    count(l.processes as u64),
                ));
            }
            None => told.push_str("; how much of it is counted more than once is unknown"),
        },
    }
    told.push('.');
    sheet.wrapped((Look::Plain, ""), 0, (Look::Strong, &told));
}

/// Memory that one process maps at several places.
struct InOne<'a> {
    process: &'a Process,
    twice: Twice<'a>,
}

impl InOne<'_> {
    /// By how much RES is more than the memory, because of it.
    fn more(&self) -> u64 {
        self.twice.bytes.saturating_mul(self.twice.times.saturating_sub(1) as u64)
    }
}

fn largest_in_one<'a>(members: &[&'a Process]) -> Option<InOne<'a>> {
    let all = members.iter().flat_map(|process| twice::of(process).into_iter().map(|twice| InOne { process, twice }));
    all.max_by_key(InOne::more)
}

/// Something that is in the RES of several processes, as far as it is known without a look at pages.
struct Counted {
    what: String,
    processes: usize,
    /// What is known of it.
    sum_res: u64,
    /// Of one mapping it is not known.
    unknown: bool,
    /// In memory is at least this, and at most that.
    least: u64,
    most: u64,
}

impl Counted {
    fn bounds(&self) -> String {
        let (least, most) = (self.least, self.most);
        match () {
            () if least >= most => size(most),
            // That each page may be there as often as it is counted says nothing.
            () if most >= self.sum_res && !self.unknown => format!("at least {}", size(least)),
            () => format!("between {} and {}", size(least), size(most)),
        }
    }
}

/// Without a look at pages: the largest segment or file that several map, which is known by its device and inode. It is
/// in memory at most once, so that no more than what is mapped of it is there; and no less than what one process has of
/// it, nor than what their proportional shares come to.
fn largest_segment(members: &[&Process]) -> Option<Counted> {
    struct Seen<'a> {
        kind: Kind,
        name: &'a [u8],
        holders: Vec<&'a Process>,
        sum_res: u64,
        unknown: bool,
        pss: u64,
        most_of_one: u64,
        size: u64,
    }
    let mut seen: BTreeMap<(u64, u64), Seen<'_>> = BTreeMap::new();
    for &process in members {
        for mapping in process.mappings.iter().flatten().filter(|mapping| mapping.inode != 0) {
            let here = mapping.resident.map(|r| r.rss.saturating_sub(r.anonymous));
            let end = mapping.offset.saturating_add(mapping.size());
            let entry = seen.entry((mapping.device, mapping.inode)).or_insert(Seen {
                kind: mapping.kind,
                name: &mapping.name,
                holders: Vec::new(),
                sum_res: 0,
                unknown: false,
                pss: 0,
                most_of_one: 0,
                size: 0,
            });
            if here != Some(0) && entry.holders.last().is_none_or(|last| last.pid != process.pid) {
                entry.holders.push(process);
            }
            let known = here.unwrap_or(0);
            entry.sum_res = entry.sum_res.saturating_add(known);
            entry.unknown |= here.is_none();
            entry.most_of_one = entry.most_of_one.max(known);
            // With copies on write in it, it is no part of the file's.
            let clean = mapping.resident.is_some_and(|r| r.anonymous == 0);
            entry.pss = entry.pss.saturating_add(mapping.detail.filter(|_| clean).map_or(0, |detail| detail.pss));
            entry.size = entry.size.max(end);
        }
    }
    let several = seen.into_values().filter(|seen| seen.holders.len() > 1 && seen.sum_res > 0);
    let largest = several.max_by_key(|seen| seen.sum_res)?;
    let most = if largest.unknown { largest.size } else { largest.size.min(largest.sum_res) };
    Some(Counted {
        what: what(largest.kind, largest.name, &largest.holders),
        processes: largest.holders.len(),
        sum_res: largest.sum_res,
        unknown: largest.unknown,
        least: largest.pss.max(largest.most_of_one).min(most),
        most,
    })
}

/// Those that map it; where no mapping tells, it may be any of them.
fn holders<'a>(members: &[&'a Process], object: &SharedObject) -> Vec<&'a Process> {
    let is_of =
        |mapping: &Mapping| object.inode != 0 && (mapping.device, mapping.inode) == (object.device, object.inode);
    let holds = |process: &&&Process| process.mappings.iter().flatten().any(is_of);
    let holders: Vec<&Process> = members.iter().filter(holds).copied().collect();
    if holders.is_empty() { members.to_vec() } else { holders }
}

/// Whether another one is called the same: the segment of another cluster.
fn is_one_of_several(object: &SharedObject, physical: &Physical) -> bool {
    let alike = |other: &&SharedObject| object_label(other) == object_label(object);
    physical.objects.iter().filter(alike).count() > 1
}

/// `: 5364, 5370, …`
fn pids(holders: &[&Process]) -> String {
    let pids: Vec<String> = holders.iter().take(3).map(|process| process.pid.to_string()).collect();
    format!(": {}{}", pids.join(", "), if holders.len() > pids.len() { ", …" } else { "" })
}

/// Whether it is a server or a backend of PostgreSQL's, by its program.
pub(super) fn is_postgres(process: &Process) -> bool {
    let exe = process.exe.as_deref().map(|exe| exe.strip_suffix(b" (deleted)").unwrap_or(exe));
    exe.map(basename) == Some(b"postgres".as_slice())
}

/// What a shared thing is called in a sentence. PostgreSQL's largest segment is what `shared_buffers` sets the size of.
fn what(kind: Kind, name: &[u8], holders: &[&Process]) -> String {
    let segment = matches!(kind, Kind::SharedAnon | Kind::SysvShm);
    let postgres = !holders.is_empty() && holders.iter().all(|process| is_postgres(process));
    match kind {
        _ if segment && postgres => "PostgreSQL's shared memory (shared_buffers and a little more)".to_owned(),
        Kind::SharedAnon => "shared anonymous memory".to_owned(),
        Kind::SysvShm => "System V shared memory".to_owned(),
        Kind::Heap => "heap that is mapped more than once".to_owned(),
        _ if name.is_empty() => format!("{} memory", kind_words(kind)),
        _ => Label::name(name).fit(60),
    }
}

fn levels(members: &[&Process], group: &Group, sheet: &mut Sheet) {
    let physical = group.physical.as_ref();
    text::level(
        "Σ RES",
        &size(group.sum_res),
        "what top's column adds up to: a shared page is in it once for each process",
        sheet,
    );
    let unknown = "unknown".to_owned();
    let res = physical.map_or_else(|| unknown.clone(), |p| size(p.res));
    text::level("RES", &res, "the pages that they have in memory, each counted once", sheet);
    let uss = physical.map_or_else(|| unknown.clone(), |p| size(p.uss));
    let mut words =
        "mapped by nobody outside of these. When all of them end it becomes free, but for pages of files (the \
                     page cache keeps them) and shared memory that lives on by itself (tmpfs, POSIX, System V); \
                     anonymous shared memory goes with its last user"
            .to_owned();
    let rows = members.iter().try_fold(0_u64, |sum, process| Some(sum.saturating_add(process.rollup?.uss())));
    if physical.zip(rows).is_some_and(|(physical, rows)| rows < physical.uss) {
        words.push_str(". Σ below is less: what is mapped more than once, by several of them or at several places of one, is in no row");
    }
    text::level("USS", &uss, &words, sheet);
    let pss = group.sum_pss.map_or(unknown, size);
    let words = match physical {
        Some(_) => "each page divided by the number of its users, those outside included",
        None => {
            "each page divided by the number of its users, those outside included: without a look at the pages the \
                 nearest there is to RES"
        }
    };
    text::level("Σ PSS", &pss, words, sheet);
}

/// Its name, or its command line's beginning where that says more: `postgres: 15/main: checkpointer`.
fn member(process: &Process) -> Label<'_> {
    let command = words::command_line(&process.cmdline, &[]);
    let program = command.split(|&byte| byte == b' ').next().unwrap_or_default();
    let command = &command[program.len() - basename(program).len()..];
    match command.starts_with(&process.comm) && command.len() > process.comm.len() {
        true => Label::plain(cut(&escape(command, COMMAND * 2), COMMAND)),
        false => Label::name(&process.comm),
    }
}

/// One line a process.
fn processes(members: &[&Process], group: &Group, show: &ShowOptions, sheet: &mut Sheet) {
    let shared = |index: usize| group.physical.as_ref().and_then(|p| p.shared_with_group.get(index)).copied();
    let mut rows: Vec<(&Process, Option<u64>)> =
        members.iter().enumerate().map(|(index, process)| (*process, shared(index))).collect();
    rows.sort_by_key(|(process, _)| Reverse(process.counters.as_ref().map(Counters::res)));
    let top = show.top.filter(|&top| rows.len() > top + 1).unwrap_or(rows.len());
    let (shown, rest) = rows.split_at(top);
    let comms: Vec<String> = shown.iter().map(|(process, _)| format!("{:<8}", process.pid)).collect();
    let mut labels: Vec<Label<'_>> = shown.iter().map(|(process, _)| member(process)).collect();
    if !rest.is_empty() {
        labels.push(tables::others(rest.len()));
    }
    labels.push(Label::plain("Σ"));
    let bytes = |head, weight, of: fn(&(&Process, Option<u64>)) -> Option<u64>| {
        let sum = |rows: &[(&Process, Option<u64>)]| {
            rows.iter().map(of).try_fold(0_u64, |sum, bytes| Some(sum.saturating_add(bytes?)))
        };
        let mut cells: Vec<Option<u64>> = shown.iter().map(of).collect();
        if !rest.is_empty() {
            cells.push(sum(rest));
        }
        cells.push(sum(&rows));
        Column::bytes(head, weight, cells)
    };
    let sums = labels.len() - shown.len();
    let columns = vec![
        bytes("RES", 9, |(p, _)| p.counters.as_ref().map(Counters::res)),
        bytes("USS", 8, |(p, _)| p.rollup.map(|r| r.uss())),
        bytes("PSS", 7, |(p, _)| p.rollup.map(|r| r.pss)),
        // A page that three share would be in the sum three times.
        bytes("shared with these", 6, |&(_, shared)| shared).without_sums(sums),
        bytes("swap", 5, |(p, _)| p.counters.map(|c| c.swap)).if_any(),
    ];
    Table { head: "pid     process", leads: comms, sums, labels, columns }.print(sheet, 0);
}

/// Who shares how much with whom.
fn pairs(group: &Group, physical: &Physical, show: &ShowOptions, sheet: &mut Sheet) {
    // That those of a large group are left out is among what was not read.
    let Some(pairs) = physical.pairs.as_ref().filter(|pairs| !pairs.is_empty()) else { return };
    sheet.line(&[]);
    let n = group.pids.len();
    let pid = |index: usize| group.pids.get(index).map_or_else(String::new, u32::to_string);
    let width = pairs.iter().map(|pair| short(pair.shared).chars().count()).max().unwrap_or(0).max(7) + 1;
    if n > 2 && n <= MATRIX && 8 + (n - 1) * width <= sheet.lines() {
        let cells: BTreeMap<(usize, usize), u64> = pairs.iter().map(|pair| ((pair.a, pair.b), pair.shared)).collect();
        let heads: String = (0..n - 1).map(|a| right(&pid(a), width)).collect();
        sheet.line(&[(Look::Faint, &format!("{:<8}{heads}", "shared"))]);
        for b in 1..n {
            let row: String = (0..b).map(|a| right(&short(cells.get(&(a, b)).copied().unwrap_or(0)), width)).collect();
            sheet.line(&[(Look::Plain, &format!("{:<8}{row}", pid(b)))]);
        }
        return;
    }
    let mut pairs = pairs.clone();
    pairs.sort_by_key(|pair| (Reverse(pair.shared), pair.a, pair.b));
    let shown = show.top.unwrap_or(pairs.len()).min(FEW);
    sheet.line(&[(Look::Faint, "pairs that share most")]);
    for pair in pairs.iter().take(shown) {
        let text = format!("{:>18}  {} and {}", size(pair.shared), pid(pair.a), pid(pair.b));
        sheet.line(&[(Look::Plain, &text)]);
    }
    if pairs.len() > shown {
        let more = counted((pairs.len() - shown) as u64, "more pair shares", "more pairs share");
        sheet.line(&[(Look::Faint, &format!("{:>18}  {more} as much or less (--json has all)", ""))]);
    }
}

fn object_label(object: &SharedObject) -> Label<'_> {
    match object.kind {
        Kind::SharedAnon | Kind::Heap | Kind::Stack => Label::plain(kind_words(object.kind)),
        kind if object.name.is_empty() => Label::plain(kind_words(kind)),
        // The file's own pages have a row of their own.
        Kind::Program | Kind::Library if object.inode == 0 => Label { words: "data of".to_owned(), name: &object.name },
        _ => Label::name(&object.name),
    }
}

/// What it is that they share.
fn objects(members: &[&Process], physical: &Physical, show: &ShowOptions, sheet: &mut Sheet) {
    let filter = Filter::new(show.filter.as_deref());
    let wanted = |object: &&SharedObject| filter.matches(Some(object.kind), &object_label(object), &object.name);
    let objects: Vec<&SharedObject> = physical.objects.iter().filter(wanted).collect();
    let shown = &objects[..objects.len().min(show.top.unwrap_or(FEW).min(FEW))];
    if shown.is_empty() {
        return;
    }
    sheet.line(&[]);
    let label = |object| match object_label(object) {
        label if is_one_of_several(object, physical) => {
            Label { words: format!("{}{}", label.words, pids(&holders(members, object))), ..label }
        }
        label => label,
    };
    let labels = shown.iter().copied().map(label).collect();
    let bytes = |head, weight, of: fn(&SharedObject) -> u64| {
        Column::bytes(head, weight, shown.iter().map(|object| Some(of(object))))
    };
    let columns = vec![
        Column::text("processes", 6, shown.iter().map(|object| count(object.processes as u64))),
        match shown.iter().any(|object| object.inode == 0) {
            true => bytes("in memory", 9, |o| o.res).meaning("of heap and data only what is mapped more than once"),
            false => bytes("in memory", 9, |o| o.res),
        },
        bytes("shared", 8, |o| o.shared),
        bytes("in Σ RES", 7, |o| o.sum_res),
    ];
    Table { head: "what they share", leads: Vec::new(), sums: 0, labels, columns }.print(sheet, 0);
    if objects.len() > shown.len() {
        let more = counted((objects.len() - shown.len()) as u64, "more thing", "more things");
        sheet.line(&[(Look::Faint, &format!("{more} (--json has all)"))]);
    }
}
