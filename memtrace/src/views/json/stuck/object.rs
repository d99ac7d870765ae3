//! What a thread waits for. Names of any bytes have their twins.

use super::super::untrusted::{Address, Hex, Text};
use crate::event::WaitObject;
use serde::Serialize;

/// A process by number and name.
#[derive(Serialize)]
pub(super) struct Someone<'a> {
    pub(super) pid: u32,
    pub(super) comm: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) comm_hex: Option<Hex<'a>>,
}

impl<'a> Someone<'a> {
    fn of((pid, comm): &'a (u32, Vec<u8>)) -> Self {
        Self { pid: *pid, comm: Text(comm), comm_hex: Hex::twin(comm) }
    }
}

#[derive(Serialize)]
pub(super) struct Descriptor<'a> {
    fd: i32,
    path: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<Hex<'a>>,
}

/// What a thread waits for; `kind` tells which fields there are.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum ObjectFields<'a> {
    File {
        fd: i32,
        path: Text<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        path_hex: Option<Hex<'a>>,
        offset: Option<u64>,
    },
    FileLock {
        fd: i32,
        path: Text<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        path_hex: Option<Hex<'a>>,
        holder: Option<Someone<'a>>,
    },
    Socket {
        fd: i32,
        protocol: &'a str,
        local: Text<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        local_hex: Option<Hex<'a>>,
        peer: Text<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        peer_hex: Option<Hex<'a>>,
        process: Option<Someone<'a>>,
        send_queue: Option<u64>,
        receive_queue: Option<u64>,
    },
    Pipe {
        fd: i32,
        inode: u64,
        others: Vec<Someone<'a>>,
    },
    Futex {
        address: Address,
        mapping: Text<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        mapping_hex: Option<Hex<'a>>,
        owner: Option<u32>,
    },
    SystemV {
        id: u64,
    },
    Descriptors {
        of: Vec<Descriptor<'a>>,
        total: u32,
        timeout_ns: Option<u64>,
    },
    Child {
        pid: u32,
    },
    Timer {
        ns: Option<u64>,
    },
    FilePage {
        path: Text<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        path_hex: Option<Hex<'a>>,
        offset: u64,
    },
    Tracer(Someone<'a>),
}

impl<'a> ObjectFields<'a> {
    pub(super) fn of(object: &'a WaitObject) -> Option<Self> {
        Some(match object {
            WaitObject::Unknown => return None,
            WaitObject::File { fd, path, offset } => {
                Self::File { fd: *fd, path: Text(path), path_hex: Hex::twin(path), offset: *offset }
            }
            WaitObject::FileLock { fd, path, holder } => Self::FileLock {
                fd: *fd,
                path: Text(path),
                path_hex: Hex::twin(path),
                holder: holder.as_ref().map(Someone::of),
            },
            WaitObject::Socket { fd, protocol, local, peer, process, queued } => Self::Socket {
                fd: *fd,
                protocol,
                local: Text(local),
                local_hex: Hex::twin(local),
                peer: Text(peer),
                peer_hex: Hex::twin(peer),
                process: process.as_ref().map(Someone::of),
                send_queue: queued.map(|(to_send, _)| to_send),
                receive_queue: queued.map(|(_, to_read)| to_read),
            },
            WaitObject::Pipe { fd, inode, others } => {
                Self::Pipe { fd: *fd, inode: *inode, others: others.iter().map(Someone::of).collect() }
            }
            WaitObject::Futex { address, mapping, owner } => Self::Futex {
                address: Address(*address),
                mapping: Text(mapping),
                mapping_hex: Hex::twin(mapping),
                owner: *owner,
            },
            WaitObject::SystemV { id } => Self::SystemV { id: *id },
            WaitObject::Descriptors { of, total, timeout_ns } => Self::Descriptors {
                of: of
                    .iter()
                    .map(|(fd, path)| Descriptor { fd: *fd, path: Text(path), path_hex: Hex::twin(path) })
                    .collect(),
                total: *total,
                timeout_ns: *timeout_ns,
            },
            WaitObject::Child { pid } => Self::Child { pid: *pid },
            WaitObject::Timer { ns } => Self::Timer { ns: *ns },
            WaitObject::FilePage { path, offset } => {
                Self::FilePage { path: Text(path), path_hex: Hex::twin(path), offset: *offset }
            }
            WaitObject::Tracer { pid, comm } => {
                Self::Tracer(Someone { pid: *pid, comm: Text(comm), comm_hex: Hex::twin(comm) })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_bytes_have_a_twin() {
        let bad = || b"\x00/run/\xff".to_vec();
        let json = |object: &WaitObject| serde_json::to_value(ObjectFields::of(object)).expect("it is plain data");
        let (fd, process, queued) = (3, Some((4, bad())), None);
        let socket = WaitObject::Socket { fd, protocol: "unix".into(), local: bad(), peer: bad(), process, queued };
        let all = [
            (WaitObject::File { fd, path: bad(), offset: None }, vec!["/path_hex"]),
            (WaitObject::FileLock { fd, path: bad(), holder: Some((4, bad())) }, vec!["/path_hex", "/holder/comm_hex"]),
            (socket, vec!["/local_hex", "/peer_hex", "/process/comm_hex"]),
            (WaitObject::Pipe { fd, inode: 1, others: vec![(4, bad())] }, vec!["/others/0/comm_hex"]),
            (WaitObject::Futex { address: 1, mapping: bad(), owner: None }, vec!["/mapping_hex"]),
            (WaitObject::Descriptors { of: vec![(3, bad())], total: 1, timeout_ns: None }, vec!["/of/0/path_hex"]),
            (WaitObject::FilePage { path: bad(), offset: 0 }, vec!["/path_hex"]),
            (WaitObject::Tracer { pid: 4, comm: bad() }, vec!["/comm_hex"]),
        ];
        for (object, twins) in all {
            let value = json(&object);
            for twin in twins {
                assert_eq!(value.pointer(twin), Some(&"002f72756e2fff".into()), "{twin} of {value}");
                assert!(value.pointer(twin.trim_end_matches("_hex")).is_some_and(serde_json::Value::is_string));
            }
        }
        let tracer = json(&WaitObject::Tracer { pid: 4, comm: b"gdb".to_vec() });
        assert_eq!(tracer, serde_json::json!({"kind": "tracer", "pid": 4, "comm": "gdb"}));
    }
}
