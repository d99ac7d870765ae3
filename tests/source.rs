//! Programs whose code paths are known, built from `tests/programs` by the compiler that a test wants.

use crate::database::program;
use crate::machine::TempDir;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a distribution builds with, more or less: no frame pointers, unwinding information for every instruction.
const C: &[&str] = &["-O2", "-fomit-frame-pointer", "-fasynchronous-unwind-tables", "-Wall", "-Wextra"];

/// `paths.c` with the libraries that it loads, in this directory.
///
/// # Errors
/// There is no compiler (skipped), or it refuses.
pub fn build_c(dir: &TempDir) -> Result<PathBuf> {
    let built = dir.path().join("paths");
    compile("paths.c", &built, &["-pthread", "-ldl"])?;
    let library = ["-shared", "-fPIC", "-Wl,-z,lazy"];
    compile("late.c", &built.with_extension("late.so"), &library)?;
    // Frames of different size: the wrong library's rows do not unwind the other's code.
    for (name, ballast) in [("swap1", 100), ("swap2", 900)] {
        let (name_flag, ballast) = (format!("-DNAME={name}"), format!("-DBALLAST={ballast}"));
        let mut flags = library.to_vec();
        flags.extend([name_flag.as_str(), ballast.as_str()]);
        compile("swap.c", &built.with_extension(format!("{name}.so")), &flags)?;
    }
    Ok(built)
}

/// `wait_events.c`, to be preloaded into a PostgreSQL server.
///
/// # Errors
/// There is no compiler (skipped), or it refuses.
pub fn build_wait_events(dir: &TempDir) -> Result<PathBuf> {
    let built = dir.path().join("wait_events.so");
    compile("wait_events.c", &built, &["-shared", "-fPIC", "-ldl"])?;
    Ok(built)
}

fn compile(source: &str, built: &Path, flags: &[&str]) -> Result<()> {
    let compiler = program(&["gcc", "cc"], "gcc")?;
    run(Command::new(compiler).args(C).arg(path(source)).args(flags).arg("-o").arg(built))
}

/// `paths.rs` with frame pointers and line tables, in this directory.
///
/// # Errors
/// There is no compiler (skipped), or it refuses.
pub fn build_rust(dir: &TempDir) -> Result<PathBuf> {
    let built = dir.path().join("paths");
    let compiler = match std::env::var_os("RUSTC") {
        Some(path) => PathBuf::from(path),
        None => program(&["rustc"], "rustc")?,
    };
    let flags = ["--edition=2024", "--crate-name=paths", "-O", "-g", "-Cforce-frame-pointers=yes"];
    run(Command::new(compiler).args(flags).arg(path("paths.rs")).arg("-o").arg(&built))?;
    Ok(built)
}

fn path(source: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(source)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("failed to start {}", command.get_program().display()))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
