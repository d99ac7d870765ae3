//! Debian's own builds, stripped and without frame pointers, each under a workload that grows it: which share of
//! what grew has a whole stack, which has a name near its top without any debug package, and who did it.
//!
//! A name counts without debug packages when the module's own tables have it, or the caller's linkage table: both are
//! read here with binutils, independently of the tool, while `/usr/lib/debug` is out of sight.

use anyhow::{Context, Result, bail, ensure};
use memtrace_tests::books::Books;
use memtrace_tests::database::{Postgres, postgres_binary, program, redis, redis_benchmark, redis_command, redis_up};
use memtrace_tests::machine::{TempDir, without_debug_files};
use memtrace_tests::pages::page_size;
use memtrace_tests::runner::{self, Test};
use memtrace_tests::scene::close_stopped;
use memtrace_tests::stacks::{Quality, growing, percent};
use memtrace_tests::symbols::{Symbols, Verdict, exported};
use memtrace_tests::target::Target;
use memtrace_tests::tool::{Outcome, Tool};
use serde_json::Value;
use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, ExitCode};
use std::time::Duration;

const TESTS: &[Test] = &[
    ("stock.postgres.parallel", || without_debug_files(|| postgres(PARALLEL))),
    ("stock.postgres.jit", || without_debug_files(|| postgres(JIT))),
    ("stock.redis", || without_debug_files(stock_redis)),
    ("stock.python", || without_debug_files(|| python().and_then(|outcome| judge("python3", &outcome, None)))),
    ("stock.debug_files", debug_files),
    ("stock.story.hash_join", || story(&HASH_JOIN)),
    ("stock.story.sort", || story(&SORT)),
    ("stock.story.index_build", || story(&INDEX_BUILD)),
];

fn main() -> ExitCode {
    runner::run(TESTS)
}

/// How long one program may work.
const LONG: Duration = Duration::from_secs(300);

/// Least growth that says something, MiB.
const GROWTH: i64 = 200;

fn sized(usual: u64, full_size: u64) -> u64 {
    if std::env::var_os("MEMTRACE_FULL").is_some() { full_size } else { usual }
}

fn mebibytes(pages: i64) -> i64 {
    (pages * page_size() as i64) >> 20
}

/// How well what grew is named.
#[derive(Default)]
struct Named {
    /// Pages with a name among the first four frames, that needs no debug package.
    near: i64,
    /// Pages of which every frame has a name of any origin.
    whole: i64,
    /// By what is said of the name: frames of the first four, weighted with pages.
    verdicts: BTreeMap<Verdict, i64>,
    /// Names that nothing confirms.
    odd: BTreeSet<String>,
}

impl Named {
    fn of(books: &Books, symbols: &mut Symbols) -> Result<Self> {
        let (mut named, mut seen) = (Self::default(), BTreeMap::new());
        for (entry, pages) in growing(books) {
            let Some((id, stack)) = entry.stack.zip(books.stack(entry)) else {
                continue;
            };
            let verdicts = match seen.entry(id) {
                Slot::Occupied(known) => known.into_mut(),
                Slot::Vacant(slot) => {
                    let near = stack.frames.len().min(4);
                    let verdicts = (0..near).map(|index| symbols.judge(&stack.frames, index));
                    let verdicts = verdicts.collect::<Result<Vec<_>>>()?;
                    for (frame, verdict) in stack.frames.iter().zip(&verdicts) {
                        if *verdict == Verdict::Elsewhere {
                            let (names, offset) = (frame.names.join(" in "), frame.offset.unwrap_or(0));
                            named.odd.insert(format!("{names} in {}+{offset:#x}", frame.module));
                        }
                    }
                    slot.insert(verdicts)
                }
            };
            for verdict in verdicts.iter() {
                *named.verdicts.entry(*verdict).or_default() += pages;
            }
            if verdicts.iter().any(|verdict| verdict.without_debug_files()) {
                named.near += pages;
            }
            if stack.frames.iter().all(|frame| !frame.names.is_empty()) {
                named.whole += pages;
            }
        }
        Ok(named)
    }
}

/// Prints the program's line of the table and holds it against what is promised. `copies`: at most so many of a
/// hundred faults may cost a copy.
fn judge(name: &str, outcome: &Outcome, copies: Option<f64>) -> Result<()> {
    let books = &outcome.books;
    let quality = Quality::of(books);
    let named = Named::of(books, &mut Symbols::default())?;
    let near = percent(named.near, quality.grown);
    println!(
        "    {name}: {} MiB grew, {:.2} % complete, {near:.1} % named in the first four, {:.1} % named throughout, {} stacks",
        mebibytes(quality.grown),
        quality.percent(),
        percent(named.whole, quality.grown),
        books.stacks.len()
    );
    println!("      not complete, pages: {:?}; grew without a stack, pages: {:?}", quality.failures, quality.without);
    println!("      names of the first four frames, pages: {:?}", named.verdicts);
    let end = outcome.end()?;
    println!("      end.stacks {}; own {}", end["stacks"], end["own"]);
    for odd in named.odd.iter().take(8) {
        println!("      not in the module's tables: {odd}");
    }
    print_incomplete(books);
    let mut short = Vec::new();
    let grown = mebibytes(quality.grown);
    if grown < GROWTH {
        short.push(format!("{grown} MiB grew, wanted {GROWTH}"));
    }
    if quality.percent() < 99.0 {
        short.push(format!("{:.2} % complete, promised 99", quality.percent()));
    }
    if near < 85.0 {
        short.push(format!("{near:.1} % named in the first four frames, promised 85"));
    }
    if let Some(limit) = copies {
        let faults = end["faults"]["minor"].as_i64().unwrap_or(0) + end["faults"]["major"].as_i64().unwrap_or(0);
        match end["stacks"]["copies"].as_i64() {
            None => short.push("end.stacks does not say how many copies were taken".to_owned()),
            Some(taken) => {
                let share = percent(taken, faults);
                println!("      {taken} copies for {faults} faults: {share:.2} of a hundred");
                if share >= limit {
                    short.push(format!("{share:.2} copies of a hundred faults, promised fewer than {limit}"));
                }
            }
        }
    }
    ensure!(short.is_empty(), "{}", short.join("; "));
    Ok(())
}

/// Which paths are not whole: by how they end and where.
fn print_incomplete(books: &Books) {
    let mut sums = BTreeMap::<(String, String), i64>::new();
    for (entry, pages) in growing(books) {
        if let Some(stack) = books.stack(entry).filter(|stack| !stack.complete) {
            let last = stack.frames.last().map_or_else(String::new, |frame| {
                format!("{}+{:#x} {}", frame.module, frame.offset.unwrap_or(0), frame.names.join(" in "))
            });
            *sums.entry((stack.end.clone(), last)).or_default() += pages;
        }
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, pages)| -pages);
    for ((end, last), pages) in sums.iter().take(6) {
        println!("      {pages} pages end as {end} at {last}");
    }
}

/// What a database does.
struct Load {
    name: &'static str,
    settings: &'static str,
    queries: &'static [&'static str],
}

/// Every plan in a leader and its workers, who are forked inside a signal handler of the postmaster.
const PARALLEL: Load = Load {
    name: "postgresql, parallel workers",
    settings: "set force_parallel_mode = on; set max_parallel_workers_per_gather = 2; set parallel_setup_cost = 0; \
               set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0; \
               set max_parallel_maintenance_workers = 2;",
    queries: &[
        "set enable_mergejoin = off; select count(*) from a x join a y on x.text = y.text where x.i + y.i > 0;",
        "select count(*) from (select text, count(*) from a group by text) g;",
        "select count(*) from (select * from a order by text offset 0) s;",
        "create index on a (text);",
    ],
};

/// Every expression compiled, inlined and optimised.
const JIT: Load = Load {
    name: "postgresql, JIT",
    settings: "set jit = on; set jit_above_cost = 0; set jit_inline_above_cost = 0; set jit_optimize_above_cost = 0;",
    queries: &[
        "set enable_mergejoin = off; select count(*) from a x join a y on x.text = y.text where x.i + y.i > 0;",
        "select count(*) from (select text, count(*), sum(i + 1) from a where i % 7 <> 3 group by text) g;",
        "select count(*) from (select md5(text) as key, i from a order by key offset 0) s;",
    ],
};

/// The postmaster is watched with everyone it forks.
fn postgres(load: Load) -> Result<()> {
    let mut cluster = Postgres::create()?;
    // As it comes; a table larger than a quarter of that is read through a small ring of buffers.
    cluster.set("shared_buffers", "128MB")?;
    cluster.start()?;
    let rows = sized(1_400_000, 5_000_000);
    let (mut session, _) = cluster.session()?;
    session.send(&format!(
        "create table a as select i, md5(i::text) as text from generate_series(1, {rows}) i; analyze a; select 'prepared';\n"
    ))?;
    session.wait_for_line("prepared", LONG)?;
    session.close();
    session.wait()?;
    let tool = Tool::attach(cluster.pid().context("a server")?, &["--follow"])?;
    let (mut session, backend) = cluster.session()?;
    session.send(load.settings)?;
    for query in load.queries {
        session.send(query)?;
    }
    session.send("\nselect 'finished';\n")?;
    session.wait_for_line("finished", LONG)?;
    let outcome = close_stopped(tool, backend)?;
    if load.name.contains("parallel") {
        let mut grown = BTreeMap::<u32, i64>::new();
        for (entry, pages) in growing(&outcome.books) {
            *grown.entry(entry.pid).or_default() += pages;
        }
        let large = grown.values().filter(|pages| mebibytes(**pages) >= 10).count();
        ensure!(large >= 3, "a leader and two workers should grow: {grown:?}");
    }
    judge(load.name, &outcome, Some(5.0))
}

/// Filled by its own command, then by clients with strings, hashes, lists and scripts.
fn stock_redis() -> Result<()> {
    let dir = TempDir::new()?;
    let command = redis_command(&dir)?;
    let server = Target::start(Command::new(&command[0]).args(&command[1..]))?;
    redis_up(&dir)?;
    let tool = Tool::attach(server.pid(), &["--follow"])?;
    let keys = sized(190_000, 1_000_000).to_string();
    redis(&dir, &["debug", "populate", &keys, "key", "700"])?;
    redis_benchmark(&dir, sized(60_000, 400_000))?;
    redis(&dir, &["eval", "for i = 1, 200000 do redis.call('hset', 'h' .. i % 100, i, 'value') end return 1", "0"])?;
    let outcome = close_stopped(tool, server.pid())?;
    judge("redis", &outcome, Some(2.0))
}

/// Containers, parsing, regular expressions, a database in memory, threads.
const PYTHON: &str = r#"
import json, re, sqlite3, sys, threading
print("ready", flush=True)
sys.stdin.buffer.read(1)
scale = int(sys.argv[1])
words = {str(i): [i] * (i % 50) for i in range(100000 * scale)}
text = json.dumps([{"id": i, "name": "name %d" % i, "tags": [str(j) for j in range(5)]} for i in range(60000 * scale)])
parsed = json.loads(text)
found = re.findall(r'"name (\d+)"', text)
database = sqlite3.connect(":memory:")
database.execute("create table t (i integer, s text)")
database.executemany("insert into t values (?, ?)", ((i, "text %d" % i) for i in range(250000 * scale)))
database.execute("create index x on t (s)")
kept = []
def work(which):
    kept.append([bytearray(b"x" * (1000 + (i * 37 + which) % 9000)) for i in range(5000 * scale)])
threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("finished", flush=True)
sys.stdin.buffer.read()
"#;

fn python() -> Result<Outcome> {
    let dir = TempDir::new()?;
    let python = program(&["/usr/bin/python3", "python3"], "python3")?;
    let script = dir.path().join("load.py");
    std::fs::write(&script, PYTHON)?;
    let mut target = Target::start(Command::new(python).arg(&script).arg(sized(1, 6).to_string()))?;
    target.wait_for_line("ready", LONG)?;
    let tool = Tool::attach(target.pid(), &[])?;
    target.send("x")?;
    target.wait_for_line("finished", LONG)?;
    close_stopped(tool, target.pid())
}

/// Modules whose debug package is installed have a name in every frame, most with file and line.
fn debug_files() -> Result<()> {
    let outcome = python()?;
    let mut modules = BTreeMap::<&str, (i64, i64, i64)>::new();
    for frame in outcome.books.stacks.values().flat_map(|stack| &stack.frames) {
        let (all, named, placed) = modules.entry(&frame.module).or_default();
        *all += 1;
        *named += i64::from(!frame.names.is_empty());
        *placed += i64::from(frame.has_file);
    }
    let mut looked = 0;
    for (module, (all, named, placed)) in modules {
        let debug = has_debug_file(module)?;
        println!(
            "    {module}: {all} frames, {named} named, {placed} with a line{}",
            if debug { "; its debug package is installed" } else { "" }
        );
        if debug {
            looked += 1;
            ensure!(named == all, "{module}: {} frames of {all} have no name", all - named);
            ensure!(placed * 2 > all, "{module}: only {placed} frames of {all} have a line");
        }
    }
    if looked == 0 {
        runner::skip("no module of python3 has its debug package here; type: apt-get install -y libc6-dbg")?;
    }
    Ok(())
}

fn has_debug_file(module: &str) -> Result<bool> {
    if !module.starts_with('/') {
        return Ok(false);
    }
    let notes = Command::new(program(&["readelf"], "binutils")?).args(["-n", module]).output()?;
    let notes = String::from_utf8_lossy(&notes.stdout).into_owned();
    let Some(id) = notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")) else {
        return Ok(false);
    };
    Ok(id.len() > 2
        && std::path::Path::new(&format!("/usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..])).is_file())
}

/// A query whose executor node must be found, by one of the functions that the server exports.
struct Story {
    prepare: &'static str,
    run: &'static str,
    node: &'static [&'static str],
}

const HASH_JOIN: Story = Story {
    prepare: "create table a as select i, md5(i::text) as text from generate_series(1, $N) i; analyze a;",
    run: "set enable_mergejoin = off; set enable_nestloop = off; \
          select count(*) from a x join a y on x.text = y.text where x.i + y.i > 0;",
    node: &["MultiExecHash", "ExecHashTableInsert"],
};

const SORT: Story = Story {
    prepare: "create table c as select md5(i::text) as text from generate_series(1, $N) i; analyze c;",
    run: "select count(*) from (select * from c order by text offset 0) s;",
    node: &["tuplesort_puttupleslot", "tuplesort_putdatum", "tuplesort_performsort"],
};

const INDEX_BUILD: Story = Story {
    prepare: "create table b as select md5(i::text) as text from generate_series(1, $N) i;",
    run: "create index on b (text);",
    node: &["btbuild", "index_build", "tuplesort_putindextuplevalues"],
};

/// What brought most memory, by path and by burst, went through the node.
fn story(story: &Story) -> Result<()> {
    let rows = sized(600_000, 4_000_000).to_string();
    let node = exported(&postgres_binary()?.display().to_string(), story.node)?;
    if node.is_empty() {
        runner::skip(format!(
            "this server exports none of {:?}: without its debug package there is no name",
            story.node
        ))?;
    }
    let mut cluster = Postgres::create()?;
    cluster.start()?;
    let (mut session, _) = cluster.session()?;
    session.send(&format!("{}\nselect 'prepared';\n", story.prepare.replace("$N", &rows)))?;
    session.wait_for_line("prepared", LONG)?;
    // A backend that is born under the tool's eyes has been quiet until then; one that it comes to is listened to first.
    let tool = Tool::attach(cluster.pid().context("a server")?, &["--follow"])?;
    let (mut session, backend) = cluster.session()?;
    session.send(&format!("{}\nselect 'finished';\n", story.run.replace("$N", &rows)))?;
    session.wait_for_line("finished", LONG)?;
    let outcome = close_stopped(tool, backend)?;
    let books = &outcome.books;
    let mut sums = BTreeMap::<u64, i64>::new();
    for (entry, pages) in growing(books).filter(|(entry, _)| entry.cause == "fault.anon") {
        if let Some(id) = entry.stack {
            *sums.entry(id).or_default() += pages;
        }
    }
    let went = |id: u64| {
        books.stacks.get(&id).is_some_and(|stack| {
            stack.frames.iter().flat_map(|frame| &frame.names).any(|name| node.contains(&name.as_str()))
        })
    };
    let (through, all) = sums
        .iter()
        .fold((0, 0), |(through, all), (id, pages)| (through + if went(*id) { *pages } else { 0 }, all + pages));
    println!("    {} of {} MiB of anonymous memory through {node:?}", mebibytes(through), mebibytes(all));
    let (heaviest, pages) = sums.iter().max_by_key(|(_, pages)| **pages).context("nothing grew")?;
    println!("    heaviest, {} MiB: {}", mebibytes(*pages), books.stacks[heaviest].summary());
    ensure!(went(*heaviest), "the heaviest path does not hold {node:?}: {}", books.stacks[heaviest].summary());
    let bursts: Vec<&Value> =
        outcome.records.iter().filter(|record| record.kind() == "burst").map(|record| &record.value).collect();
    if bursts.is_empty() {
        bail!("no burst was told");
    }
    let mut told = false;
    for burst in bursts {
        println!("    burst: {}", burst["verdict"]);
        // A scan's first touch of the server's buffers may be larger, and is told as what it is.
        let top = burst["top"].as_array().context("top")?;
        told |= top.iter().filter_map(|path| path["stack_id"].as_u64()).any(went);
    }
    ensure!(told, "no burst's stacks hold {node:?}");
    Ok(())
}
