//! What a snapshot costs outside the kernel: smaps that was read already, parsed, added up, and every mapping given its
//! kind, name and allocator. Beside it the procfs crate on the same bytes, which parses only.
//!
//! The process looks at itself, with so many mappings of one touched page each. Before anything is measured both must
//! find the same sums.

mod common;

use common::Mappings;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use memtrace::snapshot::read::parse;
use procfs::FromRead;
use procfs::process::MemoryMaps;
use std::hint::black_box;

/// Rss, Pss, and what is private, as the procfs crate has them.
fn sums_of_procfs(maps: &MemoryMaps) -> [u64; 3] {
    let sum = |keys: &[&str]| {
        maps.iter().map(|map| keys.iter().filter_map(|key| map.extension.map.get(*key)).sum::<u64>()).sum()
    };
    [sum(&["Rss"]), sum(&["Pss"]), sum(&["Private_Clean", "Private_Dirty"])]
}

fn snapshot(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("snapshot");
    group.sample_size(20);
    let program = std::env::current_exe().expect("a program");
    let program = program.as_os_str().as_encoded_bytes();
    for count in [1_000, 10_000, 60_000] {
        let mappings = Mappings::new(count);
        let text = std::fs::read("/proc/self/smaps").expect("smaps can be read");
        let mounts = std::fs::read("/proc/self/mountinfo").expect("mountinfo can be read");
        drop(mappings);

        let (found, rollup) = parse(&text, program, &mounts);
        let theirs = MemoryMaps::from_read(text.as_slice()).expect("smaps is sound");
        assert_eq!([rollup.rss, rollup.pss, rollup.uss()], sums_of_procfs(&theirs));
        assert_eq!(found.len(), theirs.iter().count());

        group.throughput(Throughput::Elements(found.len() as u64));
        group.bench_function(BenchmarkId::new("memtrace: parse, sum, classify", count), |bench| {
            bench.iter(|| parse(black_box(&text), program, &mounts));
        });
        group.bench_function(BenchmarkId::new("procfs crate: parse", count), |bench| {
            bench.iter(|| MemoryMaps::from_read(black_box(text.as_slice())).expect("smaps is sound"));
        });
    }
    group.finish();
}

criterion_group!(benches, snapshot);
criterion_main!(benches);
