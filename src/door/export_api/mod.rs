//! The standard exporter API, `linkspan.export.v1`: `proto/README.md` is its specification.
//!
//! A client opens an export (`sessions`), is told what must be sent (`negotiate`), sends it through containerd's
//! Content service scoped to the export (`content`, `write`), and commits it (`commit`) by one or several
//! `exporters`. What survives a restart is kept with the engine's lease (`record`).

mod capabilities;
mod client;
mod commit;
mod commit_task;
mod content;
mod errors;
mod exporters;
mod filter;
mod negotiate;
mod output;
mod outputs;
mod record;
mod recover;
mod references;
mod scope;
mod server;
mod service;
mod session;
mod sessions;
mod status;
mod write;

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::engine::EngineError;
use crate::export::Exports;
use crate::net::Connection;
use crate::output::folder::Folders;
use crate::status::StatusReport;

use server::Handover;
use sessions::Sessions;

/// The door for clients of the standard exporter API.
#[derive(Debug)]
pub struct Door {
    handover: Handover,
}

impl Door {
    /// A door to `exports`, through which outputs may be left below `folders`. Exports of an earlier process are found again
    /// if that had the same `name`; those of others that serve the same engine are theirs. `status` is
    /// what it answers who asks what it belongs to. The door is closed by cancelling
    /// `drain`: calls under way are finished then, and no new ones are taken.
    ///
    /// # Errors
    /// When the API cannot be described.
    pub async fn open(
        exports: Arc<Exports>,
        folders: Folders,
        name: &str,
        status: Option<StatusReport>,
        drain: CancellationToken,
    ) -> Result<Self, EngineError> {
        folders.sweep();
        let sessions = Arc::new(Sessions::new(exports, folders, name.to_owned()));
        match sessions.recover().await {
            0 => {}
            found => tracing::info!(found, "took up the exports of an earlier process"),
        }
        let handover = server::start(&sessions, status, drain.clone()).map_err(|error| EngineError::Protocol {
            operation: "describing the exporter API".to_owned(),
            reason: error.to_string(),
        })?;
        tokio::spawn(sessions.sweep(drain));
        Ok(Self { handover })
    }

    /// Serves one client connection until it ends.
    pub async fn serve(&self, connection: Connection<impl AsyncRead + AsyncWrite + Send + Unpin + 'static>) {
        self.handover.serve(connection).await;
    }
}
