//! The live room: the only one that knows aya, and the only one that touches the kernel's probes.

mod batch;
pub mod btf;
pub mod layout;
pub mod observer;
mod own;
pub mod probes;
