//! A whole `memtrace snapshot` beside `pmap -XX` and `smem`, as programs, of the same process and in turns: median wall
//! time of each and the ratio to memtrace's. The three must find the same sums.
//!
//! The process is this program again, with 1,000, 10,000 and 60,000 mappings of one touched page each. A peer that is not
//! installed is left out, and said to be.

mod common;

use common::Mappings;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Present in the target's environment only: how many mappings it is to have.
const TARGET: &str = "MEMTRACE_BENCH_MAPPINGS";

/// Kills and reaps the target.
struct Target(Child);

impl Target {
    fn start(count: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a program"));
        command
            .arg("memtrace-bench-target")
            .env(TARGET, count.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut target = Self(command.spawn().expect("starts itself"));
        let mut line = String::new();
        BufReader::new(target.0.stdout.as_mut().expect("piped")).read_line(&mut line).expect("it answers");
        assert_eq!(line, "ready\n");
        target
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn be_target(count: usize) {
    let _mappings = Mappings::new(count);
    println!("ready");
    std::io::stdout().flush().expect("somebody listens");
    let _ = std::io::stdin().read(&mut [0]);
}

/// One of the programs, and how to find kB of Rss, Pss and USS in what it prints; not every one prints all.
struct Peer {
    name: &'static str,
    command: fn(u32) -> Command,
    sums: fn(&str) -> Option<Sums>,
}

/// kB.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    rss: u64,
    pss: u64,
    uss: u64,
}

const PEERS: [Peer; 3] = [
    Peer { name: "memtrace snapshot --json", command: memtrace, sums: sums_of_memtrace },
    Peer { name: "pmap -XX", command: pmap, sums: sums_of_pmap },
    Peer { name: "smem", command: smem, sums: sums_of_smem },
];

fn memtrace(pid: u32) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memtrace"));
    command.args(["snapshot", "--full", "--json", "--pid", &pid.to_string()]);
    command
}

fn sums_of_memtrace(output: &str) -> Option<Sums> {
    let process: Value = serde_json::from_str(output.lines().next()?).ok()?;
    let kilobytes = |field: &str| Some(process[field].as_u64()? >> 10);
    Some(Sums { rss: kilobytes("res")?, pss: kilobytes("pss")?, uss: kilobytes("uss")? })
}

fn pmap(pid: u32) -> Command {
    let mut command = Command::new("pmap");
    command.args(["-XX", &pid.to_string()]);
    command
}

/// The second line has the names of the columns, the last one of numbers their sums, without the address, permissions,
/// offset, device and inode that are before them.
fn sums_of_pmap(output: &str) -> Option<Sums> {
    let names: Vec<&str> = output.lines().nth(1)?.split_whitespace().skip(5).collect();
    let last = output.lines().rev().find(|line| line.trim_start().starts_with(|first: char| first.is_ascii_digit()))?;
    let totals: Vec<u64> = last.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let of = |name: &str| totals.get(names.iter().position(|known| *known == name)?).copied();
    Some(Sums { rss: of("Rss")?, pss: of("Pss")?, uss: of("Private_Clean")? + of("Private_Dirty")? })
}

/// It finds processes by a pattern of their command line only, and is one itself: the bracket is in its own.
fn smem(_: u32) -> Command {
    let mut command = Command::new("smem");
    command.args(["-H", "-c", "pid rss pss uss", "-P", "memtrace-bench-targe[t]"]);
    command
}

fn sums_of_smem(output: &str) -> Option<Sums> {
    let mut numbers = output.lines().next()?.split_whitespace().map_while(|word| word.parse().ok()).skip(1);
    Some(Sums { rss: numbers.next()?, pss: numbers.next()?, uss: numbers.next()? })
}

/// Runs it, its output read as it comes; `None` when it is not installed.
fn run(peer: &Peer, pid: u32) -> Option<(Duration, String)> {
    let begin = Instant::now();
    let output = (peer.command)(pid).stderr(Stdio::null()).output().ok()?;
    let took = begin.elapsed();
    assert!(output.status.success(), "{} ended with {}", peer.name, output.status);
    Some((took, String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Pages of libraries are shared with whoever runs at the moment, the program that looks among them: within 1 %.
fn assert_alike(one: Sums, other: Sums, name: &str) {
    assert_eq!(one.rss, other.rss, "Rss: memtrace and {name}");
    for (one, other) in [(one.pss, other.pss), (one.uss, other.uss)] {
        assert!(one.abs_diff(other) <= other / 100 + 4096, "memtrace {one} kB, {name} {other} kB");
    }
}

fn main() {
    if let Some(count) = std::env::var(TARGET).ok().and_then(|count| count.parse().ok()) {
        return be_target(count);
    }
    // `cargo test --benches`: once, to see that it works.
    let (counts, rounds): (&[usize], usize) = if std::env::args().any(|argument| argument == "--bench") {
        (&[1_000, 10_000, 60_000], 7)
    } else {
        (&[1_000], 1)
    };
    println!("{:>9}  {:<26} {:>10}  ratio", "mappings", "program", "median ms");
    for &count in counts {
        let target = Target::start(count);
        let mut times: [Vec<Duration>; PEERS.len()] = Default::default();
        let mut sums = [None; PEERS.len()];
        for _ in 0..rounds {
            for (index, peer) in PEERS.iter().enumerate() {
                let Some((took, output)) = run(peer, target.0.id()) else { continue };
                times[index].push(took);
                sums[index] = Some((peer.sums)(&output).unwrap_or_else(|| panic!("{} prints no sums", peer.name)));
            }
        }
        let ours = sums[0].expect("memtrace is built");
        let median = |times: &mut Vec<Duration>| {
            times.sort_unstable();
            times.get(times.len() / 2).map(Duration::as_secs_f64)
        };
        let base = median(&mut times[0]).expect("memtrace was run");
        for ((peer, times), sums) in PEERS.iter().zip(&mut times).zip(sums) {
            match (median(times), sums) {
                (Some(took), Some(sums)) => {
                    assert_alike(ours, sums, peer.name);
                    println!("{count:>9}  {:<26} {:>10.2}  {:.1}", peer.name, took * 1e3, took / base);
                }
                _ => println!("{count:>9}  {:<26} not installed", peer.name),
            }
        }
    }
}
