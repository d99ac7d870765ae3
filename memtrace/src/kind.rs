//! What a mapping is, from its name, permissions and neighbours. Recognition is conservative: when in doubt, `anon`.
//!
//! The live model and snapshots both ask here. The model adds what it has seen happen as a [`Hint`]; a snapshot has
//! only the lines of one reading.

use crate::event::MapsLine;
use crate::event::permission::{EXECUTE, READ, SHARED, WRITE};
use crate::statement::Kind;
use std::collections::BTreeSet;
use std::sync::Arc;

/// glibc's `HEAP_MAX_SIZE`: size and alignment of a malloc arena's heap on 64-bit machines.
pub const ARENA_BYTES: u64 = 64 << 20;
/// The largest guard that a thread's stack is recognised by (the JVM has the pthread guard and its own zones).
pub const GUARD_BYTES: u64 = 64 << 10;
/// The largest stack that is recognised by its guard alone: twice the usual limit.
const SHAPED_STACK_BYTES: u64 = 16 << 20;
/// What right after a library's writable data is taken for its `.bss`, because anything else can be mapped there as well:
/// no more than sixteen times that data, or 64 KiB, and never more than 1 MiB. Of 155 libraries of a Debian that have pages
/// of `.bss`, it is more in 22 by the last (sanitizers, graphics drivers), and in five by the others.
const BSS_PER_DATA: u64 = 16;
const SMALL_BSS_BYTES: u64 = 64 << 10;
const BSS_BYTES: u64 = 1 << 20;

/// A mapping, as far as its kind depends on itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// See [`crate::event::permission`].
    pub permissions: u8,
    /// A file fills its pages; shared memory is one.
    pub is_file: bool,
    /// Device, `major << 32 | minor`.
    pub device: u64,
    /// Inode; 0 for none or unknown.
    pub inode: u64,
    /// As the kernel prints it, its escapes undone.
    pub name: &'a [u8],
}

impl Line<'_> {
    /// Whether a line of maps is a file's. A System V segment can have inode 0.
    #[must_use]
    pub fn is_file(inode: u64, name: &[u8]) -> bool {
        inode != 0 || name.starts_with(b"/")
    }

    /// Private anonymous memory.
    const fn is_plain(&self) -> bool {
        !self.is_file && self.permissions & SHARED == 0
    }
}

impl<'a> From<&'a MapsLine> for Line<'a> {
    fn from(line: &'a MapsLine) -> Self {
        let &MapsLine { start, end, permissions, offset: _, device, inode, ref name } = line;
        Self { start, end, permissions, is_file: Self::is_file(inode, name), device, inode, name }
    }
}

/// What is known of a mapping besides itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Nothing.
    None,
    /// It is the brk heap.
    Heap,
    /// It is the main thread's stack.
    Stack,
    /// It is another thread's stack, or its guard.
    ThreadStack,
    /// It is a malloc arena of glibc, or its reserve.
    Arena,
    /// It was made as shared anonymous memory.
    SharedAnon,
    /// It was attached as a System V segment.
    Sysv,
    /// It was made with `MAP_HUGETLB`.
    Hugetlb,
    /// Zero-initialised data of this file.
    Bss(Arc<[u8]>),
}

/// What the kinds of a process's mappings depend on besides themselves.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The program's path as maps prints it; empty when unknown.
    pub program: Arc<[u8]>,
    /// Files of which some part is mapped executable.
    pub executables: BTreeSet<Arc<[u8]>>,
    /// Where the heap begins; 0 when unknown.
    pub start_brk: u64,
    /// An address in the main thread's stack; 0 when unknown.
    pub start_stack: u64,
    /// Devices that are a tmpfs, sorted; empty when nobody asks.
    pub tmpfs: Vec<u64>,
    /// Devices that are a hugetlbfs, sorted.
    pub hugetlbfs: Vec<u64>,
}

impl Context {
    /// Which file is the program, and which files are code. `lines` are sorted.
    pub fn learn(&mut self, lines: &[Line<'_>]) {
        let files = || lines.iter().filter(|line| line.name.starts_with(b"/"));
        let known = files().any(|line| *line.name == *self.program);
        if !known && let Some(line) = files().rfind(|line| line.end <= self.start_brk && line.inode != 0) {
            self.program = line.name.into();
        }
        for line in files().filter(|line| line.permissions & EXECUTE != 0) {
            if !self.executables.contains(line.name) {
                self.executables.insert(line.name.into());
            }
        }
    }
}

/// Kind and name of a mapping. `[anon:NAME]` is shown as NAME, other names as they are.
#[must_use]
pub fn classify<'a>(line: &Line<'a>, hint: &'a Hint, context: &Context) -> (Kind, &'a [u8]) {
    let (kind, name) =
        if line.is_file { (file_kind(line, hint, context), line.name) } else { anon_kind(line.name, hint, context) };
    let no_access = line.permissions & (READ | WRITE | EXECUTE) == 0;
    if no_access && matches!(kind, Kind::Anon | Kind::Program | Kind::Library | Kind::File | Kind::Tmpfs) {
        (Kind::Guard, name)
    } else {
        (kind, name)
    }
}

fn anon_kind<'a>(name: &'a [u8], hint: &'a Hint, context: &Context) -> (Kind, &'a [u8]) {
    let file = |path: &[u8]| {
        if *path == *context.program { Kind::Program } else { Kind::Library }
    };
    if let Some(given) = inside(name, b"[anon:") {
        let kind = match hint {
            Hint::ThreadStack => Kind::ThreadStack,
            Hint::Arena => Kind::Arena,
            _ if given.trim_ascii_start().starts_with(b"glibc: pthread") => Kind::ThreadStack,
            _ if given.trim_ascii_start().starts_with(b"glibc: malloc arena") => Kind::Arena,
            _ => Kind::Anon,
        };
        return (kind, given);
    }
    match name {
        b"[heap]" => return (Kind::Heap, name),
        b"[stack]" => return (Kind::Stack, name),
        _ if name.starts_with(b"[stack:") => return (Kind::ThreadStack, name),
        _ if name.starts_with(b"[v") || matches!(name, b"[sigpage]" | b"[uprobes]") => {
            return (Kind::Vdso, name);
        }
        _ => {}
    }
    match hint {
        Hint::Heap => (Kind::Heap, b"[heap]"),
        Hint::Stack => (Kind::Stack, b"[stack]"),
        Hint::ThreadStack => (Kind::ThreadStack, name),
        Hint::Arena => (Kind::Arena, name),
        Hint::Bss(path) => (file(path), path),
        _ => (Kind::Anon, name),
    }
}

fn file_kind(line: &Line<'_>, hint: &Hint, context: &Context) -> Kind {
    let name = line.name;
    match name {
        b"" => match hint {
            Hint::SharedAnon => Kind::SharedAnon,
            Hint::Sysv => Kind::SysvShm,
            Hint::Hugetlb => Kind::Hugetlb,
            _ => Kind::File,
        },
        // Its private mappings are anonymous memory by another name.
        b"/dev/zero" if line.permissions & SHARED == 0 => Kind::Anon,
        b"/dev/zero" | b"/dev/zero (deleted)" => Kind::SharedAnon,
        _ if name.starts_with(b"[anon_shmem:") => Kind::SharedAnon,
        _ if name.starts_with(b"/SYSV") => Kind::SysvShm,
        _ if name.starts_with(b"/dev/shm/") => Kind::PosixShm,
        _ if name.starts_with(b"/memfd:") => Kind::Memfd,
        // What memfd_secret makes has no name of its own.
        b"/secretmem (deleted)" => Kind::Memfd,
        _ if name.starts_with(b"/anon_hugepage") || name.starts_with(b"/dev/hugepages/") => Kind::Hugetlb,
        _ if *hint == Hint::Hugetlb || context.hugetlbfs.binary_search(&line.device).is_ok() => Kind::Hugetlb,
        _ if name.starts_with(b"/dev/") || name.starts_with(b"anon_inode:") || name.starts_with(b"socket:") => {
            Kind::Device
        }
        _ if *name == *context.program => Kind::Program,
        _ if context.executables.contains(name) || is_library_name(name) => Kind::Library,
        _ if context.tmpfs.binary_search(&line.device).is_ok() => Kind::Tmpfs,
        _ => Kind::File,
    }
}

fn is_library_name(name: &[u8]) -> bool {
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    let base = name.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    base.ends_with(b".so") || base.windows(4).any(|part| part == b".so.")
}

fn inside<'a>(name: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    name.strip_prefix(prefix)?.strip_suffix(b"]")
}

/// What a line is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineHint {
    /// What its neighbours say.
    pub hint: Hint,
    /// It and the line before are one: a stack with its guard, an arena with its reserve.
    pub continues: bool,
}

/// Recognises what only neighbouring lines tell: thread stacks, malloc arenas, `.bss`. `lines` are sorted.
#[must_use]
pub fn line_hints(lines: &[Line<'_>], context: &Context) -> Vec<LineHint> {
    let mut hints = vec![LineHint { hint: Hint::None, continues: false }; lines.len()];
    for (index, line) in lines.iter().enumerate() {
        let plain = line.is_plain();
        if let Some(hint) = hints.get_mut(index).filter(|_| plain) {
            match line.name {
                b"[heap]" => hint.hint = Hint::Heap,
                b"[stack]" => hint.hint = Hint::Stack,
                b"" if (line.start..line.end).contains(&context.start_stack) => hint.hint = Hint::Stack,
                _ => {}
            }
        }
        let Some((before, earlier)) = index.checked_sub(1).and_then(|before| Some((before, lines.get(before)?))) else {
            continue;
        };
        if !plain || earlier.end != line.start {
            continue;
        }
        let earlier_plain = earlier.is_plain();
        let unnamed = line.name.is_empty() && earlier.name.is_empty();
        let pair = if earlier_plain && unnamed && is_thread_stack(earlier, line) {
            Some(Hint::ThreadStack)
        } else if earlier_plain && unnamed && is_arena(earlier, line) {
            Some(Hint::Arena)
        } else {
            None
        };
        if let Some(hint) = pair {
            if let Some(first) = hints.get_mut(before) {
                first.hint = hint.clone();
            }
            if let Some(second) = hints.get_mut(index) {
                *second = LineHint { hint, continues: true };
            }
        } else if line.name.is_empty()
            && line.permissions == READ | WRITE
            && earlier.permissions == READ | WRITE
            && is_bss(line, earlier, context)
            && let Some(hint) = hints.get_mut(index)
        {
            hint.hint = Hint::Bss(earlier.name.into());
        }
    }
    hints
}

/// Zero-initialised data of the file whose data is right before it.
fn is_bss(line: &Line<'_>, data: &Line<'_>, context: &Context) -> bool {
    let most = (data.end - data.start).saturating_mul(BSS_PER_DATA).clamp(SMALL_BSS_BYTES, BSS_BYTES);
    !data.name.is_empty()
        && (*data.name == *context.program || context.executables.contains(data.name) && line.end - line.start <= most)
}

/// A small guard below, and together (or without it) a power of two as thread libraries allocate. By the shape alone no
/// larger ones: of those more are buffers with a guard, and where a stack is that large, the call that made it or the
/// thread that uses it says so.
fn is_thread_stack(guard: &Line<'_>, stack: &Line<'_>) -> bool {
    let (guard_bytes, bytes) = (guard.end - guard.start, stack.end - stack.start);
    let typical = |bytes: u64| bytes.is_power_of_two() && ((256 << 10)..=SHAPED_STACK_BYTES).contains(&bytes);
    guard.permissions == 0
        && guard_bytes <= GUARD_BYTES
        && stack.permissions & (READ | WRITE) == READ | WRITE
        && (typical(bytes) || typical(bytes + guard_bytes) || typical((bytes + guard_bytes).saturating_sub(4096)))
}

/// `rw-p` from a multiple of 64 MiB, then `---p` up to one (full arenas before it merge with the first line).
fn is_arena(head: &Line<'_>, reserve: &Line<'_>) -> bool {
    head.permissions == READ | WRITE
        && reserve.permissions == 0
        && head.start.is_multiple_of(ARENA_BYTES)
        && reserve.end.is_multiple_of(ARENA_BYTES)
        && reserve.end - reserve.start < ARENA_BYTES
}
