//! A snapshot for people. The summary of a process teaches: what `top` shows, what it consists of here, and why it is not
//! what one takes it for; then where the memory is, what of it is in swap, what of its files is in memory, and what it
//! cost to find out.

use super::labels::Label;
use super::seen::Seen;
use super::{group, notes, tables, twice};
use crate::cli::{By, ShowOptions};
use crate::event::permission;
use crate::snapshot::diff::difference;
use crate::snapshot::rows::Sums;
use crate::snapshot::{Counters, Group, Mapping, Process, Snapshot};
use crate::statement::Kind;
use crate::views::escape::escape;
use crate::views::human::{count, counted, or_unknown, percent, signed_size, size};
use crate::views::sheet::{Look, Sheet};
use crate::views::{Clock, words};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{self, Write};
use time::UtcOffset;

/// What text is written on.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Terminal colours.
    pub color: bool,
    /// Columns; `None` for as many as tables need.
    pub width: Option<usize>,
}

impl Page {
    /// Columns of text and of pictures where there is no limit.
    pub const USUAL: usize = 100;
    /// Wider text does not read well.
    const WIDEST: usize = 160;

    pub(super) fn sheet(self) -> Sheet {
        let text = self.width.unwrap_or(Self::USUAL).min(Self::WIDEST);
        Sheet::new(self.color, text).with_lines(self.width.unwrap_or(usize::MAX))
    }
}

/// Files and swapped mappings in a summary; the tables have all.
const FEW: usize = 6;
/// Column at which words begin, after a name and an amount.
const WORDS: usize = 20;

/// Writes everything: a summary, or the table that was asked for, of each process; of several what they share.
///
/// # Errors
/// What the writer returned.
pub fn render(snapshot: &Snapshot, show: &ShowOptions, page: Page, out: &mut dyn Write) -> io::Result<()> {
    let mut sheet = page.sheet();
    match (&snapshot.group, show.by) {
        (Some(group), None) => group::print(snapshot, group, show, &mut sheet),
        (_, by) => {
            for (i, seen) in Seen::all(snapshot).enumerate() {
                if i > 0 {
                    sheet.line(&[]);
                }
                match by {
                    None => summary(seen, show, &mut sheet),
                    Some(by) => table(seen, by, show, &mut sheet),
                }
            }
            if let Some(group) = &snapshot.group {
                group_notes(snapshot, group, show, &mut sheet);
            }
        }
    }
    out.write_all(sheet.text.as_bytes())
}

/// Writes what stands below the pictures of several processes.
///
/// # Errors
/// What the writer returned.
pub fn render_group_notes(snapshot: &Snapshot, show: &ShowOptions, page: Page, out: &mut dyn Write) -> io::Result<()> {
    let mut sheet = page.sheet();
    if let Some(group) = &snapshot.group {
        group_notes(snapshot, group, show, &mut sheet);
    }
    out.write_all(sheet.text.as_bytes())
}

/// Writes a paragraph between snapshots.
///
/// # Errors
/// What the writer returned.
pub fn render_text(text: &str, page: Page, out: &mut dyn Write) -> io::Result<()> {
    let mut sheet = page.sheet();
    sheet.line(&[]);
    sheet.wrapped((Look::Plain, ""), 0, (Look::Faint, text));
    out.write_all(sheet.text.as_bytes())
}

fn group_notes(snapshot: &Snapshot, group: &Group, show: &ShowOptions, sheet: &mut Sheet) {
    let before = sheet.text.len();
    sheet.line(&[]);
    sheet.line(&[(Look::Strong, "all of them")]);
    let head = sheet.text.len();
    group::notes(snapshot, group, show, sheet);
    if sheet.text.len() == head {
        sheet.text.truncate(before);
    }
}

fn table(seen: Seen<'_>, by: By, show: &ShowOptions, sheet: &mut Sheet) {
    let process = seen.process;
    header(process, sheet);
    if by == By::File {
        match tables::files(process, show) {
            Some(files) => tables::print_files(&files, tables::others(files.rest.len()), show, sheet),
            None => sheet.line(&[(Look::Alarm, "files: unknown")]),
        }
    } else {
        match tables::rows(seen, by, show) {
            Some(rows) => {
                let total = tables::print(rows, by, show, sheet);
                if show.filter.is_none() {
                    adds_up(process, &total, sheet);
                }
            }
            None => sheet.line(&[(Look::Alarm, "mappings: unknown")]),
        }
    }
    notes::print(process, show, sheet);
}

/// `postgres[4711] · stopped · 2026-01-31 12:00:03.120 UTC`
pub(super) fn header(process: &Process, sheet: &mut Sheet) {
    let about = match state(process.state) {
        "" => format!(" · {}", time(process.time_ns)),
        state => format!(" · {state} · {}", time(process.time_ns)),
    };
    sheet.line(&[(Look::Strong, &name(process)), (Look::Plain, &about)]);
}

pub(super) fn time(time_ns: i64) -> String {
    Clock::at(time_ns).date_time_and_zone(0, UtcOffset::UTC)
}

/// `postgres[4711]`
pub(super) fn name(process: &Process) -> String {
    format!("{}[{}]", escape(&process.comm, 32), process.pid)
}

/// Where it is worth a word.
const fn state(state: u8) -> &'static str {
    match state {
        b'D' => "in uninterruptible sleep",
        b'T' => "stopped",
        b't' => "stopped by a debugger",
        b'Z' => "zombie",
        b'X' => "dead",
        _ => "",
    }
}

fn summary(seen: Seen<'_>, show: &ShowOptions, sheet: &mut Sheet) {
    let process = seen.process;
    header(process, sheet);
    let command = words::command_line(&process.cmdline, process.exe.as_deref().unwrap_or_default());
    if !command.is_empty() {
        sheet.wrapped((Look::Plain, "command     "), 12, (Look::Plain, &escape(&command, 200)));
    }
    sheet.line(&[]);
    let Some(counters) = &process.counters else {
        let why = match process.state {
            b'Z' | b'X' => {
                "It has ended and waits for its parent to notice: its memory is gone, and there is nothing to look at."
            }
            _ => "It has no address space: a kernel thread, or a process that is ending.",
        };
        sheet.wrapped((Look::Plain, ""), 0, (Look::Plain, why));
        sheet.line(&[]);
        return notes::print(process, show, sheet);
    };
    let swapped = swapped(process, counters);
    levels(seen, counters, &swapped, sheet);
    private(seen, counters, sheet);
    sheet.line(&[]);
    match tables::rows(seen, By::Kind, show) {
        Some(rows) => {
            let total = tables::print(rows, By::Kind, show, sheet);
            let mut mappings = process.mappings.iter().flatten();
            if group::is_postgres(process) && mappings.any(|mapping| mapping.kind == Kind::SharedAnon) {
                let text = "shared anonymous: PostgreSQL's shared_buffers and a little more";
                sheet.wrapped((Look::Plain, ""), 0, (Look::Faint, text));
            }
            if show.filter.is_none() {
                adds_up(process, &total, sheet);
            }
        }
        None => sheet.line(&[(Look::Plain, "by kind     unknown: its mappings could not be read")]),
    }
    swap(process, counters, &swapped, sheet);
    files(process, show, sheet);
    sheet.line(&[]);
    notes::print(process, show, sheet);
}

/// `RES      537.9 MiB  in memory now = …`
pub(super) fn level(name: &str, amount: &str, words: &str, sheet: &mut Sheet) {
    let label = format!("{name:<6}{amount:>12}  ");
    sheet.wrapped((Look::Strong, &label), WORDS, (Look::Plain, words));
}

/// What `top` prints and what it does not, each with its meaning.
fn levels(seen: Seen<'_>, c: &Counters, out: &Swapped, sheet: &mut Sheet) {
    let process = seen.process;
    let here = [c.res(), c.swap, c.hugetlb, out.shared];
    let rest = here.iter().fold(c.virt, |rest, bytes| rest.saturating_sub(*bytes));
    let swapped_too =
        if out.shared > 0 { format!(", {} is shared memory in swap", size(out.shared)) } else { String::new() };
    let mut virt = format!(
        "address space, not memory: {} of it is in RES, {} in SWAP{swapped_too}; {} is not mapped in now: never \
         touched, given back, or parts of files and shared memory that are not in use here, though others may have \
         them in memory",
        percent(c.res(), c.virt).unwrap_or_else(|| "0.0 %".to_owned()),
        size(c.swap),
        size(rest)
    );
    let mappings = process.mappings.as_deref().unwrap_or_default();
    // Guard pages, and whatever was reserved without a right to use it.
    let any = permission::READ | permission::WRITE | permission::EXECUTE;
    let closed: Sums = mappings.iter().filter(|mapping| mapping.permissions & any == 0).sum();
    // A few guard pages are no news; a JVM's reservation is.
    if closed.size > c.virt / 100 {
        virt.push_str(&format!("; {} may not be accessed at all", size(closed.size)));
    }
    level("VIRT", &size(c.virt), &virt, sheet);
    let res = format!("in memory now = anon {} + file {} + shmem {}", size(c.anon), size(c.file), size(c.shmem));
    level("RES", &size(c.res()), &res, sheet);
    let alone = match process.rollup.and_then(|r| r.private_file) {
        Some(alone) => format!("; {} of it is mapped only once", size(alone)),
        None => "; how much of it is mapped only once is unknown".to_owned(),
    };
    level("SHR", &size(c.shr()), &format!("file + shmem, whether anyone else maps them or not{alone}"), sheet);
    let rollup = process.rollup;
    let uss = match rollup.map(|r| (r.uss(), r.private_file)) {
        Some((uss, Some(files))) => format!(
            "mapped once, by nobody else = anonymous {} + file and shmem {}",
            size(uss.saturating_sub(files)),
            size(files)
        ),
        _ => "mapped once, by nobody else".to_owned(),
    };
    level("USS", &or_unknown(seen.uss(), size), &uss, sheet);
    let pss = match rollup {
        Some(r) => format!(
            "USS + {}, its part of {} that is mapped more than once, by others or here at several places{}: each page \
             divided by the number of its mappings",
            size(r.pss.saturating_sub(r.uss())),
            size(r.shared_clean.saturating_add(r.shared_dirty)),
            several_places(process),
        ),
        None => "each page divided by the number of its mappings".to_owned(),
    };
    level("PSS", &or_unknown(rollup.map(|r| r.pss), size), &pss, sheet);
    let anonymous = match (c.swap, out.shared) {
        (0, 0) => "nothing of it has been pushed out",
        (0, _) => "of its anonymous memory",
        _ => "anonymous memory that was pushed out of RES",
    };
    let shared = match out.shared {
        0 => String::new(),
        bytes => format!("; {} of shared memory is in swap too", size(bytes)),
    };
    level("SWAP", &size(c.swap), &format!("{anonymous}{shared}"), sheet);
    if c.hugetlb > 0 {
        level("HUGE", &size(c.hugetlb), "huge pages of hugetlbfs: memory that RES leaves out", sheet);
    }
    if c.locked > 0 {
        level("LOCK", &size(c.locked), "address space that may not be swapped out (mlock)", sheet);
    }
    level("PT", &size(c.page_tables), "page tables: what the mapping itself costs, in no figure above", sheet);
}

/// Why RES − SHR is not what is private, with this process's own amounts. The rows add up.
fn private(seen: Seen<'_>, c: &Counters, sheet: &mut Sheet) {
    let process = seen.process;
    sheet.line(&[]);
    let anon = size(c.anon);
    let files_unknown = |uss| {
        format!(
            "RES − SHR = {anon}, but {} is really private. How much of the difference is file pages that are \
             mapped once, and how much anonymous memory that is mapped more than once, is unknown.",
            size(uss)
        )
    };
    let Some(rollup) = process.rollup else {
        if let Some(uss) = seen.uss() {
            return sheet.wrapped((Look::Plain, ""), 0, (Look::Plain, &files_unknown(uss)));
        }
        let text = format!(
            "RES − SHR = {anon} is its anonymous memory. That is not what is private: file pages that are mapped \
             only once are missing in it, anonymous pages shared since a fork are in it. Here both are unknown."
        );
        return sheet.wrapped((Look::Plain, ""), 0, (Look::Plain, &text));
    };
    let Some(private_file) = rollup.private_file else {
        return sheet.wrapped((Look::Plain, ""), 0, (Look::Plain, &files_unknown(rollup.uss())));
    };
    let common = difference(rollup.uss().saturating_sub(private_file), rollup.anonymous);
    let meanwhile = difference(c.anon, rollup.anonymous);
    if private_file == 0 && common == 0 && meanwhile == 0 {
        let text = format!("RES − SHR = {anon}, and here exactly that is private (USS).");
        return sheet.wrapped((Look::Plain, ""), 0, (Look::Plain, &text));
    }
    let only = if rollup.uss() < c.anon { "only " } else { "" };
    let text = format!("RES − SHR = {anon}, but {only}{} is really private (USS), because", size(rollup.uss()));
    sheet.wrapped((Look::Plain, ""), 0, (Look::Strong, &text));
    let mut reason = |amount: i64, words: &str| {
        if amount != 0 {
            let label = format!("{:>18}  ", signed_size(amount));
            sheet.wrapped((Look::Plain, &label), WORDS, (Look::Plain, words));
        }
    };
    let mappings = process.mappings.as_deref().unwrap_or_default();
    let mut files = "of SHR is mapped only once".to_owned();
    if let Some(where_) = largest_private_files(mappings) {
        files.push_str(&format!(": {where_}"));
    }
    reason(private_file.cast_signed(), &files);
    let mut shared =
        "of its anonymous memory is mapped more than once: nobody has written to it since a fork".to_owned();
    let ksm = mappings.iter().sum::<Sums>().detail.map_or(0, |d| d.ksm);
    if ksm > 0 {
        shared.push_str(&format!(", or it was merged with equal pages (KSM {})", size(ksm)));
    }
    reason(common.wrapping_neg(), &shared);
    reason(meanwhile, "changed between the reading of the counters and that of the page tables");
}

/// `; here 2 times: memfd /memfd:x 100.0 MiB`: the largest of what this process maps at several places.
fn several_places(process: &Process) -> String {
    let mut twice = twice::of(process);
    if twice.is_empty() {
        return String::new();
    }
    let more = if twice.len() > 3 { ", …" } else { "" };
    twice.truncate(3);
    let named: Vec<String> = twice
        .iter()
        .map(|twice| {
            let label = Label::of_mapping(twice.mapping).fit(40);
            format!("mapped {} times here: {label} {}", twice.times, size(twice.bytes))
        })
        .collect();
    format!(" ({}{more})", named.join(", "))
}

/// The largest holders of file and shared pages that nobody else maps. What is private in a mapping and not anonymous is
/// such a page for certain; the reverse does not hold where a mapping has both, so these are the least amounts.
fn largest_private_files(mappings: &[Mapping]) -> Option<String> {
    let mut holders: BTreeMap<String, u64> = BTreeMap::new();
    for mapping in mappings {
        let sums = Sums::from(mapping);
        let anonymous = mapping.resident.map_or(u64::MAX, |r| r.anonymous);
        let alone = sums.private().unwrap_or(0).saturating_sub(anonymous);
        if alone > 0 {
            let holder = holders.entry(Label::of_mapping(mapping).fit(40)).or_default();
            *holder = holder.saturating_add(alone);
        }
    }
    let mut holders: Vec<(String, u64)> = holders.into_iter().collect();
    holders.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
    let named: Vec<String> = holders.iter().take(3).map(|(name, bytes)| format!("{name} {}", size(*bytes))).collect();
    let more = if holders.len() > named.len() { ", …" } else { "" };
    (!named.is_empty()).then(|| format!("{}{more}", named.join(", ")))
}

/// Whether the rows are the whole.
fn adds_up(process: &Process, total: &Sums, sheet: &mut Sheet) {
    let Some((counters, rss)) = process.counters.zip(total.rss()) else { return };
    let difference = difference(counters.res(), rss);
    let why = match process.counters_after {
        Some(after) if after == counters => "the kernel's counters and its page tables differ",
        _ => "it changed while it was read",
    };
    let text = match difference {
        0 => "resident adds up to RES, to the byte".to_owned(),
        _ => format!("resident adds up to RES {}: {why}", signed_size(difference)),
    };
    sheet.line(&[(Look::Faint, &text)]);
}

/// What the mappings have in swap and the counter does not tell of.
struct Swapped {
    /// Shared memory, which SWAP leaves out.
    shared: u64,
    /// What no mapping of shared memory accounts for.
    meanwhile: i64,
}

fn swapped(process: &Process, counters: &Counters) -> Swapped {
    // Of a private mapping of such memory it may be either: a copy on write, or what is behind it.
    let backed = |mapping: &Mapping| {
        matches!(mapping.kind, Kind::Tmpfs | Kind::Memfd | Kind::PosixShm | Kind::SysvShm | Kind::SharedAnon)
    };
    let mappings = process.mappings.as_deref().unwrap_or_default();
    let (mut least, mut most, mut all, mut unknown) = (0_u64, 0_u64, 0_u64, mappings.is_empty());
    for mapping in mappings {
        let Some(swap) = mapping.resident.and_then(|resident| resident.swap) else {
            unknown = true;
            continue;
        };
        let is_shared = mapping.permissions & permission::SHARED != 0;
        all = all.saturating_add(swap);
        least = least.saturating_add(if is_shared { swap } else { 0 });
        most = most.saturating_add(if is_shared || backed(mapping) { swap } else { 0 });
    }
    let more = difference(counters.swap, all);
    let shared = u64::try_from(more).unwrap_or(0).clamp(least, most);
    Swapped { shared, meanwhile: if unknown { 0 } else { more.wrapping_sub(shared.cast_signed()) } }
}

fn swap(process: &Process, counters: &Counters, &Swapped { shared, meanwhile }: &Swapped, sheet: &mut Sheet) {
    let mut mappings: Vec<(&Mapping, u64)> = process
        .mappings
        .iter()
        .flatten()
        .filter_map(|mapping| Some((mapping, mapping.resident?.swap?)))
        .filter(|&(_, swap)| swap > 0)
        .collect();
    if mappings.is_empty() && counters.swap == 0 {
        return;
    }
    sheet.line(&[]);
    let mut text = format!("{} of anonymous memory", size(counters.swap));
    if shared > 0 {
        text.push_str(&format!(", and {} of shared memory that is mapped here and that SWAP leaves out", size(shared)));
    }
    if meanwhile != 0 {
        text.push_str(&format!("; {} changed between the two readings", signed_size(meanwhile)));
    }
    if let Some(rollup) = process.rollup {
        text.push_str(&format!("; divided by its users {} (SwapPss)", size(rollup.swap_pss)));
    }
    sheet.wrapped((Look::Strong, "swapped out "), 12, (Look::Plain, &text));
    mappings.sort_by_key(|&(mapping, swap)| (std::cmp::Reverse(swap), mapping.start));
    let shown = if mappings.len() > FEW + 1 { FEW } else { mappings.len() };
    for (mapping, swap) in &mappings[..shown] {
        let name = Label::of_mapping(mapping).fit(48);
        sheet.line(&[(Look::Plain, &format!("{:>18}  {name} at {:#x}", size(*swap), mapping.start))]);
    }
    if let Some(rest) = mappings.get(shown..).filter(|rest| !rest.is_empty()) {
        let bytes = rest.iter().fold(0_u64, |sum, &(_, swap)| sum.saturating_add(swap));
        let words =
            format!("{:>18}  in {} other mappings (--by mapping --sort swap)", size(bytes), count(rest.len() as u64));
        sheet.line(&[(Look::Plain, &words)]);
    }
}

fn files(process: &Process, show: &ShowOptions, sheet: &mut Sheet) {
    let few = ShowOptions { top: Some(show.top.map_or(FEW, |top| top.min(FEW))), ..show.clone() };
    let Some(chosen) = tables::files(process, &few).filter(|files| !files.shown.is_empty()) else { return };
    sheet.line(&[]);
    let rest = format!("other {} files (--by file)", count(chosen.rest.len() as u64));
    tables::print_files(&chosen, Label::plain(rest), show, sheet);
    let mut dirty: Vec<_> =
        chosen.all().filter_map(|file| Some((file, file.dirty?))).filter(|&(_, dirty)| dirty > 0).collect();
    dirty.sort_by_key(|&(_, dirty)| Reverse(dirty));
    if !dirty.is_empty() {
        let (most, rest) = dirty.split_at(dirty.len().min(3));
        let mut of: Vec<String> = most
            .iter()
            .map(|(file, dirty)| format!("{} of {}", size(*dirty), Label::name(&file.path).fit(48)))
            .collect();
        if !rest.is_empty() {
            let sum = rest.iter().fold(0_u64, |sum, (_, dirty)| sum.saturating_add(*dirty));
            of.push(format!("{} of {}", size(sum), counted(rest.len() as u64, "other", "others")));
        }
        let text = format!("not yet on disk: {}", of.join(", "));
        sheet.wrapped((Look::Plain, ""), 2, (Look::Plain, &text));
    }
}
