//! Growing by touching files, and being populated on request.

use crate::Scene;
use crate::region::{READ_WRITE, Region, cache, evict, make_file};
use crate::stage::{Check, Expect, Stage};
use memtrace_tests::pages::page_size;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

pub const SCENES: &[(&str, Scene)] = &[
    ("fault.file", single),
    ("fault.file.around", around),
    ("fault.file.read", read_in),
    ("fault.cow.file", cow_mapped),
    ("fault.cow.file_unmapped", cow_unmapped),
    ("populate.mmap", populate_mmap),
    ("populate.mlock", populate_mlock),
    ("populate.madvise_read", populate_read),
    ("populate.madvise_write", populate_write),
    ("populate.direct_io", populate_direct),
];

/// A shared write maps its own page only.
fn single(stage: &mut Stage) {
    let file = make_file(&stage.dir, 320);
    stage.settle();
    let region = Region::file(&file, 320, libc::MAP_SHARED);
    stage.begin();
    cache(&file, 320);
    region.write();
    stage.finish(Check::All, &[Expect::new("fault.file").file(320).minor(320).at(&region).kind("file")]);
}

/// A read maps the window of sixteen around it.
fn around(stage: &mut Stage) {
    let file = make_file(&stage.dir, 640);
    stage.settle();
    let region = Region::file(&file, 640, libc::MAP_PRIVATE);
    stage.begin();
    cache(&file, 640);
    region.read_each(16);
    stage.finish(Check::All, &[Expect::new("fault.file").file(640).minor(40).at(&region).kind("file")]);
}

/// Not in the page cache, and no readahead: each page is read by its own fault.
fn read_in(stage: &mut Stage) {
    let file = make_file(&stage.dir, 200);
    stage.settle();
    if !evict(&file, 200) {
        stage.fail("the page cache kept pages of the file");
    }
    let region = Region::file(&file, 200, libc::MAP_PRIVATE);
    region.advise(libc::MADV_RANDOM);
    stage.begin();
    region.read();
    stage.finish(Check::All, &[Expect::new("fault.file.read").file(200).major(200).at(&region).kind("file")]);
}

fn cow_mapped(stage: &mut Stage) {
    let file = make_file(&stage.dir, 320);
    stage.settle();
    let region = Region::file(&file, 320, libc::MAP_PRIVATE);
    region.read();
    stage.begin();
    region.write();
    let entry = Expect::new("fault.cow").file(320).negative().anon(320).minor(320);
    stage.finish(Check::All, &[entry.at(&region)]);
}

fn cow_unmapped(stage: &mut Stage) {
    let file = make_file(&stage.dir, 320);
    stage.settle();
    let region = Region::file(&file, 320, libc::MAP_PRIVATE);
    stage.begin();
    cache(&file, 320);
    region.write();
    stage.finish(Check::All, &[Expect::new("fault.cow").anon(320).minor(320).at(&region)]);
}

fn populate_mmap(stage: &mut Stage) {
    stage.settle();
    let region = Region::hole(800, page_size());
    stage.begin();
    region.place(READ_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE, -1);
    stage.finish(Check::Counters, &[Expect::new("populate").anon(800).at(&region)]);
}

fn populate_mlock(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(800);
    stage.begin();
    // SAFETY: the scene's own memory.
    assert_eq!(unsafe { libc::mlock(region.pointer().cast(), region.bytes()) }, 0);
    stage.finish(Check::Counters, &[Expect::new("populate").anon(800).at(&region)]);
}

fn populate_read(stage: &mut Stage) {
    let file = make_file(&stage.dir, 640);
    stage.settle();
    let region = Region::file(&file, 640, libc::MAP_PRIVATE);
    stage.begin();
    cache(&file, 640);
    region.advise(libc::MADV_POPULATE_READ);
    stage.finish(Check::Counters, &[Expect::new("populate").file(640).at(&region)]);
}

fn populate_write(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(800);
    stage.begin();
    region.advise(libc::MADV_POPULATE_WRITE);
    stage.finish(Check::Counters, &[Expect::new("populate").anon(800).at(&region)]);
}

/// The kernel pins the untouched buffer for the device to write into.
fn populate_direct(stage: &mut Stage) {
    let file = make_file(&stage.dir, 256);
    let direct = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(stage.dir.join("pages"))
        .expect("a file system with O_DIRECT");
    drop(file);
    stage.settle();
    let region = Region::anon(256);
    stage.begin();
    // SAFETY: the kernel writes into the region only.
    let count = unsafe { libc::pread(direct.as_raw_fd(), region.pointer().cast(), region.bytes(), 0) };
    if count != region.bytes() as isize {
        stage.fail("the direct read was short");
    }
    stage.finish(Check::Counters, &[Expect::new("populate").anon(256).at(&region)]);
}
