//! What is written into the scope of an export.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};

use super::scope::{Labels, Times, check_labels};
use super::write::exists;
use super::{Export, Ingester, Writer};
use crate::activity::Arrival;
use crate::engine::EngineError;
use crate::engine::ingest::{Expected, IngestManager, IngestWriter, OpenedIngest};
use crate::export_v1::ApiError;
use crate::export_v1::limits::WRITES;
use crate::export_v1::proto::Reason;
use crate::image::Digest;

/// What is wrong with a message behind the last one of its write.
const ENDED: &str = "the write has ended";

/// That something happened which cannot.
fn broken(what: &str) -> Status {
    ApiError::new(Code::Internal, Reason::EngineRefused, what).into()
}

/// An export, as what takes blobs.
#[derive(Debug)]
pub(super) struct Scoped(pub(super) Arc<dyn Export>);

#[async_trait::async_trait]
impl Ingester for Scoped {
    fn end(&self) -> &CancellationToken {
        &self.0.contents().cancel
    }

    fn ended(&self) -> Status {
        let ended = || ApiError::new(Code::Aborted, Reason::ExportAborted, "the export has ended; open another one");
        self.0.check_alive().err().unwrap_or_else(ended).into()
    }

    fn writers(&self) -> &TaskTracker {
        &self.0.contents().writers
    }

    fn refused(&self, status: &Status) {
        if ApiError::from_status(status).is_some_and(|error| error.reason == Reason::ExportExpired) {
            self.0.lost();
        }
    }

    async fn writer<'a>(&'a self, name: &'a str, expected: &Expected) -> Result<Box<dyn Writer + 'a>, Status> {
        let lock = Lock::take(&*self.0, name)?;
        Ok(Box::new(ScopedWriter::open(lock, expected).await?))
    }
}

/// One writer for each ref, and not too many of them.
struct Lock<'a> {
    export: &'a dyn Export,
    name: &'a str,
}

impl<'a> Lock<'a> {
    fn take(export: &'a dyn Export, name: &'a str) -> Result<Self, Status> {
        let mut scope = export.contents().scope();
        if scope.writing() >= WRITES {
            let message = format!("{WRITES} writes of this export are under way; wait for one of them");
            return Err(ApiError::limit(Code::ResourceExhausted, "writes", WRITES, message).into());
        }
        if !scope.lock(name) {
            return Err(Status::unavailable(format!("ref {name} locked: it is being written")));
        }
        Ok(Self { export, name })
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        self.export.contents().scope().unlock(self.name);
    }
}

/// A ref that is being written.
struct ScopedWriter<'a> {
    lock: Lock<'a>,
    /// `None` once it is committed or aborted.
    writer: Option<Box<dyn IngestWriter>>,
    times: Times,
    /// How many bytes the engine had when it was opened.
    begun: u64,
    /// Whether these are of an earlier write, and not of another namespace.
    is_resumed: bool,
}

impl<'a> ScopedWriter<'a> {
    async fn open(lock: Lock<'a>, expected: &Expected) -> Result<Self, Status> {
        let Lock { export, name } = lock;
        if let Some(digest) = expected.digest.as_ref().filter(|it| export.contents().scope().get(it).is_some()) {
            return Err(exists(digest));
        }
        export.contents().scope().check_room(name)?;
        let ingests = export.contents().ingests().map_err(ApiError::from)?;
        let writer = match ingests.open(name, expected).await.map_err(ApiError::from)? {
            OpenedIngest::Writer(writer) => writer,
            OpenedIngest::Present => {
                return Err(match &expected.digest {
                    Some(digest) => {
                        add_to_scope(export, digest, Labels::new()).await?;
                        exists(digest)
                    }
                    None => broken("the engine reports a blob as present although no digest was given"),
                });
            }
        };
        let is_resumed = export.contents().scope().times(name).is_some();
        let begun = writer.offset();
        let times = times(export, ingests, name, begun).await?;
        export.contents().scope().set_times(name, times);
        Ok(Self { lock, writer: Some(writer), times, begun, is_resumed })
    }

    fn open_writer(&mut self) -> Result<&mut Box<dyn IngestWriter>, Status> {
        self.writer.as_mut().ok_or_else(|| broken(ENDED))
    }

    /// Closes the ref for good.
    async fn discard(&mut self) {
        let Lock { export, name } = &self.lock;
        let contents = export.contents();
        // Closed first: an ingest that is merely dropped may still be closing when it is aborted.
        if let Some(writer) = self.writer.take()
            && let Err(error) = writer.suspend().await
        {
            tracing::debug!(export = contents.id, name, %error, "closing a discarded ingest failed");
        }
        contents.scope().forget_times(name);
        if let Ok(ingests) = contents.ingests()
            && let Err(error) = ingests.abort(name).await
        {
            tracing::debug!(export = contents.id, name, %error, "an ingest was not aborted: it is removed with the export");
        }
    }
}

/// When the ref was begun and last written to.
async fn times(export: &dyn Export, ingests: &dyn IngestManager, name: &str, offset: u64) -> Result<Times, Status> {
    let now = SystemTime::now();
    let new = Times { started: now, updated: now };
    if offset == 0 {
        return Ok(new);
    }
    let known = export.contents().scope().times(name);
    if let Some(known) = known {
        return Ok(known);
    }
    let status = ingests.status(name).await.map_err(ApiError::from)?;
    Ok(status.map_or(new, |status| Times { started: status.started, updated: status.updated }))
}

#[async_trait::async_trait]
impl Writer for ScopedWriter<'_> {
    fn offset(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| writer.offset())
    }

    fn times(&self) -> Times {
        self.times
    }

    async fn digest(&mut self) -> Result<Digest, Status> {
        Ok(self.open_writer()?.digest().await.map_err(ApiError::from)?)
    }

    async fn expect(&mut self, digest: &Digest) -> Result<(), Status> {
        let is_there = self.lock.export.contents().scope().get(digest).is_some();
        if is_there {
            self.discard().await;
            return Err(exists(digest));
        }
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), Status> {
        self.open_writer()?.restart().await.map_err(ApiError::from)?;
        self.begun = 0;
        Ok(())
    }

    async fn write(&mut self, data: Bytes) -> Result<(), Status> {
        self.open_writer()?.write(data).await.map_err(ApiError::from)?;
        self.times.updated = SystemTime::now();
        self.lock.export.contents().scope().set_times(self.lock.name, self.times);
        Ok(())
    }

    async fn commit(&mut self, expected: Expected, labels: Labels) -> Result<Digest, Status> {
        check_labels(&labels)?;
        let Some(writer) = self.writer.take() else { return Err(broken(ENDED)) };
        let Lock { export, name } = &self.lock;
        match writer.commit(expected).await {
            Ok((digest, size)) => {
                export.contents().scope().forget_times(name);
                export.contents().scope().add(digest.clone(), size, labels)?;
                export.contents().scope().receive(&digest);
                if !self.is_resumed && self.begun > 0 && self.begun == size {
                    export.contents().arrived(Arrival::Adopted, size);
                } else {
                    // What came in earlier writes of this ref counts with its last.
                    export.contents().arrived(Arrival::Sent, size);
                }
                Ok(digest)
            }
            Err(EngineError::Present { digest }) => {
                export.contents().scope().forget_times(name);
                add_to_scope(*export, &digest, labels).await?;
                Err(exists(&digest))
            }
            Err(error) => Err(ApiError::from(error).into()),
        }
    }

    async fn suspend(mut self: Box<Self>) {
        let Lock { export, name } = &self.lock;
        if let Some(writer) = self.writer.take()
            && let Err(error) = writer.suspend().await
        {
            tracing::debug!(export = export.contents().id, name, %error, "a write that ended early is not kept");
        }
    }
}

/// Takes a blob into the scope that the engine holds, and that is pinned.
async fn add_to_scope(export: &dyn Export, digest: &Digest, labels: Labels) -> Result<(), Status> {
    let size = export.contents().images.size(digest).await.map_err(ApiError::from)?;
    let size = size.ok_or_else(|| ApiError::from(EngineError::Missing { digests: vec![digest.clone()] }))?;
    Ok(export.contents().found(digest, size, labels)?)
}
