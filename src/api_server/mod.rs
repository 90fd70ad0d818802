//! The gRPC server of one listener: its services, which doors bring as [`ApiService`]s, its limits, and the connections that it is
//! given.

mod admission;
mod client;
mod commit_task;
mod messages;
mod opening;
mod refusals;
mod status;
mod traced;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::activity::Activities;
use crate::content_server::{ContentService, Scopes};
use crate::engine::EngineError;
use crate::export_v1::limits::{MESSAGE_BYTES, METADATA_BYTES};
use crate::export_v1::proto::content_server::ContentServer;
use crate::http2::AuthorityRewriter;
use crate::net::{self, Principal};
use crate::status::StatusReport;

pub use admission::Admission;
pub(crate) use client::client;
pub(crate) use commit_task::{CommitTask, CommitWatcher};
pub(crate) use messages::{next_message, respond_to_each};
pub(crate) use opening::opened;

use refusals::CountRefusals;
use status::StatusService;

/// The HTTP/2 flow-control windows of a stream and of a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// The largest HTTP/2 frame; the default is 16 KiB. Clients that make use of it send with fewer wake-ups on either side.
const FRAME: u32 = 256 << 10;
/// Streams of one connection at once.
const STREAMS: u32 = 1024;
/// How often a silent client is sent a ping, and how long its response may take.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));
/// Connections that wait for the server to turn to them.
const BACKLOG: usize = 64;

/// The service that all parts share.
const CONTENT: &str = "containerd.services.content.v1.Content";
/// The services about services.
const OWN: [&str; 2] = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];

/// A byte stream from a client.
trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// One API among the services of a server.
pub struct ApiService {
    /// Its services, by their full names.
    pub(crate) services: Vec<&'static str>,
    /// The file descriptors of these services and of their imports, for reflection.
    pub(crate) descriptors: &'static [u8],
    /// What calls of the Content service may name.
    pub(crate) scopes: Arc<dyn Scopes>,
    /// Adds the services.
    pub(crate) add: Box<dyn FnOnce(&mut RoutesBuilder) + Send>,
}

impl std::fmt::Debug for ApiService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiService").field("services", &self.services).finish_non_exhaustive()
    }
}

/// A client's connection; dropping it marks it as ended.
struct ApiStream {
    stream: Box<dyn Bytes>,
    peer: Principal,
    _ended: oneshot::Sender<()>,
}

/// A server that runs, to be given connections.
#[derive(Debug, Clone)]
pub struct ApiServer(mpsc::Sender<io::Result<ApiStream>>);

impl ApiServer {
    /// Starts a server of `parts`, of which there is at least one; `status` is its status document, if it serves one, and
    /// `admission` says which clients may call. The server
    /// is closed by cancelling `drain`: calls under way are finished then, and no new ones are taken.
    ///
    /// # Errors
    /// When the services cannot be described.
    pub fn start(
        parts: Vec<ApiService>,
        status: Option<StatusReport>,
        admission: Admission,
        drain: CancellationToken,
    ) -> Result<Self, EngineError> {
        Self::observed(parts, status, admission, &Activities::none(), drain)
    }

    /// The same; tells `activities` of the calls that are refused.
    pub(crate) fn observed(
        parts: Vec<ApiService>,
        status: Option<StatusReport>,
        admission: Admission,
        activities: &Activities,
        drain: CancellationToken,
    ) -> Result<Self, EngineError> {
        let layers = (CountRefusals::new(activities.clone()), admission);
        start(parts, status, layers, drain).map_err(|error| EngineError::Protocol {
            operation: "describing the API".to_owned(),
            reason: error.to_string(),
        })
    }

    /// Serves one connection until it ends.
    pub async fn serve(&self, connection: net::Connection<impl AsyncRead + AsyncWrite + Send + Unpin + 'static>) {
        let net::Connection { io, peer } = connection;
        let (ended, end) = oneshot::channel();
        let stream = AuthorityRewriter::new(io, METADATA_BYTES, FRAME);
        if self.0.send(Ok(ApiStream { stream: Box::new(stream), peer, _ended: ended })).await.is_ok() {
            // The sender is never used, only dropped.
            let _ = end.await;
        }
    }
}

/// The services of `parts`, with the Content service that they share, for a tonic server of one's own. Each call needs its client's
/// [`Principal`] among the extensions of its request; those without one are refused. What [`ApiServer`] does beyond that (health,
/// reflection, limits of HTTP/2, clients that send no host's name as `:authority`) is for that server to do.
pub fn routes(parts: Vec<ApiService>) -> Routes {
    let mut routes = RoutesBuilder::default();
    add(&mut routes, parts);
    routes.routes()
}

fn add(routes: &mut RoutesBuilder, parts: Vec<ApiService>) {
    let blobs = ContentService::Scopes(parts.iter().map(|part| part.scopes.clone()).collect());
    let blobs =
        ContentServer::new(blobs).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES);
    routes.add_service(blobs);
    for part in parts {
        (part.add)(routes);
    }
}

fn start(
    parts: Vec<ApiService>,
    status: Option<StatusReport>,
    (refusals, admission): (CountRefusals, Admission),
    drain: CancellationToken,
) -> Result<ApiServer, tonic_reflection::server::Error> {
    let (handover, incoming) = mpsc::channel(BACKLOG);
    let services: Vec<_> = parts.iter().flat_map(|part| part.services.iter().copied()).chain([CONTENT]).collect();
    let reflection = || {
        let described = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        let described = parts
            .iter()
            .fold(described, |described, part| described.register_encoded_file_descriptor_set(part.descriptors));
        services.iter().chain(&OWN).fold(described, |reflection, name| reflection.with_service_name(*name))
    };
    // Python's client and older ones of others request the first version only.
    let (reflection, older) = (reflection().build_v1()?, reflection().build_v1alpha()?);
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut routes = RoutesBuilder::default();
    routes.add_service(health).add_service(reflection).add_service(older);
    if let Some(status) = status {
        routes.add_service(StatusService(status));
    }
    add(&mut routes, parts);
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(METADATA_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .http2_max_pending_accept_reset_streams(Some(STREAMS as usize))
        .layer(refusals)
        .layer(admission)
        .add_routes(routes.routes())
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
    Ok(ApiServer(handover))
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
