//! What unwinding a copied stack costs once its rows are known, and what the first copy of a process costs.
//!
//! The process copies its own stack, a recursion of so many frames on top of the thread's first ones.

use bytemuck::Zeroable as _;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use memtrace::event::{Event, MmId};
use memtrace::stacks::Stacks;
use memtrace_common::StackRecord;
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;

const MM: MmId = MmId(0);
const COPIED: usize = 32 << 10;

#[inline(never)]
fn copy_below(frames: u32) -> (StackRecord, Vec<u8>) {
    if frames > 0 {
        let copied = copy_below(frames - 1);
        return black_box(copied);
    }
    let mut record = StackRecord::zeroed();
    // SAFETY: reads registers only. Those that are left out are of no account: callers do not keep anything in them.
    unsafe {
        std::arch::asm!(
            "mov [rax], r15", "mov [rax + 8], r14", "mov [rax + 16], r13", "mov [rax + 24], r12",
            "mov [rax + 32], rbp", "mov [rax + 40], rbx", "mov [rax + 152], rsp", "lea rcx, [rip]", "mov [rax + 128], rcx",
            in("rax") record.regs.as_mut_ptr(), out("rcx") _,
        );
    }
    record.regs[17] = 0x33;
    record.head.tgid = std::process::id();
    let sp = record.regs[19];
    record.start = sp & !0xfff;
    record.end = u64::MAX;
    let mut bytes = vec![0; COPIED];
    let memory = std::fs::File::open("/proc/self/mem").expect("our own memory");
    let read = memory.read_at(&mut bytes, record.start).expect("our own stack");
    bytes.truncate(read);
    record.pages = (read / 4096) as u32;
    (record, bytes)
}

fn unwind(c: &mut Criterion) {
    let mut group = c.benchmark_group("unwind");
    for frames in [4, 16, 64] {
        let (record, bytes) = copy_below(frames);
        let mut stacks = Stacks::new();
        stacks.copied(MM, &record, &bytes);
        let depth = match stacks.take_events().last() {
            Some(Event::Stack(stack)) => stack.frames.len(),
            other => panic!("{other:?}"),
        };
        group.bench_function(BenchmarkId::new("known", format!("{depth} frames")), |b| {
            let mut copies = 0_u32;
            b.iter(|| {
                stacks.copied(MM, black_box(&record), black_box(&bytes));
                copies = copies.wrapping_add(1);
                if copies.is_multiple_of(1024) {
                    stacks.take_paths();
                }
            });
        });
        group.bench_function(BenchmarkId::new("first", format!("{depth} frames")), |b| {
            b.iter(|| Stacks::new().copied(MM, black_box(&record), black_box(&bytes)));
        });
    }
    group.finish();
}

criterion_group!(benches, unwind);
criterion_main!(benches);
