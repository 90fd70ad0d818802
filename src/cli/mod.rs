//! The command line: parse, run, exit code.
//!
//! Exit codes: 0 for success; 1 for a failure; 2 for a wrong command line (as clap does) or a wrong value of a flag, a variable
//! or the configuration file; 130 and 143 when SIGINT or SIGTERM ended it (as shells report).

mod abandoned;
mod about;
mod cache;
mod client_tls;
mod copy;
mod daemon;
mod daemon_settings;
mod destination;
mod dial_stdio;
mod doctor;
mod engine;
mod error;
mod extent;
mod gc;
mod help;
mod images;
mod inspect;
mod interrupt;
mod load;
mod man;
mod output;
mod plugin;
mod progress;
mod ps;
mod publish;
mod read;
mod read_leases;
mod remove;
mod repeat;
mod report;
mod save;
mod serve;
mod settings;
mod setup;
mod show;
mod values;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::error::{CommandError, Leftover};
use self::interrupt::{exporting, interruptible};
use crate::trace_context;

/// Puts builds and archives into this host's container engine, sending only the blobs that it lacks.
#[derive(Debug, Parser)]
#[command(name = "linkspan", version, max_term_width = 100, after_long_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Doctor(doctor::Doctor),
    Setup(setup::Setup),
    Load(load::Load),
    Save(save::Save),
    #[command(visible_alias = "ls")]
    Images(images::List),
    Inspect(inspect::Inspect),
    #[command(name = "rm", visible_alias = "rmi")]
    Remove(remove::Remove),
    Tag(remove::Tag),
    Copy(copy::Copy),
    Publish(publish::Publish),
    Cache(cache::Cache),
    Gc(gc::Gc),
    Ps(ps::Ps),
    DialStdio(dial_stdio::DialStdio),
    /// Prints the root of an image, or its manifest for a platform, byte for byte
    Manifest(read::DocumentOfImage),
    /// Prints the config of an image, byte for byte: of this machine's platform, unless another is named
    Config(read::DocumentOfImage),
    /// Prints the digest of an image, or of its manifest for a platform
    Digest(read::DocumentOfImage),
    Version(about::Version),
    Completion(about::Completion),
    Man(about::Man),
}

const EXAMPLES: &str = "\
Examples:
  What is there, and whether it will work:
    linkspan doctor
  A docker-container builder goes through Linkspan:
    linkspan serve --docker-listen unix:///run/linkspan/docker.sock
    linkspan setup buildx mybuilder
  A builder on a socket:
    linkspan serve --builder unix:///run/buildkit/buildkitd.sock
    docker buildx create --name direct --driver remote \\
      unix:///run/linkspan/buildkit.sock
    docker buildx build --builder direct --load -t demo .";

/// Runs the program with the command line `arguments`, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (mut arguments, mut tree): (Vec<_>, _) = (arguments.into_iter().collect(), program());
    if plugin::is_plugin(arguments.first()) {
        tree = help::called(plugin::CALLED, tree).bin_name(plugin::CALLED);
        arguments = match plugin::take(arguments, program) {
            Ok(plugin::Next::Parse(arguments)) => arguments,
            Ok(plugin::Next::Exit(code)) => return code,
            Err(error) => return failed(&error, ""),
        };
    }
    // clap would propose `publish` and `ps`.
    if let Some(name @ ("push" | "pull")) = arguments.get(1).and_then(|name| name.to_str()) {
        return failed(&CommandError::NotOurs(name.to_owned()), "");
    }
    let parsed = tree.try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    let command = match parsed {
        Ok(Cli { command }) => command,
        Err(error) => {
            // To clap, help and version are errors with code 0. A closed pipe is no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    if !matches!(command, Command::Serve(_)) {
        trace_context::begin(env::var("TRACEPARENT").ok());
    }
    let flags = command.repeated();
    command.run().unwrap_or_else(|error| failed(&error, &flags))
}

fn failed(error: &CommandError, flags: &str) -> ExitCode {
    output::complain(error, error.hint(flags));
    ExitCode::from(error.code())
}

/// The clap command.
fn program() -> clap::Command {
    help::shortened(values::listed(Cli::command()))
}

impl Command {
    /// The flags that choose the engine.
    fn repeated(&self) -> String {
        match self {
            Self::Load(command) => command.target.repeated(),
            Self::Save(command) => command.target.repeated(),
            Self::Images(command) => command.target.repeated(),
            Self::Inspect(command) => command.target.repeated(),
            Self::Copy(command) => command.repeated(),
            Self::Publish(command) => command.repeated(),
            Self::Cache(command) => command.repeated(),
            Self::Manifest(which) | Self::Config(which) | Self::Digest(which) => which.target.repeated(),
            Self::Remove(command) => command.target.repeated(),
            Self::Gc(command) => command.repeated(),
            Self::Tag(command) => command.target.repeated(),
            Self::Serve(_) | Self::Doctor(_) | Self::Setup(_) | Self::Ps(_) | Self::DialStdio(_) => String::new(),
            Self::Version(_) | Self::Completion(_) | Self::Man(_) => String::new(),
        }
    }

    fn run(self) -> Result<ExitCode, CommandError> {
        match self {
            Self::Serve(command) => command.run(),
            Self::Doctor(command) => command.run(),
            Self::Setup(command) => command.run(),
            Self::Load(command) => command.run(),
            Self::Save(command) => command.run(),
            Self::Images(command) => command.run(),
            Self::Inspect(command) => command.run(),
            Self::Copy(command) => command.run(),
            Self::Publish(command) => command.run(),
            Self::Cache(command) => command.run(),
            Self::Gc(command) => command.run(),
            Self::Ps(command) => command.run(),
            Self::DialStdio(command) => command.run(),
            Self::Manifest(which) => which.manifest(),
            Self::Config(which) => which.config(),
            Self::Digest(which) => which.digest(),
            Self::Remove(command) => command.run(),
            Self::Tag(command) => command.run(),
            Self::Version(command) => command.run(),
            Self::Completion(command) => command.run(program()),
            Self::Man(command) => command.run(program()),
        }
    }
}

/// Runs `future` on a multi-threaded runtime.
fn block_on<F: Future>(future: F) -> Result<F::Output, CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CommandError::Runtime)?;
    let output = runtime.block_on(future);
    // A thread that blocks on a pipe must not delay the exit.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Setting;

    #[test]
    fn the_tree_is_sound() {
        program().debug_assert();
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
                if let Some(foreign) = setting.foreign_variable() {
                    assert!(help.contains(foreign), "--{}: {help}", setting.name());
                }
            }
        }
    }
}
