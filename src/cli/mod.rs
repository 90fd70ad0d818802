//! The command line: parse, run, exit code.
//!
//! Exit codes: 0 when all went well; 1 when it did not, wrong configuration included (what dockerd does); 2 when the
//! command line itself cannot be understood (what clap does).

mod doctor;
mod output;
mod serve;
mod settings;
mod setup;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::ConfigError;

/// A direct-ingest export target: builders send the container engine of this host only the blobs it lacks.
#[derive(Debug, Parser)]
#[command(name = "linkspan", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Doctor(doctor::Doctor),
    Setup(setup::Setup),
}

const EXAMPLES: &str = "\
Examples:
  linkspan doctor                                            what is there, and whether it will work
  linkspan serve --docker-listen unix:///run/linkspan/docker.sock
  linkspan setup buildx mybuilder                            a docker-container builder goes through it
  linkspan serve --builder unix:///run/buildkit/buildkitd.sock
  docker buildx create --name linkspan --driver remote unix:///run/linkspan/buildkit.sock
  docker buildx build --builder linkspan --load -t demo .";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("logging cannot start: {0}")]
    Telemetry(#[from] tracing_subscriber::util::TryInitError),
    #[error("the asynchronous runtime cannot start: {0}")]
    Runtime(std::io::Error),
    #[error(transparent)]
    Daemon(#[from] crate::daemon::DaemonError),
    #[error(transparent)]
    Setup(#[from] crate::setup::SetupError),
    #[error("cannot write to standard output: {0}")]
    Output(std::io::Error),
    #[error("cannot write the report: {0}")]
    Report(#[from] serde_json::Error),
}

impl CommandError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Daemon(error) => error.hint(),
            Self::Setup(error) => error.hint(),
            _ => None,
        }
    }
}

/// Runs the program with the command line `arguments`, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let result = match Cli::try_parse_from(arguments) {
        Ok(Cli { command: Command::Serve(command) }) => command.run(),
        Ok(Cli { command: Command::Doctor(command) }) => command.run(),
        Ok(Cli { command: Command::Setup(command) }) => command.run(),
        Err(error) => {
            // Help and version come here too, with code 0. A closed pipe is no reason to fail.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    result.unwrap_or_else(|error| {
        output::complain(&error, error.hint());
        ExitCode::FAILURE
    })
}

/// Runs `future` on all processors.
fn block_on<F: Future>(future: F) -> Result<F::Output, CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CommandError::Runtime)?;
    Ok(runtime.block_on(future))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::Setting;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_is_a_flag_whose_help_names_its_variable() {
        for command in ["serve", "doctor"] {
            let tree = Cli::command();
            let command = tree.find_subcommand(command).unwrap();
            for setting in Setting::ALL {
                let flag = command.get_arguments().find(|flag| flag.get_long() == Some(setting.name()));
                let help = flag.and_then(|flag| flag.get_help()).unwrap_or_else(|| panic!("--{}", setting.name()));
                let help = help.to_string();
                assert!(help.contains(&format!("[env: {}", setting.variable())), "--{}: {help}", setting.name());
                if let Some(neighbour) = setting.neighbour() {
                    assert!(help.contains(neighbour), "--{}: {help}", setting.name());
                }
            }
        }
    }
}
