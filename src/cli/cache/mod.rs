//! `linkspan cache`.

mod access;
mod copied;
mod copy;
mod error;
mod filter;
mod find;
mod folder;
mod list;
mod remove;
mod target;

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};

use self::access::{CacheAccess, connect};
pub(super) use self::error::CacheFolderError;
use super::settings::TargetSettings;
use super::{CommandError, engine, show};

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
These commands work on the engine of this machine, or through a daemon (--to).
An ID is one version of a part: its short id, as `ls` prints it, or its whole
id, as `ls -q` prints it; of either the beginning does, of at least four
characters.

Examples:
  linkspan cache ls
  linkspan cache du
  linkspan cache rm app
  linkspan cache prune --filter until=168h --keep-storage 20GB
  linkspan cache ls --to unix:///run/linkspan/export.sock
  linkspan cache export app ./cache
  linkspan cache import ./cache app";

impl Cache {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
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
        let target: &TargetSettings = match &self.command {
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

/// Runs `work` on the caches that the flags choose.
fn on_caches<T>(
    settings: TargetSettings,
    work: impl AsyncFnOnce(&dyn CacheAccess) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let (config, target) = engine::target(settings)?;
    if let Some(path) = target.layout().filter(|path| !path.exists()) {
        return Err(CommandError::NoLayout { path: path.display().to_string() });
    }
    super::block_on(async {
        let caches = connect(&config, &target).await?;
        work(&*caches).await
    })?
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
