//! The builders and contexts of the user who runs the doctor.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;

use super::builder::{self, BuilderProbe};
use super::door::Door;
use super::socket_at;
use crate::buildx::{Context, Instance, Instances, Store, StoreError, Version, is_same_address};
use crate::config::{Config, UsualDoors};
use crate::engine::select::DEFAULT_DOCKER_HOST;
use crate::running::{self, Socket};
use crate::setup;
use crate::status::{Kind, Status};
use crate::tunnel::ExecDial;

/// The prefix of container names of the docker-container driver (buildx `driver/manager.go`, `BuilderName`).
const CONTAINER: &str = "buildx_buildkit_";

/// The builders, contexts and buildx of a user.
#[derive(Debug)]
pub(super) struct Users {
    pub(super) builders: Vec<BuildxBuilder>,
    /// Why other builders could not be read.
    pub(super) unread: Vec<StoreError>,
    pub(super) contexts: Vec<Context>,
    /// The address of the engine that docker uses in this shell.
    pub(super) engine: String,
    /// Where doors of this user are, if no other places are named.
    pub(super) usual: UsualDoors,
    /// The version of the installed buildx.
    pub(super) version: Option<Version>,
    /// The builders that `linkspan setup` has sent to a door that is gone.
    pub(super) sent: Vec<String>,
}

/// A builder of the user's buildx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BuildxBuilder {
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) nodes: Vec<BuildxNode>,
}

/// A node of a builder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BuildxNode {
    pub(super) name: String,
    /// Its endpoint.
    pub(super) address: String,
    /// What was found at the endpoint; `None` if it is on another machine, where nothing is probed.
    pub(super) door_probe: Option<running::Probe>,
    /// The response of the BuildKit behind it, if it goes through a door.
    pub(super) builder_probe: Option<BuilderProbe>,
}

impl BuildxNode {
    /// The status of the Linkspan at the endpoint, if it is one.
    pub(super) fn status(&self) -> Option<&Status> {
        match &self.door_probe {
            Some(running::Probe::Linkspan(status)) => Some(status),
            _ => None,
        }
    }
}

/// Reads the files of buildx and docker. Without the user's environment there are none.
pub(super) fn read(store: Option<&Store>, variable: impl Fn(&str) -> Option<OsString>) -> Users {
    let node = |store: &Store, node: crate::buildx::Node| {
        let address = store.address(&node.endpoint);
        BuildxNode { name: node.name, address, door_probe: None, builder_probe: None }
    };
    let own = |store: &Store, Instance { name, driver, nodes }: Instance| BuildxBuilder {
        name,
        driver,
        nodes: nodes.into_iter().map(|it| node(store, it)).collect(),
    };
    let Instances { read, unread } = store.map(Store::instances).unwrap_or_default();
    let builders = match store {
        Some(store) => read.into_iter().map(|instance| own(store, instance)).collect(),
        None => Vec::new(),
    };
    let usual = Config::usual_doors(&variable);
    Users {
        builders,
        unread,
        usual,
        contexts: store.map(Store::contexts).unwrap_or_default(),
        engine: store.and_then(|store| store.engine(variable)).unwrap_or_else(|| DEFAULT_DOCKER_HOST.to_owned()),
        version: None,
        sent: Vec::new(),
    }
}

impl Users {
    /// No builders and no contexts, and the doors of root.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { usual: UsualDoors::default(), ..read(None, |_| None) }
    }

    /// Adds what was found at these sockets.
    pub(super) fn set_door_probes(&mut self, sockets: &[Socket]) {
        for node in self.builders.iter_mut().flat_map(|builder| &mut builder.nodes) {
            node.door_probe = socket_at(sockets, &node.address).map(|socket| socket.probe.clone());
        }
    }

    /// Finds out which builders `linkspan setup` has sent to a door that is gone, if there may be any.
    pub(super) fn find_sent(&mut self, store: Option<&Store>) {
        let mut nodes = self.builders.iter().flat_map(|builder| &builder.nodes);
        if nodes.any(|node| node.door_probe == Some(running::Probe::Closed)) {
            let (stranded, _) = store.map(setup::stranded).unwrap_or_default();
            self.sent = stranded.into_iter().map(|stranded| stranded.builder).collect();
        }
    }

    /// Requests the versions of the running BuildKits in containers behind docker doors.
    pub(super) async fn probe(&mut self) {
        let containers = self.builders.iter_mut().filter(|builder| builder.driver == "docker-container");
        let nodes = containers.flat_map(|builder| &mut builder.nodes);
        join_all(nodes.map(async |node| {
            let Some(status) = node.status().filter(|status| status.door.kind == Kind::Docker) else { return };
            let Ok(container) = format!("docker-container://{CONTAINER}{}", node.name).parse() else { return };
            let door = node.address.strip_prefix("unix://").map(PathBuf::from);
            // Directly if possible: the door would keep the connection for the next client.
            let engine =
                status.engine.address.strip_prefix("unix://").map(PathBuf::from).filter(|path| is_usable(path));
            let Some(socket) = engine.or(door) else { return };
            node.builder_probe = Some(builder::probe(&ExecDial::new(&socket, container)).await);
        }))
        .await;
    }

    /// Adds the responses of the builders behind buildkit doors.
    pub(super) fn learn(&mut self, doors: &[Door]) {
        for node in self.builders.iter_mut().flat_map(|builder| &mut builder.nodes) {
            let door = doors.iter().find(|door| is_same_address(&door.listen.to_string(), &node.address));
            if let Some(probed) = door.and_then(|door| door.builder.as_ref()) {
                node.builder_probe = Some(probed.probe.clone());
            }
        }
    }
}

/// Whether this process may connect to a socket.
fn is_usable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK).is_ok()
}
