//! The kinds of errors of engines.

use super::EngineError;

impl EngineError {
    /// All words of [`EngineError::kind`].
    pub const KINDS: [&str; 11] = [
        "unreachable",
        "timeout",
        "permission",
        "no_space",
        "missing_blobs",
        "image",
        "unpack",
        "lease_lost",
        "name_moved",
        "commit",
        "engine",
    ];

    /// Whether it is the doing of whoever exports: a blob is missing that it was to send, a name is not what it said, or the image is
    /// none for this engine.
    pub(crate) fn is_clients(&self) -> bool {
        match self {
            Self::Node { error, .. } => error.is_clients(),
            Self::Missing { .. } | Self::NameMoved { .. } | Self::Unsuitable { .. } => true,
            _ => false,
        }
    }

    /// One of few words, for whoever counts errors.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Node { error, .. } | Self::NamedOnSome { error, .. } => error.kind(),
            Self::Unreachable { .. } | Self::Stopped { .. } | Self::Daemon { is_lost: true, .. } => "unreachable",
            Self::Timeout { .. } | Self::NoAnswer { .. } => "timeout",
            Self::Permission { .. } => "permission",
            Self::NoSpace { .. } | Self::LayoutFull { .. } => "no_space",
            Self::Missing { .. } | Self::Vanished { .. } => "missing_blobs",
            Self::Corrupt { .. } | Self::Graph(_) => "image",
            Self::Unpack { .. } => "unpack",
            Self::LeaseLost { .. } => "lease_lost",
            Self::NameMoved { .. } => "name_moved",
            Self::Commit { .. } => "commit",
            _ => "engine",
        }
    }
}
