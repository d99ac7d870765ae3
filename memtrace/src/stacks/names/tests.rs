//! Names of programs that these tests compile, against what their sources say; and files made to do harm.

use super::*;
use crate::event::{Stack, StackEnd, StackId};
use object::{Object, ObjectSection, ObjectSymbol};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tempfile::TempDir;

const PATIENT: Budget = Budget { first: Duration::from_secs(60), all: Duration::from_secs(120) };
const ENVIRONMENT: &str = "MEMTRACE_TEST_READS_SYMBOLS";

/// The process that reads symbols, when these tests start themselves as that; nothing otherwise.
#[test]
fn reader_of_symbols() {
    if std::env::var_os(ENVIRONMENT).is_some() {
        reader::serve().unwrap();
    }
}

fn ourselves() -> Command {
    let mut program = Command::new("/proc/self/exe");
    program.args(["--exact", "stacks::names::tests::reader_of_symbols", "--nocapture"]).env(ENVIRONMENT, "1");
    program
}

fn names() -> Names {
    Names::with(ourselves, PATIENT)
}

/// Runs a tool in `folder`. `None`, and a word on it, where it is not there.
fn run(folder: &Path, tool: &str, arguments: &[&str]) -> Option<()> {
    match Command::new(tool).args(arguments).current_dir(folder).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Some(()),
        Ok(output) => panic!("{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            eprintln!("skipped: {tool}: {error}");
            None
        }
    }
}

/// Functions whose addresses the program's symbol table tells, in files that may have lost it.
const SOURCE: &str = r#"
#include <string.h>
#include <stdlib.h>
static volatile int sink;
static inline __attribute__((always_inline)) void innermost(int by) {
    sink += by; /* line 6 */
}
static inline __attribute__((always_inline)) void between(int by) {
    innermost(by * 3); /* line 9 */
}
__attribute__((noinline)) void exported_first(int by) {
    between(by); /* line 12 */
}
static __attribute__((noinline)) void hidden(int by) {
    sink -= by; /* line 15 */
}
__attribute__((noinline)) void exported_last(int by) {
    hidden(by + sink); /* line 18 */
}
int main(int count, char **values) {
    exported_first(count);
    exported_last(count);
    char *copy = malloc(4096 * count);
    memcpy(copy, values, 8 * count); /* line 24 */
    sink = copy[count];
    return sink;
}
"#;

/// A compiled program, its copy with all symbols beside it.
struct Program {
    folder: TempDir,
    file: PathBuf,
    whole: Vec<u8>,
}

impl Program {
    fn c(flags: &[&str]) -> Option<Self> {
        Self::compile("gcc", "program.c", SOURCE, flags)
    }

    fn compile(compiler: &str, name: &str, source: &str, flags: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name), source).unwrap();
        let arguments = [&[name, "-o", "program", "-Wl,--build-id=sha1"], flags].concat();
        run(folder.path(), compiler, &arguments)?;
        let file = folder.path().join("program");
        let whole = fs::read(&file).unwrap();
        Some(Self { folder, file, whole })
    }

    fn run(&self, tool: &str, arguments: &[&str]) -> Option<()> {
        run(self.folder.path(), tool, arguments)
    }

    /// Offset and size of a function, as the unstripped file's symbol table has it.
    fn span(&self, symbol: &str) -> (u64, u64) {
        let parsed = object::File::parse(self.whole.as_slice()).unwrap();
        let symbol = parsed.symbols().find(|found| found.name() == Ok(symbol)).unwrap_or_else(|| panic!("{symbol}"));
        let section = parsed.section_by_index(symbol.section_index().unwrap()).unwrap();
        (symbol.address() - section.address() + section.file_range().unwrap().0, symbol.size())
    }

    fn module(&self) -> Arc<ModuleFile> {
        module(&self.file)
    }
}

fn module(path: &Path) -> Arc<ModuleFile> {
    let file = File::open(path).unwrap();
    Arc::new(ModuleFile::file(file, path.as_os_str().as_encoded_bytes().to_vec(), vec![1; 20], None).unwrap())
}

fn code(id: u32, offset: u64) -> Event {
    Event::Code(Code {
        id: CodeId(id),
        ip: 0x5000_0000 + offset,
        module: b"program".to_vec(),
        offset,
        build_id: Vec::new(),
        symbols: Vec::new(),
        symbol_offset: 0,
    })
}

fn stack(id: u32, frames: &[u32]) -> Event {
    let frames = frames.iter().map(|&id| CodeId(id)).collect();
    Event::Stack(Stack { id: StackId(id), frames, end: StackEnd::Root })
}

/// `name:line` of each function at an offset, joined by `<`, with the offset in the last.
fn text(event: &Event) -> String {
    let Event::Code(code) = event else { panic!("{event:?}") };
    let symbols = code.symbols.iter().map(|symbol| {
        let line = if symbol.line == 0 { String::new() } else { format!(":{}", symbol.line) };
        format!("{}{line}", String::from_utf8_lossy(&symbol.name))
    });
    let names = symbols.collect::<Vec<_>>().join("<");
    if names.is_empty() { names } else { format!("{names}+{}", code.symbol_offset) }
}

fn new(id: u32, module: &Arc<ModuleFile>, after_call: bool) -> (CodeId, NewCode) {
    (CodeId(id), NewCode { file: Arc::clone(module), after_call })
}

/// What one module's offsets are called, each as a leaf.
fn named(names: &mut Names, module: &Arc<ModuleFile>, offsets: &[u64]) -> Vec<String> {
    let mut events: Vec<Event> = (0..).zip(offsets).map(|(id, &offset)| code(id, offset)).collect();
    let codes = (0..).zip(offsets).map(|(id, _)| new(id, module, false)).collect();
    names.name_all(&mut events, &codes);
    events.iter().map(text).collect()
}

fn clean(names: &Names) {
    assert_eq!(names.failures(), Failures::default());
}

/// What addr2line says of an offset that is an address too (no position-independent code, first segment at zero).
fn lines_of(program: &Program, offset: u64) -> Option<Vec<String>> {
    let parsed = object::File::parse(program.whole.as_slice()).unwrap();
    let text = parsed.section_by_name(".text").unwrap();
    let address = offset - text.file_range().unwrap().0 + text.address();
    let output = Command::new("addr2line")
        .args(["-ifs", "-e", program.file.to_str().unwrap(), &format!("{address:#x}")])
        .output()
        .inspect_err(|error| eprintln!("skipped: addr2line: {error}"))
        .ok()?;
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let line = |place: &str| place.split(':').nth(1).unwrap().split(' ').next().unwrap().to_owned();
    Some(lines.chunks(2).map(|pair| format!("{}:{}", pair[0], line(pair[1]))).collect())
}

#[test]
fn inlined_functions_come_innermost_first_with_their_lines() {
    let Some(program) = Program::c(&["-g", "-O2", "-no-pie"]) else { return };
    let (start, size) = program.span("exported_first");
    let offsets: Vec<u64> = (start..start + size).collect();
    let mut names = names();
    let found = named(&mut names, &program.module(), &offsets);
    clean(&names);
    assert!(found.iter().any(|name| name.starts_with("innermost:6<between:9<exported_first:12+")), "{found:?}");
    for (&offset, name) in offsets.iter().zip(&found) {
        let Some(wanted) = lines_of(&program, offset) else { return };
        assert_eq!(*name, format!("{}+{}", wanted.join("<"), offset - start));
    }
}

#[test]
fn a_stripped_programs_hidden_function_is_not_named_by_its_neighbour() {
    let Some(program) = Program::c(&["-O2", "-rdynamic"]) else { return };
    let spans = ["exported_first", "hidden", "exported_last"].map(|name| program.span(name));
    program.run("strip", &["program"]).unwrap();
    for (start, size) in spans {
        let offsets: Vec<u64> = (start..start + size).collect();
        let found = named(&mut names(), &program.module(), &offsets);
        let name = match start {
            start if start == spans[0].0 => "exported_first",
            start if start == spans[2].0 => "exported_last",
            _ => {
                assert!(found.iter().all(String::is_empty), "{found:?}");
                continue;
            }
        };
        let wanted: Vec<String> = (0..size).map(|offset| format!("{name}+{offset}")).collect();
        assert_eq!(found, wanted);
    }
    // Between the functions and after the last one there is no name either.
    let (start, size) = spans[0];
    assert_eq!(named(&mut names(), &program.module(), &[start + size]), [""]);
}

#[test]
fn the_symbol_table_names_hidden_functions_and_a_return_belongs_to_its_call() {
    let Some(program) = Program::c(&["-O1"]) else { return };
    let (start, size) = program.span("hidden");
    let mut names = names();
    assert_eq!(
        named(&mut names, &program.module(), &[start, start + size - 1]),
        ["hidden+0".to_owned(), format!("hidden+{}", size - 1)]
    );
    // A call that is the last instruction returns to the first byte after its function.
    let mut events = [code(10, start + 1), code(11, start + size), code(12, start), stack(0, &[10, 11, 12])];
    let codes = [(10, false), (11, true), (12, false)].map(|(id, after_call)| new(id, &program.module(), after_call));
    names.name_all(&mut events, &codes.into());
    assert_eq!(text(&events[0]), "hidden+1");
    assert_eq!(text(&events[1]), format!("hidden+{size}"));
    // What a signal interrupted at its first instruction had called nobody.
    assert_eq!(text(&events[2]), "hidden+0");
    clean(&names);
}

#[test]
fn separate_debug_files_are_found_by_debug_link_and_by_build_id() {
    let Some(program) = Program::c(&["-g", "-O2"]) else { return };
    let (offset, _) = program.span("hidden");
    if program.run("objcopy", &["--only-keep-debug", "program", "program.debug"]).is_none() {
        return;
    }
    program.run("strip", &["program"]).unwrap();
    let wanted = ["hidden:15+0"];
    let stripped = fs::read(&program.file).unwrap();
    assert_eq!(named(&mut names(), &program.module(), &[offset]), [""]);

    program.run("objcopy", &["--add-gnu-debuglink=program.debug", "program"]).unwrap();
    assert_eq!(named(&mut names(), &program.module(), &[offset]), wanted);
    let hidden = program.folder.path().join(".debug");
    fs::create_dir(&hidden).unwrap();
    fs::rename(program.folder.path().join("program.debug"), hidden.join("program.debug")).unwrap();
    assert_eq!(named(&mut names(), &program.module(), &[offset]), wanted);

    // A file of the right name and another build belongs to another program.
    let other = Program::c(&["-g", "-O0"]).unwrap();
    fs::write(hidden.join("program.debug"), &other.whole).unwrap();
    assert_eq!(named(&mut names(), &program.module(), &[offset]), [""]);

    // In a container: below the root directory of the process, by build-id; a link in it does not lead out of it.
    let root = tempfile::tempdir().unwrap();
    let parsed = object::File::parse(program.whole.as_slice()).unwrap();
    let hex: String = parsed.build_id().unwrap().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    let folder = root.path().join("usr/lib/debug/.build-id").join(&hex[..2]);
    fs::create_dir_all(&folder).unwrap();
    fs::write(root.path().join("debug file"), &program.whole).unwrap();
    std::os::unix::fs::symlink("/debug file", folder.join(format!("{}.debug", &hex[2..]))).unwrap();
    fs::write(&program.file, stripped).unwrap();
    let directory = Arc::new(File::open(root.path()).unwrap());
    let file = File::open(&program.file).unwrap();
    let inside = ModuleFile::file(file, b"/program".to_vec(), Vec::new(), Some(directory)).unwrap();
    assert_eq!(named(&mut names(), &Arc::new(inside), &[offset]), wanted);
}

#[test]
fn mini_debug_info_names_hidden_functions() {
    let Some(program) = Program::c(&["-O2"]) else { return };
    let (offset, _) = program.span("hidden");
    if program.run("objcopy", &["-S", "--keep-symbol=hidden", "program", "mini"]).is_none()
        || program.run("xz", &["mini"]).is_none()
    {
        return;
    }
    program.run("strip", &["program"]).unwrap();
    program.run("objcopy", &["--add-section", ".gnu_debugdata=mini.xz", "program"]).unwrap();
    let mut names = names();
    assert_eq!(named(&mut names, &program.module(), &[offset + 1]), ["hidden+1"]);
    clean(&names);
}

#[test]
fn a_deleted_file_still_has_its_names() {
    let Some(program) = Program::c(&["-g", "-O2"]) else { return };
    let module = program.module();
    fs::remove_file(&program.file).unwrap();
    let (offset, _) = program.span("hidden");
    assert_eq!(named(&mut names(), &module, &[offset]), ["hidden:15+0"]);
}

#[test]
fn names_of_cpp_and_of_rust_are_demangled() {
    let source = "namespace shop { template <class T> struct Cart { __attribute__((noinline)) void add(T *what) { \
                  *what += 1; } }; template struct Cart<int>; }\nint main() { int one = 1; shop::Cart<int>().add(&one); }\n";
    for flags in [&["-O1"][..], &["-O1", "-g"]] {
        let Some(program) = Program::compile("g++", "program.cc", source, flags) else { return };
        let (offset, _) = program.span("_ZN4shop4CartIiE3addEPi");
        let found = named(&mut names(), &program.module(), &[offset]);
        assert!(found[0].starts_with("shop::Cart<int>::add(int*)"), "{found:?}");
    }
    // This program itself is Rust.
    let ourselves = Path::new("/proc/self/exe");
    let bytes = fs::read(ourselves).unwrap();
    let parsed = object::File::parse(bytes.as_slice()).unwrap();
    let symbol = parsed
        .symbols()
        .find(|symbol| symbol.name().is_ok_and(|name| name.contains("names4text5shown") && !name.contains("closure")));
    let symbol = symbol.expect("the function that is called below");
    let text = parsed.section_by_index(symbol.section_index().unwrap()).unwrap();
    let offset = symbol.address() - text.address() + text.file_range().unwrap().0;
    let found = named(&mut names(), &module(ourselves), &[offset]);
    assert!(found[0].starts_with("memtrace::stacks::names::text::shown:"), "{found:?}");
}

/// The C library of this system without its symbol table and its debug file, as users have it.
fn stripped_libc(folder: &Path) -> Option<(PathBuf, u64)> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("libc.so"));
    let Some(path) = path else {
        eprintln!("skipped: this program has no libc.so");
        return None;
    };
    let copy = folder.join("libc.so");
    fs::copy(path, &copy).unwrap();
    run(folder, "objcopy", &["-R", ".gnu_debuglink", "-R", ".note.gnu.build-id", "libc.so"])?;
    // Code that no symbol spans: a byte of an unexported function.
    let bytes = fs::read(&copy).unwrap();
    let parsed = object::File::parse(bytes.as_slice()).unwrap();
    let text = parsed.section_by_name(".text").unwrap();
    let mut spans: Vec<(u64, u64)> =
        parsed.dynamic_symbols().map(|symbol| (symbol.address(), symbol.address() + symbol.size())).collect();
    spans.sort_unstable();
    let mut free = text.address() + text.size() / 2;
    for (start, end) in spans {
        if start <= free && free < end {
            free = end;
        }
    }
    Some((copy, free - text.address() + text.file_range().unwrap().0))
}

#[test]
fn an_unnamed_leaf_is_named_by_the_call_that_reached_it() {
    let relative = |code: &[u8]| code[0] == 0xe8;
    let through_slot = |code: &[u8]| code.starts_with(b"\xff\x15");
    for (flags, call, length) in [
        (&["-O1", "-fno-builtin"][..], &relative as &dyn Fn(&[u8]) -> bool, 5),
        (&["-O1", "-fno-builtin", "-Wl,-z,now", "-fcf-protection=full"], &relative, 5),
        (&["-O1", "-fno-builtin", "-fno-plt"], &through_slot, 6),
    ] {
        let Some(program) = Program::c(flags) else { return };
        program.run("strip", &["program"]).unwrap();
        let Some((libc, unnamed)) = stripped_libc(program.folder.path()) else { return };
        let (libc, program_file) = (module(&libc), program.module());
        // main calls, in this order: exported_first, exported_last (by themselves), malloc, memcpy.
        let mut calls = Vec::new();
        let (start, size) = program.span("main");
        let mut from = start;
        while from + 6 < start + size {
            if call(&program.whole[from as usize..]) {
                calls.push(from + length);
                from += length;
            } else {
                from += 1;
            }
        }
        let [.., malloc, memcpy] = calls[..] else { panic!("{calls:?}") };

        let mut names = names();
        let mut events = [
            code(0, unnamed),
            code(1, memcpy),
            stack(0, &[0, 1]),
            code(2, unnamed),
            code(3, malloc),
            stack(1, &[2, 3]),
        ];
        let codes = [(0, &libc, false), (1, &program_file, true), (2, &libc, false), (3, &program_file, true)];
        let codes = codes.map(|(id, module, after_call)| new(id, module, after_call));
        names.name_all(&mut events, &codes.into());
        assert_eq!(text(&events[0]), "memcpy+0", "{flags:?}");
        assert_eq!(text(&events[3]), "", "malloc is no indirect function: this is code of another");
        clean(&names);

        // The caller may be of an earlier batch; a leaf in a module that does not define the function stays unnamed.
        let mut events = [code(4, unnamed), stack(2, &[4, 1]), code(5, program.span("hidden").0), stack(3, &[5, 1])];
        let codes = [(4, &libc), (5, &program_file)].map(|(id, module)| new(id, module, false));
        names.name_all(&mut events, &codes.into());
        assert_eq!((text(&events[0]), text(&events[2])), ("memcpy+0".to_owned(), String::new()));
    }
}

#[test]
fn a_perf_map_names_compiled_code_as_it_grows() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("tmp")).unwrap();
    let pid = std::process::id();
    let map = root.path().join(format!("tmp/perf-{pid}.map"));
    let directory = Arc::new(File::open(root.path()).unwrap());
    let module = Arc::new(ModuleFile::jit(pid, Some(directory)).unwrap());
    let mut names = names();
    assert_eq!(named(&mut names, &module, &[0]), [""], "no map yet");
    fs::write(&map, "50000000 10 one\n").unwrap();
    assert_eq!(named(&mut names, &module, &[4, 16]), ["one+4", ""]);
    fs::write(&map, "50000000 10 one\n50000010 8 two\n").unwrap();
    assert_eq!(named(&mut names, &module, &[4, 16]), ["one+4", "two+0"]);
    fs::remove_file(&map).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &map).unwrap();
    assert_eq!(named(&mut names, &module, &[16]), ["two+0"]);
    clean(&names);

    // A map in a folder that everybody may write to is its owner's word only.
    fs::remove_file(&map).unwrap();
    fs::write(&map, "50000000 10 forged\n").unwrap();
    match std::os::unix::fs::chown(&map, Some(54321), None) {
        Ok(()) => assert_eq!(named(&mut self::names(), &module, &[4]), [""]),
        Err(error) => eprintln!("skipped: a map of another user: {error}"),
    }
}

#[test]
fn the_vdso_is_named() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let Some(line) = maps.lines().find(|line| line.ends_with("[vdso]")) else {
        eprintln!("skipped: no vdso");
        return;
    };
    let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
    let address = |text| u64::from_str_radix(text, 16).unwrap();
    let mut bytes = vec![0; (address(end) - address(start)) as usize];
    std::os::unix::fs::FileExt::read_exact_at(&File::open("/proc/self/mem").unwrap(), &mut bytes, address(start))
        .unwrap();
    let parsed = object::File::parse(bytes.as_slice()).unwrap();
    let symbol = parsed.dynamic_symbols().find(|symbol| symbol.name() == Ok("__vdso_clock_gettime")).unwrap();
    let offset = symbol.address();
    let module = Arc::new(ModuleFile::vdso(bytes, Vec::new()));
    assert_eq!(named(&mut names(), &module, &[offset]), ["clock_gettime+0"]);
}

#[test]
fn a_hint_is_given_once_for_a_file_that_left_code_without_a_name() {
    let Some(program) = Program::c(&["-O2", "-g"]) else { return };
    let (offset, size) = program.span("hidden");
    let mut names = names();
    assert_eq!(named(&mut names, &program.module(), &[offset, offset + size, 0])[2], "");
    assert_eq!(names.hints(), [], "its own names are all there are");
    program.run("strip", &["program"]).unwrap();
    named(&mut names, &program.module(), &[offset, offset + 1]);
    let hints = names.hints();
    let path = program.file.as_os_str().as_encoded_bytes().to_vec();
    let advice = Advice::Debuginfod("01".repeat(20));
    assert_eq!(hints, [Hint { module: path, unnamed: 2, advice }]);
    named(&mut names, &program.module(), &[offset + 2]);
    assert_eq!(names.hints(), [], "once");
}

mod hostile;
