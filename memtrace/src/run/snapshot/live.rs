//! Snapshots of live processes.

mod watch;

use super::Output;
use crate::cli::{ExitCode, Format, SnapshotOptions, Subject};
use crate::hints::Failure;
use crate::run::create;
use crate::snapshot::{PageMap, Snapshot};
use crate::views::snapshot::picture::{self, PictureOptions};
use crate::views::snapshot::{self as views, Page};
use anyhow::{Context as _, Result};
use std::io::{self, BufWriter, Write as _};

/// Columns of stderr.
const WIDTH: usize = 100;

/// `code`: the status to exit with, also when the reader of the output goes away.
pub(super) fn look(options: &SnapshotOptions, code: &mut ExitCode) -> Result<()> {
    // Each process keeps some of its files open until all are read.
    crate::live::raise_file_limit();
    let snapshot = crate::snapshot::read::read(&options.subject, &options.reading)?;
    // A file that may not be overwritten is said before anything is written.
    let svg = options.svg.as_ref().map(|path| create(path, options.force)).transpose()?;
    let mut output = Output::open(options)?;
    if let Some(file) = svg {
        let mut file = BufWriter::new(file);
        let drawn = views::svg::render(&snapshot, options.show.scale, &mut file).and_then(|()| file.flush());
        drawn.context("failed to write the SVG")?;
    }
    *code = tell(&snapshot, options);
    if let Some(missing) = tell_missing(&snapshot, options) {
        *code = missing;
    }
    output.snapshot(&snapshot)?;
    match options.watch {
        Some(interval) => watch::watch(snapshot, interval, options, &mut output),
        None => Ok(()),
    }
}

/// What is asked for and cannot be shown goes to stderr. The status to exit with.
fn tell(snapshot: &Snapshot, options: &SnapshotOptions) -> ExitCode {
    let show = &options.show;
    let drawn = show.picture || options.svg.is_some();
    let table = show.format == Format::Csv || (show.format == Format::Text && show.by.is_some());
    match views::notes::unread(snapshot, WIDTH).filter(|_| drawn || table) {
        // A table in text has these words itself.
        Some((text, code)) => {
            if drawn || show.format == Format::Csv {
                complain(&text);
            }
            code
        }
        None => {
            if let Some(text) = options.svg.as_ref().and_then(|_| views::svg::left_out(snapshot)) {
                complain(&text);
            }
            let (processes, flags) = match (show.picture, &options.svg) {
                (true, _) => (usize::MAX, " --picture"),
                (false, Some(_)) => (views::svg::DRAWN, " --svg FILE"),
                (false, None) => (0, ""),
            };
            match views::notes::unplaced(snapshot, processes, flags, WIDTH) {
                Some((text, code)) => {
                    complain(&text);
                    code
                }
                None => ExitCode::Done,
            }
        }
    }
}

/// Who was meant and could not be read goes to stderr, unless the text of a group has it; those that were asked for by
/// their number each, and then it is the status to exit with.
fn tell_missing(snapshot: &Snapshot, options: &SnapshotOptions) -> Option<ExitCode> {
    let missing = &snapshot.missing;
    if missing.is_empty() {
        return None;
    }
    for failure in &missing.failures {
        complain(&format!("memtrace: {}\n", failure.clone().within("snapshot")));
    }
    let named = missing.failures.len() == missing.vanished + missing.unreadable;
    if !named && (snapshot.group.is_none() || options.show.format == Format::Csv) {
        complain(&format!("memtrace: {}\n", views::missing(missing)));
    }
    let asked_for = matches!(options.subject, Subject::Pids(_));
    asked_for.then(|| missing.failures.first().map_or(ExitCode::Failure, Failure::exit_code))
}

fn complain(text: &str) {
    // Nobody is left to tell when stderr is gone.
    let _ = io::stderr().write_all(text.as_bytes());
}

impl Output<'_> {
    fn snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        let show = &self.options.show;
        match show.format {
            Format::Json => views::json::render(snapshot, &mut self.out)?,
            Format::Csv => views::csv::render(snapshot, show, &mut self.out)?,
            Format::Text => {
                if show.picture {
                    self.pictures(snapshot)?;
                }
                if !show.picture || show.by.is_some() {
                    views::render(snapshot, show, self.page, &mut self.out)?;
                }
            }
        }
        Ok(self.out.flush()?)
    }

    /// Something about what follows.
    fn say(&mut self, text: &str) -> Result<()> {
        views::render_text(text, self.page, &mut self.out)?;
        Ok(self.out.flush()?)
    }

    fn pictures(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let show = &self.options.show;
        let options = PictureOptions {
            width: self.page.width.unwrap_or(Page::USUAL),
            color: self.page.color,
            scale: show.scale,
            filter: show.filter.as_deref(),
            lines: PictureOptions::LINES,
        };
        let unknown = PageMap::default();
        for (i, process) in snapshot.processes.iter().enumerate() {
            if i > 0 {
                self.out.write_all(b"\n")?;
            }
            let map = snapshot.page_maps.get(i).and_then(Option::as_ref).unwrap_or(&unknown);
            picture::render(process, map, &options, &mut self.out)?;
            // Below a table of the same process they stand once.
            if process.mappings.is_some() && show.by.is_none() {
                self.out.write_all(b"\n")?;
                views::notes::render(process, show, self.page, &mut self.out)?;
            }
        }
        match show.by {
            None => views::render_group_notes(snapshot, show, self.page, &mut self.out),
            Some(_) => Ok(()),
        }
    }
}
