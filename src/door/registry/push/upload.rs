//! One upload: an ingest under the lease of its push, and the store's stream, which stays open between requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};
use tokio::time::{Instant, sleep, timeout};

use super::Push;
use super::body::UploadBody;
use super::limits::{BLOB_BYTES, STREAM_IDLE, TURN, UNSENT_IDLE};
use crate::activity::Arrival;
use crate::door::registry::refusal::{Code, Refusal};
use crate::engine::ingest::{Expected, IngestWriter, OpenedIngest};
use crate::engine::{EngineError, Lease};
use crate::image::Digest;

/// How often it is tried to open a stream whose former one is just being closed.
const TRIES: u32 = 8;

/// An upload.
#[derive(Debug)]
pub(in crate::door::registry) struct Upload {
    /// Also the ref of its ingest.
    pub(in crate::door::registry) id: String,
    /// Bytes that came, as far as the store knows.
    offset: AtomicU64,
    used: Mutex<Instant>,
    stream: AsyncMutex<UploadStream>,
}

/// What only one request at a time may touch.
#[derive(Debug)]
pub(in crate::door::registry) struct UploadStream {
    writer: Option<Box<dyn IngestWriter>>,
    /// Whether the store has an ingest of it.
    is_begun: bool,
    has_ended: bool,
}

impl Upload {
    /// An upload with `offset` bytes, if it was begun before.
    pub(super) fn new(id: String, offset: Option<u64>) -> Self {
        let stream = UploadStream { writer: None, is_begun: offset.is_some(), has_ended: false };
        Self {
            id,
            offset: AtomicU64::new(offset.unwrap_or(0)),
            used: Mutex::new(Instant::now()),
            stream: AsyncMutex::new(stream),
        }
    }

    /// How many bytes it has: where the next ones belong.
    pub(in crate::door::registry) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }

    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// For how long nothing has been done with it.
    pub(super) fn idle(&self) -> Duration {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Whether the store may have something of it.
    pub(super) fn is_begun(&self) -> bool {
        self.stream.try_lock().map_or(true, |stream| stream.is_begun)
    }

    /// Whether it was begun a while ago and has nothing, so that nothing is lost with it.
    pub(super) fn is_unsent(&self) -> bool {
        self.idle() >= UNSENT_IDLE && !self.is_begun()
    }

    /// Waits until no other request uses it.
    ///
    /// # Errors
    /// 416 with where it is, if that takes too long; 404 if it has ended meanwhile.
    async fn turn(&self) -> Result<MutexGuard<'_, UploadStream>, Refusal> {
        let stream = timeout(TURN, self.stream.lock()).await.map_err(|_| {
            let message = "another request still sends to this upload";
            Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, Code::BlobUploadInvalid, message)
        })?;
        self.touch();
        if stream.has_ended { Err(unknown()) } else { Ok(stream) }
    }

    /// Appends a body. `start` is where the client says that it belongs; without it, it belongs at the end.
    pub(in crate::door::registry) async fn append(
        &self,
        push: &Push,
        start: Option<u64>,
        body: &mut UploadBody,
    ) -> Result<(), Refusal> {
        let leased = push.leased();
        match self.append_under(&*leased.lease, start, body).await {
            Err(refusal) if refusal.is_lease_lost && body.is_unread() => {
                self.append_under(&*push.renew(&leased).await?.lease, start, body).await
            }
            outcome => outcome,
        }
    }

    async fn append_under(&self, lease: &dyn Lease, start: Option<u64>, body: &mut UploadBody) -> Result<(), Refusal> {
        let mut stream = self.turn().await?;
        self.check_start(start)?;
        self.open(lease, &mut stream, &Expected::default()).await?;
        self.write(&mut stream, body).await?;
        let Some(writer) = &mut stream.writer else { return Ok(()) };
        // The store has it then, whatever becomes of this process.
        let stored = writer.digest().await;
        self.close_if(stored.is_err(), &mut stream).await;
        stored.map(drop).map_err(Refusal::from)
    }

    /// Asks the store where the upload is, unless its stream is open: of what came last it may have less.
    pub(in crate::door::registry) async fn locate(&self, push: &Push) {
        let Ok(stream) = self.stream.try_lock() else { return };
        if !stream.is_begun || stream.writer.is_some() {
            return;
        }
        let leased = push.leased();
        let Ok(ingests) = leased.lease.ingests() else { return };
        if let Ok(Some(status)) = ingests.status(&self.id).await {
            self.offset.store(status.offset, Ordering::Relaxed);
        }
    }

    fn check_start(&self, start: Option<u64>) -> Result<(), Refusal> {
        let offset = self.offset();
        if start.is_none_or(|start| start == offset) {
            return Ok(());
        }
        let message = format!("the upload has {offset} bytes: the next ones belong there");
        Err(Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, Code::BlobUploadInvalid, message))
    }

    /// Opens the stream, if it is not open. `false` if the engine has the blob that is expected.
    async fn open(&self, lease: &dyn Lease, stream: &mut UploadStream, expected: &Expected) -> Result<bool, Refusal> {
        if stream.writer.is_some() {
            return Ok(true);
        }
        let mut tries = 0;
        let opened = loop {
            match lease.ingests()?.open(&self.id, expected).await {
                Err(EngineError::Busy { .. }) if tries < TRIES => {
                    tries += 1;
                    sleep(Duration::from_millis(10 << tries)).await;
                }
                opened => break opened?,
            }
        };
        match opened {
            OpenedIngest::Present => Ok(false),
            OpenedIngest::Writer(writer) => {
                let (known, offset) = (self.offset(), writer.offset());
                stream.writer = Some(writer);
                if stream.is_begun {
                    self.offset.store(offset, Ordering::Relaxed);
                    if offset < known {
                        // The client goes on where it is told, or begins anew.
                        let message = format!("the store has only {offset} bytes of this upload, and had {known}");
                        return Err(Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, Code::BlobUploadInvalid, message));
                    }
                }
                Ok(true)
            }
        }
    }

    /// Writes a body. What came of one that breaks off is stored.
    async fn write(&self, stream: &mut UploadStream, body: &mut UploadBody) -> Result<(), Refusal> {
        let written = self.try_write(stream, body).await;
        self.close_if(written.is_err(), stream).await;
        written
    }

    /// Closes the stream of a request that failed. When this returns, another request can open it, or give the upload up.
    async fn close_if(&self, has_failed: bool, stream: &mut UploadStream) {
        if let Some(writer) = stream.writer.take_if(|_| has_failed)
            && let Err(error) = writer.suspend().await
        {
            tracing::debug!(%error, upload = self.id, "the last bytes of a request are not stored");
        }
    }

    async fn try_write(&self, stream: &mut UploadStream, body: &mut UploadBody) -> Result<(), Refusal> {
        let Some(writer) = &mut stream.writer else { return Err(unknown()) };
        stream.is_begun = true;
        while let Some(bytes) = body.next().await? {
            let offset = writer.offset().saturating_add(bytes.len() as u64);
            if offset > BLOB_BYTES {
                let message = format!("a blob has {BLOB_BYTES} bytes at most");
                return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Code::SizeInvalid, message));
            }
            writer.write(bytes).await?;
            self.offset.store(writer.offset(), Ordering::Relaxed);
            self.touch();
        }
        Ok(())
    }

    /// Appends a body, and makes the upload the blob `digest`. What is no such blob is gone afterwards, and so is the upload.
    /// With the digest comes whether the client must have all of it, even if the engine has it, too. Returns how it came.
    pub(in crate::door::registry) async fn finish(
        &self,
        push: &Push,
        start: Option<u64>,
        digest: (&Digest, bool),
        body: &mut UploadBody,
    ) -> Result<Arrival, Refusal> {
        let leased = push.leased();
        match self.finish_under(&*leased.lease, start, digest, body).await {
            Err(refusal) if refusal.is_lease_lost && body.is_unread() => {
                self.finish_under(&*push.renew(&leased).await?.lease, start, digest, body).await
            }
            outcome => outcome,
        }
    }

    async fn finish_under(
        &self,
        lease: &dyn Lease,
        start: Option<u64>,
        (digest, is_shown): (&Digest, bool),
        body: &mut UploadBody,
    ) -> Result<Arrival, Refusal> {
        let mut stream = self.turn().await?;
        self.check_start(start)?;
        let mut expected = Expected { digest: Some(digest.clone()), size: None };
        if !stream.is_begun {
            // Nothing came before: the engine may have the blob, here or in another namespace.
            expected.size = body.length();
            if !self.open(lease, &mut stream, &expected).await? {
                if is_shown { body.verify(digest).await } else { body.skip().await }?;
                stream.has_ended = true;
                return Ok(Arrival::Present);
            }
            let adopted = stream.writer.as_ref().map_or(0, |writer| writer.offset());
            if adopted > 0 && !is_shown && expected.size.is_none_or(|size| size == adopted) {
                body.skip().await?;
                self.commit(lease, stream, expected).await?;
                return Ok(Arrival::Adopted);
            }
            if let Some(writer) = stream.writer.as_mut().filter(|_| adopted > 0) {
                writer.restart().await?;
            }
            expected.size = None;
        } else if !self.open(lease, &mut stream, &Expected::default()).await? {
            return Err(unknown());
        }
        self.write(&mut stream, body).await?;
        self.commit(lease, stream, expected).await?;
        Ok(Arrival::Sent)
    }

    async fn commit(
        &self,
        lease: &dyn Lease,
        mut stream: MutexGuard<'_, UploadStream>,
        expected: Expected,
    ) -> Result<(), Refusal> {
        let Some(writer) = stream.writer.take() else { return Err(unknown()) };
        let refused = match writer.commit(expected).await {
            Ok(_) | Err(EngineError::Present { .. }) => {
                stream.has_ended = true;
                return Ok(());
            }
            Err(error @ EngineError::Corrupt { .. }) => Refusal::bad(Code::DigestInvalid, error.to_string()),
            Err(error) if error.is_full() => error.into(),
            // The bytes are there, and the client may try again.
            Err(error) => return Err(error.into()),
        };
        stream.has_ended = true;
        if let Err(error) = lease.ingests()?.abort(&self.id).await {
            tracing::debug!(%error, upload = self.id, "what came of it goes with the lease");
        }
        Err(refused)
    }

    /// Gives the upload up.
    pub(in crate::door::registry) async fn cancel(&self, push: &Push) -> Result<(), Refusal> {
        let mut stream = self.turn().await?;
        if let Some(writer) = stream.writer.take() {
            writer.suspend().await?;
        }
        if stream.is_begun {
            match push.leased().lease.ingests()?.abort(&self.id).await {
                // It went with its lease.
                Err(EngineError::LeaseLost { .. }) => {}
                aborted => aborted?,
            }
        }
        stream.has_ended = true;
        Ok(())
    }

    /// Closes the stream if it was not used for a while.
    pub(super) async fn suspend_if_idle(&self) {
        if self.idle() >= STREAM_IDLE {
            self.suspend().await;
        }
    }

    /// Closes the stream, unless a request uses it. What came stays.
    pub(super) async fn suspend(&self) {
        let Ok(mut stream) = self.stream.try_lock() else { return };
        if let Some(writer) = stream.writer.take()
            && let Err(error) = writer.suspend().await
        {
            tracing::debug!(%error, upload = self.id, "an upload that was idle lost its last bytes");
        }
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.stream.try_lock().is_ok_and(|stream| stream.has_ended)
    }
}

/// There is no such upload.
pub(in crate::door::registry) fn unknown() -> Refusal {
    let message = "there is no such upload: it has ended, or was never begun";
    Refusal::absent(Code::BlobUploadUnknown, message)
}
