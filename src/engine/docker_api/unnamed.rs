//! The record that dockerd makes of an image that it loads without a name (moby `daemon/containerd/soft_delete.go`): it is there
//! until a name is set, and must not stay when none is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::OnceCell;
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
    before: OnceCell<Before>,
    /// Whether a load of ours may have made it.
    is_expected: AtomicBool,
    /// Whether dockerd has said how that load ended.
    is_settled: AtomicBool,
}

/// What dockerd had of the image before it was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// The record is there, and is not ours.
    Unnamed,
    Named,
}

impl UnnamedRecord {
    pub(super) fn new(docker: Arc<DockerApi>, root: Digest) -> Self {
        let (is_expected, is_settled) = (AtomicBool::new(false), AtomicBool::new(true));
        Self { docker, root, before: OnceCell::new(), is_expected, is_settled }
    }

    /// Looks, once, at what is there before the first load.
    pub(super) async fn look(&self) -> Result<(), EngineError> {
        let look = async || {
            Ok(match inspect(&self.docker.api, self.root.as_str()).await? {
                Some(found) if found.target().digest != self.root => Before::Nothing,
                Some(found) if found.is_dangling() => Before::Unnamed,
                Some(_) => Before::Named,
                None => Before::Nothing,
            })
        };
        self.before.get_or_try_init(look).await.map(drop)
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
        self.before.get() == Some(&Before::Unnamed)
    }

    /// Removes it if it is ours, and with it the image if nothing else names it. Never by force: what a container uses stays.
    pub(super) async fn forget(&self) {
        if !self.is_expected.load(Ordering::Acquire) || self.was_there() {
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
