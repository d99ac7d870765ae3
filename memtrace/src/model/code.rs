//! Call stacks by number, as reports show them. A number that no event has explained stands for no stack.

use crate::event::{Code, CodeId, StackId};
use crate::statement::{Frame, Stack};
use std::collections::HashMap;
use std::sync::Arc;

/// The code that a session has named so far.
#[derive(Debug, Default)]
pub(super) struct CodeTable {
    frames: HashMap<CodeId, Arc<Frame>>,
    stacks: HashMap<StackId, Arc<Stack>>,
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
        self.stacks.insert(stack.id, Arc::clone(&known));
        known
    }

    pub(super) fn stack(&self, id: StackId) -> Option<Arc<Stack>> {
        self.stacks.get(&id).cloned()
    }
}
