//! The metrics that are counted as things happen.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::labels::{Blobs, Build, Door, Ended, ErrorKind, Lookup, Refusal, Request, State};
use super::states::DOORS;
use crate::activity::{Activity, Arrival, DOCKER_FAILED, EndedExport, ExportEnd, OUTPUT_FAILED, Refused};
use crate::engine::EngineError;
use crate::export::ExportError;
use crate::progress::State as Step;

/// Upper bounds of durations in seconds: an export that finds everything takes milliseconds, one of a large image minutes.
const SECONDS: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0];

/// Refusals that every daemon may come to, by doors: for want of TLS only those of listeners with TLS do.
const REFUSALS: [(&str, &[Refused]); 6] = [
    ("buildkit", &[Refused::Policy, Refused::Input]),
    ("docker", &[Refused::Policy]),
    ("export", &[Refused::Unauthenticated, Refused::Policy, Refused::Input, Refused::Limit]),
    ("cache", &[Refused::Unauthenticated, Refused::Policy, Refused::Input, Refused::Limit]),
    ("registry", &[Refused::Unauthenticated, Refused::Policy, Refused::Input, Refused::Limit]),
    ("metrics", &[Refused::Unauthenticated, Refused::Limit]),
];

type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

fn durations() -> Histogram {
    Histogram::new(SECONDS)
}

/// All of them. Clones share their values.
#[derive(Debug, Clone)]
pub(crate) struct Families {
    exports: Family<Ended, Counter>,
    export_seconds: Durations<Door>,
    state_seconds: Durations<State>,
    blobs: Family<Blobs, Counter>,
    bytes_sent: Family<Door, Counter>,
    bytes_spared: Family<Door, Counter>,
    errors: Family<ErrorKind, Counter>,
    refusals: Family<Refusal, Counter>,
    sessions_split: Counter,
    cache_lookups: Family<Lookup, Counter>,
    registry_requests: Family<Request, Counter>,
    connections: Family<Door, Counter>,
    connections_open: Family<Door, Gauge>,
}

impl Default for Families {
    fn default() -> Self {
        let (exports, blobs, bytes_sent, bytes_spared, errors, refusals) = Default::default();
        let (sessions_split, cache_lookups, registry_requests, connections, connections_open) = Default::default();
        let constructor: fn() -> Histogram = durations;
        Self {
            exports,
            export_seconds: Family::new_with_constructor(constructor),
            state_seconds: Family::new_with_constructor(constructor),
            blobs,
            bytes_sent,
            bytes_spared,
            errors,
            refusals,
            sessions_split,
            cache_lookups,
            registry_requests,
            connections,
            connections_open,
        }
    }
}

impl Families {
    pub(super) fn register(&self, registry: &mut Registry) {
        let build = Info::new(Build { version: env!("CARGO_PKG_VERSION") });
        registry.register("linkspan_build", "The version of this program", build);
        registry.register("linkspan_exports", "Exports that have ended, by how", self.exports.clone());
        registry.register_with_unit(
            "linkspan_export_duration",
            "How long exports took",
            Unit::Seconds,
            self.export_seconds.clone(),
        );
        registry.register_with_unit(
            "linkspan_export_state_duration",
            "How long exports were in each state",
            Unit::Seconds,
            self.state_seconds.clone(),
        );
        registry.register(
            "linkspan_blobs",
            "Blobs of exports, by how the engine came to have them",
            self.blobs.clone(),
        );
        registry.register_with_unit(
            "linkspan_sent",
            "Bytes of blobs that were sent to the engine",
            Unit::Bytes,
            self.bytes_sent.clone(),
        );
        registry.register_with_unit(
            "linkspan_spared",
            "Bytes of blobs that need not be sent, because the engine had them",
            Unit::Bytes,
            self.bytes_spared.clone(),
        );
        registry.register("linkspan_errors", "Exports that failed, by the kind of reason", self.errors.clone());
        registry.register(
            "linkspan_refusals",
            "Requests and connections of clients that were refused, by the kind of reason",
            self.refusals.clone(),
        );
        registry.register(
            "linkspan_sessions_split",
            "Sessions of builds in which calls are handled by Linkspan",
            self.sessions_split.clone(),
        );
        registry.register(
            "linkspan_cache_lookups",
            "Build caches that builds asked for, and whether they were there",
            self.cache_lookups.clone(),
        );
        registry.register(
            "linkspan_registry_requests",
            "Responses of the registry door",
            self.registry_requests.clone(),
        );
        registry.register("linkspan_connections", "Connections of clients", self.connections.clone());
        registry.register(
            "linkspan_connections_open",
            "Connections of clients that are open",
            self.connections_open.clone(),
        );
    }

    /// Creates what is likely to be counted, with zeros: the first of its kind is then an increase.
    pub(super) fn create(&self, engine: &'static str) {
        for door in DOORS {
            for result in ["exported", "unchanged", "cancelled", "failed"].into_iter().filter(|_| door != "cache") {
                drop(self.exports.get_or_create(&Ended { door, engine, result }));
            }
            for how in [Arrival::Present, Arrival::Adopted, Arrival::Sent] {
                drop(self.blobs.get_or_create(&Blobs { door, how: how.name() }));
            }
            drop(self.bytes_sent.get_or_create(&Door { door }));
            drop(self.bytes_spared.get_or_create(&Door { door }));
        }
        for door in DOORS.into_iter().filter(|door| *door != "cache") {
            drop(self.export_seconds.get_or_create(&Door { door }));
        }
        // The listeners: caches come through the one of exports.
        for door in DOORS.into_iter().filter(|door| *door != "cache").chain(["metrics"]) {
            drop(self.connections.get_or_create(&Door { door }));
            drop(self.connections_open.get_or_create(&Door { door }));
        }
        for route in ["manifest", "blob"] {
            drop(self.registry_requests.get_or_create(&Request { method: "GET", route, status: class_of(200) }));
        }
        for state in [Step::Open, Step::Planned, Step::Transferring, Step::Unpacking, Step::Ready] {
            drop(self.state_seconds.get_or_create(&State { state: state.name() }));
        }
        // Those that two of them have are one series.
        let kinds = EngineError::KINDS.into_iter().chain(ExportError::KINDS).chain([DOCKER_FAILED, OUTPUT_FAILED]);
        for kind in kinds {
            drop(self.errors.get_or_create(&ErrorKind { kind }));
        }
        for (door, reasons) in REFUSALS {
            for reason in reasons {
                drop(self.refusals.get_or_create(&Refusal { door, reason: reason.name() }));
            }
        }
        for result in ["hit", "miss"] {
            drop(self.cache_lookups.get_or_create(&Lookup { result }));
        }
    }

    /// Counts one thing.
    pub(super) fn count(&self, activity: &Activity) {
        match *activity {
            Activity::Blobs { door, how, blobs, bytes } => {
                self.blobs.get_or_create(&Blobs { door, how: how.name() }).inc_by(blobs);
                let of_bytes = match how {
                    Arrival::Sent => &self.bytes_sent,
                    Arrival::Present | Arrival::Adopted => &self.bytes_spared,
                };
                of_bytes.get_or_create(&Door { door }).inc_by(bytes);
            }
            Activity::StateLeft { state, after } => {
                self.state_seconds.get_or_create(&State { state: state.name() }).observe(after.as_secs_f64());
            }
            Activity::Ended(EndedExport { door, engine, end, after }) => {
                self.exports.get_or_create(&Ended { door, engine, result: end.name() }).inc();
                self.export_seconds.get_or_create(&Door { door }).observe(after.as_secs_f64());
                if let ExportEnd::Failed(kind) = end {
                    self.errors.get_or_create(&ErrorKind { kind }).inc();
                }
            }
            Activity::Refused { door, reason } => {
                self.refusals.get_or_create(&Refusal { door, reason: reason.name() }).inc();
            }
            Activity::SessionSplit => {
                self.sessions_split.inc();
            }
            Activity::CacheLookup { is_hit } => {
                let result = if is_hit { "hit" } else { "miss" };
                self.cache_lookups.get_or_create(&Lookup { result }).inc();
            }
            Activity::RegistryRequest { method, route, status } => {
                self.registry_requests.get_or_create(&Request { method, route, status: class_of(status) }).inc();
            }
            Activity::Connected { door } => {
                self.connections.get_or_create(&Door { door }).inc();
                self.connections_open.get_or_create(&Door { door }).inc();
            }
            Activity::Disconnected { door } => {
                self.connections_open.get_or_create(&Door { door }).dec();
            }
        }
    }
}

/// The class of a status of HTTP.
fn class_of(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}
