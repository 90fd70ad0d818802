//! The standard exporter API, `linkspan.export.v1`: `proto/README.md` is its specification.
//!
//! A client opens an export (`sessions`), gets what must be sent (`negotiate`), sends it through containerd's
//! Content service scoped to the export (`crate::content_server`), and commits it (`commit`) by one or several
//! `exporters`. What survives a restart is kept with the engine's lease (`record`).

mod capabilities;
mod commit;
mod commit_task;
mod errors;
mod exporters;
mod negotiate;
mod output;
mod outputs;
mod record;
mod recover;
mod references;
mod scoped_source;
mod service;
mod session;
mod sessions;
mod targets;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::api_server::ApiService;
use crate::export::Exports;
use crate::export_v1::limits::MESSAGE_BYTES;
use crate::export_v1::proto::DESCRIPTORS;
use crate::export_v1::proto::exports_server::ExportsServer;
use crate::export_v1::proto::references_server::ReferencesServer;
use crate::output::folder::Folders;

use references::ReferenceService;
use service::ExportService;
use sessions::Sessions;

/// The service of every engine.
const EXPORTS: &str = "linkspan.export.v1.Exports";
/// The service of engines whose images can be read.
const REFERENCES: &str = "linkspan.export.v1.References";

/// The exporter API in front of `exports`, through which outputs may be left below `folders`. Exports of an earlier process
/// are found again if that had the same `name`; those of others that serve the same engine are theirs. No export expires after
/// `drain`.
pub async fn open(exports: Arc<Exports>, folders: Folders, name: &str, drain: CancellationToken) -> ApiService {
    folders.sweep();
    let sessions = Arc::new(Sessions::new(exports, folders, name.to_owned()));
    match sessions.recover().await {
        0 => {}
        found => tracing::info!(found, "restored exports of an earlier process"),
    }
    tokio::spawn(sessions.clone().sweep(drain));
    let is_readable = sessions.exports.engine().images().is_ok();
    let scopes = sessions.clone();
    ApiService {
        services: [EXPORTS].into_iter().chain(is_readable.then_some(REFERENCES)).collect(),
        descriptors: DESCRIPTORS,
        scopes,
        add: Box::new(move |routes| {
            let references = is_readable.then(|| ReferenceService::new(sessions.exports.clone()));
            let exports = ExportsServer::new(ExportService(sessions));
            routes
                .add_service(exports.max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES));
            if let Some(references) = references {
                let references = ReferencesServer::new(references);
                routes.add_service(
                    references.max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES),
                );
            }
        }),
    }
}
