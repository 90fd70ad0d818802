//! The path of a request, decoded as dockerd decodes it.

use std::borrow::Cow;

/// The path of a request and its query.
///
/// dockerd's router (gorilla/mux, with its defaults) matches the path that Go's `net/url` has decoded, so that
/// `/images/%6coad` and `/v1.47%2fimages/load` are `/images/load`. A path that is not clean (`//`, `/./`, `/../`)
/// matches no route: the response is a redirection to the clean one, which is another request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    version: Option<String>,
    path: String,
    query: String,
}

impl Target {
    /// Parses path and query as they are on the wire.
    pub(super) fn of(target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = decoded(path);
        let (version, path) = split_version(&path);
        Self { version: version.map(str::to_owned), path: path.to_owned(), query: query.to_owned() }
    }

    /// The API version at the start of its path, such as `1.47`.
    pub(super) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The segments of its path, without the version. The first is empty.
    pub(super) fn parts(&self) -> Vec<&str> {
        self.path.split('/').collect()
    }

    /// Its path as one string.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Its query, as it is written.
    pub(super) fn query(&self) -> &str {
        &self.query
    }
}

/// Decodes `path` as Go's `url.PathUnescape` does. A path that it refuses, as dockerd then does, stays as it is; so do
/// bytes that are not UTF-8, because no route contains any.
fn decoded(path: &str) -> Cow<'_, str> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |at: usize| char::from(*behind.get(at)?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Cow::Borrowed(path) };
        bytes.push(high << 4 | low);
        rest = &behind[2..];
    }
    match String::from_utf8(bytes) {
        Ok(text) => Cow::Owned(text),
        Err(_) => Cow::Borrowed(path),
    }
}

/// moby `daemon/server/server.go` routes `/v{version:[0-9.]+}` and the path without it alike.
fn split_version(path: &str) -> (Option<&str>, &str) {
    let Some((version, rest)) = path.strip_prefix("/v").and_then(|rest| Some(rest.split_at(rest.find('/')?))) else {
        return (None, path);
    };
    let is_version = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_version { (Some(version), rest) } else { (None, path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_left_out() {
        for (target, expected) in [
            ("/v1.55/images/load?quiet=1", "/images/load"),
            ("/images/load", "/images/load"),
            ("/v1/info", "/info"),
            ("/v1.55", "/v1.55"),
            ("/version", "/version"),
            ("/v/info", "/v/info"),
            ("/v1.x/info", "/v1.x/info"),
            ("/volumes/v1.55/x", "/volumes/v1.55/x"),
            ("*", "*"),
            ("?x=/v1.55/", ""),
        ] {
            assert_eq!(Target::of(target).path(), expected, "{target}");
        }
    }

    #[test]
    fn paths_are_decoded_once_and_queries_are_not() {
        for (target, expected, query) in [
            ("/v1.47/images/%6coad?quiet=%31", "/images/load", "quiet=%31"),
            ("/v1.47%2Fimages%2fload", "/images/load", ""),
            ("/%76%31.47/images/load", "/images/load", ""),
            ("/images/%256coad", "/images/%6coad", ""),
            ("/images/load%3Fquiet", "/images/load?quiet", ""),
            ("/images/lo+ad", "/images/lo+ad", ""),
            // dockerd refuses the first of these, and the second is no route.
            ("/images/load%", "/images/load%", ""),
            ("/images/load%ff", "/images/load%ff", ""),
            // dockerd redirects these.
            ("//images/load", "//images/load", ""),
            ("/images/%2e/load", "/images/./load", ""),
            ("/images/load/", "/images/load/", ""),
        ] {
            let found = Target::of(target);
            assert_eq!((found.path(), found.query()), (expected, query), "{target}");
        }
        assert_eq!(Target::of("/v%31.47/info").version(), Some("1.47"));
        assert_eq!(Target::of("/version/info").version(), None);
    }
}
