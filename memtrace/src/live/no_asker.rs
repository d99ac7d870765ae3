//! In place of [`super::asker`], in a build without the feature `pg`: says that it cannot ask.

use crate::cli::Dsn;
use crate::event::Blocker;
use std::io;

/// As there.
pub(super) type Answer = Result<Vec<Blocker>, String>;

/// As there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) pid: u32,
    pub(super) own_pid: u32,
    pub(super) started_ns: Option<i64>,
}

/// Nothing is asked with it.
pub(super) fn repeatable(_dsn: &Dsn) -> Option<String> {
    None
}

/// As there.
#[derive(Debug)]
pub(super) struct Asker(bool);

impl Asker {
    pub(super) fn start(_dsn: Dsn) -> io::Result<Self> {
        Ok(Self(false))
    }

    pub(super) const fn is_busy(&self) -> bool {
        self.0
    }

    pub(super) fn ask(&mut self, question: Question) {
        log::debug!("not asked: {question:?}");
        self.0 = true;
    }

    pub(super) fn take(&mut self) -> Option<Answer> {
        std::mem::take(&mut self.0).then(|| Err("this memtrace was built without the feature pg".to_owned()))
    }

    pub(super) fn wait(&mut self) -> Option<Answer> {
        self.take()
    }
}
