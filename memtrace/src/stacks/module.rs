//! Modules: files that a process has mapped as code, opened through the process itself, and kept for all of them.

use super::elf::{Bytes, Image};
use super::names::ModuleFile;
use crate::event::MapsLine;
use std::ffi::CString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that are kept open, with two descriptors each. Those that no process has mapped any more make room.
const FILES_MAX: usize = 256;
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

    /// What names are read from.
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

/// A file that was looked at.
#[derive(Clone, Debug)]
struct Code {
    number: u64,
    /// `None` for a file that is not accepted: it is not looked at again.
    image: Option<Arc<Image>>,
    named: Option<Arc<ModuleFile>>,
}

#[derive(Debug)]
struct Known {
    identity: Identity,
    /// Device and inode as maps has them, which on some file systems are not those of the identity.
    mapped: (u64, u64),
    code: Code,
}

/// All files that processes have mapped as code.
#[derive(Debug, Default)]
pub struct Files {
    /// The one that was wanted last is last.
    known: Vec<Known>,
    /// Our own, and its length.
    vdso: Option<Option<(Code, u64)>>,
    next_code: u64,
}

impl Files {
    /// The module behind an executable mapping of a process, which is to be found under the first of `pids`; of the
    /// others it has inherited the mapping. `None` when no file holds the code.
    pub fn module(&mut self, pids: &[u32], line: &MapsLine) -> Option<Arc<Module>> {
        let found = match line.name.as_slice() {
            b"[vdso]" => self.vdso(line.end - line.start),
            // The kernel's own code at a fixed address: three functions that return at once.
            b"[vsyscall]" => None,
            _ if line.inode == 0 => return None,
            _ => self.file(pids, line),
        };
        let loaded = found.as_ref().and_then(|code| {
            let image = code.image.as_ref()?;
            Some((Arc::clone(image), image.bias(line.start, line.offset)?))
        });
        if loaded.is_none() && has_no_path(&line.name) {
            return None;
        }
        let code = found.unwrap_or_else(|| Code { number: self.number(), image: None, named: None });
        Some(Arc::new(Module { code: code.number, path: line.name.clone(), loaded, named: code.named }))
    }

    /// What holds the code of a process that no file holds.
    pub fn jit(&mut self, pid: u32) -> Arc<Module> {
        let named = ModuleFile::jit(pid, open_root(pid)).ok().map(Arc::new);
        Arc::new(Module { code: self.number(), path: Vec::new(), loaded: None, named })
    }

    /// Numbers begin at 1: 0 is code of no module.
    const fn number(&mut self) -> u64 {
        self.next_code += 1;
        self.next_code
    }

    fn vdso(&mut self, length: u64) -> Option<Code> {
        if self.vdso.is_none() {
            let number = self.number();
            self.vdso = Some(read_own_vdso().and_then(|bytes| {
                let length = bytes.len() as u64;
                let image = Image::read(Bytes::Memory(bytes.clone()))?;
                let named = ModuleFile::vdso(bytes, image.build_id().to_vec());
                Some((Code { number, image: Some(Arc::new(image)), named: Some(Arc::new(named)) }, length))
            }));
        }
        // The kernel has one for each kind of program; ours is that of the programs that are followed.
        let (code, own) = self.vdso.as_ref()?.as_ref()?;
        (*own == length).then(|| code.clone())
    }

    fn file(&mut self, pids: &[u32], line: &MapsLine) -> Option<Code> {
        let mapped = (line.device, line.inode);
        let at = match open(pids, line) {
            Some((file, identity)) => match self.known.iter().position(|known| known.identity == identity) {
                Some(at) => at,
                None => self.add(pids, file, identity, line),
            },
            // The process is gone, but its parent or a sibling may have had the same file.
            None => self.known.iter().rposition(|known| known.mapped == mapped)?,
        };
        self.known[at..].rotate_left(1);
        self.known.last().map(|known| known.code.clone())
    }

    fn add(&mut self, pids: &[u32], file: File, identity: Identity, line: &MapsLine) -> usize {
        let for_names = file.try_clone();
        let mut image = Image::read(Bytes::File(file, identity.size)).map(Arc::new);
        let weight = image.as_ref().map_or(0, |image| image.weight());
        if !self.make_room(weight) {
            image = None;
        }
        let named = image.as_ref().and_then(|image| {
            let (path, build_id) = (line.name.clone(), image.build_id().to_vec());
            let root = pids.iter().find_map(|pid| open_root(*pid));
            ModuleFile::file(for_names.ok()?, path, build_id, root).ok().map(Arc::new)
        });
        let code = Code { number: self.number(), image, named };
        self.known.push(Known { identity, mapped: (line.device, line.inode), code });
        self.known.len() - 1
    }

    /// Forgets files that nobody has mapped, the one that was wanted longest ago first.
    fn make_room(&mut self, wanted: u64) -> bool {
        let weight_of = |known: &Known| known.code.image.as_ref().map_or(0, |image| image.weight());
        let mut weight: u64 = self.known.iter().map(weight_of).sum();
        let mut at = 0;
        while (weight + wanted > WEIGHT_MAX || self.known.len() >= FILES_MAX) && at < self.known.len() {
            if self.known[at].code.image.as_ref().is_some_and(|image| Arc::strong_count(image) > 1) {
                at += 1;
            } else {
                weight -= weight_of(&self.known.remove(at));
            }
        }
        weight + wanted <= WEIGHT_MAX && self.known.len() < FILES_MAX
    }
}

/// Memory that the kernel backs with a file of its own: a just-in-time compiler may have put its code there.
fn has_no_path(name: &[u8]) -> bool {
    [b"/memfd:".as_slice(), b"/dev/zero", b"/SYSV", b"anon_inode:"].iter().any(|prefix| name.starts_with(prefix))
}

/// Opens what a process has mapped, or its parent at the same place. `None` when both are gone and the file is not where
/// they had it, or is none that may be opened.
fn open(pids: &[u32], line: &MapsLine) -> Option<(File, Identity)> {
    // Who it was forked from may be another program by now, and the file at a path another file.
    let same_inode = |(_, identity): &(File, Identity)| identity.inode == line.inode;
    // Leads to the very file, deleted or in another mount namespace; wants a capability.
    let exact = |pid| open_file(&PathBuf::from(format!("/proc/{pid}/map_files/{:x}-{:x}", line.start, line.end)));
    let name = Path::new(std::ffi::OsStr::from_bytes(&line.name));
    let below = |root: &Path| {
        let path = root.join(name.strip_prefix("/").ok()?);
        open_file(&path).filter(same_inode)
    };
    let as_it_sees = |pid| below(Path::new(&format!("/proc/{pid}/root")));
    let as_we_see = || {
        let same = |identity: &Identity| {
            let (major, minor) = (libc::major(identity.device), libc::minor(identity.device));
            u64::from(major) << 32 | u64::from(minor) == line.device
        };
        below(Path::new("/")).filter(|(_, identity)| same(identity))
    };
    let (own, before) = pids.split_first()?;
    exact(*own)
        .or_else(|| before.iter().find_map(|pid| exact(*pid).filter(same_inode)))
        .or_else(|| pids.iter().find_map(|pid| as_it_sees(*pid)))
        .or_else(as_we_see)
}

fn open_file(path: &Path) -> Option<(File, Identity)> {
    open_regular(path).map(|(file, metadata)| (file, Identity::of(&metadata)))
}

/// Looks before it opens: to open a device or a pipe may have effects.
pub(crate) fn open_regular(path: &Path) -> Option<(File, Metadata)> {
    let handle = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).ok()?;
    let metadata = handle.metadata().ok()?;
    if !metadata.is_file() {
        return None;
    }
    let file = File::open(format!("/proc/self/fd/{}", handle.as_raw_fd())).ok()?;
    Some((file, metadata))
}

/// Finds what a path leads to, and opens nothing: neither does a device act nor a pipe wait. `resolve` are openat2's flags
/// that say where links may lead. Linux 5.6.
pub(crate) fn find_below(directory: &File, path: &Path, resolve: u64) -> io::Result<File> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: open_how is three integers, of which zero is a valid value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((libc::O_PATH | libc::O_CLOEXEC).cast_unsigned());
    how.resolve = resolve;
    let (from, size) = (directory.as_raw_fd(), size_of_val(&how));
    // SAFETY: the descriptor is open, the path ends with NUL, and the kernel reads `how` for the size given.
    let descriptor = unsafe { libc::syscall(libc::SYS_openat2, from, path.as_ptr(), &raw const how, size) };
    let descriptor = i32::try_from(descriptor).ok().filter(|&descriptor| descriptor >= 0);
    let descriptor = descriptor.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

/// The root directory of a process, where it is another one than ours: its debugging information lies there.
fn open_root(pid: u32) -> Option<Arc<File>> {
    let root = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(format!("/proc/{pid}/root")).ok()?;
    let (theirs, ours) = (root.metadata().ok()?, std::fs::metadata("/").ok()?);
    ((theirs.dev(), theirs.ino()) != (ours.dev(), ours.ino())).then(|| Arc::new(root))
}

/// The kernel maps the same image into every process.
fn read_own_vdso() -> Option<Vec<u8>> {
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
    Some(bytes)
}
