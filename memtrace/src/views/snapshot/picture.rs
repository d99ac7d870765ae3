//! The address space in the terminal: a line for each block, by address, and in it cell by cell what is private,
//! shared, swapped out, untouched. Without colours the characters tell.

use super::blocks::{self, Block, FAR};
use crate::cli::PictureScale;
use crate::snapshot::{PageMap, Process};
use crate::views::columns::{columns, cut, left, right, wrap};
use crate::views::escape::escape;
use crate::views::human::{counted, size};
use crate::views::part::{Part, Parts};
use std::fmt::Write as _;
use std::io::{self, Write};

/// Columns of the narrowest and of the widest picture.
const WIDTH: std::ops::RangeInclusive<usize> = 60..=256;
/// Columns of an address: 48 bits.
const ADDRESS: usize = 12;
/// Columns of a size.
const SIZE: usize = 11;

/// How the picture is drawn.
#[derive(Clone, Debug)]
pub struct PictureOptions<'a> {
    /// Columns.
    pub width: usize,
    /// With colours.
    pub color: bool,
    /// How sizes become lengths.
    pub scale: PictureScale,
    /// Only mappings whose kind or name contains this.
    pub filter: Option<&'a str>,
    /// At most so many lines for mappings: small neighbours share one.
    pub lines: usize,
}

impl PictureOptions<'_> {
    /// [`Self::lines`] where nobody wants another number: on most terminals the picture fits a page or two.
    pub const LINES: usize = 40;
}

/// Draws the process.
///
/// # Errors
/// What the writer returned.
pub fn render(process: &Process, map: &PageMap, options: &PictureOptions<'_>, out: &mut dyn Write) -> io::Result<()> {
    let blocks = blocks::blocks(process, map, options.filter, options.lines);
    let layout = Layout::new(options);
    let mut text = String::new();
    layout.head(process, &blocks, options, &mut text);
    let mut sums = Parts::default();
    blocks.iter().for_each(|block| sums += block.parts);
    let largest = blocks.iter().map(|block| block.size).max().unwrap_or(0);
    if !blocks.is_empty() {
        layout.legend(&sums, &mut text);
        layout.columns(&mut text);
    }
    for block in &blocks {
        if block.gap >= FAR {
            let gap = format!("{:>ADDRESS$}  {} not mapped", "⋮", size(block.gap));
            layout.faint(&gap, &mut text);
        }
        let length = blocks::length(block.size, largest, process.page_size, (1, layout.bar as u64), options.scale);
        layout.block(block, &block.cells(map, length as usize), &mut text);
    }
    if !blocks.is_empty() {
        let scale = match options.scale {
            PictureScale::Log => "lengths by doublings of the size",
            PictureScale::Linear => "lengths in proportion, at least one cell",
        };
        let place = match blocks::is_placed(&blocks, map) {
            true => "",
            false => "; where pages lie was not read for all: those fill their mapping from its beginning",
        };
        for line in wrap(
            &format!("{scale}; a low or light cell: only in part; (3): so many mappings in one line{place}"),
            layout.width - 1,
        ) {
            layout.faint(&line, &mut text);
        }
    }
    out.write_all(text.as_bytes())
}

/// Measures of the page, and how it is written on.
struct Layout {
    color: bool,
    width: usize,
    name: usize,
    bar: usize,
}

impl Layout {
    fn new(options: &PictureOptions<'_>) -> Self {
        let width = options.width.clamp(*WIDTH.start(), *WIDTH.end());
        let free = width - 1 - ADDRESS - 2 - 1 - 1 - 2 * SIZE;
        let name = (free / 2).clamp(12, 36);
        Self { color: options.color, width, name, bar: free - name }
    }

    /// With escape sequences, when there are colours.
    fn styled(&self, text: &str, sequence: &str, out: &mut String) {
        if self.color && !sequence.is_empty() {
            let _ = write!(out, "\x1b[{sequence}m{text}\x1b[0m");
        } else {
            out.push_str(text);
        }
    }

    fn faint(&self, text: &str, out: &mut String) {
        out.push(' ');
        self.styled(&cut(text, self.width - 1), "2", out);
        out.push('\n');
    }

    fn head(&self, process: &Process, blocks: &[Block<'_>], options: &PictureOptions<'_>, out: &mut String) {
        let mut title = format!("address space of {} (pid {})", escape(&process.comm, 32), process.pid);
        if let Some(counters) = &process.counters {
            let _ = write!(title, ": VIRT {}, RES {}", size(counters.virt), size(counters.res()));
        }
        self.styled(&cut(&title, self.width), "1", out);
        out.push('\n');
        let Some(all) = &process.mappings else {
            return self.faint("its mappings could not be read", out);
        };
        let shown: usize = blocks.iter().map(|block| block.mappings.len()).sum();
        let mut about = counted(shown as u64, "mapping", "mappings");
        if let Some(filter) = options.filter {
            let _ = write!(about, " of {} with \"{}\"", all.len(), escape(filter.as_bytes(), 32));
        }
        let _ = write!(about, " in {}, by address", counted(blocks.len() as u64, "line", "lines"));
        self.faint(&about, out);
    }

    /// With the sums of what is drawn.
    fn legend(&self, sums: &Parts, out: &mut String) {
        let mut used = 0;
        for (part, text) in sums.told() {
            let text = format!(" {text}  ");
            let width = 2 + columns(text.trim_end());
            if used > 0 && used + width > self.width {
                out.truncate(out.trim_end().len());
                out.push('\n');
                used = 0;
            }
            used += 2 + columns(&text);
            out.push(' ');
            self.cells(&[Parts::only(part, 1)], out);
            out.push_str(&text);
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }

    fn columns(&self, out: &mut String) {
        let (name, bar) = (left("mapping", self.name), left("", self.bar));
        let line = format!("{:<ADDRESS$}  {name} {bar} {}{}", "from", right("size", SIZE), right("in memory", SIZE));
        self.faint(&line, out);
    }

    fn block(&self, block: &Block<'_>, cells: &[Parts], out: &mut String) {
        out.push(' ');
        self.styled(&format!("{:>ADDRESS$}", blocks::address(block.start)), "2", out);
        let _ = write!(out, "  {} ", left(&block.label(self.name), self.name));
        self.cells(cells, out);
        let resident = block.resident.map_or_else(|| "?".to_owned(), size);
        let space = " ".repeat(self.bar.saturating_sub(cells.len()) + 1);
        let _ = writeln!(out, "{space}{}{}", right(&size(block.size), SIZE), right(&resident, SIZE));
    }

    fn cells(&self, cells: &[Parts], out: &mut String) {
        let cells: Vec<(char, String)> = cells.iter().map(|cell| self.cell(cell)).collect();
        for alike in cells.chunk_by(|a, b| a.1 == b.1) {
            let text: String = alike.iter().map(|&(character, _)| character).collect();
            self.styled(&text, alike.first().map_or("", |(_, style)| style), out);
        }
    }

    /// Its character tells what most of a cell is, as far as it is anything, and how much of it is. With colours the
    /// one behind tells what else is there.
    fn cell(&self, cell: &Parts) -> (char, String) {
        const FAINT: &str = "2";
        let whole = cell.total();
        let mut order: Vec<(Part, u64)> = cell.iter().filter(|&(_, bytes)| bytes > 0).collect();
        // Where there is equally much, in the order of parts.
        order.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
        let Some(&(part, bytes)) = order.iter().find(|(part, _)| *part != Part::Untouched) else {
            return (Part::Untouched.glyph(), FAINT.to_owned());
        };
        let Some(color) = part.color().filter(|_| self.color) else {
            let here = 8 - eighths(cell[Part::Untouched], whole);
            let character = match part {
                Part::Private => BARS[(here.div_ceil(2) * 2).clamp(2, 8) - 1],
                Part::Shared if here <= 4 => '░',
                part => part.glyph(),
            };
            return (character, FAINT.to_owned());
        };
        let height = eighths(bytes, whole);
        let behind = order.iter().map(|&(other, _)| other).find(|&other| other != part).and_then(Part::color);
        let style = match behind.filter(|_| height < 8) {
            Some(behind) => format!("3{color};4{behind}"),
            None => format!("3{color}"),
        };
        (BARS[height - 1], style)
    }
}

/// Bars of one to eight eighths.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Rounded; something is not nothing, and not all is not all.
fn eighths(bytes: u64, whole: u64) -> usize {
    let rounded = ((u128::from(bytes) * 8 + u128::from(whole) / 2) / u128::from(whole.max(1))) as usize;
    rounded.clamp(usize::from(bytes > 0), 8 - usize::from(bytes < whole))
}

#[cfg(test)]
mod tests;
