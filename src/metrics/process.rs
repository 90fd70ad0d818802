//! The process, with the names that all of Prometheus' clients use.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// What `/proc/self` says (proc(5)); what cannot be read is left out.
#[derive(Debug)]
pub(super) struct Process;

/// Fields of `/proc/self/stat`.
struct Stat {
    cpu_seconds: f64,
    /// Since the machine was booted.
    started_seconds: f64,
    virtual_bytes: i64,
    resident_bytes: i64,
    threads: i64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(stat) = stat(&fs::read_to_string("/proc/self/stat").unwrap_or_default()) {
            let help = "CPU time of this process, in user and system mode";
            let (seconds, bytes) = (Unit::Seconds, Unit::Bytes);
            let (seconds, bytes) = (Some(&seconds), Some(&bytes));
            let cpu = ConstCounter::new(stat.cpu_seconds);
            cpu.encode(encoder.encode_descriptor("process_cpu", help, seconds, MetricType::Counter)?)?;
            if let Some(booted) = booted(&fs::read_to_string("/proc/stat").unwrap_or_default()) {
                let started = ConstGauge::new(booted + stat.started_seconds);
                let help = "When this process was started, in seconds since 1970";
                started.encode(encoder.encode_descriptor("process_start_time", help, seconds, MetricType::Gauge)?)?;
            }
            let help = "Memory of this process that is resident";
            let resident = ConstGauge::new(stat.resident_bytes);
            resident.encode(encoder.encode_descriptor("process_resident_memory", help, bytes, MetricType::Gauge)?)?;
            let help = "Address space of this process";
            let space = ConstGauge::new(stat.virtual_bytes);
            space.encode(encoder.encode_descriptor("process_virtual_memory", help, bytes, MetricType::Gauge)?)?;
            let help = "Threads of this process";
            let threads = ConstGauge::new(stat.threads);
            threads.encode(encoder.encode_descriptor("process_threads", help, None, MetricType::Gauge)?)?;
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // The folder itself is open while it is read.
            let open = i64::try_from(entries.count()).unwrap_or(i64::MAX).saturating_sub(1);
            let help = "Open file descriptors of this process";
            ConstGauge::new(open).encode(encoder.encode_descriptor(
                "process_open_fds",
                help,
                None,
                MetricType::Gauge,
            )?)?;
        }
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let help = "The most file descriptors that this process may have open";
        let limit = ConstGauge::new(i64::try_from(limit).unwrap_or(i64::MAX));
        limit.encode(encoder.encode_descriptor("process_max_fds", help, None, MetricType::Gauge)?)
    }
}

fn stat(text: &str) -> Option<Stat> {
    // The second field is the program's name in brackets, which may have spaces and brackets of its own.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    // Fields are numbered from 1, and these begin with the third.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = clock_ticks_per_second() as f64;
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    Some(Stat {
        cpu_seconds: (field(14)? + field(15)?) as f64 / ticks,
        threads: signed(field(20)?),
        started_seconds: field(22)? as f64 / ticks,
        virtual_bytes: signed(field(23)?),
        resident_bytes: signed(field(24)?.saturating_mul(page_size() as u64)),
    })
}

/// When the machine was booted, in seconds since 1970.
fn booted(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 9 0 700 4096 2";
        for name in ["linkspan", "a) b", "(("] {
            let stat = stat(&format!("12 ({name}) {rest}")).unwrap();
            let ticks = clock_ticks_per_second() as f64;
            assert_eq!((stat.cpu_seconds, stat.started_seconds), (200.0 / ticks, 700.0 / ticks));
            assert_eq!((stat.threads, stat.virtual_bytes), (9, 4096));
            assert_eq!(stat.resident_bytes, 2 * page_size() as i64);
        }
        assert!(stat("12 (cut").is_none() && stat("12 (cut) S 1").is_none());
        assert_eq!(booted("cpu 1\nbtime 1700000000\n"), Some(1.7e9));
    }
}
