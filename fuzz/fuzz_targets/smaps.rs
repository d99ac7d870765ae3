//! Any bytes as smaps, rollup, status, stat: no panic, and no mapping without a header line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memtrace::procfs;

fuzz_target!(|bytes: &[u8]| {
    let mut mappings = Vec::new();
    let report = procfs::parse_smaps(bytes, &mut mappings);
    assert_eq!(report.mappings, mappings.len());
    assert!(mappings.iter().all(|mapping| mapping.start < mapping.end));
    let _ = procfs::parse_rollup(bytes);
    let _ = procfs::parse_status(bytes);
    let _ = procfs::parse_statm(bytes);
    let _ = procfs::parse_stat(bytes);
});
