//! A site in a bucket, whose objects have their types.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error, ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload,
    WriteMultipart,
};

use super::PublishError;
use super::files::{Files, MAX_READ};
use crate::engine::{BucketAddress, ObjectVariables, object_store_failure, open_object_store};
use crate::source::Chunks;

/// From which size on a blob is sent in parts, and how long they are.
const PART: usize = 8 << 20;
/// How many parts of one blob are on their way.
const PARTS: usize = 2;

/// A bucket, and a folder in it.
pub struct Bucket {
    objects: Arc<dyn ObjectStore>,
    address: BucketAddress,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Bucket {
    /// The bucket at `address`, with the credentials in `variables` or the environment.
    ///
    /// # Errors
    /// When these say nothing that can be used.
    pub fn open(address: &BucketAddress, variables: &ObjectVariables) -> Result<Self, PublishError> {
        let objects = open_object_store(address, variables).map_err(PublishError::Bucket)?;
        Ok(Self { objects, address: address.clone() })
    }

    fn path(&self, path: &str) -> Path {
        Path::from_iter(self.address.prefix().split('/').chain(path.split('/')).filter(|part| !part.is_empty()))
    }

    fn failed(&self, operation: &'static str, path: &str, error: &Error) -> PublishError {
        PublishError::Bucket(object_store_failure(operation, format!("{}/{path}", self.address), error))
    }
}

fn attributes(kind: &str) -> Attributes {
    Attributes::from_iter([(Attribute::ContentType, kind.to_owned())])
}

#[async_trait]
impl Files for Bucket {
    async fn size(&self, path: &str) -> Result<Option<u64>, PublishError> {
        match self.objects.head(&self.path(path)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("looking up", path, &error)),
        }
    }

    async fn read(&self, path: &str) -> Result<Option<Bytes>, PublishError> {
        let found = match self.objects.get(&self.path(path)).await {
            Ok(found) if found.meta.size > MAX_READ => return Ok(None),
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failed("reading", path, &error)),
        };
        found.bytes().await.map(Some).map_err(|error| self.failed("reading", path, &error))
    }

    async fn write(&self, path: &str, kind: &str, bytes: Bytes) -> Result<(), PublishError> {
        let options = PutOptions { attributes: attributes(kind), ..PutOptions::default() };
        let written = self.objects.put_opts(&self.path(path), PutPayload::from_bytes(bytes), options).await;
        written.map(drop).map_err(|error| self.failed("writing", path, &error))
    }

    async fn write_blob(&self, path: &str, kind: &str, size: u64, mut chunks: Chunks) -> Result<(), PublishError> {
        if size <= PART as u64 {
            let mut bytes = Vec::new();
            while let Some(chunk) = chunks.next().await {
                bytes.extend_from_slice(&chunk?);
            }
            return self.write(path, kind, bytes.into()).await;
        }
        let failed = |error: Error| self.failed("writing", path, &error);
        let options = PutMultipartOptions { attributes: attributes(kind), ..PutMultipartOptions::default() };
        let upload = self.objects.put_multipart_opts(&self.path(path), options).await.map_err(failed)?;
        // S3 takes 10,000 parts.
        let part = usize::try_from(size.div_ceil(9_000)).unwrap_or(usize::MAX).max(PART);
        let mut writer = WriteMultipart::new_with_chunk_size(upload, part);
        let sent = async {
            while let Some(chunk) = chunks.next().await {
                writer.wait_for_capacity(PARTS).await.map_err(failed)?;
                writer.put(chunk?);
            }
            Ok::<_, PublishError>(())
        };
        match sent.await {
            Ok(()) => writer.finish().await.map(drop).map_err(failed),
            Err(error) => {
                if let Err(error) = writer.abort().await {
                    tracing::warn!(%error, path, "an upload to the bucket could not be aborted");
                }
                Err(error)
            }
        }
    }

    async fn names(&self, folder: &str) -> Result<Vec<String>, PublishError> {
        let listed = self.objects.list_with_delimiter(Some(&self.path(folder))).await;
        let listed = listed.map_err(|error| self.failed("listing", folder, &error))?;
        Ok(listed.objects.iter().filter_map(|found| found.location.filename().map(str::to_owned)).collect())
    }

    /// Each object has its type.
    async fn finish(&self) -> Result<(), PublishError> {
        Ok(())
    }
}
