//! Why an export failed.

use std::time::Duration;

use crate::engine::EngineError;
use crate::image::{Digest, GraphError};
use crate::source::{ReadGraphError, SourceError};

/// Why an export failed. Nothing of it is visible, and its lease is released.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A document of the image is not what it should be.
    #[error("the image is invalid: {0}")]
    Graph(#[from] GraphError),
    /// The source failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Policy does not allow a name.
    #[error("the name `{name}` is not allowed here; allowed are: {}", shown(allowed))]
    NameDenied {
        /// The name in full.
        name: String,
        /// The patterns that are allowed.
        allowed: Vec<String>,
    },
    /// Policy does not let names move, and this one points to another image.
    #[error("the name `{name}` points to {current}, and names must not move here")]
    NameTaken {
        /// The name in full.
        name: String,
        /// What it points to.
        current: Digest,
    },
    /// Others were setting a name all the time.
    #[error("the name `{name}` has been in the hands of another export for {} s", waited.as_secs())]
    NameBusy {
        /// The name in full.
        name: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A name with a digest is to be set, and the image has another one.
    #[error("the name `{name}` is that of another image: this one is {root}")]
    NameDigest {
        /// The name in full.
        name: String,
        /// The image's digest.
        root: Digest,
    },
    /// The client went away, or the daemon is stopping.
    #[error("the export was cancelled")]
    Cancelled,
    /// The task that ran the export panicked: a defect in Linkspan.
    #[error("the export broke off: {0}")]
    Broken(String),
}

fn shown(allowed: &[String]) -> String {
    if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") }
}

impl From<ReadGraphError> for ExportError {
    fn from(error: ReadGraphError) -> Self {
        error.into_source().map_or_else(Self::Graph, Self::Source)
    }
}

impl ExportError {
    /// What a person can do about it, where there is something to say. What to do about a source only those know who
    /// chose it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Engine(error) => error.hint(),
            Self::NameBusy { .. } => Some("see with `linkspan ps` what sets it, and try again".to_owned()),
            Self::NameDigest { .. } => Some("leave the digest out of the name, or give the image's own".to_owned()),
            _ => None,
        }
    }

    /// The words of [`ExportError::kind`] that are not the engine's, and not of an export that was given up.
    pub const KINDS: [&str; 4] = ["image", "source", "policy", "internal"];

    /// The kind of the reason: one of few words, for whoever counts them.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Graph(_) => "image",
            Self::Source(_) => "source",
            Self::Engine(error) => error.kind(),
            Self::NameDenied { .. } | Self::NameTaken { .. } | Self::NameDigest { .. } => "policy",
            Self::NameBusy { .. } => "timeout",
            Self::Cancelled => "cancelled",
            Self::Broken(_) => "internal",
        }
    }

    /// Whether it is the client's doing: it gave up, asked for what it may not, or gave what is no image, or not all of one. Everything
    /// else is for whoever runs this to see.
    pub fn is_clients(&self) -> bool {
        match self {
            Self::Cancelled | Self::NameDenied { .. } | Self::NameTaken { .. } | Self::NameDigest { .. } => true,
            Self::Graph(_) => true,
            Self::Engine(error) => error.is_clients(),
            Self::Source(_) | Self::NameBusy { .. } | Self::Broken(_) => false,
        }
    }

    /// The name that it is about, if it is about one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::NameDenied { name, .. }
            | Self::NameTaken { name, .. }
            | Self::NameBusy { name, .. }
            | Self::NameDigest { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The blob that the source was expected to hold and does not, if that is the reason.
    pub fn absent(&self) -> Option<&Digest> {
        match self {
            Self::Source(SourceError::NotFound { digest, .. }) => Some(digest),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_see_what_is_no_clients_doing() {
        let name = || "docker.io/library/demo:1".to_owned();
        let operation = || "loading".to_owned();
        let digest = Digest::sha256(b"a");
        for error in [
            ExportError::Cancelled,
            ExportError::NameDenied { name: name(), allowed: Vec::new() },
            EngineError::NameMoved { name: name(), current: None }.into(),
            EngineError::Missing { digests: vec![digest.clone()] }.into(),
        ] {
            assert!(error.is_clients(), "{error}");
        }
        for error in [
            ExportError::NameBusy { name: name(), waited: Duration::ZERO },
            ExportError::Broken("a panic".to_owned()),
            EngineError::NoSpace { operation: operation(), message: "full".to_owned() }.into(),
            EngineError::Corrupt { digest, reason: "other bytes".to_owned() }.into(),
            EngineError::LeaseLost { lease: "l".to_owned() }.into(),
        ] {
            assert!(!error.is_clients(), "{error}");
        }
    }
}
