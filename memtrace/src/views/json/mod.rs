//! NDJSON, schema 1: one object a line, documented field by field in docs/ndjson.md.
//! Says everything that the reports say; leaves nothing out because it looks dull.

mod burst;
mod closing;
mod fields;
mod lines;
mod spans;
mod stuck;
pub(in crate::views) mod untrusted;

use crate::cli::Only;
use crate::event::StackId;
use crate::statement::{Burst, Report, Stack};
use crate::views::{Scale, View, before_meta, escape};
use lines::Line;
use serde::Serialize;
use serde_json::ser::Formatter;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;

/// Version of the contract in docs/ndjson.md; a field may be added within it, none changes its meaning.
pub const SCHEMA: u32 = 1;

/// Writes one JSON object a line.
#[derive(Debug)]
pub struct JsonView<W> {
    out: W,
    scale: Option<Scale>,
    line: Vec<u8>,
    /// Time of the last line: for what has no time of its own.
    now_ns: u64,
    only: Option<Only>,
    /// With [`Only::Bursts`]: the stacks that were printed.
    printed: BTreeSet<StackId>,
}

impl<W: Write> JsonView<W> {
    /// A view that writes to `out`, one `write` call per line.
    pub const fn new(out: W) -> Self {
        Self::only(out, None)
    }

    /// The same, which prints nothing but the lines that were asked for: bursts with the meta and the stacks that they refer
    /// to, where the threads' time went, or spans with the meta and what was lost.
    pub const fn only(out: W, only: Option<Only>) -> Self {
        Self { out, scale: None, line: Vec::new(), now_ns: 0, only, printed: BTreeSet::new() }
    }

    fn print(&mut self, report: &Report) -> io::Result<()> {
        let scale = self.scale.ok_or_else(before_meta)?;
        let Some(line) = Line::of(report, scale, self.now_ns) else { return Ok(()) };
        self.now_ns = line.ts_ns();
        write_line(&line, &mut self.line, &mut self.out)
    }
}

/// One object and its line's end, by one `write` call; `buffer` is for use again.
pub(in crate::views) fn write_line(
    object: &impl Serialize,
    buffer: &mut Vec<u8>,
    out: &mut dyn Write,
) -> io::Result<()> {
    buffer.clear();
    object.serialize(&mut serde_json::Serializer::with_formatter(&mut *buffer, TerminalSafe))?;
    buffer.push(b'\n');
    out.write_all(buffer)
}

/// The stacks that a burst refers to.
fn stacks(burst: &Burst) -> impl Iterator<Item = &Arc<Stack>> {
    let births = burst.mappings.iter().filter_map(|part| part.of.as_ref()?.birth.as_ref()?.stack.as_ref());
    burst.stacks.iter().filter_map(|part| part.of.as_ref()).chain(births)
}

impl<W: Write> View for JsonView<W> {
    fn render(&mut self, report: &Report) -> io::Result<()> {
        if let Report::Meta(meta) = report {
            self.scale = Some(Scale::of(meta));
        }
        match (self.only, report) {
            // Nobody asked for them, and there were none.
            (None, Report::Spans(spans)) if spans.is_empty() => return Ok(()),
            (None, _)
            | (Some(Only::Bursts | Only::Spans), Report::Meta(_))
            | (Some(Only::Stuck | Only::Spans), Report::Stuck(_))
            | (Some(Only::Spans), Report::Span(_) | Report::Spans(_) | Report::Loss { .. }) => {}
            (Some(Only::Bursts), Report::Burst(burst)) => {
                self.now_ns = burst.ts_ns;
                let fresh: Vec<_> = stacks(burst).filter(|stack| self.printed.insert(stack.id)).cloned().collect();
                for stack in fresh {
                    self.print(&Report::Stack(stack))?;
                }
            }
            (Some(_), _) => return Ok(()),
        }
        self.print(report)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Compact JSON in which characters that could drive or deceive a terminal are written as `\uNNNN`: the same
/// value to every parser, harmless to `tail -f`.
struct TerminalSafe;

impl Formatter for TerminalSafe {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut plain = 0;
        for (at, character) in fragment.char_indices() {
            if character.is_control() || escape::deceives(character) {
                writer.write_all(&fragment.as_bytes()[plain..at])?;
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
                plain = at + character.len_utf8();
            }
        }
        writer.write_all(&fragment.as_bytes()[plain..])
    }
}

#[cfg(test)]
mod tests;
