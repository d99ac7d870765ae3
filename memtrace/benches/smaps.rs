//! What a reading of smaps costs: in the kernel (the floor), with our parser, with the procfs crate's.
//!
//! The process looks at itself, with so many mappings of one touched page each, made by giving neighbouring pages
//! different permissions. The two middle rows need no system call and show the parsers alone.

mod common;

use common::Mappings;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use memtrace::cli::{ReadOptions, Subject};
use memtrace::procfs::{ProcessFiles, parse_maps, parse_smaps};
use memtrace::snapshot;
use procfs::FromRead;
use std::hint::black_box;
use std::time::Duration;

fn smaps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("smaps");
    group.sample_size(10);
    for count in [1_000, 10_000, 60_000] {
        let _mappings = Mappings::new(count);
        let files = ProcessFiles::open(std::process::id()).expect("we exist");
        let text = std::fs::read("/proc/self/smaps").expect("smaps can be read");
        let (mut buffer, mut parsed) = (Vec::new(), Vec::new());
        group.throughput(Throughput::Elements(count as u64));

        group.bench_function(BenchmarkId::new("floor, std::fs::read", count), |bench| {
            bench.iter(|| std::fs::read("/proc/self/smaps").expect("smaps can be read").len());
        });
        group.bench_function(BenchmarkId::new("parse, memtrace", count), |bench| {
            bench.iter(|| {
                parsed.clear();
                parse_smaps(black_box(&text), &mut parsed)
            });
        });
        group.bench_function(BenchmarkId::new("parse, procfs crate", count), |bench| {
            bench.iter(|| procfs::process::MemoryMaps::from_read(black_box(text.as_slice())).expect("smaps is sound"));
        });
        group.bench_function(BenchmarkId::new("read and parse, memtrace", count), |bench| {
            bench.iter(|| {
                parsed.clear();
                files.read_smaps(&mut buffer).expect("smaps can be read");
                parse_smaps(&buffer, &mut parsed)
            });
        });
        group.bench_function(BenchmarkId::new("read and parse, procfs crate", count), |bench| {
            let process = procfs::process::Process::myself().expect("we exist");
            bench.iter(|| process.smaps().expect("smaps can be read"));
        });
        group.bench_function(BenchmarkId::new("whole snapshot, memtrace", count), |bench| {
            let subject = Subject::Pids(vec![std::process::id()]);
            let options =
                ReadOptions { max_hold: Duration::from_millis(50), full: true, page_map: false, for_diff: false };
            bench.iter(|| snapshot::read::read(&subject, &options).expect("we can be read"));
        });
        group.bench_function(BenchmarkId::new("maps: read and parse, memtrace", count), |bench| {
            let mut lines = Vec::new();
            bench.iter(|| {
                lines.clear();
                files.read_maps(&mut buffer).expect("maps can be read");
                parse_maps(&buffer, &mut lines)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, smaps);
criterion_main!(benches);
