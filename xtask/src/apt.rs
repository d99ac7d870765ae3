//! Debian's packages: installed as root, or the line to type.

use crate::machine;
use crate::shell;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

/// The machine installs with apt.
pub fn is_here() -> bool {
    Path::new("/usr/bin/apt-get").is_file()
}

/// We may install.
pub fn may_install() -> bool {
    is_here() && machine::is_root()
}

/// The line that installs `packages`, for a person to type.
pub fn line(packages: &[&str]) -> String {
    format!("sudo apt-get install --no-install-recommends -y {}", packages.join(" "))
}

/// Every one of `packages` can be had. Refreshes the lists once when they know one of them not at all.
///
/// # Errors
/// When the lists cannot be refreshed.
pub fn offers(packages: &[&str]) -> Result<bool> {
    if known(packages) {
        return Ok(true);
    }
    update()?;
    Ok(known(packages))
}

fn known(packages: &[&str]) -> bool {
    let mut policy = Command::new("apt-cache");
    policy.arg("policy").args(packages).env("LC_ALL", "C");
    shell::ask(&mut policy).is_some_and(|answer| candidates(&answer) == packages.len())
}

/// How many packages of `apt-cache policy`'s answer have a version to install.
fn candidates(policy: &str) -> usize {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .count()
}

/// Installs `packages`. Lists that are too old to fetch from are refreshed once.
///
/// # Errors
/// When apt-get fails after that too.
pub fn install(packages: &[&str]) -> Result<()> {
    eprintln!("xtask: apt-get install {}", packages.join(" "));
    if known(packages) && shell::run_quietly(&mut install_command(packages)).is_ok() {
        return Ok(());
    }
    update()?;
    shell::run_quietly(&mut install_command(packages))
        .with_context(|| format!("failed to install; by hand: {}", line(packages)))
}

fn install_command(packages: &[&str]) -> Command {
    let mut command = apt_get();
    // RUNLEVEL: packages that bring a server must not start it on a developer's machine.
    command
        .args(["-qq", "-y", "-o=Dpkg::Use-Pty=0", "-o=DPkg::Lock::Timeout=300", "--no-install-recommends", "install"])
        .args(packages)
        .env("RUNLEVEL", "1");
    command
}

fn update() -> Result<()> {
    eprintln!("xtask: apt-get update");
    shell::run_quietly(apt_get().args(["-qq", "update"])).context("failed to refresh the package lists")
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_candidate_is_not_offered() {
        let answer = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n\
                      llvm-22-dev:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(candidates(answer), 1);
        assert_eq!(candidates(""), 0);
    }
}
