//! The composition root: configuration, engine, doors, listeners, and their shutdown.
//!
//! Everything that can fail (TLS files, the engine, sockets) is checked before the first client is accepted: either all
//! doors open, or none.

mod accept;
pub(crate) mod builder;
mod docker;
mod engine;
mod error;
mod listen;
mod notify;
mod policy;
mod signals;
mod status;

use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::api_server::{Admission, ApiServer};
use crate::build_outputs::{OutputOptions, SlowLoads};
use crate::caches::Caches;
use crate::config::{Builder, Config, ConfigError, DEFAULT_DOCKER_LISTEN, Setting};
use crate::door::{buildkit, cache_api, export_api, registry};
use crate::engine::select::{DockerAddress, Selected};
use crate::engine::{Engine, EngineError, EngineKind, Identity};
use crate::export::Exports;
use crate::http2::ConnectionPool;
use crate::metrics::{Metrics, MetricsServer};
use crate::net::{Address, ENGINES, Principal, ServerTls, ServerTlsError, TlsRules, Upstream, UpstreamError};
use crate::output::folder::Folders;
use crate::passwords::Passwords;
use crate::telemetry::{RunningTraces, Traces, announce};

use accept::Listeners;
use listen::{Listener, ListenerTls};

use status::Listening;

pub use error::DaemonError;
pub use listen::ListenError;
pub(crate) use listen::{Inherited, is_stale, remove_stale};
pub(crate) use signals::Signals;

/// The door of the exporter and the caching API, whose clients need several calls.
const EXPORT_DOOR: &str = "export";

/// The most connections that are served at once, over all doors. A build has two or three; more connections wait in the
/// sockets' queues.
const MAX_CONNECTIONS: usize = 4096;

/// File descriptors of one client connection: its own, and that of the connection to the upstream.
const CONNECTION_DESCRIPTORS: usize = 2;

/// File descriptors that are reserved for everything else: the engine's connections, listeners, the runtime.
const OWN_DESCRIPTORS: usize = 64;

/// How long it may take to abort the exports that lost their clients, and to close unused connections.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the rest of the shutdown may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the doors stay closed for [`clean_up`], which then continues in the background.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(2);

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
    let (traces, dropped) = start_traces(traces);
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

/// Says how many spans were not sent.
type DroppedSpans = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Begins to send traces, if there is a collector.
fn start_traces(traces: Result<Option<Traces>, String>) -> (Option<RunningTraces>, DroppedSpans) {
    let none = || 0_u64;
    let (traces, dropped): (_, DroppedSpans) = match traces {
        Ok(None) => return (None, Arc::new(none)),
        Ok(Some(traces)) => {
            let dropped = traces.dropped();
            (traces.start(), dropped)
        }
        Err(error) => (Err(error), Arc::new(none)),
    };
    match traces {
        Ok((traces, endpoint)) => {
            announce(&format!("traces go to {}", shown(&endpoint)));
            (Some(traces), dropped)
        }
        Err(error) => {
            warn!(error, "no traces are sent: the OTEL_* variables cannot be followed");
            (None, dropped)
        }
    }
}

/// An endpoint without what may be a password in it.
fn shown(endpoint: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host)),
        None => endpoint.to_owned(),
    }
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
async fn open(config: &Config, mut inherited: Inherited, dropped: DroppedSpans) -> Result<RunningDaemon, DaemonError> {
    let other_doors = config.docker_door.is_some() || config.export_listen.is_some() || config.registry_door.is_some();
    if config.builders.is_empty() && !other_doors {
        return Err(ConfigError::NoBuilder.into());
    }
    let pools = pools(&config.builders)?;
    let passwords = config.security.htpasswd.as_deref().map(Passwords::open).transpose()?.map(Arc::new);
    let tls = server_tls(config)?;
    // Where a client may have a password instead of a certificate, it need not have one.
    let with_passwords = passwords.is_some();
    let tls_of = |address: &Address, protocol, requires_certificate| {
        let tls = tls.clone().filter(|_| config.security.has_tls(address))?;
        Some(ListenerTls { tls, rules: TlsRules { protocol, requires_certificate } })
    };
    let selected = engine::wait(&config.engine, config.engine_timeout).await?;
    selected.check_writable()?;
    let Selected { engine, reason } = selected;
    let at = |setting: Setting| move |error| DaemonError::Door { flag: setting.name(), error };
    let mut doors = Vec::new();
    let docker = match &config.docker_door {
        Some(door) => match docker_upstream(engine.identity(), &config.engine.docker_address(), &door.listen) {
            // A default door is optional.
            Err(DaemonError::NoDocker { .. } | DaemonError::DockerOverSsh { .. }) if door.is_default => None,
            upstream => {
                doors.push(&door.listen);
                let opened = Listener::open(&door.listen, config.gid, None, &mut inherited).await;
                let listener = opened.map_err(at(Setting::DockerListen))?;
                Some((upstream?, listener, door.outputs))
            }
        },
        None => None,
    };
    let mut builder_listeners = Vec::with_capacity(config.builders.len());
    for builder in &config.builders {
        doors.push(&builder.listen);
        let tls = tls_of(&builder.listen, "h2", true);
        let opened = Listener::open(&builder.listen, config.gid, tls, &mut inherited).await;
        builder_listeners.push(opened.map_err(at(Setting::BuildkitListen))?);
    }
    let export_listener = match &config.export_listen {
        Some(address) => {
            doors.push(address);
            let tls = tls_of(address, "h2", !with_passwords);
            let opened = Listener::open(address, config.gid, tls, &mut inherited).await;
            Some(opened.map_err(at(Setting::ExportListen))?)
        }
        None => None,
    };
    let registry_listener = match &config.registry_door {
        Some(door) => {
            // Before anybody can connect: not every engine has images that can be read.
            engine.images()?;
            doors.push(&door.listen);
            let tls = tls_of(&door.listen, "http/1.1", !with_passwords);
            let opened = Listener::open(&door.listen, config.gid, tls, &mut inherited).await;
            Some(opened.map_err(at(Setting::RegistryListen))?)
        }
        None => None,
    };
    let metrics_listener = match &config.metrics_listen {
        Some(address) => {
            doors.push(address);
            let tls = tls_of(address, "http/1.1", !with_passwords);
            let opened = Listener::open(address, config.gid, tls, &mut inherited).await;
            Some(opened.map_err(at(Setting::MetricsListen))?)
        }
        None => None,
    };
    let unneeded = match docker {
        Some(_) => None,
        None => unneeded(engine.identity(), &mut inherited)?,
    };
    inherited.all_used(&doors)?;
    let caches = match Caches::new(&*engine, config.caches.clone()) {
        Ok(caches) => Some(caches),
        Err(EngineError::NotOffered { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let clean_up = start_clean_up(Arc::clone(&engine), caches.clone()).await;

    announce(&format!("engine {}: {reason}", engine.identity()));
    left_out(config, engine.identity().kind).iter().for_each(|line| announce(line));
    tls.iter().flat_map(|tls| tls.describe()).for_each(|line| announce(&line));
    let counting = metrics_listener.as_ref().map(|_| Metrics::counting(engine.identity().kind.name()));
    let activities = counting.as_ref().map(|(_, activities)| activities.clone()).unwrap_or_default();
    let exports = Arc::new(Exports::observed(engine, policy::of(config), activities.clone()));
    let listeners = Listeners::new(capacity(), activities);
    if let Some(listener) = unneeded {
        // Clients would wait forever otherwise, because the service manager keeps the socket open.
        listeners.open("docker", listener, |stream, _drain| async move { drop(stream) });
    }
    let slow_loads = SlowLoads::default();
    let status = status::compose(
        config,
        &exports,
        &slow_loads,
        &Listening {
            docker: docker.as_ref().map(|(_, listener, _)| listener.address()),
            export: export_listener.as_ref().map(Listener::address),
            registry: registry_listener.as_ref().map(Listener::address),
            builders: builder_listeners.iter().map(Listener::address).collect(),
        },
    );
    if let (Some(listener), Some(address)) = (export_listener, &config.export_listen) {
        let folders = Folders::new(config.output_dirs.clone());
        // The configured address: it stays the same across restarts.
        let name = address.to_string();
        let (drain, settled) = (listeners.drain(), listeners.settled(EXPORT_DOOR));
        let mut parts = vec![export_api::open(Arc::clone(&exports), folders, &name, drain.clone()).await];
        if let Some(caches) = caches.clone() {
            let exports = match exports.engine().cache_engine() {
                Some(engine) => Arc::new(exports.beside(engine)),
                None => Arc::clone(&exports),
            };
            parts.push(cache_api::open(caches, exports, &name, drain.clone()).await);
        }
        let judge = Arc::clone(&exports);
        // It knows digests, caches and exports, and not by which names a client may reach them.
        let admits = Arc::new(move |client: &Principal| judge.policy(client).is_unlimited());
        let admission = Admission { passwords: passwords.clone(), admits };
        let server = ApiServer::start(parts, status.of(listener.address()), admission, settled.clone())?;
        announce(&format!("export door listening on {}", listener.address()));
        listeners.open(EXPORT_DOOR, listener, move |stream, _drain| {
            let (server, settled) = (server.clone(), settled.clone());
            async move {
                // From then on the server accepts no connections, and this one would hang.
                if !settled.is_cancelled() {
                    server.serve(stream).await;
                }
            }
        });
    }
    if let (Some(listener), Some((families, _))) = (metrics_listener, counting) {
        let metrics = Metrics::new(families, exports.live().clone(), exports.leases().clone(), dropped);
        let server = Arc::new(MetricsServer::new(metrics, passwords.clone()));
        announce(&format!("metrics listening on {}", listener.address()));
        listeners.open("metrics", listener, move |stream, drain| Arc::clone(&server).serve(stream, drain));
    }
    let mut registry_door = None;
    if let (Some(listener), Some(settings)) = (registry_listener, &config.registry_door) {
        let settings = registry::Settings {
            exports: Arc::clone(&exports),
            mirror_tags: settings.mirror_tags,
            catalog: settings.catalog,
            redirect: settings.redirect,
            passwords: passwords.clone(),
            writable: settings.writable.then(|| settings.listen.to_string()),
        };
        let door = registry::Door::open(settings, listeners.drain()).await?.with_status(status.of(listener.address()));
        let door = Arc::new(door);
        registry_door = Some(Arc::clone(&door));
        let mode =
            if config.registry_door.as_ref().is_some_and(|door| door.writable) { "writable" } else { "read-only" };
        announce(&format!("registry door listening on {} ({mode})", listener.address()));
        listeners.open("registry", listener, move |stream, drain| {
            let door = Arc::clone(&door);
            async move { door.serve(stream, drain).await }
        });
    }
    for ((builder, connections), listener) in config.builders.iter().zip(pools).zip(builder_listeners) {
        announce(&format!("buildkit door for {} listening on {}", builder.endpoint, listener.address()));
        announce_compression(builder.outputs);
        let settings =
            buildkit::Settings { builder: builder.endpoint.to_string(), connections, outputs: builder.outputs };
        let door = buildkit::Door::new(settings, Arc::clone(&exports)).with_caches(caches.clone());
        let door = door.with_engine_images(&config.from_engine);
        let door = Arc::new(door.with_slow_loads(slow_loads.clone()).with_status(status.of(listener.address())));
        let probing = Arc::clone(&door);
        // In the background, because a builder may start after this daemon.
        tokio::spawn(async move { probing.probe().await });
        listeners.open("buildkit", listener, move |stream, drain| {
            let door = Arc::clone(&door);
            async move { door.serve(stream, drain).await }
        });
    }
    let mut docker_door = None;
    if let Some((upstream, listener, outputs)) = docker {
        announce(&format!("docker door for {} listening on {}", upstream.address(), listener.address()));
        announce_compression(outputs);
        let door = docker::door(upstream, &exports, caches.clone(), outputs, &slow_loads, &config.from_engine);
        let door = Arc::new(door.with_status(status.of(listener.address())));
        docker_door = Some(Arc::clone(&door));
        listeners.open("docker", listener, move |stream, drain| {
            let door = Arc::clone(&door);
            async move { door.serve(stream, drain).await }
        });
    }
    Ok(RunningDaemon { listeners, docker_door, registry_door, exports, caches, clean_up })
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

/// The TLS of listeners, if one of them has TLS.
fn server_tls(config: &Config) -> Result<Option<Arc<ServerTls>>, ServerTlsError> {
    let doors = config.registry_door.iter().map(|door| &door.listen).chain(&config.export_listen);
    let doors = doors.chain(&config.metrics_listen);
    let mut doors = doors.chain(config.builders.iter().map(|builder| &builder.listen));
    let is_needed = doors.any(|address| config.security.has_tls(address));
    is_needed.then(|| ServerTls::open(config.security.tls.clone()).map(Arc::new)).transpose()
}

/// Says what the door that was just announced changes in the compression of builds.
fn announce_compression(outputs: OutputOptions) {
    if let Some(changed) = outputs.compression() {
        announce(&format!("  {changed}"));
    }
}

/// Starts [`clean_up`], which usually ends at once. A slow engine, or a lock that another process holds, does not keep the
/// doors closed.
async fn start_clean_up(engine: Arc<dyn Engine>, caches: Option<Arc<Caches>>) -> AbortOnDropHandle<()> {
    let mut clean_up = AbortOnDropHandle::new(tokio::spawn(clean_up(engine, caches)));
    let _ = tokio::time::timeout(CLEAN_UP_TIMEOUT, &mut clean_up).await;
    clean_up
}

/// Releases the leases and removes the unfinished caches of an earlier process. Failures do not stop the daemon: the
/// next start retries, and leases expire.
async fn clean_up(engine: Arc<dyn Engine>, caches: Option<Arc<Caches>>) {
    match engine.recover().await {
        Ok(0) => {}
        Ok(leases) => info!(leases, "an earlier process left something behind, which is released"),
        Err(error) => warn!(%error, "what an earlier process may have left behind stays for now"),
    }
    if let Some(caches) = caches
        && let Err(error) = caches.start().await
    {
        warn!(%error, "unfinished build caches, and those beyond the limits, stay for now");
    }
}

/// The default docker socket, if it was passed but `engine` is not Docker: linkspan.socket has it for any engine.
fn unneeded(engine: &Identity, inherited: &mut Inherited) -> Result<Option<Listener>, ListenError> {
    let Ok(usual) = DEFAULT_DOCKER_LISTEN.parse() else { return Ok(None) };
    let listener = if engine.kind.is_docker() { None } else { inherited.for_door(&usual)? };
    if listener.is_some() {
        announce(&format!("no docker door at {usual}: the engine is {engine}, and connections there are closed"));
        announce("hint: after docker was installed, restart linkspan");
    }
    Ok(listener)
}

/// Returns how many connections can be served at once. Raises the limit of file descriptors to its maximum: the usual
/// default (1024) is low only because of programs that use select(2), which this one does not.
fn capacity() -> usize {
    let Rlimit { mut current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => current = maximum,
        Err(error) => warn!(?current, ?maximum, %error, "the limit of open files cannot be raised"),
    }
    // `None` is no limit.
    let descriptors = current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let capacity = (descriptors.saturating_sub(OWN_DESCRIPTORS) / CONNECTION_DESCRIPTORS).clamp(1, MAX_CONNECTIONS);
    if capacity < MAX_CONNECTIONS {
        info!(capacity, descriptors, "the limit of open files also limits the connections that are served at once");
    }
    capacity
}

/// The engine behind a docker door that listens at `listen`.
fn docker_upstream(engine: &Identity, docker: &DockerAddress, listen: &Address) -> Result<Upstream, DaemonError> {
    let none = || DaemonError::NoDocker { listen: listen.clone(), engine: Box::new(engine.clone()) };
    if !engine.kind.is_docker() {
        return Err(none());
    }
    let far = || DaemonError::DockerOverSsh { listen: listen.clone(), docker: engine.address.clone() };
    let address = docker.direct().ok_or_else(far)?;
    Ok(Upstream::docker(address, docker.tls())?.counted(&ENGINES))
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
