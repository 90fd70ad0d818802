//! What failed calls of a daemon mean.

use std::error::Error;
use std::io;
use std::time::Duration;

use tonic::{Code, Status};

use crate::engine::EngineError;
use crate::engine::api_error::AGAIN;
use crate::export_v1::ApiError;
use crate::net::SshAddress;

/// The daemon cannot be reached.
pub(super) fn unreachable(address: &str, reason: &str) -> EngineError {
    let runs = || format!("see that `linkspan serve --export-listen {address}` runs, and that you may use its socket");
    let hint = of_tls(reason).map_or_else(runs, str::to_owned);
    EngineError::Daemon {
        message: format!("the exporter API at {address}: {reason}"),
        hint: Some(hint),
        is_lost: false,
    }
}

/// What to do about TLS, if it is this that `reason` is about: the texts of rustls, of our own connecting and of our own reading
/// of files.
fn of_tls(reason: &str) -> Option<&'static str> {
    let says = |words: &[&str]| words.iter().any(|words| reason.contains(words));
    if says(&["no TLS is spoken there", "at the beginning of TLS"]) {
        return Some(
            "leave out --tls-ca and the other flags of TLS (and LINKSPAN_TO_TLS_…) if the daemon has none: on loopback it has \
             TLS only with --listen-tls-loopback; and see that the port is right",
        );
    }
    if says(&["UnknownIssuer", "BadSignature"]) {
        return Some(
            "its certificate is of another authority: name the one that signed it with --tls-ca, such as the `ca.crt` of its \
             --listen-tls-dir",
        );
    }
    if says(&["not valid for name", "NotValidForName"]) {
        return Some(
            "its certificate is for other names than its address; --tls-server-name says which of them is meant",
        );
    }
    if says(&["invalid peer certificate"]) {
        return Some("it needs a certificate that holds now; see that the clocks of both machines are right");
    }
    if says(&["received fatal alert"]) {
        return Some("show a certificate of the authority that the daemon trusts, with --tls-cert and --tls-key");
    }
    if says(&["certificate authority ", "client certificate ", "client key ", "TLS for "]) {
        return Some("--tls-ca, --tls-cert and --tls-key (LINKSPAN_TO_TLS_CA, …_CERT, …_KEY) name PEM files");
    }
    None
}

/// The address is on another machine.
pub(super) fn elsewhere(address: &str) -> EngineError {
    EngineError::Daemon {
        message: format!("the exporter API at {address} is on another machine, and needs TLS"),
        hint: Some(
            "name its authority with --tls-ca (LINKSPAN_TO_TLS_CA), and your certificate with --tls-cert and --tls-key; or \
             go by ssh, with --to ssh://USER@HOST"
                .into(),
        ),
        is_lost: false,
    }
}

/// What it means that the first call over ssh failed with `status`, and ssh with `said`; `None` if the status is the daemon's
/// response.
pub(super) fn over_ssh(address: &SshAddress, said: Option<String>, status: &Status) -> Option<EngineError> {
    let source = status.source()?;
    let reason = words(&address.explained("linkspan", &said.unwrap_or_else(|| innermost(source))));
    Some(EngineError::Daemon {
        message: format!("the exporter API at {address}: {reason}"),
        hint: Some(address.hint("linkspan", &reason)),
        is_lost: false,
    })
}

/// The first call over ssh had no response: it may not have come as far as the daemon.
pub(super) fn silent(address: &SshAddress, after: Duration) -> EngineError {
    let reason = format!("no response within {} s", after.as_secs());
    EngineError::Daemon {
        message: format!("the exporter API at {address}: {reason}"),
        hint: Some(address.hint("linkspan", &reason)),
        is_lost: false,
    }
}

/// There was no response to a call on a connection that holds.
pub(super) fn late(address: &str, ssh: Option<&SshAddress>, operation: &str, after: Duration) -> EngineError {
    let reason = format!("no response within {} s", after.as_secs());
    EngineError::Daemon {
        message: format!("{operation}: {reason} from the daemon at {address}"),
        hint: Some(lost_hint(ssh, &reason)),
        is_lost: false,
    }
}

/// What to do when a daemon does not respond any more.
fn lost_hint(ssh: Option<&SshAddress>, reason: &str) -> String {
    let see = match ssh {
        Some(address) => address.hint_when_lost("linkspan", reason),
        None if reason.contains("no response within") => {
            "look at its log: it stands still, or has too much to do".to_owned()
        }
        None => "see that it runs".to_owned(),
    };
    format!("{see}, and {AGAIN}")
}

/// Without what the program on another host advises, for that is for who is there.
fn words(reason: &str) -> String {
    reason.split("; linkspan: hint: ").next().unwrap_or_default().replace("linkspan: error: ", "")
}

/// Whether a call ended because the connection could not be made or broke: only a status made on this side has a source.
pub(super) fn is_broken(status: &Status) -> bool {
    status.source().is_some()
}

/// What a status of the daemon at `address` means; `said` is what ended the connection, if a program said so.
pub(super) fn of(
    (address, ssh): (&str, Option<&SshAddress>),
    operation: &str,
    said: Option<String>,
    status: &Status,
) -> EngineError {
    if let Some(source) = status.source() {
        let reason = words(&said.unwrap_or_else(|| innermost(source)));
        return EngineError::Daemon {
            // What TLS says of a client's certificate comes after the connection is made.
            hint: Some(of_tls(&reason).map_or_else(|| lost_hint(ssh, &reason), str::to_owned)),
            message: format!("{operation}: the daemon at {address} went away: {reason}"),
            is_lost: true,
        };
    }
    match ApiError::from_status(status) {
        Some(error) => error.into(),
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
    use super::*;

    #[test]
    fn containerds_codes_stay_what_they_are() {
        let error = of(("unix:///x", None), "writing", None, &Status::already_exists("content: already exists"));
        assert!(matches!(error, EngineError::Rpc { code: Code::AlreadyExists, .. }), "{error}");
    }

    #[test]
    fn a_broken_connection_is_no_error_of_the_api() {
        let broken = Status::from_error(Box::new(io::Error::from(io::ErrorKind::BrokenPipe)));
        let error = of(("unix:///x", None), "writing a blob", None, &broken);
        assert!(error.is_disconnect() && error.hint().unwrap().contains("again"), "{error}");
    }
}
