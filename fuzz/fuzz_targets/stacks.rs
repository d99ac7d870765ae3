//! Any bytes as a mapped file, with a stack and registers that lead into it: no panic, and never more frames than there may be.
//!
//! The first bytes are the stack, the rest is the file. Needs the feature `live`, and so built probes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memtrace::event::{Event, MapsLine, MmId, permission};
use memtrace::stacks::Stacks;
use memtrace_common::StackRecord;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::fs::MetadataExt as _;

const STACK: usize = 512;
const STACK_AT: u64 = 0x7ffc_0000_0000;
const CODE_AT: u64 = 0x1000_0000;

fuzz_target!(|bytes: &[u8]| {
    let Some((stack, file)) = bytes.split_at_checked(STACK) else { return };
    // SAFETY: the name ends with a zero; the descriptor is ours alone.
    let mut memory = unsafe { File::from_raw_fd(libc::memfd_create(c"fuzz".as_ptr(), 0)) };
    memory.write_all(file).expect("memory takes everything");
    let line = MapsLine {
        start: CODE_AT,
        end: CODE_AT + (1 << 24),
        permissions: permission::READ | permission::EXECUTE,
        offset: 0,
        device: 0,
        inode: memory.metadata().expect("an open file").ino(),
        name: format!("/proc/self/fd/{}", memory.as_raw_fd()).into_bytes(),
    };
    let mut page = vec![0; 4096];
    page[..STACK].copy_from_slice(stack);
    let mut record: StackRecord = bytemuck::Zeroable::zeroed();
    (record.start, record.end, record.pages) = (STACK_AT, STACK_AT + 4096, 1);
    record.head.tgid = std::process::id();
    for (register, word) in record.regs.iter_mut().zip(stack.as_chunks().0) {
        *register = u64::from_le_bytes(*word);
    }
    let within = record.regs[16];
    (record.regs[16], record.regs[17], record.regs[19]) = (CODE_AT + within % (1 << 24), 0x33, STACK_AT);
    let mut stacks = Stacks::new();
    stacks.maps_read(MmId(0), &[line]);
    stacks.copied(MmId(0), &record, &page);
    let events = stacks.take_events();
    assert!(matches!(events.last(), Some(Event::Stack(stack)) if (1..=256).contains(&stack.frames.len())));
});
