//! Any bytes as what /proc says of threads that wait, of descriptors, sockets, locks and cgroups: no panic, and no more
//! than was there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memtrace::procfs::{
    parse_cgroup, parse_cgroup_mount, parse_cpu_max, parse_cpus, parse_fdinfo, parse_kernel_stack, parse_keyed,
    parse_limit, parse_link, parse_lock_holder, parse_pressure, parse_running, parse_syscall, parse_wchan, visit_inet,
};

fuzz_target!(|bytes: &[u8]| {
    let lines = bytes.iter().filter(|&&byte| byte == b'\n').count();
    let _ = (parse_syscall(bytes), parse_wchan(bytes), parse_link(bytes), parse_lock_holder(bytes, 1, Some(2)));
    assert!(parse_kernel_stack(bytes).len() <= lines);
    assert!(parse_fdinfo(bytes).watched_count as usize <= lines);
    let mut sockets = 0;
    visit_inet(bytes, |_| sockets += 1);
    assert!(sockets <= lines);
    if let (Some(mount), Some(group)) = (parse_cgroup_mount(bytes, ""), parse_cgroup(bytes, "")) {
        assert!(mount.directory(group).is_none_or(|path| path.starts_with(&mount.point)));
    }
    let _ = (parse_limit(bytes), parse_cpu_max(bytes), parse_pressure(bytes), parse_running(bytes));
    let _ = (parse_cpus(bytes, bytes), parse_keyed(bytes, "pswpin"));
});
