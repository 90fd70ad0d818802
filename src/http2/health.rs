//! Whether a connection that has waited still leads to a gRPC server.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Limited};

use super::body::full;
use super::connection::UpstreamConnection;

/// How long a living server may take. One that is starved gets a new connection, which is no harm.
const PATIENCE: Duration = Duration::from_secs(2);

/// gRPC's own health service; buildkitd has it (BuildKit `cmd/buildkitd/main.go`), but any answer at all will do.
const CHECK: &str = "http://localhost/grpc.health.v1.Health/Check";

/// An empty gRPC message: uncompressed, no bytes.
const EMPTY_MESSAGE: &[u8] = &[0; 5];

/// What a health answer has at most.
const MAX_ANSWER_BYTES: usize = 4 << 10;

/// Asks, and whether there is an answer.
pub(super) async fn answers(connection: &UpstreamConnection) -> bool {
    let request = Request::post(CHECK)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(full(Bytes::from_static(EMPTY_MESSAGE)));
    let Ok(request) = request else { return false };
    let exchange = async {
        let answer = connection.send(request).await.ok()?;
        Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await.ok()
    };
    matches!(tokio::time::timeout(PATIENCE, exchange).await, Ok(Some(_)))
}
