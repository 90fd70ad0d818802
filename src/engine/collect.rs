//! Collecting what nothing refers to any more, where an engine does not do that by itself.

use std::fmt;
use std::time::Duration;

use super::EngineKind;
use crate::image::Digest;

/// What is to be collected.
pub struct Collection<'a> {
    /// How old what nothing refers to must be.
    pub grace: Duration,
    /// How long to wait between the first and the second look.
    pub wait: Duration,
    /// Whether nothing is to be deleted, nor written.
    pub is_dry: bool,
    /// Is told each blob that is deleted, or would be, and its size.
    pub deleted: &'a (dyn Fn(&Digest, u64) + Send + Sync),
}

impl fmt::Debug for Collection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { grace, wait, is_dry, .. } = self;
        f.debug_struct("Collection")
            .field("grace", grace)
            .field("wait", wait)
            .field("is_dry", is_dry)
            .finish_non_exhaustive()
    }
}

/// What was collected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// How many blobs were deleted, or would be.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many links to them were deleted.
    pub links: u64,
    /// How many leases of processes that are gone were released.
    pub leases: u64,
    /// How many unfinished uploads were deleted.
    pub uploads: u64,
    /// How many collections of processes that are gone were finished.
    pub finished: u64,
    /// How many collections of other processes are under way.
    pub others: u64,
}

/// Who collects in an engine that has a collector of its own.
pub(super) fn collector_of(kind: EngineKind) -> &'static str {
    match kind {
        EngineKind::Docker | EngineKind::DockerApi => {
            "dockerd and its containerd collect by themselves what no image needs; `docker image prune` removes images"
        }
        EngineKind::DockerClassic => {
            "dockerd deletes what no image needs when an image is removed; `docker image prune` removes images"
        }
        EngineKind::Containerd | EngineKind::Cluster => {
            "containerd collects by itself what no image and no lease needs; `linkspan rm` removes images"
        }
        EngineKind::Layout => {
            "Linkspan collects in a layout at each change of it what nothing has referred to for an hour; `linkspan rm` removes \
             images"
        }
        _ => "the engine collects by itself what no image needs",
    }
}
