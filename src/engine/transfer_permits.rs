//! How many blobs of one export or one copy are in flight at a time.

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::image::Descriptor;

/// What the blobs in flight may hold in windows and buffers, in MiB, and what each of them holds: a small one, and one of
/// [`LARGE_MIB`] or more.
///
/// containerd hashes and writes each blob on one goroutine and waits for the disk at its end, so several are needed to keep
/// its cores busy: three large ones for the bytes, more small ones for the waiting.
const ALL_MIB: usize = 24;
const LARGE_MIB: u32 = 8;
const SMALL_MIB: u32 = 3;

/// The most blobs that are in flight at once.
pub(crate) const PARALLEL: usize = ALL_MIB / SMALL_MIB as usize;

/// The blobs of one export or one copy that are in flight.
#[derive(Debug)]
pub(crate) struct InFlight(Semaphore);

impl InFlight {
    pub(crate) fn new() -> Self {
        Self(Semaphore::new(ALL_MIB))
    }

    /// Waits until `blob` may be moved; it is in flight until the permit is dropped.
    pub(crate) async fn enter(&self, blob: &Descriptor) -> Option<SemaphorePermit<'_>> {
        let size = u32::try_from(blob.size >> 20).unwrap_or(LARGE_MIB);
        // It is never closed.
        self.0.acquire_many(size.clamp(SMALL_MIB, LARGE_MIB)).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::image::Digest;

    #[tokio::test]
    async fn few_large_or_more_small_blobs_are_in_flight() {
        for (size, expected) in [(0, 8), (1 << 20, 8), (4 << 20, 6), (1 << 30, 3), (u64::MAX, 3)] {
            let (in_flight, mut permits) = (InFlight::new(), Vec::new());
            let blob = Descriptor::new("layer", Digest::sha256(b""), size);
            while let Some(permit) = in_flight.enter(&blob).now_or_never() {
                permits.push(permit);
            }
            assert_eq!(permits.len(), expected, "{size}");
        }
    }
}
