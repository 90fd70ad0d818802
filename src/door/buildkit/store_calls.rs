//! Calls of a builder to content stores inside a client's session.

use std::convert::Infallible;

use futures_util::FutureExt as _;
use http::Request;
use http_body_util::BodyExt as _;
use tonic::Status;
use tower::ServiceExt as _;

use super::grpc::error_response;
use super::session::{CallHandler, Handled};
use crate::content_server::{CallTarget, ContentService};
use crate::export_v1::proto::content_server::ContentServer;
use crate::http2::{BodyError, MAX_MESSAGE_BYTES};

/// The service that a builder calls for contents (containerd `api/services/content/v1`).
const CONTENT: &str = "/containerd.services.content.v1.Content/";

/// The metadata that names the store which is called. A caller that passes a call on puts its own in front, and servers
/// look at the first one only (BuildKit `session/content/attachable.go`).
const STORE: &str = "buildkit-attachable-store-id";

/// The store that a call is for, with the prefix that BuildKit puts before its id; `None` for other calls.
pub(super) fn store<B>(call: &Request<B>) -> Option<&str> {
    let store = call.headers().get(STORE)?.to_str().ok()?;
    call.uri().path().starts_with(CONTENT).then_some(store)
}

/// Serves calls to `target`; `missing` is the response where there is none.
pub(super) fn serve(target: Option<CallTarget>, missing: Status) -> CallHandler {
    let respond = async move |call| {
        let Some(target) = target else { return error_response(&missing) };
        let server = ContentServer::new(ContentService::Only(target))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let response: Result<_, Infallible> = server.oneshot(call).await;
        match response {
            Ok(response) => response.map(|body| body.map_err(BodyError::from).boxed_unsync()),
            Err(never) => match never {},
        }
    };
    Box::new(move |call| respond(call).map(Handled::Response).boxed())
}
