//! What was found, before it is judged.

use std::path::PathBuf;

use super::door::Door;
use super::inflate::Inflate;
use super::users::Users;
use crate::engine::doctor::Findings;
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
