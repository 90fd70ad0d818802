//! `POST /images/load`: archives pass, without the blobs that the engine holds.
//!
//! dockerd still reads every archive and answers itself, so that names, events, unpacking and errors are its own; it is
//! only spared what it would store a second time. See [`filter`] for why that changes nothing.

mod answer;
mod filter;
#[cfg(test)]
mod fixture;
mod layout;
mod ledger;
mod member;
mod outer;
mod pins;
mod pipe;
mod upload;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, TE, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use self::answer::{Body, announce, failure, is_quiet, refusal};
use self::filter::Broken;
use self::ledger::Spared;
use self::upload::{Upload, Uploaded, is_clients};
use crate::engine::{Hold, Origin};
use crate::export::{Exports, unique_id};
use crate::proxy::Upstream;

/// What loads need.
#[derive(Debug)]
pub(super) struct Loads {
    exports: Arc<Exports>,
}

/// A load that is going to be filtered.
#[derive(Debug)]
pub(super) struct Load(Held);

/// A hold that is released when this is dropped, which is when the answer to a load is delivered or given up.
#[derive(Debug)]
struct Held {
    hold: Arc<dyn Hold>,
    exports: Arc<Exports>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.exports.release(self.hold.clone());
    }
}

impl Loads {
    /// Loads into the engine of `exports`, which also sees to it that nothing is left of them.
    pub(super) fn new(exports: Arc<Exports>) -> Self {
        Self { exports }
    }

    /// Gets ready for a load. `None` if its archive has to pass as it is: this engine has no store that we could look into, or
    /// it does not let us.
    pub(super) async fn begin(&self) -> Option<Load> {
        let origin = Origin { export: unique_id(), door: "docker", builder: "docker load".to_owned() };
        match self.exports.engine().hold(&origin).await {
            Ok(hold) => hold.map(|hold| Load(Held { hold, exports: self.exports.clone() })),
            Err(error) => {
                warn!(%error, "an archive passes as it is");
                None
            }
        }
    }
}

impl Load {
    /// Serves the one request that `client` begins with, which must be `POST /images/load`, and ends the connection.
    pub(super) async fn serve(self, client: impl AsyncRead + AsyncWrite + Unpin + Send, upstream: &Upstream) {
        let held = Mutex::new(Some(self.0));
        let service = hyper::service::service_fn(|request| {
            let held = held.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move {
                let Some(held) = held else {
                    return Ok(refusal(StatusCode::BAD_REQUEST, "this connection was for one request"));
                };
                exchange(held, request, upstream).await
            }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .keep_alive(false)
            // Clients know header names in the case that dockerd writes them in.
            .preserve_header_case(true)
            .serve_connection(TokioIo::new(client), service)
            .await;
        if let Err(error) = served {
            debug!(%error, "a load ended early");
        }
    }
}

/// Why a client gets no answer: it went away, or dockerd's answer broke off.
#[derive(Debug, thiserror::Error)]
enum Gone {
    #[error("the client went away: {0}")]
    Client(std::io::Error),
}

async fn exchange(held: Held, request: Request<Incoming>, upstream: &Upstream) -> Result<Response<Body>, Gone> {
    let (mut head, body) = request.into_parts();
    let is_quiet = is_quiet(head.uri.query());
    forget_framing(&mut head.headers);
    let (mut sender, connection) = match connect(upstream).await {
        Ok(connected) => connected,
        Err(reason) => return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, &reason)),
    };
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "dockerd's connection ended");
        }
    }));

    let spared = Arc::new(OnceLock::new());
    let (upload, body) = Upload::start(held.hold.clone(), body, spared.clone());
    let answered = sender.send_request(Request::from_parts(head, body)).await;
    let answer = match answered {
        Ok(answer) => answer,
        Err(error) => return no_answer(upload.outcome().await, &error),
    };
    let answer = match spared.get().filter(|spared| is_to_be_announced(&answer, is_quiet, **spared)) {
        Some(&spared) => announce(answer, spared),
        None => answer.map(|body| body.boxed_unsync()),
    };
    // They last as long as the answer: the upload may be still under way, and the blobs are needed to its end.
    let lasting = (held, upload, connection);
    Ok(answer.map(|body| {
        body.map_frame(move |frame| {
            let _ = &lasting;
            frame
        })
        .boxed_unsync()
    }))
}

/// What to say when dockerd says nothing.
fn no_answer(outcome: Uploaded, error: &hyper::Error) -> Result<Response<Body>, Gone> {
    match outcome {
        Uploaded::Broken(Broken::Input(error)) if is_clients(&error) => Err(Gone::Client(error)),
        Uploaded::Undecodable(kind, error) => {
            Ok(failure(&format!("the archive cannot be decompressed ({kind}): {error}")))
        }
        Uploaded::Broken(error @ (Broken::Input(_) | Broken::Lost(_))) => {
            Ok(failure(&format!("{error}; load the archive again")))
        }
        Uploaded::Broken(Broken::Output) | Uploaded::Whole => {
            let message = format!("docker ended the connection without an answer: {error}");
            Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, &message))
        }
    }
}

fn is_to_be_announced(answer: &Response<Incoming>, is_quiet: bool, spared: Spared) -> bool {
    spared.blobs > 0
        && !is_quiet
        && answer.status() == StatusCode::OK
        && !answer.headers().contains_key(CONTENT_ENCODING)
}

type Sender = http1::SendRequest<upload::Archive>;
type Dockerd = http1::Connection<TokioIo<Box<dyn crate::proxy::Stream>>, upload::Archive>;

async fn connect(upstream: &Upstream) -> Result<(Sender, Dockerd), String> {
    let stream = upstream.connect().await.map_err(|error| error.to_string())?;
    let handshake = http1::Builder::new().preserve_header_case(true).handshake(TokioIo::new(stream)).await;
    handshake.map_err(|error| format!("{}: {error}", upstream.address()))
}

/// Removes what says how the body was sent to us: it goes on in chunks.
fn forget_framing(headers: &mut HeaderMap) {
    // `Expect` is answered by reading the body, which we do at once.
    for name in [CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRAILER, TRANSFER_ENCODING] {
        headers.remove(name);
    }
}
