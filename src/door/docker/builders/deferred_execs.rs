//! Execs that were served without being started.
//!
//! dockerd keeps an exec that never starts until its container stops, and `docker inspect` lists it. So these execs are
//! started later, detached: their standard input is empty then, and `buildctl dial-stdio` ends at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as Turn;

use crate::docker_api::Api;

/// Deferred execs are started when there are this many, or when their builder is no longer used. Each costs a process,
/// so if possible none is started while a client waits for a build.
const MANY: usize = 16;

/// How long dockerd may take to start a process.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// The deferred execs of one builder.
#[derive(Debug)]
pub(super) struct DeferredExecs {
    docker: Arc<Api>,
    ids: Mutex<Vec<String>>,
    turn: Turn<()>,
}

impl DeferredExecs {
    pub(super) fn new(docker: Arc<Api>) -> Self {
        Self { docker, ids: Mutex::default(), turn: Turn::default() }
    }

    /// Adds `id`, to be started later.
    pub(super) fn add(self: &Arc<Self>, id: String) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.push(id);
        if ids.len() == MANY {
            let this = Arc::clone(self);
            tokio::spawn(async move { this.start().await });
        }
    }

    /// Starts the deferred execs, one after another.
    pub(super) async fn start(&self) {
        let _turn = self.turn.lock().await;
        let ids = std::mem::take(&mut *self.ids.lock().unwrap_or_else(PoisonError::into_inner));
        for id in ids {
            let path = format!("/exec/{id}/start");
            match self.docker.send(&path, "application/json", r#"{"Detach":true}"#.into(), TIMEOUT).await {
                Ok(response) if response.status.is_success() => {}
                // Most likely its container has stopped, and dockerd has removed the exec with it.
                Ok(response) => {
                    tracing::debug!(id, status = %response.status, reason = response.message(), "exec not started")
                }
                Err(error) => tracing::debug!(id, %error, "exec not started"),
            }
        }
    }
}
