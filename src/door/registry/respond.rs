//! Leads each request to what responds to it.

use std::sync::Arc;

use http::header::{ALLOW, EXPECT, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::Door;
use super::guard;
use super::push::{Pushes, UploadBody};
use super::query;
use super::refusal::{Code, Refusal};
use super::repository::Repository;
use super::response::{json, put};
use super::route::Route;
use super::uploads::UploadRequest;
use crate::http2::{Body, full};
use crate::net::Principal;
use crate::status::StatusReport;

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
        let mut response = match self.route(request, client).await {
            Ok(response) => response,
            Err(refusal) => {
                let status = refusal.status;
                tracing::debug!(%method, path, %status, code = ?refusal.code, "refused");
                match namespace {
                    // A mirror's client asks the next host, but for nothing else than this status.
                    Some(_) if is_read(&method) && status != StatusCode::RANGE_NOT_SATISFIABLE => refusal.into_absent(),
                    _ => refusal,
                }
                .response()
            }
        };
        if is_head {
            // The length of what a GET gets stays.
            *response.body_mut() = full(bytes::Bytes::new());
        }
        let headers = response.headers_mut();
        headers.insert(VERSION.0, VERSION.1);
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
        guard::check(&request, client)?;
        if let Some(status) = self.status.as_ref().filter(|_| StatusReport::is_requested_by(&request)) {
            return Ok(status.response(full));
        }
        let (head, body) = request.into_parts();
        let route = Route::of(head.uri.path())?;
        if is_read(&head.method) && !matches!(route, Route::Uploads { .. } | Route::Upload { .. }) {
            return self.read(route, &head, client).await;
        }
        let pushes = self.pushes.clone().ok_or_else(only_read)?;
        let (door, client) = (self.clone(), client.clone());
        let mut body = UploadBody::new(body, head.headers.contains_key(EXPECT));
        // In a task of its own, which does not stop in the middle if the client goes away.
        let writing = tokio::spawn(async move {
            let outcome = door.write(&pushes, route, &head, &mut body, &client).await;
            if outcome.is_err() {
                body.skip_little().await;
            }
            outcome
        });
        writing.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a request broke off");
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown, "the request broke off"))
        })
    }

    async fn read(&self, route: Route, head: &Parts, client: &Principal) -> Result<Response<Body>, Refusal> {
        let (method, query) = (&head.method, head.uri.query());
        let repository = |name: &str| Repository::of(name, query);
        match route {
            Route::Ping => Ok(json(StatusCode::OK, &json!({}))),
            Route::Catalog => self.repositories(query).await,
            Route::Tags { name } => self.tags(&repository(&name)?, query).await,
            Route::Manifest { name, reference } => {
                self.manifest(method, &head.headers, &repository(&name)?, &reference, client).await
            }
            Route::Blob { name, digest } => {
                self.blob(method, &head.headers, (&repository(&name)?, &digest), client).await
            }
            Route::Referrers { name, digest } => self.referrers(&repository(&name)?, &digest, query).await,
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
        match (method.as_str(), route) {
            ("POST", Route::Uploads { name }) => {
                let repository = &repository(&name)?;
                let request = UploadRequest { method, headers, query, repository, client };
                self.begin_upload(pushes, &request, body).await
            }
            ("GET" | "HEAD" | "PATCH" | "PUT" | "DELETE", Route::Upload { name, id }) => {
                let repository = &repository(&name)?;
                let request = UploadRequest { method, headers, query, repository, client };
                self.upload(pushes, &request, &id, body).await
            }
            ("PUT", Route::Manifest { name, reference }) => {
                let repository = repository(&name)?;
                self.put_manifest(pushes, (&repository, &reference, query), (headers, body), client).await
            }
            ("DELETE", Route::Manifest { name, reference }) => {
                self.untag(&repository(&name)?, &reference, client).await
            }
            _ => Err(unsupported()),
        }
    }
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
