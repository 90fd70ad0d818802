//! Chooses the engine to examine: the one that a running Linkspan exports to, if one runs.

use super::door::Door;
use super::facts::{Chained, RunningLinkspan};
use super::socket_at;
use crate::buildx::is_same_address;
use crate::config::{BuilderEndpoint, Config};
use crate::engine::EngineKind;
use crate::engine::select::{ApplierChoice, DockerAddress, Selection};
use crate::net::Address;
use crate::running::Socket;
use crate::status::{Kind, Status};

/// The socket at which dockerd is expected. Addresses of other kinds are on another machine, and are not probed.
pub(super) fn docker_host(selection: &Selection) -> Address {
    let elsewhere = || Address::Tcp { host: "elsewhere.invalid".to_owned(), port: 0 };
    selection.docker_address().direct().unwrap_or_else(elsewhere)
}

/// The running Linkspan that the report is about: the one whose door is where dockerd is expected (after a take-over, or if
/// `DOCKER_HOST` points to the door), else one with a configured door, else any.
///
/// `environment` is `DOCKER_HOST`, or what the docker context says: it says where docker's clients go, and does not choose the engine beside a Linkspan that runs.
pub(super) fn subject(
    config: &Config,
    doors: &[Door],
    sockets: &[Socket],
    environment: Option<&str>,
) -> Option<RunningLinkspan> {
    let may_be_docker = config.engine.kind.is_none_or(EngineKind::is_docker);
    let at_docker = socket_at(sockets, &docker_host(&config.engine).to_string()).and_then(Socket::status);
    if let Some(status) = at_docker.filter(|status| may_be_docker && status.door.kind == Kind::Docker) {
        return Some(RunningLinkspan { status: status.clone(), is_basis: true });
    }
    let status = doors.iter().find_map(Door::status)?.clone();
    let selection = &config.engine;
    // containerd's address alone does not choose an engine: it is a hint.
    let layer_applier = ApplierChoice::default();
    let is_ambient = |host: &DockerAddress| environment.is_some_and(|other| is_same_address(&host.to_string(), other));
    let docker_host = selection.docker_host.clone().filter(|host| !is_ambient(host));
    let chosen =
        Selection { docker_host, containerd_address: None, cache_dir: None, layer_applier, ..selection.clone() };
    let is_default = chosen == Selection::default();
    let is_basis = is_default || is_the_same(selection, &status);
    Some(RunningLinkspan { status, is_basis })
}

/// Whether `selection` names the engine in `status`.
fn is_the_same(selection: &Selection, status: &Status) -> bool {
    let engine = &status.engine;
    // The addresses of other engines have several forms; these are examined as configured.
    let is_kind = engine.kind.is_docker() && selection.kind.is_none_or(|kind| kind == engine.kind);
    is_kind && docker_host(selection).to_string() == engine.address
}

/// The engine to examine.
pub(super) fn selection(configured: &Selection, subject: Option<&RunningLinkspan>) -> Selection {
    let Some(RunningLinkspan { status, .. }) = subject.filter(|subject| subject.is_basis) else {
        return configured.clone();
    };
    let engine = &status.engine;
    let address = engine.address.clone();
    let kind = Some(engine.kind);
    let (containerd_address, cache_dir) = (configured.containerd_address.clone(), configured.cache_dir.clone());
    let layer_applier = configured.layer_applier;
    let base = Selection { kind, containerd_address, cache_dir, layer_applier, ..Selection::default() };
    match engine.kind {
        EngineKind::Docker | EngineKind::DockerClassic | EngineKind::DockerApi => {
            // A status has no files of TLS; those that are configured are for the engine that is.
            let tls = configured.docker_address().tls().cloned();
            Selection { docker_host: DockerAddress::parse(&address, tls).ok(), ..base }
        }
        EngineKind::Containerd => Selection {
            containerd_address: Some(address.strip_prefix("unix://").unwrap_or(&address).into()),
            namespace: engine.namespace.clone(),
            ..base
        },
        EngineKind::Layout => Selection { layout: Some(address.into()), ..base },
        EngineKind::Object => Selection { object: address.parse().ok(), ..base },
        EngineKind::Cluster => {
            Selection { cluster: address.parse().ok(), docker_host: configured.docker_host.clone(), ..base }
        }
        EngineKind::Other => configured.clone(),
    }
}

/// Addresses in `config` that should be an engine's or a builder's, and are doors.
pub(super) fn chained(config: &Config, sockets: &[Socket]) -> Vec<Chained> {
    let mut found = Vec::new();
    if let Some(host) = &config.engine.docker_host
        && let Some(status) = socket_at(sockets, &host.to_string()).and_then(Socket::status)
    {
        let (address, leads) = (host.to_string(), status.engine.address.clone());
        found.push(Chained { about: "engine", address, kind: status.door.kind, leads });
    }
    for builder in &config.builders {
        if let Some(status) = door_of(&builder.endpoint, sockets) {
            let leads = status.builder().map_or(&status.engine.address, |builder| &builder.address).clone();
            found.push(Chained {
                about: "builder",
                address: builder.endpoint.to_string(),
                kind: status.door.kind,
                leads,
            });
        }
    }
    found
}

/// The status of the door at a builder's address, if that is a door.
pub(super) fn door_of<'a>(endpoint: &BuilderEndpoint, sockets: &'a [Socket]) -> Option<&'a Status> {
    match endpoint {
        BuilderEndpoint::Socket(address) => socket_at(sockets, &address.to_string())?.status(),
        BuilderEndpoint::Container { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::running::Probe;
    use crate::status::{self, Door as Named};

    fn status(kind: Kind, engine: EngineKind, address: &str) -> Status {
        let door = Named { kind, address: "unix:///nowhere/door.sock".to_owned() };
        Status {
            version: "1".to_owned(),
            instance: "i".to_owned(),
            pid: 1,
            door,
            doors: Vec::new(),
            engine: status::Engine {
                kind: engine,
                address: address.to_owned(),
                namespace: Some("mine".to_owned()),
                ..status::Engine::default()
            },
            builders: Vec::new(),
            policy: status::Policy::default(),
            exports: Vec::new(),
            ended: Default::default(),
            metrics: None,
            slow_load: None,
        }
    }

    fn at(address: &str, status: Status) -> Socket {
        Socket { address: address.parse().unwrap(), probe: Probe::Linkspan(Box::new(status)) }
    }

    fn config(flags: &[(crate::config::Setting, &str)]) -> Config {
        let mut layer = crate::config::Layer::default();
        for (setting, text) in flags {
            layer.add_flag(*setting, [(*text).to_owned()]);
        }
        Config::load(layer, &|_: &str| None).unwrap()
    }

    #[test]
    fn after_a_take_over_the_engine_is_the_one_behind_the_door() {
        let taken = status(Kind::Docker, EngineKind::Docker, "unix:///run/docker-engine.sock");
        let sockets = [at("unix:///nowhere/docker.sock", taken)];
        let config = config(&[(crate::config::Setting::DockerHost, "unix:///nowhere/docker.sock")]);
        let subject = subject(&config, &[], &sockets, None).unwrap();
        assert!(subject.is_basis);
        let selection = selection(&config.engine, Some(&subject));
        assert_eq!(selection.docker_address().to_string(), "unix:///run/docker-engine.sock");
        assert_eq!(chained(&config, &sockets)[0].leads, "unix:///run/docker-engine.sock");
    }

    #[test]
    fn a_configured_engine_is_examined_whatever_runs() {
        let running = status(Kind::Export, EngineKind::Containerd, "unix:///c.sock");
        let door = Door {
            kind: Kind::Export,
            listen: "unix:///nowhere/door.sock".parse().unwrap(),
            state: super::super::door::DoorState::Open(Box::new(running)),
            builder: None,
            plain_is_load: false,
            is_configured: false,
        };
        let doors = [door];
        let chosen = config(&[(crate::config::Setting::Engine, "layout"), (crate::config::Setting::Layout, "/images")]);
        let beside_chosen = subject(&chosen, &doors, &[], None).unwrap();
        assert!(!beside_chosen.is_basis);
        assert_eq!(selection(&chosen.engine, Some(&beside_chosen)), chosen.engine);

        let nothing = config(&[]);
        let beside_default = subject(&nothing, &doors, &[], None).unwrap();
        let selection = selection(&nothing.engine, Some(&beside_default));
        assert_eq!((selection.kind, selection.namespace.as_deref()), (Some(EngineKind::Containerd), Some("mine")));
        assert_eq!(selection.containerd_address.as_deref(), Some(std::path::Path::new("/c.sock")));

        // DOCKER_HOST is where docker's clients go; the flag chooses.
        let docker = config(&[(crate::config::Setting::DockerHost, "unix:///nowhere/docker.sock")]);
        assert!(subject(&docker, &doors, &[], Some("unix:///nowhere/docker.sock")).unwrap().is_basis);
        assert!(!subject(&docker, &doors, &[], None).unwrap().is_basis);
    }
}
