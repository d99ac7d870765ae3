//! What a database server's backend says of itself, added up over a window.

use crate::event::Backend;
use std::cmp::Reverse;

/// Kinds of waits that are kept, the most frequent ones.
const WAITS: usize = 64;

/// To what is known comes what is said later: what is a state of things is as it is then, waits are counted together.
pub(super) fn add(known: &mut Backend, said: &Backend) {
    let mut waits = std::mem::take(&mut known.waits);
    for (wait, times) in &said.waits {
        match waits.iter_mut().find(|(known, _)| known == wait) {
            Some((_, sum)) => *sum = sum.saturating_add(*times),
            None => waits.push((wait.clone(), *times)),
        }
    }
    waits.sort_by_key(|(_, times)| Reverse(*times));
    waits.truncate(WAITS);
    let mut sum = Backend { waits, ..said.clone() };
    // What it had on disk is gone with its statement.
    if known.query_start_ns == said.query_start_ns {
        sum.spilled = known.spilled.max(said.spilled);
    }
    // Whom it waited for once is worth a word, and that it was then: nothing of it holds any more.
    let blocks = |backend: &Backend| backend.blocked_by.as_ref().is_some_and(|them| !them.is_empty());
    if !blocks(said) && blocks(known) {
        sum.blocked_by = known.blocked_by.take();
        sum.asked_ns = known.asked_ns;
        sum.in_lock = false;
    }
    *known = sum;
}
