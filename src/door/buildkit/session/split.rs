//! A session whose calls are looked at.
//!
//! In the call that carries a session the builder is a client of HTTP/2, and the build's client its server (BuildKit
//! `session/grpc.go`). Here we are that server to the builder, and that client to the build's client.

use std::sync::Arc;

use http::Request;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::pipe::{End, Pipe};
use super::source::Source;
use super::tunnel::{Tunnel, poll_source};
use super::{SessionContent, registry::Session};
use crate::http2::{UpstreamConnection, serve};

/// The service that a builder calls for contents (containerd `api/services/content/v1`).
const CONTENT: &str = "/containerd.services.content.v1.Content/";

/// The metadata that names the store which is called. A caller that passes a call on puts its own in front, and servers
/// look at the first one only (BuildKit `session/content/attachable.go`).
const STORE: &str = "buildkit-attachable-store-id";

/// What the names of our stores begin with.
const OURS: &str = "local:linkspan:";

/// One side of a session.
#[derive(Debug)]
pub(super) struct Side {
    /// What it says, once the session is split.
    pub(super) said: oneshot::Receiver<Source>,
    /// What it hears.
    pub(super) heard: Pipe,
}

/// Splits a session, if it comes to that, until both sides have ended.
pub(super) async fn split(session: Arc<Session>, client: Side, builder: Side, content: Arc<dyn SessionContent>) {
    let (Ok(from_client), Ok(from_builder)) = (client.said.await, builder.said.await) else { return };
    let _session = session;
    // However this ends, nobody waits for more.
    let _broken = [Broken(client.heard.clone()), Broken(builder.heard.clone())];
    let (to_client, client_rest) = Tunnel::new(from_client, client.heard.clone(), builder.heard.clone());
    let (to_builder, builder_rest) = Tunnel::new(from_builder, builder.heard.clone(), client.heard.clone());
    let Ok(connection) = UpstreamConnection::inside(to_client).await else { return };
    let served = {
        let (connection, content) = (connection.clone(), content);
        serve(to_builder, CancellationToken::new(), move |request| {
            let (connection, content) = (connection.clone(), Arc::clone(&content));
            async move {
                match store_of_ours(&request).map(str::to_owned) {
                    Some(store) => Ok(content.call(&store, request).await),
                    None => connection.forward(request).await,
                }
            }
        })
    };
    let is_served = tokio::select! {
        served = served => served.is_ok(),
        () = connection.ended().cancelled() => false,
    };
    // The client learns of it as HTTP/2 says it, if the builder has said that it is going.
    drop(connection);
    if is_served || client.heard.is_ended() || builder.heard.is_ended() {
        tokio::join!(rest(client_rest, &builder.heard), rest(builder_rest, &client.heard));
    }
    // Else one of the two speaks no HTTP/2.
}

/// The store of ours that a call is for.
fn store_of_ours<B>(request: &Request<B>) -> Option<&str> {
    let store = request.headers().get(STORE)?.to_str().ok()?;
    (request.uri().path().starts_with(CONTENT) && store.starts_with(OURS)).then_some(store)
}

/// Waits for the end of what a side says, and passes that on.
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
