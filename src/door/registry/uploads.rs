//! Uploads of blobs: begun, sent to, finished, looked at and given up.

use http::header::{CONTENT_RANGE, HeaderMap, HeaderName, LOCATION, RANGE};
use http::{Method, Response, StatusCode};

use super::Door;
use super::blobs::digest_of;
use super::push::{Push, Pushes, Upload, UploadBody, unknown};
use super::query;
use super::refusal::{Code, Refusal};
use super::repository::Repository;
use super::response::{CONTENT_DIGEST, empty, put};
use crate::engine::Storage;
use crate::http2::Body;
use crate::image::{Algorithm, Digest};
use crate::net::Principal;

/// The id of an upload, for clients that do not read it from `Location`.
const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// A request about an upload.
#[derive(Debug)]
pub(super) struct UploadRequest<'a> {
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    pub(super) query: Option<&'a str>,
    pub(super) repository: &'a Repository,
    pub(super) client: &'a Principal,
}

impl UploadRequest<'_> {
    /// The digest in its query.
    fn digest(&self) -> Option<Result<Digest, Refusal>> {
        query::value(self.query, "digest").map(|digest| digest_of(&digest))
    }

    /// Where its content belongs, if it says so.
    fn start(&self, body: &UploadBody) -> Result<Option<u64>, Refusal> {
        let Some(range) = self.headers.get(CONTENT_RANGE) else { return Ok(None) };
        let invalid = |message: &str| Refusal::bad(Code::SizeInvalid, message);
        let bounds = range.to_str().ok().and_then(|range| range.split_once('-'));
        let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let Some((Some(start), Some(end))) = bounds.map(|(start, end)| (number(start), number(end))) else {
            return Err(invalid("`Content-Range` must be the first and the last byte, as in `0-1023`"));
        };
        let length = end.checked_sub(start).and_then(|length| length.checked_add(1));
        match length {
            Some(length) if body.length().is_none_or(|sent| sent == length) => Ok(Some(start)),
            _ => Err(invalid("`Content-Range` and the content have different lengths")),
        }
    }

    /// The path of a part of the repository.
    fn path(&self, rest: &str) -> String {
        let namespace = self.repository.mirrored.as_ref();
        let query = namespace.map(|registry| format!("?ns={}", query::encode(registry))).unwrap_or_default();
        format!("/v2/{}/{rest}{query}", self.repository.name)
    }

    fn uploading(&self, status: StatusCode, push: &Push, upload: &Upload) -> Response<Body> {
        let mut response = empty(status);
        let headers = response.headers_mut();
        for (name, value) in self.progress(push, upload) {
            put(headers, name, &value);
        }
        response
    }

    /// Where an upload is.
    fn progress(&self, push: &Push, upload: &Upload) -> [(HeaderName, String); 3] {
        let id = format!("{}.{}", push.id, upload.id);
        let range = format!("0-{}", upload.offset().saturating_sub(1));
        [(LOCATION, self.path(&format!("blobs/uploads/{id}"))), (RANGE, range), (UPLOAD_ID, id)]
    }

    fn created(&self, digest: &Digest) -> Response<Body> {
        let mut response = empty(StatusCode::CREATED);
        put(response.headers_mut(), LOCATION, &self.path(&format!("blobs/{digest}")));
        put(response.headers_mut(), CONTENT_DIGEST, digest.as_str());
        response
    }

    /// A refusal that says where the upload is, if that is why.
    fn refused(&self, refusal: Refusal, push: &Push, upload: &Upload) -> Refusal {
        if refusal.status != StatusCode::RANGE_NOT_SATISFIABLE {
            return refusal;
        }
        self.progress(push, upload).into_iter().fold(refusal, |refusal, (name, value)| refusal.with(name, value))
    }
}

/// How many bytes a blob has whose upload has ended with a body of `length`. What the engine had before was not written by it.
fn uploaded(upload: &Upload, length: Option<u64>) -> u64 {
    upload.offset().max(length.unwrap_or_default())
}

impl Door {
    /// The response to a POST that begins an upload, or needs none.
    pub(super) async fn begin_upload(
        &self,
        pushes: &Pushes,
        request: &UploadRequest<'_>,
        body: &mut UploadBody,
    ) -> Result<Response<Body>, Refusal> {
        let digest = request.digest().transpose()?;
        if let Some(algorithm) = query::value(request.query, "digest-algorithm")
            && ![Algorithm::Sha256, Algorithm::Sha512].iter().any(|known| known.name() == algorithm)
        {
            let message = "this algorithm is not offered; expected `sha256` or `sha512`";
            return Err(Refusal::bad(Code::DigestInvalid, message));
        }
        if digest.is_some() && body.length().is_none() {
            let message = "a blob that is sent at once needs its length";
            return Err(Refusal::new(StatusCode::LENGTH_REQUIRED, Code::SizeInvalid, message));
        }
        pushes.check_room(request.client)?;
        let push = pushes.of(request.repository, request.client).await?;
        // Whatever it names: what is not there is sent.
        let mounted = query::value(request.query, "mount").and_then(|digest| digest.parse::<Digest>().ok());
        if let Some(digest) = mounted
            && self.may_mount(request, &digest).await?
            && push.find(&self.images, &digest).await?.is_some()
        {
            return Ok(request.created(&digest));
        }
        match digest {
            None => Ok(request.uploading(StatusCode::ACCEPTED, &push, &push.begin())),
            Some(digest) => self.send_at_once(&push, request, &digest, body).await,
        }
    }

    /// The response to a request that has a whole blob.
    async fn send_at_once(
        &self,
        push: &Push,
        request: &UploadRequest<'_>,
        digest: &Digest,
        body: &mut UploadBody,
    ) -> Result<Response<Body>, Refusal> {
        let is_limited = !self.exports.policy(request.client).may_pull_all();
        let (upload, length) = (push.begin(), body.length());
        let outcome = upload.finish(push, None, (digest, is_limited), body).await;
        match outcome {
            Ok(how) => push.uploaded(digest, uploaded(&upload, length), how),
            // Nobody knows its id.
            Err(_) => drop(upload.cancel(push).await),
        }
        push.end(&upload);
        outcome?;
        Ok(request.created(digest))
    }

    /// The digest of a blob that comes here whole although another door in front of the same store gave the id: that began
    /// nothing in the store, so the request is complete by itself. What comes in several requests is known to one door only.
    fn is_begun_elsewhere(&self, request: &UploadRequest<'_>, id: &str, body: &UploadBody) -> Option<Digest> {
        let is_shared = matches!(self.exports.engine().identity().storage, Storage::Bucket {});
        let is_id = |text: &str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_ours = id.split_once('.').is_some_and(|(push, upload)| is_id(push) && is_id(upload));
        let is_whole = *request.method == Method::PUT
            && !request.headers.contains_key(CONTENT_RANGE)
            && body.length().is_some_and(|length| length > 0);
        if is_shared && is_ours && is_whole { request.digest()?.ok() } else { None }
    }

    /// Whether the client may read a blob here, or in the repository that it names.
    async fn may_mount(&self, request: &UploadRequest<'_>, digest: &Digest) -> Result<bool, Refusal> {
        if self.may_read(request.repository, digest, request.client).await? {
            return Ok(true);
        }
        let from = query::value(request.query, "from").and_then(|name| Repository::of(&name, None).ok());
        match from {
            Some(from) => self.may_read(&from, digest, request.client).await,
            None => Ok(false),
        }
    }

    /// The response to a request about the upload `id`.
    pub(super) async fn upload(
        &self,
        pushes: &Pushes,
        request: &UploadRequest<'_>,
        id: &str,
        body: &mut UploadBody,
    ) -> Result<Response<Body>, Refusal> {
        let (push, upload) = match pushes.upload(request.repository, request.client, id).await {
            Ok(found) => found,
            Err(refusal) if refusal.status == StatusCode::NOT_FOUND => {
                let digest = self.is_begun_elsewhere(request, id, body).ok_or(refusal)?;
                pushes.check_room(request.client)?;
                let push = pushes.of(request.repository, request.client).await?;
                return self.send_at_once(&push, request, &digest, body).await;
            }
            Err(refusal) => return Err(refusal),
        };
        let outcome = self.of_upload(request, &push, &upload, body).await;
        push.end(&upload);
        outcome.map_err(|refusal| request.refused(refusal, &push, &upload))
    }

    async fn of_upload(
        &self,
        request: &UploadRequest<'_>,
        push: &Push,
        upload: &Upload,
        body: &mut UploadBody,
    ) -> Result<Response<Body>, Refusal> {
        match *request.method {
            Method::GET | Method::HEAD => {
                upload.locate(push).await;
                Ok(request.uploading(StatusCode::NO_CONTENT, push, upload))
            }
            Method::PATCH => {
                let start = request.start(body)?;
                upload.append(push, start, body).await?;
                Ok(request.uploading(StatusCode::ACCEPTED, push, upload))
            }
            Method::PUT => {
                let start = request.start(body)?;
                let missing = || Refusal::bad(Code::DigestInvalid, "the request names no `digest`");
                let digest = request.digest().unwrap_or_else(|| Err(missing()))?;
                let is_limited = !self.exports.policy(request.client).may_pull_all();
                let length = body.length();
                let how = upload.finish(push, start, (&digest, is_limited), body).await?;
                push.uploaded(&digest, uploaded(upload, length), how);
                Ok(request.created(&digest))
            }
            Method::DELETE => {
                upload.cancel(push).await?;
                Ok(empty(StatusCode::NO_CONTENT))
            }
            _ => Err(unknown()),
        }
    }
}
