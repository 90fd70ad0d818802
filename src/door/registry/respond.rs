//! Leads each request to what responds to it.

use http::header::{ALLOW, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::Door;
use super::guard;
use super::query;
use super::refusal::{Code, Refusal};
use super::repository::Repository;
use super::response::{json, put};
use super::route::Route;
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
    pub(super) async fn respond(&self, request: Request<Incoming>, client: &Principal) -> Response<Body> {
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

    async fn route(&self, request: Request<Incoming>, client: &Principal) -> Result<Response<Body>, Refusal> {
        guard::check(&request, client)?;
        if let Some(status) = self.status.as_ref().filter(|_| StatusReport::is_requested_by(&request)) {
            return Ok(status.response(full));
        }
        let (head, _) = request.into_parts();
        let (method, query) = (&head.method, head.uri.query());
        let route = Route::of(head.uri.path())?;
        if !is_read(method) {
            return Err(only_read());
        }
        let repository = |name: &str| Repository::of(name, query);
        match route {
            Route::Ping => Ok(json(StatusCode::OK, &json!({}))),
            Route::Catalog => self.repositories(query).await,
            Route::Tags { name } => self.tags(&repository(&name)?, query).await,
            Route::Manifest { name, reference } => {
                self.manifest(method, &head.headers, &repository(&name)?, &reference, client).await
            }
            Route::Blob { name, digest } => {
                repository(&name)?;
                self.blob(method, &head.headers, &digest, client).await
            }
            Route::Referrers { name, digest } => self.referrers(&repository(&name)?, &digest, query).await,
            Route::Uploads => Err(only_read()),
        }
    }
}

fn only_read() -> Refusal {
    let message = "this registry can only be read";
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, message).with(ALLOW, "GET, HEAD")
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}
