//! Holds the place of the room `stacks`: no stack has a number.

use crate::decode::StackNumbers;
use crate::event::{Event, MapsLine, MmId, StackId};
use memtrace_common::{StackKey, StackPath, StackRecord};

pub struct Stacks;

impl Stacks {
    pub const fn new() -> Self {
        Self
    }

    pub const fn copied(&mut self, _mm: MmId, _record: &StackRecord, _bytes: &[u8]) {}

    pub const fn maps_read(&mut self, _mm: MmId, _lines: &[MapsLine]) {}

    pub const fn forked(&mut self, _child: MmId, _parent_pid: u32) {}

    pub const fn closed(&mut self, _mm: MmId) {}

    pub const fn take_events(&mut self) -> Vec<Event> {
        Vec::new()
    }

    pub const fn take_paths(&mut self) -> Vec<(StackKey, StackPath)> {
        Vec::new()
    }
}

impl StackNumbers for Stacks {
    fn number(&mut self, _: MmId, _: u32, _: u32, _: u64, _: u64) -> Option<StackId> {
        None
    }
}
