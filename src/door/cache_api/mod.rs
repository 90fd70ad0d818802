//! The standard caching API, `linkspan.cache.v1`: `proto/README.md` is its specification.
//!
//! A client that reads resolves refs and gets a hold (`holds`); a client that writes opens an export (`sessions`). Blobs go
//! through containerd's Content service, scoped to either (`crate::content_server`). `Commit` stores versions (`commit`), and
//! the rest is administration (`admin`, `watch`). What survives a restart is kept with the engine's lease (`record`).

mod admin;
mod capabilities;
mod commit;
mod commit_task;
mod errors;
mod holds;
mod lifetime;
mod messages;
mod put;
mod query;
mod record;
mod recover;
mod request;
mod service;
mod session;
mod sessions;
mod watch;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::api_server::ApiService;
use crate::cache_v1::proto::DESCRIPTORS;
use crate::cache_v1::proto::caches_server::CachesServer;
use crate::caches::Caches;
use crate::export::Exports;
use crate::export_v1::limits::MESSAGE_BYTES;

use service::CacheService;
use sessions::Sessions;

/// The service.
const SERVICE: &str = "linkspan.cache.v1.Caches";

/// The caching API in front of `caches`, which are those of the engine that `exports` go to. Exports of an earlier process are
/// found again if that had the same `name`; those of others that serve the same engine are theirs. No export expires after
/// `drain`, when all holds and watches end.
pub async fn open(caches: Arc<Caches>, exports: Arc<Exports>, name: &str, drain: CancellationToken) -> ApiService {
    let sessions = Sessions::new(caches, exports, name, drain);
    match sessions.recover().await {
        0 => {}
        found => tracing::info!(found, "restored cache exports of an earlier process"),
    }
    tokio::spawn(sessions.clone().sweep());
    ApiService {
        services: vec![SERVICE],
        descriptors: DESCRIPTORS,
        scopes: sessions.clone(),
        add: Box::new(move |routes| {
            let caches = CachesServer::new(CacheService(sessions));
            routes
                .add_service(caches.max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES));
        }),
    }
}
