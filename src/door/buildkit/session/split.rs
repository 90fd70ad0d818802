//! A split session: HTTP/2 ends here on both sides, and calls are handled or forwarded.
//!
//! In the call that carries a session the builder is a client of HTTP/2, and the build's client its server (BuildKit
//! `session/grpc.go`). Here we are that server to the builder, and that client to the build's client.

use std::sync::Arc;

use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::pipe::{End, Pipe};
use super::source::Source;
use super::tunnel::{Tunnel, poll_source};
use super::{Handled, SessionCalls, registry::Session};
use crate::http2::{BodyError, UpstreamConnection, serve};

/// One side of a session.
#[derive(Debug)]
pub(super) struct Side {
    /// The bytes that it sends, once the session is split.
    pub(super) output: oneshot::Receiver<Source>,
    /// The bytes that it receives.
    pub(super) input: Pipe,
}

/// Splits a session, if it comes to that, until both sides have ended; `begun` is called then.
pub(super) async fn split(
    session: Arc<Session>,
    client: Side,
    builder: Side,
    calls: Arc<[Arc<dyn SessionCalls>]>,
    begun: impl FnOnce(),
) {
    let (Ok(from_client), Ok(from_builder)) = (client.output.await, builder.output.await) else { return };
    begun();
    // However this ends, neither side waits for more.
    let _broken = [Broken(client.input.clone()), Broken(builder.input.clone())];
    // If a session ends during a call, the builder takes the client for one that does not implement it, and goes on (BuildKit
    // `solver/llbsolver/export.go`, `finalizeSessionExport`). So the client's end is passed on to it when the calls that are
    // handled here have ended.
    let (idle, at_once) = (session.clone().idle().boxed(), std::future::ready(()).boxed());
    let (to_client, client_rest) = Tunnel::new(from_client, client.input.clone(), builder.input.clone(), idle);
    let (to_builder, builder_rest) = Tunnel::new(from_builder, builder.input.clone(), client.input.clone(), at_once);
    let Ok(connection) = UpstreamConnection::inside(to_client).await else { return };
    let served = {
        let (connection, session) = (connection.clone(), session);
        serve(to_builder, CancellationToken::new(), move |request| {
            let connection = connection.clone();
            let handler = calls.iter().find_map(|calls| calls.handler_for(&session.id, &request));
            let handler = handler.map(|handler| (handler, session.open_call()));
            async move {
                match handler {
                    Some((handler, _call)) => match handler(request).await {
                        Handled::Response(response) => Ok(response),
                        Handled::Forward(request) => {
                            Ok(connection.send(request).await?.map(|body| body.map_err(BodyError::from).boxed_unsync()))
                        }
                        Handled::Ask { request, then } => Ok(then(connection.send(request).await?).await),
                    },
                    None => connection.forward(request).await,
                }
            }
        })
    };
    let is_served = tokio::select! {
        served = served => served.is_ok(),
        () = connection.ended().cancelled() => false,
    };
    // The client gets a GOAWAY if the builder has sent one.
    drop(connection);
    if is_served || client.input.is_ended() || builder.input.is_ended() {
        tokio::join!(rest(client_rest, &builder.input), rest(builder_rest, &client.input));
    }
    // Else one of the two does not use HTTP/2.
}

/// Waits for the end of a side's output, and passes that on.
pub(super) async fn rest(source: oneshot::Receiver<Source>, far: &Pipe) {
    let Ok(mut source) = source.await else { return };
    loop {
        if let Err(end) = std::future::poll_fn(|context| poll_source(&mut source, context)).await {
            return far.end(end);
        }
    }
}

/// Ends a pipe with an error, unless it has ended.
struct Broken(Pipe);

impl Drop for Broken {
    fn drop(&mut self) {
        self.0.end(End::Broken(Box::new(h2::Error::from(h2::Reason::INTERNAL_ERROR))));
    }
}
