//! Snapshots as text, NDJSON, CSV and pictures.

mod blocks;
pub mod json;
pub mod picture;
#[cfg(test)]
pub(crate) mod sample;
pub mod svg;
