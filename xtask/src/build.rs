//! `cargo xtask build`: the probes, then memtrace with the probes inside.
//!
//! The probes are a package of their own, outside the workspace, because another compiler builds them for another
//! target. memtrace's build script takes the object from `MEMTRACE_BPF_OBJECT`.

use crate::setup::{self, Tools};
use crate::shell::{self, seconds};
use crate::toolchain;
use crate::workspace::{self, BPF_TARGET};
use anyhow::{Context, Result, bail};
use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Says to memtrace's build script where the probes are.
pub const OBJECT_VARIABLE: &str = "MEMTRACE_BPF_OBJECT";

/// Cargo's profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build.
    Debug,
    /// Quick to run.
    Release,
}

impl Profile {
    /// What cargo wants to hear.
    pub const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Debug => &[],
            Self::Release => &["--release"],
        }
    }

    /// Where cargo puts `program`.
    pub fn program(self, program: &str) -> PathBuf {
        let folder = match self {
            Self::Debug => "debug",
            Self::Release => "release",
        };
        workspace::target().join(folder).join(program)
    }
}

/// A cargo for this workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(toolchain::own_cargo());
    command.current_dir(workspace::root());
    command
}

/// Sets up what is missing and builds the probes. Returns the object's path.
///
/// # Errors
/// When a tool is missing or the compiler refuses.
pub fn object() -> Result<PathBuf> {
    let Tools { compiler, linker } = setup::setup()?;
    let linker_variable = format!("CARGO_TARGET_{}_LINKER", BPF_TARGET.to_uppercase().replace('-', "_"));
    let (built, took) = shell::timed(|| {
        shell::run(
            compiler
                .cargo()
                .current_dir(workspace::root().join("memtrace-ebpf"))
                .args(["build", "--release", "--target", BPF_TARGET, "--target-dir"])
                .arg(workspace::bpf_target())
                .args(compiler.build_arguments())
                .env(linker_variable, linker)
                .env("CARGO_ENCODED_RUSTFLAGS", rustflags(ARCH, &workspace::root())),
        )
    });
    built.context("failed to build the probes")?;
    let object = workspace::bpf_object();
    report(&object, took)?;
    Ok(object)
}

/// Builds memtrace with `object` inside. Returns the program's path.
///
/// # Errors
/// When the compiler refuses.
pub fn memtrace(profile: Profile, object: &Path) -> Result<PathBuf> {
    let (built, took) = shell::timed(|| {
        shell::run(
            cargo().args(["build", "--package", "memtrace"]).args(profile.arguments()).env(OBJECT_VARIABLE, object),
        )
    });
    built?;
    let program = profile.program("memtrace");
    report(&program, took)?;
    Ok(program)
}

fn report(built: &Path, took: std::time::Duration) -> Result<()> {
    let size =
        fs::metadata(built).with_context(|| format!("cargo succeeded, but there is no {}", built.display()))?.len();
    if size == 0 {
        bail!("{} is empty", built.display());
    }
    eprintln!("build: {}, {} KiB; {}", workspace::shown(built), size.div_ceil(1024), seconds(took));
    Ok(())
}

/// Flags for the probes, in cargo's encoding (separated by 0x1f).
fn rustflags(arch: &str, root: &Path) -> String {
    [
        // aya-ebpf's registers and aya's context types are those of the machine that will run the probes.
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        // BTF is made from debug information.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Atomic operations that return what was there; every kernel since 5.12.
        "-Ctarget-cpu=v3".to_owned(),
        // The object is shipped inside the program: no folder of the builder in it.
        format!("--remap-path-prefix={}=.", root.display()),
    ]
    .join("\x1f")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_separated_by_cargos_separator() {
        let flags = rustflags("x86_64", Path::new("/a b"));
        let flags: Vec<&str> = flags.split('\x1f').collect();
        assert_eq!(flags[0], "--cfg=bpf_target_arch=\"x86_64\"");
        assert!(flags.contains(&"-Clink-arg=--btf"));
        assert!(flags.contains(&"--remap-path-prefix=/a b=."), "a space does not split a flag");
    }
}
