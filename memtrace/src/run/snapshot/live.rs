//! Snapshots of live processes.

mod watch;

use super::Output;
use crate::cli::{Format, SnapshotOptions};
use crate::run::create;
use crate::snapshot::{PageMap, Snapshot};
use crate::views::snapshot as views;
use crate::views::snapshot::picture::{self, PictureOptions};
use anyhow::{Context as _, Result};
use std::io::{self, BufWriter, Write as _};

pub(super) fn look(options: &SnapshotOptions) -> Result<()> {
    let snapshot = crate::snapshot::read::read(&options.subject, &options.reading)?;
    // A file that may not be overwritten is said before anything is written.
    let svg = options.svg.as_ref().map(|path| create(path, options.force)).transpose()?;
    let mut output = Output::open(options)?;
    if let Some(file) = svg {
        let mut file = BufWriter::new(file);
        let drawn = views::svg::render(&snapshot, options.show.scale, &mut file).and_then(|()| file.flush());
        drawn.context("failed to write the SVG")?;
    }
    output.snapshot(&snapshot)?;
    match options.watch {
        Some(interval) => watch::watch(snapshot, interval, options, &mut output),
        None => Ok(()),
    }
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

    fn pictures(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let show = &self.options.show;
        let options = PictureOptions {
            width: self.page.width,
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
        }
        Ok(())
    }
}
