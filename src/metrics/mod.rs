//! Metrics for Prometheus: what this process has done, counted.
//!
//! [`Metrics`] is one more listener of what doors and exports tell ([`Activities`]); a scrape adds what can be looked up at any
//! time: the exports and leases that are live, connections, and the process. Labels have few values, none of which a client
//! chooses.

mod families;
mod labels;
mod process;
mod server;
mod states;

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::Registry;

use crate::activity::Activities;
use crate::engine::OpenLeases;
use crate::export::LiveExports;

pub(crate) use families::Families;
pub(crate) use server::{CONNECTIONS, MetricsServer};

/// The type of the text format of OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of a process.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Metrics of a process with these `exports` and `leases`. `dropped` says how many spans were not sent.
    pub(crate) fn new(
        families: Families,
        exports: LiveExports,
        leases: OpenLeases,
        dropped: Arc<dyn Fn() -> u64 + Send + Sync>,
    ) -> Self {
        let mut registry = Registry::default();
        families.register(&mut registry);
        registry.register_collector(Box::new(states::States { exports, leases, dropped }));
        registry.register_collector(Box::new(process::Process));
        Self { registry: Arc::new(registry) }
    }

    /// The families that [`Metrics::new`] takes, for an engine of the kind `engine`, and what counts into them.
    pub(crate) fn counting(engine: &'static str) -> (Families, Activities) {
        let families = Families::default();
        families.create(engine);
        let counting = families.clone();
        (families, Activities::new(move |activity| counting.count(activity)))
    }

    /// The text, in OpenMetrics' format or in Prometheus' own; and its type.
    pub(crate) fn text(&self, is_open_metrics: bool) -> Result<(String, &'static str), fmt::Error> {
        let mut written = String::new();
        if is_open_metrics {
            text::encode(&mut written, &self.registry)?;
            return Ok((written, OPEN_METRICS));
        }
        prometheus_text::encode(&mut written, &self.registry)?;
        Ok((written, prometheus_text::CONTENT_TYPE))
    }
}
