//! What a database server's process says of itself, read from its memory without its help: no password, no extension,
//! no connection, nothing of it is stopped or written.
//!
//! A server is recognised by the symbols that its executable exports to its extensions, wherever that lies and whoever
//! packaged it. This room makes sense of bytes: whoever calls it reads them ([`Memory`]). All of them are the target's,
//! and may be anything: what does not fit the layout of the server's version is refused with the reason, not guessed.

pub mod postgres;
mod program;
mod statements;
#[cfg(test)]
mod tests;

pub use postgres::Postgres;
pub use program::Program;
pub use statements::{Statements, begin, end, statements};

/// Bytes of a text that are read.
pub const TEXT_MAX: usize = 64 << 10;
/// A text is read up to the end of a block at a time: what lies behind its end need not be there.
const BLOCK: u64 = 4096;

/// The memory of a process.
pub trait Memory {
    /// Fills `into` from an address on, all of it.
    ///
    /// # Errors
    /// What could not be read. Nothing is brought into memory for us.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unread>;
}

/// Bytes that could not be read: they are in swap or in a file, were never touched, or nobody has them (any more). To
/// read what is not in memory would change what the process has in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what lies at {0:#x} is not in memory")]
pub struct Unread(pub u64);

/// A server that a program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// PostgreSQL, or why the layout of its memory is not known.
    Postgres(Result<Postgres, postgres::Refusal>),
    /// MySQL or MariaDB: where its version's text is.
    Mysql(u64),
}

impl Server {
    /// The server that a program is, with addresses as the file has them; `None` for any other program. `data_version` is
    /// the content of `PG_VERSION` in the working directory.
    #[must_use]
    pub fn recognise(program: &Program, data_version: Option<&[u8]>) -> Option<Self> {
        if postgres::is_exported_by(program) {
            return Some(Self::Postgres(Postgres::new(program, data_version)));
        }
        program.address("mysqld_port")?;
        Some(Self::Mysql(program.address("server_version")?))
    }

    /// The same where a process has loaded it: `bias` is added to each address.
    #[must_use]
    pub fn loaded_at(self, bias: u64) -> Self {
        match self {
            Self::Postgres(postgres) => Self::Postgres(postgres.map(|postgres| postgres.loaded_at(bias))),
            Self::Mysql(version) => Self::Mysql(version.wrapping_add(bias)),
        }
    }
}

/// Name and major version of the server whose text is `version`: `10.11.6-MariaDB` is of MariaDB, `8.4.2` of MySQL.
#[must_use]
pub fn mysql_version(version: &[u8]) -> (&'static str, Option<u32>) {
    let maria = memchr::memmem::find(version, b"MariaDB").is_some();
    (if maria { "mariadb" } else { "mysql" }, major(version))
}

/// The number before the first dot.
fn major(version: &[u8]) -> Option<u32> {
    let digits = version.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(version.len());
    std::str::from_utf8(&version[..digits]).ok()?.parse().ok()
}

fn read_u32(memory: &dyn Memory, address: u64) -> Result<u32, Unread> {
    let mut bytes = [0; 4];
    memory.read(address, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn read_u64(memory: &dyn Memory, address: u64) -> Result<u64, Unread> {
    let mut bytes = [0; 8];
    memory.read(address, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// A text that ends with NUL, at most `cap` bytes of it; less where the rest of it is not in memory.
///
/// # Errors
/// Its begin cannot be read.
pub fn read_text(memory: &dyn Memory, address: u64, cap: usize) -> Result<Vec<u8>, Unread> {
    let mut text = Vec::new();
    while text.len() < cap {
        let from = address.saturating_add(text.len() as u64);
        let block = (BLOCK - from % BLOCK) as usize;
        let (begin, length) = (text.len(), block.min(cap - text.len()));
        text.resize(begin + length, 0);
        if let Err(unread) = memory.read(from, &mut text[begin..]) {
            text.truncate(begin);
            return if begin == 0 { Err(unread) } else { Ok(text) };
        }
        if let Some(end) = memchr::memchr(0, &text[begin..]) {
            text.truncate(begin + end);
            break;
        }
    }
    Ok(text)
}
