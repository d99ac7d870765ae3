use super::*;

fn kernel(functions: &[&str]) -> Vec<Vec<u8>> {
    functions.iter().map(|name| name.as_bytes().to_vec()).collect()
}

fn blocked(call: &str, doing: Doing) -> Span {
    Span { doing, cause: None, nr: syscalls::number(call), detail: 0, before: false }
}

fn state(span: Span, functions: &[&str], object: &WaitObject) -> State {
    let kernel = kernel(functions);
    state_of(span, Some(&Look { kernel: &kernel, object, in_semaphore: false }), None, None).0
}

#[test]
fn of_the_kernels_functions_the_innermost_that_says_something_decides() {
    // Stacks as /proc/PID/stack of Linux 6.1 and 6.18 prints them.
    for (functions, expected) in [
        (
            &["folio_wait_bit_common+0x13d/0x310", "__folio_lock_or_retry", "do_swap_page", "__handle_mm_fault"][..],
            Some(State::FaultSwapin),
        ),
        (
            &["folio_wait_bit_common", "filemap_fault", "__do_fault", "do_fault", "handle_mm_fault"],
            Some(State::FaultFileRead),
        ),
        (
            &["try_to_free_mem_cgroup_pages", "try_charge_memcg", "__mem_cgroup_charge", "do_swap_page"],
            Some(State::ReclaimMemcg),
        ),
        (&["shrink_lruvec", "shrink_node", "try_to_free_pages", "filemap_fault"], Some(State::ReclaimDirect)),
        (&["clear_huge_page", "do_huge_pmd_anonymous_page"], Some(State::FaultThp)),
        (
            &["rwsem_down_read_slowpath", "down_read_killable", "lock_mm_and_find_vma", "exc_page_fault"],
            Some(State::MmapLock),
        ),
        (&["rwsem_down_write_slowpath", "vm_mmap_pgoff", "ksys_mmap_pgoff"], Some(State::MmapLock)),
        // An inode's lock is not that of the address space.
        (&["rwsem_down_write_slowpath", "ext4_buffered_write_iter", "vfs_write"], None),
        (&["handle_userfault", "do_anonymous_page"], Some(State::FaultMinor)),
        (&["do_freezer_trap", "get_signal"], Some(State::Frozen)),
        (&["do_signal_stop.constprop.0", "get_signal"], Some(State::Stopped)),
        (&["ptrace_stop.part.0", "ptrace_notify"], Some(State::Traced)),
        (&["io_schedule_timeout", "balance_dirty_pages", "generic_perform_write"], Some(State::BlockedFileIo)),
        (&["futex_wait_queue", "futex_wait"], None),
        (&[], None),
    ] {
        assert_eq!(of_kernel(&kernel(functions)), expected, "{functions:?}");
    }
}

#[test]
fn what_began_before_the_probes_looked_is_in_what_the_kernel_says() {
    let swapin = ["folio_wait_bit_common", "do_swap_page", "exc_page_fault"];
    let none = WaitObject::Unknown;
    let read = blocked("read", Doing::Uninterruptible);
    assert_eq!(state(Span { before: true, ..read }, &swapin, &none), State::FaultSwapin);
    assert_eq!(state(Span { nr: None, ..read }, &swapin, &none), State::FaultSwapin);
    // Since then a fault has brackets, and this is none.
    assert_eq!(state(read, &swapin, &none), State::BlockedFileIo);
    assert_eq!(state(Span { nr: None, ..read }, &["nfs_wait"], &none), State::Uninterruptible);
}

#[test]
fn system_calls_and_their_objects() {
    use Doing::{Blocked, Uninterruptible};
    let file = WaitObject::File { fd: 3, path: b"/srv/data".to_vec(), offset: None };
    let event = WaitObject::File { fd: 3, path: b"anon_inode:[eventfd]".to_vec(), offset: None };
    let terminal = WaitObject::File { fd: 0, path: b"/dev/pts/0".to_vec(), offset: None };
    let pipe = WaitObject::Pipe { fd: 0, inode: 1, others: Vec::new() };
    let lock = WaitObject::FileLock { fd: 3, path: Vec::new(), holder: None };
    let socket = WaitObject::Socket {
        fd: 3,
        protocol: String::new(),
        local: Vec::new(),
        peer: Vec::new(),
        process: None,
        queued: None,
    };
    let none = WaitObject::Unknown;
    for (call, doing, object, expected) in [
        ("read", Blocked, &file, State::BlockedFileIo),
        ("read", Blocked, &pipe, State::BlockedPipe),
        ("write", Blocked, &socket, State::BlockedSocket),
        ("read", Blocked, &event, State::BlockedOther),
        ("read", Blocked, &terminal, State::BlockedOther),
        ("read", Blocked, &none, State::BlockedOther),
        ("pread64", Uninterruptible, &none, State::BlockedFileIo),
        ("ioctl", Uninterruptible, &none, State::BlockedOther),
        ("fdatasync", Uninterruptible, &file, State::BlockedFileIo),
        ("openat", Blocked, &pipe, State::BlockedPipe),
        ("openat", Uninterruptible, &none, State::BlockedFileIo),
        ("accept4", Blocked, &none, State::BlockedSocket),
        ("flock", Blocked, &none, State::BlockedFlock),
        ("fcntl", Blocked, &lock, State::BlockedFlock),
        ("fcntl", Blocked, &none, State::BlockedOther),
        ("futex", Blocked, &none, State::BlockedFutex),
        ("semop", Blocked, &none, State::BlockedSemaphore),
        ("pselect6", Blocked, &none, State::BlockedPoll),
        ("waitid", Blocked, &none, State::BlockedChild),
        ("vfork", Uninterruptible, &none, State::Uninterruptible),
        ("clone", Blocked, &none, State::BlockedChild),
        ("restart_syscall", Blocked, &WaitObject::Timer { ns: None }, State::BlockedSleep),
        ("rt_sigsuspend", Blocked, &none, State::BlockedOther),
        ("umount2", Uninterruptible, &none, State::Uninterruptible),
    ] {
        assert_eq!(state(blocked(call, doing), &[], object), expected, "{call} {object:?}");
    }
    let locks = Span { detail: F_OFD_SETLKW, ..blocked("fcntl", Blocked) };
    assert_eq!(state(locks, &[], &none), State::BlockedFlock);
    // What another look found the descriptor to be.
    assert_eq!(state_of(blocked("read", Blocked), None, Some(&pipe), None).0, State::BlockedPipe);
    let look = Look { kernel: &[], object: &none, in_semaphore: true };
    assert_eq!(state_of(blocked("futex", Blocked), Some(&look), None, None).0, State::BlockedSemaphore);
}

#[test]
fn faults_off_a_cpu_wait_for_what_they_read() {
    let span = |cause| Span { doing: Doing::Fault, cause, nr: None, detail: 0, before: false };
    let state = |cause, kind| state_of(span(cause), None, None, kind).0;
    assert_eq!(state(Some(Cause::FaultFile), Some(Kind::File)), State::FaultFileRead);
    assert_eq!(of_fault_on_cpu(Some(Cause::FaultFile)), State::FaultMinor);
    assert_eq!(state(Some(Cause::FaultSwapin), Some(Kind::Heap)), State::FaultSwapin);
    assert_eq!(state(None, Some(Kind::Library)), State::FaultFileRead, "it is not over");
    assert_eq!(state(None, Some(Kind::Heap)), State::FaultMinor);
    let none = WaitObject::Unknown;
    let kernel = kernel(&["swap_read_folio", "do_swap_page"]);
    let look = Look { kernel: &kernel, object: &none, in_semaphore: false };
    assert_eq!(
        state_of(span(None), Some(&look), None, Some(Kind::Heap)).0,
        State::FaultSwapin,
        "the kernel says in what"
    );
}

#[test]
fn throttling_takes_no_more_than_there_was() {
    assert_eq!(throttled(900, 400, 1), (400, 0));
    assert_eq!(throttled(900, 400, 4), (400, 300), "the group's sum may be of four CPUs at once");
    assert_eq!(throttled(100, 400, 2), (100, 0));
    assert_eq!(throttled(100, 0, 0), (0, 0));
}

#[test]
fn a_fault_below_a_system_call_is_about_its_own_page() {
    // In write(3, buffer), where the buffer is of another file.
    let kernel = kernel(&["folio_wait_bit_common", "filemap_fault", "__do_fault", "exc_page_fault"]);
    let called = WaitObject::File { fd: 3, path: b"/srv/out".to_vec(), offset: None };
    let page = WaitObject::FilePage { path: b"/srv/in".to_vec(), offset: 4096 };
    let look = Look { kernel: &kernel, object: &called, in_semaphore: false };
    let write = blocked("write", Doing::Fault);
    for (cause, known, expected) in [
        (Some(Cause::FaultFileRead), Some(&page), &page),
        (None, Some(&page), &page),
        (Some(Cause::FaultFileRead), None, &WaitObject::Unknown),
    ] {
        let found = state_of(Span { cause, ..write }, Some(&look), known, Some(Kind::File));
        assert_eq!(found, (State::FaultFileRead, expected.clone()));
    }
    // The same since before the probes looked: no page is known.
    let before = Span { before: true, ..blocked("write", Doing::Uninterruptible) };
    assert_eq!(state_of(before, Some(&look), None, None), (State::FaultFileRead, WaitObject::Unknown));
}
