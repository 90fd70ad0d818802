//! A unary call with raw bytes, on a connection of its own.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header};
use tonic::Status;

use super::grpc::{BUILD_ID, Unary, frame, status};
use crate::http2::{UpstreamConnection, full};

/// Calls `path` with `message`; `build` ties a gateway call to its build.
pub(super) async fn call(
    connection: &UpstreamConnection,
    path: &str,
    build: Option<&str>,
    message: &[u8],
) -> Result<Bytes, Status> {
    let mut request = Request::post(format!("http://localhost{path}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers");
    if let Some(build) = build {
        request = request.header(BUILD_ID, build);
    }
    let request = request.body(full(frame(message))).map_err(|error| Status::internal(error.to_string()))?;
    let response = connection.send(request).await.map_err(|error| Status::unavailable(error.to_string()))?;
    let (parts, body) = response.into_parts();
    let response = Unary::read(body).await.map_err(|error| Status::unavailable(error.to_string()))?;
    match status(&parts.headers, response.trailers.as_ref()) {
        Some(status) if status.code() == tonic::Code::Ok => {
            response.message().ok_or_else(|| Status::internal(format!("{path} responded without a message")))
        }
        Some(status) => Err(status),
        None => Err(Status::unavailable(format!("{path} ended without a status"))),
    }
}

/// The build that a gateway call belongs to. BuildKit wants exactly one value.
pub(super) fn build_id(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(BUILD_ID).iter();
    let id = values.next().and_then(|value: &HeaderValue| value.to_str().ok());
    if values.next().is_some() { None } else { id }
}
