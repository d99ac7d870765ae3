//! Snapshots as text, NDJSON, CSV and pictures.

mod group;
pub mod json;
mod labels;
mod notes;
#[cfg(test)]
pub(crate) mod sample;
mod table;
mod tables;
mod text;

pub use text::{Page, render};

#[cfg(test)]
mod tests;
