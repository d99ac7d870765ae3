//! A program that does one thing to its memory and says exactly what it did.
//!
//! `workload NAME [--dir DIR] [--cgroup DIR] [--swap FILE] [--seconds N]`. One line `{"ready":true,…}` when everything
//! is prepared, then one byte on stdin is awaited; the thing is done; one line `{"done":true,…}` says what it
//! was, after it was held against the process's own `/proc/self/status` and `getrusage`; another byte is awaited
//! before the exit. `workload --list` names them all. It refuses to report a truth that the kernel contradicts: exit 1.

mod burst;
mod children;
mod fault;
mod file;
mod helper;
mod kinds;
mod odd;
mod others;
mod page_cache;
mod posts;
mod reclaim;
mod region;
mod sharing;
mod shrink;
mod sights;
mod spans;
mod stage;
mod stalls;
mod storm;
mod times;
mod uffd;

use stage::Stage;
use std::process::ExitCode;

type Scene = fn(&mut Stage);

const ROOMS: &[&[(&str, Scene)]] = &[
    fault::SCENES,
    file::SCENES,
    shrink::SCENES,
    others::SCENES,
    reclaim::SCENES,
    children::SCENES,
    storm::SCENES,
    burst::SCENES,
    kinds::SCENES,
    sights::SCENES,
    page_cache::SCENES,
    sharing::SCENES,
    times::SCENES,
    odd::SCENES,
    spans::SCENES,
];

/// Far beyond what any test plays for.
const LIFETIME_SECONDS: u32 = 1800;

fn scenes() -> impl Iterator<Item = &'static (&'static str, Scene)> {
    ROOMS.iter().chain(stalls::ROOMS).copied().flatten()
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        eprintln!("usage: workload NAME [--dir DIR] [--cgroup DIR] [--swap FILE] [--seconds N] | workload --list");
        return ExitCode::from(2);
    };
    match name.as_str() {
        "--list" => {
            for (name, _) in scenes() {
                println!("{name}");
            }
            return ExitCode::SUCCESS;
        }
        "helper" => {
            helper::serve(arguments.next().as_deref());
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    // Whoever started it may be gone, and a child of it may wait for what never comes: in the end it ends itself.
    // SAFETY: no memory is involved.
    unsafe { libc::alarm(LIFETIME_SECONDS) };
    let Some((_, scene)) = scenes().find(|(known, _)| *known == name) else {
        eprintln!("workload: no scene is named {name}; see --list");
        return ExitCode::from(2);
    };
    let mut stage = match Stage::new(&name, arguments) {
        Ok(stage) => stage,
        Err(error) => {
            eprintln!("workload: {error}");
            return ExitCode::from(2);
        }
    };
    scene(&mut stage);
    stage.verdict()
}
