//! The archive on its way: its files, in their order.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use crate::docker_api::Api;
use crate::engine::docker::{Upload, broken, read_lines};
use crate::engine::{BlobWriter, EngineError};
use crate::image::layout::{MARKER, MARKER_FILE, blob_path};
use crate::image::{Descriptor, Hasher};
use crate::source::{Source, SourceError};
use crate::tar;

/// How many lines for people are kept: one for each name, and as many again about what became of it.
const NOTES: usize = 4096;

/// An archive that is being written.
#[derive(Debug)]
pub(super) enum Archive {
    NotBegun,
    Open(Upload),
    /// A file broke off, or dockerd has it all.
    Closed,
}

impl Archive {
    /// The load under way, which is begun if it is not.
    pub(super) async fn open(&mut self, api: &Arc<Api>, cancelled: &CancellationToken) -> Result<&Upload, EngineError> {
        if matches!(self, Self::NotBegun) && !cancelled.is_cancelled() {
            let upload = begin(api.clone(), cancelled.clone());
            upload.file(MARKER_FILE, Bytes::from_static(MARKER)).await?;
            *self = Self::Open(upload);
        }
        match self {
            Self::Open(upload) => Ok(upload),
            Self::NotBegun | Self::Closed => Err(closed()),
        }
    }
}

/// Begins a load.
fn begin(api: Arc<Api>, cancelled: CancellationToken) -> Upload {
    Upload::start(api, "/images/load?quiet=1", cancelled, async move |api, response| {
        let mut notes = Vec::new();
        let line = |line: Result<crate::engine::docker::Line, &str>| {
            let text = line.map_err(|message| refused(message.to_owned()))?.stream;
            notes.extend(text.filter(|_| notes.len() < NOTES).map(|text| text.trim_end().to_owned()));
            Ok(())
        };
        read_lines(&api, response, line).await?;
        Ok(notes)
    })
}

/// What a refusal of dockerd means.
pub(super) fn refused(reason: String) -> EngineError {
    if EngineError::is_no_space(&reason) {
        return EngineError::NoSpace { operation: "loading the image into docker".to_owned(), message: reason };
    }
    EngineError::Commit { engine: "docker", reason }
}

pub(super) fn closed() -> EngineError {
    broken("the archive broke off".to_owned())
}

/// Reads `blob` from `source` into the archive.
pub(super) async fn copy(upload: &Upload, source: &dyn Source, blob: &Descriptor) -> Result<(), EngineError> {
    let unread = |error: SourceError| match error {
        SourceError::NotFound { digest, .. } => EngineError::Vanished { digests: vec![digest] },
        error => EngineError::Protocol { operation: format!("reading {}", blob.digest), reason: error.reason() },
    };
    let mut chunks = source.open(blob, 0).await.map_err(unread)?;
    upload.send(tar::member(&blob_path(&blob.digest), blob.size)).await?;
    let mut checked = Checked::new(blob);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(unread)?;
        checked.add(&chunk)?;
        upload.send(chunk).await?;
    }
    checked.finish()?;
    upload.pad(blob.size).await
}

/// The length and the hash of a blob that is being sent. dockerd stores what it loads under the digest that it has: nothing
/// but this finds that another one was meant, and it does before the image is named.
#[derive(Debug)]
struct Checked {
    blob: Descriptor,
    left: u64,
    hasher: Hasher,
}

impl Checked {
    fn new(blob: &Descriptor) -> Self {
        Self { blob: blob.clone(), left: blob.size, hasher: Hasher::new(blob.digest.algorithm()) }
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| self.corrupt("more"))?;
        self.hasher.update(bytes);
        Ok(())
    }

    fn finish(self) -> Result<(), EngineError> {
        if self.left > 0 {
            return Err(self.corrupt("less"));
        }
        let (digest, found) = (self.blob.digest, self.hasher.finish());
        if found != digest {
            return Err(EngineError::Corrupt { digest, reason: format!("its bytes have the digest {found}") });
        }
        Ok(())
    }

    fn corrupt(&self, what: &str) -> EngineError {
        let (digest, size) = (self.blob.digest.clone(), self.blob.size);
        EngineError::Corrupt { digest, reason: format!("it has {what} than the {size} bytes that were announced") }
    }
}

/// A file of the archive. Dropping it before its end breaks the whole archive off.
#[derive(Debug)]
pub(super) struct Writer {
    archive: OwnedMutexGuard<Archive>,
    checked: Option<Checked>,
}

impl Writer {
    /// Begins the file of `blob` in `archive`, which must be open.
    pub(super) async fn begin(archive: OwnedMutexGuard<Archive>, blob: &Descriptor) -> Result<Self, EngineError> {
        let writer = Self { archive, checked: Some(Checked::new(blob)) };
        writer.upload()?.send(tar::member(&blob_path(&blob.digest), blob.size)).await?;
        Ok(writer)
    }

    fn upload(&self) -> Result<&Upload, EngineError> {
        match &*self.archive {
            Archive::Open(upload) => Ok(upload),
            Archive::NotBegun | Archive::Closed => Err(closed()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.checked.is_some() {
            *self.archive = Archive::Closed;
        }
    }
}

#[async_trait]
impl BlobWriter for Writer {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            self.checked.as_mut().ok_or_else(closed)?.add(&bytes)?;
            self.upload()?.send(bytes).await
        })
    }

    async fn commit(mut self: Box<Self>) -> Result<(), EngineError> {
        let size = self.checked.as_ref().ok_or_else(closed)?.blob.size;
        self.upload()?.pad(size).await?;
        // The archive is closed with the blob that is not what was announced.
        let checked = self.checked.take().ok_or_else(closed)?;
        let outcome = checked.finish();
        if outcome.is_err() {
            *self.archive = Archive::Closed;
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    #[test]
    fn a_blob_that_is_not_what_it_should_be_is_found() {
        let blob = Descriptor::new("a/b", Digest::sha256(b"content"), 7);
        let check = |pieces: &[&[u8]]| {
            let mut checked = Checked::new(&blob);
            pieces.iter().try_for_each(|piece| checked.add(piece)).and_then(|()| checked.finish())
        };
        check(&[b"con", b"", b"tent"]).unwrap();
        for (pieces, words) in [
            (&[&b"contents"[..]][..], "more than the 7 bytes"),
            (&[b"conten"], "less than the 7 bytes"),
            (&[b"cintent"], "its bytes have the digest sha256:"),
        ] {
            let error = check(pieces).unwrap_err();
            assert!(matches!(&error, EngineError::Corrupt { digest, .. } if *digest == blob.digest), "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
