//! `memtrace snapshot --json` run, and held against what the kernel says while the target stands still.

use crate::books::address;
use crate::physical::{self, Counted};
use crate::runner::keepsake;
use crate::smaps::{self, Amounts, Area};
use crate::target::wait_until;
use crate::tool::{Lines, PATIENCE, binary};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What it printed, and how it ended.
#[derive(Debug)]
pub struct Taken {
    /// An object for each process.
    pub processes: Vec<Value>,
    /// All of them together, where there are several.
    pub group: Option<Value>,
    /// Those that were asked for and are in none of these, where there is no group to say it.
    pub missing: Option<Value>,
    /// stderr.
    pub errors: String,
    /// How it ended.
    pub status: ExitStatus,
}

impl Taken {
    /// The one process.
    ///
    /// # Errors
    /// There are none or several, or it did not end well.
    pub fn only(&self) -> Result<&Value> {
        ensure!(self.status.success(), "memtrace snapshot ended with {}: {}", self.status, self.errors);
        ensure!(self.processes.len() == 1, "{} processes instead of one", self.processes.len());
        Ok(&self.processes[0])
    }

    /// The process of this number.
    ///
    /// # Errors
    /// It is not there.
    pub fn process(&self, pid: u32) -> Result<&Value> {
        let found = self.processes.iter().find(|process| process["pid"] == pid);
        found.with_context(|| format!("{pid} is not in the snapshot; stderr: {}", self.errors))
    }
}

/// `memtrace snapshot --json ARGUMENTS…`
///
/// # Errors
/// It does not end, was killed by a signal, or a line is not JSON.
pub fn take(arguments: &[&str]) -> Result<Taken> {
    Ok(take_beside(arguments, || Ok(()))?.0)
}

/// The same, and what `look` sees after memtrace has read everything and before it ends: it cannot go on, because
/// nobody takes its output. Whose pages are shared with whom depends on who is there, memtrace with its libraries among
/// them.
///
/// # Errors
/// As [`take`], or what `look` says.
pub fn take_beside<T>(arguments: &[&str], look: impl FnOnce() -> Result<T>) -> Result<(Taken, T)> {
    let mut command = Command::new(binary()?);
    command.args(["snapshot", "--json"]).args(arguments);
    let mut child = Guard(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
    let stdout = child.0.stdout.take().context("piped")?;
    let errors = Lines::of(child.0.stderr.take().context("piped")?);
    // The smallest pipe there is: no snapshot fits into it.
    // SAFETY: no memory is involved.
    unsafe { libc::fcntl(stdout.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    let mut waiting = libc::pollfd { fd: stdout.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor in one struct.
    let ready = unsafe { libc::poll(&raw mut waiting, 1, PATIENCE.as_millis() as i32) };
    ensure!(ready == 1, "memtrace snapshot {arguments:?} stayed silent");
    let seen = look()?;

    let deadline = Instant::now() + PATIENCE;
    let output = Lines::of(stdout).rest(deadline).context("memtrace snapshot does not end")?;
    let errors = errors.rest(deadline)?.join("\n");
    let status = wait_until(&mut child.0, deadline)?;
    std::fs::write(keepsake("json"), output.join("\n"))?;
    std::fs::write(keepsake("stderr"), &errors)?;
    ensure!(status.code().is_some(), "memtrace snapshot was killed: {status}\n{errors}");
    ensure!(!errors.contains("panicked"), "memtrace snapshot panicked:\n{errors}");
    let mut taken = Taken { processes: Vec::new(), group: None, missing: None, errors, status };
    for line in output {
        let value: Value = serde_json::from_str(&line).with_context(|| format!("not JSON: {line:.400}"))?;
        match value["type"].as_str() {
            Some("snapshot") => taken.processes.push(value),
            Some("group") => taken.group = Some(value),
            Some("missing") => taken.missing = Some(value),
            _ => bail!("an unknown line: {line:.400}"),
        }
    }
    Ok((taken, seen))
}

/// Killed and reaped on drop.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// [`take`] of one process.
///
/// # Errors
/// As there.
pub fn take_pid(pid: u32, extra: &[&str]) -> Result<Taken> {
    let pid = pid.to_string();
    let mut arguments = vec!["--pid", &pid];
    arguments.extend(extra);
    take(&arguments)
}

/// Does it until it holds, three times at most. The target stands still and memtrace does, the machine does not: whoever
/// starts in between maps the C library as well, and changes what of it is shared. While the kernel moves pages to other
/// frames nobody can count them, the test neither: that is tried more often.
///
/// # Errors
/// What the last attempt says.
pub fn still<T>(attempt: impl Fn() -> Result<T>) -> Result<T> {
    let mut failed = 0;
    for _ in 0..40 {
        let before = moved()?;
        match attempt() {
            Err(error) if moved()? == before => {
                failed += 1;
                if failed == 3 {
                    return Err(error);
                }
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
            done => return done,
        }
    }
    attempt()
}

/// Pages that the kernel has moved to other frames.
fn moved() -> Result<u64> {
    let vmstat = std::fs::read_to_string("/proc/vmstat")?;
    let number = vmstat.lines().find_map(|line| line.strip_prefix("pgmigrate_success ")).unwrap_or("0");
    Ok(number.parse()?)
}

/// A whole snapshot of a stopped process, after [`Truth::assert_sums`]. On a machine that does not come to rest for three
/// attempts, what is shared of the files that others map too is left out.
///
/// # Errors
/// What does not hold.
pub fn take_exact(pid: u32, extra: &[&str]) -> Result<Value> {
    let number = pid.to_string();
    let mut arguments = vec!["--pid", &number];
    arguments.extend(extra);
    let attempt = |elsewhere: &BTreeSet<String>| {
        let (taken, truth) = take_beside(&arguments, || Truth::read(pid))?;
        let process = taken.only()?;
        truth.assert_sums(process, elsewhere).with_context(|| format!("process {pid}"))?;
        Ok(process.clone())
    };
    still(|| attempt(&BTreeSet::new())).or_else(|_| attempt(&mapped_elsewhere(&[pid])?))
}

/// A field of the contract, and the lines of smaps whose sum it is.
type Field = (&'static str, &'static [&'static str]);

/// Whole pages: every sum is exact.
const WHOLE: &[Field] = &[
    ("rss", &["Rss"]),
    ("anonymous", &["Anonymous"]),
    ("swap", &["Swap"]),
    ("huge", &["AnonHugePages", "ShmemPmdMapped", "FilePmdMapped"]),
    ("hugetlb", &["Shared_Hugetlb", "Private_Hugetlb"]),
    ("ksm", &["KSM"]),
    ("lazy_free", &["LazyFree"]),
];

/// Whole pages too, divided by whether they are mapped elsewhere.
const SHARES: &[Field] = &[
    ("private_clean", &["Private_Clean"]),
    ("private_dirty", &["Private_Dirty"]),
    ("shared_clean", &["Shared_Clean"]),
    ("shared_dirty", &["Shared_Dirty"]),
];

/// Parts of pages. The kernel adds them up in 1/4096 bytes and cuts to kB when it prints (`__show_smap`, `fs/proc/
/// task_mmu.c`): each mapping once, the roll-up once. So the roll-up is at least the sum of the mappings, and less than
/// 1 kB more for each mapping that has a fraction to lose: one in which something is shared.
const FRACTIONS: &[Field] = &[("pss", &["Pss"]), ("swap_pss", &["SwapPss"]), ("locked", &["Locked"])];

/// What the kernel says of a process.
#[derive(Debug)]
pub struct Truth {
    areas: Vec<Area>,
    rollup: Amounts,
    status: Amounts,
}

impl Truth {
    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(pid: u32) -> Result<Self> {
        Ok(Self { areas: smaps::smaps(pid)?, rollup: smaps::rollup(pid)?, status: smaps::status(pid)? })
    }

    /// Everything that a whole snapshot of a stopped process says: each mapping to the byte, their sums, the roll-up, the
    /// counters, the kinds. What of the files in `elsewhere` is shared, and how often, may have changed meanwhile.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn assert_sums(&self, process: &Value, elsewhere: &BTreeSet<String>) -> Result<()> {
        let shares_stand = self.assert_mappings(process["mappings"].as_array().context("mappings")?, elsewhere)?;
        assert_whole(process, self, shares_stand)
    }

    /// Each mapping. True when also all shares are what they were.
    fn assert_mappings(&self, mappings: &[Value], elsewhere: &BTreeSet<String>) -> Result<bool> {
        let areas = &self.areas;
        ensure!(mappings.len() == areas.len(), "{} mappings; smaps has {}", mappings.len(), areas.len());
        let mut shares_stand = true;
        for (mapping, area) in mappings.iter().zip(areas) {
            let of = || format!("{:x}-{:x} {} {}", area.start, area.end, area.permissions, area.name);
            ensure!(
                address(&mapping["start"])? == area.start && address(&mapping["end"])? == area.end,
                "not where smaps has {}: {mapping}",
                of()
            );
            ensure!(mapping["permissions"] == *area.permissions, "{}: permissions {}", of(), mapping["permissions"]);
            ensure!(mapping["size"] == area.end - area.start, "{}: size {}", of(), mapping["size"]);
            for (field, keys) in WHOLE {
                let truth = keys.iter().map(|key| area.get(key)).sum();
                assert_amount(mapping, field, truth, "smaps").with_context(of)?;
            }
            let clean = amount(mapping, "private_clean")? + amount(mapping, "shared_clean")?;
            let dirty = amount(mapping, "private_dirty")? + amount(mapping, "shared_dirty")?;
            ensure!(clean == area.get("Private_Clean") + area.get("Shared_Clean"), "{}: clean is {clean}", of());
            ensure!(dirty == area.get("Private_Dirty") + area.get("Shared_Dirty"), "{}: dirty is {dirty}", of());
            for (field, keys) in SHARES.iter().chain(FRACTIONS) {
                let truth = keys.iter().map(|key| area.get(key)).sum();
                let outcome = assert_amount(mapping, field, truth, "smaps").with_context(of);
                if elsewhere.contains(&area.name) {
                    shares_stand &= outcome.is_ok();
                } else {
                    outcome?;
                }
            }
        }
        Ok(shares_stand)
    }
}

/// Files that processes other than these map now, and memtrace itself: whoever starts or ends changes what is shared.
///
/// # Errors
/// There is no /proc.
pub fn mapped_elsewhere(pids: &[u32]) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if !pids.contains(&pid) {
            let maps = std::fs::read(entry.path().join("maps")).unwrap_or_default();
            let maps = String::from_utf8_lossy(&maps);
            let files = maps.lines().filter_map(|line| line.split_once('/'));
            names.extend(files.map(|(_, rest)| format!("/{rest}")));
        }
    }
    names.extend(["[vdso]".to_owned(), "[vvar]".to_owned()]);
    Ok(names)
}

/// The process as a whole.
fn assert_whole(process: &Value, truth: &Truth, shares_stand: bool) -> Result<()> {
    let Truth { areas, rollup, status } = truth;
    ensure!(process["given_up"] == serde_json::json!([]), "gave up {}", process["given_up"]);
    let changes = process["changed_meanwhile"].as_object().context("changed_meanwhile")?;
    ensure!(changes.values().all(|change| *change == 0), "a stopped process changed: {changes:?}");
    let mappings = process["mappings"].as_array().context("mappings")?;
    let total = |field: &str| sum(mappings, field);
    let lines = |amounts: &Amounts, keys: &[&str]| -> u64 { keys.iter().filter_map(|key| amounts.get(*key)).sum() };
    for (field, keys) in WHOLE {
        let (sum, whole) = (total(field)?, lines(rollup, keys));
        ensure!(sum == whole, "Σ {field} of the mappings is {sum}; smaps_rollup says {whole}");
    }
    for (field, keys) in SHARES.iter().filter(|_| shares_stand) {
        let (sum, whole) = (total(field)?, lines(rollup, keys));
        ensure!(sum == whole, "Σ {field} of the mappings is {sum}; smaps_rollup says {whole}");
    }
    for (field, keys) in FRACTIONS.iter().filter(|_| shares_stand) {
        let (sum, whole) = (total(field)?, lines(rollup, keys));
        let lossy = areas.iter().filter(|area| has_fraction(area, field)).count() as u64;
        ensure!(
            (sum..=sum + lossy.saturating_sub(1) * 1024).contains(&whole),
            "Σ {field} of the mappings is {sum}, {lossy} of them with fractions; smaps_rollup says {whole}"
        );
    }
    // The process's own figures are the sums of its mappings, whose fractions the roll-up may have in addition.
    for field in ["rss", "anonymous", "swap", "private_clean", "private_dirty", "shared_clean", "shared_dirty"] {
        assert_amount(&process["rollup"], field, total(field)?, "Σ of the mappings")?;
    }
    for (row, field, key) in
        [(process, "pss", "Pss"), (process, "swap_pss", "SwapPss"), (&process["rollup"], "locked", "Locked")]
    {
        let (told, sum) = (amount(row, field)?, total(field)?);
        let most = if shares_stand { lines(rollup, &[key]) } else { sum + areas.len() as u64 * 1024 };
        ensure!((sum..=most).contains(&told), "{field} is {told}; Σ of the mappings {sum}, smaps_rollup {most}");
    }
    assert_amount(process, "uss", total("private_clean")? + total("private_dirty")?, "Σ of the mappings")?;

    assert_counters(process, status)?;
    let (rss, anonymous) = (total("rss")?, total("anonymous")?);
    ensure!(rss == lines(status, &["VmRSS"]), "Σ rss is {rss}, VmRSS {}", lines(status, &["VmRSS"]));
    ensure!(anonymous == lines(status, &["RssAnon"]), "Σ anonymous is {anonymous}, RssAnon otherwise");
    assert_kinds(process["kinds"].as_array().context("kinds")?, mappings)
}

/// Something of it is divided by its sharers.
fn has_fraction(area: &Area, field: &str) -> bool {
    match field {
        "swap_pss" => area.get("SwapPss") != area.get("Swap"),
        _ => area.get("Shared_Clean") + area.get("Shared_Dirty") > 0,
    }
}

/// A snapshot of processes that stand still, together held against a count of our own, and what `look` sees beside it.
///
/// # Errors
/// What does not hold.
pub fn take_group_beside<T>(pids: &[u32], look: impl Fn() -> Result<T>) -> Result<(Taken, Value, T)> {
    let arguments: Vec<String> = pids.iter().flat_map(|pid| ["--pid".to_owned(), pid.to_string()]).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (taken, (counted, seen)) = take_beside(&arguments, || Ok((physical::count(pids)?, look()?)))?;
    let group = taken.group.clone().with_context(|| format!("no group: {}", taken.errors))?;
    assert_counted(&group, pids, &counted)?;
    Ok((taken, group, seen))
}

fn assert_counted(group: &Value, pids: &[u32], counted: &Counted) -> Result<()> {
    let places: Vec<u32> =
        group["pids"].as_array().context("pids")?.iter().map(|pid| pid.as_u64().unwrap_or(0) as u32).collect();
    ensure!(places == pids, "the group is {places:?}, asked was for {pids:?}");
    ensure!(group["given_up"] == serde_json::json!([]), "the group gave up {}", group["given_up"]);
    for (field, truth) in [("sum_res", counted.sum_res), ("res", counted.res), ("uss", counted.uss)] {
        assert_amount(group, field, truth, "a count of page frames")?;
    }
    ensure!(
        group["shared_with_group"] == serde_json::json!(counted.shared_with_group),
        "shared_with_group is {}, counted {:?}",
        group["shared_with_group"],
        counted.shared_with_group
    );
    let mut pairs = Vec::new();
    for pair in group["pairs"].as_array().context("pairs")? {
        let place = |field: &str| {
            let place = places.iter().position(|pid| pair[field] == *pid);
            place.with_context(|| format!("not of the group: {pair}"))
        };
        pairs.push((place("a")?, place("b")?, amount(pair, "shared")?));
    }
    pairs.sort_unstable();
    ensure!(pairs == counted.pairs, "pairs are {pairs:?}, counted {:?}", counted.pairs);
    Ok(())
}

/// The counters of a whole or partial snapshot, against `/proc/PID/status`.
///
/// # Errors
/// The first that differs.
pub fn assert_counters(process: &Value, status: &Amounts) -> Result<()> {
    let fields: [Field; 10] = [
        ("virt", &["VmSize"]),
        ("res", &["VmRSS"]),
        ("anon", &["RssAnon"]),
        ("file", &["RssFile"]),
        ("shmem", &["RssShmem"]),
        ("shr", &["RssFile", "RssShmem"]),
        ("swap", &["VmSwap"]),
        ("hugetlb", &["HugetlbPages"]),
        ("locked", &["VmLck"]),
        ("page_tables", &["VmPTE"]),
    ];
    for (field, keys) in fields {
        let truth = keys.iter().map(|key| status.get(*key).copied().unwrap_or_default()).sum();
        assert_amount(process, field, truth, "status")?;
    }
    Ok(())
}

/// Each kind is the sum of its mappings, and together they are all mappings.
fn assert_kinds(kinds: &[Value], mappings: &[Value]) -> Result<()> {
    let counted = sum(kinds, "mappings")?;
    ensure!(counted == mappings.len() as u64, "the kinds have {counted} mappings of {}", mappings.len());
    let names = |values: &[Value]| {
        let names = values.iter().map(|value| value["kind"].as_str().unwrap_or_default().to_owned());
        names.collect::<BTreeSet<_>>()
    };
    ensure!(names(kinds) == names(mappings), "kinds {:?}, of mappings {:?}", names(kinds), names(mappings));
    for kind in names(kinds) {
        for (field, _) in WHOLE.iter().chain(SHARES).chain(FRACTIONS).chain(&[("size", &[] as &[&str])]) {
            let (told, added) = (sum_of_kind(kinds, &kind, field)?, sum_of_kind(mappings, &kind, field)?);
            ensure!(told == added, "{kind}: {field} is {told}, Σ of its mappings {added}");
        }
    }
    Ok(())
}

/// The mapping that begins where this one is told to.
///
/// # Errors
/// There is none.
pub fn mapping_of<'a>(process: &'a Value, told: &Value) -> Result<&'a Value> {
    let mappings = process["mappings"].as_array().context("mappings")?;
    let found = mappings.iter().find(|mapping| mapping["start"] == told["start"]);
    found.with_context(|| format!("no mapping where the scene has {told}"))
}

/// Σ of a field over rows.
///
/// # Errors
/// It is unknown in one of them.
pub fn sum(rows: &[Value], field: &str) -> Result<u64> {
    rows.iter().map(|row| amount(row, field)).sum()
}

/// Σ of a field over the rows of one kind.
///
/// # Errors
/// As [`sum`].
pub fn sum_of_kind(rows: &[Value], kind: &str, field: &str) -> Result<u64> {
    rows.iter().filter(|row| row["kind"] == kind).map(|row| amount(row, field)).sum()
}

/// A known amount.
///
/// # Errors
/// It is unknown.
pub fn amount(row: &Value, field: &str) -> Result<u64> {
    row[field].as_u64().with_context(|| format!("{field} is {}", row[field]))
}

/// A field has this amount.
///
/// # Errors
/// It has another, or is unknown.
pub fn assert_amount(row: &Value, field: &str, truth: u64, whose: &str) -> Result<()> {
    let found = amount(row, field)?;
    ensure!(found == truth, "{field} is {found}; {whose} says {truth}");
    Ok(())
}
