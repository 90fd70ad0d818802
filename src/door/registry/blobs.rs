//! Reading blobs.

use futures_util::StreamExt as _;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};

use super::push::Pushes;
use super::reading::Reading;
use super::refusal::{Code, Refusal};
use super::repository::Repository;
use super::response::{empty, is_known_to_client, name_content, not_modified, put};
use super::{Door, redirect};
use crate::byte_range::{ByteRange, requested};
use crate::http2::{Body, BodyError};
use crate::image::{Descriptor, Digest};
use crate::net::Principal;
use crate::source::{Chunks, read_range};

/// The media type of all blobs: their manifests have their own.
const ANYTHING: &str = "application/octet-stream";

/// The digest in a path.
pub(super) fn digest_of(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|error: crate::image::DigestError| {
        Refusal::bad(Code::DigestInvalid, error.to_string()).about("digest", error.text)
    })
}

impl Door {
    /// The response to a GET or a HEAD of a blob. A client that may push asks by HEAD what it need not send, and relies on it.
    pub(super) async fn blob(
        &self,
        method: &Method,
        request_headers: &HeaderMap,
        (repository, digest): (&Repository, &str),
        client: &Principal,
    ) -> Result<Response<Body>, Refusal> {
        let digest = digest_of(digest)?;
        let unknown = || {
            let message = "the engine does not hold this blob";
            Refusal::absent(Code::BlobUnknown, message).about("digest", digest.as_str())
        };
        if !self.may_read(repository, &digest, client).await? {
            return Err(unknown());
        }
        let is_pushing = self.check_push(repository, client).is_ok();
        let size = match &self.pushes {
            Some(pushes) if method == Method::HEAD && repository.mirrored.is_none() && is_pushing => {
                self.pinned_size(pushes, repository, &digest, client).await?
            }
            _ => self.images.intact(&digest).await?,
        };
        let size = size.ok_or_else(unknown)?;
        if is_known_to_client(request_headers, &digest) {
            return Ok(not_modified(&digest));
        }
        let blob = Descriptor::new(ANYTHING, digest.clone(), size);
        // A range is part of a GET, and of nothing else (RFC 9110, section 14.2).
        let requested = if method == Method::HEAD { ByteRange::All } else { requested(request_headers, size) };
        let (status, range) = match requested {
            ByteRange::All => (StatusCode::OK, 0..size),
            ByteRange::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            ByteRange::Unsatisfiable => {
                let message = format!("the blob has {size} bytes, and none of them in this range");
                let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, Code::RangeInvalid, message);
                return Err(refusal.with(CONTENT_RANGE, format!("bytes */{size}")));
            }
        };
        let mut response = if method == Method::HEAD {
            empty(status)
        } else {
            // First the lease: what is read then is what it keeps.
            let reading = self.readers.blob(client, &blob).await;
            if self.redirect
                && let Some(response) = redirect::response(&self.images, &digest, request_headers).await
            {
                return Ok(response);
            }
            let chunks = read_range(&*self.images, &blob, range.clone()).await?;
            let mut response = Response::new(streamed(chunks, reading));
            *response.status_mut() = status;
            response
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(ANYTHING));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(CONTENT_LENGTH, (range.end - range.start).into());
        if status == StatusCode::PARTIAL_CONTENT {
            put(headers, CONTENT_RANGE, &format!("bytes {}-{}/{size}", range.start, range.end - 1));
        }
        name_content(headers, &digest);
        Ok(response)
    }
}

impl Door {
    /// The size of a blob that a client need not send: pinned, then looked up. A push begins with the first one that is there, so
    /// that a client that only asks for what is not there costs nothing.
    async fn pinned_size(
        &self,
        pushes: &Pushes,
        repository: &Repository,
        digest: &Digest,
        client: &Principal,
    ) -> Result<Option<u64>, Refusal> {
        let push = match pushes.find(repository, client) {
            Some(push) => push,
            None if self.images.size(digest).await?.is_none() => return Ok(None),
            None => pushes.of(repository, client).await?,
        };
        push.find(&self.images, digest).await
    }
}

/// A body of `chunks`, whose lease is kept until it has ended.
fn streamed(chunks: Chunks, reading: Option<Reading>) -> Body {
    let frames = chunks.map(move |chunk| {
        let _reading = &reading;
        chunk.map(Frame::data).map_err(BodyError::from)
    });
    StreamBody::new(frames).boxed_unsync()
}
