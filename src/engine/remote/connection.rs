//! The connection to a daemon.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use containerd_client::services::v1::content_client::ContentClient;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status};

use super::address::DaemonAddress;
use super::failure;
use crate::cache_v1::proto::caches_client::CachesClient;
use crate::engine::EngineError;
use crate::engine::stream::{SILENCE, Store, UNARY};
use crate::export_v1::limits::MESSAGE_BYTES;
use crate::export_v1::proto::exports_client::ExportsClient;
use crate::export_v1::proto::references_client::ReferencesClient;
use crate::net::{DialError, SshAddress, StreamFailure, Tls, Watched, with_person};
use crate::trace_context;

/// The largest metadata that is taken, in bytes: a refusal lists up to some hundred digests there.
const METADATA_BYTES: u32 = 1 << 20;
/// HTTP/2 windows for blobs that are read; the default of 64 KiB makes every read wait for the client.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// The metadata that names the export of a blob.
pub(super) const EXPORT: &str = "linkspan-export";
/// The metadata that names the hold or the export of a cache's blob.
pub(super) const CACHE: &str = "linkspan-cache";
/// How long making a connection may take in all; the upstream has a shorter limit of its own.
const CONNECT: Duration = Duration::from_secs(15);
/// What the first call may take over ssh: longer than ssh may to connect (its `ConnectTimeout`), and than the program there waits
/// for the daemon, for both say why they end. What somebody takes who is asked for a password is not counted.
const FIRST: Duration = Duration::from_secs(40);
/// How often the daemon is pinged. Its responses are what must move on a connection where else nothing does; Linkspan's own
/// server takes any number of them.
const PING: Duration = Duration::from_secs(10);
/// How long nothing may move, on a socket and over ssh: there it is longer than ssh takes to notice that the network is gone,
/// which it says.
const STILL: Duration = Duration::from_secs(30);
const STILL_OVER_SSH: Duration = Duration::from_secs(50);
/// What a call may take in addition over ssh, for the same reason.
const SSH: Duration = Duration::from_secs(30);
/// The same for every daemon: it gives its engine the time of such a call, and says then that it was the engine.
const ENGINE: Duration = Duration::from_secs(5);

/// A daemon, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Where its exporter API is reached.
    pub address: DaemonAddress,
    /// TLS towards it.
    pub tls: Option<Tls>,
    /// Who this client is, if it says so by a password.
    pub login: Option<Box<Login>>,
}

/// A user of a daemon's password file, and the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Login {
    // Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Adds the credentials of a client to its calls, and the trace of a command.
#[derive(Clone)]
pub struct Credentials(Option<AsciiMetadataValue>);

impl Credentials {
    fn of(login: Option<&Login>) -> Self {
        let basic = |Login { user, password }: &Login| {
            let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
            let mut value: AsciiMetadataValue = format!("Basic {encoded}").parse().ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        Self(login.and_then(basic))
    }

    fn add<T>(&self, request: &mut Request<T>) {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        if let Some(trace) = trace_context::of_command() {
            request.metadata_mut().insert("traceparent", AsciiMetadataValue::from_static(trace));
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        self.add(&mut request);
        Ok(request)
    }
}

/// The channel of calls with a client's credentials.
pub type Calls = InterceptedService<Channel, Credentials>;

impl Daemon {
    /// Refuses one on another machine without TLS.
    ///
    /// # Errors
    /// [`EngineError::Daemon`] with what to do.
    pub fn check(&self) -> Result<(), EngineError> {
        if self.tls.is_some() || self.address.is_safe() {
            return Ok(());
        }
        Err(failure::elsewhere(&self.address.to_string()))
    }
}

/// A daemon's door of the exporter and the caching API. The connection is made again at the next call after it broke.
#[derive(Clone)]
pub struct DaemonConnection {
    channel: Channel,
    credentials: Credentials,
    address: Arc<str>,
    /// The host, for a connection over ssh.
    ssh: Option<SshAddress>,
    /// Why the stream of the channel ended, if a program says so: of the last one, as there is one at a time.
    said: Arc<Mutex<StreamFailure>>,
    state: Arc<ConnectionState>,
}

/// What is known of a connection by its calls.
#[derive(Debug, Default)]
struct ConnectionState {
    /// Whether the daemon has responded to a call. What fails before, over ssh, is ssh's.
    has_responded: AtomicBool,
    /// How many calls ended because the connection broke.
    breaks: AtomicU64,
}

impl fmt::Debug for DaemonConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaemonConnection").field("address", &self.address).finish_non_exhaustive()
    }
}

impl DaemonConnection {
    /// Connects to `daemon`.
    ///
    /// # Errors
    /// [`EngineError::Daemon`] with the system's reason when the connection fails, or when it is on another machine and there is no TLS.
    pub async fn open(daemon: &Daemon) -> Result<Self, EngineError> {
        let Daemon { address, tls, login } = daemon;
        let text: Arc<str> = address.to_string().into();
        daemon.check()?;
        let failed =
            |error: &(dyn std::error::Error + 'static)| failure::unreachable(&text, &failure::innermost(error));
        let dial = address.dial(tls.as_ref()).map_err(|error| failed(&error))?;
        // Made here, because what tonic says of a connection that fails does not say why.
        let first = dial.dial_with_failure().await.map_err(|error| failed(&*error))?;
        let first = Arc::new(Mutex::new(Some(first)));
        let said = Arc::<Mutex<StreamFailure>>::default();
        let saying = said.clone();
        let ssh = match address {
            DaemonAddress::Ssh(address) => Some(address.clone()),
            DaemonAddress::Socket(_) => None,
        };
        let still = if ssh.is_some() { STILL_OVER_SSH } else { STILL };
        let connector = tower::service_fn(move |_: Uri| {
            let (dial, said) = (dial.clone(), saying.clone());
            let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move {
                let (stream, failure) = match first {
                    Some(first) => first,
                    None => dial.dial_with_failure().await?,
                };
                *said.lock().unwrap_or_else(PoisonError::into_inner) = failure;
                Ok::<_, DialError>(TokioIo::new(Watched::new(stream, still)))
            }
        });
        // What the address is called does not matter to the server. That the response to a ping is late is seen by the stream,
        // which knows whether anything moves.
        let endpoint = Endpoint::from_static("http://localhost")
            .connect_timeout(CONNECT)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(SILENCE)
            .keep_alive_while_idle(true)
            .http2_max_header_list_size(METADATA_BYTES);
        Ok(Self {
            channel: endpoint.connect_with_connector_lazy(connector),
            credentials: Credentials::of(login.as_deref()),
            address: text,
            ssh,
            said,
            state: Arc::default(),
        })
    }

    /// The address, as a URL.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn calls(&self) -> Calls {
        InterceptedService::new(self.channel.clone(), self.credentials.clone())
    }

    /// The service of exports.
    pub fn exports(&self) -> ExportsClient<Calls> {
        ExportsClient::new(self.calls()).max_decoding_message_size(MESSAGE_BYTES)
    }

    /// The service that reads images.
    pub fn references(&self) -> ReferencesClient<Calls> {
        ReferencesClient::new(self.calls()).max_decoding_message_size(MESSAGE_BYTES)
    }

    /// The service of build caches.
    pub fn caches(&self) -> CachesClient<Calls> {
        CachesClient::new(self.calls()).max_decoding_message_size(MESSAGE_BYTES)
    }

    /// Awaits a call that does no bulk work. `operation` is for messages: `opening an export`.
    ///
    /// # Errors
    /// What the daemon's refusal means, or that there was no response.
    pub async fn unary<T>(
        &self,
        operation: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, EngineError> {
        let connecting = self.ssh.as_ref().filter(|_| !self.state.has_responded.load(Ordering::Relaxed));
        let outcome = match connecting {
            Some(_) => with_person(FIRST, || self.stream_failure().is_asking(), call).await,
            None => timeout(self.patience(), call).await.map_err(|_| self.patience()),
        };
        if let (Some(address), Ok(Err(status))) = (connecting, &outcome)
            && let Some(error) = failure::over_ssh(address, self.said(), status)
        {
            return Err(error);
        }
        self.state.has_responded.fetch_or(outcome.is_ok(), Ordering::Relaxed);
        match outcome {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failure(operation, &status)),
            Err(after) => Err(match connecting {
                Some(address) => failure::silent(address, after),
                None => self.late(operation, after),
            }),
        }
    }

    /// How long a call may take that does no bulk work.
    pub(super) fn patience(&self) -> Duration {
        UNARY + ENGINE + if self.ssh.is_some() { SSH } else { Duration::ZERO }
    }

    /// There was no response to `operation`.
    pub(crate) fn late(&self, operation: &str, after: Duration) -> EngineError {
        failure::late(&self.address, self.ssh.as_ref(), operation, after)
    }

    /// What a status means.
    pub(crate) fn failure(&self, operation: &str, status: &Status) -> EngineError {
        if failure::is_broken(status) {
            self.state.breaks.fetch_add(1, Ordering::Relaxed);
        }
        failure::of((&*self.address, self.ssh.as_ref()), operation, self.said(), status)
    }

    fn stream_failure(&self) -> StreamFailure {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn said(&self) -> Option<String> {
        self.stream_failure().reason()
    }

    /// How many calls have ended because the connection broke.
    pub(super) fn breaks(&self) -> u64 {
        self.state.breaks.load(Ordering::Relaxed)
    }

    /// The content within what `id` names by the metadata `key`.
    pub(super) fn scoped(&self, key: &'static str, id: &str) -> Result<Scoped, EngineError> {
        let id = id.parse().map_err(|_| EngineError::Protocol {
            operation: "opening an export".to_owned(),
            reason: "the id that the daemon gave does not fit into a header".to_owned(),
        })?;
        Ok(Scoped { connection: self.clone(), key, id })
    }
}

/// The Content service within one export or hold.
#[derive(Debug, Clone)]
pub(super) struct Scoped {
    connection: DaemonConnection,
    key: &'static str,
    id: AsciiMetadataValue,
}

impl Store for Scoped {
    fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.connection.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(self.key, self.id.clone());
        self.connection.credentials.add(&mut request);
        request
    }

    fn failure(&self, operation: String, status: Status) -> EngineError {
        self.connection.failure(&operation, &status)
    }

    fn patience(&self) -> Duration {
        self.connection.patience()
    }

    fn late(&self, operation: String, after: Duration) -> EngineError {
        self.connection.late(&operation, after)
    }
}
