//! The bodies of requests, read piece by piece.

use bytes::{Bytes, BytesMut};
use http::header::EXPECT;
use http::request::Parts;
use http::{Request, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::limits::{REFUSED_BODY, SILENCE};
use crate::door::registry::refusal::{Code, Refusal};
use crate::image::{Digest, Hasher};

/// A body.
#[derive(Debug)]
pub(in crate::door::registry) struct UploadBody {
    body: Incoming,
    /// Whether the client waits for a word before it sends it (`Expect: 100-continue`).
    is_awaited: bool,
    /// Whether none of it has been asked for.
    is_unread: bool,
}

impl UploadBody {
    /// The body of a request, and the rest of it.
    pub(in crate::door::registry) fn of(request: Request<Incoming>) -> (Parts, Self) {
        let (head, body) = request.into_parts();
        let is_awaited = head.headers.contains_key(EXPECT);
        (head, Self { body, is_awaited, is_unread: true })
    }

    /// Its length, where the client says it.
    pub(in crate::door::registry) fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// Whether nothing of it has been read, so that the request can be served once more.
    pub(super) fn is_unread(&self) -> bool {
        self.is_unread
    }

    /// The next bytes; `None` at its end.
    pub(in crate::door::registry) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        (self.is_awaited, self.is_unread) = (false, false);
        loop {
            match timeout(SILENCE, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    // Trailers are none.
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => {
                    let message = format!("the body broke off: {error}");
                    return Err(Refusal::bad(Code::BlobUploadInvalid, message).uncounted());
                }
                Err(_) => {
                    let message = format!("no bytes came for {} s; the upload can be gone on with", SILENCE.as_secs());
                    return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, Code::BlobUploadInvalid, message));
                }
            }
        }
    }

    /// All of it, if it has at most `limit` bytes.
    pub(in crate::door::registry) async fn whole(&mut self, limit: usize) -> Result<Bytes, Refusal> {
        let too_large = || {
            let message = format!("the document has more than {limit} bytes");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Code::ManifestInvalid, message)
        };
        let mut whole = BytesMut::new();
        if self.length().is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        while let Some(bytes) = self.next().await? {
            if whole.len() + bytes.len() > limit {
                return Err(too_large());
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    /// Reads to its end what nobody needs: a client that is still sending would not read the response. One that waits for
    /// a word need not send it.
    pub(in crate::door::registry) async fn skip(&mut self) -> Result<(), Refusal> {
        while !self.is_awaited && self.next().await?.is_some() {}
        Ok(())
    }

    /// Reads to its end what the engine has already, and what the client has only if it is `digest`.
    pub(in crate::door::registry) async fn verify(&mut self, digest: &Digest) -> Result<(), Refusal> {
        let mut hasher = Hasher::new(digest.algorithm());
        while let Some(bytes) = self.next().await? {
            hasher.update(&bytes);
        }
        let found = hasher.finish();
        if found == *digest {
            return Ok(());
        }
        let message = format!("the content has the digest {found}");
        Err(Refusal::bad(Code::DigestInvalid, message).about("digest", digest.as_str()))
    }

    /// Reads the rest of a refused request's body, unless that takes long: a client that cannot send it may not read the refusal.
    pub(in crate::door::registry) async fn skip_little(&mut self) {
        let (most, limit) = REFUSED_BODY;
        if self.is_awaited {
            return;
        }
        let mut read = 0;
        let reading = async {
            while let Ok(Some(bytes)) = self.next().await {
                read += bytes.len() as u64;
                if read > most {
                    break;
                }
            }
        };
        // Whatever is left then, the connection is closed.
        let _ = timeout(limit, reading).await;
    }
}
