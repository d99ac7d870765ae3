//! The files of which a process maps parts: what of each is in the process, in the page cache, and in no memory.
//!
//! A file is known by device and inode, as maps prints them: the kernel's word, whatever its path leads to. System V and
//! anonymous shared memory, hugetlbfs and devices are no files in this sense: there is no disk behind them, and
//! their figures are with their mappings. memfds and files of tmpfs are, and [`MappedFile::on_disk`] tells them apart.
//!
//! A figure of the page cache is the whole file's, whoever read it in. It is unknown, never 0, where the file cannot be
//! opened or the kernel hides it ([`crate::procfs::read_mincore`]); on overlayfs and FUSE only presence is known, because there
//! the page cache is another file's, which only a mapping leads to.
//!
//! A file system whose server is dead answers nobody, so the files are looked at by a thread that is waited for no longer
//! than [`TIME`] in all (with `--full`, [`TIME_IN_FULL`]); what it has not answered by then is given up, and said. Files on
//! live servers cost nothing extra.

use super::{Costs, not_permitted};
use crate::event::permission::{SHARED, WRITE};
use crate::live::rights::bit;
use crate::procfs::{FileSystem, NotOpened, Place, ProcessFiles, open_mapped, page_size, read_cachestat, read_mincore};
use crate::snapshot::{GivenUp, MappedFile, Mapping, Reason, Source};
use crate::statement::Kind;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// How many files are looked at: the largest parts first. At some tens of microseconds each.
const FILES: usize = 4096;
/// How long all of them are waited for. No lock of the target is held meanwhile.
const TIME: Duration = Duration::from_secs(1);
/// The same where everything was asked for: a dead server is not waited for until it comes back.
const TIME_IN_FULL: Duration = Duration::from_secs(60);
/// How many threads may hang at dead servers before no more are started: `--watch` would start one each time.
const HANGING: usize = 8;

/// Threads that look at files.
static LOOKING: AtomicUsize = AtomicUsize::new(0);

/// The files that these mappings show, the largest part first, and what is not known of them.
///
/// Every file is in the list, also when nothing but its mappings is known of it; the reasons are told once for all.
#[must_use]
pub fn read_files(
    process: &ProcessFiles,
    mappings: &[Mapping],
    full: bool,
    costs: &mut Costs,
) -> (Vec<MappedFile>, Vec<GivenUp>) {
    let time = if full { TIME_IN_FULL } else { TIME };
    let mut parts = parts_of(mappings);
    let mut unknown = BTreeMap::<Unknown, usize>::new();
    let mut missed = |why: Unknown, count: usize| *unknown.entry(why).or_default() += count;
    match look_at(process, &mut parts, time, costs) {
        Ok(0) => {}
        Ok(late) => missed(Unknown::Late, late),
        Err(why) => missed(why, parts.len().min(FILES)),
    }
    if parts.len() > FILES {
        missed(Unknown::Many, parts.len() - FILES);
    }
    let mut files = Vec::with_capacity(parts.len());
    for part in parts {
        if let Some(why) = part.look.as_ref().and_then(|look| look.unknown.clone()) {
            missed(why, 1);
        }
        files.extend(part.into_file());
    }
    // Cut at the files' ends, some are smaller than they seemed.
    files.sort_by(|a, b| b.mapped.cmp(&a.mapped).then_with(|| a.path.cmp(&b.path)));
    (files, unknown.into_iter().map(|(why, count)| why.given_up(count, time)).collect())
}

/// A file as its mappings tell of it, and what was found when it was looked at.
struct Part {
    place: Place,
    in_memory: bool,
    /// Ranges of the file that are mapped, by offset, disjoint.
    ranges: Vec<Range<u64>>,
    resident: Option<u64>,
    writable_shared: bool,
    look: Option<Look>,
}

/// What was found at one file.
#[derive(Default)]
struct Look {
    /// No regular file, or one of hugetlbfs: not to be listed.
    not_a_file: bool,
    size: Option<u64>,
    on_disk: Option<bool>,
    page_cache: Option<u64>,
    dirty: Option<u64>,
    writeback: Option<u64>,
    unknown: Option<Unknown>,
    costs: Vec<(Source, Duration)>,
}

/// Why something is unknown of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unknown {
    /// Without the right to follow mappings, neither does a path lead there.
    Denied,
    /// The file may not be read.
    Unreadable,
    /// The kernel tells it only to those who may write the file.
    Hidden,
    /// The mapping is gone, and its path leads elsewhere.
    Lost,
    /// Presence is known, not what is dirty: no cachestat.
    NotOffered,
    /// Presence is known, not what is dirty: the pages are another file's.
    Stacked,
    /// There were too many.
    Many,
    /// It took too long.
    Late,
    /// Too many threads of ours hang.
    Hanging,
    /// The process has ended.
    Gone,
    /// What the system said.
    Failed(String),
}

impl Unknown {
    fn given_up(self, files: usize, time: Duration) -> GivenUp {
        let told = |text: &str| Reason::Failed {
            what: format!("{text} ({files} {})", if files == 1 { "file" } else { "files" }),
        };
        let reason = match &self {
            Self::Denied => not_permitted(bit::SYS_ADMIN, "CAP_SYS_ADMIN"),
            Self::Unreadable => not_permitted(bit::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
            Self::Hidden => not_permitted(bit::FOWNER, "CAP_FOWNER"),
            Self::NotOffered => Reason::NotOffered,
            Self::Gone => Reason::Gone,
            Self::Lost => told("its path leads to another file, and the mapping is gone"),
            Self::Stacked => told("overlayfs and FUSE do not tell what is dirty"),
            Self::Many => told(&format!("only the {FILES} of which most is mapped were looked at")),
            Self::Late if time < TIME_IN_FULL => {
                told(&format!("no answer within {} s, --full waits longer", time.as_secs()))
            }
            Self::Late => told(&format!("no answer within {} s", time.as_secs())),
            Self::Hanging => told("earlier looks still wait for a file system that does not answer"),
            Self::Failed(what) => told(what),
        };
        GivenUp { source: Source::Cachestat, reason }
    }
}

/// Mappings by file, the largest part first.
fn parts_of(mappings: &[Mapping]) -> Vec<Part> {
    let mut parts = BTreeMap::<(u64, u64), Part>::new();
    for mapping in mappings.iter().filter(|mapping| shows_a_file(mapping)) {
        let end = mapping.offset.saturating_add(mapping.size());
        let here = mapping.resident.map(|resident| resident.rss.saturating_sub(resident.anonymous));
        let part = parts.entry((mapping.device, mapping.inode)).or_insert_with(|| Part {
            place: Place {
                range: mapping.start..mapping.end,
                device: mapping.device,
                inode: mapping.inode,
                path: mapping.name.clone(),
            },
            in_memory: matches!(mapping.kind, Kind::Memfd | Kind::PosixShm | Kind::Tmpfs),
            ranges: Vec::new(),
            resident: Some(0),
            writable_shared: false,
            look: None,
        });
        part.ranges.push(mapping.offset..end);
        part.resident = part.resident.zip(here).map(|(sum, here)| sum.saturating_add(here));
        part.writable_shared |= mapping.permissions & (SHARED | WRITE) == SHARED | WRITE;
    }
    let mut parts: Vec<Part> = parts.into_values().collect();
    for part in &mut parts {
        unite(&mut part.ranges);
    }
    parts.sort_by_key(|part| std::cmp::Reverse(bytes_of(&part.ranges, u64::MAX)));
    parts
}

const fn shows_a_file(mapping: &Mapping) -> bool {
    let no_file = matches!(
        mapping.kind,
        Kind::SharedAnon | Kind::SysvShm | Kind::Hugetlb | Kind::Device | Kind::Vdso | Kind::Heap | Kind::Stack
    );
    mapping.inode != 0 && !no_file
}

/// Sorts and merges, so that each byte is in one range.
fn unite(ranges: &mut Vec<Range<u64>>) {
    ranges.sort_by_key(|range| range.start);
    ranges.dedup_by(|next, kept| {
        let meets = next.start <= kept.end;
        if meets {
            kept.end = kept.end.max(next.end);
        }
        meets
    });
}

/// Bytes of disjoint ranges before `end`.
fn bytes_of(ranges: &[Range<u64>], end: u64) -> u64 {
    ranges.iter().fold(0, |sum, range| sum.saturating_add(range.end.min(end).saturating_sub(range.start)))
}

impl Part {
    fn into_file(self) -> Option<MappedFile> {
        let look = self.look.unwrap_or_default();
        if look.not_a_file {
            return None;
        }
        let end = look.size.and_then(|size| size.checked_next_multiple_of(page_size())).unwrap_or(u64::MAX);
        Some(MappedFile {
            path: self.place.path,
            device: self.place.device,
            inode: self.place.inode,
            size: look.size,
            mapped: bytes_of(&self.ranges, end),
            resident: self.resident,
            on_disk: look.on_disk.or(self.in_memory.then_some(false)),
            page_cache: look.page_cache,
            dirty: look.dirty,
            writeback: look.writeback,
            writable_shared: self.writable_shared,
        })
    }
}

/// Looks at the first [`FILES`] of them for so long; how many did not answer.
fn look_at(process: &ProcessFiles, parts: &mut [Part], time: Duration, costs: &mut Costs) -> Result<usize, Unknown> {
    let chosen = parts.len().min(FILES);
    if chosen == 0 {
        return Ok(0);
    }
    let directory = process.open_directory().map_err(|_| Unknown::Gone)?;
    let turn = Turn::take(&LOOKING).ok_or(Unknown::Hanging)?;
    let places: Vec<Place> = parts[..chosen].iter().map(|part| part.place.clone()).collect();
    let deadline = Instant::now() + time;
    let (sender, receiver) = channel();
    std::thread::Builder::new()
        .name("memtrace-files".to_owned())
        .spawn(move || {
            look_at_each(&directory, &places, deadline, &sender);
            drop(turn);
        })
        .map_err(|error| Unknown::Failed(error.to_string()))?;
    let mut late = chosen;
    // Ends by the deadline, or when the thread has come to its end.
    while let Ok((index, look)) = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        let look: Look = look;
        for &(source, duration) in &look.costs {
            costs.add(source, duration);
        }
        if let Some(part) = parts.get_mut(index) {
            part.look = Some(look);
            late -= 1;
        }
    }
    Ok(late)
}

fn look_at_each(process: &File, places: &[Place], deadline: Instant, answers: &Sender<(usize, Look)>) {
    for (index, place) in places.iter().enumerate() {
        if Instant::now() >= deadline || answers.send((index, look(process, place, deadline))).is_err() {
            return;
        }
    }
}

/// One of the threads that may be looking.
struct Turn(&'static AtomicUsize);

impl Turn {
    fn take(looking: &'static AtomicUsize) -> Option<Self> {
        let more = |count| (count < HANGING).then_some(count + 1);
        looking.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self(looking))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn look(process: &File, place: &Place, deadline: Instant) -> Look {
    let begin = Instant::now();
    let mut look = Look::default();
    match open_mapped(process, place) {
        Err(NotOpened::NotAFile) => look.not_a_file = true,
        Err(NotOpened::Denied) => look.unknown = Some(Unknown::Denied),
        Err(NotOpened::Lost) => look.unknown = Some(Unknown::Lost),
        Ok(opened) => {
            look.not_a_file = opened.system == Some(FileSystem::Huge);
            look.size = Some(opened.size);
            look.on_disk = match opened.system {
                Some(FileSystem::Disk) => Some(true),
                Some(FileSystem::Memory | FileSystem::Huge) => Some(false),
                Some(FileSystem::Stacked) | None => None,
            };
            match opened.file {
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    look.unknown = Some(Unknown::Unreadable);
                }
                Err(error) => look.unknown = Some(Unknown::Failed(format!("it cannot be opened: {error}"))),
                Ok(file) => look.ask(&file, opened.size, opened.system, deadline),
            }
        }
    }
    let asked: Duration = look.costs.iter().map(|(_, duration)| *duration).sum();
    look.costs.push((Source::Cachestat, begin.elapsed().saturating_sub(asked)));
    look
}

impl Look {
    fn ask(&mut self, file: &File, size: u64, system: Option<FileSystem>, deadline: Instant) {
        if system == Some(FileSystem::Stacked) {
            self.unknown = Some(Unknown::Stacked);
        } else {
            match read_cachestat(file.as_fd(), 0..0) {
                Ok(stat) => {
                    self.page_cache = Some(stat.cached);
                    self.dirty = Some(stat.dirty);
                    self.writeback = Some(stat.writeback);
                    return;
                }
                // A filter of system calls may say EPERM of those that it does not know: mincore decides.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                    self.unknown = Some(Unknown::NotOffered);
                }
                Err(error) => {
                    self.unknown = Some(Unknown::Failed(error.to_string()));
                    return;
                }
            }
        }
        let begin = Instant::now();
        let answer = read_mincore(file.as_fd(), size, deadline);
        self.costs.push((Source::Mincore, begin.elapsed()));
        match answer {
            Ok(bytes) => self.page_cache = Some(bytes),
            Err(error) => {
                self.unknown = Some(match error.kind() {
                    std::io::ErrorKind::PermissionDenied => Unknown::Hidden,
                    std::io::ErrorKind::TimedOut => Unknown::Late,
                    _ => Unknown::Failed(error.to_string()),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
