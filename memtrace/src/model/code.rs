//! Call stacks by number, as reports show them, and what each of them did. A number that no event has explained stands
//! for no stack.

use super::ledger::add_sum;
use crate::event::{Code, CodeId, StackEnd, StackId};
use crate::statement::{CodeSum, Frame, Stack, StackSums, Sum};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Code paths that have a row of their own in a closing statement.
pub const CODE_ROWS: usize = 1024;

/// The code that a session has named so far: all of it, for an event may refer to any number that was explained before.
/// Not bounded: it grows by each stack that no one had before, 8 bytes a frame, and by each new place in code with its names.
/// (Of places that only samples found, who observes bounds the number.)
#[derive(Debug, Default)]
pub(super) struct CodeTable {
    frames: HashMap<CodeId, Arc<Frame>>,
    stacks: HashMap<StackId, Known>,
    pub(super) sums: StackSums,
}

#[derive(Debug)]
struct Known {
    stack: Arc<Stack>,
    /// It is counted in the session's sums.
    counted: bool,
}

impl CodeTable {
    pub(super) fn learn_code(&mut self, code: &Code) {
        let frame = Frame {
            ip: code.ip,
            module: code.module.clone(),
            offset: code.offset,
            build_id: code.build_id.clone(),
            symbols: code.symbols.clone(),
            symbol_offset: code.symbol_offset,
        };
        self.frames.insert(code.id, Arc::new(frame));
    }

    /// Frames that no event has explained are left out.
    pub(super) fn learn_stack(&mut self, stack: &crate::event::Stack) -> Arc<Stack> {
        let frames = stack.frames.iter().filter_map(|id| self.frames.get(id).cloned()).collect();
        let known = Arc::new(Stack { id: stack.id, frames, end: stack.end });
        self.stacks.insert(stack.id, Known { stack: Arc::clone(&known), counted: false });
        known
    }

    pub(super) fn frame(&self, id: CodeId) -> Option<&Frame> {
        self.frames.get(&id).map(|frame| &**frame)
    }

    pub(super) fn stack(&self, id: StackId) -> Option<Arc<Stack>> {
        self.stacks.get(&id).map(|known| Arc::clone(&known.stack))
    }

    /// The stack waits in a semaphore of the C library: to the kernel that is a futex as any other.
    pub(super) fn waits_for_semaphore(&self, id: StackId) -> bool {
        const NAMES: [&[u8]; 5] =
            [b"sem_wait", b"sem_timedwait", b"sem_clockwait", b"__new_sem_wait", b"do_futex_wait"];
        self.stacks.get(&id).is_some_and(|known| {
            // Not further out: who calls a condition variable may itself be called by anything.
            let symbols = known.stack.frames.iter().take(4).flat_map(|frame| &frame.symbols);
            symbols.map(|symbol| &symbol.name).any(|name| NAMES.iter().any(|begin| name.starts_with(begin)))
        })
    }

    pub(super) fn knows(&self, id: StackId) -> bool {
        self.stacks.contains_key(&id)
    }

    /// An entry with this stack made RES grow.
    pub(super) fn grew(&mut self, stack: Option<StackId>, pages: u64) {
        if pages == 0 {
            return;
        }
        let sums = &mut self.sums;
        sums.grown = sums.grown.saturating_add(pages);
        match stack.and_then(|id| self.stacks.get_mut(&id)) {
            None => sums.without = sums.without.saturating_add(pages),
            Some(known) if known.stack.end == StackEnd::Root => sums.complete = sums.complete.saturating_add(pages),
            Some(known) => {
                let (stacks, grown) = sums.failures.entry(known.stack.end).or_default();
                *stacks += u64::from(!std::mem::replace(&mut known.counted, true));
                *grown = grown.saturating_add(pages);
            }
        }
    }
}

/// Sums by call stack, of one mm or of all mms of a session. Bounded: beyond three times [`CODE_ROWS`] the smaller ones
/// become one sum.
#[derive(Clone, Debug, Default)]
pub(super) struct CodeSums {
    rows: BTreeMap<Option<StackId>, Sum>,
    folded: u64,
    rest: Sum,
}

impl CodeSums {
    pub(super) fn book(&mut self, stack: Option<StackId>, sum: &Sum) {
        add_sum(self.rows.entry(stack).or_default(), sum);
        if self.rows.len() > 3 * CODE_ROWS {
            self.fold();
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (&stack, sum) in &other.rows {
            self.book(stack, sum);
        }
        self.folded = self.folded.saturating_add(other.folded);
        add_sum(&mut self.rest, &other.rest);
    }

    /// Leaves the [`CODE_ROWS`] largest and the one without a stack.
    fn fold(&mut self) {
        let mut by_size: Vec<_> = self.rows.iter().map(|(&stack, sum)| (Reverse(weight(sum)), stack)).collect();
        by_size.sort_unstable();
        for (_, stack) in by_size.into_iter().filter(|(_, stack)| stack.is_some()).skip(CODE_ROWS) {
            if let Some(sum) = self.rows.remove(&stack) {
                add_sum(&mut self.rest, &sum);
                self.folded = self.folded.saturating_add(1);
            }
        }
    }

    /// Largest first, what was folded last.
    pub(super) fn statement(mut self, code: &CodeTable) -> Vec<CodeSum> {
        self.fold();
        let mut rows: Vec<_> = self.rows.into_iter().collect();
        rows.sort_by_key(|(stack, sum)| (Reverse(weight(sum)), *stack));
        let row = |(stack, sum): (Option<StackId>, Sum)| CodeSum {
            stack: stack.and_then(|id| code.stack(id)),
            folded: 0,
            sum,
        };
        let rest = (self.folded > 0).then_some(CodeSum { stack: None, folded: self.folded, sum: self.rest });
        rows.into_iter().map(row).chain(rest).collect()
    }
}

/// By which code paths are sorted: RES pages in and out, then faults.
const fn weight(sum: &Sum) -> (u64, u64) {
    (sum.grown.saturating_add(sum.shrunk), sum.faults.shown())
}
