//! `memtrace stuck`: its flags and what they mean.

use super::values::parse_duration;
use super::{Only, OutputArgs, OutputOptions, SpanOptions, TalkArgs, Target, TraceOptions, usage};
use clap::Args;
use clap::builder::TypedValueParser as _;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// `memtrace stuck`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StuckOptions {
    /// Whom to watch.
    pub target: Target,
    /// How.
    pub trace: TraceOptions,
    /// How to print the answer.
    pub output: OutputOptions,
}

/// What is said of a `--pg` that makes no sense: any part of it could be the password, and nothing of it is repeated.
#[cfg(feature = "pg")]
const NO_DSN: &str = "--pg is no connection string; one is 'host=localhost user=monitor dbname=postgres'";
/// The first one ends the password: what follows would be taken for the host, and hosts are named.
const ONE_AT: &str = "--pg has more than one @, and the first one ends user and password: write any other as %40";

/// A connection string of a PostgreSQL server, which may hold a password: it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Dsn(String);

impl Dsn {
    /// What is wrong with it, as far as anybody knows who cannot ask.
    pub(crate) fn flaw(&self) -> Option<&'static str> {
        #[cfg(feature = "pg")]
        if self.0.parse::<tokio_postgres::Config>().is_err() {
            return Some(NO_DSN);
        }
        let is_url = ["postgres://", "postgresql://"].iter().any(|begin| self.0.starts_with(begin));
        (is_url && self.0.bytes().filter(|&byte| byte == b'@').count() > 1).then_some(ONE_AT)
    }

    /// As it was typed.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Dsn {
    fn from(typed: String) -> Self {
        Self(typed)
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dsn(…)")
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "The process is watched from outside: it may be stuck since long, and need not run again. SIGINT ends the window \
                  early, with an answer."
)]
pub(super) struct StuckArgs {
    /// The process that does not move.
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pid: u32,
    /// How long to look, such as 5s or 1m: less says less.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    duration: Duration,
    /// Also ask the PostgreSQL server whose backend it is who holds what it waits for: a connection string such as
    /// 'host=localhost user=monitor'; without a host, the socket of the process's own server. A password in it is seen by
    /// whoever may list processes: PGPASSWORD is not. No TLS. A server that does not answer within 2 s costs a line.
    #[arg(long, value_name = "DSN", value_parser = clap::builder::StringValueParser::new().map(Dsn::from))]
    pg: Option<Dsn>,
    /// NDJSON instead of text: one object a process (docs/ndjson.md).
    #[arg(long)]
    json: bool,
    /// Write to this file instead of standard output.
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Overwrite the file if it is there.
    #[arg(long, requires = "file")]
    force: bool,
    #[command(flatten)]
    talk: TalkArgs,
}

impl StuckArgs {
    pub(super) fn options(self) -> Result<StuckOptions, clap::Error> {
        if self.duration < Duration::from_millis(100) {
            return Err(usage("--duration is too short to see anything: 100ms is the least"));
        }
        if let Some(flaw) = self.pg.as_ref().and_then(Dsn::flaw) {
            return Err(usage(flaw));
        }
        let trace = TraceOptions {
            interval: Duration::from_millis(100).min(self.duration),
            duration: Some(self.duration),
            follow: false,
            // Its lock may be what everybody waits for.
            smaps_interval: None,
            max_snapshot: Duration::from_millis(50),
            bpf_stats: false,
            no_bpf: false,
            stacks: true,
            time: true,
            may_time: true,
            spans: SpanOptions::default(),
            pg: self.pg,
            verbose: self.talk.verbose,
        };
        let output = OutputArgs { json: self.json, file: self.file, force: self.force, ..OutputArgs::default() };
        let output = OutputOptions { only: Some(Only::Stuck), no_screen: true, ..output.options(&self.talk) };
        Ok(StuckOptions { target: Target::Pid(self.pid), trace, output })
    }
}
