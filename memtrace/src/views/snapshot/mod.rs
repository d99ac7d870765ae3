//! Snapshots as text, NDJSON, CSV and pictures.

mod blocks;
pub mod csv;
pub mod diff;
mod group;
pub mod json;
mod labels;
pub mod notes;
pub mod picture;
#[cfg(test)]
pub(crate) mod sample;
mod seen;
pub mod svg;
mod table;
mod tables;
mod text;
mod twice;

pub use group::missing;
pub use text::{Page, render, render_group_notes, render_text};

#[cfg(test)]
mod tests;
