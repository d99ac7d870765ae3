//! The terminal: keys in, pictures out, and back to how it was, whatever happens.

use super::app::{App, Options, Reaction, Save};
use crate::statement::Report;
use anyhow::{Context as _, Result};
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::{Terminal, backend::CrosstermBackend};
use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Stdout, Write as _};
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

/// How long a key is waited for before reports are looked for again.
const PATIENCE: Duration = Duration::from_millis(50);
/// Least time between two pictures that no key asked for: who reads needs no more, and drawing costs.
const FRAME: Duration = Duration::from_millis(250);
/// Longest time that reports are taken before keys are looked at again.
const GREED: Duration = Duration::from_millis(40);
/// Files of one name that are tried.
const SAVES: u32 = 1_000;

/// What the session says to the screen.
#[derive(Debug)]
pub enum Feed {
    /// What the model said, in its order.
    Reports(Vec<Report>),
    /// The session is over; nothing follows.
    Ended,
}

/// How the screen was left.
#[derive(Debug, Default)]
pub struct Left {
    /// Meta, closings and end of the session, to be printed on the terminal as it was: empty where it had no end.
    pub closing: Vec<Report>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// There is a terminal to draw on and to read keys from, and it can do more than print.
#[must_use]
pub fn is_possible() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    io::stdout().is_terminal() && io::stdin().is_terminal() && !dumb
}

/// Shows a session until the user leaves. `stop` asks the session to end; it must then send [`Feed::Ended`] (a sender
/// that is dropped counts as that). A signal (INT, TERM, HUP) does what `q` does.
///
/// # Errors
/// What the terminal answered. It is put back in any case, also when something panics.
pub fn run(feed: Receiver<Feed>, stop: Box<dyn Fn() + '_>, options: Options) -> Result<Left> {
    let signal = Signals::catch()?;
    let mut screen = Screen::enter()?;
    let mut app = App::new(options);
    let outcome = show(&feed, &*stop, &signal, &mut screen, &mut app);
    if outcome.is_err() {
        stop();
    }
    screen.leave();
    outcome?;
    Ok(Left { closing: app.closing(), signal: signal.caught() })
}

fn show(feed: &Receiver<Feed>, stop: &dyn Fn(), signal: &Signals, screen: &mut Screen, app: &mut App) -> Result<()> {
    let mut drawn = Instant::now() - FRAME;
    let (mut stale, mut asked) = (true, true);
    let mut leaving = false;
    loop {
        if signal.caught().is_some() && !leaving {
            leaving = true;
            stop();
        }
        stale |= take(feed, app);
        if app.over && (leaving || app.was_interrupted() && !app.is_replay()) {
            return Ok(());
        }
        if asked || stale && drawn.elapsed() >= FRAME {
            screen.terminal.draw(|frame| app.draw(frame)).context("failed to draw on the terminal")?;
            (drawn, stale, asked) = (Instant::now(), false, false);
        }
        if !wait_for_input()? {
            // The terminal is gone: there is nobody to show anything.
            stop();
            while !app.over {
                std::thread::sleep(PATIENCE);
                take(feed, app);
            }
            return Ok(());
        }
        // Keys come in batches: when the terminal has no more, crossterm may still have some.
        while event::poll(Duration::ZERO).context("failed to read the terminal")? {
            asked = true;
            let Event::Key(key) = event::read().context("failed to read the terminal")? else { continue };
            match app.key(key) {
                Reaction::Draw => {}
                // Who asks twice does not want to wait for the session.
                Reaction::Quit if leaving => return Ok(()),
                Reaction::Quit => {
                    leaving = true;
                    if !app.over {
                        stop();
                    }
                }
                Reaction::Suspend => screen.suspend()?,
                Reaction::Save(save) => app.saved(write(&save)),
            }
        }
    }
}

/// Waits a moment for input. False when the terminal is gone, from which crossterm would read nothing for ever.
fn wait_for_input() -> Result<bool> {
    let mut input = libc::pollfd { fd: libc::STDIN_FILENO, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd; standard input need not even be open.
    if unsafe { libc::poll(&raw mut input, 1, PATIENCE.as_millis() as libc::c_int) } < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted {
            Ok(true)
        } else {
            Err(error).context("failed to wait")
        };
    }
    Ok(input.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) == 0)
}

/// Takes what is there; true when something was.
fn take(feed: &Receiver<Feed>, app: &mut App) -> bool {
    let begin = Instant::now();
    let mut taken = false;
    while !app.over && begin.elapsed() < GREED {
        match feed.try_recv() {
            Ok(Feed::Reports(reports)) => reports.iter().for_each(|report| app.take(report)),
            Ok(Feed::Ended) | Err(TryRecvError::Disconnected) => app.ended(),
            Err(TryRecvError::Empty) => break,
        }
        taken = true;
    }
    taken
}

/// Writes a file that was not there before; its name.
fn write(save: &Save) -> Result<String, String> {
    for number in 1..=SAVES {
        let more = if number > 1 { format!("-{number}") } else { String::new() };
        let name = format!("{}{more}.{}", save.stem, save.extension);
        match OpenOptions::new().write(true).create_new(true).open(&name) {
            Ok(mut file) => {
                return file.write_all(&save.contents).map(|()| name).map_err(|error| error.to_string());
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(format!("{name}: {error}")),
        }
    }
    Err(format!("there are {SAVES} files {}.{} already", save.stem, save.extension))
}

/// The terminal while it is ours.
struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

/// The terminal is ours: what a panic has to undo.
static OURS: AtomicBool = AtomicBool::new(false);

impl Screen {
    fn enter() -> Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                before(panic);
            }));
        });
        take_terminal()?;
        // From here on, what fails must give the terminal back: so does dropping.
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout())).context("failed to use the terminal");
        if terminal.is_err() {
            restore();
        }
        Ok(Self { terminal: terminal? })
    }

    fn leave(&mut self) {
        let _ = self.terminal.show_cursor();
        restore();
    }

    /// Gives the terminal to the shell until that continues us.
    fn suspend(&mut self) -> Result<()> {
        self.leave();
        // Stops every thread of this process; returns when it is continued.
        let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGTSTP);
        take_terminal()?;
        self.terminal.clear().context("failed to draw on the terminal")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

fn take_terminal() -> Result<()> {
    OURS.store(true, Ordering::SeqCst);
    let taken = enable_raw_mode().and_then(|()| execute!(io::stdout(), EnterAlternateScreen));
    if taken.is_err() {
        restore();
    }
    taken.context("failed to use the terminal")
}

/// Once for each time that it was taken. What fails here has nobody to tell.
fn restore() {
    if OURS.swap(false, Ordering::SeqCst) {
        let _ = execute!(io::stdout(), LeaveAlternateScreen, ratatui::crossterm::cursor::Show);
        let _ = disable_raw_mode();
    }
}

/// Signals that would leave the terminal as it is.
struct Signals {
    caught: Arc<AtomicUsize>,
    handlers: Vec<signal_hook::SigId>,
}

impl Signals {
    fn catch() -> Result<Self> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let mut signals = Self { caught: Arc::default(), handlers: Vec::new() };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let caught = Arc::clone(&signals.caught);
            let handler = signal_hook::flag::register_usize(signal, caught, signal as usize);
            signals.handlers.push(handler.context("failed to answer signals")?);
        }
        Ok(signals)
    }

    fn caught(&self) -> Option<i32> {
        i32::try_from(self.caught.load(Ordering::SeqCst)).ok().filter(|&signal| signal != 0)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for &handler in &self.handlers {
            signal_hook::low_level::unregister(handler);
        }
    }
}
