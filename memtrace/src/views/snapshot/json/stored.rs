//! Snapshots that were written with `--json`, read back. A file may be anyone's: its size is limited, what is no snapshot
//! is refused with its line, lines of other types are skipped, and what can be derived (`kinds`, `res`, `not_loaded`) is
//! not believed but left out.

use super::{GroupLine, ProcessLine, SCHEMA};
use crate::snapshot::Process;
use crate::snapshot::diff::Together;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::{self, BufRead};

/// No file is larger: a million mappings take half of it.
const FILE_LIMIT: u64 = 1 << 30;

/// Why a file is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A read failed.
    #[error("failed to read")]
    Read(#[from] io::Error),
    /// More than [`FILE_LIMIT`].
    #[error("larger than {} MiB, which no snapshot is", FILE_LIMIT >> 20)]
    TooLarge,
    /// No line is a process's.
    #[error("no line of it is a snapshot")]
    Empty,
    /// Its first line is no line of `--json`.
    #[error("not a memtrace snapshot")]
    Foreign,
    /// It ends in the middle of a line.
    #[error("cut off in line {line}{}", whole(*.snapshots))]
    CutOff {
        /// Which, from 1.
        line: u64,
        /// How many snapshots before it are whole.
        snapshots: usize,
    },
    /// A line is not what `--json` writes.
    #[error("line {line}: {what}")]
    Line {
        /// Which, from 1.
        line: u64,
        /// What is wrong. Escape it.
        what: String,
    },
}

fn whole(snapshots: usize) -> String {
    match snapshots {
        0 => String::new(),
        1 => "; the snapshot before it is whole".to_owned(),
        snapshots => format!("; the {snapshots} snapshots before it are whole"),
    }
}

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// In its order.
    pub processes: Vec<Process>,
    /// Together, where there were several.
    pub together: Option<Together>,
    /// Numbers and starts of the processes.
    identities: BTreeSet<(u32, u64)>,
}

/// What is wrong with a line.
enum Fault {
    /// It ends too early.
    End,
    /// It is nothing of ours.
    Foreign,
    /// In words.
    Other(String),
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Self::Other(what)
    }
}

/// Reads a file.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn read(file: impl BufRead) -> Result<Stored, Error> {
    let mut file = file.take(FILE_LIMIT + 1);
    let mut stored = Stored::default();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        if file.read_until(b'\n', &mut text)? == 0 {
            break;
        }
        if file.limit() == 0 {
            return Err(Error::TooLarge);
        }
        stored.add(&text).map_err(|fault| match fault {
            Fault::End => Error::CutOff { line, snapshots: stored.processes.len() },
            Fault::Foreign if line == 1 => Error::Foreign,
            Fault::Foreign => Error::Line { line, what: "no line that memtrace writes".to_owned() },
            Fault::Other(what) => Error::Line { line, what },
        })?;
    }
    if stored.processes.is_empty() { Err(Error::Empty) } else { Ok(stored) }
}

impl Stored {
    /// Lines of other types, and empty ones, are passed over.
    fn add(&mut self, line: &[u8]) -> Result<(), Fault> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let head: Head<'_> = match parse(line) {
            // Of an object that memtrace began to write.
            Err(Fault::End) if line.starts_with(b"{\"type\":\"") => Err(Fault::End),
            Err(_) => Err(Fault::Foreign),
            Ok(head) => Ok(head),
        }?;
        let known = matches!(&*head.r#type, "snapshot" | "group");
        if known && head.schema != Some(SCHEMA) {
            return Err(Fault::Other(format!("a snapshot of another schema than {SCHEMA}")));
        }
        match &*head.r#type {
            "snapshot" => {
                let process = parse::<ProcessLine<'_>>(line)?.process()?;
                if !self.identities.insert((process.pid, process.start_time)) {
                    return Err(Fault::Other(format!(
                        "process {} is in it twice: more than one snapshot",
                        process.pid
                    )));
                }
                self.processes.push(process);
            }
            "group" => {
                let together = parse::<GroupLine<'_>>(line)?.together()?;
                if self.together.replace(together).is_some() {
                    return Err(Fault::Other("a second group: more than one snapshot".to_owned()));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, Fault> {
    serde_json::from_slice(line).map_err(|error| {
        if error.is_eof() {
            return Fault::End;
        }
        // The position is within the line, which serde_json takes for a file.
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or_default();
        Fault::Other(format!("column {}: {what}", error.column()))
    })
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    schema: Option<u32>,
}
