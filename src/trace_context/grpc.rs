//! Calls of gRPC as spans: what they are about, and how they end (OpenTelemetry, "Semantic conventions for gRPC").

use http::HeaderMap;
use tonic::{Code, Status};
use tracing::Span;

use super::{fail, number};

/// The attribute with the code of a call's status.
const STATUS_CODE: &str = "rpc.grpc.status_code";
/// The field of a call's span with the id of the export that it is about.
const EXPORT: &str = "export";

/// The status in headers or trailers, if there is one.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers)
}

/// The call of `span` has ended with `status`.
pub(crate) fn answered(span: &Span, status: &Status) {
    // A code is a small number above zero.
    number(span, STATUS_CODE, status.code() as u64);
    if is_servers(status.code()) {
        fail(span, &status.message());
    }
}

/// The call of the current span is about the export `id`.
pub(crate) fn about_export(id: &str) {
    Span::current().record(EXPORT, id);
}

/// Whether a server counts a code as its failure, and not as its client's.
fn is_servers(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}
