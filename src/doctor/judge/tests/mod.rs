//! The reports for given facts.

mod builders;
mod engine;
mod report;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::super::builder::BuilderProbe;
use super::super::door::DoorState;
use super::super::door::Probed;
use super::super::facts::RunningLinkspan;
use super::super::inflate::Inflate;
use super::super::users::{BuildxBuilder, BuildxNode, Users};
use super::*;
use crate::buildx::{Context, Version};
use crate::engine::select::Selected;
use crate::engine::{
    Engine, EngineKind, Identity, Lease, Lifetime, Origin, PersistentLeases, Storage, StoredBlobs, doctor,
};
use crate::image::{Descriptor, Reference};
use crate::net::Address;
use crate::{running, status};

/// An engine to be named, not used.
#[derive(Debug)]
struct NamedEngine(Identity);

#[async_trait]
impl Engine for NamedEngine {
    fn identity(&self) -> &Identity {
        &self.0
    }
    async fn already_complete(&self, _: &Descriptor, _: &[Reference]) -> Result<Option<usize>, EngineError> {
        unreachable!("the doctor exports nothing")
    }
    async fn lease(&self, _: &Origin, _: Lifetime<'_>) -> Result<Arc<dyn Lease>, EngineError> {
        unreachable!("the doctor exports nothing")
    }
    async fn recover(&self) -> Result<usize, EngineError> {
        unreachable!("the doctor changes nothing")
    }

    fn persistent_leases(&self) -> Option<&dyn PersistentLeases> {
        None
    }

    async fn load_store(&self) -> Result<Option<Arc<dyn StoredBlobs>>, EngineError> {
        Ok(None)
    }
}

fn findings(kind: EngineKind) -> doctor::Findings {
    let identity = Identity {
        kind,
        version: "29.7.2".to_owned(),
        address: "unix:///d.sock".to_owned(),
        storage: Storage::Containerd {
            namespace: "moby".to_owned(),
            snapshotter: "overlayfs".to_owned(),
            parallel_unpack: true,
        },
    };
    let containerd = doctor::Containerd {
        address: "/c.sock".to_owned(),
        version: "v2.3.4".to_owned(),
        uuid: "1234".to_owned(),
        namespace: "moby".to_owned(),
        snapshotter: "overlayfs".to_owned(),
        parallel_unpack: true,
        sharing: Some("shared".to_owned()),
    };
    let engine: Arc<dyn Engine> = Arc::new(NamedEngine(identity));
    doctor::Findings {
        selected: Ok(Selected { engine, reason: "as configured, proven".to_owned() }),
        docker: None,
        containerd: Some(Ok(containerd)),
    }
}

const DOOR: &str = "unix:///run/linkspan/buildkit.sock";

/// The status of a Linkspan at a door of `kind` at `address`.
fn status(kind: Kind, address: &str) -> Status {
    let door = status::Door { kind, address: address.to_owned() };
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: "i".to_owned(),
        pid: 7,
        doors: vec![door.clone()],
        door,
        engine: status::Engine {
            kind: EngineKind::Docker,
            version: "29.7.2".to_owned(),
            address: "unix:///d.sock".to_owned(),
            ..status::Engine::default()
        },
        builders: vec![status::Builder {
            address: "unix:///b.sock".to_owned(),
            door: DOOR.to_owned(),
            ..status::Builder::default()
        }],
        policy: status::Policy::default(),
        exports: Vec::new(),
        ended: Default::default(),
        metrics: None,
        slow_load: None,
    }
}

/// A configured door, open unless somebody says otherwise.
fn door(kind: Kind, address: &str) -> Door {
    Door {
        kind,
        listen: address.parse().unwrap(),
        state: DoorState::Open(Box::new(status(kind, address))),
        builder: None,
        plain_is_load: false,
        is_configured: true,
    }
}

fn closed(door: Door) -> Door {
    Door { state: DoorState::Closed, ..door }
}

/// The door of a builder that responded like this.
fn probed(probe: BuilderProbe) -> Door {
    let endpoint = Some("unix:///b.sock".parse::<Address>().unwrap().into());
    let builder = Some(Probed { address: "unix:///b.sock".to_owned(), endpoint, probe });
    Door { builder, ..door(Kind::Buildkit, DOOR) }
}

fn recent() -> Door {
    probed(BuilderProbe::Version(Some("v0.32.2".to_owned())))
}

fn users(builders: Vec<BuildxBuilder>) -> Users {
    let version = Version::read("github.com/docker/buildx v0.36.1 x");
    Users { builders, version, ..Users::none() }
}

fn found(engine: doctor::Findings, inflate: Option<Inflate>, doors: &[Door], users: Users) -> Facts {
    let doors = doors.to_vec();
    let (subject, containerd_address, chained, metrics, caches) = Default::default();
    Facts { engine, subject, containerd_address, inflate, doors, chained, metrics, users, caches }
}

/// Judges them where buildx has no builders.
fn judge(engine: doctor::Findings, inflate: Option<Inflate>, doors: &[Door]) -> Report {
    super::judge(&found(engine, inflate, doors, users(Vec::new())))
}

fn marks(report: &Report) -> Vec<(&str, Mark)> {
    report.checks.iter().map(|check| (check.about, check.mark)).collect()
}

/// A docker-container builder of the user's with a BuildKit that is recent.
fn users_builder(name: &str, endpoint: &str, door_probe: Option<running::Probe>) -> BuildxBuilder {
    let builder_probe = door_probe.is_some().then(|| BuilderProbe::Version(Some("v0.32.2".to_owned())));
    let nodes = vec![BuildxNode { name: "n0".to_owned(), address: endpoint.to_owned(), door_probe, builder_probe }];
    BuildxBuilder { name: name.to_owned(), driver: "docker-container".to_owned(), nodes }
}
