//! Processes that are hard to look at: names of any bytes, sixty thousand mappings, gigabytes in one mapping.

use crate::Scene;
use crate::region::{READ_WRITE, Region};
use crate::stage::{Check, Stage};
use memtrace_tests::pages::page_size;
use serde_json::json;
use std::ffi::{CString, OsStr};
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;

pub const SCENES: &[(&str, Scene)] = &[("names", names), ("mappings", mappings), ("gigabytes", gigabytes)];

/// What a terminal, a line-based reader and a JSON reader would each stumble over.
const COMM: &[u8] = b"a\nb\x1b[31m\xff\\\"";
/// No `\012` among it: maps writes a line feed so, and that word itself as it is.
const FILE: &[u8] = b"line\nfeed \x1b]0;title\x07 \xff\xfe back\\slash \"quoted\" (deleted)";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The process's name and that of a file that it maps.
fn names(stage: &mut Stage) {
    let comm = CString::new(COMM).expect("no NUL");
    // SAFETY: a NUL-terminated name, which the kernel copies.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NAME, comm.as_ptr()) }, 0);
    let path = stage.dir.join(OsStr::from_bytes(FILE));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("a file in --dir");
    file.set_len((8 * page_size()) as u64).expect("room for the file");
    let region = Region::hole(8, page_size()).place(READ_WRITE, libc::MAP_SHARED, file.as_raw_fd());
    region.part(0, 5).write();
    stage.begin();
    let path = hex(path.as_os_str().as_bytes());
    let mapping = json!({"start": format!("{:#x}", region.start()), "rss": 5 * page_size()});
    stage.finish_with(Check::Nothing, &[], json!({"comm_hex": hex(COMM), "path_hex": path, "mapping": mapping}));
}

/// One page each, by turns of different permissions, so that no two merge. A third of them is not touched.
fn mappings(stage: &mut Stage) {
    const COUNT: usize = 60_000;
    let region = Region::anon(COUNT);
    let mut touched = 0;
    for page in 0..COUNT {
        let part = region.part(page, page + 1);
        if page % 3 > 0 {
            part.write();
            touched += 1;
        }
        if page % 2 > 0 {
            part.protect(libc::PROT_READ);
        }
    }
    stage.begin();
    let (start, end) = (format!("{:#x}", region.start()), format!("{:#x}", region.end()));
    let more = json!({"start": start, "end": end, "mappings": COUNT, "rss": touched * page_size()});
    stage.finish_with(Check::Nothing, &[], more);
}

/// Two of three GiB of one mapping in memory: one call of smaps walks all of it.
fn gigabytes(stage: &mut Stage) {
    let gigabyte = (1 << 30) / page_size();
    let region = Region::anon(3 * gigabyte);
    region.advise(libc::MADV_NOHUGEPAGE);
    region.part(0, 2 * gigabyte).write();
    stage.begin();
    let (start, end) = (format!("{:#x}", region.start()), format!("{:#x}", region.end()));
    stage.finish_with(Check::Nothing, &[], json!({"start": start, "end": end, "rss": 2_u64 << 30}));
}
