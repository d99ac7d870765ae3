//! Snapshots as text, NDJSON, CSV and pictures.

pub mod json;
#[cfg(test)]
pub(crate) mod sample;
