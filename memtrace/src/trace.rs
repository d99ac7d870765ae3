//! Trace files: a session's events, on disk as they happened.
//!
//! ```text
//! file   = "MEMTRACE" version:u16 frame* end
//! frame  = length:u32 raw_length:u32 crc:u32 compressed[length]
//! end    = 0:u32 0:u32 crc:u32
//! ```
//!
//! Numbers are little-endian. The checksum is CRC-32 over both lengths and the compressed bytes. Uncompressed, a frame
//! is a sequence of postcard-encoded [`Event`](crate::event::Event)s; one is written at each tick and whenever a
//! mebibyte has gathered. All frames' compressed bytes are one zstd stream, flushed at each frame's end, so that a
//! frame of few events finds its like in those before it: 40 merged records a tick take 96 bytes each raw, 28 in
//! frames of their own, 20 so.
//!
//! A file without its end was cut, and is good up to the cut. This room does not know what events mean, and refuses
//! to skip: what follows a damaged frame would close no books.

mod read;
mod write;

pub use read::{ReadEnd, Reader};
pub use write::Writer;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Version of the frames and of the events in them. It changes with the meaning or the order of any event's field.
pub const FORMAT_VERSION: u16 = 4;

const MAGIC: [u8; 8] = *b"MEMTRACE";
const FILE_HEADER: usize = MAGIC.len() + 2;
const FRAME_HEADER: usize = 12;
/// A frame is closed once it holds this much.
const FRAME_TARGET: usize = 1 << 20;
/// No frame is larger, uncompressed. A reading of smaps of a million mappings is about half of it.
const FRAME_LIMIT: usize = 64 << 20;
/// Back-references reach this far, and a reader needs this much memory for them.
const WINDOW_LOG: u32 = 21;

/// Why a trace cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is a file of this name.
    #[error("{} exists already (--force overwrites it)", path.display())]
    Exists {
        /// The name.
        path: PathBuf,
    },
    /// The file could not be created.
    #[error("failed to create {}", path.display())]
    Create {
        /// The name.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One event does not fit a frame.
    #[error("an event of {bytes} bytes is too large for a trace (at most {FRAME_LIMIT})")]
    EventTooLarge {
        /// Its encoded size.
        bytes: usize,
    },
    /// A write failed.
    #[error("failed to write the trace")]
    Write(#[source] io::Error),
    /// A write failed before; what was written until then can be read.
    #[error("the trace ended with an earlier failed write")]
    Stopped,
    /// A read failed.
    #[error("failed to read the trace")]
    Read(#[source] io::Error),
    /// Another kind of file.
    #[error("not a memtrace trace: starts with \"{}\"", start.escape_ascii())]
    NotATrace {
        /// Its first bytes, eight at most.
        start: Vec<u8>,
    },
    /// Cut before the first frame.
    #[error("the trace ends within its header, after {length} of {FILE_HEADER} bytes: nothing was recorded")]
    CutHeader {
        /// Bytes that are there.
        length: usize,
    },
    /// Written by a later version.
    #[error("recorded by a newer memtrace: trace format {version}, and this one reads {FORMAT_VERSION}")]
    NewerVersion {
        /// The file's.
        version: u16,
    },
    /// Written by an earlier version.
    #[error("recorded by an older memtrace: trace format {version}, and this one reads {FORMAT_VERSION}")]
    OlderVersion {
        /// The file's.
        version: u16,
    },
    /// A version that never was.
    #[error("damaged trace: there is no trace format {version}")]
    UnknownVersion {
        /// The file's.
        version: u16,
    },
    /// No writer makes frames of such lengths.
    #[error("damaged trace: the frame at byte {at_byte} claims {length} bytes, {raw_length} uncompressed")]
    AbsurdLength {
        /// Where the frame begins.
        at_byte: u64,
        /// Claimed length.
        length: u32,
        /// Claimed length when uncompressed.
        raw_length: u32,
    },
    /// The bytes are not those that were written.
    #[error("damaged trace: the checksum of the frame at byte {at_byte} is wrong")]
    Checksum {
        /// Where the frame begins.
        at_byte: u64,
    },
    /// The checksum is right, but this is not what a writer compresses.
    #[error("damaged trace: the frame at byte {at_byte} cannot be decompressed")]
    Compression {
        /// Where the frame begins.
        at_byte: u64,
    },
    /// The checksum is right, but an event is none.
    #[error("damaged trace: event {index} of the frame at byte {at_byte} cannot be decoded")]
    Event {
        /// Where the frame begins.
        at_byte: u64,
        /// Which one in the frame, from 0.
        index: usize,
    },
    /// Something follows the end.
    #[error("damaged trace: it ends at byte {at_byte}, but the file goes on")]
    AfterEnd {
        /// Where it ends.
        at_byte: u64,
    },
}

/// Creates a file, never over one with something in it unless `force`. What is not a regular file (a pipe,
/// `/dev/stdout`) is written to as it is.
///
/// # Errors
/// [`Error::Exists`], [`Error::Create`].
pub fn create(path: &Path, force: bool) -> Result<File, Error> {
    let failed = |source| Error::Create { path: path.to_owned(), source };
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => return result.map_err(failed),
    }
    // Opened without truncation first: only the opened file can be trusted to be what it is.
    let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let kind = metadata.file_type();
    if kind.is_fifo() || kind.is_char_device() || kind.is_socket() {
        return Ok(file);
    }
    // What an attempt left that failed before it wrote anything is in nobody's way.
    if !force && metadata.len() > 0 {
        return Err(Error::Exists { path: path.to_owned() });
    }
    file.set_len(0).map_err(failed)?;
    Ok(file)
}

fn checksum(lengths: &[u8], compressed: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(lengths);
    hasher.update(compressed);
    hasher.finalize()
}

#[cfg(test)]
mod tests;
