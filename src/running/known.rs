//! Where a user's settings say that a Linkspan may listen.

use std::ffi::OsString;

use super::{First, SearchFolders};
use crate::buildx::Store;
use crate::config::{BuilderEndpoint, Config, USUAL_REGISTRY_LISTEN};
use crate::net::Address;

/// Every address in `config`, in the folders of Linkspans, and in the user's builders and docker contexts. A door anywhere
/// among them names the others of its process.
pub fn known(
    config: &Config,
    users: Option<&Store>,
    variable: impl Fn(&str) -> Option<OsString>,
    folders: &SearchFolders,
) -> Vec<(Address, First)> {
    let mut addresses = configured(config);
    addresses.extend(users.map(|store| of_user(store, variable)).unwrap_or_default());
    addresses.extend(folders.sockets());
    // A daemon that has only this door has no socket in Linkspan's folders.
    addresses.extend(USUAL_REGISTRY_LISTEN.parse().ok().map(|usual| (usual, First::Http1)));
    addresses
}

fn configured(config: &Config) -> Vec<(Address, First)> {
    // An address over ssh is on another machine, and is not probed.
    let docker = config.engine.docker_address().direct();
    let mut addresses: Vec<_> = docker.map(|docker| (docker, First::Http1)).into_iter().collect();
    addresses.extend(config.docker_door.iter().map(|door| (door.listen.clone(), First::Http1)));
    addresses.extend(config.export_listen.iter().map(|listen| (listen.clone(), First::Http2)));
    addresses.extend(config.registry_door.iter().map(|door| (door.listen.clone(), First::Http1)));
    for builder in &config.builders {
        addresses.push((builder.listen.clone(), First::Http2));
        if let (BuilderEndpoint::Socket(address), None) = (&builder.endpoint, &builder.tls) {
            addresses.push((address.clone(), First::Http2));
        }
    }
    addresses
}

/// The endpoints of the user's builders, of docker contexts, and of the engine that docker uses. Files that cannot be read name
/// none.
fn of_user(store: &Store, variable: impl Fn(&str) -> Option<OsString>) -> Vec<(Address, First)> {
    let mut named = Vec::new();
    for builder in store.instances().read {
        let first = if builder.driver == "remote" { First::Http2 } else { First::Http1 };
        named.extend(builder.nodes.iter().map(|node| (store.address(&node.endpoint), first)));
    }
    named.extend(store.contexts().into_iter().map(|context| (context.host, First::Http1)));
    named.extend(store.engine(variable).map(|engine| (engine, First::Http1)));
    // The name of a deleted context is no path.
    let named = named.into_iter().filter(|(address, _)| address.contains("://"));
    named.filter_map(|(address, first)| Some((address.parse().ok()?, first))).collect()
}
