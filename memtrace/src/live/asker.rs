//! Asks a PostgreSQL server who holds what a backend waits for: on a thread of its own, for at most two seconds at a time,
//! so that a server that does not answer costs a note and nothing else.
//!
//! Only functions that look into no table are called: they answer when catalogs are locked as well. What comes back
//! is the server's, and may be anything: so many bytes of it are read, and so many rows and letters kept. The connection
//! string and the password leave this room for the server alone.

use crate::cli::Dsn;
use crate::event::Blocker;
use crate::procfs::{Directory, parse_status};
use crate::stacks::{find_below, open_regular};
use std::collections::HashMap;
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage, SimpleQueryRow};

/// A question and its answer take no longer than this.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of what the server says to one question.
const SAID_MAX: usize = 8 << 20;
/// Blockers that are kept.
const BLOCKERS_MAX: usize = 64;
/// Letters of a statement, of a short text, of a reason.
const QUERY_MAX: usize = 4096;
const WORD_MAX: usize = 64;
const REASON_MAX: usize = 200;
/// What the server has for the statement of a session that the role may not see.
const HIDDEN: &str = "<insufficient privilege>";
/// Bytes of `postmaster.pid`.
const POSTMASTER_MAX: u64 = 4096;
/// Bytes of a process's status.
const STATUS_MAX: u64 = 64 << 10;
/// Processes that are looked at to find one by the number that it has in a container.
const PROCESSES_MAX: usize = 65_536;
/// PostgreSQL's usual port.
const PORT: u16 = 5432;

/// The blockers, or why the server did not tell.
pub(super) type Answer = Result<Vec<Blocker>, String>;

/// About whom to ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    /// The backend.
    pub(super) pid: u32,
    /// The same as its server knows it.
    pub(super) own_pid: u32,
    /// When it began, nanoseconds since the Unix epoch, where that is known.
    pub(super) started_ns: Option<i64>,
}

/// The connection string, where it holds no password: it may be printed.
pub(super) fn repeatable(dsn: &Dsn) -> Option<String> {
    let config: Config = dsn.expose().parse().ok()?;
    config.get_password().is_none().then(|| dsn.expose().to_owned())
}

/// Asks one question at a time.
#[derive(Debug)]
pub(super) struct Asker {
    questions: Sender<Question>,
    answers: Receiver<Answer>,
    asked: Option<Instant>,
}

impl Asker {
    /// Begins; connects with the first question.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn start(dsn: Dsn) -> io::Result<Self> {
        let (questions, asked) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        // Waited for by nobody: a name that is being resolved cannot be given up.
        std::thread::Builder::new().name("asker".to_owned()).spawn(move || work(&dsn, &asked, &answer))?;
        Ok(Self { questions, answers, asked: None })
    }

    /// A question is under way.
    pub(super) const fn is_busy(&self) -> bool {
        self.asked.is_some()
    }

    pub(super) fn ask(&mut self, question: Question) {
        self.asked = self.questions.send(question).is_ok().then(Instant::now);
    }

    /// The answer to the question under way, where it has come.
    pub(super) fn take(&mut self) -> Option<Answer> {
        self.asked?;
        match self.answers.try_recv() {
            Ok(answer) => self.done(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => self.done(Err("the question failed".to_owned())),
        }
    }

    /// Waits for it as long as it may take.
    pub(super) fn wait(&mut self) -> Option<Answer> {
        let left = (self.asked? + PATIENCE).saturating_duration_since(Instant::now());
        match self.answers.recv_timeout(left) {
            Ok(answer) => self.done(answer),
            Err(RecvTimeoutError::Timeout) => self.done(Err(late())),
            Err(RecvTimeoutError::Disconnected) => self.done(Err("the question failed".to_owned())),
        }
    }

    fn done(&mut self, answer: Answer) -> Option<Answer> {
        self.asked = None;
        Some(answer)
    }
}

fn late() -> String {
    format!("no answer within {} s", PATIENCE.as_secs())
}

fn work(dsn: &Dsn, questions: &Receiver<Question>, answers: &Sender<Answer>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = answers.send(Err(format!("no runtime: {error}")));
            return;
        }
    };
    let mut server = None;
    while let Ok(question) = questions.recv() {
        let answer = runtime.block_on(async {
            let asked = async {
                if server.is_none() {
                    server = Some(Server::connect(dsn, question.pid).await?);
                }
                match &server {
                    Some(server) => server.ask(question).await,
                    None => Err("there is no connection".to_owned()),
                }
            };
            tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(late()))
        });
        // Nobody wants it any more.
        if answers.send(answer).is_err() {
            break;
        }
    }
    runtime.shutdown_background();
}

/// A connection.
struct Server {
    client: Client,
    password: Option<Vec<u8>>,
    /// Bytes that it may still say.
    left: Arc<AtomicUsize>,
}

impl Server {
    async fn connect(dsn: &Dsn, pid: u32) -> Result<Self, String> {
        // What is wrong with it could be any part of it, as the password is: nothing of it is repeated.
        if let Some(flaw) = dsn.flaw() {
            return Err(flaw.to_owned());
        }
        let mut config: Config = dsn.expose().parse().map_err(|_| "--pg is no connection string".to_owned())?;
        if config.get_password().is_none()
            && let Some(password) = std::env::var_os("PGPASSWORD")
        {
            use std::os::unix::ffi::OsStrExt as _;
            config.password(password.as_bytes());
        }
        if config.get_application_name().is_none() {
            config.application_name("memtrace");
        }
        if config.get_dbname().is_none() {
            // Not that of the user's name, which need not be there.
            config.dbname("postgres");
        }
        let password = config.get_password().map(<[u8]>::to_vec);
        let left = Arc::new(AtomicUsize::new(0));
        let mut why = "no host".to_owned();
        for place in places(&config, pid) {
            left.store(SAID_MAX, Ordering::Relaxed);
            let stream = match open(&place).await {
                Ok(stream) => Limited { stream, left: left.clone() },
                Err(error) => {
                    why = format!("{place}: {error}");
                    continue;
                }
            };
            match config.connect_raw(stream, NoTls).await {
                Ok((client, mut connection)) => {
                    // Its notices are nobody's here.
                    tokio::spawn(
                        async move { while let Some(Ok(_)) = poll_fn(|cx| connection.poll_message(cx)).await {} },
                    );
                    return Ok(Self { client, password, left });
                }
                Err(error) => why = reason(&error),
            }
        }
        Err(without(password.as_deref(), &why))
    }

    async fn ask(&self, question: Question) -> Answer {
        self.left.store(SAID_MAX, Ordering::Relaxed);
        let told = self.rows(question.own_pid).await;
        let Told { known, started_us, blockers } =
            told.map_err(|error| without(self.password.as_deref(), &reason(&error)))?;
        let ours = question.started_ns.map(|ns| ns / 1000);
        // Whoever may not see its times is not told them.
        let is_other = started_us.zip(ours).is_some_and(|(theirs, ours)| theirs != ours);
        if !known || is_other {
            return Err(format!(
                "the server at --pg has no process {} that began when this one did: is it another server?",
                question.own_pid
            ));
        }
        let wanted: Vec<u32> = blockers.iter().map(|blocker| blocker.own_pid).collect();
        let pids = find_processes(question, &wanted);
        let known = |blocker: Blocker| Blocker { pid: pids.get(&blocker.own_pid).copied(), ..blocker };
        Ok(blockers.into_iter().map(known).collect())
    }

    async fn rows(&self, own_pid: u32) -> Result<Told, Error> {
        // No tables, for they may be locked; and no longer than anybody waits for it. Each of a chain is asked about once:
        // every such question looks at all locks. Of a queue, those that do not wait come first: they may be cut off.
        let sql = format!(
            "set statement_timeout = {}; \
             select {} from pg_catalog.pg_stat_get_activity({own_pid}) a; \
             with recursive direct(pid) as materialized \
             (select distinct pid from pg_catalog.unnest(pg_catalog.pg_blocking_pids({own_pid})) pid), \
             waiting(pid) as materialized (select distinct l.pid from pg_catalog.pg_lock_status() l where not l.granted), \
             chain(pid) as ((select d.pid from direct d order by d.pid in (select w.pid from waiting w) limit {BLOCKERS_MAX}) \
             union select b.pid from chain c, pg_catalog.unnest(pg_catalog.pg_blocking_pids(nullif(c.pid, 0))) b(pid)), \
             kept(pid) as materialized (select c.pid from chain c limit {BLOCKERS_MAX}) \
             select b.pid, a.state, {}, pg_catalog.left(a.query, {QUERY_MAX}), {}, a.wait_event_type, a.wait_event, \
             pg_catalog.array_to_string(pg_catalog.pg_blocking_pids(nullif(b.pid, 0)), ' '), \
             b.pid in (select d.pid from direct d) \
             from kept b left join lateral pg_catalog.pg_stat_get_activity(nullif(b.pid, 0)) a on a.pid = b.pid \
             where b.pid <> {own_pid} order by a.xact_start",
            PATIENCE.as_millis(),
            micros("backend_start"),
            micros("state_change"),
            micros("xact_start"),
        );
        let mut told = Told::default();
        for message in self.client.simple_query(&sql).await? {
            let SimpleQueryMessage::Row(row) = message else { continue };
            match row.len() {
                1 => (told.known, told.started_us) = (true, number(&row, 0)),
                _ if told.blockers.len() < BLOCKERS_MAX => told.blockers.extend(blocker(&row)),
                _ => {}
            }
        }
        // Whoever waits itself is not to blame. The oldest transaction stays first among equals.
        told.blockers.sort_by_key(|blocker| (blocker.waits(), blocker.indirect));
        Ok(told)
    }
}

/// What the server said.
#[derive(Default)]
struct Told {
    /// It has such a backend.
    known: bool,
    started_us: Option<i64>,
    blockers: Vec<Blocker>,
}

/// A time in SQL, as microseconds since the Unix epoch.
fn micros(column: &str) -> String {
    format!("(extract(epoch from a.{column}) * 1000000)::bigint")
}

fn text(row: &SimpleQueryRow, column: usize, cap: usize) -> Option<String> {
    // Bytes that are no UTF-8 come from a database without an encoding.
    let text = row.try_get(column).ok()??;
    Some(text.chars().take(cap).collect())
}

fn number<N: std::str::FromStr>(row: &SimpleQueryRow, column: usize) -> Option<N> {
    row.try_get(column).ok()??.parse().ok()
}

fn blocker(row: &SimpleQueryRow) -> Option<Blocker> {
    let nanos = |column| number::<i64>(row, column)?.checked_mul(1000);
    let state = text(row, 1, WORD_MAX);
    let query = text(row, 3, QUERY_MAX);
    let hidden = state.is_none() && query.as_deref() == Some(HIDDEN);
    let behind = text(row, 7, QUERY_MAX).unwrap_or_default();
    Some(Blocker {
        pid: None,
        own_pid: number(row, 0)?,
        state,
        since_ns: nanos(2),
        query: query.filter(|_| !hidden),
        transaction_start_ns: nanos(4),
        wait: text(row, 5, WORD_MAX).zip(text(row, 6, WORD_MAX)),
        behind: behind.split(' ').filter_map(|pid| pid.parse().ok()).take(BLOCKERS_MAX).collect(),
        indirect: text(row, 8, 1).as_deref() == Some("f"),
        hidden,
    })
}

/// What went wrong, in the server's words where it has some.
fn reason(error: &Error) -> String {
    let text = match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(error), _) => error.message().to_owned(),
        (None, Some(source)) if !error.to_string().contains(&source.to_string()) => format!("{error}: {source}"),
        (None, _) => error.to_string(),
    };
    text.chars().take(REASON_MAX).collect()
}

/// A server that was told the password could say it again.
fn without(password: Option<&[u8]>, reason: &str) -> String {
    let says_it = password.filter(|password| !password.is_empty());
    if says_it.is_some_and(|password| memchr::memmem::find(reason.as_bytes(), password).is_some()) {
        "it refused, in words that have the password in them".to_owned()
    } else {
        reason.to_owned()
    }
}

/// Where a server may listen.
enum Place {
    Tcp(String, u16),
    Unix(PathBuf),
    /// At a path as this process sees it.
    Own(u32, PathBuf),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}, port {port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Own(pid, path) => write!(f, "{} of process {pid}", path.display()),
        }
    }
}

/// Where the connection string says, in its order; if it does not, the socket of the server that the process is of.
fn places(config: &Config, pid: u32) -> Vec<Place> {
    let ports = config.get_ports();
    let port = |nth: usize| ports.get(nth).or(ports.first()).copied();
    let addresses = config.get_hostaddrs().iter().map(ToString::to_string).map(Host::Tcp).collect::<Vec<_>>();
    let hosts = if addresses.is_empty() { config.get_hosts() } else { &addresses };
    let named = hosts.iter().enumerate().map(|(nth, host)| {
        let port = port(nth).unwrap_or(PORT);
        match host {
            Host::Tcp(name) => Place::Tcp(name.clone(), port),
            Host::Unix(folder) => Place::Unix(folder.join(format!(".s.PGSQL.{port}"))),
        }
    });
    let mut places: Vec<Place> = named.collect();
    if places.is_empty() {
        places.extend(own_socket(pid, port(0)));
    }
    places
}

/// The socket that the server of this process wrote into its data folder that it listens on: as the process itself sees it,
/// which may be in a container. What it wrote may be anything: no link in it leads to what the process does not see.
fn own_socket(pid: u32, port: Option<u16>) -> Option<Place> {
    let folder = File::open(format!("/proc/{pid}/cwd")).ok()?;
    let found = find_below(&folder, Path::new("postmaster.pid"), BELOW).ok()?;
    let (file, _) = open_regular(&by_descriptor(&found))?;
    let mut text = String::new();
    file.take(POSTMASTER_MAX).read_to_string(&mut text).ok()?;
    let mut lines = text.lines().skip(3);
    let (own_port, folder) = (lines.next()?.trim().parse().ok()?, lines.next()?.trim());
    let folder = Path::new(folder).is_absolute().then_some(folder)?;
    Some(Place::Own(pid, Path::new(folder).join(format!(".s.PGSQL.{}", port.unwrap_or(own_port)))))
}

/// Where links may lead.
const BELOW: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;

fn by_descriptor(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

async fn open(place: &Place) -> io::Result<Pin<Box<dyn Duplex>>> {
    Ok(match place {
        Place::Tcp(host, port) => Box::pin(TcpStream::connect((host.as_str(), *port)).await?),
        Place::Unix(path) => Box::pin(UnixStream::connect(path).await?),
        Place::Own(pid, path) => {
            let found = find_below(&File::open(format!("/proc/{pid}/root"))?, path, BELOW)?;
            Box::pin(UnixStream::connect(by_descriptor(&found)).await?)
        }
    })
}

trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<S: AsyncRead + AsyncWrite + Send> Duplex for S {}

/// A stream that ends with an error when more is said than anybody asked for.
struct Limited {
    stream: Pin<Box<dyn Duplex>>,
    left: Arc<AtomicUsize>,
}

impl AsyncRead for Limited {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = self.stream.as_mut().poll_read(cx, into);
        let said = into.filled().len() - before;
        match self.left.load(Ordering::Relaxed).checked_sub(said) {
            Some(left) => self.left.store(left, Ordering::Relaxed),
            None => return Poll::Ready(Err(io::Error::other("the server says more than it was asked"))),
        }
        polled
    }
}

impl AsyncWrite for Limited {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }
}

/// The processes that have these numbers where the backend lives that was asked about, by those numbers.
fn find_processes(question: Question, wanted: &[u32]) -> HashMap<u32, u32> {
    if question.pid == question.own_pid {
        let lives = |pid: &u32| *pid > 0 && std::fs::exists(format!("/proc/{pid}")).unwrap_or(false);
        return wanted.iter().copied().filter(lives).map(|pid| (pid, pid)).collect();
    }
    let mut found = HashMap::new();
    let Some(theirs) = namespace(question.pid).filter(|_| !wanted.is_empty()) else { return found };
    let pids = Directory::open("/proc").and_then(|proc| proc.read_numbers(".", PROCESSES_MAX)).unwrap_or_default();
    let mut bytes = Vec::new();
    for pid in pids {
        let status = Directory::open(&format!("/proc/{pid}")).and_then(|of| of.read("status", STATUS_MAX, &mut bytes));
        let own = status.ok().and_then(|()| parse_status(&bytes).ok()?.ns_pid.last().copied());
        if let Some(own) = own.filter(|own| wanted.contains(own))
            && namespace(pid).as_ref() == Some(&theirs)
        {
            found.insert(own, pid);
        }
    }
    found
}

fn namespace(pid: u32) -> Option<Vec<u8>> {
    Directory::open(&format!("/proc/{pid}")).ok()?.read_link("ns/pid").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of a server that is not there.
    fn told(dsn: &str) -> String {
        let mut asker = Asker::start(Dsn::from(dsn.to_owned())).unwrap();
        asker.ask(Question { pid: std::process::id(), own_pid: 1, started_ns: None });
        asker.wait().unwrap().unwrap_err()
    }

    #[test]
    fn no_part_of_a_password_is_taken_for_a_host_and_named() {
        for dsn in ["postgresql://u:x9@Secret1@localhost:1/db", "postgres://u:x9@/Secret1@localhost:1/db"] {
            let why = told(dsn);
            assert!(!why.contains("Secret1") && why.contains("%40"), "{why}");
        }
        let why = told("postgresql://u:x9%40Secret1@127.0.0.1:1/db");
        assert!(why.starts_with("127.0.0.1, port 1: "), "{why}");
    }
}
