//! `linkspan cache`.

mod archive;
mod copy;
mod list;
mod remove;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};

use super::engine::Target;
use super::settings::TargetSettings;
use super::{CommandError, engine, show};
use crate::caches::Caches;
use crate::config::Config;

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
A cache has a part for each platform and target that builds wrote into it. UNIQUE is what no other cache has, and becomes free
with it unless an image has it as well.

Examples:
  linkspan cache ls
  linkspan cache du
  linkspan cache rm team/app:main
  linkspan cache prune --filter until=168h --keep-storage 20GB
  linkspan cache export team/app:main ./cache      BuildKit reads it: --cache-from type=local,src=./cache,tag=team/app:main
  linkspan cache import ./cache team/app:main";

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

/// The caches of the engine of `target`.
async fn caches(config: &Config, target: &Target) -> Result<Arc<Caches>, CommandError> {
    Ok(Caches::new(&*engine::connect(target).await?, config.caches.clone())?)
}

/// How long ago a time was, as docker writes it.
fn ago(time: SystemTime) -> String {
    show::ago(SystemTime::now().duration_since(time).unwrap_or(Duration::ZERO))
}

/// What a part is of; `-` if nothing is known.
fn title(title: &str) -> String {
    if title.is_empty() { "-".to_owned() } else { title.to_owned() }
}
