//! Snapshots as text, NDJSON, CSV and pictures.

mod blocks;
pub mod picture;
pub mod svg;
