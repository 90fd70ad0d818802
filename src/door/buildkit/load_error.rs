//! Why a load failed, as the build's client is told.

use tonic::{Code, Status};

use crate::engine::EngineError;
use crate::export::ExportError;
use crate::source::SourceError;

/// Why one exporter has no result.
pub(super) enum Failure {
    Export(ExportError),
    Final(Status),
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        Self::Export(error)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Final(status)
    }
}

/// The client's error. `Unknown` is the code of BuildKit's own export errors; buildx prints only the text.
pub(super) fn failure(error: &ExportError) -> Status {
    match (error, hint(error)) {
        (ExportError::Cancelled, _) => Status::cancelled(error.to_string()),
        (_, Some(hint)) => Status::unknown(format!("linkspan: {error}; hint: {hint}")),
        (_, None) => Status::unknown(format!("linkspan: {error}")),
    }
}

/// A hint for the user, which takes into account that the bytes come from a builder.
fn hint(error: &ExportError) -> Option<String> {
    match error {
        ExportError::Engine(EngineError::Corrupt { .. }) => {
            Some("build again; if it stays, the builder's cache is damaged: `docker buildx prune`".to_owned())
        }
        ExportError::Source(SourceError::Read { .. } | SourceError::Length { .. }) => {
            Some("build again; if it stays, look at the builder's log".to_owned())
        }
        _ => error.hint(),
    }
}

pub(super) fn prefixed(what: &str, status: &Status) -> Status {
    let code = if status.code() == Code::Ok { Code::Unknown } else { status.code() };
    Status::new(code, format!("linkspan: {what} failed: {}", status.message()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    #[test]
    fn what_is_damaged_is_the_builders() {
        let corrupt = EngineError::Corrupt { digest: Digest::sha256(b"x"), reason: "it is".to_owned() };
        let export = ExportError::from(corrupt.clone());
        assert!(failure(&export).message().contains("docker buildx prune"));
        assert_eq!((corrupt.hint(), export.hint()), (None, None), "others read from elsewhere");
    }
}
