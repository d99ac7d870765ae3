//! `/proc/PID/smaps`, `smaps_rollup` and `status` read again, by the simplest code that can: what a snapshot is held
//! against. It shares nothing with memtrace.

use anyhow::{Context, Result};
use std::collections::BTreeMap;

/// Named amounts, bytes.
pub type Amounts = BTreeMap<String, u64>;

/// A mapping's lines.
#[derive(Clone, Debug)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// As printed, `rw-p`.
    pub permissions: String,
    /// As printed; bytes that are not UTF-8 replaced.
    pub name: String,
    /// Every line of `Key: N kB`.
    pub amounts: Amounts,
    /// `VmFlags`.
    pub flags: Vec<String>,
}

impl Area {
    /// An amount; 0 for a line that this kernel does not print.
    #[must_use]
    pub fn get(&self, key: &str) -> u64 {
        self.amounts.get(key).copied().unwrap_or_default()
    }
}

/// Every mapping.
///
/// # Errors
/// It cannot be read.
pub fn smaps(pid: u32) -> Result<Vec<Area>> {
    let mut areas: Vec<Area> = Vec::new();
    for line in read(pid, "smaps")?.lines() {
        if let Some(area) = header(line) {
            areas.push(area);
        } else if let (Some(area), Some((key, value))) = (areas.last_mut(), line.split_once(':')) {
            match kilobytes(value) {
                Some(bytes) => drop(area.amounts.insert(key.to_owned(), bytes)),
                None if key == "VmFlags" => area.flags = value.split_whitespace().map(str::to_owned).collect(),
                None => {}
            }
        }
    }
    Ok(areas)
}

/// The process in one.
///
/// # Errors
/// It cannot be read.
pub fn rollup(pid: u32) -> Result<Amounts> {
    Ok(amounts(&read(pid, "smaps_rollup")?))
}

/// The counters.
///
/// # Errors
/// It cannot be read.
pub fn status(pid: u32) -> Result<Amounts> {
    Ok(amounts(&read(pid, "status")?))
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    Ok(String::from_utf8_lossy(&std::fs::read(&path).with_context(|| format!("failed to read {path}"))?).into_owned())
}

fn amounts(text: &str) -> Amounts {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(key, value)| Some((key.to_owned(), kilobytes(value)?)))
        .collect()
}

fn kilobytes(value: &str) -> Option<u64> {
    Some(value.strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

/// `55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0    [heap]`.
fn header(line: &str) -> Option<Area> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    Some(Area {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        permissions: words.next()?.to_owned(),
        name: words.nth(3)?.trim_start().to_owned(),
        amounts: Amounts::new(),
        flags: Vec::new(),
    })
}
