//! What all exports share of making outputs: where they may be left, and how much memory their plans take.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tonic::Code;

use crate::export_v1::ApiError;
use crate::output::Output;
use crate::output::folder::Folders;
use crate::output::rootfs::Rootfs;
use crate::progress::{Event, Events};
use crate::source::{Chunks, Source};

/// How many file systems are planned at once; each may take the memory of [`Limits`](crate::output::rootfs::Limits), and
/// two keep the processors of a small machine busy.
const PLANS: usize = 2;
/// How many may wait for their turn. Each holds its export, and a plan takes minutes at most.
const QUEUE: usize = 32;
/// What the plans that can be read may take together, in KiB.
const ROOM: u32 = 512 << 10;

/// What all exports share.
#[derive(Debug)]
pub(super) struct Outputs {
    pub(super) folders: Folders,
    /// Held while a file system is planned, and while one waits for that.
    planning: Semaphore,
    queue: Semaphore,
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
        let (planning, queue) = (Semaphore::new(PLANS), Semaphore::new(QUEUE));
        Self { folders, planning, queue, room: Arc::new(Semaphore::new(ROOM as usize)) }
    }

    /// Waits for the turn to plan a file system, with a note.
    pub(super) async fn turn(&self, events: &Events) -> Result<SemaphorePermit<'_>, ApiError> {
        if let Ok(turn) = self.planning.try_acquire() {
            return Ok(turn);
        }
        let busy = |message: &str| ApiError::limit(Code::ResourceExhausted, "waiting_plans", QUEUE, message);
        let _place = self.queue.try_acquire().map_err(|_| {
            busy("too many exports wait already for the files of their images to be laid out; try again later")
        })?;
        events.emit(Event::Note(format!("waiting: the files of {PLANS} other images are being laid out")));
        // Never closed.
        self.planning.acquire().await.map_err(|_| busy("the server ends"))
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn those_that_wait_get_a_note_and_not_too_many_do() {
        let outputs = Outputs::new(Folders::default());
        let notes = Arc::new(Mutex::new(Vec::new()));
        let listed = notes.clone();
        let events = Events::new(move |event| {
            if let Event::Note(note) = event {
                listed.lock().unwrap().push(note.clone());
            }
        });
        let slow = join_all((0..PLANS).map(|_| outputs.turn(&events))).await;
        assert!(slow.iter().all(Result::is_ok) && notes.lock().unwrap().is_empty());
        let mut waiting = Box::pin(join_all((0..QUEUE).map(|_| async { drop(outputs.turn(&events).await.unwrap()) })));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(notes.lock().unwrap().len(), QUEUE);
        assert!(notes.lock().unwrap()[0].starts_with("waiting: "));
        let refusal = outputs.turn(&events).await.unwrap_err();
        assert_eq!((refusal.code, &*refusal.metadata["limit"]), (Code::ResourceExhausted, "waiting_plans"));
        drop(slow);
        waiting.await;
        drop(outputs.turn(&events).await.unwrap());
    }
}
