//! The record that dockerd makes of an image that it loads without a name (moby `daemon/containerd/soft_delete.go`): it is there
//! until a name is set, and must not stay when none is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::time::sleep;

use super::DockerApi;
use super::names::inspect;
use crate::engine::EngineError;
use crate::image::Digest;

/// How often the record is looked for where it is not known how a load ended: dockerd learns late that its client has gone.
const LOOKS: usize = 5;
const INTERVAL: Duration = Duration::from_millis(200);

/// The record without a name of one image.
#[derive(Debug)]
pub(super) struct UnnamedRecord {
    docker: Arc<DockerApi>,
    root: Digest,
    /// Whether it was there before, so that it must stay.
    was_there: bool,
    made: Mutex<Made>,
}

/// What we have to do with the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// Nothing: it was not made at our request, or is what was requested.
    NotByUs,
    /// dockerd makes it for a load of ours, and has not said how that ended.
    ByUnfinishedLoad,
    /// dockerd may have made it at our request, and has responded.
    Perhaps,
}

impl UnnamedRecord {
    /// Looks at what is there before the first load.
    pub(super) async fn look(docker: Arc<DockerApi>, root: Digest) -> Result<Self, EngineError> {
        let found = inspect(&docker.api, root.as_str()).await?;
        let was_there = found.is_some_and(|found| found.target().digest == root && found.is_dangling());
        Ok(Self { docker, root, was_there, made: Mutex::new(Made::NotByUs) })
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A load begins: from now on dockerd may make it.
    pub(super) fn load_begins(&self) {
        *self.made() = Made::ByUnfinishedLoad;
    }

    /// dockerd has said how the load ended.
    pub(super) fn load_ended(&self) {
        *self.made() = Made::Perhaps;
    }

    /// It may be there again: an image that loses its last name stays without one.
    pub(super) fn may_be_back(&self) {
        *self.made() = Made::Perhaps;
    }

    /// It is as it should be: another name took its place, or it is what was requested.
    pub(super) fn keep(&self) {
        *self.made() = Made::NotByUs;
    }

    /// Whether the image was there without a name, so that it must stay.
    pub(super) fn was_there(&self) -> bool {
        self.was_there
    }

    /// Removes it if it is ours, and with it the image if nothing else names it. Never by force: what a container uses stays.
    pub(super) async fn forget(&self) {
        if !self.was_there {
            self.remove_made().await;
        }
    }

    /// Removes it where the image has a name: whoever made it, it would keep the image when that name goes. Of two exports of one
    /// image the second finds the record of the first, whose name takes it away before the second one makes it again.
    pub(super) async fn yield_to_name(&self) {
        self.remove_made().await;
    }

    async fn remove_made(&self) {
        let made = *self.made();
        let looks = match made {
            Made::NotByUs => return,
            Made::ByUnfinishedLoad => LOOKS,
            Made::Perhaps => 1,
        };
        for left in (0..looks).rev() {
            match self.remove().await {
                Ok(false) if left > 0 => sleep(INTERVAL).await,
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, root = %self.root, "docker may keep an image that was not requested, without a name");
                    return;
                }
            }
        }
        self.keep();
    }

    /// Whether it was there.
    async fn remove(&self) -> Result<bool, EngineError> {
        let api = &self.docker.api;
        let name = if self.docker.knows_unnamed_records {
            format!("moby-dangling@{}", self.root)
        } else {
            match inspect(api, self.root.as_str()).await? {
                Some(found) if found.target().digest == self.root && found.is_dangling() => self.root.to_string(),
                _ => return Ok(false),
            }
        };
        // Images that it was built from, and have no name, are somebody else's.
        let response = api.delete(&format!("/images/{name}?noprune=1")).await?;
        match response.status {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(EngineError::Commit { engine: "docker", reason: response.message() }),
        }
    }
}
