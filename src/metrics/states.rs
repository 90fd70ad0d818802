//! What is looked up at each scrape: live exports, leases, connections to builders and engines, spans that were lost.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::labels::{Door, Peer};
use crate::engine::OpenLeases;
use crate::export::LiveExports;
use crate::net::{BUILDERS, ENGINES};

/// Live exports by the doors that they came through.
pub(super) const DOORS: [&str; 5] = ["buildkit", "docker", "export", "cache", "registry"];

pub(super) struct States {
    pub(super) exports: LiveExports,
    pub(super) leases: OpenLeases,
    pub(super) dropped: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("States").finish_non_exhaustive()
    }
}

impl Collector for States {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut live: BTreeMap<&str, i64> = DOORS.iter().map(|door| (*door, 0)).collect();
        for export in self.exports.list() {
            if let Some(count) = live.get_mut(export.door.as_str()) {
                *count += 1;
            }
        }
        let help = "Exports under way, as `linkspan ps` lists them";
        let mut family = encoder.encode_descriptor("linkspan_exports_live", help, None, MetricType::Gauge)?;
        for (door, count) in DOORS.iter().filter_map(|door| Some((*door, *live.get(door)?))) {
            ConstGauge::new(count).encode(family.encode_family(&Door { door })?)?;
        }
        let leases = ConstGauge::new(i64::try_from(self.leases.count()).unwrap_or(i64::MAX));
        let help = "Leases of this process on blobs of the engine";
        leases.encode(encoder.encode_descriptor("linkspan_leases_open", help, None, MetricType::Gauge)?)?;
        let peers = [("builder", &BUILDERS), ("engine", &ENGINES)];
        let help = "Connections to builders and engines that are open";
        let mut family =
            encoder.encode_descriptor("linkspan_upstream_connections_open", help, None, MetricType::Gauge)?;
        for (peer, count) in peers {
            ConstGauge::new(count.open()).encode(family.encode_family(&Peer { peer })?)?;
        }
        let help = "Connections to builders and engines";
        let mut family = encoder.encode_descriptor("linkspan_upstream_connections", help, None, MetricType::Counter)?;
        for (peer, count) in peers {
            ConstCounter::new(count.opened()).encode(family.encode_family(&Peer { peer })?)?;
        }
        let dropped = ConstCounter::new((self.dropped)());
        let help = "Spans of traces that were not sent: the queue was full, or the collector took none";
        dropped.encode(encoder.encode_descriptor("linkspan_spans_dropped", help, None, MetricType::Counter)?)
    }
}
