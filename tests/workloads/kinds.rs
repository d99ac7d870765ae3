//! Memory of every kind at once, in amounts that are known because they were made: what `memtrace snapshot` must find.
//!
//! Everything that is mapped at the beginning (program, libraries, the first part of the heap) is locked in, so that it
//! is resident from end to end; everything after that is touched page by page. Each amount is held against the
//! process's own pagemap before it is told, which no code shares with smaps. A kind that this kernel cannot make is
//! told as absent, with the reason; the caller decides whether that may be.

use crate::Scene;
use crate::posts::{ARENA_BYTES, Post};
use crate::region::{HUGE, READ_WRITE, Region, cache, make_file};
use crate::stage::{Check, Stage};
use memtrace_tests::machine::Bound;
use memtrace_tests::pages::page_size;
use serde_json::{Value, json};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

pub const SCENES: &[(&str, Scene)] = &[("kinds", kinds)];

/// How much of one mapping is where, in pages.
#[derive(Clone, Copy, Default)]
struct Amount {
    anon: usize,
    file: usize,
    swap: usize,
    dirty: usize,
}

impl Amount {
    /// Written anonymous pages.
    const fn anon(pages: usize) -> Self {
        Self { anon: pages, file: 0, swap: 0, dirty: pages }
    }

    /// Read pages of a file.
    const fn clean(pages: usize) -> Self {
        Self { anon: 0, file: pages, swap: 0, dirty: 0 }
    }

    /// Written pages of a shared file or of shared memory.
    const fn dirty(pages: usize) -> Self {
        Self { anon: 0, file: pages, swap: 0, dirty: pages }
    }
}

/// What is told.
#[derive(Default)]
struct Truth {
    mappings: Vec<Value>,
    absent: Vec<Value>,
    contradictions: Vec<String>,
}

impl Truth {
    /// A mapping and what is in it. `more` is merged in: what only this kind has.
    fn tell(&mut self, kind: &str, what: &str, region: &Region, amount: Amount, more: Value) {
        let Census { present, file, swap } = census(region.start(), region.end());
        let told = (amount.anon + amount.file, amount.file, amount.swap);
        if told != (present, file, swap) {
            self.contradictions.push(format!(
                "{what}: made {told:?} pages present, of files, swapped; pagemap has {present}, {file}, {swap}"
            ));
        }
        self.tell_unchecked(kind, what, (region.start(), region.end()), amount, more);
    }

    fn tell_unchecked(&mut self, kind: &str, what: &str, (start, end): (usize, usize), amount: Amount, more: Value) {
        let bytes = |pages: usize| (pages * page_size()) as u64;
        let Amount { anon, file, swap, dirty } = amount;
        let mut told = json!({
            "kind": kind, "what": what, "start": format!("{start:#x}"), "end": format!("{end:#x}"),
            "size": end - start, "rss": bytes(anon + file), "anonymous": bytes(anon), "swap": bytes(swap),
            "dirty": bytes(dirty), "clean": bytes(anon + file - dirty), "locked": 0, "huge": 0, "lazy_free": 0,
        });
        if let (Some(told), Value::Object(more)) = (told.as_object_mut(), more) {
            told.extend(more);
        }
        self.mappings.push(told);
    }

    fn absent(&mut self, kind: &str, what: &str, why: impl ToString) {
        self.absent.push(json!({"kind": kind, "what": what, "why": why.to_string()}));
    }
}

struct Census {
    present: usize,
    file: usize,
    swap: usize,
}

/// Present, of these file or shared, and swapped pages, as this process's pagemap has them (bits 63, 61, 62).
fn census(start: usize, end: usize) -> Census {
    let mut entries = vec![0_u8; (end - start) / page_size() * 8];
    let pagemap = File::open("/proc/self/pagemap").expect("pagemap");
    pagemap.read_exact_at(&mut entries, (start / page_size() * 8) as u64).expect("pagemap can be read");
    let mut census = Census { present: 0, file: 0, swap: 0 };
    for entry in entries.chunks_exact(8) {
        let entry = u64::from_le_bytes(entry.try_into().expect("eight bytes"));
        let present = entry >> 63 == 1;
        census.present += usize::from(present);
        census.file += usize::from(present && entry >> 61 & 1 == 1);
        census.swap += usize::from(entry >> 62 & 1 == 1);
    }
    census
}

fn kinds(stage: &mut Stage) {
    // Linked a moment ago, its pages may not have been written to the disk: they would be dirty.
    File::open("/proc/self/exe").and_then(|program| program.sync_all()).expect("the program reaches the disk");
    stage.settle();
    let beginning = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let mut truth = Truth::default();
    // Kept until the end: dropping one would unmap it or close what it shows.
    let mut kept: Vec<OwnedFd> = Vec::new();
    anonymous(&mut truth);
    advised(stage, &mut truth);
    files(stage, &mut truth, &mut kept);
    shared(&mut truth, &mut kept);
    hugetlb(&mut truth);
    device(&mut truth, &mut kept);
    heap(&mut truth);
    let posts = threads(&mut truth);
    main_stack(&mut truth);
    locked_in(&mut truth, &beginning);
    for contradiction in std::mem::take(&mut truth.contradictions) {
        stage.fail(&contradiction);
    }
    stage.begin();
    stage.finish_with(Check::All, &[], json!({"mappings": truth.mappings, "absent": truth.absent}));
    drop((kept, posts));
}

fn anonymous(truth: &mut Truth) {
    let region = Region::anon(480);
    region.part(0, 300).write();
    truth.tell("anon", "private anonymous, part of it touched", &region, Amount::anon(300), json!({}));

    // Reading maps the zero page, which is nobody's memory: present in pagemap, in no counter.
    let region = Region::anon(100);
    region.part(0, 10).write();
    region.part(50, 90).read();
    truth.tell_unchecked(
        "anon",
        "private anonymous, written and read",
        (region.start(), region.end()),
        Amount::anon(10),
        json!({}),
    );

    let around = Region::anon(64);
    around.part(0, 1).write();
    around.part(63, 64).write();
    let guard = around.part(1, 63).place(libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
    truth.tell("guard", "no access allowed", &guard, Amount::default(), json!({}));
    truth.tell("anon", "below the guard", &around.part(0, 1), Amount::anon(1), json!({}));
    truth.tell("anon", "above the guard", &around.part(63, 64), Amount::anon(1), json!({}));

    let region = Region::anon(40);
    region.write();
    // SAFETY: names the scene's own mapping; the kernel copies the name.
    let named = unsafe {
        libc::prctl(
            libc::PR_SET_VMA,
            libc::PR_SET_VMA_ANON_NAME,
            region.pointer(),
            region.bytes(),
            c"memtrace kinds".as_ptr(),
        )
    };
    if named == 0 {
        truth.tell("anon", "named by prctl", &region, Amount::anon(40), json!({"name": "memtrace kinds"}));
    } else {
        let why = format!("PR_SET_VMA: {} (CONFIG_ANON_VMA_NAME)", io::Error::last_os_error());
        truth.absent("anon", "named by prctl", why);
        truth.tell("anon", "not named by prctl", &region, Amount::anon(40), json!({}));
    }

    let zero = OpenOptions::new().read(true).write(true).open("/dev/zero").expect("/dev/zero");
    let region = Region::file(&zero, 30, libc::MAP_PRIVATE);
    region.part(0, 20).write();
    truth.tell("anon", "private mapping of /dev/zero", &region, Amount::anon(20), json!({}));
}

/// Memory that the kernel was told something about.
fn advised(stage: &mut Stage, truth: &mut Truth) {
    let region = Region::anon(70);
    // SAFETY: the scene's own memory.
    let locked = unsafe { libc::mlock(region.pointer().cast(), region.bytes()) };
    assert_eq!(locked, 0, "mlock: {}", io::Error::last_os_error());
    // What is locked is touched by the kernel, which writes where it may: present and dirty.
    truth.tell("anon", "locked", &region, Amount::anon(70), json!({"locked": region.bytes()}));

    let region = Region::anon_aligned(2 * HUGE / page_size(), HUGE);
    region.advise(libc::MADV_HUGEPAGE);
    region.part(0, 1).write();
    let present = census(region.start(), region.end()).present;
    if present * page_size() == HUGE {
        truth.tell("anon", "one of two huge pages", &region, Amount::anon(present), json!({"huge": HUGE}));
    } else {
        truth.absent("anon", "one of two huge pages", "the kernel had no huge page to give, or THP is off");
    }

    // Pages wait in a list of each CPU until they are taken note of; the advice looks only at its own.
    {
        let _bound = Bound::to_first().expect("a CPU");
        let region = Region::anon(200);
        region.write();
        region.part(0, 119).advise(libc::MADV_FREE);
        // Has the list of those before it looked through.
        region.part(119, 120).advise(libc::MADV_FREE);
        region.part(119, 120).advise(libc::MADV_COLD);
        let amount = Amount { anon: 200, dirty: 80, ..Amount::default() };
        truth.tell("anon", "offered with MADV_FREE", &region, amount, json!({"lazy_free": 120 * page_size()}));
    }

    if std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1) {
        // With what guards it not a power of two: it would look like a thread's stack.
        let region = Region::anon(300);
        let bound = Bound::to_first().expect("a CPU");
        region.write();
        region.part(0, 192).advise(libc::MADV_PAGEOUT);
        drop(bound);
        let swap = census(region.start(), region.end()).swap;
        if swap < 100 {
            stage.fail(&format!("of 192 pages the kernel swapped {swap} out"));
        }
        let amount = Amount { anon: 300 - swap, swap, dirty: 300 - swap, file: 0 };
        truth.tell("anon", "swapped out", &region, amount, json!({}));
    } else {
        truth.absent("anon", "swapped out", "no swap is on");
    }
}

fn files(stage: &Stage, truth: &mut Truth, kept: &mut Vec<OwnedFd>) {
    let file = make_file(&stage.dir, 320);
    cache(&file, 320);
    // One mapping at a time: a page that two mappings of this process show counts as shared.
    let read = Region::file(&file, 64, libc::MAP_PRIVATE);
    read.read();
    truth.tell("file", "private mapping of a file, read", &read, Amount::clean(64), json!({}));
    let copied = Region::hole(64, 64 << 10).place_at(READ_WRITE, libc::MAP_PRIVATE, file.as_raw_fd(), 64);
    copied.read();
    copied.part(0, 24).write();
    let amount = Amount { anon: 24, file: 40, swap: 0, dirty: 24 };
    truth.tell("file", "private mapping of a file, partly copied", &copied, amount, json!({}));
    let written = Region::hole(64, 64 << 10).place_at(READ_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 128);
    written.part(0, 48).write();
    truth.tell("file", "shared mapping of a file, written", &written, Amount::dirty(48), json!({}));
    let untouched = Region::hole(64, 64 << 10).place_at(libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 192);
    truth.tell("file", "shared mapping of a file, never touched", &untouched, Amount::default(), json!({}));
    kept.push(file.into());

    let path = stage.dir.join("gone");
    let file = sized_file(&path, 16);
    let deleted = Region::file(&file, 16, libc::MAP_SHARED);
    deleted.write();
    std::fs::remove_file(&path).expect("removes its own file");
    let name = format!("{} (deleted)", path.display());
    truth.tell("file", "deleted file", &deleted, Amount::dirty(16), json!({"name": name}));
    kept.push(file.into());

    let tmpfs = stage.dir.join("tmpfs");
    if tmpfs.is_dir() {
        let file = sized_file(&tmpfs.join("file"), 40);
        let region = Region::file(&file, 40, libc::MAP_SHARED);
        region.part(0, 33).write();
        truth.tell("tmpfs", "file in a tmpfs", &region, Amount::dirty(33), json!({}));
        kept.push(file.into());
    } else {
        truth.absent("tmpfs", "file in a tmpfs", "the caller mounted none at DIR/tmpfs");
    }
}

fn sized_file(path: &Path, pages: usize) -> File {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).expect("a file of its own");
    file.set_len((pages * page_size()) as u64).expect("room for the file");
    file
}

/// Shared memory of each sort.
fn shared(truth: &mut Truth, kept: &mut Vec<OwnedFd>) {
    let region = Region::hole(200, page_size()).place(READ_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1);
    region.part(0, 150).write();
    truth.tell("shared_anon", "shared anonymous", &region, Amount::dirty(150), json!({}));

    let region = Region::hole(90, page_size());
    // SAFETY: a new segment over our own hole, marked to go with its last user at once.
    unsafe {
        let id = libc::shmget(libc::IPC_PRIVATE, region.bytes(), libc::IPC_CREAT | 0o600);
        assert!(id >= 0, "shmget: {}", io::Error::last_os_error());
        let at = libc::shmat(id, region.pointer().cast(), libc::SHM_REMAP);
        libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut());
        assert_eq!(at, region.pointer().cast(), "shmat: {}", io::Error::last_os_error());
    }
    region.part(0, 60).write();
    truth.tell("sysv_shm", "System V segment", &region, Amount::dirty(60), json!({}));

    let name = format!("/memtrace-kinds-{}", std::process::id());
    let path = CString::new(name.as_str()).expect("no NUL");
    // SAFETY: a NUL-terminated name; the descriptor is new and ours.
    let file = unsafe {
        let fd = libc::shm_open(path.as_ptr(), libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, 0o600);
        assert!(fd >= 0, "shm_open: {}", io::Error::last_os_error());
        File::from_raw_fd(fd)
    };
    file.set_len((80 * page_size()) as u64).expect("room for it");
    let region = Region::file(&file, 80, libc::MAP_SHARED);
    region.part(0, 50).write();
    let more = json!({"name": format!("/dev/shm{name}"), "fd": file.as_raw_fd()});
    truth.tell("posix_shm", "POSIX shared memory", &region, Amount::dirty(50), more);
    kept.push(file.into());

    // SAFETY: as above.
    let file = unsafe {
        let fd = libc::memfd_create(c"kinds".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0, "memfd_create: {}", io::Error::last_os_error());
        File::from_raw_fd(fd)
    };
    file.set_len((80 * page_size()) as u64).expect("room for it");
    let region = Region::file(&file, 80, libc::MAP_SHARED);
    region.part(10, 50).write();
    truth.tell("memfd", "memfd", &region, Amount::dirty(40), json!({"fd": file.as_raw_fd()}));
    kept.push(file.into());
}

/// One of two huge pages of hugetlbfs: in no counter that RES is made of.
fn hugetlb(truth: &mut Truth) {
    let hole = Region::hole(2 * HUGE / page_size(), HUGE);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_FIXED;
    // SAFETY: over our own hole.
    let at = unsafe { libc::mmap(hole.pointer().cast(), hole.bytes(), READ_WRITE, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        let why = format!("{} (vm.nr_hugepages)", io::Error::last_os_error());
        return truth.absent("hugetlb", "huge pages of hugetlbfs", why);
    }
    hole.part(0, 1).write();
    let range = (hole.start(), hole.end());
    truth.tell_unchecked("hugetlb", "huge pages of hugetlbfs", range, Amount::default(), json!({"hugetlb": HUGE}));
}

/// A packet socket's ring: memory that the driver has, mapped page by page, counted as file pages.
fn device(truth: &mut Truth, kept: &mut Vec<OwnedFd>) {
    const PAGES: usize = 32;
    // SAFETY: the descriptor is new and ours; the request is the struct that this option takes.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return truth.absent("device", "ring of a packet socket", io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let block = (8 * page_size()) as u32;
        let request = [block, (PAGES / 8) as u32, 2048, block / 2048 * (PAGES / 8) as u32];
        let size = size_of_val(&request) as libc::socklen_t;
        if libc::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, request.as_ptr().cast(), size) != 0 {
            return truth.absent("device", "ring of a packet socket", io::Error::last_os_error());
        }
        socket
    };
    let region = Region::hole(PAGES, page_size()).place(READ_WRITE, libc::MAP_SHARED, socket.as_raw_fd());
    truth.tell("device", "ring of a packet socket", &region, Amount::clean(PAGES), json!({}));
    kept.push(socket);
}

/// Moved break: the part that was there is locked and whole, the new one a mapping of its own, because it is not.
fn heap(truth: &mut Truth) {
    // SAFETY: the break goes up; malloc has room below it and finds a break that is not its own only when it asks again.
    let start = unsafe { libc::sbrk((120 * page_size()) as isize) };
    assert_ne!(start as isize, -1, "sbrk: {}", io::Error::last_os_error());
    let first = (start as usize).next_multiple_of(page_size());
    let region = Region::at(first, (start as usize + 120 * page_size()).next_multiple_of(page_size()));
    region.part(0, 77).write();
    truth.tell("heap", "raised break", &region, Amount::anon(77), json!({"name": "[heap]"}));
}

/// Named threads that wait in a system call, each with so many pages of its stack touched; one of them fills an arena.
fn threads(truth: &mut Truth) -> Vec<Post> {
    let mut posts = Vec::new();
    for (name, stack, arena) in [(c"kinds-shallow", 8, 0), (c"kinds-deep", 100, 0), (c"kinds-malloc", 10, 300)] {
        let post = Post::start(name, stack, arena);
        let thread = json!({"tid": post.tid, "comm": name.to_str().expect("ASCII")});
        let what = format!("stack of {}", name.to_str().expect("ASCII"));
        let (start, end) = post.stack;
        let guard = Region::at(start - page_size(), start);
        truth.tell("thread_stack", "its guard", &guard, Amount::default(), json!({}));
        let amount = Amount::anon(stack);
        truth.tell("thread_stack", &what, &Region::at(start, end), amount, json!({"thread": thread}));
        if let Some((start, end)) = post.arena {
            let region = Region::at(start, end);
            let amount = Amount::anon(region.pages());
            truth.tell("arena", "arena of a thread", &region, amount, json!({"allocator": "glibc"}));
            let reserve = Region::at(end, end.next_multiple_of(ARENA_BYTES));
            truth.tell("arena", "its reserve", &reserve, Amount::default(), json!({"allocator": "glibc"}));
        }
        posts.push(post);
    }
    posts
}

/// The kernel's top of it is locked in; below, a step over pages that stay untouched.
fn main_stack(truth: &mut Truth) {
    let (start, end) = named_range("[stack]").expect("a main stack");
    // The stack grows to wherever it is touched; what lies between is address space and no memory.
    for page in 11..=30 {
        Region::at(start - page * page_size(), start - (page - 1) * page_size()).touch();
    }
    let (grown, _) = named_range("[stack]").expect("a main stack");
    let touched = census(start, end).present + 20;
    let more = json!({"name": "[stack]", "locked": null, "locked_size": end - grown});
    truth.tell("stack", "main stack", &Region::at(grown, end), Amount::anon(touched), more);
    if grown != start - 30 * page_size() {
        truth
            .contradictions
            .push(format!("the main stack grew to {grown:#x} from {start:#x} by a touch 30 pages below"));
    }
}

/// What was there at the beginning and was locked in: whole, from end to end.
fn locked_in(truth: &mut Truth, maps: &str) {
    let program = std::fs::read_link("/proc/self/exe").expect("a program").display().to_string();
    let image = |name: &str| match name {
        _ if name == program => Some("program"),
        _ if name.contains(".so") => Some("library"),
        _ => None,
    };
    let mut data: Option<Line<'_>> = None;
    for line in maps.lines().filter_map(Line::parse) {
        if line.name.starts_with("[stack") || line.name.starts_with("[v") {
            continue;
        }
        let region = Region::at(line.start, line.end);
        let pages = region.pages();
        let copies = census(line.start, line.end);
        // Zero-initialised data has no name; it follows the file's own.
        let before = data.take().filter(|data| line.name.is_empty() && data.end == line.start);
        let (kind, amount) = match (image(line.name), line.permissions) {
            (_, "---p") => ("guard", Amount::default()),
            // The kernel writes where it may: private copies.
            (Some(kind), "rw-p") => (kind, Amount::anon(pages)),
            // The loader's relocations made copies of read-only data.
            (Some(kind), _) => {
                let anon = copies.present - copies.file;
                (kind, Amount { anon, file: pages - anon, swap: 0, dirty: anon })
            }
            (None, _) if line.name == "[heap]" => ("heap", Amount::anon(pages)),
            (None, _) => (before.and_then(|data| image(data.name)).unwrap_or("anon"), Amount::anon(pages)),
        };
        truth.tell(kind, "locked in", &region, amount, json!({"locked": null, "locked_size": region.bytes()}));
        if line.permissions == "rw-p" {
            data = Some(line);
        }
    }
}

struct Line<'a> {
    start: usize,
    end: usize,
    permissions: &'a str,
    name: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.splitn(6, ' ');
        let (start, end) = words.next()?.split_once('-')?;
        let permissions = words.next()?;
        let name = words.nth(3).unwrap_or_default().trim_start();
        Some(Self {
            start: usize::from_str_radix(start, 16).ok()?,
            end: usize::from_str_radix(end, 16).ok()?,
            permissions,
            name,
        })
    }
}

fn named_range(name: &str) -> Option<(usize, usize)> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().filter_map(Line::parse).find(|line| line.name == name)?;
    Some((line.start, line.end))
}
