//! Finds the separate file that holds a module's debugging information, where its build-id or its debug link says.
//!
//! Paths come from the module, which is hostile: they are resolved below the root directory that the module's process
//! has, where no link leads out of, and only regular files are opened.

use super::elf::{Bytes, Parsed, parse};
use crate::stacks::find_below;
use object::Object;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Where distributions put debug files.
const FOLDER: &str = "usr/lib/debug";
/// Shortest build-id that may name a file, bytes: shorter ones are not unique.
const MIN_BUILD_ID: usize = 8;
/// Longest path that is looked for, bytes.
const MAX_PATH: usize = 4096;

/// A debug file that belongs to the module.
pub(super) struct DebugFile {
    pub file: File,
    pub bytes: Bytes,
    /// Its path, where root put it into our own file system: what it refers to may be followed.
    pub trusted: Option<PathBuf>,
}

/// Looks in `root` (`None`: ours), and in ours by build-id: debug packages are rarely inside a container.
pub(super) fn find(module: &Parsed<'_>, path: &Path, root: Option<&File>) -> Option<DebugFile> {
    let build_id = module.build_id().ok().flatten().filter(|id| id.len() >= MIN_BUILD_ID);
    let link = module.gnu_debuglink().ok().flatten();
    let ours = File::open("/").ok()?;
    let wanted = build_id.map(by_build_id);
    let places = [root, Some(&ours)].into_iter().flatten();
    let by_id = places
        .filter_map(|root| Some((root, wanted.clone()?)))
        .find_map(|(root, path)| open(root, &path, std::ptr::eq(root, &ours), |bytes| same_build(bytes, build_id)));
    by_id.or_else(|| {
        let (name, crc) = link?;
        let belongs = |bytes: &Bytes| match build_id {
            Some(_) => same_build(bytes, build_id),
            None => crc32fast::hash(bytes) == crc,
        };
        let root = root.unwrap_or(&ours);
        let candidates = by_link(path, Path::new(OsStr::from_bytes(name)));
        candidates.iter().find_map(|path| open(root, path, std::ptr::eq(root, &ours), belongs))
    })
}

fn by_build_id(id: &[u8]) -> PathBuf {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (first, rest) = hex.split_at(2);
    Path::new(FOLDER).join(".build-id").join(first).join(format!("{rest}.debug"))
}

/// In the order of GDB. Nothing when the link is more than a file's name.
fn by_link(module: &Path, name: &Path) -> Vec<PathBuf> {
    let mut components = name.components();
    let plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    let folder = module.parent().and_then(|folder| folder.strip_prefix("/").ok());
    match folder {
        Some(folder) if plain => {
            vec![folder.join(name), folder.join(".debug").join(name), Path::new(FOLDER).join(folder).join(name)]
        }
        _ => Vec::new(),
    }
}

fn same_build(bytes: &Bytes, wanted: Option<&[u8]>) -> bool {
    parse(bytes).is_ok_and(|parsed| parsed.build_id().ok().flatten() == wanted)
}

fn open(root: &File, path: &Path, ours: bool, belongs: impl Fn(&Bytes) -> bool) -> Option<DebugFile> {
    let file = open_below(root, path).ok()?;
    let bytes = Bytes::map(&file).ok()?;
    if !belongs(&bytes) {
        return None;
    }
    let roots = file.metadata().is_ok_and(|file| file.uid() == 0);
    let trusted = (ours && roots).then(|| Path::new("/").join(path));
    Some(DebugFile { file, bytes, trusted })
}

/// Opens a regular file, to be read, below a directory that no link leads out of. Linux 5.6.
pub(super) fn open_below(root: &File, path: &Path) -> io::Result<File> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // A device may act and a pipe may wait when it is opened, so what the path leads to is looked at first.
    let found = find_below(root, path, libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS)?;
    if !found.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}
