//! What we cost and what we may take, and how the kernel lets us wait for our own programs.

use super::probes::Probes;
use crate::event::Own;
use anyhow::{Context as _, Result};
use aya_obj::generated::bpf_prog_info;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

/// `BPF_OBJ_GET_INFO_BY_FD` of `enum bpf_cmd`.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// `MEMBARRIER_CMD_GLOBAL`: the kernel's `synchronize_rcu()`.
const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;

/// The `info` member of `union bpf_attr`.
#[repr(C)]
struct InfoByFd {
    fd: u32,
    len: u32,
    info: u64,
}

/// Reads the cost of ourselves.
pub struct Reader {
    programs: Vec<OwnedFd>,
    measured: bool,
}

impl Reader {
    /// For the programs that are loaded (those of optional hooks may not be); `measured`: the kernel times them.
    ///
    /// # Errors
    /// A descriptor cannot be duplicated.
    pub fn new(probes: &Probes, measured: bool) -> Result<Self> {
        let programs = probes
            .programs()
            .filter_map(|(_, program)| program.fd().ok())
            .map(|fd| fd.as_fd().try_clone_to_owned().context("failed to duplicate a descriptor"))
            .collect::<Result<_>>()?;
        Ok(Self { programs, measured })
    }

    fn infos(&self) -> impl Iterator<Item = bpf_prog_info> {
        self.programs.iter().filter_map(|fd| {
            // SAFETY: all zeros is a valid bpf_prog_info: integers, and pointers given as integers.
            let mut info: bpf_prog_info = unsafe { MaybeUninit::zeroed().assume_init() };
            let mut attr = InfoByFd {
                fd: fd.as_raw_fd().cast_unsigned(),
                len: size_of::<bpf_prog_info>() as u32,
                info: (&raw mut info) as u64,
            };
            // SAFETY: `attr` is the kernel's layout of this command; `info` is a place of `len` bytes.
            let result =
                unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw mut attr, size_of::<InfoByFd>()) };
            (result == 0).then_some(info)
        })
    }

    /// CPU time and memory of this process, time and runs of its BPF programs.
    #[must_use]
    pub fn read(&self) -> Own {
        let (mut ns, mut runs) = (0, 0);
        if self.measured {
            for info in self.infos() {
                ns += info.run_time_ns;
                runs += info.run_cnt;
            }
        }
        Own { bpf_ns: self.measured.then_some(ns), bpf_runs: self.measured.then_some(runs), ..read_process() }
    }

    /// Runs that the kernel skipped because the same program was running on that CPU already.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.infos().map(|info| info.recursion_misses).sum()
    }
}

/// CPU time and memory of this process; no probes.
#[must_use]
pub fn read_process() -> Own {
    // SAFETY: all zeros is a valid rusage, and getrusage fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = MaybeUninit::zeroed().assume_init();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let nanos = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1_000;
    Own {
        cpu_ns: nanos(usage.ru_utime) + nanos(usage.ru_stime),
        bpf_ns: None,
        bpf_runs: None,
        max_rss: usage.ru_maxrss as u64 * 1024,
    }
}

/// Lets us hold as many files as we may: of each process that is followed, some of /proc stay open.
pub fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit fills the struct, setrlimit reads it.
    let result = unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
        } else {
            -1
        }
    };
    if result != 0 {
        log::info!("the limit of open files cannot be raised: {}", io::Error::last_os_error());
    }
}

/// Returns when every BPF program that was running at the call has ended: they run inside RCU read sections.
pub fn wait_for_running_programs() {
    if membarrier().is_err() {
        // A kernel without it (nohz_full): the longest program runs for microseconds.
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// The kernel's `synchronize_rcu()`.
///
/// # Errors
/// This kernel does not have it, or does not let us.
pub fn membarrier() -> io::Result<()> {
    // SAFETY: membarrier takes no pointers.
    match unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
