//! The trials: types, tracefs, each probe on its hook, and the kernel's services that a session lives on.

use super::{Blame, Check, selftest};
use crate::hints::Failure;
use crate::live::btf::{self, Types};
use crate::live::hooks::HOOKS;
use crate::live::probes::{Options, Probes, Sizes, kernel_btf};
use crate::live::{batch, layout, observer::Observer, own};
use aya::Btf;
use memtrace_common::{KernelLayout, RecordKey, RecordValue};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

const TYPES: &str = "kernel types";
const PROBES: &str = "probes";
const SERVICES: &str = "services";
/// The task iterator, the ring and the counters are tried together, on a process of our own.
pub(super) const BOOKS: &str = "books";

/// Where tracefs may be, the usual place first.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Tries everything that a session needs. `ids_agree`: the probes see processes under the ids that we see.
pub(super) fn try_all(checks: &mut Vec<Check>, ids_agree: bool) {
    let layout = types(checks);
    checks.push(tracefs());
    let probes = layout.and_then(|layout| open(layout, checks));
    let probes = match probes {
        Some((probes, btf)) => hang_up(probes, &btf, checks),
        None => {
            checks.extend(HOOKS.iter().map(|hook| Check::untried(PROBES, hook.to_string())));
            None
        }
    };
    checks.push(membarrier());
    let Some(probes) = probes else {
        checks.extend(["batch map operation", "run-time statistics"].map(|name| Check::untried(SERVICES, name)));
        checks.extend(selftest::NAMES.map(|name| Check::untried(BOOKS, name)));
        return;
    };
    checks.push(batch_operation(&probes));
    checks.push(statistics());
    match Observer::with(probes, false) {
        Ok(_) if !ids_agree => checks.extend(selftest::NAMES.map(|name| Check::untried(BOOKS, name))),
        Ok(observer) => selftest::run(observer, checks),
        Err(error) => checks.push(Check::refused(BOOKS, selftest::NAMES[0], error)),
    }
}

/// Every type, field and tracepoint that the probes read. The layout when nothing is missing.
fn types(checks: &mut Vec<Check>) -> Option<KernelLayout> {
    let types = match Types::read() {
        Ok(types) => types,
        Err(error) => {
            checks.push(Check::refused(TYPES, "BTF", error.into()));
            return None;
        }
    };
    checks.push(Check::ok(TYPES, "BTF", btf::PATH));
    for (name, wanted) in layout::NEEDED {
        checks.push(match layout::check_tracepoint(&types, name, *wanted) {
            Ok(()) => Check::ok(TYPES, *name, format!("{wanted} {}", if *wanted == 1 { "argument" } else { "arguments" })),
            Err(btf::BtfError::Shape { found: 3, .. }) if *name == "rss_stat" => Check::failed(
                TYPES,
                *name,
                Blame::Kernel,
                "3 arguments: this kernel counts in batches per thread (5.5 to 6.1), and its books cannot be kept exactly",
            )
            .advise("boot Linux 6.2 or later")
            .advise("memtrace --no-bpf --pid N        how RES changes, without the causes"),
            Err(error) => Check::refused(TYPES, *name, error.into()),
        });
    }
    let missing: Vec<Check> = layout::FIELDS
        .iter()
        .filter_map(|(name, path)| {
            let error = types.offset(name, path).err()?;
            Some(Check::refused(TYPES, format!("{name}.{path}"), error.into()))
        })
        .collect();
    if missing.is_empty() {
        let structs: BTreeSet<&str> = layout::FIELDS.iter().map(|(name, _)| *name).collect();
        let detail = format!("{} in {} structs, all found", layout::FIELDS.len(), structs.len());
        checks.push(Check::ok(TYPES, "fields", detail));
    }
    checks.extend(missing);
    match layout::find(&types) {
        Ok(layout) => Some(layout),
        // A tracepoint or a field: named above. What is neither is named here.
        Err(error) => {
            if !checks.iter().any(|check| check.group == TYPES && check.blame.is_some()) {
                checks.push(Check::refused(TYPES, "layout", error.into()));
            }
            None
        }
    }
}

/// The returns of mapping calls hang on classic tracepoints, whose numbers are files in tracefs.
fn tracefs() -> Check {
    const NAME: &str = "tracefs";
    let mut refusal = None;
    for place in TRACEFS {
        match Path::new(place).join("events/syscalls/sys_exit_mmap/id").metadata() {
            Ok(_) => return Check::ok(PROBES, NAME, place),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => refusal = refusal.or(Some((place, error))),
            Err(_) => {}
        }
    }
    if let Some((place, error)) = refusal {
        let failure = Failure::NotPermitted { what: format!("read {place}"), capability: "CAP_DAC_READ_SEARCH" };
        return Check::refused(PROBES, NAME, anyhow::Error::from(error).context(failure));
    }
    match TRACEFS.iter().find(|place| Path::new(place).join("events").exists()) {
        Some(place) => Check::failed(
            PROBES,
            NAME,
            Blame::Kernel,
            format!("{place} has no events/syscalls: this kernel does not trace system calls"),
        )
        .advise("boot a kernel with CONFIG_FTRACE_SYSCALLS=y"),
        None => Check::refused(PROBES, NAME, Failure::NoTracefs.into()),
    }
}

/// The maps, with nothing hung up yet.
fn open(layout: KernelLayout, checks: &mut Vec<Check>) -> Option<(Probes, Btf)> {
    const NAME: &str = "maps and ring buffer";
    let options = Options::of(false, true, true, true);
    match kernel_btf().and_then(|btf| Ok((Probes::open(options, layout, &btf)?, btf))) {
        Ok(opened) => {
            let Sizes { ring_bytes, copies_bytes, .. } = options.sizes;
            let detail = format!("rings of {} and {} MiB and the tables", ring_bytes >> 20, copies_bytes >> 20);
            checks.push(Check::ok(PROBES, NAME, detail));
            Some(opened)
        }
        Err(error) => {
            checks.push(Check::refused(PROBES, NAME, error));
            None
        }
    }
}

/// Each program on its hook, one by one. The probes when none that is needed was refused.
fn hang_up(mut probes: Probes, btf: &Btf, checks: &mut Vec<Check>) -> Option<Probes> {
    let mut complete = true;
    for hook in HOOKS {
        checks.push(match probes.hang(hook, btf) {
            Ok(()) => Check::ok(PROBES, hook.to_string(), hook.tells),
            Err(error) if hook.needed && !hook.time => {
                complete = false;
                Check::refused(PROBES, hook.to_string(), error)
            }
            Err(error) => {
                let detail = format!("refused: {}; not known without it: {}", error.root_cause(), hook.tells);
                Check::limited(PROBES, hook.to_string(), detail)
            }
        });
    }
    complete.then_some(probes)
}

fn membarrier() -> Check {
    match own::membarrier() {
        Ok(()) => Check::ok(SERVICES, "membarrier", "to wait for running probes when an interval ends"),
        Err(error) => {
            Check::limited(SERVICES, "membarrier", format!("refused: {error}; each interval ends with a wait of 5 ms"))
        }
    }
}

fn batch_operation(probes: &Probes) -> Check {
    const NAME: &str = "batch map operation";
    let drained = probes.records.iter().try_for_each(|map| batch::drain::<RecordKey, RecordValue>(map, |_, _| {}));
    match drained {
        Ok(()) => Check::ok(SERVICES, NAME, "to drain an interval's records at once"),
        Err(error) => Check::refused(SERVICES, NAME, anyhow::Error::from(error).context("failed to drain a BPF map")),
    }
}

fn statistics() -> Check {
    const NAME: &str = "run-time statistics";
    match aya::sys::enable_stats(aya::sys::Stats::RunTime) {
        Ok(_) => Check::ok(SERVICES, NAME, "to measure what the probes cost"),
        Err(error) => {
            let error = anyhow::Error::from(error);
            let detail = format!("refused: {}; what the probes cost is not measured", error.root_cause());
            Check::limited(SERVICES, NAME, detail)
        }
    }
}
