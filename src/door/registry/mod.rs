//! The engine's own store as a registry, as the OCI distribution specification has it.
//!
//! `route` says what a path asks for. Manifests are read in `manifests`, blobs in `blobs`,
//! names in `list`, referrers in `referrers`, and `refusal` is every other response. What is read is leased while it is
//! read (`reading`). What clients push goes into the engine under a durable lease for each client and repository (`push`):
//! blobs by `uploads`, manifests by `put_manifest`, which makes them images as exports do; of those that cannot be unpacked
//! `packed` knows. A repository is a part of the engine's names: `repository` says which.
//!
//! The engine keeps blobs and not repositories: a manifest or a blob can be read by its digest through any repository, unless
//! the client's rights are limited (`access`). Who a client is says its connection or its password (`authenticate`).

mod access;
mod authenticate;
mod blobs;
mod graph;
mod guard;
mod list;
mod manifests;
mod packed;
mod parts;
mod push;
mod put_manifest;
mod query;
mod reading;
mod redirect;
mod referrers;
mod refusal;
mod repository;
mod respond;
mod response;
mod route;
mod subjects;
mod untag;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::engine::EngineError;
use crate::engine::images::Images;
use crate::export::Exports;
use crate::http_server::{self, Limits};
use crate::net::{self, Drain, Stream};
use crate::passwords::SharedPasswords;
use crate::status::StatusReport;

use access::Contents;
use packed::PackedImages;
use push::Pushes;
use reading::Readers;
use subjects::Subjects;

/// How long clients may take. An idle connection is kept for longer than Go's clients keep it (`net/http`, `DefaultTransport`: 90 s),
/// so that none is closed while its next request is sent. What a client reads is leased meanwhile.
const LIMITS: Limits = Limits {
    first: Duration::from_secs(30),
    head: Duration::from_secs(30),
    idle: Duration::from_secs(120),
    response: None,
    stall: Duration::from_secs(120),
};

/// What a registry door offers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The exports into the engine whose store is served.
    pub exports: Arc<Exports>,
    /// Whether a mirror's clients may resolve tags, which may be older than those of the registry that they mirror.
    pub mirror_tags: bool,
    /// Whether clients may list all repositories.
    pub catalog: bool,
    /// Whether clients read blobs at URLs of the engine's store.
    pub redirect: bool,
    /// The users, where clients over TCP need a password.
    pub passwords: SharedPasswords,
    /// Whether clients may push, and remove tags: then the door's address, by which a later process finds what they sent.
    pub writable: Option<String>,
}

/// The door.
#[derive(Debug)]
pub struct Door {
    exports: Arc<Exports>,
    images: Arc<dyn Images>,
    mirror_tags: bool,
    catalog: bool,
    redirect: bool,
    readers: Arc<Readers>,
    pushes: Option<Arc<Pushes>>,
    subjects: Subjects,
    packed: PackedImages,
    passwords: SharedPasswords,
    contents: Contents,
    status: Option<StatusReport>,
}

impl Door {
    /// A door to the store of an engine. Leases that are no longer needed are released until `drain`.
    ///
    /// # Errors
    /// [`EngineError::NotOffered`] if the engine's images cannot be read, or have no URLs where `settings` want them.
    pub async fn open(settings: Settings, drain: CancellationToken) -> Result<Self, EngineError> {
        let Settings { exports, mirror_tags, catalog, redirect, passwords, writable } = settings;
        let images = exports.engine().images()?;
        if redirect {
            redirect::check(&**exports.engine())?;
        }
        let readers = Arc::new(Readers::new(exports.clone()));
        tokio::spawn(readers.clone().sweep(drain.clone()));
        let mut pushes = None;
        if let Some(server) = writable {
            let open = Arc::new(Pushes::open(exports.clone(), server).await);
            tokio::spawn(open.clone().sweep(drain));
            pushes = Some(open);
        }
        let subjects = Subjects::new(images.clone());
        Ok(Self {
            exports,
            images,
            mirror_tags,
            catalog,
            redirect,
            readers,
            pushes,
            subjects,
            packed: PackedImages::default(),
            passwords,
            contents: Contents::default(),
            status: None,
        })
    }

    /// Adds the report that status requests get.
    #[must_use]
    pub fn with_status(mut self, status: Option<StatusReport>) -> Self {
        self.status = status;
        self
    }

    /// Serves one client connection until either side ends it. When `drain` is cancelled, requests under way are finished.
    pub async fn serve<T: Stream + 'static>(self: Arc<Self>, connection: net::Connection<T>, drain: impl Into<Drain>) {
        http_server::serve(connection, "registry", drain.into(), LIMITS, |request, client| {
            let door = self.clone();
            async move { door.respond(request, &client).await }
        })
        .await;
    }

    /// Releases what is leased and no longer needed. To be called after the last client has disconnected.
    pub async fn close(&self) {
        self.readers.close();
        if let Some(pushes) = &self.pushes {
            pushes.close().await;
        }
    }
}
