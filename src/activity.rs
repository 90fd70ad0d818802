//! What happens in this process, for whoever counts it.
//!
//! Doors and exports tell it, and know nothing of who listens. Names, digests and clients are not part of it: each value has
//! few kinds, however much happens.

use std::time::Duration;

use crate::progress::{Listeners, State};

/// The listeners of a process.
pub type Activities = Listeners<Activity>;

/// Something that has happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Activity {
    /// Blobs of exports were found in the engine, came into it, or were taken over from another of its namespaces.
    Blobs {
        /// Through which door.
        door: &'static str,
        /// How they came.
        how: Arrival,
        /// How many.
        blobs: u64,
        /// Their bytes, or as many of them as came; of an image that was complete they are not known, and 0.
        bytes: u64,
    },
    /// An export has left a state.
    StateLeft {
        /// Which one.
        state: State,
        /// How long it lasted.
        after: Duration,
    },
    /// An export has ended.
    Ended(EndedExport),
    /// A builder's session has ended here, so that some of its calls are handled and the others passed on.
    SessionSplit,
    /// A client's request or connection was refused. An export that was refused after it had begun has [`Ended`](Self::Ended).
    Refused {
        /// By which door.
        door: &'static str,
        /// Why.
        reason: Refused,
    },
    /// A build has asked for a cache.
    CacheLookup {
        /// Whether there was one.
        is_hit: bool,
    },
    /// The registry door has responded.
    RegistryRequest {
        /// The method, or `other`.
        method: &'static str,
        /// What kind of thing was requested.
        route: &'static str,
        /// The status.
        status: u16,
    },
    /// A client has connected.
    Connected {
        /// To which listener.
        door: &'static str,
    },
    /// A client's connection has ended.
    Disconnected {
        /// To which listener.
        door: &'static str,
    },
}

/// Why a client was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refused {
    /// No connection with TLS was made: it has no certificate that is trusted, or speaks something else.
    Tls,
    /// It is not known who it is: it gave no password, or a wrong one.
    Unauthenticated,
    /// What it asked for is not allowed to it, or not here.
    Policy,
    /// What it sent is malformed.
    Input,
    /// There is too much of something.
    Limit,
}

impl Refused {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Unauthenticated => "auth",
            Self::Policy => "policy",
            Self::Input => "input",
            Self::Limit => "limit",
        }
    }
}

/// How a blob came into the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arrival {
    /// It was there.
    Present,
    /// It was taken over from another namespace of the engine.
    Adopted,
    /// It was sent.
    Sent,
}

impl Arrival {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Adopted => "adopted",
            Self::Sent => "sent",
        }
    }
}

/// An export that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct EndedExport {
    /// The door that it came through.
    pub door: &'static str,
    /// The kind of the engine.
    pub engine: &'static str,
    /// How it ended.
    pub end: ExportEnd,
    /// How long it took.
    pub after: Duration,
}

/// dockerd refused what it was sent, or its load was not completed.
pub const DOCKER_FAILED: &str = "docker";
/// An archive or a folder could not be made of an image.
pub const OUTPUT_FAILED: &str = "output";

/// How an export ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportEnd {
    /// The image is visible.
    Exported,
    /// It was there, complete and named, and nothing was done.
    Unchanged,
    /// Its client gave it up.
    Cancelled,
    /// It failed, for this kind of reason.
    Failed(&'static str),
}

impl ExportEnd {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exported => "exported",
            Self::Unchanged => "unchanged",
            Self::Cancelled => "cancelled",
            Self::Failed(_) => "failed",
        }
    }
}
