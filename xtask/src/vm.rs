//! `cargo xtask vm`: memtrace on another kernel, in an emulated machine that ends by itself.
//!
//! The kernel must have ext4 and NVMe built in, as Debian's cloud kernels do; nothing of it is installed. The machine
//! gets a disk with memtrace, the tests of causes, their workloads, and busybox. Nothing of this machine is reachable.

use crate::build::{self, Profile};
use crate::machine;
use crate::shell;
use crate::workspace;
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

/// The programs that make and run the machine, and the packages that bring them.
const NEEDED: &[(&str, &str)] =
    &[("qemu-system-x86_64", "qemu-system-x86"), ("mke2fs", "e2fsprogs"), ("busybox", "busybox-static")];

/// How long the machine may take, in seconds: emulated, the tests need minutes.
const PATIENCE: &str = "1800";

/// What the machine says last, with the exit codes of both.
const VERDICT: &str = "vm: doctor ";

/// The first process. What it says goes to the serial line, which is our stdout.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tracefs tracefs /sys/kernel/tracing
mount -t devtmpfs dev /dev 2>/dev/null; mkdir -p /dev/shm; mount -t tmpfs shm /dev/shm
echo madvise >/sys/kernel/mm/transparent_hugepage/enabled
export PATH=/target/release:/bin CARGO_TARGET_DIR=/target MEMTRACE_BIN=/target/release/memtrace
echo \"vm: Linux $(uname -r)\"
memtrace doctor --color never; doctor=$?
/target/release/deps/kernel_causes $(cat /filter); causes=$?
echo \"vm: doctor $doctor causes $causes\"
sync; poweroff -f
";

/// Builds, boots `kernel` (a vmlinuz, or a Debian package that holds one), and runs `memtrace doctor` and the tests of
/// causes there whose names contain one of `filter`. True when both ended with success.
///
/// # Errors
/// Something cannot be built, is missing, or the machine did not come to its end.
pub fn vm(kernel: &Path, filter: &[OsString]) -> Result<bool> {
    if let Some((program, package)) = NEEDED.iter().find(|(program, _)| find(program).is_none()) {
        bail!("{program} is not here; type\n  sudo apt-get install {package}");
    }
    let memtrace = build::memtrace(Profile::Release, &build::object()?)?;
    shell::run(build::cargo().args(["build", "--release", "--package", "memtrace-tests", "--bins", "--tests"]))?;
    let folder = workspace::target().join("vm");
    let root = folder.join("root");
    let _ = fs::remove_dir_all(&folder);
    for empty in ["bin", "dev", "proc", "sys", "tmp", "var/tmp", "target/release/deps"] {
        fs::create_dir_all(root.join(empty)).with_context(|| format!("failed to make {}", root.display()))?;
    }
    install(&memtrace, &root, "target/release/memtrace")?;
    install(&Profile::Release.program("workload"), &root, "target/release/workload")?;
    install(&newest_test("kernel_causes")?, &root, "target/release/deps/kernel_causes")?;
    for program in ["busybox", "mkswap"] {
        install(&find(program).context("it was there")?, &root, &format!("bin/{program}"))?;
    }
    fs::write(root.join("filter"), filter.join(&OsString::from(" ")).as_encoded_bytes())?;
    fs::write(root.join("init"), INIT)?;
    shell::run(Command::new("chmod").arg("+x").arg(root.join("init")))?;
    let disk = folder.join("disk");
    fs::File::create(&disk)?.set_len(1 << 30)?;
    shell::run_quietly(
        Command::new(find("mke2fs").context("it was there")?).args(["-t", "ext4", "-d"]).args([&root, &disk]),
    )?;
    boot(&vmlinuz(kernel, &folder)?, &disk)
}

/// Debian keeps some programs where only root looks.
fn find(name: &str) -> Option<PathBuf> {
    machine::find(name).or_else(|| Some(Path::new("/sbin").join(name)).filter(|program| program.is_file()))
}

/// The kernel itself.
fn vmlinuz(kernel: &Path, folder: &Path) -> Result<PathBuf> {
    if kernel.extension().is_none_or(|extension| extension != "deb") {
        return Ok(kernel.to_owned());
    }
    let unpacked = folder.join("kernel");
    shell::run(Command::new("dpkg-deb").arg("-x").args([kernel, &unpacked]))?;
    let found = shell::ask(Command::new("find").arg(&unpacked).args(["-name", "vmlinuz*"])).unwrap_or_default();
    found.lines().next().map(PathBuf::from).with_context(|| format!("{} holds no vmlinuz", kernel.display()))
}

/// The test's program: cargo puts a hash behind its name, and leaves old ones.
fn newest_test(name: &str) -> Result<PathBuf> {
    let age = |path: &PathBuf| path.metadata().and_then(|it| it.modified()).unwrap_or(UNIX_EPOCH);
    let is_it = |path: &PathBuf| {
        path.extension().is_none()
            && path.file_name().is_some_and(|it| it.to_string_lossy().starts_with(&format!("{name}-")))
    };
    let files = fs::read_dir(workspace::target().join("release/deps"))?.flatten().map(|entry| entry.path());
    files.filter(is_it).max_by_key(age).with_context(|| format!("{name} was not built"))
}

/// Copies a program, and the libraries that it wants to where it wants them.
fn install(program: &Path, root: &Path, place: &str) -> Result<()> {
    let copy = |from: &Path, to: PathBuf| -> Result<()> {
        fs::create_dir_all(to.parent().unwrap_or(root))?;
        fs::copy(from, &to).with_context(|| format!("failed to copy {}", from.display()))?;
        Ok(())
    };
    copy(program, root.join(place))?;
    let libraries = shell::ask(Command::new("ldd").arg(program)).unwrap_or_default();
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        copy(Path::new(library), root.join(library.trim_start_matches('/')))?;
    }
    Ok(())
}

/// One thread emulates all CPUs in turn: with several, code that a tracepoint's switch has just patched may run as it was.
fn boot(vmlinuz: &Path, disk: &Path) -> Result<bool> {
    let mut command = Command::new("timeout");
    command.args([
        PATIENCE,
        "qemu-system-x86_64",
        "-accel",
        "tcg,thread=single",
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        "2G",
    ]);
    command.args(["-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio", "-monitor", "none", "-kernel"]);
    command.arg(vmlinuz).args(["-append", "console=ttyS0 quiet panic=-1 root=/dev/nvme0n1 rw init=/init", "-drive"]);
    command.arg(format!("file={},if=none,id=disk,format=raw,cache=unsafe", disk.display()));
    command.args(["-device", "nvme,drive=disk,serial=1"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("failed to start {}", shell::line(&command)))?;
    let mut verdict = None;
    for line in BufReader::new(child.stdout.take().context("stdout is piped")?).split(b'\n') {
        let line = line.context("failed to read the serial line")?;
        let line = String::from_utf8_lossy(&line);
        if let Some(codes) = line.trim_end().strip_prefix(VERDICT) {
            verdict = Some(codes == "0 causes 0");
        }
        // Whoever reads us may have gone away; the verdict still counts.
        let _ = writeln!(std::io::stdout(), "{}", line.trim_end());
    }
    child.wait().context("failed to wait for the machine")?;
    verdict.context("the machine ended without its verdict")
}
