//! The program: parse, run, and say what went wrong.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "live")]
    if let Some(code) = memtrace::stacks::names::read_symbols_if_asked() {
        return code;
    }
    let request = match memtrace::cli::parse(std::env::args_os()) {
        Ok(request) => request,
        Err(error) => error.exit(),
    };
    #[cfg(feature = "live")]
    memtrace::live::start_log(&request);
    ExitCode::from(memtrace::run::run(request).unwrap_or_else(|error| memtrace::run::complain(&error)))
}
