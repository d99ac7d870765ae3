//! What a mapping is, from its name, permissions and history. Recognition is conservative: when in doubt, `anon`.

use super::address_space::{Backing, Life};
use crate::event::MapsLine;
use crate::event::permission::{EXECUTE, READ, SHARED, WRITE};
use crate::statement::Kind;
use std::collections::BTreeSet;
use std::sync::Arc;

/// glibc's `HEAP_MAX_SIZE`: size and alignment of a malloc arena's heap on 64-bit machines.
pub(super) const ARENA_BYTES: u64 = 64 << 20;
/// The largest guard that a thread's stack is recognised by (the JVM has the pthread guard and its own zones).
const GUARD_BYTES: u64 = 64 << 10;
/// The largest anonymous mapping right after a library's data that is taken for its `.bss`.
const LIBRARY_BSS_BYTES: u64 = 1 << 20;

/// What is known of a life besides its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hint {
    None,
    Heap,
    Stack,
    ThreadStack,
    Arena,
    SharedAnon,
    Sysv,
    Hugetlb,
    /// Zero-initialised data of this file.
    Bss(Arc<[u8]>),
}

/// What the kind of a mapping depends on besides itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Context {
    pub(super) program: Arc<[u8]>,
    /// Files of which some part is mapped executable.
    pub(super) executables: BTreeSet<Arc<[u8]>>,
    pub(super) start_brk: u64,
    pub(super) start_stack: u64,
}

/// Kind and name for statements. `[anon:NAME]` is shown as NAME, other names as they are.
pub(super) fn classify(life: &Life, context: &Context) -> (Kind, Vec<u8>) {
    let name: &[u8] = &life.seed.name;
    let (kind, name) = match life.seed.backing {
        Backing::File(_) => (file_kind(name, &life.seed.hint, context), name),
        Backing::Anon => anon_kind(life, name, context),
    };
    let no_access = life.permissions() & (READ | WRITE | EXECUTE) == 0;
    if no_access && matches!(kind, Kind::Anon | Kind::Program | Kind::Library | Kind::File) {
        (Kind::Guard, name.to_vec())
    } else {
        (kind, name.to_vec())
    }
}

fn anon_kind<'a>(life: &'a Life, name: &'a [u8], context: &Context) -> (Kind, &'a [u8]) {
    let file = |path: &[u8]| {
        if *path == *context.program { Kind::Program } else { Kind::Library }
    };
    if let Some(given) = inside(name, b"[anon:") {
        let kind = match &life.seed.hint {
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
    match &life.seed.hint {
        Hint::Heap => (Kind::Heap, b"[heap]"),
        Hint::Stack => (Kind::Stack, b"[stack]"),
        Hint::ThreadStack => (Kind::ThreadStack, name),
        Hint::Arena => (Kind::Arena, name),
        Hint::Bss(path) => (file(path), path),
        _ => (Kind::Anon, name),
    }
}

fn file_kind(name: &[u8], hint: &Hint, context: &Context) -> Kind {
    match name {
        b"" => match hint {
            Hint::SharedAnon => Kind::SharedAnon,
            Hint::Sysv => Kind::SysvShm,
            Hint::Hugetlb => Kind::Hugetlb,
            _ => Kind::File,
        },
        b"/dev/zero" | b"/dev/zero (deleted)" => Kind::SharedAnon,
        _ if name.starts_with(b"[anon_shmem:") => Kind::SharedAnon,
        _ if name.starts_with(b"/SYSV") => Kind::SysvShm,
        _ if name.starts_with(b"/dev/shm/") => Kind::PosixShm,
        _ if name.starts_with(b"/memfd:") => Kind::Memfd,
        _ if name.starts_with(b"/anon_hugepage") || name.starts_with(b"/dev/hugepages/") => Kind::Hugetlb,
        _ if *hint == Hint::Hugetlb => Kind::Hugetlb,
        _ if name.starts_with(b"/dev/") || name.starts_with(b"anon_inode:") || name.starts_with(b"socket:") => {
            Kind::Device
        }
        _ if *name == *context.program => Kind::Program,
        _ if context.executables.contains(name) || is_library_name(name) => Kind::Library,
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

/// What a line of `/proc/PID/maps` says about the backing. A System V segment can have inode 0.
pub(super) fn backing_of(line: &MapsLine) -> Backing {
    if line.inode != 0 || line.name.starts_with(b"/") {
        Backing::File(Some((line.inode, line.device)))
    } else {
        Backing::Anon
    }
}

/// What a line is part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LineHint {
    pub(super) hint: Hint,
    /// It continues the life of the line before.
    pub(super) continues: bool,
}

/// Recognises what only neighbouring lines tell: thread stacks, malloc arenas, `.bss`. `lines` are sorted.
pub(super) fn line_hints(lines: &[&MapsLine], context: &Context) -> Vec<LineHint> {
    let mut hints = vec![LineHint { hint: Hint::None, continues: false }; lines.len()];
    for (index, line) in lines.iter().enumerate() {
        let plain = backing_of(line) == Backing::Anon && line.permissions & SHARED == 0;
        if let Some(hint) = hints.get_mut(index).filter(|_| plain) {
            match line.name.as_slice() {
                b"[heap]" => hint.hint = Hint::Heap,
                b"[stack]" => hint.hint = Hint::Stack,
                b"" if (line.start..line.end).contains(&context.start_stack) => hint.hint = Hint::Stack,
                _ => {}
            }
        }
        let Some((before, earlier)) = index.checked_sub(1).and_then(|before| Some((before, *lines.get(before)?)))
        else {
            continue;
        };
        if !plain || earlier.end != line.start {
            continue;
        }
        let earlier_plain = backing_of(earlier) == Backing::Anon && earlier.permissions & SHARED == 0;
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
            && is_image(&earlier.name, line, context)
            && let Some(hint) = hints.get_mut(index)
        {
            hint.hint = Hint::Bss(earlier.name.as_slice().into());
        }
    }
    hints
}

fn is_image(name: &[u8], after: &MapsLine, context: &Context) -> bool {
    *name == *context.program && !name.is_empty()
        || context.executables.contains(name) && after.end - after.start <= LIBRARY_BSS_BYTES
}

/// A small guard below, and together (or without it) a power of two as thread libraries allocate.
fn is_thread_stack(guard: &MapsLine, stack: &MapsLine) -> bool {
    let (guard_bytes, bytes) = (guard.end - guard.start, stack.end - stack.start);
    let typical = |bytes: u64| bytes.is_power_of_two() && ((256 << 10)..=(1 << 30)).contains(&bytes);
    guard.permissions == 0
        && guard_bytes <= GUARD_BYTES
        && stack.permissions & (READ | WRITE) == READ | WRITE
        && (typical(bytes) || typical(bytes + guard_bytes) || typical((bytes + guard_bytes).saturating_sub(4096)))
}

/// `rw-p` from a multiple of 64 MiB, then `---p` up to one (full arenas before it merge with the first line).
fn is_arena(head: &MapsLine, reserve: &MapsLine) -> bool {
    head.permissions == READ | WRITE
        && reserve.permissions == 0
        && head.start.is_multiple_of(ARENA_BYTES)
        && reserve.end.is_multiple_of(ARENA_BYTES)
        && reserve.end - reserve.start < ARENA_BYTES
}
