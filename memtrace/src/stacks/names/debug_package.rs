//! Which package would name a module's code. Read from the package manager's own lists; nothing is started or asked
//! over a network.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const DPKG: &str = "var/lib/dpkg/info";
const RPM: [&str; 2] = ["var/lib/rpm", "usr/lib/sysimage/rpm"];
/// Largest list of a package's files that is read, bytes.
const MAX_LIST: u64 = 64 << 20;

/// How to get names for a module's code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Its path, as maps has it: any bytes.
    pub module: Vec<u8>,
    /// Places in it that have no name.
    pub unnamed: u64,
    /// What to do.
    pub advice: Advice,
}

/// Where a module's debugging information is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advice {
    /// In this Debian package.
    Package(String),
    /// In the debuginfo package of the RPM that owns the file.
    Rpm,
    /// At a debuginfod server, under this build-id, in hexadecimal.
    Debuginfod(String),
    /// Nowhere: the file has no build-id. It is to be built with debugging information.
    Build,
}

impl Hint {
    /// The advice in a line, without the module's name.
    #[must_use]
    pub fn line(&self) -> String {
        match &self.advice {
            Advice::Package(name) if name.ends_with("-dbgsym") => {
                format!("apt install {name} (from the debian-debug archive)")
            }
            Advice::Package(name) => format!("apt install {name}"),
            Advice::Rpm => "dnf debuginfo-install the package that `rpm -qf` names for it".to_owned(),
            Advice::Debuginfod(id) => format!("debuginfod-find debuginfo {id}"),
            Advice::Build => "build it with -g, or keep its symbols".to_owned(),
        }
    }
}

/// A file that left code without a name.
#[derive(Clone, Debug)]
pub(super) struct Wanting {
    pub path: PathBuf,
    pub build_id: Vec<u8>,
    /// It is in our own file system. What is installed here says nothing of a file in a container.
    pub here: bool,
    pub unnamed: u64,
}

pub(super) fn hints(wanting: &[Wanting]) -> Vec<Hint> {
    hints_below(Path::new("/"), wanting)
}

fn hints_below(system: &Path, wanting: &[Wanting]) -> Vec<Hint> {
    let here: Vec<&Path> = wanting.iter().filter(|file| file.here).map(|file| file.path.as_path()).collect();
    let owners = if here.is_empty() { HashMap::new() } else { owners(&system.join(DPKG), &here) };
    let rpm = RPM.iter().any(|folder| system.join(folder).is_dir());
    let advice = |file: &Wanting| match owners.get(&file.path) {
        Some(package) if file.here => Advice::Package(debug_package(package)),
        _ if rpm && file.here => Advice::Rpm,
        _ if file.build_id.is_empty() => Advice::Build,
        _ => Advice::Debuginfod(file.build_id.iter().map(|byte| format!("{byte:02x}")).collect()),
    };
    let hint = |file: &Wanting| Hint {
        module: file.path.as_os_str().as_encoded_bytes().to_vec(),
        unnamed: file.unnamed,
        advice: advice(file),
    };
    wanting.iter().map(hint).collect()
}

/// The packages that own files, by path. A list that cannot be read owns nothing.
fn owners(lists: &Path, files: &[&Path]) -> HashMap<PathBuf, String> {
    // /usr is merged with the root on today's systems, and lists still have the path from before.
    let mut wanted: HashMap<&[u8], &Path> = HashMap::new();
    for file in files {
        let bytes = file.as_os_str().as_bytes();
        wanted.insert(bytes, file);
        if let Some(old) = bytes.strip_prefix(b"/usr".as_slice()) {
            wanted.insert(old, file);
        }
    }
    let mut owners = HashMap::new();
    for entry in fs::read_dir(lists).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(package) = name.to_str().and_then(|name| name.strip_suffix(".list")) else { continue };
        let mut bytes = Vec::new();
        let read = fs::File::open(entry.path()).and_then(|list| list.take(MAX_LIST).read_to_end(&mut bytes));
        if read.is_err() {
            continue;
        }
        for line in bytes.split(|&byte| byte == b'\n') {
            if let Some(&file) = wanted.get(line) {
                let package = package.split(':').next().unwrap_or(package);
                owners.insert(file.to_owned(), package.to_owned());
            }
        }
    }
    owners
}

/// Debian makes NAME-dbgsym of every package, but for those that have kept a package of their own.
fn debug_package(package: &str) -> String {
    let python = package.strip_prefix("lib").unwrap_or(package);
    match python.split('-').next() {
        Some(version) if version.starts_with("python3.") => format!("{version}-dbg"),
        _ if package == "libc6" => "libc6-dbg".to_owned(),
        _ => format!("{package}-dbgsym"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str, build_id: &[u8]) -> Wanting {
        Wanting { path: path.into(), build_id: build_id.into(), here: true, unnamed: 3 }
    }

    #[test]
    fn the_owner_of_a_file_says_which_package() {
        let system = tempfile::tempdir().unwrap();
        let lists = system.path().join(DPKG);
        fs::create_dir_all(&lists).unwrap();
        fs::write(lists.join("libc6:amd64.list"), "/.\n/lib\n/lib/x86_64-linux-gnu/libc.so.6\n").unwrap();
        fs::write(lists.join("redis-tools.list"), "/usr/bin/redis-check-rdb\n").unwrap();
        fs::write(lists.join("libpython3.11-minimal:amd64.list"), "/usr/lib/libpython3.11.so\n").unwrap();
        fs::write(lists.join("other.md5sums"), "/home/x\n").unwrap();
        let modules = [
            module("/usr/lib/x86_64-linux-gnu/libc.so.6", b"\xab\xcd"),
            module("/usr/bin/redis-check-rdb", b""),
            module("/usr/lib/libpython3.11.so", b""),
            module("/usr/bin/redis-check", b"\x0a\xbc"),
            module("/home/x", b""),
        ];
        let hints = hints_below(system.path(), &modules);
        let lines: Vec<String> = hints.iter().map(Hint::line).collect();
        assert_eq!(
            lines,
            [
                "apt install libc6-dbg",
                "apt install redis-tools-dbgsym (from the debian-debug archive)",
                "apt install python3.11-dbg",
                "debuginfod-find debuginfo 0abc",
                "build it with -g, or keep its symbols",
            ]
        );
        assert_eq!((hints[3].module.as_slice(), hints[3].unnamed), (b"/usr/bin/redis-check".as_slice(), 3));
        let elsewhere = Wanting { here: false, ..modules[0].clone() };
        assert_eq!(hints_below(system.path(), &[elsewhere])[0].advice, Advice::Debuginfod("abcd".to_owned()));
        fs::create_dir_all(system.path().join(RPM[0])).unwrap();
        assert_eq!(hints_below(system.path(), &modules[3..4])[0].advice, Advice::Rpm);
    }
}
