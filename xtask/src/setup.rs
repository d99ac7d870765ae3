//! `cargo xtask setup`: what building the probes needs, found or installed, or the line to type for each missing tool.
//!
//! With apt and root it installs by itself. Without, it changes nothing and says what to do.

use crate::apt;
use crate::machine;
use crate::shell::{self, seconds};
use crate::toolchain::{self, BPF_LINKER_VERSION, Compiler};
use anyhow::{Context, Result, anyhow, bail};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// LLVM that bpf-linker is built against here: the major version of Debian's `rustc-web`.
const LLVM: u32 = 22;
/// Where Debian installs it.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const LLVM_PACKAGES: &[&str] = &["llvm-22-dev", "libpolly-22-dev"];
const CORE_PACKAGES: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf"];

/// What builds the probes.
#[derive(Debug)]
pub struct Tools {
    /// The compiler with a `core` for the BPF target.
    pub compiler: Compiler,
    /// The linker.
    pub linker: PathBuf,
}

/// Finds or installs the tools.
///
/// # Errors
/// Names each tool that is missing and could not be installed, with the line to type.
pub fn setup() -> Result<Tools> {
    let start = Instant::now();
    let mut missing = Vec::new();
    require_c_compiler().unwrap_or_else(|error| missing.push(error));
    let compiler = Compiler::find().map_or_else(install_compiler, Ok);
    let linker = match (toolchain::bpf_linker(), &compiler) {
        (Some(linker), _) => Ok(linker),
        (None, Ok(compiler)) => install_linker(compiler.llvm),
        // Which LLVM it must read is not known yet; what is said here holds for all.
        (None, Err(_)) => Err(anyhow!(linker_advice(u32::MAX))),
    };
    match (compiler, linker) {
        (Ok(compiler), Ok(linker)) if missing.is_empty() => {
            eprintln!(
                "setup: {compiler}; bpf-linker {BPF_LINKER_VERSION} ({}); {}",
                linker.display(),
                seconds(start.elapsed())
            );
            Ok(Tools { compiler, linker })
        }
        (compiler, linker) => {
            missing.extend(compiler.err());
            missing.extend(linker.err());
            let lines: Vec<String> = missing.iter().map(|error| format!("  {error:#}")).collect();
            bail!("missing to build the probes:\n{}", lines.join("\n"))
        }
    }
}

/// Crates that compile C, and every link, need one.
fn require_c_compiler() -> Result<()> {
    if machine::find("cc").is_some() {
        return Ok(());
    }
    let packages = ["gcc", "libc6-dev"];
    if apt::may_install() {
        return apt::install(&packages);
    }
    bail!("a C compiler, cc: {}", apt_or(&packages, "install gcc or clang and libc's headers"))
}

fn install_compiler() -> Result<Compiler> {
    if apt::may_install() && apt::offers(CORE_PACKAGES)? {
        eprintln!("setup: no core for the BPF target here; taking Debian's prebuilt one");
        let (installed, took) = shell::timed(|| apt::install(CORE_PACKAGES));
        installed?;
        eprintln!("setup: installed in {}", seconds(took));
        return Compiler::find().context("the packages are installed, but the compiler has no core for the BPF target");
    }
    bail!(
        "a core for the BPF target: {}",
        apt_or(CORE_PACKAGES, "rustup toolchain install nightly --profile minimal --component rust-src")
    )
}

fn install_linker(llvm_needed: u32) -> Result<PathBuf> {
    if llvm_needed > LLVM {
        bail!(linker_advice(llvm_needed));
    }
    if !has_llvm() {
        if !apt::may_install() || !apt::offers(LLVM_PACKAGES)? {
            bail!(linker_advice(llvm_needed));
        }
        eprintln!("setup: no bpf-linker {BPF_LINKER_VERSION} here; taking Debian's LLVM {LLVM} to build it");
        let (installed, took) = shell::timed(|| apt::install(LLVM_PACKAGES));
        installed?;
        eprintln!("setup: installed in {}", seconds(took));
    }
    eprintln!("setup: building bpf-linker {BPF_LINKER_VERSION}, a minute or two, once");
    let (built, took) = shell::timed(build_linker);
    built?;
    eprintln!("setup: built in {}", seconds(took));
    toolchain::bpf_linker().context("bpf-linker was installed but does not run")
}

fn build_linker() -> Result<()> {
    let mut folders = vec![Path::new(LLVM_PREFIX).join("bin")];
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let path = env::join_paths(folders).context("PATH holds a colon in a folder's name")?;
    shell::run(
        Command::new(toolchain::own_cargo())
            .args(["install", "--quiet", "--locked", "bpf-linker", "--version", BPF_LINKER_VERSION])
            .args(["--no-default-features", "--features", &format!("llvm-{LLVM}"), "--force"])
            .env("LLVM_SYS_221_PREFIX", LLVM_PREFIX)
            .env("PATH", path),
    )
}

fn has_llvm() -> bool {
    Path::new(LLVM_PREFIX).join("include/llvm-c/Core.h").is_file()
        && Path::new(LLVM_PREFIX).join("lib/libPolly.a").is_file()
}

fn linker_advice(llvm_needed: u32) -> String {
    // The published program brings its LLVM along, of the newest major version.
    let published = format!("cargo install cargo-binstall && cargo binstall bpf-linker@{BPF_LINKER_VERSION}");
    let advice = if llvm_needed <= LLVM { apt_or(LLVM_PACKAGES, &published) } else { published };
    format!("bpf-linker {BPF_LINKER_VERSION}: {advice}")
}

/// The line to type: apt's where the machine has apt and the packages, else the other.
fn apt_or(packages: &[&str], other: &str) -> String {
    if !apt::is_here() {
        return other.to_owned();
    }
    if machine::is_root() {
        // We would have installed them, were they to be had.
        return other.to_owned();
    }
    format!("{}   (or: {other})", apt::line(packages))
}
