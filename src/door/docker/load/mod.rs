//! `POST /images/load`: archives are forwarded, without the blobs that the engine has.
//!
//! dockerd still reads every archive and sends the response, so names, events and errors are its own; only blobs that it would
//! store a second time are omitted. See [`filter`] for why that changes nothing. New blobs are stored and unpacked here, and
//! thereby become blobs that it would store a second time, and images that it need not unpack ([`unpacking`]).

mod blobs;
mod encoding;
mod error;
mod filter;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), allow(dead_code, reason = "fuzz targets need a part of it"))]
mod fixture;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod guard;
mod half_close;
mod layout;
mod lines;
mod member;
mod omitted;
mod pinning;
mod pipe;
mod report;
mod response;
mod unpacking;
mod upload;
mod wire;
mod zstd;

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::CONTENT_ENCODING;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::ext::on_informational;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument as _, Span, debug, info_span, warn};

use self::blobs::{EngineBlobs, LeasedBlobs, NoBlobs, StoredHere};
use self::guard::{Guard, Held, Watch};
use self::half_close::{HalfCloseStream, UploadEnd};
use self::lines::{Edit, edited};
use self::report::{LOADING, Report};
use self::response::{Body, announcement, failure, is_quiet, names_platforms, refusal};
use self::upload::{Archive, ArchiveFacts, Upload};
use crate::activity::{Activity, Refused};
use crate::engine::Origin;
use crate::export::{Exports, Listed, unique_id};
use crate::http1::linger_on;
use crate::net::{Principal, Upstream};

/// How long dockerd may take to import what it has after the client has disconnected: its disk may be slow.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(60);

/// The loads into an engine.
#[derive(Debug)]
pub(super) struct Loads {
    exports: Arc<Exports>,
}

/// A load whose archive will be filtered.
#[derive(Debug)]
pub(super) struct Load {
    pinned: Pinned,
    watch: Watch,
    known: Arc<ArchiveFacts>,
    report: Report,
    origin: Origin,
}

/// Blobs whose pins are released when this is dropped, which is when the response to a load is delivered or cancelled.
#[derive(Debug)]
struct Pinned {
    blobs: Arc<dyn EngineBlobs>,
    exports: Arc<Exports>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let blobs = self.blobs.clone();
        self.exports.release_by(move || {
            let blobs = blobs.clone();
            async move { blobs.release().await }
        });
    }
}

impl Loads {
    /// Loads into the engine of `exports`, which also releases their pins.
    pub(super) fn new(exports: Arc<Exports>) -> Self {
        Self { exports }
    }

    /// Whether every archive has to be parsed, because names are restricted.
    pub(super) fn are_watched(&self, client: &Principal) -> bool {
        self.exports.policy(client).is_restrictive()
    }

    /// Tells of a load that is refused before it begins.
    pub(super) fn count_refusal(&self) {
        self.exports.activities().emit(Activity::Refused { door: "docker", reason: Refused::Policy });
    }

    /// Lists a load whose archive passes unchanged, until its end.
    pub(super) fn list(&self, client: &Principal) -> Listed {
        let listed = self.exports.live().add(&origin(client), Vec::new());
        listed.enter(LOADING);
        listed
    }

    /// Prepares a load. `None` if its archive has to pass unchanged, because we cannot read this engine's store. If
    /// names are restricted, every archive is parsed.
    pub(super) async fn begin(&self, client: &Principal) -> Option<Load> {
        let origin = origin(client);
        let engine = self.exports.engine();
        let store = engine.load_store().await.unwrap_or_else(|error| {
            warn!(%error, "nothing is omitted from an archive");
            None
        });
        let (guard, by_index) = (Guard::new(&self.exports, client), store.is_some());
        let watch = Watch { guard, by_index, left: CancellationToken::new() };
        let here = Arc::<StoredHere>::default();
        let blobs: Arc<dyn EngineBlobs> = match store {
            Some(store) => Arc::new(LeasedBlobs::new(self.exports.clone(), store, origin.clone(), here.clone())),
            None if watch.guard.is_some() => Arc::new(NoBlobs),
            None => return None,
        };
        let known = Arc::new(ArchiveFacts::default());
        let kind = engine.identity().kind.name();
        let report = Report::begin(self.exports.live(), &origin, known.clone());
        let report = report.counted(kind, self.exports.activities(), here);
        Some(Load { pinned: Pinned { blobs, exports: self.exports.clone() }, watch, known, report, origin })
    }
}

impl Load {
    /// Serves the one request that `client` begins with, which must be `POST /images/load`, and ends the connection.
    pub(super) async fn serve(mut self, client: impl AsyncRead + AsyncWrite + Unpin + Send, upstream: &Upstream) {
        let Origin { export, door, principal, .. } = &self.origin;
        let engine = self.pinned.exports.engine().identity().kind.name();
        let span = info_span!("export", id = export, door, engine, %principal);
        self.report.trace([span.clone(), Span::current()]);
        self.serve_one(client, upstream).instrument(span).await;
    }

    async fn serve_one(self, client: impl AsyncRead + AsyncWrite + Unpin + Send, upstream: &Upstream) {
        let held = Mutex::new(Some(self));
        let service = hyper::service::service_fn(|request| {
            let held = held.lock().unwrap_or_else(PoisonError::into_inner).take();
            Box::pin(async move {
                match held {
                    Some(load) => load.exchange(request, upstream).await,
                    None => Ok(refusal(StatusCode::BAD_REQUEST, "this connection was for one request")),
                }
            })
        });
        let mut connection = hyper::server::conn::http1::Builder::new()
            .keep_alive(false)
            // Clients expect header names in the case that dockerd writes.
            .preserve_header_case(true)
            .serve_connection(TokioIo::new(client), service);
        match poll_fn(|context| connection.poll_without_shutdown(context)).await {
            // dockerd may have sent its response before the archive ended: let the client read it.
            Ok(()) => linger_on(connection.into_parts().io.into_inner()).await,
            Err(error) => {
                debug!(%error, "a load ended early");
                drop(connection);
                // The request was never served.
                if let Some(mut load) = held.into_inner().unwrap_or_else(PoisonError::into_inner) {
                    load.report.fail(format!("the request cannot be read: {error}"));
                }
            }
        }
    }

    async fn exchange(self, request: Request<Incoming>, upstream: &Upstream) -> Result<Response<Body>, Infallible> {
        let Self { pinned, watch, known, mut report, origin: _ } = self;
        let engine = pinned.exports.engine().clone();
        let (mut head, body) = request.into_parts();
        let is_quiet = is_quiet(head.uri.query());
        if names_platforms(head.uri.query()) {
            pinned.blobs.leave_packed().await;
        }
        let (left, names) = (watch.left.clone(), watch.guard.as_ref().map(Guard::held));
        let continued = wire::to_dockerd(&mut head).then(|| Arc::new(Notify::new()));
        let end = UploadEnd::default();
        let unavailable = |report: &mut Report, reason: &str| {
            report.fail(reason);
            Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, reason))
        };
        let (sender, connection) = match connect(upstream, end.clone()).await {
            Ok(connected) => connected,
            Err(reason) => return unavailable(&mut report, &reason),
        };
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "dockerd's connection ended");
            }
        }));

        let (upload, archive) = Upload::start(pinned.blobs.clone(), watch, body, continued.clone(), known.clone(), end);
        let mut request = Request::from_parts(head, archive);
        if let Some(continued) = continued {
            on_informational(&mut request, move |response| {
                if response.status() == StatusCode::CONTINUE {
                    continued.notify_one();
                }
            });
        }
        let Ok((outcome, lasting)) = send(sender, request, (pinned, upload, connection, names), left).await else {
            return unavailable(&mut report, "the load was given up");
        };
        let response = match (outcome, known.trouble.get()) {
            (Ok(response), _) => response,
            (Err(_), Some(trouble)) => {
                report.fail(trouble);
                return Ok(failure(trouble));
            }
            (Err(error), None) => {
                return unavailable(&mut report, &format!("docker ended the connection without a response: {error}"));
            }
        };
        let (mut head, body) = response.into_parts();
        wire::to_client(&mut head);
        let response = Response::from_parts(head, body);
        let response = if is_of_lines(&response) {
            let savings = known.savings.get().filter(|savings| !is_quiet && savings.blobs > 0);
            let front = savings.map(|savings| announcement(*savings));
            let images = engine.images().ok().filter(|_| !is_quiet);
            let edit = Edit::new(front, known.trouble.get().cloned()).reporting(report).looking(images);
            edited(response, edit)
        } else {
            let status = || format!("docker responded with {}", response.status());
            report.fail(known.trouble.get().cloned().unwrap_or_else(status));
            response.map(|body| body.boxed_unsync())
        };
        Ok(response.map(|body| {
            body.map_frame(move |frame| {
                let _ = &lasting;
                frame
            })
            .boxed_unsync()
        }))
    }
}

/// Kept as long as the response: the upload may still be running, and needs the blobs to its end; dockerd may still set the names.
type KeptForResponse = (Pinned, Upload, AbortOnDropHandle<()>, Option<Held>);

/// Sends `request` and waits for the response, even if the client disconnects meanwhile, so that dockerd ends its
/// import itself. If its connection closed during the import, the request would be cancelled, and what it has stored so
/// far would stay for a day: the release of its lease is cancelled along with it (containerd `client/lease.go`). `left` is
/// cancelled when the client disconnects.
fn send(
    mut sender: Sender,
    request: Request<Archive>,
    lasting: KeptForResponse,
    left: CancellationToken,
) -> oneshot::Receiver<(hyper::Result<Response<Incoming>>, KeptForResponse)> {
    let (mut outcome_sender, outcome_receiver) = oneshot::channel();
    tokio::spawn(async move {
        let outcome = {
            let too_long = async {
                outcome_sender.closed().await;
                left.cancel();
                tokio::time::sleep(IMPORT_TIMEOUT).await;
            };
            tokio::select! {
                outcome = sender.send_request(request) => outcome,
                () = too_long => return,
            }
        };
        // Without a receiver the response is dropped, and with it the connection: what follows the import is cancelled,
        // as without us.
        let _ = outcome_sender.send((outcome, lasting));
    });
    outcome_receiver
}

/// A new load of `client`'s.
fn origin(client: &Principal) -> Origin {
    let (builder, principal) = ("docker load".to_owned(), client.clone());
    Origin { export: unique_id(), door: "docker", builder, principal }
}

/// Whether a response is a sequence of lines, as dockerd's are.
fn is_of_lines(response: &Response<Incoming>) -> bool {
    response.status() == StatusCode::OK && !response.headers().contains_key(CONTENT_ENCODING)
}

type Sender = http1::SendRequest<Archive>;
type Dockerd = http1::Connection<TokioIo<HalfCloseStream<Box<dyn crate::net::Stream>>>, Archive>;

async fn connect(upstream: &Upstream, end: UploadEnd) -> Result<(Sender, Dockerd), String> {
    let stream = upstream.connect().await.map_err(|error| error.to_string())?;
    let stream = TokioIo::new(HalfCloseStream::new(stream, end));
    let handshake = http1::Builder::new().preserve_header_case(true).handshake(stream).await;
    handshake.map_err(|error| format!("{}: {error}", upstream.address()))
}
