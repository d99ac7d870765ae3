//! What processes truly share: numbers of pages that a workload made, and every page frame counted by the test.

use anyhow::{Context, Result, bail, ensure};
use memtrace_tests::books::address;
use memtrace_tests::machine::{Setting, TempDir};
use memtrace_tests::pages::page_size;
use memtrace_tests::physical;
use memtrace_tests::runner::{self, Test};
use memtrace_tests::scene::{Play, options};
use memtrace_tests::smaps;
use memtrace_tests::snapshots::{amount, still, take, take_group_beside};
use memtrace_tests::target::{Stopped, Target, stop};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

const TESTS: &[Test] = &[
    ("sharing", sharing),
    ("sharing.ksm", merged),
    ("sharing.strangers", strangers),
    ("sharing.many", many),
    ("sharing.one", one),
    ("sharing.restless", restless),
];

fn main() -> ExitCode {
    runner::run(TESTS)
}

/// Processes that stand still in what they have done.
struct Scene {
    pids: Vec<u32>,
    truth: Value,
    _stopped: Vec<Stopped>,
    _target: Target,
    _dir: TempDir,
}

impl Scene {
    fn play(name: &str) -> Result<Self> {
        let dir = TempDir::new()?;
        let mut target = Target::workload(name, &options(&dir, &Play::default()))?;
        target.send("x")?;
        let report = target.json().context("the scene's report")?;
        ensure!(report["done"] == true, "the scene itself failed; its words are on stderr: {report}");
        let truth = report["more"].clone();
        let pids = truth["pids"].as_array().context("pids")?.iter();
        let pids: Vec<u32> = pids.filter_map(Value::as_u64).map(|pid| pid as u32).collect();
        let stopped = pids.iter().map(|pid| stop(*pid)).collect::<Result<_>>()?;
        Ok(Self { pids, truth, _stopped: stopped, _target: target, _dir: dir })
    }

    fn mappings(&self) -> Result<Vec<Told>> {
        self.truth["mappings"].as_array().context("mappings")?.iter().map(Told::parse).collect()
    }
}

/// A mapping as the workload tells it.
struct Told {
    what: String,
    kind: String,
    name: String,
    start: u64,
    file: bool,
    /// Of each process, the pages that its entries show.
    pages: Vec<Vec<u64>>,
}

impl Told {
    fn parse(told: &Value) -> Result<Self> {
        let text = |field: &str| told[field].as_str().map(str::to_owned).context("a text");
        let numbers = |pages: &Value| pages.as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        Ok(Self {
            what: text("what")?,
            kind: text("kind")?,
            name: text("name")?,
            start: address(&told["start"])?,
            file: told["file"] == true,
            pages: told["pages"].as_array().context("pages")?.iter().map(numbers).collect(),
        })
    }

    /// Shows the same pages as this one, by their numbers.
    fn same_object(&self, other: &Self) -> bool {
        if self.name.is_empty() { self.start == other.start } else { self.name == other.name }
    }
}

fn bytes(pages: usize) -> u64 {
    (pages * page_size()) as u64
}

fn sharing() -> Result<()> {
    assert_scene(&Scene::play("sharing")?)
}

fn merged() -> Result<()> {
    const DIR: &str = "/sys/kernel/mm/ksm";
    let settings = [
        Setting::set(&format!("{DIR}/pages_to_scan"), "10000")?,
        Setting::set(&format!("{DIR}/sleep_millisecs"), "1")?,
        Setting::set(&format!("{DIR}/run"), "1")?,
    ];
    let scene = Scene::play("sharing.ksm");
    drop(settings);
    assert_scene(&scene?)
}

/// Two programs that have nothing in common but their libraries.
fn strangers() -> Result<()> {
    let one = Target::start(std::process::Command::new("/bin/cat").arg("-"))?;
    let other = Target::start(std::process::Command::new("/bin/sort").arg("-"))?;
    let pids = [one.pid(), other.pid()];
    // Each reads its standard input once it has everything that it needs.
    for pid in pids {
        until_reading(pid)?;
    }
    let _stopped = [stop(pids[0])?, stop(pids[1])?];
    group(&pids).map(drop)
}

fn until_reading(pid: u32) -> Result<()> {
    let deadline = std::time::Instant::now() + memtrace_tests::tool::PATIENCE;
    // read(2) of descriptor 0.
    while !std::fs::read_to_string(format!("/proc/{pid}/syscall"))?.starts_with("0 0x0 ") {
        ensure!(std::time::Instant::now() < deadline, "{pid} does not read");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(())
}

/// Twenty processes that share 256 MiB: counted once.
fn many() -> Result<()> {
    let scene = Scene::play("sharing.many")?;
    let group = group(&scene.pids)?;
    let shared = amount(&scene.truth, "shared")?;
    let objects = group["objects"].as_array().context("objects")?;
    let common = objects.first().context("no object")?;
    ensure!(amount(common, "shared")? == shared && amount(common, "res")? == shared, "{common}");
    ensure!(amount(common, "sum_res")? == 20 * shared && common["processes"] == 20, "{common}");
    let took: u64 =
        group["sources"].as_array().into_iter().flatten().filter_map(|source| source["cost_ns"].as_u64()).sum();
    println!("    the kernel's part of the group: {:.1} ms", took as f64 / 1e6);
    Ok(())
}

/// One address space under two numbers is one.
fn one() -> Result<()> {
    let scene = Scene::play("sharing.one")?;
    let [parent, child] = scene.pids[..] else { bail!("{:?}", scene.pids) };
    let (first, second) = (parent.to_string(), child.to_string());
    let taken = take(&["--pid", &first, "--pid", &second])?;
    let group = taken.group.context("no group")?;
    ensure!(group["pids"] == serde_json::json!([parent]), "the group is of {}", group["pids"]);
    let rss = smaps::status(parent)?["VmRSS"];
    // A page that two of its mappings show is one, and twice in RSS: the program's own text and data share one.
    let counted = physical::count(&[parent])?;
    ensure!(amount(&group, "res")? == counted.res, "by page frame it is {}: {group}", counted.res);
    ensure!(amount(&group, "sum_res")? == rss, "RSS is {rss}: {group}");
    for pid in [parent, child] {
        let res = amount(taken.processes.iter().find(|process| process["pid"] == pid).context("a process")?, "res")?;
        ensure!(res == rss, "RES of {pid} is {res}");
    }
    Ok(())
}

/// The same of one whose size is another each time that one looks: it is not by their figures that twins are known.
fn restless() -> Result<()> {
    let dir = TempDir::new()?;
    let mut target = Target::workload("sharing.restless", &options(&dir, &Play::default()))?;
    target.send("x")?;
    let report = target.json().context("the scene's report")?;
    let [parent, child] = report["more"]["pids"].as_array().context("pids")?.as_slice() else { bail!("{report}") };
    let (first, second) = (parent.to_string(), child.to_string());
    let mut differed = false;
    for _ in 0..100 {
        let taken = take(&["--pid", &first, "--pid", &second])?;
        let group = taken.group.context("no group")?;
        ensure!(group["pids"] == serde_json::json!([parent]), "the group is of {}", group["pids"]);
        let virt: BTreeSet<u64> = taken.processes.iter().filter_map(|process| process["virt"].as_u64()).collect();
        differed |= virt.len() > 1;
        if differed {
            return Ok(());
        }
    }
    bail!("both had the same size a hundred times")
}

/// All together, every sum of which agrees with a count of page frames.
fn group(pids: &[u32]) -> Result<Value> {
    still(|| Ok(take_group_beside(pids, || Ok(()))?.1))
}

/// All three of a scene, and each two of them in both orders.
fn assert_scene(scene: &Scene) -> Result<()> {
    let told = scene.mappings()?;
    for members in [&[0, 1, 2][..], &[0, 1], &[1, 0], &[0, 2], &[2, 0], &[1, 2], &[2, 1]] {
        let pids: Vec<u32> = members.iter().map(|member| scene.pids[*member]).collect();
        let of = || format!("processes {members:?} of the scene, {pids:?}");
        let group = group(&pids).with_context(of)?;
        assert_objects(&group, &told, members).with_context(of)?;
        assert_links(&group, &told, members).with_context(of)?;
    }
    Ok(())
}

/// What is shared, against what the workload says.
fn assert_objects(group: &Value, told: &[Told], members: &[usize]) -> Result<()> {
    let objects = group["objects"].as_array().context("objects")?;
    let names: BTreeSet<&str> = told.iter().map(|told| told.name.as_str()).filter(|name| !name.is_empty()).collect();
    for name in names {
        let parts: Vec<&Told> = told.iter().filter(|told| told.name == name).collect();
        let entries = |member: usize| parts.iter().flat_map(move |part| &part.pages[member]);
        // Anonymous memory that is mapped once belongs to nobody else.
        let mut mapped: BTreeMap<u64, usize> = BTreeMap::new();
        for page in (0..3).flat_map(entries) {
            *mapped.entry(*page).or_default() += 1;
        }
        let counts = |page: &&u64| parts[0].file || mapped[page] > 1;
        let sets: Vec<BTreeSet<u64>> =
            members.iter().map(|member| entries(*member).filter(counts).copied().collect()).collect();
        let all: BTreeSet<u64> = sets.iter().flatten().copied().collect();
        let shared = all.iter().filter(|page| sets.iter().filter(|set| set.contains(page)).count() > 1).count();
        let sum_res = members.iter().map(|member| entries(*member).filter(counts).count()).sum();

        let is_named = |object: &&Value| object["name"].as_str().is_some_and(|found| found.contains(name));
        let found = objects.iter().find(is_named);
        let Some(object) = found.filter(|_| shared > 0) else {
            ensure!(found.is_none() && shared == 0, "{}: {shared} pages are shared; found {found:?}", parts[0].what);
            continue;
        };
        ensure!(object["kind"] == *parts[0].kind, "{}: {object}", parts[0].what);
        for (field, truth) in [
            ("res", bytes(all.len())),
            ("shared", bytes(shared)),
            ("sum_res", bytes(sum_res)),
            ("processes", sets.iter().filter(|set| !set.is_empty()).count() as u64),
        ] {
            ensure!(amount(object, field)? == truth, "{}: {field} is {truth} in truth: {object}", parts[0].what);
        }
    }
    Ok(())
}

/// Mapping by mapping, between the first two.
fn assert_links(group: &Value, told: &[Told], members: &[usize]) -> Result<()> {
    let links = group["links"].as_array().context("links")?;
    for a in told {
        for b in told {
            let pages = |told: &Told, member: usize| told.pages[member].iter().copied().collect::<BTreeSet<u64>>();
            let (of_a, of_b) = (pages(a, members[0]), pages(b, members[1]));
            let truth = if a.same_object(b) { bytes(of_a.intersection(&of_b).count()) } else { 0 };
            let mut found = 0;
            for link in links {
                if address(&link["a"]["start"])? == a.start && address(&link["b"]["start"])? == b.start {
                    found += amount(link, "shared")?;
                }
            }
            ensure!(found == truth, "between \"{}\" and \"{}\": {found} bytes, {truth} in truth", a.what, b.what);
        }
    }
    Ok(())
}
