//! `linkspan serve`.

use std::process::ExitCode;

use clap::Args;
use tracing::Level;

use super::daemon_settings::DaemonSettings;
use super::{CommandError, block_on};
use crate::config::{Config, Layer, Log, LogFormat, ProcessEnvironment};
use crate::daemon::{self, DaemonError, Inherited};
use crate::telemetry::{self, Traces};

/// Opens the doors and exports what comes through them, until SIGTERM or SIGINT.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Serve {
    #[command(flatten)]
    settings: DaemonSettings,
}

const EXAMPLES: &str = "\
Flags win over LINKSPAN_* variables, those over the configuration file.

Without a flag that names a door or a builder, the docker door and that of the
exporter API are opened in /run/linkspan (without root: in linkspan/ of
XDG_RUNTIME_DIR); with another engine than Docker, only the latter. Sockets
that a service manager hands over (systemd's linkspan.socket) are used for the
doors of their addresses, or of their names: `docker`, `export`, `registry`,
`buildkit`, `metrics`.

Examples:
  The default doors, for the engine that is there:
    linkspan serve
  One builder, the engine that is there:
    linkspan serve --builder unix:///run/buildkit/buildkitd.sock
  Two builders, plain containerd, Kubernetes' images:
    linkspan serve --engine containerd --namespace k8s.io \\
      --builder unix:///run/buildkit/buildkitd.sock \\
      --buildkit-listen unix:///run/linkspan/local.sock \\
      --builder tcp://10.0.0.7:1234 \\
      --buildkit-listen unix:///run/linkspan/remote.sock
  In front of Docker itself; clients then use
  DOCKER_HOST=unix:///run/linkspan/docker.sock:
    linkspan serve --docker-listen unix:///run/linkspan/docker.sock
  A builder of buildx's docker-container driver, by its container:
    linkspan serve --builder docker-container://buildx_buildkit_NAME0
  The exporter API, for any builder, and for the other commands without root
  (`linkspan load --to ADDR`):
    linkspan serve --export-listen unix:///run/linkspan/export.sock
  The engine's images as a registry, for `docker pull localhost:5000/NAME` and
  others:
    linkspan serve --registry-listen tcp://127.0.0.1:5000
  The same for other machines, with TLS and passwords (`docker login`):
    linkspan serve --registry-listen tcp://0.0.0.0:5000 \\
      --listen-htpasswd /etc/linkspan/users
  Metrics for Prometheus, beside the default doors:
    linkspan serve --metrics-listen tcp://127.0.0.1:9464
  A builder behind TLS:
    linkspan serve --builder tcp://builder.example:1234 \\
      --tls-ca ca.pem --tls-cert cert.pem --tls-key key.pem

Exit code: 0 after a clean end, 1 after an error or an unclean end, 2 for a
wrong command line.";

impl Serve {
    pub(super) fn run(self) -> Result<ExitCode, CommandError> {
        let flags = Layer::from(self.settings);
        let requests_json = Config::requests_json(&flags, &ProcessEnvironment);
        // Must happen before other threads start.
        let prepared = Inherited::take().map_err(DaemonError::from).map_err(CommandError::from).and_then(|inherited| {
            let config = Config::load_serving(flags, &ProcessEnvironment, inherited.settings())?;
            Ok((config, inherited))
        });
        // An error in the configuration is logged in the requested format, too.
        let log = match &prepared {
            Ok((config, _)) => Some(config.log),
            Err(_) => requests_json.then_some(Log { level: Level::INFO, format: LogFormat::Json }),
        };
        let (traces, wrong) = Traces::of_process();
        if let Some(log) = log {
            telemetry::start_with(log, traces.as_ref().ok().and_then(Option::as_ref))?;
        }
        let (config, inherited) = prepared?;
        for wrong in wrong {
            tracing::warn!("traces: {wrong}");
        }
        block_on(daemon::run(config, inherited, traces))??;
        Ok(ExitCode::SUCCESS)
    }
}
