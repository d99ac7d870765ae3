//! Snapshots as text, NDJSON, CSV and pictures.
