//! A proxy that does to gRPC messages what a test wants done: the only way to break
//! something at a certain point instead of at a certain time.

use std::{
    fmt,
    future::pending,
    os::unix::net::UnixListener as StdListener,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use linkspan::http2::{Body, ProxyError, UpstreamConnection, serve};
use linkspan::net::{Address, CloseWith, Upstream};
use tokio::{
    net::{UnixListener, UnixStream},
    runtime::{Builder, Runtime},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::messages::{Call, Messages};
use crate::common::{Stack, until};

/// The direction of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Direction {
    Request,
    Response,
}

/// A gRPC message on its way.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    /// `/package.Service/Method`.
    pub(crate) path: &'a str,
    pub(crate) direction: Direction,
    /// Which call of this proxy it belongs to.
    pub(crate) call: usize,
    /// Its number on this direction of this call, from 0.
    pub(crate) index: usize,
    pub(crate) bytes: &'a Bytes,
}

/// What is to be done with a message.
#[derive(Debug)]
pub(crate) enum Verdict {
    Pass,
    /// Other messages go in its place.
    Instead(Vec<Bytes>),
    /// It is dropped, and the response ends with this status.
    End(Code, &'static str),
    /// It waits for [`Proxy::release`]; everything else passes.
    Hold,
    /// It waits for [`Proxy::cut`], and so does everything that comes after it, on any call.
    Freeze,
    /// Every connection breaks, and nobody responds until [`Proxy::mend`].
    Cut,
}

/// What became of a message.
pub(super) enum Passed {
    Messages(Vec<Bytes>),
    End(Code, &'static str),
}

type Rule = Box<dyn FnMut(&Message<'_>) -> Verdict + Send>;

/// What all connections of a proxy share.
pub(super) struct State {
    upstream: Upstream,
    rule: Mutex<Rule>,
    calls: AtomicUsize,
    /// The traces that calls are part of, as their headers say.
    traces: Mutex<Vec<String>>,
    gate: watch::Sender<Gate>,
    cut: watch::Sender<CancellationToken>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Gate {
    /// Messages that were stopped so far.
    stopped: usize,
    frozen: bool,
    /// How often [`Proxy::release`] was called.
    released: usize,
}

/// A proxy on a unix socket, in front of another unix socket.
pub(crate) struct Proxy {
    socket: PathBuf,
    state: Arc<State>,
    // Last, because everything above lives in its tasks too.
    runtime: Runtime,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Proxy {
    /// A proxy that passes everything, in front of `upstream` (`unix:///…`, or the path alone).
    pub(crate) fn new(stack: &Stack, upstream: &str) -> Self {
        let address: Address = format!("unix://{}", upstream.trim_start_matches("unix://")).parse().unwrap();
        let state = Arc::new(State {
            upstream: Upstream::new(address, None).unwrap(),
            rule: Mutex::new(Box::new(|_| Verdict::Pass)),
            calls: AtomicUsize::new(0),
            traces: Mutex::default(),
            gate: watch::Sender::default(),
            cut: watch::Sender::new(CancellationToken::new()),
        });
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let proxy = Self { socket: stack.fresh_path(".sock"), state, runtime };
        proxy.listen();
        proxy
    }

    fn listen(&self) {
        // Left by the listener before this one, if there was one.
        let _ = std::fs::remove_file(&self.socket);
        let listener = StdListener::bind(&self.socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (state, token) = (self.state.clone(), self.state.cut.borrow().clone());
        self.runtime.spawn(async move {
            let listener = UnixListener::from_std(listener).unwrap();
            while let Some(Ok((stream, _))) = token.run_until_cancelled(listener.accept()).await {
                let (state, token) = (state.clone(), token.clone());
                tokio::spawn(async move { token.run_until_cancelled(connection(state, stream, token.clone())).await });
            }
        });
    }

    /// Its socket.
    pub(crate) fn path(&self) -> &Path {
        &self.socket
    }

    /// Its socket, as `unix:///…`.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The `traceparent` of each call that had one.
    pub(crate) fn traces(&self) -> Vec<String> {
        self.state.traces.lock().unwrap().clone()
    }

    /// Calls `rule` for every message from now on.
    pub(crate) fn rule(&self, rule: impl FnMut(&Message<'_>) -> Verdict + Send + 'static) {
        *self.state.rule.lock().unwrap() = Box::new(rule);
    }

    /// Waits until a message is held, frozen or cut off.
    #[track_caller]
    pub(crate) fn stopped(&self) {
        until("a message to be stopped by the proxy", || self.has_stopped(), |stopped| *stopped);
    }

    /// Whether a message was held, frozen or cut off since the last [`Proxy::mend`].
    pub(crate) fn has_stopped(&self) -> bool {
        self.state.gate.borrow().stopped > 0
    }

    /// Lets held messages go.
    pub(crate) fn release(&self) {
        self.state.gate.send_modify(|gate| gate.released += 1);
    }

    /// Breaks every connection; nobody responds until [`Proxy::mend`].
    pub(crate) fn cut(&self) {
        self.state.cut.borrow().cancel();
    }

    /// Responds again, and passes everything.
    pub(crate) fn restore(&self) {
        self.cut();
        self.rule(|_| Verdict::Pass);
        self.state.gate.send_modify(|gate| *gate = Gate { released: gate.released + 1, ..Gate::default() });
        self.state.cut.send_replace(CancellationToken::new());
        self.listen();
    }
}

impl State {
    pub(super) async fn judge(&self, message: &Message<'_>) -> Passed {
        self.thawed().await;
        let verdict = (self.rule.lock().unwrap())(message);
        let pass = || Passed::Messages(vec![message.bytes.clone()]);
        match verdict {
            Verdict::Pass => pass(),
            Verdict::Instead(messages) => Passed::Messages(messages),
            Verdict::End(code, message) => Passed::End(code, message),
            Verdict::Hold => {
                let mut gate = self.gate.subscribe();
                let released = gate.borrow_and_update().released;
                self.gate.send_modify(|gate| gate.stopped += 1);
                gate.wait_for(|gate| gate.released > released).await.unwrap();
                pass()
            }
            Verdict::Freeze => {
                self.gate.send_modify(|gate| {
                    gate.stopped += 1;
                    gate.frozen = true;
                });
                pending().await
            }
            Verdict::Cut => {
                self.gate.send_modify(|gate| gate.stopped += 1);
                self.cut.borrow().cancel();
                pending().await
            }
        }
    }

    /// Waits while everything is frozen.
    pub(super) async fn thawed(&self) {
        self.gate.subscribe().wait_for(|gate| !gate.frozen).await.unwrap();
    }
}

/// Serves one client, with a connection of its own behind it.
async fn connection(state: Arc<State>, stream: UnixStream, cut: CancellationToken) {
    // A client of an upstream that does not respond finds its connection closed.
    let Ok(upstream) = UpstreamConnection::open(&state.upstream).await else { return };
    // How it ends does not matter: clients are killed here.
    let forward = |request| forward(state.clone(), upstream.clone(), cut.clone(), request);
    // As a proxy that copies bytes does, it passes on the end of the connection, never a reset of its own for each call.
    let ended = upstream.ended().clone();
    let stream = CloseWith::new(stream, ended.clone());
    tokio::select! {
        _ = serve(stream, CancellationToken::new(), forward) => {}
        () = ended.cancelled() => {}
        () = death(state.upstream.address()) => {}
    }
}

/// Waits until nobody listens at `address` any more. A server that is killed closes a connection that says nothing.
async fn death(address: &Address) {
    let Address::Unix(path) = address else { return pending().await };
    while let Ok(mut silent) = UnixStream::connect(path).await {
        // Whether it ends well or badly, and whatever is said before: only that it ends counts.
        let _ = tokio::io::copy(&mut silent, &mut tokio::io::sink()).await;
    }
}

async fn forward(
    state: Arc<State>,
    upstream: UpstreamConnection,
    cut: CancellationToken,
    request: Request<Incoming>,
) -> Result<Response<Body>, ProxyError> {
    let path = request.uri().path().to_owned();
    let number = state.calls.fetch_add(1, Ordering::Relaxed);
    let trace = request.headers().get("traceparent").and_then(|trace| trace.to_str().ok());
    state.traces.lock().unwrap().extend(trace.map(str::to_owned));
    let call = Arc::new(Call { state, cut, path, number });
    let body = |direction, body| Messages::new(call.clone(), direction, body).into_body();
    let response = upstream.send(request.map(|incoming| body(Direction::Request, incoming))).await?;
    // The head may be all there is of a response: a refusal.
    call.state.thawed().await;
    Ok(response.map(|incoming| body(Direction::Response, incoming)))
}
