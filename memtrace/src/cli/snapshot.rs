//! `memtrace snapshot`: its flags and what they mean.

use super::values::{parse_duration, parse_interval};
use super::{ColorChoice, usage};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// `memtrace snapshot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// Whose memory.
    pub subject: Subject,
    /// How it is read.
    pub reading: ReadOptions,
    /// Again and again, at this distance: then what changed.
    pub watch: Option<Duration>,
    /// With `watch`: end after this.
    pub duration: Option<Duration>,
    /// How it is shown.
    pub show: ShowOptions,
    /// The picture as SVG, to this file.
    pub svg: Option<PathBuf>,
    /// Text, JSON or CSV to this file instead of stdout.
    pub file: Option<PathBuf>,
    /// Overwrite files.
    pub force: bool,
    /// Colours.
    pub color: ColorChoice,
}

/// Whose memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// These processes.
    Pids(Vec<u32>),
    /// All processes of this name: comm, the program's path or the last part of it.
    Name(String),
    /// All processes of this cgroup and those below it.
    Cgroup(PathBuf),
    /// Two snapshots that were written with `--json`.
    Files(PathBuf, PathBuf),
}

/// How a snapshot is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// Longest time that one call may hold the target's mmap_lock.
    pub max_hold: Duration,
    /// Read everything, however long it holds.
    pub full: bool,
    /// Read what pictures need.
    pub page_map: bool,
    /// Read only what is compared: neither files nor what several processes share.
    pub for_diff: bool,
}

impl ReadOptions {
    /// Longest time that one call may hold the target's mmap_lock; `None` when everything was asked for.
    #[must_use]
    pub fn hold_limit(&self) -> Option<Duration> {
        (!self.full).then_some(self.max_hold)
    }
}

/// How a snapshot is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShowOptions {
    /// Format.
    pub format: Format,
    /// A table of these instead of the summary.
    pub by: Option<By>,
    /// Order of tables, largest first (addresses and names ascending).
    pub sort: Sort,
    /// Only rows whose kind, name or path contains this.
    pub filter: Option<String>,
    /// Rows of a table; `None` for all.
    pub top: Option<usize>,
    /// Draw the address space.
    pub picture: bool,
    /// Scale of pictures.
    pub scale: PictureScale,
    /// What each source cost.
    pub costs: bool,
    /// A call that held the target's mmap_lock for longer is told; `None` when everything was asked for.
    pub hold_limit: Option<Duration>,
    /// What was typed, for advice on what to type instead.
    pub typed: Typed,
}

/// A command line as it was typed, quoted for a shell; each part begins with a space, or is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Typed {
    /// How processes were selected otherwise than by number: ` --name postgres`.
    pub subject: Option<String>,
    /// Which tables of them, and how: ` --by mapping --top 5`.
    pub flags: String,
}

impl Typed {
    fn of(args: &SnapshotArgs) -> Self {
        let flag = |name: &str, value: Option<String>| value.map(|value| format!(" --{name} {}", quoted(&value)));
        let value = |value: clap::builder::PossibleValue| value.get_name().to_owned();
        let sort = Some(args.sort).filter(|&sort| sort != Sort::default());
        let flags = [
            flag("by", args.by.as_ref().and_then(ValueEnum::to_possible_value).map(value)),
            flag("sort", sort.as_ref().and_then(ValueEnum::to_possible_value).map(value)),
            flag("filter", args.filter.clone()),
            flag("top", args.top.map(|top| top.to_string())),
            args.verbose.then(|| " -v".to_owned()),
        ];
        let cgroup = || flag("cgroup", args.cgroup.as_ref().map(|path| path.to_string_lossy().into_owned()));
        Self { subject: flag("name", args.name.clone()).or_else(cgroup), flags: flags.into_iter().flatten().collect() }
    }
}

/// As one word of a shell's.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:@%+=,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Format of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
    /// One line a row.
    Csv,
}

/// What a row of a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// heap, stacks, libraries, …
    Kind,
    /// One mapping.
    Mapping,
    /// One file, with what of it is in the page cache.
    File,
    /// `rw-p`, `r-xp`, …
    Permissions,
}

/// Order of tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Resident.
    #[default]
    Rss,
    /// Address space.
    Size,
    /// Proportional share.
    Pss,
    /// Mapped by nobody else.
    Private,
    /// Mapped more than once.
    Shared,
    /// Dirty.
    Dirty,
    /// Swapped out.
    Swap,
    /// Address.
    Address,
    /// Name: of a path its last part.
    Name,
}

/// How the lengths of mappings become lengths in a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PictureScale {
    /// A mapping of twice the size is a step longer: small ones stay visible.
    #[default]
    Log,
    /// In proportion.
    Linear,
}

pub(super) const AFTER_HELP: &str = "\
Tables keep to the terminal's width and name the columns for which there is no room. In a pipe or a file they are as wide
as they need to be. COLUMNS=N in the environment sets the width for both.";

#[derive(Debug, Args)]
pub(super) struct SnapshotArgs {
    /// The process; several for what they share (`--pid A --pid B`, or `--pid A,B` as `pgrep -d,` prints them).
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pids: Vec<u32>,
    /// All processes of this name: the whole of comm, of the program's path or of its last part, such as postgres.
    #[arg(long, value_name = "NAME", conflicts_with = "pids", value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// All processes of this cgroup and those below it, such as /sys/fs/cgroup/system.slice/db.service.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["pids", "name"])]
    cgroup: Option<PathBuf>,
    /// What changed between two snapshots that were written with --json, by mapping; of several processes also in all.
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"],
          conflicts_with_all = ["pids", "name", "cgroup", "watch", "full", "by", "csv", "picture", "svg"])]
    diff: Vec<PathBuf>,
    /// Repeat at this distance, such as 2s, and print what changed by mapping; of several processes also Σ RES and Σ PSS,
    /// but not RES and USS of all together, which take a walk over all pages (--diff compares these).
    #[arg(long, value_name = "TIME", value_parser = parse_interval, conflicts_with_all = ["csv", "picture", "svg"])]
    watch: Option<Duration>,
    /// With --watch: end after this time.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "watch")]
    duration: Option<Duration>,

    /// A table of these instead of the summary.
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "What is shown")]
    by: Option<By>,
    /// Order of tables.
    #[arg(long, value_enum, value_name = "COLUMN", default_value_t, help_heading = "What is shown")]
    sort: Sort,
    /// Only rows whose kind, name or path contains this, in capitals or not.
    #[arg(long, value_name = "TEXT", help_heading = "What is shown")]
    filter: Option<String>,
    /// Rows of a table; 0 for all [default: 20 in text, all in CSV]. The summary's list of files never has more than 6.
    #[arg(long, value_name = "N", help_heading = "What is shown")]
    top: Option<usize>,
    /// Draw the address space: what is private, shared, swapped out, untouched.
    #[arg(long, conflicts_with_all = ["json", "csv"], help_heading = "What is shown")]
    picture: bool,
    /// Scale of pictures.
    #[arg(long, value_enum, value_name = "SCALE", default_value_t, help_heading = "What is shown")]
    scale: PictureScale,

    /// One JSON object a process (docs/ndjson.md), with everything that was read.
    #[arg(long, conflicts_with_all = ["csv", "by", "sort", "filter", "top"], help_heading = "Output")]
    json: bool,
    /// The rows of --by (mappings when not given) as CSV, amounts in bytes.
    #[arg(long, help_heading = "Output")]
    csv: bool,
    /// Also draw the address space as SVG; two processes side by side, shared pages linked; of more the first two.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    svg: Option<PathBuf>,
    /// Write to this file instead of standard output.
    #[arg(short = 'o', long = "output", value_name = "FILE", help_heading = "Output")]
    file: Option<PathBuf>,
    /// Overwrite files that are there.
    #[arg(long, help_heading = "Output")]
    force: bool,
    /// Colours in the text; `auto` means on a terminal, unless NO_COLOR is set.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, help_heading = "Output")]
    color: ColorChoice,

    /// Longest time, in milliseconds, that one call may hold the target's mmap_lock; larger targets are read from cheaper sources.
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=60_000),
          help_heading = "Cost")]
    max_snapshot_ms: u64,
    /// Read everything, however long it holds the target up.
    #[arg(long, help_heading = "Cost")]
    full: bool,
    /// Say what each source cost. JSON always does.
    #[arg(short, long, conflicts_with_all = ["json", "csv"], help_heading = "Cost")]
    verbose: bool,
}

impl SnapshotArgs {
    pub(super) fn options(self) -> Result<SnapshotOptions, clap::Error> {
        let typed = Typed::of(&self);
        let subject = match (self.name, self.cgroup, <[PathBuf; 2]>::try_from(self.diff)) {
            (_, _, Ok([before, after])) => Subject::Files(before, after),
            (Some(name), _, _) => Subject::Name(name),
            (_, Some(path), _) => Subject::Cgroup(path),
            _ if !self.pids.is_empty() => {
                let mut pids = Vec::with_capacity(self.pids.len());
                // Named twice is meant once.
                for pid in self.pids {
                    if !pids.contains(&pid) {
                        pids.push(pid);
                    }
                }
                Subject::Pids(pids)
            }
            _ => {
                return Err(usage(
                    "nothing to look at; type one of\n  memtrace snapshot --pid PID\n  memtrace snapshot --name NAME\n  \
                     memtrace snapshot --cgroup PATH\n  memtrace snapshot --diff BEFORE.json AFTER.json",
                ));
            }
        };
        if self.svg.is_some() && self.svg == self.file {
            return Err(usage("the SVG and the output would be the same file; give -o another"));
        }
        let format = match (self.json, self.csv) {
            (true, _) => Format::Json,
            (_, true) => Format::Csv,
            _ => Format::Text,
        };
        let reading = ReadOptions {
            max_hold: Duration::from_millis(self.max_snapshot_ms),
            full: self.full,
            page_map: self.picture || self.svg.is_some(),
            for_diff: false,
        };
        let top = self.top.or((format == Format::Text).then_some(20)).filter(|&top| top > 0);
        Ok(SnapshotOptions {
            subject,
            reading,
            watch: self.watch,
            duration: self.duration,
            show: ShowOptions {
                format,
                by: self.by,
                sort: self.sort,
                filter: self.filter.filter(|text| !text.is_empty()),
                top,
                picture: self.picture,
                scale: self.scale,
                costs: self.verbose,
                hold_limit: reading.hold_limit(),
                typed,
            },
            svg: self.svg,
            file: self.file,
            force: self.force,
            color: self.color,
        })
    }
}
