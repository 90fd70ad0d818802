//! `linkspan serve`.

use std::process::ExitCode;

use clap::Args;

use super::settings::Settings;
use super::{CommandError, block_on};
use crate::config::{Config, ProcessEnvironment};
use crate::{daemon, telemetry};

/// Opens the doors and exports what comes through them, until SIGTERM or SIGINT.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Serve {
    #[command(flatten)]
    settings: Settings,
}

const EXAMPLES: &str = "\
Flags win over LINKSPAN_* variables, those over the configuration file.

Examples:
  One builder, the engine that is there:
    linkspan serve --builder unix:///run/buildkit/buildkitd.sock
  Two builders, plain containerd, Kubernetes' images:
    linkspan serve --engine containerd --namespace k8s.io \\
      --builder unix:///run/buildkit/buildkitd.sock \\
      --buildkit-listen unix:///run/linkspan/local.sock \\
      --builder tcp://10.0.0.7:1234 \\
      --buildkit-listen unix:///run/linkspan/remote.sock
  In front of Docker itself; clients then use DOCKER_HOST=unix:///run/linkspan/docker.sock:
    linkspan serve --docker-listen unix:///run/linkspan/docker.sock
  A builder of buildx's docker-container driver, by its container:
    linkspan serve --builder docker-container://buildx_buildkit_NAME0
  The exporter API, for any builder, and for the other commands without root (`linkspan load --to ADDR`):
    linkspan serve --export-listen unix:///run/linkspan/export.sock
  A builder behind TLS:
    linkspan serve --builder tcp://builder.example:1234 \\
      --tls-ca ca.pem --tls-cert cert.pem --tls-key key.pem

Exit code: 0 after a clean end, 1 after an error or an unclean end, 2 for a wrong command line.";

impl Serve {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let config = Config::load(self.settings.into(), &ProcessEnvironment)?;
        telemetry::start(config.log)?;
        block_on(daemon::run(config))??;
        Ok(ExitCode::SUCCESS)
    }
}
