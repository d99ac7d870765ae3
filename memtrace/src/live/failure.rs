//! What the kernel refuses, in words that say what to type.

use super::btf::BtfError;
use crate::hints::Failure;
use crate::procfs::Error;
use std::io;

/// An error of the live room as a known failure, where it is one.
#[must_use]
pub fn recognise(error: anyhow::Error) -> anyhow::Error {
    if error.downcast_ref::<Failure>().is_some() {
        return error;
    }
    let failure = error.chain().find_map(|cause| {
        cause.downcast_ref::<Error>().and_then(of_proc).or_else(|| cause.downcast_ref::<BtfError>().map(of_btf))
    });
    if let Some(failure) = failure {
        return failure.into();
    }
    // The verifier's log is long and its end says why; everything in front of it is ours.
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
            let what = error.to_string();
            let log: Vec<&str> = text.lines().skip(1).collect();
            let log = log[log.len().saturating_sub(12)..].join("\n");
            Failure::BpfRefused { what, errno, log }.into()
        }
        Some(libc::EPERM | libc::EACCES) => {
            Failure::NotPermitted { what: error.to_string(), capability: "CAP_PERFMON" }.into()
        }
        _ => error,
    }
}

/// A failure to read a process.
fn of_proc(error: &Error) -> Option<Failure> {
    Some(match error {
        Error::NoSuchProcess(pid) => Failure::NoSuchPid { pid: *pid },
        Error::IsThread { tid, pid } => Failure::ThreadId { tid: *tid, pid: *pid },
        Error::KernelThread { pid, comm } => Failure::KernelThread { pid: *pid, comm: comm.clone().into_bytes() },
        Error::Zombie(pid) => Failure::Zombie { pid: *pid },
        Error::Gone(pid) => Failure::TargetGone { pid: *pid },
        Error::PermissionDenied { pid, file } => {
            Failure::NotPermitted { what: format!("read /proc/{pid}/{file}"), capability: "CAP_SYS_PTRACE" }
        }
        Error::Malformed { .. } | Error::Io { .. } => return None,
    })
}

fn of_btf(error: &BtfError) -> Failure {
    match error {
        BtfError::Read(_) => Failure::NoBtf,
        other => Failure::BtfShape { what: other.to_string() },
    }
}
