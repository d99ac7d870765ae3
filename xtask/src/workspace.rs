//! Where things are in this checkout.

use std::env;
use std::path::{Path, PathBuf};

/// The target triple of the probes.
pub const BPF_TARGET: &str = "bpfel-unknown-none";

/// Root of the checkout.
pub fn root() -> PathBuf {
    let xtask =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask.parent().map_or_else(|| xtask.clone(), Path::to_path_buf)
}

/// Cargo's target folder.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The probes' own target folder: another compiler builds them, and a shared one would be rebuilt at each change of compiler.
pub fn bpf_target() -> PathBuf {
    target().join("bpf")
}

/// The probes, built.
pub fn bpf_object() -> PathBuf {
    bpf_target().join(BPF_TARGET).join("release/memtrace")
}

/// `path` as a person in the checkout would type it.
pub fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
