//! What mappings tell of files, and the room against the kernel: our own process's files, whose truth is made here.

use super::*;
use crate::procfs::visit_maps;
use crate::snapshot::Resident;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;

fn mapping(offset: u64, size: u64, inode: u64) -> Mapping {
    let start = 0x1000_0000 + offset;
    Mapping {
        offset,
        device: 0xfe << 32 | 1,
        inode,
        name: b"/file".to_vec(),
        resident: Some(Resident { rss: size, anonymous: 0x1000, ..Resident::default() }),
        ..Mapping::bare(start, start + size, crate::event::permission::READ, Kind::File)
    }
}

fn only(mappings: &[Mapping]) -> Part {
    let mut parts = parts_of(mappings);
    assert_eq!(parts.len(), 1);
    parts.remove(0)
}

#[test]
fn each_byte_of_a_file_counts_once() {
    let part = only(&[mapping(0x8000, 0x2000, 7), mapping(0, 0x4000, 7), mapping(0x2000, 0x4000, 7)]);
    assert_eq!(part.ranges, [0..0x6000, 0x8000..0xa000]);
    // Each mapping has its own page tables: what is resident in two is so twice, as RES counts.
    assert_eq!(part.resident, Some(0x1000 + 0x3000 + 0x3000));
    let mut cut = part;
    cut.look = Some(Look { size: Some(0x8001), ..Look::default() });
    let file = cut.into_file().unwrap();
    assert_eq!(file.mapped, 0x6000 + 0x1000);
    assert_eq!(file.not_loaded(), None);
}

#[test]
fn what_is_unknown_of_one_mapping_is_unknown_of_the_file() {
    let unread = Mapping { resident: None, ..mapping(0x1000, 0x1000, 7) };
    assert_eq!(only(&[mapping(0, 0x1000, 7), unread]).resident, None);
}

#[test]
fn shared_and_writable_is_one_mapping() {
    let shared = Mapping { permissions: SHARED, ..mapping(0, 0x1000, 7) };
    let writable = Mapping { permissions: WRITE, ..mapping(0, 0x1000, 7) };
    assert!(!only(&[shared.clone(), writable.clone()]).writable_shared);
    let both = Mapping { permissions: SHARED | WRITE, ..mapping(0, 0x1000, 7) };
    assert!(only(&[shared, writable, both]).writable_shared);
}

#[test]
fn what_has_no_disk_behind_it_is_no_file() {
    for kind in [Kind::SharedAnon, Kind::SysvShm, Kind::Hugetlb, Kind::Device] {
        assert!(parts_of(&[Mapping { kind, ..mapping(0, 0x1000, 7) }]).is_empty());
    }
    assert!(parts_of(&[mapping(0, 0x1000, 0)]).is_empty());
}

#[test]
fn hostile_offsets_end_at_the_last_byte() {
    let part =
        only(&[mapping(u64::MAX - 0x1fff_ffff, 0x1000, 7), Mapping { offset: u64::MAX - 1, ..mapping(0, 0x9000, 7) }]);
    assert_eq!(bytes_of(&part.ranges, u64::MAX), 0x1000 + 1);
}

/// A part of a file of ours, mapped as asked. Unmapped on drop.
struct Mapped(*mut libc::c_void, usize);

impl Mapped {
    fn new(file: &File, pages: u64, first: u64, protection: i32, flags: i32) -> Self {
        let length = (pages * page_size()) as usize;
        let offset = (first * page_size()) as libc::off_t;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, file.as_raw_fd(), offset) };
        assert_ne!(address, libc::MAP_FAILED);
        Self(address, length)
    }

    fn write(&self, pages: Range<u64>) {
        for page in pages {
            let at = self.0.cast::<u8>().wrapping_add((page * page_size()) as usize);
            // SAFETY: inside of the mapping, which its maker made writable.
            unsafe { at.write_volatile(9) }
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: ours, and nobody has a reference into it.
        unsafe { libc::munmap(self.0, self.1) };
    }
}

/// Our own mappings of files, without figures.
fn own_mappings() -> Vec<Mapping> {
    let mut mappings = Vec::new();
    visit_maps(&std::fs::read("/proc/self/maps").unwrap(), |line| {
        let name = line.name();
        mappings.push(Mapping {
            start: line.start,
            end: line.end,
            permissions: line.permissions,
            device: line.device,
            inode: line.inode,
            resident: None,
            kind: if name.starts_with(b"/memfd:") { Kind::Memfd } else { Kind::File },
            name,
            ..mapping(line.offset, 0, 0)
        });
    });
    mappings
}

fn own_files() -> (Vec<MappedFile>, Vec<GivenUp>, Vec<crate::snapshot::SourceCost>) {
    let process = ProcessFiles::open(std::process::id()).unwrap();
    let mut costs = Costs::default();
    let (files, given_up) = read_files(&process, &own_mappings(), false, &mut costs);
    (files, given_up, costs.into_sources())
}

fn file_at<'a>(files: &'a [MappedFile], path: &std::path::Path) -> &'a MappedFile {
    let found = files.iter().find(|file| file.path.starts_with(path.as_os_str().as_bytes()));
    found.unwrap_or_else(|| panic!("{} is not among {files:#?}", path.display()))
}

/// A file whose folios are single pages: written and synced page by page.
fn file_of(dir: &std::path::Path, pages: u64) -> (std::path::PathBuf, File) {
    let path = dir.join("data");
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    for _ in 0..pages {
        file.write_all(&vec![1; page_size() as usize]).unwrap();
    }
    file.sync_all().unwrap();
    (path, file)
}

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

#[test]
fn a_file_of_ours_is_as_we_made_it() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (path, file) = file_of(dir.path(), 40);
    let first = Mapped::new(&file, 30, 0, READ_WRITE, libc::MAP_SHARED);
    let _second = Mapped::new(&file, 30, 20, libc::PROT_READ, libc::MAP_SHARED);
    first.write(3..10);
    let (files, _, sources) = own_files();
    let seen = file_at(&files, &path);
    assert_eq!(seen.size, Some(40 * page_size()));
    // The second one reaches ten pages behind the file's end.
    assert_eq!(seen.mapped, 40 * page_size());
    assert_eq!(seen.on_disk, Some(true));
    assert!(seen.writable_shared);
    assert_eq!(seen.page_cache, Some(40 * page_size()));
    assert_eq!(seen.not_loaded(), Some(0));
    if read_cachestat(file.as_fd(), 0..0).is_ok() {
        let told = seen.dirty.unwrap() + seen.writeback.unwrap();
        assert!(told <= 7 * page_size(), "{told} bytes of 7 pages");
    }
    assert!(sources.iter().any(|cost| cost.source == Source::Cachestat && cost.calls as usize >= files.len()));
    // Deleted, it is still there for those who may follow a mapping; for others it is unknown, not empty.
    std::fs::remove_file(&path).unwrap();
    let (files, given_up, _) = own_files();
    let seen = file_at(&files, &path);
    match seen.size {
        Some(size) => assert_eq!(size, 40 * page_size()),
        None => assert!(seen.page_cache.is_none() && !given_up.is_empty()),
    }
}

#[test]
fn a_memfd_is_on_no_disk() {
    // SAFETY: a constant name; a new descriptor that is nobody else's.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"files-test".as_ptr(), libc::MFD_CLOEXEC)) };
    file.set_len(20 * page_size()).unwrap();
    let mapped = Mapped::new(&file, 20, 0, READ_WRITE, libc::MAP_SHARED);
    mapped.write(0..5);
    let (files, ..) = own_files();
    let seen = file_at(&files, std::path::Path::new("/memfd:files-test"));
    assert_eq!((seen.on_disk, seen.mapped), (Some(false), 20 * page_size()));
    if seen.size.is_some() {
        assert_eq!(seen.page_cache, Some(5 * page_size()));
        assert_eq!(seen.not_loaded(), Some(15 * page_size()));
        assert!(seen.dirty.is_none_or(|dirty| dirty == 0));
    }
}

#[test]
fn threads_that_hang_are_few() {
    static HUNG: AtomicUsize = AtomicUsize::new(0);
    let turns: Vec<Turn> = std::iter::from_fn(|| Turn::take(&HUNG)).take(2 * HANGING).collect();
    assert_eq!(turns.len(), HANGING);
    drop(turns);
    assert!(Turn::take(&HUNG).is_some());
}
