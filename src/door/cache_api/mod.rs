//! The standard caching API, `linkspan.cache.v1`: `proto/README.md` is its specification.
//!
//! A client that reads resolves refs and gets a hold (`holds`); a client that writes opens an export (`sessions`). Blobs go
//! through containerd's Content service, scoped to either (`crate::content_server`). `Commit` stores versions (`commit`), and
//! the rest is administration (`admin`).

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
mod request;
mod service;
mod session;
mod sessions;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::api_server::Part;
use crate::cache_v1::proto::DESCRIPTORS;
use crate::cache_v1::proto::caches_server::CachesServer;
use crate::caches::Caches;
use crate::export::Exports;
use crate::export_v1::limits::MESSAGE_BYTES;

use service::CacheService;
use sessions::Sessions;

/// The caching API in front of `caches`, which are those of the engine that `exports` go to. Nothing expires after `drain`.
pub fn open(caches: Arc<Caches>, exports: Arc<Exports>, drain: CancellationToken) -> Part {
    let sessions = Sessions::new(caches, exports);
    tokio::spawn(sessions.clone().sweep(drain));
    Part {
        services: vec!["linkspan.cache.v1.Caches"],
        descriptors: DESCRIPTORS,
        scopes: sessions.clone(),
        add: Box::new(move |routes| {
            let caches = CachesServer::new(CacheService(sessions));
            routes
                .add_service(caches.max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES));
        }),
    }
}
