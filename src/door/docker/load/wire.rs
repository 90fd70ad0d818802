//! Hop-by-hop facts of a message: those that concern only the connection that it is on.
//!
//! There are two connections here, each with its own version, lengths and ends. Hop-by-hop headers of one side are not
//! forwarded: hyper writes those of the other.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{Version, request, response};

/// Hop-by-hop headers, besides those that `Connection` names (RFC 9110, section 7.6.1).
const OF_THE_CONNECTION: [HeaderName; 7] = [
    CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];
/// Go's servers require a `Host` in HTTP/1.1; dockerd ignores its value.
const DOCKER: HeaderValue = HeaderValue::from_static("docker");

/// Converts a client's request into ours, with a chunked body. Returns whether the client waits for a `100 Continue`.
///
/// dockerd decides whether to send it, and may refuse the request without having read the archive.
pub(super) fn to_dockerd(head: &mut request::Parts) -> bool {
    forget_connection(&mut head.headers);
    head.headers.remove(CONTENT_LENGTH);
    let expects = head.headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if head.version < Version::HTTP_11 {
        if expects {
            // It has no meaning in HTTP/1.0 (RFC 9110, section 10.1.1).
            head.headers.remove(EXPECT);
        }
        head.headers.entry(HOST).or_insert(DOCKER);
        head.version = Version::HTTP_11;
        return false;
    }
    expects
}

/// Converts dockerd's response into ours. Its length stays valid unless the body is changed.
pub(super) fn to_client(head: &mut response::Parts) {
    forget_connection(&mut head.headers);
    // The client's connection has its own version, which hyper sets.
    head.version = Version::HTTP_11;
}

fn forget_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // `Connection` must not remove headers that decide how a body is read.
        .filter(|name| name != HOST && name != CONTENT_LENGTH)
        .collect();
    for name in OF_THE_CONNECTION.iter().chain(&named) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};

    use super::*;

    fn request(version: Version, headers: &[(&'static str, &'static str)]) -> request::Parts {
        let mut request = Request::post("/images/load").version(version).body(()).unwrap().into_parts().0;
        request.headers.extend(
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))),
        );
        request
    }

    #[test]
    fn a_request_of_the_older_version_becomes_one_of_the_newer() {
        let mut head = request(
            Version::HTTP_10,
            &[
                ("content-length", "5"),
                ("connection", "keep-alive, X-Mine"),
                ("x-mine", "1"),
                ("expect", "100-continue"),
            ],
        );
        assert!(!to_dockerd(&mut head));
        assert_eq!(head.version, Version::HTTP_11);
        let left: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(left, [("host", "docker")]);
    }

    #[test]
    fn expectations_are_for_dockerd_to_meet() {
        for (value, waits) in [("100-continue", true), ("100-CONTINUE", true), ("miracles", false)] {
            let mut head = request(Version::HTTP_11, &[("expect", value), ("host", "x")]);
            assert_eq!(to_dockerd(&mut head), waits, "{value}");
            assert_eq!((head.headers[EXPECT].to_str().unwrap(), head.headers.len()), (value, 2));
        }
    }

    #[test]
    fn a_response_keeps_the_headers_of_its_content() {
        let response = Response::builder().version(Version::HTTP_10).header("connection", "close");
        let response =
            response.header("transfer-encoding", "chunked").header("api-version", "1.51").header("content-length", "2");
        let mut head = response.body(()).unwrap().into_parts().0;
        to_client(&mut head);
        assert_eq!((head.version, head.headers.len()), (Version::HTTP_11, 2));
        assert_eq!(
            (&head.headers["api-version"], &head.headers["content-length"]),
            (&HeaderValue::from_static("1.51"), &HeaderValue::from_static("2"))
        );
    }
}
