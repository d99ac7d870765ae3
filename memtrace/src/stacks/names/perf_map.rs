//! The names of just-in-time compiled code, as its compiler writes them into `/tmp/perf-PID.map`: lines of a start and
//! a size in hexadecimal, and a name. The file grows while the program runs.

use super::debug_file::open_below;
use super::question::Named;
use super::text;
use crate::event::Symbol;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Largest part of a map that is read, bytes.
const MAX_MAP: u64 = 256 << 20;

/// A map as far as it was read.
#[derive(Default)]
pub(super) struct PerfMap {
    /// Address after the last, and name, by first address. Code that was written later replaces what began there.
    functions: BTreeMap<u64, (u64, Vec<u8>)>,
    /// Bytes that were read: whole lines.
    read: u64,
}

impl PerfMap {
    /// Reads what was added. The map belongs to root or to `uid`; another's is refused.
    ///
    /// # Errors
    /// When there is no such map, or it cannot be read.
    pub(super) fn refresh(&mut self, root: &File, pid: u32, uid: u32) -> io::Result<()> {
        let mut file = open_below(root, Path::new(&format!("tmp/perf-{pid}.map")))?;
        let metadata = file.metadata()?;
        if metadata.uid() != 0 && metadata.uid() != uid {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if metadata.len() < self.read {
            *self = Self::default();
        }
        file.seek(SeekFrom::Start(self.read))?;
        let mut added = Vec::new();
        file.take(MAX_MAP.saturating_sub(self.read)).read_to_end(&mut added)?;
        self.parse(&added);
        Ok(())
    }

    fn parse(&mut self, bytes: &[u8]) {
        // The last line may be half written.
        let whole = memchr::memrchr(b'\n', bytes).map_or(0, |end| end + 1);
        self.read += whole as u64;
        for line in bytes[..whole].split(|&byte| byte == b'\n') {
            if let Some((start, size, name)) = parse_line(line)
                && size > 0
            {
                self.functions.insert(start, (start.saturating_add(size), text::shown(name)));
            }
        }
    }

    /// The function at `address`, where the call is when it is after one.
    pub(super) fn name(&self, address: u64, after_call: bool) -> Named {
        let code = if after_call { address.saturating_sub(1) } else { address };
        match self.functions.range(..=code).next_back() {
            Some((start, (end, name))) if code < *end => Named {
                symbols: vec![Symbol { name: name.clone(), file: Vec::new(), line: 0 }],
                offset: address - start,
            },
            _ => Named::default(),
        }
    }
}

fn parse_line(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let hex = |field: &[u8]| u64::from_str_radix(std::str::from_utf8(field).ok()?.trim_start_matches("0x"), 16).ok();
    let mut fields = line.splitn(3, |&byte| byte == b' ');
    let (start, size, name) = (hex(fields.next()?)?, hex(fields.next()?)?, fields.next()?);
    (!name.is_empty()).then_some((start, size, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(map: &PerfMap, address: u64, after_call: bool) -> Option<(String, u64)> {
        let named = map.name(address, after_call);
        let symbol = named.symbols.first()?;
        Some((String::from_utf8(symbol.name.clone()).unwrap(), named.offset))
    }

    #[test]
    fn lines_name_their_bytes_and_no_others() {
        let mut map = PerfMap::default();
        map.parse(
            b"1000 20 LazyCompile:*run /app/a b.js:1\nzz 1 bad\n0x2000 0x10 java.lang.String::hashCode\n3000 8 hal",
        );
        assert_eq!(name(&map, 0xfff, false), None);
        assert_eq!(name(&map, 0x101f, false), Some(("LazyCompile:*run /app/a b.js:1".into(), 0x1f)));
        assert_eq!(name(&map, 0x1020, false), None);
        assert_eq!(name(&map, 0x1020, true), Some(("LazyCompile:*run /app/a b.js:1".into(), 0x20)));
        assert_eq!(name(&map, 0x2000, false), Some(("java.lang.String::hashCode".into(), 0)));
        assert_eq!(name(&map, 0x3000, false), None, "half a line");
        map.parse(b"3000 8 half\n1000 40 run, compiled again\n");
        assert_eq!(name(&map, 0x3007, false), Some(("half".into(), 7)));
        assert_eq!(name(&map, 0x1020, false), Some(("run, compiled again".into(), 0x20)));
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut map = PerfMap::default();
        map.parse(b"\n\n \nffffffffffffffff ffffffffffffffff end\n0 0 empty\n1 \xff x\n\0\n11112222333344445 1 long\n");
        assert_eq!(name(&map, u64::MAX - 1, false), None);
        assert_eq!(map.functions.len(), 1);
    }
}
