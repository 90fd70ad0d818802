//! What all exports share of making outputs: where they may be left, and how much memory their plans take.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Code;

use crate::export_v1::ApiError;
use crate::output::Output;
use crate::output::folder::Folders;
use crate::output::rootfs::Rootfs;
use crate::source::{Chunks, Source};

/// How many file systems are planned at once; each may take the memory of [`Limits`](crate::output::rootfs::Limits), and
/// two keep the processors of a small machine busy.
const PLANS: usize = 2;
/// What the plans that can be read may take together, in KiB.
const ROOM: u32 = 512 << 10;

/// What all exports share.
#[derive(Debug)]
pub(super) struct Outputs {
    pub(super) folders: Folders,
    /// Held while a file system is planned.
    pub(super) planning: Semaphore,
    room: Arc<Semaphore>,
}

/// A file system that can be read until its export is forgotten.
#[derive(Debug)]
struct Kept {
    rootfs: Arc<Rootfs>,
    _room: OwnedSemaphorePermit,
}

impl Outputs {
    pub(super) fn new(folders: Folders) -> Self {
        Self { folders, planning: Semaphore::new(PLANS), room: Arc::new(Semaphore::new(ROOM as usize)) }
    }

    /// Keeps a plan to be read, if there is room for it.
    pub(super) fn keep(&self, rootfs: Arc<Rootfs>) -> Result<Arc<dyn Output>, ApiError> {
        let needed = u32::try_from(rootfs.memory() / 1024).unwrap_or(ROOM).clamp(1, ROOM);
        let room = self.room.clone().try_acquire_many_owned(needed).map_err(|_| {
            let message = "the plans of file systems that are yet to be read take all the memory that there is for them; \
                           abort an export that is not read any more, or try again later";
            ApiError::limit(Code::ResourceExhausted, "plan_kib", ROOM, message)
        })?;
        Ok(Arc::new(Kept { rootfs, _room: room }))
    }
}

impl Output for Kept {
    fn size(&self) -> u64 {
        self.rootfs.size()
    }

    fn read(self: Arc<Self>, source: Arc<dyn Source>, offset: u64) -> Chunks {
        self.rootfs.clone().read(source, offset)
    }
}
