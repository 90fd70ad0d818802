//! What a daemon's refusals mean.

use std::error::Error;
use std::io;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::door::export_api::proto;
use crate::engine::EngineError;
use crate::image::Digest;

/// The `domain` of the API's refusals.
const DOMAIN: &str = "linkspan.export.v1";
/// What stands between a message and what to do about it, where a Linkspan says both.
const REMEDY: &str = "; to mend it: ";
/// What to do about an export that ended, or a daemon that went away.
const AGAIN: &str = "run the command again: what the daemon has taken in is not sent again";

/// Nobody answers.
pub(super) fn unreachable(address: &str, reason: &str) -> EngineError {
    let hint = format!("see that `linkspan serve --export-listen {address}` runs, and that you may use its socket");
    EngineError::Daemon {
        message: format!("the exporter API at {address}: {reason}"),
        hint: Some(hint),
        is_lost: false,
    }
}

/// The address is on another machine.
pub(super) fn elsewhere(address: &str) -> EngineError {
    EngineError::Daemon {
        message: format!("the exporter API at {address} is on another machine, and it has no TLS"),
        hint: Some(
            "forward its socket, for instance with `ssh -L /tmp/export.sock:/run/linkspan/export.sock HOST`".into(),
        ),
        is_lost: false,
    }
}

/// What a status of the daemon at `address` means.
pub(super) fn of(address: &str, operation: &str, status: &Status) -> EngineError {
    // Only a status made on this side has a source: the connection could not be made or broke.
    if let Some(source) = status.source() {
        return EngineError::Daemon {
            message: format!("{operation}: the daemon at {address} went away: {}", innermost(source)),
            hint: Some(format!("see that it runs, and {AGAIN}")),
            is_lost: true,
        };
    }
    let details = status.get_error_details();
    let violations = details.bad_request().map(|it| &it.field_violations[..]).unwrap_or_default();
    let violations = violations.iter().map(|it| (it.field.as_str(), it.description.as_str()));
    match details.error_info().filter(|info| info.domain == DOMAIN) {
        Some(info) => refused(&info.reason, status.message(), violations),
        None if status.code() == Code::Unimplemented => {
            unreachable(address, &format!("no such API is served there ({})", status.message()))
        }
        None => EngineError::Rpc {
            operation: operation.to_owned(),
            code: status.code(),
            message: status.message().to_owned(),
        },
    }
}

/// What the failure of an exporter means.
pub(super) fn of_result(error: &proto::Error) -> EngineError {
    let reason = error.reason().as_str_name().trim_start_matches("REASON_");
    let violations = error.violations.iter().map(|it| (it.field.as_str(), it.description.as_str()));
    refused(reason, &error.message, violations)
}

fn refused<'a>(reason: &str, message: &str, violations: impl Iterator<Item = (&'a str, &'a str)>) -> EngineError {
    let mut digests = violations.filter_map(|(field, what)| Some((field.parse::<Digest>().ok()?, what)));
    match reason {
        "BLOB_CORRUPT" => {
            if let Some((digest, what)) = digests.next() {
                return EngineError::Corrupt { digest, reason: what.to_owned() };
            }
        }
        "BLOBS_MISSING" => {
            let digests: Vec<_> = digests.map(|(digest, _)| digest).collect();
            if !digests.is_empty() {
                return EngineError::Missing { digests };
            }
        }
        _ => {}
    }
    let (message, hint) = match message.split_once(REMEDY) {
        Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
        None => (message.to_owned(), None),
    };
    let is_over = matches!(reason, "EXPORT_NOT_FOUND" | "EXPORT_EXPIRED" | "EXPORT_ABORTED" | "STOPPING");
    EngineError::Daemon {
        message,
        hint: hint.or_else(|| is_over.then(|| AGAIN.to_owned())),
        is_lost: reason == "STOPPING",
    }
}

/// The last cause of an error: what the system said.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    // A stream that was cut has a source without words of its own.
    match cause.downcast_ref::<io::Error>() {
        Some(error) if error.to_string().is_empty() => error.kind().to_string(),
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    fn status(reason: &str, message: &str, digests: &[&Digest]) -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, std::collections::HashMap::new());
        for digest in digests {
            details.add_bad_request_violation(digest.to_string(), "wrong");
        }
        Status::with_error_details(Code::FailedPrecondition, message, details)
    }

    #[test]
    fn blobs_are_named_as_by_an_engine() {
        let (one, other) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        let missing = of("unix:///x", "committing", &status("BLOBS_MISSING", "", &[&one, &other]));
        assert!(matches!(&missing, EngineError::Missing { digests } if *digests == [one.clone(), other]), "{missing}");
        let corrupt = of("unix:///x", "writing", &status("BLOB_CORRUPT", "", &[&one]));
        assert!(matches!(&corrupt, EngineError::Corrupt { digest, .. } if *digest == one), "{corrupt}");
    }

    #[test]
    fn the_daemons_words_and_its_remedy_are_told_apart() {
        let error = of("unix:///x", "committing", &status("NO_SPACE", "it is full; to mend it: make room", &[]));
        assert_eq!((error.to_string().as_str(), error.hint().as_deref()), ("it is full", Some("make room")));
        let expired = of("unix:///x", "writing", &status("EXPORT_EXPIRED", "it has expired", &[]));
        assert!(expired.hint().unwrap().contains("again"), "{expired}");
    }

    #[test]
    fn containerds_codes_stay_what_they_are() {
        let error = of("unix:///x", "writing", &Status::already_exists("content: already exists"));
        assert!(matches!(error, EngineError::Rpc { code: Code::AlreadyExists, .. }), "{error}");
    }

    #[test]
    fn a_broken_connection_is_not_a_refusal() {
        let broken = Status::from_error(Box::new(io::Error::from(io::ErrorKind::BrokenPipe)));
        let error = of("unix:///x", "writing a blob", &broken);
        assert!(error.is_disconnect() && error.hint().unwrap().contains("again"), "{error}");
    }
}
