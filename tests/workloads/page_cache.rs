//! Files of which a known part is mapped, in the page cache, dirty, or on disk alone.
//!
//! Each scene counts what it does to its file, page by page, and holds the part that is in the page cache against its own
//! mincore. The files are written page by page, so that each page is a folio of its own and dirty alone.

use crate::Scene;
use crate::region::{READ_WRITE, Region, cache, evict, make_file};
use crate::stage::{Check, Stage};
use memtrace_tests::pages::page_size;
use serde_json::{Value, json};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub const SCENES: &[(&str, Scene)] = &[
    ("page_cache.dirty", dirty),
    ("page_cache.synced", synced),
    ("page_cache.loaded", loaded),
    ("page_cache.read", read),
    ("page_cache.copies", copies),
    ("page_cache.twice", twice),
    ("page_cache.deleted", deleted),
    ("page_cache.memfd", memfd),
    ("page_cache.namespace", namespace),
    ("page_cache.overlay", overlay),
];

/// What is true of a file, in pages.
struct Truth {
    path: PathBuf,
    size: usize,
    mapped: usize,
    resident: usize,
    page_cache: usize,
    /// `None`: this sort of file system does not tell.
    dirty: Option<usize>,
    writable_shared: bool,
    on_disk: Option<bool>,
}

impl Truth {
    /// A file on disk, all of it mapped and in the page cache, clean, and nothing of it touched.
    fn of(path: PathBuf, pages: usize) -> Self {
        Self {
            path,
            size: pages,
            mapped: pages,
            resident: 0,
            page_cache: pages,
            dirty: Some(0),
            writable_shared: true,
            on_disk: Some(true),
        }
    }

    /// Tells it, `region` being a mapping of the file, once mincore agrees.
    fn tell(&self, stage: &mut Stage, file: &File, region: &Region) {
        let counted = in_page_cache(file, self.size);
        if counted != self.page_cache {
            stage.fail(&format!("told {} pages in the page cache, mincore sees {counted}", self.page_cache));
        }
        let bytes = |pages: usize| pages * page_size();
        let path: String = self.path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let dirty = self.dirty.map_or(Value::Null, |pages| bytes(pages).into());
        let writeback = self.dirty.map_or(Value::Null, |_| 0.into());
        let file = json!({
            "size": bytes(self.size),
            "mapped": bytes(self.mapped),
            "resident": bytes(self.resident),
            "page_cache": bytes(self.page_cache),
            "dirty": dirty,
            "writeback": writeback,
            "not_loaded": bytes(self.size - self.page_cache),
            "writable_shared": self.writable_shared,
            "on_disk": self.on_disk,
        });
        // Its own mapping's name in map_files: where the test looks for itself.
        let place = format!("{:x}-{:x}", region.start(), region.end());
        stage.finish_with(Check::Nothing, &[], json!({"path_hex": path, "map_file": place, "file": file}));
    }
}

/// Pages of the file that mincore sees in the page cache.
fn in_page_cache(file: &File, pages: usize) -> usize {
    let region = Region::hole(pages, page_size()).place(libc::PROT_NONE, libc::MAP_SHARED, file.as_raw_fd());
    let mut states = vec![0_u8; pages];
    // SAFETY: one byte per page, as many as the vector has.
    assert_eq!(unsafe { libc::mincore(region.pointer().cast(), region.bytes(), states.as_mut_ptr()) }, 0);
    region.unmap();
    states.iter().filter(|state| **state & 1 != 0).count()
}

fn path_in(dir: &Path) -> PathBuf {
    dir.join("pages")
}

/// A shared write maps its own page only, and makes it dirty.
fn dirty(stage: &mut Stage) {
    let file = make_file(&stage.dir, 200);
    cache(&file, 200);
    let region = Region::file(&file, 200, libc::MAP_SHARED);
    stage.begin();
    region.part(10, 57).write();
    Truth { resident: 47, dirty: Some(47), ..Truth::of(path_in(&stage.dir), 200) }.tell(stage, &file, &region);
}

/// Written, and written back.
fn synced(stage: &mut Stage) {
    let file = make_file(&stage.dir, 200);
    cache(&file, 200);
    let region = Region::file(&file, 200, libc::MAP_SHARED);
    stage.begin();
    region.part(10, 57).write();
    // SAFETY: the scene's own memory.
    assert_eq!(unsafe { libc::msync(region.pointer().cast(), region.bytes(), libc::MS_SYNC) }, 0);
    Truth { resident: 47, ..Truth::of(path_in(&stage.dir), 200) }.tell(stage, &file, &region);
}

/// Thrown out of the page cache, and some of it loaded again, page by page.
fn loaded(stage: &mut Stage) {
    let file = make_file(&stage.dir, 300);
    if !evict(&file, 300) {
        stage.fail("the page cache kept pages of the file");
    }
    let region = Region::file(&file, 300, libc::MAP_PRIVATE);
    region.advise(libc::MADV_RANDOM);
    stage.begin();
    region.part(5, 95).read();
    let truth = Truth { resident: 90, page_cache: 90, writable_shared: false, ..Truth::of(path_in(&stage.dir), 300) };
    truth.tell(stage, &file, &region);
}

/// Read, not mapped: in the page cache and not in the process. A read through memory maps the sixteen pages around it.
fn read(stage: &mut Stage) {
    let file = make_file(&stage.dir, 320);
    if !evict(&file, 320) {
        stage.fail("the page cache kept pages of the file");
    }
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) }, 0);
    let region = Region::file(&file, 320, libc::MAP_PRIVATE);
    stage.begin();
    let mut page = vec![0; page_size()];
    for number in 64..224_usize {
        file.read_exact_at(&mut page, (number * page_size()) as u64).expect("the file can be read");
    }
    region.part(96, 128).read_each(16);
    let truth = Truth { resident: 32, page_cache: 160, writable_shared: false, ..Truth::of(path_in(&stage.dir), 320) };
    truth.tell(stage, &file, &region);
}

/// Copies on write are the process's own, and the file stays clean.
fn copies(stage: &mut Stage) {
    let file = make_file(&stage.dir, 160);
    cache(&file, 160);
    let region = Region::file(&file, 160, libc::MAP_PRIVATE);
    stage.begin();
    region.read();
    region.part(100, 150).write();
    Truth { resident: 110, writable_shared: false, ..Truth::of(path_in(&stage.dir), 160) }.tell(stage, &file, &region);
}

/// Mapped twice, the ranges overlap and reach behind the file's end.
fn twice(stage: &mut Stage) {
    let file = make_file(&stage.dir, 100);
    cache(&file, 100);
    let low = Region::hole(50, 64 << 10).place_at(READ_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 10);
    let high = Region::hole(80, 64 << 10).place_at(READ_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 40);
    stage.begin();
    low.part(25, 45).write();
    high.part(0, 10).write();
    // Of pages 35..55 and 40..50 of the file ten are the same: resident twice, as RES counts, dirty once.
    let truth = Truth { mapped: 90, resident: 30, dirty: Some(20), ..Truth::of(path_in(&stage.dir), 100) };
    truth.tell(stage, &file, &high);
}

fn deleted(stage: &mut Stage) {
    let file = make_file(&stage.dir, 80);
    cache(&file, 80);
    let region = Region::file(&file, 80, libc::MAP_SHARED);
    std::fs::remove_file(path_in(&stage.dir)).expect("our own file");
    stage.begin();
    region.part(0, 20).write();
    let path = stage.dir.join("pages (deleted)");
    Truth { resident: 20, dirty: Some(20), ..Truth::of(path, 80) }.tell(stage, &file, &region);
}

/// Shared memory: what was not written is a hole, and nothing is ever dirty.
fn memfd(stage: &mut Stage) {
    // SAFETY: a constant name; the descriptor is new and ours.
    let file = unsafe {
        let fd = libc::memfd_create(c"page cache".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0, "memfd_create: {}", io::Error::last_os_error());
        File::from_raw_fd(fd)
    };
    file.set_len((100 * page_size()) as u64).expect("room for a memfd");
    let region = Region::file(&file, 100, libc::MAP_SHARED);
    stage.begin();
    region.part(20, 50).write();
    let path = PathBuf::from("/memfd:page cache (deleted)");
    let truth = Truth { resident: 30, page_cache: 30, on_disk: Some(false), ..Truth::of(path, 100) };
    truth.tell(stage, &file, &region);
}

/// A file at a path that leads elsewhere, or nowhere, for everyone outside.
fn namespace(stage: &mut Stage) {
    own_mounts();
    let (hidden, shown) = (stage.dir.join("hidden"), stage.dir.join("shown"));
    for dir in [&hidden, &shown] {
        std::fs::create_dir(dir).expect("room in --dir");
    }
    // Whoever takes the path from outside finds this one.
    drop(make_file(&shown, 7));
    mount(&hidden, &shown, None, libc::MS_BIND, None);
    let file = make_file(&shown, 120);
    cache(&file, 120);
    let region = Region::file(&file, 120, libc::MAP_SHARED);
    stage.begin();
    region.part(0, 33).write();
    Truth { resident: 33, dirty: Some(33), ..Truth::of(path_in(&shown), 120) }.tell(stage, &file, &region);
}

/// As in a container: the file of an image, beneath a writable layer. Its pages belong to the file beneath.
fn overlay(stage: &mut Stage) {
    own_mounts();
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| {
        let dir = stage.dir.join(name);
        std::fs::create_dir(&dir).expect("room in --dir");
        dir
    });
    let beneath = make_file(&lower, 90);
    if !evict(&beneath, 90) {
        stage.fail("the page cache kept pages of the file");
    }
    let layers = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    mount(Path::new("overlay"), &merged, Some(c"overlay"), 0, Some(&layers));
    let file = File::open(path_in(&merged)).expect("the file shows through");
    let region = Region::hole(90, 64 << 10).place(libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd());
    region.advise(libc::MADV_RANDOM);
    stage.begin();
    region.part(11, 42).read();
    let truth = Truth {
        resident: 31,
        page_cache: 31,
        dirty: None,
        writable_shared: false,
        on_disk: None,
        ..Truth::of(path_in(&merged), 90)
    };
    truth.tell(stage, &file, &region);
}

/// From here on what we mount is ours alone.
fn own_mounts() {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0, "unshare: {}", io::Error::last_os_error());
    mount(Path::new("none"), Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE, None);
}

fn mount(source: &Path, target: &Path, kind: Option<&std::ffi::CStr>, flags: libc::c_ulong, data: Option<&str>) {
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let (source, target) = (path(source), path(target));
    let data = data.map(|data| CString::new(data).expect("no NUL"));
    // SAFETY: NUL-terminated strings that live across the call; kind and data may be null.
    let outcome = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.map_or(std::ptr::null(), std::ffi::CStr::as_ptr),
            flags,
            data.as_ref().map_or(std::ptr::null(), |data| data.as_ptr().cast()),
        )
    };
    assert_eq!(outcome, 0, "mount on {target:?}: {}", io::Error::last_os_error());
}
