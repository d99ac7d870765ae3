//! Puts the probes' object where `include_bytes_aligned!(env!("MEMTRACE_BPF_OBJECT_PATH"))` finds it.
//!
//! It does not build the object: that takes another compiler, and is `cargo xtask build`'s work, which passes the
//! path in `MEMTRACE_BPF_OBJECT`. A plain `cargo build` takes the object of the last `cargo xtask build`.
//! Without the feature `live` there is nothing to do.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

const VARIABLE: &str = "MEMTRACE_BPF_OBJECT";
/// Below a target folder; `cargo xtask build` puts it there.
const BUILT: &str = "bpf/bpfel-unknown-none/release/memtrace";
/// `e_machine` of a BPF program.
const EM_BPF: u16 = 247;

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
        None => last_built(&folder).ok_or("the probes are not built")?,
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

fn is_bpf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
        && bytes.get(18..20).is_some_and(|machine| u16::from_le_bytes([machine[0], machine[1]]) == EM_BPF)
}
