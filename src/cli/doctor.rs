//! `linkspan doctor`.

mod fix;

use std::io::{IsTerminal as _, stdout};
use std::process::ExitCode;

use clap::Args;

use super::daemon_settings::DaemonSettings;
use super::{CommandError, block_on, output};
use crate::buildx::Store;
use crate::config::{Config, ProcessEnvironment};
use crate::doctor::{self, TextStyle};
use crate::telemetry;

/// Reports what is installed, whether direct exports work and are fast, and how to fix what does not; changes nothing without
/// --fix.
///
/// A running Linkspan is asked for its status, over the sockets in its folder and those that the configuration, systemd units
/// and your builders name; the report is about its engine, its builders and its policy.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Doctor {
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,

    /// Mend what can be mended without a risk, instead of reporting: sockets that nobody listens at, empty folders in the place
    /// of sockets, an open key of Linkspan's own authority, and builders that `linkspan setup` sent to a door that is gone. Each
    /// thing is shown first, and asked for on a terminal
    #[arg(long)]
    fix: bool,

    /// Do not ask
    #[arg(long, requires = "fix")]
    yes: bool,

    /// Show what would be mended, and change nothing; the exit code is 1 if there is something
    #[arg(long, requires = "fix", conflicts_with = "yes")]
    dry_run: bool,

    #[command(flatten)]
    settings: DaemonSettings,
}

const EXAMPLES: &str = "\
Examples:
  The Linkspan that runs here, and your builders:
    linkspan doctor
  One builder:
    linkspan doctor --builder unix:///run/buildkit/buildkitd.sock
  Which of your builders go through a docker door:
    linkspan doctor --docker-listen unix:///run/linkspan/docker.sock
  For programs:
    linkspan doctor --json | jq .works
  What it would mend, and mend it:
    linkspan doctor --fix --dry-run
    linkspan doctor --fix --yes

Exit code: 0 when a direct export can work, 1 when it cannot or a builder of
yours cannot be used, 2 for a wrong command line. With --fix: 0 when nothing
is left that it could mend, 1 when something is left (so --dry-run exits with
1 where it shows something), or when a builder of yours could not be read.";

impl Doctor {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let config = Config::load(self.settings.into(), &ProcessEnvironment)?;
        telemetry::start(config.log)?;
        let users = Store::find(|name| std::env::var_os(name));
        if self.fix {
            let how = fix::Fix { yes: self.yes, dry_run: self.dry_run, json: self.json };
            return how.run(&config, users.as_ref());
        }
        let report = block_on(doctor::examine(&config, users.as_ref()))?;
        let text = if self.json { report.to_json()? } else { text_style().write(&report) };
        output::print(&text)?;
        Ok(if report.works && !report.has_failed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Width and colours of standard output: a terminal has its own width, and colours unless `NO_COLOR` is set
/// (<https://no-color.org>).
fn text_style() -> TextStyle {
    let usual = TextStyle::default();
    if !stdout().is_terminal() {
        return usual;
    }
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    TextStyle {
        width: output::columns(false).map_or(usual.width, |columns| columns.clamp(output::NARROWEST, output::WIDEST)),
        colour: !is_set("NO_COLOR") && !is_dumb,
    }
}
