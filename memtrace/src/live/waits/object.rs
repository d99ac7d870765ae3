//! What a thread waits for: from the system call that it is in, by its arguments. What cannot be read is unknown.

use super::process::Process;
use super::search::{Holder, Search, read_comm};
use super::sockets::{Found, Sockets};
use crate::event::WaitObject;
use crate::procfs::{
    CurrentCall, DescriptorInfo, Directory, Link, LockHolder, parse_fdinfo, parse_link, parse_lock_holder, parse_status,
};
use crate::syscalls;

/// Descriptors that are told of a poll, a select or an epoll set.
const DESCRIPTORS_MAX: usize = 64;
/// fdinfo of an epoll set has a line for each descriptor: some thousand.
const FDINFO_MAX: u64 = 256 << 10;
/// As much of `/proc/locks`.
const LOCKS_MAX: u64 = 1 << 20;
/// Longest path that a system call takes.
const PATH_MAX: usize = 4096;
/// Processes at the other end of a pipe that are told.
const OTHERS_MAX: usize = 16;

/// `F_SETLKW` and `F_OFD_SETLKW`.
const LOCKING_COMMANDS: [u64; 2] = [libc::F_SETLKW as u64, libc::F_OFD_SETLKW as u64];
/// Operations of futex(2) that wait: `FUTEX_WAIT`, `FUTEX_LOCK_PI`, `FUTEX_WAIT_BITSET`, `FUTEX_WAIT_REQUEUE_PI`,
/// `FUTEX_LOCK_PI2`.
const FUTEX_WAITS: [u64; 5] = [0, 6, 9, 11, 13];
/// `FUTEX_CMD_MASK`.
const FUTEX_COMMAND: u64 = 0x7f;
/// `FUTEX_TID_MASK`: in the word of a futex that the kernel hands on, its owner.
const FUTEX_OWNER: u32 = 0x3fff_ffff;
/// `TIMER_ABSTIME`.
const ABSOLUTE: u64 = 1;

/// What is known of the machine's other processes and sockets.
#[derive(Debug, Default)]
pub struct World {
    /// Other processes' descriptors.
    pub search: Search,
    /// Sockets.
    pub sockets: Sockets,
    /// Something was asked that is still to be searched for.
    pub missing: bool,
}

/// A thread that waits.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// Of this process.
    pub process: &'a Process,
    /// Which.
    pub tid: u32,
    /// Letter of its state.
    pub state: u8,
    /// The call that it is in.
    pub call: &'a CurrentCall,
    /// Where in the kernel it waits.
    pub kernel: &'a [Vec<u8>],
}

/// What the thread waits for.
pub fn find(look: Look<'_>, world: &mut World) -> WaitObject {
    look.find(world).unwrap_or_default()
}

impl Look<'_> {
    fn find(self, world: &mut World) -> Option<WaitObject> {
        match self.state {
            b't' => return self.tracer(),
            b'T' => return None,
            _ => {}
        }
        let CurrentCall { nr: Some(nr), args: [a, b, c, d, e, _], .. } = *self.call else { return None };
        if self.call.is_32_bit() {
            return None;
        }
        match syscalls::name(nr)? {
            "read" | "write" | "readv" | "writev" | "getdents" | "getdents64" => {
                self.descriptor(a, At::Position, world)
            }
            "pread64" | "pwrite64" | "preadv" | "pwritev" | "preadv2" | "pwritev2" => {
                self.descriptor(a, At::Offset(d), world)
            }
            "fallocate" => self.descriptor(a, At::Offset(c), world),
            "sync_file_range" | "readahead" => self.descriptor(a, At::Offset(b), world),
            "fsync" | "fdatasync" | "syncfs" | "ftruncate" | "fadvise64" | "ioctl" | "lseek" | "fstat" | "fchmod"
            | "fchown" | "connect" | "accept" | "accept4" | "recvfrom" | "sendto" | "recvmsg" | "sendmsg"
            | "recvmmsg" | "sendmmsg" | "shutdown" | "mq_timedsend" | "mq_timedreceive" | "io_uring_enter" => {
                self.descriptor(a, At::Nowhere, world)
            }
            "sendfile" | "copy_file_range" => self.between(b, a, world),
            "splice" => self.between(a, c, world),
            "tee" => self.between(a, b, world),
            "flock" => self.lock(a, world),
            "fcntl" if LOCKING_COMMANDS.contains(&b) => self.lock(a, world),
            "fcntl" => self.descriptor(a, At::Nowhere, world),
            "poll" => self.poll(a, b, milliseconds(c), world),
            "ppoll" => self.poll(a, b, self.timespec(c), world),
            "select" => self.select(a, [b, c, d], self.timeval(e), world),
            "pselect6" => self.select(a, [b, c, d], self.timespec(e), world),
            "epoll_wait" | "epoll_pwait" => self.epoll(a, milliseconds(d), world),
            "epoll_pwait2" => self.epoll(a, self.timespec(d), world),
            "futex" if FUTEX_WAITS.contains(&(b & FUTEX_COMMAND)) => self.futex(a),
            "futex_wait" => self.futex(a),
            "semop" | "semtimedop" | "msgsnd" | "msgrcv" => Some(WaitObject::SystemV { id: a & 0xffff_ffff }),
            "nanosleep" => Some(WaitObject::Timer { ns: self.timespec(a) }),
            "clock_nanosleep" => {
                Some(WaitObject::Timer { ns: if b & ABSOLUTE == 0 { self.timespec(c) } else { None } })
            }
            "restart_syscall" => self.restarted(world),
            "wait4" => {
                Some(WaitObject::Child { pid: self.process.outer_child(u32::try_from(number(a)).unwrap_or(0))? })
            }
            "waitid" => self.waitid(a, b),
            "open" | "creat" | "stat" | "lstat" | "access" | "execve" | "truncate" | "unlink" | "rmdir" | "mkdir"
            | "rename" | "readlink" | "chdir" | "statfs" => self.path(a),
            "openat" | "openat2" | "newfstatat" | "statx" | "unlinkat" | "mkdirat" | "renameat" | "renameat2"
            | "readlinkat" | "faccessat" | "faccessat2" | "execveat" => self.path(b),
            _ => None,
        }
    }

    /// A function of the kernel's stack has this in its name.
    fn is_in(self, part: &str) -> bool {
        self.kernel.iter().any(|name| memchr::memmem::find(name, part.as_bytes()).is_some())
    }

    fn directory(&self) -> &Directory {
        &self.process.directory
    }

    fn link(self, fd: i32) -> Option<Vec<u8>> {
        self.directory().read_link(&format!("task/{}/fd/{fd}", self.tid)).ok()
    }

    fn info(self, fd: i32) -> DescriptorInfo {
        let mut buffer = Vec::new();
        match self.directory().read(&format!("task/{}/fdinfo/{fd}", self.tid), FDINFO_MAX, &mut buffer) {
            Ok(()) => parse_fdinfo(&buffer),
            Err(_) => DescriptorInfo::default(),
        }
    }

    fn kind(self, fd: i32) -> Option<(u32, u64)> {
        self.directory().read_kind(&format!("task/{}/fd/{fd}", self.tid))
    }

    fn descriptor(self, argument: u64, at: At, world: &mut World) -> Option<WaitObject> {
        let fd = descriptor(argument)?;
        let path = self.link(fd)?;
        match parse_link(&path) {
            Link::Socket(inode) => Some(self.socket(fd, inode, world)),
            Link::Pipe(inode) => Some(self.pipe(fd, inode, &path, world)),
            Link::Anonymous if path.ends_with(b"[timerfd]") => Some(WaitObject::Timer { ns: None }),
            Link::Anonymous => Some(WaitObject::File { fd, path, offset: None }),
            Link::Path => match self.kind(fd) {
                Some((libc::S_IFIFO, inode)) => Some(self.pipe(fd, inode, &path, world)),
                Some((libc::S_IFREG | libc::S_IFBLK, _)) => {
                    Some(WaitObject::File { fd, path, offset: self.offset(fd, at) })
                }
                _ => Some(WaitObject::File { fd, path, offset: None }),
            },
        }
    }

    fn offset(self, fd: i32, at: At) -> Option<u64> {
        match at {
            At::Nowhere => None,
            // −1: where the descriptor is, for some calls.
            At::Offset(offset) if offset != u64::MAX => Some(offset),
            At::Offset(_) | At::Position => self.info(fd).position,
        }
    }

    /// One of two descriptors: of where data comes from when that is being read in, else of where it goes.
    fn between(self, from: u64, to: u64, world: &mut World) -> Option<WaitObject> {
        let reads = self.is_in("folio_wait") || self.is_in("filemap_") || self.is_in("pipe_wait_readable");
        let at = if reads { from } else { to };
        self.descriptor(at, At::Nowhere, world)
    }

    fn socket(self, fd: i32, inode: u64, world: &mut World) -> WaitObject {
        let Found { protocol, local, peer, other, queued } =
            world.sockets.find(self.directory(), self.tid, inode).unwrap_or_default();
        let process = other.and_then(|other| {
            let holders = world.holders(format!("socket:[{other}]").as_bytes());
            // Of a server that forked, the youngest is who serves.
            holders.iter().rfind(|holder| holder.pid != self.process.pid).or(holders.last()).cloned()
        });
        let process = process.map(|holder| (holder.pid, holder.comm));
        WaitObject::Socket { fd, protocol: protocol.to_owned(), local, peer, process, queued }
    }

    fn pipe(self, fd: i32, inode: u64, link: &[u8], world: &mut World) -> WaitObject {
        let own = self.info(fd).access();
        let (reads, writes) = own.unwrap_or((true, true));
        let mut others: Vec<(u32, Vec<u8>)> = Vec::new();
        for holder in world.holders(link) {
            let itself = holder.pid == self.process.pid && i32::try_from(holder.fd) == Ok(fd);
            if itself || others.len() >= OTHERS_MAX || others.iter().any(|(pid, _)| *pid == holder.pid) {
                continue;
            }
            // A FIFO is searched for by its path, which may be another's elsewhere.
            let same = link.first() != Some(&b'/') || holder.read_kind() == Some((libc::S_IFIFO, inode));
            let opposite = holder
                .read_info()
                .and_then(|info| info.access())
                .is_some_and(|(read, write)| reads && write || writes && read);
            if same && opposite {
                others.push((holder.pid, holder.comm));
            }
        }
        WaitObject::Pipe { fd, inode, others }
    }

    fn lock(self, argument: u64, world: &mut World) -> Option<WaitObject> {
        let fd = descriptor(argument)?;
        let path = self.link(fd)?;
        let mut locks = Vec::new();
        // Without it, the holder is unknown.
        let _ = Directory::open("/proc").and_then(|proc| proc.read("locks", LOCKS_MAX, &mut locks));
        let inode = self.info(fd).inode.or_else(|| Some(self.kind(fd)?.1));
        let holder = parse_lock_holder(&locks, self.process.pid, inode).and_then(|holder| {
            let named = match holder {
                LockHolder::Process(pid) => Some(pid),
                LockHolder::OpenFile => None,
            };
            self.lock_holder(&path, inode?, named, world)
        });
        Some(WaitObject::FileLock { fd, path, holder })
    }

    /// The process that has the lock now. A lock of `flock(2)` belongs to an open file: who took it may have given it on.
    fn lock_holder(self, path: &[u8], inode: u64, named: Option<u32>, world: &mut World) -> Option<(u32, Vec<u8>)> {
        let has_it = |holder: &Holder| {
            holder.read_kind().is_some_and(|(_, found)| found == inode)
                && holder.read_info().is_some_and(|info| info.locks)
        };
        let holders: Vec<Holder> = world.holders(path).into_iter().filter(has_it).collect();
        let holder = holders.iter().find(|holder| Some(holder.pid) == named).or(holders.first());
        match holder {
            Some(holder) => Some((holder.pid, holder.comm.clone())),
            // Its descriptor could not be looked at, or has another path.
            None => named.and_then(|pid| Some((pid, read_comm(pid)?))),
        }
    }

    fn futex(self, address: u64) -> Option<WaitObject> {
        let mapping = self.process.mapping_of(address);
        Some(WaitObject::Futex { address, mapping, owner: self.mutex_owner(address) })
    }

    /// The owner, if what lies there looks like a mutex of glibc in all that can be checked: `struct __pthread_mutex_s`
    /// begins with the lock's word, a count and the owner's number. The word of a mutex that somebody waits for is 2, or
    /// the owner's number with two bits.
    fn mutex_owner(self, address: u64) -> Option<u32> {
        let bytes: [u8; 12] = self.process.memory()?.read_array(address)?;
        let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let (lock, owner) = (word(0)?, word(8)?);
        let locked = lock == 2 || lock & FUTEX_OWNER == owner;
        if owner == 0 || !locked {
            return None;
        }
        self.process.outer_thread(owner)
    }

    fn poll(self, address: u64, count: u64, timeout_ns: Option<u64>, world: &mut World) -> Option<WaitObject> {
        let total = u32::try_from(count).ok()?;
        let mut bytes = vec![0; 8 * (total as usize).min(DESCRIPTORS_MAX)];
        let known = self.process.memory().is_some_and(|memory| memory.read(address, &mut bytes));
        let mut of = Vec::new();
        if known {
            for entry in bytes.as_chunks::<8>().0 {
                let [a, b, c, d, ..] = *entry;
                let fd = i32::from_le_bytes([a, b, c, d]);
                // Entries with a negative one are passed over by the kernel, too.
                if fd >= 0 {
                    of.push((fd, self.describe(fd, world)));
                }
            }
        }
        Some(WaitObject::Descriptors { of, total, timeout_ns })
    }

    fn select(self, count: u64, sets: [u64; 3], timeout_ns: Option<u64>, world: &mut World) -> Option<WaitObject> {
        const SET: usize = 128;
        let count = usize::try_from(count & 0xffff_ffff).ok()?.min(8 * SET);
        let mut wanted = [0u8; SET];
        // The kernel reads whole longs.
        let length = count.div_ceil(64) * 8;
        if let Some(memory) = self.process.memory() {
            for address in sets.into_iter().filter(|address| *address != 0) {
                let mut set = [0; SET];
                if memory.read(address, &mut set[..length]) {
                    wanted.iter_mut().zip(set).for_each(|(wanted, set)| *wanted |= set);
                }
            }
        }
        let fds = (0..count).filter(|fd| wanted[fd / 8] >> (fd % 8) & 1 != 0);
        let total = fds.clone().count() as u32;
        let of = fds.take(DESCRIPTORS_MAX).map(|fd| (fd as i32, self.describe(fd as i32, world))).collect();
        Some(WaitObject::Descriptors { of, total, timeout_ns })
    }

    fn epoll(self, argument: u64, timeout_ns: Option<u64>, world: &mut World) -> Option<WaitObject> {
        let info = self.info(descriptor(argument)?);
        let of = info.watched.iter().map(|fd| (*fd, self.describe(*fd, world))).collect();
        Some(WaitObject::Descriptors { of, total: info.watched_count, timeout_ns })
    }

    /// What a descriptor is, in a few words: a path; of a socket its protocol, addresses, who is at the other end, and
    /// what is queued: `tcp 127.0.0.1:5432 to 127.0.0.1:40112 (pid 4711 psql), 65536 bytes to be sent`.
    fn describe(self, fd: i32, world: &mut World) -> Vec<u8> {
        let Some(link) = self.link(fd) else { return Vec::new() };
        let Link::Socket(inode) = parse_link(&link) else { return link };
        let WaitObject::Socket { protocol, local, peer, process, queued, .. } = self.socket(fd, inode, world) else {
            return link;
        };
        if protocol.is_empty() {
            return link;
        }
        let listens = queued.is_none() && peer.is_empty();
        let mut words = protocol.into_bytes();
        for (before, address) in [(&b" "[..], local), (b" to ", peer)] {
            if !address.is_empty() {
                words.extend_from_slice(before);
                words.extend_from_slice(&address);
            }
        }
        if let Some((pid, comm)) = process {
            words.extend_from_slice(format!(" (pid {pid} ").as_bytes());
            words.extend_from_slice(&comm);
            words.push(b')');
        }
        if listens {
            words.extend_from_slice(b", listens");
        }
        let (to_send, to_read) = queued.unwrap_or_default();
        for (bytes, what) in [(to_send, "sent"), (to_read, "read")] {
            if bytes > 0 {
                words.extend_from_slice(format!(", {bytes} bytes to be {what}").as_bytes());
            }
        }
        words
    }

    /// It goes on with what a stop had interrupted. The registers still have that call's arguments, and the kernel's stack
    /// tells which call it was: of those that are gone on with in this way, all but two sleep (the kernel's `restart_block`
    /// of Linux 6.18), and of these the stack shows nothing, for they belong to the scheduler.
    fn restarted(self, world: &mut World) -> Option<WaitObject> {
        let [a, b, c, ..] = self.call.args;
        if self.is_in("futex") {
            self.futex(a)
        } else if self.is_in("poll") {
            self.poll(a, b, milliseconds(c), world)
        } else if !self.kernel.is_empty() {
            // clock_nanosleep begins with the number of a clock, nanosleep with an address.
            Some(WaitObject::Timer { ns: self.timespec(if a < 4096 { c } else { a }) })
        } else {
            None
        }
    }

    fn waitid(self, kind: u64, id: u64) -> Option<WaitObject> {
        const ANY: u64 = libc::P_ALL as u64;
        const GROUP: u64 = libc::P_PGID as u64;
        const ONE: u64 = libc::P_PID as u64;
        const DESCRIPTOR: u64 = libc::P_PIDFD as u64;
        let pid = match kind & 0xffff_ffff {
            ANY | GROUP => 0,
            ONE => self.process.outer_child(u32::try_from(number(id)).ok()?)?,
            DESCRIPTOR => self.info(descriptor(id)?).process?,
            _ => return None,
        };
        Some(WaitObject::Child { pid })
    }

    fn tracer(self) -> Option<WaitObject> {
        let tid = self.process.read_status(self.tid)?.tracer_pid.filter(|tid| *tid != 0)?;
        // The kernel names the thread that traces.
        let status = std::fs::read(format!("/proc/{tid}/status")).ok().and_then(|text| parse_status(&text).ok());
        let pid = status.and_then(|status| status.tgid).unwrap_or(tid);
        Some(WaitObject::Tracer { pid, comm: read_comm(pid).unwrap_or_default() })
    }

    fn path(self, address: u64) -> Option<WaitObject> {
        let path = self.process.memory()?.read_string(address, PATH_MAX)?;
        Some(WaitObject::File { fd: -1, path, offset: None })
    }

    fn timespec(self, address: u64) -> Option<u64> {
        self.time(address, 1)
    }

    fn timeval(self, address: u64) -> Option<u64> {
        self.time(address, 1000)
    }

    /// Seconds and a part of them; `None` for no time.
    fn time(self, address: u64, unit: u64) -> Option<u64> {
        let bytes: [u8; 16] = self.process.memory()?.read_array(address)?;
        let [seconds, part] = bytemuck::cast::<_, [u64; 2]>(bytes);
        seconds.checked_mul(1_000_000_000)?.checked_add(part.checked_mul(unit)?)
    }
}

/// Where in a file a call is.
#[derive(Clone, Copy)]
enum At {
    /// It has no place in it.
    Nowhere,
    /// Where the descriptor is.
    Position,
    /// At an argument.
    Offset(u64),
}

impl World {
    /// Who has a descriptor of it, as far as is known yet.
    fn holders(&mut self, link: &[u8]) -> Vec<Holder> {
        match self.search.holders(link) {
            Some(holders) => holders.to_vec(),
            None => {
                self.missing = true;
                Vec::new()
            }
        }
    }
}

/// An argument of type `int`.
const fn number(argument: u64) -> i32 {
    argument as u32 as i32
}

/// An argument that is a descriptor; `None` for a negative one.
fn descriptor(argument: u64) -> Option<i32> {
    Some(number(argument)).filter(|fd| *fd >= 0)
}

/// A time limit of `int` milliseconds; `None` for none.
fn milliseconds(argument: u64) -> Option<u64> {
    Some(u64::try_from(number(argument)).ok()? * 1_000_000)
}
