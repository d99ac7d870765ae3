//! `/proc/PID/net/tcp` and its likes: addresses of sockets by inode.
//!
//! Sockets of AF_UNIX are not read here: a name in `/proc/net/unix` may hold newlines, so that any program can write lines
//! of others there. Netlink tells these, one by one.

use super::scan::Lines;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A socket of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InetSocket {
    /// Own address.
    pub local: SocketAddr,
    /// The other side's; unspecified with port 0 for none.
    pub peer: SocketAddr,
    /// Bytes to be sent, and to be read; of a socket that listens, connections.
    pub queued: (u64, u64),
    /// It listens: others connect to it.
    pub listens: bool,
    /// Its number.
    pub inode: u64,
}

impl InetSocket {
    /// It is connected.
    #[must_use]
    pub const fn has_peer(&self) -> bool {
        self.peer.port() != 0
    }
}

/// Calls `visit` for each socket. Lines that the kernel would not print, its heading among them, are passed over.
pub fn visit_inet(bytes: &[u8], mut visit: impl FnMut(&InetSocket)) {
    Lines::new(bytes).filter_map(parse).for_each(|socket| visit(&socket));
}

/// `TCP_LISTEN` as the tables print it.
const LISTEN: &[u8] = b"0A";

/// `   0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000  0 12345 …`.
fn parse(line: &[u8]) -> Option<InetSocket> {
    let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    words.next()?.strip_suffix(b":")?;
    let (local, peer) = (address(words.next()?)?, address(words.next()?)?);
    let listens = words.next()? == LISTEN;
    let (to_send, to_read) = pair(words.next()?)?;
    let inode = words.nth(4)?;
    Some(InetSocket {
        local,
        peer,
        queued: (number(to_send)?, number(to_read)?),
        listens,
        inode: std::str::from_utf8(inode).ok()?.parse().ok()?,
    })
}

fn pair(word: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b':', word)?;
    Some((&word[..at], &word[at + 1..]))
}

/// Of eight capital hexadecimal digits at most.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The kernel prints each 32 bits of an address as this machine's number, a port as a number.
fn address(word: &[u8]) -> Option<SocketAddr> {
    let (address, port) = pair(word)?;
    let port = u16::try_from(number(port)?).ok()?;
    let mut bytes = [0; 16];
    let (groups, []) = address.as_chunks::<8>() else { return None };
    if !matches!(groups.len(), 1 | 4) {
        return None;
    }
    for (group, place) in groups.iter().zip(bytes.as_chunks_mut::<4>().0) {
        *place = u32::try_from(number(group)?).ok()?.to_ne_bytes();
    }
    let ip = match groups.len() {
        1 => IpAddr::from(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
        // An IPv4 address that a socket of IPv6 has is told as what it is.
        _ => IpAddr::from(Ipv6Addr::from(bytes)).to_canonical(),
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &[u8]) -> Vec<InetSocket> {
        let mut sockets = Vec::new();
        visit_inet(text, |socket| sockets.push(*socket));
        sockets
    }

    #[test]
    fn tables_as_printed() {
        let tcp = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000   105        0 20011 1 0000000000000000 100 0 0 10 0\n   \
            1: 0100007F:1538 0100007F:A4CE 01 0000001F:00000101 02:000AF0A5 00000000   105        0 20012 2 0000000000000000 20 4 30 10 -1\n";
        let sockets = parsed(tcp);
        assert_eq!(sockets.len(), 2);
        assert!(!sockets[0].has_peer());
        assert_eq!(sockets[1].local, "127.0.0.1:5432".parse().unwrap());
        assert_eq!(sockets[1].peer, "127.0.0.1:42190".parse().unwrap());
        assert_eq!((sockets[1].queued, sockets[1].inode), ((0x1f, 0x101), 20012));

        let tcp6 = b"   0: 00000000000000000000000001000000:1538 00000000000000000000000001000000:A4CE 01 00000000:00000000 00:00000000 00000000     0        0 7 1\n   \
            1: 0000000000000000FFFF00000100007F:0016 0000000000000000FFFF00000200007F:0017 01 00000000:00000000 00:00000000 00000000     0        0 8 1\n";
        let sockets = parsed(tcp6);
        assert_eq!(sockets[0].local, "[::1]:5432".parse().unwrap());
        assert_eq!(sockets[1].peer, "127.0.0.2:23".parse().unwrap());
    }

    #[test]
    fn what_the_kernel_would_not_print() {
        for line in [
            "0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000 105 0",
            "0: 0100007:1538 00000000:0000 0A 0:0 00:0 0 105 0 20011",
            "0: 0100007F:11538 00000000:0000 0A 0:0 00:0 0 105 0 20011",
            "0: +100007F:1538 00000000:0000 0A 0:0 00:0 0 105 0 20011",
            "0: 0100007F:1538 00000000:0000 0A 0:0 00:0 0 105 0 -1",
            "0 0100007F:1538 00000000:0000 0A 0:0 00:0 0 105 0 20011",
        ] {
            assert_eq!(parsed(format!("{line}\n").as_bytes()), [], "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            parsed(&bytes);
        }

        #[test]
        fn addresses_come_back_as_printed(
            local: [u8; 4],
            peer: [u8; 4],
            ports: (u16, u16),
            queued: (u32, u32),
            inode: u64,
            listens: bool,
        ) {
            let printed = |bytes: [u8; 4]| u32::from_ne_bytes(bytes);
            let text = format!(
                "   0: {:08X}:{:04X} {:08X}:{:04X} {} {:08X}:{:08X} 00:00000000 00000000  1000        0 {inode} 1 x\n",
                printed(local), ports.0, printed(peer), ports.1, if listens { "0A" } else { "01" }, queued.0, queued.1,
            );
            let socket = InetSocket {
                local: SocketAddr::from((local, ports.0)),
                peer: SocketAddr::from((peer, ports.1)),
                queued: (queued.0.into(), queued.1.into()),
                inode,
                listens,
            };
            prop_assert_eq!(parsed(text.as_bytes()), [socket]);
        }
    }
}
