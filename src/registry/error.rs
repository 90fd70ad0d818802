//! Why an image could not be copied from or to a registry.

use std::io;

use oci_client::errors::OciDistributionError;

use crate::net::with_causes;
use crate::source::{ReadGraphError, SourceError};

/// Why an image could not be copied from or to a registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// A request failed.
    #[error("{name}: {what} failed: {reason}")]
    Refused {
        /// The image.
        name: String,
        /// The operation.
        what: String,
        /// The registry's message.
        reason: String,
        /// Whether it requires a login.
        needs_login: bool,
        /// Whether it lacks the object.
        is_absent: bool,
    },
    /// Nothing could be asked: there is no connection.
    #[error("cannot connect to the registry {registry}: {reason}")]
    Unreachable {
        /// The registry.
        registry: String,
        /// The system's reason.
        reason: String,
        /// Whether nothing listens there.
        is_refused: bool,
    },
    /// The registry has no such image.
    #[error("the registry has no image {name}")]
    Absent {
        /// The image.
        name: String,
    },
    /// The object is no image, or the name is no name for a registry.
    #[error("{name}: {what}")]
    Invalid {
        /// The image.
        name: String,
        /// The reason.
        what: String,
    },
    /// docker's credentials cannot be read.
    #[error("the credentials for {registry} cannot be read: {reason}")]
    Credentials {
        /// The registry.
        registry: String,
        /// The reason.
        reason: String,
    },
    /// The name has no tag.
    #[error("an image in a registry needs a name with a tag")]
    NoName,
    /// The documents of the image cannot be read.
    #[error(transparent)]
    Graph(#[from] ReadGraphError),
    /// A blob of the image cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl RegistryError {
    pub(super) fn new(name: impl ToString, what: impl Into<String>, error: &OciDistributionError) -> Self {
        if let Some(cause) = connecting(error) {
            let name = name.to_string();
            let registry = name.split('/').next().unwrap_or_default().to_owned();
            let is_refused = cause.kind() == io::ErrorKind::ConnectionRefused;
            return Self::Unreachable { registry, reason: cause.to_string(), is_refused };
        }
        let needs_login = match error {
            OciDistributionError::AuthenticationFailure(_) | OciDistributionError::UnauthorizedError { .. } => true,
            OciDistributionError::ServerError { code, .. } => matches!(code, 401 | 403),
            OciDistributionError::RequestError(error) => {
                error.status().is_some_and(|status| matches!(status.as_u16(), 401 | 403))
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                use oci_client::errors::OciErrorCode::{Denied, Unauthorized};
                envelope.errors.iter().any(|error| matches!(error.code, Denied | Unauthorized))
            }
            _ => false,
        };
        let (name, what, reason) = (name.to_string(), what.into(), with_causes(error));
        Self::Refused { name, what, reason, needs_login, is_absent: is_absent(error) }
    }

    /// What a user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Refused { needs_login: true, .. } => "`docker login` to the registry, then try again",
            Self::Refused { reason, .. } if reason.contains("InvalidContentType") => {
                "the registry seems to speak plain HTTP: use --plain-http"
            }
            Self::Unreachable { registry, is_refused: true, .. } => {
                return Some(format!(
                    "nothing listens there: see that the registry runs, and that its port is right; {}",
                    match registry.contains(':') {
                        true => "`linkspan doctor` shows the registry doors of this machine",
                        false => "a name without a port means port 443, or 80 with --plain-http",
                    }
                ));
            }
            Self::Unreachable { .. } => "see that the registry's name is right, and that this machine reaches it",
            Self::Absent { .. } => "see that its name and tag are right, and that you may read it (`docker login`)",
            Self::Credentials { reason, .. } if reason.contains("did not answer within") => {
                "unlock what it waits for, and try again"
            }
            Self::Credentials { .. } => "mend that file, or log in again (`docker login`)",
            Self::NoName => "name it in full, as in `docker://registry.example/app:1`",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// The system's error, if a connection could not be made.
fn connecting(error: &OciDistributionError) -> Option<&io::Error> {
    let OciDistributionError::RequestError(request) = error else { return None };
    let causes = std::iter::successors(std::error::Error::source(request), |cause| cause.source());
    let cause = causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).last();
    cause.filter(|_| request.is_connect())
}

/// Whether a registry lacks a blob, manifest or repository (distribution-spec, "Error Codes").
pub(super) fn is_absent(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) | OciDistributionError::ServerError { code: 404, .. } => {
            true
        }
        OciDistributionError::RequestError(error) => error.status().is_some_and(|status| status.as_u16() == 404),
        OciDistributionError::RegistryError { envelope, .. } => {
            use oci_client::errors::OciErrorCode::{BlobUnknown, ManifestUnknown, NameUnknown, NotFound};
            let codes = [BlobUnknown, ManifestUnknown, NameUnknown, NotFound];
            envelope.errors.iter().any(|error| codes.contains(&error.code))
        }
        _ => false,
    }
}
