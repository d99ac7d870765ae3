use super::*;

const AT: u64 = 0x7f00_0000_0000;

fn entry_mapping(statement: &Statement) -> &MappingRef {
    assert_eq!(statement.entries.len(), 1, "{:?}", statement.entries);
    statement.entries[0].mapping.as_deref().expect("a mapping")
}

#[test]
fn pages_populated_inside_mmap_belong_to_the_mapping_that_it_makes() {
    let mut session = Session::attached("");
    session.mmap(AT, 64, 3, ANON);
    session.tick();
    // MAP_POPULATE over it: the pages come before the call returns.
    session.change(Cause::Populate, 8, Place::Address(AT), (0, 0), Some(syscalls::MMAP));
    session.mmap(AT, 8, 3, ANON | 0x10 | 0x8000);
    let statement = session.tick().expect("a statement");
    let mapping = entry_mapping(&statement);
    assert_eq!((mapping.start, mapping.end), (AT, AT + 64 * PAGE), "small, so it grows its neighbour");

    session.change(Cause::Populate, 4096, Place::Address(AT + (1 << 30)), (0, 0), Some(syscalls::MMAP));
    session.mmap(AT + (1 << 30), 4096, 3, ANON | 0x8000);
    session.munmap(AT + (1 << 30), 4096);
    let statement = session.tick().expect("a statement");
    let mapping = entry_mapping(&statement);
    assert_eq!((mapping.start, mapping.end), (AT + (1 << 30), AT + (1 << 30) + 4096 * PAGE));
    assert!(mapping.birth.is_some());
}

#[test]
fn pages_populated_inside_mremap_and_brk_belong_to_what_grew() {
    let mut session = Session::attached("");
    session.mmap(AT, 16, 3, ANON);
    let id = session.mapping_at(AT).id;
    let to = AT + (1 << 30);
    let old = Place::Range { start: AT, end: AT + 16 * PAGE };
    session.change(Cause::Populate, 16, old, (0, 0), Some(syscalls::MREMAP));
    session.call(PID, syscalls::MREMAP, &[AT, 16 * PAGE, 32 * PAGE, 1, 0], to);
    session.call(PID, syscalls::MUNMAP, &[to, 32 * PAGE], 0);
    assert_eq!(entry_mapping(&session.tick().expect("a statement")).id, id);

    let heap = 0x5600_0090_0000;
    let grown = Place::Range { start: heap, end: heap + 4 * PAGE };
    session.change(Cause::Populate, 4, grown, (0, 0), Some(syscalls::BRK));
    session.call(PID, syscalls::BRK, &[heap + 4 * PAGE], heap + 4 * PAGE);
    session.call(PID, syscalls::BRK, &[heap], heap);
    assert_eq!(entry_mapping(&session.tick().expect("a statement")).kind, Kind::Heap);
}

#[test]
fn pages_of_a_mapping_that_was_born_and_died_within_the_interval_are_found() {
    let mut session = Session::attached("");
    // The mmap's event was late: the change comes first, then birth and death, then the tick.
    session.touch((AT, AT + 16 * PAGE), AT, 16);
    session.mmap(AT, 16, 3, ANON);
    session.munmap(AT, 16);
    let statement = session.tick().expect("a statement");
    assert_eq!(entry_mapping(&statement).end, AT + 16 * PAGE);
    session.touch((AT, AT + 16 * PAGE), AT, 16);
    let statement = session.tick().expect("a statement");
    assert_eq!(entry_mapping(&statement).kind, Kind::Several, "the dead of the interval before are forgotten");
}

#[test]
fn an_allocators_area_is_one_mapping_and_a_large_one_beside_it_is_another() {
    let mut session = Session::attached("");
    for arena in 0..10 {
        session.mmap(AT - arena * (1 << 20), 256, 3, ANON);
    }
    let area = session.mapping_at(AT);
    assert_eq!((area.start, area.end), (AT - 9 * (1 << 20), AT + (1 << 20)));
    session.mmap(area.start - (96 << 20), (96 << 20) / PAGE, 3, ANON);
    let table = session.mapping_at(area.start - 1);
    assert_eq!((table.end, table.end - table.start), (area.start, 96 << 20));
    assert!(table.birth.as_ref().map(|birth| birth.ts_ns) > area.birth.as_ref().map(|birth| birth.ts_ns));

    // The kernel sees one VMA; the address decides.
    session.touch((table.start, area.end), table.start, 5);
    session.touch((table.start, area.end), area.start, 7);
    let statement = session.tick().expect("a statement");
    let found: Vec<_> = statement.entries.iter().map(|e| (e.delta.anon, e.mapping.as_ref().map(|m| m.start))).collect();
    assert_eq!(found, [(7, Some(area.start)), (5, Some(table.start))]);
    assert_eq!(session.changes().len(), 2, "two births");
}

#[test]
fn a_hole_makes_two_mappings_of_one_birth() {
    let mut session = Session::attached("");
    session.mmap(AT, 100, 3, ANON);
    let whole = session.mapping_at(AT);
    session.munmap(AT + 20 * PAGE, 10);
    let (small, large) = (session.mapping_at(AT), session.mapping_at(AT + 30 * PAGE));
    assert_eq!((large.id, large.start), (whole.id, AT + 30 * PAGE), "the larger part keeps its number");
    assert_ne!(small.id, whole.id);
    assert_eq!(small.birth, whole.birth);
    session.munmap(AT, 100);
    let deaths = session.changes().iter().filter(|change| change.0 == MappingWhat::Died).count();
    let births = session.changes().iter().filter(|change| change.0 == MappingWhat::Born).count();
    assert_eq!((births, deaths), (2, 2));
}

#[test]
fn unmapping_a_stack_with_its_guard_is_the_stacks_entry() {
    let mut session = Session::attached(
        "7f0000000000-7f0000001000 ---p 00000000 00:00 0
         7f0000001000-7f0000005000 rw-p 00000000 00:00 0",
    );
    let place = Place::Range { start: AT, end: AT + 5 * PAGE };
    session.change(Cause::Munmap, -3, place, (0, 0), Some(syscalls::MUNMAP));
    session.munmap(AT, 5);
    let statement = session.tick().expect("a statement");
    let mapping = entry_mapping(&statement);
    assert_eq!((mapping.kind, mapping.start), (Kind::Anon, AT + PAGE), "the guard cannot hold pages");
}

#[test]
fn a_range_over_several_is_several() {
    let mut session = Session::attached("");
    session.mmap(AT, 4, 3, ANON);
    session.mmap(AT + 8 * PAGE, 4, 1, ANON);
    let place = Place::Range { start: AT, end: AT + 12 * PAGE };
    session.change(Cause::MadviseDontneed, -3, place, (0, 0), Some(syscalls::MADVISE));
    let statement = session.tick().expect("a statement");
    let mapping = entry_mapping(&statement);
    assert_eq!((mapping.kind, mapping.start, mapping.end), (Kind::Several, AT, AT + 12 * PAGE));
}

#[test]
fn faults_in_a_heap_that_grew_and_shrank_within_the_interval_are_the_heaps() {
    let mut session = Session::attached("");
    let heap = 0x5600_0090_0000;
    let end = |pages| heap + pages * PAGE;
    session.call(PID, syscalls::BRK, &[end(4)], end(4));
    session.touch((heap, end(4)), heap, 2);
    session.tick();
    // One record of an instruction that went on while the heap grew: it is told with the first fault's time.
    let record = (heap, end(100));
    session.touch(record, end(2), 90);
    session.call(PID, syscalls::BRK, &[end(100)], end(100));
    session.change(Cause::Brk, -88, Place::Range { start: end(4), end: end(100) }, (0, 0), Some(syscalls::BRK));
    session.call(PID, syscalls::BRK, &[end(4)], end(4));
    let statement = session.tick().expect("a statement");
    let places: Vec<_> = statement.entries.iter().map(|entry| entry.mapping.as_ref().map(|m| m.kind)).collect();
    assert_eq!(places, [Some(Kind::Heap); 2]);
    // Where another mapping was at the other end, nobody can tell.
    let mut session = Session::attached("");
    session.mmap(AT, 4, 3, ANON);
    session.mmap(AT + 4 * PAGE, 4, 1, ANON);
    session.munmap(AT + 4 * PAGE, 4);
    session.touch((AT, AT + 8 * PAGE), AT, 8);
    let statement = session.tick().expect("a statement");
    assert_eq!(statement.entries[0].mapping.as_ref().map(|m| m.kind), Some(Kind::Several));
}

#[test]
fn the_stack_grows_by_faults_and_the_heap_by_brk() {
    let mut session = Session::attached("7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]");
    let stack = session.mapping_at(0x7ffd_0000_0000);
    session.touch((0x7ffc_fff0_0000, 0x7ffd_0002_1000), 0x7ffc_fff8_0000, 1);
    let statement = session.tick().expect("a statement");
    let grown = entry_mapping(&statement);
    assert_eq!((grown.id, grown.kind, grown.start), (stack.id, Kind::Stack, 0x7ffc_fff0_0000));

    let heap = 0x5600_0090_0000;
    session.call(PID, syscalls::BRK, &[0], heap);
    session.call(PID, syscalls::BRK, &[heap + 100], heap + 100);
    session.call(PID, syscalls::BRK, &[heap + 10 * PAGE], heap + 10 * PAGE);
    let mapping = session.mapping_at(heap);
    assert_eq!((mapping.kind, mapping.start, mapping.end), (Kind::Heap, heap, heap + 10 * PAGE));
    session.call(PID, syscalls::BRK, &[heap], heap);
    assert!(session.model.mappings(MM).iter().all(|mapping| mapping.kind != Kind::Heap));
}

#[test]
fn a_late_munmap_spares_the_mapping_that_overtook_it() {
    let mut session = Session::attached("");
    session.mmap(AT, 16, 3, ANON);
    // Thread 7's munmap freed the range in the kernel; the main thread mapped it and returned first.
    session.mmap(AT, 16, 1, ANON);
    session.call(7, syscalls::MUNMAP, &[AT, 16 * PAGE], 0);
    assert_eq!(session.mapping_at(AT).permissions, permission::READ);
    session.call(7, syscalls::MUNMAP, &[AT, 16 * PAGE], 0);
    assert!(session.model.mappings(MM).is_empty(), "once");
}

#[test]
fn mremap_moves_a_mapping_with_its_identity() {
    let mut session = Session::attached("");
    session.mmap(AT, 16, 3, ANON);
    let before = session.mapping_at(AT);
    let to = AT + (1 << 30);
    session.call(PID, syscalls::MREMAP, &[AT, 16 * PAGE, 32 * PAGE, 1, 0], to);
    let after = session.mapping_at(to);
    assert_eq!((after.id, after.birth, after.end - after.start), (before.id, before.birth, 32 * PAGE));
    assert_eq!(session.changes().len(), 1, "a birth and nothing else");
}

#[test]
fn a_system_v_segment_has_the_size_that_the_kernel_tells() {
    let mut session = Session::attached("");
    session.call(PID, syscalls::SHMAT, &[0, 0, 0], AT);
    session.touch((AT, AT + 100 * PAGE), AT + 50 * PAGE, 1);
    let statement = session.tick().expect("a statement");
    let mapping = entry_mapping(&statement);
    assert_eq!((mapping.kind, mapping.start, mapping.end), (Kind::SysvShm, AT, AT + 100 * PAGE));
    session.call(PID, syscalls::SHMDT, &[AT], 0);
    assert!(session.model.mappings(MM).is_empty());
}

#[test]
fn a_reading_names_files_and_ends_what_is_not_there() {
    let mut session = Session::attached("");
    session.mmap(AT, 16, 1, 0x2);
    session.mmap(AT + (1 << 30), 16, 3, ANON);
    let file = session.mapping_at(AT);
    assert_eq!((file.kind, file.name.as_slice()), (Kind::File, &b""[..]));
    session.touch((AT, AT + 16 * PAGE), AT, 1);
    session.read("7f0000000000-7f0000010000 r--p 00000000 fe:00 12 /srv/data.bin");
    let named = session.mapping_at(AT);
    assert_eq!((named.id, named.name.as_slice()), (file.id, &b"/srv/data.bin"[..]));
    assert_eq!(session.changes().last(), Some(&(MappingWhat::Died, AT + (1 << 30), AT + (1 << 30) + 16 * PAGE, None)));
    let statement = session.tick().expect("a statement");
    assert_eq!(entry_mapping(&statement).name, b"/srv/data.bin", "the statement has the name");
    let place = Place::Inode { inode: 12, device: 0xfe << 32 };
    session.change(Cause::Truncate, -1, place, (0, 0), Some(syscalls::FTRUNCATE));
    assert_eq!(entry_mapping(&session.tick().expect("a statement")).id, file.id);
}
