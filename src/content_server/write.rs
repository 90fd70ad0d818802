//! Content.Write: containerd's protocol on one side, whatever takes blobs on the other.
//!
//! The order of checks, the codes and what a response holds are those of containerd's server (containerd
//! `plugins/services/content/contentserver/contentserver.go`, `Write`), because its clients act on them.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::services::v1::{WriteAction, WriteContentResponse};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{Instrument as _, Span};

use super::{Ingester, Labels, Writer};
use crate::engine::ingest::Expected;
use crate::export_v1::convert::{digest, timestamp};
use crate::export_v1::limits::IDLE;
use crate::export_v1::proto::WriteContentRequest;
use crate::export_v1::{ApiError, ResponseStream};
use crate::image::Digest;

/// How many responses wait for a client that sends ahead and reads late.
const QUEUED_RESPONSES: usize = 16;
/// How much longer than its export a step of a write may take. An engine that responds takes moments; one that has
/// stopped must not keep the export.
const CLOSING: Duration = Duration::from_secs(5);

/// Begins to read `messages`; the responses come as they are ready.
pub(super) fn start(
    ingester: Arc<dyn Ingester>,
    messages: Streaming<WriteContentRequest>,
) -> ResponseStream<WriteContentResponse> {
    let (responses, outgoing) = mpsc::channel(QUEUED_RESPONSES);
    // A task of its own, so that what was written is kept properly when the client goes away. The end of the export
    // waits for it.
    let writers = ingester.writers().clone();
    let writing = async move {
        if let Err(status) = serve(&*ingester, messages, &responses).await {
            ingester.refused(&status);
            // The client may be gone, or not be reading.
            let _ = ingester.end().run_until_cancelled(responses.send(Err(status))).await;
        }
    };
    writers.spawn(writing.in_current_span());
    Box::pin(ReceiverStream::new(outgoing))
}

async fn serve(
    ingester: &dyn Ingester,
    mut messages: impl Stream<Item = Result<WriteContentRequest, Status>> + Unpin,
    responses: &mpsc::Sender<Result<WriteContentResponse, Status>>,
) -> Result<(), Status> {
    let Some(first) = next(ingester, &mut messages).await? else {
        return Err(ApiError::field("ref", "the stream ended before its first message, which names it").into());
    };
    if first.r#ref.is_empty() {
        return Err(ApiError::field("ref", "the first message must have a reference").into());
    }
    let name = first.r#ref.clone();
    // Of the call, whose client says at the beginning what it writes, or at the end.
    Span::current().record("digest", &*first.expected);
    let opening = until_end(ingester, Write::open(ingester, &name, &first)).await;
    let mut write = opening.unwrap_or_else(|| Err(ingester.ended()))?;
    let mut message = first;
    let outcome = loop {
        let is_commit = message.action() == WriteAction::Commit;
        let response = until_end(ingester, write.respond(message)).await;
        match response.unwrap_or_else(|| Err(ingester.ended())) {
            Ok(response) => {
                // A client that is gone gets no response; what it wrote is kept.
                let sent = ingester.end().run_until_cancelled(responses.send(Ok(response))).await;
                let is_gone = !matches!(sent, Some(Ok(())));
                if is_commit {
                    return Ok(());
                }
                if is_gone {
                    break Ok(());
                }
            }
            Err(status) => break Err(status),
        }
        match next(ingester, &mut messages).await {
            Ok(Some(following)) => message = following,
            Ok(None) => break Ok(()),
            Err(status) => break Err(status),
        }
    };
    // What is not closed by then is closed when it is dropped.
    until_end(ingester, write.writer.suspend()).await;
    outcome
}

/// Does `work`, and gives it up soon after the end of the export.
async fn until_end<T>(ingester: &dyn Ingester, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        done = &mut work => Some(done),
        () = ingester.end().cancelled() => timeout(CLOSING, work).await.ok(),
    }
}

/// The next message. A client that is silent for too long does not keep the ref.
async fn next(
    ingester: &dyn Ingester,
    messages: &mut (impl Stream<Item = Result<WriteContentRequest, Status>> + Unpin),
) -> Result<Option<WriteContentRequest>, Status> {
    match ingester.end().run_until_cancelled(timeout(IDLE, messages.next())).await {
        Some(Ok(message)) => message.transpose(),
        Some(Err(_)) => {
            let hint = Some("the write can be resumed at the offset that Status says");
            Err(ApiError::idle(IDLE).with_hint(hint).into())
        }
        None => Err(ingester.ended()),
    }
}

/// A blob that is being written.
struct Write<'a> {
    writer: Box<dyn Writer + 'a>,
    expected: Expected,
}

impl<'a> Write<'a> {
    async fn open(ingester: &'a dyn Ingester, name: &'a str, first: &WriteContentRequest) -> Result<Self, Status> {
        let total = u64::try_from(first.total).map_err(|_| ApiError::field("total", "less than zero"))?;
        let expected = Expected { digest: parse(first)?, size: (total > 0).then_some(total) };
        Ok(Self { writer: ingester.writer(name, &expected).await?, expected })
    }

    async fn respond(&mut self, message: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        let Self { writer, expected } = self;
        if let Some(digest) = parse(&message)? {
            writer.expect(&digest).await?;
            expected.digest = Some(digest);
        }
        if message.total > 0 {
            expected.size = Some(message.total.unsigned_abs());
        }
        let action = message.action();
        let mut response = WriteContentResponse { action: action.into(), ..WriteContentResponse::default() };
        if action == WriteAction::Stat {
            let times = writer.times();
            response.digest = writer.digest().await?.to_string();
            response.started_at = Some(timestamp(times.started));
            response.updated_at = Some(timestamp(times.updated));
            response.total = i64::try_from(expected.size.unwrap_or(0)).unwrap_or(i64::MAX);
            response.offset = i64::try_from(writer.offset()).unwrap_or(i64::MAX);
            return Ok(response);
        }
        let offset = u64::try_from(message.offset).map_err(|_| ApiError::field("offset", "less than zero"))?;
        let current = writer.offset();
        if offset > 0 && offset != current {
            return Err(Status::out_of_range(format!("write @{offset} must occur at current offset {current}")));
        }
        if offset == 0 && current > 0 {
            writer.restart().await?;
        }
        if !message.data.is_empty() {
            writer.write(message.data).await?;
        }
        response.offset = i64::try_from(writer.offset()).unwrap_or(i64::MAX);
        if action == WriteAction::Commit {
            let labels: Labels = message.labels.into_iter().collect();
            response.digest = writer.commit(expected.clone(), labels).await?.to_string();
        }
        Ok(response)
    }
}

fn parse(message: &WriteContentRequest) -> Result<Option<Digest>, Status> {
    if message.expected.is_empty() {
        return Ok(None);
    }
    Ok(Some(digest("expected", &message.expected)?))
}

/// That a blob need not be sent.
pub(crate) fn exists(digest: &Digest) -> Status {
    Status::already_exists(format!("content {digest}: already exists"))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use futures_util::stream;
    use tonic::Code;

    use super::*;
    use crate::content_server::scoped_writer::Scoped;
    use crate::content_server::{Export, ExportContent, Times};
    use crate::engine::fixture::{Stuck, layout};
    use crate::export_v1::limits::REFS;
    use crate::export_v1::proto::Reason;

    /// An export on a lease that does nothing, which has expired once its writes are cancelled.
    #[derive(Debug)]
    struct Stopping(ExportContent);

    impl Stopping {
        async fn new(folder: &std::path::Path, lease: Stuck) -> Arc<Self> {
            let images = layout(folder).await.images().unwrap();
            Arc::new(Self(ExportContent::new("e".to_owned(), Arc::new(lease), images)))
        }
    }

    impl Export for Stopping {
        fn contents(&self) -> &ExportContent {
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
        let (responses, _outgoing) = mpsc::channel(QUEUED_RESPONSES);
        let writing = export.clone();
        let written = contents.writers.spawn(async move {
            let messages = stream::once(std::future::ready(Ok(bytes("a")))).chain(stream::pending());
            serve(&Scoped(writing), messages, &responses).await.unwrap_err()
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
        let (responses, _outgoing) = mpsc::channel(QUEUED_RESPONSES);
        let messages = stream::once(std::future::ready(Ok(bytes("one more"))));
        let status = serve(&Scoped(export), messages, &responses).await.unwrap_err();
        let error = ApiError::from_status(&status).unwrap();
        assert_eq!((error.code, error.reason), (Code::ResourceExhausted, Reason::LimitExceeded), "{status}");
        assert_eq!(error.metadata["limit"], "refs");
    }
}
