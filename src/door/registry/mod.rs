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
mod stall;
mod subjects;
mod untag;
mod uploads;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use crate::engine::EngineError;
use crate::engine::images::Images;
use crate::export::Exports;
use crate::net::{self, Drain, Stream};
use crate::passwords::SharedPasswords;
use crate::status::StatusReport;

use access::Contents;
use packed::PackedImages;
use push::Pushes;
use reading::Readers;
use stall::StallLimit;
use subjects::Subjects;

/// How long a client may take for the head of a request, and how long a connection may be idle. Longer than Go's clients
/// keep idle connections (`net/http`, `DefaultTransport`: 90 s), so that none is closed while its next request is sent.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a client may take from its connection to the end of its first request's head: who only connects keeps others out.
const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The same for the first request of a connection that was waiting when the drain began.
const LATE_HEAD_TIMEOUT: Duration = Duration::from_secs(2);

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
        let (net::Connection { io, peer }, drain) = (connection, drain.into());
        let has_asked = AtomicBool::new(false);
        let service = service_fn(|request| {
            has_asked.store(true, Ordering::Relaxed);
            let (door, client) = (self.clone(), peer.clone());
            async move { Ok::<_, Infallible>(door.respond(request, &client).await) }
        });
        let is_late = drain.is_cancelled();
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(if is_late { LATE_HEAD_TIMEOUT } else { HEAD_TIMEOUT })
            .keep_alive(!is_late);
        let mut served = pin!(http.serve_connection(TokioIo::new(StallLimit::new(io)), service));
        let silent = async {
            tokio::time::sleep(FIRST_HEAD_TIMEOUT).await;
            if has_asked.load(Ordering::Relaxed) {
                std::future::pending().await
            }
        };
        let outcome = tokio::select! {
            outcome = served.as_mut() => Some(outcome),
            () = silent => {
                tracing::debug!("a client's connection is closed: it has asked for nothing in time");
                return;
            }
            () = drain.cancelled(), if !is_late => {
                served.as_mut().graceful_shutdown();
                None
            }
        };
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => served.await,
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "a client's connection broke off");
        }
    }

    /// Releases what is leased and no longer needed. To be called after the last client has disconnected.
    pub async fn close(&self) {
        self.readers.close();
        if let Some(pushes) = &self.pushes {
            pushes.close().await;
        }
    }
}
