//! The status document, served to a plain GET beside the gRPC services.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use crate::status::{ROOT, StatusReport};

/// Responds to requests below [`ROOT`], which the server takes for the name of a service.
#[derive(Debug, Clone)]
pub(super) struct StatusService(pub(super) StatusReport);

impl NamedService for StatusService {
    const NAME: &'static str = ROOT;
}

impl Service<Request<Body>> for StatusService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        ready(Ok(if StatusReport::is_requested_by(&request) {
            self.0.response(|document| Body::new(Full::new(document).map_err(|never| match never {})))
        } else {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }))
    }
}
