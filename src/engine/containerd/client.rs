//! The connection to containerd, and what its gRPC statuses mean.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::version_client::VersionClient;
use hyper_util::rt::TokioIo;
use rustix::process::Pid;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::docker_api::OnlyHttp1;
use crate::engine::EngineError;
use crate::engine::stream::Store;
pub(crate) use crate::engine::stream::{SILENCE, UNARY};
use crate::net::{Dial, DialError, ENGINES, Stream, connect_unix};
use crate::trace_context;

/// containerd's own limit on a message (containerd `defaults.DefaultMaxRecvMsgSize`).
pub(crate) const MESSAGE_BYTES: usize = 16 << 20;
/// How long the connection itself may take to come up.
const CONNECT: Duration = Duration::from_secs(5);
/// HTTP/2 windows for what containerd sends us (documents, many responses at once); the default is 64 KiB.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// containerd over a socket, in one namespace, optionally in the name of a lease.
///
/// The connection is made at the first call and made again after containerd was restarted.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    channel: Channel,
    dial: Arc<dyn Dial>,
    address: String,
    namespace: AsciiMetadataValue,
    lease: Option<Lease>,
}

/// The lease in the name of which a client acts. Clones share what is known of it.
#[derive(Debug, Clone)]
struct Lease {
    id: String,
    header: AsciiMetadataValue,
    /// Whether something was refused for want of room.
    lacked_room: Arc<AtomicBool>,
}

impl Client {
    /// A client for `namespace` of the containerd behind `socket`. Connects at the first call.
    pub(crate) fn new(socket: &Path, namespace: &str) -> Result<Self, EngineError> {
        Self::over(SocketDial::new(socket, "containerd")?, namespace)
    }

    /// The same for the containerd that `dial` leads to.
    pub(crate) fn over(dial: Arc<dyn Dial>, namespace: &str) -> Result<Self, EngineError> {
        let header = namespace.parse().ok().filter(|_| is_identifier(namespace)).ok_or_else(|| {
            EngineError::Namespace { namespace: namespace.to_owned(), reason: NAMESPACE_RULE.to_owned() }
        })?;
        Ok(Self { channel: channel(dial.clone()), address: dial.name(), dial, namespace: header, lease: None })
    }

    /// The same connection, in another namespace and without a lease.
    pub(crate) fn elsewhere(&self, namespace: &str) -> Option<Self> {
        let namespace = namespace.parse().ok()?;
        Some(Self { namespace, lease: None, ..self.clone() })
    }

    /// The same over a connection of its own, whose windows nobody else needs: what is received on a connection and not read
    /// holds up all that comes over it.
    pub(crate) fn apart(&self) -> Self {
        Self { channel: channel(self.dial.clone()), ..self.clone() }
    }

    /// The process that listens at the socket; `None` if this process does not see it.
    pub(crate) async fn process(&self) -> Option<Pid> {
        self.dial.process().await
    }

    /// The same connection, acting in the name of the lease `id`.
    pub(crate) fn leased(&self, id: &str) -> Result<Self, EngineError> {
        let header = id.parse().map_err(|_| EngineError::Protocol {
            operation: "naming the lease".to_owned(),
            reason: format!("`{id}` does not fit into a header"),
        })?;
        let lease = Lease { id: id.to_owned(), header, lacked_room: Arc::default() };
        Ok(Self { lease: Some(lease), ..self.clone() })
    }

    /// Records an error that another service reported for the lease.
    pub(crate) fn note(&self, error: &EngineError) {
        if let (Some(lease), EngineError::NoSpace { .. }) = (&self.lease, error) {
            lease.lacked_room.store(true, Ordering::Relaxed);
        }
    }

    /// Whether anything that was requested in the name of the lease was refused for want of room.
    pub(crate) fn lacked_room(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.lacked_room.load(Ordering::Relaxed))
    }

    /// What was refused for want of room has found it after all.
    pub(crate) fn found_room(&self) {
        if let Some(lease) = &self.lease {
            lease.lacked_room.store(false, Ordering::Relaxed);
        }
    }

    /// The socket, as a URL.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    pub(crate) fn diff(&self) -> DiffClient<Channel> {
        DiffClient::new(self.channel.clone())
    }

    pub(crate) fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    pub(crate) fn introspection(&self) -> IntrospectionClient<Channel> {
        IntrospectionClient::new(self.channel.clone())
    }

    pub(crate) fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    pub(crate) fn namespaces(&self) -> NamespacesClient<Channel> {
        NamespacesClient::new(self.channel.clone())
    }

    pub(crate) fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    pub(crate) fn version(&self) -> VersionClient<Channel> {
        VersionClient::new(self.channel.clone())
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// `message` with the headers that name the namespace and the lease
    /// (containerd `pkg/namespaces/grpc.go`, `core/leases/grpc.go`).
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert("containerd-lease", lease.header.clone());
        }
        trace_context::inject(request.metadata_mut().as_mut());
        request
    }

    /// Awaits a call that does no bulk work.
    pub(crate) async fn unary<T>(
        &self,
        operation: impl Into<String>,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, EngineError> {
        self.within(UNARY, operation, call).await
    }

    /// Awaits a call for at most `limit`.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        operation: impl Into<String>,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, EngineError> {
        match timeout(limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failure(operation, status)),
            Err(_) => Err(EngineError::Timeout { operation: operation.into(), after: limit }),
        }
    }

    /// What a status means.
    pub(crate) fn failure(&self, operation: impl Into<String>, status: Status) -> EngineError {
        if let Some(lease) = &self.lease
            && status.code() == Code::NotFound
            && is_lease_lost(status.message(), &lease.id)
        {
            return EngineError::LeaseLost { lease: lease.id.clone() };
        }
        let error = failure("containerd", &self.address, operation.into(), &status);
        self.note(&error);
        error
    }
}

impl Store for Client {
    fn content(&self) -> ContentClient<Channel> {
        self.content()
    }

    fn request<T>(&self, message: T) -> Request<T> {
        self.request(message)
    }

    fn failure(&self, operation: String, status: Status) -> EngineError {
        self.failure(operation, status)
    }
}

/// A unix socket of this machine.
#[derive(Debug)]
struct SocketDial(PathBuf);

impl SocketDial {
    fn new(socket: &Path, engine: &'static str) -> Result<Arc<Self>, EngineError> {
        if !socket.is_absolute() {
            return Err(EngineError::Address {
                engine,
                address: socket.display().to_string(),
                reason: "the path of its socket must be absolute",
            });
        }
        Ok(Arc::new(Self(socket.to_owned())))
    }

    async fn connect(&self) -> io::Result<UnixStream> {
        timeout(CONNECT, connect_unix(&self.0)).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

#[async_trait]
impl Dial for SocketDial {
    fn name(&self) -> String {
        format!("unix://{}", self.0.display())
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        Ok(Box::new(self.connect().await?))
    }

    async fn process(&self) -> Option<Pid> {
        Pid::from_raw(self.connect().await.ok()?.peer_cred().ok()?.pid()?)
    }
}

/// A connection to the gRPC server that `dial` leads to, made at the first call and made again when it broke.
fn channel(dial: Arc<dyn Dial>) -> Channel {
    // A unix socket has no authority; any valid one will do.
    let endpoint = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let dial = dial.clone();
        async move { Ok::<_, DialError>(TokioIo::new(ENGINES.count(dial.dial().await?))) }
    }))
}

/// What a status from `engine` means: the connection failed, or the engine refused.
pub(crate) fn failure(engine: &'static str, address: &str, operation: String, status: &Status) -> EngineError {
    // Only a status made on this side has a source: the connection could not be made or broke.
    if let Some(source) = status.source() {
        if let Some(refused) = source.downcast_ref::<OnlyHttp1>() {
            return EngineError::Protocol { operation, reason: refused.to_string() };
        }
        let mut cause: &(dyn std::error::Error + 'static) = source;
        loop {
            if cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
                return EngineError::Permission { engine, address: address.to_owned() };
            }
            match cause.source() {
                Some(next) => cause = next,
                None => break,
            }
        }
        return EngineError::Unreachable { engine, address: address.to_owned(), reason: cause.to_string() };
    }
    let message = status.message().to_owned();
    if EngineError::is_no_space(&message) {
        return EngineError::NoSpace { operation, message };
    }
    EngineError::Rpc { operation, code: status.code(), message }
}

/// Whether NOT_FOUND is about the lease `id` and not about what was requested, which may have any name
/// (containerd `core/metadata/leases.go`).
fn is_lease_lost(message: &str, id: &str) -> bool {
    message.contains("lease does not exist") || message.starts_with(&format!("lease \"{id}\""))
}

const NAMESPACE_RULE: &str = "letters and digits, with single `.`, `_` or `-` between them, at most 76 characters";

/// containerd's rule for names (containerd `pkg/identifiers/validate.go`).
fn is_identifier(name: &str) -> bool {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    name.len() <= 76 && name.split(['.', '_', '-']).all(word)
}

/// Turning an expected refusal into a value.
pub(crate) trait Expect<T> {
    /// `None` when the engine responded with `code`.
    fn unless(self, code: Code) -> Result<Option<T>, EngineError>;
}

impl<T> Expect<T> for Result<T, EngineError> {
    fn unless(self, expected: Code) -> Result<Option<T>, EngineError> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(EngineError::Rpc { code, .. }) if code == expected => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_follow_containerds_rule() {
        for good in ["default", "k8s.io", "moby", "moby-1000.1000", "a"] {
            assert!(is_identifier(good), "{good}");
        }
        for bad in ["", ".", "a..b", "-a", "a-", "a/b", "ä", "a b", &"a".repeat(77)] {
            assert!(!is_identifier(bad), "{bad}");
        }
    }

    #[test]
    fn a_full_disk_is_named() {
        let status = Status::unknown("failed to write: no space left on device");
        let error = failure("containerd", "unix:///x", "writing".to_owned(), &status);
        assert!(matches!(error, EngineError::NoSpace { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_lease_knows_that_it_lacked_room() {
        let client = Client::new(Path::new("/x"), "default").unwrap();
        let (full, other) = (client.leased("full").unwrap(), client.leased("other").unwrap());
        // As an upload has one.
        let clone = full.clone();
        clone.failure("writing", Status::unknown("a disk has a scratch"));
        assert!(!full.lacked_room());
        clone.failure("writing", Status::unknown("failed to write: no space left on device"));
        assert!(full.lacked_room() && !other.lacked_room() && !client.lacked_room());
        full.found_room();
        assert!(!clone.lacked_room());
    }

    #[test]
    fn only_the_lease_itself_is_a_lost_lease() {
        assert!(is_lease_lost("lease does not exist: not found", "linkspan-1"));
        assert!(is_lease_lost("unable to lease content: lease does not exist: not found", "linkspan-1"));
        assert!(is_lease_lost("lease \"linkspan-1\": not found", "linkspan-1"));
        assert!(!is_lease_lost("image \"docker.io/library/release:1\": not found", "linkspan-1"));
    }

    #[test]
    fn a_refused_permission_is_named() {
        let status = Status::from_error(Box::new(io::Error::from(io::ErrorKind::PermissionDenied)));
        let error = failure("containerd", "unix:///x", "asking".to_owned(), &status);
        assert!(matches!(error, EngineError::Permission { engine: "containerd", .. }), "{error}");
    }

    #[tokio::test]
    async fn a_dead_socket_is_unreachable() {
        let folder = tempfile::tempdir().unwrap();
        let client = Client::new(&folder.path().join("none.sock"), "default").unwrap();
        let call = async { client.version().version(client.request(())).await };
        let error = client.unary("asking for the version", call).await.unwrap_err();
        assert!(matches!(error, EngineError::Unreachable { engine: "containerd", .. }), "{error}");
        assert!(error.to_string().contains("none.sock"), "{error}");
    }
}
