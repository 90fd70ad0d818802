//! Execs that were created and not yet started.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::exec::Exec;

/// Clients start what they create within milliseconds.
const EXPIRES_AFTER: Duration = Duration::from_secs(600);

/// Execs above this limit are dropped, oldest first, and are then forwarded like any other exec.
const MAX_EXECS: usize = 1024;

/// Execs by their ids.
#[derive(Debug, Default)]
pub(super) struct PendingExecs(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    execs: HashMap<String, Exec>,
    /// When each exec was created, oldest first; some may have been started since.
    order: VecDeque<(Instant, String)>,
}

impl PendingExecs {
    /// Records an exec.
    pub(super) fn add(&self, id: String, exec: Exec) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        while let Some((created, oldest)) = inner.order.front() {
            if inner.order.len() < MAX_EXECS && now.duration_since(*created) < EXPIRES_AFTER {
                break;
            }
            let oldest = oldest.clone();
            inner.execs.remove(&oldest);
            inner.order.pop_front();
        }
        inner.order.push_back((now, id.clone()));
        inner.execs.insert(id, exec);
    }

    /// Removes and returns the exec called `id`.
    pub(super) fn take(&self, id: &str) -> Option<Exec> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).execs.remove(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(pending: &PendingExecs, id: usize) {
        let process = serde_json::from_str(r#"{"Cmd":["buildctl","dial-stdio"]}"#).unwrap();
        let container_id = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async { None }));
        let exec = Exec { container: "c".to_owned(), container_id, process, head: Vec::new() };
        pending.add(id.to_string(), exec);
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_few_and_not_old() {
        let pending = PendingExecs::default();
        (0..=MAX_EXECS).for_each(|id| add(&pending, id));
        assert!(pending.take("0").is_none(), "the oldest makes room");
        assert!(pending.take("1").is_some());
        assert!(pending.take("1").is_none(), "an exec starts once");
        tokio::time::sleep(EXPIRES_AFTER).await;
        add(&pending, 5000);
        assert!(pending.take("2").is_none());
        assert!(pending.take("5000").is_some());
    }
}
