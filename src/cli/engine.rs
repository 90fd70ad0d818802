//! The engine that a command works on.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::abandoned::AbandonedLeases;
use super::daemon::daemon_at;
use super::destination::Destination;
use super::settings::{EngineSettings, TargetSettings};
use super::{CommandError, block_on, output};
use crate::buildx::Store;
use crate::config::{Config, ConfigError, Given, Layer, Log, Names, Origin as SettingOrigin, ProcessEnvironment};
use crate::engine::images::{Images, Query, Record};
use crate::engine::remote::{Connected, Daemon, DaemonAddress};
use crate::engine::select::{DockerAddress, Selection, select};
use crate::engine::{ClusterAddress, Engine, EngineError, EngineKind, Identity, Origin};
use crate::export::{Exports, NamePolicy};
use crate::image::{Descriptor, Digest, Graph, Limits, Reference};
use crate::net::Address;
use crate::running::{First, Probe, probe};
use crate::source::archive::ManifestFormat;
use crate::source::tree::Tree;
use crate::source::{OnMissing, read_graph};
use crate::status::Kind;
use crate::telemetry;

/// The variable for `--to`.
pub(super) const TO: &str = "LINKSPAN_TO";

/// Loads the configuration of a command that works on an engine of this machine.
pub(super) fn configure(settings: EngineSettings) -> Result<Config, CommandError> {
    let mut config = load(settings)?;
    let variable = |name: &str| std::env::var_os(name);
    let of_clients = Store::find(variable).and_then(|store| store.engine(variable));
    let of_clients = of_clients.or_else(|| std::env::var("DOCKER_HOST").ok());
    block_on(pass_docker_door(&mut config.engine, of_clients, config.clients_door.as_ref()))??;
    Ok(config)
}

/// Loads the configuration of a command that works through a daemon.
fn load_beside(settings: EngineSettings) -> Result<Config, CommandError> {
    start_log(beside_contexts(settings.into())?)
}

/// Loads the configuration of a command for which a docker context, or a DOCKER_HOST, that cannot be used is no error.
pub(super) fn beside_contexts(flags: Layer) -> Result<Config, ConfigError> {
    let is_of_docker = |origin: &SettingOrigin| match origin {
        SettingOrigin::Variable(name) => name == "DOCKER_HOST",
        origin => matches!(origin, SettingOrigin::Context(_)),
    };
    match Config::load(flags.clone(), &ProcessEnvironment) {
        Err(error)
            if matches!(&error, ConfigError::Context { .. })
                || matches!(&error, ConfigError::Value { origin, .. } if is_of_docker(origin)) =>
        {
            // Contexts are found by the other ones.
            let hidden = ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "HOME"];
            Config::load(flags, &|name: &str| std::env::var_os(name).filter(|_| !hidden.contains(&name)))
        }
        outcome => outcome,
    }
}

/// Loads the configuration. Commands log warnings only; everything else is their output.
fn load(settings: EngineSettings) -> Result<Config, CommandError> {
    start_log(Config::load(settings.into(), &ProcessEnvironment)?)
}

fn start_log(config: Config) -> Result<Config, CommandError> {
    telemetry::start(Log { level: config.log.level.min(tracing::Level::WARN), ..config.log })?;
    Ok(config)
}

/// Chooses the engine behind the docker door, if a Linkspan's docker door is where docker is expected. `environment` is
/// `DOCKER_HOST`, or the address of the docker context: where that names our own door, which is `clients_door` then, it was set
/// for docker's clients, and the configuration ignores it.
///
/// # Errors
/// When nobody listens there: docker's default may be another docker than the one that was behind the door.
async fn pass_docker_door(
    selection: &mut Selection,
    environment: Option<String>,
    clients_door: Option<&Given>,
) -> Result<(), CommandError> {
    // The nodes of a cluster are found through dockerd.
    if !selection.kind.is_none_or(|kind| kind.is_docker() || kind == EngineKind::Cluster) {
        return Ok(());
    }
    let host = selection.docker_host.clone().or_else(|| environment?.parse().ok());
    let Some(DockerAddress::Unix(path)) = host else { return Ok(()) };
    match probe(&Address::Unix(path.clone()), First::Http1).await {
        Probe::Linkspan(status) if status.door.kind == Kind::Docker => {
            selection.docker_host = Some(match status.engine.address.parse() {
                Ok(engine @ DockerAddress::Unix(_)) => engine,
                // The daemon has the certificates, or the ssh, that lead to its engine.
                _ => DockerAddress::Unix(path),
            });
            Ok(())
        }
        Probe::Closed if selection.docker_host.is_none() => match clients_door {
            Some(Given { text, origin }) => {
                Err(CommandError::DoorClosed { origin: origin.to_string(), address: text.clone() })
            }
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// The engine that a command works on.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// An engine of this machine.
    Engine(Box<Selection>),
    /// The engine behind a daemon.
    Daemon(Daemon),
}

impl Target {
    /// The folder, if it is a layout of this machine.
    pub(super) fn layout(&self) -> Option<&Path> {
        match self {
            Self::Engine(selection) if selection.kind == Some(EngineKind::Layout) => selection.layout.as_deref(),
            Self::Engine(_) | Self::Daemon(_) => None,
        }
    }
}

/// The cluster that the flags, the environment or the configuration choose.
pub(super) fn cluster(settings: &TargetSettings) -> Result<Option<ClusterAddress>, CommandError> {
    let to = match &settings.to {
        None if !settings.engine.is_given() => destination()?,
        to => to.clone(),
    };
    Ok(match to {
        Some(Destination::Cluster(cluster)) => Some(cluster),
        Some(Destination::Daemon(_)) => None,
        None => {
            let engine = beside_contexts(settings.engine.clone().into())?.engine;
            engine.cluster.filter(|_| engine.kind == Some(EngineKind::Cluster))
        }
    })
}

/// Loads the configuration and chooses the target.
pub(super) fn target(settings: TargetSettings) -> Result<(Config, Target), CommandError> {
    let TargetSettings { to, tls, mut engine } = settings;
    let to = match to {
        None if !engine.is_given() => destination()?,
        to => to,
    };
    let to = match to {
        Some(Destination::Daemon(address)) if engine.docker_host.is_some() => {
            return Err(CommandError::DockerBeside { to: address.to_string() });
        }
        Some(Destination::Cluster(cluster)) => {
            engine.engine = Some(cluster.to_string());
            None
        }
        Some(Destination::Daemon(address)) => Some(tls.of(address)),
        None => None,
    };
    if let Some(daemon) = &to {
        daemon.check().map_err(CommandError::Elsewhere)?;
    }
    Ok(match to {
        Some(to) => (load_beside(engine)?, Target::Daemon(to)),
        None => {
            let config = configure(engine)?;
            let target = Target::Engine(Box::new(config.engine.clone()));
            (config, target)
        }
    })
}

/// The daemon in the environment. A cluster has none, which a note says.
pub(super) fn daemon() -> Result<Option<DaemonAddress>, CommandError> {
    Ok(destination()?.and_then(|destination| match destination {
        Destination::Daemon(address) => Some(address),
        Destination::Cluster(cluster) => {
            output::note(&format!("linkspan: note: {TO} is {cluster}, which is no daemon; it is left out here"));
            None
        }
    }))
}

/// What the environment says where to work.
fn destination() -> Result<Option<Destination>, CommandError> {
    let Some(text) = std::env::var_os(TO).filter(|text| !text.is_empty()) else { return Ok(None) };
    let text = text.into_string().map_err(|_| ConfigError::Encoding { name: TO.to_owned() })?;
    let parsed = text.parse::<Destination>().map_err(|error| {
        let (origin, reason) = (SettingOrigin::Variable(TO.to_owned()), format!("is no address: {}", error.reason()));
        ConfigError::Value { origin, text: text.clone(), reason }
    })?;
    Ok(Some(parsed))
}

/// Exports into `target`, with the name policy of the configuration, or of the daemon.
pub(super) async fn exports(config: &Config, target: &Target) -> Result<Exports, CommandError> {
    let engine = match target {
        Target::Engine(selection) => select(selection).await?.engine,
        Target::Daemon(daemon) => {
            let Connected { engine, allowed_names: allowed, allow_tag_move } = daemon_at(daemon).await?;
            return Ok(Exports::with_policy(engine, NamePolicy { allowed, allow_tag_move, ..NamePolicy::default() }));
        }
    };
    Ok(Exports::with_policy(engine, policy(config)))
}

/// The name policy of the configuration.
pub(super) fn policy(config: &Config) -> NamePolicy {
    // Rules are for clients of doors.
    let Names { allowed, allow_tag_move } = config.names.clone();
    NamePolicy { allowed, allow_tag_move, ..NamePolicy::default() }
}

/// The engine of `target`.
pub(super) async fn connect(target: &Target) -> Result<Arc<dyn Engine>, CommandError> {
    Ok(match target {
        Target::Engine(selection) => select(selection).await?.engine,
        Target::Daemon(daemon) => daemon_at(daemon).await?.engine,
    })
}

/// The engine of `target`, to be read.
pub(super) async fn images(target: &Target) -> Result<(Arc<dyn Engine>, Arc<dyn Images>), CommandError> {
    let engine = connect(target).await?;
    let images = engine.images()?;
    let Identity { kind, address, .. } = engine.identity();
    // The layout of a daemon is in its own file system. An empty folder counts as a layout without images.
    if matches!(target, Target::Engine(_)) && *kind == EngineKind::Layout && !Path::new(address).exists() {
        return Err(CommandError::NoLayout { path: address.clone() });
    }
    Ok((engine, images))
}

/// Runs `work` on the engine of `target`, then releases leases that killed processes left in it.
pub(super) async fn reading<T>(
    target: &Target,
    work: impl AsyncFnOnce(Arc<dyn Engine>, Arc<dyn Images>) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let (engine, images) = images(target).await?;
    let left = AbandonedLeases::of(&engine).await;
    let done = work(engine, images).await;
    left.release(&[]).await;
    done
}

/// How to write manifests for this engine if an archive has none.
pub(super) fn manifest_format(engine: &dyn Engine) -> ManifestFormat {
    if matches!(engine.identity().kind, EngineKind::Layout | EngineKind::Object) {
        ManifestFormat::Oci
    } else {
        ManifestFormat::Docker
    }
}

/// The origin of a command's exports.
pub(super) fn origin(command: &str) -> Origin {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Origin::internal(format!("cli-{}-{now:x}", std::process::id()), "cli", format!("linkspan {command}"))
}

/// The error that an engine has no such image.
pub(super) fn absent(engine: &dyn Engine, given: &str) -> CommandError {
    let Identity { kind, address, .. } = engine.identity();
    // Which way it is used makes no difference to its images.
    let engine = match kind {
        EngineKind::Cluster => address.clone(),
        kind if kind.is_docker() => format!("{} at {address}", EngineKind::Docker),
        kind => format!("{kind} at {address}"),
    };
    CommandError::NoImage { given: given.to_owned(), engine }
}

/// Resolves `given` in an engine: a name, a digest, or the beginning of a digest as `images` shows it. Where nodes have different
/// images of that name, a note says so.
pub(super) async fn resolve(engine: &dyn Engine, images: &dyn Images, given: &str) -> Result<Descriptor, CommandError> {
    let root = find(engine, images, given).await?;
    if let Some(differ) = differing(engine, images, given, &root.digest).await? {
        let EngineError::Cluster { reason, hint, .. } = &differ else { return Err(differ.into()) };
        let hint = hint.as_deref().unwrap_or_default();
        output::note(&format!("linkspan: note: {reason}; this is {}: {hint}", root.digest));
    }
    Ok(root)
}

/// The same without the note.
pub(super) async fn find(engine: &dyn Engine, images: &dyn Images, given: &str) -> Result<Descriptor, CommandError> {
    let absent = || absent(engine, given);
    let digest = given.parse::<Digest>().or_else(|_| format!("sha256:{given}").parse());
    if let Ok(digest) = digest {
        return images.identify(&digest).await?.ok_or_else(absent);
    }
    let name: Result<Reference, _> = given.parse();
    if let Ok(name) = &name
        && let Some(found) = images.resolve(name).await?
    {
        return Ok(found);
    }
    if let Some(found) = by_prefix(images, given).await? {
        return Ok(found);
    }
    let name = name?;
    match engine.broken_name(&name).await? {
        Some(error) => Err(error.into()),
        None => Err(absent()),
    }
}

/// What to say if the name `given`, which is `root` here, is another image on some nodes of a cluster.
pub(super) async fn differing(
    engine: &dyn Engine,
    images: &dyn Images,
    given: &str,
    root: &Digest,
) -> Result<Option<EngineError>, CommandError> {
    let Some(name) = given.parse::<Reference>().ok().filter(|name| name.digest().is_none()) else { return Ok(None) };
    let places = images.places(&name).await?.into_iter();
    let others = places.filter_map(|(node, found)| Some((node, found?.digest)));
    let others: Vec<_> = others.filter(|(_, digest)| digest != root).collect();
    let Some((node, _)) = others.first() else { return Ok(None) };
    let on: Vec<_> = others.iter().take(NODES_SHOWN).map(|(node, digest)| format!("{digest} on {node}")).collect();
    let more = others.len().saturating_sub(NODES_SHOWN);
    let more = if more > 0 { format!(" and {more} more nodes") } else { String::new() };
    let cluster = engine.identity().address.clone();
    let address = cluster.split('?').next().unwrap_or_default();
    Ok(Some(EngineError::Cluster {
        reason: format!("{} is another image on some nodes: {}{more}", name.familiar(), on.join(", ")),
        hint: Some(format!("`{address}?nodes={node}` names a node, and a digest an image")),
        cluster,
        is_passing: false,
    }))
}

/// How many nodes are named on which a name is another image.
const NODES_SHOWN: usize = 5;

/// The name (or digest) of the only image of an engine; of several one is named as in `example`.
pub(super) async fn only(engine: &dyn Engine, images: &dyn Images, example: &str) -> Result<String, CommandError> {
    let records = all(images).await?;
    match &records[..] {
        [one] => Ok(one.name.clone().unwrap_or_else(|| one.target.digest.to_string())),
        many => {
            let (what, example) = (engine.identity().address.clone(), example.to_owned());
            Err(CommandError::NotNamed { what, images: many.len(), example })
        }
    }
}

/// The only image whose digest begins with `given`.
async fn by_prefix(images: &dyn Images, given: &str) -> Result<Option<Descriptor>, CommandError> {
    let prefix = given.strip_prefix("sha256:").unwrap_or(given);
    if prefix.len() < 4 || !prefix.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(None);
    }
    let mut found: Option<Descriptor> = None;
    for record in all(images).await? {
        if !record.target.digest.hex().starts_with(prefix) {
            continue;
        }
        match &found {
            Some(other) if other.digest != record.target.digest => {
                return Err(CommandError::Ambiguous { given: given.to_owned() });
            }
            _ => found = Some(record.target),
        }
    }
    Ok(found)
}

/// `given` as a name, if it is the name of an image and no digest.
pub(super) async fn name(images: &dyn Images, given: &str) -> Result<Option<Reference>, CommandError> {
    let Some(name) = given.parse::<Reference>().ok().filter(|name| name.digest().is_none()) else { return Ok(None) };
    Ok(images.resolve(&name).await?.map(|_| name))
}

/// The documents of an image that the engine has.
pub(super) async fn tree(images: &dyn Images, root: &Descriptor) -> Result<Tree, CommandError> {
    Ok(Tree::load(images, root).await?)
}

/// All documents of an image.
pub(super) async fn graph(images: &dyn Images, root: Descriptor) -> Result<Graph, CommandError> {
    Ok(read_graph(images, root, Limits::default(), OnMissing::Stop).await?)
}

/// Every record of an engine.
pub(super) async fn all(images: &dyn Images) -> Result<Vec<Record>, CommandError> {
    let (mut query, mut records) = (Query::default(), Vec::new());
    loop {
        let page = images.list(&query).await?;
        records.extend(page.records);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(records),
        }
    }
}
