//! The status document of this process, which every door serves.

use super::listen::Listener;
use super::sockets::Sockets;
use crate::build_outputs::{OutputOptions, SlowLoads};
use crate::config::Config;
use crate::engine::{Identity, Storage};
use crate::export::{Exports, LiveExports, unique_id};
use crate::net::Address;
use crate::status::{Builder, Door, Engine, Kind, Policy, Status, StatusReport};

/// The status that all doors of a process share.
#[derive(Debug)]
pub(super) struct Composed {
    status: Option<Status>,
    exports: LiveExports,
    slow_loads: SlowLoads,
}

impl Composed {
    /// The report of the door at `address`.
    pub(super) fn of(&self, address: &Address) -> Option<StatusReport> {
        let (status, address) = (self.status.as_ref()?, address.to_string());
        let door = status.doors.iter().find(|door| door.address == address)?;
        Some(status.report(door, self.exports.clone(), self.slow_loads.clone()))
    }
}

/// Composes the status of a process with `config`, whose doors listen on `sockets` and accept `exports`.
pub(super) fn compose(config: &Config, exports: &Exports, slow_loads: &SlowLoads, sockets: &Sockets) -> Composed {
    // With the ports that the system chose.
    let docker = sockets.docker.as_ref().map(|docker| docker.listener.address());
    let builders: Vec<_> = sockets.builders.iter().map(Listener::address).collect();
    let door = |kind| move |address: &&Address| Door { kind, address: address.to_string() };
    let doors: Vec<_> = (docker.iter().map(door(Kind::Docker)))
        .chain(builders.iter().map(door(Kind::Buildkit)))
        .chain(sockets.export.as_ref().map(Listener::address).iter().map(door(Kind::Export)))
        .chain(sockets.registry.as_ref().map(Listener::address).iter().map(door(Kind::Registry)))
        .collect();
    let builders = config.builders.iter().zip(&builders).map(|(builder, address)| Builder {
        address: builder.endpoint.to_string(),
        door: address.to_string(),
        plain_is_load: builder.outputs.plain_is_load,
        load_compression: Some(load_compression(builder.outputs)),
        push_compression: Some(push_compression(builder.outputs)),
    });
    let met = config.docker_door.as_ref().filter(|_| docker.is_some()).map(|door| door.outputs);
    let policy = Policy {
        plain_is_load: met.is_some_and(|outputs| outputs.plain_is_load),
        load_compression: met.map(load_compression),
        push_compression: met.map(push_compression),
        names_restricted: !config.names.allowed.is_empty(),
        deny_tag_move: !config.names.allow_tag_move,
        caches_restricted: !config.caches.policy.allowed.is_empty(),
        cache_max_bytes: config.caches.limits.max_bytes,
        cache_max_age: config.caches.limits.max_age.map(|age| age.as_secs()),
        cache_max_count: config.caches.limits.max_count,
    };
    let status = doors.first().cloned().map(|door| Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        // Not a secret: it only distinguishes instances.
        instance: unique_id(),
        pid: std::process::id(),
        door,
        doors,
        engine: engine(exports.engine().identity()),
        builders: builders.collect(),
        policy,
        exports: Vec::new(),
        ended: Default::default(),
        metrics: sockets.metrics.as_ref().map(|metrics| metrics.address().to_string()),
        slow_load: None,
    });
    Composed { status, exports: exports.live().clone(), slow_loads: slow_loads.clone() }
}

fn load_compression(outputs: OutputOptions) -> String {
    outputs.load_compression.name().to_owned()
}

fn push_compression(outputs: OutputOptions) -> String {
    outputs.push_compression.name().to_owned()
}

fn engine(identity: &Identity) -> Engine {
    let Identity { kind, version, address, storage } = identity.clone();
    let engine = Engine { kind, version, address, ..Engine::default() };
    match storage {
        Storage::Containerd { namespace, snapshotter, parallel_unpack } => Engine {
            namespace: Some(namespace),
            snapshotter: Some(snapshotter),
            parallel_unpack: Some(parallel_unpack),
            ..engine
        },
        Storage::Cluster { namespace, snapshotter, parallel_unpack, nodes } => Engine {
            namespace: Some(namespace),
            snapshotter: Some(snapshotter),
            parallel_unpack: Some(parallel_unpack),
            nodes,
            ..engine
        },
        Storage::Classic { storage_driver } => Engine { storage_driver: Some(storage_driver), ..engine },
        Storage::Directory {} | Storage::Bucket {} => engine,
    }
}
