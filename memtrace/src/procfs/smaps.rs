//! `/proc/PID/smaps` and `smaps_rollup`.
//!
//! One pass, no allocation, fields in any order. A mapping's header begins with a lower-case hexadecimal digit and
//! a field with a capital letter; a name cannot hold a newline, so it cannot fake either.

use super::maps::MapsHeader;
use super::scan::{Lines, kilobytes, padded_decimal};
use super::{Malformed, ParseReport};
use crate::event::SmapsMapping;
use std::ops::Range;

/// Calls `visit` for each mapping of smaps. Unknown fields are passed over. A line that is neither field nor header
/// may have been a header: the fields that follow it, up to the next header, belong to no mapping.
pub fn visit_smaps<'a>(bytes: &'a [u8], mut visit: impl FnMut(&MapsHeader<'a>, &SmapsMapping)) -> ParseReport {
    let mut report = ParseReport::default();
    let mut current: Option<(MapsHeader<'a>, SmapsMapping)> = None;
    let mut unreadable = false;
    let mut lines = Lines::new(bytes);
    loop {
        if let Some((_, mapping)) = &mut current {
            while lines.next_padded(|label, kilobytes| store_padded(label, kilobytes, mapping)) {}
        }
        let Some(line) = lines.next() else { break };
        if let Some(b'A'..=b'Z') = line.first()
            && let Some((label, amount)) = split_field(line)
        {
            report.malformed += match &mut current {
                Some((_, mapping)) => usize::from(store(label, amount, mapping).is_none()),
                None => usize::from(!unreadable),
            };
            continue;
        }
        if let Some((header, mapping)) = current.take() {
            report.mappings += 1;
            visit(&header, &mapping);
        }
        current = MapsHeader::parse(line)
            .map(|header| (header, SmapsMapping { start: header.start, end: header.end, ..Default::default() }));
        unreadable = current.is_none();
        report.malformed += usize::from(unreadable);
    }
    report.malformed += usize::from(lines.is_cut());
    if let Some((header, mapping)) = current {
        report.mappings += 1;
        visit(&header, &mapping);
    }
    report
}

/// smaps as it is read, piece by piece: of 60,000 mappings it is 40 MB in all, of which none needs to be kept.
#[derive(Debug, Default)]
pub struct SmapsPieces {
    /// What of `text` is filled: the beginning of a mapping, and what has been read since.
    filled: usize,
    text: Vec<u8>,
    report: ParseReport,
}

impl SmapsPieces {
    /// Room for what comes next, of at least `bytes`.
    pub fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.text.len() < self.filled + bytes {
            self.text.resize(self.filled + bytes, 0);
        }
        &mut self.text[self.filled..]
    }

    /// So many bytes were put into the room. Calls `visit` for each mapping that is complete.
    pub fn take(&mut self, bytes: usize, visit: impl FnMut(&MapsHeader<'_>, &SmapsMapping)) {
        let from = self.filled;
        self.filled = (from + bytes).min(self.text.len());
        // A mapping is complete when the next one's header has begun: a line that begins as no field does.
        let is_header = |&at: &usize| matches!(self.text[..self.filled].get(at + 1), Some(b'0'..=b'9' | b'a'..=b'f'));
        // The newline may have come with the piece before.
        let mut newlines = memchr::memrchr_iter(b'\n', &self.text[from.saturating_sub(1)..self.filled]);
        let last = newlines.by_ref().map(|at| from.saturating_sub(1) + at).find(is_header);
        if let Some(newline) = last {
            self.parse(newline + 1, visit);
        }
    }

    /// There is no more. Calls `visit` for the last mapping.
    pub fn finish(mut self, visit: impl FnMut(&MapsHeader<'_>, &SmapsMapping)) -> ParseReport {
        self.parse(self.filled, visit);
        self.report
    }

    fn parse(&mut self, end: usize, visit: impl FnMut(&MapsHeader<'_>, &SmapsMapping)) {
        let report = visit_smaps(&self.text[..end], visit);
        self.report.mappings += report.mappings;
        self.report.malformed += report.malformed;
        self.text.copy_within(end..self.filled, 0);
        self.filled -= end;
    }
}

/// Appends the mappings of smaps to `mappings`.
pub fn parse_smaps(bytes: &[u8], mappings: &mut Vec<SmapsMapping>) -> ParseReport {
    visit_smaps(bytes, |_, mapping| mappings.push(mapping.clone()))
}

/// Label and amount of a field's line; `None` for a line that is no field.
#[inline]
fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = line.iter().position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'))?;
    (line[end] == b':').then(|| (&line[..end], &line[end + 1..]))
}

/// What a label is about.
enum Field<'a> {
    /// An amount that is kept.
    Kept(&'a mut u64),
    /// One that is not.
    PassedOver,
    Unknown,
}

/// A label padded to 16 bytes is one number, compared at once. That, and not having to search the ends of lines, makes
/// the parse cost 215 ns a mapping instead of 448.
#[inline]
fn field(label: u128, mapping: &mut SmapsMapping) -> Field<'_> {
    macro_rules! labels {
        ($($name:ident = $label:literal),*) => { $(const $name: u128 = padded($label);)* };
    }
    labels!(
        RSS = b"Rss",
        PSS = b"Pss",
        SHARED_CLEAN = b"Shared_Clean",
        SHARED_DIRTY = b"Shared_Dirty",
        PRIVATE_CLEAN = b"Private_Clean",
        PRIVATE_DIRTY = b"Private_Dirty",
        ANONYMOUS = b"Anonymous",
        ANON_HUGE = b"AnonHugePages",
        SHMEM_PMD = b"ShmemPmdMapped",
        FILE_PMD = b"FilePmdMapped",
        SWAP = b"Swap",
        SWAP_PSS = b"SwapPss",
        LOCKED = b"Locked",
        SHARED_HUGETLB = b"Shared_Hugetlb",
        PRIVATE_HUGETLB = b"Private_Hugetlb",
        SIZE = b"Size",
        KERNEL_PAGE = b"KernelPageSize",
        MMU_PAGE = b"MMUPageSize",
        PSS_DIRTY = b"Pss_Dirty",
        REFERENCED = b"Referenced",
        KSM = b"KSM",
        LAZY_FREE = b"LazyFree"
    );
    Field::Kept(match label {
        RSS => &mut mapping.rss,
        PSS => &mut mapping.pss,
        SHARED_CLEAN => &mut mapping.shared_clean,
        SHARED_DIRTY => &mut mapping.shared_dirty,
        PRIVATE_CLEAN => &mut mapping.private_clean,
        PRIVATE_DIRTY => &mut mapping.private_dirty,
        ANONYMOUS => &mut mapping.anonymous,
        ANON_HUGE => &mut mapping.anon_huge,
        SHMEM_PMD => &mut mapping.shmem_pmd,
        FILE_PMD => &mut mapping.file_pmd,
        SWAP => &mut mapping.swap,
        SWAP_PSS => &mut mapping.swap_pss,
        LOCKED => &mut mapping.locked,
        SHARED_HUGETLB | PRIVATE_HUGETLB => &mut mapping.hugetlb,
        KSM => &mut mapping.ksm,
        LAZY_FREE => &mut mapping.lazy_free,
        KERNEL_PAGE => &mut mapping.kernel_page,
        SIZE | MMU_PAGE | PSS_DIRTY | REFERENCED => return Field::PassedOver,
        _ => return Field::Unknown,
    })
}

/// A label with its colon, padded with blanks to 16 bytes.
const fn padded(label: &[u8]) -> u128 {
    let mut bytes = [b' '; 16];
    let (start, _) = bytes.split_at_mut(label.len());
    start.copy_from_slice(label);
    bytes[label.len()] = b':';
    u128::from_le_bytes(bytes)
}

/// Whether the line could be taken as it is.
#[inline]
fn store_padded(label: u128, kilobytes: &[u8; 8], mapping: &mut SmapsMapping) -> bool {
    match (field(label, mapping), padded_decimal(kilobytes)) {
        (Field::Kept(sum), Some(kilobytes)) => match sum.checked_add(kilobytes * 1024) {
            Some(added) => *sum = added,
            None => return false,
        },
        (Field::PassedOver, Some(_)) => {}
        _ => return false,
    }
    true
}

/// Any line of a field. `None` when a known one has no amount.
fn store(label: &[u8], amount: &[u8], mapping: &mut SmapsMapping) -> Option<()> {
    if label.len() < 16
        && let Field::Kept(sum) = field(padded(label), mapping)
    {
        *sum = sum.checked_add(kilobytes(amount)?)?;
    }
    Some(())
}

/// What only a walk of the page tables says, from smaps or smaps_rollup. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rollup {
    /// `Rss`, as that walk found it.
    pub rss: u64,
    /// Each page divided by the number of times it is mapped.
    pub pss: u64,
    /// Pages that are mapped once: USS is both privates.
    pub private_clean: u64,
    /// The same, dirty.
    pub private_dirty: u64,
    /// Pages that are mapped more than once (perhaps both times here).
    pub shared_clean: u64,
    /// The same, dirty.
    pub shared_dirty: u64,
    /// Anonymous pages, shared after a fork or not.
    pub anonymous: u64,
    /// In swap: also what shared memory mapped here has there, which the counter leaves out.
    pub swap: u64,
    /// The same, divided by its sharers.
    pub swap_pss: u64,
    /// Huge pages of hugetlbfs.
    pub hugetlb: u64,
    /// `Locked`: PSS of locked mappings.
    pub locked: u64,
    /// File and shared-memory pages that nobody else maps: in USS *and* in SHR. `None` when neither smaps nor pagemap could tell.
    pub private_file: Option<u64>,
}

impl Rollup {
    /// Pages that nobody else maps.
    #[must_use]
    pub const fn uss(&self) -> u64 {
        self.private_clean.saturating_add(self.private_dirty)
    }

    /// Adds up a mapping, but for [`Self::private_file`]: see [`PrivateFile`].
    pub fn add(&mut self, mapping: &SmapsMapping) {
        for (sum, amount) in [
            (&mut self.rss, mapping.rss),
            (&mut self.pss, mapping.pss),
            (&mut self.private_clean, mapping.private_clean),
            (&mut self.private_dirty, mapping.private_dirty),
            (&mut self.shared_clean, mapping.shared_clean),
            (&mut self.shared_dirty, mapping.shared_dirty),
            (&mut self.anonymous, mapping.anonymous),
            (&mut self.swap, mapping.swap),
            (&mut self.swap_pss, mapping.swap_pss),
            (&mut self.hugetlb, mapping.hugetlb),
            (&mut self.locked, mapping.locked),
        ] {
            *sum = sum.saturating_add(amount);
        }
    }

    /// Of [`Self::uss`], what is file or shared memory, when a text of smaps_rollup determines it.
    ///
    /// It counts all anonymous pages, and after a fork some of them are shared. It is exact when no page is shared or none
    /// is anonymous, and when `Pss_Anon` (`None` on a kernel that does not print it) equals `Anonymous`: a single anonymous
    /// page with a second sharer would make it smaller by at least half a page. A process that was forked by a running
    /// server (a PostgreSQL backend) usually shares anonymous pages with it: `None`, and smaps has to say.
    fn private_file_by(&self, pss_anon: Option<u64>) -> Option<u64> {
        let nothing_shared = self.shared_clean == 0 && self.shared_dirty == 0;
        if self.anonymous == 0 || nothing_shared || pss_anon == Some(self.anonymous) {
            self.uss().checked_sub(self.anonymous)
        } else {
            None
        }
    }
}

/// Reads smaps_rollup. `Ok(None)` when it is empty: the process has no address space (any more).
///
/// # Errors
/// A known field that has no amount, or a line that is neither a field nor the header.
pub fn parse_rollup(bytes: &[u8]) -> Result<Option<Rollup>, Malformed> {
    let mut rollup = Rollup::default();
    let mut pss_anon = None;
    let mut seen_rss = false;
    let mut lines = Lines::new(bytes);
    let mut number = 0;
    for line in lines.by_ref() {
        number += 1;
        // The header: without any mapping it spans nothing, which no header of a mapping may.
        if number == 1 && line.ends_with(b"[rollup]") {
            continue;
        }
        let malformed = || Malformed::new("smaps_rollup", number, line);
        let (label, amount) = split_field(line).ok_or_else(malformed)?;
        let place = match label {
            b"Rss" => {
                seen_rss = true;
                &mut rollup.rss
            }
            b"Pss" => &mut rollup.pss,
            b"Pss_Anon" => pss_anon.insert(0),
            b"Shared_Clean" => &mut rollup.shared_clean,
            b"Shared_Dirty" => &mut rollup.shared_dirty,
            b"Private_Clean" => &mut rollup.private_clean,
            b"Private_Dirty" => &mut rollup.private_dirty,
            b"Anonymous" => &mut rollup.anonymous,
            b"Swap" => &mut rollup.swap,
            b"SwapPss" => &mut rollup.swap_pss,
            b"Locked" => &mut rollup.locked,
            b"Shared_Hugetlb" | b"Private_Hugetlb" => {
                let amount = kilobytes(amount).ok_or_else(malformed)?;
                rollup.hugetlb = rollup.hugetlb.checked_add(amount).ok_or_else(malformed)?;
                continue;
            }
            _ => continue,
        };
        *place = kilobytes(amount).ok_or_else(malformed)?;
    }
    if lines.is_cut() {
        return Err(Malformed::new("smaps_rollup", number + 1, b"(cut)"));
    }
    rollup.private_file = rollup.private_file_by(pss_anon);
    Ok(seen_rss.then_some(rollup))
}

/// Bytes of file or shared-memory pages in this mapping that nobody else maps, when smaps determines it.
///
/// `None` for a mapping that has anonymous pages, file pages, private pages and shared pages: which of the
/// private ones are file pages, only pagemap knows.
#[must_use]
pub fn private_file(mapping: &SmapsMapping) -> Option<u64> {
    let private = mapping.private_clean.saturating_add(mapping.private_dirty);
    let shared = mapping.shared_clean.saturating_add(mapping.shared_dirty);
    if mapping.anonymous == 0 || private == 0 {
        Some(private)
    } else if mapping.anonymous >= mapping.rss {
        Some(0)
    } else if shared == 0 {
        private.checked_sub(mapping.anonymous)
    } else {
        None
    }
}

/// Bytes of file and shared-memory pages that nobody else maps, added up over mappings.
#[derive(Debug, Default)]
pub struct PrivateFile {
    /// Of the mappings of which smaps tells it.
    pub(super) bytes: u64,
    /// Addresses of the others, about which pagemap is to be asked.
    pub(super) open: Vec<Range<u64>>,
}

impl PrivateFile {
    /// Adds a mapping.
    pub fn add(&mut self, mapping: &SmapsMapping) {
        match private_file(mapping) {
            Some(bytes) => self.bytes = self.bytes.saturating_add(bytes),
            None => self.open.push(mapping.start..mapping.end),
        }
    }

    /// Bytes of address space about which pagemap is to be asked.
    #[must_use]
    pub fn open_bytes(&self) -> u64 {
        self.open.iter().fold(0, |sum, open| sum.saturating_add(open.end.saturating_sub(open.start)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::maps::tests::{line, render};
    use super::*;
    use crate::event::MapsLine;
    use proptest::prelude::*;
    use std::io::Write as _;

    const FIELDS: usize = 21;

    fn print(line: &MapsLine, amounts: &[u32; FIELDS], order: &[usize], out: &mut Vec<u8>) {
        const LABELS: [&str; FIELDS] = [
            "Size:",
            "Rss:",
            "Pss:",
            "Pss_Dirty:",
            "Shared_Clean:",
            "Shared_Dirty:",
            "Private_Clean:",
            "Private_Dirty:",
            "Anonymous:",
            "AnonHugePages:",
            "ShmemPmdMapped:",
            "FilePmdMapped:",
            "Shared_Hugetlb:",
            "Private_Hugetlb:",
            "Swap:",
            "SwapPss:",
            "Locked:",
            "KSM:",
            "LazyFree:",
            "KernelPageSize:",
            "Surprise_Field:",
        ];
        render(line, out);
        out.push(b'\n');
        for &i in order {
            writeln!(out, "{:<16}{:>8} kB", LABELS[i], amounts[i]).expect("a Vec takes everything");
        }
        out.extend_from_slice(b"THPeligible:           0\nVmFlags: rd mr mw me \n");
    }

    fn expected(line: &MapsLine, amounts: &[u32; FIELDS]) -> SmapsMapping {
        let bytes = amounts.map(|kb| u64::from(kb) * 1024);
        SmapsMapping {
            start: line.start,
            end: line.end,
            rss: bytes[1],
            pss: bytes[2],
            shared_clean: bytes[4],
            shared_dirty: bytes[5],
            private_clean: bytes[6],
            private_dirty: bytes[7],
            anonymous: bytes[8],
            anon_huge: bytes[9],
            shmem_pmd: bytes[10],
            file_pmd: bytes[11],
            hugetlb: bytes[12] + bytes[13],
            swap: bytes[14],
            swap_pss: bytes[15],
            locked: bytes[16],
            ksm: bytes[17],
            lazy_free: bytes[18],
            kernel_page: bytes[19],
        }
    }

    fn fields() -> impl Strategy<Value = ([u32; FIELDS], Vec<usize>)> {
        (any::<[u32; FIELDS]>(), Just((0..FIELDS).collect::<Vec<_>>()).prop_shuffle())
    }

    proptest! {
        #[test]
        fn smaps_come_back_in_any_order_of_fields(mappings in prop::collection::vec((line(), fields()), 0..8)) {
            let mut text = Vec::new();
            for (line, (amounts, order)) in &mappings {
                print(line, amounts, order, &mut text);
            }
            let (mut parsed, mut lines) = (Vec::new(), Vec::new());
            let report = visit_smaps(&text, |header, mapping| {
                lines.push(header.to_line());
                parsed.push(mapping.clone());
            });
            prop_assert_eq!(report, ParseReport { mappings: mappings.len(), malformed: 0 });
            prop_assert_eq!(lines, mappings.iter().map(|(line, _)| line.clone()).collect::<Vec<_>>());
            let wanted: Vec<_> = mappings.iter().map(|(line, (amounts, _))| expected(line, amounts)).collect();
            prop_assert_eq!(parsed, wanted);
        }

        #[test]
        fn pieces_of_any_size_are_the_whole(
            mappings in prop::collection::vec((line(), fields()), 0..5),
            damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
            sizes in prop::collection::vec(1usize..3000, 1..6),
        ) {
            let mut text = Vec::new();
            for (line, (amounts, order)) in &mappings {
                print(line, amounts, order, &mut text);
            }
            if let Some((at, byte)) = damage.filter(|_| !text.is_empty()) {
                let at = at.index(text.len());
                text[at] = byte;
            }
            let (mut whole, mut parsed) = (Vec::new(), Vec::new());
            let report = visit_smaps(&text, |header, mapping| whole.push((header.to_line(), mapping.clone())));
            let mut pieces = SmapsPieces::default();
            let (mut rest, mut sizes) = (text.as_slice(), sizes.iter().cycle());
            while let Some(&size) = sizes.next().filter(|_| !rest.is_empty()) {
                let (piece, later) = rest.split_at(size.min(rest.len()));
                pieces.room(size)[..piece.len()].copy_from_slice(piece);
                pieces.take(piece.len(), |header, mapping| parsed.push((header.to_line(), mapping.clone())));
                rest = later;
            }
            let pieces_report = pieces.finish(|header, mapping| parsed.push((header.to_line(), mapping.clone())));
            prop_assert_eq!(pieces_report, report);
            prop_assert_eq!(parsed, whole);
        }

        #[test]
        fn padding_does_not_matter(mappings in prop::collection::vec((line(), fields()), 1..4)) {
            let (mut text, mut narrow) = (Vec::new(), Vec::new());
            for (line, (amounts, order)) in &mappings {
                let line = MapsLine { name: Vec::new(), ..line.clone() };
                print(&line, amounts, order, &mut text);
            }
            for &byte in &text {
                if byte != b' ' || narrow.last() != Some(&b' ') {
                    narrow.push(byte);
                }
            }
            let (mut parsed, mut parsed_narrow) = (Vec::new(), Vec::new());
            prop_assert_eq!(parse_smaps(&text, &mut parsed), parse_smaps(&narrow, &mut parsed_narrow));
            prop_assert_eq!(parsed, parsed_narrow);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            parse_smaps(&bytes, &mut Vec::new());
            let _ = parse_rollup(&bytes);
        }

        #[test]
        fn a_damaged_byte_spoils_one_mapping_at_most(
            mappings in prop::collection::vec((line(), fields()), 3),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>().prop_filter("two lines of one", |byte| *byte != b'\n'),
        ) {
            let mut text = Vec::new();
            print(&mappings[0].0, &mappings[0].1.0, &mappings[0].1.1, &mut text);
            let first = text.len();
            print(&mappings[1].0, &mappings[1].1.0, &mappings[1].1.1, &mut text);
            let second = text.len();
            print(&mappings[2].0, &mappings[2].1.0, &mappings[2].1.1, &mut text);
            // Not the newline at its end: it would join the mapping's last line to the next one's first.
            text[first + at.index(second - first - 1)] = byte;
            let mut parsed = Vec::new();
            parse_smaps(&text, &mut parsed);
            prop_assert_eq!(&parsed[0], &expected(&mappings[0].0, &mappings[0].1.0));
            prop_assert_eq!(parsed.last(), Some(&expected(&mappings[2].0, &mappings[2].1.0)));
        }
    }

    #[test]
    fn broken_lines_are_counted_and_never_charged_to_a_neighbour() {
        let text = b"Rss:                   4 kB\n\
            1000-2000 rw-p 00000000 00:00 0 \nRss:                   4 kB\nPss:                   x kB\nnonsense\n\
            zzzz\n2000-1000 rw-p 00000000 00:00 0 \nRss:                  64 kB\n\
            3000-4000 rw-p 00000000 00:00 0 \nRss:                   8 kB\nSwap:              123";
        let mut mappings = Vec::new();
        let report = parse_smaps(text, &mut mappings);
        // The orphan field, Pss, "nonsense", "zzzz", the turned header, the cut line; not the fields after them.
        assert_eq!(report, ParseReport { mappings: 2, malformed: 6 });
        assert_eq!((mappings[0].rss, mappings[0].pss), (4096, 0));
        assert_eq!((mappings[1].start, mappings[1].rss, mappings[1].swap), (0x3000, 8192, 0));
    }

    const ROLLUP: &[u8] =
        b"559295efd000-7ffed8bc6000 ---p 00000000 00:00 0                          [rollup]\nRss:                1692 kB\n\
        Pss:                 287 kB\nPss_Dirty:           116 kB\nPss_Anon:            116 kB\nShared_Clean:       1508 kB\n\
        Shared_Dirty:          0 kB\nPrivate_Clean:        68 kB\nPrivate_Dirty:       116 kB\nAnonymous:           116 kB\n\
        Swap:                  0 kB\nSwapPss:               0 kB\n";

    #[test]
    fn rollup_says_what_it_can() {
        let rollup = parse_rollup(ROLLUP).unwrap().unwrap();
        assert_eq!((rollup.rss, rollup.uss(), rollup.pss), (1692 << 10, 184 << 10, 287 << 10));
        assert_eq!(rollup.private_file, Some(68 << 10));
        // One anonymous page of the 29 has a second sharer.
        assert_eq!(rollup.private_file_by(Some(114 << 10)), None);
        assert_eq!(rollup.private_file_by(None), None);
        assert_eq!(Rollup { shared_clean: 0, ..rollup }.private_file_by(None), Some(68 << 10));
        assert_eq!(Rollup { anonymous: 0, ..rollup }.private_file_by(None), Some(184 << 10));
    }

    #[test]
    fn rollup_of_nothing_and_of_rubbish() {
        assert_eq!(parse_rollup(b""), Ok(None));
        assert_eq!(
            parse_rollup(b"00000000-00000000 ---p 00000000 00:00 0                                  [rollup]\n"),
            Ok(None)
        );
        let malformed = parse_rollup(b"Rss: 12 kB\nPss: twelve\n").unwrap_err();
        assert_eq!(malformed.to_string(), "line 2 of smaps_rollup is not as the kernel prints it: \"Pss: twelve\"");
        assert!(parse_rollup(&ROLLUP[..ROLLUP.len() - 3]).is_err());
    }

    #[test]
    fn private_file_pages_of_one_mapping() {
        let mapping = SmapsMapping { rss: 40960, private_dirty: 40960, anonymous: 40960, ..Default::default() };
        assert_eq!(private_file(&mapping), Some(0));
        let text = SmapsMapping { rss: 40960, private_clean: 8192, shared_clean: 32768, ..Default::default() };
        assert_eq!(private_file(&text), Some(8192));
        let data = SmapsMapping {
            rss: 16384,
            private_clean: 4096,
            private_dirty: 12288,
            anonymous: 12288,
            ..Default::default()
        };
        assert_eq!(private_file(&data), Some(4096));
        let mixed = SmapsMapping { rss: 20480, shared_clean: 4096, ..data };
        assert_eq!(private_file(&mixed), None);
    }
}
