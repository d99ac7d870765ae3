//! Finds the functions that begin and end spans, and hangs probes on them.
//!
//! A path is the target's before it is ours: of a process in a container, its files are meant. Everything that is read
//! here is the target's, and may be anything.

use super::database::read_data_version;
use super::probes::{PointPlace, Probes};
use crate::cli::{SpanOptions, SpanPoint as Named};
use crate::database::{Program, Statements, begin, end, statements};
use crate::hints::Failure;
use crate::procfs::{Directory, MAPS_MAX, visit_maps};
use crate::stacks::{Bytes, Functions, NoFunction, find_below, open_regular};
use crate::views::escape;
use anyhow::{Context as _, Result};
use memtrace_common::{SPAN_DEFINITIONS, SpanPoint};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Whose spans.
pub enum Who<'a> {
    /// A running process's.
    Process(u32),
    /// Those of a command that waits for its execve.
    Command {
        /// Its process.
        pid: u32,
        /// The program, as it was typed.
        program: &'a OsStr,
    },
}

/// What was attached.
pub struct Attached {
    /// Names of the definitions, by their numbers.
    pub names: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Hangs a probe on each function. In one process, or with `follow` wherever the files are mapped: children have them, too.
///
/// # Errors
/// A [`Failure`] that says what is not there, or the kernel refuses.
pub fn attach(probes: &mut Probes, who: &Who<'_>, options: &SpanOptions, follow: bool) -> Result<Attached> {
    if options.named.len() + usize::from(options.statements) > SPAN_DEFINITIONS {
        return Err(Failure::TooManySpans { most: SPAN_DEFINITIONS }.into());
    }
    let mut attached = Attached { names: Vec::new(), warnings: Vec::new() };
    let only = (!follow).then(|| who.pid());
    let mut hang = |file: &File, (offset, returns, point): (u64, bool, SpanPoint), definition: usize| {
        // By its descriptor it is the file that was read, whatever happens to its path.
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let point = SpanPoint { definition: u16::try_from(definition)?, ..point };
        probes.add_point(point, &PointPlace { file: &path, offset, returns, pid: only })
    };
    if options.statements {
        let (file, statements) = find_statements(who)?;
        for point in statements.points {
            hang(&file, point, attached.names.len())
                .with_context(|| format!("failed to watch the statements of {}", statements.server))?;
        }
        attached.names.push(statements.server.to_owned());
    }
    for named in &options.named {
        let (file, metadata) = open(who, &named.path)
            .map_err(|error| Failure::NoSpanFile { path: shown(&named.path), why: error.to_string() })?;
        for point in points(named, &file, metadata.size())? {
            hang(&file, point, attached.names.len()).with_context(|| format!("failed to watch span {}", named.name))?;
        }
        if let Who::Process(pid) = who
            && !maps_file(*pid, &metadata)
        {
            let path = escape(named.path.as_os_str().as_bytes(), 500);
            attached.warnings.push(format!(
                "process {pid} does not have {path} mapped: span {} begins when it does",
                escape(named.name.as_bytes(), 100)
            ));
        }
        attached.names.push(named.name.clone());
    }
    Ok(attached)
}

impl Who<'_> {
    const fn pid(&self) -> u32 {
        match self {
            Self::Process(pid) | Self::Command { pid, .. } => *pid,
        }
    }
}

/// The statements of the server that the target is, and its executable.
fn find_statements(who: &Who<'_>) -> Result<(File, Statements)> {
    let (path, data_version) = match who {
        Who::Process(pid) => (PathBuf::from(format!("/proc/{pid}/exe")), read_data_version(*pid)),
        Who::Command { program, .. } => (find_in_path(program), None),
    };
    let name = std::fs::read_link(&path).unwrap_or_else(|_| path.clone());
    let unknown = || Failure::NoKnownServer { program: shown(&name) };
    let (file, metadata) = open_regular(&path).ok_or_else(unknown)?;
    let program = Program::read(Bytes::File(file.try_clone()?, metadata.size())).ok_or_else(unknown)?;
    let found = statements(&program, data_version.as_deref())
        .map_err(|refusal| Failure::ServerRefused { program: shown(&name), why: refusal.to_string() })?;
    Ok((file, found.ok_or_else(unknown)?))
}

/// The file that a shell would start.
fn find_in_path(program: &OsStr) -> PathBuf {
    let plain = PathBuf::from(program);
    if program.as_bytes().contains(&b'/') {
        return plain;
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).map(|dir| dir.join(program)).find(|path| path.is_file()).unwrap_or(plain)
}

/// Where a named span's functions are, and what they mean.
fn points(named: &Named, file: &File, size: u64) -> Result<Vec<(u64, bool, SpanPoint)>> {
    let path = shown(&named.path);
    let functions = Functions::read(&Bytes::File(file.try_clone()?, size))
        .ok_or_else(|| Failure::NotAProgram { path: path.clone() })?;
    let find = |function: &str| {
        functions.find(function).map_err(|NoFunction { near, several, stripped }| Failure::NoSpanFunction {
            path: path.clone(),
            function: function.to_owned(),
            near,
            several,
            stripped,
        })
    };
    let first = find(&named.begin)?;
    Ok(match &named.end {
        Some(end_function) => {
            let last = find(end_function)?;
            if last == first {
                let (begin, end) = (named.begin.clone(), end_function.clone());
                return Err(Failure::SpanWithoutEnd { path, begin, end }.into());
            }
            vec![(last, false, end()), (first, false, begin())]
        }
        // Its return first: a call that is entered in between ends without having begun, not the other way round.
        None => vec![(first, true, SpanPoint { nests: 1, ..end() }), (first, false, SpanPoint { nests: 1, ..begin() })],
    })
}

/// The file as the target sees it; as we do where it sees none.
fn open(who: &Who<'_>, path: &Path) -> io::Result<(File, Metadata)> {
    let theirs = open_in_root(who.pid(), path);
    let (file, metadata) = match theirs {
        Ok(opened) => opened,
        Err(_) => {
            // A device or a pipe must not be opened for reading, and tells so by what it is.
            let metadata = std::fs::metadata(path)?;
            let regular = metadata.is_file().then(|| open_regular(path)).flatten();
            regular.ok_or_else(|| io::Error::other("is not a regular file that can be read"))?
        }
    };
    Ok((file, metadata))
}

/// Opens a file below the root directory of a process: links lead nowhere else.
fn open_in_root(pid: u32, path: &Path) -> io::Result<(File, Metadata)> {
    let base = if path.is_absolute() { "root" } else { "cwd" };
    let directory = File::open(format!("/proc/{pid}/{base}"))?;
    let resolve = if path.is_absolute() { libc::RESOLVE_IN_ROOT } else { 0 };
    let handle = find_below(&directory, path, resolve)?;
    open_regular(Path::new(&format!("/proc/self/fd/{}", handle.as_raw_fd())))
        .ok_or_else(|| io::Error::other("is not a regular file that can be read"))
}

/// Whether a process maps the file. File systems that give maps another device than they give `stat` are believed.
fn maps_file(pid: u32, metadata: &Metadata) -> bool {
    let mut maps = Vec::new();
    let directory = Directory::open(&format!("/proc/{pid}"));
    if directory.and_then(|directory| directory.read("maps", MAPS_MAX, &mut maps)).is_err() {
        return true;
    }
    let mut found = false;
    visit_maps(&maps, |line| found |= line.inode == metadata.ino());
    found
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_names_of_one_place_are_no_span() {
        let file = File::open("/proc/self/exe").unwrap();
        let size = file.metadata().unwrap().len();
        let named = |begin: &str, end: &str| Named {
            name: "x".into(),
            path: "/bin/x".into(),
            begin: begin.into(),
            end: Some(end.into()),
        };
        let (begin, end) = ("memtrace::live::spans::shown", "memtrace::live::spans::shown");
        assert_eq!(points(&named(begin, "memtrace::live::spans::points"), &file, size).unwrap().len(), 2);
        let refused = points(&named(begin, end), &file, size).unwrap_err();
        let expected = Failure::SpanWithoutEnd { path: "/bin/x".into(), begin: begin.into(), end: end.into() };
        assert_eq!(refused.downcast_ref::<Failure>(), Some(&expected));
    }
}
