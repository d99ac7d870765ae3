//! Words short enough for columns. The long ones are the text view's.

use crate::statement::{Kind, MappingRef};
use crate::views::human::size;
use crate::views::words::{kind_noun, mapping_label};
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
    let label = mapping_label(mapping.kind, &mapping.name);
    if label == kind_noun(mapping.kind) && !matches!(mapping.kind, Kind::Heap | Kind::Stack | Kind::Several) {
        return format!("{label} {}", size(mapping.end.saturating_sub(mapping.start)));
    }
    label
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
