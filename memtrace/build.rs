//! Puts the probes' object where `include_bytes_aligned!(env!("MEMTRACE_BPF_OBJECT_PATH"))` finds it.
//!
//! It does not build the object: that takes another compiler, and is `cargo xtask build`'s work, which passes the
//! path in `MEMTRACE_BPF_OBJECT`. A plain `cargo build` takes the object of the last `cargo xtask build`, unless it is
//! older than its sources: program and probes must have been built with the same structs.
//! Without the feature `live` there is nothing to do.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const VARIABLE: &str = "MEMTRACE_BPF_OBJECT";
/// Below a target folder; `cargo xtask build` puts it there.
const BUILT: &str = "bpf/bpfel-unknown-none/release/memtrace";
/// `e_machine` of a BPF program.
const EM_BPF: u16 = 247;
/// What the object is made of, from here.
const SOURCES: [&str; 2] = ["../memtrace-common/src", "../memtrace-ebpf/src"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    if env::var_os("CARGO_FEATURE_LIVE").is_none() {
        return;
    }
    if let Err(reason) = embed() {
        println!(
            "cargo::error={reason}; build with `cargo xtask build`, or without the probes: `--no-default-features`"
        );
    }
}

fn embed() -> Result<(), String> {
    let folder = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let object = match env::var_os(VARIABLE) {
        Some(path) => PathBuf::from(path),
        None => {
            let object = last_built(&folder).ok_or("the probes are not built")?;
            let built = fs::metadata(&object).and_then(|object| object.modified());
            let built = built.map_err(|error| format!("failed to read {}: {error}", object.display()))?;
            for folder in SOURCES {
                println!("cargo::rerun-if-changed={folder}");
                if newest(Path::new(folder)).is_some_and(|changed| changed > built) {
                    return Err(format!("the probes are older than {folder}"));
                }
            }
            object
        }
    };
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).map_err(|error| format!("failed to read {}: {error}", object.display()))?;
    if !is_bpf(&bytes) {
        return Err(format!("{} is not a BPF object", object.display()));
    }
    let embedded = folder.join("memtrace.bpf.o");
    fs::write(&embedded, bytes).map_err(|error| format!("failed to write {}: {error}", embedded.display()))?;
    println!("cargo::rustc-env=MEMTRACE_BPF_OBJECT_PATH={}", embedded.display());
    Ok(())
}

/// The object in the target folder that `out` lies in, however deep.
fn last_built(out: &Path) -> Option<PathBuf> {
    out.ancestors().map(|folder| folder.join(BUILT)).find(|object| object.is_file())
}

/// When a file below `folder` was changed last; `None` when there is no such folder, as in a published package.
fn newest(folder: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries
        .filter_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => newest(&entry.path()),
            _ => entry.metadata().and_then(|file| file.modified()).ok(),
        })
        .max()
}

fn is_bpf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
        && bytes.get(18..20).is_some_and(|machine| u16::from_le_bytes([machine[0], machine[1]]) == EM_BPF)
}
