//! What this process may do: its effective capabilities. User 0 without them may no more than others.

/// Bits of `CapEff`; <https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/capability.h>
pub mod bit {
    /// Read and write any file.
    pub const DAC_OVERRIDE: u32 = 1;
    /// Read any file.
    pub const DAC_READ_SEARCH: u32 = 2;
    /// What only a file's owner may.
    pub const FOWNER: u32 = 3;
    /// Read other users' maps and smaps.
    pub const SYS_PTRACE: u32 = 19;
    /// Everything that has no capability of its own, and what CAP_BPF and CAP_PERFMON were before 5.8.
    pub const SYS_ADMIN: u32 = 21;
    /// Raise limits.
    pub const SYS_RESOURCE: u32 = 24;
    /// Hang probes on tracepoints, read kernel memory in them.
    pub const PERFMON: u32 = 38;
    /// Load programs and make maps.
    pub const BPF: u32 = 39;
}

/// The effective capabilities, as bits; `None` where /proc does not say.
#[must_use]
pub fn read_effective() -> Option<u64> {
    parse_effective(&std::fs::read("/proc/self/status").ok()?)
}

/// Whether `effective` has a capability.
#[must_use]
pub const fn has(effective: u64, bit: u32) -> bool {
    effective >> bit & 1 != 0
}

/// The capability to name where the kernel refused something: `name`, unless we have it. Then something else is the
/// cause, and it is empty.
#[must_use]
pub fn named_if_missing(bit: u32, name: &'static str) -> &'static str {
    name_if_missing(read_effective(), bit, name)
}

/// What is not known to be there is taken to be missing.
fn name_if_missing(effective: Option<u64>, bit: u32, name: &'static str) -> &'static str {
    if effective.is_some_and(|effective| has(effective, bit)) { "" } else { name }
}

/// The first capability that probes need and that is missing.
#[must_use]
pub fn missing_for_probes() -> Option<&'static str> {
    let effective = read_effective()?;
    if has(effective, bit::SYS_ADMIN) {
        return None;
    }
    [(bit::BPF, "CAP_BPF"), (bit::PERFMON, "CAP_PERFMON")]
        .into_iter()
        .find_map(|(bit, name)| (!has(effective, bit)).then_some(name))
}

/// `CapEff` of `/proc/self/status`.
fn parse_effective(status: &[u8]) -> Option<u64> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"CapEff:"))?;
    u64::from_str_radix(std::str::from_utf8(line).ok()?.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read() {
        let all = parse_effective(b"CapPrm:\t0\nCapEff:\t000001fffeffffff\n").unwrap();
        assert!(has(all, bit::BPF) && has(all, bit::SYS_ADMIN) && !has(all, bit::SYS_RESOURCE));
        assert_eq!(parse_effective(b"CapEff:\tzz\n"), None);
        assert_eq!(parse_effective(b"Name:\tx\n"), None);
    }

    #[test]
    fn what_is_there_is_not_named_as_missing() {
        let name = |effective| name_if_missing(effective, bit::SYS_PTRACE, "CAP_SYS_PTRACE");
        assert_eq!(name(Some(1 << bit::SYS_PTRACE)), "");
        assert_eq!(name(Some(!(1 << bit::SYS_PTRACE))), "CAP_SYS_PTRACE");
        assert_eq!(name(None), "CAP_SYS_PTRACE");
    }
}
