//! What changed between two snapshots, for people: the levels, then the mappings, then what these leave open. The column
//! RES adds up.

use super::labels::{Filter, Label};
use super::table::{Column, Table};
use super::tables::others;
use super::text::{Page, header, name, time};
use crate::cli::{ShowOptions, Sort};
use crate::snapshot::Process;
use crate::snapshot::diff::{Change, Diff, Level, Row, Together, What, difference};
use crate::snapshot::rows::Sums;
use crate::views::human::{count, counted, duration, or_unknown, signed_short, signed_size, size};
use crate::views::sheet::{Look, Sheet};
use crate::views::words::permissions;
use std::cmp::Reverse;
use std::io::{self, Write};

/// Processes in which nothing happened and that are named all the same.
const NAMED: usize = 6;

/// Writes what changed in one process.
///
/// # Errors
/// What the writer returned.
pub fn render(diff: &Diff<'_>, show: &ShowOptions, page: Page, out: &mut dyn Write) -> io::Result<()> {
    let mut sheet = page.sheet();
    let counters = diff.before.counters.zip(diff.after.counters);
    let nothing = diff.rows.iter().all(Row::is_only_pss) && diff.detail == Level::Mapping;
    match counters.filter(|(before, after)| before == after && nothing) {
        Some((_, after)) => {
            let what = match diff.rows.len() {
                0 => "nothing changed".to_owned(),
                n => format!(
                    "only PSS changed: {} in {} (others came or went)",
                    signed_size(sum(&diff.rows.iter().collect::<Vec<_>>(), pss)),
                    counted(n as u64, "mapping", "mappings")
                ),
            };
            title(diff, &format!(": RES {}, {what}", size(after.res())), &mut sheet);
        }
        None => {
            title(diff, "", &mut sheet);
            levels(diff, &mut sheet);
            if counters.is_some() {
                rows(diff, show, &mut sheet);
            }
        }
    }
    out.write_all(sheet.text.as_bytes())
}

/// Writes that a process is in one of the two snapshots only.
///
/// # Errors
/// What the writer returned.
pub fn render_single(process: &Process, is_new: bool, page: Page, out: &mut dyn Write) -> io::Result<()> {
    let mut sheet = page.sheet();
    header(process, &mut sheet);
    let res = or_unknown(process.counters.map(|c| c.res()), size);
    // It may have ended, or only not have been asked for.
    let text = format!("only in the {} snapshot, with RES {res}", if is_new { "second" } else { "first" });
    sheet.wrapped((Look::Plain, ""), 0, (Look::Plain, &text));
    out.write_all(sheet.text.as_bytes())
}

/// Writes what several processes come to together, and by how much that changed.
///
/// # Errors
/// What the writer returned.
pub fn render_together(before: &Together, after: &Together, page: Page, out: &mut dyn Write) -> io::Result<()> {
    let mut sheet = page.sheet();
    let mut title = format!("{} together ", counted(after.pids.len() as u64, "process", "processes"));
    if before.pids.len() != after.pids.len() {
        title.push_str(&format!("(before {}) ", count(before.pids.len() as u64)));
    }
    let mut about = format!("· {}", span(before.time_ns, after.time_ns));
    if (&before.pids, before.levels) == (&after.pids, after.levels) {
        about.push_str(&format!(": Σ RES {}, nothing changed", or_unknown(after.levels.sum_res, size)));
        sheet.wrapped((Look::Strong, &title), 2, (Look::Plain, &about));
        return out.write_all(sheet.text.as_bytes());
    }
    sheet.wrapped((Look::Strong, &title), 2, (Look::Plain, &about));
    let names = ["Σ RES", "Σ PSS", "RES", "USS"];
    for (name, (from, to)) in names.iter().zip(before.levels.amounts().into_iter().zip(after.levels.amounts())) {
        let Some((from, to)) = from.zip(to) else { continue };
        let change = difference(from, to);
        let meaning = match *name {
            "Σ RES" => "  a shared page once for each process",
            "RES" => "  each page once",
            "USS" => "  mapped by nobody outside of these",
            _ => "",
        };
        sheet.line(&[
            (Look::Strong, &format!("{name:<6}{:>12} → {:>10}  ", size(from), size(to))),
            (Look::of(change), &format!("{:>10}", signed_size(change))),
            (Look::Faint, meaning),
        ]);
    }
    out.write_all(sheet.text.as_bytes())
}

/// Whether nothing happened in it, but that others who map the same pages came or went.
#[must_use]
pub fn is_quiet(diff: &Diff<'_>) -> bool {
    let same = (diff.before.pid, diff.before.start_time) == (diff.after.pid, diff.after.start_time);
    let counters = diff.before.counters.zip(diff.after.counters).is_some_and(|(before, after)| before == after);
    same && counters && diff.detail == Level::Mapping && diff.rows.iter().all(Row::is_only_pss)
}

/// Writes one line for processes in which nothing happened.
///
/// # Errors
/// What the writer returned.
pub fn render_quiet(quiet: &[Diff<'_>], page: Page, out: &mut dyn Write) -> io::Result<()> {
    let mut sheet = page.sheet();
    let rows: Vec<&Row<'_>> = quiet.iter().flat_map(|diff| &diff.rows).collect();
    let pss = if rows.is_empty() {
        String::new()
    } else {
        format!(" but PSS {} (others came or went)", signed_size(sum(&rows, pss)))
    };
    let who: Vec<String> = quiet.iter().take(NAMED).map(|diff| name(diff.after)).collect();
    let more = quiet.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {} more", count(more as u64)) } else { String::new() };
    let title = format!("{} ", counted(quiet.len() as u64, "process", "processes"));
    let text = format!("· nothing changed{pss}: {}{more}", who.join(", "));
    sheet.wrapped((Look::Strong, &title), 2, (Look::Plain, &text));
    out.write_all(sheet.text.as_bytes())
}

/// From one moment to another.
fn span(before_ns: i64, after_ns: i64) -> String {
    match u64::try_from(after_ns.wrapping_sub(before_ns)) {
        Ok(ns) => format!("{} until {}", duration(ns), time(after_ns)),
        // The files were given in the wrong order, or the clock was set.
        Err(_) => format!("from {} back to {}", time(before_ns), time(after_ns)),
    }
}

/// `postgres[4711] · 2.0 s until 2026-01-31 12:00:05.120 UTC`
fn title(diff: &Diff<'_>, end: &str, sheet: &mut Sheet) {
    let (before, after) = (diff.before, diff.after);
    let span = span(before.time_ns, after.time_ns);
    sheet.wrapped((Look::Strong, &format!("{} ", name(after))), 2, (Look::Plain, &format!("· {span}{end}")));
    if (before.pid, before.start_time) != (after.pid, after.start_time) {
        let text = format!("not the same process: compared with {}, as there is no other", name(before));
        sheet.wrapped((Look::Plain, ""), 0, (Look::Alarm, &text));
    }
}

fn levels(diff: &Diff<'_>, sheet: &mut Sheet) {
    let Some((before, after)) = diff.before.counters.zip(diff.after.counters) else {
        let text = "RES is unknown before or after: nothing can be compared";
        return sheet.wrapped((Look::Plain, ""), 0, (Look::Alarm, text));
    };
    let change = Change::of(&before, &after);
    let mut others = Vec::new();
    let mut other = |name: &str, before: Option<u64>, after: Option<u64>| {
        if let Some((before, after)) = before.zip(after)
            && before != after
        {
            others.push(format!("{name} {} → {}", size(before), size(after)));
        }
    };
    let rollups = (diff.before.rollup, diff.after.rollup);
    other("USS", rollups.0.map(|r| r.uss()), rollups.1.map(|r| r.uss()));
    other("PSS", rollups.0.map(|r| r.pss), rollups.1.map(|r| r.pss));
    other("swap", Some(before.swap), Some(after.swap));
    other("VIRT", Some(before.virt), Some(after.virt));
    other("hugetlb", Some(before.hugetlb), Some(after.hugetlb));
    let res = format!("RES {} → {}, ", size(before.res()), size(after.res()));
    sheet.line(&[
        (Look::Plain, &res),
        (Look::of(change.res()), &signed_size(change.res())),
        (Look::Plain, &format!(" = anon {} + SHR {}", signed_size(change.anon), signed_size(change.shr))),
    ]);
    if !others.is_empty() {
        sheet.wrapped((Look::Plain, ""), 0, (Look::Plain, &others.join(" · ")));
    }
}

fn rows(diff: &Diff<'_>, show: &ShowOptions, sheet: &mut Sheet) {
    let why = match diff.detail {
        Level::Mapping => None,
        Level::Size => {
            Some("what of each mapping is in memory is unknown before or after: RES cannot be told by mapping")
        }
        Level::Total => Some("the mappings are unknown before or after: only the counters could be compared"),
    };
    if let Some(why) = why {
        sheet.wrapped((Look::Plain, ""), 0, (Look::Alarm, why));
    }
    let filter = Filter::new(show.filter.as_deref());
    let matches = |row: &&Row<'_>| filter.matches(Some(row.mapping.kind), &label(row), &row.mapping.name);
    let (dust, rows): (Vec<&Row<'_>>, Vec<&Row<'_>>) = diff.rows.iter().partition(|row| row.is_only_pss());
    let (mut rows, unwanted): (Vec<&Row<'_>>, Vec<&Row<'_>>) = rows.into_iter().partition(matches);
    if diff.rows.is_empty()
        && diff.detail == Level::Mapping
        && diff.unexplained.is_none_or(|open| open == Change::default())
    {
        return sheet.line(&[(Look::Faint, "no mapping changed")]);
    }
    let res = |row: &Row<'_>| row.change().map(Change::res);
    let size = |row: &Row<'_>| difference(row.from.size, row.to.size);
    match show.sort {
        Sort::Address => {}
        Sort::Name => rows.sort_by_cached_key(|row| Label::of_mapping(row.mapping).order()),
        Sort::Size => rows.sort_by_key(|row| Reverse(size(row).unsigned_abs())),
        _ => rows.sort_by_key(|row| Reverse((res(row).map(i64::unsigned_abs), size(row).unsigned_abs()))),
    }
    let top = show.top.filter(|&top| rows.len() > top + 1).unwrap_or(rows.len());
    let (shown, rest) = rows.split_at(top);
    let rest: Vec<&Row<'_>> = rest.iter().chain(&unwanted).copied().collect();
    let mut labels: Vec<Label<'_>> = shown.iter().map(|row| label(row)).collect();
    let leads = shown.iter().map(|row| format!("{:012x} {} ", row.mapping.start, permissions(row.mapping.permissions)));
    if !rest.is_empty() {
        labels.push(others(rest.len()));
    }
    if !dust.is_empty() {
        labels.push(Label::plain(format!("{} only in PSS: others came or went", count(dust.len() as u64))));
    }
    labels.push(Label::plain("unexplained"));
    labels.push(Label::plain("total"));
    // Of each column: the rows, the others, what is unexplained (of what books are kept), the whole.
    let column = |head, weight, of: &dyn Fn(&Row<'_>) -> Option<i64>, open: Option<Option<i64>>| {
        let figure = |cell: Option<i64>| cell.map_or_else(|| "unknown".to_owned(), signed_short);
        let mut cells: Vec<String> = shown.iter().map(|row| figure(of(row))).collect();
        if !rest.is_empty() {
            cells.push(signed_short(sum(&rest, of)));
        }
        if !dust.is_empty() {
            cells.push(signed_short(sum(&dust, of)));
        }
        let explained = [shown, &rest, &dust].iter().fold(0_i64, |all, rows| all.wrapping_add(sum(rows, of)));
        cells.extend(match open {
            Some(open) => [figure(open), figure(open.map(|open| explained.wrapping_add(open)))],
            None => [String::new(), signed_short(explained)],
        });
        Column::text(head, weight, cells)
    };
    let counters = diff.before.counters.zip(diff.after.counters);
    let plain = |head, weight, of: fn(&Sums) -> Option<u64>| {
        let of = move |row: &Row<'_>| of(&row.from).zip(of(&row.to)).map(|(from, to)| difference(from, to));
        let figures: Option<Vec<i64>> = diff.rows.iter().map(of).collect();
        figures.filter(|figures| figures.iter().any(|&figure| figure != 0))?;
        Some(column(head, weight, &of, None))
    };
    let mut columns = vec![
        column("RES", 9, &|row| row.change().map(Change::res), Some(diff.unexplained.map(Change::res))),
        column("anon", 8, &|row| row.change().map(|change| change.anon), Some(diff.unexplained.map(|open| open.anon))),
        column("SHR", 7, &|row| row.change().map(|change| change.shr), Some(diff.unexplained.map(|open| open.shr))),
    ];
    let virt = counters.map(|(before, after)| {
        let rows = diff.rows.iter().map(size).fold(0_i64, i64::wrapping_add);
        difference(before.virt, after.virt).wrapping_sub(rows)
    });
    columns.push(column("size", 6, &|row| Some(size(row)), Some(virt)));
    columns.extend(plain("private", 5, Sums::private));
    columns.extend(plain("PSS", 4, Sums::pss));
    columns.extend(plain("swap", 3, Sums::swap));
    let sums = labels.len() - shown.len();
    Table { head: "what changed", leads: leads.collect(), sums, labels, columns }.print(sheet, 0);
}

/// What is known of all rows together.
fn sum(rows: &[&Row<'_>], of: impl Fn(&Row<'_>) -> Option<i64>) -> i64 {
    rows.iter().filter_map(|row| of(row)).fold(0_i64, i64::wrapping_add)
}

fn pss(row: &Row<'_>) -> Option<i64> {
    row.from.pss().zip(row.to.pss()).map(|(from, to)| difference(from, to))
}

/// A mapping and what became of it.
fn label<'a>(row: &Row<'a>) -> Label<'a> {
    let label = Label::of_mapping(row.mapping);
    let said = |word: &str| format!("{word} {}", label.words).trim_end().to_owned();
    match row.what() {
        What::Born => Label { words: said("new"), ..label },
        What::Gone => Label { words: said("gone"), ..label },
        What::Resized | What::Changed => label,
    }
}
