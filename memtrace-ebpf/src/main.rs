//! The probes. They hang on tracepoints only, so that they survive kernel versions, hardened kernels and lockdown.
//!
//! A counter change (`rss_stat`) is booked at once in a record keyed by who, where and why; the program swaps
//! record maps at each interval and drains the idle one. Only mapping calls and lives of tasks go through the ring.
//! No map is written by two threads under one key, so nothing here needs a lock.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(clippy::missing_safety_doc)]

mod kernel;
mod maps;
mod probes;
mod record;
mod slot;
mod vma;
mod why;

/// The kernel accepts GPL-compatible programs only; these are dual licensed, see LICENSE files at the top.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
