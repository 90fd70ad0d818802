//! The sockets of all doors, opened before the first client is accepted.

use std::sync::Arc;

use super::listen::{Listener, ListenerTls};
use super::{DaemonError, Inherited, ListenError};
use crate::build_outputs::OutputOptions;
use crate::config::{Config, DEFAULT_DOCKER_LISTEN, Setting};
use crate::engine::select::DockerAddress;
use crate::engine::{Engine, Identity};
use crate::net::{Address, ENGINES, ServerTls, ServerTlsError, TlsRules, Upstream};
use crate::telemetry::announce;

/// One for each door that the configuration names.
pub(super) struct Sockets {
    pub(super) docker: Option<DockerSocket>,
    /// In the order of the builders.
    pub(super) builders: Vec<Listener>,
    pub(super) export: Option<Listener>,
    pub(super) registry: Option<Listener>,
    pub(super) metrics: Option<Listener>,
    /// The default docker socket, passed by a service manager although there is no docker door.
    pub(super) unneeded: Option<Listener>,
}

/// The socket of a docker door, and the dockerd behind it.
pub(super) struct DockerSocket {
    pub(super) upstream: Upstream,
    pub(super) listener: Listener,
    pub(super) outputs: OutputOptions,
}

impl Sockets {
    /// Opens all of them, or none.
    pub(super) async fn open(
        config: &Config,
        engine: &dyn Engine,
        tls: Option<&Arc<ServerTls>>,
        inherited: Inherited,
    ) -> Result<Self, DaemonError> {
        let mut opening = Opening { config, tls, inherited, doors: Vec::new() };
        let docker = opening.docker(engine.identity()).await?;
        let mut builders = Vec::with_capacity(config.builders.len());
        for builder in &config.builders {
            builders.push(opening.door(&builder.listen, Setting::BuildkitListen, Some(&BUILDKIT_DOOR)).await?);
        }
        let export = match &config.export_listen {
            Some(address) => Some(opening.door(address, Setting::ExportListen, Some(&EXPORT_DOOR)).await?),
            None => None,
        };
        let registry = match &config.registry_door {
            Some(door) => {
                // Before anybody can connect: not every engine has images that can be read.
                engine.images()?;
                Some(opening.door(&door.listen, Setting::RegistryListen, Some(&HTTP_DOOR)).await?)
            }
            None => None,
        };
        let metrics = match &config.metrics_listen {
            Some(address) => Some(opening.door(address, Setting::MetricsListen, Some(&HTTP_DOOR)).await?),
            None => None,
        };
        let unneeded = match docker {
            Some(_) => None,
            None => unneeded(engine.identity(), &mut opening.inherited)?,
        };
        opening.inherited.all_used(&opening.doors)?;
        Ok(Self { docker, builders, export, registry, metrics, unneeded })
    }
}

/// What clients of a door speak, and how they are known where it has TLS.
struct Clients {
    protocol: &'static str,
    /// Whether a password does instead of a certificate.
    takes_passwords: bool,
}

const BUILDKIT_DOOR: Clients = Clients { protocol: "h2", takes_passwords: false };
const EXPORT_DOOR: Clients = Clients { protocol: "h2", takes_passwords: true };
const HTTP_DOOR: Clients = Clients { protocol: "http/1.1", takes_passwords: true };

struct Opening<'a> {
    config: &'a Config,
    tls: Option<&'a Arc<ServerTls>>,
    inherited: Inherited,
    /// Those that were opened.
    doors: Vec<(Setting, &'a Address)>,
}

impl<'a> Opening<'a> {
    async fn door(
        &mut self,
        address: &'a Address,
        setting: Setting,
        clients: Option<&Clients>,
    ) -> Result<Listener, DaemonError> {
        self.doors.push((setting, address));
        let tls = clients.and_then(|clients| self.tls_of(address, clients));
        let opened = Listener::open(address, self.config.gid, tls, &mut self.inherited).await;
        opened.map_err(|error| DaemonError::Door { flag: setting.name(), error })
    }

    fn tls_of(&self, address: &Address, clients: &Clients) -> Option<ListenerTls> {
        let security = &self.config.security;
        let tls = Arc::clone(self.tls.filter(|_| security.has_tls(address))?);
        let requires_certificate = !(clients.takes_passwords && security.htpasswd.is_some());
        Some(ListenerTls { tls, rules: TlsRules { protocol: clients.protocol, requires_certificate } })
    }

    async fn docker(&mut self, engine: &Identity) -> Result<Option<DockerSocket>, DaemonError> {
        let Some(door) = &self.config.docker_door else { return Ok(None) };
        let upstream = match docker_upstream(engine, &self.config.engine.docker_address(), &door.listen) {
            // A default door is optional.
            Err(DaemonError::NoDocker { .. } | DaemonError::DockerOverSsh { .. }) if door.is_default => {
                return Ok(None);
            }
            upstream => upstream?,
        };
        let listener = self.door(&door.listen, Setting::DockerListen, None).await?;
        Ok(Some(DockerSocket { upstream, listener, outputs: door.outputs }))
    }
}

/// The default docker socket, if it was passed but `engine` is not Docker: linkspan.socket has it for any engine.
pub(super) fn unneeded(engine: &Identity, inherited: &mut Inherited) -> Result<Option<Listener>, ListenError> {
    let Ok(usual) = DEFAULT_DOCKER_LISTEN.parse() else { return Ok(None) };
    let listener = if engine.kind.is_docker() { None } else { inherited.for_door(&usual)? };
    if listener.is_some() {
        announce(&format!("no docker door at {usual}: the engine is {engine}, and connections there are closed"));
        announce("hint: after docker was installed, restart linkspan");
    }
    Ok(listener)
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

/// The TLS of listeners, if one of them has TLS.
pub(super) fn server_tls(config: &Config) -> Result<Option<Arc<ServerTls>>, ServerTlsError> {
    let doors = config.registry_door.iter().map(|door| &door.listen).chain(&config.export_listen);
    let doors = doors.chain(&config.metrics_listen);
    let mut doors = doors.chain(config.builders.iter().map(|builder| &builder.listen));
    let is_needed = doors.any(|address| config.security.has_tls(address));
    is_needed.then(|| ServerTls::open(config.security.tls.clone()).map(Arc::new)).transpose()
}
