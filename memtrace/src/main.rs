fn main() {
    if let Err(error) = memtrace::cli::parse(std::env::args_os()) {
        error.exit();
    }
}
