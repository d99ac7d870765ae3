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

/// Finds every offset, or names the first thing that is missing.
///
/// # Errors
/// A struct, a field or a tracepoint is missing or has another shape.
pub fn find(types: &Types) -> Result<KernelLayout, BtfError> {
    for (name, wanted) in NEEDED {
        let found = types.tracepoint_arguments(name).ok_or_else(|| BtfError::NoType(format!("btf_trace_{name}")))?;
        if found != *wanted {
            return Err(BtfError::Shape { name, found, wanted: *wanted });
        }
    }
    let at = |name, path| types.offset(name, path);
    Ok(KernelLayout {
        task_mm: at("task_struct", "mm")?,
        task_flags: at("task_struct", "flags")?,
        task_pid: at("task_struct", "pid")?,
        task_tgid: at("task_struct", "tgid")?,
        task_comm: at("task_struct", "comm")?,
        task_exit_code: at("task_struct", "exit_code")?,
        task_signal: at("task_struct", "signal")?,
        task_files: at("task_struct", "files")?,
        task_min_flt: at("task_struct", "min_flt")?,
        task_maj_flt: at("task_struct", "maj_flt")?,
        task_pagefault_disabled: at("task_struct", "pagefault_disabled")?,
        signal_live: at("signal_struct", "live.counter")?,
        mm_rss_stat: at("mm_struct", "rss_stat")?,
        mm_users: at("mm_struct", "mm_users.counter")?,
        mm_total_vm: at("mm_struct", "total_vm")?,
        mm_brk: at("mm_struct", "brk")?,
        mm_start_brk: at("mm_struct", "start_brk")?,
        mm_start_stack: at("mm_struct", "start_stack")?,
        counter_size: types.size("percpu_counter")?,
        counter_count: at("percpu_counter", "count")?,
        counter_locals: at("percpu_counter", "counters")?,
        vma_start: at("vm_area_struct", "vm_start")?,
        vma_end: at("vm_area_struct", "vm_end")?,
        vma_ops: at("vm_area_struct", "vm_ops")?,
        regs_ip: at("pt_regs", "ip")?,
        regs_orig_ax: at("pt_regs", "orig_ax")?,
        regs_cs: at("pt_regs", "cs")?,
        regs_di: at("pt_regs", "di")?,
        regs_si: at("pt_regs", "si")?,
        regs_dx: at("pt_regs", "dx")?,
        regs_r10: at("pt_regs", "r10")?,
        regs_r8: at("pt_regs", "r8")?,
        regs_r9: at("pt_regs", "r9")?,
        files_fdt: at("files_struct", "fdt")?,
        fdt_max_fds: at("fdtable", "max_fds")?,
        fdt_fd: at("fdtable", "fd")?,
        file_inode: at("file", "f_inode")?,
        inode_ino: at("inode", "i_ino")?,
        inode_sb: at("inode", "i_sb")?,
        sb_dev: at("super_block", "s_dev")?,
        array_pptrs: at("bpf_array", "pptrs")?,
        cpus: 0,
        slots: 0,
        follow: 0,
        time_all: 0,
    })
}
