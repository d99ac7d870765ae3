//! `/proc/PID/statm`, `status` and `stat`.
//!
//! Resident sizes are taken from statm and status, never from stat: the kernel sums the per-CPU counters exactly for
//! the former (since 6.16, and in its stable series) and only approximately for the latter.

use super::parse_syscall;
use super::scan::{Lines, kilobytes, skip_blanks, whole_decimal, whole_u32};
use crate::units::Amounts;

/// A file of /proc that is not as the kernel prints it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of {file} is not as the kernel prints it: {text:?}")]
pub struct Malformed {
    /// Which file.
    pub file: &'static str,
    /// Which line, from 1.
    pub line: usize,
    /// The line, cut to 80 bytes, what is not UTF-8 replaced.
    pub text: String,
}

impl Malformed {
    pub(super) fn new(file: &'static str, line: usize, text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(&text[..text.len().min(80)]).into_owned();
        Self { file, line, text }
    }
}

/// `/proc/PID/statm`, in pages. All zero when the process has no address space (any more).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statm {
    /// Size of the address space.
    pub virt: u64,
    /// Resident: anon + file + shmem.
    pub resident: u64,
    /// file + shmem, whether or not anyone else maps them: what `top` calls SHR.
    pub shared: u64,
}

/// Reads statm.
///
/// # Errors
/// Fewer than three numbers.
pub fn parse_statm(bytes: &[u8]) -> Result<Statm, Malformed> {
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut numbers = line.split(|&byte| byte == b' ').map(whole_decimal);
    let mut next = || numbers.next().flatten().ok_or_else(|| Malformed::new("statm", 1, line));
    Ok(Statm { virt: next()?, resident: next()?, shared: next()? })
}

/// `/proc/PID/status`, what memtrace needs of it. Sizes in bytes; `None` for what is not printed: kernel threads and
/// zombies have no sizes, older kernels fewer fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The name, its escapes undone: any bytes but NUL, at most 15 of them for a user's process.
    pub name: Vec<u8>,
    /// `R`, `S`, `D`, `T`, `t`, `X`, `Z`, `P`, `I`; 0 when it is not printed.
    pub state: u8,
    /// The process that the task belongs to.
    pub tgid: Option<u32>,
    /// The task.
    pub pid: Option<u32>,
    /// Its parent.
    pub ppid: Option<u32>,
    /// Who traces it by ptrace; 0 for nobody.
    pub tracer_pid: Option<u32>,
    /// Real user id.
    pub uid: Option<u32>,
    /// Effective user id.
    pub effective_uid: Option<u32>,
    /// The pid in each PID namespace, outermost (that of this /proc) first; empty when it is not printed.
    pub ns_pid: Vec<u32>,
    /// A kernel thread; `None` on a kernel that does not say.
    pub kthread: Option<bool>,
    /// Number of threads.
    pub threads: Option<u32>,
    /// Size of the address space: VIRT.
    pub vm_size: Option<u64>,
    /// Largest resident size so far. Approximate: the kernel samples it.
    pub vm_hwm: Option<u64>,
    /// Resident: RES.
    pub vm_rss: Option<u64>,
    /// Resident anonymous memory.
    pub rss_anon: Option<u64>,
    /// Resident pages of files.
    pub rss_file: Option<u64>,
    /// Resident shared memory.
    pub rss_shmem: Option<u64>,
    /// Anonymous memory in swap.
    pub vm_swap: Option<u64>,
    /// Locked memory.
    pub vm_locked: Option<u64>,
    /// Memory of the page tables.
    pub vm_pte: Option<u64>,
    /// Huge pages of hugetlbfs: not part of RES.
    pub hugetlb: Option<u64>,
}

impl Status {
    /// The counters in pages; `None` when the process has no address space (any more).
    #[must_use]
    pub fn amounts(&self, page_size: u64) -> Option<Amounts> {
        let pages = |bytes: Option<u64>| i64::try_from(bytes? / page_size.max(1)).ok();
        Some(Amounts {
            anon: pages(self.rss_anon)?,
            file: pages(self.rss_file)?,
            shmem: pages(self.rss_shmem)?,
            swap: pages(self.vm_swap.or(Some(0)))?,
        })
    }

    /// Size of the address space in pages; `None` when there is none.
    #[must_use]
    pub fn virt_pages(&self, page_size: u64) -> Option<u64> {
        Some(self.vm_size? / page_size.max(1))
    }

    /// It has exited, and its parent has not asked for its status yet. (A process whose main thread alone has exited looks the same.)
    #[must_use]
    pub const fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// Reads status.
///
/// # Errors
/// A known field without its value, or no `Pid` at all.
pub fn parse_status(bytes: &[u8]) -> Result<Status, Malformed> {
    let mut status = Status::default();
    let mut number = 0;
    for line in Lines::new(bytes) {
        number += 1;
        let Some(colon) = memchr::memchr(b':', line) else {
            continue;
        };
        store(&mut status, &line[..colon], &line[colon + 1..]).ok_or_else(|| Malformed::new("status", number, line))?;
    }
    if status.pid.is_none() {
        return Err(Malformed::new("status", number + 1, b"(no Pid)"));
    }
    Ok(status)
}

/// `None` when a known field has no value.
fn store(status: &mut Status, label: &[u8], value: &[u8]) -> Option<()> {
    match label {
        b"Name" => status.name = unescape_name(value.strip_prefix(b"\t").unwrap_or(value)),
        b"State" => status.state = *skip_blanks(value).first()?,
        b"Tgid" => status.tgid = Some(whole_u32(value)?),
        b"Pid" => status.pid = Some(whole_u32(value)?),
        b"PPid" => status.ppid = Some(whole_u32(value)?),
        b"TracerPid" => status.tracer_pid = Some(whole_u32(value)?),
        b"Threads" => status.threads = Some(whole_u32(value)?),
        b"Kthread" => status.kthread = Some(whole_u32(value)? != 0),
        b"Uid" => {
            let mut ids = words(value).map(whole_u32);
            status.uid = Some(ids.next()??);
            status.effective_uid = Some(ids.next()??);
        }
        b"NSpid" => status.ns_pid = words(value).map(whole_u32).collect::<Option<_>>()?,
        b"VmSize" => status.vm_size = Some(kilobytes(value)?),
        b"VmHWM" => status.vm_hwm = Some(kilobytes(value)?),
        b"VmRSS" => status.vm_rss = Some(kilobytes(value)?),
        b"RssAnon" => status.rss_anon = Some(kilobytes(value)?),
        b"RssFile" => status.rss_file = Some(kilobytes(value)?),
        b"RssShmem" => status.rss_shmem = Some(kilobytes(value)?),
        b"VmSwap" => status.vm_swap = Some(kilobytes(value)?),
        b"VmLck" => status.vm_locked = Some(kilobytes(value)?),
        b"VmPTE" => status.vm_pte = Some(kilobytes(value)?),
        b"HugetlbPages" => status.hugetlb = Some(kilobytes(value)?),
        _ => {}
    }
    Some(())
}

fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty())
}

/// In status the kernel prints a newline as `\n` and a backslash as `\\`.
fn unescape_name(raw: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(raw.len());
    let mut rest = raw;
    loop {
        rest = match rest {
            [] => return name,
            [b'\\', b'n', rest @ ..] => {
                name.push(b'\n');
                rest
            }
            [b'\\', b'\\', rest @ ..] => {
                name.push(b'\\');
                rest
            }
            [byte, rest @ ..] => {
                name.push(*byte);
                rest
            }
        };
    }
}

/// `/proc/PID/stat`, what memtrace needs of it. Its resident size is approximate and left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// The task.
    pub pid: u32,
    /// The name as it is: any bytes, `) (` and newlines too.
    pub comm: Vec<u8>,
    /// As in [`Status::state`].
    pub state: u8,
    /// Parent; 0 for none in this PID namespace.
    pub ppid: u32,
    /// `PF_` flags of the kernel.
    pub flags: u64,
    /// Minor faults of the process.
    pub minor_faults: u64,
    /// Major faults of the process.
    pub major_faults: u64,
    /// User time, clock ticks.
    pub utime: u64,
    /// System time, clock ticks.
    pub stime: u64,
    /// Number of threads.
    pub threads: u64,
    /// Start, clock ticks since boot: with the pid, the process's identity.
    pub start_time: u64,
}

impl Stat {
    /// `PF_KTHREAD`: the task belongs to the kernel.
    #[must_use]
    pub const fn is_kernel_thread(&self) -> bool {
        self.flags & 0x0020_0000 != 0
    }
}

/// Reads stat.
///
/// # Errors
/// A field up to the start time is missing or is no number.
pub fn parse_stat(bytes: &[u8]) -> Result<Stat, Malformed> {
    parse_stat_fields(bytes).ok_or_else(|| Malformed::new("stat", 1, bytes))
}

fn parse_stat_fields(bytes: &[u8]) -> Option<Stat> {
    let open = memchr::memchr(b'(', bytes)?;
    let close = memchr::memrchr(b')', bytes)?;
    let comm = bytes.get(open + 1..close)?;
    let rest = bytes[close + 1..].trim_ascii();
    // proc(5) numbers the fields from 1; the state, the first after the name, is field 3.
    let fields: Vec<&[u8]> = words(rest).take(20).collect();
    let number = |field: usize| whole_decimal(fields.get(field - 3)?);
    Some(Stat {
        pid: whole_u32(bytes[..open].trim_ascii())?,
        comm: comm.to_vec(),
        state: *fields.first()?.first()?,
        ppid: u32::try_from(number(4)?).ok()?,
        flags: number(9)?,
        minor_faults: number(10)?,
        major_faults: number(12)?,
        utime: number(14)?,
        stime: number(15)?,
        threads: number(20)?,
        start_time: number(22)?,
    })
}

/// The stack pointer in `/proc/PID/task/TID/syscall`. `None` for a thread that runs, and for one without memory.
#[must_use]
pub fn parse_stack_pointer(bytes: &[u8]) -> Option<u64> {
    parse_syscall(bytes).map(|call| call.stack).filter(|stack| *stack != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POSTGRES: &[u8] = b"Name:\tpost\\ngres\\\\\nUmask:\t0077\nState:\tT (stopped)\nTgid:\t4711\nNgid:\t0\nPid:\t4711\nPPid:\t1\n\
        TracerPid:\t0\nUid:\t105\t106\t105\t105\nNStgid:\t4711\t12\nNSpid:\t4711\t12\nKthread:\t0\nVmPeak:\t  220000 kB\n\
        VmSize:\t  219000 kB\nVmHWM:\t   19000 kB\nVmRSS:\t   18204 kB\nRssAnon:\t    1116 kB\nRssFile:\t   11576 kB\n\
        RssShmem:\t    5512 kB\nVmSwap:\t       8 kB\nHugetlbPages:\t    2048 kB\nThreads:\t3\nGroups:\t \n";

    #[test]
    fn status_of_a_process() {
        let status = parse_status(POSTGRES).unwrap();
        assert_eq!(status.name, b"post\ngres\\");
        assert_eq!((status.state, status.pid, status.tgid), (b'T', Some(4711), Some(4711)));
        assert_eq!((status.uid, status.effective_uid), (Some(105), Some(106)));
        assert_eq!(status.ns_pid, [4711, 12]);
        assert_eq!((status.kthread, status.threads), (Some(false), Some(3)));
        assert_eq!(status.hugetlb, Some(2048 << 10));
        let amounts = status.amounts(4096).unwrap();
        assert_eq!(amounts, Amounts { anon: 279, file: 2894, shmem: 1378, swap: 2 });
        assert_eq!(amounts.res(), 18204 / 4);
        assert_eq!(status.virt_pages(4096), Some(219_000 / 4));
    }

    #[test]
    fn status_of_what_has_no_memory() {
        let zombie = parse_status(b"Name:\tgone\nState:\tZ (zombie)\nTgid:\t9\nPid:\t9\nUid:\t0\t0\t0\t0\n").unwrap();
        assert!(zombie.is_zombie());
        assert_eq!((zombie.amounts(4096), zombie.virt_pages(4096), zombie.kthread), (None, None, None));
        let kthread = parse_status(b"Name:\tkthreadd\nState:\tS (sleeping)\nPid:\t2\nKthread:\t1\n").unwrap();
        assert_eq!((kthread.kthread, kthread.amounts(4096)), (Some(true), None));
    }

    #[test]
    fn status_refuses_half_values() {
        assert_eq!(parse_status(b"Pid:\t1\nVmRSS:\t twelve kB\n").unwrap_err().line, 2);
        assert!(parse_status(b"Name:\tx\n").is_err());
        assert!(parse_status(b"").is_err());
    }

    #[test]
    fn stat_believes_the_last_parenthesis() {
        let text = b"42 (a) (b) S 1\n) R 7 42 42 0 -1 4194304 113 0 5 0 11 12 0 0 20 0 6 0 987654 3219456 400 18446744073709551615 1 1 0\n";
        let stat = parse_stat(text).unwrap();
        assert_eq!(stat.comm, b"a) (b) S 1\n");
        assert_eq!((stat.pid, stat.state, stat.ppid, stat.start_time), (42, b'R', 7, 987_654));
        assert_eq!((stat.minor_faults, stat.major_faults, stat.utime, stat.stime, stat.threads), (113, 5, 11, 12, 6));
        assert!(!stat.is_kernel_thread());
        assert!(Stat { flags: 0x0020_8040, ..stat }.is_kernel_thread());
        assert!(parse_stat(b"42 (a").is_err());
        assert!(parse_stat(b"42 )a( R 1").is_err());
    }

    #[test]
    fn the_stack_pointer_of_a_thread_that_waits() {
        let sleeping = b"230 0x0 0x0 0x7ffd4a3b2b10 0x7ffd4a3b2b10 0x0 0x0 0x7ffd4a3b2a98 0x7f1fa1f2f3c7\n";
        assert_eq!(parse_stack_pointer(sleeping), Some(0x7ffd_4a3b_2a98));
        assert_eq!(parse_stack_pointer(b"-1 0x7ffd4a3b2a98 0x55d0\n"), Some(0x7ffd_4a3b_2a98));
        for text in
            [&b"running\n"[..], b"", b"\n", b"-1 0x0 0x0\n", b"0x12\n", b"-1 0x7ff 0x55d0", b"-1 0x7fx 0x55d0\n"]
        {
            assert_eq!(parse_stack_pointer(text), None, "{text:?}");
        }
    }

    #[test]
    fn statm_needs_three_numbers() {
        assert_eq!(parse_statm(b"765 422 394 5 0 93 0\n"), Ok(Statm { virt: 765, resident: 422, shared: 394 }));
        assert!(parse_statm(b"765 422\n").is_err());
        assert!(parse_statm(b"").is_err());
        assert!(parse_statm(b"765 -2 394\n").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_status(&bytes);
            let _ = parse_statm(&bytes);
            let _ = parse_stat(&bytes);
            let _ = parse_stack_pointer(&bytes);
        }

        #[test]
        fn any_name_is_read_from_both(name in prop::collection::vec(1..=255u8, 0..16)) {
            let mut stat = b"7 (".to_vec();
            stat.extend_from_slice(&name);
            stat.extend_from_slice(b") S 1 1 1 0 -1 0 1 0 2 0 3 4 0 0 20 0 1 0 5 6 7\n");
            prop_assert_eq!(&parse_stat(&stat).unwrap().comm, &name);

            let mut status = b"Name:\t".to_vec();
            for &byte in &name {
                match byte {
                    b'\n' => status.extend_from_slice(b"\\n"),
                    b'\\' => status.extend_from_slice(b"\\\\"),
                    _ => status.push(byte),
                }
            }
            status.extend_from_slice(b"\nPid:\t7\n");
            prop_assert_eq!(&parse_status(&status).unwrap().name, &name);
        }
    }
}
