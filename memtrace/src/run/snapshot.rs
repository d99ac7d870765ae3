//! `memtrace snapshot`: read, show; once, again and again, or two files that were written before.

#[cfg(feature = "live")]
mod live;

use super::{NARROWEST, colored, create, give_up_quietly, terminal_width, within};
use crate::cli::{ExitCode, Format, SnapshotOptions, Subject};
use crate::hints::Failure;
use crate::snapshot::Process;
use crate::snapshot::diff::{Together, diff, pair};
use crate::views::snapshot::json::stored::{self, Stored};
use crate::views::snapshot::{self as views, Page};
use anyhow::{Context as _, Result};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;

/// Does what was asked for. The status to exit with.
///
/// # Errors
/// Nothing could be read, or the output could not be written.
pub(super) fn run(options: &SnapshotOptions) -> Result<u8> {
    let mut code = ExitCode::Done;
    let shown = match &options.subject {
        Subject::Files(before, after) => compare(before, after, options),
        _ => look(options, &mut code).map_err(|error| within(error, "snapshot")),
    };
    give_up_quietly(shown)?;
    Ok(code as u8)
}

fn compare(before: &Path, after: &Path, options: &SnapshotOptions) -> Result<()> {
    let (before, after) = (stored(before)?, stored(after)?);
    let together = |stored: &Stored| stored.together.clone().unwrap_or_else(|| Together::of(&stored.processes));
    let mut output = Output::open(options)?;
    output.changes(&before.processes, &after.processes)?;
    output.together(&together(&before), &together(&after))
}

/// Reads a file that `--json` wrote.
fn stored(path: &Path) -> Result<Stored> {
    let shown = || path.display().to_string();
    let file = File::open(path).with_context(|| format!("failed to open {}", shown()))?;
    stored::read(BufReader::with_capacity(1 << 16, file)).map_err(|error| match error {
        stored::Error::Read(error) => anyhow::Error::from(error).context(format!("failed to read {}", shown())),
        other => Failure::NotASnapshot { path: shown(), what: other.to_string() }.into(),
    })
}

#[cfg(feature = "live")]
use live::look;

#[cfg(not(feature = "live"))]
fn look(_: &SnapshotOptions, _: &mut ExitCode) -> Result<()> {
    Err(Failure::NoLiveFeature.into())
}

/// Columns: what is asked for with `COLUMNS`, else those of the terminal, and in a file or a pipe as many as it takes.
fn width(asked: Option<&OsStr>, terminal: impl FnOnce() -> Option<usize>) -> Option<usize> {
    let asked = asked.and_then(OsStr::to_str).and_then(|columns| columns.parse().ok()).filter(|&columns| columns > 0);
    asked.or_else(terminal).map(|columns: usize| columns.max(NARROWEST))
}

/// Where to and how.
struct Output<'a> {
    out: BufWriter<Box<dyn Write>>,
    options: &'a SnapshotOptions,
    page: Page,
}

impl<'a> Output<'a> {
    fn open(options: &'a SnapshotOptions) -> Result<Self> {
        let out: Box<dyn Write> = match &options.file {
            Some(path) => Box::new(create(path, options.force)?),
            None => Box::new(io::stdout()),
        };
        let to_stdout = options.file.is_none();
        let width = width(std::env::var_os("COLUMNS").as_deref(), || terminal_width(to_stdout));
        let page = Page { color: colored(options.color, to_stdout), width };
        Ok(Self { out: BufWriter::with_capacity(1 << 16, out), options, page })
    }

    /// What changed, process by process.
    fn changes(&mut self, before: &[Process], after: &[Process]) -> Result<()> {
        let pairs = pair(before, after);
        let changed = pairs.pairs.iter().map(|(from, to)| diff(from, to));
        let (quiet, changed): (Vec<_>, Vec<_>) = match self.options.show.format {
            // Of many processes those are told of in which something happened.
            Format::Text if pairs.pairs.len() > 1 => changed.partition(views::diff::is_quiet),
            _ => (Vec::new(), changed.collect()),
        };
        for changed in &changed {
            match self.options.show.format {
                Format::Text => views::diff::render(changed, &self.options.show, self.page, &mut self.out)?,
                Format::Json | Format::Csv => views::json::diff::render(changed, &mut self.out)?,
            }
        }
        if !quiet.is_empty() {
            views::diff::render_quiet(&quiet, self.page, &mut self.out)?;
        }
        for (process, is_new) in pairs.gone.iter().map(|p| (p, false)).chain(pairs.new.iter().map(|p| (p, true))) {
            match self.options.show.format {
                Format::Text => views::diff::render_single(process, is_new, self.page, &mut self.out)?,
                Format::Json | Format::Csv => views::json::diff::render_single(process, is_new, &mut self.out)?,
            }
        }
        Ok(self.out.flush()?)
    }

    /// What changed in what they come to; of one process it has been said.
    fn together(&mut self, before: &Together, after: &Together) -> Result<()> {
        if before.is_worth_telling(after) {
            match self.options.show.format {
                Format::Text => views::diff::render_together(before, after, self.page, &mut self.out)?,
                Format::Json | Format::Csv => views::json::diff::render_together(before, after, &mut self.out)?,
            }
        }
        Ok(self.out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_those_asked_for_then_the_terminals_then_without_limit() {
        let columns = |asked: &str, terminal| width(Some(OsStr::new(asked)), || terminal);
        assert_eq!(columns("132", Some(80)), Some(132));
        assert_eq!(columns("132", None), Some(132));
        assert_eq!(columns("1", None), Some(NARROWEST));
        for nothing in ["", "0", "-3", "wide"] {
            assert_eq!((columns(nothing, Some(80)), columns(nothing, None)), (Some(80), None), "{nothing}");
        }
        assert_eq!(width(None, || None), None);
    }
}
