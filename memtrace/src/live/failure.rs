//! What the kernel refuses, in words that say what to type.

use super::btf::BtfError;
use crate::hints::Failure;
use crate::procfs::{Error, read_kernel_release};
use aya::programs::ProgramError;
use std::io;

/// An error of the live room as a known failure, where it is one.
#[must_use]
pub fn recognise(error: anyhow::Error) -> anyhow::Error {
    if error.downcast_ref::<Failure>().is_some() {
        return error;
    }
    let failure = error.chain().find_map(|cause| {
        cause
            .downcast_ref::<Error>()
            .and_then(Failure::of_process)
            .or_else(|| cause.downcast_ref::<BtfError>().map(of_btf))
    });
    if let Some(failure) = failure {
        return failure.into();
    }
    let text = format!("{error:#}");
    // aya says this of a tracefs that is not mounted, and without an error number.
    if text.contains("tracefs not found") {
        return Failure::NoTracefs.into();
    }
    let errno = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error));
    match errno {
        Some(errno) if text.contains("BPF") || text.contains("bpf") => {
            if let Some(capability) = super::rights::missing_for_probes()
                && matches!(errno, libc::EPERM | libc::EACCES)
            {
                return Failure::NotPermitted { what: "load BPF programs".to_owned(), capability }.into();
            }
            Failure::BpfRefused { what: error.to_string(), errno, log: verifier_log(&error) }.into()
        }
        Some(libc::EPERM | libc::EACCES) => {
            Failure::NotPermitted { what: error.to_string(), capability: "CAP_PERFMON" }.into()
        }
        _ => error,
    }
}

/// What the verifier said: its log is long, and the end says why.
fn verifier_log(error: &anyhow::Error) -> String {
    let log = error.chain().find_map(|cause| match cause.downcast_ref::<ProgramError>() {
        Some(ProgramError::LoadError { verifier_log, .. }) => Some(verifier_log.to_string()),
        _ => None,
    });
    let lines: Vec<&str> = log.as_deref().unwrap_or_default().lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

fn of_btf(error: &BtfError) -> Failure {
    match error {
        BtfError::Read(_) => Failure::NoBtf,
        BtfError::Shape { name: "rss_stat", found: 3, .. } => Failure::OldKernel {
            release: read_kernel_release().unwrap_or_default(),
            missing: "counters that change at once: it counts in batches per thread (5.5 to 6.1)".to_owned(),
        },
        BtfError::NoType(name) => Failure::BtfShape { what: name.clone() },
        BtfError::NoField(name, path) => Failure::BtfShape { what: format!("{name}.{path}") },
        BtfError::Shape { name, .. } => Failure::BtfShape { what: format!("tracepoint {name}") },
        BtfError::Malformed(_) => Failure::BtfShape { what: error.to_string() },
    }
}
