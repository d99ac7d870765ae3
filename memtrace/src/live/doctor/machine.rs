//! What the machine says of itself: kernel, namespaces, rights and switches. These explain refusals, they are none;
//! whether something is refused is for the trials to find out.

use super::{Blame, Check};
use crate::live::namespace;
use crate::live::rights::{self, bit};
use std::fs;

const MACHINE: &str = "machine";
const RIGHTS: &str = "rights";
/// Name of the check whose failure means that the probes cannot find our processes.
pub(super) const PID_NAMESPACE: &str = "PID namespace";

/// A capability, by its bit in `CapEff`.
struct Capability {
    name: &'static str,
    bit: u32,
    /// What it is for.
    purpose: &'static str,
    /// CAP_SYS_ADMIN includes it.
    or_admin: bool,
    /// Something is less without it.
    matters: bool,
}

const CAPABILITIES: &[Capability] = &[
    Capability { name: "CAP_BPF", bit: bit::BPF, purpose: "to load probes", or_admin: true, matters: true },
    Capability {
        name: "CAP_PERFMON",
        bit: bit::PERFMON,
        purpose: "to hang probes on tracepoints",
        or_admin: true,
        matters: true,
    },
    Capability {
        name: "CAP_SYS_PTRACE",
        bit: bit::SYS_PTRACE,
        purpose: "to read maps and smaps of other users' processes",
        or_admin: false,
        matters: true,
    },
    Capability {
        name: "CAP_DAC_READ_SEARCH",
        bit: bit::DAC_READ_SEARCH,
        purpose: "to look into tracefs, which is root's",
        or_admin: false,
        matters: true,
    },
    Capability {
        name: "CAP_SYS_RESOURCE",
        bit: bit::SYS_RESOURCE,
        purpose: "to raise RLIMIT_MEMLOCK, which only kernels before 5.11 count",
        or_admin: false,
        matters: false,
    },
    Capability {
        name: "CAP_SYS_ADMIN",
        bit: bit::SYS_ADMIN,
        purpose: "to measure what the probes cost",
        or_admin: false,
        matters: true,
    },
];

/// The machine and our rights on it.
pub(super) fn look(kernel: &str) -> Vec<Check> {
    let mut checks = vec![kernel_and_arch(kernel), pid_namespace()];
    checks.push(user());
    let effective = rights::read_effective();
    checks.extend(CAPABILITIES.iter().map(|capability| capability.check(effective)));
    checks.push(switch("/proc/sys/kernel/unprivileged_bpf_disabled", "kernel.unprivileged_bpf_disabled", bpf_words));
    checks.push(switch("/proc/sys/kernel/perf_event_paranoid", "kernel.perf_event_paranoid", paranoid_words));
    checks.push(switch("/proc/sys/kernel/yama/ptrace_scope", "kernel.yama.ptrace_scope", ptrace_words));
    checks.push(lockdown());
    checks.push(memlock());
    checks
}

fn kernel_and_arch(kernel: &str) -> Check {
    let arch = std::env::consts::ARCH;
    let detail = format!("{kernel} on {arch}");
    if arch == "x86_64" {
        Check::ok(MACHINE, "kernel", detail)
    } else {
        Check::failed(MACHINE, "kernel", Blame::Kernel, format!("{detail}: the probes know x86_64 only"))
    }
}

fn pid_namespace() -> Check {
    match namespace::is_initial() {
        Ok(true) => Check::ok(MACHINE, PID_NAMESPACE, "the machine's own: process ids are those that the probes see"),
        Ok(false) => Check::refused(MACHINE, PID_NAMESPACE, crate::hints::Failure::PidNamespace.into()),
        Err(error) => Check::limited(MACHINE, PID_NAMESPACE, format!("cannot be told: {error}")),
    }
}

fn user() -> Check {
    // SAFETY: geteuid takes nothing and cannot fail.
    match unsafe { libc::geteuid() } {
        0 => Check::fact(RIGHTS, "user", "root"),
        uid => Check::fact(RIGHTS, "user", format!("uid {uid}: rights come from capabilities alone")),
    }
}

impl Capability {
    fn check(&self, effective: Option<u64>) -> Check {
        let Some(effective) = effective else {
            return Check::limited(RIGHTS, self.name, "cannot be told: /proc/self/status has no CapEff");
        };
        if rights::has(effective, self.bit) {
            Check::ok(RIGHTS, self.name, self.purpose)
        } else if self.or_admin && rights::has(effective, bit::SYS_ADMIN) {
            Check::ok(RIGHTS, self.name, format!("{} (through CAP_SYS_ADMIN)", self.purpose))
        } else if self.matters {
            Check::limited(RIGHTS, self.name, format!("missing: {}", self.purpose))
        } else {
            Check::fact(RIGHTS, self.name, format!("missing: {}", self.purpose))
        }
    }
}

fn switch(path: &str, name: &str, words: fn(i64) -> &'static str) -> Check {
    match fs::read_to_string(path).map(|text| text.trim().parse()) {
        Ok(Ok(value)) => Check::fact(RIGHTS, name, format!("{value}: {}", words(value))),
        Ok(Err(_)) => Check::fact(RIGHTS, name, "not a number"),
        Err(_) => Check::fact(RIGHTS, name, "not there"),
    }
}

const fn bpf_words(value: i64) -> &'static str {
    match value {
        0 => "every user may load simple programs; the probes need CAP_BPF all the same",
        1 => "BPF needs CAP_BPF, until the next boot",
        _ => "BPF needs CAP_BPF",
    }
}

const fn paranoid_words(value: i64) -> &'static str {
    match value {
        ..=-1 => "events are free for everybody",
        0 => "events of all processes without CAP_PERFMON, but not raw tracepoints",
        _ => "events of all processes need CAP_PERFMON",
    }
}

const fn ptrace_words(value: i64) -> &'static str {
    match value {
        0 => "maps and smaps of one's own processes can be read",
        1 => "maps and smaps of one's own processes can be read; ptrace is for parents",
        2 => "ptrace needs CAP_SYS_PTRACE",
        _ => "ptrace is off",
    }
}

fn lockdown() -> Check {
    match fs::read_to_string("/sys/kernel/security/lockdown") {
        Err(_) => Check::fact(RIGHTS, "lockdown", "not there (or securityfs is not mounted)"),
        Ok(modes) => match selected(&modes) {
            Some("confidentiality") => Check::limited(
                RIGHTS,
                "lockdown",
                "confidentiality: the kernel keeps its memory from BPF programs, whoever loads them",
            )
            .advise("boot without lockdown=confidentiality"),
            Some(mode) => Check::fact(RIGHTS, "lockdown", mode),
            None => Check::fact(RIGHTS, "lockdown", "not understood"),
        },
    }
}

/// `none [integrity] confidentiality`: the one in brackets.
pub(super) fn selected(modes: &str) -> Option<&str> {
    modes.split_whitespace().find_map(|mode| mode.strip_prefix('[')?.strip_suffix(']'))
}

fn memlock() -> Check {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for an rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } != 0 {
        return Check::fact(RIGHTS, "RLIMIT_MEMLOCK", "cannot be told");
    }
    let words = if limit.rlim_cur == libc::RLIM_INFINITY {
        "unlimited".to_owned()
    } else {
        format!("{} KiB; kernels since 5.11 do not count BPF maps there", limit.rlim_cur >> 10)
    };
    Check::fact(RIGHTS, "RLIMIT_MEMLOCK", words)
}
