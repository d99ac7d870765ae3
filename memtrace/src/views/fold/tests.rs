use super::*;
use crate::event::StackId;
use proptest::prelude::*;
use std::sync::Arc;

fn frame(module: &str, offset: u64, names: &[&str]) -> Arc<Frame> {
    let symbols = names.iter().map(|n| Symbol { name: n.as_bytes().to_vec(), file: Vec::new(), line: 0 }).collect();
    Arc::new(Frame {
        ip: 0x5500_0000_0000 + offset,
        module: module.as_bytes().to_vec(),
        offset,
        build_id: Vec::new(),
        symbols,
        symbol_offset: 0,
    })
}

fn stack(frames: Vec<Arc<Frame>>) -> Stack {
    Stack { id: StackId(0), frames, end: StackEnd::Root }
}

/// Each name in a frame of its own, in the program.
fn named(names: &[&str]) -> Stack {
    stack(names.iter().map(|name| frame("/usr/bin/program", 1, &[name])).collect())
}

const LIBC: &str = "/usr/lib/x86_64-linux-gnu/libc.so.6";
const POSTGRES: &str = "/usr/lib/postgresql/15/bin/postgres";

#[test]
fn a_hash_join_is_told_from_its_insert_to_the_backend() {
    let names = [
        "__memset_avx2_unaligned_erms",
        "AllocSetAlloc",
        "MemoryContextAlloc",
        "dense_alloc.isra.0",
        "ExecHashTableInsert",
        "MultiExecPrivateHash",
        "ExecHashJoinImpl",
        "ExecScan",
        "PortalRun",
        "PostgresMain",
        "BackendRun",
        "ServerLoop",
        "PostmasterMain",
        "main",
        "__libc_start_call_main",
        "__libc_start_main@@GLIBC_2.34",
        "_start",
    ];
    let stack = named(&names);
    assert_eq!(short(&stack, 4), "ExecHashTableInsert ← MultiExecPrivateHash ← ExecHashJoinImpl ← … ← PostgresMain");
    assert_eq!(short(&stack, 1), "ExecHashTableInsert");
    assert_eq!(short(&stack, 0), "ExecHashTableInsert");
    assert_eq!(short(&stack, 2), "ExecHashTableInsert ← … ← PostgresMain");
    let folded = fold(&stack);
    assert_eq!(folded.first, Some(4));
    assert!((0..4).all(|frame| folded.is_plumbing(frame)) && !folded.is_plumbing(4) && !folded.is_plumbing(16));
}

#[test]
fn a_small_program_is_told_with_its_main() {
    assert_eq!(short(&named(&["memset", "grow", "main", "__libc_start_call_main", "_start"]), 4), "grow ← main");
    assert_eq!(short(&named(&["memset", "main", "_start"]), 4), "main");
}

#[test]
fn where_nothing_else_is_known_plumbing_is_named() {
    assert_eq!(short(&named(&["_int_malloc", "malloc"]), 4), "malloc");
    assert_eq!(short(&named(&["malloc", "start_thread", "clone3"]), 4), "malloc");
    assert_eq!(short(&named(&["start_thread", "clone3"]), 4), "start_thread");
    assert_eq!(short(&stack(Vec::new()), 4), "");
    assert_eq!(fold(&stack(Vec::new())).first, None);
}

#[test]
fn unnamed_frames_are_plumbing_at_the_leaf_of_a_runtime_library_only() {
    let frames = vec![
        frame(LIBC, 0x9c0d2, &[]),
        frame("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2", 0x1234, &[]),
        frame(POSTGRES, 0x5d_1a50, &[]),
        frame(LIBC, 0x3f_000, &[]),
        frame(POSTGRES, 0x40_0000, &[]),
        frame("", 0, &[]),
    ];
    let text = short(&stack(frames), 9);
    assert_eq!(text, "postgres+0x5d1a50 ← libc.so.6+0x3f000 ← postgres+0x400000 ← 0x550000000000");
}

#[test]
fn unnamed_frames_below_plumbing_of_their_module_are_plumbing() {
    // A stripped postgres: what is exported has a name.
    let frames = vec![
        frame(LIBC, 0x9c0d2, &["__memset_avx2_unaligned_erms"]),
        frame(POSTGRES, 0x5d_10e7, &[]),
        frame(POSTGRES, 0x5d_1a50, &[]),
        frame(POSTGRES, 0x5d_2000, &["palloc"]),
        frame(POSTGRES, 0x34_e91f, &[]),
        frame(POSTGRES, 0x34_ea50, &["ExecHashTableInsert"]),
        frame(POSTGRES, 0x34_eb50, &["MultiExecHash"]),
        frame(POSTGRES, 0x4c_8819, &["PostgresMain"]),
        frame(POSTGRES, 0x44_1c55, &[]),
        frame(POSTGRES, 0x44_2b0e, &["PostmasterMain"]),
        frame(POSTGRES, 0x0d_0471, &["main"]),
    ];
    assert_eq!(short(&stack(frames), 3), "postgres+0x34e91f ← ExecHashTableInsert ← … ← PostgresMain");
    // Of another module, or called by what calls back, they are not.
    let hook = vec![frame("/opt/plugin.so", 5, &[]), frame(LIBC, 6, &["malloc"]), frame(POSTGRES, 7, &["f"])];
    assert_eq!(short(&stack(hook), 3), "plugin.so+0x5 ← f");
    let handler = vec![frame(LIBC, 5, &["write"]), frame(POSTGRES, 5, &[]), frame(LIBC, 6, &["__restore_rt"])];
    assert_eq!(short(&stack(handler), 3), "postgres+0x5");
    let closure =
        vec![frame("/bin/x", 5, &[]), frame("/bin/x", 6, &["void std::sort<T>(T)"]), frame("/bin/x", 7, &["g"])];
    assert_eq!(short(&stack(closure), 3), "x+0x5 ← g");
}

#[test]
fn inlined_functions_are_calls_of_their_own() {
    let inlined = frame("/usr/bin/server", 7, &["core::ptr::write", "alloc::vec::Vec<T,A>::push", "server::fill"]);
    let stack = stack(vec![inlined, frame("/usr/bin/server", 9, &["server::main"])]);
    assert_eq!(short(&stack, 4), "server::fill ← server::main");
    assert!(!fold(&stack).is_plumbing(0));
}

#[test]
fn an_incomplete_stack_ends_with_dots() {
    let mut stack = named(&["f", "g"]);
    stack.end = StackEnd::Deep;
    assert_eq!(short(&stack, 4), "f ← g ← …");
    stack.end = StackEnd::Off;
    assert_eq!(short(&stack, 4), "f ← g");
}

fn role_of(module: &str, name: &str) -> Role {
    super::named(&frame(module, 1, &[]), name.as_bytes()).role
}

#[test]
fn plumbing_by_name() {
    assert_eq!(role_of("workload", "write_volatile<u8>"), Role::Plumbing);
    for name in [
        "malloc",
        "__libc_malloc",
        "__GI___libc_realloc",
        "__mmap64",
        "__memmove_avx512_unaligned_erms",
        "__memcpy_chk",
        "memcpy@plt",
        "__strlen_evex",
        "sysmalloc_mmap.isra.0",
        "operator new(unsigned long)",
        "operator delete[](void*, unsigned long)",
        "std::vector<int, std::allocator<int> >::_M_default_append(unsigned long)",
        "void std::vector<Row>::_M_realloc_insert<Row const&>(__gnu_cxx::__normal_iterator<Row*>, Row const&)",
        "std::__1::basic_string<char>::append(char const*)",
        "__gnu_cxx::new_allocator<int>::allocate(unsigned long, void const*)",
        "<alloc::vec::Vec<T,A> as alloc::vec::spec_extend::SpecExtend<T,I>>::spec_extend",
        "<T as alloc::vec::spec_from_elem::SpecFromElem>::from_elem",
        "<&mut I as core::iter::traits::iterator::Iterator>::next",
        "alloc::raw_vec::RawVec<T,A>::grow_one",
        "hashbrown::raw::RawTable<T,A>::reserve_rehash",
        "core::ptr::drop_in_place<alloc::vec::Vec<u8>>",
        "__rust_alloc_zeroed",
        "__rdl_alloc",
        "runtime.mallocgc",
        "runtime.(*mheap).alloc",
        "MemoryContextAllocExtended",
        "AllocSetRealloc",
        "GenerationAlloc",
        "SlabAlloc",
        "palloc0",
        "repalloc_huge",
        "dsa_allocate_extended",
        "zmalloc_usable",
        "ztrymalloc",
        "_sdsnewlen",
        "sdsMakeRoomFor",
        "_PyObject_Malloc",
        "_PyObject_GC_NewVar",
        "_PyMem_RawMalloc",
        "PyObject_Malloc",
        "os::pd_commit_memory(char*, unsigned long, bool)",
        "je_arena_malloc_hard",
        "mi_heap_malloc_zero",
        "tc_malloc",
        "tcmalloc::ThreadCache::FetchFromCentralCache(unsigned int, int)",
        "(anonymous namespace)::do_malloc(unsigned long)",
    ] {
        assert_eq!(role_of("/usr/bin/program", name), Role::Plumbing, "{name}");
    }
    assert_eq!(role_of(LIBC, "pread64"), Role::Plumbing);
    assert_eq!(role_of("/opt/libjemalloc.so.2", "anything"), Role::Plumbing);
}

#[test]
fn work_is_not_taken_for_plumbing() {
    for name in [
        "ExecHashTableInsert",
        "tuplesort_puttupleslot",
        "grow_memtuples",
        "read",
        "start",
        "memset_every_page",
        "mmap_file",
        "free_everything",
        "dictExpand",
        "_PyEval_EvalFrameDefault",
        "PyList_Append",
        "std_vector_like",
        "stdx::vector::grow()",
        "server::alloc::Pool::grow",
        "core::Engine::run()",
        "std::vector<int> server::make<int>(std::vector<int>)",
        "<server::Pool as core::iter::Iterator>::next",
        "server::operator<<(std::ostream&, server::Row const&)",
        "main.(*Pool).grow",
        "mainloop",
        "(anonymous namespace)::Pool::grow(int)",
        "<",
        "operator",
    ] {
        assert_eq!(role_of("/usr/bin/program", name), Role::Work, "{name}");
    }
    assert_eq!(role_of("/usr/bin/program", "main"), Role::Trunk);
    assert_eq!(role_of("/usr/bin/program", "clone3"), Role::Entry);
}

#[test]
fn names_are_short_and_plain() {
    let name = |name: &str| frame_name(&frame("/usr/bin/program", 1, &[name]));
    assert_eq!(name("void server::fill<int>(std::vector<int>&, int) [clone .part.0]"), "server::fill<int>");
    assert_eq!(name("server::Pool::operator()(int) const"), "server::Pool::operator()");
    assert_eq!(name("server::Pool::operator<<(int)"), "server::Pool::operator<<");
    assert_eq!(name("operator new[](unsigned long)"), "operator new[]");
    assert_eq!(name("net/http.(*conn).serve"), "net/http.(*conn).serve");
    assert_eq!(name("(anonymous namespace)::grow(int)"), "(anonymous namespace)::grow");
    assert_eq!(name("<server::Pool as core::fmt::Debug>::fmt"), "<server::Pool as core::fmt::Debug>::fmt");
    assert_eq!(name(&format!("server::Pool<{}>::grow<int>()", "a".repeat(90))), "server::Pool<…>::grow<…>");
    assert_eq!(name("\x1b[2J\u{202e}"), "\\x1b[2J\\u{202e}");
    assert_eq!(name(&"a".repeat(5000)).chars().count(), 65);
    assert_eq!(frame_name(&frame(&format!("/{}", "b".repeat(300)), 16, &[])).chars().count(), 65);
}

#[test]
fn no_row_is_written_so_that_it_never_matches() {
    for family in PLUMBING {
        for pattern in family.names {
            let sample = pattern.replace('*', "");
            let known = |name: &str| family.names.iter().any(|p| matches(p, subject(path(name))));
            assert!(known(&sample), "{pattern}");
            assert!(pattern.find('*').is_none_or(|at| at + 1 == pattern.len()), "{pattern}");
        }
    }
}

proptest! {
    /// Every call is shown, left out and counted, or of a folded role; whatever the names.
    #[test]
    fn nothing_disappears(
        frames in proptest::collection::vec(
            (
                prop_oneof![Just(LIBC), Just(POSTGRES), Just(""), Just("/a/libjemalloc.so")],
                proptest::collection::vec(
                    prop_oneof![
                        proptest::collection::vec(any::<u8>(), 0..24),
                        "[a-z<>(){}:&* @._]{0,24}".prop_map(String::into_bytes),
                        prop_oneof![Just("malloc"), Just("main"), Just("_start"), Just("f"), Just("operator<")]
                            .prop_map(|s| s.as_bytes().to_vec()),
                    ],
                    0..4,
                ),
            ),
            0..12,
        ),
        max in 0_usize..8,
        end in proptest::sample::select(StackEnd::ALL.to_vec()),
    ) {
        let frames: Vec<Arc<Frame>> = frames
            .into_iter()
            .map(|(module, names)| {
                let symbols = names.into_iter().map(|name| Symbol { name, file: Vec::new(), line: 0 }).collect();
                Arc::new(Frame { symbols, ..(*frame(module, 3, &[])).clone() })
            })
            .collect();
        let stack = Stack { end, ..stack(frames) };
        let folded = fold(&stack);
        let calls: usize = stack.frames.iter().map(|frame| frame.symbols.len().max(1)).sum();
        prop_assert_eq!(folded.calls.len(), calls);
        prop_assert_eq!(folded.first.is_none(), stack.frames.is_empty());
        let count = |roles: &[Role]| folded.calls.iter().filter(|call| roles.contains(&call.role)).count();
        let (shown, left_out) = folded.shown(max);
        prop_assert!(shown.len() <= max.max(1) && shown.is_sorted() && shown.first() == folded.first.as_ref());
        let telling = count(&[Role::Work, Role::Trunk]);
        prop_assert_eq!(shown.len() + left_out, if calls == 0 { 0 } else { telling.max(1) });
        prop_assert_eq!(telling + count(&[Role::Plumbing, Role::Entry]), calls);
        let text = folded.short(max);
        prop_assert_eq!(text.is_empty(), calls == 0);
        prop_assert!(!text.chars().any(|c| c.is_control() || super::super::escape::deceives(c)));
        prop_assert!(text.chars().count() <= max.max(1) * 70 + 10);
    }
}
