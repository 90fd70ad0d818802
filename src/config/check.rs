//! Checks the texts of all settings and makes a [`Config`] of them.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use tracing::Level;

use super::builder::{self, Draft};
use super::docker_host::DockerClient;
use super::listen::{self, Listener, ListenerSecurity};
use super::parse::{age, boolean, bytes, count, invalid, pattern};
use super::rules::{self, RuleDraft};
use super::{
    BuilderEndpoint, Config, ConfigError, DEFAULT_DRAIN, DEFAULT_ENGINE_TIMEOUT, Given, Layer, Origin, Setting,
    UsualDoors, docker, group, registry,
};
use crate::caches::{CacheLimits, CachePolicy, CacheSettings};
use crate::docker_api::DockerAddress;
use crate::engine::select::{ApplierChoice, Selection};
use crate::engine::{BucketAddress, BucketAddressError, ClusterAddress, ClusterAddressError, EngineKind};
use crate::net::{Address, Tls};

/// The longest time limit: longer than any build, and than any engine takes to start.
const MAX_SECONDS: u64 = 24 * 60 * 60;
/// containerd's limits on a namespace: `maxLength` in its `pkg/identifiers/validate.go`.
const MAX_IDENTIFIER: usize = 76;

/// The name policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    /// Patterns for full names; an empty list allows all.
    pub allowed: Vec<String>,
    /// Whether a name may move to another image.
    pub allow_tag_move: bool,
}

/// Level and format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is shown.
    pub level: Level,
    /// The format of a line.
    pub format: LogFormat,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

pub(super) fn check(
    settings: &Layer,
    docker: DockerClient,
    (tables, rules): (Vec<Draft>, &[RuleDraft]),
    groups: &Path,
    usual: &UsualDoors,
    security: ListenerSecurity,
) -> Result<Config, ConfigError> {
    let mut engine = selection(settings, docker)?;
    let builders = builder::check(settings, tables, usual)?;
    let clients_door = docker::take_own(settings, &mut engine, &usual.docker);
    let docker_door = docker::check(settings, &engine, &builders)?;
    let export_listen = settings.last(Setting::ExportListen);
    let export_listen = export_listen.map(|given| listen::address(given, settings, Listener::Export)).transpose()?;
    if let Some(address) = &export_listen {
        let is_builders = builders
            .iter()
            .any(|builder| builder.listen == *address || builder.endpoint == BuilderEndpoint::Socket(address.clone()));
        if is_builders || docker_door.as_ref().is_some_and(|door| door.listen == *address) {
            return Err(ConfigError::Contradiction(format!(
                "--{} is {address}, which is another door's address or a builder's; a door needs an address of its own",
                Setting::ExportListen.name()
            )));
        }
    }
    let registry_door = registry::check(settings)?;
    if let Some(door) = &registry_door {
        let listens = docker_door.iter().map(|door| &door.listen).chain(&export_listen);
        let is_taken =
            listens.chain(builders.iter().map(|builder| &builder.listen)).any(|listen| *listen == door.listen);
        // Port 0 is another free port for each.
        if is_taken && !matches!(door.listen, Address::Tcp { port: 0, .. }) {
            return Err(ConfigError::Contradiction(format!(
                "--{} is {}, which is another door's address; a door needs an address of its own",
                Setting::RegistryListen.name(),
                door.listen
            )));
        }
    }
    let metrics_listen = settings.last(Setting::MetricsListen);
    let metrics_listen = metrics_listen.map(|given| listen::address(given, settings, Listener::Metrics)).transpose()?;
    if let Some(address) = &metrics_listen {
        let doors = docker_door.iter().map(|door| &door.listen).chain(&export_listen);
        let doors = doors.chain(registry_door.iter().map(|door| &door.listen));
        let is_taken = doors.chain(builders.iter().map(|builder| &builder.listen)).any(|listen| listen == address);
        if is_taken && !matches!(address, Address::Tcp { port: 0, .. }) {
            return Err(ConfigError::Contradiction(format!(
                "--{} is {address}, which is a door's address; metrics need an address of their own",
                Setting::MetricsListen.name()
            )));
        }
    }
    Ok(Config {
        engine,
        builders,
        docker_door,
        clients_door,
        export_listen,
        registry_door,
        metrics_listen,
        security,
        rules: rules::check(rules)?,
        names: Names {
            allowed: settings.all(Setting::AllowName).iter().map(pattern).collect::<Result<_, _>>()?,
            allow_tag_move: !settings.last(Setting::DenyTagMove).map(boolean).transpose()?.unwrap_or(false),
        },
        caches: CacheSettings {
            limits: CacheLimits {
                max_bytes: settings.last(Setting::CacheMaxBytes).map(bytes).transpose()?,
                max_age: settings.last(Setting::CacheMaxAge).map(age).transpose()?,
                max_count: settings.last(Setting::CacheMaxCount).map(count).transpose()?,
            },
            policy: CachePolicy {
                allowed: settings.all(Setting::AllowCache).iter().map(pattern).collect::<Result<_, _>>()?,
            },
            from_engine: settings.last(Setting::CacheFromEngine).map(boolean).transpose()?.unwrap_or(false),
            lazy_import: settings.last(Setting::CacheLazyImport).map(boolean).transpose()?.unwrap_or(false),
        },
        from_engine: settings.all(Setting::FromEngine).iter().map(pattern).collect::<Result<_, _>>()?,
        output_dirs: settings.all(Setting::AllowOutputDir).iter().map(output_dir).collect::<Result<_, _>>()?,
        gid: match settings.last(Setting::Group) {
            Some(given) => gid(given, groups)?,
            None => group::default(groups),
        },
        engine_timeout: settings
            .last(Setting::EngineTimeout)
            .map(seconds)
            .transpose()?
            .unwrap_or(DEFAULT_ENGINE_TIMEOUT),
        drain_timeout: settings.last(Setting::DrainTimeout).map(seconds).transpose()?.unwrap_or(DEFAULT_DRAIN),
        log: Log {
            level: settings.last(Setting::LogLevel).map(level).transpose()?.unwrap_or(Level::INFO),
            format: settings.last(Setting::LogFormat).map(format).transpose()?.unwrap_or(LogFormat::Text),
        },
    })
}

fn selection(settings: &Layer, docker: DockerClient) -> Result<Selection, ConfigError> {
    let (mut kind, mut cluster) = settings.last(Setting::Engine).map(self::kind).transpose()?.unwrap_or_default();
    let is_flag = |setting| settings.last(setting).is_some_and(|given: &Given| matches!(given.origin, Origin::Flag(_)));
    // A --layout or --object flag chooses its engine over variables and the file; an --engine flag for another engine
    // overrides a layout or a bucket in these.
    let (named, bucket_named, chosen) = (is_flag(Setting::Layout), is_flag(Setting::Object), is_flag(Setting::Engine));
    if named && bucket_named {
        return Err(ConfigError::Contradiction("a layout and a bucket are named; leave one of them out".to_owned()));
    }
    let others = [Setting::DockerHost, Setting::ContainerdAddress, Setting::Namespace, Setting::DockerListen];
    if (named || bucket_named) && !chosen && !others.into_iter().any(is_flag) {
        kind = Some(if named { EngineKind::Layout } else { EngineKind::Object });
        cluster = None;
    }
    if cluster.is_some()
        && let Some(setting) = [Setting::ContainerdAddress, Setting::Namespace].into_iter().find(|it| is_flag(*it))
    {
        return Err(ConfigError::Contradiction(format!(
            "the engine is a cluster, whose nodes have containerd at a place of their own and images in the namespace `k8s.io`; \
             leave --{} out",
            setting.name()
        )));
    }
    // Where dockerd has no part in the engine, DOCKER_HOST is ignored: its value need not be one that Linkspan can use.
    let may_be_docker = !matches!(kind, Some(EngineKind::Containerd | EngineKind::Layout | EngineKind::Object));
    let docker_host = settings.last(Setting::DockerHost).filter(|_| may_be_docker);
    if let Some(error) = docker.broken.filter(|_| may_be_docker) {
        return Err(error);
    }
    let mut layout = settings.last(Setting::Layout).map(folder).transpose()?;
    if chosen && !named && !matches!(kind, None | Some(EngineKind::Layout)) {
        layout = None;
    }
    if layout.is_some() && !matches!(kind, None | Some(EngineKind::Layout)) {
        return Err(ConfigError::Contradiction(
            "a layout is named, but the engine is another; use `--engine layout`, or leave the layout out".to_owned(),
        ));
    }
    let mut object = settings.last(Setting::Object).map(bucket).transpose()?;
    // A bucket in a variable or in the file may be meant for the commands that name the engine.
    if !bucket_named && kind != Some(EngineKind::Object) {
        object = None;
    }
    match (kind, &object) {
        (Some(EngineKind::Object), None) => {
            let advice = "the engine is `object`, and no bucket is named; name one with --object s3://BUCKET/PREFIX";
            return Err(ConfigError::Contradiction(advice.to_owned()));
        }
        (kind, Some(_)) if kind != Some(EngineKind::Object) => {
            return Err(ConfigError::Contradiction(
                "a bucket is named, but the engine is another; use `--engine object`, or leave the bucket out"
                    .to_owned(),
            ));
        }
        _ => {}
    }
    Ok(Selection {
        kind,
        docker_host: docker_host.map(|given| self::docker_host(given, docker.tls)).transpose()?,
        containerd_address: settings.last(Setting::ContainerdAddress).map(socket_path).transpose()?,
        namespace: settings.last(Setting::Namespace).map(namespace).transpose()?,
        layout,
        object,
        object_variables: Default::default(),
        cluster,
        cache_dir: settings.last(Setting::CacheDir).map(folder).transpose()?,
        layer_applier: settings.last(Setting::LayerApplier).map(layer_applier).transpose()?.unwrap_or_default(),
    })
}

fn layer_applier(given: &Given) -> Result<ApplierChoice, ConfigError> {
    match given.text.as_str() {
        "auto" => Ok(ApplierChoice::Auto),
        "containerd" => Ok(ApplierChoice::Containerd),
        _ => Err(invalid(given, "does not say who unpacks layers; expected `auto` or `containerd`")),
    }
}

/// The engine, and the cluster if it is one.
fn kind(given: &Given) -> Result<(Option<EngineKind>, Option<ClusterAddress>), ConfigError> {
    let expected = "is no engine; expected `auto`, `docker`, `docker-classic`, `docker-api`, `containerd`, `layout`, `object`, \
                    `kind://CLUSTER` or `k3d://CLUSTER`";
    match given.text.as_str() {
        "auto" => Ok((None, None)),
        text if ClusterAddress::is_meant(text) => {
            let cluster = text.parse();
            let cluster =
                cluster.map_err(|error: ClusterAddressError| invalid(given, format!("is no cluster: {error}")))?;
            Ok((Some(EngineKind::Cluster), Some(cluster)))
        }
        name => match name.parse() {
            // It has no default: which one is said by its address.
            Ok(EngineKind::Cluster) | Err(_) => Err(invalid(given, expected)),
            Ok(kind) => Ok((Some(kind), None)),
        },
    }
}

/// Checks the form only; the engine checks whether it can export to that address.
fn docker_host(given: &Given, tls: Option<Tls>) -> Result<DockerAddress, ConfigError> {
    let address = DockerAddress::parse(&given.text, tls);
    address.map_err(|error| invalid(given, format!("is no address: {}", error.reason())))
}

fn socket_path(given: &Given) -> Result<PathBuf, ConfigError> {
    match given.text.parse::<Address>() {
        Ok(Address::Unix(path)) => Ok(path),
        Ok(Address::Tcp { .. }) => Err(invalid(
            given,
            "is no socket of this machine; expected a path such as `/run/containerd/containerd.sock`",
        )),
        Err(error) => Err(invalid(given, format!("is no path of a socket: {}", error.reason))),
    }
}

fn folder(given: &Given) -> Result<PathBuf, ConfigError> {
    if given.text.is_empty() || given.text.contains("://") {
        return Err(invalid(given, "is no directory; expected a path such as `/var/lib/linkspan/layout`"));
    }
    Ok(given.text.clone().into())
}

/// The address of a bucket.
fn bucket(given: &Given) -> Result<BucketAddress, ConfigError> {
    given
        .text
        .parse()
        .map_err(|error: BucketAddressError| invalid(given, format!("is no address of a bucket: {error}")))
}

/// A folder for outputs: absolute and without `..`, because clients' paths are compared with it.
fn output_dir(given: &Given) -> Result<PathBuf, ConfigError> {
    let path = Path::new(&given.text);
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !is_plain || path.parent().is_none() {
        return Err(invalid(
            given,
            "is no folder for outputs; expected an absolute path without `..`, such as `/srv/exports`",
        ));
    }
    Ok(path.into())
}

/// containerd's rule for identifiers (`pkg/identifiers/validate.go`): letters and digits, in groups that are separated
/// by single dots, dashes or underscores.
fn namespace(given: &Given) -> Result<String, ConfigError> {
    let text = &given.text;
    let group = |group: &str| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !text.split(['.', '_', '-']).all(group) {
        return Err(invalid(
            given,
            "is no containerd namespace; expected letters and digits, separated by single `.`, `_` or `-`",
        ));
    }
    if text.len() > MAX_IDENTIFIER {
        return Err(invalid(
            given,
            format!("is too long; a containerd namespace has at most {MAX_IDENTIFIER} characters"),
        ));
    }
    Ok(text.clone())
}

fn gid(given: &Given, groups: &Path) -> Result<u32, ConfigError> {
    // To chown(2) the largest id means "unchanged".
    if let Ok(gid) = given.text.parse::<u32>()
        && gid != u32::MAX
    {
        return Ok(gid);
    }
    group::find(groups, &given.text).ok_or_else(|| {
        invalid(given, format!("is no group in {}; expected a group's name, or its number", groups.display()))
    })
}

fn seconds(given: &Given) -> Result<Duration, ConfigError> {
    match given.text.parse() {
        Ok(seconds) if seconds <= MAX_SECONDS => Ok(Duration::from_secs(seconds)),
        _ => Err(invalid(given, format!("is not a whole number of seconds from 0 to {MAX_SECONDS}"))),
    }
}

fn level(given: &Given) -> Result<Level, ConfigError> {
    match given.text.as_str() {
        "error" => Ok(Level::ERROR),
        "warn" => Ok(Level::WARN),
        "info" => Ok(Level::INFO),
        "debug" => Ok(Level::DEBUG),
        "trace" => Ok(Level::TRACE),
        _ => Err(invalid(given, "is no level; expected `error`, `warn`, `info`, `debug` or `trace`")),
    }
}

fn format(given: &Given) -> Result<LogFormat, ConfigError> {
    match given.text.as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(invalid(given, "is no log format; expected `text` or `json`")),
    }
}
