//! Where the statements of a database server begin and end: functions that its executable exports.

use super::postgres::{self, Refusal};
use super::{Program, Server};
use memtrace_common::{SPAN_NO_ARGUMENT, SpanPoint, edge};

/// `COM_QUERY` and `COM_STMT_PREPARE`, the commands of MySQL's protocol that are a text.
const COMMANDS_WITH_TEXT: u64 = 1 << 3 | 1 << 22;
/// `COM_QUIT`: nothing comes after it.
const COM_QUIT: u64 = 1 << 1;

/// The functions that begin and end the statements of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statements {
    /// `postgresql` or `mysql`.
    pub server: &'static str,
    /// Place in the file of each function, whether its return is meant, and what it means. The number of the definition
    /// is whoever attaches to give.
    pub points: Vec<(u64, bool, SpanPoint)>,
}

/// The statements of the server that a program is; `None` for any other program. `data_version` is the content of
/// `PG_VERSION` in the working directory.
///
/// # Errors
/// It is a server, but of a version that is not known, or one that does not export what it should.
pub fn statements(program: &Program, data_version: Option<&[u8]>) -> Result<Option<Statements>, Refusal> {
    match Server::recognise(program, data_version) {
        None => Ok(None),
        Some(Server::Postgres(_)) => of_postgres(program, data_version).map(Some),
        Some(Server::Mysql(_)) => of_mysql(program).map(Some),
    }
}

/// `pgstat_report_activity(BackendState state, const char *cmd_str)` is told of each change of a backend's state.
fn of_postgres(program: &Program, data_version: Option<&[u8]>) -> Result<Statements, Refusal> {
    let report = place(program, program.address("pgstat_report_activity"), "pgstat_report_activity")?;
    let ends = postgres::states_at_rest(program, data_version)?;
    let point = SpanPoint { argument: 0, text: 1, ends, texts: u64::MAX, ..begin() };
    Ok(Statements { server: "postgresql", points: vec![(report, false, point)] })
}

/// `dispatch_command` carries out what a client sent, and `do_command` waits for what it sends next. Where that is not
/// exported, the return of the former ends a statement.
fn of_mysql(program: &Program) -> Result<Statements, Refusal> {
    // MariaDB and MySQL until 5.6: (enum_server_command, THD *, char *packet, uint length …).
    let packet = program.address_by_prefix("_Z16dispatch_command19enum_server_commandP3THDPcj");
    // MySQL from 5.7 on: (THD *, const COM_DATA *, enum_server_command); the data of both commands begins with the
    // text's address and its length.
    let data = program.address_by_prefix("_Z16dispatch_commandP3THDPK8COM_DATA19enum_server_command");
    let begin = SpanPoint { ends: COM_QUIT, texts: COMMANDS_WITH_TEXT, ..begin() };
    let point = match packet {
        Some(_) => SpanPoint { argument: 0, text: 2, length: 3, ..begin },
        None => SpanPoint { argument: 2, text: 1, indirect: 1, ..begin },
    };
    let dispatch = place(program, packet.or(data), "dispatch_command")?;
    let next = program.address_by_prefix("_Z10do_commandP3THD").and_then(|address| program.code_offset(address));
    let end = match next {
        Some(next) => (next, false, end()),
        None => (dispatch, true, end()),
    };
    Ok(Statements { server: "mysql", points: vec![(dispatch, false, point), end] })
}

fn place(program: &Program, address: Option<u64>, name: &'static str) -> Result<u64, Refusal> {
    address.and_then(|address| program.code_offset(address)).ok_or(Refusal::Symbol(name))
}

/// A point that begins a span, of which nothing is told.
#[must_use]
pub const fn begin() -> SpanPoint {
    SpanPoint {
        definition: 0,
        edge: edge::BEGIN,
        argument: SPAN_NO_ARGUMENT,
        text: SPAN_NO_ARGUMENT,
        length: SPAN_NO_ARGUMENT,
        indirect: 0,
        nests: 0,
        reserved: 0,
        ends: 0,
        texts: 0,
    }
}

/// A point that ends one.
#[must_use]
pub const fn end() -> SpanPoint {
    SpanPoint { edge: edge::END, ..begin() }
}
