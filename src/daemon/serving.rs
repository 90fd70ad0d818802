//! Serving the clients of each door.

use std::sync::Arc;

use super::accept::Listeners;
use super::listen::Listener;
use super::sockets::DockerSocket;
use super::status::Composed;
use super::traces::DroppedSpans;
use super::{DaemonError, docker};
use crate::api_server::{Admission, ApiServer};
use crate::build_outputs::{OutputOptions, SlowLoads};
use crate::caches::Caches;
use crate::config::{Config, RegistryDoor};
use crate::door::{buildkit, cache_api, export_api, registry};
use crate::export::Exports;
use crate::http2::ConnectionPool;
use crate::metrics::{self, Families, Metrics, MetricsServer};
use crate::net::{Address, Principal};
use crate::output::folder::Folders;
use crate::passwords::Passwords;
use crate::telemetry::announce;

/// The door of the exporter and the caching API, whose clients need several calls.
const EXPORT_DOOR: &str = "export";

/// What the doors of a process share.
pub(super) struct Doors<'a> {
    pub(super) config: &'a Config,
    pub(super) exports: Arc<Exports>,
    pub(super) caches: Option<Arc<Caches>>,
    pub(super) passwords: Option<Arc<Passwords>>,
    pub(super) slow_loads: SlowLoads,
    pub(super) status: Composed,
    pub(super) listeners: Listeners,
}

impl Doors<'_> {
    /// Opens the door of the exporter and the caching API, which was configured to listen at `address`.
    pub(super) async fn export(&self, listener: Listener, address: &Address) -> Result<(), DaemonError> {
        let folders = Folders::new(self.config.output_dirs.clone());
        // The configured address: it stays the same across restarts.
        let name = address.to_string();
        let (drain, settled) = (self.listeners.drain(), self.listeners.settled(EXPORT_DOOR));
        let mut parts = vec![export_api::open(Arc::clone(&self.exports), folders, &name, drain.clone()).await];
        if let Some(caches) = self.caches.clone() {
            let exports = match self.exports.engine().cache_engine() {
                Some(engine) => Arc::new(self.exports.beside(engine)),
                None => Arc::clone(&self.exports),
            };
            parts.push(cache_api::open(caches, exports, &name, drain).await);
        }
        let judge = Arc::clone(&self.exports);
        // It knows digests, caches and exports, and not by which names a client may reach them.
        let admits = Arc::new(move |client: &Principal| judge.policy(client).is_unlimited());
        let admission = Admission { passwords: self.passwords.clone(), admits };
        let (report, activities) = (self.status.of(listener.address()), self.exports.activities());
        let server = ApiServer::observed(parts, report, admission, activities, settled.clone())?;
        announce(&format!("export door listening on {}", listener.address()));
        self.listeners.open(EXPORT_DOOR, listener, move |stream, _drain| {
            let (server, settled) = (server.clone(), settled.clone());
            async move {
                // From then on the server accepts no connections, and this one would hang.
                if !settled.is_cancelled() {
                    server.serve(stream).await;
                }
            }
        });
        Ok(())
    }

    /// Opens the address that metrics are scraped at.
    pub(super) fn metrics(&self, listener: Listener, families: Families, dropped: DroppedSpans) {
        let (live, leases) = (self.exports.live().clone(), self.exports.leases().clone());
        let metrics = Metrics::new(families, live, leases, dropped);
        let activities = self.exports.activities().clone();
        let server = Arc::new(MetricsServer::new(metrics, self.passwords.clone(), activities));
        announce(&format!("metrics listening on {}", listener.address()));
        let serve = move |stream, drain| Arc::clone(&server).serve(stream, drain);
        self.listeners.open_for(Some(metrics::CONNECTIONS), "metrics", listener, serve);
    }

    /// Prepares the registry door, of whose uploads an earlier process may have begun some.
    pub(super) async fn prepare_registry(
        &self,
        listener: &Listener,
        settings: &RegistryDoor,
    ) -> Result<Arc<registry::Door>, DaemonError> {
        let settings = registry::Settings {
            exports: Arc::clone(&self.exports),
            mirror_tags: settings.mirror_tags,
            catalog: settings.catalog,
            redirect: settings.redirect,
            passwords: self.passwords.clone(),
            writable: settings.writable.then(|| settings.listen.to_string()),
        };
        let door = registry::Door::open(settings, self.listeners.drain()).await?;
        Ok(Arc::new(door.with_status(self.status.of(listener.address()))))
    }

    /// Opens the registry door.
    pub(super) fn registry(&self, listener: Listener, door: &Arc<registry::Door>) {
        let is_writable = self.config.registry_door.as_ref().is_some_and(|settings| settings.writable);
        let mode = if is_writable { "writable" } else { "read-only" };
        announce(&format!("registry door listening on {} ({mode})", listener.address()));
        let door = Arc::clone(door);
        self.listeners.open("registry", listener, move |stream, drain| {
            let door = Arc::clone(&door);
            async move { door.serve(stream, drain).await }
        });
    }

    /// Opens the buildkit door of each builder, which is reached through its pool.
    pub(super) fn builders(&self, listeners: Vec<Listener>, pools: Vec<Arc<ConnectionPool>>) {
        for ((builder, connections), listener) in self.config.builders.iter().zip(pools).zip(listeners) {
            announce(&format!("buildkit door for {} listening on {}", builder.endpoint, listener.address()));
            announce_compression(builder.outputs);
            let settings =
                buildkit::Settings { builder: builder.endpoint.to_string(), connections, outputs: builder.outputs };
            let door = buildkit::Door::new(settings, Arc::clone(&self.exports)).with_caches(self.caches.clone());
            let door = door.with_engine_images(&self.config.from_engine).with_slow_loads(self.slow_loads.clone());
            let door = Arc::new(door.with_status(self.status.of(listener.address())));
            let probing = Arc::clone(&door);
            // In the background, because a builder may start after this daemon.
            tokio::spawn(async move { probing.probe().await });
            self.listeners.open("buildkit", listener, move |stream, drain| {
                let door = Arc::clone(&door);
                async move { door.serve(stream, drain).await }
            });
        }
    }

    /// Opens the docker door.
    pub(super) fn docker(&self, socket: DockerSocket) -> Arc<crate::door::docker::Door> {
        let DockerSocket { upstream, listener, outputs } = socket;
        announce(&format!("docker door for {} listening on {}", upstream.address(), listener.address()));
        announce_compression(outputs);
        let (caches, from_engine) = (self.caches.clone(), &self.config.from_engine);
        let door = docker::door(upstream, &self.exports, caches, outputs, &self.slow_loads, from_engine);
        let door = Arc::new(door.with_status(self.status.of(listener.address())));
        let serving = Arc::clone(&door);
        self.listeners.open("docker", listener, move |stream, drain| {
            let door = Arc::clone(&serving);
            async move { door.serve(stream, drain).await }
        });
        door
    }
}

/// Says what the door that was just announced changes in the compression of builds.
fn announce_compression(outputs: OutputOptions) {
    if let Some(changed) = outputs.compression() {
        announce(&format!("  {changed}"));
    }
}
