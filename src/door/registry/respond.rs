//! Leads each request to what responds to it.

use std::sync::Arc;

use http::header::{ALLOW, HeaderName, HeaderValue, SERVER};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tracing::{Instrument as _, debug_span};

use super::Door;
use super::guard;
use super::push::{Pushes, UploadBody};
use super::query;
use super::refusal::{Code, Refusal};
use super::repository::Repository;
use super::response::{json, put};
use super::route::Route;
use super::uploads::UploadRequest;
use crate::activity::Activity;
use crate::http2::{Body, full};
use crate::net::Principal;
use crate::status::{self, StatusReport};
use crate::trace_context;

/// Which protocol is spoken, for clients that ask (Docker's registries have it).
const VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("docker-distribution-api-version"), HeaderValue::from_static("registry/2.0"));
/// Whose names the response is about, for a mirror's clients.
const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

impl Door {
    /// The response to a request of `client`.
    pub(super) async fn respond(self: &Arc<Self>, request: Request<Incoming>, client: &Principal) -> Response<Body> {
        let namespace = query::value(request.uri().query(), "ns");
        let is_head = request.method() == Method::HEAD;
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let route = Route::of(&path).map_or("other", |route| route.kind());
        let span = debug_span!("request", %method, route, export = tracing::field::Empty);
        trace_context::follow_headers(&span, request.headers());
        let mut response = match self.route(request, client).instrument(span.clone()).await {
            Ok(response) => response,
            Err(refusal) => {
                let status = refusal.status;
                // As OpenTelemetry has it: what is refused is the client's failure.
                if status.is_server_error() {
                    trace_context::fail(&span, &refusal.message);
                }
                tracing::debug!(%method, path, %status, code = ?refusal.code, "refused");
                if let Some(reason) = refusal.reason() {
                    self.exports.activities().emit(Activity::Refused { door: "registry", reason });
                }
                match namespace {
                    // A mirror's client asks the next host, but for nothing else than this status.
                    Some(_) if is_read(&method) && !is_said_to_mirrors(status) => refusal.into_absent(),
                    _ => refusal,
                }
                .response()
            }
        };
        let (method, status) = (method_of(&method), response.status().as_u16());
        self.exports.activities().emit(Activity::RegistryRequest { method, route, status });
        if is_head {
            // The length of what a GET gets stays.
            *response.body_mut() = full(bytes::Bytes::new());
        }
        let headers = response.headers_mut();
        headers.insert(VERSION.0, VERSION.1);
        headers.insert(SERVER, HeaderValue::from_static(status::SERVER));
        if let Some(namespace) = namespace {
            put(headers, NAMESPACE, &namespace);
        }
        response
    }

    async fn route(
        self: &Arc<Self>,
        request: Request<Incoming>,
        client: &Principal,
    ) -> Result<Response<Body>, Refusal> {
        guard::refuse_two_hosts(&request)?;
        guard::refuse_pages(&request)?;
        let client = &match self.authenticate(request.headers(), client).await {
            Ok(client) => client,
            Err(refusal) => {
                UploadBody::of(request).1.skip_little().await;
                return Err(refusal);
            }
        };
        guard::refuse_other_hosts(&request, client)?;
        // It has the names of all exports.
        let status = self.status.as_ref().filter(|_| self.exports.policy(client).may_pull_all());
        if let Some(status) = status.filter(|_| StatusReport::is_requested_by(&request)) {
            return Ok(status.response(full));
        }
        let (head, mut body) = UploadBody::of(request);
        let route = Route::of(head.uri.path())?;
        if is_read(&head.method) && !matches!(route, Route::Uploads { .. } | Route::Upload { .. }) {
            return self.read(route, &head, client).await;
        }
        let pushes = self.pushes.clone().ok_or_else(only_read)?;
        let (door, client) = (self.clone(), client.clone());
        // In a task of its own, which does not stop in the middle if the client goes away.
        let writing = async move {
            let outcome = door.write(&pushes, route, &head, &mut body, &client).await;
            if outcome.is_err() {
                body.skip_little().await;
            }
            outcome
        };
        tokio::spawn(writing.in_current_span()).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a request broke off");
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown, "the request broke off"))
        })
    }

    async fn read(&self, route: Route, head: &Parts, client: &Principal) -> Result<Response<Body>, Refusal> {
        let (method, query) = (&head.method, head.uri.query());
        let readable = |name: &str| {
            let repository = Repository::of(name, query)?;
            self.check_pull(&repository, client)?;
            Ok::<_, Refusal>(repository)
        };
        match route {
            Route::Ping => Ok(json(StatusCode::OK, &json!({}))),
            Route::Catalog => self.repositories(query, client).await,
            Route::Tags { name } => self.tags(&readable(&name)?, query, client).await,
            Route::Manifest { name, reference } => {
                self.manifest(method, &head.headers, &readable(&name)?, &reference, client).await
            }
            Route::Blob { name, digest } => {
                self.blob(method, &head.headers, (&readable(&name)?, &digest), client).await
            }
            Route::Referrers { name, digest } => self.referrers(&readable(&name)?, &digest, query, client).await,
            Route::Uploads { .. } | Route::Upload { .. } => Err(unsupported()),
        }
    }

    async fn write(
        &self,
        pushes: &Pushes,
        route: Route,
        head: &Parts,
        body: &mut UploadBody,
        client: &Principal,
    ) -> Result<Response<Body>, Refusal> {
        let (method, headers, query) = (&head.method, &head.headers, head.uri.query());
        let repository = |name: &str| Repository::of(name, query);
        let writable = |name: &str| {
            let repository = Repository::of(name, query)?;
            self.check_push(&repository, client)?;
            Ok::<_, Refusal>(repository)
        };
        match (method.as_str(), route) {
            ("POST", Route::Uploads { name }) => {
                let repository = &writable(&name)?;
                let request = UploadRequest { method, headers, query, repository, client };
                self.begin_upload(pushes, &request, body).await
            }
            ("GET" | "HEAD" | "PATCH" | "PUT" | "DELETE", Route::Upload { name, id }) => {
                let repository = &writable(&name)?;
                let request = UploadRequest { method, headers, query, repository, client };
                self.upload(pushes, &request, &id, body).await
            }
            ("PUT", Route::Manifest { name, reference }) => {
                let repository = writable(&name)?;
                self.put_manifest(pushes, (&repository, &reference, query), (headers, body), client).await
            }
            ("DELETE", Route::Manifest { name, reference }) => {
                self.untag(&repository(&name)?, &reference, client).await
            }
            _ => Err(unsupported()),
        }
    }
}

/// The method, as it is counted: clients may send any word.
fn method_of(method: &Method) -> &'static str {
    const KNOWN: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

/// Whether a mirror's client is told: its range is wrong, or it is to show its password.
fn is_said_to_mirrors(status: StatusCode) -> bool {
    let told = [StatusCode::RANGE_NOT_SATISFIABLE, StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS];
    told.contains(&status)
}

fn unsupported() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, "this method is not offered for this path")
}

fn only_read() -> Refusal {
    let message = "this registry can only be read; hint: serve with --registry-writable";
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, message).with(ALLOW, "GET, HEAD")
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}
