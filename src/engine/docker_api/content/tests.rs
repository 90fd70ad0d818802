use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut as _, BytesMut};
use containerd_client::services::v1::{Info, InfoResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use tokio::net::UnixListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::docker_api::Api;

/// What a server sends in response to one call.
enum Reply {
    Messages(Vec<Vec<u8>>),
    Refusal(Code),
    /// Chunks of a blob without an end.
    Endless,
}

/// A server of gRPC on a socket, which responds to each call with what `reply` makes of its path.
struct Server {
    content: Content,
    _folder: tempfile::TempDir,
    _task: AbortOnDropHandle<()>,
}

fn server(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("docker.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let reply = Arc::new(reply);
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let reply = reply.clone();
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(respond_to(request, respond, reply.clone()));
                }
            });
        }
    });
    let content = Content::new(Arc::new(Grpc::new(Arc::new(Api::new(&path)))));
    Server { content, _folder: folder, _task: AbortOnDropHandle::new(task) }
}

async fn respond_to(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    reply: Arc<impl Fn(&str) -> Reply>,
) {
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    // A client that has heard enough goes away.
    let Ok(mut body) = respond.send_response(head, false) else { return };
    let messages = match reply(request.uri().path()) {
        Reply::Messages(messages) => messages,
        Reply::Refusal(code) => {
            let _ = body.send_trailers(status(code));
            return;
        }
        Reply::Endless => {
            let chunk = ReadContentResponse { offset: 0, data: vec![0; 32 << 10] }.encode_to_vec();
            loop {
                body.reserve_capacity(framed(&chunk).len());
                if std::future::poll_fn(|context| body.poll_capacity(context)).await.is_none_or(|room| room.is_err())
                    || body.send_data(framed(&chunk), false).is_err()
                {
                    return;
                }
            }
        }
    };
    for message in messages {
        let _ = body.send_data(framed(&message), false);
    }
    let _ = body.send_trailers(status(Code::Ok));
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    frame.freeze()
}

fn status(code: Code) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code as i32));
    trailers
}

fn info(digest: &str, size: i64) -> Reply {
    let info = Info { digest: digest.to_owned(), size, ..Info::default() };
    Reply::Messages(vec![InfoResponse { info: Some(info) }.encode_to_vec()])
}

#[tokio::test]
async fn what_is_said_of_a_blob_must_be_about_it_and_possible() {
    let digest = Digest::sha256(b"blob");
    let said = digest.clone();
    let turn = AtomicUsize::new(0);
    let server = server(move |_| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => info(said.as_str(), 4),
        1 => info(said.as_str(), -1),
        2 => info(Digest::sha256(b"other").as_str(), 4),
        3 => Reply::Messages(vec![Vec::new()]),
        4 => Reply::Refusal(Code::NotFound),
        _ => Reply::Refusal(Code::PermissionDenied),
    });
    let content = &server.content;
    assert_eq!(content.info(&digest).await.unwrap().unwrap().size, 4);
    for words in ["a size of -1 bytes", "it speaks of sha256:", "it says nothing"] {
        let error = content.info(&digest).await.unwrap_err();
        assert!(matches!(error, EngineError::Protocol { .. }) && error.to_string().contains(words), "{error}");
    }
    assert_eq!(content.info(&digest).await.unwrap(), None);
    let error = content.info(&digest).await.unwrap_err();
    assert!(matches!(error, EngineError::Rpc { code: Code::PermissionDenied, .. }), "{error}");
}

#[tokio::test]
async fn a_blob_of_another_size_is_not_there() {
    let blobs: Vec<_> = [1, 2].map(|size| Descriptor::new("a/b", Digest::sha256(&[size]), u64::from(size))).into();
    let known: Mutex<Vec<_>> = Mutex::new(blobs.iter().map(|blob| blob.digest.to_string()).collect());
    // Each is said to have one byte.
    let server = server(move |_| info(&known.lock().unwrap().remove(0), 1));
    let mut lacking = Vec::new();
    for blob in &blobs {
        lacking.extend(server.content.lacks([blob]).await.unwrap());
    }
    assert_eq!(lacking, [blobs[1].digest.clone()]);
}

#[derive(Debug)]
struct Opened(Content);

#[async_trait::async_trait]
impl crate::source::Source for Opened {
    fn name(&self) -> &str {
        self.0.name()
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<Chunks, SourceError> {
        self.0.open(blob, offset).await
    }
}

#[tokio::test]
async fn an_endless_document_is_read_to_its_size_and_no_further() {
    let server = server(|_| Reply::Endless);
    let source = Opened(server.content.clone());
    for size in [100, SMALL_BYTES, 1 << 20] {
        let document = Descriptor::new("a/b", Digest::sha256(b"document"), size);
        let limit = Duration::from_secs(20);
        let error = timeout(limit, crate::source::read_document(&source, &document)).await.unwrap().unwrap_err();
        assert!(matches!(error, SourceError::Length { .. }), "{error}");
    }
}
