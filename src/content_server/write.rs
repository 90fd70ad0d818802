//! Content.Write: containerd's protocol on one side, a writer on the other.
//!
//! The order of checks, the codes and what a response holds are those of containerd's server (containerd
//! `plugins/services/content/contentserver/contentserver.go`, `Write`), because its clients act on them.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use containerd_client::services::v1::{WriteAction, WriteContentResponse};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::Export;
use super::scope::{Labels, Times, check_labels};
use crate::engine::EngineError;
use crate::engine::ingest::{Expected, IngestWriter, OpenedIngest};
use crate::export_v1::convert::{digest, timestamp};
use crate::export_v1::limits::{IDLE, WRITES};
use crate::export_v1::proto::WriteContentRequest;
use crate::export_v1::{ApiError, ResponseStream};
use crate::image::Digest;

/// How many responses wait for a client that sends ahead and reads late.
const ANSWERS: usize = 16;
/// How much longer than its export a step of a write may take. An engine that answers takes moments; one that has
/// stopped must not keep the export.
const CLOSING: Duration = Duration::from_secs(5);

/// Begins to read `messages`; the responses come as they are ready.
pub(super) fn start(
    export: Arc<dyn Export>,
    messages: Streaming<WriteContentRequest>,
) -> ResponseStream<WriteContentResponse> {
    let (responses, outgoing) = mpsc::channel(ANSWERS);
    // A task of its own, so that what was written is kept properly when the client goes away. The end of the export
    // waits for it.
    let writers = export.contents().writers.clone();
    writers.spawn(async move {
        let end = export.contents().cancel.clone();
        if let Err(status) = serve(&*export, messages, &responses).await {
            // The client may be gone, or not be reading.
            let _ = end.run_until_cancelled(responses.send(Err(status))).await;
        }
    });
    Box::pin(ReceiverStream::new(outgoing))
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

async fn serve(
    export: &dyn Export,
    mut messages: impl Stream<Item = Result<WriteContentRequest, Status>> + Unpin,
    responses: &mpsc::Sender<Result<WriteContentResponse, Status>>,
) -> Result<(), Status> {
    let Some(first) = next(export, &mut messages).await? else {
        return Err(Status::invalid_argument("the stream ended before its first message"));
    };
    if first.r#ref.is_empty() {
        return Err(ApiError::field("ref", "the first message must have a reference").into());
    }
    let name = first.r#ref.clone();
    let _lock = Lock::take(export, &name)?;
    let opening = until_end(export, Writing::open(export, &name, &first)).await;
    let mut writing = opening.unwrap_or_else(|| Err(ended(export)))?;
    let mut message = first;
    let outcome = loop {
        let is_commit = message.action() == WriteAction::Commit;
        let response = until_end(export, writing.respond(message)).await;
        match response.unwrap_or_else(|| Err(ended(export))) {
            Ok(response) => {
                // A client that is gone gets no response; what it wrote is kept.
                let told = export.contents().cancel.run_until_cancelled(responses.send(Ok(response))).await;
                let is_gone = !matches!(told, Some(Ok(())));
                if is_commit {
                    return Ok(());
                }
                if is_gone {
                    break Ok(());
                }
            }
            Err(status) => break Err(status),
        }
        match next(export, &mut messages).await {
            Ok(Some(following)) => message = following,
            Ok(None) => break Ok(()),
            Err(status) => break Err(status),
        }
    };
    // What is not closed by then is closed when it is dropped.
    until_end(export, writing.suspend()).await;
    outcome
}

/// Does `work`, and gives it up soon after the end of the export.
async fn until_end<T>(export: &dyn Export, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        done = &mut work => Some(done),
        () = export.contents().cancel.cancelled() => timeout(CLOSING, work).await.ok(),
    }
}

/// That the export has ended.
fn ended(export: &dyn Export) -> Status {
    export.check_alive().err().map_or(Status::aborted("the export ended"), Status::from)
}

/// The next message. A client that is silent for too long does not keep the ref.
async fn next(
    export: &dyn Export,
    messages: &mut (impl Stream<Item = Result<WriteContentRequest, Status>> + Unpin),
) -> Result<Option<WriteContentRequest>, Status> {
    match export.contents().cancel.run_until_cancelled(timeout(IDLE, messages.next())).await {
        Some(Ok(message)) => message.transpose(),
        Some(Err(_)) => {
            let seconds = IDLE.as_secs();
            Err(Status::deadline_exceeded(format!(
                "nothing came for {seconds} s; what was written can be gone on with"
            )))
        }
        None => Err(ended(export)),
    }
}

/// A ref that is being written.
struct Writing<'a> {
    export: &'a dyn Export,
    name: &'a str,
    /// `None` once it is committed or aborted.
    writer: Option<Box<dyn IngestWriter>>,
    expected: Option<Digest>,
    total: u64,
    times: Times,
}

impl<'a> Writing<'a> {
    async fn open(export: &'a dyn Export, name: &'a str, first: &WriteContentRequest) -> Result<Self, Status> {
        let expected = parse(first)?;
        let total = u64::try_from(first.total).map_err(|_| ApiError::field("total", "less than zero"))?;
        if let Some(digest) = expected.as_ref().filter(|digest| export.contents().scope().get(digest).is_some()) {
            return Err(exists(digest));
        }
        export.contents().scope().check_room(name)?;
        let ingests = export.contents().ingests().map_err(ApiError::from)?;
        let wanted = Expected { digest: expected.clone(), size: (total > 0).then_some(total) };
        let writer = match ingests.open(name, &wanted).await.map_err(ApiError::from)? {
            OpenedIngest::Writer(writer) => writer,
            OpenedIngest::Present => {
                return Err(match &expected {
                    Some(digest) => {
                        take_in(export, digest, Labels::new()).await?;
                        exists(digest)
                    }
                    None => Status::internal("the engine has a blob that nobody named"),
                });
            }
        };
        let now = SystemTime::now();
        let known = export.contents().scope().times(name).filter(|_| writer.offset() > 0);
        let times = match known {
            Some(times) => times,
            None if writer.offset() > 0 => {
                let status = ingests.status(name).await.map_err(ApiError::from)?;
                status.map_or(Times { started: now, updated: now }, |status| Times {
                    started: status.started,
                    updated: status.updated,
                })
            }
            None => Times { started: now, updated: now },
        };
        export.contents().scope().set_times(name, times);
        Ok(Self { export, name, writer: Some(writer), expected, total, times })
    }

    async fn respond(&mut self, message: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        if let Some(digest) = parse(&message)? {
            if self.export.contents().scope().get(&digest).is_some() {
                self.discard().await;
                return Err(exists(&digest));
            }
            self.expected = Some(digest);
        }
        if message.total > 0 {
            self.total = message.total.unsigned_abs();
        }
        let action = message.action();
        let Some(writer) = self.writer.as_mut() else { return Err(Status::internal("the write has ended")) };
        let mut response = WriteContentResponse { action: action.into(), ..WriteContentResponse::default() };
        if action == WriteAction::Stat {
            response.digest = writer.digest().await.map_err(ApiError::from)?.to_string();
            response.started_at = Some(timestamp(self.times.started));
            response.updated_at = Some(timestamp(self.times.updated));
            response.total = i64::try_from(self.total).unwrap_or(i64::MAX);
            response.offset = i64::try_from(writer.offset()).unwrap_or(i64::MAX);
            return Ok(response);
        }
        let offset = u64::try_from(message.offset).map_err(|_| ApiError::field("offset", "less than zero"))?;
        let current = writer.offset();
        if offset > 0 && offset != current {
            return Err(Status::out_of_range(format!("write @{offset} must occur at current offset {current}")));
        }
        if offset == 0 && current > 0 {
            writer.restart().await.map_err(ApiError::from)?;
        }
        if !message.data.is_empty() {
            writer.write(message.data).await.map_err(ApiError::from)?;
            self.times.updated = SystemTime::now();
            self.export.contents().scope().set_times(self.name, self.times);
        }
        response.offset = i64::try_from(writer.offset()).unwrap_or(i64::MAX);
        if action == WriteAction::Commit {
            let labels: Labels = message.labels.into_iter().collect();
            response.digest = self.commit(labels).await?.to_string();
        }
        Ok(response)
    }

    async fn commit(&mut self, labels: Labels) -> Result<Digest, Status> {
        check_labels(&labels)?;
        let Some(writer) = self.writer.take() else { return Err(Status::internal("the write has ended")) };
        let expected = Expected { digest: self.expected.clone(), size: (self.total > 0).then_some(self.total) };
        match writer.commit(expected).await {
            Ok((digest, size)) => {
                self.export.contents().scope().forget_times(self.name);
                self.export.contents().scope().add(digest.clone(), size, labels)?;
                Ok(digest)
            }
            Err(EngineError::Present { digest }) => {
                self.export.contents().scope().forget_times(self.name);
                take_in(self.export, &digest, labels).await?;
                Err(exists(&digest))
            }
            Err(error) => Err(ApiError::from(error).into()),
        }
    }

    /// Closes the ref for now.
    async fn suspend(self) {
        if let Some(writer) = self.writer
            && let Err(error) = writer.suspend().await
        {
            tracing::debug!(export = self.export.contents().id, name = self.name, %error, "a write that ended early is not kept");
        }
    }

    /// Closes the ref for good.
    async fn discard(&mut self) {
        // Closed first: an ingest that is merely dropped may still be closing when it is aborted.
        if let Some(writer) = self.writer.take()
            && let Err(error) = writer.suspend().await
        {
            tracing::debug!(export = self.export.contents().id, name = self.name, %error, "a write that is given up was broken");
        }
        self.export.contents().scope().forget_times(self.name);
        if let Ok(ingests) = self.export.contents().ingests()
            && let Err(error) = ingests.abort(self.name).await
        {
            tracing::debug!(export = self.export.contents().id, name = self.name, %error, "left to the end of the export");
        }
    }
}

fn parse(message: &WriteContentRequest) -> Result<Option<Digest>, Status> {
    if message.expected.is_empty() {
        return Ok(None);
    }
    Ok(Some(digest("expected", &message.expected)?))
}

/// Takes a blob into the scope that the engine holds, and that is pinned.
async fn take_in(export: &dyn Export, digest: &Digest, labels: Labels) -> Result<(), Status> {
    let size = export.contents().images.size(digest).await.map_err(ApiError::from)?;
    let size = size.ok_or_else(|| ApiError::from(EngineError::Missing { digests: vec![digest.clone()] }))?;
    Ok(export.contents().scope().add(digest.clone(), size, labels)?)
}

fn exists(digest: &Digest) -> Status {
    Status::already_exists(format!("content {digest}: already exists"))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::content_server::Contents;
    use crate::engine::stuck::{Stuck, layout};
    use crate::export_v1::limits::REFS;
    use crate::export_v1::proto::Reason;

    /// An export on a lease that does nothing, which has expired once its writes are cancelled.
    #[derive(Debug)]
    struct Stopping(Contents);

    impl Stopping {
        async fn new(folder: &std::path::Path, lease: Stuck) -> Arc<Self> {
            let images = layout(folder).await.images().unwrap();
            Arc::new(Self(Contents::new("e".to_owned(), Arc::new(lease), images)))
        }
    }

    impl Export for Stopping {
        fn contents(&self) -> &Contents {
            &self.0
        }

        fn check_alive(&self) -> Result<(), ApiError> {
            let expired = || ApiError::new(Code::FailedPrecondition, Reason::ExportExpired, "it has expired");
            if self.0.cancel.is_cancelled() { Err(expired()) } else { Ok(()) }
        }

        fn check_delete(&self) -> Result<(), ApiError> {
            Ok(())
        }
    }

    fn bytes(name: &str) -> WriteContentRequest {
        WriteContentRequest {
            action: WriteAction::Write.into(),
            r#ref: name.to_owned(),
            data: "bytes".into(),
            ..WriteContentRequest::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_an_engine_does_not_take_does_not_keep_its_export() {
        let folder = tempfile::tempdir().unwrap();
        let export = Stopping::new(folder.path(), Stuck::default()).await;
        let contents = export.contents();
        let (responses, _outgoing) = mpsc::channel(ANSWERS);
        let writing = export.clone();
        let written = contents.writers.spawn(async move {
            let messages = stream::once(std::future::ready(Ok(bytes("a")))).chain(stream::pending());
            serve(&*writing, messages, &responses).await.unwrap_err()
        });
        // It has come to the engine.
        while contents.scope().times("a").is_none() {
            tokio::task::yield_now().await;
        }
        contents.stop().await;
        let status = written.await.unwrap();
        assert_eq!(ApiError::from_status(&status).unwrap().reason, Reason::ExportExpired, "{status}");
        assert_eq!(contents.scope().writing(), 0);
    }

    #[tokio::test]
    async fn an_export_has_so_many_refs() {
        let folder = tempfile::tempdir().unwrap();
        let export = Stopping::new(folder.path(), Stuck::default()).await;
        let times = Times { started: SystemTime::now(), updated: SystemTime::now() };
        for at in 0..REFS {
            export.contents().scope().set_times(&at.to_string(), times);
        }
        let (responses, _outgoing) = mpsc::channel(ANSWERS);
        let messages = stream::once(std::future::ready(Ok(bytes("one more"))));
        let status = serve(&*export, messages, &responses).await.unwrap_err();
        let error = ApiError::from_status(&status).unwrap();
        assert_eq!((error.code, error.reason), (Code::ResourceExhausted, Reason::LimitExceeded), "{status}");
        assert_eq!(error.metadata["limit"], "refs");
    }
}
