//! The largest of many, in bounded room.

use crate::statement::Span;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Those of most weight; among equals, the earlier ones.
#[derive(Debug)]
pub(super) struct Best {
    room: usize,
    spans: BTreeMap<(Reverse<u64>, u64), Arc<Span>>,
}

impl Best {
    pub(super) const fn new(room: usize) -> Self {
        Self { room, spans: BTreeMap::new() }
    }

    pub(super) fn offer(&mut self, weight: u64, span: &Arc<Span>) {
        let key = (Reverse(weight), span.number);
        if self.spans.len() >= self.room && self.spans.last_key_value().is_some_and(|(last, _)| *last < key) {
            return;
        }
        self.spans.insert(key, Arc::clone(span));
        if self.spans.len() > self.room {
            self.spans.pop_last();
        }
    }

    /// The heaviest first.
    pub(super) fn into_spans(self) -> Vec<Arc<Span>> {
        self.spans.into_values().collect()
    }
}
