//! The law, held against every line that memtrace prints: `closing − opening = Σ entries + unexplained` per class,
//! statements that follow each other without a gap, and an end that is the sum of the statements.

use crate::pages::Pages;
use crate::stacks::Stack;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;

/// An entry of a statement.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Process whose books it is in.
    pub pid: u32,
    /// Address space, as the output names it.
    pub mm: String,
    /// Why.
    pub cause: String,
    /// How much.
    pub delta: Pages,
    /// Faults without waiting.
    pub minor: i64,
    /// Faults with waiting.
    pub major: i64,
    /// First address and the one after the last; `None` when the kernel does not say where.
    pub range: Option<(u64, u64)>,
    /// Mapping kind; empty without a mapping.
    pub kind: String,
    /// Thread.
    pub tid: i64,
    /// Code path, by its number in [`Books::stacks`].
    pub stack: Option<u64>,
    /// Whole entry, for messages.
    pub text: String,
}

impl Entry {
    /// It shares an address with the range.
    #[must_use]
    pub fn touches(&self, (start, end): (u64, u64)) -> bool {
        self.range.is_some_and(|(first, last)| first < end && start < last)
    }

    /// It says something: an amount or a fault.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.delta != Pages::ZERO || self.minor != 0 || self.major != 0
    }
}

/// One address space's statements.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its process.
    pub pid: u32,
    /// First statement's opening.
    pub opening: Pages,
    /// Last statement's closing.
    pub closing: Pages,
    /// Σ unexplained.
    pub unexplained: Pages,
    /// Statements.
    pub statements: usize,
}

/// All books of a session, kept from its lines.
#[derive(Debug, Default)]
pub struct Books {
    /// Every entry of every statement.
    pub entries: Vec<Entry>,
    /// By address space.
    pub accounts: BTreeMap<String, Account>,
    /// Every call stack, by number.
    pub stacks: BTreeMap<u64, Stack>,
    /// Largest `lost.total` seen.
    pub lost: i64,
    /// Statements with something unexplained, in short.
    pub unexplained: Vec<String>,
    /// What the spans that were told did themselves, by kind, process and thread.
    pub spans: BTreeMap<(String, i64, i64), Pages>,
    ended: Option<Pages>,
    audits: Vec<String>,
}

impl Books {
    /// Takes a line in; lines that are no statements pass.
    ///
    /// # Errors
    /// The line breaks the law or the contract.
    pub fn enter(&mut self, line: &Value) -> Result<()> {
        let kind = line["type"].as_str().ok_or_else(|| anyhow!("no type"))?;
        ensure!(self.ended.is_none(), "a line after end");
        ensure!(line["ts_ns"].is_u64() && line["time"].is_string(), "no ts_ns or no time");
        match kind {
            "statement" => self.enter_statement(line),
            "stack" => {
                let (id, stack) = Stack::read(line)?;
                ensure!(self.stacks.insert(id, stack).is_none(), "stack {id} is told twice");
                Ok(())
            }
            "span" => self.enter_span(line),
            "spans" => self.enter_spans(line),
            "mapping" => self.known(&line["stack_id"]).map(drop),
            "closing" => self.enter_closing(line),
            "end" => self.enter_end(line),
            "audit" => {
                if line["quiet"] == true && pages(&line["difference"])? != Pages::ZERO {
                    self.audits.push(line["difference"].to_string());
                }
                Ok(())
            }
            "loss" => {
                self.note_lost(line);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The number of a stack that was told before.
    fn known(&self, id: &Value) -> Result<Option<u64>> {
        let Some(id) = id.as_u64() else {
            return Ok(None);
        };
        ensure!(self.stacks.contains_key(&id), "stack {id} was not told before");
        Ok(Some(id))
    }

    /// An entry's call stack.
    #[must_use]
    pub fn stack(&self, entry: &Entry) -> Option<&Stack> {
        self.stacks.get(&entry.stack?)
    }

    fn note_lost(&mut self, line: &Value) {
        let lost = &line["lost"];
        self.lost = self.lost.max(lost["total"].as_i64().or_else(|| lost.as_i64()).unwrap_or(i64::MAX));
    }

    fn enter_statement(&mut self, line: &Value) -> Result<()> {
        self.note_lost(line);
        let (opening, closing) = (level(&line["opening"])?, level(&line["closing"])?);
        let unexplained = pages(&line["unexplained"])?;
        let pid = u32::try_from(line["pid"].as_u64().context("pid")?)?;
        let mm = line["mm"].to_string();
        let entries = line["entries"].as_array().context("entries")?;
        let entries: Vec<Entry> = entries.iter().map(|value| entry(value, pid, &mm)).collect::<Result<_>>()?;
        for value in line["entries"].as_array().into_iter().flatten() {
            self.known(&value["stack_id"])?;
        }
        let told: Pages = entries.iter().map(|entry| entry.delta).sum();
        balance("statement", opening, closing, told, unexplained)?;
        if unexplained != Pages::ZERO {
            self.unexplained.push(format!("pid {pid} at {}: {unexplained}", line["time"]));
        }
        let account = self.accounts.entry(mm.clone()).or_insert(Account {
            pid,
            opening,
            closing: opening,
            unexplained: Pages::ZERO,
            statements: 0,
        });
        ensure!(
            account.closing == opening,
            "a gap between statements of mm {mm}: closed with {}, opens with {opening}",
            account.closing
        );
        account.closing = closing;
        account.unexplained += unexplained;
        account.statements += 1;
        self.entries.extend(entries);
        Ok(())
    }

    fn enter_span(&mut self, line: &Value) -> Result<()> {
        let own = pages(&line["own"]["delta"])?;
        balance("span", level(&line["opening"])?, level(&line["closing"])?, own, pages(&line["others"])?)?;
        *self.spans.entry(thread_of_spans(line)?).or_default() += own;
        Ok(())
    }

    /// Within and between are what was booked, and within is what the spans told.
    fn enter_spans(&self, line: &Value) -> Result<()> {
        let mut within = BTreeMap::<_, Pages>::new();
        for row in line["by_thread"].as_array().context("by_thread")? {
            let (inside, outside) = (pages(&row["within"]["delta"])?, pages(&row["between"]["delta"])?);
            balance("a thread's spans", Pages::ZERO, pages(&row["booked"])?, inside, outside)?;
            if row["folded"] == 0 {
                *within.entry(thread_of_spans(row)?).or_default() += inside;
            }
        }
        for (thread, inside) in within {
            let told = self.spans.get(&thread).copied().unwrap_or(Pages::ZERO);
            ensure!(told == inside, "spans of {thread:?}: {told} were told, {inside} is their sum");
        }
        Ok(())
    }

    fn by_cause(&self, mm: Option<&str>) -> BTreeMap<String, (Pages, i64)> {
        let mut sums = BTreeMap::<String, (Pages, i64)>::new();
        for entry in self.entries.iter().filter(|entry| mm.is_none_or(|mm| entry.mm == mm)) {
            let sum = sums.entry(entry.cause.clone()).or_default();
            sum.0 += entry.delta;
            sum.1 += entry.minor + entry.major;
        }
        sums.retain(|_, sum| *sum != (Pages::ZERO, 0));
        sums
    }

    fn sums_agree(&self, line: &Value, mm: Option<&str>) -> Result<Pages> {
        let (opening, closing) = (level(&line["opening"])?, level(&line["closing"])?);
        let unexplained = pages(&line["unexplained"])?;
        let mut theirs = BTreeMap::new();
        for (cause, sum) in line["by_cause"].as_object().context("by_cause")? {
            let faults = &sum["faults"];
            let faults = faults["minor"].as_i64().unwrap_or(0) + faults["major"].as_i64().unwrap_or(0);
            theirs.insert(cause.clone(), (pages(sum)?, faults));
        }
        theirs.retain(|_, sum| *sum != (Pages::ZERO, 0));
        let told: Pages = theirs.values().map(|(delta, _)| *delta).sum();
        balance("by_cause", opening, closing, told, unexplained)?;
        let mapped: Pages = line["by_mapping"]
            .as_array()
            .context("by_mapping")?
            .iter()
            .map(|sum| pages(&sum["delta"]))
            .sum::<Result<Pages>>()?;
        balance("by_mapping", opening, closing, mapped, unexplained)?;
        let ours = self.by_cause(mm);
        ensure!(ours == theirs, "by_cause is not the sum of the statements: {theirs:?} against {ours:?}");
        Ok(closing)
    }

    fn enter_closing(&mut self, line: &Value) -> Result<()> {
        let mm = line["mm"].to_string();
        let closing = self.sums_agree(line, Some(&mm))?;
        if let Some(account) = self.accounts.get(&mm) {
            ensure!(account.closing == closing, "closing says {closing}, the last statement {}", account.closing);
        }
        Ok(())
    }

    fn enter_end(&mut self, line: &Value) -> Result<()> {
        self.note_lost(line);
        let closing = self.sums_agree(line, None)?;
        self.ended = Some(closing);
        Ok(())
    }

    /// Nothing unexplained, nothing lost, no audit that differs, and an end.
    ///
    /// # Errors
    /// Which of these does not hold.
    pub fn assert_closed(&self) -> Result<()> {
        ensure!(self.ended.is_some(), "the books have no end");
        ensure!(self.unexplained.is_empty(), "unexplained: {}", self.unexplained.join("; "));
        ensure!(self.lost == 0, "lost: {}", self.lost);
        ensure!(self.audits.is_empty(), "the counters differ from /proc in a quiet moment: {}", self.audits.join("; "));
        Ok(())
    }

    /// What `end` closed with.
    ///
    /// # Errors
    /// There was none.
    pub fn closing(&self) -> Result<Pages> {
        self.ended.context("the books have no end")
    }

    /// Entries of these books that were chosen, added up: amounts, minor and major faults.
    pub fn sum(&self, chosen: impl Fn(&Entry) -> bool) -> (Pages, i64, i64) {
        self.entries.iter().filter(|entry| chosen(entry)).fold((Pages::ZERO, 0, 0), |(delta, minor, major), entry| {
            (delta + entry.delta, minor + entry.minor, major + entry.major)
        })
    }

    /// The causes seen, each with its sum: for messages.
    #[must_use]
    pub fn summary(&self) -> String {
        self.by_cause(None)
            .iter()
            .map(|(cause, (delta, faults))| format!("{cause}: {delta}, {faults} faults"))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

fn thread_of_spans(line: &Value) -> Result<(String, i64, i64)> {
    let name = line["name"].as_str().context("name")?.to_owned();
    Ok((name, line["pid"].as_i64().context("pid")?, line["tid"].as_i64().context("tid")?))
}

fn balance(what: &str, opening: Pages, closing: Pages, told: Pages, unexplained: Pages) -> Result<()> {
    for (((class, opening), (_, closing)), ((_, told), (_, unexplained))) in
        opening.classes().into_iter().zip(closing.classes()).zip(told.classes().into_iter().zip(unexplained.classes()))
    {
        if closing - opening != told + unexplained {
            bail!("{what} does not balance: {class} {closing} − {opening} ≠ {told} + {unexplained} pages");
        }
    }
    Ok(())
}

/// `{anon, file, shmem, swap}` in bytes.
///
/// # Errors
/// It is something else.
pub fn pages(value: &Value) -> Result<Pages> {
    let class = |name: &str| value[name].as_i64().with_context(|| format!("no {name} in {value:.200}"));
    Pages::from_bytes(class("anon")?, class("file")?, class("shmem")?, class("swap")?)
        .with_context(|| format!("not whole pages: {value:.200}"))
}

/// The same with `res`, which must be the sum of its classes.
fn level(value: &Value) -> Result<Pages> {
    let amounts = pages(value)?;
    let res = (amounts.anon + amounts.file + amounts.shmem) * crate::pages::page_size() as i64;
    ensure!(value["res"].as_i64() == Some(res), "res is not anon + file + shmem: {value:.200}");
    Ok(amounts)
}

/// An address of the contract: a hexadecimal string.
///
/// # Errors
/// It is none.
pub fn address(value: &Value) -> Result<u64> {
    let text =
        value.as_str().and_then(|text| text.strip_prefix("0x")).with_context(|| format!("no address: {value}"))?;
    Ok(u64::from_str_radix(text, 16)?)
}

fn entry(value: &Value, pid: u32, mm: &str) -> Result<Entry> {
    let mapping = &value["mapping"];
    let range = if mapping.is_null() { None } else { Some((address(&mapping["start"])?, address(&mapping["end"])?)) };
    Ok(Entry {
        pid,
        mm: mm.to_owned(),
        cause: value["cause"].as_str().context("cause")?.to_owned(),
        delta: pages(&value["delta"])?,
        minor: value["faults"]["minor"].as_i64().context("faults.minor")?,
        major: value["faults"]["major"].as_i64().context("faults.major")?,
        range,
        kind: mapping["kind"].as_str().unwrap_or_default().to_owned(),
        tid: value["tid"].as_i64().context("tid")?,
        stack: value["stack_id"].as_u64(),
        text: value.to_string(),
    })
}
