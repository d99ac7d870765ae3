//! Wires the rooms: a request becomes a session, its events go through the model into a view. The only room that
//! knows everyone.

mod snapshot;
#[cfg(feature = "live")]
mod stuck;

use crate::cli::{ExitCode, OutputOptions, Request};
#[cfg(feature = "live")]
use crate::cli::{Only, Target, TraceOptions};
use crate::event::{End, EndReason, Event};
use crate::hints::Failure;
use crate::model::Model;
use crate::screen::{self, Feed};
use crate::statement::Report;
use crate::trace;
#[cfg(feature = "live")]
use crate::units::nanos;
#[cfg(feature = "live")]
use crate::views::human::duration;
use crate::views::{JsonView, TextOptions, TextView, View};
use anyhow::{Context as _, Result};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal as _, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

/// Does what was asked for. The status to exit with; errors are for [`complain`].
///
/// # Errors
/// Anything that keeps the request from being done; known failures are [`Failure`]s.
pub fn run(request: Request) -> Result<u8> {
    match request {
        #[cfg(feature = "live")]
        // What a command prints would be in the way of the screen.
        Request::Watch { target: target @ Target::Pid(_), trace, output } if on_screen(&output) => {
            watch_on_screen(&target, &trace, &output)
        }
        #[cfg(feature = "live")]
        Request::Watch { target, trace, output } => watch(&target, &trace, None, &output, false),
        #[cfg(feature = "live")]
        Request::Record { target, trace, file, force, output } => {
            let writer = trace::Writer::new(BufWriter::new(create(&file, force)?))?;
            watch(&target, &trace, Some(writer), &output, true)
        }
        #[cfg(feature = "live")]
        Request::Doctor { json, color } => crate::live::doctor(json, colored(color, true)),
        #[cfg(feature = "live")]
        Request::Stuck(options) => stuck::run(&options),
        #[cfg(not(feature = "live"))]
        Request::Watch { .. } | Request::Record { .. } | Request::Stuck(_) | Request::Doctor { .. } => {
            Err(Failure::NoLiveFeature.into())
        }
        Request::Replay { file, output } => replay(&file, &output),
        Request::Snapshot(options) => snapshot::run(&options),
    }
}

/// Prints an error to stderr with what to do about it; the status to exit with.
#[must_use]
pub fn complain(error: &anyhow::Error) -> u8 {
    let (text, code) = match error.downcast_ref::<Failure>() {
        Some(failure) => (crate::hints::render(failure), failure.exit_code()),
        None => {
            let text = crate::views::escape(format!("{error:#}").as_bytes(), 4000);
            (format!("memtrace: {text}\n"), ExitCode::Failure)
        }
    };
    // Nobody is left to tell when stderr is gone.
    let _ = io::stderr().write_all(text.as_bytes());
    code as u8
}

/// A model with the view that shows what it says.
struct Books {
    model: Model,
    view: Box<dyn View>,
    reports: Vec<Report>,
    lost: u64,
    /// It was told where the threads' time went.
    answered: bool,
}

impl Books {
    fn new(output: &OutputOptions, closing_only: bool) -> Result<Self> {
        let out: Box<dyn Write> = match &output.file {
            Some(path) => Box::new(create(path, output.force)?),
            None => Box::new(io::stdout()),
        };
        let out = BufWriter::with_capacity(1 << 16, out);
        let view: Box<dyn View> = if output.json {
            Box::new(JsonView::only(out, output.only))
        } else {
            let options = TextOptions {
                color: colored(output.color, output.file.is_none()),
                threshold_bytes: output.threshold_bytes,
                closing_only,
                only: output.only,
                verbose: output.verbose,
                width: width(output.file.is_none()),
                ..TextOptions::default()
            };
            Box::new(TextView::new(out, options))
        };
        Ok(Self { model: Model::new(), view, reports: Vec::new(), lost: 0, answered: false })
    }

    /// Takes events and shows what they lead to.
    fn take(&mut self, events: &[Event]) -> Result<()> {
        for event in events {
            if let Event::Tick(tick) = event {
                self.lost = tick.lost.total();
            }
            self.model.apply(event, &mut self.reports);
            for report in self.reports.drain(..) {
                self.answered |= matches!(&report, Report::Stuck(stuck) if stuck.whole);
                self.view.render(&report)?;
            }
        }
        Ok(self.view.flush()?)
    }
}

fn colored(choice: crate::cli::ColorChoice, to_stdout: bool) -> bool {
    let terminal = to_stdout && io::stdout().is_terminal();
    choice.enabled(terminal, std::env::var_os("NO_COLOR").as_deref())
}

/// Fewest columns that anything is written on.
const NARROWEST: usize = 40;

/// Columns of text: those of the terminal, but not more than what reads well.
fn width(to_stdout: bool) -> usize {
    let usual = TextOptions::default().width;
    terminal_width(to_stdout).map_or(usual, |columns| columns.clamp(NARROWEST, usual))
}

/// Columns of the terminal; `None` when it is none.
fn terminal_width(to_stdout: bool) -> Option<usize> {
    let terminal = (to_stdout && io::stdout().is_terminal()).then(ratatui::crossterm::terminal::size);
    terminal.and_then(Result::ok).map(|(columns, _)| columns.into())
}

fn create(path: &Path, force: bool) -> Result<File> {
    trace::create(path, force).map_err(|error| match error {
        trace::Error::Exists { path } => Failure::FileExists { path: path.display().to_string() }.into(),
        other => other.into(),
    })
}

#[cfg(feature = "live")]
fn watch(
    target: &Target,
    options: &TraceOptions,
    mut writer: Option<trace::Writer<BufWriter<File>>>,
    output: &OutputOptions,
    closing_only: bool,
) -> Result<u8> {
    let mut books = Books::new(output, closing_only)?;
    let mut greeting = greeting(target, options, output);
    let outcome = crate::live::watch(target, options, &crate::live::Stop::default(), &mut |events| {
        // The first events come when all probes are armed.
        if let Some(greeting) = greeting.take() {
            eprintln!("memtrace: {greeting}");
        }
        if let Some(writer) = &mut writer {
            for event in events {
                writer.push(event)?;
            }
            writer.end_frame()?;
        }
        books.take(events)
    })?;
    if let Some(writer) = writer {
        writer.finish()?.flush().context("failed to write the trace")?;
    }
    if let Some(pid) = outcome.left_running {
        eprintln!("memtrace: the command goes on unwatched, as process {pid}");
    }
    if output.only == Some(Only::Stuck) && !books.answered {
        anyhow::bail!("nothing was observed: it ended too soon");
    }
    verdict(output, books.lost, outcome.status)
}

/// What to tell who waits at a terminal for output that comes late; `None` where nobody does, or enough is printed.
#[cfg(feature = "live")]
fn greeting(target: &Target, options: &TraceOptions, output: &OutputOptions) -> Option<String> {
    let what = match output.only? {
        Only::Bursts => "bursts are told when they are over",
        Only::Stuck => "the answer comes at the end",
        Only::Spans => "each is told as it ends, and the slowest at the end",
    };
    let who = match target {
        Target::Pid(pid) => format!("process {pid}"),
        Target::Command(_) => "the command".to_owned(),
    };
    let length = options.duration.map_or_else(String::new, |length| format!(" for {}", duration(nanos(length))));
    io::stderr().is_terminal().then(|| format!("watching {who}{length}: {what}; ^C ends it"))
}

fn verdict(output: &OutputOptions, lost: u64, status: Option<u8>) -> Result<u8> {
    if output.fail_on_loss && lost > 0 {
        return Err(Failure::Loss { total: lost }.into());
    }
    Ok(status.unwrap_or(ExitCode::Done as u8))
}

fn replay(path: &Path, output: &OutputOptions) -> Result<u8> {
    let recording = Recording::open(path)?;
    if on_screen(output) {
        return replay_on_screen(recording, output);
    }
    let mut books = Books::new(output, false)?;
    let cut = recording.play(&mut |event| Ok(!give_up_quietly(books.take(std::slice::from_ref(&event)))?))?;
    if let Some(cut) = cut {
        eprintln!("memtrace: {cut}");
    }
    verdict(output, books.lost, None)
}

/// A screen can be shown, and nothing else was asked for.
fn on_screen(output: &OutputOptions) -> bool {
    let text = output.json || output.file.is_some() || output.only.is_some() || output.no_screen || output.verbose;
    !text && screen::is_possible()
}

/// Reports that are sent to the screen at once, and how many times as many may wait for it.
const REPORTS_SENT: usize = 256;
const REPORTS_WAITING: usize = 16;

/// Takes events; false when no more are wanted.
type Taker<'a> = dyn FnMut(&[Event]) -> Result<bool> + 'a;

/// What comes of a session that was shown on the screen.
struct Shown<T> {
    left: screen::Left,
    played: T,
    lost: u64,
}

/// Shows the events that `play` gives on the screen. `play` has a thread of its own, for the screen answers keys
/// whatever a session waits for. There is no screen before the first events, and so no error behind one.
fn on_the_screen<T: Send>(
    options: screen::Options,
    stop: impl Fn(),
    play: impl FnOnce(&mut Taker<'_>) -> Result<T> + Send,
) -> Result<Shown<T>> {
    let (sender, feed) = mpsc::sync_channel(REPORTS_WAITING);
    let (begun, beginning) = mpsc::sync_channel::<()>(1);
    std::thread::scope(|scope| {
        let player = scope.spawn(move || {
            let (mut model, mut reports, mut lost) = (Model::new(), Vec::new(), 0);
            // Nobody receives any more: the screen was left.
            let send = |reports: &mut Vec<Report>| sender.send(Feed::Reports(std::mem::take(reports))).is_ok();
            let played = play(&mut |events| {
                for event in events {
                    if let Event::Tick(tick) = event {
                        lost = tick.lost.total();
                    }
                    model.apply(event, &mut reports);
                }
                // Full when the screen has begun already.
                let _ = begun.try_send(());
                Ok((options.replay && reports.len() < REPORTS_SENT) || send(&mut reports))
            });
            send(&mut reports);
            // A sender that is gone says the same.
            let _ = sender.send(Feed::Ended);
            Ok::<_, anyhow::Error>((played?, lost))
        });
        let left = match beginning.recv() {
            Ok(()) => screen::run(feed, Box::new(stop), options),
            Err(_) => {
                drop(feed);
                Ok(screen::Left::default())
            }
        };
        let (played, lost) = player.join().map_err(|_| anyhow::anyhow!("the session's thread failed"))??;
        Ok(Shown { left: left?, played, lost })
    })
}

fn replay_on_screen(recording: Recording, output: &OutputOptions) -> Result<u8> {
    let stopped = AtomicBool::new(false);
    let options = screen::Options { color: colored(output.color, true), replay: true };
    let stop = || stopped.store(true, Ordering::Relaxed);
    let shown = on_the_screen(options, stop, |take| {
        recording.play(&mut |event| Ok(take(std::slice::from_ref(&event))? && !stopped.load(Ordering::Relaxed)))
    })?;
    print_closing(&shown.left.closing, output)?;
    if let Some(cut) = shown.played {
        eprintln!("memtrace: {cut}");
    }
    match shown.left.signal {
        Some(signal) => Ok(u8::try_from(128 + signal).unwrap_or(ExitCode::Failure as u8)),
        None => verdict(output, shown.lost, None),
    }
}

#[cfg(feature = "live")]
fn watch_on_screen(target: &Target, options: &TraceOptions, output: &OutputOptions) -> Result<u8> {
    let stop = crate::live::Stop::default();
    let options = &TraceOptions { time: options.time || options.may_time, ..options.clone() };
    let shown = on_the_screen(
        screen::Options { color: colored(output.color, true), replay: false },
        || stop.stop(),
        |take| {
            crate::live::watch(target, options, &stop, &mut |events| {
                // Nobody looks any more, as when a pipe is closed.
                if take(events)? { Ok(()) } else { Err(io::Error::from(io::ErrorKind::BrokenPipe).into()) }
            })
        },
    )?;
    print_closing(&shown.left.closing, output)?;
    verdict(output, shown.lost, shown.played.status)
}

/// The answer stays on the terminal after the screen is gone.
fn print_closing(reports: &[Report], output: &OutputOptions) -> Result<()> {
    let options = TextOptions {
        color: colored(output.color, true),
        closing_only: true,
        width: width(true),
        ..TextOptions::default()
    };
    let mut view = TextView::new(BufWriter::new(io::stdout()), options);
    let printed = reports.iter().try_for_each(|report| view.render(report)).and_then(|()| view.flush());
    give_up_quietly(printed.map_err(anyhow::Error::from)).map(|_| ())
}

/// A trace file.
struct Recording {
    path: String,
    reader: trace::Reader<BufReader<File>>,
}

impl Recording {
    fn open(path: &Path) -> Result<Self> {
        let shown = || path.display().to_string();
        let file = File::open(path).with_context(|| format!("failed to open {}", shown()))?;
        let reader = trace::Reader::new(BufReader::new(file)).map_err(|error| match error {
            trace::Error::NotATrace { .. } => Failure::NotATrace { path: shown() }.into(),
            trace::Error::NewerVersion { version } | trace::Error::OlderVersion { version } => {
                let (found, expected) = (version.into(), trace::FORMAT_VERSION.into());
                Failure::TraceVersion { path: shown(), found, expected }.into()
            }
            other => anyhow::Error::from(other).context(shown()),
        })?;
        Ok(Self { path: shown(), reader })
    }

    /// Gives all events to `take`, with an end where the recording lacks it, until that says false. What is wrong with
    /// the file, if anything.
    fn play(mut self, take: &mut dyn FnMut(Event) -> Result<bool>) -> Result<Option<String>> {
        let mut last_ns = 0;
        let mut ended = false;
        let mut damage = None;
        for event in &mut self.reader {
            match event {
                Ok(event) => {
                    match &event {
                        Event::Meta(meta) => last_ns = meta.ts_ns,
                        Event::Tick(tick) => last_ns = tick.ts_ns,
                        Event::End(_) => ended = true,
                        _ => {}
                    }
                    if !take(event)? {
                        return Ok(None);
                    }
                }
                Err(error) => damage = Some(error),
            }
        }
        let cut = match self.reader.end() {
            Some(trace::ReadEnd::Complete) => None,
            Some(trace::ReadEnd::Truncated { at_byte }) => {
                Some(format!("the trace is cut: what is complete ends at byte {at_byte}"))
            }
            None => damage.map(|error| format!("{error}")),
        };
        let Some(cut) = cut else { return Ok(None) };
        // Where only the file's own end is missing, the session has its end already.
        if !ended {
            take(Event::End(End::new(last_ns, EndReason::Truncated)))?;
        }
        let path = crate::views::escape(self.path.as_bytes(), 500);
        Ok(Some(format!("{path}: {cut}; everything before it was replayed")))
    }
}

/// The failure as the subcommand tells it.
fn within(error: anyhow::Error, command: &'static str) -> anyhow::Error {
    match error.downcast::<Failure>() {
        Ok(failure) => failure.within(command).into(),
        Err(other) => other,
    }
}

/// True when the reader of our output went away, which is no failure.
fn give_up_quietly(result: Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(false),
        Err(error) => match error.downcast_ref::<io::Error>() {
            Some(io_error) if io_error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
            _ => Err(error),
        },
    }
}
