//! Parts of responses.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH};
use http::{Response, StatusCode};
use serde::Serialize;

use crate::http2::{Body, full};
use crate::image::Digest;

/// The digest of what a response has or names.
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A response without content.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// A response with a document.
pub(super) fn json(status: StatusCode, document: &impl Serialize) -> Response<Body> {
    // Documents of ours are strings, numbers and lists of them: writing those cannot fail.
    let bytes = serde_json::to_vec(document).unwrap_or_default();
    let length = bytes.len();
    let mut response = Response::new(full(bytes.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, length.into());
    response
}

/// Sets a header, if `value` can be the value of one: some come from documents that clients made.
pub(super) fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Sets what names the content by its digest.
pub(super) fn name_content(headers: &mut HeaderMap, digest: &Digest) {
    put(headers, CONTENT_DIGEST, digest.as_str());
    put(headers, ETAG, &format!("\"{digest}\""));
}

/// Whether the client says that it has the content with this digest (RFC 9110, section 13.1.2).
pub(super) fn is_known_to_client(headers: &HeaderMap, digest: &Digest) -> bool {
    let values = headers.get_all(IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).any(|tag| {
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        tag == "*" || tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')) == Some(digest.as_str())
    })
}

/// A response to a client that has the content.
pub(super) fn not_modified(digest: &Digest) -> Response<Body> {
    let mut response = empty(StatusCode::NOT_MODIFIED);
    name_content(response.headers_mut(), digest);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_tag_is_the_digest_in_quotes() {
        let digest = Digest::sha256(b"x");
        let other = Digest::sha256(b"y");
        for (value, expected) in [
            (format!("\"{digest}\""), true),
            (format!("W/\"{digest}\""), true),
            (format!("\"{other}\", \"{digest}\""), true),
            ("*".to_owned(), true),
            (digest.to_string(), false),
            (format!("\"{other}\""), false),
            (String::new(), false),
        ] {
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_str(&value).unwrap())]);
            assert_eq!(is_known_to_client(&headers, &digest), expected, "{value}");
        }
        assert!(!is_known_to_client(&HeaderMap::new(), &digest));
    }
}
