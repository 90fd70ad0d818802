//! The routes: what a builder reads of a registry when it imports a cache by its digest (OCI distribution specification, "Pull").

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::credentials::Password;
use super::{Offers, lock};
use crate::byte_range::{ByteRange, requested};
use crate::caches::CacheReader;
use crate::http2::{Body, BodyError, full};
use crate::image::Digest;

/// How many connections may be open on which nobody has given the password yet. Beyond that the oldest is closed, so that the
/// builder's is always served.
const MAX_UNAUTHENTICATED: usize = 64;

/// How long a client may take for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after a connection could not be accepted, as when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves what is offered, for ever.
pub(super) async fn serve(socket: TcpListener, password: Arc<Password>, offers: Offers) {
    let mut connections = JoinSet::new();
    let mut unauthenticated: VecDeque<(AbortHandle, Arc<AtomicBool>)> = VecDeque::new();
    loop {
        match socket.accept().await {
            Ok((stream, _)) => {
                while connections.try_join_next().is_some() {}
                unauthenticated.retain(|(task, is_known)| !task.is_finished() && !is_known.load(Ordering::Relaxed));
                if unauthenticated.len() >= MAX_UNAUTHENTICATED
                    && let Some((oldest, _)) = unauthenticated.pop_front()
                {
                    oldest.abort();
                }
                let is_known = Arc::new(AtomicBool::new(false));
                let task = connections.spawn(connection(stream, password.clone(), offers.clone(), is_known.clone()));
                unauthenticated.push_back((task, is_known));
            }
            Err(error) => {
                tracing::warn!(%error, "lazy cache imports: a connection could not be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Serves one connection. `is_known` is set with the first request that has the password.
async fn connection(stream: TcpStream, password: Arc<Password>, offers: Offers, is_known: Arc<AtomicBool>) {
    let service = service_fn(move |request| {
        let (password, offers, is_known) = (password.clone(), offers.clone(), is_known.clone());
        async move {
            let response = if password.is_in(request.headers()) {
                is_known.store(true, Ordering::Relaxed);
                respond(&request, &offers).await
            } else {
                unauthorized()
            };
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "lazy cache imports: a connection broke off");
    }
}

/// What is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Manifest,
    Blob,
}

async fn respond(request: &Request<Incoming>, offers: &Offers) -> Response<Body> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return empty(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Some((repository, kind, digest)) = route(request.uri().path()) else { return empty(StatusCode::NOT_FOUND) };
    let readers: Vec<_> = {
        let offers = lock(offers);
        // The last build's come first, for its log says what was read.
        let of_repository = offers.iter().rev().filter(|offer| offer.repository == repository);
        of_repository.map(|offer| offer.stored.reader.clone()).collect()
    };
    let Some((reader, size)) = readers.into_iter().find_map(|it| it.size(&digest).map(|size| (it, size))) else {
        return empty(StatusCode::NOT_FOUND);
    };
    let media_type = match (kind, reader.root_type(&digest)) {
        (Kind::Manifest, None) => return empty(StatusCode::NOT_FOUND),
        (Kind::Manifest, Some(media_type)) => media_type,
        (Kind::Blob, _) => "application/octet-stream".to_owned(),
    };
    let Ok(media_type) = HeaderValue::try_from(media_type) else { return empty(StatusCode::INTERNAL_SERVER_ERROR) };
    let (status, range) = match requested(request.headers(), size) {
        ByteRange::All => (StatusCode::OK, 0..size),
        ByteRange::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        ByteRange::Unsatisfiable => {
            let mut response = empty(StatusCode::RANGE_NOT_SATISFIABLE);
            put(response.headers_mut(), CONTENT_RANGE, &format!("bytes */{size}"));
            return response;
        }
    };
    let mut response = match request.method() {
        &Method::HEAD => empty(status),
        _ => match body(&reader, &digest, &range).await {
            Some(body) => Response::new(body),
            // The engine has lost it, and a build that needs it fails.
            None => return empty(StatusCode::NOT_FOUND),
        },
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, media_type);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    put(headers, CONTENT_LENGTH, &(range.end - range.start).to_string());
    if status == StatusCode::PARTIAL_CONTENT {
        put(headers, CONTENT_RANGE, &format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1)));
    }
    put(headers, http::HeaderName::from_static("docker-content-digest"), digest.as_str());
    response
}

/// `/v2/<repository>/manifests/<digest>` or `/v2/<repository>/blobs/<digest>`.
fn route(path: &str) -> Option<(&str, Kind, Digest)> {
    let (rest, digest) = path.strip_prefix("/v2/")?.rsplit_once('/')?;
    let (repository, kind) = rest.rsplit_once('/')?;
    let kind = match kind {
        "manifests" => Kind::Manifest,
        "blobs" => Kind::Blob,
        _ => return None,
    };
    Some((repository, kind, digest.parse().ok()?))
}

async fn body(reader: &Arc<CacheReader>, digest: &Digest, range: &Range<u64>) -> Option<Body> {
    let chunks = reader.read(digest, range.start, range.end - range.start).await;
    let chunks =
        chunks.inspect_err(|error| tracing::warn!(%error, %digest, "a lazy cache import cannot be read")).ok()?;
    Some(StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data).map_err(BodyError::from))).boxed_unsync())
}

fn unauthorized() -> Response<Body> {
    let mut response = empty(StatusCode::UNAUTHORIZED);
    put(response.headers_mut(), WWW_AUTHENTICATE, "Basic realm=\"linkspan\"");
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(bytes::Bytes::new()));
    *response.status_mut() = status;
    response
}

/// Adds a header of digits and other plain characters.
fn put(headers: &mut HeaderMap, name: http::HeaderName, value: &str) {
    headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_names_what_is_requested() {
        let digest = Digest::sha256(b"x");
        let found = |path: String| route(&path).map(|(repository, kind, digest)| (repository.to_owned(), kind, digest));
        for (path, kind) in [("manifests", Kind::Manifest), ("blobs", Kind::Blob)] {
            assert_eq!(found(format!("/v2/s/c/{path}/{digest}")), Some(("s/c".to_owned(), kind, digest.clone())));
        }
        for path in ["/v2/", "/v2/s/c/manifests/latest", "/v2/s/c/tags/list", "/s/c/blobs/x", "/v2/blobs/sha256:00"] {
            assert_eq!(found(path.to_owned()), None, "{path}");
        }
    }
}
