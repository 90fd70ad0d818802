//! What this server can do.

use super::exporters;
use crate::engine;
use crate::export::Exports;
use crate::export_v1::convert::duration_message;
use crate::export_v1::limits;
use crate::export_v1::proto::{self, CapabilitiesResponse, ContentSupport, NamePolicy};
use crate::image::Limits;
use crate::net::Principal;
use crate::output::folder::Folders;

/// The media types of documents that are understood (image-spec, and Docker's of schema 2).
const DOCUMENTS: [&str; 6] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.container.image.v1+json",
];

/// The response to Capabilities, as `client` gets it.
pub(super) fn capabilities(exports: &Exports, client: &Principal, folders: &Folders) -> CapabilitiesResponse {
    let identity = exports.engine().identity();
    CapabilitiesResponse {
        exporter_types: exporters::all().iter().map(|exporter| exporter.describe(identity)).collect(),
        content: Some(ContentSupport {
            document_media_types: DOCUMENTS.map(str::to_owned).to_vec(),
            compressions: ["none", "gzip", "zstd"].map(str::to_owned).to_vec(),
            digest_algorithms: vec!["sha256".to_owned()],
        }),
        limits: Some(numbers()),
        engine: Some(engine::identity_message(&**exports.engine())),
        features: features(exports, folders),
        server: concat!("linkspan ", env!("CARGO_PKG_VERSION")).to_owned(),
        names: Some(NamePolicy {
            allowed: exports.policy(client).settable(),
            may_move: exports.policy(client).may_move_some(),
        }),
    }
}

fn features(exports: &Exports, folders: &Folders) -> Vec<String> {
    let readable = exports.engine().images().is_ok();
    let leaves = !folders.allowed().is_empty();
    let optional = readable.then_some("references").into_iter().chain(leaves.then_some("output-dest"));
    std::iter::once("read-output").chain(optional).map(str::to_owned).collect()
}

fn numbers() -> proto::Limits {
    let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    proto::Limits {
        message_bytes: number(limits::MESSAGE_BYTES),
        metadata_bytes: limits::METADATA_BYTES.into(),
        open_exports: number(limits::OPEN_EXPORTS),
        exporters: number(limits::EXPORTERS),
        negotiate_descriptors: number(limits::NEGOTIATE_DESCRIPTORS),
        blobs: number(limits::BLOBS),
        writes: number(limits::WRITES),
        document_bytes: i64::try_from(Limits::default().document_bytes).unwrap_or(i64::MAX),
        names: number(limits::NAMES),
        default_ttl: Some(duration_message(limits::DEFAULT_TTL)),
        max_lifetime: Some(duration_message(limits::MAX_LIFETIME)),
        result_retention: Some(duration_message(limits::RESULT_RETENTION)),
        idle_timeout: Some(duration_message(limits::IDLE)),
        record_bytes: number(limits::RECORD_BYTES),
        refs: number(limits::REFS),
    }
}
