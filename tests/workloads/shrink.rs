//! Giving memory back by one's own calls.

use crate::Scene;
use crate::helper::{Helper, Order};
use crate::region::{READ_WRITE, Region, make_file};
use crate::stage::{Check, Expect, Stage};
use memtrace_tests::pages::page_size;
use std::os::fd::AsRawFd;

pub const SCENES: &[(&str, Scene)] = &[
    ("munmap", munmap),
    ("munmap.several", munmap_several),
    ("brk", brk),
    ("mremap.shrink", mremap_shrink),
    ("mremap.move", mremap_move),
    ("mremap.overwrite", mremap_overwrite),
    ("madvise.dontneed", dontneed),
    ("madvise.dontneed.file", dontneed_file),
    ("madvise.dontneed.after_efault", dontneed_after_efault),
    ("madvise.remove", remove),
    ("mmap.fixed", fixed),
    ("truncate.own", truncate_own),
    ("truncate.other", truncate_other),
    ("truncate.private_copies", truncate_private),
    ("truncate.hole", truncate_hole),
];

fn munmap(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(900);
    region.write();
    stage.begin();
    region.part(300, 600).unmap();
    region.part(0, 300).unmap();
    stage.finish(Check::All, &[Expect::new("munmap").anon(600).negative().at(&region)]);
}

/// One call over a file mapping, a gap and shared memory.
fn munmap_several(stage: &mut Stage) {
    let file = make_file(&stage.dir, 160);
    stage.settle();
    let all = Region::hole(160 + 50 + 120, 64 << 10);
    let mapped = all.part(0, 160).place(READ_WRITE, libc::MAP_PRIVATE, file.as_raw_fd());
    let shared = all.part(210, 330).place(READ_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1);
    mapped.read();
    mapped.part(0, 10).write();
    shared.write();
    stage.begin();
    all.unmap();
    stage.finish(Check::All, &[Expect::new("munmap").anon(10).file(150).shmem(120).negative().at(&all)]);
}

fn brk(stage: &mut Stage) {
    const PAGES: usize = 512;
    stage.settle();
    stage.begin();
    // SAFETY: malloc keeps its slack below; nothing allocates until the break is back.
    let (start, back) = unsafe {
        let start = libc::sbrk((PAGES * page_size()) as isize) as usize;
        for page in 0..PAGES {
            ((start + page * page_size()) as *mut u8).write_volatile(1);
        }
        (start, libc::sbrk(-((PAGES * page_size()) as isize)) as usize)
    };
    let end = start + PAGES * page_size();
    if start % page_size() != 0 || back != end {
        stage.fail("the break moved otherwise");
    }
    stage.finish(
        Check::All,
        &[
            Expect::new("fault.anon").anon(PAGES).minor(PAGES).range(start, end).kind("heap"),
            Expect::new("brk").anon(PAGES).negative().range(start, end).kind("heap"),
        ],
    );
}

fn mremap_shrink(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(1000);
    region.write();
    stage.begin();
    region.remap(400, None);
    stage.finish(Check::All, &[Expect::new("mremap").anon(600).negative().at(&region)]);
}

/// Grown and moved, which moves no counter; then the new half is touched at the new place.
fn mremap_move(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(300);
    region.write();
    let target = Region::hole(600, page_size());
    stage.begin();
    region.remap(600, Some(&target));
    target.part(300, 600).write();
    target.unmap();
    stage.finish(
        Check::All,
        &[
            Expect::new("fault.anon").anon(300).minor(300).at(&target),
            Expect::new("munmap").anon(600).negative().at(&target),
        ],
    );
}

/// Moved over memory that was in use.
fn mremap_overwrite(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(300);
    region.write();
    let target = Region::anon(300);
    target.part(0, 250).write();
    stage.begin();
    region.remap(300, Some(&target));
    stage.finish(Check::All, &[Expect::new("mremap").anon(250).negative().at(&target)]);
}

fn dontneed(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(1000);
    region.write();
    stage.begin();
    region.part(100, 900).advise(libc::MADV_DONTNEED);
    stage.finish(Check::All, &[Expect::new("madvise.dontneed").anon(800).negative().at(&region)]);
}

/// A page fault that fails is never counted by the kernel, and what the thread does next is not that fault's doing.
fn dontneed_after_efault(stage: &mut Stage) {
    let zero = std::fs::File::open("/dev/zero").expect("/dev/zero");
    stage.settle();
    let region = Region::anon(1000);
    region.write();
    let forbidden = Region::hole(1, page_size());
    stage.begin();
    for part in 0..10 {
        // SAFETY: nothing is accessible there, so nothing is written; that is the point.
        let count = unsafe { libc::read(zero.as_raw_fd(), forbidden.pointer().cast(), 1) };
        if count != -1 {
            stage.fail("a page that nobody may touch was written");
        }
        region.part(part * 100, (part + 1) * 100).advise(libc::MADV_DONTNEED);
    }
    stage.finish(Check::All, &[Expect::new("madvise.dontneed").anon(1000).negative().at(&region)]);
}

fn dontneed_file(stage: &mut Stage) {
    let file = make_file(&stage.dir, 320);
    stage.settle();
    let region = Region::file(&file, 320, libc::MAP_PRIVATE);
    region.read();
    stage.begin();
    region.advise(libc::MADV_DONTNEED);
    stage.finish(Check::All, &[Expect::new("madvise.dontneed").file(320).negative().at(&region)]);
}

fn remove(stage: &mut Stage) {
    stage.settle();
    let region = Region::hole(500, page_size()).place(READ_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1);
    region.write();
    stage.begin();
    region.part(0, 350).advise(libc::MADV_REMOVE);
    stage.finish(Check::All, &[Expect::new("madvise.remove").shmem(350).negative().at(&region)]);
}

/// Mapped over: the old life's pages are given back, the new life's come in on the same addresses.
fn fixed(stage: &mut Stage) {
    stage.settle();
    let region = Region::anon(600);
    region.write();
    stage.begin();
    region.place(READ_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
    region.part(0, 100).write();
    stage.finish(
        Check::All,
        &[
            Expect::new("mmap.fixed").anon(600).negative().at(&region),
            Expect::new("fault.anon").anon(100).minor(100).at(&region),
        ],
    );
}

fn truncate_own(stage: &mut Stage) {
    let file = make_file(&stage.dir, 320);
    stage.settle();
    let region = Region::file(&file, 320, libc::MAP_SHARED);
    region.read();
    stage.begin();
    file.set_len((100 * page_size()) as u64).expect("the file can shrink");
    stage.finish(Check::All, &[Expect::new("truncate").file(220).negative().at(&region)]);
}

fn truncate_other(stage: &mut Stage) {
    let file = make_file(&stage.dir, 320);
    let mut helper = Helper::start(Some(&stage.dir.join("pages")));
    stage.settle();
    let region = Region::file(&file, 320, libc::MAP_SHARED);
    region.read();
    stage.begin();
    helper.order(Order::Truncate, [(100 * page_size()) as u64, 0, 0]);
    stage.finish(Check::All, &[Expect::new("truncate").file(220).negative().at(&region).by(helper.pid())]);
}

/// Private copies beyond the file's end go as well.
fn truncate_private(stage: &mut Stage) {
    let file = make_file(&stage.dir, 320);
    stage.settle();
    let region = Region::file(&file, 320, libc::MAP_PRIVATE);
    region.read();
    region.part(200, 320).write();
    stage.begin();
    file.set_len((100 * page_size()) as u64).expect("the file can shrink");
    stage.finish(Check::All, &[Expect::new("truncate").anon(120).file(100).negative().at(&region)]);
}

fn truncate_hole(stage: &mut Stage) {
    let file = make_file(&stage.dir, 320);
    stage.settle();
    let region = Region::file(&file, 320, libc::MAP_SHARED);
    region.read();
    stage.begin();
    let (from, length) = (50 * page_size(), 150 * page_size());
    // SAFETY: no memory is involved.
    let outcome = unsafe {
        libc::fallocate(
            file.as_raw_fd(),
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            from as i64,
            length as i64,
        )
    };
    if outcome != 0 {
        stage.fail("the file system punches no holes");
    }
    stage.finish(Check::All, &[Expect::new("truncate").file(150).negative().at(&region)]);
}
