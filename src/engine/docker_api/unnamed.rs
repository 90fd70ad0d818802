//! The record that dockerd makes of an image that it loads without a name (moby `daemon/containerd/soft_delete.go`): it is there
//! until a name is set, and must not stay when none is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Whether a load of ours may have made it.
    is_expected: AtomicBool,
    /// Whether dockerd has said how that load ended.
    is_settled: AtomicBool,
}

impl UnnamedRecord {
    /// Looks at what is there before the first load.
    pub(super) async fn look(docker: Arc<DockerApi>, root: Digest) -> Result<Self, EngineError> {
        let found = inspect(&docker.api, root.as_str()).await?;
        let was_there = found.is_some_and(|found| found.target().digest == root && found.is_dangling());
        let (is_expected, is_settled) = (AtomicBool::new(false), AtomicBool::new(true));
        Ok(Self { docker, root, was_there, is_expected, is_settled })
    }

    /// From now on dockerd may make it at our request.
    pub(super) fn expect(&self) {
        self.is_settled.store(false, Ordering::Release);
        self.is_expected.store(true, Ordering::Release);
    }

    /// dockerd has said how the load ended.
    pub(super) fn settle(&self) {
        self.is_settled.store(true, Ordering::Release);
    }

    /// It is as it should be: another name took its place, or it is what was requested.
    pub(super) fn keep(&self) {
        self.is_expected.store(false, Ordering::Release);
    }

    /// Whether the image was there without a name, so that it must stay.
    pub(super) fn was_there(&self) -> bool {
        self.was_there
    }

    /// Removes it if it is ours, and with it the image if nothing else names it. Never by force: what a container uses stays.
    pub(super) async fn forget(&self) {
        if !self.was_there {
            self.remove_expected().await;
        }
    }

    /// Removes it where the image has a name: whoever made it, it would keep the image when that name goes. Of two exports of one
    /// image the second finds the record of the first, whose name takes it away before the second one makes it again.
    pub(super) async fn yield_to_name(&self) {
        self.remove_expected().await;
    }

    async fn remove_expected(&self) {
        if !self.is_expected.load(Ordering::Acquire) {
            return;
        }
        let looks = if self.is_settled.load(Ordering::Acquire) { 1 } else { LOOKS };
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
