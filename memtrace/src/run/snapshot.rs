//! `memtrace snapshot`: read, show; once, again and again, or two files that were written before.

#[cfg(feature = "live")]
mod live;

use super::{NARROWEST, colored, create, give_up_quietly, terminal_width};
use crate::cli::{ExitCode, Format, SnapshotOptions, Subject};
use crate::hints::Failure;
use crate::snapshot::diff::{diff, pair};
use crate::snapshot::{Process, stored};
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
        _ => look(options, &mut code).map_err(|error| match error.downcast::<Failure>() {
            Ok(failure) => Failure::Snapshot(Box::new(failure)).into(),
            Err(other) => other,
        }),
    };
    give_up_quietly(shown)?;
    Ok(code as u8)
}

fn compare(before: &Path, after: &Path, options: &SnapshotOptions) -> Result<()> {
    let (before, after) = (stored(before)?, stored(after)?);
    Output::open(options)?.changes(&before, &after)
}

/// Reads a file that `--json` wrote.
fn stored(path: &Path) -> Result<Vec<Process>> {
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
        for (from, to) in &pairs.pairs {
            let changed = diff(from, to);
            match self.options.show.format {
                Format::Text => views::diff::render(&changed, &self.options.show, self.page, &mut self.out)?,
                Format::Json | Format::Csv => views::json::diff::render(&changed, &mut self.out)?,
            }
        }
        for (process, is_new) in pairs.gone.iter().map(|p| (p, false)).chain(pairs.new.iter().map(|p| (p, true))) {
            match self.options.show.format {
                Format::Text => views::diff::render_single(process, is_new, self.page, &mut self.out)?,
                Format::Json | Format::Csv => views::json::diff::render_single(process, is_new, &mut self.out)?,
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
