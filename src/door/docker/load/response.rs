//! dockerd's response, with a line of ours if blobs were omitted, and our own responses.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use serde_json::json;

use super::omitted::Savings;
use crate::byte_size;

/// The body of a response to the client.
pub(super) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// The line about what was omitted, which comes before dockerd's. Clients print `stream` unchanged; those that need the
/// name of what was loaded look for lines that begin with `Loaded image` (docker-py `models/images.py`, buildx
/// `util/dockerutil/progress.go`).
pub(super) fn announcement(savings: Savings) -> Bytes {
    (json!({ "stream": format!("{}\n", describe(savings)) }).to_string() + "\r\n").into()
}

fn describe(Savings { blobs, bytes, .. }: Savings) -> String {
    let noun = if blobs == 1 { "blob" } else { "blobs" };
    format!("linkspan: left out {blobs} {noun} ({}) that the engine had already", byte_size::in_line(bytes))
}

/// Whether the client requests only the outcome. dockerd's default is that it does (moby
/// `daemon/server/router/image/image_routes.go`, `postImagesLoad`, and `httputils/form.go`, `BoolValueOrDefault`).
pub(super) fn is_quiet(query: Option<&str>) -> bool {
    let pairs = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let value = pairs.into_iter().find(|(key, _)| *key == "quiet").map(|(_, value)| value.trim().to_lowercase());
    value.is_none_or(|value| !matches!(value.as_str(), "" | "0" | "no" | "false" | "none"))
}

/// Whether the client requests certain platforms. dockerd then unpacks the images of those.
pub(super) fn names_platforms(query: Option<&str>) -> bool {
    let keys = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")).0);
    // Keys can be written in other ways than usual.
    keys.into_iter().any(|key| key == "platform" || key.contains('%'))
}

/// The response to an archive that cannot be loaded, in dockerd's form: a success with an error in its body (moby
/// `image_routes.go`, `postImagesLoad`).
pub(super) fn failure(message: &str) -> Response<Body> {
    complete(StatusCode::OK, error_line(message))
}

/// The line that marks a response as a failure.
pub(super) fn error_line(message: &str) -> String {
    let message = format!("linkspan: {message}");
    json!({ "errorDetail": { "message": message }, "error": message }).to_string() + "\r\n"
}

/// An error response in Docker's form, if nothing could be loaded.
pub(super) fn refusal(status: StatusCode, message: &str) -> Response<Body> {
    complete(status, json!({ "message": format!("linkspan: {message}") }).to_string() + "\n")
}

fn complete(status: StatusCode, text: String) -> Response<Body> {
    let mut response =
        Response::new(Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_is_read_as_docker_reads_it() {
        for query in ["quiet=0", "platform=x&quiet=false", "quiet=", "quiet", "quiet=No", "quiet=0&quiet=1"] {
            assert!(!is_quiet(Some(query)), "{query}");
        }
        for query in ["", "quiet=1", "quiet=true", "x=quiet", "quiet=anything"] {
            assert!(is_quiet(Some(query)), "{query}");
        }
        assert!(is_quiet(None));
    }
}
