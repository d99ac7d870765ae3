//! `memtrace stuck` held against the truth: stalls played under it, its answer compared, and the confusion table of all.

use crate::machine::{Cgroup, TempDir};
use crate::runner::{SceneFailed, current, keepsake, target_dir};
use crate::target::{Target, children, wait_until};
use crate::tool::{Lines, PATIENCE, binary};
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// By how much of a thread's time the sum of its states may differ from it.
const SUM_CLOSE: f64 = 0.001;
/// By how much of the window a share may differ from what was measured, where a thread stands still.
const STILL_CLOSE: f64 = 0.02;
/// The same where it goes on and on: what it does on a CPU is sampled.
const MOVING_CLOSE: f64 = 0.06;
/// So many of thirty-two looks that find it asleep, ten milliseconds apart.
const QUIET_LOOKS: u32 = 20;
/// A stall that begins within the window lasts so many times as long as the window before it, and no less than this.
const FILL: u32 = 2;
const LEAST_FILL: Duration = Duration::from_secs(2);
/// What a stall must take of the window from its beginning on to be called one.
const LEAST_SHARE: f64 = 0.6;

/// When the stall began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Before the tool came.
    Before,
    /// Under its eyes.
    After,
}

/// `memtrace stuck`, running. Killed on drop.
#[derive(Debug)]
pub struct Asked {
    child: Child,
    /// Not before this its window began.
    since: Instant,
    lines: Lines,
    errors: Lines,
}

impl Asked {
    /// Starts it for a window of this length.
    ///
    /// # Errors
    /// It does not start.
    pub fn about(pid: u32, window: Duration) -> Result<Self> {
        Self::about_with(pid, window, |command| command)
    }

    /// The same with more on its command line, or around it.
    ///
    /// # Errors
    /// It does not start.
    pub fn about_with(pid: u32, window: Duration, more: impl FnOnce(&mut Command) -> &mut Command) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command
            .args(["stuck", "--json", "--pid", &pid.to_string()])
            .args(["--duration", &format!("{}ms", window.as_millis())]);
        let mut child = more(&mut command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("failed to start memtrace")?;
        let lines = Lines::of(child.stdout.take().context("piped")?);
        let errors = Lines::of(child.stderr.take().context("piped")?);
        Ok(Self { child, since: Instant::now(), lines, errors })
    }

    /// As [`wait_until_it_watches`].
    ///
    /// # Errors
    /// As there.
    pub fn wait_until_it_watches(&mut self) -> Result<()> {
        self.since = wait_until_it_watches(&mut self.child)
            .with_context(|| self.errors.rest(Instant::now()).unwrap_or_default().join("\n"))?;
        Ok(())
    }

    /// Lets what has begun now fill most of its window, which then ends.
    ///
    /// # Errors
    /// It is gone.
    pub fn let_it_fill_the_window(&mut self) -> Result<()> {
        std::thread::sleep(LEAST_FILL.max(self.since.elapsed() * FILL));
        ensure!(self.child.try_wait()?.is_none(), "memtrace ended before its window");
        // SAFETY: no memory is involved; our own child, not yet reaped.
        ensure!(unsafe { libc::kill(self.child.id() as i32, libc::SIGINT) } == 0, "it cannot be interrupted");
        Ok(())
    }

    /// Its answer.
    ///
    /// # Errors
    /// It does not end, ends badly, or says something else.
    pub fn answer(mut self) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        let lines = self.lines.rest(deadline).context("memtrace does not end")?;
        let errors = self.errors.rest(deadline)?.join("\n");
        std::fs::write(keepsake("ndjson"), lines.join("\n"))?;
        std::fs::write(keepsake("stderr"), &errors)?;
        let status = wait_until(&mut self.child, deadline)?;
        ensure!(status.success(), "memtrace ended with {status}; stderr:\n{errors}");
        let values = lines.iter().map(|line| serde_json::from_str(line));
        let values = values.collect::<Result<Vec<Value>, _>>().context("not JSON")?;
        let answer = values.into_iter().find(|value| value["type"] == "stuck");
        answer.ok_or_else(|| anyhow!("no answer; stderr:\n{errors}"))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until memtrace watches. It says nothing before its answer, so it is looked at: while it loads its probes it wants
/// the CPU all the time, once it watches it sleeps. That it was so is seen in the answer, which says when the window began.
/// Returns a moment before that.
///
/// # Errors
/// It does not come to that.
pub fn wait_until_it_watches(tool: &mut Child) -> Result<Instant> {
    let mut before = Instant::now();
    let deadline = Instant::now() + PATIENCE;
    let mut looks = 0_u32;
    while looks.count_ones() < QUIET_LOOKS {
        let now = Instant::now();
        let there = has_probes(tool.id());
        if !there {
            before = now;
        }
        // The last thirty-two.
        looks = looks << 1 | u32::from(there && sleeps(tool.id()));
        if let Some(status) = tool.try_wait()? {
            bail!("memtrace ended with {status} before its window");
        }
        ensure!(Instant::now() < deadline, "memtrace does not come to watch");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(before)
}

fn has_probes(pid: u32) -> bool {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut links = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.any(|link| link.to_str().is_some_and(|link| link.contains("bpf_link")))
}

/// None of its threads has a CPU, or wants one.
fn sleeps(pid: u32) -> bool {
    std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
    })
}

/// Plays a stall under the tool and compares; what was found goes into the confusion table, right or wrong. The groups are
/// what the actor is put into before it begins.
///
/// # Errors
/// Whatever does not hold.
pub fn play(
    scene: &str,
    begun: Begun,
    options: &[(&str, &str)],
    groups: &[&Cgroup],
    inflict: impl FnOnce(u32) -> Result<()>,
) -> Result<()> {
    let dir = TempDir::new()?;
    let mut arguments = Vec::new();
    if !options.iter().any(|(name, _)| *name == "--dir") {
        arguments.extend(["--dir".to_owned(), dir.path().display().to_string()]);
    }
    arguments.extend(options.iter().flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]));
    let mut target = Target::workload(scene, &arguments)?;
    let actor = *children(target.pid())?.first().context("the director has no actor")?;
    for group in groups {
        group.join(actor)?;
    }
    inflict(actor)?;
    let begin = |target: &mut Target| {
        target.send("b")?;
        let begun = target.json()?;
        ensure!(!begun["begun"].is_null(), "the scene {scene} says {begun}");
        Ok(())
    };
    let answer = if begun == Begun::Before {
        begin(&mut target)?;
        Asked::about(actor, Duration::from_secs(2))?.answer()
    } else {
        let mut asked = Asked::about(actor, PATIENCE)?;
        asked.wait_until_it_watches()?;
        begin(&mut target)?;
        asked.let_it_fill_the_window()?;
        asked.answer()
    };
    target.send("t")?;
    let truth = target.report()?["more"].clone();
    std::fs::write(keepsake("truth.json"), truth.to_string())?;
    let answer = answer.inspect_err(|_| note(&truth, &Value::Null, None, begun, false))?;
    let compared = Comparison::of(&truth, &answer, begun)?;
    note(&truth, &answer, Some(&compared), begun, compared.wrong.is_empty());
    let sentence = answer["verdict"]["sentence"].as_str().unwrap_or_default();
    ensure!(compared.wrong.is_empty(), "{}\nthe tool says: {sentence}", compared.wrong.join("\n"));
    Ok(())
}

/// Holds an answer against a class (any of these) and whether memory is the cause (`None`: not judged), for a process that does
/// not measure itself; what was found goes into the confusion table.
///
/// # Errors
/// What does not hold.
pub fn judge(answer: &Value, classes: &[&str], memory: Option<bool>, begun: Begun) -> Result<()> {
    let truth = json!({"class": classes, "memory": memory});
    let verdict = &answer["verdict"];
    let mut wrong = sums(answer)?;
    if !classes.iter().any(|class| verdict["class"] == *class) {
        wrong.push(format!(
            "the verdict is {} (between {}), {classes:?} in truth",
            verdict["class"], verdict["between"]
        ));
    }
    if memory.is_some_and(|memory| verdict["memory"] != memory) {
        wrong.push(format!("memory is {} in the verdict, {memory:?} in truth", verdict["memory"]));
    }
    note(&truth, answer, None, begun, wrong.is_empty());
    ensure!(wrong.is_empty(), "{}\nthe tool says: {}", wrong.join("\n"), verdict["sentence"]);
    Ok(())
}

/// What the comparison found.
struct Comparison {
    /// Share of the window, in truth and in the answer.
    shares: [f64; 2],
    wrong: Vec<String>,
}

impl Comparison {
    /// # Errors
    /// The answer is not what the contract says, or the scene did not come about.
    fn of(truth: &Value, answer: &Value, begun: Begun) -> Result<Self> {
        let tid = truth["actor"].as_u64().context("actor")?;
        let start = answer["start_ns"].as_u64().context("start_ns")?;
        let window = answer["window_ns"].as_u64().context("window_ns")?;
        let begun_ns = truth["begun_ns"].as_u64().context("begun_ns")?;
        match begun {
            Begun::Before if begun_ns > start => bail!(SceneFailed("the stall began after the window".to_owned())),
            Begun::After if begun_ns < start => bail!(SceneFailed("the stall began before the window".to_owned())),
            _ => {}
        }
        let spent = Spent::within(truth, start.max(begun_ns), start + window)?;
        let stands = truth["stands"] == true;
        if spent.most < LEAST_SHARE * spent.length {
            let told = format!("{:.0} % of the time was the stall", 100.0 * spent.most / spent.length);
            bail!(SceneFailed(told));
        }
        let thread = array(&answer["threads"])?.iter().find(|thread| thread["tid"] == tid);
        let thread = thread.with_context(|| format!("nothing of thread {tid}"))?;
        let classes = array(&truth["class"])?;
        let found: f64 = classes.iter().filter_map(|class| thread["states"][class.as_str()?].as_f64()).sum();
        let mut wrong = sums(answer)?;
        let mut expect = |holds: bool, what: &dyn Fn() -> String| {
            if !holds {
                wrong.push(what());
            }
        };
        let verdict = &answer["verdict"];
        // Also where the class is that of a deadlock.
        expect(stands || !verdict["sentence"].as_str().unwrap_or_default().contains("eadlock"), &|| {
            format!("the verdict is {}, and the actor goes on", verdict["sentence"])
        });
        expect(classes.contains(&verdict["class"]), &|| {
            format!("the verdict is {} (between {}), {} in truth", verdict["class"], verdict["between"], truth["class"])
        });
        expect(verdict["memory"] == truth["memory"], &|| {
            format!("memory is {} in the verdict, {} in truth", verdict["memory"], truth["memory"])
        });
        let whole = window as f64;
        let close = whole * if stands { STILL_CLOSE } else { MOVING_CLOSE };
        expect((spent.least - close..=spent.most + close).contains(&found), &|| {
            format!(
                "{} is {:.1} % of the window, {:.1} to {:.1} (± {:.1}) in truth; states {}",
                truth["class"],
                100.0 * found / whole,
                100.0 * spent.least / whole,
                100.0 * spent.most / whole,
                100.0 * close / whole,
                thread["states"]
            )
        });
        let total = thread["total_ns"].as_f64().context("total_ns")?;
        expect((total - whole).abs() <= SUM_CLOSE * whole, &|| format!("its thread has {total} ns of {whole}"));
        if stands {
            expect(thread["since_attach"] == (begun == Begun::Before), &|| {
                format!("since_attach is {}, begun {begun:?}", thread["since_attach"])
            });
        }
        let object = &truth["object"];
        if object["kind"] == "mmap_lock" {
            let longest = array(&answer["holds"])?.iter().max_by_key(|hold| hold["ns"].as_u64());
            expect(longest.is_some_and(|hold| hold["tid"] == object["holder"]), &|| {
                format!("mmap_lock is held longest by {longest:?}, {} in truth", object["holder"])
            });
        } else if object["kind"] == "function" {
            let name = object["name"].as_str().context("name")?;
            let first = &thread["ran"][0];
            let named = first["function"].as_str().is_some_and(|function| function.ends_with(&format!("::{name}")));
            let own = thread["states"]["cpu.user"].as_f64().unwrap_or_default();
            let (ns, bound) = (first["ns"].as_f64(), first["bound_ns"].as_f64());
            let most = ns.zip(bound).is_some_and(|(ns, bound)| ns + bound >= 0.98 * own && ns <= own);
            expect(named && most, &|| format!("it ran {first} for most of {own} ns, {name} in truth"));
            let sentence = verdict["sentence"].as_str().unwrap_or_default();
            expect(sentence.contains(&format!("{name} (")), &|| format!("no {name} in \"{sentence}\""));
        } else if !object.is_null() {
            let shares = array(&thread["shares"])?;
            let among = shares.iter().filter(|share| classes.contains(&share["state"]));
            let objects: Vec<&Value> = among.map(|share| &share["object"]).collect();
            expect(objects.iter().any(|found| contains(found, object)), &|| {
                format!("it is about {objects:?}, {object} in truth")
            });
        }
        Ok(Self { shares: [spent.most / whole, found / whole], wrong })
    }
}

/// Each thread's states, against its total.
fn sums(answer: &Value) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for thread in array(&answer["threads"])? {
        let states = thread["states"].as_object().context("states")?;
        let sum: f64 = states.values().filter_map(Value::as_f64).sum();
        let total = thread["total_ns"].as_f64().context("total_ns")?;
        if (sum - total).abs() > SUM_CLOSE * total {
            wrong.push(format!("thread {}: the states' sum is {sum} of {total} ns", thread["tid"]));
        }
    }
    Ok(wrong)
}

/// Every field of the expected is in the found; of lists, every element.
fn contains(found: &Value, expected: &Value) -> bool {
    match expected {
        Value::Object(fields) => fields.iter().all(|(name, value)| contains(&found[name], value)),
        Value::Array(all) => {
            let found = found.as_array().map_or(&[][..], Vec::as_slice);
            all.iter().all(|one| found.iter().any(|found| contains(found, one)))
        }
        _ => found == expected,
    }
}

fn array(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("not an array: {value}"))
}

/// Time in the stall by the truth's own measure: not less and not more than this, nanoseconds.
struct Spent {
    least: f64,
    most: f64,
    length: f64,
}

impl Spent {
    /// Between two moments, from the series of samples.
    fn within(truth: &Value, from: u64, to: u64) -> Result<Self> {
        let samples = array(&truth["samples"])?.iter().map(|sample| {
            let numbers = array(sample)?.iter().map(|number| number.as_f64().context("a number"));
            let numbers = numbers.collect::<Result<Vec<f64>>>()?;
            <[f64; 4]>::try_from(numbers).map_err(|_| anyhow!("a sample has four numbers"))
        });
        let samples = samples.collect::<Result<Vec<_>>>()?;
        let [first, .., last] = samples.as_slice() else { bail!("too few samples of the truth") };
        // The act and CPU time since the stall began and before the first sample is not known: a few milliseconds.
        let (from, to) = ((from as f64).max(first[0]), (to as f64).min(last[0]));
        ensure!(from < to, "the truth was not sampled within the window");
        let moved = |column: usize| at(&samples, to, column) - at(&samples, from, column);
        let (length, act, cpu, delay) = (to - from, moved(1), moved(2), moved(3));
        let (least, most) = match truth["measure"].as_str() {
            Some("act") => (act, act),
            Some("act_scheduled") => ((act - delay).max(0.0), act),
            Some("act_waiting") => ((act - delay - cpu).max(0.0), act),
            Some("cpu") => (cpu, cpu),
            Some("off") => (length - cpu, length - cpu),
            other => bail!("unknown measure {other:?}"),
        };
        Ok(Self { least, most, length })
    }
}

/// A column at a moment, between its samples in proportion.
fn at(samples: &[[f64; 4]], moment: f64, column: usize) -> f64 {
    let after = samples.partition_point(|sample| sample[0] < moment).clamp(1, samples.len() - 1);
    let (one, two) = (&samples[after - 1], &samples[after]);
    let part = ((moment - one[0]) / (two[0] - one[0]).max(1.0)).clamp(0.0, 1.0);
    one[column] + part * (two[column] - one[column])
}

/// A row of the table: which test, what it is, what was found, how much, whether it holds.
struct Row {
    test: String,
    expected: String,
    found: String,
    memory: String,
    shares: Option<[f64; 2]>,
    begun: Begun,
    right: bool,
}

static TABLE: Mutex<Vec<Row>> = Mutex::new(Vec::new());

fn note(truth: &Value, answer: &Value, compared: Option<&Comparison>, begun: Begun, right: bool) {
    let words = |value: &Value| match value {
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("|"),
        Value::String(one) => one.clone(),
        other => other.to_string(),
    };
    let verdict = &answer["verdict"];
    let found = match &verdict["class"] {
        Value::Null if !answer.is_null() => format!("?{}", words(&verdict["between"])),
        class => words(class),
    };
    let row = Row {
        test: current(),
        expected: words(&truth["class"]),
        found,
        memory: format!("{}/{}", truth["memory"], verdict["memory"]),
        shares: compared.map(|compared| compared.shares),
        begun,
        right,
    };
    TABLE.lock().unwrap_or_else(PoisonError::into_inner).push(row);
}

/// Prints the confusion table of all that was played, and leaves it in `target/kernel-tests/NAME.confusion.txt`.
pub fn tell_confusion(name: &str) {
    let rows = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    if rows.is_empty() {
        return;
    }
    let mut text =
        format!("{:<36} {:<31} {:<31} {:<11} {:>7} {:>7}\n", "stall", "expected", "found", "memory", "truth", "told");
    let mut counts: BTreeMap<(&str, &str), [usize; 2]> = BTreeMap::new();
    for row in rows.iter() {
        let percent = |index: usize| {
            row.shares.map_or_else(|| "-".to_owned(), |shares| format!("{:.1} %", 100.0 * shares[index]))
        };
        let mark = if row.right { "" } else { "  WRONG" };
        let _ = writeln!(
            text,
            "{:<36} {:<31} {:<31} {:<11} {:>7} {:>7}{mark}",
            row.test,
            row.expected,
            row.found,
            row.memory,
            percent(0),
            percent(1)
        );
        counts.entry((&row.expected, &row.found)).or_default()[usize::from(row.begun == Begun::After)] += 1;
    }
    let _ = writeln!(text, "\n{:<31} {:<31} {:>7} {:>6}", "expected", "found", "before", "after");
    for ((expected, found), [before, after]) in &counts {
        let _ = writeln!(text, "{expected:<31} {found:<31} {before:>7} {after:>6}");
    }
    let classes: BTreeSet<&str> = rows.iter().filter_map(|row| row.expected.split('|').next()).collect();
    let said = |row: &&Row| row.expected.split('|').any(|class| class == row.found);
    let _ = writeln!(
        text,
        "\n{} of {} verdicts name the class, of {} classes",
        rows.iter().filter(said).count(),
        rows.len(),
        classes.len()
    );
    println!("{text}");
    let path = target_dir().join("kernel-tests").join(format!("{name}.confusion.txt"));
    if let Err(error) = std::fs::write(&path, &text) {
        eprintln!("failed to write {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(measure: &str) -> Value {
        // Half of the time in the act, a quarter on a CPU, an eighth waiting for one.
        let samples: Vec<Value> = (0..10).map(|n| json!([n * 800, n * 400, n * 200, n * 100])).collect();
        json!({"measure": measure, "samples": samples})
    }

    #[test]
    fn time_between_samples_is_divided() {
        let spent = Spent::within(&truth("act_scheduled"), 1200, 5600).unwrap();
        assert_eq!((spent.length, spent.least, spent.most), (4400.0, 1650.0, 2200.0));
        let off = Spent::within(&truth("off"), 0, 7200).unwrap();
        assert_eq!((off.least, off.most), (5400.0, 5400.0));
    }

    #[test]
    fn what_is_expected_may_be_part_of_what_is_found() {
        let found = json!({"kind": "pipe", "fd": 3, "others": [{"pid": 1, "comm": "a"}, {"pid": 2, "comm": "b"}]});
        assert!(contains(&found, &json!({"kind": "pipe", "others": [{"pid": 2}]})));
        assert!(!contains(&found, &json!({"kind": "pipe", "others": [{"pid": 3}]})));
        assert!(!contains(&Value::Null, &json!({"kind": "pipe"})));
    }

    #[test]
    fn states_that_do_not_add_up_are_told() {
        let thread =
            |sum: u64| json!({"tid": 7, "total_ns": 1_000_000, "states": {"cpu.user": sum, "runnable": 100_000}});
        assert!(sums(&json!({"threads": [thread(900_500)]})).unwrap().is_empty());
        assert_eq!(sums(&json!({"threads": [thread(890_000)]})).unwrap().len(), 1);
    }
}
