//! `/proc/PID/maps`, and the header lines of smaps, which are the same.

use super::ParseReport;
use super::scan::{Lines, after, decimal, hex, skip_blanks};
use crate::event::{MapsLine, permission};

/// Bytes of maps that are read where anybody waits: what is mapped behind them is not seen. It has room for twice as many
/// mappings as the kernel allows a process by default.
#[cfg(feature = "live")]
pub const MAPS_MAX: u64 = 16 << 20;

/// One line of maps, its name still as printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapsHeader<'a> {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// See [`permission`].
    pub permissions: u8,
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Device, `major << 32 | minor`.
    pub device: u64,
    /// Inode, 0 for none.
    pub inode: u64,
    /// Name as printed: a newline in it is `\012`.
    pub raw_name: &'a [u8],
}

impl<'a> MapsHeader<'a> {
    /// `None` unless the whole line is as the kernel prints it.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let (start, rest) = hex(line)?;
        let (end, rest) = hex(after(rest, b'-')?)?;
        let (flags, rest) = after(rest, b' ')?.split_at_checked(4)?;
        let permissions = parse_permissions(flags)?;
        let (offset, rest) = hex(after(rest, b' ')?)?;
        let (major, rest) = hex(after(rest, b' ')?)?;
        let (minor, rest) = hex(after(rest, b':')?)?;
        let (inode, rest) = decimal(after(rest, b' ')?)?;
        // A kernel's name begins with '/', '[' or, for files outside of any tree, a word and a colon: never with a blank.
        let raw_name = match rest {
            [] => rest,
            _ => skip_blanks(after(rest, b' ')?),
        };
        if start >= end || major > u64::from(u32::MAX) || minor > u64::from(u32::MAX) {
            return None;
        }
        Some(Self { start, end, permissions, offset, device: major << 32 | minor, inode, raw_name })
    }

    /// The name with the kernel's escapes undone. The kernel prints a newline as `\012` and a backslash as itself,
    /// so a name that holds these four characters literally cannot be told from one with a newline.
    #[must_use]
    pub fn name(&self) -> Vec<u8> {
        const ESCAPE: &[u8] = b"\\012";
        let mut name = Vec::with_capacity(self.raw_name.len());
        let mut rest = self.raw_name;
        while let Some(at) = memchr::memmem::find(rest, ESCAPE) {
            name.extend_from_slice(&rest[..at]);
            name.push(b'\n');
            rest = &rest[at + ESCAPE.len()..];
        }
        name.extend_from_slice(rest);
        name
    }

    /// The line as an event has it.
    #[must_use]
    pub fn to_line(&self) -> MapsLine {
        MapsLine {
            start: self.start,
            end: self.end,
            permissions: self.permissions,
            offset: self.offset,
            device: self.device,
            inode: self.inode,
            name: self.name(),
        }
    }
}

fn parse_permissions(flags: &[u8]) -> Option<u8> {
    let &[read, write, execute, sharing] = flags else {
        return None;
    };
    let bit = |byte, letter, bit| match byte {
        b'-' => Some(0),
        _ if byte == letter => Some(bit),
        _ => None,
    };
    let shared = match sharing {
        b's' => permission::SHARED,
        b'p' => 0,
        _ => return None,
    };
    Some(
        bit(read, b'r', permission::READ)?
            | bit(write, b'w', permission::WRITE)?
            | bit(execute, b'x', permission::EXECUTE)?
            | shared,
    )
}

/// Calls `visit` for each line of maps, in the kernel's order (by address; `[vsyscall]` last).
pub fn visit_maps<'a>(bytes: &'a [u8], mut visit: impl FnMut(&MapsHeader<'a>)) -> ParseReport {
    let mut report = ParseReport::default();
    let mut lines = Lines::new(bytes);
    for line in lines.by_ref() {
        match MapsHeader::parse(line) {
            Some(header) => {
                report.mappings += 1;
                visit(&header);
            }
            None => report.malformed += 1,
        }
    }
    report.malformed += usize::from(lines.is_cut());
    report
}

/// Appends the lines of maps to `lines`.
pub fn parse_maps(bytes: &[u8], lines: &mut Vec<MapsLine>) -> ParseReport {
    visit_maps(bytes, |header| lines.push(header.to_line()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    /// As `show_map_vma` prints it, without the newline.
    pub(in crate::procfs) fn render(line: &MapsLine, out: &mut Vec<u8>) {
        let begin = out.len();
        let letter = |bit, letter| {
            if line.permissions & bit != 0 { letter } else { '-' }
        };
        write!(
            out,
            "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
            line.start,
            line.end,
            letter(permission::READ, 'r'),
            letter(permission::WRITE, 'w'),
            letter(permission::EXECUTE, 'x'),
            if line.permissions & permission::SHARED != 0 { 's' } else { 'p' },
            line.offset,
            line.device >> 32,
            line.device & u64::from(u32::MAX),
            line.inode,
        )
        .expect("a Vec takes everything");
        if line.name.is_empty() {
            return;
        }
        while out.len() - begin < 72 {
            out.push(b' ');
        }
        out.push(b' ');
        for &byte in &line.name {
            if byte == b'\n' { out.extend_from_slice(b"\\012") } else { out.push(byte) }
        }
    }

    prop_compose! {
        fn name()(first in prop::sample::select(b"/[a(".to_vec()), rest in prop::collection::vec(
            prop_oneof![any::<u8>(), Just(b'\n'), Just(b' '), Just(b'\\'), Just(b'-')], 0..40)) -> Vec<u8> {
            let mut name = vec![first];
            name.extend(rest);
            name
        }
    }

    prop_compose! {
        pub(in crate::procfs) fn line()(
            start in 0..u64::MAX - (1 << 40),
            length in 1..1u64 << 40,
            permissions in 0..16u8,
            offset in any::<u64>(),
            device in any::<u64>(),
            inode in any::<u64>(),
            name in prop::option::of(name().prop_filter("ambiguous in the kernel's own print", |name| {
                memchr::memmem::find(name, b"\\012").is_none()
            })),
        ) -> MapsLine {
            MapsLine { start, end: start + length, permissions, offset, device, inode, name: name.unwrap_or_default() }
        }
    }

    proptest! {
        #[test]
        fn maps_come_back_as_printed(lines in prop::collection::vec(line(), 0..20)) {
            let mut text = Vec::new();
            for line in &lines {
                render(line, &mut text);
                text.push(b'\n');
            }
            let mut parsed = Vec::new();
            let report = parse_maps(&text, &mut parsed);
            prop_assert_eq!(report, ParseReport { mappings: lines.len(), malformed: 0 });
            prop_assert_eq!(parsed, lines);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut lines = Vec::new();
            let report = parse_maps(&bytes, &mut lines);
            prop_assert_eq!(report.mappings, lines.len());
        }

        #[test]
        fn a_broken_line_breaks_no_other(line in line(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut text = Vec::new();
            render(&line, &mut text);
            let broken = at.index(text.len());
            text[broken] = byte;
            text.extend_from_slice(b"\n1000-2000 rw-p 00000000 00:00 0 \n");
            let mut lines = Vec::new();
            parse_maps(&text, &mut lines);
            prop_assert_eq!(lines.last().map(|line| (line.start, line.end)), Some((0x1000, 0x2000)));
        }
    }

    #[test]
    fn names_that_a_hostile_file_may_have() {
        let text = b"7f0000000000-7f0000001000 r--s 00000000 00:01 1027                       /memfd:a b\\012Rss: 1 kB (deleted)\n\
            7f0000002000-7f0000003000 ---p 00000000 00:00 0 \n\
            7f0000004000-7f0000005000 rw-p 00000000 00:00 0                          [anon:\xff \xfe]\n\
            ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";
        let mut lines = Vec::new();
        assert_eq!(parse_maps(text, &mut lines), ParseReport { mappings: 4, malformed: 0 });
        assert_eq!(lines[0].name, b"/memfd:a b\nRss: 1 kB (deleted)");
        assert_eq!((lines[0].permissions, lines[0].device), (permission::READ | permission::SHARED, 1));
        assert_eq!(lines[1].name, b"");
        assert_eq!(lines[2].name, b"[anon:\xff \xfe]");
        assert_eq!(lines[3].end, 0xffff_ffff_ff60_1000);
    }

    #[test]
    fn what_the_kernel_would_not_print_is_malformed() {
        for line in [
            "2000-1000 rw-p 00000000 00:00 0 ",
            "1000-2000 rw-x 00000000 00:00 0 ",
            "1000-2000 rw-p 00000000 00:00 0/a",
            "1000-2000 rw-p 00000000 00:00 -1 ",
            "1000-2000 rw-p 00000000 0000 0 ",
            "1000",
            "",
        ] {
            assert_eq!(
                parse_maps(format!("{line}\n").as_bytes(), &mut Vec::new()),
                ParseReport { mappings: 0, malformed: 1 },
                "{line:?}"
            );
        }
        let cut = b"1000-2000 rw-p 00000000 00:00 0                          /usr/li";
        assert_eq!(parse_maps(cut, &mut Vec::new()), ParseReport { mappings: 0, malformed: 1 });
    }
}
