//! Another process that does things to the scene's process: its own program image, so that no page of the
//! scene is ever shared with it by fork.

use memtrace_tests::pages::page_size;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What it can be told to do. The parent's memory is meant by address and length in bytes.
#[repr(u64)]
#[derive(Clone, Copy)]
pub enum Order {
    /// `process_vm_writev` over (pid, address, length).
    VmWrite = 1,
    /// PTRACE_POKEDATA one word per page of (pid, address, length).
    Poke = 2,
    /// `/proc/PID/mem`: one byte per page of (pid, address, length).
    ProcMem = 3,
    /// `process_madvise(MADV_PAGEOUT)` on (pid, address, length).
    Pageout = 4,
    /// Truncate the file to (length).
    Truncate = 5,
    /// `swapoff` the file.
    Swapoff = 6,
    /// Write the decimal number (value) to the file.
    WriteNumber = 7,
}

/// The scene's side.
pub struct Helper {
    child: Child,
    orders: ChildStdin,
    answers: ChildStdout,
}

impl Helper {
    /// Starts it; `file` is what file orders are about.
    pub fn start(file: Option<&Path>) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .arg("helper")
            .args(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the helper starts");
        let orders = child.stdin.take().expect("piped");
        let answers = child.stdout.take().expect("piped");
        let mut helper = Self { child, orders, answers };
        assert_eq!(helper.answer(), 0, "the helper is up");
        helper
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it done; panics when it could not be.
    pub fn order(&mut self, order: Order, arguments: [u64; 3]) {
        let mut message = [0_u8; 32];
        for (slot, number) in message.chunks_exact_mut(8).zip([order as u64].iter().chain(&arguments)) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        self.orders.write_all(&message).expect("the helper listens");
        let answer = self.answer();
        assert_eq!(answer, 0, "the helper failed: {}", io::Error::from_raw_os_error(answer as i32));
    }

    fn answer(&mut self) -> u64 {
        let mut answer = [0_u8; 8];
        self.answers.read_exact(&mut answer).expect("the helper answers");
        u64::from_le_bytes(answer)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The helper's side: orders from stdin until it closes.
pub fn serve(file: Option<&str>) {
    let file = file.map(PathBuf::from);
    let (mut orders, mut answers) = (io::stdin().lock(), io::stdout().lock());
    let mut answer = |number: u64| {
        let _ = answers.write_all(&number.to_le_bytes());
        let _ = answers.flush();
    };
    answer(0);
    let mut message = [0_u8; 32];
    while orders.read_exact(&mut message).is_ok() {
        let mut numbers = message.chunks_exact(8).map(|slot| u64::from_le_bytes(slot.try_into().unwrap_or_default()));
        let mut number = || numbers.next().unwrap_or_default();
        let (order, arguments) = (number(), [number(), number(), number()]);
        answer(match obey(order, arguments, file.as_deref()) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO) as u64,
        });
    }
}

fn obey(order: u64, [first, address, length]: [u64; 3], file: Option<&Path>) -> io::Result<()> {
    let path = || file.ok_or(io::ErrorKind::InvalidInput);
    match order {
        1 => vm_write(first as i32, address, length as usize),
        2 => poke(first as i32, address, length as usize),
        3 => proc_mem(first, address, length as usize),
        4 => pageout(first as i32, address, length as usize),
        5 => std::fs::OpenOptions::new().write(true).open(path()?)?.set_len(first),
        6 => {
            let path = std::ffi::CString::new(path()?.as_os_str().as_encoded_bytes())?;
            // SAFETY: a NUL-terminated path.
            check(unsafe { libc::swapoff(path.as_ptr()) }.into())
        }
        7 => std::fs::write(path()?, first.to_string()),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn check(outcome: i64) -> io::Result<()> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn vm_write(pid: i32, address: u64, length: usize) -> io::Result<()> {
    let source = vec![3_u8; length];
    let local = libc::iovec { iov_base: source.as_ptr().cast_mut().cast(), iov_len: length };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: length };
    // SAFETY: the local side is our vector, which is only read; the remote side is the caller's own wish.
    let count = unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) };
    if count >= 0 && count as usize != length { Err(io::ErrorKind::WriteZero.into()) } else { check(count as i64) }
}

fn poke(pid: i32, address: u64, length: usize) -> io::Result<()> {
    // SAFETY: ptrace on the process that asked for it; the word goes into its memory, not ours.
    unsafe {
        let nothing = std::ptr::null_mut::<libc::c_void>();
        check(libc::ptrace(libc::PTRACE_SEIZE, pid, nothing, nothing))?;
        check(libc::ptrace(libc::PTRACE_INTERRUPT, pid, nothing, nothing))?;
        let mut status = 0;
        check(libc::waitpid(pid, &raw mut status, libc::__WALL).into())?;
        for offset in (0..length).step_by(page_size()) {
            check(libc::ptrace(libc::PTRACE_POKEDATA, pid, address as usize + offset, 5_usize))?;
        }
        check(libc::ptrace(libc::PTRACE_DETACH, pid, nothing, nothing))
    }
}

fn proc_mem(pid: u64, address: u64, length: usize) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let memory = std::fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/mem"))?;
    (0..length).step_by(page_size()).try_for_each(|offset| memory.write_all_at(&[9], address + offset as u64))
}

fn pageout(pid: i32, address: u64, length: usize) -> io::Result<()> {
    let range = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: length };
    // SAFETY: the range is the other process's; the descriptor is new and closed.
    unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        check(pidfd)?;
        let outcome =
            libc::syscall(libc::SYS_process_madvise, pidfd, &raw const range, 1_usize, libc::MADV_PAGEOUT, 0_u32);
        let error = check(outcome);
        libc::close(pidfd as i32);
        error
    }
}
