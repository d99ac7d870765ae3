//! Reports in, output out. Views decide nothing about the numbers: they multiply pages by the page size,
//! derive wall times from the session's [`Meta`], choose words and escape what the target may have named.
//! They read no clock, no environment and no file, so a replayed trace prints what the live session printed.

mod clock;
pub(crate) mod columns;
pub(crate) mod escape;
pub mod fold;
pub(crate) mod human;
mod json;
pub(crate) mod part;
#[cfg(test)]
pub(crate) mod sample;
mod sheet;
pub mod snapshot;
mod text;
pub mod verdict;
pub(crate) mod words;

pub use clock::Clock;
pub use escape::{escape, shell_word};
pub use json::JsonView;
pub use text::{TextOptions, TextView};
pub use words::cause_phrase;

use crate::event::Meta;
use crate::statement::Report;
use crate::units::Amounts;
use std::io;

/// Turns reports into output, in the order in which the model made them.
///
/// # Errors
/// Both methods return what the writer returned, untouched: `BrokenPipe` means that the reader went away,
/// which the caller treats as a proper end. A report before the session's [`Report::Meta`] is `InvalidData`.
pub trait View {
    /// Writes what is worth writing about this report.
    fn render(&mut self, report: &Report) -> io::Result<()>;

    /// Hands everything written so far to the reader.
    fn flush(&mut self) -> io::Result<()>;
}

/// What every view needs of the session to turn pages and monotonic times into bytes and wall times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) clock: Clock,
    page_size: i64,
}

impl Scale {
    pub(crate) fn of(meta: &Meta) -> Self {
        Self { clock: Clock::of(meta), page_size: i64::try_from(meta.page_size).unwrap_or(i64::MAX) }
    }

    /// Pages to bytes. Saturates: an absurd trace must not panic.
    pub(crate) const fn bytes(self, pages: i64) -> i64 {
        pages.saturating_mul(self.page_size)
    }

    /// All four classes in bytes.
    pub(crate) const fn amounts(self, pages: Amounts) -> Amounts {
        Amounts {
            anon: self.bytes(pages.anon),
            file: self.bytes(pages.file),
            shmem: self.bytes(pages.shmem),
            swap: self.bytes(pages.swap),
        }
    }
}

fn before_meta() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a report came before the session's meta")
}
