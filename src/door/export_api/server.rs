//! The gRPC server: its services, its limits, and the connections that it is given.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::content::Blobs;
use super::references::ReferenceService;
use super::service::ExportService;
use super::sessions::Sessions;
use super::status::Asked;
use crate::export_v1::limits::{MESSAGE_BYTES, METADATA_BYTES};
use crate::export_v1::proto::DESCRIPTORS;
use crate::export_v1::proto::content_server::ContentServer;
use crate::export_v1::proto::exports_server::ExportsServer;
use crate::export_v1::proto::references_server::ReferencesServer;
use crate::http2::Lenient;
use crate::net::{self, Principal};
use crate::status;

/// What may be in flight on one stream, and on all of a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// The largest HTTP/2 frame; the default is 16 KiB. Clients that make use of it send with fewer wake-ups on either side.
const FRAME: u32 = 256 << 10;
/// Streams of one connection at once.
const STREAMS: u32 = 1024;
/// How often a client that says nothing is asked whether it is there, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));
/// Connections that wait for the server to turn to them.
const BACKLOG: usize = 64;

/// The services of every engine, by their full names.
const SERVICES: [&str; 2] = ["linkspan.export.v1.Exports", "containerd.services.content.v1.Content"];
/// The service of engines whose images can be read.
const REFERENCES: &str = "linkspan.export.v1.References";
/// The services about services.
const OWN: [&str; 2] = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];

/// A byte stream from a client.
trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// A client's connection; dropping it says that it has ended.
pub(super) struct ApiStream {
    stream: Box<dyn Bytes>,
    peer: Principal,
    _ended: oneshot::Sender<()>,
}

/// Hands connections to the server.
#[derive(Debug, Clone)]
pub(super) struct Handover(mpsc::Sender<io::Result<ApiStream>>);

impl Handover {
    /// Serves one connection until it ends.
    pub(super) async fn serve(
        &self,
        connection: net::Connection<impl AsyncRead + AsyncWrite + Send + Unpin + 'static>,
    ) {
        let net::Connection { io, peer } = connection;
        let (ended, end) = oneshot::channel();
        let stream = Lenient::new(io, METADATA_BYTES, FRAME);
        if self.0.send(Ok(ApiStream { stream: Box::new(stream), peer, _ended: ended })).await.is_ok() {
            // The sender is never used, only dropped.
            let _ = end.await;
        }
    }
}

/// Starts the server; it ends when `drain` is cancelled and the last connection has ended.
pub(super) fn start(
    sessions: &Arc<Sessions>,
    status: Option<status::StatusReport>,
    drain: CancellationToken,
) -> Result<Handover, tonic_reflection::server::Error> {
    let (handover, incoming) = mpsc::channel(BACKLOG);
    let readable = sessions.exports.engine().images().is_ok();
    let services: Vec<_> = SERVICES.into_iter().chain(readable.then_some(REFERENCES)).collect();
    let reflection = || {
        let described = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        services.iter().chain(&OWN).fold(described, |reflection, name| reflection.with_service_name(*name))
    };
    // Python's client and older ones of others ask the first version only.
    let (reflection, older) = (reflection().build_v1()?, reflection().build_v1alpha()?);
    let (reporter, health) = tonic_health::server::health_reporter();
    let (exports, blobs) = (ExportService(sessions.clone()), Blobs(sessions.clone()));
    let exports =
        ExportsServer::new(exports).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES);
    let blobs =
        ContentServer::new(blobs).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES);
    let references = readable.then(|| {
        ReferencesServer::new(ReferenceService::new(sessions.exports.clone()))
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    });
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(METADATA_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .http2_max_pending_accept_reset_streams(Some(STREAMS as usize))
        .add_service(health)
        .add_optional_service(status.map(Asked))
        .add_service(reflection)
        .add_service(older)
        .add_service(exports)
        .add_service(blobs)
        .add_optional_service(references)
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), drain.clone().cancelled_owned());
    tokio::spawn(async move {
        for name in services.iter().copied().chain([""]) {
            reporter.set_service_status(name, tonic_health::ServingStatus::Serving).await;
        }
        let draining = async {
            drain.cancelled().await;
            for name in services.iter().copied().chain([""]) {
                reporter.set_service_status(name, tonic_health::ServingStatus::NotServing).await;
            }
        };
        let (served, ()) = tokio::join!(server, draining);
        if let Err(error) = served {
            tracing::warn!(%error, "the export door ended");
        }
    });
    Ok(Handover(handover))
}

impl Connected for ApiStream {
    type ConnectInfo = Principal;

    fn connect_info(&self) -> Principal {
        self.peer.clone()
    }
}

impl AsyncRead for ApiStream {
    forward!(read stream);
}

impl AsyncWrite for ApiStream {
    forward!(write stream);
}
