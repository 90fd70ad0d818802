//! Sends a user's existing builders through a docker door, and back.
//!
//! buildx pins a builder to the address that it was created with, and has no safe command to change it: `buildx rm
//! --keep-daemon` with `buildx create` needs every option again and loses the references of past builds, and `buildx create
//! --name NAME --node NODE ADDRESS` loses flags, platforms and configuration files if the address does not respond (seen with
//! 0.36.1: `store.Node.Copy` copies into empty slices). So this changes the one value in buildx's file, under buildx's lock.
//! Container, cache, options, history and the current builder stay.

mod door;
mod plugin;
mod record;

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;

use serde::Serialize;

use crate::buildx::{Instance, Instances, Store, StoreError, is_same_address};
use crate::net::{Address, AddressError, AtPath, Barrier, silent_remedy};

use record::Record;

pub use door::{Door, Doors};
pub use plugin::{PluginChange, PluginError, PluginFolders, install_plugin, remove_plugin};

/// A changed builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangedBuilder {
    /// The builder.
    pub builder: String,
    /// The nodes that were changed; empty if none had to be.
    pub moved: Vec<ChangedNode>,
}

/// A changed node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangedNode {
    /// The node.
    pub node: String,
    /// Its former endpoint.
    pub from: String,
    /// Its new endpoint.
    pub to: String,
}

/// Why a builder was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// buildx's files cannot be read or changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder of buildx is unknown.
    #[error("the folder of buildx is unknown: neither HOME, DOCKER_CONFIG nor BUILDX_CONFIG is set")]
    Homeless,
    /// The address of the door is invalid.
    #[error(transparent)]
    Door(AddressError),
    /// The builder is the engine's own.
    #[error("`{builder}` is the engine's own builder, which needs no door: what it builds is in the engine already")]
    BuiltIn {
        /// Its name, which is that of a docker context.
        builder: String,
    },
    /// The builder has another driver than docker-container.
    #[error("builder `{builder}` has the driver `{driver}`; only `docker-container` builders go through a docker door")]
    Driver {
        /// The builder.
        builder: String,
        /// Its driver.
        driver: String,
    },
    /// No node uses the engine behind the door.
    #[error("builder `{builder}` goes to {endpoints}, and the docker door leads to the engine at {engine}")]
    Elsewhere {
        /// The builder.
        builder: String,
        /// The endpoints of its nodes.
        endpoints: String,
        /// The engine behind the door.
        engine: String,
    },
    /// No node goes through the door.
    #[error("builder `{builder}` goes to {endpoints}, not through the docker door at {door}: there is nothing to undo")]
    NotThere {
        /// The builder.
        builder: String,
        /// The endpoints of its nodes.
        endpoints: String,
        /// The door.
        door: String,
    },
    /// No docker door listens at the address.
    #[error("what listens at {address} is no docker door: it {what}")]
    NoDoor {
        /// The address.
        address: String,
        /// What listens there.
        what: String,
    },
    /// What listens at the address says nothing.
    #[error("what listens at {address} accepts connections and does not answer: it is stopped or overloaded")]
    Silent {
        /// The address.
        address: String,
    },
    /// The door is closed, so that the builder could not be used.
    #[error("the docker door at {door} does not respond: {reason}{}", barrier(door, reason))]
    Closed {
        /// The door.
        door: String,
        /// The system's error.
        reason: io::Error,
    },
}

impl SetupError {
    /// What a user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Driver { builder, driver } if driver == "remote" => Some(format!(
                "run `linkspan serve --builder` with the address of `{builder}`, and create a remote builder at the \
                 door's address; `linkspan doctor` prints the commands"
            )),
            Self::Elsewhere { .. } => {
                Some("run this on the machine of that engine, or name the engine with --docker-host".to_owned())
            }
            Self::NoDoor { .. } => {
                Some("name the address of the docker door with --docker-listen; `linkspan doctor` shows it".to_owned())
            }
            Self::Silent { address } => Some(silent_remedy(address)),
            Self::Closed { reason, door } if reason.kind() == io::ErrorKind::PermissionDenied => {
                Some(Barrier::at(door).remedy())
            }
            Self::Closed { door, .. } => Some(format!(
                "open it first: linkspan serve --docker-listen {door}; or name the door that is open with --docker-listen"
            )),
            Self::BuiltIn { .. } => Some(
                "`docker buildx ls` shows the builders; those with the driver `docker-container` go through it"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// What keeps this user from a door, if that is it.
fn barrier(door: &str, reason: &io::Error) -> String {
    let is_denied = reason.kind() == io::ErrorKind::PermissionDenied;
    if is_denied { Barrier::at(door).to_string() } else { String::new() }
}

/// A builder that was sent through a door at which nobody listens now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranded {
    /// Its name.
    pub builder: String,
    /// The door.
    pub door: Address,
    /// Where it went before.
    pub to: String,
}

/// The builders that cannot be used because their door is closed, as far as this program has sent them there; and why others could
/// not be looked at.
pub fn stranded(store: &Store) -> (Vec<Stranded>, Vec<SetupError>) {
    let Instances { read, unread } = store.instances();
    let mut unread: Vec<_> = unread.into_iter().map(SetupError::from).collect();
    let mut found = Vec::new();
    let builders: Vec<_> = read.into_iter().filter(|builder| builder.driver == "docker-container").collect();
    if builders.is_empty() {
        return (found, unread);
    }
    let lock = match store.lock() {
        Ok(lock) => lock,
        Err(error) => {
            unread.push(error.into());
            return (found, unread);
        }
    };
    for builder in builders {
        let record = match Record::read(&lock, &builder.name) {
            Ok(record) => record,
            Err(error) => {
                unread.push(error.into());
                continue;
            }
        };
        let closed = builder.nodes.iter().find_map(|node| {
            let to = record.endpoint(&node.name)?;
            let door = store.address(&node.endpoint).parse::<Address>().ok()?;
            is_closed(&door).then(|| (door, to.to_owned()))
        });
        found.extend(closed.map(|(door, to)| Stranded { builder: builder.name.clone(), door, to }));
    }
    (found, unread)
}

/// Whether nobody listens at a unix socket, or there is none.
fn is_closed(door: &Address) -> bool {
    let Address::Unix(path) = door else { return false };
    // A client follows links, too.
    match fs::canonicalize(path).and_then(|path| AtPath::observe(&path)) {
        Ok(found) => found != AtPath::Listener,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// The builder `name`. One that buildx has no file of may be the engine's own, which is called like the docker context.
///
/// # Errors
/// When there is none, or its file cannot be read.
pub fn existing(store: &Store, name: &str) -> Result<Instance, SetupError> {
    store.instance(name).map_err(|error| {
        let is_context = name == "default" || store.contexts().iter().any(|context| context.name == name);
        match error {
            StoreError::Unknown { .. } if is_context => SetupError::BuiltIn { builder: name.to_owned() },
            error => error.into(),
        }
    })
}

/// Sends the nodes of the builder `name` that go to `engine` through the docker door at `door`.
///
/// # Errors
/// When the builder cannot be changed; it then stays as it was.
pub fn through(store: &Store, name: &str, door: &Address, engine: &str) -> Result<ChangedBuilder, SetupError> {
    // Checked before the lock file is created, so that nothing is left where there are no builders.
    container_builder(existing(store, name)?)?;
    let to = door.to_string();
    if let Address::Unix(path) = door {
        UnixStream::connect(path).map_err(|reason| SetupError::Closed { door: to.clone(), reason })?;
    }
    let lock = store.lock()?;
    let builder = container_builder(lock.instance(name)?)?;
    let mut record = Record::read(&lock, &builder.name)?;
    let mut done = ChangedBuilder { builder: builder.name.clone(), moved: Vec::new() };
    let mut is_there = false;
    for node in &builder.nodes {
        let address = store.address(&node.endpoint);
        if is_same_address(&address, &to) {
            is_there = true;
        } else if is_same_address(&address, engine) {
            // Recorded before the change, so that it can always be undone.
            record.remember(&node.name, &node.endpoint)?;
            lock.pin(&builder.name, &node.name, &to)?;
            done.moved.push(ChangedNode { node: node.name.clone(), from: node.endpoint.clone(), to: to.clone() });
        }
    }
    if done.moved.is_empty() && !is_there {
        let endpoints = endpoints(&builder);
        return Err(SetupError::Elsewhere { builder: builder.name, endpoints, engine: engine.to_owned() });
    }
    Ok(done)
}

/// Sends the nodes of the builder `name` that go through the door at `door` back to their former endpoints; without a record,
/// to `engine`, the engine behind the door.
///
/// # Errors
/// When the builder cannot be changed; it then stays as it was.
pub fn back(store: &Store, name: &str, door: &Address, engine: &str) -> Result<ChangedBuilder, SetupError> {
    container_builder(existing(store, name)?)?;
    let from = door.to_string();
    let lock = store.lock()?;
    let builder = container_builder(lock.instance(name)?)?;
    let record = Record::read(&lock, &builder.name)?;
    let mut done = ChangedBuilder { builder: builder.name.clone(), moved: Vec::new() };
    for node in builder.nodes.iter().filter(|node| is_same_address(&store.address(&node.endpoint), &from)) {
        let to = record.endpoint(&node.name).unwrap_or(engine).to_owned();
        lock.pin(&builder.name, &node.name, &to)?;
        done.moved.push(ChangedNode { node: node.name.clone(), from: node.endpoint.clone(), to });
    }
    if done.moved.is_empty() {
        let endpoints = endpoints(&builder);
        return Err(SetupError::NotThere { builder: builder.name, endpoints, door: from });
    }
    // Keep records of nodes that go through another door; drop those of nodes that no longer exist.
    let goes_on = |name: &str| {
        let is_moved = done.moved.iter().any(|moved| moved.node == name);
        !is_moved && builder.nodes.iter().any(|node| node.name == name)
    };
    record.forget(|node| !goes_on(node))?;
    Ok(done)
}

fn container_builder(builder: Instance) -> Result<Instance, SetupError> {
    if builder.driver != "docker-container" {
        return Err(SetupError::Driver { builder: builder.name, driver: builder.driver });
    }
    Ok(builder)
}

fn endpoints(builder: &Instance) -> String {
    let endpoints: Vec<_> = builder.nodes.iter().map(|node| node.endpoint.as_str()).collect();
    if endpoints.is_empty() { "no endpoint".to_owned() } else { endpoints.join(", ") }
}

#[cfg(test)]
mod tests;
