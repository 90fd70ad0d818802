//! A client and a builder with a door between them, each with its side of a session.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::super::cache::store_of_ours;
use super::super::pipe::{End, Pipe, PipeBody};
use super::super::source::Source;
use super::super::split::rest;
use super::super::tunnel::Tunnel;
use super::super::*;
use crate::http2::{ConnectionPool, ConnectionSharing, UpstreamConnection, full, serve};
use crate::net::{Dial, DialError, Stream};

/// Handles calls to stores of ours with the name of the store.
#[derive(Debug)]
struct Ours;

impl SessionCalls for Ours {
    fn handler_for(&self, _: &str, call: &Request<Incoming>) -> Option<CallHandler> {
        let text = format!("ours: {}", store_of_ours(call)?);
        Some(Box::new(|call| {
            let response = async move {
                let seen = call.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
                Handled::Response(Response::new(full(format!("{text} {seen}").into())))
            };
            response.boxed()
        }))
    }
}

#[derive(Debug)]
struct To(mpsc::UnboundedSender<DuplexStream>);

#[async_trait::async_trait]
impl Dial for To {
    fn name(&self) -> String {
        "a test".to_owned()
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        let (near, far) = duplex(1 << 16);
        self.0.send(far)?;
        Ok(Box::new(near))
    }

    async fn process(&self) -> Option<rustix::process::Pid> {
        None
    }
}

/// Serves every stream that [`To`] opens.
fn listen<F>(handler: impl Fn(Request<Incoming>) -> F + Send + Sync + Clone + 'static, kill: CancellationToken) -> To
where
    F: Future<Output = Result<Response<Body>, ProxyError>> + Send + 'static,
{
    let (to, mut streams) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(stream) = streams.recv().await {
            let (handler, kill) = (handler.clone(), kill.clone());
            tokio::spawn(async move {
                kill.run_until_cancelled(serve(stream, CancellationToken::new(), handler)).await;
            });
        }
    });
    To(to)
}

/// One side of the call that carries a session.
pub(super) struct Peer {
    /// The bytes that it sends. To end it is to end that direction of the call.
    pub(super) output: Pipe,
    /// The bytes that it receives.
    pub(super) input: Source,
}

impl Peer {
    fn new(body: Incoming) -> (Self, PipeBody) {
        let (output, body_of_it) = pipe();
        (Self { output, input: Source::new(body.map_err(BodyError::from).boxed_unsync()) }, body_of_it)
    }

    /// The byte stream of it, for HTTP/2, and how its input ends.
    pub(super) fn stream(self) -> (Tunnel, InputEnd) {
        let (far, end) = pipe();
        let (tunnel, returned) = Tunnel::new(self.input, self.output, far.clone(), std::future::ready(()).boxed());
        tokio::spawn(async move { rest(returned, &far).await });
        (tunnel, InputEnd(end))
    }
}

/// How the input of a side ends.
pub(super) struct InputEnd(PipeBody);

impl InputEnd {
    /// `Ok` with the trailers, or the HTTP/2 reset code.
    pub(super) async fn end(mut self) -> Result<Option<HeaderMap>, Option<h2::Reason>> {
        match self.0.frame().await {
            Some(Ok(frame)) => Ok(frame.into_trailers().ok()),
            Some(Err(error)) => Err(reason(&*error)),
            None => Ok(None),
        }
    }
}

/// The HTTP/2 reset code in an error's sources.
pub(super) fn reason(error: &(dyn std::error::Error + 'static)) -> Option<h2::Reason> {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<h2::Error>())
        .and_then(h2::Error::reason)
}

pub(super) struct Rig {
    pub(super) sessions: Arc<Sessions>,
    client: UpstreamConnection,
    builders: Arc<Mutex<mpsc::UnboundedReceiver<Peer>>>,
    /// Ends the builder's connections.
    pub(super) kill: CancellationToken,
}

impl Rig {
    pub(super) async fn new(has_content: bool) -> Self {
        let content = has_content.then(|| Arc::new(Ours) as Arc<dyn SessionCalls>);
        let sessions = Arc::new(Sessions::new(content));
        let (arrived, builders) = mpsc::unbounded_channel();
        let kill = CancellationToken::new();
        let builder = listen(
            move |request: Request<Incoming>| {
                assert!(request.headers().contains_key(ID));
                let (end, body) = Peer::new(request.into_body());
                arrived.send(end).unwrap();
                async { Ok(Response::new(body.boxed_unsync())) }
            },
            kill.clone(),
        );
        let pool = ConnectionPool::new(Box::new(builder), ConnectionSharing::PerClient);
        let upstream = Arc::new(pool.connect().await.unwrap());
        let door = listen(
            {
                let sessions = sessions.clone();
                move |request| {
                    let (sessions, upstream) = (sessions.clone(), upstream.clone());
                    async move { sessions.serve(request, &upstream).await }
                }
            },
            CancellationToken::new(),
        );
        let client = UpstreamConnection::open(&door).await.unwrap();
        Self { sessions, client, builders: Arc::new(Mutex::new(builders)), kill }
    }

    /// Waits until the session called `id` is forgotten.
    pub(super) async fn forgets(&self, id: &str) {
        while self.sessions.registry.contains(id) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Opens a session; both sides of it.
    pub(super) async fn open(&self, id: &str, methods: &[&str]) -> (Peer, Peer) {
        let (output, body) = pipe();
        let mut request = Request::post(format!("http://localhost{SESSION}")).header(ID, id);
        for method in methods {
            request = request.header(METHOD, *method);
        }
        let response = self.client.send(request.body(body.boxed_unsync()).unwrap()).await.unwrap();
        let input = Source::new(response.into_body().map_err(BodyError::from).boxed_unsync());
        let builder = self.builders.lock().unwrap().try_recv().unwrap();
        (Peer { output, input }, builder)
    }
}

/// A pipe that ends well.
pub(super) fn well(trailers: Option<HeaderMap>) -> End {
    End::Whole(trailers)
}
