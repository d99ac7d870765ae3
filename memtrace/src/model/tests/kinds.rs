use super::*;

/// A backend of PostgreSQL 15 that loaded a JIT provider's library, with a second thread and what else can be mapped.
const POSTGRES: &str = "
560000000000-5600000f0000 r--p 00000000 fe:00 271828 /usr/lib/postgresql/15/bin/postgres
5600000f0000-560000600000 r-xp 000f0000 fe:00 271828 /usr/lib/postgresql/15/bin/postgres
560000600000-560000800000 r--p 00600000 fe:00 271828 /usr/lib/postgresql/15/bin/postgres
560000800000-560000820000 r--p 007ff000 fe:00 271828 /usr/lib/postgresql/15/bin/postgres
560000820000-560000830000 rw-p 0081f000 fe:00 271828 /usr/lib/postgresql/15/bin/postgres
560000830000-560000860000 rw-p 00000000 00:00 0
560000900000-560000a00000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000021000 rw-p 00000000 00:00 0
7f0000021000-7f0004000000 ---p 00000000 00:00 0
7f0010000000-7f0010001000 ---p 00000000 00:00 0
7f0010001000-7f0010801000 rw-p 00000000 00:00 0
7f0010801000-7f0010a01000 rw-p 00000000 00:00 0 [anon:palloc arena]
7f0010a01000-7f0018a01000 rw-s 00000000 00:01 1025 /dev/zero (deleted)
7f0018a01000-7f0018a02000 rw-s 00000000 00:01 0 /SYSV00000000 (deleted)
7f0018a02000-7f0018b02000 rw-s 00000000 00:19 7 /dev/shm/PostgreSQL.1804289383
7f0018b02000-7f0018c02000 rw-s 00000000 00:01 88 /memfd:doublemapper (deleted)
7f0019000000-7f0019200000 rw-p 00000000 00:0f 99 /anon_hugepage (deleted)
7f0019200000-7f0019300000 r--p 00000000 fe:00 316000 /usr/lib/locale/locale-archive
7f0019300000-7f0019326000 r--p 00000000 fe:00 326279 /usr/lib/x86_64-linux-gnu/libc.so.6
7f0019326000-7f001947c000 r-xp 00026000 fe:00 326279 /usr/lib/x86_64-linux-gnu/libc.so.6
7f001947c000-7f00194d5000 r--p 0017c000 fe:00 326279 /usr/lib/x86_64-linux-gnu/libc.so.6
7f00194d5000-7f00194d7000 rw-p 001d5000 fe:00 326279 /usr/lib/x86_64-linux-gnu/libc.so.6
7f00194d7000-7f00194e4000 rw-p 00000000 00:00 0
7f00194e5000-7f00194e6000 ---p 00003000 fe:00 326279 /usr/lib/x86_64-linux-gnu/libc.so.6
7f00194f0000-7f00194f1000 r-xp 00000000 fe:00 4242 /opt/jit/code.cache
7f00194f1000-7f00194f2000 rw-s 00000000 00:06 12 /dev/dri/card0
7f00194f2000-7f00194f3000 rw-s 00000000 00:0d 1063 anon_inode:[perf_event]
7f00194f4000-7f00194f8000 r--p 00000000 00:00 0 [vvar]
7f00194f8000-7f00194fa000 r-xp 00000000 00:00 0 [vdso]
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]
";

#[test]
fn of_a_database_backend() {
    let mut session = Session::attached(POSTGRES);
    for (address, kind, name) in [
        (0x5600_0000_0000, Kind::Program, "/usr/lib/postgresql/15/bin/postgres"),
        (0x5600_0082_0000, Kind::Program, "/usr/lib/postgresql/15/bin/postgres"),
        (0x5600_0083_0000, Kind::Program, "/usr/lib/postgresql/15/bin/postgres"),
        (0x5600_0090_0000, Kind::Heap, "[heap]"),
        (0x7f00_0000_0000, Kind::Arena, ""),
        (0x7f00_03ff_f000, Kind::Arena, ""),
        (0x7f00_1000_0000, Kind::ThreadStack, ""),
        (0x7f00_1080_0000, Kind::ThreadStack, ""),
        (0x7f00_1080_1000, Kind::Anon, "palloc arena"),
        (0x7f00_10a0_1000, Kind::SharedAnon, "/dev/zero (deleted)"),
        (0x7f00_18a0_1000, Kind::SysvShm, "/SYSV00000000 (deleted)"),
        (0x7f00_18a0_2000, Kind::PosixShm, "/dev/shm/PostgreSQL.1804289383"),
        (0x7f00_18b0_2000, Kind::Memfd, "/memfd:doublemapper (deleted)"),
        (0x7f00_1900_0000, Kind::Hugetlb, "/anon_hugepage (deleted)"),
        (0x7f00_1920_0000, Kind::File, "/usr/lib/locale/locale-archive"),
        (0x7f00_1930_0000, Kind::Library, "/usr/lib/x86_64-linux-gnu/libc.so.6"),
        (0x7f00_194d_7000, Kind::Library, "/usr/lib/x86_64-linux-gnu/libc.so.6"),
        (0x7f00_194e_5000, Kind::Guard, "/usr/lib/x86_64-linux-gnu/libc.so.6"),
        (0x7f00_194f_0000, Kind::Library, "/opt/jit/code.cache"),
        (0x7f00_194f_1000, Kind::Device, "/dev/dri/card0"),
        (0x7f00_194f_2000, Kind::Device, "anon_inode:[perf_event]"),
        (0x7f00_194f_4000, Kind::Vdso, "[vvar]"),
        (0x7f00_194f_8000, Kind::Vdso, "[vdso]"),
        (0x7ffd_0000_0000, Kind::Stack, "[stack]"),
    ] {
        let mapping = session.mapping_at(address);
        let found = (mapping.kind, String::from_utf8_lossy(&mapping.name).into_owned());
        assert_eq!(found, (kind, name.to_owned()), "at {address:#x}");
        assert_eq!(mapping.birth, None);
    }
    assert!(session.changes().is_empty(), "what was there at attach was not born");
}

/// A JVM that has mapped 656 and 516 KiB of its own right behind libraries which have no zero-initialised data at all.
#[test]
fn what_is_much_larger_than_a_librarys_data_is_not_its_bss() {
    const JAVA: &str = "
7f0000006000-7f000000d000 r-xp 00006000 fe:00 1 /usr/lib/jvm/lib/libnio.so
7f0000010000-7f0000011000 rw-p 0000f000 fe:00 1 /usr/lib/jvm/lib/libnio.so
7f0000011000-7f00000b5000 rw-p 00000000 00:00 0
7f0000100000-7f0000200000 r-xp 00000000 fe:00 2 /usr/lib/jvm/lib/libjsvml.so
7f0000200000-7f0000201000 rw-p 00100000 fe:00 2 /usr/lib/jvm/lib/libjsvml.so
7f0000201000-7f0000282000 rw-p 00000000 00:00 0
7f0000300000-7f0000400000 r-xp 00000000 fe:00 3 /usr/lib/jvm/lib/server/libjvm.so
7f0000400000-7f0000435000 rw-p 00100000 fe:00 3 /usr/lib/jvm/lib/server/libjvm.so
7f0000435000-7f000048f000 rw-p 00000000 00:00 0
7f0000500000-7f0000510000 r-xp 00000000 fe:00 4 /usr/lib/x86_64-linux-gnu/libc.so.6
7f0000510000-7f0000512000 rw-p 00010000 fe:00 4 /usr/lib/x86_64-linux-gnu/libc.so.6
7f0000512000-7f000051f000 rw-p 00000000 00:00 0
";
    let mut session = Session::attached(JAVA);
    for (address, kind) in [
        (0x7f00_0001_1000, Kind::Anon),
        (0x7f00_0020_1000, Kind::Anon),
        (0x7f00_0043_5000, Kind::Library),
        (0x7f00_0051_2000, Kind::Library),
    ] {
        assert_eq!(session.mapping_at(address).kind, kind, "at {address:#x}");
    }
}

#[test]
fn a_stack_and_an_arena_are_one_mapping_with_their_guard_and_reserve() {
    let mut session = Session::attached(POSTGRES);
    let arena = session.mapping_at(0x7f00_0000_0000);
    assert_eq!((arena.start, arena.end), (0x7f00_0000_0000, 0x7f00_0400_0000));
    let stack = session.mapping_at(0x7f00_1000_0000);
    assert_eq!((stack.start, stack.end), (0x7f00_1000_0000, 0x7f00_1080_1000));
}

#[test]
fn a_program_started_under_observation_is_found_below_its_heap() {
    let mut session = Session::attached("");
    session.opened(MmId(1), 5000, Why::Exec { left: None }, Amounts::ZERO);
    let text = POSTGRES.replace("/usr/lib/postgresql/15/bin/postgres", "/usr/bin/psql");
    session.apply(Event::Maps(Maps { mm: MmId(1), begin_ns: 5000, ts_ns: 5001, lines: lines(&text) }));
    let mappings = session.model.mappings(MmId(1));
    assert_eq!((mappings[0].kind, mappings[0].name.as_slice()), (Kind::Program, &b"/usr/bin/psql"[..]));
}

#[test]
fn calls_tell_what_a_reading_cannot() {
    let mut session = Session::attached("");
    session.mmap(0x7f00_0000_0000, 2049, 0, ANON | 0x2_0000);
    session.call(PID, syscalls::MPROTECT, &[0x7f00_0000_1000, 2048 * PAGE, 3], 0);
    let stack = session.mapping_at(0x7f00_0000_0000);
    assert_eq!((stack.kind, stack.end - stack.start), (Kind::ThreadStack, 2049 * PAGE));

    session.mmap(0x7f10_0000_0000 - 0x80_0000, 32768, 0, ANON | 0x4000);
    session.munmap(0x7f10_0000_0000 - 0x80_0000, 0x80_0000 / PAGE);
    session.munmap(0x7f10_0400_0000, (0x400_0000 - 0x80_0000) / PAGE);
    assert_eq!(session.mapping_at(0x7f10_0000_0000).kind, Kind::Guard);
    session.call(PID, syscalls::MPROTECT, &[0x7f10_0000_0000, 33 * PAGE, 3], 0);
    let arena = session.mapping_at(0x7f10_0000_0000);
    assert_eq!((arena.kind, arena.end - arena.start), (Kind::Arena, 64 << 20));

    session.mmap(0x7f20_0000_0000, 16, 3, 0x21);
    assert_eq!(session.mapping_at(0x7f20_0000_0000).kind, Kind::SharedAnon);
    session.mmap(0x7f30_0000_0000, 1, 3, ANON | 0x4_0000);
    let huge = session.mapping_at(0x7f30_0000_0000);
    assert_eq!((huge.kind, huge.end - huge.start), (Kind::Hugetlb, 2 << 20), "rounded to the huge page");
}
