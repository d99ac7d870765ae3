//! Page frames of processes, counted one by one with a set of numbers: what a group is held against. The simplest code
//! that can, and none of memtrace's: what counts is what kpagecount and kpageflags say of each frame.

use crate::pages::page_size;
use crate::smaps;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// How often each frame is mapped by one process.
pub type Frames = BTreeMap<u64, u64>;

const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;
const ZERO_PAGE: u64 = 1 << 24;

/// The frames that a stopped process maps and its RSS counts. They are held against `VmRSS`.
///
/// # Errors
/// We are not root, or they do not add up to its RSS.
pub fn frames(pid: u32) -> Result<Frames> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    let flags = File::open("/proc/kpageflags")?;
    let mut frames = Frames::new();
    for area in smaps::smaps(pid)?.iter().filter(|area| area.start >> 63 == 0) {
        let pages = ((area.end - area.start) as usize) / page_size();
        let mut entries = vec![0; pages * 8];
        pagemap.read_exact_at(&mut entries, area.start / page_size() as u64 * 8)?;
        for entry in entries.chunks_exact(8).map(word) {
            let frame = entry & FRAME;
            ensure!(entry & PRESENT == 0 || frame != 0, "page frames are hidden: not root");
            // Memory of devices, and of the kernel itself, is not mapped in this sense.
            if entry & PRESENT != 0 && count(frame)? > 0 && read_word(&flags, frame)? & ZERO_PAGE == 0 {
                *frames.entry(frame).or_default() += 1;
            }
        }
    }
    let (counted, rss) = (frames.values().sum::<u64>() * page_size() as u64, smaps::status(pid)?["VmRSS"]);
    ensure!(counted == rss, "{counted} bytes of {pid} are mapped by page; its RSS is {rss}");
    Ok(frames)
}

/// How often a frame is mapped, by everyone.
///
/// # Errors
/// We are not root.
pub fn count(frame: u64) -> Result<u64> {
    thread_local! {
        static COUNTS: Option<File> = File::open("/proc/kpagecount").ok();
    }
    COUNTS.with(|file| read_word(file.as_ref().context("/proc/kpagecount cannot be opened")?, frame))
}

/// Of a frame of no RAM there is nothing to read.
fn read_word(file: &File, frame: u64) -> Result<u64> {
    let mut bytes = [0; 8];
    Ok(if file.read_at(&mut bytes, frame * 8)? == 8 { word(&bytes) } else { 0 })
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_ne_bytes)
}
