//! A door and its state.

use super::builder::BuilderProbe;
use crate::config::BuilderEndpoint;
use crate::net::Address;
use crate::status::{Kind, Status};

/// A door, with its builder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Door {
    pub(super) kind: Kind,
    /// Where it listens, or would listen.
    pub(super) listen: Address,
    pub(super) state: DoorState,
    /// The builder of a buildkit door.
    pub(super) builder: Option<Probed>,
    /// Whether it treats plain exporters as a load.
    pub(super) plain_is_load: bool,
    pub(super) is_configured: bool,
}

impl Door {
    /// The status of the Linkspan that has opened it.
    pub(super) fn status(&self) -> Option<&Status> {
        match &self.state {
            DoorState::Open(status) => Some(status),
            _ => None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.status().is_some()
    }
}

/// What was found at the address of a door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DoorState {
    /// A Linkspan, with this kind of door.
    Open(Box<Status>),
    /// A Linkspan, with another kind of door.
    Other(Kind),
    /// The registry door of a Linkspan, which says more only to its users.
    Reserved,
    /// Another program.
    Taken,
    /// A program that does not respond.
    Silent,
    /// A server with TLS, which may be a Linkspan.
    Tls,
    /// No listener.
    Closed,
    /// This process may not connect.
    Denied,
}

/// A builder that was probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Probed {
    /// Its address.
    pub(super) address: String,
    /// Its configured endpoint; `None` if only a running Linkspan names it.
    pub(super) endpoint: Option<BuilderEndpoint>,
    /// Its response.
    pub(super) probe: BuilderProbe,
}
