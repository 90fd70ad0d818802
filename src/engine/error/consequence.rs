//! What follows from an error for whoever exports: whether to try again, how, and what to say.

use super::EngineError;

impl EngineError {
    /// Whether a message of an engine says that its disk is full (the texts of `ENOSPC` and `EDQUOT`, errno(3)).
    pub(crate) fn is_no_space(message: &str) -> bool {
        ["no space left on device", "disk quota exceeded"].iter().any(|text| message.contains(text))
    }

    /// Whether a disk is full on which the engine stores images.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Node { error, .. } | Self::NamedOnSome { error, .. } | Self::NamesLeft { error, .. } => {
                error.is_full()
            }
            _ => matches!(self, Self::NoSpace { .. } | Self::LayoutFull { .. }),
        }
    }

    /// Why it failed, for messages that say already what was being done, and where.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Rpc { code, message, .. } => format!("{message} ({code:?})"),
            Self::Timeout { after, .. } => format!("no response within {} s", after.as_secs()),
            Self::Protocol { reason, .. } | Self::Layout { reason, .. } | Self::Corrupt { reason, .. } => {
                reason.clone()
            }
            error => error.to_string(),
        }
    }

    /// Whether another plan of the same export may succeed.
    pub fn is_outdated_plan(&self) -> bool {
        match self {
            Self::NamesLeft { error, .. } => error.is_outdated_plan(),
            _ => matches!(self, Self::Vanished { .. }),
        }
    }

    /// Whether dockerd responds, and the containerd that it uses cannot be used from here, or not be shown to be that one.
    pub(crate) fn is_containerd_out_of_reach(&self) -> bool {
        matches!(self, Self::NotProven { .. } | Self::Permission { engine: "containerd", .. })
    }

    /// Whether the engine went away (rather than refused), so that a new connection may succeed.
    pub fn is_disconnect(&self) -> bool {
        match self {
            Self::Node { error, .. } | Self::NamedOnSome { error, .. } | Self::NamesLeft { error, .. } => {
                error.is_disconnect()
            }
            _ => matches!(self, Self::Unreachable { .. } | Self::Daemon { is_lost: true, .. }),
        }
    }
}
