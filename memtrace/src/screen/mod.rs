//! The live screen: what the reports say, on a terminal, with the past at hand.
//!
//! [`App`] is a function of the reports that it took and the keys that it got: it reads no clock, no file and no
//! environment, so a recording shows what the live session showed, and a test can ask it anything. Only [`run`] knows
//! that there is a terminal: it gives the keys to the App, draws it, writes the files that are asked for, and puts the
//! terminal back whatever happens.
//!
//! What is kept: twelve thousand statements of a process (twenty minutes of one that changes ten times a second) and at
//! most 80,000 entries in them; beyond, the older half is joined in pairs, so the past never ends but becomes coarser.

mod app;
mod export;
mod keys;
mod moments;
mod names;
mod panes;
mod process;
mod scope;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the terminal is the outside")]
mod terminal;
#[cfg(test)]
mod tests;
mod theme;
mod times;
mod tree;
mod words;

pub use app::{App, Options, Reaction, Save};
pub use terminal::{Feed, Left, is_possible, run};
