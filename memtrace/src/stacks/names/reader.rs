//! The process that reads symbols.
//!
//! Everything that opens a module, a debug file or a perf map happens here, in a process that may be ended at any
//! moment: by a file that is cut while it is mapped (SIGBUS), by recursion or memory that a hostile file asks for, or by
//! the one that asks, when an answer takes too long. It answers one question at a time and knows nothing else.

use super::debug_file::{self, DebugFile};
use super::elf::{Bytes, Elf, Parsed, parse};
use super::lines::Lines;
use super::perf_map::PerfMap;
use super::question::{Answer, Callee, Module, Named, Place, Question, Source, receive, send};
use super::text;
use crate::event::Symbol;
use object::{Object, ObjectSection};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Largest file whose symbols are read, bytes.
const MAX_FILE: u64 = 2 << 30;
/// Largest file whose debugging information is read, bytes.
const MAX_DEBUG_FILE: u64 = 512 << 20;
/// Most modules that are kept; then all are forgotten.
const MAX_MODULES: usize = 512;
/// Memory of its own that the process may have, bytes; mapped files are not counted.
const MAX_MEMORY: u64 = 2 << 30;
/// The process ends itself when an answer takes this long: the one who asks has given up, or is gone.
const MAX_ANSWER: Duration = Duration::from_secs(20);

/// Answers questions from the socket that standard input is, until the other end closes.
///
/// # Errors
/// When standard input is no such socket, or speaks otherwise.
pub(super) fn serve() -> io::Result<()> {
    limit(libc::RLIMIT_DATA, MAX_MEMORY);
    limit(libc::RLIMIT_CORE, 0);
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut reader = Reader::default();
    loop {
        alarm(Duration::ZERO);
        let question: Question = match receive(&mut socket) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            question => question?,
        };
        alarm(MAX_ANSWER);
        let mut answer = reader.answer(question);
        answer.cpu_ns = cpu_time();
        send(&mut socket, &answer)?;
    }
}

fn limit(resource: libc::__rlimit_resource_t, amount: u64) {
    let limit = libc::rlimit { rlim_cur: amount, rlim_max: amount };
    // SAFETY: the kernel reads a struct that lives here. Where it refuses there is a lower limit already.
    unsafe { libc::setrlimit(resource, &raw const limit) };
}

/// The process is ended by SIGALRM after `time`; never, when that is zero.
fn alarm(time: Duration) {
    // SAFETY: alarm() has no preconditions.
    unsafe { libc::alarm(u32::try_from(time.as_secs()).unwrap_or(u32::MAX)) };
}

fn cpu_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes a struct that lives here.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// A module as far as it was read.
enum Known {
    /// Its symbols, and where its debugging information is.
    Elf(Box<(Elf, Option<Debug>)>),
    PerfMap(PerfMap),
    Refused,
}

/// Debugging information, and where it is until it is asked for.
struct Debug {
    path: PathBuf,
    follow: bool,
    /// Keeps the path valid.
    _open: Option<File>,
    lines: Option<Lines>,
}

#[derive(Default)]
struct Reader {
    modules: HashMap<u32, Known>,
}

impl Reader {
    fn answer(&mut self, question: Question) -> Answer {
        match question {
            Question::Name { module, lines, places } => self.name(&module, lines, &places),
            Question::Callee { module, returns_to } => match self.known(&module) {
                Known::Elf(known) => Answer { callee: known.0.callee(returns_to), ..Answer::default() },
                _ => Answer::default(),
            },
            Question::Variant { module, callee } => {
                Answer { named: self.variant(&module, &callee), ..Answer::default() }
            }
        }
    }

    fn known(&mut self, module: &Module) -> &mut Known {
        if self.modules.len() >= MAX_MODULES {
            self.modules.clear();
        }
        self.modules.entry(module.id).or_insert_with(|| match &module.source {
            Source::PerfMap { .. } => Known::PerfMap(PerfMap::default()),
            Source::Image(bytes) => known_elf(Bytes::Owned(bytes.clone()), None, module),
            Source::File(path) => match open(path) {
                Ok(bytes) => known_elf(bytes, Some(path), module),
                Err(_) => Known::Refused,
            },
        })
    }

    fn name(&mut self, module: &Module, lines: bool, places: &[Place]) -> Answer {
        match self.known(module) {
            Known::Refused => Answer { refused: true, ..Answer::default() },
            Known::PerfMap(map) => {
                if let Source::PerfMap { pid, uid } = module.source
                    && let Ok(root) = File::open(module.root.as_deref().unwrap_or("/"))
                {
                    // No map is no name; what was read before still holds.
                    let _ = map.refresh(&root, pid, uid);
                }
                let named = places.iter().map(|place| map.name(place.at, place.after_call)).collect();
                Answer { named, ..Answer::default() }
            }
            Known::Elf(known) => {
                let (elf, debug) = &mut **known;
                let mut lines = debug.as_mut().filter(|_| lines).map(Debug::lines);
                let named = places.iter().map(|&place| name(elf, lines.as_deref_mut(), place)).collect();
                let unreadable = lines.map(|lines| std::mem::take(&mut lines.unreadable)).unwrap_or_default();
                Answer { named, whole: elf.whole, unreadable, ..Answer::default() }
            }
        }
    }

    fn variant(&mut self, module: &Module, callee: &Callee) -> Vec<Named> {
        let Known::Elf(known) = self.known(module) else { return Vec::new() };
        let symbols = known.0.variant(callee).into_iter().map(|name| plain(&name));
        symbols.map(|symbol| Named { symbols: vec![symbol], offset: 0 }).collect()
    }
}

fn plain(name: &[u8]) -> Symbol {
    Symbol { name: text::shown(name), file: Vec::new(), line: 0 }
}

fn open(path: &str) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Bytes::map(&file)
}

fn known_elf(bytes: Bytes, path: Option<&str>, module: &Module) -> Known {
    let Ok(parsed) = parse(&bytes) else { return Known::Refused };
    let root = module.root.as_deref().map(File::open);
    let separate = match root {
        // Without its root directory nothing of the module's is found, and nothing of ours is taken for it.
        Some(Err(_)) => None,
        Some(Ok(root)) => debug_file::find(&parsed, Path::new(OsStr::from_bytes(&module.path)), Some(&root)),
        None => debug_file::find(&parsed, Path::new(OsStr::from_bytes(&module.path)), None),
    };
    let own = path.filter(|_| has_lines(&parsed, bytes.len(), false)).map(|path| Debug::new(path.into(), false, None));
    let (separate, debug) = match separate {
        Some(DebugFile { file, bytes, trusted }) if bytes.len() as u64 <= MAX_FILE => {
            let lines = parse(&bytes).is_ok_and(|parsed| has_lines(&parsed, bytes.len(), trusted.is_some()));
            let debug = lines.then(|| match trusted {
                Some(path) => Debug::new(path, true, None),
                None => Debug::new(format!("/proc/self/fd/{}", file.as_raw_fd()).into(), false, Some(file)),
            });
            (Some(bytes), debug.or(own))
        }
        _ => (None, own),
    };
    match Elf::new(bytes, separate) {
        Some(elf) => Known::Elf(Box::new((elf, debug))),
        None => Known::Refused,
    }
}

/// If there is debugging information that may be given to blazesym. It opens by itself what a file refers to: only
/// files that root put into our own file system may refer to others.
fn has_lines(parsed: &Parsed<'_>, length: usize, trusted: bool) -> bool {
    let refers = |name| parsed.section_by_name(name).is_some();
    let refers_out = refers(".gnu_debuglink") || refers(".gnu_debugaltlink") || refers(".debug_sup");
    let info = parsed.section_by_name(".debug_info").is_some_and(|section| section.size() > 0);
    info && length as u64 <= MAX_DEBUG_FILE && (trusted || !refers_out)
}

impl Debug {
    fn new(path: PathBuf, follow: bool, open: Option<File>) -> Self {
        Self { path, follow, _open: open, lines: None }
    }

    fn lines(&mut self) -> &mut Lines {
        self.lines.get_or_insert_with(|| Lines::new(self.path.clone(), self.follow))
    }
}

/// The names of a place: inlined functions and lines where there is debugging information, and for the function that
/// holds it the best of its symbols, which is the name that callers know.
fn name(elf: &Elf, lines: Option<&mut Lines>, place: Place) -> Named {
    let Some(code) = elf.code(place) else { return Named::default() };
    let function = elf.function(code);
    let inside = u64::from(place.after_call);
    let mut named = lines.and_then(|lines| lines.name(code)).unwrap_or_default();
    named.offset += inside;
    if let Some(function) = function {
        let best = plain(function.name);
        named.offset = code - function.start + inside;
        match named.symbols.last_mut() {
            Some(outermost) => outermost.name = best.name,
            None => named.symbols.push(best),
        }
    }
    // An inlined function without the one that holds it would be taken for that.
    if named.symbols.last().is_some_and(|outermost| !outermost.name.is_empty()) { named } else { Named::default() }
}
