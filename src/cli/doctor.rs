//! `linkspan doctor`.

use std::process::ExitCode;

use clap::Args;

use super::settings::Settings;
use super::{CommandError, block_on, output};
use crate::buildx::Store;
use crate::config::{Config, ProcessEnvironment};
use crate::{doctor, telemetry};

/// Says what is there, what will be fast, what will not, and what mends it; changes nothing.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Doctor {
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    settings: Settings,
}

const EXAMPLES: &str = "\
Examples:
  linkspan doctor --builder unix:///run/buildkit/buildkitd.sock
  linkspan doctor --docker-listen unix:///run/linkspan/docker.sock   which of your builders go through it
  linkspan doctor --json | jq .works

Exit code: 0 when a direct export can work, 1 when it cannot, 2 for a wrong command line.";

impl Doctor {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let config = Config::load(self.settings.into(), &ProcessEnvironment)?;
        telemetry::start(config.log)?;
        let users = Store::find(|name| std::env::var_os(name));
        let report = block_on(doctor::examine(&config, users.as_ref()))?;
        let text = if self.json { report.to_json()? } else { report.to_string() };
        output::print(&text)?;
        Ok(if report.works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
