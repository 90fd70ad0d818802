//! One door, as it was found.

use super::builder::Answer;
use crate::config::BuilderEndpoint;
use crate::proxy::Address;
use crate::status::{Kind, Status};

/// A door, and what is behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Door {
    pub(super) kind: Kind,
    /// Where it listens, or would.
    pub(super) listen: Address,
    pub(super) state: State,
    /// The builder of a buildkit door.
    pub(super) builder: Option<Probed>,
    /// Whether a plain exporter counts as a load there.
    pub(super) plain_is_load: bool,
    pub(super) is_configured: bool,
}

impl Door {
    /// What the Linkspan says that has it open.
    pub(super) fn status(&self) -> Option<&Status> {
        match &self.state {
            State::Open(status) => Some(status),
            _ => None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.status().is_some()
    }
}

/// Who is at the address of a door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// A Linkspan, with that kind of door.
    Open(Box<Status>),
    /// A Linkspan, with another kind of door.
    Other(Kind),
    /// Another program.
    Taken,
    /// Nobody.
    Closed,
    /// It cannot be asked.
    Denied,
}

/// What was found of one builder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Probed {
    /// How it is reached.
    pub(super) address: String,
    /// The same as it is configured; `None` if only a running Linkspan names it.
    pub(super) endpoint: Option<BuilderEndpoint>,
    /// What it answered.
    pub(super) answer: Answer,
}
