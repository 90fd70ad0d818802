//! What was found, before it is judged.

use std::path::PathBuf;

use super::builder::Answer;
use super::inflate::Inflate;
use super::users::Users;
use crate::config::Place;
use crate::engine::doctor::Findings;
use crate::proxy::Address;
use crate::status::{Kind, Status};

/// All that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) engine: Findings,
    /// The running Linkspan whose engine was looked at, if it was one's.
    pub(super) told: Option<Told>,
    /// Where containerd was said to be.
    pub(super) containerd_address: Option<PathBuf>,
    pub(super) inflate: Option<Inflate>,
    /// The doors that are configured, and those that are open besides.
    pub(super) doors: Vec<Door>,
    /// Addresses that are configured as those of an engine or a builder, and are doors.
    pub(super) chained: Vec<Chained>,
    pub(super) users: Users,
}

/// A running Linkspan that is the basis of the judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) status: Status,
    /// Whether the engine that was looked at is the one that it names.
    pub(super) is_basis: bool,
}

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
    pub(super) place: Option<Place>,
    /// What it answered.
    pub(super) answer: Answer,
}

/// An address that is configured as that of an engine or a builder, and is a door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chained {
    /// `engine` or `builder`.
    pub(super) about: &'static str,
    /// The address.
    pub(super) address: String,
    /// The kind of the door there.
    pub(super) kind: Kind,
    /// Where the door leads.
    pub(super) leads: String,
}
