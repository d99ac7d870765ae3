//! The names of code, once per stack: frames as text, innermost first, and the one that tells most.

use crate::event::StackId;
use crate::statement::Stack;
use crate::views::fold::{Role, fold};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Stacks whose names are kept; later ones go by their address.
const STACKS: usize = 100_000;
/// Frames of one stack in the tree.
const FRAMES: usize = 256;

/// One stack, named.
#[derive(Clone, Debug)]
pub(super) struct Named {
    /// The first function that is not plumbing, and its callers, in a line.
    pub(super) short: Arc<str>,
    /// That function alone.
    pub(super) lead: Arc<str>,
    /// All frames, innermost first; `true` for what is folded away.
    pub(super) frames: Vec<(Arc<str>, bool)>,
    /// How the stack ends, where that is not the thread's first frame.
    pub(super) end: Option<&'static str>,
}

/// All stacks of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    stacks: BTreeMap<StackId, Named>,
    interned: HashSet<Arc<str>>,
}

impl Names {
    pub(super) fn learn(&mut self, stack: &Stack) {
        if self.stacks.len() >= STACKS || self.stacks.contains_key(&stack.id) {
            return;
        }
        let folded = fold(stack);
        let short = self.intern(folded.short(6));
        let lead = self.intern(folded.first().map_or_else(|| "?".to_owned(), |call| call.name()));
        let first = folded.first;
        let frames = folded.calls.iter().enumerate().take(FRAMES).map(|(index, call)| {
            // What has no name says little between names that do; the one that wanted the memory is shown in any case.
            let quiet = matches!(call.role, Role::Plumbing | Role::Entry) || call.symbol.is_none();
            let hidden = quiet && first != Some(index);
            (self.intern(call.name()), hidden)
        });
        let frames = frames.collect();
        let end = (stack.end != crate::event::StackEnd::Root).then(|| stack.end.name());
        self.stacks.insert(stack.id, Named { short, lead, frames, end });
    }

    fn intern(&mut self, name: String) -> Arc<str> {
        if let Some(known) = self.interned.get(name.as_str()) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.interned.insert(Arc::clone(&name));
        name
    }

    pub(super) fn get(&self, stack: Option<&Arc<Stack>>) -> Option<&Named> {
        stack.and_then(|stack| self.stacks.get(&stack.id))
    }
}
