//! The composition root: configuration, engine, doors, listeners, and their shutdown.
//!
//! Everything that can fail (TLS files, the engine, sockets) is checked before the first client is accepted: either all
//! doors open, or none.

mod accept;
pub(crate) mod builder;
mod capacity;
mod docker;
mod engine;
mod error;
mod listen;
mod notify;
mod policy;
mod recovery;
mod serving;
mod signals;
mod sockets;
mod status;
mod traces;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::build_outputs::SlowLoads;
use crate::caches::Caches;
use crate::config::{Builder, Config, ConfigError, Given, ProcessEnvironment, Setting};
use crate::door::registry;
use crate::engine::select::Selected;
use crate::engine::{EngineError, EngineKind};
use crate::export::Exports;
use crate::http2::ConnectionPool;
use crate::metrics::Metrics;
use crate::net::UpstreamError;
use crate::passwords::Passwords;
use crate::telemetry::{Traces, announce};

use accept::Listeners;
use capacity::capacity;
use recovery::start_clean_up;
use serving::Doors;
use sockets::{Sockets, server_tls};
use traces::DroppedSpans;

pub use error::DaemonError;
pub use listen::ListenError;
pub(crate) use listen::{Inherited, is_stale, remove_stale};
pub(crate) use signals::Signals;

/// How long it may take to abort the exports that lost their clients, and to close unused connections.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the rest of the shutdown may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT; `inherited` are the sockets that a service manager passed.
///
/// # Errors
/// When the daemon cannot start, or when connections were dropped at the deadline of the drain.
/// `traces` are sent until the end, if there is a collector.
pub(crate) async fn run(
    config: Config,
    inherited: Inherited,
    traces: Result<Option<Traces>, String>,
) -> Result<(), DaemonError> {
    let (traces, dropped) = traces::start(traces);
    let outcome = serve(&config, inherited, dropped).await;
    if let Some(traces) = traces {
        let most = traces.flush().saturating_add(CLOSE_TIMEOUT);
        notify::state(&format!("EXTEND_TIMEOUT_USEC={}", most.as_micros()));
        traces.finish().await;
    }
    outcome
}

async fn serve(config: &Config, inherited: Inherited, dropped: DroppedSpans) -> Result<(), DaemonError> {
    let mut signals = Signals::new().map_err(DaemonError::Signals)?;
    let RunningDaemon { listeners, docker_door, registry_door, exports, caches, clean_up: _clean_up } = tokio::select! {
        opened = open(config, inherited, dropped) => opened?,
        // No client was accepted yet, and dropping the future closes the sockets that are already bound.
        signal = signals.next() => {
            info!(signal, "ended before it was ready");
            return Ok(());
        }
    };
    notify::state("READY=1");
    let signal = signals.next().await;
    // Extends the service manager's own limit (TimeoutStopSec=), so that any drain timeout works.
    let rest = ABORT_TIMEOUT * 4 + CLOSE_TIMEOUT;
    notify::state(&format!(
        "STOPPING=1\nEXTEND_TIMEOUT_USEC={}",
        config.drain_timeout.saturating_add(rest).as_micros()
    ));
    info!(signal, connections = listeners.connections(), timeout = ?config.drain_timeout, "draining");
    let force = async { format!("before a second signal ({})", signals.next().await) };
    let outcome = listeners.close(config.drain_timeout, force).await;
    if let Some(door) = docker_door
        && tokio::time::timeout(ABORT_TIMEOUT, door.close()).await.is_err()
    {
        warn!("connections to builders in containers were still being closed; they end with this process");
    }
    if let Some(door) = registry_door
        && tokio::time::timeout(ABORT_TIMEOUT, door.close()).await.is_err()
    {
        warn!("uploads were still being suspended; their last bytes may be sent again");
    }
    if tokio::time::timeout(ABORT_TIMEOUT, exports.finish()).await.is_err() {
        warn!("exports were still being aborted; their leases are released at the next start");
    }
    if let Some(caches) = caches
        && tokio::time::timeout(ABORT_TIMEOUT, caches.finish()).await.is_err()
    {
        warn!("build caches were still being deleted or aborted; unfinished ones are released at the next start");
    }
    outcome
}

/// What a running daemon consists of.
struct RunningDaemon {
    listeners: Listeners,
    docker_door: Option<Arc<crate::door::docker::Door>>,
    registry_door: Option<Arc<registry::Door>>,
    exports: Arc<Exports>,
    caches: Option<Arc<Caches>>,
    /// Aborted when the daemon ends; the next start does the rest.
    clean_up: AbortOnDropHandle<()>,
}

/// Opens all doors of `config`, or none.
async fn open(config: &Config, inherited: Inherited, dropped: DroppedSpans) -> Result<RunningDaemon, DaemonError> {
    let other_doors = config.docker_door.is_some() || config.export_listen.is_some() || config.registry_door.is_some();
    if config.builders.is_empty() && !other_doors {
        let usual = Box::new(Config::usual_doors(&ProcessEnvironment));
        return Err(ConfigError::NoBuilder { usual }.into());
    }
    let pools = pools(&config.builders)?;
    let passwords = config.security.htpasswd.as_deref().map(Passwords::open).transpose()?.map(Arc::new);
    let tls = server_tls(config)?;
    let selected = engine::wait(&config.engine, config.engine_timeout).await?;
    selected.check_writable()?;
    let Selected { engine, reason } = selected;
    let sockets = Sockets::open(config, &*engine, tls.as_ref(), inherited).await?;
    let caches = match Caches::new(&*engine, config.caches.clone()) {
        Ok(caches) => Some(caches),
        Err(EngineError::NotOffered { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let clean_up = start_clean_up(Arc::clone(&engine), caches.clone()).await;

    announce(&format!("engine {}: {reason}", engine.identity()));
    own_door(config).iter().for_each(|line| announce(line));
    left_out(config, engine.identity().kind).iter().for_each(|line| announce(line));
    tls.iter().flat_map(|tls| tls.describe()).for_each(|line| announce(&line));
    let counting = sockets.metrics.as_ref().map(|_| Metrics::counting(engine.identity().kind.name()));
    let activities = counting.as_ref().map(|(_, activities)| activities.clone()).unwrap_or_default();
    let exports = Arc::new(Exports::observed(engine, policy::of(config), activities.clone()));
    let slow_loads = SlowLoads::default();
    let status = status::compose(config, &exports, &slow_loads, &sockets);
    let listeners = Listeners::new(capacity(), activities);
    let doors = Doors { config, exports, caches, passwords, slow_loads, status, listeners };
    // All that can fail comes before the first door is open.
    let registry = match (sockets.registry, &config.registry_door) {
        (Some(listener), Some(settings)) => Some((doors.prepare_registry(&listener, settings).await?, listener)),
        _ => None,
    };
    if let (Some(listener), Some(address)) = (sockets.export, &config.export_listen) {
        doors.export(listener, address).await?;
    }
    if let Some(listener) = sockets.unneeded {
        // Clients would wait forever otherwise, because the service manager keeps the socket open.
        doors.listeners.open("docker", listener, |stream, _drain| async move { drop(stream) });
    }
    if let (Some(listener), Some((families, _))) = (sockets.metrics, counting) {
        doors.metrics(listener, families, dropped);
    }
    let registry_door = registry.map(|(door, listener)| {
        doors.registry(listener, &door);
        door
    });
    doors.builders(sockets.builders, pools);
    let docker_door = sockets.docker.map(|socket| doors.docker(socket));
    let Doors { exports, caches, listeners, .. } = doors;
    Ok(RunningDaemon { listeners, docker_door, registry_door, exports, caches, clean_up })
}

/// That docker's clients are led here does not say which docker is meant.
fn own_door(config: &Config) -> Option<String> {
    let Given { text, origin } = config.clients_door.as_ref()?;
    let docker = config.engine.docker_address();
    Some(format!(
        "{origin} leads to this docker door, {text}, so docker is expected at {docker}; --{} names another",
        Setting::DockerHost.name()
    ))
}

/// Which of the default doors are not open because others were named.
fn left_out(config: &Config, engine: EngineKind) -> Option<String> {
    let docker = (config.docker_door.is_none() && engine.is_docker()).then_some(("docker", Setting::DockerListen));
    let export = config.export_listen.is_none().then_some(("export", Setting::ExportListen));
    let (kinds, flags): (Vec<_>, Vec<_>) =
        docker.into_iter().chain(export).map(|(kind, setting)| (kind, format!("--{}", setting.name()))).unzip();
    (!kinds.is_empty()).then(|| {
        let doors = format!("no {} door", kinds.join(" door and no "));
        format!("{doors}: the default doors are left out where others are named; {} opens it", flags.join(" or "))
    })
}

fn pools(builders: &[Builder]) -> Result<Vec<Arc<ConnectionPool>>, UpstreamError> {
    for builder in builders.iter().filter(|builder| builder.is_exposed()) {
        warn!(
            builder = %builder.endpoint,
            "no TLS towards a builder on another machine: builds can be read and changed on the way"
        );
    }
    builders.iter().map(builder::connections).collect()
}

#[cfg(test)]
mod tests;
