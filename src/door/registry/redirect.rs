//! Sends clients to the engine's store for blobs.
//!
//! A client that shows a password must not show it to the store: some send it wherever a response leads that is of the same host
//! name (Go's `net/http`, `shouldCopyHeaderOnRedirect`, which looks at no port) or below it, and stores refuse requests that are
//! authorized twice. Such a client gets the bytes from here.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, LOCATION};
use http::uri::Authority;
use http::{Response, StatusCode};

use super::response::{CONTENT_DIGEST, empty, put};
use crate::engine::images::Images;
use crate::engine::{BlobUrl, Engine, EngineError, Identity, Storage};
use crate::http2::Body;
use crate::image::Digest;

/// How long making a URL may take: some stores are asked for a key for it.
const LONGEST: Duration = Duration::from_secs(5);
/// What only an object store offers.
const WHAT: &str = "redirects to its blobs (--registry-redirect is for --engine object)";

/// Fails if an engine's blobs never have URLs.
pub(super) fn check(engine: &dyn Engine) -> Result<(), EngineError> {
    let Identity { kind, storage, .. } = engine.identity();
    match storage {
        Storage::Bucket {} => Ok(()),
        _ => Err(EngineError::NotOffered { engine: kind.name(), what: WHAT }),
    }
}

/// The response that leads to a blob; `None` if it is to be passed through.
pub(super) async fn response(images: &Arc<dyn Images>, digest: &Digest, headers: &HeaderMap) -> Option<Response<Body>> {
    let url = match tokio::time::timeout(LONGEST, images.url(digest)).await {
        Ok(Ok(url)) => url?,
        Ok(Err(error)) => {
            tracing::warn!(%error, "a blob is passed through, because it has no URL");
            return None;
        }
        Err(_) => {
            tracing::warn!("a blob is passed through, because the store made no URL of it in time");
            return None;
        }
    };
    if shows_password_to(headers, &url) {
        return None;
    }
    let mut location = HeaderValue::from_str(url.secret()).ok()?;
    location.set_sensitive(true);
    let mut response = empty(StatusCode::TEMPORARY_REDIRECT);
    let headers = response.headers_mut();
    headers.insert(LOCATION, location);
    headers.insert(CONTENT_LENGTH, 0.into());
    // It ends, and is the client's own.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    put(headers, CONTENT_DIGEST, digest.as_str());
    Some(response)
}

/// Whether a client would send its password to `url` as well, or may: it is unknown where it thinks it is.
fn shows_password_to(headers: &HeaderMap, url: &BlobUrl) -> bool {
    if !headers.contains_key(AUTHORIZATION) {
        return false;
    }
    let here = headers.get(HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let (Some(here), Some(there)) = (here, url.host()) else { return true };
    let (here, there) = (here.host().to_ascii_lowercase(), there.to_ascii_lowercase());
    there == here || there.strip_suffix(&here).is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_stays_with_the_host_that_it_was_shown_to() {
        let basic = (AUTHORIZATION, "Basic dTpw");
        let at = |headers: &[(http::HeaderName, &str)], url: &str| {
            let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
            shows_password_to(&headers.collect(), &BlobUrl::new(url.to_owned()))
        };
        for (host, url, expected) in [
            ("registry.example", "https://bucket.s3.amazonaws.com/k?s", false),
            ("registry.example:5000", "http://registry.example:9000/b/k?s", true),
            ("Registry.example", "http://store.registry.EXAMPLE/b/k?s", true),
            ("registry.example", "http://otherregistry.example/b/k?s", false),
            ("127.0.0.1:5000", "http://127.0.0.1:9000/b/k?s", true),
            ("[::1]:5000", "http://[::1]:9000/b/k?s", true),
        ] {
            assert_eq!(at(&[(HOST, host), basic.clone()], url), expected, "{host} {url}");
            assert!(!at(&[(HOST, host)], url), "{host} {url}");
        }
        assert!(at(&[basic], "https://bucket.s3.amazonaws.com/k"), "nobody knows where the client thinks it is");
    }
}
