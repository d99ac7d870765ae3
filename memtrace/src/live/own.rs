//! What we cost and what we may take, and how the kernel lets us wait for our own programs.

use super::probes::Probes;
use crate::event::Own;
use crate::procfs::monotonic_ns;
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

/// The kernel times BPF programs during the first interval and then one in so many: with two readings of the clock a
/// run, timing them all the time slows every page fault on the machine more than the programs themselves do.
const INTERVALS_PER_MEASURED: u64 = 10;

/// Reads the cost of ourselves.
pub struct Reader {
    programs: Vec<OwnedFd>,
    /// The kernel times while this is open; with the time of its opening.
    window: Option<(OwnedFd, u64)>,
    wanted: bool,
    began_ns: u64,
    /// Length of all closed windows.
    measured_ns: u64,
    intervals: u64,
}

impl Reader {
    /// For the programs that are loaded (those of optional hooks may not be); `wanted`: the kernel shall time them.
    ///
    /// # Errors
    /// A descriptor cannot be duplicated.
    pub fn new(probes: &Probes, wanted: bool) -> Result<Self> {
        let programs = probes
            .programs()
            .filter_map(|(_, program)| program.fd().ok())
            .map(|fd| fd.as_fd().try_clone_to_owned().context("failed to duplicate a descriptor"))
            .collect::<Result<_>>()?;
        let began_ns = monotonic_ns();
        let window = if wanted { open_window(began_ns) } else { None };
        Ok(Self { programs, wanted: window.is_some(), window, began_ns, measured_ns: 0, intervals: 0 })
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

    /// CPU time and memory of this process, time and runs of its BPF programs; to be called as an interval ends.
    /// What the measured intervals say of the programs is taken to hold for all.
    pub fn read(&mut self) -> Own {
        if !self.wanted {
            return read_process();
        }
        let now = monotonic_ns();
        if let Some((_, opened)) = self.window.take() {
            self.measured_ns += now.saturating_sub(opened);
        }
        let (mut ns, mut runs) = (0u64, 0u64);
        for info in self.infos() {
            ns += info.run_time_ns;
            runs += info.run_cnt;
        }
        let elapsed = u128::from(now.saturating_sub(self.began_ns));
        let measured = u128::from(self.measured_ns.max(1));
        let all = |part: u64| u64::try_from(u128::from(part) * elapsed / measured).unwrap_or(u64::MAX);
        self.intervals += 1;
        if self.intervals.is_multiple_of(INTERVALS_PER_MEASURED) {
            self.window = open_window(now);
        }
        Own { bpf_ns: Some(all(ns)), bpf_runs: Some(all(runs)), ..read_process() }
    }

    /// Runs that the kernel skipped because the same program was running on that CPU already.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.infos().map(|info| info.recursion_misses).sum()
    }
}

fn open_window(now: u64) -> Option<(OwnedFd, u64)> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime).ok().map(|fd| (fd, now))
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
        ..Own::default()
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
