//! PostgreSQL 13 to 18: what `pg_stat_activity` would print of a backend, from the backend's own memory.
//!
//! A backend keeps its row of that view in shared memory (`MyBEEntry`), and writes there as each statement begins and
//! ends. The row is believed only where it names this process, its type and the microsecond of its start as the backend's
//! private variables have them, and where it did not change while it was read.

mod layout;
mod wait_events;

use super::{Memory, Program, TEXT_MAX, Unread, major, read_text, read_u32, read_u64};
use layout::{ENTRY, unix_ns};
pub use wait_events::Names;

/// How often a row that changes is read again.
const TRIES: u32 = 5;

/// Why a backend's memory is not made sense of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither the program nor the data directory tells it.
    #[error("the server's version is not known")]
    NoVersion,
    /// One whose layout is not known here.
    #[error("the layout of version {0} is not known")]
    Version(u32),
    /// The program and its data directory are of two versions.
    #[error("the program is of version {program}, its data directory of version {data}")]
    Disagree {
        /// In the program.
        program: u32,
        /// In `PG_VERSION`.
        data: u32,
    },
    /// A variable that this version has is not exported.
    #[error("the program does not export {0}")]
    Symbol(&'static str),
    /// It could not be read.
    #[error(transparent)]
    Unread(#[from] Unread),
    /// It does not look like this version's.
    #[error("the layout does not fit: {what} is {found} instead of {expected}")]
    Layout {
        /// The field.
        what: &'static str,
        /// What is there.
        found: u64,
        /// What must be there.
        expected: u64,
    },
    /// A number that has no meaning.
    #[error("the layout does not fit: {what} is {found}")]
    Number {
        /// The field.
        what: &'static str,
        /// What is there.
        found: u32,
    },
    /// None of the variables that 13 might keep it in leads to it.
    #[error("the backend's status was not found")]
    NotFound,
    /// It changed each time that it was read.
    #[error("the backend's status changed while it was read")]
    Changing,
}

/// The variable that points to a backend's status.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Exported(u64),
    /// 13 does not export it: one of these, told by what it points to.
    OneOf(Vec<u64>),
}

/// Where a backend's number of its wait event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Behind this pointer.
    Pointer(u64),
    /// In 13, in the struct behind this pointer.
    Process(u64),
}

/// A PostgreSQL program: where its variables are, in its file or where a process has loaded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postgres {
    version: u32,
    entry: Entry,
    wait: Wait,
    pid: u64,
    postmaster: u64,
    backend_type: u64,
    started: u64,
    worker: u64,
    statement: u64,
    text_size: u64,
    work_mem: Option<u64>,
}

/// What a backend says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// As [`crate::event::Backend::backend_type`].
    pub backend_type: Option<String>,
    /// As [`crate::event::Backend::state`].
    pub state: Option<&'static str>,
    /// As [`crate::event::Backend::query`].
    pub query: Option<Vec<u8>>,
    /// As [`crate::event::Backend::query_start_ns`].
    pub query_start_ns: Option<i64>,
    /// As [`crate::event::Backend::transaction_start_ns`].
    pub transaction_start_ns: Option<i64>,
    /// As [`crate::event::Backend::started_ns`].
    pub started_ns: Option<i64>,
    /// As [`crate::event::Backend::work_mem`].
    pub work_mem: Option<u64>,
}

/// Whether a program is PostgreSQL, by what it exports to its extensions.
pub(super) fn is_exported_by(program: &Program) -> bool {
    ["MyProcPid", "MyProc", "debug_query_string", "pgstat_report_activity"]
        .iter()
        .all(|name| program.address(name).is_some())
}

/// Major version, by what the program and its data directory say.
fn version(program: &Program, data_version: Option<&[u8]>) -> Result<u32, Refusal> {
    let written = program.constant(b"postgres (PostgreSQL) ").as_deref().and_then(major);
    match (written, data_version.and_then(major)) {
        (Some(program), Some(data)) if program != data => Err(Refusal::Disagree { program, data }),
        (written, data) => written.or(data).ok_or(Refusal::NoVersion),
    }
}

/// The numbers of states that [`super::Statements`] need: bit `i` is set when a backend in state `i` runs no statement.
pub(super) fn states_at_rest(program: &Program, data_version: Option<&[u8]>) -> Result<u64, Refusal> {
    let version = version(program, data_version)?;
    Names::of(version).ok_or(Refusal::Version(version))?;
    let runs = |number| matches!(layout::state(version, number), Some(Some("active" | "fastpath function call")));
    Ok((0..64).filter(|number| !runs(*number)).fold(0, |bits, number| bits | 1 << number))
}

impl Postgres {
    pub(super) fn new(program: &Program, data_version: Option<&[u8]>) -> Result<Self, Refusal> {
        let version = version(program, data_version)?;
        Names::of(version).ok_or(Refusal::Version(version))?;
        let symbol = |name| program.address(name).ok_or(Refusal::Symbol(name));
        let before_14 = version < 14;
        let reported = || program.loaded_by("pgstat_report_activity", layout::REPORT_13);
        Ok(Self {
            version,
            entry: match symbol("MyBEEntry") {
                Err(_) if before_14 => Entry::OneOf(reported()),
                address => Entry::Exported(address?),
            },
            wait: if before_14 {
                Wait::Process(symbol("MyProc")?)
            } else {
                Wait::Pointer(symbol("my_wait_event_info")?)
            },
            pid: symbol("MyProcPid")?,
            postmaster: symbol("PostmasterPid")?,
            backend_type: symbol("MyBackendType")?,
            started: symbol("MyStartTimestamp")?,
            worker: symbol("MyBgworkerEntry")?,
            statement: symbol("debug_query_string")?,
            text_size: symbol("pgstat_track_activity_query_size")?,
            work_mem: symbol("work_mem").ok(),
        })
    }

    pub(super) fn loaded_at(self, bias: u64) -> Self {
        let at = |address: u64| address.wrapping_add(bias);
        Self {
            version: self.version,
            entry: match self.entry {
                Entry::Exported(pointer) => Entry::Exported(at(pointer)),
                Entry::OneOf(pointers) => Entry::OneOf(pointers.into_iter().map(at).collect()),
            },
            wait: match self.wait {
                Wait::Pointer(pointer) => Wait::Pointer(at(pointer)),
                Wait::Process(pointer) => Wait::Process(at(pointer)),
            },
            pid: at(self.pid),
            postmaster: at(self.postmaster),
            backend_type: at(self.backend_type),
            started: at(self.started),
            worker: at(self.worker),
            statement: at(self.statement),
            text_size: at(self.text_size),
            work_mem: self.work_mem.map(at),
        }
    }

    /// Major version.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// Type and name of what the backend waits for, as `pg_stat_activity` prints them; `None` for nothing. Two or three
    /// small reads.
    ///
    /// # Errors
    /// It cannot be read, or is not where this version has it.
    pub fn read_wait(&self, memory: &dyn Memory, pid: u32) -> Result<Option<(String, String)>, Refusal> {
        let number = match self.wait {
            Wait::Pointer(pointer) => read_u32(memory, read_u64(memory, pointer)?)?,
            Wait::Process(pointer) => match read_u64(memory, pointer)? {
                0 => 0,
                process => {
                    let (own, wait) = layout::PROC_13;
                    expect("PGPROC.pid", read_u32(memory, process.wrapping_add(own))?.into(), pid.into())?;
                    read_u32(memory, process.wrapping_add(wait))?
                }
            },
        };
        Ok(self.names()?.wait_event(number))
    }

    /// What a backend says of itself. `pid` is its process id as it sees it itself.
    ///
    /// # Errors
    /// It cannot be read, or is not what this version has.
    pub fn read_status(&self, memory: &dyn Memory, pid: u32) -> Result<Status, Refusal> {
        expect("MyProcPid", read_u32(memory, self.pid)?.into(), pid.into())?;
        for _ in 0..TRIES {
            let Some(entry) = self.find_entry(memory, pid)? else { return self.without_entry(memory, pid) };
            let Some(row) = Row::read(memory, entry)?.filter(Row::settled) else { continue };
            let status = self.status(memory, &row, pid)?;
            if read_u32(memory, entry)? == row.u32(layout::CHANGE_COUNT) {
                return Ok(status);
            }
        }
        Err(Refusal::Changing)
    }

    fn names(&self) -> Result<&'static Names, Refusal> {
        Names::of(self.version).ok_or(Refusal::Version(self.version))
    }

    /// Address of the backend's status; `None` when it has none (yet).
    fn find_entry(&self, memory: &dyn Memory, pid: u32) -> Result<Option<u64>, Refusal> {
        let pointers = match &self.entry {
            Entry::Exported(pointer) => return Ok(Some(read_u64(memory, *pointer)?).filter(|entry| *entry != 0)),
            Entry::OneOf(pointers) => pointers,
        };
        let mut all_null = !pointers.is_empty();
        for pointer in pointers {
            let Ok(entry) = read_u64(memory, *pointer) else { continue };
            all_null &= entry == 0;
            // Any number of other things may be there: an error says that this is one.
            if let Ok(Some(row)) = Row::read(memory, entry)
                && self.check(memory, &row, pid).is_ok()
            {
                return Ok(Some(entry));
            }
        }
        if all_null { Ok(None) } else { Err(Refusal::NotFound) }
    }

    /// The row is this process's, or the layout another one.
    fn check(&self, memory: &dyn Memory, row: &Row, pid: u32) -> Result<(), Refusal> {
        expect("st_procpid", row.u32(layout::PID).into(), pid.into())?;
        let backend_type = read_u32(memory, self.backend_type)?;
        expect("st_backendType", row.u32(layout::BACKEND_TYPE).into(), backend_type.into())?;
        expect("st_proc_start_timestamp", row.u64(layout::STARTED), read_u64(memory, self.started)?)
    }

    fn status(&self, memory: &dyn Memory, row: &Row, pid: u32) -> Result<Status, Refusal> {
        self.check(memory, row, pid)?;
        let found = row.u32(layout::STATE);
        let state = layout::state(self.version, found).ok_or(Refusal::Number { what: "st_state", found })?;
        let time = |offset| unix_ns(row.u64(offset).cast_signed());
        Ok(Status {
            backend_type: Some(self.backend_type(memory, row.u32(layout::BACKEND_TYPE))?),
            state,
            query: self.query(memory, row.u64(layout::TEXT))?.filter(|query| !query.is_empty()),
            query_start_ns: time(layout::ACTIVITY),
            transaction_start_ns: time(layout::TRANSACTION),
            started_ns: time(layout::STARTED),
            work_mem: self.work_mem(memory),
        })
    }

    /// The setting is in KiB, and never negative.
    fn work_mem(&self, memory: &dyn Memory) -> Option<u64> {
        let kilobytes = read_u32(memory, self.work_mem?).ok()?;
        i32::try_from(kilobytes).ok()?;
        Some(u64::from(kilobytes) << 10)
    }

    fn backend_type(&self, memory: &dyn Memory, number: u32) -> Result<String, Refusal> {
        let name = self.names()?.backend(number).ok_or(Refusal::Number { what: "MyBackendType", found: number })?;
        if name == "background worker" {
            // pg_stat_activity prints what the worker calls itself.
            let worker = read_u64(memory, self.worker)?;
            if worker != 0 {
                let (offset, length) = layout::WORKER_TYPE;
                let own = read_text(memory, worker.wrapping_add(offset), length)?;
                return Ok(String::from_utf8_lossy(&own).into_owned());
            }
        }
        Ok(name.to_owned())
    }

    /// The statement's text. The row has the first kilobyte (`track_activity_query_size`); where that is not all, the
    /// whole is taken from the backend's own memory, if it is still there.
    fn query(&self, memory: &dyn Memory, text: u64) -> Result<Option<Vec<u8>>, Refusal> {
        if text == 0 {
            return Ok(None);
        }
        let room = read_u32(memory, self.text_size)?.saturating_sub(1) as usize;
        let mut query = read_text(memory, text, room.min(TEXT_MAX))?;
        if query.len() < room {
            return Ok(Some(query));
        }
        let whole = read_u64(memory, self.statement).ok().filter(|statement| *statement != 0);
        if let Some(whole) = whole.and_then(|statement| read_text(memory, statement, TEXT_MAX).ok())
            && whole.starts_with(&query)
        {
            query = whole;
        }
        // Cut between the bytes of a letter.
        if let Err(error) = std::str::from_utf8(&query)
            && error.error_len().is_none()
        {
            query.truncate(error.valid_up_to());
        }
        Ok(Some(query))
    }

    /// The postmaster has no row, nor has a backend that only begins, or the process that writes the log.
    fn without_entry(&self, memory: &dyn Memory, pid: u32) -> Result<Status, Refusal> {
        let backend_type = if read_u32(memory, self.postmaster)? == pid {
            "postmaster".to_owned()
        } else {
            let number = read_u32(memory, self.backend_type)?;
            self.backend_type(memory, number)?
        };
        Ok(Status { backend_type: Some(backend_type), ..Status::default() })
    }
}

fn expect(what: &'static str, found: u64, expected: u64) -> Result<(), Refusal> {
    if found == expected { Ok(()) } else { Err(Refusal::Layout { what, found, expected }) }
}

/// A copy of a `PgBackendStatus`.
struct Row([u8; ENTRY]);

impl Row {
    fn read(memory: &dyn Memory, entry: u64) -> Result<Option<Self>, Unread> {
        if entry == 0 {
            return Ok(None);
        }
        let mut bytes = [0; ENTRY];
        memory.read(entry, &mut bytes)?;
        Ok(Some(Self(bytes)))
    }

    /// Its backend does not write just now.
    fn settled(&self) -> bool {
        self.u32(layout::CHANGE_COUNT).is_multiple_of(2)
    }

    fn u32(&self, offset: usize) -> u32 {
        self.0[offset..].first_chunk().copied().map_or(0, u32::from_le_bytes)
    }

    fn u64(&self, offset: usize) -> u64 {
        self.0[offset..].first_chunk().copied().map_or(0, u64::from_le_bytes)
    }
}
