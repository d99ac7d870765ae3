//! Modules: files that a process has mapped as code, opened through the process itself, and kept for all of them.

use super::elf::{Bytes, Image};
use super::names::ModuleFile;
use crate::event::MapsLine;
use std::fs::{File, Metadata, OpenOptions};
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that are kept open. Those that no process has mapped any more make room.
const FILES_MAX: usize = 512;
/// Bytes of unwinding information that are kept in all. The libraries of a desktop have some hundred MiB together.
const WEIGHT_MAX: u64 = 512 << 20;
/// The image that the kernel maps is a page or two.
const VDSO_MAX: u64 = 1 << 16;

/// A file that a process has mapped as code, where it has mapped it.
#[derive(Debug)]
pub struct Module {
    code: u64,
    path: Vec<u8>,
    loaded: Option<(Arc<Image>, u64)>,
    named: Option<Arc<ModuleFile>>,
}

impl Module {
    /// Number of the code: equal for modules of one file, never used again for another.
    #[must_use]
    pub const fn code(&self) -> u64 {
        self.code
    }

    /// Path as maps has it: any bytes, as the process sees it. `[vdso]` for that.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// The file; `None` when it could not be read, or is none that is accepted.
    #[must_use]
    pub fn image(&self) -> Option<&Image> {
        self.loaded.as_ref().map(|(image, _)| image.as_ref())
    }

    /// What is to be subtracted (wrapping) from an address to have it as the file has it.
    #[must_use]
    pub fn bias(&self) -> Option<u64> {
        self.loaded.as_ref().map(|(_, bias)| *bias)
    }

    /// Where its names are looked for.
    #[must_use]
    pub const fn named(&self) -> Option<&Arc<ModuleFile>> {
        self.named.as_ref()
    }

    /// The GNU build-id; empty when there is none.
    #[must_use]
    pub fn build_id(&self) -> &[u8] {
        self.image().map(Image::build_id).unwrap_or_default()
    }
}

/// What makes a file this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

#[derive(Debug)]
struct Known {
    identity: Identity,
    /// Device and inode as maps has them, which on some file systems are not those of the identity.
    mapped: (u64, u64),
    code: u64,
    /// `None` for a file that is not accepted: it is not looked at again.
    image: Option<Arc<Image>>,
    named: Option<Arc<ModuleFile>>,
}

/// A file's number, what unwinding needs of it, and where its names are.
type Found = (u64, Option<Arc<Image>>, Option<Arc<ModuleFile>>);

/// All files that processes have mapped as code.
#[derive(Debug, Default)]
pub struct Files {
    /// The one that was wanted last is last.
    known: Vec<Known>,
    vdso: Option<Option<(u64, Arc<Image>, Arc<ModuleFile>)>>,
    next_code: u64,
    /// Files that could not be read, or are not accepted.
    pub refused: u64,
}

impl Files {
    /// The module behind an executable mapping of a process. `None` when no file holds the code.
    pub fn module(&mut self, pid: u32, line: &MapsLine) -> Option<Arc<Module>> {
        let found = match line.name.as_slice() {
            b"[vdso]" => self.vdso(line.end - line.start),
            // The kernel's own code at a fixed address: three functions that return at once.
            b"[vsyscall]" => None,
            _ if line.inode == 0 => return None,
            _ => self.file(pid, line),
        };
        let loaded = found.as_ref().and_then(|(_, image, _)| {
            let image = image.as_ref()?;
            Some((Arc::clone(image), image.bias(line.start, line.offset)?))
        });
        if loaded.is_none() && has_no_path(&line.name) {
            return None;
        }
        let (code, named) = found.map_or_else(|| (self.number(), None), |(code, _, named)| (code, named));
        Some(Arc::new(Module { code, path: line.name.clone(), loaded, named }))
    }

    /// Numbers begin at 1: 0 is code of no module.
    const fn number(&mut self) -> u64 {
        self.next_code += 1;
        self.next_code
    }

    fn vdso(&mut self, length: u64) -> Option<Found> {
        if self.vdso.is_none() {
            let code = self.number();
            self.vdso = Some(read_own_vdso().and_then(Image::read).map(|image| {
                let named = ModuleFile::vdso(image.memory().unwrap_or_default().to_vec(), image.build_id().to_vec());
                (code, Arc::new(image), Arc::new(named))
            }));
        }
        // The kernel has one for each kind of program; ours is that of the programs that are followed.
        let (code, image, named) = self.vdso.as_ref()?.as_ref()?;
        let same = image.memory().is_some_and(|bytes| bytes.len() as u64 == length);
        same.then(|| (*code, Some(Arc::clone(image)), Some(Arc::clone(named))))
    }

    fn file(&mut self, pid: u32, line: &MapsLine) -> Option<Found> {
        let mapped = (line.device, line.inode);
        let at = match open(pid, line) {
            Some((file, identity)) => match self.known.iter().position(|known| known.identity == identity) {
                Some(at) => at,
                None => self.add(pid, line, file, identity)?,
            },
            // The process is gone, but its parent or a sibling may have had the same file.
            None => match self.known.iter().rposition(|known| known.mapped == mapped) {
                Some(at) => at,
                None => {
                    self.refused += 1;
                    return None;
                }
            },
        };
        self.known[at..].rotate_left(1);
        self.known.last().map(|known| (known.code, known.image.clone(), known.named.clone()))
    }

    fn add(&mut self, pid: u32, line: &MapsLine, file: File, identity: Identity) -> Option<usize> {
        let duplicate = file.try_clone();
        let mut image = Image::read(Bytes::File(file, identity.size)).map(Arc::new);
        let weight = image.as_ref().map_or(0, |image| image.weight());
        if !self.make_room(weight) {
            image = None;
        }
        self.refused += u64::from(image.is_none());
        let build_id = image.as_ref().map(|image| image.build_id().to_vec()).unwrap_or_default();
        let named = duplicate
            .and_then(|file| ModuleFile::file(file, line.name.clone(), build_id, foreign_root(pid)))
            .map(Arc::new)
            .ok();
        let code = self.number();
        self.known.push(Known { identity, mapped: (line.device, line.inode), code, image, named });
        Some(self.known.len() - 1)
    }

    /// Forgets files that nobody has mapped, the one that was wanted longest ago first.
    fn make_room(&mut self, wanted: u64) -> bool {
        let mut weight: u64 =
            self.known.iter().filter_map(|known| known.image.as_ref()).map(|image| image.weight()).sum();
        let mut at = 0;
        while (weight + wanted > WEIGHT_MAX || self.known.len() >= FILES_MAX) && at < self.known.len() {
            match &self.known[at].image {
                Some(image) if Arc::strong_count(image) > 1 => at += 1,
                image => {
                    weight -= image.as_ref().map_or(0, |image| image.weight());
                    self.known.remove(at);
                }
            }
        }
        weight + wanted <= WEIGHT_MAX && self.known.len() < FILES_MAX
    }
}

/// Memory that the kernel backs with a file of its own: a just-in-time compiler may have put its code there.
fn has_no_path(name: &[u8]) -> bool {
    [b"/memfd:".as_slice(), b"/dev/zero", b"/SYSV", b"anon_inode:"].iter().any(|prefix| name.starts_with(prefix))
}

/// The root directory of a process, where it is not ours: paths of debug files begin there.
pub fn foreign_root(pid: u32) -> Option<Arc<File>> {
    let root = File::open(format!("/proc/{pid}/root")).ok()?;
    let (theirs, ours) = (root.metadata().ok()?, std::fs::metadata("/").ok()?);
    ((theirs.dev(), theirs.ino()) != (ours.dev(), ours.ino())).then(|| Arc::new(root))
}

/// Opens what a process has mapped. `None` when the process is gone, or the file is none that may be opened.
fn open(pid: u32, line: &MapsLine) -> Option<(File, Identity)> {
    // Leads to the very file, deleted or in another mount namespace; wants a capability.
    let exact = PathBuf::from(format!("/proc/{pid}/map_files/{:x}-{:x}", line.start, line.end));
    open_regular(&exact).or_else(|| {
        let name = Path::new(std::ffi::OsStr::from_bytes(&line.name));
        let path = Path::new(&format!("/proc/{pid}/root")).join(name.strip_prefix("/").ok()?);
        open_regular(&path).filter(|(_, identity)| identity.inode == line.inode)
    })
}

/// Looks before it opens: to open a device or a pipe may have effects.
fn open_regular(path: &Path) -> Option<(File, Identity)> {
    let handle = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).ok()?;
    let metadata = handle.metadata().ok()?;
    if !metadata.is_file() {
        return None;
    }
    let file = File::open(format!("/proc/self/fd/{}", handle.as_raw_fd())).ok()?;
    Some((file, Identity::of(&metadata)))
}

/// The kernel maps the same image into every process.
fn read_own_vdso() -> Option<Bytes> {
    let mut maps = Vec::new();
    File::open("/proc/self/maps").ok()?.read_to_end(&mut maps).ok()?;
    let mut range = None;
    crate::procfs::visit_maps(&maps, |line| {
        if line.raw_name == b"[vdso]" {
            range = Some((line.start, line.end - line.start));
        }
    });
    let (start, length) = range.filter(|(_, length)| *length <= VDSO_MAX)?;
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    File::open("/proc/self/mem").ok()?.read_exact_at(&mut bytes, start).ok()?;
    Some(Bytes::Memory(bytes))
}
