//! `linkspan cache`.

mod archive;
mod copy;
mod error;
mod filter;
mod find;
mod list;
mod remove;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};

pub(super) use self::error::PlaceError;
use super::settings::EngineSettings;
use super::{CommandError, engine, output, show};
use crate::caches::Caches;
use crate::config::Config;
use crate::engine::EngineKind;
use crate::engine::select::select;

/// Lists, removes and copies the build caches that are stored in the engine.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Cache {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    #[command(name = "ls")]
    List(list::List),
    #[command(name = "du")]
    Usage(list::DiskUsage),
    Inspect(list::Inspect),
    #[command(name = "rm")]
    Remove(remove::Remove),
    Prune(remove::Prune),
    Export(copy::Export),
    Import(copy::Import),
}

const EXAMPLES: &str = "\
A build through `linkspan serve` writes a cache, and another one reads it:
  docker buildx build --cache-to type=linkspan,ref=app,mode=max \\
    --cache-from type=linkspan,ref=app --load -t app .
A cache has a part for each platform, target and Dockerfile that was built.
These commands work on the engine itself, not through a daemon (LINKSPAN_TO).
An ID is one version of a part: its short id, as `ls` prints it, or its whole id,
as `ls -q` prints it; of either the beginning does, of at least four characters.

Examples:
  linkspan cache ls
  linkspan cache du
  linkspan cache rm app
  linkspan cache prune --filter until=168h --keep-storage 20GB
  linkspan cache export app ./cache
  linkspan cache import ./cache app";

impl Cache {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        if engine::is_daemon_named() {
            output::note("linkspan: note: LINKSPAN_TO is not used: `linkspan cache` works on the engine itself");
        }
        match self.command {
            CacheCommand::List(command) => command.run(),
            CacheCommand::Usage(command) => command.run(),
            CacheCommand::Inspect(command) => command.run(),
            CacheCommand::Remove(command) => command.run(),
            CacheCommand::Prune(command) => command.run(),
            CacheCommand::Export(command) => command.run(),
            CacheCommand::Import(command) => command.run(),
        }
    }

    /// The flags that choose the engine.
    pub(super) fn repeated(&self) -> String {
        let target: &EngineSettings = match &self.command {
            CacheCommand::List(command) => &command.target,
            CacheCommand::Usage(command) => &command.target,
            CacheCommand::Inspect(command) => &command.target,
            CacheCommand::Remove(command) => &command.target,
            CacheCommand::Prune(command) => &command.target,
            CacheCommand::Export(command) => &command.target,
            CacheCommand::Import(command) => &command.target,
        };
        target.repeated()
    }
}

/// The caches of the engine.
async fn caches(config: &Config) -> Result<Arc<Caches>, CommandError> {
    Ok(placed(config).await?.0)
}

/// The caches of the engine, and whether they are in a folder.
async fn placed(config: &Config) -> Result<(Arc<Caches>, bool), CommandError> {
    let engine = select(&config.engine).await?.engine;
    let is_folder = matches!(engine.identity().kind, EngineKind::Layout | EngineKind::DockerClassic);
    Ok((Caches::new(&*engine, config.caches.clone())?, is_folder))
}

/// How long ago a time was, in few characters: the last use is noted to the hour.
fn ago(time: SystemTime) -> String {
    let age = SystemTime::now().duration_since(time).unwrap_or(Duration::ZERO);
    match age.as_secs() {
        0..60 => "just now".to_owned(),
        60..120 => "1 minute ago".to_owned(),
        3570..5400 => "1 hour ago".to_owned(),
        _ => show::ago(age),
    }
}

/// A cache and what the part is of, if that is known.
fn named(reference: &str, title: &str) -> String {
    if title.is_empty() { reference.to_owned() } else { format!("{reference} ({title})") }
}
