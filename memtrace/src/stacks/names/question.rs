//! What is asked of the process that reads symbols, and what it answers: a length and postcard, over a socket.
//!
//! Both ends are this program; yet an answer comes from a process that has read hostile files, so it is capped and
//! checked like anything from outside.

use crate::event::Symbol;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

/// Largest message, bytes. A question holds at most a vdso and some addresses, an answer some names.
const MAX_MESSAGE: u32 = 64 << 20;

/// A module, as the other process can open it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Module {
    /// The same number is the same module, in one process.
    pub id: u32,
    pub source: Source,
    /// The path as maps has it.
    pub path: Vec<u8>,
    /// Where the directory opens that the path starts at; `None` for ours.
    pub root: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Source {
    /// A file, under a name that opens even when it is deleted.
    File(String),
    /// The bytes themselves: the vdso.
    Image(Vec<u8>),
    /// The map that a just-in-time compiler writes.
    PerfMap {
        /// Process id in its own namespace: part of the map's name.
        pid: u32,
        /// Who may have written it, other than root.
        uid: u32,
    },
}

/// A place in a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Offset in the file; the address, for code that no file holds.
    pub at: u64,
    /// It is where a call returns to: the call itself is before it, and may be the last instruction of its function.
    pub after_call: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// The names of places.
    Name { module: Module, lines: bool, places: Vec<Place> },
    /// What the call that returns to this offset calls, as far as relocations tell.
    Callee { module: Module, returns_to: u64 },
    /// The name of this indirect function, if the module defines it.
    Variant { module: Module, callee: Callee },
}

/// What a call through a relocated slot calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Callee {
    /// The function that this dynamic symbol names.
    Symbol(Vec<u8>),
    /// What the resolver at this address of the caller's own module chose.
    Resolver(u64),
}

/// What a place is called; no symbols where that is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    /// Innermost first.
    pub symbols: Vec<Symbol>,
    /// Of the place, in the function that holds it.
    pub offset: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Answer {
    /// One per place, in order; none at all when the module was refused.
    pub named: Vec<Named>,
    pub callee: Option<Callee>,
    /// The module is no file of a kind that is read, or too large.
    pub refused: bool,
    /// The module has all its symbols, or a debug file: no package would add names.
    pub whole: bool,
    /// Places at which debugging information could not be read.
    pub unreadable: u32,
    /// CPU time that the process has used so far.
    pub cpu_ns: u64,
}

/// Sends one message.
pub(super) fn send<T: Serialize>(socket: &mut impl Write, message: &T) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len()).ok().filter(|&length| length <= MAX_MESSAGE);
    let length = length.ok_or_else(|| io::Error::other("message too long"))?;
    socket.write_all(&length.to_le_bytes())?;
    socket.write_all(&bytes)
}

/// Receives one message.
pub(super) fn receive<T: DeserializeOwned>(socket: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_MESSAGE {
        return Err(io::Error::other("message too long"));
    }
    let mut bytes = Vec::new();
    socket.take(u64::from(length)).read_to_end(&mut bytes)?;
    postcard::from_bytes(&bytes).map_err(io::Error::other)
}
