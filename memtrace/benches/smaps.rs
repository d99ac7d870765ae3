//! What a reading of smaps costs: in the kernel (the floor), with our parser, with the procfs crate's.
//!
//! The process looks at itself, with so many mappings of one touched page each, made by giving neighbouring pages
//! different permissions. The two middle rows need no system call and show the parsers alone.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use memtrace::cli::{ReadOptions, Subject};
use memtrace::procfs::{ProcessFiles, page_size, parse_maps, parse_smaps};
use memtrace::snapshot;
use procfs::FromRead;
use std::hint::black_box;
use std::time::Duration;

/// Pages of alternating permissions.
struct Mappings {
    start: *mut libc::c_void,
    bytes: usize,
}

impl Mappings {
    fn new(count: usize) -> Self {
        let page = page_size() as usize;
        let bytes = count * page;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping, written and protected page by page within its bounds.
        unsafe {
            let start = libc::mmap(std::ptr::null_mut(), bytes, access, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            for index in 0..count {
                let at = start.byte_add(index * page);
                at.cast::<u8>().write_volatile(1);
                if index % 2 == 0 {
                    let protected = libc::mprotect(at, page, libc::PROT_READ);
                    assert_eq!(protected, 0, "vm.max_map_count is too small for {count} mappings");
                }
            }
            Self { start, bytes }
        }
    }
}

impl Drop for Mappings {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, to which nothing refers any more.
        unsafe { libc::munmap(self.start, self.bytes) };
    }
}

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
            let options = ReadOptions { max_hold: Duration::from_millis(50), full: true, page_map: false };
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
