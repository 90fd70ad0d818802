//! The facts that the report is made of.

use std::path::PathBuf;

use super::door::Door;
use super::inflate::Inflate;
use super::report::BuildCaches;
use super::users::Users;
use crate::engine::doctor::Findings;
use crate::net::Address;
use crate::status::{Kind, Status};

/// All facts.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) engine: Findings,
    /// The running Linkspan that the report is about.
    pub(super) subject: Option<RunningLinkspan>,
    /// The configured address of containerd.
    pub(super) containerd_address: Option<PathBuf>,
    pub(super) inflate: Option<Inflate>,
    /// The doors that are configured, and other open ones.
    pub(super) doors: Vec<Door>,
    /// Addresses that are configured as an engine's or a builder's, and are doors.
    pub(super) chained: Vec<Chained>,
    /// Where metrics are to be served.
    pub(super) metrics: Option<Address>,
    pub(super) users: Users,
    /// The build caches in the engine.
    pub(super) caches: Option<BuildCaches>,
}

/// The running Linkspan that the report is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunningLinkspan {
    pub(super) status: Status,
    /// Whether its engine is the one that was examined.
    pub(super) is_basis: bool,
}

/// An address that is configured as an engine's or a builder's, and is a door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chained {
    /// `engine` or `builder`.
    pub(super) about: &'static str,
    /// The address.
    pub(super) address: String,
    /// The kind of the door there.
    pub(super) kind: Kind,
    /// The address behind the door.
    pub(super) leads: String,
}
