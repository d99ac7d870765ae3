//! Programs that know their own code paths: every page that grew is under a whole stack, the stack is the path that
//! the program says it took, and the path's amount is what the program counted.

use anyhow::{Context, Result, bail, ensure};
use memtrace_tests::books::{Books, address};
use memtrace_tests::machine::TempDir;
use memtrace_tests::runner::{self, Test};
use memtrace_tests::scene::close_stopped;
use memtrace_tests::source::{build_c, build_rust};
use memtrace_tests::stacks::{Quality, Stack};
use memtrace_tests::target::{Target, stop};
use memtrace_tests::tool::{Outcome, Record, Tool};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, ExitCode};

const TESTS: &[Test] = &[
    ("stacks.c", known_c),
    ("stacks.c.in_one_go", known_c_in_one_go),
    ("stacks.c.from_the_start", known_c_from_the_start),
    ("stacks.rust", known_rust),
    ("stacks.same_depth", same_depth),
    ("stacks.same_depth.in_turns", in_turns),
    ("stacks.mappings", mappings),
    ("stacks.replaced_library", replaced_library),
    ("stacks.deleted_program", deleted_program),
    ("stacks.other_root", other_root),
    ("stacks.honest", honest),
    ("stacks.replaced_unseen", replaced_unseen),
];

fn main() -> ExitCode {
    runner::run(TESTS)
}

/// What every test's program is called.
const PROGRAM: &str = "paths";

/// When the same instruction is reached at the same depth from two callers, the second is noticed by a sample: one fault
/// in sixteen, which one is left to chance. That so many in a row go unnoticed happens once in 400,000 times.
const UNNOTICED: i64 = 200;

const C_STEPS: &[&str] = &[
    "direct",
    "recursion",
    "variable",
    "pointers",
    "sorted",
    "copied",
    "filled",
    "read_into",
    "signalled",
    "tripped",
    "bared",
    "threads",
    "late",
    "forked",
    "vforked",
    "execed",
    "shrunk",
    "mapped_file",
    "heaped",
];

const RUST_STEPS: &[&str] = &["plain", "inlined", "generic", "dynamic", "recursion", "collected", "threaded"];

/// Pages of one step; more for the file, which is not that large.
fn pages_of(step: &str) -> i64 {
    if step == "mapped_file" { 4 } else { 1000 }
}

/// What a program says of itself.
#[derive(Default)]
struct Truth {
    paths: Vec<Told>,
    mappings: Vec<Value>,
}

/// A path: what it brought (negative: took), unless the program cannot know.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    pid: u32,
    cause: String,
    path: String,
    pages: Option<i64>,
    faults: i64,
}

impl Truth {
    fn take(&mut self, line: &Value) -> Result<()> {
        for path in line["paths"].as_array().context("paths")? {
            let pages = path["pages"].as_i64().context("pages")?;
            let told = Told {
                pid: u32::try_from(path["pid"].as_u64().context("pid")?)?,
                cause: path["cause"].as_str().context("cause")?.to_owned(),
                path: path["chain"].as_str().context("chain")?.to_owned(),
                pages: (pages >= 0 || path["faults"] == 0 && pages != -1).then_some(pages),
                faults: path["faults"].as_i64().context("faults")?,
            };
            let same =
                |other: &&mut Told| (other.pid, &other.cause, &other.path) == (told.pid, &told.cause, &told.path);
            match self.paths.iter_mut().find(same) {
                Some(other) => {
                    other.pages = other.pages.zip(told.pages).map(|(pages, more)| pages + more);
                    other.faults += told.faults;
                }
                None => self.paths.push(told),
            }
        }
        self.mappings.extend(line["mappings"].as_array().context("mappings")?.iter().cloned());
        Ok(())
    }

    /// The books have every fault that was told.
    fn is_booked(&self, books: &Books) -> bool {
        self.paths.iter().all(|told| {
            let same = |pid: u32, cause: &str| pid == told.pid && cause == told.cause;
            let faults: i64 =
                self.paths.iter().filter(|other| same(other.pid, &other.cause)).map(|path| path.faults).sum();
            let (_, minor, major) = books.sum(|entry| same(entry.pid, &entry.cause));
            minor + major >= faults
        })
    }
}

/// A program at work under the tool.
struct Session {
    target: Target,
    tool: Tool,
    truth: Truth,
}

impl Session {
    fn open(command: &mut Command) -> Result<Self> {
        let mut target = Target::start(command)?;
        ensure!(target.json()?["ready"] == true, "the program does not get ready");
        let tool = Tool::attach(target.pid(), &["--follow"])?;
        Ok(Self { target, tool, truth: Truth::default() })
    }

    fn step(&mut self, step: &str, pages: i64) -> Result<()> {
        self.target.send(&format!("{step} {pages}\n"))?;
        let line = self.target.json().with_context(|| format!("the step {step}"))?;
        self.truth.take(&line)
    }

    /// As [`Session::step`]; and then until the books have it: what comes next meets probes that know these paths.
    fn step_and_wait(&mut self, step: &str, pages: i64) -> Result<()> {
        self.step(step, pages)?;
        let truth = &self.truth;
        self.tool.wait_for_books(&format!("the faults of {step}"), |books| truth.is_booked(books))
    }

    fn close(self) -> Result<(Truth, Outcome)> {
        let outcome = close_stopped(self.tool, self.target.pid())?;
        Ok((self.truth, outcome))
    }
}

/// Pages and faults of the entries that this path made.
fn booked(books: &Books, told: &Told) -> (i64, i64) {
    let went = |stack: &Stack| stack.went(PROGRAM, &told.path);
    let (pages, minor, major) =
        books.sum(|entry| entry.pid == told.pid && entry.cause == told.cause && books.stack(entry).is_some_and(went));
    (pages.anon + pages.file + pages.shmem, minor + major)
}

/// Each path has its amount, give or take.
fn assert_paths(truth: &Truth, books: &Books, slack: i64) -> Result<()> {
    let mut wrong = Vec::new();
    for told in &truth.paths {
        let (pages, faults) = booked(books, told);
        let fine = match told.pages {
            None => faults > 0,
            Some(exact) => {
                (pages - exact).abs() <= slack && (told.faults == 0 || (faults - told.faults).abs() <= slack)
            }
        };
        if !fine {
            let (own, others) = neighbours(books, told);
            wrong.push(format!(
                "{} by {} of {}: {pages} pages and {faults} faults in the books, {:?} and {} in truth; with that cause and \
                 innermost function: {own}; elsewhere: {others}",
                told.cause, told.path, told.pid, told.pages, told.faults
            ));
        }
    }
    ensure!(wrong.is_empty(), "{} of {} paths:\n{}", wrong.len(), truth.paths.len(), wrong.join("\n"));
    Ok(())
}

/// What is booked near a path, for messages.
fn neighbours(books: &Books, told: &Told) -> (String, String) {
    let innermost = told.path.split(['{', '+', ' ', '|']).next().unwrap_or_default().trim_start_matches('*');
    let mut texts = (String::new(), String::new());
    for entry in
        books.entries.iter().filter(|entry| entry.pid == told.pid && entry.cause == told.cause && entry.counts())
    {
        let Some(stack) = books.stack(entry) else { continue };
        let near = stack.frames[0].names.iter().any(|name| !innermost.is_empty() && name.contains(innermost));
        let text = if near { &mut texts.0 } else { &mut texts.1 };
        if text.len() < 2500 {
            let amount = entry.delta.anon + entry.delta.file + entry.delta.shmem;
            text.push_str(&format!(
                "\n      {amount:+} pages, {} faults: {}",
                entry.minor + entry.major,
                stack.summary()
            ));
        }
    }
    texts
}

/// Every page that grew has a whole stack; and the tool counts what is counted here.
fn assert_whole(outcome: &Outcome) -> Result<()> {
    let quality = Quality::of(&outcome.books);
    println!(
        "    {} pages grew, {:.2} % with complete stacks; not: {:?}; without a stack: {:?}; {} stacks",
        quality.grown,
        quality.percent(),
        quality.failures,
        quality.without,
        outcome.books.stacks.len()
    );
    assert_sums(outcome, &quality)?;
    if quality.complete != quality.grown {
        bail!("incomplete:{}", incomplete(&outcome.books));
    }
    let kernel_made = ["fork", "exec", "khugepaged"];
    let odd = quality.without.keys().find(|cause| !kernel_made.contains(&cause.as_str()));
    ensure!(odd.is_none(), "grew without a stack: {:?}", quality.without);
    Ok(())
}

fn incomplete(books: &Books) -> String {
    let mut text = String::new();
    for entry in &books.entries {
        let pages = entry.delta.anon + entry.delta.file + entry.delta.shmem;
        if let Some(stack) = books.stack(entry).filter(|stack| pages > 0 && !stack.complete)
            && text.len() < 4000
        {
            text.push_str(&format!("\n      {pages:+} pages of {}: {}", entry.pid, stack.summary()));
        }
    }
    text
}

fn assert_sums(outcome: &Outcome, quality: &Quality) -> Result<()> {
    let told = &outcome.end()?["stacks"];
    let page = memtrace_tests::pages::page_size() as i64;
    let without: i64 = quality.without.values().sum();
    for (name, pages) in
        [("grown_bytes", quality.grown + without), ("complete_bytes", quality.complete), ("without_bytes", without)]
    {
        ensure!(
            told[name].as_i64() == Some(pages * page),
            "{name} by the entries is {}; end.stacks {told}",
            pages * page
        );
    }
    Ok(())
}

/// Every step, each after the one before is in the books.
fn known_c() -> Result<()> {
    let dir = TempDir::new()?;
    steps(&mut Command::new(build_c(&dir)?), C_STEPS)
}

fn known_rust() -> Result<()> {
    let dir = TempDir::new()?;
    steps(&mut Command::new(build_rust(&dir)?), RUST_STEPS)
}

fn steps(command: &mut Command, steps: &[&str]) -> Result<()> {
    let mut session = Session::open(command)?;
    for step in steps {
        session.step_and_wait(step, pages_of(step))?;
    }
    let (truth, outcome) = session.close()?;
    assert_whole(&outcome)?;
    assert_paths(&truth, &outcome.books, UNNOTICED)
}

/// All steps before anyone has looked at a stack: several reach the same instruction at the same depth.
fn known_c_in_one_go() -> Result<()> {
    let dir = TempDir::new()?;
    let mut session = Session::open(&mut Command::new(build_c(&dir)?))?;
    for step in C_STEPS {
        session.step(step, pages_of(step))?;
    }
    let (truth, outcome) = session.close()?;
    assert_whole(&outcome)?;
    assert_paths(&truth, &outcome.books, UNNOTICED)
}

/// From the program's first instruction on, the dynamic linker's work included.
fn known_c_from_the_start() -> Result<()> {
    let dir = TempDir::new()?;
    let program = build_c(&dir)?.display().to_string();
    // No shell between: a program that is left within a moment of its start cannot be looked at.
    let said = runner::keepsake("command.txt").display().to_string();
    let command = ["--follow", "--", &program, "to", &said].map(str::to_owned);
    let mut tool = Tool::start(&command)?;
    let mut input = tool.stdin().context("stdin")?;
    for step in ["direct", "recursion", "filled", "threads", "late"] {
        std::io::Write::write_all(&mut input, format!("{step} {}\n", pages_of(step)).as_bytes())?;
    }
    // It ends when everything is in the books: a library that is loaded in a program's last moments cannot be looked at.
    let told = 8 * pages_of("direct");
    tool.wait_for_books("the faults of all steps", |books| books.sum(|entry| entry.cause == "fault.anon").1 >= told)?;
    drop(input);
    let outcome = tool.wait()?;
    outcome.assert_closed()?;
    assert_whole(&outcome)?;
    let output = std::fs::read_to_string(&said)?;
    let mut truth = Truth::default();
    for line in output.lines().skip(1) {
        truth.take(&serde_json::from_str(line)?)?;
    }
    ensure!(!truth.paths.is_empty(), "the program said nothing: {output}");
    assert_paths(&truth, &outcome.books, UNNOTICED)
}

/// One function, called at the same depth by two: directly, and two levels up. Each is in the books before the next
/// comes; a change of caller may go unnoticed for [`UNNOTICED`] faults.
fn same_depth() -> Result<()> {
    const ROUNDS: i64 = 3;
    let dir = TempDir::new()?;
    let mut session = Session::open(&mut Command::new(build_c(&dir)?))?;
    for pair in ["equal", "higher"] {
        for _ in 0..ROUNDS {
            for which in ["a", "b"] {
                session.step_and_wait(&format!("{pair}_{which}"), 4000)?;
            }
        }
    }
    let (truth, outcome) = session.close()?;
    assert_whole(&outcome)?;
    assert_paths(&truth, &outcome.books, UNNOTICED * ROUNDS)
}

/// The hard cases of the same, measured: callers that take turns, callers that differ further up than is looked.
fn in_turns() -> Result<()> {
    let dir = TempDir::new()?;
    let program = build_c(&dir)?;
    for steps in [&["turns1"][..], &["turns7"], &["turns100"], &["equal_a", "equal_b"], &["far_a", "far_b"]] {
        let mut session = Session::open(&mut Command::new(&program))?;
        for step in steps {
            // A whole number of turns.
            session.step(step, 11200)?;
        }
        let (truth, outcome) = session.close()?;
        assert_whole(&outcome)?;
        let (mut wrong, mut all) = (0, 0);
        for told in &truth.paths {
            let pages = told.pages.unwrap_or(0);
            wrong += (booked(&outcome.books, told).0 - pages).max(0);
            all += pages;
        }
        println!("    {}: {wrong} of {all} pages under the other's stack", steps.join(", "));
    }
    Ok(())
}

/// Who made a mapping and who took it away.
fn mappings() -> Result<()> {
    let dir = TempDir::new()?;
    let mut session = Session::open(&mut Command::new(build_c(&dir)?))?;
    // The second caller of the same function at the same depth comes when the first is known.
    for step in ["births_a", "births_b", "births_a", "births_b"] {
        session.step(step, 64)?;
        session.step_and_wait("direct", 100)?;
    }
    let (truth, outcome) = session.close()?;
    ensure!(truth.mappings.len() == 8, "the program told {} births and deaths", truth.mappings.len());
    let mut lines: Vec<&Record> = outcome.records.iter().collect();
    for told in &truth.mappings {
        let (what, start) = (&told["what"], address(&told["start"])?);
        let path = told["chain"].as_str().context("chain")?;
        let is_it = |record: &Record| {
            record.kind() == "mapping"
                && &record.value["what"] == what
                && address(&record.value["mapping"]["start"]).is_ok_and(|other| other == start)
        };
        // The kernel gives the same address again.
        let place = lines.iter().position(|record| is_it(record)).with_context(|| format!("no line for {told}"))?;
        let line = lines.remove(place);
        let id = line.value["stack_id"].as_u64().with_context(|| format!("without a stack: {}", line.value))?;
        let stack = &outcome.books.stacks[&id];
        ensure!(stack.complete && stack.went(PROGRAM, path), "{told}: the stack is {}", stack.summary());
    }
    Ok(())
}

/// A library takes another's place, once the first is in the books.
fn replaced_library() -> Result<()> {
    let dir = TempDir::new()?;
    steps(&mut Command::new(build_c(&dir)?), &["swap1", "swap2", "swap1"])
}

const FEW: &[&str] = &["direct", "recursion", "filled", "threads", "forked"];

/// Its file has no name any more.
fn deleted_program() -> Result<()> {
    let dir = TempDir::new()?;
    let program = build_c(&dir)?;
    let copy = dir.path().join("paths-copy");
    std::fs::copy(&program, &copy)?;
    let mut target = Target::start(&mut Command::new(&copy))?;
    ensure!(target.json()?["ready"] == true, "the program does not get ready");
    std::fs::remove_file(&copy)?;
    let tool = Tool::attach(target.pid(), &["--follow"])?;
    finish(Session { target, tool, truth: Truth::default() }, FEW)
}

/// Its file lies in a file system that only its own mount namespace has, as in a container.
fn other_root() -> Result<()> {
    let dir = TempDir::new()?;
    let program = build_c(&dir)?.display().to_string();
    let room = dir.path().join("room");
    std::fs::create_dir(&room)?;
    let room = room.display().to_string();
    let script = "mount -t tmpfs none \"$2\" && cp \"$1\"* \"$2\" && exec \"$2/paths\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", &program, &room]);
    ensure!(!Path::new(&room).join("paths").exists(), "the room is empty from here");
    finish(Session::open(&mut command)?, &["direct", "recursion", "filled", "late", "forked", "execed"])
}

fn finish(mut session: Session, steps: &[&str]) -> Result<()> {
    for step in steps {
        session.step_and_wait(step, pages_of(step))?;
    }
    let (truth, outcome) = session.close()?;
    assert_whole(&outcome)?;
    assert_paths(&truth, &outcome.books, UNNOTICED)
}

/// What cannot be whole says so, and why: a stack deeper than what is copied, a handler on another stack, code that no
/// file holds, a program that is gone before its mappings can be read, a library that another has replaced by then. Where it is whole all the same, it is right.
fn honest() -> Result<()> {
    let dir = TempDir::new()?;
    let program = build_c(&dir)?;
    let ends: [(&[&str], &[&str]); 5] = [
        (&["too_deep"], &["deep"]),
        (&["alternate"], &["deep", "absent", "bad_unwind_info", "root"]),
        (&["compiled"], &["jit", "root"]),
        (&["brief"], &["gone", "root"]),
        (&["swap1", "swap2"], &["unmapped", "root"]),
    ];
    let mut wrong = Vec::new();
    for (steps, allowed) in ends {
        let mut session = Session::open(&mut Command::new(&program))?;
        for step in steps {
            session.step(step, 1000)?;
        }
        let step = steps.join(", ");
        let (truth, outcome) = session.close()?;
        let quality = Quality::of(&outcome.books);
        println!("    {step}: {} of {} pages complete, {:?}", quality.complete, quality.grown, quality.failures);
        assert_sums(&outcome, &quality)?;
        for end in quality.failures.keys().filter(|end| !allowed.contains(&end.as_str())) {
            wrong.push(format!("{step}: {end}{}", incomplete(&outcome.books)));
        }
        wrong.extend(strays(&truth, &outcome.books).into_iter().map(|stray| format!("{step}: {stray}")));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Paths in the books that nobody went, where they do not say that they are not known.
fn strays(truth: &Truth, books: &Books) -> Vec<String> {
    let mut strays = Vec::new();
    for told in &truth.paths {
        let stray = books.entries.iter().find(|entry| {
            let stack = books.stack(entry);
            let other = |other: &&Told| stack.is_some_and(|stack| stack.began(PROGRAM, &other.path));
            (entry.pid, &entry.cause) == (told.pid, &told.cause)
                && entry.minor >= 16
                && stack.is_some_and(|stack| stack.end != "gone" && stack.end != "unmapped")
                && !truth.paths.iter().any(|told| other(&told))
        });
        if let Some(stack) = stray.and_then(|entry| books.stack(entry)) {
            strays.push(format!("nobody went {}; told: {:?}", stack.summary(), truth.paths));
        }
    }
    strays
}

/// A library takes another's place before anybody has looked at the first one: what came by the first has no known code,
/// and is not told to have come by the second.
fn replaced_unseen() -> Result<()> {
    let dir = TempDir::new()?;
    let program = build_c(&dir)?;
    let mut session = Session::open(&mut Command::new(&program))?;
    let stopped = stop(session.tool.pid())?;
    for step in ["swap1", "swap2"] {
        session.step(step, 1000)?;
    }
    drop(stopped);
    let (truth, outcome) = session.close()?;
    let quality = Quality::of(&outcome.books);
    assert_sums(&outcome, &quality)?;
    let unknown = quality.failures.get("unmapped").copied().unwrap_or(0);
    ensure!(unknown >= 1000, "{unknown} pages are of unknown code, {:?}", quality.failures);
    let strays = strays(&truth, &outcome.books);
    ensure!(strays.is_empty(), "{}", strays.join("\n"));
    Ok(())
}
