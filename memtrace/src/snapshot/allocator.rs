//! Whose anonymous memory it is: by the name that an allocator gives with `prctl(PR_SET_VMA_ANON_NAME)`, by the shape
//! of a glibc arena, by the place of a JVM's heap. Conservative: where two could have made it, none is named.

use super::Allocator;
use crate::event::permission::{READ, SHARED, WRITE};
use crate::kind::Line;
use crate::statement::Kind;
use std::ops::Range;

/// Names begin with these; blanks before them are part of what glibc and Go give.
const NAMES: [(&[u8], Allocator); 6] = [
    (b"glibc: malloc", Allocator::Glibc),
    (b"glibc: loader malloc", Allocator::Glibc),
    (b"jemalloc", Allocator::Jemalloc),
    (b"tcmalloc", Allocator::Tcmalloc),
    (b"mimalloc", Allocator::Mimalloc),
    (b"Go: ", Allocator::Go),
];

/// The allocator of one mapping of this kind, by itself. `name` is without `[anon:` `]`.
#[must_use]
pub fn allocator(kind: Kind, name: &[u8]) -> Option<Allocator> {
    match kind {
        Kind::Arena => Some(Allocator::Glibc),
        Kind::Anon if !name.is_empty() => {
            let name = name.trim_ascii_start();
            NAMES.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|&(_, allocator)| allocator)
        }
        // ZGC maps its heap several times from a memfd of this name.
        Kind::Memfd if matches!(name, b"/memfd:java_heap" | b"/memfd:java_heap (deleted)") => Some(Allocator::JavaHeap),
        _ => None,
    }
}

/// Where a JVM with compressed references ends its heap, when nothing is in the way: it takes the highest place below
/// 4 GiB, or else below 32 GiB, so that a reference is 32 bits, shifted or not (`CompressedOops` in HotSpot).
const HEAP_ENDS: [u64; 2] = [32 << 30, 4 << 30];
/// All collectors align both ends of the reserved heap to what one page of the card table covers.
const HEAP_ALIGNMENT: u64 = 2 << 20;

/// Indices of the lines that are the heap of a JVM, its reserve and its mapped archive among them. `lines` are sorted.
///
/// Only where libjvm.so is mapped, and only a gapless run of anonymous private lines that ends where the JVM ends it.
/// Not found, rather than guessed: heaps without compressed references (-Xmx of 32 GiB and more), and those that the
/// kernel shows as one mapping with the class space behind them.
#[must_use]
pub fn java_heap(lines: &[Line<'_>]) -> Option<Range<usize>> {
    lines.iter().any(|line| line.name.ends_with(b"/libjvm.so")).then_some(())?;
    HEAP_ENDS.iter().find_map(|&heap_end| {
        let last = lines.binary_search_by_key(&heap_end, |line| line.end).ok()?;
        let mut first = last;
        while let (Some(line), Some(before)) = (lines.get(first), first.checked_sub(1).and_then(|at| lines.get(at)))
            && before.end == line.start
            && is_heap(before)
        {
            first -= 1;
        }
        let (start, has_memory) = (lines.get(first)?.start, lines.get(first..=last)?.iter().any(is_open));
        (is_heap(lines.get(last)?) && has_memory && start.is_multiple_of(HEAP_ALIGNMENT)).then_some(first..last + 1)
    })
}

/// Committed, reserved, or filled from the archive of shared classes.
fn is_heap(line: &Line<'_>) -> bool {
    let archive = line.is_file && line.name.ends_with(b".jsa");
    let anonymous = !line.is_file && line.name.is_empty();
    line.permissions & SHARED == 0 && (anonymous && (line.permissions == 0 || is_open(line)) || archive)
}

fn is_open(line: &Line<'_>) -> bool {
    !line.is_file && line.permissions == READ | WRITE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::parse_maps;

    fn heap(text: &str) -> Option<Vec<String>> {
        let mut lines = Vec::new();
        let report = parse_maps(format!("{text}\n7f0000000000-7f0000001000 r-xp 00000000 fe:00 9                 /usr/lib/jvm/lib/server/libjvm.so\n").trim_start().as_bytes(), &mut lines);
        assert_eq!(report.malformed, 0);
        let lines: Vec<Line<'_>> = lines.iter().map(Line::from).collect();
        let found = java_heap(&lines)?;
        assert!(java_heap(&lines[..lines.len() - 1]).is_none(), "without libjvm.so there is no JVM");
        Some(lines[found].iter().map(|line| format!("{:x}-{:x}", line.start, line.end)).collect())
    }

    /// As OpenJDK 17 lays it out, by its own word (-Xlog:gc+heap+coops=debug).
    #[test]
    fn heaps_of_a_jvm() {
        // -XX:+UseG1GC -Xmx256m: Heap address: 0x00000000f0000000, size: 256 MB, Compressed Oops mode: 32-bit.
        let g1 = "
f0000000-ffe00000 rw-p 00000000 00:00 0 
ffe00000-ffe75000 rw-p 00c77000 fe:00 315157                             /usr/lib/jvm/lib/server/classes.jsa
ffe75000-fff00000 rw-p 00000000 00:00 0 
fff00000-fff78000 rw-p 00bff000 fe:00 315157                             /usr/lib/jvm/lib/server/classes.jsa
fff78000-100000000 rw-p 00000000 00:00 0 
800000000-800060000 rw-p 00001000 fe:00 315157                           /usr/lib/jvm/lib/server/classes.jsa
800c00000-800c80000 rw-p 00000000 00:00 0 
800c80000-840c00000 ---p 00000000 00:00 0 ";
        let found = heap(g1).unwrap();
        assert_eq!((found.len(), found[0].as_str(), found[4].as_str()), (5, "f0000000-ffe00000", "fff78000-100000000"));
        // -XX:+UseSerialGC -Xmx6g: Heap address: 0x0000000680000000, size: 6144 MB, Compressed Oops mode: Zero based.
        let serial = "
00400000-00401000 rw-p 00000000 00:00 0 
680000000-687e00000 rw-p 00000000 00:00 0 
687e00000-700000000 ---p 00000000 00:00 0 
700000000-70fc00000 rw-p 00000000 00:00 0 
70fc00000-800000000 ---p 00000000 00:00 0 
800000000-800060000 rw-p 00001000 fe:00 315157                           /usr/lib/jvm/lib/server/classes.jsa";
        let found = heap(serial).unwrap();
        assert_eq!(
            (found.len(), found[0].as_str(), found[3].as_str()),
            (4, "680000000-687e00000", "70fc00000-800000000")
        );
    }

    #[test]
    fn what_may_be_another_thing_is_no_heap() {
        // -Xshare:off: the class space follows at once, and the kernel has merged its beginning with the heap.
        let merged = "
f0000000-100020000 rw-p 00000000 00:00 0 
100020000-100040000 rw-p 00000000 00:00 0 
1001c0000-140000000 ---p 00000000 00:00 0 ";
        assert_eq!(heap(merged), None);
        // Not aligned; reserved only; named; shared; without compressed references.
        assert_eq!(heap("f0001000-100000000 rw-p 00000000 00:00 0 "), None);
        assert_eq!(heap("f0000000-100000000 ---p 00000000 00:00 0 "), None);
        assert_eq!(heap("f0000000-100000000 rw-p 00000000 00:00 0                          [anon:mine]"), None);
        assert_eq!(heap("f0000000-100000000 rw-s 00000000 00:01 7                          /dev/zero (deleted)"), None);
        assert_eq!(heap("7e0000000000-7e0a00000000 rw-p 00000000 00:00 0 "), None);
    }

    #[test]
    fn names_that_allocators_give() {
        for (kind, name, expected) in [
            (Kind::Arena, &b""[..], Some(Allocator::Glibc)),
            (Kind::Anon, b" glibc: malloc", Some(Allocator::Glibc)),
            (Kind::Anon, b"jemalloc_pg_overcommit", Some(Allocator::Jemalloc)),
            (Kind::Anon, b"tcmalloc_region_NORMAL", Some(Allocator::Tcmalloc)),
            (Kind::Anon, b"mimalloc", Some(Allocator::Mimalloc)),
            (Kind::Anon, b" Go: heap reservation", Some(Allocator::Go)),
            (Kind::Memfd, b"/memfd:java_heap (deleted)", Some(Allocator::JavaHeap)),
            (Kind::Anon, b"Gopher", None),
            (Kind::Anon, b"my jemalloc_pg", None),
            (Kind::File, b"jemalloc_pg", None),
            (Kind::Heap, b"[heap]", None),
        ] {
            assert_eq!(allocator(kind, name), expected, "{:?}", String::from_utf8_lossy(name));
        }
    }
}
