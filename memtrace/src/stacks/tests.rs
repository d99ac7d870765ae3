//! Our own stack, unwound beside libgcc's unwinder, which reads the same tables with other code and other memory.

use super::elf::{Bytes, Image};
use super::*;
use crate::procfs::parse_maps;
use bytemuck::Zeroable as _;
use memtrace_common::STACK_PAGES;
use proptest::prelude::*;
use std::cell::RefCell;
use std::ffi::{CString, c_int, c_void};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const MM: MmId = MmId(0);
const PAGE: u64 = 4096;

unsafe extern "C" {
    fn _Unwind_Backtrace(visit: extern "C" fn(*mut c_void, *mut c_void) -> c_int, data: *mut c_void) -> c_int;
    fn _Unwind_GetIPInfo(context: *mut c_void, exact: *mut c_int) -> u64;
}

extern "C" fn visit(context: *mut c_void, data: *mut c_void) -> c_int {
    let mut exact = 0;
    // SAFETY: libgcc calls this with its context and with what `snapshot` gave it.
    unsafe { (*data.cast::<Vec<(u64, bool)>>()).push((_Unwind_GetIPInfo(context, &raw mut exact), exact != 0)) };
    0
}

fn own_maps() -> Vec<MapsLine> {
    let mut lines = Vec::new();
    parse_maps(&std::fs::read("/proc/self/maps").unwrap(), &mut lines);
    lines
}

/// A copy of a stack as the probes would make it, and what libgcc says.
struct Snapshot {
    record: StackRecord,
    bytes: Vec<u8>,
    truth: Vec<(u64, bool)>,
}

/// Of the function itself and of its callers.
#[inline(never)]
fn snapshot() -> Snapshot {
    let mut regs = [0u64; 21];
    // SAFETY: writes within `regs`.
    unsafe {
        std::arch::asm!(
            "mov [rax], r15", "mov [rax + 8], r14", "mov [rax + 16], r13", "mov [rax + 24], r12",
            "mov [rax + 32], rbp", "mov [rax + 40], rbx", "mov [rax + 48], r11", "mov [rax + 56], r10",
            "mov [rax + 64], r9", "mov [rax + 72], r8", "mov [rax + 80], rax", "mov [rax + 88], rcx",
            "mov [rax + 96], rdx", "mov [rax + 104], rsi", "mov [rax + 112], rdi", "mov [rax + 152], rsp",
            "lea rcx, [rip]", "mov [rax + 128], rcx",
            in("rax") regs.as_mut_ptr(), out("rcx") _,
        );
    }
    regs[17] = CS_64;
    let mut truth: Vec<(u64, bool)> = Vec::new();
    // SAFETY: `visit` takes a pointer to such a Vec.
    unsafe { _Unwind_Backtrace(visit, (&raw mut truth).cast()) };
    // libgcc goes on to where nobody called from.
    truth.pop_if(|(ip, _)| *ip == 0);
    let sp = regs[19];
    let stack = own_maps().into_iter().find(|line| (line.start..line.end).contains(&sp)).unwrap();
    let start = sp & !(PAGE - 1);
    let pages = ((stack.end - start) / PAGE).min(STACK_PAGES as u64);
    let mut bytes = vec![0; (pages * PAGE) as usize];
    std::fs::File::open("/proc/self/mem").unwrap().read_exact_at(&mut bytes, start).unwrap();
    let mut record =
        StackRecord { stack: sp, regs, start, end: stack.end, pages: pages as u32, ..StackRecord::zeroed() };
    record.head.tgid = std::process::id();
    // SAFETY: always succeeds.
    record.head.tid = unsafe { libc::gettid() }.cast_unsigned();
    Snapshot { record, bytes, truth }
}

/// Addresses and modules of the frames, and the end.
fn unwind(snapshot: &Snapshot) -> (Vec<u64>, StackEnd, Vec<Vec<u8>>) {
    let mut stacks = Stacks::new();
    stacks.copied(MM, &snapshot.record, &snapshot.bytes);
    told(&mut stacks)
}

fn told(stacks: &mut Stacks) -> (Vec<u64>, StackEnd, Vec<Vec<u8>>) {
    let mut codes = HashMap::new();
    for event in stacks.take_events() {
        match event {
            Event::Code(code) => {
                assert!(codes.insert(code.id, code).is_none());
            }
            Event::Stack(stack) => {
                let frames: Vec<&Code> = stack.frames.iter().map(|id| &codes[id]).collect();
                let ips = frames.iter().map(|code| code.ip).collect();
                return (ips, stack.end, frames.iter().map(|code| code.module.clone()).collect());
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("no stack");
}

#[track_caller]
fn assert_complete(snapshot: &Snapshot) {
    let (ips, end, modules) = unwind(snapshot);
    let truth: Vec<u64> = snapshot.truth.iter().map(|(ip, _)| *ip).collect();
    let modules: Vec<_> = modules.iter().map(|path| String::from_utf8_lossy(path)).collect();
    assert_eq!(ips[1..], truth[1..], "{end:?} {modules:?}");
    assert_eq!(end, StackEnd::Root);
}

thread_local! {
    static TAKEN: RefCell<Option<Snapshot>> = const { RefCell::new(None) };
}

extern "C" fn take() {
    TAKEN.set(Some(snapshot()));
}

extern "C" fn take_in_handler(_: c_int) {
    take();
}

fn taken() -> Snapshot {
    TAKEN.take().expect("taken")
}

#[test]
fn a_thread_ends_at_its_first_frame() {
    assert_complete(&snapshot());
    std::thread::spawn(|| assert_complete(&snapshot())).join().unwrap();
}

#[test]
fn recursion_is_followed_as_far_as_it_is_copied() {
    #[inline(never)]
    fn deeper(n: u32) -> Snapshot {
        if n == 0 { snapshot() } else { std::hint::black_box(deeper(n - 1)) }
    }
    assert_complete(&deeper(8));
    std::thread::Builder::new()
        .stack_size(8 << 20)
        .spawn(|| {
            let far = deeper(1000);
            let (ips, end, _) = unwind(&far);
            assert_eq!(end, StackEnd::Deep);
            assert!(ips.len() > 8);
            assert!(far.truth[1..].iter().map(|(ip, _)| *ip).zip(&ips[1..]).all(|(a, b)| a == *b));
        })
        .unwrap()
        .join()
        .unwrap();
}

/// Sets a handler for a signal of its own, raises it, and hands out what was taken.
fn taken_in_signal(signal: c_int, flags: c_int) -> Snapshot {
    // SAFETY: the handler only takes a snapshot of this thread, which waits for it in raise.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = take_in_handler as extern "C" fn(c_int) as usize;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
        assert_eq!(libc::raise(signal), 0);
    }
    taken()
}

#[test]
fn a_signal_handler_leads_back_to_what_it_interrupted() {
    let snapshot = taken_in_signal(libc::SIGUSR2, 0);
    assert!(snapshot.truth.iter().any(|(_, exact)| *exact), "libgcc sees no signal frame: {:x?}", snapshot.truth);
    assert_complete(&snapshot);
    // The probes compare what lies below the signal frame, and nothing above.
    let mut stacks = Stacks::new();
    stacks.copied(MM, &snapshot.record, &snapshot.bytes);
    let (_, path) = stacks.take_paths()[0];
    let interrupted = snapshot.truth.iter().position(|(_, exact)| *exact).unwrap();
    assert!(path.returns.iter().filter(|word| **word != 0).count() < interrupted);
    assert_ne!(path.returns[0], 0);
}

#[test]
fn what_a_signal_on_another_stack_interrupted_is_known_and_no_more() {
    std::thread::spawn(|| {
        let mut memory = vec![0u8; 1 << 16];
        let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
        let mut before = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
        // SAFETY: the memory outlives the handler, and the old stack is put back.
        let snapshot = unsafe {
            assert_eq!(libc::sigaltstack(&raw const stack, &raw mut before), 0);
            let snapshot = taken_in_signal(libc::SIGWINCH, libc::SA_ONSTACK);
            assert_eq!(libc::sigaltstack(&raw const before, std::ptr::null_mut()), 0);
            snapshot
        };
        let (ips, end, _) = unwind(&snapshot);
        assert_eq!(end, StackEnd::Deep);
        let interrupted = snapshot.truth.iter().position(|(_, exact)| *exact).unwrap();
        assert!(ips.len() > interrupted);
        assert!(snapshot.truth[1..].iter().map(|(ip, _)| *ip).zip(&ips[1..]).all(|(a, b)| a == *b));
    })
    .join()
    .unwrap();
}

#[test]
fn the_path_holds_return_addresses_where_they_are() {
    let snapshot = snapshot();
    let mut stacks = Stacks::new();
    stacks.copied(MM, &snapshot.record, &snapshot.bytes);
    let [(key, path)] = stacks.take_paths()[..] else { panic!("one copy, one path") };
    assert_eq!((key.stack, key.tid, key.mm), (snapshot.record.stack, snapshot.record.head.tid, 0));
    for (i, (offset, half)) in path.offsets.iter().zip(path.returns).enumerate() {
        let at = (snapshot.record.regs[19] - snapshot.record.start) as usize + *offset as usize;
        let word = u64::from_le_bytes(snapshot.bytes[at..at + 8].try_into().unwrap());
        assert_eq!((word, half), (snapshot.truth[i + 1].0, snapshot.truth[i + 1].0 as u32));
    }
}

#[test]
fn equal_stacks_have_one_number_and_unknown_ones_one_frame() {
    let snapshot = snapshot();
    let (tid, ip) = (snapshot.record.head.tid, snapshot.record.regs[16]);
    let pid = snapshot.record.head.tgid;
    let mut stacks = Stacks::new();
    assert_eq!(stacks.number(MM, pid, tid, 0, ip), None);
    stacks.copied(MM, &snapshot.record, &snapshot.bytes);
    let other = StackRecord { stack: 77, ..snapshot.record };
    stacks.copied(MM, &other, &snapshot.bytes);
    let id = stacks.number(MM, pid, tid, snapshot.record.stack, ip);
    assert_eq!((id, stacks.number(MM, pid, tid, 77, ip)), (Some(StackId(0)), id));
    assert_eq!(told(&mut stacks).1, StackEnd::Root);
    let lost = stacks.number(MM, pid, tid, 78, ip);
    assert_eq!((lost, stacks.number(MM, pid, tid, 79, ip)), (Some(StackId(1)), lost));
    let stack = Event::Stack(Stack { id: StackId(1), frames: vec![CodeId(0)], end: StackEnd::Lost });
    assert_eq!(stacks.take_events(), [stack]);

    let mut off = Stacks::off();
    off.number(MM, pid, tid, 1, ip);
    assert!(matches!(&off.take_events()[..], [Event::Code(_), Event::Stack(Stack { end: StackEnd::Off, .. })]));
}

/// A library that took another's place is not what a copy went through that was taken before.
#[test]
fn code_that_was_mapped_after_a_copy_is_none_of_its_frames() {
    let mut snapshot = snapshot();
    snapshot.record.head.ts_ns = 100;
    let place = |of: &Snapshot, at: usize| of.truth[at].0 & !(PAGE - 1)..(of.truth[at].0 & !(PAGE - 1)) + PAGE;
    let with = |addresses: Range<u64>, ts_ns| {
        let mut stacks = Stacks::new();
        stacks.maps_read(MM, &own_maps());
        // CPUs tell out of order.
        stacks.code_mapped(MM, addresses, ts_ns);
        stacks.code_mapped(MM, 0x1000..0x2000, 50);
        stacks.copied(MM, &snapshot.record, &snapshot.bytes);
        let (ips, end, modules) = told(&mut stacks);
        (ips.len(), end, modules[0].is_empty())
    };
    let whole = snapshot.truth.len();
    assert_eq!(with(place(&snapshot, 0), 99), (whole, StackEnd::Root, false));
    assert_eq!(with(place(&snapshot, 0), 101), (1, StackEnd::Unmapped, true));
    // What leads to it is known.
    let first = snapshot.truth.iter().position(|(ip, _)| !place(&snapshot, 0).contains(ip)).unwrap();
    assert_eq!(with(place(&snapshot, first), 101), (first, StackEnd::Unmapped, false));
}

/// A turn of copies may come between an interval's end and its telling: names asked for too early would never be.
#[test]
fn where_names_are_is_told_with_the_code() {
    let snapshot = snapshot();
    let mut stacks = Stacks::new();
    stacks.copied(MM, &snapshot.record, &snapshot.bytes);
    assert!(stacks.take_new_code().is_empty());
    let events = stacks.take_events();
    let new = stacks.take_new_code();
    let told = |id| events.iter().any(|event| matches!(event, Event::Code(code) if code.id == id));
    assert!(!new.is_empty() && new.keys().all(|id| told(*id)));
}

#[test]
fn a_process_that_is_gone_has_its_parents_code_or_none() {
    let snapshot = snapshot();
    let gone = {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    };
    let mut record = snapshot.record;
    record.head.tgid = gone;
    let mut stacks = Stacks::new();
    stacks.copied(MmId(1), &record, &snapshot.bytes);
    let (ips, end, modules) = told(&mut stacks);
    assert_eq!((ips, end, modules), (vec![record.regs[16]], StackEnd::Gone, vec![Vec::new()]));
    // The parent is known, and so are the files that it has mapped.
    stacks.copied(MM, &snapshot.record, &snapshot.bytes);
    assert_eq!(told(&mut stacks).1, StackEnd::Root);
    stacks.forked(MmId(2), MM);
    stacks.closed(MmId(2));
    stacks.copied(MmId(2), &record, &snapshot.bytes);
    assert_eq!(stacks.take_events(), [], "the same stack as the parent's");
    // From maps alone, the process being gone by the time its files are wanted.
    stacks.maps_read(MmId(3), &own_maps());
    stacks.copied(MmId(3), &record, &snapshot.bytes);
    assert_eq!(stacks.take_events(), []);
    // The same where nothing is known of the files but where they are.
    let mut stacks = Stacks::new();
    stacks.maps_read(MM, &own_maps());
    stacks.copied(MM, &record, &snapshot.bytes);
    assert_eq!(told(&mut stacks).1, StackEnd::Root);
}

#[test]
fn a_program_at_its_first_instruction_is_at_its_root() {
    let path = std::fs::read_link("/proc/self/exe").unwrap();
    let entry = u64::from_le_bytes(std::fs::read(&path).unwrap()[24..32].try_into().unwrap());
    let base = own_maps().into_iter().find(|line| line.name == path.as_os_str().as_encoded_bytes()).unwrap();
    let mut snapshot = snapshot();
    snapshot.record.regs[16] = base.start + entry;
    let (ips, end, _) = unwind(&snapshot);
    assert_eq!((ips.len(), end), (1, StackEnd::Root));
}

#[test]
fn registers_that_were_popped_are_found_below_the_stack_pointer_and_what_lies_deeper_is_not_believed() {
    let snapshot = snapshot();
    let copy = StackCopy::new(&snapshot.record, &snapshot.bytes);
    let sp = snapshot.record.regs[19];
    // Both in the copy, unless the page begins between.
    if sp % PAGE >= 136 {
        assert!(copy.number(sp - 128, 8).is_ok());
        assert_eq!(copy.number(sp - 136, 8), Err(StackEnd::Deep));
    }
}

#[test]
fn code_of_32_bits_is_not_followed() {
    let mut snapshot = snapshot();
    snapshot.record.regs[17] = 0x23;
    let (ips, end, _) = unwind(&snapshot);
    assert_eq!((ips.len(), end), (1, StackEnd::Foreign));
}

#[test]
fn a_page_that_is_not_there_ends_the_stack() {
    let mut snapshot = snapshot();
    snapshot.record.absent = u32::MAX;
    let (ips, end, _) = unwind(&snapshot);
    assert_eq!((ips.len(), end), (1, StackEnd::Absent));
}

/// A C compiler's output, loaded into this process.
struct Library {
    _directory: tempfile::TempDir,
    path: PathBuf,
    handle: *mut c_void,
}

impl Library {
    /// `None` where there is no gcc.
    fn build(source: &str, options: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (source_path, path) = (directory.path().join("a.c"), directory.path().join("a.so"));
        std::fs::write(&source_path, source).unwrap();
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&path).arg(&source_path).args(options);
        let Ok(status) = gcc.status() else {
            eprintln!("skipped: no gcc");
            return None;
        };
        assert!(status.success());
        let name = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
        // SAFETY: the library has no constructors.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null());
        Some(Self { _directory: directory, path, handle })
    }

    /// Calls `name(take)`, which has to call what it is given.
    fn through(&self, name: &std::ffi::CStr) -> Snapshot {
        // SAFETY: the sources below have functions of this type.
        let function: extern "C" fn(extern "C" fn()) = unsafe {
            let symbol = libc::dlsym(self.handle, name.as_ptr());
            assert!(!symbol.is_null());
            std::mem::transmute(symbol)
        };
        function(take);
        taken()
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: nothing of it runs or is kept.
        unsafe { libc::dlclose(self.handle) };
    }
}

const FRAMES: &str = r"
#include <alloca.h>
#include <string.h>
volatile int sink;
__attribute__((noinline)) void plain(void (*take)(void)) { take(); sink++; }
__attribute__((noinline)) void many(void (*take)(void), long a, long b, long c, long d, long e) {
    long v[40]; for (int i = 0; i < 40; i++) v[i] = a * i + b;
    plain(take);
    for (int i = 0; i < 40; i++) sink += v[i] * c + d - e;
    sink += a + b + c + d + e;
}
__attribute__((noinline)) void varying(void (*take)(void), int n) {
    char *room = alloca(n); memset(room, n, n);
    many(take, n, 2, 3, 4, 5);
    sink += room[n / 2];
}
void enter(void (*take)(void)) { varying(take, sink + 777); sink++; }
";

#[test]
fn frames_of_all_shapes_are_followed_in_a_file_that_is_deleted_too() {
    for options in [&["-fomit-frame-pointer"][..], &["-fno-omit-frame-pointer"], &["-Wl,--no-eh-frame-hdr"]] {
        let Some(library) = Library::build(FRAMES, options) else { return };
        std::fs::remove_file(&library.path).unwrap();
        let snapshot = library.through(c"enter");
        let (ips, end, modules) = unwind(&snapshot);
        assert_eq!(end, StackEnd::Root, "{options:?}");
        let inside = modules.iter().filter(|path| path.ends_with(b"a.so (deleted)")).count();
        assert_eq!(inside, 4, "{options:?}");
        // Without the search table libgcc does not find its way.
        if options[0] != "-Wl,--no-eh-frame-hdr" {
            assert_eq!(ips[1..], snapshot.truth[1..].iter().map(|(ip, _)| *ip).collect::<Vec<_>>(), "{options:?}");
        }
    }
}

#[test]
fn debug_frame_is_used_where_it_is_all_there_is() {
    let options = ["-g", "-fno-asynchronous-unwind-tables", "-fno-exceptions", "-fomit-frame-pointer"];
    let Some(library) = Library::build(FRAMES, &options) else { return };
    let (_, end, modules) = unwind(&library.through(c"enter"));
    assert_eq!(end, StackEnd::Root);
    assert_eq!(modules.iter().filter(|path| path.ends_with(b"a.so")).count(), 4);
}

#[test]
fn without_information_a_call_instruction_proves_the_way() {
    let source = r#"
        __asm__(".globl framed\nframed: push %rbp; mov %rsp, %rbp; call *%rdi; pop %rbp; ret\n"
                ".globl lost\nlost: sub $24, %rsp; movq $1, (%rsp); call *%rdi; add $24, %rsp; ret\n");
    "#;
    let Some(library) = Library::build(source, &[]) else { return };
    let (ips, end, modules) = unwind(&library.through(c"framed"));
    assert_eq!(end, StackEnd::Root);
    let at = modules.iter().position(|path| path.ends_with(b"a.so")).unwrap();
    let direct = snapshot();
    assert_eq!(
        ips[ips.len() - 4..],
        direct.truth[direct.truth.len() - 4..].iter().map(|(ip, _)| *ip).collect::<Vec<_>>()
    );
    assert!(at + 2 < ips.len());
    let (_, end, modules) = unwind(&library.through(c"lost"));
    assert_eq!(end, StackEnd::NoUnwindInfo);
    assert!(modules.last().unwrap().ends_with(b"a.so"));
}

#[test]
fn code_that_no_file_holds_ends_the_stack() {
    // call *%rdi with an aligned stack.
    let code = [0x48u8, 0x83, 0xec, 0x08, 0xff, 0xd7, 0x48, 0x83, 0xc4, 0x08, 0xc3];
    // SAFETY: a fresh mapping of one page, filled with a function that keeps the calling convention.
    let snapshot = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap(std::ptr::null_mut(), PAGE as usize, protection, flags, -1, 0);
        assert_ne!(page, libc::MAP_FAILED);
        std::ptr::copy_nonoverlapping(code.as_ptr(), page.cast(), code.len());
        let function: extern "C" fn(extern "C" fn()) = std::mem::transmute(page);
        function(take);
        taken()
    };
    let (ips, end, modules) = unwind(&snapshot);
    assert_eq!((end, modules.last().unwrap().len()), (StackEnd::Jit, 0));
    assert_eq!(ips.len(), 3);
}

fn image(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// Looks up an address every few bytes.
fn look_everywhere(bytes: Vec<u8>) -> usize {
    let length = bytes.len() as u64;
    let Some(image) = Image::read(Bytes::Memory(bytes)) else { return 0 };
    let _ = (image.bias(0, 0), image.build_id());
    let mut rows = cfi::Rows::new();
    let found = (0..length).step_by(509).filter(|at| matches!(rows.find(1, &image, *at), cfi::Found::Row(_)));
    found.count()
}

fn libraries() -> Vec<Vec<u8>> {
    let mut images = vec![];
    for line in own_maps() {
        let small = std::fs::metadata(Path::new(std::ffi::OsStr::new(&*String::from_utf8_lossy(&line.name))));
        if line.permissions & 4 != 0 && small.is_ok_and(|file| file.len() < 1 << 18) {
            images.push(image(Path::new(&*String::from_utf8_lossy(&line.name))));
        }
    }
    images
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_bytes_are_survived_as_a_stack(
        words in prop::collection::vec(any::<u64>(), 512),
        at in any::<prop::sample::Index>(),
        sprinkled in prop::collection::vec((0..512usize, any::<prop::sample::Index>(), 0..1u64 << 21), 0..200),
        regs in prop::array::uniform21(any::<u64>()),
        absent in 0..2u32,
    ) {
        let maps = own_maps();
        let code: Vec<_> = maps.iter().filter(|line| line.permissions & 4 != 0 && line.inode != 0).collect();
        let somewhere = |index: &prop::sample::Index, within: u64| {
            let line = code[index.index(code.len())];
            line.start + within % (line.end - line.start)
        };
        let start = 0x7ffc_0000_0000u64;
        let mut words = words;
        // Return addresses into our own libraries, and pointers into the copy.
        for (i, index, within) in sprinkled {
            words[i] = if within & 1 == 0 { somewhere(&index, within) } else { start + within % 4096 };
        }
        let mut record = StackRecord { regs, start, end: start + 2 * PAGE, pages: 1, absent, ..StackRecord::zeroed() };
        record.regs[16] = somewhere(&at, regs[16]);
        record.regs[19] = start + regs[19] % 2048;
        record.regs[4] = start + regs[4] % 4096;
        record.regs[17] = CS_64;
        record.head.tgid = std::process::id();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut stacks = Stacks::new();
        stacks.copied(MM, &record, &bytes);
        let (ips, end, _) = told(&mut stacks);
        prop_assert!(!ips.is_empty() && ips.len() <= unwind::FRAMES_MAX);
        prop_assert!(ips.len() > 1 || end != StackEnd::Gone);
    }

    #[test]
    fn broken_files_are_survived(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..200),
        headers in prop::collection::vec((0..1024usize, any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let images = libraries();
        let mut bytes = images[which.index(images.len())].clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for (at, byte) in headers {
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        look_everywhere(bytes);
    }

    #[test]
    fn expressions_of_any_bytes_end(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        initial in prop::option::of(any::<u64>()),
        regs in prop::array::uniform21(any::<u64>()),
    ) {
        let record = StackRecord::zeroed();
        let _ = expression::evaluate(&bytes, initial, &Registers::new(&regs), &StackCopy::new(&record, &bytes));
    }
}

#[test]
fn whole_files_have_rows() {
    for bytes in libraries() {
        assert!(look_everywhere(bytes) > 10);
    }
}
