//! What /proc says of a thread that does not run: the call that it is in (`syscall`), where in the kernel it waits (`stack`,
//! `wchan`), and whether it ran since (`schedstat`).

use super::scan::{Lines, hex};

/// Functions of a kernel stack that are kept: as many as the kernel saves.
const KERNEL_FRAMES_MAX: usize = 64;
/// Longest name of one; `KSYM_NAME_LEN` is 512, and no name of C is as long as this.
const KERNEL_NAME_MAX: usize = 128;

/// What a thread was doing when it left its own code: `/proc/PID/task/TID/syscall`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CurrentCall {
    /// Number of the system call; `None` for none: a fault, a signal, an interrupt.
    pub nr: Option<u32>,
    /// Its arguments; zero where there is no call.
    pub args: [u64; 6],
    /// Stack pointer.
    pub stack: u64,
    /// Instruction pointer.
    pub instruction: u64,
}

impl CurrentCall {
    /// Stack and code lie where only programs of 32 bits have both: the numbers of their calls are others.
    #[must_use]
    pub const fn is_32_bit(&self) -> bool {
        self.stack >> 32 == 0 && self.instruction >> 32 == 0
    }
}

/// Reads syscall. `None` for a thread that runs, and for what the kernel would not print.
#[must_use]
pub fn parse_syscall(bytes: &[u8]) -> Option<CurrentCall> {
    let line = bytes.strip_suffix(b"\n")?;
    let mut words = line.split(|&byte| byte == b' ');
    let number: i64 = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    let mut call = CurrentCall { nr: u32::try_from(number).ok(), ..CurrentCall::default() };
    let mut next = || match hex(words.next()?.strip_prefix(b"0x")?)? {
        (value, []) => Some(value),
        _ => None,
    };
    // After -1 there are no arguments.
    if number != -1 {
        for argument in &mut call.args {
            *argument = next()?;
        }
    }
    (call.stack, call.instruction) = (next()?, next()?);
    words.next().is_none().then_some(call)
}

/// Reads a kernel stack: names of functions, innermost first. Lines are `[<0>] futex_wait+0x8e/0x130`, with the module's
/// name behind where it is one's.
#[must_use]
pub fn parse_kernel_stack(bytes: &[u8]) -> Vec<Vec<u8>> {
    Lines::new(bytes).filter_map(parse_frame).take(KERNEL_FRAMES_MAX).collect()
}

fn parse_frame(line: &[u8]) -> Option<Vec<u8>> {
    let rest = line.strip_prefix(b"[<")?;
    let place = &rest[memchr::memmem::find(rest, b">] ")? + 3..];
    let name = &place[..memchr::memchr2(b'+', b' ', place).unwrap_or(place.len())];
    // An address that has no symbol, and the end mark of old kernels.
    let named = !name.is_empty() && !name.starts_with(b"0x");
    named.then(|| name[..name.len().min(KERNEL_NAME_MAX)].to_vec())
}

/// Reads wchan: the function that the thread waits in; `None` where it does not wait, or we may not know.
#[must_use]
pub fn parse_wchan(bytes: &[u8]) -> Option<Vec<u8>> {
    let name = bytes.trim_ascii_end();
    (!name.is_empty() && name != b"0").then(|| name[..name.len().min(KERNEL_NAME_MAX)].to_vec())
}

/// Whether schedstat counts on this kernel: then a thread whose schedstat is as it was has not run since.
#[must_use]
pub fn counts_runs(schedstat: &[u8]) -> bool {
    let counts = schedstat.trim_ascii_end().rsplit(|&byte| byte == b' ').next();
    counts.is_some_and(|count| !count.is_empty() && count != b"0" && count.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_call_with_its_arguments() {
        let call =
            parse_syscall(b"202 0x7f1f 0x80 0x2 0x0 0x0 0xffffffff 0x7ffd4a3b2a98 0x7f1fa1f2f3c7\n").expect("a call");
        assert_eq!(call.nr, Some(202));
        assert_eq!(call.args, [0x7f1f, 0x80, 2, 0, 0, 0xffff_ffff]);
        assert_eq!((call.stack, call.instruction), (0x7ffd_4a3b_2a98, 0x7f1f_a1f2_f3c7));
        assert!(!call.is_32_bit());
        let fault = parse_syscall(b"-1 0x7ffd4a3b2a98 0x55d0\n").expect("a fault");
        assert_eq!((fault.nr, fault.args, fault.stack), (None, [0; 6], 0x7ffd_4a3b_2a98));
        assert!(parse_syscall(b"3 0x1 0x0 0x0 0x0 0x0 0x0 0xffffd00c 0xf7f01549\n").is_some_and(|c| c.is_32_bit()));
    }

    #[test]
    fn what_is_no_call() {
        for text in [
            &b"running\n"[..],
            b"",
            b"\n",
            b"1 0x1\n",
            b"-1 0x1 0x2 0x3\n",
            b"0 0x0 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7f1f",
            b"0 0x0 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7fzz\n",
            b"x 0x0 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7f\n",
        ] {
            assert_eq!(parse_syscall(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_kernel_stack_as_printed() {
        let text = b"[<0>] futex_do_wait+0x38/0x70\n[<0>] ext4_map_blocks.cold+0x1/0x2 [ext4]\n\
            [<0>] 0xffffffffc0123456\n[<ffffffff81000000>] do_syscall_64+0x71/0x280\n\
            [<ffffffffffffffff>] 0xffffffffffffffff\nnot a frame\n[<0>] cut";
        assert_eq!(
            parse_kernel_stack(text),
            [&b"futex_do_wait"[..], b"ext4_map_blocks.cold", b"do_syscall_64"].map(<[u8]>::to_vec)
        );
        assert_eq!(parse_wchan(b"do_nanosleep"), Some(b"do_nanosleep".to_vec()));
        assert_eq!((parse_wchan(b"0"), parse_wchan(b"")), (None, None));
    }

    #[test]
    fn a_kernel_that_does_not_count_runs() {
        assert!(counts_runs(b"11310 64816 1\n"));
        for text in [&b"0 0 0\n"[..], b"", b"\n", b"1 2 x\n"] {
            assert!(!counts_runs(text), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_syscall(&bytes);
            let _ = parse_wchan(&bytes);
            let _ = counts_runs(&bytes);
            prop_assert!(parse_kernel_stack(&bytes).len() <= KERNEL_FRAMES_MAX);
        }

        #[test]
        fn calls_come_back_as_printed(nr in 0..2000u32, args: [u64; 6], stack: u64, instruction: u64) {
            let [a, b, c, d, e, f] = args;
            let text = format!("{nr} 0x{a:x} 0x{b:x} 0x{c:x} 0x{d:x} 0x{e:x} 0x{f:x} 0x{stack:x} 0x{instruction:x}\n");
            let call = CurrentCall { nr: Some(nr), args, stack, instruction };
            prop_assert_eq!(parse_syscall(text.as_bytes()), Some(call));
        }
    }
}
