//! What the rows of a snapshot's tables are called. Names come from the target: escaped here, and cut at their front
//! where there is no room, for the end of a path says more.

use crate::snapshot::rows::{Group, Part};
use crate::snapshot::{Allocator, Mapping};
use crate::statement::Kind;
use crate::views::columns::{columns, cut};
use crate::views::escape::{basename, escape};

/// A row's name: words of ours, then perhaps a name of theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label<'a> {
    pub(super) words: String,
    pub(super) name: &'a [u8],
}

impl<'a> Label<'a> {
    pub(super) fn plain(words: impl Into<String>) -> Self {
        Self { words: words.into(), name: &[] }
    }

    pub(super) const fn name(name: &'a [u8]) -> Self {
        Self { words: String::new(), name }
    }

    pub(super) fn of_group(group: &Group<'a>) -> Self {
        let mut words = kind_words(group.kind).to_owned();
        match (group.part, group.allocator) {
            (Some(Part::Text), _) => words.push_str(", text"),
            (Some(Part::ReadOnly), _) => words.push_str(", read-only"),
            (Some(Part::Data), _) => words.push_str(", data"),
            // Only glibc has arenas of this kind.
            (None, Some(allocator)) if group.kind != Kind::Arena => {
                words.push_str(", ");
                words.push_str(allocator_words(allocator));
            }
            _ => {}
        }
        Self { words, name: group.name }
    }

    pub(super) fn of_mapping(mapping: &'a Mapping) -> Self {
        let named = |words: &str| Self { words: words.to_owned(), name: &mapping.name };
        match mapping.kind {
            Kind::Heap => Self::plain("heap"),
            Kind::Stack => Self::plain("main stack"),
            Kind::ThreadStack => match &mapping.thread {
                Some(thread) => Self { words: format!("stack of thread {}", thread.tid), name: &thread.comm },
                None => Self::plain("thread stack"),
            },
            Kind::Anon | Kind::Arena => match mapping.allocator {
                Some(Allocator::Glibc) => Self::plain("malloc arena"),
                Some(allocator) => named(&format!("anonymous, {}", allocator_words(allocator))),
                None => named("anonymous"),
            },
            Kind::Program | Kind::Library if mapping.inode == 0 => {
                Self { words: "bss of".to_owned(), name: basename(&mapping.name) }
            }
            Kind::Program | Kind::Library => Self::name(basename(&mapping.name)),
            Kind::File | Kind::Tmpfs => Self::name(&mapping.name),
            // `/dev/zero` is how the kernel names what has no name.
            Kind::SharedAnon if mapping.name.starts_with(b"/dev/zero") => Self::plain("shared anonymous"),
            Kind::Vdso => Self::plain(escape(&mapping.name, 20)),
            Kind::Guard => Self::plain("no access"),
            Kind::SharedAnon
            | Kind::SysvShm
            | Kind::PosixShm
            | Kind::Memfd
            | Kind::Hugetlb
            | Kind::Device
            | Kind::Several => named(kind_words(mapping.kind)),
        }
    }

    /// In at most so many columns.
    pub(super) fn fit(&self, width: usize) -> String {
        if self.name.is_empty() {
            return cut(&self.words, width);
        }
        let words = if self.words.is_empty() { String::new() } else { format!("{} ", self.words) };
        let room = width.saturating_sub(columns(&words));
        if room == 0 { cut(&words, width) } else { format!("{words}{}", end_of(self.name, room)) }
    }

    /// What it is sorted by: words, and of a path its last part, which is never cut away; the same ones by what is before.
    pub(super) fn order(&self) -> (String, &'a [u8]) {
        (format!("{} {}", self.words, String::from_utf8_lossy(basename(self.name))).trim().to_lowercase(), self.name)
    }
}

/// What was asked for with `--filter`: a part of what a row is called, of its kind's name in the contract, or of the whole
/// path that its name was made of. Case does not matter.
pub(super) struct Filter(String);

impl Filter {
    pub(super) fn new(wanted: Option<&str>) -> Self {
        Self(wanted.unwrap_or_default().to_lowercase())
    }

    pub(super) fn matches(&self, kind: Option<Kind>, label: &Label<'_>, path: &[u8]) -> bool {
        let within = |text: &str| text.to_lowercase().contains(&self.0);
        let named = |name: &[u8]| within(&String::from_utf8_lossy(name));
        self.0.is_empty()
            || kind.is_some_and(|kind| within(kind.name()))
            || within(&label.words)
            || named(label.name)
            || named(path)
    }

    pub(super) fn matches_mapping(&self, mapping: &Mapping) -> bool {
        self.matches(Some(mapping.kind), &Label::of_mapping(mapping), &mapping.name)
    }
}

/// As much of the end of a path as fits, beginning with a slash; of a single name its beginning.
fn end_of(path: &[u8], room: usize) -> String {
    let whole = escape(path, room.saturating_mul(2));
    if columns(&whole) <= room {
        return whole;
    }
    let tails = path.iter().enumerate().skip(1).filter(|&(_, &byte)| byte == b'/').map(|(at, _)| &path[at..]);
    tails
        .map(|tail| format!("…{}", escape(tail, room.saturating_mul(2))))
        .find(|tail| columns(tail) <= room)
        .unwrap_or_else(|| cut(&escape(basename(path), room), room))
}

/// Several mappings of a kind.
pub(super) const fn kind_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Heap => "heap",
        Kind::Stack => "main stack",
        Kind::ThreadStack => "thread stacks",
        Kind::Anon => "anonymous",
        Kind::Arena => "malloc arenas",
        Kind::Program => "program",
        Kind::Library => "libraries",
        Kind::File => "mapped files",
        Kind::Tmpfs => "files of tmpfs",
        Kind::SharedAnon => "shared anonymous",
        Kind::SysvShm => "System V shared",
        Kind::PosixShm => "POSIX shared",
        Kind::Memfd => "memfd",
        Kind::Hugetlb => "hugetlb",
        Kind::Vdso => "vdso",
        Kind::Device => "devices",
        Kind::Guard => "no access",
        Kind::Several => "several",
    }
}

const fn allocator_words(allocator: Allocator) -> &'static str {
    match allocator {
        Allocator::Glibc => "malloc",
        Allocator::Jemalloc => "jemalloc",
        Allocator::Tcmalloc => "tcmalloc",
        Allocator::Mimalloc => "mimalloc",
        Allocator::Go => "Go",
        Allocator::JavaHeap => "Java heap",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::escape::deceives;
    use proptest::prelude::*;

    #[test]
    fn of_a_path_the_end_is_kept() {
        let label = Label { words: "memfd".into(), name: b"/usr/lib/x86_64/libc.so.6" };
        assert_eq!(label.fit(40), "memfd /usr/lib/x86_64/libc.so.6");
        assert_eq!(label.fit(24), "memfd …/x86_64/libc.so.6");
        assert_eq!(label.fit(16), "memfd libc.so.6");
        assert_eq!(label.fit(12), "memfd libc.…");
        assert_eq!(label.fit(4), "mem…");
    }

    #[test]
    fn names_are_in_the_order_of_what_is_never_cut_away() {
        let file = |name| Label { words: String::new(), name };
        let (a, b): (&[u8], &[u8]) = (b"/z/Apple", b"/a/banana");
        assert!(file(a).order() < file(b).order());
        assert!(file(b"/a/x").order() < file(b"/b/x").order(), "by the rest of the path");
        assert!(Label::plain("heap").order() < file(b"/lib/libc.so.6").order());
    }

    #[test]
    fn a_filter_finds_kinds_words_and_whole_paths_in_any_case() {
        let path = b"/usr/lib/libc.so.6".as_slice();
        let mapping = Mapping { inode: 7, name: path.to_vec(), ..Mapping::bare(0, 4096, 1, Kind::Library) };
        for (wanted, found) in [("LIBRARY", true), ("Usr", true), ("LIBC", true), ("libm", false), ("", true)] {
            assert_eq!(Filter::new(Some(wanted)).matches_mapping(&mapping), found, "{wanted}");
        }
        assert!(Filter::new(None).matches(None, &Label::plain("total"), &[]));
        assert!(Filter::new(Some("SHARED_anon")).matches(Some(Kind::SharedAnon), &Label::plain("x"), &[]));
        assert!(Filter::new(Some("Guard")).matches_mapping(&Mapping::bare(0, 4096, 0, Kind::Guard)), "not its words");
    }

    proptest! {
        #[test]
        fn labels_keep_to_their_column(words in "[a-z ]{0,8}", name in proptest::collection::vec(any::<u8>(), 0..40), width in 1_usize..50) {
            let text = Label { words, name: &name }.fit(width);
            prop_assert!(columns(&text) <= width, "{:?}", text);
            prop_assert!(!text.chars().any(|c| c.is_control() || deceives(c)));
        }
    }
}
