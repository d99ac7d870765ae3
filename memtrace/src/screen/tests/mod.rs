//! The screen on a buffer.

pub(super) mod sample;
