//! Any bytes as pagemap: every whole entry is read, and says nothing that contradicts itself. What it says goes into the
//! table of shared pages, whose sums must hold whatever is in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memtrace::procfs::parse_pagemap;
use memtrace::snapshot::sharing::Sharing;
use memtrace::statement::Kind;

fuzz_target!(|bytes: &[u8]| {
    const LIMIT: usize = 1000;
    let entries = parse_pagemap(bytes);
    assert_eq!(entries.len(), bytes.len() / 8);
    let mut sharing = Sharing::new(1, LIMIT);
    let (mut mapped, mut exclusive) = (0, 0);
    for (index, entry) in entries.enumerate() {
        assert!(entry.pfn().is_none() || entry.present());
        assert!(entry.swap().is_none() || entry.swapped());
        assert!(entry.pfn().is_none_or(|pfn| pfn > 0 && pfn < 1 << 55));
        if index % 64 == 0 {
            sharing.begin_process();
        }
        let object = match entry.file() {
            true => sharing.file(8, entry.0 >> 56 & 3, Kind::File, b"file"),
            false => sharing.anonymous(Kind::Heap, b"[heap]"),
        };
        if entry.present() && entry.exclusive() {
            sharing.add_exclusive(entry.file().then_some(object), 1);
            exclusive += 1;
        } else if let Some(pfn) = entry.pfn() {
            mapped += u64::from(sharing.add_page(pfn, object, index).is_ok());
        }
    }
    let read = |_: u64, counts: &mut [u64]| {
        assert!(counts.len() <= 512);
        counts.fill(2);
        Ok::<(), ()>(())
    };
    sharing.count_outside(read).expect("it cannot fail");
    let group = sharing.finish();
    assert!(group.uss <= group.res && group.res <= exclusive + mapped && group.res - exclusive <= LIMIT as u64);
    assert!(group.pairs.iter().flatten().all(|pair| pair.a < pair.b && pair.shared <= group.shared_with_group[pair.a]));
    assert!(group.shared_with_group.iter().all(|shared| *shared <= group.res));
    assert!(group.objects.iter().all(|object| object.shared <= object.res && object.res <= object.sum_res));
});
