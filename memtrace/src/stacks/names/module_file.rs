//! What names need of a module: a handle on what holds its code, which stays good when the process is gone.

use super::debug_package::Wanting;
use super::question::{Module, Source};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// Largest vdso that is taken, bytes: the kernel's has two or three pages.
const MAX_IMAGE: usize = 1 << 20;

/// A module: a file, the vdso, or what a just-in-time compiler made.
#[derive(Debug)]
pub struct ModuleFile {
    pub(super) kind: Kind,
    pub(super) path: Vec<u8>,
    pub(super) build_id: Vec<u8>,
    pub(super) root: Option<Arc<File>>,
}

#[derive(Debug)]
pub(super) enum Kind {
    File { file: File, identity: Identity },
    Image(Vec<u8>),
    PerfMap { process: (u32, u64), pid: u32, uid: u32 },
}

/// What makes two handles the same module, in whatever processes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Identity {
    File {
        device: u64,
        inode: u64,
        size: u64,
        modified_ns: i128,
    },
    Image(Vec<u8>),
    /// Process and when it began.
    PerfMap(u32, u64),
}

impl ModuleFile {
    /// A file that is mapped as `path`, opened through `/proc/PID/map_files` or the path. `root` is `/proc/PID/root`,
    /// opened, where that is another directory than ours.
    ///
    /// # Errors
    /// When the file cannot be asked who it is, or is no regular file.
    pub fn file(file: File, path: Vec<u8>, build_id: Vec<u8>, root: Option<Arc<File>>) -> io::Result<Self> {
        let data = file.metadata()?;
        if !data.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let modified_ns = i128::from(data.mtime()) * 1_000_000_000 + i128::from(data.mtime_nsec());
        let identity = Identity::File { device: data.dev(), inode: data.ino(), size: data.len(), modified_ns };
        Ok(Self { kind: Kind::File { file, identity }, path, build_id, root })
    }

    /// The vdso, read from a process's memory.
    #[must_use]
    pub fn vdso(mut bytes: Vec<u8>, build_id: Vec<u8>) -> Self {
        bytes.truncate(MAX_IMAGE);
        Self { kind: Kind::Image(bytes), path: b"[vdso]".to_vec(), build_id, root: None }
    }

    /// Code of process `pid` that no file holds. To be made while the process lives.
    ///
    /// # Errors
    /// When `/proc/PID` cannot be read.
    pub fn jit(pid: u32, root: Option<Arc<File>>) -> io::Result<Self> {
        let uid = fs::metadata(format!("/proc/{pid}"))?.uid();
        let status = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/status"))?).into_owned();
        let innermost = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let innermost = innermost.and_then(|pids| pids.split_ascii_whitespace().last()?.parse().ok());
        let stat = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat"))?).into_owned();
        // The 22nd field; the second is the name, which may hold anything.
        let began = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_ascii_whitespace().nth(19)?.parse().ok());
        let process = (pid, began.unwrap_or_default());
        let kind = Kind::PerfMap { process, pid: innermost.unwrap_or(pid), uid };
        Ok(Self { kind, path: Vec::new(), build_id: Vec::new(), root })
    }

    pub(super) fn identity(&self) -> Identity {
        match &self.kind {
            Kind::File { identity, .. } => identity.clone(),
            Kind::Image(bytes) => Identity::Image(bytes.clone()),
            Kind::PerfMap { process: (pid, began), .. } => Identity::PerfMap(*pid, *began),
        }
    }

    /// What a hint is to say of it. Only files have debug packages.
    pub(super) fn wanting(&self) -> Option<Wanting> {
        let Kind::File { .. } = self.kind else { return None };
        let path = OsStr::from_bytes(&self.path).into();
        Some(Wanting { path, build_id: self.build_id.clone(), here: self.root.is_none(), unnamed: 0 })
    }

    /// The module as the process that reads symbols can open it, while this lives.
    pub(super) fn opened_as(&self, id: u32) -> Module {
        let here = |file: &File| format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        let source = match &self.kind {
            Kind::File { file, .. } => Source::File(here(file)),
            Kind::Image(bytes) => Source::Image(bytes.clone()),
            Kind::PerfMap { pid, uid, .. } => Source::PerfMap { pid: *pid, uid: *uid },
        };
        Module { id, source, path: self.path.clone(), root: self.root.as_deref().map(here) }
    }
}
