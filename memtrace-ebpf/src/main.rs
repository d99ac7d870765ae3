//! The probes. They hang on tracepoints only, so that they survive kernel versions, hardened kernels and lockdown.
//!
//! A counter change (`rss_stat`) is booked at once in a record keyed by who, where and why; the program swaps
//! record maps at each interval and drains the idle one. Only mapping calls and lives of tasks go through the ring, and
//! through another one copies of stacks.
//! A fault's record is written by its thread alone; every other kind of record is only added to, atomically, because
//! another thread's fault may set it right ([`probes::rss`]). So nothing here needs a lock.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(clippy::missing_safety_doc)]

mod clock;
mod kernel;
mod maps;
mod probes;
mod record;
mod slot;
mod span;
mod stack;
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
