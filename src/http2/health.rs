//! Checks that an idle connection still leads to a gRPC server.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Limited};

use super::body::full;
use super::connection::UpstreamConnection;

/// How long a server may take. Replacing the connection of one that is merely slow does no harm.
const TIMEOUT: Duration = Duration::from_secs(2);

/// gRPC's own health service; buildkitd has it (BuildKit `cmd/buildkitd/main.go`), but any response at all will do.
const CHECK: &str = "http://localhost/grpc.health.v1.Health/Check";

/// An empty gRPC message: uncompressed, no bytes.
const EMPTY_MESSAGE: &[u8] = &[0; 5];

/// The longest response that is read.
const MAX_RESPONSE_BYTES: usize = 4 << 10;

/// Sends the health check; whether there was a response.
pub(super) async fn is_responsive(connection: &UpstreamConnection) -> bool {
    let request = Request::post(CHECK)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(full(Bytes::from_static(EMPTY_MESSAGE)));
    let Ok(request) = request else { return false };
    let exchange = async {
        let response = connection.send(request).await.ok()?;
        Limited::new(response.into_body(), MAX_RESPONSE_BYTES).collect().await.ok()
    };
    matches!(tokio::time::timeout(TIMEOUT, exchange).await, Ok(Some(_)))
}
