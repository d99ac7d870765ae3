//! What this machine allows: who we are, which programs are there, and the one thing that we mount.

use crate::shell;
use anyhow::Result;
use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The effective user is root. `/proc/self` belongs to the effective user.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|itself| itself.uid() == 0)
}

/// The program `name` in `PATH`, or where `cargo install` puts programs.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_home().map(|home| home.join("bin")))
        .map(|folder| folder.join(name))
        .find(|program| is_executable(program))
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| env::home_dir().map(|home| home.join(".cargo")))
}

fn is_executable(program: &Path) -> bool {
    fs::metadata(program).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

/// Mounts tracefs where it is not mounted; aya reads the ids of tracepoints there.
///
/// # Errors
/// When `mount` fails.
pub fn mount_tracefs() -> Result<()> {
    let folder = Path::new("/sys/kernel/tracing");
    if folder.join("events").is_dir() || Path::new("/sys/kernel/debug/tracing/events").is_dir() {
        return Ok(());
    }
    shell::run(Command::new("mount").args(["-t", "tracefs", "nodev"]).arg(folder))
}
