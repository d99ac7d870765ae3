//! Sockets of network namespaces: addresses and the other end by inode, from the tables of IP in the target's own
//! `/proc/PID/net` and, for those of AF_UNIX, from netlink.

use crate::procfs::{Directory, InetSocket, UnixSockets, monotonic_ns, visit_inet};
use std::collections::HashMap;
use std::net::SocketAddr;

/// A table is read up to here: some hundred thousand sockets.
const TABLE_MAX: u64 = 32 << 20;
/// After reading the tables, so many times what it cost nothing is read.
const WAIT_PER_COST: u64 = 50;
/// What the tables said is believed so long where a socket is in them.
const BELIEVED_NS: u64 = 1_000_000_000;
/// Namespaces that are known at once.
const NAMESPACES_MAX: usize = 64;

/// The tables of `/proc/net`, and whether their sockets have two ends.
const TABLES: [(&str, bool); 4] = [("tcp", true), ("tcp6", true), ("udp", false), ("udp6", false)];

/// A socket as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// `tcp`, `udp6`, `unix`.
    pub protocol: &'static str,
    /// Own address or path.
    pub local: Vec<u8>,
    /// The other side's.
    pub peer: Vec<u8>,
    /// Inode of the other side's socket, where it is of the same namespace.
    pub other: Option<u64>,
    /// Bytes to be sent, and to be read; `None` of a socket that listens.
    pub queued: Option<(u64, u64)>,
}

/// What is known of all namespaces.
#[derive(Debug, Default)]
pub struct Sockets {
    namespaces: HashMap<Vec<u8>, Namespace>,
}

#[derive(Debug, Default)]
struct Namespace {
    unix: Option<UnixSockets>,
    inet: HashMap<u64, (&'static str, InetSocket)>,
    /// Streams by own and other address.
    ends: HashMap<(SocketAddr, SocketAddr), u64>,
    read_ns: u64,
    due_ns: u64,
}

impl Sockets {
    /// The socket with this inode that a thread has open; `None` when it is of another family, or cannot be found now.
    pub fn find(&mut self, process: &Directory, tid: u32, inode: u64) -> Option<Found> {
        let name = format!("task/{tid}/ns/net");
        let key = process.read_link(&name).ok()?;
        if self.namespaces.len() >= NAMESPACES_MAX && !self.namespaces.contains_key(&key) {
            self.namespaces.clear();
        }
        let namespace = self.namespaces.entry(key).or_insert_with(|| {
            let unix = process.open_file(&name).and_then(UnixSockets::open);
            if let Err(error) = &unix {
                log::info!("sockets of AF_UNIX cannot be told: {error}");
            }
            Namespace { unix: unix.ok(), ..Namespace::default() }
        });
        namespace.find_unix(inode).or_else(|| namespace.find_inet(process, tid, inode))
    }
}

impl Namespace {
    fn find_unix(&self, inode: u64) -> Option<Found> {
        let unix = self.unix.as_ref()?;
        let own = unix.find(inode)?;
        let peer = own.peer.and_then(|peer| unix.find(peer)).map(|peer| peer.name).unwrap_or_default();
        Some(Found {
            protocol: "unix",
            local: printed(own.name),
            peer: printed(peer),
            other: own.peer,
            queued: own.queued,
        })
    }

    fn find_inet(&mut self, process: &Directory, tid: u32, inode: u64) -> Option<Found> {
        let now = monotonic_ns();
        let fresh = self.inet.contains_key(&inode) && now.saturating_sub(self.read_ns) < BELIEVED_NS;
        if !fresh && now >= self.due_ns {
            self.read(process, tid);
            let end = monotonic_ns();
            self.read_ns = end;
            self.due_ns = end.saturating_add(end.saturating_sub(now).saturating_mul(WAIT_PER_COST));
        }
        let (protocol, socket) = *self.inet.get(&inode)?;
        let has_peer = socket.has_peer();
        Some(Found {
            protocol,
            local: socket.local.to_string().into_bytes(),
            peer: if has_peer { socket.peer.to_string().into_bytes() } else { Vec::new() },
            other: self.ends.get(&(socket.peer, socket.local)).copied().filter(|_| has_peer),
            queued: Some(socket.queued).filter(|_| !socket.listens),
        })
    }

    fn read(&mut self, process: &Directory, tid: u32) {
        self.inet.clear();
        self.ends.clear();
        let mut table = Vec::new();
        for (name, is_stream) in TABLES {
            if process.read(&format!("task/{tid}/net/{name}"), TABLE_MAX, &mut table).is_err() {
                continue;
            }
            visit_inet(&table, |socket| {
                // Sockets that nobody has any more are in the table without an inode.
                if socket.inode != 0 {
                    self.inet.insert(socket.inode, (name, *socket));
                    if is_stream && socket.has_peer() {
                        self.ends.insert((socket.local, socket.peer), socket.inode);
                    }
                }
            });
        }
    }
}

/// As the kernel prints an abstract name: `@` for the NUL that it begins with.
fn printed(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(first @ 0) = name.first_mut() {
        *first = b'@';
    }
    name
}
