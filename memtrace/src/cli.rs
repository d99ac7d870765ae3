//! The command line: every flag, parsed into plain structs. Reads no environment and opens no file; what cannot
//! be meant is refused here with what to type instead.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

mod snapshot;
mod spans;
mod stuck;
mod values;

use snapshot::SnapshotArgs;
pub use snapshot::{By, Format, PictureScale, ReadOptions, ShowOptions, SnapshotOptions, Sort, Subject, Typed};
use spans::SpanArgs;
pub use spans::{SpanOptions, SpanPoint};
use stuck::StuckArgs;
pub use stuck::{Dsn, StuckOptions};
use values::{parse_bytes, parse_duration, parse_interval};

/// How the program ends. A command started by memtrace passes its own status through instead.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// Done; also when the reader of our output went away.
    Done = 0,
    /// Something failed that has no code of its own.
    Failure = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No such process, or it cannot be watched.
    NoSuchTarget = 3,
    /// A right is missing.
    NotPermitted = 4,
    /// This kernel cannot be used.
    KernelNotUsable = 5,
    /// Something was lost under `--fail-on-loss`.
    Loss = 6,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `memtrace --pid N`, `memtrace -- CMD`: watch and print.
    Watch {
        /// What to watch.
        target: Target,
        /// How to watch.
        trace: TraceOptions,
        /// How to print.
        output: OutputOptions,
    },
    /// `memtrace record`: watch and keep the events.
    Record {
        /// What to watch.
        target: Target,
        /// How to watch.
        trace: TraceOptions,
        /// The trace file.
        file: PathBuf,
        /// Overwrite it.
        force: bool,
        /// How to print the closing statement.
        output: OutputOptions,
    },
    /// `memtrace replay`: print what a live session would have printed.
    Replay {
        /// The trace file.
        file: PathBuf,
        /// How to print.
        output: OutputOptions,
    },
    /// `memtrace snapshot`: where the memory is now.
    Snapshot(Box<SnapshotOptions>),
    /// `memtrace stuck`: why a process does not move.
    Stuck(StuckOptions),
    /// `memtrace doctor`: what this machine allows.
    Doctor {
        /// As one JSON object.
        json: bool,
        /// Colours.
        color: ColorChoice,
    },
}

/// What to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A running process.
    Pid(u32),
    /// A command to start, with its arguments; never empty.
    Command(Vec<OsString>),
}

/// How to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceOptions {
    /// Distance of ticks.
    pub interval: Duration,
    /// End after this.
    pub duration: Option<Duration>,
    /// Also children.
    pub follow: bool,
    /// Distance of audits; `None` for none.
    pub smaps_interval: Option<Duration>,
    /// Longest time that one reading of smaps may take.
    pub max_snapshot: Duration,
    /// Ask the kernel to time our probes.
    pub bpf_stats: bool,
    /// No probes at all: differences of /proc.
    pub no_bpf: bool,
    /// Copy and unwind call stacks.
    pub stacks: bool,
    /// Also where the threads' time goes.
    pub time: bool,
    /// The screen may do so without being asked.
    pub may_time: bool,
    /// Which spans to tell of.
    pub spans: SpanOptions,
    /// How to ask the target's database server.
    pub pg: Option<Dsn>,
    /// `-v`s given.
    pub verbose: u8,
}

/// How to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputOptions {
    /// NDJSON instead of text.
    pub json: bool,
    /// Instead of stdout.
    pub file: Option<PathBuf>,
    /// Overwrite it.
    pub force: bool,
    /// Colours.
    pub color: ColorChoice,
    /// Smallest change worth a paragraph, bytes.
    pub threshold_bytes: Option<u64>,
    /// Exit code 6 when something was lost.
    pub fail_on_loss: bool,
    /// More lines in the text.
    pub verbose: bool,
    /// Print these reports and nothing else.
    pub only: Option<Only>,
    /// On a terminal, text instead of the screen.
    pub no_screen: bool,
}

/// Reports that may be asked for alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// Bursts.
    Bursts,
    /// Where the threads' time went, of the whole session.
    Stuck,
    /// Spans, and what was lost.
    Spans,
}

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl ColorChoice {
    /// Whether to colour, given whether the output is a terminal and the value of the variable NO_COLOR.
    #[must_use]
    pub fn enabled(self, is_terminal: bool, no_color: Option<&std::ffi::OsStr>) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            // https://no-color.org: any value but the empty one.
            Self::Auto => is_terminal && no_color.is_none_or(std::ffi::OsStr::is_empty),
        }
    }
}

/// Explains why a Linux process's resident memory changes, as it happens, to the byte.
#[derive(Debug, Parser)]
#[command(
    name = "memtrace",
    version,
    override_usage = "memtrace [OPTIONS] --pid <PID>\n       memtrace [OPTIONS] -- <COMMAND>...\n       memtrace <record|replay|snapshot|stuck|doctor> ...",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_help = AFTER_HELP
)]
struct Cli {
    #[command(subcommand)]
    subcommand: Option<Sub>,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    trace: TraceArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    talk: TalkArgs,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Watch a process and keep everything observed in a trace file.
    #[command(
        override_usage = "memtrace record [OPTIONS] -o <FILE> --pid <PID>\n       memtrace record [OPTIONS] -o <FILE> -- <COMMAND>..."
    )]
    Record {
        /// The trace file to write.
        #[arg(short = 'o', long = "output", value_name = "FILE")]
        file: PathBuf,
        /// Overwrite the file if it is there.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        target: TargetArgs,
        #[command(flatten)]
        trace: TraceArgs,
        #[command(flatten)]
        talk: TalkArgs,
    },
    /// Print what a live session would have printed, from a trace file.
    Replay {
        /// The trace file to read.
        #[arg(value_name = "FILE")]
        trace: PathBuf,
        /// Print nothing but statements and other spans, where they were recorded: what `--statements` prints live.
        #[arg(long)]
        statements: bool,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        talk: TalkArgs,
    },
    /// Say where a process's memory is now: by kind, mapping, file and physical page. Loads no probes.
    #[command(
        override_usage = "memtrace snapshot [OPTIONS] --pid <PID> [--pid <PID>...]\n       memtrace snapshot [OPTIONS] --name <NAME>\n       memtrace snapshot [OPTIONS] --cgroup <PATH>\n       memtrace snapshot [OPTIONS] --diff <BEFORE> <AFTER>",
        after_help = snapshot::AFTER_HELP
    )]
    Snapshot(Box<SnapshotArgs>),
    /// Say why a process does not move: where its threads' time goes, what they wait for, and whether memory is the reason.
    Stuck(StuckArgs),
    /// Say what this machine allows, and what to type if it does not.
    Doctor {
        /// One JSON object on standard output.
        #[arg(long)]
        json: bool,
        /// Colours in the text.
        #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
        color: ColorChoice,
    },
}

#[derive(Debug, Args)]
struct TargetArgs {
    /// The running process to watch.
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pid: Option<u32>,
    /// A command to start and watch from its first page on; its exit status is passed through.
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "pid")]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Watching")]
struct TraceArgs {
    /// How often the books are closed, such as 100ms (10ms to 1h).
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse_interval)]
    interval: Duration,
    /// End after this time, such as 30s or 5m.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Watch children as well, those that are there and those to come, each with books of its own.
    #[arg(long)]
    follow: bool,
    /// How often the books are compared with /proc/PID/smaps; 0 for never.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    smaps_interval: Duration,
    /// Longest time that one comparison may take, in milliseconds; larger targets are compared less often or not at all.
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    max_snapshot_ms: u64,
    /// Do not ask the kernel to time our probes, one interval in ten (the timing slows every BPF program on the machine).
    #[arg(long)]
    no_bpf_stats: bool,
    /// Load no probes: say how RES changes from /proc alone, without the causes. Needs no rights for one's own processes.
    #[arg(long, conflicts_with = "follow")]
    no_bpf: bool,
    /// Also keep where the threads' time goes and what they wait for: the answer of `memtrace stuck`, at the end.
    #[arg(long, conflicts_with_all = ["no_time", "no_bpf"])]
    time: bool,
    /// On the screen: do not watch where the threads' time goes.
    #[arg(long)]
    no_time: bool,
    /// Do not copy call stacks: of the code that touched memory only the instruction is known.
    #[arg(long)]
    no_stacks: bool,
    #[command(flatten)]
    spans: SpanArgs,
}

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Output")]
struct OutputArgs {
    /// NDJSON instead of text: one object a line (docs/ndjson.md).
    #[arg(long)]
    json: bool,
    /// Write to this file instead of standard output.
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Overwrite the file if it is there.
    #[arg(long, requires = "file")]
    force: bool,
    /// Smallest change worth a paragraph of text, such as 64K or 1M [default: the larger of 256K and 0.5 % of RES].
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    threshold: Option<u64>,
    /// Print nothing but bursts: when, how much, by which code, and what that means.
    #[arg(long)]
    burst_only: bool,
    /// On a terminal: text, line by line, instead of the screen.
    #[arg(long)]
    no_screen: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
struct TalkArgs {
    /// Colours in the text; `auto` means on a terminal, unless NO_COLOR is set.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    color: ColorChoice,
    /// End with exit code 6 when anything was lost.
    #[arg(long)]
    fail_on_loss: bool,
    /// Say more: mappings and threads as they come and go, whole stacks, the probes' own messages; twice for debugging.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

const AFTER_HELP: &str = "\
Examples:
  memtrace --pid 4711                     why the RES of process 4711 changes, as it happens
  memtrace -- ./server --port 80          the same from the program's start
  memtrace record -o run.memtrace --pid 4711   keep it; then: memtrace replay run.memtrace
  memtrace stuck --pid 4711               why it does not move, and whether memory is the reason
  memtrace --statements --follow --pid 4711    what each statement of PostgreSQL's backends does to memory

Exit codes:
  0 done, 1 failure, 2 usage, 3 no such target, 4 not permitted, 5 kernel not usable,
  6 loss under --fail-on-loss; a command started by memtrace passes its own status through.";

/// Parses a command line, program name first.
///
/// # Errors
/// What clap has to say, help and version included; [`clap::Error::exit`] prints it and ends with 0 or
/// [`ExitCode::Usage`].
pub fn parse<I, T>(arguments: I) -> Result<Request, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let Cli { subcommand, target, trace, output, talk } = Cli::try_parse_from(arguments).map_err(with_dashes)?;
    Ok(match subcommand {
        None => {
            let target = target.target("memtrace")?;
            let trace = trace.options(&talk)?;
            let output = output.of_spans(trace.spans.any(), &talk)?;
            Request::Watch { target, trace, output }
        }
        Some(Sub::Record { file, force, target, trace, talk }) => Request::Record {
            target: target.target("memtrace record -o FILE")?,
            trace: trace.options(&talk)?,
            file,
            force,
            output: OutputArgs { no_screen: true, ..OutputArgs::default() }.options(&talk),
        },
        Some(Sub::Replay { trace: file, statements, output, talk }) => {
            if output.file.as_ref() == Some(&file) {
                return Err(usage("the output would overwrite the trace; give -o another file"));
            }
            Request::Replay { file, output: output.of_spans(statements, &talk)? }
        }
        Some(Sub::Snapshot(arguments)) => Request::Snapshot(Box::new(arguments.options()?)),
        Some(Sub::Stuck(arguments)) => Request::Stuck(arguments.options()?),
        Some(Sub::Doctor { json, color }) => Request::Doctor { json, color },
    })
}

/// The command line's definition, from which the man pages are made.
#[must_use]
pub fn definition() -> clap::Command {
    Cli::command()
}

/// `memtrace ./server` is refused by clap; what was meant is `memtrace -- ./server`.
fn with_dashes(mut error: clap::Error) -> clap::Error {
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg)
        && !argument.starts_with('-')
    {
        if argument.contains("password") {
            // The rest of a connection string that was not quoted: whoever reads the terminal's log need not know it.
            error.insert(ContextKind::InvalidArg, ContextValue::String("password=…".to_owned()));
            let tip = StyledStr::from("to name a server, quote the connection string: --pg 'host=… user=…'");
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
            return error;
        }
        let tip = StyledStr::from(format!("to start a command, write `--` before it: memtrace -- {argument}"));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

fn usage(message: &str) -> clap::Error {
    Cli::command().error(ErrorKind::ValueValidation, message)
}

impl TargetArgs {
    fn target(self, prefix: &str) -> Result<Target, clap::Error> {
        match (self.pid, self.command) {
            (Some(pid), _) => Ok(Target::Pid(pid)),
            (None, command) if !command.is_empty() => Ok(Target::Command(command)),
            (None, _) => {
                let message =
                    format!("nothing to watch; type one of\n  {prefix} --pid PID\n  {prefix} -- COMMAND ARGS…");
                Err(Cli::command().error(ErrorKind::MissingRequiredArgument, message))
            }
        }
    }
}

impl TraceArgs {
    fn options(self, talk: &TalkArgs) -> Result<TraceOptions, clap::Error> {
        Ok(TraceOptions {
            interval: self.interval,
            duration: self.duration,
            follow: self.follow,
            smaps_interval: Some(self.smaps_interval).filter(|interval| !interval.is_zero()),
            max_snapshot: Duration::from_millis(self.max_snapshot_ms),
            bpf_stats: !self.no_bpf_stats,
            no_bpf: self.no_bpf,
            stacks: !self.no_stacks && !self.no_bpf,
            time: self.time,
            may_time: !self.no_time && !self.no_bpf,
            spans: self.spans.options()?,
            pg: None,
            verbose: talk.verbose,
        })
    }
}

impl OutputArgs {
    /// Where spans are asked for, nothing else is printed, unless more is asked for.
    fn of_spans(self, spans: bool, talk: &TalkArgs) -> Result<OutputOptions, clap::Error> {
        if spans && self.burst_only {
            return Err(usage("--burst-only leaves out what --statements and --span print; type one of them"));
        }
        let options = self.options(talk);
        let only = (spans && !options.verbose).then_some(Only::Spans);
        Ok(OutputOptions { only: options.only.or(only), no_screen: options.no_screen || spans, ..options })
    }

    fn options(self, talk: &TalkArgs) -> OutputOptions {
        OutputOptions {
            json: self.json,
            file: self.file,
            force: self.force,
            color: talk.color,
            threshold_bytes: self.threshold,
            fail_on_loss: talk.fail_on_loss,
            verbose: talk.verbose > 0,
            only: self.burst_only.then_some(Only::Bursts),
            no_screen: self.no_screen,
        }
    }
}

#[cfg(test)]
mod tests;
