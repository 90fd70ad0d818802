//! Writing a blob of which digest and size are known.

use std::fs::TryLockError;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::task::spawn_blocking;

use super::pipe::{BATCH, Core, Pipe, private};
use super::shared::Shared;
use crate::engine::{BlobWriter, EngineError};
use crate::image::Descriptor;

/// Opens `blob`, where it was left by an earlier export of this boot. `None` if there turns out to be all of it. Blocks.
pub(super) fn begin(shared: &Arc<Shared>, lease: &str, blob: &Descriptor) -> Result<Option<Writer>, EngineError> {
    if shared.hold(&blob.digest, Some(blob.size), lease).is_some() {
        return Ok(None);
    }
    let core = open(shared, blob)?;
    let failed = |error: std::io::Error| shared.place.failed("reading the part of a blob", &error);
    if core.file.is_some() && core.length == blob.size {
        let (algorithm, mut core) = (blob.digest.algorithm(), core);
        if core.digest(algorithm, &[]).map_err(failed)? == blob.digest {
            shared.complete(&blob.digest, core, &[], lease)?;
            return Ok(None);
        }
        core.clear().map_err(failed)?;
        return Ok(Some(Writer::new(shared, lease, blob, core)));
    }
    Ok(Some(Writer::new(shared, lease, blob, core)))
}

/// The file that the blob grows in. A small one comes in one batch and has no file until it is complete.
fn open(shared: &Arc<Shared>, blob: &Descriptor) -> Result<Core, EngineError> {
    let algorithm = blob.digest.algorithm();
    let own = || Ok(Core::new(algorithm, private(&shared.place, &shared.process()?)));
    if blob.size <= BATCH as u64 || shared.boot.is_empty() {
        return own();
    }
    let path = shared.place.partial(&shared.boot, &blob.digest);
    let failed = |error: std::io::Error| shared.place.failed("opening the part of a blob", &error);
    let mut file = shared.disk.append(&path).map_err(failed)?;
    match file.file().try_lock() {
        Ok(()) => {}
        // Somebody else writes it at this moment.
        Err(TryLockError::WouldBlock) => return own(),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // The one who had it locked may have completed it, and given it another name.
    use std::os::unix::fs::MetadataExt as _;
    let (mine, named) = (file.file().metadata().map_err(failed)?, path.metadata());
    if !named.is_ok_and(|named| named.ino() == mine.ino()) {
        return own();
    }
    if mine.len() > blob.size {
        file.clear().map_err(failed)?;
    }
    Core::resume(algorithm, path, file).map_err(failed)
}

/// A blob on its way into the layout.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    lease: String,
    blob: Descriptor,
    pipe: Pipe,
    offset: u64,
}

impl Writer {
    fn new(shared: &Arc<Shared>, lease: &str, blob: &Descriptor, core: Core) -> Self {
        let offset = core.length;
        let pipe = Pipe::new(shared.place.clone(), shared.disk.clone(), core);
        Self { shared: shared.clone(), lease: lease.to_owned(), blob: blob.clone(), pipe, offset }
    }

    async fn push(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        if bytes.len() as u64 > self.blob.size - self.pipe.length() {
            let reason = format!("more than the expected {} bytes came", self.blob.size);
            return Err(EngineError::Corrupt { digest: self.blob.digest.clone(), reason });
        }
        let pushed = self.pipe.push(bytes).await;
        pushed.inspect_err(|error| self.shared.note_space(&self.lease, error))
    }

    async fn finish(self) -> Result<(), EngineError> {
        let Self { shared, lease, blob, pipe, .. } = self;
        if pipe.length() != blob.size {
            let reason = format!("{} bytes came, expected {}", pipe.length(), blob.size);
            return Err(EngineError::Corrupt { digest: blob.digest, reason });
        }
        let (core, rest) = pipe.finish().await.inspect_err(|error| shared.note_space(&lease, error))?;
        let is_large = core.file.is_some();
        let work = shared.clone();
        let done = spawn_blocking(move || {
            let failed = |error: std::io::Error| work.place.failed("reading a blob", &error);
            let actual = core.digest(blob.digest.algorithm(), &rest).map_err(failed)?;
            if actual == blob.digest {
                return work.complete(&blob.digest, core, &rest, &lease);
            }
            if core.file.is_some() {
                // Whoever goes on with it would fail, too.
                if let Err(error) = work.disk.remove(&core.path) {
                    tracing::debug!(%error, path = %core.path.display(), "a corrupt part stays for the collector");
                }
            }
            Err(EngineError::Corrupt { digest: blob.digest, reason: format!("the bytes have the digest {actual}") })
        });
        done.await.unwrap_or_else(|_| Err(shared.place.refuse("writing a blob broke off")))?;
        if is_large { shared.relieve().await } else { Ok(()) }
    }
}

impl BlobWriter for Writer {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.push(bytes))
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), EngineError>> {
        Box::pin(self.finish())
    }
}
