//! The address space as SVG: a column of blocks by address, low ones on top; of two processes side by side, with
//! ribbons between the blocks that show the same pages. One file without scripts, for light and dark pages.
//!
//! A block's height follows its size. From left to right it shows its addresses, and bottom-up how much of each place
//! is private, shared, swapped out; so areas are amounts.

mod ribbons;
mod xml;

use super::blocks::{self, Block, FAR};
use crate::cli::PictureScale;
use crate::snapshot::{Group, PageMap, Process, Snapshot};
use crate::views::columns::{columns, cut, cut_middle, wrap};
use crate::views::escape::escape;
use crate::views::human::{counted, size};
use crate::views::part::{Part, Parts};
use std::fmt::Write as _;
use std::io::{self, Write};
use xml::Xml;

/// Blocks of one process: what keeps the file small and the picture in a few screens.
const BLOCKS: usize = 120;
/// Cells of a block, at most: each is four pixels wide.
const CELLS: u64 = 64;
/// Pixels of a character. Common monospaced fonts are narrower at 11 px, so that texts have the room they are given.
const CHARACTER: u32 = 7;
/// Pixels of a line.
const LINE: u32 = 15;
const MARGIN: u32 = 24;
/// Pixels of a column of blocks.
const COLUMN: u32 = 256;
/// Pixels between two columns, for the ribbons.
const BETWEEN: u32 = 200;
/// Characters of an address.
const ADDRESS: u32 = 12;
/// Characters beside a block.
const LABEL: u32 = 50;
/// Pixels of a gap that is worth telling, of another one, and of none.
const GAPS: [u32; 3] = [18, 5, 1];
/// Least and greatest height of a block, pixels: a line of text, and for the largest one.
const fn heights(scale: PictureScale) -> (u64, u64) {
    match scale {
        PictureScale::Log => (LINE as u64, 72),
        PictureScale::Linear => (LINE as u64, 720),
    }
}

/// A process and where its column is.
struct Column<'a> {
    process: &'a Process,
    map: &'a PageMap,
    blocks: Vec<Block<'a>>,
    /// For each block its top and height, pixels.
    places: Vec<(u32, u32)>,
    left: u32,
    labels_left: bool,
}

impl<'a> Column<'a> {
    fn new(process: &'a Process, map: &'a PageMap, scale: PictureScale, top: u32) -> Self {
        let blocks = blocks::blocks(process, map, None, BLOCKS);
        let largest = blocks.iter().map(|block| block.size).max().unwrap_or(0);
        let mut y = top;
        let mut places = Vec::with_capacity(blocks.len());
        for (at, block) in blocks.iter().enumerate() {
            y += match block.gap {
                FAR.. => GAPS[0],
                1.. => GAPS[1],
                0 if at > 0 => GAPS[2],
                0 => 0,
            };
            let height = blocks::length(block.size, largest, process.page_size, heights(scale), scale) as u32;
            places.push((y, height));
            y += height;
        }
        Self { process, map, blocks, places, left: 0, labels_left: false }
    }

    fn bottom(&self) -> u32 {
        self.places.last().map_or(0, |(top, height)| top + height)
    }

    /// Where its headings are, and where they end.
    fn span(&self) -> (u32, u32) {
        let labels = 10 + LABEL * CHARACTER;
        match self.labels_left {
            true => (self.left - labels, self.left + COLUMN),
            false => (self.left, self.left + COLUMN + labels),
        }
    }
}

/// Processes that are drawn.
pub const DRAWN: usize = 2;

/// Those that can be drawn, with their places in the snapshot.
fn drawable(snapshot: &Snapshot) -> impl Iterator<Item = (usize, &Process)> {
    let has_mappings = |process: &Process| process.mappings.as_ref().is_some_and(|mappings| !mappings.is_empty());
    snapshot.processes.iter().enumerate().filter(move |(_, process)| has_mappings(process))
}

/// A line on who is not in the picture, though there would be something to draw.
#[must_use]
pub fn left_out(snapshot: &Snapshot) -> Option<String> {
    let more = drawable(snapshot).skip(DRAWN).count();
    let drawn: Vec<String> = drawable(snapshot).take(DRAWN).map(|(_, process)| super::text::name(process)).collect();
    (more > 0).then(|| {
        let others = counted(more as u64, "other process is", "other processes are");
        format!("memtrace: --svg draws two processes: {}; {others} not in it\n", drawn.join(" and "))
    })
}

/// Draws the process; of several the first two that have an address space.
///
/// # Errors
/// What the writer returned.
pub fn render(snapshot: &Snapshot, scale: PictureScale, out: &mut dyn Write) -> io::Result<()> {
    let none = PageMap::default();
    let top = MARGIN + 5 * LINE + 2 * LINE;
    let map = |at: usize| snapshot.page_maps.get(at).and_then(Option::as_ref).unwrap_or(&none);
    let mut drawn: Vec<Column<'_>> =
        drawable(snapshot).take(DRAWN).map(|(at, process)| Column::new(process, map(at), scale, top)).collect();
    let addresses = (ADDRESS * CHARACTER) + 8;
    let labels = 10 + LABEL * CHARACTER;
    let width = match drawn.as_mut_slice() {
        [first, second] => {
            (first.left, first.labels_left) = (MARGIN + labels, true);
            second.left = first.left + COLUMN + BETWEEN;
            second.left + COLUMN + labels + MARGIN
        }
        columns => {
            columns.iter_mut().for_each(|column| column.left = MARGIN + addresses);
            MARGIN + addresses + COLUMN + labels + MARGIN
        }
    };
    let links = match drawn.as_slice() {
        [first, second] => ribbons::find(snapshot.group.as_ref(), first, second),
        _ => None,
    };
    let notes = notes(snapshot, &drawn, links.as_ref(), scale);
    let lines: Vec<String> =
        notes.iter().flat_map(|note| wrap(note, ((width - 2 * MARGIN) / CHARACTER) as usize)).collect();
    let bottom = drawn.iter().map(Column::bottom).max().unwrap_or(top);
    let height = bottom + LINE + lines.len() as u32 * LINE + MARGIN;

    let mut xml = Xml::new(width, height, &title(&drawn));
    for column in &drawn {
        heading(column, &mut xml);
    }
    legend(&drawn, top - 2 * LINE, links.is_some(), &mut xml);
    if let ([first, second], Some(links)) = (drawn.as_slice(), &links) {
        ribbons::draw(links, first, second, &mut xml);
    }
    for column in &drawn {
        for (block, place) in column.blocks.iter().zip(&column.places) {
            draw(column, block, *place, drawn.len() == 1, &mut xml);
        }
    }
    for (at, line) in lines.iter().enumerate() {
        xml.text("d", MARGIN, bottom + LINE + (at as u32 + 1) * LINE, "start", line);
    }
    out.write_all(xml.finish().as_bytes())
}

fn name(process: &Process) -> String {
    format!("{} · pid {}", cut_middle(&escape(&process.comm, 64), 32), process.pid)
}

fn title(drawn: &[Column<'_>]) -> String {
    let names: Vec<String> = drawn.iter().map(|column| name(column.process)).collect();
    format!("Address space of {}", if names.is_empty() { "nothing".to_owned() } else { names.join(" and ") })
}

fn heading(column: &Column<'_>, xml: &mut Xml) {
    let process = column.process;
    let (left, right) = column.span();
    let (x, anchor) = if column.labels_left { (right, "end") } else { (left, "start") };
    let known = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), size);
    let (counters, rollup) = (process.counters, process.rollup);
    xml.text("h", x, MARGIN + LINE, anchor, &name(process));
    let line = format!("VIRT {} · RES {}", known(counters.map(|c| c.virt)), known(counters.map(|c| c.res())));
    xml.text("t", x, MARGIN + 2 * LINE + 4, anchor, &line);
    let (uss, pss) = (known(rollup.map(|r| r.uss())), known(rollup.map(|r| r.pss)));
    let swap = known(rollup.map(|r| r.swap).or(counters.map(|c| c.swap)));
    xml.text("t", x, MARGIN + 3 * LINE + 4, anchor, &format!("USS {uss} · PSS {pss} · swap {swap}"));
}

/// Squares with words, in one line.
fn legend(drawn: &[Column<'_>], y: u32, ribbons: bool, xml: &mut Xml) {
    let mut all = Parts::default();
    drawn.iter().flat_map(|column| &column.blocks).for_each(|block| all += block.parts);
    let parts = Part::ALL.into_iter().filter(|&part| part != Part::Unknown || all[part] > 0);
    let mut entries: Vec<(&str, &str)> = parts.map(|part| (class(part), part.name())).collect();
    if ribbons {
        entries.push(("l", "pages that both map"));
    }
    let mut x = MARGIN;
    for (class, text) in entries {
        xml.rect(class, (x, y - 10), (12, 12));
        xml.text("t", x + 18, y, "start", text);
        x += 18 + columns(text) as u32 * CHARACTER + 18;
    }
}

const fn class(part: Part) -> &'static str {
    match part {
        Part::Private => "p",
        Part::Shared => "s",
        Part::Swapped => "w",
        Part::Untouched => "u",
        Part::Unknown => "k",
    }
}

fn draw(column: &Column<'_>, block: &Block<'_>, (top, height): (u32, u32), addresses: bool, xml: &mut Xml) {
    if block.gap >= FAR {
        let text = format!("⋮ {} not mapped", size(block.gap));
        xml.text("d", column.left + COLUMN / 2, top - 5, "middle", &text);
    }
    xml.open("b", &tooltip(block));
    xml.rect("u", (column.left, top), (COLUMN, height));
    let pages = (block.size / column.process.page_size.max(1)).max(1);
    let cells = block.cells(column.map, CELLS.min(pages) as usize);
    for part in Part::ALL.into_iter().filter(|&part| part != Part::Untouched) {
        let path = area(&cells, part, (column.left, top), height);
        if !path.is_empty() {
            xml.path(class(part), &path);
        }
    }
    // Above everything, so that the block is lit under the pointer.
    xml.rect("o", (column.left, top), (COLUMN, height));
    let middle = top + height / 2 + 4;
    if addresses {
        xml.text("d", column.left - 8, middle, "end", &blocks::address(block.start));
    }
    let figures = match block.resident {
        Some(resident) => format!("{} of {}", size(resident), size(block.size)),
        None => format!("? of {}", size(block.size)),
    };
    let room = (LABEL as usize).saturating_sub(columns(&figures) + 2);
    let label = block.label(room);
    match column.labels_left {
        true => xml.label(column.left - 10, middle, "end", (&figures, "d"), (&label, "t")),
        false => xml.label(column.left + COLUMN + 10, middle, "start", (&label, "t"), (&figures, "d")),
    }
    xml.close();
}

fn tooltip(block: &Block<'_>) -> String {
    let count = counted(block.mappings.len() as u64, "mapping", "mappings");
    let mut text =
        format!("{}\n{:x}–{:x} · {count} · {}", block.full_label(), block.start, block.end, size(block.size));
    let parts: Vec<String> = block.parts.told().map(|(_, text)| text).collect();
    let _ = write!(text, "\n{}", parts.join(" · "));
    text
}

/// The outline of one part over all cells, each as high as there is of it, on top of the parts before. In tenths of a
/// pixel; never thinner than half a pixel.
fn area(cells: &[Parts], part: Part, (left, top): (u32, u32), height: u32) -> String {
    const THIN: u64 = 5;
    let height = u64::from(height) * 10;
    let bottom = u64::from(top) * 10 + height;
    let mut path = String::new();
    let mut run: Option<(u32, u32, u64, u64)> = None;
    let mut flush = |run: Option<(u32, u32, u64, u64)>| {
        let Some((from, to, low, high)) = run.filter(|run| run.2 < run.3) else { return };
        let tenths = |y: u64| format!("{}.{}", y / 10, y % 10);
        let (y, width) = (tenths(bottom - high), to - from);
        let _ = write!(path, "M{from} {y}h{width}v{}h-{width}z", tenths(high - low));
    };
    for (at, cell) in cells.iter().enumerate() {
        let x = |at: usize| left + (at as u64 * u64::from(COLUMN) / cells.len() as u64) as u32;
        let stack = |bytes: u64| (u128::from(bytes) * u128::from(height) / u128::from(cell.total().max(1))) as u64;
        let before =
            cell.iter().take_while(|&(other, _)| other != part).fold(0, |sum: u64, (_, b)| sum.saturating_add(b));
        let low = stack(before).min(height - THIN);
        let high = match cell[part] {
            0 => low,
            bytes => stack(before.saturating_add(bytes)).clamp(low + THIN, height),
        };
        match &mut run {
            Some((_, to, l, h)) if (*l, *h) == (low, high) => *to = x(at + 1),
            _ => flush(run.replace((x(at), x(at + 1), low, high))),
        }
    }
    flush(run);
    path
}

/// What the picture does not show, and why.
fn notes(
    snapshot: &Snapshot,
    drawn: &[Column<'_>],
    links: Option<&ribbons::Ribbons>,
    scale: PictureScale,
) -> Vec<String> {
    let mut notes = vec![match scale {
        PictureScale::Log => "A block grows with each doubling of its size; gaps are not drawn to scale.".to_owned(),
        PictureScale::Linear => format!("Heights in proportion to size, at least {LINE} px; gaps are not to scale."),
    }];
    notes.push("Beside each: in memory of mapped. Inside: by address from left to right.".to_owned());
    if drawn.is_empty() {
        notes = vec!["No address space could be read.".to_owned()];
    }
    if drawn.iter().any(|column| !blocks::is_placed(&column.blocks, column.map)) {
        notes.push("Where pages lie was not read for all mappings: those are filled from their beginning.".to_owned());
    }
    if snapshot.processes.len() > drawn.len().max(1) {
        notes.push(format!("Drawn: {} of {} processes.", drawn.len(), snapshot.processes.len()));
    }
    match (drawn.len(), links) {
        (2, Some(links)) => notes.extend(links.notes()),
        (2, None) => notes.push(format!("Which pages both share is not known: {}", why(snapshot.group.as_ref()))),
        _ => {}
    }
    notes.into_iter().map(|note| cut(&note, 400)).collect()
}

fn why(group: Option<&Group>) -> String {
    match group.and_then(|group| group.given_up.first()) {
        Some(given_up) => format!("{}: {}.", given_up.source.name(), super::notes::words(&given_up.reason, "").0),
        None => "their physical pages were not compared.".to_owned(),
    }
}

#[cfg(test)]
mod tests;
