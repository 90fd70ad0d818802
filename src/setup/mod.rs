//! Sends a user's existing builders through a door, and back.
//!
//! buildx pins a builder to an address when it is created. To change that, `buildx rm --keep-daemon` and `buildx create`
//! do, if every option is given again; `buildx create --name NAME --node NODE ADDRESS` changes a builder in place, but
//! forgets its flags, platforms and configuration files when the address does not answer at that moment (seen with 0.36.1:
//! `store.Node.Copy` copies into empty slices), adds its defaults, and the first forgets the references of past builds.
//! So the one value is changed where buildx keeps it, under buildx's lock. Container, cache, options, history and the
//! choice of the current builder stay.

mod door;
mod record;

use std::io;
use std::os::unix::net::UnixStream;

use serde::Serialize;

use crate::buildx::{Instance, Store, StoreError, is_same_address};
use crate::net::{Address, AddressError};

use record::Record;

pub use door::{Door, Doors};

/// What was done to a builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Done {
    /// The builder.
    pub builder: String,
    /// The nodes that go another way now; empty if all went there already.
    pub moved: Vec<Move>,
}

/// A node that goes another way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    /// The node.
    pub node: String,
    /// The endpoint that it had.
    pub from: String,
    /// The endpoint that it has.
    pub to: String,
}

/// Why a builder was left alone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// buildx's files cannot be read or changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is unknown where they are.
    #[error("it is not known where buildx keeps its builders: neither HOME, DOCKER_CONFIG nor BUILDX_CONFIG is set")]
    Homeless,
    /// The door's address is none.
    #[error(transparent)]
    Door(AddressError),
    /// Only builders of the docker-container driver are reached through an engine.
    #[error("builder `{builder}` has the driver `{driver}`; only `docker-container` builders go through a docker door")]
    Driver {
        /// The builder.
        builder: String,
        /// Its driver.
        driver: String,
    },
    /// No node leads to the engine of the door.
    #[error("builder `{builder}` goes to {endpoints}, and the docker door leads to the engine at {engine}")]
    Elsewhere {
        /// The builder.
        builder: String,
        /// Where its nodes go.
        endpoints: String,
        /// The engine behind the door.
        engine: String,
    },
    /// No node goes through the door, so that none can be sent back.
    #[error("builder `{builder}` goes to {endpoints}, not through the docker door at {door}: there is nothing to undo")]
    NotThere {
        /// The builder.
        builder: String,
        /// Where its nodes go.
        endpoints: String,
        /// The door.
        door: String,
    },
    /// Something else is where the door is said to be.
    #[error("what listens at {address} is no docker door: it {what}")]
    NoDoor {
        /// The address.
        address: String,
        /// What is there.
        what: String,
    },
    /// A builder that is sent to a closed door cannot be used.
    #[error("the docker door at {door} does not answer: {reason}")]
    Closed {
        /// The door.
        door: String,
        /// What the system says.
        reason: io::Error,
    },
}

impl SetupError {
    /// What a person can do about it, where there is something to say.
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
                Some("say where the docker door listens with --docker-listen; `linkspan doctor` shows it".to_owned())
            }
            Self::Closed { reason, .. } if reason.kind() == io::ErrorKind::PermissionDenied => {
                Some("run this as root, or as a member of the socket's group".to_owned())
            }
            Self::Closed { door, .. } => Some(format!("open it first: linkspan serve --docker-listen {door}")),
            _ => None,
        }
    }
}

/// Sends the nodes of the builder `name` that go to `engine` through the docker door at `door`.
///
/// # Errors
/// When nothing can be changed; the builder is then as it was.
pub fn through(store: &Store, name: &str, door: &Address, engine: &str) -> Result<Done, SetupError> {
    // Looked for before the lock is made: where there are no builders, nothing is left.
    container_builder(store.instance(name)?)?;
    let to = door.to_string();
    if let Address::Unix(path) = door {
        UnixStream::connect(path).map_err(|reason| SetupError::Closed { door: to.clone(), reason })?;
    }
    let lock = store.lock()?;
    let builder = container_builder(lock.instance(name)?)?;
    let mut record = Record::read(&lock, &builder.name)?;
    let mut done = Done { builder: builder.name.clone(), moved: Vec::new() };
    let mut is_there = false;
    for node in &builder.nodes {
        let address = store.address(&node.endpoint);
        if is_same_address(&address, &to) {
            is_there = true;
        } else if is_same_address(&address, engine) {
            // Remembered first: whatever happens, there is a way back.
            record.remember(&node.name, &node.endpoint)?;
            lock.pin(&builder.name, &node.name, &to)?;
            done.moved.push(Move { node: node.name.clone(), from: node.endpoint.clone(), to: to.clone() });
        }
    }
    if done.moved.is_empty() && !is_there {
        let endpoints = endpoints(&builder);
        return Err(SetupError::Elsewhere { builder: builder.name, endpoints, engine: engine.to_owned() });
    }
    Ok(done)
}

/// Sends the nodes of the builder `name` that go through the door at `door` back to where they went before; where that
/// is not known, to `engine`, which is where the door leads.
///
/// # Errors
/// When nothing can be changed; the builder is then as it was.
pub fn back(store: &Store, name: &str, door: &Address, engine: &str) -> Result<Done, SetupError> {
    container_builder(store.instance(name)?)?;
    let from = door.to_string();
    let lock = store.lock()?;
    let builder = container_builder(lock.instance(name)?)?;
    let record = Record::read(&lock, &builder.name)?;
    let mut done = Done { builder: builder.name.clone(), moved: Vec::new() };
    for node in builder.nodes.iter().filter(|node| is_same_address(&store.address(&node.endpoint), &from)) {
        let to = record.endpoint(&node.name).unwrap_or(engine).to_owned();
        lock.pin(&builder.name, &node.name, &to)?;
        done.moved.push(Move { node: node.name.clone(), from: node.endpoint.clone(), to });
    }
    if done.moved.is_empty() {
        let endpoints = endpoints(&builder);
        return Err(SetupError::NotThere { builder: builder.name, endpoints, door: from });
    }
    // Another node may go through another door. One that the builder lacks goes nowhere.
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
