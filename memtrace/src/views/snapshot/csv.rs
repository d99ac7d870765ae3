//! Rows as CSV (RFC 4180): a header, then one line a row, amounts in bytes, an empty field for what is unknown.
//!
//! Names come from the target and end up in spreadsheets, which take a field that begins with `=`, `+`, `-` or `@` for a
//! formula. Names are escaped as in text (`\xNN`, a backslash doubled), and such a first character is escaped like a
//! control character: `=1+1` is `\x3d1+1`, which is no formula and can be told from every other name. Other fields have
//! alphabets of their own and need no such care.

use super::seen::Seen;
use super::tables::{self, Of};
use crate::cli::{By, ShowOptions};
use crate::snapshot::rows::{Part, Sums};
use crate::snapshot::{Allocator, MappedFile, Process, Snapshot, device_numbers};
use crate::views::escape::escape;
use crate::views::words::permissions;
use std::io::{self, Write};

/// Bytes of a name that are looked at; paths are not longer.
const CAP: usize = 4096;

/// Writes the rows of `--by` of all processes; mappings when nothing was asked for. What could not be read has no row.
///
/// # Errors
/// What the writer returned.
pub fn render(snapshot: &Snapshot, show: &ShowOptions, out: &mut dyn Write) -> io::Result<()> {
    let by = show.by.unwrap_or(By::Mapping);
    let own: &[&str] = match by {
        By::Kind => &["kind", "part", "allocator", "name", "mappings"],
        By::Permissions => &["permissions", "mappings"],
        By::Mapping => &[
            "kind",
            "name",
            "allocator",
            "tid",
            "thread",
            "start",
            "end",
            "permissions",
            "offset",
            "device_major",
            "device_minor",
            "inode",
        ],
        By::File => &[
            "path",
            "device_major",
            "device_minor",
            "inode",
            "size",
            "mapped",
            "resident",
            "on_disk",
            "page_cache",
            "dirty",
            "writeback",
            "not_loaded",
            "writable_shared",
        ],
    };
    let amounts: &[&str] = if by == By::File { &[] } else { &Sums::AMOUNTS };
    let heads = ["pid", "comm"].iter().chain(own).chain(amounts);
    write_row(heads.map(|&head| head.to_owned()), out)?;
    for seen in Seen::all(snapshot) {
        let process = seen.process;
        if by == By::File {
            let files = tables::files(process, show);
            for file in files.iter().flat_map(|files| &files.shown) {
                write_row(whose(process).into_iter().chain(file_fields(file)), out)?;
            }
        } else {
            let rows = tables::rows(seen, by, show);
            for row in rows.iter().flat_map(|rows| &rows.shown) {
                let fields = whose(process).into_iter().chain(own_fields(&row.of, &row.sums));
                write_row(fields.chain(row.sums.amounts().map(or_empty)), out)?;
            }
        }
    }
    Ok(())
}

fn whose(process: &Process) -> [String; 2] {
    [process.pid.to_string(), name(&process.comm)]
}

fn own_fields(of: &Of<'_>, sums: &Sums) -> Vec<String> {
    let words = |word: Option<&'static str>| word.unwrap_or_default().to_owned();
    match of {
        Of::Kind(group) => vec![
            group.kind.name().to_owned(),
            words(group.part.map(Part::name)),
            words(group.allocator.map(Allocator::name)),
            name(group.name),
            sums.mappings.to_string(),
        ],
        Of::Permissions(bits) => vec![permissions(*bits), sums.mappings.to_string()],
        Of::Mapping(m) => vec![
            m.kind.name().to_owned(),
            name(&m.name),
            words(m.allocator.map(Allocator::name)),
            m.thread.as_ref().map(|thread| thread.tid.to_string()).unwrap_or_default(),
            m.thread.as_ref().map(|thread| name(&thread.comm)).unwrap_or_default(),
            format!("{:#x}", m.start),
            format!("{:#x}", m.end),
            permissions(m.permissions),
            format!("{:#x}", m.offset),
            device_numbers(m.device).0.to_string(),
            device_numbers(m.device).1.to_string(),
            m.inode.to_string(),
        ],
    }
}

fn file_fields(f: &MappedFile) -> [String; 13] {
    let (major, minor) = device_numbers(f.device);
    [
        name(&f.path),
        major.to_string(),
        minor.to_string(),
        f.inode.to_string(),
        or_empty(f.size),
        f.mapped.to_string(),
        or_empty(f.resident),
        f.on_disk.map(|on_disk| on_disk.to_string()).unwrap_or_default(),
        or_empty(f.page_cache),
        or_empty(f.dirty),
        or_empty(f.writeback),
        or_empty(f.not_loaded()),
        f.writable_shared.to_string(),
    ]
}

fn or_empty(bytes: Option<u64>) -> String {
    bytes.map(|bytes| bytes.to_string()).unwrap_or_default()
}

/// A name of the target's, as no formula.
fn name(bytes: &[u8]) -> String {
    let text = escape(bytes, CAP);
    match text.chars().next() {
        // Their wide forms are taken for the same by some.
        Some(first @ ('=' | '+' | '-' | '@')) => format!("\\x{:02x}{}", u32::from(first), &text[1..]),
        Some(first @ ('＝' | '＋' | '－' | '＠')) => {
            format!("\\u{{{:x}}}{}", u32::from(first), &text[first.len_utf8()..])
        }
        _ => text,
    }
}

fn write_row(fields: impl Iterator<Item = String>, out: &mut dyn Write) -> io::Result<()> {
    let quoted = fields.map(|field| match field.contains(['"', ',', '\r', '\n']) || field.starts_with(' ') {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field,
    });
    write!(out, "{}\r\n", quoted.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Format, PictureScale, Sort};
    use crate::views::snapshot::sample;
    use proptest::prelude::*;
    use std::time::Duration;

    fn rows(process: Process, by: Option<By>) -> String {
        let snapshot = Snapshot { processes: vec![process], ..Snapshot::default() };
        let show = ShowOptions {
            format: Format::Csv,
            by,
            sort: Sort::Address,
            filter: None,
            top: None,
            picture: false,
            scale: PictureScale::Log,
            costs: false,
            hold_limit: Some(Duration::from_millis(50)),
            typed: crate::cli::Typed::default(),
        };
        let mut out = Vec::new();
        render(&snapshot, &show, &mut out).expect("a Vec takes everything");
        String::from_utf8(out).expect("CSV is text")
    }

    #[test]
    fn the_rows_of_everything() {
        insta::assert_snapshot!("csv_mappings", rows(sample::hostile(), None));
        insta::assert_snapshot!("csv_kinds", rows(sample::over_budget(), Some(By::Kind)));
        insta::assert_snapshot!("csv_permissions", rows(sample::postgres(), Some(By::Permissions)));
        insta::assert_snapshot!("csv_files", rows(sample::postgres(), Some(By::File)));
        for unread in [sample::not_permitted(), sample::zombie()] {
            assert_eq!(rows(unread, None).lines().count(), 1, "a header is all");
        }
    }

    /// A reader of RFC 4180 that was not written for this writer.
    fn parse(line: &str) -> Vec<String> {
        let (mut fields, mut quoted, mut chars) = (vec![String::new()], false, line.chars().peekable());
        while let Some(c) = chars.next() {
            match c {
                '"' if quoted && chars.peek() == Some(&'"') => {
                    fields.last_mut().expect("one").push(chars.next().expect("seen"))
                }
                '"' => quoted = !quoted,
                ',' if !quoted => fields.push(String::new()),
                c => fields.last_mut().expect("one").push(c),
            }
        }
        fields
    }

    proptest! {
        #[test]
        fn no_name_leaves_its_field_or_calculates(bytes in proptest::collection::vec(any::<u8>(), 0..20), first in "[=+@,\"\r\n＝-]?") {
            let bytes = [first.as_bytes(), &bytes].concat();
            let mut out = Vec::new();
            write_row([name(&bytes), "7".to_owned()].into_iter(), &mut out).expect("a Vec takes everything");
            let text = String::from_utf8(out).expect("CSV is text");
            let fields = parse(text.strip_suffix("\r\n").expect("a line"));
            prop_assert_eq!(&fields, &[name(&bytes), "7".to_owned()]);
            prop_assert!(!fields[0].starts_with(['=', '+', '-', '@', '＝', '\t', '\r']));
            prop_assert!(!fields[0].chars().any(char::is_control));
        }
    }
}
