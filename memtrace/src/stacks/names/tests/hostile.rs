//! Files made to do harm: each costs a counter at most, and the names of other modules stay.

use super::*;

/// The reader still answers, about another module.
fn alive(names: &mut Names) {
    let exe = module(Path::new("/proc/self/exe"));
    assert_eq!(named(names, &exe, &[0]).len(), 1);
    assert_eq!(names.modules[names.ids[&exe.identity()]].level, Level::Lines);
}

fn write(folder: &Path, bytes: &[u8]) -> Arc<ModuleFile> {
    let path = folder.join("hostile");
    let _ = fs::remove_file(&path);
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    module(&path)
}

/// Where the header of a section is, and of which offset and size it speaks.
fn section(bytes: &[u8], name: &str) -> (usize, usize, usize) {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let parsed = object::File::parse(bytes).unwrap();
    let index = parsed.section_by_name(name).unwrap_or_else(|| panic!("{name}")).index().0;
    let header = word(0x28) + index * 64;
    (header, word(header + 0x18), word(header + 0x20))
}

#[test]
fn truncated_and_changed_files_cost_no_more_than_a_counter() {
    let Some(program) = Program::c(&["-g", "-O2"]) else { return };
    let (offset, _) = program.span("exported_first");
    let whole = program.whole.clone();
    let folder = tempfile::tempdir().unwrap();
    let mut names = names();
    for length in [0, 1, 4, 16, 63, 64, 65, 1000, whole.len() / 4, whole.len() / 2, whole.len() - 64, whole.len() - 1] {
        named(&mut names, &write(folder.path(), &whole[..length]), &[offset]);
    }
    // Sizes and offsets of sections that are far too large, one after another.
    for name in
        [".symtab", ".strtab", ".shstrtab", ".dynsym", ".rela.dyn", ".debug_info", ".debug_abbrev", ".debug_line"]
    {
        let (header, ..) = section(&whole, name);
        for (at, value) in
            [(0x18, u64::MAX), (0x18, 1 << 40), (0x20, u64::MAX), (0x20, u64::MAX / 2), (0x20, 1 << 33), (0x38, 0)]
        {
            let mut bytes = whole.clone();
            bytes[header + at..header + at + 8].copy_from_slice(&value.to_le_bytes());
            named(&mut names, &write(folder.path(), &bytes), &[offset]);
        }
    }
    // Debugging information of which each byte in turn is another: loops, wrong forms, lengths without end.
    for name in [".debug_info", ".debug_abbrev", ".debug_line", ".debug_rnglists", ".debug_str_offsets"] {
        if object::File::parse(whole.as_slice()).unwrap().section_by_name(name).is_none() {
            continue;
        }
        let (_, start, size) = section(&whole, name);
        for at in (0..size).step_by(size.div_ceil(24)) {
            for value in [0, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[start + at] = value;
                named(&mut names, &write(folder.path(), &bytes), &[offset]);
            }
        }
    }
    assert_eq!(names.failures().timeouts, 0);
    alive(&mut names);
}

/// A program whose debugging information says that `depth` calls of `origin` are inlined at one place.
fn nested(depth: u32, origin: &str) -> Option<Program> {
    let source = format!(
        r#"
    .text
    .globl main
    .type main, @function
main:
    .file 1 "nested.c"
    .loc 1 7
    xorl %eax, %eax
    ret
    .size main, .-main
.Lend:
    .section .debug_abbrev,"",@progbits
    .byte 1, 0x11, 1, 0x11, 1, 0x12, 7, 0x10, 0x17, 0, 0 # unit: low_pc, high_pc, stmt_list
    .byte 2, 0x2e, 1, 3, 8, 0x11, 1, 0x12, 7, 0, 0    # function: name, low_pc, high_pc
    .byte 3, 0x1d, 1, 0x31, 0x13, 0x11, 1, 0x12, 7, 0, 0 # inlined: origin, low_pc, high_pc
    .byte 4, 0x2e, 0, 0x31, 0x13, 0, 0                # function: origin
    .byte 5, 0x2e, 0, 3, 8, 0, 0                      # function: name
    .byte 0
    .section .debug_info,"",@progbits
.Lunit: .long .Lover - .Lversion
.Lversion: .value 4
    .long 0
    .byte 8
    .uleb128 1
    .quad main, .Lend - main
    .long .Lline
.Lloop: .uleb128 4
    .long .Lloop - .Lunit
.Lnamed: .uleb128 5
    .asciz "inner"
    .uleb128 2
    .asciz "main"
    .quad main, .Lend - main
    .rept {depth}
    .uleb128 3
    .long {origin} - .Lunit
    .quad main, .Lend - main
    .endr
    .zero {depth}
    .byte 0, 0
.Lover:
    .section .debug_line,"",@progbits
.Lline:
"#
    );
    Program::compile("gcc", "program.s", &source, &["-no-pie"])
}

#[test]
fn inlining_without_end_is_cut_or_costs_its_debugging_information() {
    let mut names = names();
    for (depth, origin) in [(3, ".Lnamed"), (100, ".Lnamed"), (3, ".Lloop"), (300_000, ".Lnamed")] {
        let Some(program) = nested(depth, origin) else { return };
        let (offset, _) = program.span("main");
        let mut events = [code(depth, offset + 1)];
        names.name_all(&mut events, &[new(depth, &program.module(), false)].into());
        let found = text(&events[0]);
        let functions = found.split('<').count();
        match (depth, origin) {
            (3, ".Lnamed") => assert_eq!(found, "inner<inner<inner<main:7+1"),
            (100, _) => assert_eq!(functions, MAX_SYMBOLS),
            _ => assert!(functions <= MAX_SYMBOLS && found.contains("main"), "{found}"),
        }
        eprintln!("{depth} of {origin}: {functions} functions, {:?}", names.failures());
    }
    alive(&mut names);
}

#[test]
fn a_section_that_unpacks_without_end_is_the_end_of_its_reader_only() {
    let Some(program) = Program::c(&["-g", "-O2", "-gz=zlib"]) else { return };
    let (offset, _) = program.span("exported_first");
    let mut bytes = program.whole.clone();
    let (_, start, _) = section(&bytes, ".debug_info");
    // Elf64_Chdr.ch_size: a petabyte is reserved before the first byte is unpacked.
    bytes[start + 8..start + 16].copy_from_slice(&(1u64 << 50).to_le_bytes());
    let folder = tempfile::tempdir().unwrap();
    let mut names = names();
    assert_eq!(named(&mut names, &write(folder.path(), &bytes), &[offset]), ["exported_first+0"]);
    assert_eq!(names.failures(), Failures { crashes: 1, ..Failures::default() });
    alive(&mut names);
}

#[test]
fn a_name_of_ten_megabytes_is_cut() {
    let Some(program) = Program::c(&["-O1"]) else { return };
    let (offset, _) = program.span("hidden");
    let mut bytes = program.whole.clone();
    let (header, start, size) = section(&bytes, ".strtab");
    let mut strings = bytes[start..start + size].to_vec();
    let name = memchr::memmem::find(&strings, b"\0hidden\0").unwrap() + 1;
    let long = strings.len() as u32;
    strings.extend(std::iter::repeat_n(b'x', 10 << 20));
    strings.push(0);
    let at = bytes.len() as u64;
    let length = strings.len() as u64;
    let (_, symbols, count) = section(&bytes, ".symtab");
    for symbol in (symbols..symbols + count).step_by(24) {
        if bytes[symbol..symbol + 4] == (name as u32).to_le_bytes() {
            bytes[symbol..symbol + 4].copy_from_slice(&long.to_le_bytes());
        }
    }
    bytes[header + 0x18..header + 0x20].copy_from_slice(&at.to_le_bytes());
    bytes[header + 0x20..header + 0x28].copy_from_slice(&length.to_le_bytes());
    bytes.extend(strings);
    let folder = tempfile::tempdir().unwrap();
    let found = named(&mut names(), &write(folder.path(), &bytes), &[offset]);
    assert_eq!(found, [format!("{}+0", "x".repeat(text::MAX_NAME))]);
}

#[test]
fn a_file_that_is_cut_while_it_is_read_ends_its_reader_only() {
    let Some(program) = Program::c(&["-g", "-O2"]) else { return };
    let (offset, _) = program.span("hidden");
    let module = program.module();
    let mut names = names();
    assert_eq!(named(&mut names, &module, &[offset]), ["hidden:15+0"]);
    fs::OpenOptions::new().write(true).open(&program.file).unwrap().set_len(0).unwrap();
    named(&mut names, &module, &[offset + 1]);
    // The mapping was lost, then the file was read anew and is no ELF file any more.
    assert_eq!(names.failures().timeouts, 0);
    assert!(names.failures().crashes + names.failures().refused > 0, "{:?}", names.failures());
    alive(&mut names);
}

#[test]
fn a_reader_that_does_not_answer_is_ended_and_the_module_given_up() {
    let sleeping = || {
        let mut program = Command::new("sleep");
        program.arg("1000");
        program
    };
    let short = Duration::from_millis(20);
    let mut names = Names::with(sleeping, Budget { first: short, all: short });
    let exe = module(Path::new("/proc/self/exe"));
    assert_eq!(named(&mut names, &exe, &[1, 2]), ["", ""]);
    assert_eq!(names.failures(), Failures { timeouts: 2, ..Failures::default() }, "with lines, without");
    assert_eq!(named(&mut names, &exe, &[3]), [""]);
    assert_eq!(names.failures().timeouts, 2, "asked no more");
    assert!(names.worker.is_none());
}

#[test]
fn a_reader_that_ends_or_cannot_be_started_costs_names_only() {
    let exe = module(Path::new("/proc/self/exe"));
    let mut names = Names::with(|| Command::new("true"), PATIENT);
    assert_eq!(named(&mut names, &exe, &[1]), [""]);
    assert_eq!(names.failures(), Failures { crashes: 2, ..Failures::default() });
    let mut names = Names::with(|| Command::new("/nonexistent"), PATIENT);
    assert_eq!(named(&mut names, &exe, &[1]), [""]);
    assert_eq!(names.failures(), Failures { unstarted: 1, ..Failures::default() });
}

#[test]
fn links_and_files_of_other_kinds_are_not_opened() {
    let Some(program) = Program::c(&["-g", "-O2"]) else { return };
    let (offset, _) = program.span("hidden");
    if program.run("objcopy", &["--only-keep-debug", "program", "pipe"]).is_none() {
        return;
    }
    program.run("objcopy", &["-g", "--add-gnu-debuglink=pipe", "program"]).unwrap();
    program.run("rm", &["pipe"]).unwrap();
    program.run("mkfifo", &["pipe"]).unwrap();
    let mut names = names();
    assert_eq!(named(&mut names, &program.module(), &[offset]), ["hidden+0"]);
    clean(&names);
    assert!(ModuleFile::file(File::open("/dev/null").unwrap(), Vec::new(), Vec::new(), None).is_err());
}
