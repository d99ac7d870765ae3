//! Call stacks: what they are made of.

pub mod names;
