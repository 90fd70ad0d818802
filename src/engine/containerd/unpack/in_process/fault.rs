//! Why a layer was not applied.

use std::io;

use rustix::io::Errno;

/// Why [`super::InProcessApplier`] did not apply a layer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The layer contains something that only containerd's own applier may judge, or the file system refused something.
    Unsupported(String),
    /// The disk is full.
    NoSpace(String),
    /// The result is no longer wanted.
    Cancelled,
}

impl Fault {
    pub(super) fn unsupported(reason: impl Into<String>) -> Self {
        Self::Unsupported(reason.into())
    }

    /// Says which entry it was.
    pub(super) fn at(self, name: &[u8]) -> Self {
        let named = |reason| format!("`{}`: {reason}", shown(name));
        match self {
            Self::Unsupported(reason) => Self::Unsupported(named(reason)),
            Self::NoSpace(reason) => Self::NoSpace(named(reason)),
            Self::Cancelled => Self::Cancelled,
        }
    }
}

impl From<Errno> for Fault {
    fn from(error: Errno) -> Self {
        match error {
            // In containerd's words.
            Errno::NOSPC => Self::NoSpace("no space left on device".to_owned()),
            Errno::DQUOT => Self::NoSpace("disk quota exceeded".to_owned()),
            _ => Self::Unsupported(error.to_string()),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Unsupported(error.to_string())
    }
}

/// A name as it is shown in messages.
pub(super) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned()
}
