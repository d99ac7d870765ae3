//! Any bytes as maps: no panic, and each line is either read or counted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memtrace::procfs::parse_maps;

fuzz_target!(|bytes: &[u8]| {
    let mut lines = Vec::new();
    let report = parse_maps(bytes, &mut lines);
    let whole = bytes.iter().filter(|&&byte| byte == b'\n').count();
    let cut = usize::from(bytes.last().is_some_and(|&byte| byte != b'\n'));
    assert_eq!(report.mappings, lines.len());
    assert_eq!(report.mappings + report.malformed, whole + cut);
});
