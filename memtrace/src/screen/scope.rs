//! What is looked at: which process, which stretch of its time, which part of it.

use super::moments::Tally;
use super::names::Names;
use super::process::Process;
use super::words;
use crate::event::StackId;
use crate::statement::{Entry, MappingRef};
use crate::units::Amounts;
use crate::views::Scale;
use memtrace_common::Cause;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;

/// How much time is looked at, up to the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    /// The last interval in which something changed.
    Interval,
    Seconds(u64),
    /// Since attach.
    All,
}

impl Span {
    /// From the narrowest to the widest.
    pub(super) const ALL: [Self; 5] =
        [Self::Interval, Self::Seconds(1), Self::Seconds(10), Self::Seconds(60), Self::All];

    pub(super) fn wider(self, by: isize) -> Self {
        let at = Self::ALL.iter().position(|&span| span == self).unwrap_or(0);
        Self::ALL[at.saturating_add_signed(by).min(Self::ALL.len() - 1)]
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::Interval => "one interval".to_owned(),
            Self::Seconds(60) => "1 min".to_owned(),
            Self::Seconds(seconds) => format!("{seconds} s"),
            Self::All => "since attach".to_owned(),
        }
    }
}

/// The part that a row stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Drill {
    pub(super) cause: Option<Cause>,
    pub(super) mapping: Option<u64>,
    pub(super) lead: Option<Arc<str>>,
    /// In words.
    pub(super) name: String,
}

/// What the keys have chosen.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// The moment; `None` is now.
    pub(super) cursor: Option<u64>,
    pub(super) span: Span,
    /// A frozen stretch instead of a span that ends at the moment, and what it is.
    pub(super) range: Option<(u64, u64, &'static str)>,
    pub(super) drill: Option<Drill>,
    pub(super) filter: String,
}

/// The part of the books that is looked at.
pub(super) struct View<'a> {
    pub(super) process: &'a Process,
    pub(super) names: &'a Names,
    pub(super) scope: &'a Scope,
    pub(super) scale: Scale,
    /// After this, not after that.
    pub(super) from: u64,
    pub(super) to: u64,
    /// The stretch; `None` when nothing changed in it.
    pub(super) window: Option<Cow<'a, Tally>>,
    /// From attach up to the stretch's end.
    pub(super) since: Option<&'a Tally>,
    needle: String,
    stacks: RefCell<HashMap<StackId, bool>>,
    mappings: RefCell<HashMap<u64, bool>>,
}

impl<'a> View<'a> {
    pub(super) fn new(
        process: &'a Process,
        names: &'a Names,
        scope: &'a Scope,
        scale: Scale,
        now_ns: u64,
        since: Option<&'a Tally>,
    ) -> Self {
        let (from, to) = stretch(process, scope, now_ns);
        // Everything has been added up already: a long session has tens of thousands of entries.
        let window = match from {
            0 => since.map(Cow::Borrowed),
            _ => Tally::of(process.moments.between(from, to)).map(Cow::Owned),
        };
        Self {
            process,
            names,
            scope,
            scale,
            from,
            to,
            window,
            since,
            needle: scope.filter.to_lowercase(),
            stacks: RefCell::default(),
            mappings: RefCell::default(),
        }
    }

    /// Entries of the stretch that are looked at.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.window.iter().flat_map(|window| window.entries()).filter(|entry| self.wants(entry))
    }

    /// Entries since attach that are looked at.
    pub(super) fn entries_since(&self) -> impl Iterator<Item = &Entry> {
        self.since.into_iter().flat_map(Tally::entries).filter(|entry| self.wants(entry))
    }

    pub(super) fn change(&self) -> Amounts {
        self.window.as_ref().map_or(Amounts::ZERO, |window| window.change())
    }

    /// Only a part is looked at.
    pub(super) fn is_partial(&self) -> bool {
        !self.needle.is_empty() || self.scope.drill.is_some()
    }

    pub(super) fn lead(&self, entry: &Entry) -> Option<&'a Arc<str>> {
        self.names.get(entry.stack.as_ref()).map(|named| &named.lead)
    }

    fn wants(&self, entry: &Entry) -> bool {
        if let Some(drill) = &self.scope.drill {
            let apart = drill.cause.is_some_and(|cause| cause != entry.cause)
                || drill.mapping.is_some_and(|id| entry.mapping.as_ref().is_none_or(|mapping| mapping.id != id))
                || drill.lead.as_ref().is_some_and(|lead| self.lead(entry) != Some(lead));
            if apart {
                return false;
            }
        }
        self.needle.is_empty()
            || self.finds(words::cause(entry.cause))
            || self.finds(entry.cause.name())
            || self.finds(&String::from_utf8_lossy(&entry.comm))
            || self.needle.strip_prefix("tid ").is_some_and(|tid| tid == entry.tid.to_string())
            || entry.mapping.as_ref().is_some_and(|mapping| self.finds_mapping(mapping))
            || self.finds_stack(entry)
    }

    /// The mapping itself is looked at.
    pub(super) fn wants_mapping(&self, mapping: &MappingRef) -> bool {
        let drilled = self.scope.drill.as_ref().and_then(|drill| drill.mapping);
        drilled.is_none_or(|id| id == mapping.id) && (self.needle.is_empty() || self.finds_mapping(mapping))
    }

    pub(super) fn finds(&self, text: &str) -> bool {
        text.to_lowercase().contains(&self.needle)
    }

    fn finds_mapping(&self, mapping: &MappingRef) -> bool {
        *self.mappings.borrow_mut().entry(mapping.id).or_insert_with(|| {
            self.finds(&words::mapping(mapping)) || self.finds(&String::from_utf8_lossy(&mapping.name))
        })
    }

    fn finds_stack(&self, entry: &Entry) -> bool {
        let (Some(stack), Some(named)) = (&entry.stack, self.names.get(entry.stack.as_ref())) else { return false };
        let mut known = self.stacks.borrow_mut();
        *known.entry(stack.id).or_insert_with(|| named.frames.iter().any(|(name, _)| self.finds(name)))
    }
}

/// The time that is looked at: after the first, not after the second.
pub(super) fn stretch(process: &Process, scope: &Scope, now_ns: u64) -> (u64, u64) {
    if let Some((from, to, _)) = scope.range {
        return (from, to);
    }
    let to = scope.cursor.unwrap_or(now_ns);
    let from = match scope.span {
        Span::All => 0,
        Span::Seconds(seconds) => to.saturating_sub(seconds * SECOND),
        Span::Interval => process.moments.at(to).map_or(to, |last| last.ts_ns.saturating_sub(1)),
    };
    (from, to)
}
