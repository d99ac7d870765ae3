//! What builds the probes: a Rust compiler that has a `core` for the BPF target, and bpf-linker. Finds; installs nothing.
//!
//! Stable Rust as rustup ships it has no such `core`. Two compilers do, and either will do:
//! Debian's `rustc-web`, for which `libstd-rust-web-dev-bpf` brings it prebuilt, and a nightly that
//! has its sources (`rust-src`) and compiles it by `-Z build-std`.

use crate::machine;
use crate::shell;
use crate::workspace::BPF_TARGET;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The bpf-linker that is known to work: the first that links LLVM 22's bitcode by default features of that name.
pub const BPF_LINKER_VERSION: &str = "0.13.0";

/// Where Debian installs its own compiler; a rustup proxy of the same name is often before it in `PATH`.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Where a `core` for the BPF target comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Core {
    /// A compiler with a prebuilt one.
    Prebuilt {
        /// The compiler.
        rustc: PathBuf,
    },
    /// A nightly of rustup with the sources.
    Sources {
        /// Name of the toolchain.
        toolchain: String,
    },
}

/// A compiler for the probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// Its `core`.
    pub core: Core,
    /// Its version.
    pub version: String,
    /// Major version of its LLVM. bpf-linker reads bitcode up to its own.
    pub llvm: u32,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.core {
            Core::Prebuilt { rustc } => {
                write!(f, "prebuilt core of rustc {} ({})", self.version, rustc.display())
            }
            Core::Sources { toolchain } => {
                write!(f, "rustc {} ({toolchain}) and -Z build-std=core", self.version)
            }
        }
    }
}

impl Compiler {
    /// The compiler of this machine: the prebuilt one first, for it compiles less.
    pub fn find() -> Option<Self> {
        Self::prebuilt(Path::new(DEBIAN_RUSTC)).or_else(Self::nightly)
    }

    fn prebuilt(rustc: &Path) -> Option<Self> {
        let libraries = shell::ask(Command::new(rustc).args(["--print", "target-libdir", "--target", BPF_TARGET]))?;
        let has_core = fs::read_dir(libraries.trim()).ok()?.flatten().any(|file| {
            let name = file.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libcore-") && name.ends_with(".rlib")
        });
        if !has_core {
            return None;
        }
        let (version, llvm) = parse_version(&shell::ask(Command::new(rustc).arg("-vV"))?)?;
        Some(Self { core: Core::Prebuilt { rustc: rustc.to_owned() }, version, llvm })
    }

    fn nightly() -> Option<Self> {
        let toolchain = "nightly";
        let rustc =
            |argument: &[&str]| shell::ask(Command::new("rustup").args(["run", toolchain, "rustc"]).args(argument));
        let sysroot = rustc(&["--print", "sysroot"])?;
        let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
        if !core.is_file() {
            return None;
        }
        let (version, llvm) = parse_version(&rustc(&["-vV"])?)?;
        Some(Self { core: Core::Sources { toolchain: toolchain.to_owned() }, version, llvm })
    }

    /// A cargo that compiles for the BPF target with this compiler. What the caller's cargo put in the environment for
    /// its own compiler is taken out again.
    pub fn cargo(&self) -> Command {
        let mut command = match &self.core {
            Core::Prebuilt { rustc } => {
                let mut command = Command::new(own_cargo());
                // A stable compiler takes a target without `std` only so.
                command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
                command
            }
            Core::Sources { toolchain } => {
                let mut command = Command::new("rustup");
                command.args(["run", toolchain, "cargo"]).env_remove("RUSTC");
                command
            }
        };
        // Profiles of the caller's build are not for the probes: the verifier takes what these have been tried with.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_PROFILE_")) {
            command.env_remove(name);
        }
        for name in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
            command.env_remove(name);
        }
        // `cargo run` puts its own compiler's libraries there.
        command.env_remove("LD_LIBRARY_PATH");
        command
    }

    /// What cargo's `build` needs besides the target.
    pub fn build_arguments(&self) -> &'static [&'static str] {
        match self.core {
            Core::Prebuilt { .. } => &[],
            Core::Sources { .. } => &["-Z", "build-std=core"],
        }
    }
}

/// The cargo that runs us, with its toolchain.
pub fn own_cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// `rustc -vV`'s version and major version of LLVM.
fn parse_version(verbose: &str) -> Option<(String, u32)> {
    let field = |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name));
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    Some((field("release: ")?.to_owned(), llvm))
}

/// The bpf-linker of this machine, if it is of the version that we know.
pub fn bpf_linker() -> Option<PathBuf> {
    let program = machine::find("bpf-linker")?;
    let version = shell::ask(Command::new(&program).arg("--version"))?;
    (version.trim() == format!("bpf-linker {BPF_LINKER_VERSION}")).then_some(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_and_llvm_are_read() {
        let verbose = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                       host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(parse_version(verbose), Some(("1.96.0".to_owned(), 22)));
        assert_eq!(parse_version("rustc 1.96.0\n"), None);
    }

    #[test]
    fn only_the_nightly_builds_core() {
        let compiler = |core| Compiler { core, version: "1.96.0".to_owned(), llvm: 22 };
        let prebuilt = compiler(Core::Prebuilt { rustc: PathBuf::from("/usr/bin/rustc") });
        assert!(prebuilt.build_arguments().is_empty());
        assert!(prebuilt.cargo().get_envs().any(|(name, value)| name == "RUSTC" && value.is_some()));
        let sources = compiler(Core::Sources { toolchain: "nightly".to_owned() });
        assert_eq!(sources.build_arguments(), ["-Z", "build-std=core"]);
        assert!(!sources.cargo().get_envs().any(|(name, value)| name == "RUSTC" && value.is_some()));
    }
}
