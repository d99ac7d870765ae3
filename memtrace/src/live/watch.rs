//! A session and who takes its events, each on a thread of its own: a slow reader of our output or the naming of a large
//! program must not keep the probes' maps from being drained.

use super::session::Session;
use crate::cli::{Target, TraceOptions};
use crate::event::{CodeId, Event, Naming, Unnamed};
use crate::stacks::names::Names;
use crate::stacks::names::NewCode;
use anyhow::{Context as _, Result, anyhow};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use tokio::sync::Notify;

/// Takes the events of an interval, in order. `BrokenPipe` ends the session as if it had been interrupted.
pub type Sink<'a> = dyn FnMut(&[Event]) -> Result<()> + 'a;

/// How a session ended.
pub struct Outcome {
    /// Status of the command that memtrace started, as a shell has it; `None` for an attached process.
    pub status: Option<u8>,
    /// The command goes on, as this process, although nobody watches it any more.
    pub left_running: Option<u32>,
}

/// Ends a session from another thread, as SIGINT does.
#[derive(Clone, Default)]
pub struct Stop(Arc<Notify>);

impl Stop {
    /// Ends it at the next opportunity; before it has begun, at once.
    pub fn stop(&self) {
        self.0.notify_one();
    }

    pub(super) async fn stopped(&self) {
        self.0.notified().await;
    }
}

/// Intervals that may wait for their reader. When that many do, the probes' maps wait, too, and may run full.
const INTERVALS_WAITING: usize = 64;

/// What a session says at a time.
pub(super) struct Interval {
    pub(super) events: Vec<Event>,
    /// Where the names of the code are that is new.
    pub(super) code: HashMap<CodeId, NewCode>,
}

/// Where a session puts its intervals.
pub(super) struct Intervals(SyncSender<Interval>);

impl Intervals {
    /// True when it was taken; false when nobody takes any more.
    pub(super) fn send(&self, interval: Interval) -> bool {
        self.0.send(interval).is_ok()
    }
}

/// Watches a target until it ends, the user ends it, or the time is over.
///
/// # Errors
/// The target cannot be watched, the kernel refuses, or the sink fails.
pub fn watch(target: &Target, options: &TraceOptions, stop: &Stop, sink: &mut Sink<'_>) -> Result<Outcome> {
    std::thread::scope(|scope| {
        let (sender, intervals) = sync_channel(INTERVALS_WAITING);
        let session = std::thread::Builder::new()
            .name("session".to_owned())
            .spawn_scoped(scope, move || Session::watch(target, options, stop, &Intervals(sender)))
            .context("failed to start a thread")?;
        let mut taken = Ok(());
        let mut names = Names::new();
        for Interval { mut events, code } in &intervals {
            names.name_all(&mut events, &code);
            count_cost(&mut events, names.cpu_ns());
            if let Some(Event::End(end)) = events.last_mut() {
                end.naming = naming(&mut names);
            }
            taken = sink(&events);
            if taken.is_err() {
                break;
            }
        }
        // It would notice only when it has something to say.
        stop.stop();
        drop(intervals);
        let outcome = session.join().map_err(|_| anyhow!("the session's thread panicked"))?;
        match taken {
            Err(error) if !is_broken_pipe(&error) => Err(error),
            _ => outcome,
        }
    })
}

fn naming(names: &mut Names) -> Naming {
    let unnamed = names.hints().into_iter();
    let unnamed = unnamed.map(|hint| Unnamed { advice: hint.line(), places: hint.unnamed, module: hint.module });
    Naming { unnamed: unnamed.collect(), failures: names.failures() }
}

/// Who reads symbols is a process of its own: what it costs is our cost.
fn count_cost(events: &mut [Event], cpu_ns: u64) {
    for event in events {
        if let Event::Tick(tick) = event {
            tick.own.cpu_ns += cpu_ns;
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}
