//! Asks the memory of database servers' backends what they are doing: a thread of its own, so that neither the session
//! nor a busy target decides when it looks.
//!
//! Only pages that are in memory are read, and nothing is brought in: what we read must not change what we measure.

use super::asker::{Answer, Asker, Question, repeatable};
use crate::cli::Dsn;
use crate::database::postgres::{Refusal, Status};
use crate::database::{Memory, Program, Server, Unread, mysql_version, read_text};
use crate::event::{Backend, Event};
use crate::procfs::{Directory, PresentMemory, monotonic_ns, parse_status};
use crate::stacks::{Bytes, open_regular};
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Distance of looks at a wait event. One takes about 5 µs.
const SAMPLE: Duration = Duration::from_millis(20);
/// Distance of events, in samples: a second.
const SAMPLES_PER_EVENT: u32 = 50;
/// Where the auxiliary vector has the address of the program's first instruction (`AT_ENTRY`).
const AT_ENTRY: u64 = 9;
/// Executables that are remembered.
const KNOWN_MAX: usize = 256;
/// Distance of questions to a server.
const QUESTIONS: Duration = Duration::from_secs(1);
/// Descriptors that are looked at.
const DESCRIPTORS_MAX: usize = 4096;
/// The folder of the files that sorts and hashes go to.
const TEMPORARY: &[u8] = b"/pgsql_tmp/";
/// Bytes of what the kernel tells in a file.
const READ_MAX: u64 = 64 << 10;
/// Bytes of `PG_VERSION`, and of MySQL's version, that are read.
const VERSION_MAX: usize = 64;
/// How long the end waits for a last look: longer than a server is asked. Files of a target that hangs may hang, too.
const PATIENCE: Duration = Duration::from_secs(3);

/// The backends of a session.
#[derive(Debug)]
pub struct Backends {
    wanted: Sender<Vec<u32>>,
    /// The first processes have been recognised, or not.
    ready: Receiver<()>,
    events: Receiver<Event>,
    thread: JoinHandle<()>,
}

impl Backends {
    /// Begins to look at processes, those that are database servers'. Of one of them its server is asked, too.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(pids: Vec<u32>, ask: Option<(u32, Dsn)>) -> io::Result<Self> {
        let (wanted, wants) = mpsc::channel();
        let (sender, events) = mpsc::channel();
        let (readied, ready) = mpsc::channel();
        let asked = ask.map(|(pid, dsn)| Asked::start(pid, dsn)).transpose()?;
        let thread = std::thread::Builder::new()
            .name("backends".to_owned())
            .spawn(move || look(&wants, &readied, &sender, asked))?;
        // The thread ends when this end does.
        let _ = wanted.send(pids);
        Ok(Self { wanted, ready, events, thread })
    }

    /// Waits until the first processes have been recognised, which takes a look into the server's file; three seconds at
    /// most.
    pub fn wait_until_ready(&self) {
        let _ = self.ready.recv_timeout(PATIENCE);
    }

    /// These processes from now on.
    pub fn watch(&self, pids: Vec<u32>) {
        let _ = self.wanted.send(pids);
    }

    /// What was seen since the last call.
    pub fn take(&self) -> Vec<Event> {
        self.events.try_iter().collect()
    }

    /// Ends it. What was seen since the last call, and a last look; without that where it takes more than three seconds:
    /// whoever reads from a file system that does not answer cannot be called back.
    pub fn finish(self) -> Vec<Event> {
        let Self { wanted, events, thread, .. } = self;
        drop(wanted);
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => seen.push(event),
                Err(RecvTimeoutError::Disconnected) => {
                    // A panic there has been printed.
                    let _ = thread.join();
                    return seen;
                }
                Err(RecvTimeoutError::Timeout) => {
                    log::warn!("a file of the target does not answer: what its server says of itself is not complete");
                    return seen;
                }
            }
        }
    }
}

/// What a database server's process says of itself now, with one look at what it waits for; `None` for any other
/// process, and for one that is gone, may not be read, or whose files do not answer within three seconds.
#[must_use]
pub fn read_backend(pid: u32) -> Option<Backend> {
    let seen = Backends::start(vec![pid], None).ok()?.finish();
    seen.into_iter().find_map(|event| match event {
        Event::Backend(backend) => Some(*backend),
        _ => None,
    })
}

/// Looks until nobody wants it any more.
fn look(wants: &Receiver<Vec<u32>>, ready: &Sender<()>, events: &Sender<Event>, mut asked: Option<Asked>) {
    let mut processes: BTreeMap<u32, Process> = BTreeMap::new();
    let mut next = Instant::now();
    let mut samples = 0_u32;
    let mut known = Known::default();
    let tell = |process: &mut Process, known: &mut Known, asked: &Option<Asked>| {
        if let Some(mut backend) = process.tell(known) {
            if let Some(asked) = asked.as_ref().filter(|asked| asked.pid == backend.pid) {
                asked.tell(&mut backend);
            }
            // Nobody takes it any more: the session ends.
            let _ = events.send(Event::Backend(Box::new(backend)));
        }
    };
    loop {
        match wants.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(pids) => {
                processes.retain(|pid, process| {
                    let wanted = pids.contains(pid);
                    if !wanted {
                        tell(process, &mut known, &asked);
                    }
                    wanted
                });
                for pid in pids {
                    processes.entry(pid).or_insert_with(|| Process::new(pid, &mut known));
                }
                let _ = ready.send(());
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        // Those that were missed are not made up for.
        next = (next + SAMPLE).max(Instant::now());
        samples = samples.wrapping_add(1);
        processes.values_mut().for_each(Process::sample);
        if let Some(asked) = &mut asked {
            asked.go_on(processes.get(&asked.pid));
        }
        if samples.is_multiple_of(SAMPLES_PER_EVENT) {
            processes.values_mut().for_each(|process| tell(process, &mut known, &asked));
        }
    }
    if let Some(asked) = &mut asked {
        asked.end(processes.get_mut(&asked.pid));
    }
    processes.values_mut().for_each(|process| tell(process, &mut known, &asked));
}

/// What the server of one process is asked.
struct Asked {
    pid: u32,
    asker: Asker,
    /// What it is asked with, as far as anybody may read that.
    with: Option<String>,
    /// When it may be asked again.
    due: Instant,
    /// The question under way, if there is one.
    question: Since,
    /// The last answer, and its question.
    answer: Option<(Answer, Since)>,
}

/// A question.
#[derive(Clone, Copy, Default)]
struct Since {
    asked_ns: u64,
    /// Every look since then found the process waiting for a lock.
    in_lock: bool,
}

impl Asked {
    fn start(pid: u32, dsn: Dsn) -> io::Result<Self> {
        let (with, asker) = (repeatable(&dsn), Asker::start(dsn)?);
        Ok(Self { pid, with, asker, due: Instant::now(), question: Since::default(), answer: None })
    }

    /// Asks once at the begin, and then while the process waits for a lock: to answer costs the server a look at all of
    /// its locks. A server that gave no answer is not asked again.
    fn go_on(&mut self, process: Option<&Process>) {
        self.looked(process);
        self.take();
        let Some((process, running)) = process.and_then(|process| Some((process, process.backend.as_ref()?))) else {
            return;
        };
        let again = match &self.answer {
            None => true,
            Some((Ok(_), _)) => process.waits_for_lock,
            Some((Err(_), _)) => false,
        };
        if again && !self.asker.is_busy() && Instant::now() >= self.due {
            self.due = Instant::now() + QUESTIONS;
            self.question = Since { asked_ns: monotonic_ns(), in_lock: process.waits_for_lock };
            let started_ns = running.tell().started_ns;
            self.asker.ask(Question { pid: self.pid, own_pid: running.own_pid, started_ns });
        }
    }

    /// What was said of a lock does not hold of the next one.
    fn looked(&mut self, process: Option<&Process>) {
        let in_lock = process.is_some_and(|process| process.waits_for_lock);
        self.question.in_lock &= in_lock;
        if let Some((_, since)) = &mut self.answer {
            since.in_lock &= in_lock;
        }
    }

    fn take(&mut self) {
        let answer = self.asker.take().map(|answer| (answer, self.question));
        self.answer = answer.or(self.answer.take());
    }

    /// A last question, where it waits for a lock or nothing had been asked yet: what is said at the end is to hold then.
    fn end(&mut self, mut process: Option<&mut Process>) {
        self.due = Instant::now();
        self.go_on(process.as_deref());
        match (self.asker.wait(), &self.answer) {
            (None, _) | (Some(Err(_)), Some((Ok(_), _))) => {}
            (Some(answer), _) => self.answer = Some((answer, self.question)),
        }
        if let Some(process) = &mut process {
            process.sample();
        }
        self.looked(process.as_deref());
    }

    fn tell(&self, backend: &mut Backend) {
        backend.asked.clone_from(&self.with);
        match &self.answer {
            Some((Ok(blockers), since)) => {
                backend.blocked_by = Some(blockers.clone());
                (backend.asked_ns, backend.in_lock) = (Some(since.asked_ns), since.in_lock);
            }
            Some((Err(why), _)) => backend.unanswered.clone_from(why),
            None => {}
        }
    }
}

/// A process that is looked at.
struct Process {
    pid: u32,
    /// The executable that `backend` was found from.
    exe: Option<(u64, u64)>,
    /// `None` for what is no database server.
    backend: Option<Running>,
    /// In the last look.
    waits_for_lock: bool,
    waits: HashMap<Option<(String, String)>, u64>,
}

/// Device, inode, time of change and size of an executable, and the content of `PG_VERSION`.
type Content = ((u64, u64), (i64, i64), u64, Option<Vec<u8>>);

/// What executables were recognised as, where their files have it, and their entry there.
#[derive(Default)]
struct Known(HashMap<Content, Option<(u64, Server)>>);

impl Known {
    /// The server that a process is whose program begins at `entry`.
    fn server(&mut self, pid: u32, entry: u64) -> Option<Server> {
        let (exe, metadata) = open_regular(Path::new(&format!("/proc/{pid}/exe")))?;
        let (mut begin, mut server) = self.recognise(&exe, &metadata, None)?;
        // Not of any other program: its working directory may be on a file system that does not answer.
        if matches!(server, Server::Postgres(_))
            && let Some(version) = read_data_version(pid)
        {
            (begin, server) = self.recognise(&exe, &metadata, Some(version))?;
        }
        Some(server.loaded_at(entry.wrapping_sub(begin)))
    }

    fn recognise(&mut self, exe: &File, metadata: &Metadata, version: Option<Vec<u8>>) -> Option<(u64, Server)> {
        if self.0.len() >= KNOWN_MAX {
            self.0.clear();
        }
        let (place, changed) = ((metadata.dev(), metadata.ino()), (metadata.mtime(), metadata.mtime_nsec()));
        let recognise = |content: &Content| {
            let program = Program::read(Bytes::File(exe.try_clone().ok()?, metadata.size()))?;
            Some((program.entry(), Server::recognise(&program, content.3.as_deref())?))
        };
        self.0.entry((place, changed, metadata.size(), version)).or_insert_with_key(recognise).clone()
    }
}

/// The content of `PG_VERSION` in the working directory of a process.
pub(super) fn read_data_version(pid: u32) -> Option<Vec<u8>> {
    let (file, _) = open_regular(Path::new(&format!("/proc/{pid}/cwd/PG_VERSION")))?;
    let mut version = Vec::new();
    file.take(VERSION_MAX as u64).read_to_end(&mut version).ok()?;
    Some(version)
}

/// A server's process.
struct Running {
    server: Server,
    directory: Directory,
    memory: PresentMemory,
    /// Its process id as it sees it itself.
    own_pid: u32,
}

impl Process {
    fn new(pid: u32, known: &mut Known) -> Self {
        let mut process = Self { pid, exe: None, backend: None, waits_for_lock: false, waits: HashMap::new() };
        process.recognise(known);
        process
    }

    /// Looks again whether it is a server, when it is another program than the last time.
    fn recognise(&mut self, known: &mut Known) {
        let exe = Directory::open(&format!("/proc/{}", self.pid)).ok().and_then(|of| of.read_identity("exe"));
        if exe != self.exe {
            self.exe = exe;
            self.backend = exe.and_then(|_| Running::open(self.pid, known));
        }
    }

    fn sample(&mut self) {
        self.waits_for_lock = false;
        if let Some(Running { server: Server::Postgres(Ok(postgres)), memory, own_pid, .. }) = &self.backend
            && let Ok(wait) = postgres.read_wait(memory, *own_pid)
        {
            self.waits_for_lock = wait.as_ref().is_some_and(|(kind, _)| kind == "Lock");
            *self.waits.entry(wait).or_default() += 1;
        }
    }

    /// What it says now, and the waits since the last time; `None` for what is no database server.
    fn tell(&mut self, known: &mut Known) -> Option<Backend> {
        // To recognise it may have taken all the time there was.
        if self.waits.is_empty() {
            self.sample();
        }
        let mut waits: Vec<_> = self.waits.drain().collect();
        waits.sort_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.cmp(b)));
        let mut backend = Backend { ts_ns: monotonic_ns(), pid: self.pid, waits, ..self.backend.as_ref()?.tell() };
        if !backend.refused.is_empty() {
            // It may have become another program, from the same file.
            self.exe = None;
        }
        self.recognise(known);
        if !backend.refused.is_empty() && self.exe.is_none() {
            "the process has ended".clone_into(&mut backend.refused);
        }
        Some(backend)
    }
}

impl Running {
    /// `None` for what is no database server, or is gone.
    fn open(pid: u32, known: &mut Known) -> Option<Self> {
        // The memory of this process for ever, as it is before an exec: never that of another one with its number.
        let directory = Directory::open(&format!("/proc/{pid}")).ok()?;
        let memory = PresentMemory::open(&directory).ok()?;
        let mut bytes = Vec::new();
        directory.read("auxv", READ_MAX, &mut bytes).ok()?;
        let entry = entry(&bytes)?;
        let server = known.server(pid, entry)?;
        directory.read("status", READ_MAX, &mut bytes).ok()?;
        let own_pid = parse_status(&bytes).ok()?.ns_pid.last().copied().unwrap_or(pid);
        Some(Self { server, directory, memory, own_pid })
    }

    fn tell(&self) -> Backend {
        match &self.server {
            Server::Postgres(postgres) => {
                let version = postgres.as_ref().ok().map(crate::database::Postgres::version);
                let status = match postgres {
                    Ok(postgres) => postgres.read_status(&self.memory, self.own_pid),
                    Err(refusal) => Err(refusal.clone()),
                };
                let spilled = self.spilled();
                Backend { own_pid: self.own_pid, spilled, ..backend("postgresql", version, status) }
            }
            Server::Mysql(address) => match read_text(&self.memory, *address, VERSION_MAX) {
                Ok(text) => {
                    let (server, version) = mysql_version(&text);
                    Backend { own_pid: self.own_pid, ..backend(server, version, Ok(Status::default())) }
                }
                Err(unread) => Backend { own_pid: self.own_pid, ..backend("mysql", None, Err(unread.into())) },
            },
        }
    }

    /// Temporary files that it has open, and their bytes; `None` where its descriptors may not be seen.
    fn spilled(&self) -> Option<(u64, u64)> {
        let descriptors = self.directory.read_numbers("fd", DESCRIPTORS_MAX).ok()?;
        let mut spilled = (0, 0_u64);
        for descriptor in descriptors {
            let name = format!("fd/{descriptor}");
            let is_temporary = |link: Vec<u8>| memchr::memmem::find(&link, TEMPORARY).is_some();
            if self.directory.read_link(&name).is_ok_and(is_temporary) {
                // Through the descriptor: the name may be gone, or be another file's.
                let size = self.directory.read_size(&name).unwrap_or(0);
                spilled = (spilled.0 + 1, spilled.1.saturating_add(size));
            }
        }
        Some(spilled)
    }
}

fn backend(server: &str, version: Option<u32>, status: Result<Status, Refusal>) -> Backend {
    let (status, refused) = match status {
        Ok(status) => (status, String::new()),
        Err(refusal) => (Status::default(), refusal.to_string()),
    };
    Backend {
        ts_ns: 0,
        pid: 0,
        server: server.to_owned(),
        version,
        backend_type: status.backend_type,
        state: status.state.map(str::to_owned),
        query: status.query,
        query_start_ns: status.query_start_ns,
        transaction_start_ns: status.transaction_start_ns,
        waits: Vec::new(),
        own_pid: 0,
        started_ns: status.started_ns,
        work_mem: status.work_mem,
        spilled: None,
        blocked_by: None,
        asked_ns: None,
        in_lock: false,
        asked: None,
        unanswered: String::new(),
        refused,
    }
}

/// The address of the first instruction, from an auxiliary vector.
fn entry(auxv: &[u8]) -> Option<u64> {
    let (pairs, _) = auxv.as_chunks::<16>();
    pairs.iter().find_map(|pair| {
        let (key, value) = pair.split_at(8);
        let number = |bytes: &[u8]| bytes.first_chunk().copied().map(u64::from_ne_bytes);
        (number(key)? == AT_ENTRY).then(|| number(value))?
    })
}

impl Memory for PresentMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unread> {
        if Self::read(self, address, into) { Ok(()) } else { Err(Unread(address)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Blocker;

    #[test]
    fn what_was_said_of_one_lock_is_not_said_of_the_next() {
        let mut asked = Asked::start(7, Dsn::from("host=/nowhere".to_owned())).unwrap();
        let mut process = Process::new(u32::MAX, &mut Known::default());
        let said = |asked: &Asked| {
            let mut said = backend("postgresql", None, Ok(Status::default()));
            asked.tell(&mut said);
            (said.blocked_by.map(|them| them.len()), said.asked_ns, said.in_lock)
        };
        assert_eq!(said(&asked), (None, None, false));
        asked.answer = Some((Ok(vec![Blocker::default()]), Since { asked_ns: 5, in_lock: true }));
        process.waits_for_lock = true;
        asked.looked(Some(&process));
        assert_eq!(said(&asked), (Some(1), Some(5), true));
        // Between two looks that find it waiting, one that does not.
        for waits_for_lock in [false, true] {
            process.waits_for_lock = waits_for_lock;
            asked.looked(Some(&process));
            assert_eq!(said(&asked), (Some(1), Some(5), false));
        }
        // A process that is gone, and one whose memory cannot be read, waits for nothing.
        process.sample();
        assert!(!process.waits_for_lock);
        asked.answer = Some((Ok(Vec::new()), Since { asked_ns: 6, in_lock: true }));
        asked.end(None);
        assert_eq!(said(&asked), (Some(0), Some(6), false));
    }
}
