//! Picks the requests that are handled here: by method and path, with or without an API version prefix.

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Response};

use super::Door;
use super::endless::is_endless;
use super::target::Target;
use crate::http1::{ClientConnection, Exchange, PrefixedIo, RelayError};
use crate::http2::{self, Body, full, until_end_of};
use crate::net::{Drain, Principal, Stream};
use crate::status::StatusReport;

/// The error for an archive over HTTP/2 while names are restricted.
const OVER_HTTP2: &str = "names are restricted here, and archives are looked into over HTTP/1.1 only; hint: load it without \
                          HTTP/2, as docker's own client does";

impl Door {
    /// Handles or forwards a request. Returns the connection if another request can follow.
    pub(super) async fn route<T>(
        &self,
        exchange: Exchange<T>,
        client: &Principal,
        drain: &Drain,
    ) -> Result<Option<ClientConnection<T>>, RelayError>
    where
        T: Stream + 'static,
    {
        let head = exchange.head();
        // A copy, because handling the exchange consumes its head.
        let (method, target) = (head.method().to_owned(), Target::of(head.target()));
        tracing::debug!(method, path = target.path(), "request");
        if let Some(report) = self.status.as_ref().filter(|_| StatusReport::is_request(head.method(), head.target())) {
            exchange.finish(StatusReport::CONTENT_TYPE, &report.bytes()).await;
            return Ok(None);
        }
        let parts = target.parts();
        let _endless = is_endless(&method, &parts, target.query()).then(|| drain.endless());
        match (method.as_str(), &parts[..], &self.builders) {
            ("POST", ["", "containers", container, "exec"], Some(builders)) => {
                builders.create(exchange, container).await
            }
            ("POST", ["", "exec", id, "start"], Some(builders)) => {
                builders.start(exchange, id, client, drain.clone()).await
            }
            ("POST", ["", "images", "load"], _) => match self.loads.begin(client).await {
                Some(load) => {
                    load.serve(exchange.take(), &self.upstream).await;
                    Ok(None)
                }
                None => {
                    let _listed = self.loads.list(client);
                    exchange.pass().await
                }
            },
            _ => exchange.pass().await,
        }
    }

    /// Serves a client that speaks HTTP/2 while names are restricted. dockerd serves its whole API over it (moby
    /// `daemon/command/daemon.go`, `SetUnencryptedHTTP2`), so every request is checked; an archive is refused, and
    /// everything else is forwarded.
    pub(super) async fn call_by_call<T>(&self, client: PrefixedIo<T>, drain: &Drain)
    where
        T: Stream + 'static,
    {
        let upstream = match http2::UpstreamConnection::open(&self.upstream).await {
            Ok(upstream) => upstream,
            Err(error) => return tracing::warn!(reason = error.reason(), "the engine cannot be reached"),
        };
        // A client without calls may never close its connection; calls are waited for.
        let _tunnel = drain.tunnel();
        let served = http2::serve(client, (**drain).clone(), |request| {
            let target = Target::of(request.uri().path_and_query().map_or("", |target| target.as_str()));
            let (parts, method) = (target.parts(), request.method());
            let is_load = method == Method::POST && parts == ["", "images", "load"];
            let call = (!is_endless(method.as_str(), &parts, target.query())).then(|| drain.call());
            let upstream = upstream.clone();
            if is_load {
                self.loads.count_refusal();
            }
            async move {
                let response = if is_load { refused() } else { upstream.forward(request).await? };
                Ok(match call {
                    Some(call) => response.map(|body| until_end_of(body, call)),
                    None => response,
                })
            }
        });
        if let Err(error) = served.await {
            tracing::debug!(%error, "client connection ended");
        }
    }
}

/// The response to an archive over HTTP/2.
fn refused() -> Response<Body> {
    tracing::info!(door = "docker", error = OVER_HTTP2, "not loaded");
    let text = serde_json::json!({ "message": format!("linkspan: {OVER_HTTP2}") }).to_string() + "\n";
    let mut response = Response::new(full(text.into()));
    *response.status_mut() = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
