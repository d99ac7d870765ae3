//! Descriptors: where `/proc/PID/fd/N` leads, what fdinfo says, and who holds a lock on a file.

use super::scan::{Lines, after, decimal, skip_blanks, whole_decimal};

/// Descriptors of an epoll set that are kept; the others are counted.
pub const WATCHED_MAX: usize = 64;

/// Where a descriptor's link leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// A socket, by inode.
    Socket(u64),
    /// A pipe without a name, by inode.
    Pipe(u64),
    /// Something without a path: `anon_inode:[eventpoll]`.
    Anonymous,
    /// A path, which may be that of a FIFO.
    Path,
}

/// Reads a link. Only what does not begin with a slash is the kernel's own word: a file may have any name.
#[must_use]
pub fn parse_link(link: &[u8]) -> Link {
    let inode = |rest: &[u8]| match decimal(rest)? {
        (inode, b"]") => Some(inode),
        _ => None,
    };
    if link.starts_with(b"/") {
        Link::Path
    } else if let Some(inode) = link.strip_prefix(b"socket:[").and_then(inode) {
        Link::Socket(inode)
    } else if let Some(inode) = link.strip_prefix(b"pipe:[").and_then(inode) {
        Link::Pipe(inode)
    } else if link.starts_with(b"anon_inode:") {
        Link::Anonymous
    } else {
        Link::Path
    }
}

/// `/proc/PID/fdinfo/N`, what matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DescriptorInfo {
    /// Where in the file reading goes on.
    pub position: Option<u64>,
    /// `open(2)`'s flags.
    pub flags: Option<u32>,
    /// Inode, where the kernel tells (Linux 5.14).
    pub inode: Option<u64>,
    /// The process that a pidfd means.
    pub process: Option<u32>,
    /// Descriptors that an epoll set watches, some of them.
    pub watched: Vec<i32>,
    /// How many it watches.
    pub watched_count: u32,
    /// The open file itself has a lock.
    pub locks: bool,
}

impl DescriptorInfo {
    /// It was opened for reading, and for writing; `None` where that is not known.
    #[must_use]
    pub fn access(&self) -> Option<(bool, bool)> {
        match self.flags? & 3 {
            0 => Some((true, false)),
            1 => Some((false, true)),
            2 => Some((true, true)),
            _ => None,
        }
    }
}

/// Reads fdinfo. Lines that are not known are passed over.
#[must_use]
pub fn parse_fdinfo(bytes: &[u8]) -> DescriptorInfo {
    let mut info = DescriptorInfo::default();
    for line in Lines::new(bytes) {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let value = skip_blanks(&line[colon + 1..]);
        match &line[..colon] {
            b"pos" => info.position = whole_decimal(value),
            b"flags" => info.flags = std::str::from_utf8(value).ok().and_then(|text| u32::from_str_radix(text, 8).ok()),
            b"ino" => info.inode = whole_decimal(value),
            // 0: in another namespace; -1: gone.
            b"Pid" => {
                info.process = whole_decimal(value).and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0)
            }
            b"tfd" => {
                info.watched_count = info.watched_count.saturating_add(1);
                let fd = decimal(value).and_then(|(fd, _)| i32::try_from(fd).ok());
                info.watched.extend(fd.filter(|_| info.watched.len() < WATCHED_MAX));
            }
            b"lock" => info.locks = true,
            _ => {}
        }
    }
    info
}

/// One line of `/proc/locks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lock {
    id: u64,
    /// Waits for the lock with this id.
    waits: bool,
    /// `None` for a lock of an open file (`OFDLCK`), and for a process of another namespace.
    pid: Option<u32>,
    inode: u64,
}

/// `12: -> FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF`.
fn parse_lock(line: &[u8]) -> Option<Lock> {
    let (id, rest) = decimal(line)?;
    let rest = skip_blanks(after(rest, b':')?);
    let (waits, rest) = rest.strip_prefix(b"->").map_or((false, rest), |rest| (true, skip_blanks(rest)));
    let mut words = rest.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    // Family, kind and what is locked: words of the kernel.
    let pid = words.nth(3)?;
    let place = words.next()?;
    let inode = whole_decimal(&place[memchr::memrchr(b':', place)? + 1..])?;
    let pid = whole_decimal(pid).and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
    Some(Lock { id, waits, pid, inode })
}

/// Who holds the lock that a process waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockHolder {
    /// This process took it; a child or whoever got the descriptor may hold it by now, if it is `flock`'s.
    Process(u32),
    /// An open file holds it, whoever has that: the kernel names nobody.
    OpenFile,
}

/// From `/proc/locks`, the holder of the lock on the file with this inode that a process waits for. `None` when it waits
/// for none, or for several that are held by different ones.
#[must_use]
pub fn parse_lock_holder(locks: &[u8], pid: u32, inode: Option<u64>) -> Option<LockHolder> {
    let mut found = None;
    let mut held: Option<Lock> = None;
    for lock in Lines::new(locks).filter_map(parse_lock) {
        // Who waits follows the lock that it waits for, and has its number.
        if !lock.waits {
            held = Some(lock);
            continue;
        }
        // The one that waits with an open file's lock has no number either: its inode must do.
        let ours = lock.pid == Some(pid) || lock.pid.is_none() && inode.is_some();
        if !ours || inode.is_some_and(|inode| inode != lock.inode) {
            continue;
        }
        let holder = held.filter(|held| held.id == lock.id)?;
        let holder = holder.pid.map_or(LockHolder::OpenFile, LockHolder::Process);
        if found.replace(holder).is_some_and(|before| before != holder) {
            return None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn links_are_told_apart() {
        assert_eq!(parse_link(b"socket:[4711]"), Link::Socket(4711));
        assert_eq!(parse_link(b"pipe:[12]"), Link::Pipe(12));
        assert_eq!(parse_link(b"anon_inode:[eventpoll]"), Link::Anonymous);
        assert_eq!(parse_link(b"anon_inode:inotify"), Link::Anonymous);
        for path in
            [&b"/tmp/socket:[4711]"[..], b"socket:[4711] (deleted)", b"pipe:[x]", b"", b"(unreachable)/pipe:[1]"]
        {
            assert_eq!(parse_link(path), Link::Path, "{path:?}");
        }
    }

    #[test]
    fn fdinfo_of_an_epoll_set_a_pidfd_and_a_file() {
        let epoll = parse_fdinfo(
            b"pos:\t0\nflags:\t02000002\nmnt_id:\t16\nino:\t1041\ntfd:        5 events:       19 data: 1  pos:0 ino:2b sdev:9\n\
              tfd:       77 events:     2019 data: ffffffffffffffff  pos:0 ino:2c sdev:9\n",
        );
        assert_eq!((epoll.watched, epoll.watched_count, epoll.inode), (vec![5, 77], 2, Some(1041)));
        let pidfd = parse_fdinfo(b"pos:\t0\nflags:\t02000002\nPid:\t4711\nNSpid:\t4711\n");
        assert_eq!(pidfd.process, Some(4711));
        assert_eq!(parse_fdinfo(b"Pid:\t-1\n").process, None);
        let file = parse_fdinfo(b"pos:\t8192\nflags:\t0100001\nlock:\t1: FLOCK  ADVISORY  WRITE 7 fe:00:12 0 EOF\n");
        assert_eq!((file.position, file.access(), file.locks), (Some(8192), Some((false, true)), true));
    }

    #[test]
    fn an_epoll_set_is_counted_beyond_what_is_kept() {
        let text = "tfd:        5 events:       19 data: 1\n".repeat(WATCHED_MAX + 9);
        let info = parse_fdinfo(text.as_bytes());
        assert_eq!((info.watched.len(), info.watched_count), (WATCHED_MAX, WATCHED_MAX as u32 + 9));
    }

    const LOCKS: &[u8] = b"1: FLOCK  ADVISORY  WRITE 100 fe:00:1234 0 EOF\n\
        1: -> FLOCK  ADVISORY  WRITE 200 fe:00:1234 0 EOF\n\
        1:  -> FLOCK  ADVISORY  WRITE 201 fe:00:1234 0 EOF\n\
        2: POSIX  ADVISORY  WRITE 101 fe:00:1235 1073741826 1073742335\n\
        3: OFDLCK ADVISORY  WRITE -1 00:2a:1236 0 0\n\
        3: -> OFDLCK ADVISORY  WRITE -1 00:2a:1236 0 0\n\
        4: POSIX  ADVISORY  READ  102 00:2a:1237 0 EOF\n\
        4: -> POSIX  ADVISORY  WRITE 200 00:2a:1237 0 EOF\n\
        5: LEASE  BREAKING  READ  103 fe:00:1238 0 EOF\n";

    #[test]
    fn who_holds_a_lock() {
        assert_eq!(parse_lock_holder(LOCKS, 200, Some(1234)), Some(LockHolder::Process(100)));
        assert_eq!(parse_lock_holder(LOCKS, 201, None), Some(LockHolder::Process(100)));
        assert_eq!(parse_lock_holder(LOCKS, 200, Some(1237)), Some(LockHolder::Process(102)));
        // Two of its threads wait for two locks, and the file is not known.
        assert_eq!(parse_lock_holder(LOCKS, 200, None), None);
        assert_eq!(parse_lock_holder(LOCKS, 300, Some(1236)), Some(LockHolder::OpenFile));
        assert_eq!(parse_lock_holder(LOCKS, 101, Some(1235)), None);
        assert_eq!(parse_lock_holder(b"9: -> FLOCK ADVISORY WRITE 200 fe:00:1 0 EOF\n", 200, Some(1)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_link(&bytes);
            let _ = parse_fdinfo(&bytes);
            let _ = parse_lock_holder(&bytes, 1, None);
        }

        #[test]
        fn broken_lines_break_no_others(junk in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut text: Vec<u8> = junk.into_iter().filter(|byte| *byte != b'\n').collect();
            text.push(b'\n');
            text.extend_from_slice(b"77: FLOCK  ADVISORY  WRITE 100 fe:00:1234 0 EOF\n77: -> FLOCK  ADVISORY  WRITE 200 fe:00:1234 0 EOF\n");
            prop_assert_eq!(parse_lock_holder(&text, 200, Some(1234)), Some(LockHolder::Process(100)));
        }
    }
}
