//! A bucket: the requests to it, bounded in size and time, with errors that name the object.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use http::Method;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
    UpdateVersion,
};

use super::failure::{describe, failure, is_unreachable};
use super::host::Host;
use crate::engine::error::OBJECT_STORE;
use crate::engine::{BlobUrl, EngineError};

/// How many requests one operation has under way.
pub(super) const PARALLEL: usize = 16;

/// How long a URL of an object may be used: a pull of many layers asks for each when it begins to read it.
const URL_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// What a bucket's client can do.
pub(super) trait Objects: ObjectStore + MultipartStore {}

impl<T: ObjectStore + MultipartStore> Objects for T {}

/// What an object must be like to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    /// It does not matter.
    Any,
    /// It must not exist.
    Absent,
    /// It must be this version of it.
    Version(UpdateVersion),
}

/// A small object that was read.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) bytes: Bytes,
    pub(super) version: UpdateVersion,
    /// When it was written, by the store's clock.
    pub(super) written: SystemTime,
}

/// A bucket, and the folder in it that is ours.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    pub(super) objects: Arc<dyn Objects>,
    /// `s3://bucket/prefix`.
    address: Arc<str>,
    /// What keys begin with: empty, or with a slash at its end.
    prefix: Arc<str>,
    /// Makes URLs of objects, where there are credentials to sign them.
    signer: Option<Arc<dyn Signer>>,
    /// Who uses it.
    pub(super) host: Host,
}

impl Bucket {
    pub(super) fn new(objects: Arc<dyn Objects>, address: &str, prefix: &str) -> Self {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Self { objects, address: address.into(), prefix: prefix.into(), signer: None, host: Host::this() }
    }

    /// The same with URLs of its objects.
    pub(super) fn with_signer(self, signer: Option<Arc<dyn Signer>>) -> Self {
        Self { signer, ..self }
    }

    /// `s3://bucket/prefix`.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The key of an object as the store has it.
    pub(super) fn path(&self, key: &str) -> Path {
        Path::from(format!("{}{key}", self.prefix))
    }

    /// A key without our prefix.
    fn key<'a>(&self, path: &'a Path) -> &'a str {
        path.as_ref().strip_prefix(&*self.prefix).unwrap_or_default()
    }

    /// The error of an operation on the object `key`.
    pub(super) fn failed(&self, operation: &'static str, key: &str, error: &Error) -> EngineError {
        failure(operation, self.object(key), error)
    }

    /// The object `key` in messages.
    pub(super) fn object(&self, key: &str) -> String {
        if key.is_empty() { self.address.to_string() } else { format!("{}/{key}", self.address) }
    }

    /// An object that is not what it must be.
    pub(super) fn invalid(&self, key: &str, reason: impl Into<String>) -> EngineError {
        EngineError::Object { operation: "reading", object: self.object(key), reason: reason.into(), hint: None }
    }

    /// The size of an object; `None` if there is none.
    pub(super) async fn size(&self, key: &str) -> Result<Option<u64>, EngineError> {
        match self.objects.head(&self.path(key)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("looking up", key, &error)),
        }
    }

    /// An object of at most `limit` bytes; `None` if there is none.
    pub(super) async fn get(&self, key: &str, limit: u64) -> Result<Option<Found>, EngineError> {
        let failed = |error: &Error| self.failed("reading", key, error);
        let found = match self.objects.get_opts(&self.path(key), GetOptions::default()).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(&error)),
        };
        let too_long = || self.invalid(key, format!("it has more than the {limit} bytes that such an object may have"));
        if found.meta.size > limit {
            return Err(too_long());
        }
        let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        let written = found.meta.last_modified.into();
        let (mut chunks, mut bytes) = (found.into_stream(), BytesMut::new());
        while let Some(chunk) = chunks.try_next().await.map_err(|error| failed(&error))? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(too_long());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(Found { bytes: bytes.freeze(), version, written }))
    }

    /// The bytes of an object from `offset` on; `None` if there is none.
    pub(super) async fn open(
        &self,
        key: &str,
        offset: u64,
    ) -> Result<Option<stream::BoxStream<'static, Result<Bytes, Error>>>, Error> {
        let range = (offset > 0).then_some(GetRange::Offset(offset));
        match self.objects.get_opts(&self.path(key), GetOptions { range, ..GetOptions::default() }).await {
            Ok(found) => Ok(Some(found.into_stream())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A URL at which an object can be read without credentials for a while; `None` if there are no credentials to sign it.
    pub(super) async fn url(&self, key: &str) -> Result<Option<BlobUrl>, EngineError> {
        let Some(signer) = &self.signer else { return Ok(None) };
        let signed = signer.signed_url(Method::GET, &self.path(key), URL_LIFETIME).await;
        let signed = signed.map_err(|error| self.failed("signing a URL of", key, &error))?;
        Ok(Some(BlobUrl::new(signed.to_string())))
    }

    /// Writes an object.
    pub(super) async fn put(&self, key: &str, content: PutPayload) -> Result<(), EngineError> {
        self.put_if(key, content, Condition::Any).await.map(|_| ())
    }

    /// Writes an object if it is as `condition` says; `false` if it is not. After a lost answer `false` may come although this
    /// write succeeded: whoever needs to know reads the object.
    pub(super) async fn put_if(
        &self,
        key: &str,
        content: PutPayload,
        condition: Condition,
    ) -> Result<bool, EngineError> {
        let mode = match condition {
            Condition::Any => PutMode::Overwrite,
            Condition::Absent => PutMode::Create,
            Condition::Version(version) => PutMode::Update(version),
        };
        let is_update = matches!(mode, PutMode::Update(_));
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.objects.put_opts(&self.path(key), content, options).await {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            // There is no such version of what is not there.
            Err(Error::NotFound { .. }) if is_update => Ok(false),
            Err(error) => Err(self.failed("writing", key, &error)),
        }
    }

    /// Deletes an object; fine if there is none.
    pub(super) async fn delete(&self, key: &str) -> Result<(), EngineError> {
        match self.objects.delete(&self.path(key)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("deleting", key, &error)),
        }
    }

    /// Copies an object within the store.
    pub(super) async fn copy(&self, from: &str, to: &str) -> Result<(), EngineError> {
        let copied = self.objects.copy(&self.path(from), &self.path(to)).await;
        copied.map_err(|error| self.failed("copying to", to, &error))
    }

    /// The objects below the folder `folder`, at most `limit`: keys, and what the store says of them.
    pub(super) async fn list(&self, folder: &str, limit: usize) -> Result<Vec<(String, ObjectMeta)>, EngineError> {
        let listed = self.objects.list(Some(&self.path(folder))).take(limit).try_collect::<Vec<_>>().await;
        let listed = listed.map_err(|error| self.failed("listing", folder, &error))?;
        Ok(listed.into_iter().map(|meta| (self.key(&meta.location).to_owned(), meta)).collect())
    }

    /// The objects below the folder `folder`, as they come.
    pub(super) fn listing<'s>(
        &'s self,
        folder: &'s str,
    ) -> impl Stream<Item = Result<(String, ObjectMeta), EngineError>> + 's {
        let listed = self.objects.list(Some(&self.path(folder)));
        listed.map(move |meta| match meta {
            Ok(meta) => Ok((self.key(&meta.location).to_owned(), meta)),
            Err(error) => Err(self.failed("listing", folder, &error)),
        })
    }

    /// Lists one object below `folder`; fails with [`EngineError::Unreachable`] if the store accepts no connections.
    pub(super) async fn check(&self, folder: &str) -> Result<(), EngineError> {
        match self.objects.list(Some(&self.path(folder))).next().await {
            Some(Err(error)) if is_unreachable(&error) => Err(EngineError::Unreachable {
                engine: OBJECT_STORE,
                address: self.address.to_string(),
                reason: describe(&error),
            }),
            Some(Err(error)) => Err(self.failed("listing", folder, &error)),
            _ => Ok(()),
        }
    }

    /// The names of the folders in the folder `folder`.
    pub(super) async fn folders(&self, folder: &str) -> Result<Vec<String>, EngineError> {
        let listed = self.objects.list_with_delimiter(Some(&self.path(folder))).await;
        let listed = listed.map_err(|error| self.failed("listing", folder, &error))?;
        Ok(listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    /// Writes small objects, some at once.
    pub(super) async fn put_all(&self, objects: Vec<(String, Bytes)>) -> Result<(), EngineError> {
        let writes = objects.into_iter().map(|(key, bytes)| async move { self.put(&key, bytes.into()).await });
        stream::iter(writes.collect::<Vec<_>>()).buffer_unordered(PARALLEL).try_collect::<()>().await
    }
}
