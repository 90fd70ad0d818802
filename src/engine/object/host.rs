//! Which process this is, and what time it is: in the model of many machines each has its own.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::engine::process::Process;

/// By how much the clocks of two machines, and of a machine and the store, may differ.
pub(super) const SKEW: Duration = Duration::from_secs(15 * 60);

/// The process that uses a bucket, and its clock.
#[derive(Debug, Clone)]
pub(super) struct Host {
    /// As leases name it.
    pub(super) process: Arc<str>,
    #[cfg(test)]
    model: Option<super::model::Time>,
}

/// When something happened, by a clock that is never set and by one that goes on while the machine sleeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    steady: Instant,
    wall: SystemTime,
}

impl Host {
    /// This process.
    pub(super) fn this() -> Self {
        Self {
            process: Process::this().to_string().into(),
            #[cfg(test)]
            model: None,
        }
    }

    /// A process of another machine.
    #[cfg(test)]
    pub(super) fn model(process: &str, time: super::model::Time) -> Self {
        Self { process: process.into(), model: Some(time) }
    }

    /// What time it is here.
    pub(super) fn now(&self) -> SystemTime {
        #[cfg(test)]
        if let Some(time) = &self.model {
            return time.now();
        }
        SystemTime::now()
    }

    pub(super) fn moment(&self) -> Moment {
        Moment { steady: Instant::now(), wall: self.now() }
    }

    /// How long ago `moment` was, at least.
    pub(super) fn since(&self, moment: Moment) -> Duration {
        moment.steady.elapsed().max(self.age(moment.wall))
    }

    /// How long ago a time was, by the clock of this machine.
    pub(super) fn age(&self, time: SystemTime) -> Duration {
        self.now().duration_since(time).unwrap_or_default()
    }

    /// Waits.
    pub(super) async fn pause(&self, duration: Duration) {
        #[cfg(test)]
        if let Some(time) = &self.model {
            return time.pause(duration).await;
        }
        tokio::time::sleep(duration).await;
    }
}

/// A name that nothing else has.
pub(super) fn unique(prefix: &str) -> String {
    // Each RandomState is seeded by the system; two make 128 bits.
    let half = || RandomState::new().hash_one(prefix);
    format!("{prefix}-{:016x}{:016x}", half(), half())
}
