//! Reading and draining a hash map in few system calls. aya reads element by element; a busy interval holds thousands.

use aya::maps::MapData;
use bytemuck::Pod;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

/// `BPF_MAP_LOOKUP_AND_DELETE_BATCH` of `enum bpf_cmd`.
const BPF_MAP_LOOKUP_AND_DELETE_BATCH: libc::c_long = 25;
/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd`.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
/// Elements per call. A hash bucket must fit whole.
const BATCH: usize = 4096;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Reads and deletes everything in a hash map that nobody writes any more.
///
/// # Errors
/// The kernel refuses the batch operation.
pub fn drain<K: Pod, V: Pod>(map: &MapData, visit: impl FnMut(&K, &V)) -> io::Result<()> {
    batches(map, BPF_MAP_LOOKUP_AND_DELETE_BATCH, visit)
}

/// Reads everything in a hash map. Elements that come or go meanwhile may be missing.
///
/// # Errors
/// The kernel refuses the batch operation.
pub fn look<K: Pod, V: Pod>(map: &MapData, visit: impl FnMut(&K, &V)) -> io::Result<()> {
    batches(map, BPF_MAP_LOOKUP_BATCH, visit)
}

fn batches<K: Pod, V: Pod>(map: &MapData, command: libc::c_long, mut visit: impl FnMut(&K, &V)) -> io::Result<()> {
    let mut keys = vec![K::zeroed(); BATCH];
    let mut values = vec![V::zeroed(); BATCH];
    let (mut cursor, mut next) = (0u64, 0u64);
    let mut first = true;
    loop {
        let mut attr = Batch {
            in_batch: if first { 0 } else { (&raw const cursor) as u64 },
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: BATCH as u32,
            map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
            ..Batch::default()
        };
        // SAFETY: `attr` is the kernel's layout of the batch command, its pointers are to buffers of `count` elements
        // of the map's key and value sizes, and to cursors of eight bytes (a hash map's cursor is four).
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of::<Batch>()) };
        let error = io::Error::last_os_error();
        let done = result < 0 && error.raw_os_error() == Some(libc::ENOENT);
        if result < 0 && !done {
            return Err(error);
        }
        let count = (attr.count as usize).min(BATCH);
        for (key, value) in keys.iter().zip(&values).take(count) {
            visit(key, value);
        }
        if done {
            return Ok(());
        }
        cursor = next;
        first = false;
    }
}
