//! All advice in one place: known failures with what to type, and what a cause tells a reader to look at.

use crate::cli::ExitCode;
use crate::views::shell_word;
use memtrace_common::Cause;
use std::fmt;

/// Longest path or name in a line to type.
const WORD: usize = 1000;
/// What is left where the kernel takes no probes.
const WITHOUT_PROBES: &str = "memtrace --no-bpf --pid N        how RES changes, without the causes";

/// A failure that is understood well enough to say what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No process has this id.
    NoSuchPid {
        /// The id.
        pid: u32,
    },
    /// The id is a thread's, not its process's.
    ThreadId {
        /// The id.
        tid: u32,
        /// Its process.
        pid: u32,
    },
    /// Kernel threads have no memory of their own.
    KernelThread {
        /// Its id.
        pid: u32,
        /// Its name.
        comm: Vec<u8>,
    },
    /// It ended and waits for its parent; its memory is gone.
    Zombie {
        /// Its id.
        pid: u32,
    },
    /// It ended while memtrace attached.
    TargetGone {
        /// Its id.
        pid: u32,
    },
    /// It ended while memtrace attached, and another process has its id now.
    PidReused {
        /// The id.
        pid: u32,
    },
    /// No process has this name.
    NoneNamed {
        /// The name.
        name: String,
    },
    /// No cgroup has this path.
    NoSuchCgroup {
        /// The path.
        path: String,
    },
    /// There is such a directory, and it is none.
    NotACgroup {
        /// The path.
        path: String,
        /// Where cgroups are mounted, best first: several with version 1.
        roots: Vec<String>,
    },
    /// No process is in this cgroup, nor below it.
    NoneInCgroup {
        /// The path.
        path: String,
    },
    /// memtrace itself.
    OwnPid {
        /// The id.
        pid: u32,
    },
    /// A right is missing.
    NotPermitted {
        /// What was tried: `load BPF programs`.
        what: String,
        /// The capability that would allow it: `CAP_BPF`; empty when none is known.
        capability: &'static str,
    },
    /// The command could not be started.
    CommandNotStarted {
        /// The command.
        command: String,
        /// errno.
        errno: i32,
    },
    /// The kernel refused a BPF program, map or link.
    BpfRefused {
        /// What failed: `the kernel refuses the program for tp_btf/rss_stat`.
        what: String,
        /// errno.
        errno: i32,
        /// The last lines of the verifier's log; empty when there is none.
        log: String,
    },
    /// The kernel describes no types.
    NoBtf,
    /// A type or field that the probes need is missing from the kernel's BTF or has another shape.
    BtfShape {
        /// `mm_struct.rss_stat`.
        what: String,
    },
    /// tracefs is not mounted.
    NoTracefs,
    /// memtrace runs in a PID namespace of its own: the probes see the machine's ids, not those of the namespace.
    PidNamespace,
    /// The kernel lacks something since it is too old.
    OldKernel {
        /// `uname -r`.
        release: String,
        /// What is missing.
        missing: String,
    },
    /// Maps could not be made within RLIMIT_MEMLOCK.
    MemlockLimit {
        /// The limit in bytes.
        limit: u64,
    },
    /// This build has no probes.
    NoLiveFeature,
    /// The program or library of a span cannot be opened.
    NoSpanFile {
        /// The path.
        path: String,
        /// What the system says.
        why: String,
    },
    /// It is none that has functions.
    NotAProgram {
        /// The path.
        path: String,
    },
    /// It has no function of this name, or several.
    NoSpanFunction {
        /// The path.
        path: String,
        /// The function.
        function: String,
        /// Names that are close, or those that are meant.
        near: Vec<String>,
        /// Several are meant.
        several: bool,
        /// The program has only the names that it exports.
        stripped: bool,
    },
    /// What begins a span and what ends it are one function: the linker or the compiler has put what was the same into one.
    SpanWithoutEnd {
        /// The path.
        path: String,
        /// The function that begins it.
        begin: String,
        /// The one that ends it.
        end: String,
    },
    /// Statements were asked of a program that has none.
    NoKnownServer {
        /// The program.
        program: String,
    },
    /// It is a database server whose statements are not known.
    ServerRefused {
        /// The program.
        program: String,
        /// Why.
        why: String,
    },
    /// More spans were named than the probes know.
    TooManySpans {
        /// How many they know.
        most: usize,
    },
    /// The output file is there already.
    FileExists {
        /// The file.
        path: String,
    },
    /// The file is no trace.
    NotATrace {
        /// The file.
        path: String,
    },
    /// The trace is of another version.
    TraceVersion {
        /// The file.
        path: String,
        /// Version in the file.
        found: u32,
        /// Version that this program reads.
        expected: u32,
    },
    /// The file is no snapshot.
    NotASnapshot {
        /// The file.
        path: String,
        /// What is wrong with it, and where.
        what: String,
    },
    /// A subcommand failed because of this: whoever wants that one is told how to get it.
    In {
        /// The subcommand.
        command: &'static str,
        /// Why.
        failure: Box<Failure>,
    },
    /// Something was lost under `--fail-on-loss`.
    Loss {
        /// How much; see [`crate::event::Lost::total`].
        total: u64,
    },
}

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EACCES: i32 = 13;

impl Failure {
    /// As the subcommand tells it.
    #[must_use]
    pub fn within(self, command: &'static str) -> Self {
        Self::In { command, failure: Box::new(self) }
    }

    /// The exit code that belongs to it.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoSuchPid { .. }
            | Self::ThreadId { .. }
            | Self::KernelThread { .. }
            | Self::Zombie { .. }
            | Self::TargetGone { .. }
            | Self::PidReused { .. }
            | Self::NoneNamed { .. }
            | Self::NoSuchCgroup { .. }
            | Self::NotACgroup { .. }
            | Self::NoneInCgroup { .. }
            | Self::NoSpanFile { .. }
            | Self::NotAProgram { .. }
            | Self::NoSpanFunction { .. }
            | Self::SpanWithoutEnd { .. }
            | Self::NoKnownServer { .. }
            | Self::ServerRefused { .. } => ExitCode::NoSuchTarget,
            Self::OwnPid { .. } | Self::TooManySpans { .. } => ExitCode::Usage,
            Self::NotPermitted { .. } | Self::MemlockLimit { .. } => ExitCode::NotPermitted,
            Self::CommandNotStarted { errno, .. } => match *errno {
                EPERM | EACCES => ExitCode::NotPermitted,
                ENOENT => ExitCode::NoSuchTarget,
                _ => ExitCode::Failure,
            },
            Self::BpfRefused { errno, .. } if *errno == EPERM => ExitCode::NotPermitted,
            Self::BpfRefused { .. }
            | Self::NoBtf
            | Self::BtfShape { .. }
            | Self::NoTracefs
            | Self::PidNamespace
            | Self::OldKernel { .. }
            | Self::NoLiveFeature => ExitCode::KernelNotUsable,
            Self::FileExists { .. }
            | Self::NotATrace { .. }
            | Self::TraceVersion { .. }
            | Self::NotASnapshot { .. } => ExitCode::Failure,
            Self::In { failure, .. } => failure.exit_code(),
            Self::Loss { .. } => ExitCode::Loss,
        }
    }

    /// The process that is not there any more, where that is what happened.
    #[must_use]
    pub const fn ended(&self) -> Option<u32> {
        match *self {
            Self::NoSuchPid { pid }
            | Self::Zombie { pid }
            | Self::TargetGone { pid }
            | Self::PidReused { pid }
            // A thread has the number now.
            | Self::ThreadId { tid: pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// What to type or do, one line each, best first. Empty when nothing helps.
    #[must_use]
    pub fn advice(&self) -> Vec<String> {
        match self {
            Self::In { command, failure } => match &**failure {
                Self::Zombie { pid } if *command == "stuck" => {
                    vec![format!("memtrace stuck --pid $(ps -o ppid= -p {pid})        its parent, which has not waited for it")]
                }
                Self::NoSuchPid { .. } | Self::Zombie { .. } | Self::TargetGone { .. } => vec![
                    "ps -e -o pid,comm        to find the process".to_owned(),
                    format!("memtrace {command} --pid N        when its number is known"),
                ],
                Self::ThreadId { pid, .. } => vec![format!("memtrace {command} --pid {pid}")],
                other => other.advice(),
            },
            Self::NoSuchPid { .. } | Self::Zombie { .. } | Self::TargetGone { .. } => vec![
                "ps -e -o pid,comm        to find the process".to_owned(),
                "memtrace -- CMD ARGS     to watch a program from its first page on".to_owned(),
            ],
            Self::ThreadId { pid, .. } => vec![format!("memtrace --pid {pid}")],
            Self::KernelThread { .. } => vec!["choose a user process: ps --ppid 2 -p 2 --deselect".to_owned()],
            Self::PidReused { pid } => {
                vec![format!("ps -p {pid} -o pid,lstart,args        to see who has the id now")]
            }
            Self::NoneNamed { .. } => vec![
                "ps -e -o pid,comm,exe        to see the names; a name is the whole of either or the last part of exe, case matters".to_owned(),
                "memtrace snapshot --pid N        when its number is known".to_owned(),
            ],
            Self::NoSuchCgroup { .. } => vec![
                "cat /proc/PID/cgroup        to see a process's cgroup".to_owned(),
                "find /sys/fs/cgroup -name cgroup.procs        to see all of them".to_owned(),
            ],
            Self::NotACgroup { roots, .. } => {
                let mut advice = Vec::new();
                if let Some(root) = roots.first().and_then(|root| shell_word(root.as_bytes(), WORD)) {
                    advice.push(format!("memtrace snapshot --cgroup {root}/PATH        or {root} for all processes"));
                }
                advice.push("cat /proc/PID/cgroup        to see a process's cgroup".to_owned());
                advice
            }
            Self::NoneInCgroup { path } => {
                let path = shell_word(path.as_bytes(), WORD);
                let line = |path| format!("find {path} -name cgroup.procs -exec cat {{}} +        to see who is in it now");
                path.map(line).into_iter().collect()
            }
            Self::OwnPid { .. } => vec!["memtrace -- memtrace --pid N        to watch another memtrace".to_owned()],
            Self::NotPermitted { capability, .. } => {
                let mut advice = Vec::new();
                if !capability.is_empty() {
                    advice.push("run it as root: sudo memtrace …".to_owned());
                    advice.push(
                        "or give it the rights once: sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search,cap_sys_resource=ep \
                         $(command -v memtrace)"
                            .to_owned(),
                    );
                }
                if matches!(*capability, "CAP_BPF" | "CAP_PERFMON") {
                    advice.push(WITHOUT_PROBES.to_owned());
                }
                advice.push("memtrace doctor        to see what this machine allows".to_owned());
                advice
            }
            Self::CommandNotStarted { command, errno } => match (*errno, shell_word(command.as_bytes(), WORD)) {
                (ENOENT, Some(command)) => vec![format!("command -v {command}        to see whether it is in PATH")],
                (EACCES, Some(command)) => vec![format!("ls -l {command}        to see whether it may be executed")],
                _ => Vec::new(),
            },
            Self::BpfRefused { errno, .. } => {
                let mut advice = Vec::new();
                if *errno == EPERM {
                    advice.push("run it as root: sudo memtrace …".to_owned());
                    advice.push(
                        "cat /sys/kernel/security/lockdown        `confidentiality` forbids reading kernel memory"
                            .to_owned(),
                    );
                }
                advice.push("memtrace doctor        to see which probes this kernel takes".to_owned());
                advice.push(WITHOUT_PROBES.to_owned());
                advice
            }
            Self::NoBtf => vec![
                "ls /sys/kernel/btf/vmlinux        must exist: boot a kernel with CONFIG_DEBUG_INFO_BTF=y".to_owned(),
                WITHOUT_PROBES.to_owned(),
            ],
            Self::BtfShape { .. } => {
                vec!["memtrace doctor --json        and report its output".to_owned(), WITHOUT_PROBES.to_owned()]
            }
            Self::NoTracefs => {
                vec!["sudo mount -t tracefs tracefs /sys/kernel/tracing".to_owned(), WITHOUT_PROBES.to_owned()]
            }
            Self::PidNamespace => vec![
                "run it on the host, or in a container with the host's ids: docker run --privileged --pid=host …"
                    .to_owned(),
                WITHOUT_PROBES.to_owned(),
            ],
            Self::OldKernel { .. } => {
                vec!["boot Linux 6.2 or later".to_owned(), WITHOUT_PROBES.to_owned()]
            }
            Self::MemlockLimit { .. } => vec!["ulimit -l unlimited        in a root shell, or run as root".to_owned()],
            Self::NoLiveFeature => vec!["cargo build --release        without --no-default-features".to_owned()],
            Self::NoSpanFile { .. } | Self::NotAProgram { .. } => vec![
                "grep r-xp /proc/PID/maps        to see the programs and libraries that a process has".to_owned(),
            ],
            Self::NoSpanFunction { path, function, near, several, stripped } => {
                // Names of a file that anybody may have made. Those that no shell takes, and no --span, are left out.
                let is_name = |name: &&String| !name.contains(|c: char| c == ',' || c.is_whitespace());
                let mut advice: Vec<String> =
                    near.iter().filter(is_name).filter_map(|name| span(path, name)).collect();
                let word = function.rsplit(|c: char| !(c.is_alphanumeric() || c == '_')).find(|word| !word.is_empty());
                if let Some(word) = word.filter(|_| near.is_empty() && !several)
                    && let (Some(path), Some(word)) =
                        (shell_word(path.as_bytes(), WORD), shell_word(word.as_bytes(), WORD))
                {
                    let table = if *stripped { "-D " } else { "" };
                    advice.push(format!("nm -C {table}{path} | grep -i {word}        to see what it has"));
                }
                if *stripped && !several {
                    advice.push("a build that is not stripped: this one has the names of what it exports only".to_owned());
                }
                advice
            }
            Self::SpanWithoutEnd { path, begin, .. } => {
                let line = span(path, begin).map(|span| format!("{span}        each call of it is a span, until it returns"));
                line.into_iter().chain(["or another function that only one of the two calls".to_owned()]).collect()
            }
            Self::NoKnownServer { .. } | Self::ServerRefused { .. } => {
                vec!["--span NAME=/path/to/program:function        to see the memory of any program's function".to_owned()]
            }
            Self::TooManySpans { .. } => vec!["watch it twice, some spans each time".to_owned()],
            Self::FileExists { path } => match shell_word(path.as_bytes(), WORD) {
                Some(path) => vec![format!("add --force to overwrite it, or remove it: rm {path}")],
                None => vec!["add --force to overwrite it, or remove it".to_owned()],
            },
            Self::NotATrace { .. } => vec!["memtrace record -o FILE --pid N        makes one".to_owned()],
            Self::NotASnapshot { .. } => {
                vec!["memtrace snapshot --pid N --json -o FILE        makes one".to_owned()]
            }
            Self::TraceVersion { .. } => vec!["replay it with the memtrace that recorded it".to_owned()],
            Self::Loss { .. } => {
                vec![
                    "a shorter --interval drains the probes' tables sooner; memtrace replay shows what was lost"
                        .to_owned(),
                ]
            }
        }
    }
}

/// What to type for a span that is one function.
fn span(path: &str, function: &str) -> Option<String> {
    shell_word(format!("NAME={path}:{function}").as_bytes(), WORD).map(|word| format!("--span {word}"))
}

#[cfg(feature = "live")]
impl Failure {
    /// What a failure to read a process is; `None` for what has no advice.
    #[must_use]
    pub fn of_process(error: &crate::procfs::Error) -> Option<Self> {
        use crate::live::rights;
        use crate::procfs::Error;
        Some(match error {
            Error::NoSuchProcess(pid) => Self::NoSuchPid { pid: *pid },
            Error::IsThread { tid, pid } => Self::ThreadId { tid: *tid, pid: *pid },
            Error::KernelThread { pid, comm } => Self::KernelThread { pid: *pid, comm: comm.clone().into_bytes() },
            Error::Zombie(pid) => Self::Zombie { pid: *pid },
            Error::Gone(pid) => Self::TargetGone { pid: *pid },
            Error::PermissionDenied { pid, file } => {
                let capability = rights::named_if_missing(rights::bit::SYS_PTRACE, "CAP_SYS_PTRACE");
                Self::NotPermitted { what: format!("read /proc/{pid}/{file}"), capability }
            }
            Error::Malformed { .. } | Error::Io { .. } => return None,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::views::escape;
        let text = |s: &str| escape(s.as_bytes(), 500);
        match self {
            Self::In { command: "snapshot", failure } => match &**failure {
                Self::TargetGone { pid } => write!(f, "process {pid} ended while it was read"),
                other => other.fmt(f),
            },
            Self::In { failure, .. } => failure.fmt(f),
            Self::NoSuchPid { pid } => write!(f, "no process has the id {pid}"),
            Self::ThreadId { tid, pid } => write!(f, "{tid} is a thread of process {pid}"),
            Self::KernelThread { pid, comm } => {
                write!(f, "{pid} ({}) is a kernel thread: it has no memory of its own", escape(comm, 32))
            }
            Self::Zombie { pid } => write!(f, "process {pid} has ended and waits for its parent: its memory is gone"),
            Self::TargetGone { pid } => write!(f, "process {pid} ended while memtrace attached"),
            Self::PidReused { pid } => {
                write!(f, "process {pid} ended while memtrace attached, and another process has its id now")
            }
            Self::NoneNamed { name } => write!(f, "no process is named {}", text(name)),
            Self::NoSuchCgroup { path } => write!(f, "there is no cgroup {}", text(path)),
            Self::NotACgroup { path, roots } => {
                write!(f, "{} is a directory, but not a cgroup", text(path))?;
                match roots.len() {
                    0 => f.write_str("; none are mounted below /sys/fs/cgroup"),
                    1 => Ok(()),
                    // Each of them has all processes.
                    _ => write!(f, "; with version 1 they are below {}", text(&roots.join(", "))),
                }
            }
            Self::NoneInCgroup { path } => write!(f, "no process is in the cgroup {} or below it", text(path)),
            Self::OwnPid { pid } => write!(f, "{pid} is memtrace itself, and watching itself would never come to rest"),
            Self::NotPermitted { what, capability: "" } => {
                write!(f, "not permitted to {}", text(what))
            }
            Self::NotPermitted { what, capability } => {
                write!(f, "not permitted to {}: {capability} is missing", text(what))
            }
            Self::CommandNotStarted { command, errno } => {
                write!(f, "failed to start {}: {}", text(command), std::io::Error::from_raw_os_error(*errno))
            }
            Self::BpfRefused { what, errno, log } => {
                let error = std::io::Error::from_raw_os_error(*errno);
                write!(f, "{}: {error}", text(what))?;
                log.lines().try_for_each(|line| write!(f, "\n    {}", text(line)))
            }
            Self::NoBtf => f.write_str("this kernel does not describe its types (no BTF)"),
            Self::BtfShape { what } => {
                write!(f, "this kernel's {} is missing or has a shape that memtrace does not know", text(what))
            }
            Self::NoTracefs => f.write_str("tracefs is not mounted"),
            Self::PidNamespace => f.write_str(
                "memtrace runs in a PID namespace of its own: the probes see the machine's process ids, not those seen here",
            ),
            Self::OldKernel { release, missing } => {
                write!(f, "kernel {} lacks {}", text(release), text(missing))
            }
            Self::MemlockLimit { limit } => {
                write!(f, "the probes' tables do not fit into RLIMIT_MEMLOCK ({limit} bytes)")
            }
            Self::NoLiveFeature => f.write_str("this memtrace was built without probes: it can only replay"),
            Self::NoSpanFile { path, why } => write!(f, "{}: {}", text(path), text(why)),
            Self::NotAProgram { path } => {
                write!(f, "{} is no program or library of 64-bit x86, or a broken one", text(path))
            }
            Self::NoSpanFunction { path, function, several: true, .. } => {
                write!(f, "{} has several functions that {} may mean", text(path), text(function))
            }
            Self::NoSpanFunction { path, function, .. } => {
                write!(f, "{} has no function named {}", text(path), text(function))
            }
            Self::SpanWithoutEnd { path, begin, end } => write!(
                f,
                "{} and {} are the same code in {}: every call of it would begin the span and end it",
                text(begin),
                text(end),
                text(path)
            ),
            Self::NoKnownServer { program } => {
                write!(f, "{} is neither PostgreSQL nor MariaDB or MySQL: its statements are not known", text(program))
            }
            Self::ServerRefused { program, why } => {
                write!(f, "the statements of {} cannot be seen: {}", text(program), text(why))
            }
            Self::TooManySpans { most } => write!(f, "more than {most} spans at once, those of a database included"),
            Self::FileExists { path } => write!(f, "{} is there already", text(path)),
            Self::NotATrace { path } => write!(f, "{} is not a memtrace trace", text(path)),
            Self::NotASnapshot { path, what } => write!(f, "{}: {}", text(path), text(what)),
            Self::TraceVersion { path, found, expected } => {
                write!(f, "{} is a trace of version {found}; this memtrace reads version {expected}", text(path))
            }
            Self::Loss { total } => write!(f, "{total} lost, and --fail-on-loss was given"),
        }
    }
}

impl std::error::Error for Failure {}

/// An error as it goes to stderr: what happened, then what to do, one line each.
#[must_use]
pub fn render(failure: &Failure) -> String {
    let mut text = format!("memtrace: {failure}\n");
    for line in failure.advice() {
        text.push_str("  try: ");
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// What a cause tells its reader, where it is more than its name.
#[must_use]
pub const fn for_cause(cause: Cause) -> Option<&'static str> {
    Some(match cause {
        Cause::FaultShmem => {
            "shared pages, PostgreSQL's shared_buffers for one, are in the RES of every process that touched them, but exist once"
        }
        Cause::FaultThp => "huge pages come whole, used or not: cat /sys/kernel/mm/transparent_hugepage/enabled",
        Cause::FaultCow => {
            "after a fork, and in private mappings of files, the first write to a page makes a copy of it"
        }
        Cause::FaultFileRead => "each of these waited for the disk; a warm page cache avoids them",
        Cause::FaultSwapin => "this memory was pushed out before: `vmstat 1` (si, so) shows whether it goes on",
        Cause::Khugepaged => {
            "the kernel fills gaps to make a huge page: cat /sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none"
        }
        Cause::MadviseFree => "the allocator gave these up earlier; RES falls only when the kernel needs them",
        Cause::ReclaimKswapd => {
            "the machine runs out of free memory: cat /proc/pressure/memory, then find who grows: top -o RES"
        }
        Cause::ReclaimDirect => {
            "processes wait while the kernel looks for free memory: cat /proc/pressure/memory; find who grows: top -o RES"
        }
        Cause::ReclaimMemcg => {
            "its cgroup is at its limit: compare memory.current with memory.max (cgroup v1: memory.usage_in_bytes, memory.limit_in_bytes)"
        }
        Cause::OomReaper => "the process is being killed for want of memory: dmesg | grep -i oom",
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
