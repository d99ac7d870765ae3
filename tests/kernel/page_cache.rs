//! How much of a file is in the process, in the page cache, dirty, and nowhere but on disk: against the truth of a
//! workload that counts the pages that it writes, drops and loads, and against cachestat(2) and fincore(1) here.

use anyhow::{Context, Result, ensure};
use memtrace_tests::machine::{Setting, TempDir};
use memtrace_tests::runner::{self, Test, keepsake, skip};
use memtrace_tests::scene::{Play, options};
use memtrace_tests::target::{Stopped, Target, stop};
use memtrace_tests::tool::binary;
use serde_json::Value;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Scenes whose file is told to whoever may follow a mapping.
macro_rules! scenes {
    ($($scene:literal)*) => {
        &[$(($scene, || assert_scene($scene))),*]
    };
}

const SCENES: &[Test] = scenes! {
    "page_cache.dirty" "page_cache.synced" "page_cache.loaded" "page_cache.read" "page_cache.copies" "page_cache.twice"
    "page_cache.deleted" "page_cache.memfd" "page_cache.namespace" "page_cache.overlay"
};

const RIGHTS: &[Test] = &[
    ("page_cache.by_path", by_path),
    ("page_cache.out_of_reach", out_of_reach),
    ("page_cache.hidden", hidden),
    ("page_cache.dead_server", dead_server),
];

fn main() -> ExitCode {
    runner::run(&[SCENES, RIGHTS].concat())
}

/// A played scene that stands still.
struct Scene {
    target: Target,
    truth: Value,
    _guards: (Stopped, TempDir, Setting),
}

impl Scene {
    fn play(name: &str) -> Result<Self> {
        // Without the flusher's rounds dirty pages stay dirty as long as the test looks.
        let quiet = Setting::set("/proc/sys/vm/dirty_writeback_centisecs", "0")?;
        let dir = TempDir::new()?;
        let mut target = Target::workload(name, &options(&dir, &Play::default()))?;
        target.send("x")?;
        let report = target.json().context("the scene's report")?;
        ensure!(report["done"] == true, "the scene itself failed; its words are on stderr: {report}");
        let stopped = stop(target.pid())?;
        Ok(Self { target, truth: report["more"].clone(), _guards: (stopped, dir, quiet) })
    }

    /// Its file, through its mapping.
    fn map_file(&self) -> Result<String> {
        let place = self.truth["map_file"].as_str().context("map_file")?;
        Ok(format!("/proc/{}/map_files/{place}", self.target.pid()))
    }

    /// What cachestat and fincore say of it now; `dirty` and `writeback` as null where cachestat does not.
    fn look(&self) -> Result<Value> {
        let path = self.map_file()?;
        let fincore = Command::new("fincore").args(["--bytes", "--noheadings", "--output", "RES", &path]).output()?;
        let page_cache: u64 = String::from_utf8_lossy(&fincore.stdout).trim().parse().context("fincore")?;
        let (mut dirty, mut writeback) = (Value::Null, Value::Null);
        // On overlayfs it says 0 of everything.
        if self.truth["file"]["dirty"].is_u64()
            && let Some(stat) = cachestat(&File::open(&path)?)
        {
            ensure!(stat[0] == page_cache, "fincore {page_cache}, cachestat {stat:?}");
            (dirty, writeback) = (stat[1].into(), stat[2].into());
        }
        Ok(serde_json::json!({"page_cache": page_cache, "dirty": dirty, "writeback": writeback}))
    }

    /// The page cache is as the workload left it.
    fn is_undisturbed(&self) -> Result<bool> {
        let look = self.look()?;
        Ok(["page_cache", "dirty", "writeback"].iter().all(|field| look[field] == self.truth["file"][field]))
    }

    /// What a snapshot tells of it.
    fn file_in<'a>(&self, process: &'a Value) -> Result<&'a Value> {
        let path = self.truth["path_hex"].as_str().context("path_hex")?;
        let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        let files = process["files"].as_array().with_context(|| format!("files is {}", process["files"]))?;
        let mut found = files.iter().filter(|file| file["path"].as_str().is_some_and(|name| hex(name) == path));
        let file = found.next().with_context(|| format!("it is not among {} files", files.len()))?;
        ensure!(found.next().is_none(), "it is there twice");
        Ok(file)
    }
}

/// Pages in the page cache, dirty, being written; bytes. `None`: this kernel does not tell.
fn cachestat(file: &File) -> Option<[u64; 3]> {
    let (range, mut stat) = ([0_u64; 2], [0_u64; 5]);
    // SAFETY: the range is two numbers, the answer five, as the kernel's structs are.
    let outcome = unsafe { libc::syscall(451, file.as_raw_fd(), range.as_ptr(), stat.as_mut_ptr(), 0) };
    let page = memtrace_tests::pages::page_size() as u64;
    (outcome == 0).then(|| [stat[0] * page, stat[1] * page, stat[2] * page])
}

/// `memtrace snapshot --json --pid PID`, run by this command if there is one.
fn snapshot(pid: u32, runner: &[&str]) -> Result<Value> {
    snapshot_by(&binary()?, pid, runner)
}

fn snapshot_by(tool: &Path, pid: u32, runner: &[&str]) -> Result<Value> {
    let mut command = Command::new(runner.first().map_or(tool, Path::new));
    if let [_, options @ ..] = runner {
        command.args(options).arg(tool);
    }
    let output = command.args(["snapshot", "--json", "--pid", &pid.to_string()]).current_dir("/").output()?;
    std::fs::write(keepsake("json"), &output.stdout)?;
    std::fs::write(keepsake("stderr"), &output.stderr)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "memtrace snapshot ended with {}: {errors}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("not one object: {errors}"))
}

fn assert_scene(name: &str) -> Result<()> {
    assert_scene_by(name, &[])
}

/// A scene in which somebody else wrote the pages back, or took them, meanwhile is played again.
fn assert_scene_by(name: &str, runner: &[&str]) -> Result<()> {
    for _ in 0..3 {
        let scene = Scene::play(name)?;
        let undisturbed = scene.is_undisturbed()?;
        let process = snapshot(scene.target.pid(), runner)?;
        if !undisturbed || !scene.is_undisturbed()? {
            println!("    disturbed: {}, told {}", scene.look()?, scene.truth["file"]);
            continue;
        }
        return assert_file(&scene, scene.file_in(&process)?);
    }
    skip("three times somebody wrote the file's pages back or took them: too busy a machine")
}

fn assert_file(scene: &Scene, file: &Value) -> Result<()> {
    for (field, truth) in scene.truth["file"].as_object().context("file")? {
        // Before Linux 6.5 nobody can know.
        if scene.look()?["dirty"].is_null() && matches!(field.as_str(), "dirty" | "writeback") {
            ensure!(file[field].is_null(), "{field} is {} and cannot be known", file[field]);
        } else {
            ensure!(file[field] == *truth, "{field} is {}, in truth {truth}: {file}", file[field]);
        }
    }
    Ok(())
}

/// Root but for the right to follow mappings: paths must do.
const NO_MAP_FILES: &[&str] =
    &["setpriv", "--inh-caps=-sys_admin,-checkpoint_restore", "--bounding-set=-sys_admin,-checkpoint_restore"];

/// Also in another mount namespace, where the same path leads to another file for everyone else.
fn by_path() -> Result<()> {
    assert_scene_by("page_cache.dirty", NO_MAP_FILES)?;
    assert_scene_by("page_cache.overlay", NO_MAP_FILES)?;
    assert_scene_by("page_cache.namespace", NO_MAP_FILES)
}

/// A deleted file has no path: what only the file itself tells is unknown then, not 0.
fn out_of_reach() -> Result<()> {
    for name in ["page_cache.deleted", "page_cache.memfd"] {
        let scene = Scene::play(name)?;
        let process = snapshot(scene.target.pid(), NO_MAP_FILES)?;
        let file = scene.file_in(&process)?;
        for field in ["size", "page_cache", "dirty", "writeback", "not_loaded"] {
            ensure!(file[field].is_null(), "{name}: {field} is {} and cannot be known", file[field]);
        }
        for field in ["mapped", "resident"] {
            ensure!(file[field] == scene.truth["file"][field], "{name}: {field} is {}", file[field]);
        }
        let given_up = process["given_up"].to_string();
        ensure!(given_up.contains("cachestat") && given_up.contains("CAP_SYS_ADMIN"), "{name}: gave up {given_up}");
    }
    Ok(())
}

/// Somebody who may read a file and neither owns nor may write it: mincore calls all of it resident.
fn hidden() -> Result<()> {
    const NOBODY: &[&str] = &["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--no-new-privs"];
    let place = TempDir::new()?;
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755))?;
    let copy = |name: &str, from: &Path| -> Result<_> {
        let path = place.path().join(name);
        std::fs::copy(from, &path)?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
        Ok(path)
    };
    let (tool, program) = (copy("memtrace", &binary()?)?, copy("sleep", Path::new("/bin/sleep"))?);
    let mut command = Command::new(NOBODY[0]);
    let target = Target::start(command.args(&NOBODY[1..]).arg(&program).arg("600").current_dir("/"))?;
    let exe = format!("/proc/{}/exe", target.pid());
    let deadline = std::time::Instant::now() + memtrace_tests::tool::PATIENCE;
    while std::fs::read_link(&exe)? != program {
        ensure!(std::time::Instant::now() < deadline, "setpriv does not get to {}", program.display());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let _stopped = stop(target.pid())?;
    let process = snapshot_by(&tool, target.pid(), NOBODY)?;
    let files = process["files"].as_array().context("files")?;
    let file = files.iter().find(|file| file["path"] == program.display().to_string().as_str());
    let file = file.context("its program is not among its files")?;
    ensure!(file["size"] == std::fs::metadata(&program)?.len(), "size is {}", file["size"]);
    let answered = file["dirty"].is_u64();
    if answered {
        // A kernel whose cachestat asks for no right tells the truth.
        let truth = cachestat(&File::open(&program)?).context("cachestat answered nobody and not root")?;
        ensure!(file["page_cache"] == truth[0], "page_cache is {}, in truth {truth:?}", file["page_cache"]);
    } else {
        ensure!(file["page_cache"].is_null(), "page_cache is {} and is hidden", file["page_cache"]);
        let given_up = process["given_up"].to_string();
        ensure!(given_up.contains("CAP_FOWNER"), "gave up {given_up}");
    }
    Ok(())
}

/// A file system that answers nobody lies over the path: the snapshot ends all the same, and says what it did not see.
fn dead_server() -> Result<()> {
    let Ok(server) = File::options().read(true).write(true).open("/dev/fuse") else {
        return skip("no /dev/fuse");
    };
    let scene = Scene::play("page_cache.dirty")?;
    let path = std::fs::read_link(scene.map_file()?)?;
    let dir = path.parent().context("a directory")?.to_owned();
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
    let dead = Mounted::new(&dir, &options)?;
    let process = snapshot(scene.target.pid(), NO_MAP_FILES);
    // Whoever still waits for it gets an error.
    drop(server);
    drop(dead);
    let process = process?;
    let file = scene.file_in(&process)?;
    ensure!(file["page_cache"].is_null() && file["size"].is_null(), "nobody could look at it: {file}");
    ensure!(file["mapped"] == scene.truth["file"]["mapped"], "mapped is {}", file["mapped"]);
    let given_up = process["given_up"].to_string();
    ensure!(given_up.contains("no answer within"), "gave up {given_up}");
    Ok(())
}

/// A FUSE file system. Unmounted on drop.
struct Mounted(std::ffi::CString);

impl Mounted {
    fn new(dir: &Path, options: &str) -> Result<Self> {
        let target = std::ffi::CString::new(dir.as_os_str().as_encoded_bytes())?;
        let options = std::ffi::CString::new(options)?;
        // SAFETY: NUL-terminated strings that live across the call.
        let outcome =
            unsafe { libc::mount(c"none".as_ptr(), target.as_ptr(), c"fuse".as_ptr(), 0, options.as_ptr().cast()) };
        if outcome != 0 {
            skip(format!("no FUSE here: {}", std::io::Error::last_os_error()))?;
        }
        Ok(Self(target))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // SAFETY: a NUL-terminated path.
        unsafe { libc::umount2(self.0.as_ptr(), libc::MNT_DETACH) };
    }
}
