//! Running other programs: shown, timed, and with their failure named.

use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Runs `command` with our terminal.
///
/// # Errors
/// When it cannot be started or does not end with success.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("failed to start {}", line(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", line(command));
    }
    Ok(())
}

/// Runs `command` and shows what it printed only if it fails.
///
/// # Errors
/// When it cannot be started or does not end with success.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("failed to start {}", line(command)))?;
    if !status.success() {
        eprint!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        bail!("{} failed: {status}", line(command));
    }
    Ok(())
}

/// What `command` prints on stdout, when it succeeds; its stderr is dropped. For questions whose answer may be no.
pub fn ask(command: &mut Command) -> Option<String> {
    let Output { status, stdout, .. } = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    status.success().then(|| String::from_utf8_lossy(&stdout).into_owned())
}

/// `command` as one could type it, without its environment.
pub fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = match program.file_name() {
        // The toolchain's own path says nothing to a person.
        Some(name) if name == "cargo" => "cargo".to_owned(),
        _ => program.display().to_string(),
    };
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        let plain =
            !argument.is_empty() && argument.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=./,:@+%".contains(&b));
        // Writing to a String cannot fail.
        let _ =
            if plain { write!(line, " {argument}") } else { write!(line, " '{}'", argument.replace('\'', r"'\''")) };
    }
    line
}

/// `work`, with the time it took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = work();
    (done, start.elapsed())
}

/// A duration for people: `0.12 s`, `34 s`, `2 min 5 s`.
pub fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 10.0 {
        format!("{seconds:.2} s")
    } else if seconds < 120.0 {
        format!("{seconds:.0} s")
    } else {
        format!("{} min {} s", duration.as_secs() / 60, duration.as_secs() % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_can_be_typed() {
        let mut command = Command::new("sudo");
        command.args(["a b", "--x=1", "it's", ""]);
        assert_eq!(line(&command), r"sudo 'a b' --x=1 'it'\''s' ''");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(seconds(Duration::from_millis(123)), "0.12 s");
        assert_eq!(seconds(Duration::from_secs(34)), "34 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 5 s");
    }

    #[test]
    fn a_failure_is_named() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).expect_err("exit 3 is failure");
        assert!(error.to_string().contains("sh -c 'exit 3' failed"), "{error}");
        assert_eq!(ask(&mut Command::new("false")), None);
    }
}
