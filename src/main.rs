//! The `linkspan` program.

fn main() -> std::process::ExitCode {
    linkspan::cli::run(std::env::args_os())
}
