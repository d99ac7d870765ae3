//! Offsets for the probes, and which mode this kernel's shape allows.

use super::btf::{BtfError, Types};
use memtrace_common::KernelLayout;

/// Tracepoints that the exact mode cannot do without, with their number of arguments.
pub const NEEDED: &[(&str, usize)] = &[
    ("rss_stat", 2),
    ("page_fault_user", 3),
    ("page_fault_kernel", 3),
    ("exit_mmap", 1),
    ("sched_process_fork", 2),
    ("sched_process_exec", 3),
];

macro_rules! fields {
    ($($field:ident: $type:literal $path:literal,)*) => {
        /// Every field that the probes read: its struct, and its path in it.
        pub const FIELDS: &[(&str, &str)] = &[$(($type, $path)),*];

        fn offsets(types: &Types) -> Result<KernelLayout, BtfError> {
            Ok(KernelLayout {
                $($field: types.offset($type, $path)?,)*
                counter_size: types.size("percpu_counter")?,
                lock_memcg: u32::from(types.tracepoint_arguments("mmap_lock_start_locking") == Some(3)),
                ..KernelLayout::default()
            })
        }
    };
}

fields! {
    task_mm: "task_struct" "mm",
    task_flags: "task_struct" "flags",
    task_pid: "task_struct" "pid",
    task_tgid: "task_struct" "tgid",
    task_comm: "task_struct" "comm",
    task_exit_code: "task_struct" "exit_code",
    task_signal: "task_struct" "signal",
    task_files: "task_struct" "files",
    task_fsbase: "task_struct" "thread.fsbase",
    task_min_flt: "task_struct" "min_flt",
    task_maj_flt: "task_struct" "maj_flt",
    task_pagefault_disabled: "task_struct" "pagefault_disabled",
    signal_live: "signal_struct" "live.counter",
    mm_rss_stat: "mm_struct" "rss_stat",
    mm_users: "mm_struct" "mm_users.counter",
    mm_total_vm: "mm_struct" "total_vm",
    mm_brk: "mm_struct" "brk",
    mm_start_brk: "mm_struct" "start_brk",
    mm_start_stack: "mm_struct" "start_stack",
    counter_count: "percpu_counter" "count",
    counter_locals: "percpu_counter" "counters",
    vma_start: "vm_area_struct" "vm_start",
    vma_end: "vm_area_struct" "vm_end",
    vma_ops: "vm_area_struct" "vm_ops",
    regs_ip: "pt_regs" "ip",
    regs_sp: "pt_regs" "sp",
    regs_orig_ax: "pt_regs" "orig_ax",
    regs_cs: "pt_regs" "cs",
    regs_di: "pt_regs" "di",
    regs_si: "pt_regs" "si",
    regs_dx: "pt_regs" "dx",
    regs_r10: "pt_regs" "r10",
    regs_r8: "pt_regs" "r8",
    regs_r9: "pt_regs" "r9",
    files_fdt: "files_struct" "fdt",
    fdt_max_fds: "fdtable" "max_fds",
    fdt_fd: "fdtable" "fd",
    file_inode: "file" "f_inode",
    inode_ino: "inode" "i_ino",
    inode_sb: "inode" "i_sb",
    sb_dev: "super_block" "s_dev",
    array_pptrs: "bpf_array" "pptrs",
    task_state: "task_struct" "__state",
    task_on_cpu: "task_struct" "on_cpu",
    task_jobctl: "task_struct" "jobctl",
    task_real_parent: "task_struct" "real_parent",
    task_runtime: "task_struct" "se.sum_exec_runtime",
}

/// Whether a tracepoint is there with as many arguments as the probes read.
///
/// # Errors
/// It is missing or has another shape.
pub fn check_tracepoint(types: &Types, name: &'static str, wanted: usize) -> Result<(), BtfError> {
    match types.tracepoint_arguments(name) {
        None => Err(BtfError::NoType(format!("btf_trace_{name}"))),
        Some(found) if found != wanted => Err(BtfError::Shape { name, found, wanted }),
        Some(_) => Ok(()),
    }
}

/// Finds every offset, or names the first thing that is missing.
///
/// # Errors
/// A struct, a field or a tracepoint is missing or has another shape.
pub fn find(types: &Types) -> Result<KernelLayout, BtfError> {
    for (name, wanted) in NEEDED {
        check_tracepoint(types, name, *wanted)?;
    }
    offsets(types)
}
