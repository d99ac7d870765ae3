//! Sockets of AF_UNIX by inode, through netlink (`linux/unix_diag.h`): names that nobody can forge, and the other end.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// Netlink's message types and attributes of `linux/sock_diag.h` and `linux/unix_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const UDIAG_SHOW_NAME: u32 = 1;
const UDIAG_SHOW_PEER: u32 = 4;
const UDIAG_SHOW_RQLEN: u32 = 16;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_RQLEN: u16 = 4;
/// `struct nlmsghdr` and `struct unix_diag_msg`, both.
const HEADER: usize = 16;
/// `udiag_state` of a socket that listens, whose queues count connections.
const TCP_LISTEN: u8 = 10;

/// A socket of AF_UNIX.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixSocket {
    /// Path that it is bound to; an abstract name begins with a NUL. Empty for none.
    pub name: Vec<u8>,
    /// Inode of the socket that it is connected to.
    pub peer: Option<u64>,
    /// Bytes to be sent, and to be read; `None` of a socket that listens.
    pub queued: Option<(u64, u64)>,
}

/// Asks the kernel for sockets of one network namespace.
#[derive(Debug)]
pub struct UnixSockets(OwnedFd);

impl UnixSockets {
    /// Of the namespace that is open in `namespace` (`/proc/PID/ns/net`).
    ///
    /// # Errors
    /// It cannot be entered, or this kernel does not tell.
    pub fn open(namespace: File) -> io::Result<Self> {
        // A thread of its own enters the namespace, and ends: the socket stays what it is.
        std::thread::spawn(move || {
            // SAFETY: a descriptor that is open; only this thread changes its namespace.
            unsafe {
                if libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            open_netlink()
        })
        .join()
        .map_err(|_| io::Error::other("the thread that opens a socket panicked"))?
        .map(Self)
    }

    /// The socket with an inode. `None`: it is none of AF_UNIX of this namespace, or is gone.
    #[must_use]
    pub fn find(&self, inode: u64) -> Option<UnixSocket> {
        // The kernel's number of an inode of a socket has 32 bits here.
        let inode = u32::try_from(inode).ok()?;
        let request = request(inode);
        let mut reply = vec![0; 4096];
        // SAFETY: the descriptor is open, and both places have as many bytes as are said.
        let length = unsafe {
            let sent = libc::send(self.0.as_raw_fd(), request.as_ptr().cast(), request.len(), 0);
            if usize::try_from(sent) != Ok(request.len()) {
                return None;
            }
            libc::recv(self.0.as_raw_fd(), reply.as_mut_ptr().cast(), reply.len(), 0)
        };
        parse_reply(reply.get(..usize::try_from(length).ok()?)?, inode)
    }
}

fn open_netlink() -> io::Result<OwnedFd> {
    // SAFETY: socket takes integers, and what it returns is nobody else's. The time limit is a timeval, as is said.
    unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = OwnedFd::from_raw_fd(fd);
        // The kernel answers before `send` returns; the limit is for one that does not.
        let limit = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
        let size = size_of::<libc::timeval>() as libc::socklen_t;
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const limit).cast(), size);
        Ok(fd)
    }
}

/// `struct nlmsghdr` and `struct unix_diag_req`.
fn request(inode: u32) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[0..4].copy_from_slice(&40u32.to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    bytes[16] = libc::AF_UNIX as u8;
    bytes[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
    bytes[24..28].copy_from_slice(&inode.to_ne_bytes());
    bytes[28..32].copy_from_slice(&(UDIAG_SHOW_NAME | UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN).to_ne_bytes());
    // No cookie.
    bytes[32..40].copy_from_slice(&u64::MAX.to_ne_bytes());
    bytes
}

/// What comes back: a `struct unix_diag_msg` with attributes, or an error.
fn parse_reply(bytes: &[u8], inode: u32) -> Option<UnixSocket> {
    let word = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let half = |bytes: &[u8], at: usize| Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let message = bytes.get(..usize::try_from(word(bytes, 0)?).ok()?)?;
    if half(message, 4)? != SOCK_DIAG_BY_FAMILY || word(message, HEADER + 4)? != inode {
        return None;
    }
    let listens = *message.get(HEADER + 2)? == TCP_LISTEN;
    let mut socket = UnixSocket::default();
    let mut rest = message.get(2 * HEADER..)?;
    while let (Some(length), Some(kind)) = (half(rest, 0), half(rest, 2)) {
        let Some(value) = rest.get(4..usize::from(length)) else { break };
        match kind {
            UNIX_DIAG_NAME => socket.name = value.to_vec(),
            UNIX_DIAG_PEER => socket.peer = word(value, 0).filter(|inode| *inode != 0).map(u64::from),
            UNIX_DIAG_RQLEN if !listens => {
                socket.queued = word(value, 4).zip(word(value, 0)).map(|(write, read)| (write.into(), read.into()));
            }
            _ => {}
        }
        rest = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    // A bound name ends with a NUL, an abstract one does not.
    if socket.name.first() != Some(&0) && socket.name.last() == Some(&0) {
        socket.name.pop();
    }
    Some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn inode(socket: &impl std::os::fd::AsRawFd) -> u64 {
        std::fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().ino()
    }

    fn sockets() -> UnixSockets {
        // Entering a namespace, our own too, needs CAP_SYS_ADMIN; asking does not.
        UnixSockets::open(File::open("/proc/self/ns/net").unwrap())
            .unwrap_or_else(|_| UnixSockets(open_netlink().unwrap()))
    }

    #[test]
    fn a_pair_knows_its_ends_and_what_waits() {
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(b"hello").unwrap();
        let found = sockets().find(inode(&other)).unwrap();
        assert_eq!((found.peer, found.name.as_slice()), (Some(inode(&one)), &b""[..]));
        assert_eq!(found.queued.map(|(_, read)| read), Some(5));
        assert_eq!(sockets().find(inode(&one)).unwrap().peer, Some(inode(&other)));
    }

    #[test]
    fn a_name_with_a_newline_is_a_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a\n0000: 00000003 00000000 00000000 0001 03 1 b");
        let listener = UnixListener::bind(&path).unwrap();
        let found = sockets().find(inode(&listener)).unwrap();
        assert_eq!(found.name, path.as_os_str().as_encoded_bytes());
        assert_eq!(sockets().find(0x7fff_fff1), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_reply(&bytes, 1);
        }

        #[test]
        fn any_attributes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reply = request(7)[..16].to_vec();
            reply.extend_from_slice(&[1, 1, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            reply.extend_from_slice(&bytes);
            let length = u32::try_from(reply.len()).unwrap();
            reply[..4].copy_from_slice(&length.to_ne_bytes());
            prop_assert!(parse_reply(&reply, 7).is_some());
        }
    }
}
