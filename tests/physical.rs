//! Several processes by physical page, counted by the test itself: pagemap entry by entry, kpagecount in one piece.
//! Slow and simple; shares nothing with memtrace.

use crate::pages::page_size;
use crate::smaps::{self, Area};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Of several processes that stand still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Σ RES.
    pub sum_res: u64,
    /// Distinct pages.
    pub res: u64,
    /// Distinct pages that nobody else maps.
    pub uss: u64,
    /// For each process the pages that another one of them maps too.
    pub shared_with_group: Vec<u64>,
    /// For each two processes, by their place, the pages that both map; 0 left out.
    pub pairs: Vec<(usize, usize, u64)>,
}

/// Counts.
///
/// # Errors
/// Something cannot be read, or pagemap and smaps disagree.
pub fn count(pids: &[u32]) -> Result<Counted> {
    let mut pages: Vec<(u64, usize)> = Vec::new();
    for (place, &pid) in pids.iter().enumerate() {
        for area in smaps::smaps(pid)? {
            pages.extend(frames(pid, &area)?.into_iter().map(|frame| (frame, place)));
        }
    }
    pages.sort_unstable();
    let everyone = std::fs::read("/proc/kpagecount").context("kpagecount")?;
    let mapped = |frame: u64| {
        let bytes = everyone.get(frame as usize * 8..)?.first_chunk::<8>()?;
        Some(u64::from_le_bytes(*bytes))
    };
    let page = page_size() as u64;
    let (mut res, mut uss) = (0, 0);
    let mut shared_with_group = vec![0; pids.len()];
    let mut pairs = vec![vec![0; pids.len()]; pids.len()];
    for group in pages.chunk_by(|one, other| one.0 == other.0) {
        let mut members: Vec<usize> = group.iter().map(|(_, place)| *place).collect();
        members.dedup();
        res += page;
        if mapped(group[0].0).context("a frame beyond kpagecount")? <= group.len() as u64 {
            uss += page;
        }
        if let [_, _, ..] = members.as_slice() {
            for (index, &one) in members.iter().enumerate() {
                shared_with_group[one] += page;
                for &other in &members[index + 1..] {
                    pairs[one][other] += page;
                }
            }
        }
    }
    let listed = (0..pids.len()).flat_map(|one| (one + 1..pids.len()).map(move |other| (one, other)));
    let pairs = listed.map(|(one, other)| (one, other, pairs[one][other])).filter(|pair| pair.2 > 0).collect();
    Ok(Counted { sum_res: pages.len() as u64 * page, res, uss, shared_with_group, pairs })
}

/// Distinct bytes in memory of those mappings of several processes that are of this file or segment.
///
/// # Errors
/// Something cannot be read.
pub fn distinct(pids: &[u32], name: &str) -> Result<u64> {
    let mut pages = Vec::new();
    for &pid in pids {
        for area in smaps::smaps(pid)?.iter().filter(|area| area.name == name) {
            pages.extend(frames(pid, area)?);
        }
    }
    pages.sort_unstable();
    pages.dedup();
    Ok((pages.len() * page_size()) as u64)
}

/// The page frames of a mapping, each as often as it is mapped there: what `Rss` counts.
fn frames(pid: u32, area: &Area) -> Result<Vec<u64>> {
    // A reservation of terabytes has as many entries; what has nothing resident is not read.
    if area.get("Rss") == 0 {
        return Ok(Vec::new());
    }
    let page = page_size() as u64;
    let mut entries = vec![0_u8; ((area.end - area.start) / page * 8) as usize];
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    pagemap.read_exact_at(&mut entries, area.start / page * 8).context("pagemap")?;
    let mut frames: Vec<u64> = entries
        .chunks_exact(8)
        .map(|entry| {
            u64::from_le_bytes([entry[0], entry[1], entry[2], entry[3], entry[4], entry[5], entry[6], entry[7]])
        })
        .filter(|entry| entry >> 63 == 1)
        .map(|entry| entry & ((1 << 55) - 1))
        .collect();
    ensure!(!frames.contains(&0), "pagemap shows no page frames; are we root?");
    if frames.len() as u64 * page != area.get("Rss") {
        let flags = File::open("/proc/kpageflags")?;
        // KPF_ZERO_PAGE: mapped for reading what was never written, counted nowhere.
        frames.retain(|frame| {
            let mut word = [0_u8; 8];
            flags.read_exact_at(&mut word, frame * 8).is_ok() && u64::from_le_bytes(word) >> 24 & 1 == 0
        });
    }
    ensure!(
        frames.len() as u64 * page == area.get("Rss"),
        "{pid}: pagemap has {} pages at {:x}, smaps {} bytes",
        frames.len(),
        area.start,
        area.get("Rss")
    );
    Ok(frames)
}
