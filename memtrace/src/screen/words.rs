//! Words short enough for columns. The long ones are the text view's.

use crate::statement::{Kind, MappingRef};
use crate::views::escape::{basename, escape};
use crate::views::human::size;
use memtrace_common::Cause;

/// Why, in at most 15 columns.
pub(super) const fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::FaultAnon => "first touch",
        Cause::FaultThp => "huge page",
        Cause::FaultCow => "copy on write",
        Cause::FaultFile => "page cache",
        Cause::FaultFileRead => "read from disk",
        Cause::FaultShmem => "shared memory",
        Cause::FaultSwapin => "swap-in",
        Cause::FaultNone => "empty faults",
        Cause::Populate => "populate, mlock",
        Cause::Fork => "fork",
        Cause::Exec => "exec",
        Cause::Khugepaged => "khugepaged",
        Cause::Uffd => "userfaultfd",
        Cause::Remote => "other process",
        Cause::Swapoff => "swapoff",
        Cause::Munmap => "munmap",
        Cause::Brk => "brk",
        Cause::Mremap => "mremap",
        Cause::MadviseDontneed => "DONTNEED",
        Cause::MadviseFree => "FREE, taken",
        Cause::MadviseRemove => "hole punched",
        Cause::MadvisePageout => "PAGEOUT",
        Cause::MmapFixed => "overwritten",
        Cause::Truncate => "file cut short",
        Cause::ReclaimKswapd => "kswapd reclaim",
        Cause::ReclaimDirect => "direct reclaim",
        Cause::ReclaimMemcg => "cgroup limit",
        Cause::Ksm => "KSM merge",
        Cause::OomReaper => "OOM reaper",
        Cause::Exit => "exit",
        Cause::Other => "other",
    }
}

/// `60.2M` for `60.2 MiB`, where columns are few.
pub(super) fn compact(text: &str) -> String {
    [(" KiB", "K"), (" MiB", "M"), (" GiB", "G"), (" TiB", "T")]
        .iter()
        .fold(text.to_owned(), |text, (long, short)| text.replace(long, short))
}

/// A mapping in a column: what it is, then its name or, where it has none, its size.
pub(super) fn mapping(mapping: &MappingRef) -> String {
    let noun = match mapping.kind {
        Kind::Heap => return "[heap]".to_owned(),
        Kind::Stack => return "[stack]".to_owned(),
        Kind::Several if mapping.name.is_empty() => return "several mappings".to_owned(),
        Kind::Program | Kind::Library => return escape(basename(&mapping.name), 60),
        Kind::ThreadStack => "thread stack",
        Kind::Anon => "anon",
        Kind::Arena => "malloc arena",
        Kind::File | Kind::Several => "file",
        Kind::Tmpfs => "tmpfs file",
        Kind::SharedAnon => "shared memory",
        Kind::SysvShm => "SysV shm",
        Kind::PosixShm => "POSIX shm",
        Kind::Memfd => "memfd",
        Kind::Hugetlb => "hugetlb",
        Kind::Vdso => return escape(&mapping.name, 20),
        Kind::Device => "device",
        Kind::Guard => "guard",
    };
    let name = match mapping.kind {
        // `/dev/zero` is how the kernel names what has no name.
        Kind::SharedAnon if mapping.name.starts_with(b"/dev/zero") => &[][..],
        Kind::File | Kind::Tmpfs | Kind::Several | Kind::PosixShm | Kind::Device => basename(&mapping.name),
        _ => mapping.name.as_slice(),
    };
    match name {
        [] => format!("{noun} {}", size(mapping.end.saturating_sub(mapping.start))),
        name if mapping.kind == Kind::File => escape(name, 60),
        name => format!("{noun} {}", escape(name, 60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_cause_has_its_own_words_and_they_fit() {
        let words: BTreeSet<_> = Cause::ALL.iter().map(|&one| cause(one)).collect();
        assert_eq!(words.len(), Cause::ALL.len());
        assert!(words.iter().all(|word| word.chars().count() <= 15));
    }
}
